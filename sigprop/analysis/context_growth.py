r"""Context growth: what temperature, entropy and critical residual strength do as T grows.

Scores of fixed weights keep their variance, so beta, measured in units of :math:`\sqrt{\log T}`
(E1), falls as :math:`\beta_0\sqrt{\log T_0/\log T}` and attention turns uniform. Multiplying the
scores by :math:`\sqrt{\log T/\log T_0}` holds beta; by :math:`\log T/\log T_0` ("log-n scaling")
lets it grow as :math:`\beta_0\sqrt{\log T/\log T_0}`, until attention freezes: random energies
compete at :math:`\sqrt{\log T}`, the advantage of an own key (E2b) at log T. Under a window the
number of keys stops growing, so that there fixed weights keep the entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.analysis.critical import first_root
from sigprop.analysis.entropy import block_beta, entropy_beta
from sigprop.core.arguments import validated
from sigprop.core.arrays import Bools, Floats, finite_or_none
from sigprop.core.errors import NotConvergedError, require
from sigprop.layers.attention.statistics import reduced_beta
from sigprop.layers.attention.statistics.coordinates import MAX_CONTEXT
from sigprop.model.spec import RANGES, ModelSpec
from sigprop.propagation.capabilities import covers, geometry_of, max_context, require_theory
from sigprop.propagation.grids import sweep
from sigprop.propagation.points import parts_of_one_context
from sigprop.propagation.stack import any_norm, build_block, build_stack, initial_state, rem_of

__all__ = ["RULES", "Growth", "grow"]

RULES = {
    "weights": "fixed weights, scores over sqrt(d_h)",
    "sqrt_log": "scores times sqrt(log T / log T0)",
    "log": "scores times log T / log T0",
    "entropy": "scores such that H / log T of block 1 stays",
}


@dataclass(frozen=True)
class Growth:
    """How a description fares at other context lengths, under four rules for its scores.

    Attributes
    ----------
    context : array, shape (N,)
        Context lengths T.
    reference : float
        Context length T0 of the description, where all rules agree.
    beta, score_std, entropy_ratio : arrays, shape (4, N)
        Inverse temperature; score deviation and H / log T of block 1, in the order of `RULES`.
        Under masks and rotary positions the means over queries of `propagate`: of the deviation
        over the keys that a query sees, and of H / log n, n their number.
    rho, alpha_critical : arrays, shape (4, N)
        Overlap after the last block, and smallest alpha_attn that keeps it below rho_max;
        infinite where none suffices. Beyond the tables of the pair statistics (T = 2^20) heads are
        infinitely wide, and a stack without norms has NaN.
    rho_max : float
        Largest overlap accepted.
    notes : tuple of str
        What is left out.

    Notes
    -----
    Beyond the contexts at which positions are told apart (`sigprop.propagation.capabilities`) a
    spec with masks or rotary positions has beta alone, and NaN under the rule "entropy".

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.context_growth import grow
    >>> spec = ModelSpec(depth=2, context=1024, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> grow(spec, [1024, 4096]).beta[1].tolist()
    [1.0, 1.0]
    """

    context: Floats
    reference: float
    beta: Floats
    score_std: Floats
    entropy_ratio: Floats
    rho: Floats
    alpha_critical: Floats
    rho_max: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null.

        Returns
        -------
        dict
            context, and under each rule its columns.
        """
        columns = ("beta", "score_std", "entropy_ratio", "rho", "alpha_critical")
        rules = {
            rule: {name: finite_or_none(getattr(self, name)[i]) for name in columns}
            for i, rule in enumerate(RULES)
        }
        head = {"context": self.context.tolist(), "reference": self.reference}
        return head | {"rho_max": self.rho_max, "rules": rules, "notes": list(self.notes)}


@validated
def grow(
    spec: ModelSpec,
    context: ArrayLike,
    rho_max: float = 0.98,
    progress: Callable[[int], None] | None = None,
) -> Growth:
    """Compute beta, entropy and critical residual strength of a description as its context grows.

    Parameters
    ----------
    spec : ModelSpec
        A single description of finite context T0.
    context : array_like, shape (N,)
        Context lengths, integers in [2, 1e12].
    rho_max : float
        Largest overlap accepted after the last block, in (0, 1).
    progress : callable, optional
        Called with the number of contexts and rules done, of 4 N.

    Returns
    -------
    Growth
        One row for each rule.

    Raises
    ------
    TheoryError
        If the spec has arrays or an infinite context, overrides beta by layer, or `critical` has
        no theory of it (`sigprop.propagation.capabilities`).
    DomainError
        If a context or rho_max is not admissible, or a prefix is longer than a context.

    Notes
    -----
    theory.md E1-E3, E8; log-n scaling: Chiang & Cholak, arXiv 2202.12172. Under masks and rotary
    positions by position, as `propagate` and `critical`: overlaps are those of `sweep`. A window
    and a prefix keep their lengths in tokens.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.context_growth import grow
    >>> spec = ModelSpec(depth=2, context=1024, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> found = grow(spec, [1024, 65536])
    >>> bool(found.entropy_ratio[0, 1] > found.entropy_ratio[1, 1] > found.entropy_ratio[2, 1])
    True
    """
    require_theory(spec, "grow")
    t = np.atleast_1d(np.asarray(context, float))
    one = t.ndim == 1 and t.size > 0
    require(one and np.all(np.isfinite(t)), "context", t, "a list of numbers")
    require((rho_max > 0) & (rho_max < 1), "rho_max", rho_max, "a number in (0, 1)")
    wide = spec.replace(context=t)
    known = np.array([covers(spec.replace(context=one), "grow") for one in t])
    beta = _temperatures(spec, t, known)
    out = np.full((4, *beta.shape), np.nan)
    resolved = geometry_of(spec) != "exchangeable"
    if not resolved:
        out[:2] = _first_block(wide.replace(beta=beta))
    for index, part in (_by_context if resolved else _by_table)(spec, t, beta, known):
        if resolved:
            out[:2, *index] = _first_by_position(part)
        out[2:, *index] = _ends(part, rho_max)
        if progress is not None:
            progress(beta[index].size)
    std, ratio, rho, alpha = out
    reference, notes = float(np.asarray(spec.context)), _notes(spec, t, known)
    return Growth(t, reference, beta, std, ratio, rho, alpha, rho_max, notes)


Part = tuple[tuple[Any, Any], ModelSpec]  # places of rules and contexts, and their description


def _by_context(spec: ModelSpec, t: Floats, beta: Floats, known: Bools) -> Iterator[Part]:
    """All rules at each context at which positions are told apart; at T0 they are one."""
    for i in np.flatnonzero(known):
        rules = 1 if t[i] == spec.context else len(RULES)
        yield (slice(None), slice(i, i + 1)), spec.replace(context=t[i], beta=beta[:rules, i, None])


def _by_table(spec: ModelSpec, t: Floats, beta: Floats, known: Bools) -> Iterator[Part]:
    """All rules at all contexts of the tables, then one by one: each a line of quadratures."""
    near = t <= MAX_CONTEXT
    if near.any():
        yield (slice(None), near), spec.replace(context=t[near], beta=beta[:, near])
    if any_norm(spec) is not None:
        for rule, i in product(range(len(RULES)), np.flatnonzero(~near)):
            far = {"context": t[i], "width": None, "heads": 1, "kv_heads": None}
            yield (rule, i), spec.replace(beta=beta[rule, i], **far)


def _ends(spec: ModelSpec, rho_max: float) -> Floats:
    """Overlap after the last block and critical alpha_attn, shape (2, ...)."""
    state = sweep(spec, entropy=False).state
    return np.stack([1 - state.gap / state.q, first_root(spec, rho_max).alpha_attn])


def _first_block(spec: ModelSpec) -> Floats:
    """Score deviation and H / log T of exchangeable tokens in block 1, shape (2, ...)."""
    one = spec.layers[0]
    heat = _heat(one)
    return np.stack([heat * np.sqrt(np.log(one.context)), rem_of(one).entropy_ratio(heat)])


def _first_by_position(spec: ModelSpec) -> Floats:
    """Mean score deviation and H / log n in block 1 of stacks of one context, shape (2, ...)."""
    out, kind = np.empty((2, prod(spec.shape))), geometry_of(spec)
    for index, part in parts_of_one_context(spec, kind, out.shape[1]):
        stack = build_stack(part, kind)
        seen = stack.blocks[0].forward(stack.initial(part)).attention
        out[:, index] = seen.reduced_beta * np.sqrt(np.log(part.context)), seen.entropy_ratio
    return out.reshape(2, *spec.shape)


def _heat(spec: ModelSpec) -> Floats:
    """Reduced inverse temperature of block 1."""
    return np.asarray(reduced_beta(spec.beta, build_block(spec).read(initial_state(spec))))


def _temperatures(spec: ModelSpec, t: Floats, known: Bools) -> Floats:
    """Inverse temperature under each rule, shape (4, N)."""
    beta = float(np.asarray(spec.beta))
    growth = np.sqrt(np.log(t) / np.log(spec.context))
    rows = [beta / growth, np.full_like(t, beta), beta * growth]
    hold = _held if geometry_of(spec) == "exchangeable" else _held_by_position
    held = np.where(t == spec.context, beta, hold(spec, t, known) if beta else 0.0)
    return np.asarray(np.minimum(np.stack([*rows, held]), RANGES["beta"][1]))


def _held(spec: ModelSpec, t: Floats, known: Bools) -> Floats:
    """Inverse temperatures that hold H / log T of exchangeable tokens in block 1."""
    one = spec.layers[0]
    wide = one.replace(context=t, beta=1.0)
    ratio = float(rem_of(one).entropy_ratio(_heat(one)))
    return np.asarray(entropy_beta(rem_of(wide), ratio, t.shape) / _heat(wide))


def _held_by_position(spec: ModelSpec, t: Floats, known: Bools) -> Floats:
    """Inverse temperatures that hold the mean H / log n of block 1, NaN where none is known.

    That of the spec where all do: queries that see one key, tokens that are alike.
    """
    held, kind = np.where(known, spec.beta, np.nan), geometry_of(spec)
    std, ratio = _first_by_position(spec)
    if not 0 < ratio < 1:
        return held
    guess = float(std / np.sqrt(np.log(spec.context)))
    for i in np.flatnonzero(known & (t != spec.context)):
        one = spec.replace(context=t[i])
        stack = build_stack(one, kind)
        found = block_beta(stack.blocks[0], stack.initial(one), float(ratio), guess)
        if np.isnan(found):
            raise NotConvergedError(f"entropy_ratio = {ratio:g}: no inverse temperature was found")
        held[i] = found
    return held


def _notes(spec: ModelSpec, t: Floats, known: Bools) -> tuple[str, ...]:
    notes = []
    if geometry_of(spec) != "exchangeable":
        notes.append(
            "Positions are told apart: s and H / log T are means over queries, of H / log n where "
            "n keys are seen; rho is the mean over pairs."
        )
        if not known.all():
            notes.append(
                f"Beyond T = {max_context(spec)} they are not: beta alone, where a rule gives it."
            )
    elif np.any(t > MAX_CONTEXT):
        notes.append(
            f"Beyond T = {MAX_CONTEXT:g} overlaps are those of infinitely wide heads."
            if any_norm(spec) is not None
            else f"Beyond T = {MAX_CONTEXT:g} a stack without norms has no table of overlaps: beta "
            "and entropy alone."
        )
    return tuple(notes)
