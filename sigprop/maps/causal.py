"""Attention and norm on the full token kernel, kept in blocks of positions (E14, E25).

The state is `State(q, gap)` with one variance a block, as a column of shape (..., B, 1), and, for
each pair of blocks, the mean of :math:`(q_t + q_{t'})/2 - K_{tt'}` over pairs of different tokens,
shape (..., B, B); on the diagonal, pairs within the block. Residual and MLP act on it unchanged.
Leading axes are many stacks at once; their parameters have the shape (..., 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigprop.arrays import Floats, Number
from sigprop.layout import Layout
from sigprop.maps.distances import frequencies
from sigprop.maps.weights import Exact, Single, Statistics, turned_width
from sigprop.rem.unequal import weight_of_one
from sigprop.state import State

__all__ = ["CausalAttention", "Seen", "TokenNorm"]


@dataclass(frozen=True)
class TokenNorm:
    r"""Norm of tokens whose variances differ (E14).

    :math:`K_{tt'} \to \gamma^2 K_{tt'}/\sqrt{q_t q_{t'}}`.

    In gaps, without cancellation (E14):
    :math:`gap' = \gamma^2\,[gap - (\sqrt{q_t} - \sqrt{q_{t'}})^2/2] / \sqrt{q_t q_{t'}}`.

    Parameters
    ----------
    gain : float or array
        Gain gamma, > 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.maps.causal import TokenNorm
    >>> from sigprop.state import State
    >>> TokenNorm()(State(np.array([[1.0], [4.0]]), np.array([[0.0, 2.5], [2.5, 0.0]]))).gap[0, 1]
    np.float64(1.0)
    """

    gain: Number = 1.0

    def __call__(self, state: State) -> State:
        """Apply the map."""
        column = np.broadcast_to(np.sqrt(state.q), (*np.shape(state.gap)[:-1], 1))
        row = np.swapaxes(column, -1, -2)
        square = self.gain * self.gain
        return State(square, square * (state.gap - (column - row) ** 2 / 2) / (column * row))


@dataclass(frozen=True)
class Seen:
    """Statistics of one attention layer, position by position.

    Attributes
    ----------
    score_std, y2, entropy, first_weight : arrays, shape (..., B)
        Score standard deviation, participation ratio, entropy in nats and weight on the first
        token of the query at each block's centre.
    overlap : array, shape (..., B, B)
        Attention overlap of two queries; pairs within the block on the diagonal.

    Examples
    --------
    >>> from sigprop.maps.causal import Seen
    >>> Seen.__dataclass_fields__["overlap"].name
    'overlap'
    """

    score_std: Floats
    y2: Floats
    entropy: Floats
    first_weight: Floats
    overlap: Floats


@dataclass(frozen=True)
class CausalAttention:
    r"""Attention in which every query sees its own keys (E25).

    Query t sees :math:`n_t` keys. Its scores have standard deviation
    :math:`s_t = \beta \sqrt{\log T\,q\,M_{tt}}`, with :math:`M_{tt'}` the mean gap over different
    keys of t and t'. With :math:`O_{tt'}` the overlap of two queries of unequal lengths,

    .. math:: K'_{tt'} = q - (1 - O_{tt'})\,M_{tt'}, \qquad K'_{tt} = q - (1 - Y_2(t))\,M_{tt}

    times :math:`\sigma_v^2`, plus bias. Centred attention subtracts :math:`1/n_t` from every
    weight: :math:`K'_{tt'} = (O_{tt'} - n_\cap/(n_t n_{t'}))\,M_{tt'}`.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    context : int
        Context length T, whose logarithm scales the scores.
    beta, sigma_v2, sigma_b2, sigma_o2 : float or array, shape (..., 1, 1)
        Inverse temperature and weight variances.
    centred : bool
        Whether attention is centred.
    head_width : float, optional
        Width of a head. Y_2 and entropy are averaged over it exactly (E12); the excess of O over
        its value without correlation is scaled by the geometric mean of what E12 does to the
        excess of both queries, exact for small s and at r = 1.
    rotary_base : float, optional
        Base of rotary positions. The variance of scores is then that about their mean over what a
        query sees, reduced to the one at which independent scores would have the Y_2 of drawn
        fields over the blocks it sees (`sigprop.rem.fields`), at `NODES` positions; keys that are
        picked are nearer than those that are seen, for two queries in the part of the excess that
        they share; two queries' scores correlate as in `sigprop.maps.rotary`.
    record : callable, optional
        Receives the `Seen` of every call; the weight on the first token only of a single stack.
    statistics : Statistics, optional
        Source of the statistics; by default quadrature, which takes one stack.

    Notes
    -----
    theory.md E25 (new there). It is a mean field: within what a query sees, keys are exchangeable.
    Every state must be behind a norm, so q is one number.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.causal import CausalAttention
    >>> from sigprop.state import State
    >>> attention = CausalAttention(make_layout(3), 3, beta=0.0, sigma_v2=1.0)
    >>> attention(State(1.0, np.full((3, 3), 0.5))).q[:, 0].round(6).tolist()
    [1.0, 0.75, 0.666667]
    """

    layout: Layout
    context: int
    beta: Number
    sigma_v2: Number
    sigma_b2: Number = 0.0
    sigma_o2: Number = 1.0
    centred: bool = False
    head_width: float | None = None
    rotary_base: float | None = None
    record: Callable[[Seen], None] | None = None
    statistics: Statistics | None = None

    def __call__(self, state: State) -> State:
        """Apply the map."""
        gap = np.asarray(state.gap)
        own, mixed = self.layout.means(gap)
        i, j = self.layout.couples
        sigma, r, near = self._scores(state.q, gap, own)
        single, count = self._weights.single(sigma), self.layout.queries.count
        y2 = 1 / count + single.excess
        excess = self._weights.shared(sigma, r) * single.heads[..., i] * single.heads[..., j]
        overlap = excess + self.layout.common / (count[i] * count[j])
        if self.record is not None:
            self.record(self._seen(state, own, sigma, y2, single, overlap))
        kept = (excess if self.centred else overlap - 1) * mixed
        alone = (single.excess if self.centred else y2 - 1) * own
        if not isinstance(near, float):  # keys that are picked are nearer than those that are seen
            most = np.sqrt(single.excess[..., i] * single.excess[..., j])
            alike = np.divide(excess, most, out=np.zeros_like(most), where=most > 0)
            both = np.clip(alike, 0.0, 1.0) * (np.sqrt(near[..., i] * near[..., j]) - 1)
            alone, kept = alone - (1 - y2) * own * (near - 1), kept - (1 - overlap) * mixed * both
        return self._projected(state.q, alone, kept)

    @property
    def _weights(self) -> Statistics:
        known = self.statistics
        return known or Exact(self.layout, self.head_width, self.rotary_base)

    def _scores(self, q: Number, gap: Floats, own: Floats) -> tuple[Floats, Floats, Number]:
        """Find each query's score deviation, each couple's correlation, and `Turned.near`."""
        level = _row(q)
        scale = _row(self.beta) ** 2 * np.log(self.context) * level
        cells = self.layout.cells
        r = 1 - gap[..., cells[0], cells[1]] / level
        if self.rotary_base is None:
            return np.sqrt(scale * own), r, 1.0
        omega = frequencies(self.rotary_base, turned_width(self.head_width))
        mean, mixed = self.layout.turned_means(q - gap, omega)
        variance = np.where(self.layout.queries.count > 1, level - mean, 0.0)
        (i, j), position = self.layout.couples, self.layout.queries.position
        waves = np.cos((position[j] - position[i])[:, None] * omega).mean(axis=1)
        root = np.sqrt(variance[..., i] * variance[..., j])
        r *= np.divide(level * waves - mixed, root, out=np.zeros_like(root), where=root > 0)
        sigma = np.sqrt(scale * variance)
        turned = self._weights.turned(scale * level, gap / np.asarray(q), sigma)
        return turned.shrink * sigma, np.clip(r, -1.0, 1.0), turned.near

    def _projected(self, q: Number, alone: Floats, kept: Floats) -> State:
        """Kernel after values and output projection, from each query's and each pair's part."""
        value, (i, j) = self.sigma_o2 * self.sigma_v2, self.layout.cells
        gap = (alone[..., i] + alone[..., j]) / 2 - kept
        start = 0.0 if self.centred else value * q + self.sigma_o2 * self.sigma_b2
        column = alone[..., : len(self.layout.size), None]
        return State(start + value * column, value * self.layout.spread_out(gap))

    def _seen(
        self,
        state: State,
        own: Floats,
        sigma: Floats,
        y2: Floats,
        single: Single,
        overlap: Floats,
    ) -> Seen:
        count = len(self.layout.size)
        std, own_y2, entropy = (c[..., :count] for c in (sigma, y2, single.entropy))
        first = np.asarray(self._first_weight(state, own) if sigma.ndim == 1 else np.nan)
        return Seen(std, own_y2, entropy, first, self.layout.spread_out(overlap))

    def _first_weight(self, state: State, own: Floats) -> Floats:
        r"""Mean weight on the first token, whose gap to the other keys is not that of the rest.

        The score of key s has about the others the variance :math:`\beta^2 \log T\, q\,
        (2 M_s - M)`, with :math:`M_s` its mean gap to the keys seen: differences of two scores
        keep their mean variances. Floored at zero where s is the centre of the others.
        """
        rows, gap = self.layout.centres, np.asarray(state.gap)
        number = self.layout.visible(rows) * self.layout.size
        pairs = number @ (self.layout.pairs / self.layout.size[:, None])
        beside = number @ (self.layout.pairs * gap / self.layout.size[:, None])
        mean = np.divide(beside, pairs, out=np.zeros_like(beside), where=pairs > 0)
        scale = float(self.beta) * np.sqrt(np.log(self.context) * float(state.q))
        spread = scale * np.sqrt(np.maximum(2 * mean - own[: len(mean), None], 0.0))
        number[:, 0] -= rows.low < 1
        weight = weight_of_one(spread[:, 0], np.where(number > 0, spread, 0.0), number)
        return np.where(rows.low < 1, np.where(rows.count > 1, weight, 1.0), 0.0)


def _row(value: Number) -> Number:
    """Drop the last axis of a parameter of shape (..., 1, 1), so that it meets queries."""
    return np.asarray(value)[..., 0] if np.ndim(value) else value
