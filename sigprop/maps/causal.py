"""Attention and norm on the full token kernel, kept in blocks of positions (E14, E25).

The state is `State(q, gap)` with one variance a block and, for each pair of blocks, the mean of
:math:`(q_t + q_{t'})/2 - K_{tt'}` over pairs of different tokens; on the diagonal, pairs within the
block. Residual and MLP act on it unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sigprop.arrays import Floats, Number
from sigprop.layout import Layout
from sigprop.maps.rotary import frequencies, make_distances
from sigprop.rem.hierarchy import picks
from sigprop.rem.table import Finite
from sigprop.rem.unequal import queries, shared_excess, weight_of_one
from sigprop.state import State

__all__ = ["CausalAttention", "Seen", "TokenNorm"]

WAVES = 32  # frequencies of rotary positions that are resolved
NODES = 8  # positions at which correlated scores are solved on a tree


@dataclass(frozen=True)
class TokenNorm:
    r"""Norm of tokens whose variances differ (E14).

    :math:`K_{tt'} \to \gamma^2 K_{tt'}/\sqrt{q_t q_{t'}}`.

    In gaps, without cancellation (E14):
    :math:`gap' = \gamma^2\,[gap - (\sqrt{q_t} - \sqrt{q_{t'}})^2/2] / \sqrt{q_t q_{t'}}`.

    Parameters
    ----------
    gain : float
        Gain gamma, > 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.maps.causal import TokenNorm
    >>> from sigprop.state import State
    >>> TokenNorm()(State(np.array([1.0, 4.0]), np.array([[0.0, 2.5], [2.5, 0.0]]))).gap[0, 1]
    np.float64(1.0)
    """

    gain: float = 1.0

    def __call__(self, state: State) -> State:
        """Apply the map."""
        root = np.broadcast_to(np.sqrt(state.q), np.shape(state.gap)[:1])
        split = (root[:, None] - root) ** 2 / 2
        square = self.gain * self.gain
        return State(square, square * (state.gap - split) / np.outer(root, root))


@dataclass(frozen=True)
class Seen:
    """Statistics of one attention layer, position by position.

    Attributes
    ----------
    score_std, y2, entropy, first_weight : arrays, shape (B,)
        Score standard deviation, participation ratio, entropy in nats and weight on the first
        token of the query at each block's centre.
    overlap : array, shape (B, B)
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


