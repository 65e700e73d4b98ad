r"""The inverse problem: from targets on overlap, entropy and gradients to scales.

Four measures decide (theory.md section 4): the overlap after the last block, the lowest relative
entropy of attention, the smallest query or key gradient and the largest gradient of any weight,
both gradients as squared norms over the largest one of the last block. `recommend` returns the
design nearest to the given one, in octaves summed over the parameters, that meets every target
with its margin. That sum rather than a sum of squares: it moves few parameters.

The search runs on the exchangeable theory. Where `propagate` resolves positions (causal masks,
rotary positions), the difference of both at the answer is added to the measures and the search
repeated, so that the answer meets its targets in the resolved theory.

Approximation: gradients know of positions only by the number of keys that a query sees. Measured at
T = 128, d = 256 on designs of the causal GPT-2 and OPT: the smallest query gradient within 0.1
decades of the prediction (`decade_margin` is 0.2), the largest gradient 0.05 and 0.3 below it, on
the safe side of its bound: in the first block of a stream that starts small, early tokens attend
to few keys, so their streams grow larger and their gradients smaller, which is left out. At GPT-2's
own beta of 0.12 the query gradient is 0.1 lower than predicted, at OPT's 0.5 higher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sigprop.arrays import Bools, Floats, finite_or_none
from sigprop.block import build_block
from sigprop.errors import AssumptionError, DomainError, require
from sigprop.prescription import Prescription, plain, prescribe
from sigprop.propagate import initial_state
from sigprop.rem import reduced_beta
from sigprop.spec import RANGES, Transformer
from sigprop.targets import CONSTRAINTS, Measures, Targets, measure
from sigprop.validate import scalar

__all__ = ["BOUNDS", "FREE", "ROUNDS", "WIDER", "Design", "recommend"]

FREE = ("beta", "alpha_attn", "alpha_mlp", "sigma_v2", "sigma_o2", "sigma_w1_2", "sigma_w2_2")
BOUNDS = {"beta": (0.01, 2.0), "alpha_attn": (0.1, 10.0), "alpha_mlp": (0.1, 10.0)}
WIDER = {"beta": (0.01, 2.0), "sigma_o2": (1e-3, 10.0), "sigma_w2_2": (1e-3, 10.0)}
POINTS, ROUNDS = 200, 9  # of one grid; grids, each half as wide as the one before
PASSES = 7  # searches, each corrected by the resolved theory at the answer before
AGREE = 0.1  # margins by which the corrected and the resolved theory may differ
MISSED = 1e6  # octaves that a design is priced at where it misses a target
TIGHT = 0.25  # of a margin: how close to its bound a constraint binds
Cost = Callable[[Floats, Floats], Floats]  # of points and their slack
CURVE = 97  # inverse temperatures of the trade-off curve
MAX_BETA = RANGES["beta"][1]


@dataclass(frozen=True)
class Design:
    """An answer of `recommend`.

    Attributes
    ----------
    spec : Transformer
        The design; where none is feasible, the one that comes closest.
    beta_by_layer : array, shape (L,), or None
        Inverse temperature of each block, if it differs.
    feasible : bool
        Whether every target is met with its margin.
    reason : str
        Why the search ended here.
    relaxed : dict of str to float
        Where infeasible, the nearest target that is feasible while the others stay, by name of the
        target; none for one that no design meets beside the others.
    binding : tuple of str
        Constraints that are met with no more than their margin, or missed.
    targets : Targets
        What was asked.
    predicted : Measures
        What the design does, positions resolved where theory does.
    changes : dict of str to tuple of float
        Parameters that moved: from, to.
    curve : dict of str to array
        Trade-off: beta, the four measures and `feasible`, all else as recommended (exchangeable
        theory).
    prescription : Prescription
        Scale of every matrix.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.design import recommend
    >>> from sigprop.targets import Targets
    >>> spec = Transformer(depth=4, context=64, width=64, beta=0.1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> found = recommend(spec, Targets(query_min=1e-2), {"beta": (0.05, 4)})
    >>> found.feasible, found.binding, found.spec.beta > 0.1
    (True, ('query_gradient',), True)
    """

    spec: Transformer
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
            "curve": {name: finite_or_none(values) for name, values in self.curve.items()},
            "huggingface": self.prescription.huggingface(),
            "pytorch": self.prescription.pytorch(),
        }


def recommend(
    spec: Transformer,
    targets: Targets | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    per_layer: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Design:
    """Find the design nearest to a description that meets targets.

    Parameters
    ----------
    spec : Transformer
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
        Called with the number of finished designs.

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

    Notes
    -----
    Nine grids, each half as wide as the one before and around its best point, evaluated as arrays.
    The spec's own values are in every grid that reaches them. The answer is the nearest to the
    resolution of the grids: among 4000 random designs none that is feasible was more than 7 %
    nearer.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.design import recommend
    >>> from sigprop.targets import Targets
    >>> spec = Transformer(depth=6, context=64, width=64, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> found = recommend(spec, Targets(rho_max=0.1), {"beta": (0.1, 2)})
    >>> found.feasible, found.reason.split(":")[0]
    (False, 'no design within the bounds')
    """
    if spec.shape or np.isinf(spec.context):
        raise AssumptionError("a recommendation needs a single spec of finite context")
    wanted = targets or Targets()
    tried: list[tuple[float, _Search]] = []
    for ranges in [BOUNDS, WIDER] if bounds is None else [bounds]:
        search = _Search(spec, wanted, _checked(spec, ranges, per_layer), per_layer, progress)
        tried.append((search.best(), search))
        if tried[-1][0] < MISSED:
            break
    return min(tried, key=lambda one: one[0])[1].finish()


def _checked(
    spec: Transformer, bounds: Mapping[str, tuple[float, float]], per_layer: bool
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


class _Answer(NamedTuple):
    """A point, what it costs and what it does, positions resolved."""

    price: float
    point: Floats
    found: Measures


class _Search:
    """Grids that close in on the nearest design; points are logarithms of the free parameters."""

    def __init__(
        self,
        spec: Transformer,
        targets: Targets,
        ranges: dict[str, tuple[float, float]],
        per_layer: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.spec, self.targets, self.per_layer, self.progress = spec, targets, per_layer, progress
        self.names = tuple(ranges)
        self.low, self.high = np.log(np.array(list(ranges.values()))).T
        own = {name: float(np.asarray(getattr(spec, name))) for name in self.names}
        if per_layer:
            state = build_block(spec).read(initial_state(spec))
            own["beta"] = float(reduced_beta(own["beta"], state))
        start = np.log(np.maximum(list(own.values()), 1e-300))
        self.home = np.clip(start, self.low, self.high)
        self.shift = Measures(*np.array([0.0, 0.0, 1.0, 1.0]))
        self.best_slack = np.full(4, -np.inf)

    def best(self) -> float:
        """Find the nearest design; its price."""
        self.answer = self._settled(self._price)
        return self.answer.price

    def _settled(self, cost_of: Cost) -> _Answer:
        """Search, and correct by the resolved theory at the answer until both agree."""
        tried = []
        for _ in range(PASSES):
            point, flat = self.run(cost_of)
            found = measure(*self.design(point), resolved=True)
            expected, seen = self.slack(flat), self.targets.slack(found)
            tried.append(_Answer(float(cost_of(point, seen)), point, found))
            alike = np.allclose(seen, expected, rtol=AGREE, atol=AGREE)
            if alike and np.array_equal(seen >= 1, expected >= 1):
                break
            self.shift = Measures(
                found.rho - flat.rho,
                found.entropy - flat.entropy,
                found.query / flat.query,
                found.gradient / flat.gradient,
            )
        return min(tried, key=lambda one: one.price)

    def run(self, cost_of: Cost) -> tuple[Floats, Measures]:
        """Point of lowest cost, and its measures in the exchangeable theory."""
        best, cost, found = self.home, np.inf, None
        centre, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        for _ in range(ROUNDS):
            points = self._grid(np.maximum(centre - half, self.low),
                                np.minimum(centre + half, self.high))  # fmt: skip
            seen = self.measure(points)
            slack = self.slack(seen)
            self.best_slack = np.maximum(self.best_slack, slack.max(axis=-1))
            costs = cost_of(points, slack)
            i = int(np.argmin(costs))
            if costs[i] < cost:
                best, cost = points[i], costs[i]
                found = Measures(*(column[i] for column in seen))
            centre, half = best, half / 2
            if self.progress is not None:
                self.progress(1)
        assert found is not None
        return best, found

    def _grid(self, low: Floats, high: Floats) -> Floats:
        """Every combination of evenly spaced values, and the spec's own where they are inside."""
        count = max(3, round(POINTS ** (1 / len(low))))
        axes = [
            np.unique(np.append(np.linspace(a, b, count), np.clip(own, a, b)))
            for a, b, own in zip(low, high, self.home, strict=True)
        ]
        return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)

    def design(self, points: Floats) -> tuple[Transformer, Floats | None]:
        """Describe points of shape (..., k), with temperatures by block."""
        values = np.exp(np.clip(points, self.low, self.high))
        own = np.exp(self.home)
        values = np.where(points == self.home, own, values)
        changes: dict[str, Any] = dict(zip(self.names, np.moveaxis(values, -1, 0), strict=True))
        heat = changes.pop("beta", None) if self.per_layer else None
        if heat is None:
            return replace(self.spec, sigma_w2=None, **changes), None
        spec = replace(self.spec, sigma_w2=None, **changes)
        betas = _steady(spec, heat)
        return spec.replace(beta=betas[0]), betas

    def measure(self, points: Floats) -> Measures:
        """Measures in the exchangeable theory."""
        return measure(*self.design(points))

    def slack(self, found: Measures) -> Floats:
        """Slack once the resolved theory's difference is added, in decades for gradients."""
        shift = self.shift
        return self.targets.slack(
            Measures(
                found.rho + shift.rho,
                found.entropy + shift.entropy,
                found.query * shift.query,
                found.gradient * shift.gradient,
            )
        )

    def _price(self, points: Floats, slack: Floats) -> Floats:
        """Octaves from the spec; where a target is missed, far more, by how much it is."""
        missed = np.maximum(1 - slack, 0).max(axis=0)
        octaves = np.abs(points - self.home).sum(axis=-1) / np.log(2)
        return np.asarray(np.where(missed > 0, MISSED * (1 + np.minimum(missed, 1e200)), octaves))

    def relaxed(self) -> dict[str, float]:
        """Nearest feasible value of each target, the others as they are."""
        out = {}
        for index, field in enumerate(fields(Targets)[:4]):
            slack = self.targets.slack(self._settled(partial(self._alone, index)).found)
            if np.all(np.delete(slack, index) >= 1):
                out[field.name] = self.targets.moved(index, float(slack[index]) - 1)
        return out

    def _alone(self, index: int, points: Floats, slack: Floats) -> Floats:
        """Distance of one target, where all others are met."""
        missed = np.maximum(1 - np.delete(slack, index, axis=0), 0).max(axis=0)
        far = MISSED * (1 + np.minimum(missed, 1e200))
        return np.asarray(np.where(missed > 0, far, -np.minimum(slack[index], 1e5)))

    def finish(self) -> Design:
        """Gather the answer."""
        _, point, found = self.answer
        design, betas = self.design(point)
        slack = self.targets.slack(found)
        feasible = bool(np.all(slack >= 1))
        moved = point != self.home
        values = {n: float(np.asarray(getattr(design, n))) for n in self.names}
        changes = {
            name: (float(np.asarray(getattr(self.spec, name))), values[name])
            for name, far in zip(self.names, moved, strict=True)
            if far or values[name] != float(np.asarray(getattr(self.spec, name)))
        }
        tight, reason = slack <= 1 + TIGHT, self._reason(slack, bool(changes))
        relaxed = {} if feasible else self.relaxed()
        return Design(
            design,
            betas,
            feasible,
            reason,
            relaxed,
            tuple(name for name, t in zip(CONSTRAINTS, tight, strict=True) if t),
            self.targets,
            found,
            changes,
            self._curve(point),
            prescribe(design, betas),
        )

    def _reason(self, slack: Floats, moved: bool) -> str:
        missed = [name for name, room in zip(CONSTRAINTS, slack, strict=True) if not room >= 1]
        if not missed:
            return (
                "nearest design that meets every target with its margin"
                if moved
                else "the description meets every target with its margin as it is"
            )
        alone = [n for n, room in zip(CONSTRAINTS, self.best_slack, strict=True) if not room >= 1]
        why = (
            f"{' and '.join(alone)} cannot be met by any"
            if alone
            else f"each target can be met alone, but {' and '.join(missed)} not beside the others"
        )
        return f"no design within the bounds: {why}; this one comes closest"

    def _curve(self, point: Floats) -> dict[str, Floats | Bools]:
        """Measures against beta, all else as in a point."""
        if "beta" not in self.names:
            return {}
        column = self.names.index("beta")
        points = np.tile(point, (CURVE, 1))
        points[:, column] = np.linspace(self.low[column], self.high[column], CURVE)
        seen = self.measure(points)
        feasible = np.all(self.slack(seen) >= 1, axis=0)
        return {"beta": np.exp(points[:, column]), **seen._asdict(), "feasible": feasible}


def _steady(spec: Transformer, heat: Floats) -> Floats:
    """Temperatures that hold beta sqrt(q gap), and with it the entropy, in every block.

    They end at the largest admissible one, where tokens have merged and the overlap has no hope.
    """
    state, betas = initial_state(spec), []
    for _ in range(spec.depth):
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = reduced_beta(1.0, build_block(spec.replace(beta=0.0)).read(state))
            betas.append(np.nan_to_num(np.minimum(heat / scale, MAX_BETA), nan=MAX_BETA))
            state = build_block(spec.replace(beta=betas[-1]))(state)
    return np.stack(np.broadcast_arrays(*betas))
