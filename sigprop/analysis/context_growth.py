r"""Context growth: what temperature, entropy and critical residual strength do as T grows.

Scores of fixed weights keep their variance, so beta, measured in units of :math:`\sqrt{\log T}`
(E1), falls as :math:`\beta_0\sqrt{\log T_0/\log T}` and attention turns uniform. Multiplying the
scores by :math:`\sqrt{\log T/\log T_0}` holds beta; by :math:`\log T/\log T_0` ("log-n scaling")
lets it grow as :math:`\beta_0\sqrt{\log T/\log T_0}`, until attention freezes: random energies
compete at :math:`\sqrt{\log T}`, the advantage of an own key (E2b) at log T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.analysis.critical import critical
from sigprop.analysis.entropy import entropy_beta
from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, finite_or_none
from sigprop.core.errors import require
from sigprop.layers.attention.statistics import reduced_beta
from sigprop.layers.attention.statistics.coordinates import MAX_CONTEXT
from sigprop.model.spec import RANGES, ModelSpec
from sigprop.propagation.capabilities import is_causal, is_rotary, require_theory
from sigprop.propagation.grids import sweep
from sigprop.propagation.stack import any_norm, build_block, initial_state, rem_of

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
    rho, alpha_critical : arrays, shape (4, N)
        Overlap after the last block, and smallest alpha_attn that keeps it below rho_max. Beyond
        the tables of the pair statistics (T = 2^20) heads are infinitely wide, and a stack
        without norms has NaN. alpha_critical is infinite where none suffices.
    rho_max : float
        Largest overlap accepted.
    notes : tuple of str
        What is left out.

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
        Called with one after each context and rule beyond the tables, of 5 to 10 s each.

    Returns
    -------
    Growth
        One row for each rule.

    Raises
    ------
    AssumptionError
        If the spec has arrays or an infinite context.
    DomainError
        If a context or rho_max is not admissible.

    Notes
    -----
    theory.md E1-E3, E8; log-n scaling: Chiang & Cholak, arXiv 2202.12172. The exchangeable theory:
    causal specs are described by their last tokens, rotary positions do not enter.

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
    beta = _temperatures(spec, wide, t)
    specs = wide.replace(beta=beta)
    heat = _heat(specs, beta)
    known = np.flatnonzero(t <= MAX_CONTEXT)
    ends = np.full((2, *beta.shape), np.nan)
    if known.size:
        part = wide.replace(context=t[known], beta=beta[:, known])
        ends[:, :, known] = _ends(part, rho_max)
    for i in np.flatnonzero(t > MAX_CONTEXT) if any_norm(spec) is not None else ():
        for rule, heat_ in enumerate(beta[:, i]):  # one line of quadratures for each
            far = spec.replace(context=t[i], beta=heat_, width=None, heads=1)
            ends[:, rule, i] = _ends(far, rho_max)
            if progress is not None:
                progress(1)
    ratio = rem_of(specs).entropy_ratio(heat)
    std = heat * np.sqrt(np.log(t))
    reference = float(np.asarray(spec.context))
    notes = _notes(spec, known.size < t.size)
    return Growth(t, reference, beta, std, ratio, ends[0], ends[1], rho_max, notes)


def _ends(spec: ModelSpec, rho_max: float) -> Floats:
    """Overlap after the last block and critical alpha_attn, shape (2, ...)."""
    state = sweep(spec, geometry="exchangeable").state
    alpha = critical(spec, rho_max, geometry="exchangeable").alpha_attn
    return np.stack([1 - state.gap / state.q, alpha])


def _temperatures(spec: ModelSpec, wide: ModelSpec, t: Floats) -> Floats:
    """Inverse temperature under each rule, shape (4, N)."""
    beta = float(np.asarray(spec.beta))
    growth = np.sqrt(np.log(t) / np.log(spec.context))
    rows = [beta / growth, np.full_like(t, beta), beta * growth]
    ratio = float(rem_of(spec).entropy_ratio(_heat(spec, beta)))
    held = entropy_beta(rem_of(wide), ratio, t.shape) / _heat(wide, 1.0)
    return np.minimum(np.stack([*rows, held]), RANGES["beta"][1])


def _heat(spec: ModelSpec, beta: Any) -> Floats:
    """Reduced inverse temperature of block 1."""
    return reduced_beta(beta, build_block(spec).read(initial_state(spec)))


def _notes(spec: ModelSpec, beyond: bool) -> tuple[str, ...]:
    notes = []
    if beyond:
        notes.append(
            f"Beyond T = {MAX_CONTEXT:g} overlaps are those of infinitely wide heads."
            if any_norm(spec) is not None
            else f"Beyond T = {MAX_CONTEXT:g} a stack without norms has no table of overlaps: beta "
            "and entropy alone."
        )
    if is_causal(spec):
        notes.append("Causal mask: the numbers describe late tokens, which see the whole context.")
    if is_rotary(spec):
        notes.append("Rotary positions are not in these numbers: they slow the collapse.")
    return tuple(notes)
