"""Depth iteration: from a description to the trajectory of the token kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.checks import count
from sigprop.core.memory import allow
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import geometry_of, has_positions, require_theory
from sigprop.propagation.causal import MAX_BLOCKS
from sigprop.propagation.points import TRAILING, parts_of_one_context
from sigprop.propagation.result import Trajectory
from sigprop.propagation.run import Run, solve
from sigprop.propagation.stack import Stack, build_stack, layer_betas
from sigprop.propagation.trajectories import from_distances, from_positions, from_states, reason_of

__all__ = ["TOGETHER", "propagate", "whose"]

STATE, RECORD = 1500, 200  # bytes of a state while a block acts on it, and of a layer recorded
TOGETHER = 8  # most stacks whose tokens are told apart that are solved together


@validated
def propagate(
    spec: ModelSpec,
    theory: str = "finite",
    beta_by_layer: ArrayLike | None = None,
    blocks: int | None = None,
    geometry: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> Trajectory:
    """Iterate the block map of a spec over its depth.

    Causal specs of finite context with norms are solved position by position
    (`sigprop.propagation.causal`), bidirectional ones with rotary positions distance by distance
    (`sigprop.propagation.rotary`); every other spec as an exchangeable kernel. The shape of the
    spec does not change the theory.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast to many trajectories at once.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    beta_by_layer : array_like, shape (L, ...), optional
        Inverse temperature of each block, in place of `spec.beta`.
    blocks : int, optional
        Number of equal ranges of positions over which the kernel is averaged.
    geometry : {"auto", "exchangeable"}
        Which pairs of tokens are told apart; "exchangeable" describes late tokens of a causal spec,
        and leaves rotations out.
    progress : callable, optional
        Called with the number of finished stacks of an array whose tokens are told apart.

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
        (`sigprop.propagation.capabilities`).

    Notes
    -----
    theory.md sections 2-4 (E1-E17); Giorlandino & Goldt, arXiv 2505.24333, in the limit. Distance
    from random networks: notebooks/accuracy.md.

    Examples
    --------
    >>> from sigprop import ModelSpec, propagate
    >>> spec = ModelSpec(depth=50, context=512, beta=0.5, sigma_v2=0.2, sigma_w2=0.2,
    ...                    sigma_b2=4e-4, rho0=0.025)
    >>> t = propagate(spec)
    >>> t.rho.shape, t.y2.shape, t.reason
    ((51,), (50,), 'all 50 layers were computed')
    """
    require_theory(spec, "propagate", theory, geometry)
    if blocks is not None:
        size = 24 * (spec.depth + 1) * min(abs(blocks), MAX_BLOCKS) ** 2
        allow(size, "blocks", blocks, "fewer blocks or layers")
    kind = geometry_of(spec, theory, geometry)
    if kind == "exchangeable":
        found = _exchangeable(spec, theory, beta_by_layer)
        return found if blocks is None else replace(found, kernel_blocks=_even(spec, found, blocks))
    if blocks is not None:
        _checked(spec, blocks)
    if not spec.shape:
        return _resolved(spec, kind, beta_by_layer, blocks)
    return _together(spec, kind, beta_by_layer, progress)


def _exchangeable(spec: ModelSpec, theory: str, beta_by_layer: ArrayLike | None) -> Trajectory:
    """Trajectory of exchangeable tokens; of a causal spec, of its last ones."""
    size = prod(spec.shape)
    allow(size * (STATE + RECORD * spec.depth), "shape", spec.shape, "fewer points or layers")
    stack = build_stack(spec, "exchangeable", theory, beta_by_layer)
    run = solve(stack, stack.initial(spec), spec.shape)
    return from_states(spec, theory, run)


def _resolved(
    spec: ModelSpec, kind: str, beta_by_layer: ArrayLike | None, blocks: int | None
) -> Trajectory:
    """Trajectory of stacks of one context, their parameters shaped for the geometry."""
    stack = build_stack(spec, kind, beta_by_layer=beta_by_layer, ranges=blocks)
    place: Any = stack.place
    if kind == "distance":
        found = from_distances(spec, _run(spec, stack), place)
        return found if blocks is None else replace(found, kernel_blocks=_even(spec, found, blocks))
    size = len(place.geometry.layout.size)
    allow(8 * (spec.depth + 1) * 4 * size**2, "depth", spec.depth, "fewer layers or blocks")
    return from_positions(spec, _run(spec, stack), place, blocks)


def _run(spec: ModelSpec, stack: Stack) -> Run:
    return solve(stack, stack.initial(spec), spec.shape[:1])


def _together(
    spec: ModelSpec,
    kind: str,
    beta_by_layer: ArrayLike | None,
    progress: Callable[[int], None] | None,
) -> Trajectory:
    """Trajectory of an array of stacks, those of one context together."""
    total = prod(spec.shape)
    allow(total * (STATE + RECORD * spec.depth), "shape", spec.shape, "fewer points or layers")
    betas = None
    if beta_by_layer is not None:
        wide = [np.broadcast_to(beta, spec.shape) for beta in layer_betas(spec, beta_by_layer)]
        betas = np.reshape(wide, (spec.depth, total))
    columns: dict[str, Any] = {}
    for index, part in parts_of_one_context(spec, kind, TOGETHER):
        own = None if betas is None else betas[:, index].reshape(spec.depth, -1, *TRAILING[kind])
        found = _resolved(part, kind, own, None)
        for name, value in vars(found).items():
            if isinstance(value, np.ndarray) and name != "layer":
                empty = np.empty((*value.shape[:-1], total), value.dtype)
                columns.setdefault(name, empty)[..., index] = value
        if progress is not None:
            progress(len(index))
    columns = {name: v.reshape(*v.shape[:-1], *spec.shape) for name, v in columns.items()}
    return replace(found, **columns, reason=reason_of(spec, columns["ended"]))


def whose(spec: ModelSpec) -> str:
    """Whom the exchangeable theory of a spec describes, in words.

    Parameters
    ----------
    spec : ModelSpec
        The description.

    Returns
    -------
    str
        All tokens, or late ones without mask or rotation.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.solve import whose
    >>> whose(ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=2, rho0=0))
    'all tokens'
    """
    return "all tokens" if not has_positions(spec) else "late tokens without mask or rotation"


def _even(spec: ModelSpec, found: Trajectory, blocks: int) -> Floats:
    """Block means of an exchangeable kernel: every block of n tokens has n of n^2 pairs alike."""
    size = _checked(spec, blocks) / blocks
    gap = (found.gap / found.q)[:, None, None]
    return np.asarray(1 - gap * (1 - np.eye(blocks) / size))


def _checked(spec: ModelSpec, blocks: int) -> int:
    """Context length, of a single spec of which `blocks` equal ranges can be formed."""
    require_theory(spec, "blocks")
    context = int(np.asarray(spec.context))
    count("blocks", blocks, 1, min(MAX_BLOCKS, context))
    return context
