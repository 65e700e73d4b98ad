"""Attention of the queries of a layout, from the deviations of their scores (E6-E9, E25c-E25e)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number
from sigprop.core.numerics.chebyshev import basis, nodes, transform
from sigprop.layers.attention.block_means import BlockMeans
from sigprop.layers.attention.key_correlations import (
    ALONE,
    BlockedKeys,
    CorrelatedKeys,
    KeyCorrelation,
)
from sigprop.layers.attention.key_weights import KeyWeights, normalised_weights
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics.heads import lost, rows_of
from sigprop.layers.attention.statistics.table import Finite
from sigprop.layers.attention.statistics.unequal_lengths import mean_weights, queries, shared_excess

__all__ = [
    "Exact",
    "PositionScores",
    "PositionStats",
    "QueryStatistics",
    "Single",
    "from_ratio",
    "to_ratio",
]

LEVELS = 10  # variances of a key between which the logarithm of its weight is interpolated
SMALLEST = 1e-9  # score deviation
INTEGRATED = 10  # of the queries at which correlations of scores are integrated
COLD = 0.01  # score deviation below which the response is linear to 1e-4


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
    >>> from sigprop.layers.attention.query_statistics import from_ratio
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
    >>> from sigprop.layers.attention.query_statistics import to_ratio
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
    deficit : array, shape (..., P)
        log n less the entropy, with relative accuracy where attention is almost uniform.

    Examples
    --------
    >>> from sigprop.layers.attention.query_statistics import Single
    >>> Single(0.1, 2.0, 0.3).deficit
    0.3
    """

    excess: Floats
    entropy: Floats
    deficit: Floats


class PositionScores(NamedTuple):
    r"""Scores of queries that see their own keys (`sigprop.layers.attention.by_position`).

    Attributes
    ----------
    std : array, shape (..., P)
        Standard deviation over the keys that a query sees.
    correlation : array, shape (..., N)
        Correlation of the scores of the two queries of each couple, about their means (E25d).
    key_variance : array, shape (..., P, K)
        Variance of the score of a key of each block, or of each range of a window, over the mean
        one (E25c).
    whole : float or array, shape (..., 1)
        Score variance of two keys of gap q.
    deficit : array, shape (..., B, B+J)
        Gap over q of two keys, by block, and at short distances.
    context : float
        Context length T, whose logarithm scales the scores.
    """

    std: Floats
    correlation: Floats
    key_variance: Floats
    whole: Number
    deficit: Floats
    context: Number


