"""Depth iteration: from a description to the trajectory of the token kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.arrays import Bools, Floats, Ints, Number, finite_or_none
from sigprop.batches import chunks, part_of
from sigprop.block import Block, build_block, rem_of
from sigprop.errors import AssumptionError, DomainError, require
from sigprop.rem import reduced_beta
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["Final", "Trajectory", "initial_state", "propagate", "sweep"]

# glibc gives the top of its heap back to the system, and faults it in again, at every temporary;
# releasing one large block raises the bound from which it does so (mallopt(3), dynamic threshold)
HEAP = 2**21
LARGEST = 1e150  # of q: its square must not overflow


@dataclass(frozen=True)
class Trajectory:
    r"""Token kernel and attention statistics, layer by layer.

    Entries after the end of a trajectory (see `ended`) are NaN in arrays of specs and absent in a
    single trajectory.

    Attributes
    ----------
    layer : array, shape (L+1,)
        Block index; 0 is the input.
    q, gap, rho : arrays, shape (L+1, ...)
        Variance, gap and overlap of the stream after each block.
    y2, overlap, entropy, entropy_ratio, score_std, reduced_beta : arrays, shape (L, ...)
        Participation ratio, attention overlap, entropy in nats and over log T, standard deviation
        of the scores and the same over sqrt(log T), in each block. At infinite context `entropy`
        and `score_std` are infinite wherever they are not zero; use the ratios.
    ended : array of int, shape (...)
        Last layer reached; depth when complete.
    reason : str
        How the iteration ended, as a sentence.
    notes : tuple of str
        Approximations made for this spec.
    rho_std, y2_std, entropy_std : arrays or None
        Standard deviations over networks of rho, y2 and entropy, from `sigprop.fluctuations.bands`.
    crowding : array or None
        Width over the number of directions that tokens share, from the same.

    Examples
    --------
    >>> from sigprop import Transformer, propagate
    >>> spec = Transformer(depth=24, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> round(float(propagate(spec).rho[-1]), 4) > 0.99
    True
    """

    layer: Ints
    q: Floats
    gap: Floats
    rho: Floats
    y2: Floats
    overlap: Floats
    entropy: Floats
    entropy_ratio: Floats
    score_std: Floats
    reduced_beta: Floats
    ended: Ints
    reason: str
    notes: tuple[str, ...]
    rho_std: Floats | None = None
    y2_std: Floats | None = None
    entropy_std: Floats | None = None
    crowding: Floats | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null.

        Returns
        -------
        dict
            One list for each attribute that is not None.

        Examples
        --------
        >>> from sigprop import Transformer, propagate
        >>> spec = Transformer(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
        >>> propagate(spec).to_dict()["layer"]
        [0, 1, 2]
        """
        out: dict[str, Any] = {}
        for name, value in vars(self).items():
            if value is None:
                continue
            if isinstance(value, np.ndarray):
                value = finite_or_none(value)
            out[name] = list(value) if isinstance(value, tuple) else value
        return out


@dataclass(frozen=True)
class Final:
    """State at the last layer, and the hottest attention met on the way.

    Attributes
    ----------
    state : State
        Variance and gap after the last block, NaN where `defined` is false.
    reduced_beta : array
        Largest beta sqrt(q gap) over the layers: entropy decreases with it, so the smallest
        entropy over the layers is the entropy there.
    defined : array of bool
        Whether the iteration stayed finite with q > 0.

    Examples
    --------
    >>> from sigprop import Transformer, sweep
    >>> final = sweep(Transformer(depth=2, context=8, beta=[1, 2], sigma_v2=1, sigma_w2=2, rho0=0))
    >>> final.defined.tolist()
    [True, True]
    """

    state: State
    reduced_beta: Floats
    defined: Bools


def initial_state(spec: Transformer) -> State:
    """State that enters the first block.

    Parameters
    ----------
    spec : Transformer
        The description. A post-norm stack is preceded by its norm, so its input has q = gain^2.

    Returns
    -------
    State
        Arrays that broadcast to the spec's shape.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagate import initial_state
    >>> spec = Transformer(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.25)
    >>> float(initial_state(spec).gap)
    0.75
    """
    q = np.square(spec.norm_gain) if spec.norm == "post" else np.asarray(spec.q0)
    return State(q, q * (1 - np.asarray(spec.rho0)))


def notes_of(spec: Transformer, limit: bool) -> tuple[str, ...]:
    """Approximations that the exchangeable theory makes for a spec, one sentence each."""
    notes = []
    if limit or np.any(np.isinf(spec.context)):
        notes.append(
            "Limit of infinite context: Y_2 is off by 12-100 % at the lengths people train."
        )
    if spec.causal:
        notes.append("Causal mask: the numbers describe late tokens, which see the whole context.")
    if spec.rotary_base is not None:
        notes.append(
            "Rotary positions are not in the score variance: at beta sqrt(log T) > 1 "
            "collapse is slower than predicted."
        )
    return tuple(notes)


def propagate(
    spec: Transformer, limit: bool = False, beta_by_layer: ArrayLike | None = None
) -> Trajectory:
    """Iterate the block map of a spec over its depth.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast to many trajectories at once.
    limit : bool
        Use the published limit of infinite context in place of the exact finite length.
    beta_by_layer : array_like, shape (L, ...), optional
        Inverse temperature of each block, in place of `spec.beta`.

    Returns
    -------
    Trajectory
        Everything, layer by layer.

    Raises
    ------
    DomainError
        If `beta_by_layer` has the wrong length.
    AssumptionError
        If the state of a single spec vanishes or overflows in the first block.

    Notes
    -----
    theory.md sections 2-4 (E1-E17); Giorlandino & Goldt, arXiv 2505.24333, in the limit.

    Examples
    --------
    >>> from sigprop import Transformer, propagate
    >>> spec = Transformer(depth=50, context=512, beta=0.5, sigma_v2=0.2, sigma_w2=0.2,
    ...                    sigma_b2=4e-4, rho0=0.025)
    >>> t = propagate(spec)
    >>> t.rho.shape, t.y2.shape, t.reason
    ((51,), (50,), 'all 50 layers were computed')
    """
    blocks = _blocks(spec, limit, beta_by_layer)
    state = initial_state(spec)
    states = [state]
    with np.errstate(all="ignore"):  # what overflows or vanishes is masked in _ended
        for block in blocks:
            state = block(state)
            states.append(state)
    q, gap = (np.stack([np.broadcast_to(s[i], spec.shape) for s in states]) for i in (0, 1))
    ended = _ended(q, gap)
    q, gap = _cut(ended, spec.depth, q, gap)
    return _described(spec, limit, blocks, q, gap, ended)


def _blocks(spec: Transformer, limit: bool, beta_by_layer: ArrayLike | None) -> list[Block]:
    if beta_by_layer is None:
        return [build_block(spec, limit)] * spec.depth
    betas = np.asarray(beta_by_layer, dtype=np.float64)
    if betas.shape[:1] != (spec.depth,):
        raise DomainError("beta_by_layer", betas.shape, f"a first axis of length {spec.depth}")
    require(np.isfinite(betas), "beta_by_layer", betas, "numbers in [0, 1000]")
    return [build_block(spec.replace(beta=beta), limit) for beta in betas]


def _valid(q: Number, gap: Number) -> Bools:
    """Finite, and not vanished; comparisons with NaN are false."""
    return np.asarray((q > 0) & (q < LARGEST) & (gap >= 0) & (gap < LARGEST))


def _ended(q: Floats, gap: Floats) -> Ints:
    """Last layer up to which the state is valid."""
    return np.asarray(np.cumprod(_valid(q, gap), axis=0).sum(axis=0) - 1)


def _cut(ended: Ints, depth: int, q: Floats, gap: Floats) -> tuple[Floats, Floats]:
    """Drop (single) or mask (array) the layers after the end."""
    if ended.ndim == 0:
        if ended < 1:
            raise AssumptionError(
                "nothing passes the first block: all branches are zero, a scale overflows, the "
                "score standard deviation exceeds 40, or tanh or silu meets a variance above 100"
            )
        return q[: ended + 1], gap[: ended + 1]
    layer = np.arange(depth + 1).reshape((-1,) + (1,) * ended.ndim)
    return np.where(layer <= ended, q, np.nan), np.where(layer <= ended, gap, np.nan)


def _described(
    spec: Transformer, limit: bool, blocks: list[Block], q: Floats, gap: Floats, ended: Ints
) -> Trajectory:
    """Attention statistics of the recorded states."""
    rem = rem_of(spec, limit)
    count = len(q) - 1
    seen, heat = [], []
    for block, own_q, own_gap in zip(blocks, q[:count], gap[:count], strict=False):
        read = block.read(State(own_q, own_gap))
        seen.append(read.gap / read.q)
        heat.append(reduced_beta(block.attention.beta, read))
    b, x = np.stack(heat), np.stack(seen)
    known = np.isfinite(x) & np.isfinite(q[1:])
    b, x = np.where(known, b, 0.0), np.where(known, x, 0.0)
    weights, ratio = rem.weights(b, x), rem.entropy_ratio(b)
    log_t = np.log(spec.context)
    with np.errstate(invalid="ignore"):  # 0 * inf at infinite context
        entropy, std = ratio * log_t, b * np.sqrt(log_t)

    def masked(column: Number) -> Floats:
        return np.where(known, np.broadcast_to(column, b.shape), np.nan)

    return Trajectory(
        layer=np.arange(count + 1),
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
        notes=notes_of(spec, limit),
    )


def _reason(spec: Transformer, ended: Ints, short: int) -> str:
    if not short:
        return f"all {spec.depth} layers were computed"
    which = "the trajectory" if ended.ndim == 0 else f"{short} of {ended.size} trajectories"
    return (
        f"{which} ended before layer {spec.depth}: the state vanished, overflowed, or left the "
        "range where its statistics are known (score standard deviation 40, tanh or silu at "
        "variance 100)"
    )


def sweep(
    spec: Transformer, limit: bool = False, progress: Callable[[int], None] | None = None
) -> Final:
    """Compute the final states of an array of specs, in chunks that stay in cache: for large grids.

    Parameters
    ----------
    spec : Transformer
        The description; memory grows with the output alone, not with depth.
    limit : bool
        Use the limit of infinite context.
    progress : callable, optional
        Called with the number of finished states after each chunk.

    Returns
    -------
    Final
        Final state and largest reduced inverse temperature.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import Transformer
    >>> from sigprop.propagate import sweep
    >>> spec = Transformer(depth=12, context=512, beta=np.linspace(0, 3, 5), sigma_v2=1,
    ...                    sigma_w2=2, rho0=0.1)
    >>> sweep(spec).state.gap.shape
    (5,)
    """
    np.empty(HEAP)
    shape = spec.shape
    q, gap, heat = np.empty(shape), np.empty(shape), np.empty(shape)
    defined = np.empty(shape, dtype=bool)
    for index in chunks(shape):
        part = part_of(spec, index)
        state, heat[index] = _run(part, limit)
        good = _valid(state.q, state.gap)
        q[index], gap[index] = (np.where(good, value, np.nan) for value in state)
        defined[index] = good
        if progress is not None:
            progress(prod(part.shape))
    return Final(State(q, gap), heat, defined)


def _run(spec: Transformer, limit: bool) -> tuple[State, Floats]:
    state = initial_state(spec)
    block = build_block(spec, limit, prod(spec.shape) * spec.depth)
    heat = np.zeros(spec.shape)
    with np.errstate(all="ignore"):  # what overflows or vanishes is masked in sweep
        for _ in range(spec.depth):
            read = block.read(state)
            np.maximum(heat, read.q * read.gap, out=heat)
            state = block(state)
        return state, spec.beta * np.sqrt(heat)
