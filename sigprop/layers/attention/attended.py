"""What attention by position did on the way forward, as the way back needs it.

Leading axes are many stacks, with parameters as of `sigprop.layers.attention.by_position`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Bools, Floats, Number
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.pair_sums import PairSums, divided, joined, per_query
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_responses import Response, Responses
from sigprop.layers.attention.query_statistics import PositionScores, PositionStats
from sigprop.layers.attention.rotated_gaps import RotatedGaps
from sigprop.layers.attention.windowed_keys import WindowedKeys
from sigprop.layers.interface import Spread
from sigprop.layers.state import State

__all__ = ["Attended"]


class OfBlocks(NamedTuple):
    """What queries that see blocks of keys see: all, or those before a window in ranges.

    Attributes
    ----------
    layout : Layout
        The blocks.
    sums : PairSums
        With the mean weights.
    gap, rotated, waves : arrays, shape (..., B, B+J)
        As of `Attended`.
    """

    layout: Layout
    sums: PairSums
    gap: Floats
    rotated: Floats
    waves: Floats


@dataclass(frozen=True)
class Attended:
    """What attention did on the way forward, as the way back needs it.

    Attributes
    ----------
    layer : AttentionNumbers
        The layer.
    kernel : State
        What it read: one variance, and gaps by block.
    scores, stats : PositionScores, PositionStats
        Scores and attention of its queries.
    responses : Responses
        Of the layout.
    turns : RotatedGaps
        Gaps of rotated keys.
    spread : Spread
        Of networks around the kernel.
    windowed : WindowedKeys, optional
        Keys of queries that see a window in ranges.
    """

    layer: AttentionNumbers
    kernel: State
    scores: PositionScores
    stats: PositionStats
    responses: Responses
    turns: RotatedGaps
    spread: Spread
    windowed: WindowedKeys | None = None

    @cached_property
    def q(self) -> Number:
        """Variance of the tokens, shape (..., 1)."""
        return per_query(self.kernel.q)

    @cached_property
    def gap(self) -> Floats:
        """Gaps of two keys, zero where there is no pair, shape (..., B, B+J)."""
        return self._of_pairs(np.asarray(self.kernel.gap))

    def _of_pairs(self, values: Floats) -> Floats:
        """Values of two keys, zero for a block of one key."""
        out = values.copy()
        alone = np.flatnonzero(self.layout.size == 1)
        out[..., alone, alone] = 0.0
        return out

    @cached_property
    def even(self) -> Floats:
        """Total weight of each query on each block or range if all weights are equal."""
        layout = self.layout
        return np.asarray(layout.passed_to * layout.key_sizes / layout.queries.count[:, None])

    @cached_property
    def weight(self) -> Floats:
        """Mean total weight of each query on each block or range, shape (..., P, K)."""
        weight = self.even * self.stats.keys.weight
        return np.asarray(weight / weight.sum(axis=-1, keepdims=True))

    @cached_property
    def even_overlap(self) -> Floats:
        """Overlap of two queries of equal weights."""
        layout, blocks = self.layout, PairSums(self.blocks.layout, self._of_blocks(self.even))
        return self.joined(blocks.same, 1 / layout.queries.count, layout.even)

    @cached_property
    def apart(self) -> Floats:
        """Response of two queries of equal weights over their overlap, 1 - 1/n - 1/n' + overlap."""
        share, (i, j) = 1 / self.layout.queries.count, self.layout.couples
        return np.asarray(1 - joined(2 * share, share[i] + share[j]) + self.even_overlap)

    @cached_property
    def same(self) -> Floats:
        """Sum over common keys of the product of two queries' weights."""
        count, keys, blocks = self.layout.queries.count, self.stats.keys, self.blocks.sums
        own, couples = 1 / count + keys.squares, self.layout.even + keys.products
        return self.joined(blocks.same, own, couples)

    @cached_property
    def blocks(self) -> OfBlocks:
        """What queries that see blocks of keys see."""
        layout, sizes = self.layout, len(self.layout.size)
        if layout.local is None:
            return OfBlocks(
                layout, PairSums(layout, self.weight), self.gap, self.rotated, self.waves
            )
        head = len(layout.head.size)
        cells = np.append(np.arange(head), np.arange(sizes, self.gap.shape[-1]))
        kept = (v[..., :head, cells] for v in (self.gap, self.rotated, self.waves))
        return OfBlocks(layout.head, PairSums(layout.head, self._of_blocks(self.weight)), *kept)

    def _of_blocks(self, weight: Floats) -> Floats:
        """Weights of the queries that see blocks on these."""
        if self.layout.local is None:
            return weight
        return weight[..., self.layout.head_rows, : len(self.layout.head.size)]

    @cached_property
    def _before(self) -> Bools:
        """Whether queries, and both of a couple, see blocks of keys, shape (P + N,)."""
        alone = np.zeros(len(self.layout.queries.count), dtype=bool)
        alone[self.layout.head_rows] = True
        return np.append(alone, ~self.layout.windowed)

    def joined(self, blocks: Floats, own: Floats, couples: Floats) -> Floats:
        """Kernel of queries of those that see blocks of keys, and of the others.

        Parameters
        ----------
        blocks : array
            Kernel of queries that see blocks, in the layout of these.
        own, couples : array, shape (..., P) and (..., N)
            Values, of which those of the others count.

        Returns
        -------
        array, shape (..., P + N)
            The kernel.
        """
        out = joined(own, couples)
        out[..., self._before] = blocks
        return out

    def over_blocks(self, kernel: Floats) -> Floats:
        """Part of a kernel of queries that belongs to those that see blocks."""
        return kernel[..., self._before]

    def added(
        self, blocks: tuple[Floats, Floats], ranges: tuple[Floats, Floats]
    ) -> tuple[Floats, Floats]:
        """Kernel of keys that queries pass to blocks, with that of queries that see ranges.

        Parameters
        ----------
        blocks, ranges : tuple of array
            The kernels, the first in the layout of the queries that see blocks.

        Returns
        -------
        own, others : array, shape (..., B) and (..., B, B+J)
            The sum.
        """
        (own, others), size = ranges, len(self.layout.size)
        head = blocks[0].shape[-1]
        own[..., :head] += blocks[0]
        others[..., :head, :head] += blocks[1][..., :head]
        others[..., :head, size:] += blocks[1][..., head:]
        return own, others

    def to_keys(
        self, kernel: Floats, left: Floats | None = None, right: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """Spread a kernel of queries over their keys, as `PairSums.spread`.

        Parameters
        ----------
        kernel : array, shape (..., P + N)
            The kernel.
        left, right : array, shape (..., P, K), optional
            Weights of the two queries; by default the mean weights.

        Returns
        -------
        own, others : array, shape (..., B) and (..., B, B+J)
            Where both have one key, and where they have different keys.
        """
        one, two = (self.weight if given is None else given for given in (left, right))
        parts = (self._of_blocks(weight) for weight in (one, two))
        blocks = self.blocks.sums.spread(self.over_blocks(kernel), *parts)
        if self.windowed is None:
            return blocks
        sizes = self.layout.key_sizes
        return self.added(blocks, self.windowed.spread(kernel, one / sizes, two / sizes))

    @cached_property
    def overlap(self) -> Floats:
        """Overlap of each couple, and Y_2 of each query."""
        return joined(self.stats.y2, self.stats.overlap)

    @property
    def layout(self) -> Layout:
        """Blocks and mask."""
        return self.stats.layout

    @cached_property
    def response(self) -> Response:
        """Responses of the queries and couples."""
        return self.responses(self.stats.std, self.scores.correlation, self.layer.head_width)

    @cached_property
    def passed(self) -> Floats:
        r"""Share :math:`\varphi = (1 - Y_2)/(1 - 1/n)` that different keys have of each query."""
        return divided(1 - self.stats.y2, 1 - 1 / self.layout.queries.count)

    @cached_property
    def tokens_kernel(self) -> Floats:
        """Kernel of the tokens at two queries."""
        count = len(self.layout.queries.count)
        own, (i, j) = self.q * np.ones(count), self.layout.cells
        return joined(own, self.q - self.gap[..., i, j])

    @cached_property
    def products(self) -> Floats:
        r"""Product of two queries, turned by their distance: q r times the ratio of deviations."""
        (i, j), std = self.layout.couples, self.scores.std
        turned = self.scores.correlation * divided(std[..., j], std[..., i])
        return self.q * joined(np.ones(std.shape[-1]), turned)

    @property
    def waves(self) -> Floats:
        """Mean over frequencies of the cosine of the rotation between two keys, shape (B, B+J)."""
        return self.turns.all_waves

    @cached_property
    def rotated(self) -> Floats:
        """Gaps of two rotated keys, shape (..., B, B+J)."""
        return self._of_pairs(self.gap * self.waves + self.kernel.q * (1 - self.waves))

    @cached_property
    def rotation(self) -> Floats:
        r"""Mean over frequencies of :math:`\cos\omega(t'-t)`, as the keys' variances count them."""
        parts = self.turns.own(self.gap, self.kernel.q)
        first = parts[..., self.layout.couples[0]].mean(axis=-2)
        mean = divided(self.turns.turned(parts), first)
        return joined(np.ones(len(self.layout.queries.count)), mean)
