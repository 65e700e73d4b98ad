"""What a trainability diagram asks at each point of its grid, and what it calls the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.analysis.diagram.interpolation import Tested, interpolated_sweep
from sigprop.core.arrays import Floats
from sigprop.core.errors import DomainError, require
from sigprop.core.notation import NOTATION
from sigprop.core.version import REVISIONS, __version__
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import geometry_of, require_theory
from sigprop.propagation.gradients.closed_form import gradient_sweep
from sigprop.propagation.grids import FinalStates, sweep
from sigprop.propagation.points import part_of
from sigprop.propagation.solve import whose
from sigprop.propagation.stack import rem_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "BOUNDARIES",
    "FREEZING",
    "INTERPOLATION",
    "REGIMES",
    "UNDEFINED",
    "Plan",
    "attributes",
    "boundary_fields",
]

REGIMES = ("trainable", "rank_collapse", "entropy_collapse", "rank_and_entropy_collapse")
UNDEFINED = -1
GRADIENTS = ("apjn", "score_gradient")
BOUNDARIES = ("rank_collapse", "entropy_collapse")
INTERPOLATION = "interpolation"  # attribute that says which points were solved
FREEZING = np.sqrt(2.0)  # reduced inverse temperature at which attention freezes (E4)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a diagram asks, checked: its axes, and what is computed at each point.

    Attributes
    ----------
    spec : ModelSpec
        The description without the axes.
    axes : dict of str to array
        Values along each dimension.
    rho_max, entropy_min, theory, gradients, geometry
        As in `diagram`.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.diagram.fields import Plan
    >>> spec = ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> Plan.of(spec, {"beta": [0, 1, 2]}).wide.shape
    (3,)
    """

    spec: ModelSpec
    axes: dict[str, Floats]
    rho_max: float
    entropy_min: float | None
    theory: str = "finite"
    gradients: bool = False
    geometry: str = "auto"

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        axes: Mapping[str, ArrayLike],
        rho_max: float = 0.98,
        entropy_min: float | None = None,
        theory: str = "finite",
        gradients: bool = False,
        geometry: str = "auto",
    ) -> Plan:
        """Check what `diagram` is asked.

        Parameters
        ----------
        spec, axes, rho_max, entropy_min, theory, gradients, geometry
            As in `diagram`.

        Returns
        -------
        Plan
            All of it.

        Raises
        ------
        DomainError
            If a value is not admissible.
        TheoryError
            If no theory covers the grid (`sigprop.propagation.capabilities`).
        """
        require(0 < rho_max < 1, "rho_max", rho_max, "a number in (0, 1)")
        if entropy_min is not None:
            require(0 < entropy_min < 1, "entropy_min", entropy_min, "a number in (0, 1)")
        grid = {name: _axis(name, values) for name, values in axes.items()}
        if not grid:
            raise DomainError("axes", (), "at least one parameter with its values")
        plan = cls(spec, grid, rho_max, entropy_min, theory, gradients, geometry)
        require(
            len(plan.wide.shape) == len(grid), "spec", plan.wide.shape, "no arrays but the axes"
        )
        require_theory(plan.wide, "diagram", theory, geometry)
        if gradients:
            require_theory(plan.wide, "late_gradients", theory)
        return plan

    @cached_property
    def wide(self) -> ModelSpec:
        """The description over the whole grid, one dimension for each axis."""
        last = len(self.axes) - 1
        shaped = enumerate(self.axes.items())
        return self.spec.replace(
            **{n: v.reshape((-1,) + (1,) * (last - i)) for i, (n, v) in shaped}
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what `values` computes, in its order."""
        gradients = GRADIENTS if self.gradients else ()
        return ("rho", "gap_ratio", "reduced_beta", "entropy_ratio", *gradients, "regime")

    @property
    def _kind(self) -> str:
        return geometry_of(self.wide, self.theory, self.geometry)

    @property
    def is_interpolated(self) -> bool:
        """Whether points may be interpolated: along axes, where tokens are told apart.

        Not where gradients are asked for.
        """
        return bool(self.axes) and self._kind != "exchangeable" and not self.gradients

    def part(self, box: tuple[slice, ...]) -> Plan:
        """Cut a part out of the grid.

        Parameters
        ----------
        box : tuple of slice
            One slice for each axis.

        Returns
        -------
        Plan
            The same questions at those points.
        """
        axes = {n: v[side] for (n, v), side in zip(self.axes.items(), box, strict=True)}
        return replace(self, spec=part_of(self.wide, box), axes=axes)

    def values(self, progress: Callable[[int], None] | None = None) -> dict[str, NDArray[Any]]:
        """Everything that is computed at each point.

        Parameters
        ----------
        progress : callable, optional
            Called with the number of finished grid points.

        Returns
        -------
        dict of str to array
            The variables of a diagram but its boundaries; the regime is the last.
        """
        return self.answer(progress)[0]

    def answer(
        self, progress: Callable[[int], None] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """Everything that is computed at each point, and how.

        Parameters
        ----------
        progress : callable, optional
            Called with the number of finished grid points.

        Returns
        -------
        data : dict of str to array
            As from `values`.
        how : dict of str to str
            Attributes of a diagram: what was interpolated, unless every point was solved.
        """
        final, tested = self._final(progress)
        size = prod(self.wide.shape)
        how = {} if tested is None or tested.solved == size else {INTERPOLATION: tested.words(size)}
        ratio = _entropy(self.wide, self.theory, final)
        data: dict[str, NDArray[Any]] = {
            "rho": np.asarray(final.state.rho),
            "gap_ratio": np.asarray(final.state.gap / final.state.q),
            "reduced_beta": np.where(final.defined, final.reduced_beta, np.nan),
            "entropy_ratio": ratio,
        }
        if self.gradients:
            data |= dict(zip(GRADIENTS, gradient_sweep(self.wide), strict=True))
        fields = boundary_fields(final, ratio, self.rho_max, self.entropy_min)
        return data | {"regime": _regimes(final, fields)}, how

    def _final(self, progress: Callable[[int], None] | None) -> tuple[FinalStates, Tested | None]:
        """Find the final states, and how they are interpolated where they are."""
        if not self.is_interpolated:
            return sweep(self.wide, self.theory, progress, self.geometry), None
        return interpolated_sweep(self.wide, self.axes, self._kind, progress)

    def labelled(self, data: Mapping[str, Any]) -> xr.Dataset:
        """Arrays over the grid with their names, units and origin.

        Parameters
        ----------
        data : mapping of str to array
            As from `values`, over the whole grid.

        Returns
        -------
        xarray.Dataset
            All of them; attributes say what was asked.
        """
        import xarray as xr

        variables = {n: (tuple(self.axes), v, attributes(n)) for n, v in data.items()}
        coords = {n: (n, v, attributes(n)) for n, v in self.axes.items()}
        return xr.Dataset(variables, coords, self._provenance())

    def _provenance(self) -> dict[str, Any]:
        floor = self.entropy_min
        infinite = self.theory == "limit" or np.isinf(self.spec.context).all()
        asked = {"gradients_of": whose(self.spec)} if self.gradients else {}
        asked |= {"geometry": self.geometry} if self.geometry != "auto" else {}
        return asked | {
            "sigprop_version": __version__,
            "theory_revision": REVISIONS["theory"],
            "spec": json.dumps(self.spec.to_dict()),
            "theory": "limit" if infinite else "finite context",
            "rho_max": self.rho_max,
            "entropy_min": "freezing point" if floor is None else floor,
            "source": "Giorlandino & Goldt, arXiv 2505.24333; finite context: E6-E12",
        }


def _axis(name: str, values: ArrayLike) -> Floats:
    if name not in ModelSpec.numbers():
        raise DomainError(name, "an axis", "one of " + ", ".join(ModelSpec.numbers()))
    out = np.asarray(values, dtype=np.float64)
    require(out.ndim == 1 and out.size >= 2, name, out.shape, "one axis of two or more values")
    require(np.all(np.diff(out) > 0), name, "an axis", "increasing values")
    return out


def _entropy(spec: ModelSpec, theory: str, final: FinalStates) -> Floats:
    """Smallest entropy over the layers: unless known, that at the largest reduced beta."""
    if final.entropy_ratio is not None:
        return final.entropy_ratio
    b = np.where(final.defined & np.isfinite(final.reduced_beta), final.reduced_beta, 0.0)
    ratio = rem_of(spec, theory).entropy_ratio(b)
    return np.where(final.defined, ratio, np.nan)


def boundary_fields(
    final: FinalStates, ratio: Floats, rho_max: float, entropy_min: float | None
) -> dict[str, Floats]:
    """Functions that are positive on the healthy side of each boundary and zero on it.

    Parameters
    ----------
    final : FinalStates
        Final states.
    ratio : array
        Smallest entropy over the layers, H / log T.
    rho_max, entropy_min : float, float or None
        As in `sigprop.analysis.diagram.grid.diagram`.

    Returns
    -------
    dict of str to array
        One for each of `BOUNDARIES`.
    """
    with np.errstate(divide="ignore"):  # merged tokens, and beta = 0
        rank = np.log(final.state.gap / final.state.q / (1 - rho_max))
        cold = -np.log(final.reduced_beta / FREEZING)
    entropy = cold if entropy_min is None else ratio - entropy_min
    return {"rank_collapse": rank, "entropy_collapse": entropy}


def _regimes(final: FinalStates, fields: dict[str, Floats]) -> NDArray[np.int8]:
    code = sum((1 << i) * (fields[name] < 0) for i, name in enumerate(BOUNDARIES))
    return np.where(final.defined, code, UNDEFINED).astype(np.int8)


def attributes(name: str) -> dict[str, Any]:
    """Metadata of a variable or an axis.

    Parameters
    ----------
    name : str
        Name as in `sigprop.core.notation`, or "regime".

    Returns
    -------
    dict
        Meaning, symbol and unit, or what each value stands for.

    Examples
    --------
    >>> from sigprop.analysis.diagram.fields import attributes
    >>> attributes("rho")["long_name"]
    'token overlap'
    """
    if name == "regime":
        return {
            "long_name": "regime",
            "flag_values": np.arange(-1, 4, dtype=np.int8),
            "flag_meanings": " ".join(("undefined", *REGIMES)),
        }
    entry = NOTATION[name]
    return {"long_name": entry.meaning, "symbol": entry.symbol, "units": entry.unit}
