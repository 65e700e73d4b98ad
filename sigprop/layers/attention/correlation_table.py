r"""What correlated scores do to queries, by look-up (E25e).

Two tables hold shrink, near and part of `sigprop.layers.attention.key_correlations`. Without
rotation they depend on the number of keys, the score deviation, the mean gap, its slope with how
early the keys stand, and the standard deviation of what this leaves, taken to rise with log
distance (`forms`); this table was made by
``python -m sigprop.layers.attention.build_correlations``, from integrals. Under rotary positions
gaps are taken to rise linearly with log distance alone, which rotation makes unlike anyway, and the
base and the width of a head count; in place of the mean gap stands the part
:math:`\varphi` of the score variance that comes from the gap, at which bases are almost alike, and
scores that the gap alone makes unlike, :math:`\varphi = 1` without a rise, are independent. This
table was fitted to draws by ``python -m sigprop.layers.attention.build_rotary``. The measured
errors are in the files (`error`) and in notebooks/accuracy.md.
"""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.numerics.chebyshev import basis, contracted
from sigprop.core.numerics.shipped import shipped
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
    "forms",
    "rise",
]

RESOLUTION, SINGLES = 24, 8  # blocks, and first positions that are blocks of one
LEAST, MOST = 3.0, 2.0**20  # keys
COLDEST, HOTTEST = 0.2, 16.0  # score deviations
SMALL = 1e-9
MOST_ROTATED = 2.0**17  # keys
BASES = 30, 10**9
STEEPEST = 0.3  # slope of the gap with how early keys stand, over its mean
NARROWEST = 8.0  # width of a head


def from_keys(count: Floats, most: float = MOST) -> Floats:
    """Place of a number of keys on [-1, 1]."""
    inside = np.clip(count, LEAST, most)
    return np.asarray(2 * np.log(inside / LEAST) / np.log(most / LEAST) - 1)


def to_keys(place: Floats | float) -> Floats:
    """Whole number of keys at a place."""
    return np.round(LEAST * (MOST / LEAST) ** ((np.asarray(place) + 1) / 2))


def to_deviation(place: Floats) -> Floats:
    """Score deviation at a place."""
    return co.to_deviation(place, COLDEST, HOTTEST)


def to_gap(place: Floats) -> Floats:
    """Mean gap at a place, in units of q."""
    return co.to_gap(place, 0.0)


def from_part(value: Floats) -> Floats:
    """Place of a number in [0, 1], clipped, on [-1, 1]."""
    return np.asarray(2 * np.clip(value, 0.0, 1.0) - 1)


def to_tilt(place: Floats) -> Floats:
    """Rise with log distance at a place, over the mean gap."""
    return np.asarray((place + 1) / 2)


def to_slope(place: Floats) -> Floats:
    """Slope with how early keys stand at a place, over the mean gap."""
    return np.asarray(STEEPEST * (place + 1) / 2)


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


def forms(sizes: Ints) -> tuple[Floats, Floats, Floats]:
    """Share of each pair of blocks in the pairs, and the two forms of the gap of a masked stack.

    The first says how early two keys stand, minus the sum of their log positions; the second is
    what `rise` has beside it. Both are about their means over pairs.
    """
    pairs = pairs_between(sizes)
    share, place = pairs / pairs.sum(), -np.log(np.cumsum(sizes) - (sizes - 1) / 2)
    early = place[:, None] + place
    early = np.where(pairs > 0, early - np.sum(share * early), 0.0)
    far = np.where(pairs > 0, rise(sizes), 0.0)
    square = np.sum(share * early**2)
    return share, early, far - early * np.sum(share * early * far) / max(float(square), SMALL)


def _data(rotated: bool = False) -> dict[str, Floats]:
    name = "rotary_correlations.npz" if rotated else "correlations.npz"
    return shipped("sigprop.layers.attention", name)


def errors(rotated: bool = False) -> Floats:
    """Errors of shrink, near and part, measured when a file was made.

    Parameters
    ----------
    rotated : bool
        Whether of rotary positions.

    Returns
    -------
    array, shape (2, 3)
        Root mean square over random points; the largest. Under rotary positions they are those of
        points that were left out of the fit, and hold the errors of their draws.

    Examples
    --------
    >>> from sigprop.layers.attention.correlation_table import errors
    >>> bool((errors()[0] < errors()[1]).all())
    True
    """
    return _data()["error"]


class _Contracted:
    """Shrink, near and part of queries, from a table with their numbers of keys contracted."""

    def __init__(self, rows: Floats) -> None:
        self._counts = rows.shape[1:-1]
        self._rows = rows.reshape(len(rows), -1, 3)

    def _at(self, sigma: Floats, *places: Floats) -> Floats:
        """Values at a score deviation and the places on the other axes, of shape (..., K)."""
        wide = np.ones((*sigma.shape, 1))
        terms = co.from_deviation(sigma, COLDEST, HOTTEST), *places
        for x, number in zip(terms, self._counts, strict=True):
            wide = (wide[..., None] * basis(x, number)[..., None, :]).reshape(*sigma.shape, -1)
        found = np.moveaxis(contracted(self._rows, wide), -1, 0)
        warmth = np.minimum(sigma / COLDEST, 1.0) ** 2
        plain = np.array([1.0, 0.0, 1.0]).reshape(-1, *[1] * sigma.ndim)
        return np.asarray(plain + warmth * (found - plain))


class Correlations(_Contracted):
    """Shrink, near and part of queries without rotary positions.

    Parameters
    ----------
    count : array, shape (K,)
        Numbers of keys.
    table : array, optional
        Coefficients; by default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.correlation_table import Correlations
    >>> one = np.ones((1, 1))
    >>> found = Correlations(np.array([64.0]))(one, 0.5 * one, 0 * one, 0 * one)
    >>> bool(abs(found[1]).max() < 0.01)  # a flat kernel has no nearer keys
    True
    """

    def __init__(self, count: Floats, table: Floats | None = None) -> None:
        rows = _data()["table"] if table is None else table
        super().__init__(np.tensordot(basis(from_keys(count), len(rows)), rows, 1))

    def __call__(self, sigma: Floats, own: Floats, tilt: Floats, slope: Floats) -> Floats:
        """Look them up.

        Parameters
        ----------
        sigma, own, tilt, slope : arrays, shape (..., K)
            Score deviation, mean gap in units of q, its rise with log distance, and its slope with
            how early keys stand, over it.

        Returns
        -------
        array, shape (3, ..., K)
            The three numbers; beyond the table those at its ends, and linear in the score variance
            below it.
        """
        gap = co.from_gap(np.clip(own, 0.0, co.MAX_GAP), 0.0)
        return self._at(sigma, gap, from_part(tilt), from_part(slope / STEEPEST))


class RotaryCorrelations(_Contracted):
    r"""Shrink, near and part of queries under rotary positions.

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
    [1.0, 0.0, 1.0]
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
        super().__init__(np.tensordot(basis(from_keys(count, MOST_ROTATED), len(rows)), rows, 1))

    def __call__(self, sigma: Floats, share: Floats, tilt: Floats) -> Floats:
        r"""Look them up.

        Parameters
        ----------
        sigma, share, tilt : arrays, shape (..., K)
            Score deviation, part :math:`\varphi` of its square that comes from the gap, and rise of
            the gap with log distance over its mean.

        Returns
        -------
        array, shape (3, ..., K)
            As of `Correlations`.
        """
        return self._at(sigma, from_part(share), from_part(tilt))
