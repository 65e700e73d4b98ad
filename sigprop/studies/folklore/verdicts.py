"""Circulating rules of initialisation: what theory gives, what a draw measures, a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.checks import count
from sigprop.core.errors import DomainError
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import require_theory

__all__ = [
    "ROOM",
    "Bench",
    "Claim",
    "Finding",
    "Point",
    "bench",
    "decide",
    "judge_claims",
    "laboratory",
]

ROOM = 0.05  # relative deviation up to which a rule is said to hold; absolute below one
THEORY_ROOM = 0.1  # largest finite-size deviation of theory at the sizes measured here
UNDECIDED = "undecided: theory and measurement differ"
BROKEN = "undecided: its condition does not separate the cases"


class Point(NamedTuple):
    """One case in which a rule is tried.

    Attributes
    ----------
    where : str
        The case.
    claimed : float
        What the rule says.
    theory : float
        What theory gives.
    measured, se : float
        Mean of the draws and its standard error.
    within : bool
        Whether the condition of the rule admits the case.
    """

    where: str
    claimed: float
    theory: float
    measured: float
    se: float
    within: bool = True

    @property
    def agrees(self) -> bool:
        """Whether theory and measurement agree: four standard errors and the finite-size room."""
        off = abs(self.theory - self.measured)
        return off <= 4 * self.se + THEORY_ROOM * abs(self.theory) + 1e-12

    @property
    def holds(self) -> bool:
        """Whether theory and measurement both give what the rule says."""
        room = ROOM * max(1.0, abs(self.claimed))
        near = abs(self.theory - self.claimed) <= room
        return near and abs(self.measured - self.claimed) <= room + 4 * self.se


def decide(points: Sequence[Point], condition: str | None = None) -> str:
    """Verdict from the numbers alone.

    A condition is a statement of theory: it stands only if it separates the cases in which the rule
    holds from those in which it fails. Without one, a rule that fails anywhere is false.

    Parameters
    ----------
    points : sequence of Point
        The cases, on both sides of the condition.
    condition : str, optional
        When the rule holds.

    Returns
    -------
    str
        "holds", "false", "holds if ..." with the condition, or undecided.

    Examples
    --------
    >>> from sigprop.studies.folklore.verdicts import Point, decide
    >>> square, wide = Point("square", 1, 1, 1.01, 0.01), Point("wide", 1, 0.4, 0.4, 0.01, False)
    >>> decide([square, wide], "n_in = n_out")
    'holds if n_in = n_out'
    >>> decide([square, wide])
    'false'
    """
    if not all(p.agrees for p in points):
        return UNDECIDED
    if all(p.holds for p in points):
        return "holds"
    if condition is None or not any(p.holds for p in points):
        return "false"
    if any(p.holds != p.within for p in points):
        return BROKEN
    return f"holds if {condition}"


@dataclass(frozen=True)
class Bench:
    """What the rules are tried on.

    Parameters
    ----------
    config : ModelSpec
        The architecture asked about.
    lab : ModelSpec
        A small one of the same kind, for networks.
    seed : int
        Seed of all draws.
    draws : int
        Draws of each measurement.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.studies.folklore.verdicts import bench
    >>> bench(load("gpt2").spec).lab.norm
    'pre'
    """

    config: ModelSpec
    lab: ModelSpec
    seed: int = 0
    draws: int = 8

    def mean(self, measure: Callable[[np.random.Generator], Any]) -> tuple[Floats, Floats]:
        """Mean and standard error of a measurement over the draws.

        Parameters
        ----------
        measure : callable
            From a generator to a number or an array.

        Returns
        -------
        mean, se : array
            Over the draws.
        """
        seeds = range(self.seed, self.seed + self.draws)
        found = np.array([measure(np.random.default_rng(seed)) for seed in seeds], dtype=float)
        return found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(self.draws)

    def point(
        self,
        where: str,
        claimed: float,
        theory: Any,
        measure: Callable[[np.random.Generator], Any],
        within: bool = True,
    ) -> Point:
        """One case, measured.

        Parameters
        ----------
        where, claimed, theory, within
            As in `Point`.
        measure : callable
            As in `mean`.

        Returns
        -------
        Point
            The case.
        """
        mean, se = self.mean(measure)
        return Point(where, float(claimed), float(theory), float(mean), float(se), bool(within))


@validated
def bench(config: ModelSpec, seed: int = 0, draws: int = 8) -> Bench:
    """Bench of an architecture.

    Parameters
    ----------
    config : ModelSpec
        The architecture, with a width and a finite context.
    seed : int
        Seed of all draws.
    draws : int
        Draws of each measurement, in [2, 10000].

    Returns
    -------
    Bench
        Its networks have width 96, 64 tokens, at most 6 blocks, neither mask nor rotation.

    Raises
    ------
    DomainError, AssumptionError
        If the architecture has arrays, no width or an infinite context.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.studies.folklore.verdicts import bench
    >>> bench(load("bert-base").spec).lab.width
    96
    """
    require_theory(config, "folklore")
    if config.width is None:
        raise DomainError("width", None, "an integer: rules speak of the width")
    count("seed", seed, 0, 2**62)
    count("draws", draws, 2, 10_000)
    norm = "pre" if config.norm == "none" else config.norm
    return Bench(config, laboratory(min(config.depth, 6), norm, config.activation), seed, draws)


def laboratory(depth: int = 6, norm: str = "post", activation: str = "gelu") -> ModelSpec:
    """Small architecture whose networks are measured.

    Parameters
    ----------
    depth : int
        Blocks.
    norm, activation : str
        As of `ModelSpec`.

    Returns
    -------
    ModelSpec
        Of width 96 and 64 tokens.

    Examples
    --------
    >>> from sigprop.studies.folklore.verdicts import laboratory
    >>> laboratory(norm="pre").width
    96
    """
    return ModelSpec(
        depth=depth,
        context=64,
        width=96,
        heads=2,
        norm=norm,
        activation=activation,
        mlp_ratio=4.0,
        beta=1.0,
        sigma_v2=1.0,
        sigma_w2=1.0,
        rho0=0.2,
    )


@dataclass(frozen=True)
class Claim:
    """A rule that circulates.

    Parameters
    ----------
    number : int
        Its number in theory.md section 9.
    claim, source, formula : str
        The rule, where it circulates, and what theory has in its place.
    points : callable
        From a `Bench` to the cases.
    correction : callable
        From the cases to the corrected rule, with their numbers.
    condition : callable, optional
        From a `Bench` to when the rule holds: necessary and sufficient in theory, or a range that
        suffices. None where no condition saves what the rule states.

    Examples
    --------
    >>> from sigprop.studies.folklore.rules import CLAIMS
    >>> CLAIMS[2].formula
    '(6/(n_in + n_out))/3 = 2/(n_in + n_out)'
    """

    number: int
    claim: str
    source: str
    formula: str
    points: Callable[[Bench], list[Point]]
    correction: Callable[[list[Point]], str]
    condition: Callable[[Bench], str] | None = None


@dataclass(frozen=True)
class Finding:
    """What became of a rule.

    Attributes
    ----------
    claim : Claim
        The rule.
    points : tuple of Point
        The cases.
    verdict, correction : str
        From `decide`, and the corrected rule.
    seed : int
        Seed of the draws.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.studies.folklore.rules import CLAIMS
    >>> from sigprop.studies.folklore.verdicts import bench, judge_claims
    >>> judge_claims(CLAIMS, bench(load("bert-base").spec), [2])[0].verdict
    'holds'
    """

    claim: Claim
    points: tuple[Point, ...]
    verdict: str
    correction: str
    seed: int

    @property
    def decisive(self) -> Point:
        """The first case in which the rule fails, else the first."""
        return next((p for p in self.points if not p.holds), self.points[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Returns
        -------
        dict
            number, claim, theory, measured, se (of the decisive case), verdict, correction; and
            source, formula, every case, seed.
        """
        c, p = self.claim, self.decisive
        return {
            "number": c.number,
            "claim": c.claim,
            "source": c.source,
            "formula": c.formula,
            "claimed": p.claimed,
            "theory": p.theory,
            "measured": p.measured,
            "se": p.se,
            "verdict": self.verdict,
            "correction": self.correction,
            "points": [one._asdict() for one in self.points],
            "seed": self.seed,
        }


@validated
def judge_claims(
    claims: dict[int, Claim],
    where: Bench,
    only: Sequence[int] = (),
    progress: Callable[[int], None] | None = None,
) -> list[Finding]:
    """Try rules.

    Parameters
    ----------
    claims : dict of int to Claim
        The rules.
    where : Bench
        What they are tried on.
    only : sequence of int
        Numbers; all if empty.
    progress : callable, optional
        Called with one after each.

    Returns
    -------
    list of Finding
        In order.

    Raises
    ------
    DomainError
        If there is no rule of a number.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.studies.folklore.rules import CLAIMS
    >>> from sigprop.studies.folklore.verdicts import bench, judge_claims
    >>> judge_claims(CLAIMS, bench(load("bert-base").spec), [17])
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: only = 17 is not admissible: expected an integer in [1, 16]
    """
    for number in only:
        count("only", number, min(claims), max(claims))
    out = []
    for number in only or claims:
        claim = claims[number]
        points = claim.points(where)
        condition = None if claim.condition is None else claim.condition(where)
        verdict = decide(points, condition)
        out.append(Finding(claim, tuple(points), verdict, claim.correction(points), where.seed))
        if progress is not None:
            progress(1)
    return out
