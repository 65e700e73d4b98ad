"""What theory says of training runs, from their descriptions alone; needs no torch.

The boundaries are those of `sigprop.diagram` at its defaults; nothing is adjusted to runs. The
distance to them is the smaller of log(gap_L/(q_L (1 - rho_max))) and -log(b/sqrt 2), b the largest
beta sqrt(q gap) over the blocks (E4): positive in the regime that the diagram calls trainable.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.analysis.diagram.fields import Plan, boundary_fields
from sigprop.analysis.diagram.grid import diagram
from sigprop.core.arrays import Floats
from sigprop.core.version import __version__
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import is_causal
from sigprop.propagation.grids import FinalStates

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SCANNED", "boundary_names", "predict"]

SCANNED = ("beta", "alpha_attn")
RHO_MAX = 0.98  # the default of `sigprop.analysis.diagram.grid.diagram`
COLUMNS = ("rho", "gap_ratio", "reduced_beta", "entropy_ratio", "apjn", "score_gradient")
FINE = 40  # points of the predicted boundaries along each axis


def predict(runs: xr.Dataset) -> xr.Dataset:
    """Predict every run of an experiment, and the boundaries of its grids.

    Parameters
    ----------
    runs : xarray.Dataset
        From `sigprop.torch.training.experiment.experiment`.

    Returns
    -------
    xarray.Dataset
        Over run: rho after the last block, gap_ratio 1 - rho, reduced_beta, entropy_ratio (the
        smallest over the blocks), regime, distance; of encoders apjn and score_gradient, as in
        `sigprop.analysis.diagram.grid.diagram`, which describe exchangeable tokens and are NaN
        under a mask; strength alpha_attn/(sigma_v sigma_o), that of the diagram's unit variances.
        For each grid the boundary curves, named as `boundary_names` does.

    Examples
    --------
    >>> import json, xarray
    >>> from sigprop import ModelSpec
    >>> from sigprop.studies.training_prediction import predict
    >>> spec = ModelSpec(depth=2, context=8, width=16, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> row = {"model": "encoder", "part": "gpt2", "spec": json.dumps(spec.to_dict()), "depth": 2}
    >>> float(predict(xarray.Dataset({n: ("run", [v]) for n, v in row.items()})).rho[0].round(3))
    0.404
    """
    import xarray as xr

    specs = [ModelSpec.from_dict(json.loads(text)) for text in runs["spec"].values.tolist()]
    stacks: dict[str, list[int]] = {}
    for row, spec in enumerate(specs):
        stacks.setdefault(json.dumps(spec.replace(beta=0.0, alpha_attn=0.0).to_dict()), []).append(
            row
        )
    out = {name: np.full(len(specs), np.nan) for name in (*COLUMNS, "distance", "regime")}
    for rows in stacks.values():
        scanned = {n: np.array([getattr(specs[i], n) for i in rows]) for n in SCANNED}
        for name, values in _predicted(specs[rows[0]].replace(**scanned)).items():
            out[name][rows] = values
    data: dict[str, Any] = {name: ("run", values) for name, values in out.items()}
    data["strength"] = ("run", np.array([_strength(spec) for spec in specs]))
    data["regime"] = ("run", out["regime"].astype(np.int8))
    about = {"sigprop_version": __version__, "rho_max": RHO_MAX, "entropy_min": "freezing point"}
    return xr.Dataset(data | _curves(runs, specs), attrs=about)


def _predicted(spec: ModelSpec) -> dict[str, Floats]:
    """Fields of the diagram at an array of specs, and the distance to its nearer boundary."""
    data = Plan(spec, {}, RHO_MAX, None, gradients=not is_causal(spec)).values()
    gap, heat = data["gap_ratio"], data["reduced_beta"]
    final = FinalStates(State(np.ones_like(gap), gap), heat, np.isfinite(gap))
    fields = boundary_fields(final, data["entropy_ratio"], RHO_MAX, None)
    return data | {"distance": np.minimum(*fields.values())}


def _strength(spec: ModelSpec) -> float:
    """alpha_attn/(sigma_v sigma_o)."""
    return float(spec.alpha_attn / np.sqrt(np.asarray(spec.sigma_v2) * spec.sigma_o2))


def boundary_names(model: str, depth: int) -> str:
    """Prefix of the boundary curves of a grid.

    Parameters
    ----------
    model : str
        "encoder" or "decoder".
    depth : int
        Number of blocks.

    Returns
    -------
    str
        As in encoder_6_rank_collapse_x.

    Examples
    --------
    >>> from sigprop.studies.training_prediction import boundary_names
    >>> boundary_names("encoder", 6)
    'encoder_6_'
    """
    return f"{model}_{depth}_"


def _curves(runs: xr.Dataset, specs: list[ModelSpec]) -> dict[str, Any]:
    """Boundaries of each grid, on a finer one over the same range."""
    out: dict[str, Any] = {}
    grid = runs["part"].values == "grid"
    stacks: dict[tuple[str, int], list[int]] = {}
    for row in np.flatnonzero(grid).tolist():
        stacks.setdefault((str(runs["model"].values[row]), specs[row].depth), []).append(row)
    for (model, depth), rows in stacks.items():
        ends = {n: np.array([getattr(specs[i], n) for i in rows]) for n in SCANNED}
        if any(v.min() == v.max() for v in ends.values()):
            continue  # rows of a table that was cut have no area
        fine: dict[str, Any] = {n: np.geomspace(v.min(), v.max(), FINE) for n, v in ends.items()}
        prefix = boundary_names(model, depth)
        for name, curve in diagram(specs[rows[0]], **fine).items():
            if str(name).endswith(("_x", "_y", "_curve")):
                out[prefix + str(name)] = (prefix + str(curve.dims[0]), curve.values)
    return out
