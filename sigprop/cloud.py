"""One block of exchangeable tokens: how its networks' kernels move, and the noise that it adds.

The moments and the noise are those of `sigprop.fluctuations`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.arrays import Floats
from sigprop.attention_noise import scores
from sigprop.block import Block, Fold, Map
from sigprop.crowding import keys, pull
from sigprop.hidden import bend, hidden_noise
from sigprop.maps.attention import Attention
from sigprop.maps.mlp import Mlp
from sigprop.maps.residual import Residual
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["Cloud", "around", "normed", "through", "width_of"]


class Cloud(NamedTuple):
    """Log-normal state of one network.

    Attributes
    ----------
    mean, cov : arrays, shape (2,) and (2, 2)
        Of (log q, log gap) over networks.
    crowding : float
        kappa, one for random tokens.
    tokens : array, shape (2,)
        Variation over the tokens of one network, in units of q^2: variance of a squared norm, and
        its covariance with the mean overlap with the others.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.cloud import Cloud
    >>> Cloud(np.zeros(2), np.zeros((2, 2))).centre.q
    np.float64(1.0)
    """

    mean: Floats
    cov: Floats
    crowding: float = 1.0
    tokens: Floats = np.zeros(2)

    @property
    def points(self) -> State:
        """Four sigma points, of shape (4,)."""
        first = np.sqrt(self.cov[0, 0])
        mixed = self.cov[0, 1] / first if first > 0 else 0.0
        factor = np.array([[first, 0], [mixed, np.sqrt(max(self.cov[1, 1] - mixed**2, 0.0))]])
        shift = np.sqrt(2) * np.hstack([factor, -factor])
        return State(*np.exp(self.mean[:, None] + shift))

    @property
    def centre(self) -> State:
        """State at the mean of the logarithms."""
        return State(*np.exp(self.mean))


def around(state: State, variance: float) -> Cloud:
    """Networks whose gaps have the mean of a state, and a given variance of their logarithm.

    Parameters
    ----------
    state : State
        The mean, numbers.
    variance : float
        The variance.

    Returns
    -------
    Cloud
        One variance, and none of q.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.cloud import around
    >>> from sigprop.state import State
    >>> round(float(np.mean(around(State(1.0, 0.5), 0.1).points.gap)), 12)
    0.5
    """
    cloud = Cloud(
        np.log(np.array([state.q, state.gap], dtype=np.float64)), np.diag([0.0, variance])
    )
    excess = np.log(np.mean(cloud.points.gap) / state.gap)
    return cloud._replace(mean=cloud.mean - [0.0, excess])


def width_of(spec: Transformer) -> float:
    """Width of a description that has one.

    Parameters
    ----------
    spec : Transformer
        The description.

    Returns
    -------
    float
        The width d.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.cloud import width_of
    >>> spec = Transformer(depth=1, context=8, width=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> width_of(spec)
    64.0
    """
    assert spec.width is not None
    return float(spec.width)


def through(block: Block, cloud: Cloud, spec: Transformer) -> Cloud:
    """Apply a block.

    Parameters
    ----------
    block : Block
        The block.
    cloud : Cloud
        What enters it.
    spec : Transformer
        The description, with a width.

    Returns
    -------
    Cloud
        What leaves it.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.block import build_block
    >>> from sigprop.cloud import around, through
    >>> from sigprop.state import State
    >>> spec = Transformer(depth=1, context=8, width=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> bool(through(build_block(spec), around(State(1.0, 0.5), 0.0), spec).cov[1, 1] > 0)
    True
    """
    for layer in block.maps:
        if isinstance(layer, Residual):
            cloud = _residual(layer, cloud, spec)
        else:
            cloud = _cloud(normed(layer, cloud, cloud.points, float(spec.context)), cloud.crowding)
    return cloud


def normed(norm: Map | None, cloud: Cloud, points: State, context: float) -> State:
    """Behind a norm all tokens have the same norm: second order in its variation (E26).

    The change of the gap is taken relative to it, since its parts are of the order of the gap. T
    vectors have a mean cosine of at least -1/(T-1), which the points of a log-normal law may pass:
    gap <= q T/(T-1).

    Parameters
    ----------
    norm : callable, optional
        The norm; None changes nothing.
    cloud : Cloud
        Whose tokens vary.
    points : State
        States that it acts on.
    context : float
        Number of tokens T.

    Returns
    -------
    State
        Behind the norm.

    Examples
    --------
    >>> from sigprop.cloud import around, normed
    >>> from sigprop.maps.norm import Norm
    >>> from sigprop.state import State
    >>> state = State(4.0, 1.0)
    >>> float(normed(Norm(), around(state, 0.0), state, 8).gap)
    0.25
    """
    out, change = points, np.float64(1.0)
    if norm is not None:
        x = float(cloud.centre.gap / cloud.centre.q)
        variance, overlap = cloud.tokens
        out, change = norm(points), np.exp((overlap - 0.75 * variance * (1 - x)) / x)
    moved = _admissible(State(out.q, out.gap * change), context)
    return State(np.broadcast_to(moved.q, np.shape(moved.gap)), moved.gap)


def _admissible(state: State, context: float) -> State:
    """Cap of the gap at q T/(T-1)."""
    return State(state.q, np.minimum(state.gap, np.asarray(state.q) * (context / (context - 1))))


def _cloud(points: State, crowding: float) -> Cloud:
    y = np.log(np.stack([np.asarray(v, dtype=np.float64) for v in points]))
    mean = y.mean(axis=1)
    return Cloud(mean, (y - mean[:, None]) @ (y - mean[:, None]).T / y.shape[1], crowding)


class _Injected(NamedTuple):
    """What one branch adds: at the centre, at the points, and its noise.

    All but the points are in units of what the stream becomes, q for p and tokens, gap for the
    rest: so they keep their digits where tokens merge, and scales may be of any size.
    """

    p: float
    gap: float
    points: State
    noise: Floats  # of (p, gap), beside that of the output matrix
    crowd: float = 0.0
    kept: float = 0.0  # gap whose pairs of tokens stay what they were
    tokens: Floats = np.zeros(2)  # as of Cloud


def _residual(layer: Residual, cloud: Cloud, spec: Transformer) -> Cloud:
    """Move the points, then add noise."""
    centre = _admissible(cloud.centre, float(spec.context))
    unit, square = State(*map(float, layer(centre))), float(layer.alpha) ** 2
    if not min(unit) > 0:
        return Cloud(np.full(2, np.nan), np.full((2, 2), np.nan))  # refused: the state vanishes
    parts = [_branch(branch, cloud, unit, spec) for branch in layer.branches]
    out = State(square * cloud.points.q, square * cloud.points.gap)
    for b in parts:
        out = State(out.q + b.points.q, out.gap + b.points.gap)
    stay = State(square * cloud.centre.q, square * cloud.centre.gap)
    noise, tokens, crowding = _stirred(parts, stay, unit, cloud, spec)
    moved = _cloud(out, crowding)
    q, gap = moved.centre
    change = np.array([[unit.q / q, unit.gap / q], [0, unit.gap / gap]])  # to (log q, log gap)
    own = change @ noise @ change.T
    mean = moved.mean - np.diag(own) / 2
    return Cloud(mean, moved.cov + own, crowding, tokens * (unit.q / np.exp(mean[0])) ** 2)


def _stirred(
    parts: list[_Injected], stay: State, unit: State, cloud: Cloud, spec: Transformer
) -> tuple[Floats, Floats, float]:
    """Noise of (p, gap), variation over tokens and crowding behind a residual sublayer."""
    d, t = width_of(spec), float(spec.context)
    p, own = _common(stay, t) / unit.q, float(stay.gap) / unit.gap
    p_f, gap_f, kept = (sum(getattr(b, name) for b in parts) for name in ("p", "gap", "kept"))
    like = (2 * gap_f**2 + 4 * own * kept) * cloud.crowding / d
    apart = (2 * gap_f + 4 * own) * gap_f / t
    noise = np.sum([b.noise for b in parts], axis=0)
    noise += np.diag([(2 * p_f + 4 * p) * p_f, apart + like]) / d
    alone, x = gap_f**2 + 2 * own * gap_f, unit.gap / unit.q  # of directions apart, over d
    along = 2 * (p_f * gap_f + p * gap_f + own * p_f) * x / d
    tokens = (stay.q / unit.q) ** 2 * cloud.tokens + [2 * along + 2 * alone * x**2 / d, along]
    tokens += sum(b.tokens for b in parts)
    crowd = sum(b.crowd for b in parts) + alone
    crowd += cloud.crowding * ((own + kept) ** 2 + (gap_f - kept) ** 2)  # attention mixes others
    return noise, tokens, crowd / (own + gap_f) ** 2


def _common(state: State, t: float) -> float:
    """Squared norm of the mean of T tokens over d: p, and what is left of the gap."""
    return float(state.q - state.gap * (1 - 1 / t))


def _branch(branch: Map, cloud: Cloud, unit: State, spec: Transformer) -> _Injected:
    assert isinstance(branch, Fold)
    *before, last = branch.maps
    norm = before[0] if before else None
    t = float(spec.context)
    read, points = (normed(norm, cloud, v, t) for v in (cloud.centre, cloud.points))
    if isinstance(last, Mlp):
        return _mlp(last, read, points, cloud, unit, spec)
    assert isinstance(last, Attention)
    return _attention(last, read, points, cloud, unit, spec)


def _mlp(
    last: Mlp, read: State, points: State, cloud: Cloud, unit: State, spec: Transformer
) -> _Injected:
    own, out, d, t = last(read), last(points), width_of(spec), float(spec.context)
    p, gap = _common(own, t) / float(unit.q), float(own.gap) / float(unit.gap)
    noise = hidden_noise(last, spec.activation, read, unit, t)
    one, tokens = (v / (spec.mlp_ratio * d) for v in noise)
    out = State(out.q, out.gap + bend(last, read, cloud.crowding / d))
    return _Injected(p, gap, out, one, d * float(one[1, 1]) + gap**2 / spec.mlp_ratio, gap, tokens)


def _attention(
    last: Attention, read: State, points: State, cloud: Cloud, unit: State, spec: Transformer
) -> _Injected:
    own, out, found = last(read), last(points), scores(last, read, spec)
    level, apart = float(unit.q), float(unit.gap)
    p, gap = _common(own, float(spec.context)) / level, float(own.gap) / apart
    value = float(last.sigma_v2 * last.sigma_o2)
    scale = value * float(read.gap)
    repeated = np.diag([2 * p**2 * (spec.heads_per_key - 1) / width_of(spec), 0.0])
    shift = pull(last, keys(last, cloud.crowding), points, spec)
    return _Injected(
        p,
        gap,
        State(out.q + value * shift.q, out.gap + value * shift.gap),
        found.of_kernel(scale / level, scale / apart, spec.heads) + repeated,
        tokens=np.array([(scale / level) ** 2 * found.tokens / spec.heads, 0.0]),
    )
