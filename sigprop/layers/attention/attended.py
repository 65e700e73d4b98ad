"""What attention by position did on the way forward, as the way back needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.pair_sums import PairSums, divided
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_responses import Response, Responses
from sigprop.layers.attention.query_statistics import PositionScores, PositionStats
from sigprop.layers.attention.rotated_gaps import RotatedGaps
from sigprop.layers.interface import Spread
from sigprop.layers.state import State

__all__ = ["Attended"]


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
    """

    layer: AttentionNumbers
    kernel: State
    scores: PositionScores
    stats: PositionStats
    responses: Responses
    turns: RotatedGaps
    spread: Spread

    @cached_property
    def q(self) -> float:
        """Variance of the tokens."""
        return float(np.mean(self.kernel.q))

    @cached_property
    def gap(self) -> Floats:
        """Gaps of two keys, zero where there is no pair."""
        return np.where(self.sums.layout.pairs > 0, self.kernel.gap, 0.0)

    @cached_property
    def even(self) -> Floats:
        """Total weight of each query on each block if all weights are equal."""
        layout = self.stats.layout
        return np.asarray(layout.seen * layout.size / layout.queries.count[:, None])

    @cached_property
    def even_overlap(self) -> Floats:
        """Overlap of two queries of equal weights, shape (P, P)."""
        return np.asarray(self.even / self.layout.size @ self.even.T)

    @cached_property
    def apart(self) -> Floats:
        """Response of two queries of equal weights over their overlap, 1 - 1/n - 1/n' + overlap."""
        share = 1 / self.layout.queries.count
        return np.asarray(1 - share[:, None] - share + self.even_overlap)

    @cached_property
    def sums(self) -> PairSums:
        """Sums over pairs with the mean weights."""
        return PairSums(self.stats.layout, self.even * self.stats.keys.weight)

    @cached_property
    def overlap(self) -> Floats:
        """Overlap of each couple, and Y_2 of each query, shape (P, P)."""
        return self.sums.matrix(self.stats.y2, self.stats.overlap)

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
        """Kernel of the tokens at two queries, shape (P, P)."""
        count = len(self.layout.queries.count)
        return self.sums.matrix(np.full(count, self.q), self.q - self.gap[self.layout.cells])

    @cached_property
    def products(self) -> Floats:
        r"""Product of two queries, turned by their distance: q r times the ratio of deviations."""
        (i, j), std = self.layout.couples, self.scores.std
        turned = self.scores.correlation * divided(std[j], std[i])
        return self.q * self.sums.matrix(np.ones(len(std)), turned)

    @property
    def waves(self) -> Floats:
        """Mean over frequencies of the cosine of the rotation between two keys, by block."""
        return self.turns.waves

    @cached_property
    def rotated(self) -> Floats:
        """Gaps of two rotated keys."""
        return np.where(self.layout.pairs > 0, self.turns.between(self.gap, self.q), 0.0)

    @cached_property
    def rotation(self) -> Floats:
        r"""Mean over frequencies of :math:`\cos\omega(t'-t)`, as the keys' variances count them."""
        parts = self.turns.own(self.gap, self.q)
        first = parts[:, self.layout.couples[0]].mean(axis=0)
        mean = divided(self.turns.turned(parts), first)
        return self.sums.matrix(np.ones(len(self.layout.queries.count)), mean)
