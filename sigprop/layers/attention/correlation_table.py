r"""What correlated scores do to queries, by look-up (E25e).

Shrink, near, part and loss of `sigprop.layers.attention.key_correlations` without integrals or
draws. Without rotation they depend on the number of keys, the score deviation and what the gaps of
the keys are like (`sigprop.layers.attention.key_gaps`). Where these are alike, scores are
independent and of one variance; so what a network gives, the logarithms of shrink and loss, near
and part less one, is multiplied by what vanishes there. It was fitted to integrals for random
stacks, by ``python -m sigprop.studies.build_correlations``.

Under rotary positions gaps are taken to rise linearly with log distance, which rotation makes
unlike anyway, and the four depend on the number of keys, the score deviation, the rise, the base,
the width of a head and the part :math:`\varphi` of the score variance that comes from the gap, at
which bases are almost alike; scores that the gap alone makes unlike, :math:`\varphi = 1` without a
rise, are independent. This table was fitted to draws by
``python -m sigprop.layers.attention.build_rotary``. The measured errors are in the files (`errors`)
and in notebooks/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.numerics.chebyshev import basis, contracted
from sigprop.core.numerics.shipped import shipped
from sigprop.layers.attention.key_gaps import GapShape, KeyGaps
from sigprop.layers.attention.position_grid import pairs_between
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics import coordinates as co

__all__ = [
    "BASES",
    "NARROWEST",
    "Correlations",
    "RotaryCorrelations",
    "covers",
    "errors",
    "factors",
    "inputs",
    "looked_up",
    "network",
    "rise",
    "risen",
]

LEAST, MOST = 3.0, 2.0**20  # keys
COLDEST, HOTTEST = 0.2, 16.0  # score deviations
SMALL = 1e-9
LARGEST_POWER = 80.0  # of e, in single precision
FAINT = 1e-4  # roots of squared gaps below which logarithms do not tell them apart
FROZEN = 3.0  # score deviations over the one at which attention freezes that are told apart
PLAIN = np.array([1.0, 0.0, 1.0, 1.0])  # shrink, near, part and loss of independent scores
MOST_ROTATED = 2.0**17  # keys
BASES = 30, 10**9
NARROWEST = 8.0  # width of a head


def from_keys(count: Floats, most: float = MOST) -> Floats:
    """Place of a number of keys on [-1, 1]."""
    inside = np.clip(count, LEAST, most)
    return np.asarray(2 * np.log(inside / LEAST) / np.log(most / LEAST) - 1)


def to_deviation(place: Floats) -> Floats:
    """Score deviation at a place."""
    return co.to_deviation(place, COLDEST, HOTTEST)


def from_part(value: Floats) -> Floats:
    """Place of a number in [0, 1], clipped, on [-1, 1]."""
    return np.asarray(2 * np.clip(value, 0.0, 1.0) - 1)


def from_base(base: float) -> float:
    """Place of a rotary base on [-1, 1], linear in 1/log base."""
    start, stop = (1 / np.log(b) for b in BASES[::-1])
    return float(2 * (1 / np.log(base) - start) / (stop - start) - 1)


def from_width(head_width: float | None) -> float:
    """Place of a head width on [-1, 1], linear in its inverse; None is infinite."""
    return -1.0 if head_width is None else 2 * NARROWEST / head_width - 1


def covers(rotation: Rotation, head_width: float | None) -> bool:
    """Whether the table of rotary positions holds a rotation and head width.

    Parameters
    ----------
    rotation : Rotation
        Rotary positions.
    head_width : float, optional
        Width of a head; None is infinite.

    Returns
    -------
    bool
        Whether it does.

    Examples
    --------
    >>> from sigprop.layers.attention.correlation_table import covers
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> covers(Rotation(1e4), 64), covers(Rotation(2.0), 64), covers(Rotation(1e4), 4)
    (True, False, False)
    """
    wide = head_width is None or head_width >= NARROWEST
    return wide and BASES[0] <= rotation.base <= BASES[1]


def rise(sizes: Ints) -> Floats:
    """Log distance of two keys by block, about its mean over pairs, -1 at distance one."""
    middle = np.cumsum(sizes) - sizes / 2
    distance = np.abs(middle[:, None] - middle)
    np.fill_diagonal(distance, np.exp(-1.5) * sizes)  # E log |x - y| in a block
    log, pairs = np.log(np.maximum(distance, 1.0)), pairs_between(sizes)
    return risen(log, pairs)


def risen(log: Floats, number: Floats) -> Floats:
    """Logarithms of distances about their mean over numbers of pairs, -1 at distance one."""
    mean = np.sum(number * log) / number.sum()
    return np.asarray((log - mean) / max(mean, SMALL))


def _data(rotated: bool = False) -> dict[str, Floats]:
    name = "rotary_correlations.npz" if rotated else "correlations.npz"
    return shipped("sigprop.layers.attention", name)


def errors(rotated: bool = False) -> Floats:
    """Errors of shrink, near, part and loss, measured when a file was made.

    Parameters
    ----------
    rotated : bool
        Whether of rotary positions.

    Returns
    -------
    array, shape (2, 4)
        Root mean square over queries that were left out of the fit; the largest. Under rotary
        positions they hold the errors of their draws.

    Examples
    --------
    >>> from sigprop.layers.attention.correlation_table import errors
    >>> bool((errors()[0] < errors()[1]).all())
    True
    """
    return _data(rotated)["error"]


def inputs(count: Floats, sigma: Floats, shape: GapShape) -> Floats:
    """Place queries where the network of masked stacks is asked.

    Parameters
    ----------
    count : array, shape (K,)
        Numbers of keys.
    sigma : array, shape (..., K)
        Score deviations.
    shape : GapShape
        What the gaps of their keys are like.

    Returns
    -------
    array, shape (..., K, I)
        The numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.correlation_table import inputs
    >>> from sigprop.layers.attention.key_gaps import GapShape
    >>> one = np.ones(1)
    >>> inputs(64 * one, one, GapShape(0 * one, 0 * one, np.ones((1, 31)))).shape
    (1, 40)
    """
    heat, gaps = co.from_deviation(sigma, COLDEST, HOTTEST), (shape.uneven, shape.apart)
    many = np.broadcast_to(from_keys(count), heat.shape)
    reduced = np.minimum(sigma / np.sqrt(2 * np.log(count)), FROZEN)
    scores = (np.log1p(sigma**2 * one) for one in gaps)
    rows = (many, heat, reduced, *gaps, *scores, *(np.log(one + FAINT) for one in gaps))
    return np.concatenate([np.stack(rows, axis=-1), np.arcsinh(shape.ranges)], axis=-1)


def factors(sigma: Floats, shape: GapShape) -> Floats:
    """Find what the outputs of the network are multiplied by.

    Parameters
    ----------
    sigma, shape
        As of `inputs`.

    Returns
    -------
    array, shape (..., K, 4)
        Of the logarithm of shrink, of near, of part less one and of the logarithm of loss.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.correlation_table import factors
    >>> from sigprop.layers.attention.key_gaps import GapShape
    >>> one = np.ones(1)
    >>> factors(one, GapShape(one, 0 * one, np.ones((1, 31)))).tolist()
    [[0.5, 0.5, 0.5, 0.5]]
    """
    square = shape.uneven**2 + shape.apart**2
    rows = np.stack([square, square, np.sqrt(square), square], axis=-1)
    return np.asarray(rows * (sigma**2 / (1 + sigma**2))[..., None])


def network(rows: Floats, table: Mapping[str, Floats] | None = None) -> Floats:
    """Ask the network of masked stacks, in single precision.

    Parameters
    ----------
    rows : array, shape (..., I)
        What `inputs` gives; beyond what it was fitted to, what is at the end.
    table : mapping, optional
        Its arrays: least and largest inputs, centres and scales; weights and biases. By default
        those of the shipped file.

    Returns
    -------
    array, shape (..., 4)
        Its outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.correlation_table import network
    >>> network(np.zeros((5, 40))).shape
    (5, 4)
    """
    table = _data() if table is None else table
    low, high, centre, scale = table["inputs"]
    x = np.asarray((np.clip(rows, low, high) - centre) / scale, np.float32)
    last = sum(name.startswith("weight") for name in table) - 1
    for layer in range(last + 1):
        weight, bias = (table[f"{kind}{layer}"].astype(np.float32) for kind in ("weight", "bias"))
        x = x @ weight + bias
        if layer < last:
            x /= 1 + np.exp(np.minimum(-x, LARGEST_POWER))  # SiLU
    return np.asarray(x, np.float64)


def looked_up(rows: Floats, factor: Floats, table: Mapping[str, Floats] | None = None) -> Floats:
    """Shrink, near, part and loss, shape (4, ...), from what `inputs` and `factors` give."""
    shrink, near, part, loss = np.moveaxis(network(rows, table) * factor, -1, 0)
    return np.stack([np.exp(shrink), near, 1 + part, np.exp(loss)])


class Correlations:
    """Shrink, near, part and loss of queries without rotary positions.

    Parameters
    ----------
    parts : array of int, shape (K, B)
        Numbers of keys of each block that each query sees, at least three together.
    table : mapping, optional
        Arrays of the network; by default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.correlation_table import Correlations
    >>> found = Correlations(np.array([[20, 44]]))(np.ones(1), np.full((2, 2), 0.5))
    >>> bool(abs(found[1]).max() < 1e-9)  # a flat kernel has no nearer keys
    True
    """

    def __init__(self, parts: Ints, table: Mapping[str, Floats] | None = None) -> None:
        self._gaps = KeyGaps(parts)
        self._table = table

    def __call__(self, sigma: Floats, deficit: Floats) -> Floats:
        """Look them up.

        Parameters
        ----------
        sigma : array, shape (..., K)
            Score deviations.
        deficit : array, shape (..., B, B)
            Gap of two keys, by block.

        Returns
        -------
        array, shape (4, ..., K)
            The four numbers.
        """
        shape = self._gaps(deficit)
        rows = inputs(self._gaps.count, sigma, shape)
        found = looked_up(rows, factors(sigma, shape), self._table)
        found[2] = np.clip(found[2], 0.0, 1.0)
        return found


class RotaryCorrelations:
    r"""Shrink, near, part and loss of queries under rotary positions.

    Parameters
    ----------
    count : array, shape (K,)
        Numbers of keys.
    rotation : Rotation
        Rotary positions, which `covers` must hold.
    head_width : float, optional
        Width of a head; None is infinite.
    table : array, optional
        Coefficients; by default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.correlation_table import RotaryCorrelations
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> one = np.ones((1, 1))
    >>> found = RotaryCorrelations(np.array([64.0]), Rotation(1e4), 64)(2 * one, one, 0 * one)
    >>> np.abs(found.ravel()).round(6).tolist()  # independent scores
    [1.0, 0.0, 1.0, 1.0]
    """

    def __init__(
        self,
        count: Floats,
        rotation: Rotation,
        head_width: float | None,
        table: Floats | None = None,
    ) -> None:
        rows = _data(rotated=True)["table"] if table is None else table
        rows = np.tensordot(basis(np.array(from_width(head_width)), len(rows)), rows, 1)
        rows = np.tensordot(basis(np.array(from_base(rotation.base)), len(rows)), rows, 1)
        rows = np.tensordot(basis(from_keys(count, MOST_ROTATED), len(rows)), rows, 1)
        self._counts = rows.shape[1:-1]
        self._rows = rows.reshape(len(rows), -1, len(PLAIN))

    def __call__(self, sigma: Floats, share: Floats, tilt: Floats) -> Floats:
        r"""Look them up.

        Parameters
        ----------
        sigma, share, tilt : arrays, shape (..., K)
            Score deviation, part :math:`\varphi` of its square that comes from the gap, and rise of
            the gap with log distance over its mean.

        Returns
        -------
        array, shape (4, ..., K)
            The four numbers; beyond the table those at its ends, and linear in the score variance
            below it.
        """
        wide = np.ones((*sigma.shape, 1))
        terms = co.from_deviation(sigma, COLDEST, HOTTEST), from_part(share), from_part(tilt)
        for x, number in zip(terms, self._counts, strict=True):
            wide = (wide[..., None] * basis(x, number)[..., None, :]).reshape(*sigma.shape, -1)
        found = contracted(self._rows, wide)
        warmth = np.minimum(sigma / COLDEST, 1.0) ** 2
        plain = PLAIN.reshape(-1, *[1] * sigma.ndim)
        return np.asarray(plain + warmth * (found - plain))
