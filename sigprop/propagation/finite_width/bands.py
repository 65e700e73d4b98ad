r"""Spread of the trajectory over networks, and the mean at finite width (E26a-E26f).

The state of one network is log-normal: y = (log q, log gap) has a mean and a covariance. A map
moves four sigma points, mean +- sqrt(2) times the columns of a Cholesky factor, which carries the
covariance to first order and the mean to second (Julier & Uhlmann 1997). Each residual sublayer
then adds noise: of its weights (E26b), of the units of an MLP (E26c), of score variance and shared
keys of its heads (E26d). The mean kernel is as without noise, so noise lowers its mean logarithm by
half the variance. Means shift by the variation of tokens in front of a norm,

.. math:: \rho' = \frac{p}{q} \Big(1 + \frac34 \frac{\mathrm{var}\,u}{q^2}\Big)
          - \frac{\mathrm{cov}(u, w)}{q^2}

with u the squared norm of a token and w its mean overlap with the others (E26a), by keys of finite
width (E26e), and by the variance of pair overlaps, kappa gap^2/d, which grows with depth unless
attention mixes (E26f). Approximation: Gaussian noise, at first order in 1/d
(notebooks/accuracy.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from sigprop.core.arguments import validated
from sigprop.layers.attention.head_noise import head_noise
from sigprop.layers.attention.key_directions import keys, moved_means
from sigprop.layers.attention.statistics import Finite, reduced_beta
from sigprop.layers.fluctuation import Fluctuation, around
from sigprop.layers.norm import Norm, normed
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import refusal, require_theory
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate
from sigprop.propagation.stack import Block, at_beta, build_block, iterate

__all__ = ["Noise", "bands", "block_noise", "input_variance"]

LARGEST = 9.0  # variance of log q and log gap


@validated
def bands(spec: ModelSpec) -> Trajectory:
    """Trajectory with its spread over networks, and the mean at finite width.

    Parameters
    ----------
    spec : ModelSpec
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
    theory.md section 7: E26a-E26f.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.finite_width.bands import bands
    >>> spec = ModelSpec(depth=4, context=256, width=512, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> found = bands(spec)
    >>> found.rho_std.shape, bool(0.02 < found.rho_std[-1] < 0.04)
    ((5,), True)
    """
    require_theory(spec, "bands")
    base = propagate(spec, geometry="exchangeable")
    if not np.all(base.gap > 0):
        raise refusal("tokens that merge", "bands", where="the last block")
    block = build_block(spec)
    with np.errstate(all="ignore"):  # what overflows is refused
        first = _input(spec, State(base.q[0], base.gap[0]))
        laws = [first, *iterate(first, [block] * (len(base.q) - 1), _through)]
        for layer, law in enumerate(laws[1:], 1):
            _require_small(law, layer)
        return replace(base, **_described(spec, block, laws))


def _through(networks: Fluctuation, block: Block) -> Fluctuation:
    return block.noise(networks)


class Noise(NamedTuple):
    """What one block adds: to the overlap deficit behind it, and to attention's averages in it.

    Attributes
    ----------
    deficit, y2, entropy : tuple of float
        Variance over networks, and shift of the mean at finite width.
    behind : float
        Overlap deficit behind the block, at infinite width.

    Examples
    --------
    >>> from sigprop.propagation.finite_width.bands import Noise
    >>> Noise((1e-4, 0.0), (0.0, 0.0), (0.0, 0.0), 0.5).deficit[0]
    0.0001
    """

    deficit: tuple[float, float]
    y2: tuple[float, float]
    entropy: tuple[float, float]
    behind: float


def block_noise(spec: ModelSpec, state: State, b: float, variance: float, layer: int) -> Noise:
    """Noise of one block of exchangeable tokens.

    Parameters
    ----------
    spec : ModelSpec
        A description with a width, of which mask, rotation, depth and input are not used.
    state : State
        What enters the block.
    b : float
        Reduced inverse temperature of the scores, in place of that of the spec.
    variance : float
        Variance over networks of the logarithm of the gap that enters; it moves the means.
    layer : int
        Number of the block, for errors.

    Returns
    -------
    Noise
        Variances and shifts.

    Raises
    ------
    AssumptionError
        If the state vanishes or fluctuates beyond a factor e^3.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.finite_width.bands import block_noise
    >>> from sigprop.layers.state import State
    >>> spec = ModelSpec(depth=1, context=256, width=512, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> found = block_noise(spec, State(1.0, 1e-12), 1e-6, 0.0, 1)
    >>> bool(0.01 < found.deficit[0] ** 0.5 / 1e-12 < 0.1)
    True
    """
    plain = build_block(spec)
    read = plain.read(state)
    block = at_beta(spec, plain, b / float(np.sqrt(read.q * read.gap)))
    with np.errstate(all="ignore"):  # what overflows is refused
        rows = []
        for entering in (0.0, variance):
            first = around(state, entering)
            laws = [first, block.noise(first)]
            _require_small(laws[1], layer)
            rows.append(_described(spec, block, laws))
        out, rem = block(state), Finite(spec.context, spec.head_width)
        mean = {
            "deficit": out.gap / out.q,
            "y2": rem.weights(b, read.gap / read.q).y2,
            "entropy": np.log(spec.context) - rem.entropy_deficit(b),
        }
    own, whole = ({"deficit": r["gap"] / r["q"], "deficit_std": r["rho_std"]} | r for r in rows)
    at = {"deficit": 1, "y2": 0, "entropy": 0}
    parts = {
        k: (float(own[f"{k}_std"][i]) ** 2, float(whole[k][i] - mean[k])) for k, i in at.items()
    }
    return Noise(**parts, behind=float(mean["deficit"]))


def input_variance(spec: ModelSpec, state: State) -> float:
    """Variance over networks of the logarithm of the input's gap.

    Random tokens: their mean vector has d components, so its square varies by 2/d.

    Parameters
    ----------
    spec : ModelSpec
        A description with a width.
    state : State
        What enters the first block.

    Returns
    -------
    float
        The variance.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.finite_width.bands import input_variance
    >>> from sigprop.layers.state import State
    >>> spec = ModelSpec(depth=1, context=10, width=20, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> round(input_variance(spec, State(1.0, 1.0)), 12)  # 2/(d T^2)
    0.001
    """
    common = 1 - state.gap / state.q * (1 - 1 / spec.context)
    assert spec.width is not None
    return float(2 * common**2 / spec.width)


def _require_small(law: Fluctuation, layer: int) -> None:
    known = np.isfinite(law.mean).all() and np.isfinite(law.cov).all()
    if not known or not np.isfinite(law.crowding) or np.trace(law.cov) > LARGEST:
        raise refusal("networks that differ too much", "bands", where=f"block {layer}")


def _input(spec: ModelSpec, state: State) -> Fluctuation:
    cov = np.diag([0.0, input_variance(spec, state)])
    return Fluctuation(np.log(np.array([state.q, state.gap], dtype=np.float64)), cov)


def _described(spec: ModelSpec, block: Block, laws: list[Fluctuation]) -> dict[str, Any]:
    """Averages over the points, layer by layer; attention adds its own noise to what is read."""
    log_t, place = float(np.log(spec.context)), block.place
    norm, attention = block.attention_branch.norm, block.attention
    q = np.array([np.mean(c.points.q) for c in laws])
    even = [normed(Norm(), c, c.points, place) for c in laws]
    ratio = np.stack([s.gap / s.q for s in even])
    reads = [normed(norm, c, c.points, place) for c in laws[:-1]]
    x = np.stack([r.gap / r.q for r in reads])
    b = np.stack([reduced_beta(attention.beta, r) for r in reads])
    finite = Finite(spec.context, spec.head_width)
    weights, lost = finite.weights(b, x), finite.entropy_deficit(b)
    y2, overlap = np.asarray(weights.y2), np.asarray(weights.y2 - weights.spread)
    centres = [normed(norm, c, c.centre, place) for c in laws[:-1]]
    own = [head_noise(attention, read).of_means(attention.heads) for read in centres]
    y2_own, entropy_own = np.array(own).T
    moved = [
        moved_means(attention, keys(attention, c.crowding), read, finite)
        for c, read in zip(laws[:-1], centres, strict=True)
    ]
    y2_moved, entropy_moved = np.array(moved).T
    entropy = np.minimum(log_t - lost.mean(axis=1) + entropy_moved, log_t)
    return {
        "q": q,
        "gap": q * ratio.mean(axis=1),
        "rho": 1 - ratio.mean(axis=1),
        "y2": np.maximum(y2.mean(axis=1) + y2_moved, 1 / float(spec.context)),
        "overlap": overlap.mean(axis=1),
        "entropy": entropy,
        "entropy_ratio": entropy / log_t,
        "reduced_beta": b.mean(axis=1),
        "score_std": b.mean(axis=1) * np.sqrt(log_t),
        "crowding": np.array([c.crowding for c in laws]),
        "rho_std": ratio.std(axis=1),
        "y2_std": np.sqrt(np.var(weights.excess, axis=1) + y2_own),
        "entropy_std": np.sqrt(lost.var(axis=1) + entropy_own),
    }
