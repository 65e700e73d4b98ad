"""What depends on position: causal masks and rotary codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from sigprop.analysis.rotary_effect import rotary_effect
from sigprop.layers.attention.statistics.correlated_scores import SEED
from sigprop.model.spec import ModelSpec
from sigprop.plotting.positions import plot_positions, plot_rotary
from sigprop.propagation.causal import causal
from sigprop.studies.figures.common import Figure, Lab, attributes

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["POSITIONS", "ROTARY"]

RHO_MAX = 0.9
COLUMNS = {  # of a solution by position: its dimensions, its name in the notation
    "rho": ("layer", "rho"),
    "entropy_ratio": ("block", "entropy_by_position"),
    "first_weight": ("block", "first_weight"),
}


def _positions(lab: Lab) -> xr.Dataset:
    import xarray as xr

    spec = ModelSpec(
        depth=lab.pick(24, 6),
        context=lab.pick(4096, 256),
        causal=True,
        beta=1.5,
        sigma_v2=0.3,
        sigma_w2=0.5,
        rho0=0.1,
    )
    found = causal(spec)
    columns = {
        name: ((dim, "position"), getattr(found, name), attributes(entry))
        for name, (dim, entry) in COLUMNS.items()
    }
    about = {"spec": json.dumps(spec.to_dict()), "random_numbers": "none"}
    return xr.Dataset(columns, {"position": found.position}, about)


def _positions_findings(data: xr.Dataset) -> list[str]:
    rho, weight = np.asarray(data["rho"]), np.asarray(data["first_weight"])
    last = float(data["position"][-1])
    return [
        f"After the last block a token overlaps the earlier ones by {rho[-1, 1]:.4g} at position 2 "
        f"and by {rho[-1, -1]:.4g} at position {last:.0f}.",
        f"The first token receives {weight[0, -1] * last:.3g} times its even share from the last "
        f"one in the first block, {weight[-1, -1] * last:.3g} times in the last.",
    ]


POSITIONS = Figure(
    "positions",
    "Overlap, entropy and weight on the first token by position under a causal mask",
    "Early tokens see few others and merge first; deeper, the overlap is lowest in between. In the "
    "first block the first token has its even share 1/t, in deep blocks many times that: it is "
    "the centre that others moved toward.",
    _positions,
    plot_positions,
    _positions_findings,
)


def _rotary(lab: Lab) -> xr.Dataset:
    spec = ModelSpec(
        depth=lab.pick(16, 4),
        context=lab.pick(1024, 64),
        rotary_base=1e4,
        beta=1.0,
        sigma_v2=0.5,
        sigma_w2=0.2,
        rho0=0.1,
    )
    data = rotary_effect(spec, np.linspace(0, 4, lab.pick(9, 3)), RHO_MAX)
    about = {"spec": json.dumps(spec.to_dict()), "random_numbers": f"fixed, seed {SEED}"}
    return data.assign_attrs(about)


def _rotary_findings(data: xr.Dataset) -> list[str]:
    beta = np.asarray(data["beta"])
    ends = np.asarray(data["gap_ratio"])[:, :, -1]
    alpha, entropy = np.asarray(data["alpha_attn"]), np.asarray(data["entropy_ratio"])[:, :, 0]
    return [
        f"beta = {b:.3g}: 1 - rho after the last block {ends[1, i]:.3g} with rotary positions, "
        f"{ends[0, i]:.3g} without; critical alpha_attn {alpha[1, i]:.3g} and {alpha[0, i]:.3g}; "
        f"relative entropy of the first block {entropy[1, i]:.3g} and {entropy[0, i]:.3g}."
        for i, b in enumerate(beta)
    ]


ROTARY = Figure(
    "rotary",
    "What rotary positions change: collapse, critical residual strength, entropy",
    "Full lines: rotary positions; dashed: without. Rotation keeps scores apart when tokens merge, "
    "so at large beta collapse is slower and attention stays selective in the last block.",
    _rotary,
    plot_rotary,
    _rotary_findings,
)
