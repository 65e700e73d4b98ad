"""Grids that close in on the design nearest to a description that meets targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sigprop.analysis.design.targets import RANGES as ADMISSIBLE
from sigprop.analysis.design.targets import Correction, Measures, Targets, measure
from sigprop.core.arrays import Bools, Floats
from sigprop.layers.attention.statistics import reduced_beta
from sigprop.layers.state import State
from sigprop.model.spec import RANGES, ModelSpec
from sigprop.propagation.capabilities import geometry_of
from sigprop.propagation.stack import build_block, initial_state, iterate

__all__ = ["MISSED", "TIGHT", "Answer", "Search"]

POINTS, ROUNDS = 200, 9  # of one grid; grids, each half as wide as the one before
POLISH = 60  # designs by position that are tried where no pass ends in one that will do
FIRST = -0.1  # first step of each logarithm there
PASSES = 7  # searches, each corrected by the resolved theory at the answer before
AGREE = 0.025  # of a margin and of the slack: how far corrected and resolved theory may differ
COARSE = 0.1  # margins that they may differ by where no design meets the targets
ROOM = 2 * AGREE  # margins beyond what is needed, so that agreement is enough
ANOTHER = 0.05  # octaves that one more parameter costs: grids are no finer
MISSED = 1e6  # octaves that a design is priced at where it misses a target
TIGHT = 0.25  # of a margin: how close to its bound a constraint binds
CURVE, BY_POSITION = 97, 9  # inverse temperatures of the trade-off curve, and by position
MAX_BETA = RANGES["beta"][1]
Cost = Callable[[Floats, Floats], Floats]  # of points and their slack
Count = Callable[[int], None]


class Answer(NamedTuple):
    """A point, what it costs and what it does, by position."""

    price: float
    point: Floats
    found: Measures


class Search:
    """Grids that close in on the nearest design; points are logarithms of the free parameters.

    Every evaluation is kept: the first grids of a pass are mostly those of the one before.
    """

    def __init__(
        self,
        spec: ModelSpec,
        targets: Targets,
        ranges: dict[str, tuple[float, float]],
        per_layer: bool,
        progress: Count | None,
        expected: Count | None = None,
    ) -> None:
        self.spec, self.targets, self.per_layer = spec, targets, per_layer
        self.progress, self.expected = progress, expected
        self.known: dict[tuple[bytes, bool], Measures] = {}
        self.answer: Answer | None = None
        self.names = tuple(ranges)
        self.low, self.high = np.log(np.array(list(ranges.values()))).T
        own = {name: float(np.asarray(getattr(spec, name))) for name in self.names}
        if per_layer:
            state = build_block(spec).read(initial_state(spec))
            own["beta"] = float(reduced_beta(own["beta"], state))
        start = np.log(np.maximum(list(own.values()), 1e-300))
        self.home = np.clip(start, self.low, self.high)
        self.correction = Correction()
        self.best_slack = np.full(4, -np.inf)

    def best(self) -> float:
        """Find the nearest design, the description itself if it will do; its price."""
        self._tell(self.expected, 1)
        found = self.resolved(self.home)
        own = Answer(float(self._price(self.home, self.targets.slack(found))), self.home, found)
        self.answer = own
        if own.price >= MISSED:
            for better in self._settling(self._price):
                self.answer = better  # an interruption leaves the best so far
        return self.answer.price

    def polish(self) -> None:
        """Move the best answer by the theory by position alone, until it meets the targets.

        For descriptions in which both theories differ from design to design. The largest shortfall
        is minimised by the method of Nelder and Mead, with `POLISH` evaluations at most.
        """
        from scipy.optimize import minimize

        self._tell(self.expected, POLISH)
        start, left = self.answer, POLISH
        assert start is not None

        def shortfall(point: Floats) -> float:
            nonlocal left
            left -= 1
            found = self.resolved(point)
            slack = self.targets.slack(found)
            price = float(self._price(point, slack))
            if self.answer is None or price < self.answer.price:
                self.answer = Answer(price, point.copy(), found)
            return float(np.nan_to_num(np.max(1 + AGREE - slack), nan=MISSED))

        def stop(intermediate_result: Any) -> None:
            if intermediate_result.fun <= 0:
                raise StopIteration

        first = np.where(start.point + FIRST < self.low, -FIRST, FIRST)
        simplex = np.vstack([start.point, start.point + np.diag(first)])
        minimize(
            shortfall,
            start.point,
            method="Nelder-Mead",
            bounds=list(zip(self.low, self.high, strict=True)),
            callback=stop,
            options={"maxfev": POLISH, "initial_simplex": simplex, "fatol": 1e-3, "xatol": 1e-4},
        )
        self._tell(self.progress, max(left, 0))

    def _settling(self, cost_of: Cost) -> Iterator[Answer]:
        """Search, correct by the theory by position at the answer until both agree; best so far."""
        best: Answer | None = None
        left = PASSES * (ROUNDS + 1)
        self._tell(self.expected, left)
        for _ in range(PASSES):
            point, flat = self.run(cost_of)
            found = self.resolved(point)
            expected = self.targets.slack(self.correction(flat))
            seen = self.targets.slack(found)
            answer = Answer(float(cost_of(point, seen)), point, found)
            best = answer if best is None or answer.price < best.price else best
            yield best
            left -= ROUNDS + 1
            met = cost_of(point, expected) < MISSED
            if np.allclose(seen, expected, rtol=AGREE, atol=AGREE if met else COARSE):
                break
            self.correction = Correction.between(flat, found)
        self._tell(self.progress, left)

    @staticmethod
    def _tell(count: Count | None, number: int) -> None:
        if count is not None and number:
            count(number)

    def run(self, cost_of: Cost) -> tuple[Floats, Measures]:
        """Point of lowest cost, and its measures in the exchangeable theory."""
        best, cost, found = self.home, np.inf, None
        centre, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        for _ in range(ROUNDS):
            points = self._grid(np.maximum(centre - half, self.low),
                                np.minimum(centre + half, self.high))  # fmt: skip
            seen = self.measure(points)
            slack = self.targets.slack(self.correction(seen))
            self.best_slack = np.maximum(self.best_slack, slack.max(axis=-1))
            costs = cost_of(points, slack - ROOM)
            i = int(np.argmin(costs))
            if costs[i] < cost:
                best, cost = points[i], costs[i]
                found = Measures(*(column[i] for column in seen))
            centre, half = best, half / 2
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

    def design(self, points: Floats) -> tuple[ModelSpec, Floats | None]:
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
        return self._evaluated(points, False)

    def resolved(self, point: Floats) -> Measures:
        """Measures of one point by position."""
        return self._evaluated(point, True)

    def _evaluated(self, points: Floats, resolved: bool) -> Measures:
        key = (points.tobytes(), resolved)
        if key not in self.known:
            self.known[key] = measure(*self.design(points), resolved=resolved)
        self._tell(self.progress, 1)
        return self.known[key]

    def _price(self, points: Floats, slack: Floats) -> Floats:
        """Octaves from the spec; where a target is missed, far more, by how much it is."""
        missed = np.maximum(1 - slack, 0).max(axis=0)
        octaves = np.abs(points - self.home).sum(axis=-1) / np.log(2)
        octaves += ANOTHER * np.count_nonzero(points != self.home, axis=-1)
        return np.asarray(np.where(missed > 0, MISSED * (1 + np.minimum(missed, 1e200)), octaves))

    def relaxed(self, answer: Answer) -> dict[str, float]:
        """Nearest feasible value of each target that binds, the others as they are."""
        out, names = {}, [field.name for field in fields(Targets)]
        tight = self.targets.slack(answer.found) <= 1 + TIGHT
        for index in np.flatnonzero(tight).tolist():
            *_, nearest = self._settling(partial(self._alone, index))
            slack = self.targets.slack(nearest.found)
            bound = self.targets.moved(index, float(slack[index]) - 1)
            low, high = ADMISSIBLE[names[index]]
            if np.all(np.delete(slack, index) >= 1) and low <= bound <= high:
                out[names[index]] = bound
        return out

    def _alone(self, index: int, points: Floats, slack: Floats) -> Floats:
        """Distance of one target, where all others are met."""
        missed = np.maximum(1 - np.delete(slack, index, axis=0), 0).max(axis=0)
        far = MISSED * (1 + np.minimum(missed, 1e200))
        return np.asarray(np.where(missed > 0, far, -np.minimum(slack[index], 1e5)))

    def curve(self, answer: Answer) -> dict[str, Floats | Bools]:
        """Measures against beta, all else as in an answer, whose own beta is among them.

        Overlap and entropy are those of `propagate`, by position where it tells them apart.
        Corrected as the answer was: there they are the measures that decided.
        """
        if "beta" not in self.names:
            return {}
        column, resolved = self.names.index("beta"), geometry_of(self.spec) != "exchangeable"
        points = np.tile(answer.point, (BY_POSITION if resolved else CURVE, 1))
        points[:, column] = np.linspace(self.low[column], self.high[column], len(points))
        here = int(np.argmin(np.abs(points[:, column] - answer.point[column])))
        points[here] = answer.point
        self._tell(self.expected, 1)
        curve, recommended = self._evaluated(points, resolved), np.arange(len(points)) == here
        corrected = Correction.between(Measures(*(v[here] for v in curve)), answer.found)(curve)
        pairs = zip(answer.found, corrected, strict=True)
        seen = Measures(*(np.where(recommended, own, values) for own, values in pairs))
        return {
            "beta": np.exp(points[:, column]),
            **seen._asdict(),
            "feasible": np.all(self.targets.slack(seen) >= 1, axis=0),
            "recommended": recommended,
        }


def _steady(spec: ModelSpec, heat: Floats) -> Floats:
    """Temperatures that hold beta sqrt(q gap), and with it the entropy, in every block.

    They end at the largest admissible one, where tokens have merged and the overlap has no hope, or
    where the state overflows. Those of late tokens, without mask and rotation.
    """

    def step(last: tuple[State, Floats], layer: ModelSpec) -> tuple[State, Floats]:
        state, _ = last
        scale = reduced_beta(1.0, build_block(layer.replace(beta=0.0)).read(state))
        beta = np.nan_to_num(np.minimum(heat / scale, MAX_BETA), nan=MAX_BETA)
        return build_block(layer.replace(beta=beta))(state), beta

    start = initial_state(spec), np.zeros(())
    with np.errstate(all="ignore"):
        betas = [beta for _, beta in iterate(start, spec.layers, step)]
    return np.stack(np.broadcast_arrays(*betas))
