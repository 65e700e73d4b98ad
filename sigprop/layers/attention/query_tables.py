r"""Attention weights of the queries of a layout by interpolation, for many stacks at once.

A grid of stacks shares one layout, so each query's excess and entropy are functions of its score
deviation alone, and the excess overlap of a couple is one of both deviations and the correlation.
`Exact` is evaluated at Chebyshev nodes of

.. math:: \frac{Y_2 - 1/n}{s^2/(1 + s^2)}, \quad \frac{\log n - H}{s^2/(1 + s)}, \quad
          \frac{O - c/(nn')}{r \sqrt{(Y_2 - 1/n)(Y_2' - 1/n')}}

in the coordinates of `sigprop.layers.attention.statistics.coordinates`, and afterwards a stack
costs a few small matrix products a layer. A query whose deviation leaves the shipped table of
`sigprop.layers.attention.statistics` (early tokens of cold stacks) is continued by :math:`1 - Y_2
\propto 1/s` and :math:`H \propto 1/s`. What correlations of scores do (E25e) is interpolated for
gaps that rise linearly with log distance, of the mean and slope that the kernel's have; without
rotary positions the factor on the score deviation depends on more than the rise, and is left out
(notebooks/accuracy.md).
"""

from __future__ import annotations

from functools import cached_property, lru_cache, partial

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number
from sigprop.core.numerics.chebyshev import basis, fitted, nodes
from sigprop.layers.attention.key_correlations import (
    RATIOS,
    CorrelatedKeys,
    KeyCorrelation,
    between,
    resolved,
)
from sigprop.layers.attention.position_grid import Layout, make_layout, pairs_between
from sigprop.layers.attention.query_statistics import (
    Exact,
    QueryStatistics,
    Single,
    from_ratio,
    to_ratio,
)
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics.table import head_nodes
from sigprop.layers.attention.statistics.unequal_lengths import mean_weights, queries, shared_excess

__all__ = ["Tabulated", "coarse_layout", "tabulated"]

RESOLUTION, SINGLES = 24, 8  # blocks, and first positions that are blocks of one
ONE = 32  # nodes of one query, in s
PAIR = (8, 8, 6)  # of a couple, in s, s' and 1 - r
WEIGHT = (14, 10)  # of the weight of a key, in s and the ratio of variances
WIDEST = np.array(30.0)  # of these ratios
CORRELATIONS = (5, 9, 4)  # of correlated scores, in their scale, gap and its rise with log distance
DRAWS = 512  # of them
SMALL = 1e-9
LOWEST = 0.2  # score deviation below which the third quotient is constant


