"""Inverse temperatures at which attention has a given entropy (E4, E8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints
from sigprop.core.checks import scalar
from sigprop.core.errors import NotConvergedError, require
from sigprop.core.export import Exported
from sigprop.layers.attention.statistics import Limit, Rem, reduced_beta
from sigprop.layers.state import State
from sigprop.model.spec import RANGES, ModelSpec
from sigprop.propagation.capabilities import TheoryError, geometry_of, refusal, require_theory
from sigprop.propagation.points import singles
from sigprop.propagation.run import solve
from sigprop.propagation.solve import propagate
from sigprop.propagation.stack import (
    Block,
    at_beta,
    build_block,
    build_stack,
    initial_state,
    iterate,
    rem_of,
)

__all__ = ["BetaProfile", "beta_profile", "block_beta", "entropy_beta", "entropy_boundary"]

KNOWN = (0.01, 0.9999)  # H / log T at finite context
BRACKET = (1e-3, 5.0, 1e3)  # of b: hotter than the range, end of fast statistics, colder than it
STEP, STEPS, XTOL = 0.05, 8, 1e-7  # of log beta: first end of a bracket, its doublings, tolerance


@validated
def entropy_beta(rem: Rem, entropy_ratio: float, shape: tuple[int, ...] = ()) -> Floats:
    """Reduced inverse temperature b = beta sqrt(q gap) at which H / log T has a given value.

    Parameters
    ----------
    rem : Rem
        Attention statistics.
    entropy_ratio : float
        H / log T, in [0.01, 0.9999] at finite context; in [0, 1) in the limit, where 0 gives the
        freezing point sqrt 2.
    shape : tuple of int
        Shape of the contexts of `rem`.

    Returns
    -------
    array
        b, unique because the entropy decreases with it.

    Raises
    ------
    DomainError
        If the entropy is outside its range.
    NotConvergedError
        If the root finder stops before its tolerance.

    Examples
    --------
    >>> from sigprop.analysis.entropy import entropy_beta
    >>> from sigprop.layers.attention.statistics import Limit
    >>> float(entropy_beta(Limit(), 0.0)) ** 2
    2.0000000000000004
    """
    from scipy.optimize import elementwise

    if isinstance(rem, Limit):
        target = scalar("entropy_ratio", entropy_ratio, 0.0, 1.0)
        require(target < 1, "entropy_ratio", target, "a number in [0, 1)")
        return np.broadcast_to(np.sqrt(2 * (1 - target)), shape)
    target = scalar("entropy_ratio", entropy_ratio, *KNOWN)

    def excess(log_b: Floats, index: Ints) -> Floats:
        full = np.zeros(count)
        full[index] = np.exp(log_b)
        return rem.entropy_ratio(full.reshape(shape)).ravel()[index] - target

    count = int(np.prod(shape, dtype=np.int64))
    low, tabulated, high = np.log(BRACKET)
    every, top = np.arange(count), np.full(count, tabulated)
    top[excess(top, every) > 0] = high
    out = elementwise.find_root(excess, (np.full(count, low), top), args=(every,))
    if not np.all(out.success):
        raise NotConvergedError(f"entropy_ratio = {target:g}: no inverse temperature was found")
    return np.exp(out.x).reshape(shape)


@validated
def entropy_boundary(spec: ModelSpec, entropy_ratio: float, theory: str = "finite") -> Floats:
    """Inverse temperature at which each block's entropy would fall to a fraction of log T.

    The states are those of the spec; the boundary is lowest where tokens differ most. In the
    limit with entropy_ratio = 0 it is the freezing point beta_c of each block (E4). Under a mask
    the entropy is the mean of H / log n over queries, n the number of keys that each sees.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.
    entropy_ratio : float
        H / log T on the boundary.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.

    Returns
    -------
    array, shape (L, ...)
        Critical inverse temperature of each block; infinite where tokens have merged.

    Raises
    ------
    DomainError
        If the entropy is outside its range.
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`).

    Examples
    --------
    >>> from sigprop import ModelSpec, entropy_boundary
    >>> spec = ModelSpec(depth=3, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> bool((entropy_boundary(spec, 0.5)[1:] > entropy_boundary(spec, 0.5)[:-1]).all())
    True
    """
    require_theory(spec, "entropy_boundary", theory)
    b = entropy_beta(rem_of(spec, theory), entropy_ratio, np.shape(spec.context))
    if geometry_of(spec, theory) != "exchangeable":
        return _resolved_boundary(spec, entropy_ratio, np.broadcast_to(b, spec.shape))
    trajectory = propagate(spec, theory)
    read = build_block(spec, theory).read(State(trajectory.q[:-1], trajectory.gap[:-1]))
    with np.errstate(divide="ignore", over="ignore"):  # merged tokens: nothing freezes them
        return np.asarray(b / reduced_beta(1.0, read))


def _resolved_boundary(spec: ModelSpec, ratio: float, guess: Floats) -> Floats:
    """Boundary of stacks whose tokens are told apart, NaN behind the end of one of many."""
    out = np.full((spec.depth, *spec.shape), np.nan)
    for index, one in singles(spec):
        stack = build_stack(one, geometry_of(one))
        kernels = solve(stack, stack.initial(one)).kernels[:-1]
        pairs = zip(stack.blocks, kernels, strict=False)
        found = [block_beta(block, kernel, ratio, guess[index]) for block, kernel in pairs]
        at: tuple[Any, ...] = (slice(len(found)), *index)
        out[at] = found
    return out if spec.shape else out[: len(found)]


@dataclass(frozen=True)
class BetaProfile(Exported):
    """Inverse temperatures that hold every block at one entropy.

    Attributes
    ----------
    beta : array, shape (L, ...)
        Inverse temperature of each block.
    rho : array, shape (L+1, ...)
        Overlap that results.

    Examples
    --------
    >>> from sigprop import ModelSpec, beta_profile
    >>> spec = ModelSpec(depth=6, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> profile = beta_profile(spec, 0.7)
    >>> profile.beta.shape, profile.rho.shape
    ((6,), (7,))
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {"beta": ("block",), "rho": ("layer",)}

    beta: Floats
    rho: Floats


@validated
def beta_profile(
    spec: ModelSpec,
    entropy_ratio: float,
    theory: str = "finite",
    progress: Callable[[int], None] | None = None,
) -> BetaProfile:
    """Inverse temperature per block such that every block has the same entropy.

    As tokens grow alike, attention must grow colder to stay as selective. Where queries differ,
    under a mask, their mean H / log n is held, n the number of keys that each sees.

    Parameters
    ----------
    spec : ModelSpec
        The description; its beta is ignored. Arrays broadcast; stacks whose tokens are told apart
        are solved one by one.
    entropy_ratio : float
        H / log T to hold.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    progress : callable, optional
        Called with one after each stack whose tokens are told apart.

    Returns
    -------
    BetaProfile
        Temperatures and the overlap that results; pass `beta` to `propagate` as `beta_by_layer`.

    Raises
    ------
    DomainError
        If the entropy is outside its range.
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`), tokens merge to rounding
        before the last block, the state vanishes, or no beta up to 1000 holds the entropy.

    Examples
    --------
    >>> from sigprop import ModelSpec, beta_profile, propagate
    >>> spec = ModelSpec(depth=6, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> profile = beta_profile(spec, 0.7)
    >>> [round(float(h), 6) for h in propagate(spec, beta_by_layer=profile.beta).entropy_ratio]
    [0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    """
    require_theory(spec, "beta_profile", theory)
    b = entropy_beta(rem_of(spec, theory), entropy_ratio, np.shape(spec.context))
    if geometry_of(spec, theory) == "exchangeable":
        return _exchangeable(spec, theory, b)
    betas, rhos = (np.empty((spec.depth + more, *spec.shape)) for more in (0, 1))
    for index, one in singles(spec):
        search = partial(
            block_beta, ratio=entropy_ratio, guess=np.broadcast_to(b, spec.shape)[index]
        )
        at: tuple[Any, ...] = (slice(None), *index)
        stack, warm = build_stack(one, geometry_of(one)), partial(at_beta, one)
        found = _held(one, stack.blocks, stack.initial(one), search, warm)
        betas[at], rhos[at] = found.beta, found.rho
        if progress is not None:
            progress(1)
    return BetaProfile(betas, rhos)


def _exchangeable(spec: ModelSpec, theory: str, b: Floats) -> BetaProfile:
    """Profile of stacks of exchangeable tokens, at one reduced inverse temperature b."""
    cold = build_block(spec.replace(beta=0.0), theory)

    def find(block: Block, kernel: State) -> Floats:
        with np.errstate(all="ignore"):  # what vanishes is refused
            return np.asarray(b / reduced_beta(1.0, block.read(kernel)))

    def warm(block: Block, beta: Floats) -> Block:
        return build_block(spec.replace(beta=beta), theory)

    return _held(spec, [cold] * spec.depth, initial_state(spec), find, warm)


class _Passed(NamedTuple):
    """Kernel behind a block, and the inverse temperature that held its entropy."""

    kernel: State
    beta: Floats


def _held(
    spec: ModelSpec,
    blocks: Sequence[Block],
    start: State,
    find: Callable[[Block, State], Floats],
    warm: Callable[[Block, Floats], Block],
) -> BetaProfile:
    """Profile of stacks: `find` gives a block's inverse temperature, `warm` the block at it."""
    geometry = blocks[0].place.geometry

    def step(last: _Passed, numbered: tuple[int, Block]) -> _Passed:
        layer, block = numbered
        beta = np.broadcast_to(find(block, last.kernel), spec.shape)
        _require_admissible(beta, layer)
        with np.errstate(all="ignore"):  # what overflows or vanishes is refused
            kernel = warm(block, beta)(last.kernel)
            known = np.all(geometry.is_valid(kernel))
        if not known:
            raise _lost(layer)
        return _Passed(kernel, beta)

    first = _Passed(start, np.empty(0))
    passed = list(iterate(first, enumerate(blocks, 1), step))
    rhos = [1 - geometry.deficit(one.kernel) for one in (first, *passed)]
    wide = np.stack([np.broadcast_to(rho, spec.shape) for rho in rhos])
    return BetaProfile(np.stack([one.beta for one in passed]), wide)


def block_beta(block: Block, kernel: State, ratio: float, guess: float | Floats) -> Floats:
    """Inverse temperature at which the mean over queries of H / log n in a block has a value.

    Parameters
    ----------
    block : Block
        A block whose tokens are told apart; its own inverse temperature does not matter.
    kernel : State
        What enters it.
    ratio : float
        Mean of H / log n, n the number of keys that a query sees.
    guess : float
        Reduced inverse temperature to start from, > 0: that of exchangeable tokens.

    Returns
    -------
    array
        beta; infinite where none lowers the entropy, NaN where none is found.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.entropy import block_beta
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=1, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> stack = build_stack(spec, "position")
    >>> round(float(block_beta(stack.blocks[0], stack.initial(spec), 0.7, 0.8)), 3)
    0.797
    """
    from scipy.optimize import brentq

    geometry, statistics = block.place
    read = block.read(kernel)

    def scores(beta: float) -> Any:
        return geometry.scores(replace(block.attention, beta=beta), read)

    @cache
    def excess(log_beta: float) -> float:
        return float(statistics(scores(np.exp(log_beta))).entropy_ratio) - ratio

    unit = np.mean(scores(1.0).std) / np.sqrt(np.log(block.attention.context))
    if not unit > 0:
        return np.asarray(np.inf)
    start = float(np.log(guess / unit))
    side = np.sign(excess(start))
    ends = (start + side * STEP * 2**k for k in range(STEPS))
    with np.errstate(all="ignore"):  # scores beyond the range of their statistics
        end = next((end for end in ends if side * excess(end) <= 0), None)
    if end is None:
        return np.asarray(np.nan)
    return np.asarray(np.exp(brentq(excess, start, end, xtol=XTOL)))


def _require_admissible(beta: Floats, layer: int) -> None:
    if np.any(np.isinf(beta)):
        raise refusal("tokens that merge", "beta_profile", where=f"block {layer}")
    if np.any(np.isnan(beta)):
        raise _lost(layer)
    if not np.all(beta <= RANGES["beta"][1]):
        raise refusal("beta above 1000", "beta_profile", where=f"block {layer}")


def _lost(layer: int) -> TheoryError:
    words = "a state that vanishes or overflows"
    return refusal(words, "beta_profile", where=f"block {layer}")
