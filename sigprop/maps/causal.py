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
from sigprop.maps.preferred import Preferred, prefer
from sigprop.maps.together import Turned, turned_width
from sigprop.maps.weights import Exact, Single, Statistics
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
    excess, deficit : arrays, shape (..., B)
        Participation ratio above 1/n, and entropy below log n: they keep their digits where
        attention is almost uniform, as does
    joint : array, shape (..., B, B)
        Overlap above that of uniform attention.

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
    excess: Floats
    deficit: Floats
    joint: Floats


@dataclass(frozen=True)
class CausalAttention:
    r"""Attention in which every query sees its own keys (E25).

    Query t sees :math:`n_t` keys. With :math:`M_t` the mean gap of two different ones and
    :math:`M_{ts}` that of key s to the others, its scores have the standard deviation
    :math:`s_t = \beta \sqrt{\log T\,q\,M_t}`.

    *One by one.* About the others the score of key s has the variance
    :math:`(2M_{ts}/M_t - 1)\,s_t^2`, so that differences of two scores keep their mean variances.
    Its mean weight :math:`w_{ts}` is that of such an energy among :math:`n_t - 1` of variance
    :math:`s_t^2`; weights are scaled to the sum one. Keys that stand apart are picked more.

    *By two queries.* About their means over what each sees, scores of t on the keys that both see
    covary with those of a later t' as among themselves, times :math:`K_{tt'}/q`: their correlation
    is :math:`r = (K_{tt'}/q) \sqrt{M_t/M_{t'}}`. With E the excess of E9 for two lengths, and
    :math:`f = E/\sqrt{(Y_2 - 1/n_t)(Y_2' - 1/n_{t'})}`,

    .. math:: O_{tt'} = \frac{n_\cap}{n_t n_{t'}} + E
              + (1 - f) \Big(\sum_\cap w_{ts} w_{t's} - \frac{n_\cap}{n_t n_{t'}}\Big) .

    *Together.* Keys whose scores correlate are picked together: two different keys that one query
    picks are nearer than two that are picked one by one, by a factor :math:`\nu_t` on their mean
    gap, Y_2 is that of smaller scores, and w keeps only a part of its deviation from equal weights.
    All three come from draws (`sigprop.maps.together`). With
    :math:`m_{tt'}` the mean gap of different keys of t and t' weighted by w,

    .. math:: K'_{tt} = q - (1 - Y_2(t))\,\nu_t\,m_{tt}, \qquad K'_{tt'} = q
              - (1 - O_{tt'})\,m_{tt'}\,[1 + f\,(\sqrt{\nu_t \nu_{t'}} - 1)]

    times :math:`\sigma_v^2`, plus bias: exact for what w and :math:`\nu` stand for at r = 0 and for
    t = t'. theory.md E25 has equal weights, :math:`\nu = 1` and :math:`r = K_{tt'}/q`, which is
    this for exchangeable tokens. Centred attention subtracts :math:`1/n_t` from every weight.

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
        Base of rotary positions: gaps that make scores differ are those of turned keys,
        :math:`q - K_{ss'} \kappa(s - s')`, and r sums over frequencies as in `sigprop.maps.rotary`.
    record : callable, optional
        Receives the `Seen` of every call.
    statistics : Statistics, optional
        Source of the statistics; by default quadrature, which takes one stack.

    Notes
    -----
    theory.md E25 (new there), and beyond it. Every state must be behind a norm, so q is one number.
    With windows, what both queries see is taken to vary as all that the earlier one sees.

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
        gap, (i, j), count = np.asarray(state.gap), self.layout.couples, self.layout.queries.count
        sigma, r, keys, turned = self._scores(state.q, gap)
        own_sigma, near = turned.shrink * sigma, np.broadcast_to(turned.near, sigma.shape)
        single = self._weights.single(own_sigma)
        excess = self._weights.shared(own_sigma, r) * single.heads[..., i] * single.heads[..., j]
        most = np.sqrt(np.maximum(single.excess[..., i] * single.excess[..., j], 0.0))
        alike = np.clip(np.divide(excess, most, out=np.zeros_like(most), where=most > 0), 0.0, 1.0)
        y2, even = 1 / count + single.excess, self.layout.common / (count[i] * count[j])
        joint = excess + keys.products * (1 - alike)
        overlap = even + joint
        if self.record is not None:
            self.record(self._seen(sigma, single, joint, keys))
        own, mixed = keys.means(gap)
        both = alike * np.expm1((np.log1p(near[..., i]) + np.log1p(near[..., j])) / 2)
        alone, kept = (y2 - 1) * near * own, (overlap - 1) * both * mixed
        if self.centred:
            apart, across = keys.excess(gap)
            alone += (single.excess - keys.squares) * own - apart
            kept += (excess - keys.products * alike) * mixed - across
        else:
            alone, kept = alone + (y2 - 1) * own, kept + (overlap - 1) * mixed
        return self._projected(state.q, alone, kept)

    @property
    def _weights(self) -> Statistics:
        known = self.statistics
        return known or Exact(self.layout, self.head_width, self.rotary_base)

    def _scores(self, q: Number, gap: Floats) -> tuple[Floats, Floats, Preferred, Turned]:
        """Score deviations, correlations of couples, mean weights of keys, and `Turned`."""
        layout, level = self.layout, _row(q)
        (i, j), cells, position = layout.couples, layout.cells, layout.queries.position
        omega = frequencies(self.rotary_base, turned_width(self.head_width))
        waves, whole = layout.waves(omega), np.asarray(q)[..., None]
        values = gap[..., None, :, :] * waves + whole * (1 - waves)
        parts = layout.own(values)  # variances of differences of scores, by frequency
        own, cosines = parts.mean(axis=-2), np.cos(omega[:, None] * (position[j] - position[i]))
        root = np.sqrt(own[..., i] * own[..., j])
        r = (1 - gap[..., cells[0], cells[1]] / level) * (parts[..., i] * cosines).mean(axis=-2)
        r = np.divide(r, root, out=np.zeros_like(root), where=root > 0)
        scale = _row(self.beta) ** 2 * np.log(self.context) * level
        sigma, wide = np.sqrt(scale * own), own[..., None] > 0
        beside = layout.beside(values.mean(axis=-3)) / np.where(wide, own[..., None], 1.0)
        ratio = np.where(wide, np.maximum(2 * beside - 1, 0.0), 1.0)
        keys = prefer(layout, self._weights.favour(sigma, ratio))
        turned = self._weights.turned(scale * level, gap / np.asarray(q), sigma, keys.weight)
        keys = Preferred(layout, keys.more * np.asarray(turned.part)[..., None])
        return sigma, np.clip(r, -1.0, 1.0), keys, turned

    def _projected(self, q: Number, alone: Floats, kept: Floats) -> State:
        """Kernel after values and output projection, from each query's and each pair's part."""
        value, (i, j) = self.sigma_o2 * self.sigma_v2, self.layout.cells
        gap = (alone[..., i] + alone[..., j]) / 2 - kept
        start = 0.0 if self.centred else value * q + self.sigma_o2 * self.sigma_b2
        column = alone[..., : len(self.layout.size), None]
        return State(start + value * column, value * self.layout.spread_out(gap))

    def _seen(self, sigma: Floats, single: Single, joint: Floats, keys: Preferred) -> Seen:
        rows, (i, j) = self.layout.centres, self.layout.couples
        size, columns = len(rows.count), (sigma, single.entropy, single.excess, single.deficit)
        std, entropy, excess, deficit = (c[..., :size] for c in columns)
        first = np.where(rows.low < 1, keys.weight[..., :size, 0] / rows.count, 0.0)
        count = self.layout.queries.count
        even = self.layout.common / (count[i] * count[j])
        overlap, above = (self.layout.spread_out(v) for v in (even + joint, joint))
        return Seen(std, 1 / rows.count + excess, entropy, first, overlap, excess, deficit, above)


def _row(value: Number) -> Number:
    """Drop the last axis of a parameter of shape (..., 1, 1), so that it meets queries."""
    return np.asarray(value)[..., 0] if np.ndim(value) else value
