"""Gradient of the query matrix against temperature."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.jobs.cache import Job
from sigprop.core.notation import label
from sigprop.model.spec import ModelSpec
from sigprop.plotting.base import BLACK, BLUE, VERMILLION, panels
from sigprop.propagation.gradients.closed_form import gradients, query_gradient_limit
from sigprop.simulation.gradients import query_gradient_cell
from sigprop.studies.figures.common import Figure, Lab, attributes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure as Picture

__all__ = ["GRADIENT"]

ROOT = np.sqrt(2.0)


def _gradient(lab: Lab) -> xr.Dataset:
    import xarray as xr

    widths, contexts = lab.pick(([256, 512], [2048, 4096]), ([64, 128], [256, 512]))
    seeds, beta = lab.pick(8, 3), np.array([0.1, 0.3, 0.6, 1.0, 1.4, 1.8, 2.4, 3.0, 3.6])
    fine = np.linspace(0.02, 3.8, lab.pick(43, 19))
    shape = (len(widths), len(contexts), seeds, len(beta))
    specs = [_spec(d, t, beta) for d in widths for t in contexts]
    todo = [
        Job(query_gradient_cell, {"spec": spec.to_dict(), "seed": seed})
        for spec in specs
        for seed in range(seeds)
    ]
    found = np.reshape([cell["gain"] for cell in lab.gather(todo, "gradient")], shape)
    out: dict[str, Any] = {
        "gain": (("width", "context", "beta"), found.mean(axis=2)),
        "gain_se": (("width", "context", "beta"), found.std(axis=2, ddof=1) / np.sqrt(seeds)),
    }
    for theory in ("finite", "limit"):
        for name, axis in (("beta", beta), ("fine", fine)):
            predict = _exact if theory == "finite" else query_gradient_limit
            values = [predict(_spec(d, t, axis)) for d in widths for t in contexts]
            key = f"gain_{theory}" if name == "beta" else f"curve_{theory}"
            out[key] = (("width", "context", name), np.reshape(values, (*shape[:2], -1)))
    coords = {
        "width": widths,
        "context": contexts,
        "beta": ("beta", beta, attributes("beta")),
        "fine": fine,
    }
    words = json.dumps([spec.to_dict() for spec in specs])
    return xr.Dataset(out, coords, {"spec": words, "seeds": list(range(seeds))})


def _spec(width: int, context: int, beta: Any) -> ModelSpec:
    return ModelSpec(
        depth=1, context=context, width=width, beta=beta, sigma_v2=1.0, sigma_w2=0.0, rho0=0.0
    )


def _exact(spec: ModelSpec) -> Any:
    """Squared gradient of W_Q of the layer alone, at its width: one spec after the other."""
    bare = spec.replace(norm="none")
    return [gradients(bare.replace(beta=beta)).wq[0] for beta in np.atleast_1d(spec.beta)]


def _gradient_picture(data: xr.Dataset) -> Picture:
    figure, (row,) = panels(2, width=3.9, height=3.3)
    for axes, width in zip(row, data["width"].values, strict=True):
        for colour, context in zip((BLUE, VERMILLION), data["context"].values, strict=True):
            one = data.sel(width=width, context=context)
            norm = np.sqrt(one["gain"])
            error = 4 * one["gain_se"] / (2 * norm)
            text = f"measured, $T = {context}$"
            axes.errorbar(one["beta"], norm, error, fmt="o", ms=3.5, color=colour, label=text)
            axes.plot(one["fine"], np.sqrt(one["curve_finite"]), color=colour, lw=1.2)
            axes.plot(one["fine"], np.sqrt(one["curve_limit"]), "--", color=colour, lw=1.0)
        axes.axvline(ROOT, color="0.5", lw=0.8, ls=":")
        axes.text(ROOT - 0.05, 0.98, r"$\beta_c$", ha="right", va="top", color="0.3",
                  transform=axes.get_xaxis_transform())  # fmt: skip
        axes.plot([], [], color=BLACK, lw=1.2, label="theory, finite $T$ (E22)")
        axes.plot([], [], "--", color=BLACK, lw=1.0, label=r"limit $T \to \infty$")
        axes.set(xlabel=label("beta"), xlim=(0, 3.8), ylim=(0, None))
        axes.set_title(f"$d = {width}$", fontsize=9)
    words = r"$\|\partial \mathcal{L}/\partial W_Q\| \,/\, (\sum_t |g_t|^2)^{1/2}$"
    row[0].set_ylabel(words)
    row[0].legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def _gradient_findings(data: xr.Dataset) -> list[str]:
    out = []
    for width in data["width"].values:
        for context in data["context"].values:
            one = data.sel(width=width, context=context)
            norm, exact = np.sqrt(np.asarray(one["gain"])), np.sqrt(np.asarray(one["gain_finite"]))
            off = np.abs(exact / norm - 1)
            far = np.abs(np.sqrt(np.asarray(one["gain_limit"])) / norm - 1)
            z = np.abs(exact**2 - norm**2) / np.asarray(one["gain_se"])
            out.append(
                f"d = {width}, T = {context}: theory at finite T off by at most {off.max():.1%} "
                f"(at beta = {float(one['beta'][off.argmax()]):g}; {z.max():.1f} standard errors), "
                f"on average {off.mean():.1%}; the limit by {far[-1]:.1%} at beta = 3.6 and by "
                "100% below the freezing point, where it is zero."
            )
    return out


GRADIENT = Figure(
    "gradient",
    "Gradient of the query matrix against temperature",
    "The limit says that queries learn nothing below the freezing point; at finite T the gradient "
    "grows smoothly from beta = 0 and is of order one long before.",
    _gradient,
    _gradient_picture,
    _gradient_findings,
)
