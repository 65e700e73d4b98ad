"""The verdict on one spec: what the theory says, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.analysis.critical import Critical, first_root
from sigprop.analysis.diagram.fields import FREEZING
from sigprop.analysis.fixed_points import Exponents, exponents
from sigprop.core.arguments import validated
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import covers, require_theory
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate, whose

__all__ = ["Verdict", "judge"]

UNIFORM = 0.99  # H / log T above which attention hardly selects


@dataclass(frozen=True)
class Verdict:
    """What becomes of the signal.

    Attributes
    ----------
    verdict : str
        "trainable", "rank collapse", "entropy collapse" or both, joined by "and".
    reasons : tuple of str
        Why, one sentence each.
    trajectory : Trajectory
        The layers.
    critical : Critical
        Critical residual strength of attention at this depth, as of
        `sigprop.analysis.critical.first_root`.
    exponents : Exponents or None
        Exponents at rho = 1; None without norms.
    exponents_of : str or None
        Whose exponents these are: "all tokens", or under a mask or rotary positions, which they
        leave out, "late tokens without mask or rotation".
    collapse_layer : int or None
        First block after which the overlap exceeds rho_max.
    beta_freezing : float
        Inverse temperature at which the first block would freeze.
    """

    verdict: str
    reasons: tuple[str, ...]
    trajectory: Trajectory
    critical: Critical
    exponents: Exponents | None
    exponents_of: str | None
    collapse_layer: int | None
    beta_freezing: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Returns
        -------
        dict
            Nested like the attributes.
        """
        out = {k: v for k, v in vars(self).items() if k not in ("trajectory", "exponents")}
        out["critical"], out["reasons"] = self.critical.to_dict(), list(self.reasons)
        rates = {} if self.exponents is None else vars(self.exponents)
        plain = {k: float(v) if np.isfinite(v) else None for k, v in rates.items()}
        return out | {"exponents": plain, "trajectory": self.trajectory.to_dict()}


@validated
def judge(spec: ModelSpec, rho_max: float = 0.98, theory: str = "finite") -> Verdict:
    """Verdict on a single spec.

    Parameters
    ----------
    spec : ModelSpec
        Without arrays.
    rho_max : float
        Overlap above which the stack is called rank collapsed, in (0, 1).
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.

    Returns
    -------
    Verdict
        Verdict, reasons and the numbers behind them.

    Raises
    ------
    AssumptionError
        If the spec has arrays.
    DomainError
        If rho_max is outside (0, 1).

    Notes
    -----
    Critical strength and exponents leave identity parts out; exponents leave out mask and rotary
    positions too, and `exponents_of` says so.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.verdict import judge
    >>> spec = ModelSpec(depth=48, context=512, beta=0.5, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> judge(spec).verdict
    'rank collapse'
    """
    return judged(spec, rho_max, theory)


def judged(
    spec: ModelSpec,
    rho_max: float,
    theory: str = "finite",
    strength: Critical | None = None,
    trajectory: Trajectory | None = None,
) -> Verdict:
    """Verdict on a single spec whose critical strength and trajectory may be known."""
    require_theory(spec, "judge", theory)
    plain = spec.without_identity()
    found = first_root(plain, rho_max, theory) if strength is None else strength
    trajectory = propagate(spec, theory) if trajectory is None else trajectory
    late = (theory, "exchangeable")
    rates = exponents(plain, *late) if covers(plain, "exponents", *late) else None
    above = np.flatnonzero(trajectory.rho > rho_max)
    rank, cold = bool(trajectory.rho[-1] > rho_max), bool(trajectory.reduced_beta.max() > FREEZING)
    kinds = [name for name, holds in (("rank collapse", rank), ("entropy collapse", cold)) if holds]
    heat = trajectory.reduced_beta[0]
    beta = float(np.asarray(spec.beta))
    return Verdict(
        " and ".join(kinds) or "trainable",
        tuple(_reasons(spec, trajectory, found, rho_max, rank, cold)),
        trajectory,
        found,
        rates,
        None if rates is None else whose(spec),
        int(above[0]) if above.size else None,
        float(beta * FREEZING / heat) if heat > 0 else None,
    )


def _reasons(
    spec: ModelSpec, t: Trajectory, found: Critical, rho_max: float, rank: bool, cold: bool
) -> list[str]:
    alpha, low = float(found.alpha_attn), float(t.entropy_ratio.min())
    out = [
        f"After {spec.depth} blocks two tokens overlap by {float(t.rho[-1]):.6g} "
        f"({'above' if rank else 'at most'} {rho_max:g})."
    ]
    if rank and np.isfinite(alpha):
        out.append(f"alpha_attn >= {alpha:.4g} would keep the overlap below {rho_max:g}.")
    elif rank:
        out.append(f"No alpha_attn alone keeps it below {rho_max:g}: the MLP collapses tokens too.")
    block = int(t.entropy_ratio.argmin()) + 1
    where = f"{low:.4g} log T in block {block}"
    out.append(
        f"Attention is frozen on few keys: entropy {where}."
        if cold
        else f"Attention stays above the freezing point: lowest entropy {where}."
    )
    if low > UNIFORM:
        out.append("Attention is almost uniform everywhere: queries and keys hardly matter yet.")
    return out
