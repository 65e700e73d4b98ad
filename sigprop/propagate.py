"""Depth iteration: from a description to the trajectory of the token kernel."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import ArrayLike

from sigprop.arguments import validated
from sigprop.arrays import Bools, Floats, Ints, Number
from sigprop.block import Block, build_block
from sigprop.capabilities import refusal, require_theory
from sigprop.causal import MAX_BLOCKS, causal, resolves
from sigprop.described import from_distances, from_positions, from_states
from sigprop.errors import DomainError, require
from sigprop.memory import allow
from sigprop.rotary import by_distance, turns
from sigprop.spec import Transformer
from sigprop.state import State
from sigprop.trajectory import Trajectory
from sigprop.validate import count

__all__ = [
    "blocks_of",
    "exchangeable",
    "initial_state",
    "propagate",
    "unmasked",
    "valid",
    "whose",
]

LARGEST = 1e150  # of q: its square must not overflow
STATE, RECORD = 1500, 200  # bytes of a state while a block acts on it, and of a layer recorded


@validated
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


@validated
def propagate(
    spec: Transformer,
    limit: bool = False,
    beta_by_layer: ArrayLike | None = None,
    blocks: int | None = None,
) -> Trajectory:
    """Iterate the block map of a spec over its depth.

    A single causal spec of finite context with norms is solved position by position
    (`sigprop.causal`), a single bidirectional one with rotary positions distance by distance
    (`sigprop.rotary`); every other spec as an exchangeable kernel.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast to many trajectories at once.
    limit : bool
        Use the published limit of infinite context in place of the exact finite length.
    beta_by_layer : array_like, shape (L, ...), optional
        Inverse temperature of each block, in place of `spec.beta`.
    blocks : int, optional
        Number of equal ranges of positions over which the kernel is averaged.

    Returns
    -------
    Trajectory
        Everything, layer by layer.

    Raises
    ------
    DomainError
        If `beta_by_layer` has the wrong length, or `blocks` is outside [1, min(256, T)].
    AssumptionError
        If the state of a single spec vanishes or overflows in the first block, `blocks` is given
        for an array of specs or an infinite context, or no theory covers the spec
        (`sigprop.capabilities`).

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
    require_theory(spec, "propagate", limit)
    if blocks is not None:
        size = 24 * (spec.depth + 1) * min(abs(blocks), MAX_BLOCKS) ** 2
        allow(size, "blocks", blocks, "fewer blocks or layers")
    if resolves(spec) and not limit:
        betas = np.asarray(
            [layer.attention.beta for layer in blocks_of(spec, limit, beta_by_layer)]
        )
        return from_positions(spec, causal(spec, blocks=blocks, beta_by_layer=betas))
    if turns(spec) and not limit:
        betas = np.asarray(
            [layer.attention.beta for layer in blocks_of(spec, limit, beta_by_layer)]
        )
        found = from_distances(spec, by_distance(spec, betas))
    else:
        found = exchangeable(spec, limit, beta_by_layer)
    return found if blocks is None else replace(found, kernel_blocks=_even(spec, found, blocks))


@validated
def exchangeable(
    spec: Transformer, limit: bool = False, beta_by_layer: ArrayLike | None = None
) -> Trajectory:
    """Iterate the block map on an exchangeable kernel, also where `propagate` resolves positions.

    Parameters
    ----------
    spec, limit, beta_by_layer
        As in `propagate`.

    Returns
    -------
    Trajectory
        Everything, layer by layer; of a causal spec, for its last tokens.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagate import exchangeable
    >>> spec = Transformer(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> exchangeable(spec).positions is None
    True
    """
    size = prod(spec.shape)
    allow(size * (STATE + RECORD * spec.depth), "shape", spec.shape, "fewer points or layers")
    layers = blocks_of(spec, limit, beta_by_layer)
    state = initial_state(spec)
    states = [state]
    with np.errstate(all="ignore"):  # what overflows or vanishes is masked in _ended
        for layer in layers:
            state = layer(state)
            states.append(state)
    q, gap = (np.stack([np.broadcast_to(s[i], spec.shape) for s in states]) for i in (0, 1))
    ended = _ended(q, gap)
    q, gap = _cut(ended, spec.depth, q, gap)
    return from_states(spec, limit, layers, q, gap, ended)