@dataclass(frozen=True)
class PositionStats:
    """Statistics of one attention layer, query by query and couple by couple.

    Parameters
    ----------
    source : QueryStatistics
        Where the statistics of two queries come from.
    scores : PositionScores
        The scores.
    keys : KeyWeights
        Mean weights of the keys.
    near : array, shape (..., P)
        What correlations of scores do to the mean gap of two keys of one query (E25e).
    std : array, shape (..., P)
        Standard deviation of independent scores that one query would pick as much by.
    loss : array, shape (..., P)
        What they do to what the entropy lacks (E25e).
    single : Single
        Statistics of one query of independent scores of that deviation.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.layer import Attention, Mask
    >>> from sigprop.layers.attention.by_position import PositionGeometry
    >>> from sigprop.layers.attention.query_statistics import Exact
    >>> from sigprop.layers.state import State
    >>> layout = make_layout(3)
    >>> layer = Attention(beta=0.0, sigma_v2=1.0, context=3, mask=Mask())
    >>> scores = PositionGeometry(layout).scores(layer, State(1.0, np.full((3, 3), 0.5)))
    >>> Exact(layout)(scores).y2.round(3).tolist()
    [1.0, 0.5, 0.333]
    """

    source: QueryStatistics
    scores: PositionScores
    keys: KeyWeights
    near: Floats
    std: Floats
    loss: Number
    single: Single

    @property
    def layout(self) -> Layout:
        """Blocks and mask."""
        return self.source.layout

    @cached_property
    def shared(self) -> Floats:
        """Overlap of a couple above its value for equal weights, by its scores' correlation."""
        return np.asarray(self._share * self._most)

    @cached_property
    def alike(self) -> Floats:
        """Share f of the way from equal weights to Y_2 that the overlap of a couple goes (E25d)."""
        return np.clip(self._share, 0.0, 1.0)

    @cached_property
    def _share(self) -> Floats:
        """Share f of two queries of a head (E12b)."""
        r = self.scores.correlation
        return self.source.in_heads(self.source.share(self.std, r), self.std, r)

    @cached_property
    def _most(self) -> Floats:
        """Geometric mean of the excesses of the two queries of each couple."""
        (i, j), excess = self.layout.couples, self.single.excess
        return np.sqrt(np.maximum(excess[..., i] * excess[..., j], 0.0))

    @cached_property
    def y2(self) -> Floats:
        """Participation ratio of each query."""
        return np.asarray(1 / self.layout.queries.count + self.single.excess)

    @cached_property
    def deficit(self) -> Floats:
        """What the entropy of each query lacks of log n."""
        return np.asarray(self.loss * self.source.single(self.scores.std).deficit)

    @property
    def entropy(self) -> Floats:
        """Entropy of each query, in nats."""
        return np.asarray(np.log(self.layout.queries.count) - self.deficit)

    @cached_property
    def joint(self) -> Floats:
        """Overlap of each couple above that of equal weights."""
        return np.asarray(self.shared + self.keys.products * (1 - self.alike))

    @cached_property
    def overlap(self) -> Floats:
        """Overlap of each couple."""
        return np.asarray(self.layout.even + self.joint)

    @property
    def reduced_beta(self) -> Floats:
        """Mean over positions of the score deviation, over sqrt(log T)."""
        number = self.layout.stands_for
        mean = self.scores.std[..., : len(number)] @ number / number.sum()
        return np.asarray(mean / np.sqrt(np.log(self.scores.context)))

    @property
    def least_shrink(self) -> Floats:
        """Least factor that correlations of scores put on their deviation, over queries."""
        plain = self.scores.std
        part = np.divide(self.std, plain, out=np.ones_like(plain), where=plain > 0)
        return np.asarray(part.min(axis=-1))

    @property
    def entropy_ratio(self) -> Floats:
        """Mean over positions of the entropy over log n, where a query sees n > 1 keys."""
        number, count = self.layout.stands_for, self.layout.centres.count
        known = np.where(count > 1, number, 0.0)
        ratio = self.entropy[..., : len(number)] / np.log(np.maximum(count, 2.0))
        return np.asarray(ratio @ known / max(known.sum(), 1))

    def columns(self) -> dict[str, Floats]:
        """By block of positions: score_std, y2, excess, entropy, deficit, first_weight; of two
        blocks: overlap, and joint, its excess over that of equal weights.
        """  # noqa: D205
        rows, keep = self.layout.centres, len(self.layout.size)
        one = {
            "score_std": self.scores.std,
            "excess": self.single.excess,
            "entropy": self.entropy,
            "deficit": self.deficit,
        }
        out = {name: value[..., :keep] for name, value in one.items()}
        first = np.where(rows.low < 1, self.keys.weight[..., :keep, 0] / rows.count, 0.0)
        count = np.broadcast_to(rows.count, first.shape)
        out |= {"y2": 1 / count + out["excess"], "first_weight": first, "count": count}
        two = {"overlap": self.overlap, "joint": self.joint}
        return out | {name: self.layout.spread_out(value) for name, value in two.items()}


