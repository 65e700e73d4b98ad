"""What the solvers found, as trajectories: averages, why they end, what they approximate."""

from __future__ import annotations

import numpy as np

from sigprop.arrays import Floats, Ints, Number
from sigprop.block import Block, rem_of
from sigprop.causal import Positions
from sigprop.rem import Statistics, Weights, freezing, reduced_beta
from sigprop.rem.favoured import Favoured
from sigprop.rem.fields import SEED
from sigprop.rotary import ByDistance
from sigprop.spec import Transformer
from sigprop.state import State
from sigprop.trajectory import Trajectory

__all__ = ["from_distances", "from_positions", "from_states"]

ROOM = 2**16  # states whose statistics are computed together


def from_states(
    spec: Transformer, limit: bool, blocks: list[Block], q: Floats, gap: Floats, ended: Ints
) -> Trajectory:
    """Trajectory of recorded states, with the statistics of attention.

    Parameters
    ----------
    spec : Transformer
        The description.
    limit : bool
        Whether the statistics are those of infinite context.
    blocks : list of Block
        Block of each layer.
    q, gap : arrays, shape (L+1, ...)
        States; NaN behind the end.
    ended : array of int
        Last layer that was computed.

    Returns
    -------
    Trajectory
        Layer by layer.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import Transformer
    >>> from sigprop.block import build_block
    >>> from sigprop.described import from_states
    >>> spec = Transformer(depth=1, context=8, beta=0, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> q, gap = np.ones(2), np.array([1.0, 0.5])
    >>> from_states(spec, False, [build_block(spec)], q, gap, np.array(1)).y2
    array([0.125])
    """
    rem = rem_of(spec, limit)
    end = len(q) - 1
    seen, heat = [], []
    for block, own_q, own_gap in zip(blocks, q[:end], gap[:end], strict=False):
        read = block.read(State(own_q, own_gap))
        seen.append(read.gap / read.q)
        heat.append(reduced_beta(block.attention.beta, read))
    b, x = np.stack(heat), np.stack(seen)
    known = np.isfinite(x) & np.isfinite(q[1:])
    b, x = np.where(known, b, 0.0), np.where(known, x, 0.0)
    weights, ratio = _attention(rem, b, x)
    entropy, std = _in_nats(spec, b, ratio)

    def masked(column: Number) -> Floats:
        return np.where(known, np.broadcast_to(column, b.shape), np.nan)

    return Trajectory(
        layer=np.arange(end + 1),
        q=q,
        gap=gap,
        rho=1 - gap / q,
        y2=masked(weights.y2),
        overlap=masked(weights.y2 - weights.spread),
        entropy=masked(entropy),
        entropy_ratio=masked(ratio),
        score_std=masked(std),
        reduced_beta=masked(b),
        ended=ended,
        reason=_reason(spec, ended, int(np.sum(ended < spec.depth))),
        notes=_notes(spec, limit),
    )


