"""Many descriptions at once: those that differ in numbers alone are solved as one array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from sigprop.analysis.critical import Critical, first_root
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import TheoryError, geometry_of
from sigprop.propagation.gradients.closed_form import Gradients
from sigprop.propagation.positional import both_ways, gradients
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate
from sigprop.propagation.trajectories import of_one

__all__ = ["Solved", "solved"]

NUMBERS = frozenset(ModelSpec.numbers()) - {"sigma_w2"}  # that schemes may differ in

Words = tuple[str, ...]


@dataclass(frozen=True)
class Solved:
    """What is known of descriptions that were solved together.

    Parameters
    ----------
    strengths, trajectories, exponents : dict
        Critical strengths, trajectories and exponents of the gradients, by the words of the
        descriptions.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.together import Solved
    >>> Solved().strength(load("gpt2").spec) is None
    True
    """

    strengths: dict[Words, Critical] = field(default_factory=dict)
    trajectories: dict[Words, Trajectory] = field(default_factory=dict)
    exponents: dict[Words, float] = field(default_factory=dict)

    def strength(self, spec: ModelSpec) -> Critical | None:
        """Critical strength of a description, if known."""
        return self.strengths.get(_words(spec))

    def trajectory(self, spec: ModelSpec) -> Trajectory | None:
        """Trajectory of a description, if known."""
        return self.trajectories.get(_words(spec))

    def exponent(self, spec: ModelSpec) -> float | None:
        """Exponent of the gradients of a description, if known."""
        return self.exponents.get(_words(spec))


def solved(specs: Iterable[ModelSpec], rho_max: float) -> Solved:
    """Solve many descriptions together.

    Parameters
    ----------
    specs : iterable of ModelSpec
        Descriptions without arrays.
    rho_max : float
        As in `sigprop.critical`.

    Returns
    -------
    Solved
        Strengths, without identity parts, where the theory covers them; of stacks whose tokens are
        told apart without these parts the trajectories that reach the end, without what is known
        position by position, and the exponents of the gradients that pass.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.schemes.together import solved
    >>> spec = ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> found = solved([spec, spec.replace(beta=2)], 0.2)
    >>> round(float(found.strength(spec.replace(beta=2)).alpha_attn), 6)
    3.857...
    """
    found, every = Solved(), [spec.without_identity() for spec in specs]
    for words, wide in _arrays(every):
        with suppress(TheoryError):  # which each of them meets when it is asked for alone
            strength = first_root(wide, rho_max)
            found.strengths.update((one, strength.at(k)) for k, one in enumerate(words))
    for words, wide in _arrays(spec for spec in every if geometry_of(spec) != "exchangeable"):
        with suppress(TheoryError):
            for index, whole, passed in _both_ways(wide):
                for k, one in enumerate(words[n] for n in index):
                    if whole.ended[k] == wide.depth:
                        found.trajectories[one] = of_one(whole, k)
                    if np.isfinite(passed.exponent[k]):
                        found.exponents[one] = float(passed.exponent[k])
    return found


def _both_ways(wide: ModelSpec) -> Iterator[tuple[Iterable[int], Trajectory, Gradients]]:
    """Places of descriptions in an array, their trajectories and gradients."""
    if geometry_of(wide) == "position":
        yield from both_ways(wide)
    else:
        yield range(wide.shape[0]), propagate(wide), gradients(wide)


def _words(spec: ModelSpec) -> Words:
    return tuple(repr(getattr(spec, f.name)) for f in fields(spec))


def _arrays(specs: Iterable[ModelSpec]) -> Iterator[tuple[list[Words], ModelSpec]]:
    """Descriptions that differ in numbers alone, each once by its words, as one array."""
    alike: dict[Words, dict[Words, ModelSpec]] = {}
    for spec in specs:
        kind = (repr(getattr(spec, f.name)) for f in fields(spec) if f.name not in NUMBERS)
        alike.setdefault(tuple(kind), {})[_words(spec)] = spec
    for row in alike.values():
        first, *_ = parts = list(row.values())
        wide: dict[str, Any] = {n: np.array([getattr(part, n) for part in parts]) for n in NUMBERS}
        yield list(row), replace(first, **wide, sigma_w2=None)