class _Single(NamedTuple):
    excess: Floats
    y2: Floats
    entropy: Floats
    heads: Floats  # square root of what E12 does to the excess


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
    beta, sigma_v2, sigma_b2, sigma_o2 : float
        Inverse temperature and weight variances.
    centred : bool
        Whether attention is centred.
    head_width : float, optional
        Width of a head. Y_2 and entropy are averaged over it exactly (E12); the excess of O over
        its value without correlation is scaled by the geometric mean of what E12 does to the
        excess of both queries, exact for small s and at r = 1.
    rotary_base : float, optional
        Base of rotary positions. The variance of scores is then that about their mean over what a
        query sees, reduced to the one at which independent scores would have the Y_2 of the tree
        (`sigprop.rem.hierarchy`, the kernel taken flat within what is seen), found at `NODES`
        positions; two queries' scores correlate as in `sigprop.maps.rotary`.
    record : callable, optional
        Receives the `Seen` of every call.

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
    >>> attention(State(1.0, np.full((3, 3), 0.5))).q.round(6).tolist()
    [1.0, 0.75, 0.666667]
    """

    layout: Layout
    context: int
    beta: float
    sigma_v2: float
    sigma_b2: float = 0.0
    sigma_o2: float = 1.0
    centred: bool = False
    head_width: float | None = None
    rotary_base: float | None = None
    record: Callable[[Seen], None] | None = None

    def __call__(self, state: State) -> State:
        """Apply the map."""
        gap = np.asarray(state.gap)
        own, between = self.layout.means(gap)
        i, j = self.layout.couples
        sigma, r = self._scores(float(state.q), gap, own)
        single, count = self._single(sigma), self.layout.queries.count
        excess = shared_excess(queries(sigma, count), i, j, self.layout.common, r)
        excess *= single.heads[i] * single.heads[j]
        overlap = excess + self.layout.common / (count[i] * count[j])
        if self.record is not None:
            first = self._first_weight(state, own)
            self.record(self._seen(sigma, single, overlap, first))
        kept = (excess if self.centred else overlap - 1) * between
        alone = (single.excess if self.centred else single.y2 - 1) * own
        return self._projected(state.q, alone, kept)

    def _scores(self, q: float, gap: Floats, own: Floats) -> tuple[Floats, Floats]:
        """Find each query's score deviation, and the correlation of each couple's scores."""
        scale, r = self.beta * np.sqrt(np.log(self.context) * q), 1 - gap[self.layout.cells] / q
        if self.rotary_base is None:
            return scale * np.sqrt(own), r
        omega = frequencies(self.rotary_base, self._turned_width)
        mean, between = self.layout.turned_means(q - gap, omega)
        many = self.layout.queries.count > 1
        variance = np.where(many, q - mean, 0.0)
        (i, j), position = self.layout.couples, self.layout.queries.position
        waves = np.cos((position[j] - position[i])[:, None] * omega) @ np.full(len(omega), q)
        root = np.sqrt(variance[i] * variance[j])
        apart = waves / len(omega) - between
        r *= np.divide(apart, root, out=np.zeros_like(root), where=root > 0)
        sigma = scale * np.sqrt(variance)
        return sigma * self._shrink(scale**2, q, own, sigma), np.clip(r, -1.0, 1.0)

    @property
    def _turned_width(self) -> float:
        """Head width whose frequencies are used: more than `WAVES` change little."""
        return min(self.head_width or np.inf, 2.0 * WAVES)

    def _shrink(self, scale: float, q: float, own: Floats, sigma: Floats) -> Floats:
        """Factor on the score deviation, at which independent scores have the tree's Y_2."""
        rows = self.layout.centres
        index = np.flatnonzero(rows.count >= 3)
        if not index.size or not scale:
            return np.ones_like(sigma)
        index = index[np.unique(np.geomspace(1, index.size, NODES).round().astype(int)) - 1]
        ratio = [self._ratio(scale, q, own[k], sigma[k], int(rows.count[k])) for k in index]
        place = np.log(self.layout.queries.position)
        return np.asarray(np.interp(place, np.log(rows.position[index]), ratio))

    def _ratio(self, scale: float, q: float, own: float, sigma: float, count: int) -> float:
        if self.rotary_base is None or sigma == 0:
            return 1.0
        distances = make_distances(count, self.rotary_base, self._turned_width)
        covariance = scale * (q - own) * distances.waves.mean(axis=1)
        covariance[0] = scale * q
        tree = picks(covariance, distances.sizes).pairs[0] - 1 / count
        ratio = np.linspace(0.2, 1.1, 181)
        excess = Finite(count).weights(ratio * sigma / np.sqrt(np.log(count)), 1.0).excess
        return float(np.interp(tree, excess, ratio))

    def _projected(self, q: Number, alone: Floats, kept: Floats) -> State:
        """Kernel after values and output projection, from each query's and each pair's part."""
        value, (i, j) = self.sigma_o2 * self.sigma_v2, self.layout.cells
        gap = (alone[i] + alone[j]) / 2 - kept
        start = 0.0 if self.centred else value * q + self.sigma_o2 * self.sigma_b2
        alone = alone[: len(self.layout.size)]
        return State(start + value * alone, value * self.layout.spread_out(gap))

    def _single(self, sigma: Floats) -> _Single:
        """Statistics of one query; a query with one key puts all its weight there."""
        count = self.layout.queries.count
        many = count >= 2
        length = np.where(many, count, 2.0)
        b = sigma / np.sqrt(np.log(length))
        plain = Finite(length).weights(b, 1.0).excess
        rem = Finite(length, self.head_width)
        excess = rem.weights(b, 1.0).excess
        entropy = rem.entropy_ratio(b) * np.log(length)
        heads = np.divide(excess, plain, out=np.ones_like(sigma), where=plain > 0)
        excess, entropy = np.where(many, excess, 0.0), np.where(many, entropy, 0.0)
        return _Single(excess, 1 / count + excess, entropy, np.sqrt(heads))

    def _seen(self, sigma: Floats, single: _Single, overlap: Floats, first: Floats) -> Seen:
        std, y2, entropy = (c[: len(first)] for c in (sigma, single.y2, single.entropy))
        return Seen(std, y2, entropy, first, self.layout.spread_out(overlap))

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
        scale = self.beta * np.sqrt(np.log(self.context) * state.q)
        spread = scale * np.sqrt(np.maximum(2 * mean - own[: len(mean), None], 0.0))
        number[:, 0] -= rows.low < 1
        weight = weight_of_one(spread[:, 0], np.where(number > 0, spread, 0.0), number)
        return np.where(rows.low < 1, np.where(rows.count > 1, weight, 1.0), 0.0)
