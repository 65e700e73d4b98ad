"""Final states of many specs at once, in chunks that stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from sigprop.arguments import validated
from sigprop.arrays import Bools, Floats
from sigprop.block import build_block
from sigprop.capabilities import require_theory
from sigprop.memory import allow
from sigprop.propagate import initial_state, valid
from sigprop.resolved import is_resolved, reach
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["Final", "chunks", "part_of", "sweep"]

CHUNK = 30000  # states iterated together: a dozen work arrays of 240 KB
# glibc gives the top of its heap back to the system, and faults it in again, at every temporary;
# releasing one large block raises the bound from which it does so (mallopt(3), dynamic threshold)
HEAP = 2**21


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
    entropy_ratio : array or None
        Smallest H / log T over the layers, where it does not follow from `reduced_beta`: in causal
        stacks, a mean over positions, as all else is.

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
    entropy_ratio: Floats | None = None


@validated
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
        Final state and largest reduced inverse temperature. Causal specs with norms are solved
        position by position, rotary positions distance by distance (`sigprop.resolved`).

    Raises
    ------
    TheoryError
        If no theory covers the spec (`sigprop.capabilities`).

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import Transformer
    >>> from sigprop.sweep import sweep
    >>> spec = Transformer(depth=12, context=512, beta=np.linspace(0, 3, 5), sigma_v2=1,
    ...                    sigma_w2=2, rho0=0.1)
    >>> sweep(spec).state.gap.shape
    (5,)
    """
    require_theory(spec, "sweep", limit)
    if is_resolved(spec) and not limit:
        return _resolved(spec, progress)
    np.empty(HEAP)
    shape = spec.shape
    allow(64 * prod(shape), "shape", shape, "fewer points")
    q, gap, heat = np.empty(shape), np.empty(shape), np.empty(shape)
    defined = np.empty(shape, dtype=bool)
    for index in chunks(shape):
        part = part_of(spec, index)
        state, heat[index] = _run(part, limit)
        good = valid(state.q, state.gap)
        q[index], gap[index] = (np.where(good, value, np.nan) for value in state)
        defined[index] = good
        if progress is not None:
            progress(prod(part.shape))
    return Final(State(q, gap), heat, defined)


def _resolved(spec: Transformer, progress: Callable[[int], None] | None) -> Final:
    found = reach(spec, progress)
    state = State(found.q, found.q * found.gap_ratio)
    return Final(state, found.reduced_beta, np.isfinite(found.q), found.entropy_ratio)


def _run(spec: Transformer, limit: bool) -> tuple[State, Floats]:
    state = initial_state(spec)
    block = build_block(spec, limit, prod(spec.shape) * spec.depth)
    heat = np.zeros(spec.shape)
    steady = spec.norm != "none"  # attention reads the same q in every layer
    with np.errstate(all="ignore"):  # what overflows or vanishes is masked in sweep
        for _ in range(spec.depth):
            read = block.read(state)
            np.maximum(heat, read.gap if steady else read.q * read.gap, out=heat)
            state = block(state)
        return state, spec.beta * np.sqrt(heat * read.q if steady else heat)


def chunks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into boxes of about CHUNK elements, last axes whole.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.

    Yields
    ------
    tuple of slice
        One box.

    Examples
    --------
    >>> from sigprop.sweep import chunks
    >>> len(list(chunks((3, 20000))))
    3
    """
    sizes, room = [], CHUNK
    for length in reversed(shape):
        take = max(1, min(length, room))
        sizes.append(take)
        room //= take
    boxes = [
        [slice(i, i + take) for i in range(0, length, take)]
        for length, take in zip(shape, reversed(sizes), strict=True)
    ]
    yield from product(*boxes)


def part_of(spec: Transformer, index: tuple[slice, ...]) -> Transformer:
    """Part of a spec: every array sliced where it is not of length one.

    Parameters
    ----------
    spec : Transformer
        The whole.
    index : tuple of slice
        One slice for each axis of `spec.shape`.

    Returns
    -------
    Transformer
        The part.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.sweep import part_of
    >>> spec = Transformer(depth=1, context=8, beta=[0, 1, 2], sigma_v2=1, sigma_w2=1, rho0=0)
    >>> part_of(spec, (slice(0, 2),)).shape
    (2,)
    """
    changes: dict[str, Any] = {}
    for name in spec.numbers():
        value = np.asarray(getattr(spec, name), dtype=np.float64)
        if value.ndim:
            own = index[len(index) - value.ndim :]
            pairs = zip(own, value.shape, strict=True)
            changes[name] = value[tuple(slice(None) if n == 1 else i for i, n in pairs)]
    return replace(spec, **changes)
