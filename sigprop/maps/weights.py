"""Attention weights of the queries of a layout, from the deviations of their scores (E6-E9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sigprop.arrays import Floats, Ints, Number
from sigprop.chebyshev import basis, nodes, transform
from sigprop.layout import Layout, pairs_between
from sigprop.maps.distances import make_field
from sigprop.rem.fields import LINEAR
from sigprop.rem.table import Finite
from sigprop.rem.unequal import mean_weights, queries, shared_excess

__all__ = [
    "RATIOS",
    "WAVES",
    "Exact",
    "Single",
    "Statistics",
    "Turned",
    "between",
    "resolved",
    "turned_width",
]

WAVES = 32  # frequencies of rotary positions that are resolved
NODES = 8  # positions at which correlated scores are drawn
RATIOS = np.linspace(0.2, 1.1, 19)
LEVELS = 10  # variances of a key between which the logarithm of its weight is interpolated
SMALLEST = 1e-9  # score deviation


def from_ratio(ratio: Floats) -> Floats:
    """Place of a variance ratio in [0, 1).

    Parameters
    ----------
    ratio : array
        Ratios, >= 0.

    Returns
    -------
    array
        The places.

    Examples
    --------
    >>> from sigprop.maps.weights import from_ratio
    >>> from_ratio(1.0)
    0.5
    """
    return ratio / (1 + ratio)


def to_ratio(place: Floats) -> Floats:
    """Inverse of `from_ratio`.

    Parameters
    ----------
    place : array
        Places in [0, 1).

    Returns
    -------
    array
        The ratios.

    Examples
    --------
    >>> from sigprop.maps.weights import to_ratio
    >>> to_ratio(0.5)
    1.0
    """
    return place / (1 - place)


class Single(NamedTuple):
    r"""Statistics of one query.

    Attributes
    ----------
    excess : array, shape (..., P)
        :math:`Y_2 - 1/n`, averaged over heads (E12).
    entropy : array, shape (..., P)
        In nats, averaged over heads.
    heads : array, shape (..., P)
        Square root of what the average over heads does to the excess.

    Examples
    --------
    >>> from sigprop.maps.weights import Single
    >>> Single(0.1, 2.0, 1.0).heads
    1.0
    """

    excess: Floats
    entropy: Floats
    heads: Floats


class Turned(NamedTuple):
    r"""What correlated scores do to the attention of one query.

    Attributes
    ----------
    shrink : array, shape (..., P)
        Factor on the score deviation, at which independent scores have the Y_2 of correlated ones.
    near : array, shape (..., P)
        Mean gap of two different keys that are picked together, over that of two that are picked
        one by one.

    Examples
    --------
    >>> from sigprop.maps.weights import Turned
    >>> Turned(1.0, 1.0).shrink
    1.0
    """

    shrink: Number
    near: Number


class Statistics(Protocol):
    """Source of the statistics of attention in a layout."""

    def single(self, sigma: Floats) -> Single:
        """Statistics of each of `Layout.queries`."""

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of each of `Layout.couples`, whose scores have correlation r."""

    def favour(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of each key, whose score has `ratio` times the mean variance."""

    def turned(self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats) -> Turned:
        """Find what correlations of the keys' scores do to each of `Layout.queries`."""


def turned_width(head_width: float | None) -> float:
    """Head width whose rotary frequencies are used: more than `WAVES` change little.

    Parameters
    ----------
    head_width : float, optional
        Width of a head.

    Returns
    -------
    float
        At most twice `WAVES`.

    Examples
    --------
    >>> from sigprop.maps.weights import turned_width
    >>> turned_width(None), turned_width(16)
    (64.0, 16)
    """
    return min(head_width or np.inf, 2.0 * WAVES)


def resolved(layout: Layout) -> Ints:
    """Blocks at whose centres correlated scores are drawn.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.

    Returns
    -------
    array of int
        At most `NODES` blocks, in order; none where no query sees three keys.

    Examples
    --------
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.weights import resolved
    >>> resolved(make_layout(4)).tolist()
    [2, 3]
    """
    index = np.flatnonzero(layout.centres.count >= 3)
    if not index.size:
        return index
    return np.asarray(index[np.unique(np.geomspace(1, index.size, NODES).round().astype(int)) - 1])


def between(layout: Layout, ratio: Floats) -> Floats:
    """Values at the `resolved` blocks as values at every query, linear in log position.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    ratio : array, shape (..., K)
        Values at the resolved blocks.

    Returns
    -------
    array, shape (..., P)
        Values at all queries, constant beyond the ends.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.weights import between
    >>> between(make_layout(4), np.array([0.5, 1.0])).tolist()
    [0.5, 0.5, 0.5, 1.0]
    """
    node = np.log(layout.centres.position[resolved(layout)])
    place = np.log(layout.queries.position)
    hats = np.stack([np.interp(place, node, unit) for unit in np.eye(len(node))])
    return np.asarray(ratio @ hats)


@dataclass(frozen=True)
class Exact:
    """Statistics by quadrature, for one stack.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    head_width : float, optional
        Width of a head.
    rotary_base : float, optional
        Base of rotary positions.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.weights import Exact
    >>> Exact(make_layout(3)).single(np.zeros(3)).excess.tolist()
    [0.0, 0.0, 0.0]
    """

    layout: Layout
    head_width: float | None = None
    rotary_base: float | None = None

    def single(self, sigma: Floats) -> Single:
        """Statistics of one query; a query with one key puts all its weight there.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.

        Returns
        -------
        Single
            Of the same shape.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> Exact(make_layout(2)).single(np.zeros(2)).entropy.round(6).tolist()
        [0.0, 0.693147]
        """
        count = self.layout.queries.count
        many = count >= 2
        length = np.where(many, count, 2.0)
        b = sigma / np.sqrt(np.log(length))
        plain = Finite(length).weights(b, 1.0).excess
        rem = Finite(length, self.head_width)
        excess = rem.weights(b, 1.0).excess
        entropy = rem.entropy_ratio(b) * np.log(length)
        heads = np.divide(excess, plain, out=np.ones_like(sigma), where=plain > 0)
        return Single(np.where(many, excess, 0.0), np.where(many, entropy, 0.0), np.sqrt(heads))

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of two queries, before the average over heads.

        Parameters
        ----------
        sigma : array, shape (P,)
            Standard deviations of the scores.
        r : array, shape (N,)
            Correlation of the scores of each couple.

        Returns
        -------
        array, shape (N,)
            The excess.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> Exact(make_layout(2)).shared(np.ones(2), np.ones(1)).tolist()
        [0.0]
        """
        own = queries(sigma, self.layout.queries.count)
        return shared_excess(own, *self.layout.couples, self.layout.common, r)

    def favour(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of a key whose score varies more or less than those of the others.

        Parameters
        ----------
        sigma : array, shape (P,)
            Standard deviations of the scores.
        ratio : array, shape (P, B)
            Variance of the score of a key of each block over the mean one.

        Returns
        -------
        array, shape (P, B)
            The weights, up to a factor for each query: log weights by interpolation in the ratio.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> found = Exact(make_layout(3)).favour(np.ones(3), np.array([[1.0, 2.0, 1.0]] * 3))
        >>> (found[2] / found[2, 0]).round(2).tolist()
        [1.0, 1.24, 1.0]
        """
        block, size = self.layout.blocks, len(self.layout.size)
        top = np.ones(size)
        np.maximum.at(top, block, ratio.max(axis=1))
        held = from_ratio(top)[:, None]
        levels = to_ratio((nodes(LEVELS) + 1) / 2 * held)
        own = np.maximum(sigma[:size], SMALLEST)
        rows = transform(np.log(mean_weights(own, self.layout.centres.count, levels)), 1)
        place = 2 * from_ratio(ratio) / held[block] - 1
        return np.asarray(np.exp(np.einsum("pbk,pk->pb", basis(place, LEVELS), rows[block])))

    def turned(self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats) -> Turned:
        """Find what correlations of the keys' scores do to each query.

        Parameters
        ----------
        scale : float
            Score variance of two keys of gap q.
        deficit : array, shape (B, B)
            Gap over q of two keys, by block.
        sigma : array, shape (P,)
            Standard deviations of the scores.
        weight : array, shape (P, B)
            Mean weight of a key of each block.

        Returns
        -------
        Turned
            Of shape (P,); scalar ones without scores.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> one = np.ones((2, 2))
        >>> Exact(make_layout(2)).turned(1.0, one, np.ones(2), one).shrink
        1.0
        """
        index = resolved(self.layout)
        if not index.size or not scale:
            return Turned(1.0, 1.0)
        parts, warm = self.layout.parts[index], max(float(scale), LINEAR)
        part = float(scale) / warm  # below `LINEAR` all is linear in the scale
        cells = zip(parts, sigma[index] / np.sqrt(part), weight[index], strict=True)
        ratio, near = np.array([self.drawn(warm, deficit, *cell) for cell in cells]).T
        near = 1 + part * (near - 1)
        return Turned(between(self.layout, ratio), between(self.layout, near))

    def drawn(
        self, scale: float, deficit: Floats, sizes: Ints, sigma: float, weight: Floats
    ) -> tuple[float, float]:
        """`Turned` of one query, by fixed draws of its scores (`sigprop.rem.fields`).

        Parameters
        ----------
        scale : float
            Score variance of two keys of gap q.
        deficit : array, shape (B, B)
            Gap over q of two keys, by block.
        sizes : array of int, shape (B,)
            Numbers of keys seen of each block, at least two together.
        sigma : float
            Standard deviation of the scores.
        weight : array, shape (B,)
            Mean weight of a key of each block.

        Returns
        -------
        shrink, near : float
            What the same draws give for independent scores is taken out of the first; NaN where
            the theory does not cover the scores.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> exact, one = Exact(make_layout(64)), np.ones(1)
        >>> found = exact.drawn(4.0, 0.3 * np.ones((1, 1)), np.array([64]), np.sqrt(1.2), one)
        >>> np.allclose(found, 1, atol=1e-6)  # a flat kernel has no nearer keys
        True
        """
        held = np.flatnonzero(sizes)
        sizes, deficit, weight = sizes[held], deficit[np.ix_(held, held)], weight[held]
        count = int(sizes.sum())
        field = make_field(count, self.rotary_base, self.head_width)
        found, flat = field.blocked(scale, deficit, sizes), field.flat(sigma**2)
        together = pairs_between(sizes) * np.outer(weight, weight)
        even = float(np.sum(together * deficit) / np.sum(together)) * (1 - found.y2)
        excess = (found.y2 - 1 / count) / (flat - 1 / count)
        return self._shrink(excess, count, sigma), found.deficit / even if even > 0 else 1.0

    def _shrink(self, excess: float, count: float, sigma: float) -> float:
        """Part of a score deviation at which independent scores have a part of their excess."""
        from scipy.interpolate import PchipInterpolator

        b = np.append(RATIOS, 1.0) * sigma / np.sqrt(np.log(count))
        *known, whole = np.asarray(Finite(count, self.head_width).weights(b, 1.0).excess)
        held = np.asarray(known)[np.isfinite(known)] / whole  # the theory covers no larger scores
        if not np.isfinite(whole) or len(held) < 2:
            return float("nan")
        x, first = np.unique(held, return_index=True)
        return float(PchipInterpolator(x, RATIOS[first])(np.clip(excess, x[0], x[-1])))
