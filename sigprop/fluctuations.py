r"""Spread of the trajectory over networks, and what it and finite width do to the mean (E26).

The state of one network is taken as log-normal: y = (log q, log gap) has a mean and a covariance.
A map moves four sigma points, mean +- sqrt(2) times the columns of a Cholesky factor, which carries
the covariance to first order and the mean to second (Julier & Uhlmann 1997). Each residual
sublayer then injects noise, with p the common part of its kernel, f its branches, d width, h heads:

* *weights*: a Gaussian matrix of d outputs maps the common direction to a random vector, so
  :math:`\mathrm{var}\,p = (2 p_f^2 + 4 \alpha^2 p\,p_f)/d`; the gap averages T directions,
  :math:`\mathrm{var}\,gap = (2 gap_f^2 + 4\alpha^2 gap\,gap_f)/(dT)`;
  values that a group of query heads shares count :math:`2 p_f^2/d` once for each of them;
* *hidden units*: an MLP averages over d_ff units; given its common preactivation c a unit
  contributes :math:`m(c)^2` to p and :math:`v(c)` to the gap, its mean and variance over tokens;
* *temperature*: the common part of the queries gives all scores of a head one variance factor, of
  variance :math:`2\rho^2(1/d_h + 1/d)`;
* *keys*: the participation ratio averaged over tokens keeps the part of its variance that queries
  share, taken as the square of :math:`(O - 1/T)/(Y_2 - 1/T)`: exact at r = 0 and 1 and within
  0.12 of that variance between (measured at T = 64-512, s = 1-7).

The mean kernel is as without noise, so noise lowers its mean logarithm by half the variance.

Tokens differ too: a norm divides each by its own squared norm. With u that norm and w the mean
overlap with the others, the mean overlap behind it is, to second order in their variation over the
tokens of one network,

.. math:: \rho' = \frac{p}{q} \Big(1 + \frac34 \frac{\mathrm{var}\,u}{q^2}\Big)
          - \frac{\mathrm{cov}(u, w)}{q^2}

(E26, which keeps the first term). Attention adds :math:`(\sigma_v^2 gap)^2 [\mathrm{var} Y +
\ldots]/h` to var u, dots for heads of finite width (E12); a matrix of d outputs adds :math:`2
[p_f gap_f + \alpha^2 (p\,gap_f + gap\,p_f)]/d` to cov(u, w), and to var u twice that and
:math:`[2 gap_f^2 + 4\alpha^2 gap\,gap_f]/d`; hidden units add theirs (`sigprop.hidden`). Behind a
post-norm all starts afresh; a pre-norm stream keeps what it gathered.

Keys of finite width (`sigprop.rem.sphere`) are pulled along the query: the gap of attention's
output becomes :math:`\sigma_v^2 gap [(Y_2 - O) Y_2'/Y_2 + (1 - \rho) drift]`, Y_2' the
participation at width d.

Directions also *crowd*: every random matrix of d outputs adds to the off-diagonal entries of the
kernel about its common part a variance of :math:`[gap_f^2 + 2\alpha^2 gap\,gap_f]/d`, and hidden
units :math:`gap_f^2\, E v^2/(E v)^2/d_{ff}`. The variance that was there passes coherently through
the skip branch and the MLP, and attention adds that of other pairs. Relative to gap^2/d the
variance kappa, one for random tokens, grows with depth unless attention mixes: tokens share d/kappa
directions, which stands for d wherever keys of finite width matter. The gap averages T directions
only as far as they are apart: beside 1/T of the first item stands kappa/d.

Approximate: Gaussian noise, at first order in 1/d. Largest deviation from the measured mean overlap
over 50 layers of the published encoder, and that of `propagate`: 0.0025 and 0.038 (standard error
0.001) at beta = 0.5, T = 64, d = 96; 0.003 and 0.030 (0.003) at beta = 1.5, T = 128, d = 192;
0.0007 and 0.0054 (0.0007, 1600 networks) at beta = 0.5, T = 512, d = 720.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sigprop.arguments import validated
from sigprop.arrays import Floats
from sigprop.block import Block, Fold, Map, build_block
from sigprop.crowding import keys, pull
from sigprop.errors import AssumptionError
from sigprop.hidden import bend, hidden_noise
from sigprop.maps.attention import Attention
from sigprop.maps.mlp import Mlp
from sigprop.maps.norm import Norm
from sigprop.maps.residual import Residual
from sigprop.propagate import exchangeable
from sigprop.rem import Finite, entropy_variance, moments, reduced_beta
from sigprop.spec import Transformer
from sigprop.state import State
from sigprop.trajectory import Trajectory

__all__ = ["bands"]

LARGEST = 9.0  # variance of log q and log gap
STEP = 1e-3  # of log s^2, for derivatives of tabulated statistics


class _Cloud(NamedTuple):
    """Log-normal state of one network."""

    mean: Floats  # of (log q, log gap)
    cov: Floats
    crowding: float = 1.0
    tokens: Floats = np.zeros(2)  # of a squared norm over tokens: variance, covariance with overlap

    @property
    def points(self) -> State:
        first = np.sqrt(self.cov[0, 0])
        mixed = self.cov[0, 1] / first if first > 0 else 0.0
        factor = np.array([[first, 0], [mixed, np.sqrt(max(self.cov[1, 1] - mixed**2, 0.0))]])
        shift = np.sqrt(2) * np.hstack([factor, -factor])
        return State(*np.exp(self.mean[:, None] + shift))

    @property
    def centre(self) -> State:
        return State(*np.exp(self.mean))


class _Scores(NamedTuple):
    """Attention of one head at the centre: slopes in log s^2, and variances over tokens."""

    slope_y2: float
    slope_overlap: float
    slope_entropy: float
    tokens: float  # variance of Y over tokens
    shared: float  # share of it that queries have in common
    temperature: float  # variance of log s^2 over networks
    entropy: float  # variance of the entropy over tokens


@validated
def bands(spec: Transformer) -> Trajectory:
    """Trajectory with its spread over networks, and the mean at finite width.

    Parameters
    ----------
    spec : Transformer
        One description, with a width.

    Returns
    -------
    Trajectory
        As of `propagate`, means over networks at this width, with rho_std, y2_std and entropy_std:
        standard deviations over networks (seeds) of averages over tokens and heads.

    Raises
    ------
    AssumptionError
        If the spec has arrays, no width, an infinite context, tokens that do not differ, or a state
        that vanishes or fluctuates beyond a factor e^3.

    Notes
    -----
    theory.md section 7 (E26).

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.fluctuations import bands
    >>> spec = Transformer(depth=4, context=256, width=512, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> found = bands(spec)
    >>> found.rho_std.shape, bool(0.02 < found.rho_std[-1] < 0.04)
    ((5,), True)
    """
    if spec.shape or spec.width is None or np.isinf(spec.context):
        raise AssumptionError("bands need a single spec with a width and a finite context")
    if spec.has_identity:
        raise AssumptionError("identity parts have no theory of their spread")
    base = exchangeable(spec)
    if not np.all(base.gap > 0):
        raise AssumptionError(
            "bands need tokens that differ: rho0 < 1, and no layer that merges them"
        )
    with np.errstate(all="ignore"):  # what overflows is refused
        block = build_block(spec)
        clouds, seen = [_input(spec, State(base.q[0], base.gap[0]))], []
        for layer in range(1, len(base.q)):
            read = _normed(block.norm, clouds[-1], clouds[-1].centre)
            seen.append(_scores(block.attention, read, spec))
            clouds.append(_through(block, clouds[-1], spec))
            _require_small(clouds[-1], layer)
        return _described(spec, base, block, clouds, seen)


def _require_small(cloud: _Cloud, layer: int) -> None:
    known = np.isfinite(cloud.mean).all() and np.isfinite(cloud.cov).all()
    if not known or not np.isfinite(cloud.crowding) or np.trace(cloud.cov) > LARGEST:
        raise AssumptionError(
            f"bands are undefined from block {layer} on: the state vanishes, or the networks' "
            "kernels differ by more than a factor e^3"
        )


def _input(spec: Transformer, state: State) -> _Cloud:
    """Random tokens: their mean vector has d components, so its square varies by 2/d."""
    common = 1 - state.gap / state.q * (1 - 1 / spec.context)
    cov = np.zeros((2, 2))
    cov[1, 1] = 2 * common**2 / _width(spec)
    return _Cloud(np.log(np.array([state.q, state.gap], dtype=np.float64)), cov)


def _width(spec: Transformer) -> float:
    assert spec.width is not None
    return float(spec.width)


def _through(block: Block, cloud: _Cloud, spec: Transformer) -> _Cloud:
    for layer in block.maps:
        if isinstance(layer, Residual):
            cloud = _residual(layer, cloud, spec)
        else:
            cloud = _cloud(_normed(layer, cloud, cloud.points), cloud.crowding)
    return cloud


def _normed(norm: Map | None, cloud: _Cloud, points: State) -> State:
    """Behind a norm all tokens have the same norm: second order in its variation (E26).

    The change of the gap is taken relative to it, since its parts are of the order of the gap.
    """
    if norm is None:
        return points
    q, gap = map(float, cloud.centre)
    variance, overlap = cloud.tokens / q**2
    change = np.exp((overlap * q - 0.75 * variance * (q - gap)) / gap)
    out = norm(points)
    return State(np.broadcast_to(out.q, np.shape(out.gap)), out.gap * change)


def _cloud(points: State, crowding: float) -> _Cloud:
    y = np.log(np.stack([np.asarray(v, dtype=np.float64) for v in points]))
    mean = y.mean(axis=1)
    return _Cloud(mean, (y - mean[:, None]) @ (y - mean[:, None]).T / y.shape[1], crowding)


class _Injected(NamedTuple):
    """What one branch adds: at the centre, at the points, and its noise."""

    p: float
    gap: float
    points: State
    noise: Floats  # of (p, gap), beside that of the output matrix
    crowd: float = 0.0
    kept: float = 0.0  # gap whose pairs of tokens stay what they were
    tokens: Floats = np.zeros(2)  # as of _Cloud


def _residual(layer: Residual, cloud: _Cloud, spec: Transformer) -> _Cloud:
    """Move the points, then add noise."""
    d, t, square = _width(spec), float(spec.context), float(layer.alpha) ** 2
    p, own = _common(cloud.centre, t), float(cloud.centre.gap)
    parts = [_branch(branch, cloud, spec) for branch in layer.branches]
    p_f, gap_f = sum(b.p for b in parts), sum(b.gap for b in parts)
    noise = np.sum([b.noise for b in parts], axis=0)
    like = (2 * gap_f**2 + 4 * square * own * sum(b.kept for b in parts)) * cloud.crowding / d
    apart = (2 * gap_f + 4 * square * own) * gap_f / t
    noise += np.diag([(2 * p_f + 4 * square * p) * p_f, apart + like]) / d
    alone = gap_f**2 + 2 * square * own * gap_f  # of directions apart, over d
    along = 2 * (p_f * gap_f + square * (p * gap_f + own * p_f)) / d
    tokens = square**2 * cloud.tokens + [2 * along + 2 * alone / d, along]
    tokens += sum(b.tokens for b in parts)
    kept, whole = square * own + sum(b.kept for b in parts), square * own + gap_f
    crowd = sum(b.crowd for b in parts) + alone
    crowd += cloud.crowding * (kept**2 + (whole - kept) ** 2)  # attention mixes other pairs
    out = State(square * cloud.points.q, square * cloud.points.gap)
    for b in parts:
        out = State(out.q + b.points.q, out.gap + b.points.gap)
    moved = _cloud(out, crowd / max(whole**2, 1e-300))
    q, gap = moved.centre
    change = np.array([[1 / q, 1 / q], [0, 1 / gap]])  # from (p, gap) to (log q, log gap)
    own = change @ noise @ change.T
    return _Cloud(moved.mean - np.diag(own) / 2, moved.cov + own, moved.crowding, tokens)


def _common(state: State, t: float) -> float:
    """Squared norm of the mean of T tokens over d: p, and what is left of the gap."""
    return float(state.q - state.gap * (1 - 1 / t))


def _branch(branch: Map, cloud: _Cloud, spec: Transformer) -> _Injected:
    assert isinstance(branch, Fold)
    *before, last = branch.maps
    norm, t, d = (before[0] if before else None), float(spec.context), _width(spec)
    read, points = (_normed(norm, cloud, v) for v in (cloud.centre, cloud.points))
    own, out = last(read), last(points)
    p, gap = _common(own, t), float(own.gap)
    if isinstance(last, Mlp):
        unit, tokens = (v / (spec.mlp_ratio * d) for v in hidden_noise(last, spec.activation, read))
        crowd = d * float(unit[1, 1]) + gap**2 / spec.mlp_ratio
        out = State(out.q, out.gap + bend(last, read, cloud.crowding / d))
        return _Injected(p, gap, out, unit, crowd, gap, tokens)
    assert isinstance(last, Attention)
    found, value = _scores(last, read, spec), float(last.sigma_v2 * last.sigma_o2)
    scale = value * float(read.gap)
    repeated = np.diag([2 * p**2 * (spec.heads_per_key - 1) / d, 0.0])
    shift = pull(last, keys(last, cloud.crowding), points, spec)
    return _Injected(
        p,
        gap,
        State(out.q + value * shift.q, out.gap + value * shift.gap),
        _attention_noise(found, scale, spec.heads) + repeated,
        tokens=np.array([scale**2 * found.tokens / spec.heads, 0.0]),
    )


def _attention_noise(found: _Scores, gap: float, heads: int) -> Floats:
    """Covariance of (p, gap) from the temperature of the heads and the keys that queries share."""
    rates = np.array([found.slope_overlap, found.slope_y2 - found.slope_overlap])
    noise = found.temperature * np.outer(rates, rates)
    noise[1, 1] += found.tokens * found.shared
    return noise * gap**2 / heads


def _scores(layer: Attention, read: State, spec: Transformer) -> _Scores:
    rem = Finite(spec.context)
    b, x = float(reduced_beta(layer.beta, read)), float(read.gap / read.q)
    log_t, t = float(np.log(spec.context)), spec.context

    def slope(function: Callable[[float], Floats]) -> float:
        return float((function(b * (1 + STEP / 2)) - function(b * (1 - STEP / 2))) / (2 * STEP))

    y2 = slope(lambda v: np.asarray(rem.weights(v, x).y2))
    spread = slope(lambda v: np.asarray(rem.weights(v, x).spread))
    entropy = slope(lambda v: log_t * rem.entropy_ratio(v))
    s = b * np.sqrt(log_t)
    exact, factor = moments(s, t), 2 * spec.heads / _width(spec) + 2 / _width(spec)
    y2_excess = max(float(exact.y2) - 1 / float(t), 1e-300)
    share = 1 - float(rem.weights(b, x).spread) / y2_excess if s > 0 else 1.0
    return _Scores(
        y2,
        y2 - spread,
        entropy,
        max(float(exact.y22 - exact.y2**2), 0.0) + y2**2 * factor,
        share**2 + (1 - share**2) / float(t),
        factor * max(1 - x, 0.0) ** 2,
        float(entropy_variance(s, t)) + entropy**2 * factor,
    )


def _described(
    spec: Transformer, base: Trajectory, block: Block, clouds: list[_Cloud], seen: list[_Scores]
) -> Trajectory:
    """Averages over the points, layer by layer; attention adds its own noise to what is read."""
    log_t = float(np.log(spec.context))
    q = np.array([np.mean(c.points.q) for c in clouds])
    even = [_normed(Norm(), c, c.points) for c in clouds]
    ratio = np.stack([s.gap / s.q for s in even])
    reads = [_normed(block.norm, c, c.points) for c in clouds[:-1]]
    x = np.stack([r.gap / r.q for r in reads])
    b = np.stack([reduced_beta(block.attention.beta, r) for r in reads])
    finite = Finite(spec.context, spec.head_width)
    weights, entropy = finite.weights(b, x), finite.entropy_ratio(b) * log_t
    own = np.array([(s.slope_y2, s.slope_entropy, s.tokens, s.entropy) for s in seen]).T
    heat = np.array([s.temperature for s in seen]) / spec.heads
    shared = np.array([s.shared for s in seen]) / spec.heads
    y2, overlap = np.asarray(weights.y2), np.asarray(weights.y2 - weights.spread)
    return replace(
        base,
        q=q,
        gap=q * ratio.mean(axis=1),
        rho=1 - ratio.mean(axis=1),
        y2=y2.mean(axis=1),
        overlap=overlap.mean(axis=1),
        entropy=entropy.mean(axis=1),
        entropy_ratio=entropy.mean(axis=1) / log_t,
        reduced_beta=b.mean(axis=1),
        score_std=b.mean(axis=1) * np.sqrt(log_t),
        crowding=np.array([c.crowding for c in clouds]),
        rho_std=ratio.std(axis=1),
        y2_std=np.sqrt(y2.var(axis=1) + heat * own[0] ** 2 + shared * own[2]),
        entropy_std=np.sqrt(entropy.var(axis=1) + heat * own[1] ** 2 + shared * own[3]),
    )
