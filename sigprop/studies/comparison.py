"""Theory beside measurement: deviations, standard errors, a verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.errors import AssumptionError
from sigprop.core.jobs.execution import Execution, takes_execution
from sigprop.model.huggingface import Reading, load
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import THEORIES
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate
from sigprop.simulation import Measured, Source, simulate

__all__ = ["ALLOWED", "Comparison", "Deviation", "compare", "deviation", "reference", "references"]

SIGMAS = 4.0  # standard errors that chance is granted
# stated accuracy of the finite-context theory at widths of 512 to 720 (README)
ALLOWED = {"rho": 0.015, "y2": 0.01, "overlap": 0.01, "entropy": 0.05}


@dataclass(frozen=True)
class Deviation:
    """How far a prediction is from a measurement, over the layers.

    Attributes
    ----------
    largest, mean : float
        Absolute deviation.
    z : float
        Largest deviation in standard errors, over the layers whose standard error is not zero.
    agrees : bool
        Whether every layer is within four standard errors and the stated accuracy of the theory.

    Examples
    --------
    >>> from sigprop.studies.comparison import Deviation
    >>> Deviation(largest=0.1, mean=0.05, z=2.0, agrees=True).agrees
    True
    """

    largest: float
    mean: float
    z: float
    agrees: bool


def deviation(predicted: Floats, mean: Floats, se: Floats, allowed: float = 0.0) -> Deviation:
    """Compare a prediction with a measured mean and its standard error.

    Parameters
    ----------
    predicted, mean, se : array
        Of one shape; a standard error of NaN counts as zero.
    allowed : float
        Deviation granted on top of four standard errors.

    Returns
    -------
    Deviation
        The comparison.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.studies.comparison import deviation
    >>> deviation(np.array([1.0, 2.0]), np.array([1.0, 2.5]), np.array([0.0, 0.1])).z
    5.0
    """
    error, se = np.abs(predicted - mean), np.nan_to_num(se)
    scaled = error[se > 0] / se[se > 0]
    agrees = bool(np.all(error <= SIGMAS * se + allowed))
    return Deviation(float(error.max()), float(error.mean()), float(scaled.max(initial=0)), agrees)


@dataclass(frozen=True)
class Comparison:
    """One description: prediction at its context length, published limit, and measurement.

    Attributes
    ----------
    name : str
        What it is called.
    spec : ModelSpec
        The description.
    measured : Measured
        Random networks.
    finite, limit : Trajectory
        The predictions.
    deviations : dict of str to dict of str to Deviation
        By theory ("finite", "limit") and statistic.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.studies.comparison import compare
    >>> spec = ModelSpec(depth=2, context=64, width=64, beta=0, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> compare("small", spec, seeds=2).deviations["finite"]["y2"].agrees
    True
    """

    name: str
    spec: ModelSpec
    measured: Measured
    finite: Trajectory
    limit: Trajectory
    deviations: dict[str, dict[str, Deviation]]

    def agrees(self, theory: str = "finite") -> bool:
        """Whether a theory agrees with the measurement in every statistic.

        Parameters
        ----------
        theory : {"finite", "limit"}
            Which one.

        Returns
        -------
        bool
            The verdict.
        """
        return all(d.agrees for d in self.deviations[theory].values())

    @property
    def verdict(self) -> str:
        """The verdict as a sentence."""
        words = {True: "agrees", False: "does not agree"}
        finite, limit = (self.deviations[theory]["rho"] for theory in ("finite", "limit"))
        return (
            f"{self.name}: the theory at T = {self.spec.context:g} {words[self.agrees()]} with "
            f"{len(self.measured.seeds)} random networks (rho off by at most {finite.largest:.3g}, "
            f"{finite.z:.1f} standard errors); the limit {words[self.agrees('limit')]} (by at most "
            f"{limit.largest:.3g}, {limit.z:.1f} standard errors)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Returns
        -------
        dict
            Deviations, verdicts, the three trajectories.
        """
        tables = {
            theory: {name: vars(d) for name, d in rows.items()}
            for theory, rows in self.deviations.items()
        }
        return {
            "name": self.name,
            "spec": self.spec.to_dict(),
            "agrees": {theory: self.agrees(theory) for theory in tables},
            "verdict": self.verdict,
            "notes": list(self.finite.notes),
            "deviations": tables,
            "measured": self.measured.to_dict(),
            "finite": self.finite.to_dict(),
            "limit": self.limit.to_dict(),
        }


def references() -> tuple[str, ...]:
    """Names of the reference specs that come with the package.

    Returns
    -------
    tuple of str
        The names, sorted.

    Examples
    --------
    >>> from sigprop.studies.comparison import references
    >>> len(references())
    6
    """
    names = (path.name for path in files("sigprop.model").joinpath("references").iterdir())
    return tuple(sorted(name[:-5] for name in names if name.endswith(".json")))


@validated
def reference(name: str | Path) -> Reading:
    """Read a reference spec by name, or anything that `sigprop.load` reads.

    Parameters
    ----------
    name : str or Path
        One of `references()`, a file, or an example.

    Returns
    -------
    Reading
        As from `sigprop.load`.

    Raises
    ------
    DomainError
        If it is none of these.

    Examples
    --------
    >>> from sigprop.studies.comparison import reference
    >>> reference("centred_postnorm").spec.attention
    'centred'
    """
    if str(name) not in references() or Path(name).exists():
        return load(name)
    text = files("sigprop.model").joinpath("references", f"{name}.json").read_text(encoding="utf-8")
    return Reading(ModelSpec.from_dict(json.loads(text)), "sigprop", {}, ())


@takes_execution
@validated
def compare(
    name: str,
    spec: ModelSpec,
    seeds: int = 8,
    *,
    source: Source | None = None,
    execution: Execution | None = None,
) -> Comparison:
    """Measure random networks, and predict them at finite context and in the limit.

    The predictions start at the overlap measured at the input.

    Parameters
    ----------
    name : str
        What to call it.
    spec : ModelSpec
        A single description, with a width.
    seeds, source, execution
        As in `sigprop.simulation.simulate`.

    Returns
    -------
    Comparison
        Deviations and verdict.

    Raises
    ------
    DomainError
        If no finite network has this description.
    AssumptionError
        If the spec has arrays.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.studies.comparison import compare
    >>> spec = ModelSpec(depth=2, context=64, width=64, beta=0, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> compare("small", spec, seeds=2).verdict.split(":")[0]
    'small'
    """
    if spec.shape:
        raise AssumptionError(f"a comparison needs a single spec, not shape {spec.shape}")
    found = simulate(spec, seeds, source=source, execution=execution)
    start = spec.replace(rho0=float(found.mean("rho")[0]))
    finite, limit = (propagate(start, theory) for theory in THEORIES)
    tables = {
        "finite": _deviations(finite, found),
        "limit": _deviations(limit, found),
    }
    return Comparison(name, spec, found, finite, limit, tables)


def _deviations(predicted: Trajectory, found: Measured) -> dict[str, Deviation]:
    return {
        name: deviation(getattr(predicted, name), found.mean(name), found.se(name), allowed)
        for name, allowed in ALLOWED.items()
    }