def _attention(rem: Statistics, b: Floats, x: Floats) -> tuple[Weights, Floats]:
    """Statistics of attention at every state, as many layers at a time as there is room."""
    layers = max(1, ROOM // max(1, b[0].size))

    def one(b: Floats, x: Floats) -> tuple[Number, ...]:
        ratio = rem.entropy_ratio(b, x) if isinstance(rem, Favoured) else rem.entropy_ratio(b)
        return *rem.weights(b, x), ratio

    parts = [one(b[i : i + layers], x[i : i + layers]) for i in range(0, len(b), layers)]
    *weights, ratio = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Weights(*weights), ratio


def _in_nats(spec: Transformer, b: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    r"""Entropy and standard deviation of scores, in nats.

    At infinite context both are infinite, but at b = 0, and where attention has frozen: weights are
    then a Poisson-Dirichlet process of index m, of entropy psi(1) - psi(1 - m) (E4, E5).
    """
    log_t = np.log(spec.context)
    if np.all(np.isfinite(log_t)):
        return ratio * log_t, b * np.sqrt(log_t)
    from scipy.special import digamma

    frozen = np.where(ratio > 0, np.inf, -np.euler_gamma - digamma(1 - freezing(b)))
    return frozen, np.where(b > 0, np.inf, 0.0)


def from_distances(spec: Transformer, found: ByDistance) -> Trajectory:
    """Means over pairs of positions, as one trajectory.

    Parameters
    ----------
    spec : Transformer
        The description.
    found : ByDistance
        Its kernel by distance.

    Returns
    -------
    Trajectory
        Layer by layer; `distances` has each.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.described import from_distances
    >>> from sigprop.rotary import by_distance
    >>> spec = Transformer(depth=2, context=8, rotary_base=100, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0)
    >>> from_distances(spec, by_distance(spec)).reason
    'all 2 layers were computed'
    """
    ended, log_t = len(found.q) - 1, np.log(spec.context)
    return Trajectory(
        layer=np.arange(ended + 1),
        q=found.q,
        gap=found.q * found.gap_ratio_mean,
        rho=1 - found.gap_ratio_mean,
        y2=found.y2,
        overlap=found.overlap,
        entropy=found.entropy,
        entropy_ratio=found.entropy / log_t,
        score_std=found.score_std,
        reduced_beta=found.score_std / np.sqrt(log_t),
        ended=np.asarray(ended),
        reason=_reason(spec, np.asarray(ended), int(ended < spec.depth)),
        notes=_notes(spec, False, True),
        distances=found,
    )


def from_positions(spec: Transformer, found: Positions) -> Trajectory:
    """Means over positions, as one trajectory.

    Parameters
    ----------
    spec : Transformer
        The description.
    found : Positions
        Its kernel by position.

    Returns
    -------
    Trajectory
        Layer by layer; `positions` has each.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.causal import causal
    >>> from sigprop.described import from_positions
    >>> spec = Transformer(depth=2, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> from_positions(spec, causal(spec)).rho.shape
    (3,)
    """
    pairs = np.outer(found.size, found.size) - np.diag(found.size)
    deficit = np.sum(found.gap_ratio * pairs, axis=(1, 2)) / np.sum(pairs)
    q, ended = found.mean(found.q), len(found.q) - 1
    std = found.mean(found.score_std)
    return Trajectory(
        layer=np.arange(ended + 1),
        q=q,
        gap=q * deficit,
        rho=1 - deficit,
        y2=found.mean(found.y2),
        overlap=found.overlap_mean,
        entropy=found.mean(found.entropy),
        entropy_ratio=found.mean(found.entropy_ratio),
        score_std=std,
        reduced_beta=std / np.sqrt(np.log(spec.context)),
        ended=np.asarray(ended),
        reason=_reason(spec, np.asarray(ended), int(ended < spec.depth)),
        notes=_notes(spec, False, True),
        positions=found,
        kernel_blocks=found.kernel_blocks,
    )


def _notes(spec: Transformer, limit: bool, by_position: bool = False) -> tuple[str, ...]:
    """Approximations that the exchangeable theory makes for a spec, one sentence each."""
    notes = []
    if limit or np.any(np.isinf(spec.context)):
        notes.append(
            "Limit of infinite context: Y_2 is off by 12-100 % at the lengths people train."
        )
    if np.any(spec.identity):
        notes.append("Identity parts: heads are taken to be infinitely wide.")
    if spec.causal and by_position:
        notes.append("Causal mask: means over positions; `positions` has each.")
    elif spec.causal:
        notes.append("Causal mask: the numbers describe late tokens, which see the whole context.")
    if spec.rotary_base is not None and by_position:
        notes.append("Rotary positions: means over pairs; near tokens are more alike than far.")
        notes.append(f"Scores under rotary positions are drawn, with seed {SEED}.")
    elif spec.rotary_base is not None:
        notes.append(
            "Rotary positions are not in the score variance: at beta sqrt(log T) > 1 "
            "collapse is slower than predicted."
        )
    return tuple(notes)


def _reason(spec: Transformer, ended: Ints, short: int) -> str:
    if not short:
        return f"all {spec.depth} layers were computed"
    which = "the trajectory" if ended.ndim == 0 else f"{short} of {ended.size} trajectories"
    return (
        f"{which} ended before layer {spec.depth}: the state vanished, overflowed, or left the "
        "range where its statistics are known (score standard deviation 40, tanh or silu at "
        "variance 100)"
    )