@validated
def unmasked(spec: Transformer) -> Transformer:
    """Spec without mask and rotary positions, whose tokens are exchangeable.

    Parameters
    ----------
    spec : Transformer
        The description.

    Returns
    -------
    Transformer
        What its late tokens see.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagate import unmasked
    >>> spec = Transformer(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> unmasked(spec).causal
    False
    """
    return replace(spec, causal=False, window=None, prefix=0, rotary_base=None)


def whose(spec: Transformer) -> str:
    """Whom the exchangeable theory of a spec describes, in words.

    Parameters
    ----------
    spec : Transformer
        The description.

    Returns
    -------
    str
        All tokens, or late ones without mask or rotation.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagate import whose
    >>> whose(Transformer(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=2, rho0=0))
    'all tokens'
    """
    alike = not spec.causal and spec.rotary_base is None
    return "all tokens" if alike else "late tokens without mask or rotation"


def _even(spec: Transformer, found: Trajectory, blocks: int) -> Floats:
    """Block means of an exchangeable kernel: every block of n tokens has n of n^2 pairs alike."""
    require_theory(spec, "blocks")
    context = int(np.asarray(spec.context))
    count("blocks", blocks, 1, min(MAX_BLOCKS, context))
    size = context / blocks
    gap = (found.gap / found.q)[:, None, None]
    return np.asarray(1 - gap * (1 - np.eye(blocks) / size))


@validated
def blocks_of(
    spec: Transformer, limit: bool = False, beta_by_layer: ArrayLike | None = None
) -> list[Block]:
    """Block of each layer.

    Parameters
    ----------
    spec, limit, beta_by_layer
        As in `propagate`.

    Returns
    -------
    list of Block
        In order of depth.

    Raises
    ------
    DomainError
        If `beta_by_layer` has the wrong length.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.propagate import blocks_of
    >>> spec = Transformer(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> [float(block.attention.beta) for block in blocks_of(spec, beta_by_layer=[1, 2])]
    [1.0, 2.0]
    """
    if beta_by_layer is None:
        return [build_block(spec, limit)] * spec.depth
    betas = np.asarray(beta_by_layer, dtype=np.float64)
    if betas.shape[:1] != (spec.depth,):
        raise DomainError("beta_by_layer", betas.shape, f"a first axis of length {spec.depth}")
    require(np.isfinite(betas), "beta_by_layer", betas, "numbers in [0, 1000]")
    return [build_block(spec.replace(beta=beta), limit) for beta in betas]


def valid(q: Number, gap: Number) -> Bools:
    """Whether a state is finite and has not vanished.

    Parameters
    ----------
    q, gap : float or array
        Variance and gap.

    Returns
    -------
    array of bool
        False where either is NaN, overflows, or q vanishes.

    Examples
    --------
    >>> from sigprop.propagate import valid
    >>> valid(float("nan"), 1.0).tolist()
    False
    """
    return np.asarray((q > 0) & (q < LARGEST) & (gap >= 0) & (gap < LARGEST))


def _ended(q: Floats, gap: Floats) -> Ints:
    """Last layer up to which the state is valid."""
    return np.asarray(np.cumprod(valid(q, gap), axis=0).sum(axis=0) - 1)


def _cut(ended: Ints, depth: int, q: Floats, gap: Floats) -> tuple[Floats, Floats]:
    """Drop (single) or mask (array) the layers after the end."""
    if ended.ndim == 0:
        if ended < 1:
            raise refusal("a state that vanishes or overflows", "propagate", where="block 1")
        return q[: ended + 1], gap[: ended + 1]
    layer = np.arange(depth + 1).reshape((-1,) + (1,) * ended.ndim)
    return np.where(layer <= ended, q, np.nan), np.where(layer <= ended, gap, np.nan)
