"""Inverse temperatures at which attention has a given entropy (E4, E8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints
from sigprop.core.checks import scalar
from sigprop.core.errors import NotConvergedError, require
from sigprop.core.export import Exported
from sigprop.layers.attention.exchangeable import valid
from sigprop.layers.attention.statistics import Limit, Rem, reduced_beta
from sigprop.layers.state import State
from sigprop.model.spec import RANGES, Transformer
from sigprop.propagation.capabilities import refusal, require_theory
from sigprop.propagation.solve import exchangeable
from sigprop.propagation.stack import build_block, initial_state, rem_of

__all__ = ["BetaProfile", "beta_profile", "entropy_beta", "entropy_boundary"]

KNOWN = (0.01, 0.9999)  # H / log T at finite context
BRACKET = (1e-3, 5.0, 1e3)  # of b: hotter than the range, end of fast statistics, colder than it


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
def entropy_boundary(spec: Transformer, entropy_ratio: float, limit: bool = False) -> Floats:
    """Inverse temperature at which each block's entropy would fall to a fraction of log T.

    The states are those of the spec; the boundary is lowest where tokens differ most. In the
    limit with entropy_ratio = 0 it is the freezing point beta_c of each block (E4).

    Parameters
    ----------
    spec : Transformer
        The description.
    entropy_ratio : float
        H / log T on the boundary.
    limit : bool
        Use the limit of infinite context.

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
    >>> from sigprop import Transformer, entropy_boundary
    >>> spec = Transformer(depth=3, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> bool((entropy_boundary(spec, 0.5)[1:] > entropy_boundary(spec, 0.5)[:-1]).all())
    True
    """
    require_theory(spec, "entropy_boundary", limit)
    trajectory = exchangeable(spec, limit)
    read = build_block(spec, limit).read(State(trajectory.q[:-1], trajectory.gap[:-1]))
    b = entropy_beta(rem_of(spec, limit), entropy_ratio, np.shape(spec.context))
    with np.errstate(divide="ignore", over="ignore"):  # merged tokens: nothing freezes them
        return np.asarray(b / reduced_beta(1.0, read))


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
    >>> from sigprop import Transformer, beta_profile
    >>> spec = Transformer(depth=6, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> profile = beta_profile(spec, 0.7)
    >>> profile.beta.shape, profile.rho.shape
    ((6,), (7,))
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {"beta": ("block",), "rho": ("layer",)}

    beta: Floats
    rho: Floats


@validated
def beta_profile(spec: Transformer, entropy_ratio: float, limit: bool = False) -> BetaProfile:
    """Inverse temperature per block such that every block has the same entropy.

    As tokens grow alike, attention must grow colder to stay as selective.

    Parameters
    ----------
    spec : Transformer
        The description; its beta is ignored.
    entropy_ratio : float
        H / log T to hold.
    limit : bool
        Use the limit of infinite context.

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
    >>> from sigprop import Transformer, beta_profile, propagate
    >>> spec = Transformer(depth=6, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> profile = beta_profile(spec, 0.7)
    >>> [round(float(h), 6) for h in propagate(spec, beta_by_layer=profile.beta).entropy_ratio]
    [0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    """
    require_theory(spec, "beta_profile", limit)
    b = entropy_beta(rem_of(spec, limit), entropy_ratio, np.shape(spec.context))
    state, betas, rhos = initial_state(spec), [], []
    for layer in range(1, spec.depth + 1):
        _require_passed(state, f"block {layer}")
        rhos.append(np.broadcast_to(state.rho, spec.shape))
        betas.append(np.broadcast_to(_held(spec, limit, state, b, f"block {layer}"), spec.shape))
        with np.errstate(all="ignore"):  # what overflows or vanishes is refused
            state = build_block(spec.replace(beta=betas[-1]), limit)(state)
    _require_passed(state, f"block {spec.depth}")
    return BetaProfile(np.stack(betas), np.stack([*rhos, np.broadcast_to(state.rho, spec.shape)]))


def _held(spec: Transformer, limit: bool, state: State, b: Floats, where: str) -> Floats:
    """Inverse temperature at which a block that reads a state has reduced inverse temperature b."""
    with np.errstate(all="ignore"):  # what vanishes is refused
        scale = reduced_beta(1.0, build_block(spec.replace(beta=0.0), limit).read(state))
        beta = np.asarray(b / scale)
    if not np.all(scale > 0):
        raise refusal("tokens that merge", "beta_profile", where=where)
    if not np.all(beta <= RANGES["beta"][1]):
        raise refusal("beta above 1000", "beta_profile", where=where)
    return beta


def _require_passed(state: State, where: str) -> None:
    if not np.all(valid(state.q, state.gap)):
        raise refusal("a state that vanishes or overflows", "beta_profile", where=where)
