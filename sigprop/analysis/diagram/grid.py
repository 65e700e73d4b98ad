"""Trainability diagrams: grids over parameters, regimes, boundaries as curves."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.analysis.diagram.fields import (
    BOUNDARIES,
    REGIMES,
    UNDEFINED,
    Plan,
    attributes,
    boundary_fields,
)
from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Number
from sigprop.core.checks import variables
from sigprop.core.errors import DomainError, require
from sigprop.core.files import write
from sigprop.core.memory import allow
from sigprop.core.version import __version__
from sigprop.layers.attention.statistics import Finite, Limit, Statistics
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.gradients.closed_form import EXPLODING, VANISHING
from sigprop.propagation.grids import FinalStates

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "BOUNDARIES",
    "GRADIENT_BOUNDARIES",
    "REGIMES",
    "boundaries",
    "diagram",
    "load",
    "rem_curves",
    "save",
    "undefined",
]

STORED = ("rho", "gap_ratio", "entropy_ratio", "reduced_beta")  # what boundaries follow from
POINT = 400  # bytes that a grid point takes, boundaries included
GRADIENT_BOUNDARIES = ("exploding_gradients", "vanishing_gradients", "vanishing_score_gradients")


@validated
def diagram(
    spec: ModelSpec,
    *,
    rho_max: float = 0.98,
    entropy_min: float | None = None,
    theory: str = "finite",
    gradients: bool = False,
    geometry: str = "auto",
    progress: Callable[[int], None] | None = None,
    **axes: ArrayLike,
) -> xr.Dataset:
    """Compute the final overlap, smallest entropy and regime over a grid of parameters.

    Parameters
    ----------
    spec : ModelSpec
        The description; the axes replace its values.
    rho_max : float
        Overlap after the last block above which the stack is called rank collapsed.
    entropy_min : float, optional
        H / log T below which, in any block, it is called entropy collapsed. By default the value at
        the freezing point beta_c of the random energy model (E4), at any context length.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    gradients : bool
        Add the gain of the gradient (apjn) and the smallest query gradient over the value gradient
        (score_gradient), with the boundaries of exploding and vanishing gradients. It takes a few
        times longer, a finite context, and terms in 1/d to first order.
    geometry : {"auto", "exchangeable"}
        As in `sigprop.propagate`.
    progress : callable, optional
        Called with the number of finished grid points.
    **axes : array_like, one dimension each
        Parameter names and their values, in the order of the dimensions.

    Returns
    -------
    xarray.Dataset
        Variables rho, gap_ratio, reduced_beta (largest over layers), entropy_ratio (smallest over
        layers) and regime over the axes, with units; NaN and regime -1 where nothing propagates,
        counted in the attribute `undefined`. With two axes also the boundary curves. The attribute
        `interpolation` says how many points were solved, and the errors of the others at points
        held out; it is absent where every point was solved.

    Raises
    ------
    DomainError
        If an axis is not a parameter, not one-dimensional, not increasing, or inadmissible.

    Notes
    -----
    theory.md section 4; the diagrams of Giorlandino & Goldt, arXiv 2505.24333, are its limit.
    Points of causal and rotary stacks are interpolated (`sigprop.analysis.diagram.interpolation`)
    to 3e-4 of rho, 1e-3 of entropy_ratio, and relative 1e-3 of gap_ratio and reduced_beta;
    `sigprop.sweep` solves every point.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec, diagram
    >>> spec = ModelSpec(depth=12, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> d = diagram(spec, beta=np.linspace(0, 3, 7), alpha_attn=np.linspace(0.5, 4, 8))
    >>> d.rho.shape, d.attrs["undefined"]
    ((7, 8), 0)
    """
    plan = Plan.of(spec, axes, rho_max, entropy_min, theory, gradients, geometry)
    shape = plan.wide.shape
    allow(POINT * prod(shape), "shape", shape, "fewer points, or a store (diagram_store)")
    data, how = plan.answer(progress)
    out = plan.labelled(data)
    out.attrs |= {"undefined": undefined(out)} | how
    return out.assign(boundaries(out)) if len(axes) == 2 else out


@validated
def undefined(data: xr.Dataset) -> int:
    """Count the grid points where nothing propagates.

    Parameters
    ----------
    data : xarray.Dataset
        Diagram.

    Returns
    -------
    int
        How many.

    Examples
    --------
    >>> import xarray
    >>> from sigprop.analysis.diagram.grid import undefined
    >>> undefined(xarray.Dataset({"regime": ("beta", [0, 2, -1])}))
    1
    """
    variables("data", data, "regime")
    return int((data["regime"] == UNDEFINED).sum())


@validated
def boundaries(data: xr.Dataset) -> dict[str, Any]:
    """Boundary curves of a two-dimensional diagram, by linear interpolation of smooth fields.

    Parameters
    ----------
    data : xarray.Dataset
        Diagram, or a two-dimensional slice of a larger one.

    Returns
    -------
    dict
        Variables for `Dataset.assign`: for each boundary B the columns B_x, B_y (the values of
        the first and the second axis) and B_curve (which curve) along the dimension B_point.

    Raises
    ------
    DomainError
        If the data are no diagram, or do not have two dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec, diagram
    >>> spec = ModelSpec(depth=12, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> d = diagram(spec, beta=np.linspace(0, 3, 7), alpha_attn=np.linspace(0.5, 4, 8))
    >>> sorted({int(c) for c in d.entropy_collapse_curve})
    [0]
    """
    from contourpy import LineType, contour_generator

    variables("data", data, *STORED)
    dims = data["rho"].dims
    require(len(dims) == 2, "diagram", dims, "two dimensions; select a slice")
    x, y = (np.asarray(data[d]) for d in dims)
    out: dict[str, Any] = {}
    for name, field in _stored_fields(data).items():
        masked = np.ma.masked_invalid(np.clip(field, -700, 700).T)
        lines: Any = contour_generator(x, y, masked, line_type=LineType.Separate).lines(0.0)
        points = np.concatenate([*lines, np.empty((0, 2))])
        curve = np.repeat(np.arange(len(lines)), [len(line) for line in lines]).astype(np.int32)
        words = {"long_name": f"boundary of {name.replace('_', ' ')}"}
        point = f"{name}_point"
        out[f"{name}_x"] = (point, points[:, 0], words | {"axis_of": dims[0]})
        out[f"{name}_y"] = (point, points[:, 1], words | {"axis_of": dims[1]})
        out[f"{name}_curve"] = (point, curve, words)
    return out


def _stored_fields(data: xr.Dataset) -> dict[str, Floats]:
    """Compute the boundary fields again, from what a diagram stores."""
    ratio = np.asarray(data["entropy_ratio"])
    gap = np.asarray(data["gap_ratio"])
    heat = np.asarray(data["reduced_beta"])
    final = FinalStates(State(np.ones_like(gap), gap), heat, ~np.isnan(gap))
    floor = data.attrs["entropy_min"]
    entropy_min = None if isinstance(floor, str) else float(floor)
    return boundary_fields(
        final, ratio, float(data.attrs["rho_max"]), entropy_min
    ) | _gradient_fields(data)


def _gradient_fields(data: xr.Dataset) -> dict[str, Floats]:
    """Functions that are zero on each gradient boundary, where a diagram has gradients."""
    if "apjn" not in data:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        gain, score = (np.log(np.asarray(data[n])) for n in ("apjn", "score_gradient"))
    fields = (np.log(EXPLODING) - gain, gain - np.log(VANISHING), score - np.log(VANISHING))
    return dict(zip(GRADIENT_BOUNDARIES, fields, strict=True))


@validated
def save(data: xr.Dataset, path: str | Path) -> None:
    """Write a dataset as NetCDF 3, whole or not at all.

    Parameters
    ----------
    data : xarray.Dataset
        What to write.
    path : str or Path
        Target; an existing file is replaced.

    Raises
    ------
    DomainError
        If the file cannot be written; nothing is left then.

    Examples
    --------
    >>> import tempfile, xarray
    >>> from sigprop.analysis.diagram.grid import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(xarray.Dataset({"rho": ("layer", [0.1, 0.2])}), f"{folder}/a.nc")
    ...     load(f"{folder}/a.nc").rho.size
    2
    """
    try:
        content = bytes(data.to_netcdf(engine="scipy"))
    except UnicodeError as error:
        raise DomainError("out", str(path), f"data that NetCDF can hold ({error})") from None
    write(path, content)


@validated
def load(path: str | Path) -> xr.Dataset:
    """Read a dataset that `save` wrote.

    Parameters
    ----------
    path : str or Path
        NetCDF file.

    Returns
    -------
    xarray.Dataset
        In memory.

    Raises
    ------
    DomainError
        If the file is missing or not NetCDF.

    Examples
    --------
    >>> import tempfile, xarray
    >>> from sigprop.analysis.diagram.grid import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(xarray.Dataset({"rho": ("layer", [0.25, 0.5])}), f"{folder}/a.nc")
    ...     load(f"{folder}/a.nc").rho.values.tolist()
    [0.25, 0.5]
    """
    import xarray as xr

    try:
        with xr.open_dataset(path, engine="scipy") as data:
            return data.load()
    except (OSError, ValueError, TypeError) as error:
        raise DomainError("file", str(path), f"a NetCDF file ({error})") from None


@validated
def rem_curves(contexts: ArrayLike, beta: ArrayLike, overlap_at: float = 0.5) -> xr.Dataset:
    """Statistics of attention against temperature, at several lengths and in the limit.

    Parameters
    ----------
    contexts : array_like
        Context lengths.
    beta : array_like
        Reduced inverse temperatures.
    overlap_at : float
        Correlation of the two queries for the overlap, in [0, 1].

    Returns
    -------
    xarray.Dataset
        y2, overlap and entropy_ratio over (context, beta), the limit as context = inf.

    Examples
    --------
    >>> from sigprop.analysis.diagram.grid import rem_curves
    >>> rem_curves([16, 256], [0.5, 1.0]).y2.shape
    (3, 2)
    """
    import xarray as xr

    lengths, b = np.atleast_1d(contexts).astype(float), np.atleast_1d(beta).astype(float)
    known = (lengths >= 2) & (lengths <= 1e12)
    require(known, "contexts", lengths, "numbers in [2, 1e12]")
    require((b >= 0) & (b <= 1e3), "beta", b, "a number in [0, 1000]")
    require(0 <= overlap_at <= 1, "overlap_at", overlap_at, "a number in [0, 1]")
    rems: list[Statistics] = [*(Finite(t) for t in lengths), Limit()]
    weights = [rem.weights(b, np.full_like(b, 1 - overlap_at)) for rem in rems]
    columns: dict[str, list[Number]] = {
        "y2": [w.y2 for w in weights],
        "overlap": [w.y2 - w.spread for w in weights],
        "entropy_ratio": [rem.entropy_ratio(b) for rem in rems],
    }
    return xr.Dataset(
        {n: (("context", "beta"), np.stack(v), attributes(n)) for n, v in columns.items()},
        coords={"context": [*lengths, np.inf], "beta": b},
        attrs={"sigprop_version": __version__, "overlap_at": overlap_at},
    )
