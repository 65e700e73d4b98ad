r"""The inverse problem: from targets on overlap, entropy and gradients to scales.

Four measures decide (theory.md section 4): the overlap after the last block, the lowest relative
entropy of attention, the smallest query or key gradient and the largest gradient of any weight,
both gradients as squared norms over the largest one of the last block. `recommend` returns the
design nearest to the given one, in octaves summed over the parameters (0.05 more for each that
moves at all), that meets every target with its margin. That sum rather than a sum of squares: it
moves few parameters.

The search runs on the exchangeable theory. Where `propagate` tells pairs apart by position or
distance, the difference of both at the answer is added to the measures and the search repeated, so
that the answer meets its targets in the theory by position; the trade-off is that of that theory at
every beta. Where beta differs by block, gradients of the trade-off are those of late tokens, times
the factor that makes them those by position at the answer. Measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from sigprop.analysis.design.search import MISSED, TIGHT, Answer, Search
from sigprop.analysis.design.targets import CONSTRAINTS, Measures, Targets
from sigprop.core.arguments import validated
from sigprop.core.arrays import Bools, Floats, finite_or_none
from sigprop.core.checks import scalar
from sigprop.core.errors import DomainError, require
from sigprop.model.export import Prescription, plain, prescribe
from sigprop.model.spec import RANGES, ModelSpec
from sigprop.propagation.capabilities import has_positions, require_theory

__all__ = ["BOUNDS", "FREE", "WIDER", "Design", "Interrupted", "recommend"]

FREE = ("beta", "alpha_attn", "alpha_mlp", "sigma_v2", "sigma_o2", "sigma_w1_2", "sigma_w2_2")
BOUNDS = {"beta": (0.01, 2.0), "alpha_attn": (0.1, 10.0), "alpha_mlp": (0.1, 10.0)}
WIDER = {"beta": (0.01, 2.0), "sigma_o2": (1e-3, 10.0), "sigma_w2_2": (1e-3, 10.0)}


@dataclass(frozen=True)
class Design:
    """An answer of `recommend`.

    Attributes
    ----------
    spec : ModelSpec
        The design; where none is feasible, the one that comes closest.
    beta_by_layer : array, shape (L,), or None
        Inverse temperature of each block, if it differs.
    feasible : bool
        Whether every target is met with its margin.
    reason : str
        Why the search ended here.
    relaxed : dict of str to float
        Where infeasible, the nearest value of each target that binds which is feasible while the
        others stay; none for one that no design meets beside the others.
    binding : tuple of str
        Constraints that are met with no more than their margin, or missed.
    targets : Targets
        What was asked.
    predicted : Measures
        What the design does, by position where theory is.
    changes : dict of str to tuple of float
        Parameters that moved: from, to.
    curve : dict of str to array
        Trade-off: beta, the four measures, `feasible` and `recommended` (the design itself), all
        else as recommended, as of `propagate` and `gradients`.
    prescription : Prescription
        Scale of every matrix.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.design.recommend import recommend
    >>> from sigprop.analysis.design.targets import Targets
    >>> spec = ModelSpec(depth=4, context=64, width=64, beta=0.1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> wanted = Targets(rho_max=0.9, query_min=1e-2)
    >>> found = recommend(spec, wanted, {"beta": (0.05, 4)})
    >>> found.feasible, found.binding, found.spec.beta > 0.1
    (True, ('query_gradient',), True)
    """

    spec: ModelSpec
    beta_by_layer: Floats | None
    feasible: bool
    reason: str
    relaxed: dict[str, float]
    binding: tuple[str, ...]
    targets: Targets
    predicted: Measures
    changes: dict[str, tuple[float, float]]
    curve: dict[str, Floats | Bools]
    prescription: Prescription

    @property
    def margins(self) -> dict[str, dict[str, float | bool]]:
        """Target, prediction and distance between them, in margins, by constraint."""
        bounds = [getattr(self.targets, f.name) for f in fields(Targets)][:4]
        rows = zip(CONSTRAINTS, bounds, self.predicted, self.slack, strict=True)
        return {
            name: {
                "target": bound,
                "predicted": float(value),
                "slack": float(room),
                "met": bool(room >= 1),
            }
            for name, bound, value, room in rows
        }

    @property
    def slack(self) -> Floats:
        """Distance from each bound, in margins."""
        return self.targets.slack(self.predicted)

    @property
    def notes(self) -> tuple[str, ...]:
        """What gradients leave out."""
        if self.beta_by_layer is None or not has_positions(self.spec):
            return ()
        return ("Gradients of the trade-off are those of late tokens, scaled to the design's.",)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null.

        Returns
        -------
        dict
            spec, std per matrix, binding, margins, predicted, ...
        """
        layers = self.beta_by_layer
        margins = {n: {k: finite_or_none(v) for k, v in m.items()} for n, m in self.margins.items()}
        return {
            "spec": self.spec.to_dict(),
            "beta_by_layer": None if layers is None else layers.tolist(),
            "std": plain(self.prescription.std()),
            "feasible": self.feasible,
            "reason": self.reason,
            "relaxed": self.relaxed,
            "binding": list(self.binding),
            "margins": margins,
            "predicted": {n: finite_or_none(v) for n, v in self.predicted._asdict().items()},
            "changes": {name: list(ends) for name, ends in self.changes.items()},
            "notes": list(self.notes),
            "curve": {name: finite_or_none(values) for name, values in self.curve.items()},
            "huggingface": self.prescription.huggingface(),
            "pytorch": self.prescription.pytorch(),
        }


class Interrupted(KeyboardInterrupt):
    """A search that Ctrl-C ended, with the best design until then.

    Parameters
    ----------
    found : Design
        The design; nothing is relaxed in it, and it has no trade-off.

    Examples
    --------
    >>> from sigprop.analysis.design.recommend import Interrupted
    >>> issubclass(Interrupted, KeyboardInterrupt)
    True
    """

    def __init__(self, found: Design) -> None:
        super().__init__(found.reason)
        self.found = found


@validated
def recommend(
    spec: ModelSpec,
    targets: Targets | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    per_layer: bool = False,
    progress: Callable[[int], None] | None = None,
    expected: Callable[[int], None] | None = None,
) -> Design:
    """Find the design nearest to a description that meets targets.

    Parameters
    ----------
    spec : ModelSpec
        The architecture, and the design to stay close to: single, of finite context.
    targets : Targets, optional
        What to achieve.
    bounds : mapping of str to (low, high), optional
        Parameters that may change (any of `FREE`) and their ranges, 0 < low < high. Without it
        `BOUNDS`, and where these do not suffice `WIDER`: the matrices that write to the stream in
        place of the strengths of the skips, since a stream that starts far below its branches (the
        embeddings of GPT-2 and LLaMA) has gradients in its first block that no skip mends. Others
        keep their value. Above beta sqrt(q gap) = 6 (lower for narrow heads)
        attention is computed by quadrature, a thousand times slower.
    per_layer : bool
        Choose the inverse temperature of each block such that all blocks have one entropy; the
        bounds of beta then hold for beta sqrt(q gap), the reduced one.
    progress : callable, optional
        Called with the number of evaluations done, or no longer needed: of one grid, or of one
        design by position.
    expected : callable, optional
        Called with the number of evaluations that the next part takes at most: their sum is that
        of all calls of `progress`.

    Returns
    -------
    Design
        The answer; `feasible` is false where none exists within the bounds, with the reason.

    Raises
    ------
    DomainError
        If a name or a range is not admissible.
    AssumptionError
        If the spec has arrays or an infinite context.
    Interrupted
        On Ctrl-C once the description itself is measured.

    Notes
    -----
    Nine grids, each half as wide as the one before and around its best point, evaluated as arrays.
    The spec's own values are in every grid that reaches them. The answer is the nearest to the
    resolution of the grids; where the corrected theory does not settle on one, the one that comes
    closest is moved by the theory by position until it will do.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.design.recommend import recommend
    >>> from sigprop.analysis.design.targets import Targets
    >>> spec = ModelSpec(depth=6, context=64, width=64, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> found = recommend(spec, Targets(rho_max=0.1), {"beta": (0.1, 2)})
    >>> found.feasible, found.reason.split(":")[0]
    (False, 'no design within the bounds')
    """
    require_theory(spec, "recommend")
    wanted = targets or Targets()
    tried: list[Search] = []
    try:
        for ranges in [BOUNDS, WIDER] if bounds is None else [bounds]:
            free = _checked(spec, ranges, per_layer)
            tried.append(Search(spec, wanted, free, per_layer, progress, expected))
            if tried[-1].best() < MISSED:
                break
        else:
            _nearest(tried)[0].polish()
        return _gathered(*_nearest(tried))
    except KeyboardInterrupt:
        if not tried or tried[0].answer is None:
            raise
        raise Interrupted(_gathered(*_nearest(tried), interrupted=True)) from None


def _nearest(tried: list[Search]) -> tuple[Search, Answer]:
    """Search with the cheapest answer, and the answer."""
    answers = [(search, search.answer) for search in tried if search.answer is not None]
    return min(answers, key=lambda one: one[1].price)


def _checked(
    spec: ModelSpec, bounds: Mapping[str, tuple[float, float]], per_layer: bool
) -> dict[str, tuple[float, float]]:
    """Ranges that are admissible and matter; a parallel block has one residual strength."""
    out = {}
    for name, ends in bounds.items():
        if name not in FREE:
            raise DomainError("bounds", name, "one of " + ", ".join(FREE))
        if not isinstance(ends, tuple | list) or len(ends) != 2:
            raise DomainError(name, ends, "a range (low, high)")
        low, high = (scalar(name, end, 1e-9, RANGES[name][1]) for end in ends)
        require(low < high, name, f"{low:g}:{high:g}", "low < high")
        out[name] = (low, high)
    if spec.parallel:
        out.pop("alpha_mlp", None)
    if per_layer and "beta" not in out:
        raise DomainError("per_layer", per_layer, "beta among the bounds")
    if not out:
        raise DomainError("bounds", dict(bounds), "at least one parameter that may change")
    return out


def _gathered(search: Search, answer: Answer, interrupted: bool = False) -> Design:
    _, point, found = answer
    design, betas = search.design(point)
    slack = search.targets.slack(found)
    feasible = bool(np.all(slack >= 1))
    moved = point != search.home
    values = {n: float(np.asarray(getattr(design, n))) for n in search.names}
    changes = {
        name: (float(np.asarray(getattr(search.spec, name))), values[name])
        for name, far in zip(search.names, moved, strict=True)
        if far or values[name] != float(np.asarray(getattr(search.spec, name)))
    }
    tight = slack <= 1 + TIGHT
    if interrupted:
        missed = [name for name, room in zip(CONSTRAINTS, slack, strict=True) if not room >= 1]
        reason = "interrupted: the best design so far"
        reason += f" misses {' and '.join(missed)}" if missed else " meets every target"
    else:
        reason = _reason(search, slack, bool(changes))
    relaxed = {} if feasible or interrupted else search.relaxed(answer)
    return Design(
        design,
        betas,
        feasible,
        reason,
        relaxed,
        tuple(name for name, t in zip(CONSTRAINTS, tight, strict=True) if t),
        search.targets,
        found,
        changes,
        {} if interrupted else search.curve(answer),
        prescribe(design, betas),
    )


def _reason(search: Search, slack: Floats, moved: bool) -> str:
    missed = [name for name, room in zip(CONSTRAINTS, slack, strict=True) if not room >= 1]
    if not missed:
        return (
            "nearest design that meets every target with its margin"
            if moved
            else "the description meets every target with its margin as it is"
        )
    alone = [n for n, room in zip(CONSTRAINTS, search.best_slack, strict=True) if not room >= 1]
    why = (
        f"{' and '.join(alone)} cannot be met by any"
        if alone
        else f"each target can be met alone, but {' and '.join(missed)} not beside the others"
    )
    return f"no design within the bounds: {why}; this one comes closest"