class Tabulated(QueryStatistics):
    """Statistics of the queries of a layout by interpolation; any leading axes.

    Parameters
    ----------
    exact : Exact
        What is interpolated.
    top : float
        Largest score deviation; beyond it statistics are those at it.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_grid import make_layout
    >>> from sigprop.layers.attention.query_tables import Tabulated
    >>> from sigprop.layers.attention.query_statistics import Exact
    >>> exact, sigma = Exact(make_layout(3)), np.array([0.0, 0.5, 1.0])
    >>> found = Tabulated(exact, 2.0).single(sigma).entropy
    >>> bool(abs(found - exact.single(sigma).entropy).max() < 1e-6)
    True
    """

    def __init__(self, exact: Exact, top: float) -> None:
        self.layout, self._exact, self._top = exact.layout, exact, top
        self._count = exact.layout.queries.count
        hottest = 1.0 if exact.head_width is None else head_nodes(exact.head_width)[0].max()
        edge = co.MAX_BETA * np.sqrt(np.log(np.maximum(self._count, 2.0)) / hottest)
        self._cap = np.minimum(top, edge * (1 - 1e-9))
        self._one = self._singles()
        self._two = self._couples()

    def single(self, sigma: Floats) -> Single:
        """Statistics of one query.

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
        >>> from sigprop.layers.attention.query_tables import tabulated
        >>> tabulated(2, 1.0).single(np.zeros((5, 2))).excess.shape
        (5, 2)
        """
        s = np.minimum(sigma, self._cap)
        rows = basis(co.from_deviation(s, 0.0, self._cap), ONE)
        excess, deficit, heads = np.einsum("pck,...pk->c...p", self._one, rows)
        rest = self._cap / np.maximum(sigma, self._cap)  # of what vanishes as attention freezes
        whole = 1 - 1 / self._count
        excess = whole - (whole - excess * s**2 / (1 + s**2)) * rest
        whole = np.log(self._count)
        deficit = whole - (whole - deficit * s**2 / (1 + s)) * rest
        return Single(excess, whole - deficit, heads, deficit)

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of two queries, before the average over heads.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        r : array, shape (..., N)
            Correlation of the scores of each couple.

        Returns
        -------
        array, shape (..., N)
            The excess.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.query_tables import tabulated
        >>> tabulated(3, 1.0).shared(np.ones((5, 3)), np.ones((5, 3))).shape
        (5, 3)
        """
        i, j = self.layout.couples
        one = self.single(sigma)
        plain = np.sqrt(np.maximum(one.excess, 0.0)) / one.heads
        place = co.from_deviation(sigma, LOWEST, self._top)
        first, second = basis(place[..., i], PAIR[0]), basis(place[..., j], PAIR[1])
        s = np.clip(sigma, LOWEST, self._top)
        gap = np.clip(1 - r, 0.0, co.MAX_GAP)
        third = basis(co.from_gap(gap, np.sqrt(s[..., i] * s[..., j])), PAIR[2])
        share = np.einsum("nabc,...na->...nbc", self._two, first)
        share = np.einsum("...nbc,...nb,...nc->...n", share, second, third)
        return np.asarray(share * r * plain[..., i] * plain[..., j])

    def key_weights(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of a key whose score varies more or less than those of the others.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        ratio : array, shape (..., P, B)
            Variance of the score of a key of each block over the mean one; beyond `WIDEST` it
            counts as that.

        Returns
        -------
        array, shape (..., P, B)
            The weights, up to a factor for each query.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.query_tables import tabulated
        >>> tabulated(2, 1.0).key_weights(np.ones((5, 2)), np.ones((5, 2, 2))).shape
        (5, 2, 2)
        """
        block, size = self.layout.blocks, len(self.layout.size)
        hot = basis(co.from_deviation(sigma[..., :size], 0.0, self._top), WEIGHT[0])
        rows = np.einsum("bac,...ba->...bc", self._weight, hot)[..., block, :]
        place = 2 * from_ratio(np.minimum(ratio, WIDEST)) / from_ratio(WIDEST) - 1
        wide = basis(place, WEIGHT[1])
        return np.asarray(np.exp(np.matmul(wide, rows[..., None])[..., 0]))

    def correlations(
        self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        """Find what correlations of scores do to each query, the gap linear in log distance.

        Parameters
        ----------
        scale : array, shape (..., 1)
            Score variance of two keys of gap q.
        deficit : array, shape (..., B, B)
            Gap over q of two keys, by block.
        sigma, weight : arrays, shape (..., P) and (..., P, B)
            Not used.

        Returns
        -------
        KeyCorrelation
            Of shape (..., P); scalar ones where no query sees three keys.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.query_tables import tabulated
        >>> one = np.ones((2, 2))
        >>> tabulated(2, 1.0).correlations(1.0, one, np.ones(2), one).shrink
        1.0
        """
        index = resolved(self.layout)
        if not index.size:
            return KeyCorrelation(1.0, 0.0, 1.0)
        own, rise = (np.einsum("kbc,...bc->...k", part, deficit) for part in self._parts)
        tilt = np.divide(rise, own, out=np.zeros_like(own), where=own > 0)
        root = np.sqrt(scale) * np.ones_like(own)
        hot = basis(co.from_deviation(root, LOWEST, self._top), CORRELATIONS[0])
        far = basis(co.from_gap(np.clip(own, 0.0, co.MAX_GAP), 0.0), CORRELATIONS[1])
        steep = basis(2 * np.clip(tilt, 0.0, 1.0) - 1, CORRELATIONS[2])
        found = np.einsum("zkabc,...ka,...kb,...kc->z...k", self._correlations, hot, far, steep)
        found[0] = np.clip(found[0], RATIOS[0], RATIOS[-1])
        return KeyCorrelation(*between(self.layout, found))

    def _singles(self) -> Floats:
        """Coefficients of excess, entropy deficit and heads, shape (P, 3, K)."""
        s = co.to_deviation(nodes(ONE)[:, None], 0.0, self._cap)
        excess, _, heads, deficit = self._exact.single(s)
        deficit = deficit * (1 + s) / s**2
        rows = np.stack([excess * (1 + s**2) / s**2, deficit, heads], axis=1)
        return np.moveaxis(fitted(rows, 1), 1, 2)

    def _couples(self) -> Floats:
        """Coefficients of the share of the excess that is common, shape (N, K, K', K'')."""
        (i, j), size = self.layout.couples, len(self._count)
        s = co.to_deviation(nodes(PAIR[0]), LOWEST, self._top)
        r = 1 - co.to_gap(nodes(PAIR[2]), np.sqrt(np.outer(s, s))[..., None])[..., None]
        shape = (*PAIR, len(i))
        a, b = np.arange(PAIR[0])[:, None, None, None], np.arange(PAIR[1])[:, None, None]
        sigma = np.repeat(s, size)
        own = queries(sigma, np.tile(self._count, PAIR[0]))
        pairs = [np.broadcast_to(v, shape).ravel() for v in (a * size + i, b * size + j)]
        rest = [np.broadcast_to(v, shape).ravel() for v in (self.layout.common, r)]
        found = shared_excess(own, *pairs, *rest).reshape(shape)
        one = self.single(sigma.reshape(-1, size))
        plain = np.sqrt(np.maximum(one.excess, 0.0)) / one.heads
        scale = r * plain[a, i] * plain[b, j]
        share = np.divide(found, scale, out=np.zeros(shape), where=np.abs(scale) > 1e-12)
        return fitted(share, 3)

    @cached_property
    def _parts(self) -> tuple[Floats, Floats]:
        """Weights whose sums with a gap are its mean and its rise with log distance."""
        parts = self.layout.parts[resolved(self.layout)]
        pairs = np.stack([pairs_between(sizes) for sizes in parts])
        pairs /= pairs.sum(axis=(1, 2), keepdims=True)
        rise = pairs * np.stack([_rise(sizes) for sizes in parts])
        square = np.einsum("kbc,kbc->k", rise, np.stack([_rise(sizes) for sizes in parts]))
        return pairs, rise / square[:, None, None]

    @cached_property
    def _weight(self) -> Floats:
        """Coefficients of the log weight of a key, shape (B, K, K')."""
        s = co.to_deviation(nodes(WEIGHT[0]), 0.0, self._top)
        ratio = np.asarray(to_ratio((nodes(WEIGHT[1]) + 1) / 2 * from_ratio(WIDEST)))
        count = self.layout.centres.count
        cells = np.meshgrid(s, count, indexing="ij")
        wide = np.broadcast_to(ratio, (cells[0].size, ratio.size))
        found = mean_weights(cells[0].ravel(), cells[1].ravel(), wide)
        rows = np.log(found).reshape(*cells[0].shape, ratio.size)
        return fitted(np.moveaxis(rows, 1, 2), 2)

    @cached_property
    def _correlations(self) -> Floats:
        """Coefficients of `KeyCorrelation`, shape (3, K, ., ., .).

        Without rotation the participation ratio depends on more than the rise, and is left alone.
        """
        scale = co.to_deviation(nodes(CORRELATIONS[0]), LOWEST, self._top) ** 2
        own = co.to_gap(nodes(CORRELATIONS[1]), 0.0)
        tilt = (nodes(CORRELATIONS[2]) + 1) / 2
        index = resolved(self.layout)
        rows = np.empty((*CORRELATIONS, 3, index.size))
        together = CorrelatedKeys(self._exact.rotation, self._exact.head_width, DRAWS)
        for a, b, c, k in np.ndindex(*CORRELATIONS, index.size):
            sizes = self.layout.parts[index[k]]
            deficit = own[b] * (1 + tilt[c] * _rise(sizes))
            rows[a, b, c, :, k] = together.alone(float(scale[a]), deficit, sizes)
        if self._exact.rotation is None:
            rows[..., 0, :] = 1.0
        rows[..., 0, :][~np.isfinite(rows[..., 0, :])] = 1.0  # frozen, beyond the theory
        return np.stack([fitted(rows[..., z, :], 3) for z in range(3)])


def _rise(sizes: Ints) -> Floats:
    """Log distance of two keys by block, about its mean over pairs, -1 at the nearest pair."""
    middle = np.cumsum(sizes) - sizes / 2
    distance = np.abs(middle[:, None] - middle)
    np.fill_diagonal(distance, np.exp(-1.5) * sizes)  # E log |x - y| in a block
    log, pairs = np.log(np.maximum(distance, 0.5)), pairs_between(sizes)
    log -= np.sum(pairs * log) / pairs.sum()
    return np.asarray(log / max(-log[pairs > 0].min(), SMALL))


coarse_layout = partial(make_layout, resolution=RESOLUTION, singles=SINGLES)


@lru_cache(maxsize=16)
def tabulated(
    context: int,
    top: float,
    window: float = np.inf,
    prefix: int = 0,
    head_width: float | None = None,
    rotation: Rotation | None = None,
    edges: tuple[int, ...] | None = None,
) -> Tabulated:
    """Table of a context on coarse blocks, built once.

    Parameters
    ----------
    context : int
        Context length T, >= 2.
    top : float
        Largest score deviation, > 0.2.
    window, prefix
        As in `sigprop.layers.attention.position_grid.make_layout`.
    head_width : float, optional
        Width of a head.
    rotation : Rotation, optional
        Rotary positions.
    edges : tuple of int, optional
        Ends of the blocks; by default those of `coarse_layout`.

    Returns
    -------
    Tabulated
        The table: 25 ms for each pair of blocks, about 7 s without a window;
        16 s with rotary positions.

    Examples
    --------
    >>> from sigprop.layers.attention.query_tables import tabulated
    >>> tabulated(2, 1.0) is tabulated(2, 1.0)
    True
    """
    layout = coarse_layout(context, window=window, prefix=prefix)
    if edges is not None:
        layout = Layout(np.array(edges), window, prefix)
    return Tabulated(Exact(layout, head_width, rotation), top)
