"""Residual strength: trainability diagrams, and the critical strength against depth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.analysis.critical import asymptotic_alpha, critical, odds_law_alpha
from sigprop.analysis.diagram.grid import BOUNDARIES, diagram
from sigprop.core.arrays import Floats
from sigprop.core.jobs.cache import Arrays, Job, job
from sigprop.core.notation import label
from sigprop.model.spec import ModelSpec
from sigprop.plotting.base import BLACK, BLUE, GREEN, VERMILLION, panels
from sigprop.plotting.diagram import LINES
from sigprop.simulation import Measured
from sigprop.studies.comparison import deviation
from sigprop.studies.figures.common import Figure, Lab, attributes, findings

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = ["CRITICAL", "TRAINABILITY"]

DEPTHS = (12, 30, 60)
THEORIES = ("limit", "finite")
RHO_MAX = 0.9
ENTROPY_MIN = 0.3  # H / log T below which attention counts as collapsed


def _trainability(lab: Lab) -> xr.Dataset:
    import xarray as xr

    points = lab.pick(160, 40)
    beta, alpha = np.linspace(0, 4, points), np.linspace(0.2, 3, points)
    spec = ModelSpec(
        depth=DEPTHS[-1],
        context=lab.pick(512, 128),
        width=lab.pick(512, 128),
        beta=1.0,
        sigma_v2=0.2,
        sigma_w2=0.2,
        rho0=0.1,
    )
    out = _maps(spec, beta, alpha)
    some = {"beta": np.linspace(0.4, 3.6, 5), "alpha_attn": np.linspace(0.4, 2.8, 5)}
    grid = {"beta": some["beta"][:, None], "alpha_attn": some["alpha_attn"]}
    (found,) = lab.measure([spec.replace(**grid)], lab.pick(4, 2), "trainability")
    out |= _at_depths(spec.replace(**grid), found)
    coords = {"beta": beta, "alpha_attn": alpha, "depth": list(DEPTHS)}
    coords |= {f"some_{name}": values for name, values in some.items()}
    about = {"spec": json.dumps(spec.to_dict()), "seeds": list(found.seeds), "rho_max": RHO_MAX}
    return xr.Dataset(out, coords, about | {"entropy_min": ENTROPY_MIN})


def _maps(spec: ModelSpec, beta: Floats, alpha: Floats) -> dict[str, Any]:
    """Predicted overlap over the grid, with its boundaries, for each theory and depth."""
    out: dict[str, Any] = {}
    for theory in THEORIES:
        for depth in DEPTHS:
            one = diagram(
                spec.replace(depth=depth),
                rho_max=RHO_MAX,
                entropy_min=ENTROPY_MIN,
                theory=theory,
                beta=beta,
                alpha_attn=alpha,
            )
            ending = f"{theory}_{depth}"
            out[f"map_{ending}"] = (
                ("beta", "alpha_attn"),
                np.float32(one["rho"]),
                attributes("rho"),
            )
            for name in BOUNDARIES:
                point = f"{name}_{ending}_point"
                for part in ("x", "y", "curve"):
                    out[f"{name}_{ending}_{part}"] = (point, one[f"{name}_{part}"].values)
    return out


def _at_depths(spec: ModelSpec, found: Measured) -> dict[str, Any]:
    """Measured overlap after each depth, from one run of the deepest, and both predictions."""
    from sigprop.propagation.solve import propagate

    layers = list(DEPTHS)
    dims = ("depth", "some_beta", "some_alpha_attn")
    columns = {"rho": found.mean("rho")[layers], "rho_se": found.se("rho")[layers]}
    columns |= {f"rho_{t}": propagate(spec, t).rho[layers] for t in THEORIES}
    return {name: (dims, values, attributes("rho")) for name, values in columns.items()}


def _trainability_picture(data: xr.Dataset) -> Picture:
    figure, rows = panels(3, 2, width=3.2, height=2.9)
    for row, theory in zip(rows, THEORIES, strict=True):
        for axes, depth in zip(row, DEPTHS, strict=True):
            mesh = _trainability_panel(axes, data, theory, depth)
    figure.colorbar(mesh, ax=rows, label=r"overlap $\rho_L$ after the last block", shrink=0.7)
    lines = rows[0][0].get_legend_handles_labels()
    figure.legend(*lines, fontsize=8, loc="outside upper center", ncols=3)
    return figure


def _trainability_panel(axes: Axes, data: xr.Dataset, theory: str, depth: int) -> Any:
    x, y = np.asarray(data["beta"]), np.asarray(data["alpha_attn"])
    values, ending = np.asarray(data[f"map_{theory}_{depth}"]).T, f"{theory}_{depth}"
    scale: dict[str, Any] = {"cmap": "cividis", "vmin": 0.0, "vmax": 1.0}
    mesh = axes.pcolormesh(x, y, values, shading="nearest", rasterized=True, **scale)
    for name in BOUNDARIES:
        style, colour = LINES[name]
        curve = np.asarray(data[f"{name}_{ending}_curve"])
        for number in np.unique(curve):
            part = curve == number
            cx, cy = (np.asarray(data[f"{name}_{ending}_{k}"])[part] for k in ("x", "y"))
            text = name.replace("_", " ") if number == 0 else None
            axes.plot(cx, cy, color="white", lw=3)
            axes.plot(cx, cy, style, color=colour, lw=1.5, label=text)
    bx, by = np.meshgrid(data["some_beta"], data["some_alpha_attn"], indexing="ij")
    found = data["rho"].sel(depth=depth)
    rim: dict[str, Any] = {"s": 26, "edgecolors": "white", "linewidths": 0.8}
    axes.scatter(bx, by, c=found, label="random networks", zorder=3, **rim, **scale)
    axes.set(xlabel=label("beta"), ylabel=label("alpha_attn"))
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    words = r"limit $T \to \infty$" if theory == "limit" else "finite $T$"
    axes.set_title(f"$L = {depth}$, {words}", fontsize=9)
    return mesh


def _trainability_findings(data: xr.Dataset) -> list[str]:
    out = []
    for depth in DEPTHS:
        out += findings(data.sel(depth=depth), "rho", f"L = {depth}, 25 points: ")
    return out


TRAINABILITY = Figure(
    "trainability",
    "Trainability diagrams at three depths",
    "Below the black line tokens have merged after L blocks (overlap above 0.9); right of the "
    "dashed line entropy falls below 0.3 log T in some block, which at finite T takes a much "
    "larger beta than in the limit. Deeper stacks need a stronger skip branch.",
    _trainability,
    _trainability_picture,
    _trainability_findings,
)


RHO0, VALUE = 0.1, 1.0
CURVES = {  # attention alone at two temperatures, and with a chaotic MLP
    "attention alone, beta = 0.1": {"beta": 0.1, "sigma_w2": 0.0},
    "attention alone, beta = 2": {"beta": 2.0, "sigma_w2": 0.0},
    "with erf MLP, sigma_w2 = 4": {"beta": 0.1, "sigma_w2": 4.0, "activation": "erf"},
}
MEASURED_AT = (2, 4, 8, 16, 32)


def _specs(lab: Lab) -> list[ModelSpec]:
    return [
        ModelSpec(
            depth=MEASURED_AT[-1],
            context=256,
            width=lab.pick(512, 128),
            sigma_v2=VALUE,
            rho0=RHO0,
            **numbers,  # type: ignore[arg-type]
        )
        for numbers in CURVES.values()
    ]


def _critical(lab: Lab) -> xr.Dataset:
    import xarray as xr

    depths = np.unique(np.geomspace(1, lab.pick(256, 64), lab.pick(25, 7)).round().astype(int))
    strengths = np.geomspace(0.3, 6.0, lab.pick(12, 8))
    specs = _specs(lab)
    found = lab.measure(
        [spec.replace(alpha_attn=strengths) for spec in specs], lab.pick(8, 3), "critical"
    )
    crossings = np.stack([_crossings(one, strengths) for one in found])
    number = np.sum(np.isfinite(crossings), axis=1)
    known = np.where(number >= 2, 1.0, np.nan)
    spread = np.nanstd(np.where(np.isfinite(known)[:, None], crossings, 0.0), axis=1, ddof=1)
    mean = np.nanmean(np.where(np.isfinite(known)[:, None], crossings, 0.0), axis=1)
    at, measured = ("curve", "measured_depth"), len(MEASURED_AT)
    solved = _solved(lab, specs, [*MEASURED_AT, *depths])
    out: dict[str, Any] = {
        "alpha": (at, mean * known, attributes("alpha_attn")),
        "alpha_se": (at, spread / np.sqrt(np.maximum(number, 1)) * known),
        "alpha_finite": (at, solved[0][:, :measured], attributes("alpha_attn")),
        "alpha_limit": (at, solved[1][:, :measured], attributes("alpha_attn")),
        "curve_finite": (("curve", "depth"), solved[0][:, measured:]),
        "curve_limit": (("curve", "depth"), solved[1][:, measured:]),
        "odds_law": ("depth", odds_law_alpha(VALUE, RHO0, RHO_MAX, depths)),
        "asymptotic": ("curve", [float(asymptotic_alpha(spec)) for spec in specs]),
    }
    coords = {"curve": list(CURVES), "depth": depths, "measured_depth": list(MEASURED_AT)}
    words = json.dumps([spec.to_dict() for spec in specs])
    about = {"spec": words, "seeds": list(found[0].seeds), "rho_max": RHO_MAX}
    return xr.Dataset(out, coords, about)


def _solved(lab: Lab, specs: list[ModelSpec], depths: list[int]) -> Floats:
    """Critical strength over theory (finite, limit), description and depth."""
    todo = [
        Job(critical_cell, {"spec": s.replace(depth=int(n)).to_dict(), "theory": theory})
        for theory in ("finite", "limit")
        for s in specs
        for n in depths
    ]
    found = lab.gather(todo, "critical: theory")
    return np.reshape([float(f["alpha"]) for f in found], (2, len(specs), len(depths)))


@job("theory.critical")
def critical_cell(spec: dict[str, Any], theory: str) -> Arrays:
    """Solve for the critical strength of one description, as a job.

    Parameters
    ----------
    spec : dict
        As from `ModelSpec.to_dict`.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.

    Returns
    -------
    dict of str to array
        The strength under "alpha".
    """
    return {"alpha": critical(ModelSpec.from_dict(spec), RHO_MAX, theory).alpha_attn}


def _crossings(found: Measured, strengths: Floats) -> Floats:
    """Strength at which each network's overlap crosses the bound, by interpolation of the logit.

    NaN where the strengths that were run do not enclose it.
    """
    gap, rho = (found.samples[name][:, list(MEASURED_AT)] for name in ("gap_ratio", "rho"))
    height = np.log(np.maximum(rho, 1e-12) / gap) - np.log(RHO_MAX / (1 - RHO_MAX))
    above = height > 0
    last = above.shape[-1] - 1 - np.argmax(above[..., ::-1], axis=-1)
    enclosed = above.any(axis=-1) & (last < above.shape[-1] - 1)
    low = np.minimum(last, above.shape[-1] - 2)[..., None]
    h0, h1 = (np.take_along_axis(height, low + i, axis=-1)[..., 0] for i in (0, 1))
    x0, x1 = (np.log(strengths)[low[..., 0] + i] for i in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.exp(x0 + (x1 - x0) * h0 / (h0 - h1))
    return np.where(enclosed, root, np.nan)


def _critical_picture(data: xr.Dataset) -> Picture:
    figure, ((axes,),) = panels(1, width=5.4, height=3.8)
    for i, colour in enumerate((BLUE, VERMILLION, GREEN)):
        one = data.isel(curve=i)
        name = (
            str(one["curve"].values)
            .replace("beta", r"$\beta$")
            .replace("sigma_w2", r"$\sigma_w^2$")
        )
        finite, limit = (one[f"curve_{t}"] for t in ("finite", "limit"))
        finite, limit = finite.where(finite > 0), limit.where(limit > 0)  # 0: no skip is needed
        axes.loglog(data["depth"], finite, color=colour, lw=1.3, label=name)
        axes.loglog(data["depth"], limit, "--", color=colour, lw=0.9)
        axes.errorbar(
            data["measured_depth"], one["alpha"], 4 * one["alpha_se"], fmt="o", ms=4, color=colour
        )
        if np.isfinite(one["asymptotic"]):
            axes.axhline(float(one["asymptotic"]), color=colour, ls="-.", lw=0.8)
            words = r"$\alpha_c$ of infinite depth (E20)"
            axes.text(1.05, float(one["asymptotic"]) * 1.06, words, fontsize=7, color=colour)
    law = data["odds_law"]
    axes.loglog(data["depth"], law, ":", color=BLACK, lw=2, label="odds law (E21)")
    axes.plot([], [], "--", color="0.3", lw=0.9, label=r"limit $T \to \infty$")
    axes.errorbar([], [], [], fmt="o", ms=4, color="0.3", label="measured, 4 s.e.")
    axes.set(xlabel=label("depth"), ylabel=r"critical residual strength $\alpha_c$")
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    return figure


def _critical_findings(data: xr.Dataset) -> list[str]:
    out = []
    for i, name in enumerate(data["curve"].values):
        one = data.isel(curve=i)
        seen = np.isfinite(np.asarray(one["alpha"]))
        mean, se = (np.asarray(one[key])[seen] for key in ("alpha", "alpha_se"))
        for theory in ("finite", "limit"):
            predicted = np.asarray(one[f"alpha_{theory}"])[seen]
            d = deviation(predicted / mean, np.ones_like(mean), se / mean)
            out.append(
                f"{name}, {int(seen.sum())} depths: {theory} theory off by at most "
                f"{d.largest:.2%} ({d.z:.1f} standard errors), on average {d.mean:.2%}."
            )
    finite = np.asarray(data["curve_finite"][0])
    off = float(np.max(np.abs(np.asarray(data["odds_law"]) / finite - 1)))
    return [*out, f"The odds law (E21) is within {off:.2%} of the full map at beta = 0.1."]


CRITICAL = Figure(
    "critical",
    "Critical residual strength against depth",
    "Attention alone needs a skip branch that grows as the square root of depth (dotted: the "
    "closed form). With a chaotic MLP the strength that is needed levels off: dash-dotted is where "
    "tokens stop merging at infinite depth; an overlap below 0.9 takes a little more.",
    _critical,
    _critical_picture,
    _critical_findings,
)
