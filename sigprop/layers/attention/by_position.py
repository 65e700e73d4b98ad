"""Tokens told apart by position: the full token kernel, kept in blocks of positions (E14, E25).

The state is `State(q, gap)` with one variance a block, as a column of shape (..., B, 1), and, for
each pair of blocks, the mean of :math:`(q_t + q_{t'})/2 - K_{tt'}` over pairs of different tokens,
shape (..., B, B); on the diagonal, pairs within the block. Behind these come values at the short
distances of a layout, shape (..., B, B+J) in all. Leading axes are many stacks at once;
their parameters have the shape (..., 1, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sigprop.core.arrays import Bools, Floats, Number
from sigprop.layers.attention import position_backward
from sigprop.layers.attention.attended import Attended
from sigprop.layers.attention.block_means import BlockMeans
from sigprop.layers.attention.exchangeable import LARGEST
from sigprop.layers.attention.key_correlations import rotated_width
from sigprop.layers.attention.key_weights import KeyWeights
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.pair_sums import per_query
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_responses import Responses
from sigprop.layers.attention.query_statistics import PositionScores, PositionStats
from sigprop.layers.attention.rotated_gaps import RotatedGaps
from sigprop.layers.attention.rotation import Rotation, frequencies
from sigprop.layers.attention.windowed_keys import WindowedKeys
from sigprop.layers.interface import BackwardStep, Spread
from sigprop.layers.norm import Norm
from sigprop.layers.state import Gradient, State

__all__ = ["PositionGeometry"]

LOST = 0.1  # how far beyond one a cosine shows that its digits are lost


@dataclass(frozen=True)
class PositionGeometry:
    r"""Geometry in which every query sees its own keys (E25, E25c-E25f).

    With :math:`m_{tt'}` the mean gap of different keys of t and t', weighted by their mean weights,
    :math:`\nu_t` what correlated scores make of it for one query, and f the share of the way from
    equal weights to Y_2 that the overlap of t and t' goes,

    .. math:: K'_{tt} = q - (1 - Y_2(t))\,\nu_t\,m_{tt}, \qquad K'_{tt'} = q
              - (1 - O_{tt'})\,m_{tt'}\,[1 + f\,(\sqrt{\nu_t \nu_{t'}} - 1)]

    times :math:`\sigma_v^2`, plus bias.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.

    Notes
    -----
    theory.md section 6: score deviations and mean weights E25c, two queries E25d, correlated keys
    E25e, the map E25f, rotary positions E25r. What attention reads must be behind a norm, so that
    its q is one number.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.layer import Attention, Mask
    >>> from sigprop.layers.attention.by_position import PositionGeometry
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.attention.query_statistics import Exact
    >>> from sigprop.layers.state import State
    >>> layout = make_layout(3)
    >>> attention = Attention(beta=0.0, sigma_v2=1.0, context=3, mask=Mask())
    >>> place = Place(PositionGeometry(layout), Exact(layout))
    >>> attention.forward(State(1.0, np.full((3, 3), 0.5)), place).kernel.q[:, 0].round(6).tolist()
    [1.0, 0.75, 0.666667]
    """

    layout: Layout

    @property
    def tokens(self) -> int:
        """Context length T."""
        return self.layout.tokens

    @property
    def keys_seen(self) -> Floats:
        """Number of keys that the query at the centre of each block sees."""
        return self.layout.centres.count

    @property
    def share(self) -> Floats:
        """Share of the tokens that each block stands for."""
        return np.asarray(self.layout.stands_for / self.tokens)

    def initial(self, q: Number, rho: Number) -> State:
        """Kernel of tokens of one variance and one overlap."""
        apart = np.ones((len(self.layout.size), len(self.layout.distances)), dtype=bool)
        pairs = np.concatenate([self.layout.pairs > 0, apart], axis=1)
        return State(q, np.where(pairs, q * (1 - np.asarray(rho)), 0.0))

    def pairs(self, kernel: State) -> tuple[Floats, Floats, Number]:
        """Variances of the two tokens of each pair of blocks, and gaps."""
        column = np.broadcast_to(kernel.q, (*np.shape(kernel.gap)[:-1], 1))
        row, short = np.swapaxes(column, -1, -2), len(self.layout.distances)
        if short:
            size = np.shape(column)[-2]
            row = np.broadcast_to(row, (*np.shape(row)[:-2], size, size))
            beside = np.broadcast_to(column, (*np.shape(column)[:-1], short))
            row = np.concatenate([row, beside], axis=-1)
        return column, row, kernel.gap

    def scores(self, layer: AttentionNumbers, kernel: State) -> PositionScores:
        """Deviations of the scores, correlations of two queries' and variances of the keys'."""
        layout, level, gap = self.layout, per_query(kernel.q), np.asarray(kernel.gap)
        (i, j), cells = layout.couples, layout.cells
        rotated, whole = self.rotated(layer), np.asarray(kernel.q)
        parts = rotated.own(gap, whole)  # variances of differences of scores, by frequency
        own = parts.mean(axis=-2)
        root = np.sqrt(own[..., i] * own[..., j])
        r = (1 - gap[..., cells[0], cells[1]] / level) * rotated.turned(parts)
        r = np.divide(r, root, out=np.zeros_like(root), where=root > 0)
        scale = per_query(layer.beta) ** 2 * np.log(layer.context) * level
        wide = own[..., None] > 0
        beside = rotated.beside(gap, whole) / np.where(wide, own[..., None], 1.0)
        return PositionScores(
            std=np.sqrt(scale * own),
            correlation=np.clip(r, -1.0, 1.0),
            key_variance=np.where(wide, np.maximum(2 * beside - 1, 0.0), 1.0),
            whole=scale * level,
            deficit=gap / np.asarray(kernel.q),
            context=layer.context,
        )

    def rotated(self, layer: AttentionNumbers) -> RotatedGaps:
        """Gaps of the rotated keys of a layer."""
        key = layer.rotation, rotated_width(layer.head_width)
        if key not in self._rotations:
            self._rotations[key] = RotatedGaps(self.layout, frequencies(*key))
        return self._rotations[key]

    @cached_property
    def _rotations(self) -> dict[tuple[Rotation | None, float], RotatedGaps]:
        return {}

    def mix(
        self, kernel: State, attention: PositionStats, value: Number, bias: Number, centred: bool
    ) -> State:
        """Kernel of the means of values over keys, from each query's and each couple's part."""
        gap, (i, j), near = np.asarray(kernel.gap), self.layout.couples, attention.near
        keys, single, alike = attention.keys, attention.single, attention.alike
        own, mixed = keys.means(gap)
        mixed = np.maximum(mixed, self._least(keys, own))
        both = alike * np.expm1((np.log1p(near[..., i]) + np.log1p(near[..., j])) / 2)
        alone = (attention.y2 - 1) * near * own
        kept = (attention.overlap - 1) * both * mixed
        if centred:
            apart, across = keys.excess(gap)
            alone += (single.excess - keys.squares) * own - apart
            kept += (attention.shared - keys.products * alike) * mixed - across
        else:
            alone = alone + (attention.y2 - 1) * own
            kept = kept + (attention.overlap - 1) * mixed
        return self._state(kernel.q, alone, kept, value, 0.0 if centred else bias, centred)

    def _least(self, keys: KeyWeights, own: Floats) -> Floats:
        """Least mean gap of the keys of two queries, given those of the keys of each (E25i).

        Gaps are halves of squared distances, and those of two means are not negative; blocks of
        positions may lose that where tokens merge.
        """
        layout = self.layout
        apart = 1 - 1 / layout.queries.count - keys.squares
        both = 1 - layout.even - keys.products
        return np.divide(layout.of_two(apart * own), both, out=np.zeros_like(both), where=both > 0)

    def _state(
        self, q: Number, alone: Floats, kept: Floats, value: Number, bias: Number, centred: bool
    ) -> State:
        gap = self.layout.of_two(alone) - kept
        start = 0.0 if centred else value * q + bias
        column = self._means.of_blocks(alone[..., : len(self.layout.size)])[..., None]
        q, gap = start + value * column, value * self._means(self.layout.spread_out(gap))
        root = np.sqrt(np.maximum(q, 0.0))
        apart = root - np.swapaxes(root, -1, -2)  # two tokens are as far apart as their norms
        blocks = gap[..., : apart.shape[-1]]
        np.maximum(blocks, apart * apart / 2, out=blocks)
        return State(q, np.maximum(gap, 0.0))

    @cached_property
    def _means(self) -> BlockMeans:
        return BlockMeans(self.layout)

    def pull(
        self, layer: AttentionNumbers, kernel: State, gradient: Gradient, statistics: Any,
        spread: Spread,
    ) -> BackwardStep:  # fmt: skip
        """Gradient kernel at the input of attention, and the gradients of its weights."""
        scores = self.scores(layer, kernel)
        at = Attended(
            layer,
            kernel,
            scores,
            statistics(scores),
            self._responses,
            self.rotated(layer),
            spread,
            self._windowed,
        )
        return position_backward.pull(at, gradient)

    @cached_property
    def _responses(self) -> Responses:
        return Responses(self.layout)

    @cached_property
    def _windowed(self) -> WindowedKeys | None:
        window = self.layout.local
        return None if window is None else WindowedKeys(self.layout, window)

    def total(self, own: Number, others: Floats) -> Floats:
        """Mean over tokens of a kernel summed over the other token."""
        size = self.layout.size[:, None]
        whole = np.sum(np.broadcast_to(own, (*np.shape(others)[:-1], 1)) * size, axis=(-2, -1))
        return np.asarray((whole + np.sum(others, axis=(-2, -1))) / self.tokens)

    def deficits(self, kernel: State) -> Floats:
        """Overlap deficits 1 - rho of all pairs of blocks, and at short distances."""
        return np.asarray(Norm().at(*self.pairs(kernel)).gap)

    def deficit(self, kernel: State) -> Floats:
        """Mean overlap deficit over all pairs of different tokens."""
        pairs = self.layout.token_pairs
        cosines = self.deficits(kernel)[..., : len(pairs)]
        return np.asarray(np.sum(cosines * pairs, axis=(-2, -1)) / np.sum(pairs))

    def variances(self, kernel: State) -> Floats:
        """Variance of the tokens of each block."""
        return np.broadcast_to(kernel.q, (*np.shape(kernel.gap)[:-1], 1))[..., 0]

    def variance(self, kernel: State) -> Floats:
        """Mean variance of the tokens."""
        return np.asarray(self.variances(kernel) @ self.share)

    def is_valid(self, kernel: State) -> Bools:
        """Whether the kernel is finite and no token has vanished, for each stack."""
        q = self.variances(kernel)
        alive = np.all((q > 0) & (q < LARGEST), axis=-1)
        cosine = 1 - self.deficits(kernel)
        alive &= np.all(np.abs(cosine) <= 1 + LOST, axis=(-2, -1))  # NaN is none
        return np.asarray(alive & np.all(np.isfinite(kernel.gap), axis=(-2, -1)))

    def select(self, known: Bools, kernel: State, other: State) -> State:
        """Kernel of the stacks that are known, another one of the rest."""
        wide = known[..., None, None]
        return State(np.where(wide, kernel.q, other.q), np.where(wide, kernel.gap, other.gap))