class QueryStatistics(ABC):
    """Source of the statistics of attention in a layout."""

    layout: Layout
    head_width: float | None
    rotation: Rotation | None
    smooth: bool

    def __call__(self, scores: PositionScores) -> PositionStats:
        """Statistics of the queries of the layout.

        Parameters
        ----------
        scores : PositionScores
            The scores.

        Returns
        -------
        PositionStats
            Mean weights of the keys first; then what their correlations do; then one query, and two
            once they are read.
        """
        weight = self.key_weights(scores.std, scores.key_variance)
        keys = normalised_weights(self.layout, weight, self._blocks)
        correlations = self.correlations(scores.whole, scores.deficit, scores.std, keys.weight)
        keys = replace(keys, more=keys.more * np.asarray(correlations.part)[..., None])
        std = correlations.shrink * scores.std
        single = self.single(std)
        near = np.minimum(correlations.near, _furthest(single, keys))
        return PositionStats(self, scores, keys, near, std, correlations.loss, single)

    def in_heads(self, share: Floats, sigma: Floats, r: Floats) -> Floats:
        """Share f of two queries of one head, from that in a head of infinite width (E12b)."""
        if self.head_width is None:
            return share
        i, j = self.layout.couples
        kappa = lost(self._rows, np.sqrt(sigma[..., i] * sigma[..., j]), 1 - r, self.head_width)
        common = self._common
        return np.asarray(common - (common - share) * np.exp(-kappa))

    @cached_property
    def _blocks(self) -> BlockMeans | None:
        """Deviations within blocks, of weights that are smooth in log position."""
        return BlockMeans(self.layout) if self.smooth and self.rotation is None else None

    @cached_property
    def _rows(self) -> Floats:
        (i, j), count = self.layout.couples, self.layout.queries.count
        few, many = np.minimum(count[i], count[j]), np.maximum(count[i], count[j])
        return rows_of(self.head_width or np.inf, few, many)

    @cached_property
    def _common(self) -> Floats:
        """Part of the keys of the query with fewer ones that both see."""
        (i, j), count = self.layout.couples, self.layout.queries.count
        return np.asarray(self.layout.common / np.minimum(count[i], count[j]))

    @abstractmethod
    def single(self, sigma: Floats) -> Single:
        """Statistics of each of `Layout.queries`."""

    @abstractmethod
    def share(self, sigma: Floats, r: Floats) -> Floats:
        """Share f of each of `Layout.couples`, whose scores have correlation r (E25d)."""

    @abstractmethod
    def key_weights(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of each key, whose score has `ratio` times the mean variance."""

    @abstractmethod
    def correlations(
        self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        """Find what correlations of the keys' scores do to each of `Layout.queries`."""


@dataclass(frozen=True)
class Exact(QueryStatistics):
    """Statistics by quadrature, which the tables are held against; leading axes one by one.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    head_width : float, optional
        Width of a head.
    rotation : Rotation, optional
        Rotary positions.
    smooth : bool
        Whether kernels are smooth in position: without rotation correlated scores are then
        integrated over few blocks, else drawn block by block.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.query_statistics import Exact
    >>> Exact(make_layout(3)).single(np.zeros(3)).excess.tolist()
    [0.0, 0.0, 0.0]
    """

    layout: Layout
    head_width: float | None = None
    rotation: Rotation | None = None
    smooth: bool = True

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
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_statistics import Exact
        >>> Exact(make_layout(2)).single(np.zeros(2)).entropy.round(6).tolist()
        [0.0, 0.693147]
        """
        count = self.layout.queries.count
        length = np.maximum(count, 2.0)
        b, rem = sigma / np.sqrt(np.log(length)), Finite(length, self.head_width)
        excess, deficit = rem.weights(b, 1.0).excess, rem.entropy_deficit(b)
        found = excess, np.log(length) - deficit, deficit
        return Single(*(np.where(count >= 2, v, 0.0) for v in found))

    def share(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap (E9b) over the geometric mean of the excesses, before that over heads.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        r : array, shape (..., N)
            Correlation of the scores of each couple.

        Returns
        -------
        array, shape (..., N)
            The share; zero where a query sees one key.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_statistics import Exact
        >>> Exact(make_layout(2)).share(np.ones(2), np.ones(1)).tolist()
        [0.0]
        """
        if sigma.ndim > 1:
            return _each(self.share, sigma.shape[:-1], sigma, r)
        warm, count = np.maximum(sigma, COLD), self.layout.queries.count
        (i, j), length = self.layout.couples, np.maximum(count, 2.0)
        found = shared_excess(queries(warm, count), i, j, self.layout.common, r)
        excess = np.asarray(Finite(length).weights(warm / np.sqrt(np.log(length)), 1.0).excess)
        return np.asarray(found / np.sqrt(excess[i] * excess[j]))

    def key_weights(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of a key whose score varies more or less than those of the others (E6c).

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        ratio : array, shape (..., P, B)
            Variance of the score of a key of each block over the mean one.

        Returns
        -------
        array, shape (..., P, B)
            The weights, up to a factor for each query: log weights by interpolation in the ratio.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_statistics import Exact
        >>> found = Exact(make_layout(3)).key_weights(np.ones(3), np.array([[1.0, 2.0, 1.0]] * 3))
        >>> (found[2] / found[2, 0]).round(2).tolist()
        [1.0, 1.05, 1.0]
        """
        if sigma.ndim > 1:
            return _each(self.key_weights, sigma.shape[:-1], sigma, ratio)
        block, size = self.layout.blocks, len(self.layout.size)
        top = np.ones(size)
        np.maximum.at(top, block, ratio.max(axis=1))
        held = from_ratio(top)[:, None]
        levels = to_ratio((nodes(LEVELS) + 1) / 2 * held)
        own = np.maximum(sigma[:size], SMALLEST)
        rows = transform(np.log(mean_weights(own, self.layout.centres.count, levels)), 1)
        place = 2 * from_ratio(ratio) / held[block] - 1
        return np.asarray(np.exp(np.einsum("pbk,pk->pb", basis(place, LEVELS), rows[block])))

    def correlations(
        self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        """Find what correlations of the keys' scores do to each query.

        Parameters
        ----------
        scale : float or array, shape (..., 1)
            Score variance of two keys of gap q.
        deficit : array, shape (..., B, B)
            Gap over q of two keys, by block.
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        weight : array, shape (..., P, B)
            Mean weight of a key of each block.

        Returns
        -------
        KeyCorrelation
            Of shape (..., P); scalar ones without scores.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_statistics import Exact
        >>> one = np.ones((2, 2))
        >>> Exact(make_layout(2)).correlations(1.0, one, np.ones(2), one).shrink
        1.0
        """
        index = self.resolved
        if not index.size or not np.any(scale):
            return ALONE
        lead = sigma.shape[:-1]
        wide = np.broadcast_to(scale, (*lead, 1)).ravel()
        gaps = np.broadcast_to(deficit, (*lead, *deficit.shape[-2:]))
        gaps = gaps.reshape(-1, *deficit.shape[-2:])
        own = sigma[..., index].reshape(-1, index.size)
        keys = weight[..., index, :].reshape(*own.shape, weight.shape[-1])
        if self.rotation is None and self.smooth:
            rows = self._together(wide, gaps, own, keys)
        else:
            together, parts = (
                CorrelatedKeys(self.rotation, self.head_width),
                self.layout.parts[index],
            )
            cells = (
                together(float(wide[n]), gaps[n], parts[k], float(own[n, k]), keys[n, k])
                for n, k in np.ndindex(own.shape)
            )
            rows = KeyCorrelation(*np.moveaxis(np.reshape([*cells], (*own.shape, -1)), -1, 0))
        shape = (*lead, index.size)
        return self._between([np.reshape(v, shape) for v in rows])

    @cached_property
    def resolved(self) -> Ints:
        """Blocks at whose centres correlations of scores are found."""
        return self.layout.resolved(INTEGRATED)

    def _between(self, found: Sequence[Floats] | Floats) -> KeyCorrelation:
        """Values at the `resolved` blocks at every query; with fewer than three keys as alone."""
        few = self.layout.queries.count < 3
        rows = zip(found, ALONE, strict=True)
        return KeyCorrelation(*(np.where(few, one, v @ self._hats) for v, one in rows))

    @cached_property
    def _hats(self) -> Floats:
        return self.layout.between(self.resolved)

    def _together(self, scale: Floats, gaps: Floats, sigma: Floats, keys: Floats) -> KeyCorrelation:
        """Find what correlations do, blocks of keys together, or ranges of a window."""
        layout, size = self.layout, len(self.layout.size)
        first = np.searchsorted(self.resolved, len(layout.head.size))
        found = []
        if first:
            square = gaps[:, None, :, :size]
            found.append(self._blocked(scale, square, sigma[:, :first], keys[:, :first, :size]))
        if layout.local is not None and first < len(self.resolved):
            row = self.resolved[first:] - layout.local.rows[0]
            local = layout.local.matrices(layout.local.of_keys(gaps[..., size:])[:, row])
            found.append(self._ranges(scale, local, sigma[:, first:], keys[:, first:, size:]))
        return KeyCorrelation(*(np.concatenate(rows, axis=-1) for rows in zip(*found, strict=True)))

    @cached_property
    def _blocked(self) -> BlockedKeys:
        index, head = self.resolved, self.layout.head
        parts = self.layout.parts[index[index < len(head.size)]]
        return BlockedKeys(parts, joints=head.joined)

    @cached_property
    def _ranges(self) -> BlockedKeys:
        """Keys of the queries that see a window in ranges of its own."""
        index, local = self.resolved, self.layout.local
        sizes = np.ones(0, dtype=np.int64) if local is None else local.sizes
        number = int(np.sum(index >= len(self.layout.head.size)))
        return BlockedKeys(np.broadcast_to(sizes, (number, len(sizes))))


def _furthest(single: Single, keys: KeyWeights) -> Floats:
    r"""Largest near (E25i), :math:`(Y_2 - \sum w^2)/(1 - Y_2)`.

    Gaps are halves of squared distances, so a row of weights meets keys that are on average no
    further from each other than those of the mean weights:
    :math:`\sum_{ss'} (A_s - w_s)(A_{s'} - w_{s'})\,gap_{ss'} \le 0`.
    """
    count = keys.layout.queries.count
    room = np.maximum(1 - 1 / count - single.excess, 0.0)
    more = np.maximum(single.excess - keys.squares, 0.0)
    return np.divide(more, room, out=np.zeros_like(room), where=room > 0)


def _each(function: Callable[..., Floats], shape: tuple[int, ...], *values: Floats) -> Floats:
    """Apply a function to each entry of the leading axes, and put the results together."""
    wide = [np.broadcast_to(v, (*shape, *np.shape(v)[len(shape) :])) for v in values]
    rows = [function(*(v[k] for v in wide)) for k in np.ndindex(*shape)]
    return np.reshape(rows, (*shape, *np.shape(rows[0])))
