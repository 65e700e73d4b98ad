"""Figure of the training runs over a trainability diagram: it draws results, computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.notation import label
from sigprop.plotting.base import BLACK, BLUE, ORANGE, VERMILLION, letter_panels, panels
from sigprop.plotting.diagram import boundary_lines
from sigprop.studies.training_judge import MODELS, PARTS, PREDICTORS, part
from sigprop.studies.training_prediction import boundary_names

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_training"]

GAINS = {"encoder": "gain on hidden tokens (nats)", "decoder": "gain below bigrams (nats)"}
XLABELS = {
    "distance": "predicted distance to the boundary",
    "product": r"predicted $(1-\rho_L)\,H_{\min}/\log T$",
}
LETTERS = "ABCDEFGH"
TICKS = (0.5, 1.0, 2.0, 4.0)
LOOKS = (("o", BLUE), ("s", ORANGE), ("^", BLACK))
NAMES = {
    "pytorch": "PyTorch",
    "glorot-normal": "Xavier",
    "gpt2": "GPT-2",
    "deepnorm": "DeepNorm",
    "recommended-0.9": r"rec. $\rho_L<0.9$",
    "recommended-0.5": r"rec. $\rho_L<0.5$",
}


def plot_training(data: xr.Dataset) -> Figure:
    """Gain of every run over the diagram of its depth, and against the predicted distance.

    Parameters
    ----------
    data : xarray.Dataset
        From `sigprop.studies.training_judge.judged`.

    Returns
    -------
    matplotlib.figure.Figure
        One row for encoders, one for decoders. One map a depth, with the predicted boundaries as
        curves and the marked initialisations as letters, those beyond the axes at the edge, in an
        orange ring where a seed does not train; and the gain against the distance, and against the
        product (1 - rho_L) H_min / log T where a row has room.
    """
    rows = {model: part(data, model=model) for model in MODELS}
    rows = {model: one for model, one in rows.items() if one.sizes["run"]}
    depths = {model: sorted({*one["depth"].values.tolist()}) for model, one in rows.items()}
    figure, grid = panels(max(map(len, depths.values())) + 1, len(rows), width=3.9, height=3.5)
    for axes, (model, own) in zip(grid, rows.items(), strict=True):
        top = max(float(np.nanmax(own["gain"])), float(data.attrs["margin"]))
        for one, depth in zip(axes, depths[model], strict=False):
            there = part(own, depth=depth)
            mesh = _map(one, part(there, part="grid"), model, depth, top)
            _letters(one, there)
        figure.colorbar(mesh, ax=axes[len(depths[model]) - 1], label=GAINS[model])
        spare = axes[len(depths[model]) : -1]
        for one in spare:
            _scatter(one, own, model, "product")
        _scatter(axes[-1], own, model, "distance")
    letter_panels(grid)
    if grid[0][0].get_legend_handles_labels()[0]:  # a boundary crosses the grid
        grid[0][0].legend(fontsize=7, loc="lower left", frameon=True, framealpha=0.85)
    return figure


def _map(axes: Axes, data: xr.Dataset, model: str, depth: int, top: float) -> Any:
    """Gain over (beta, alpha_attn), and the predicted boundaries."""
    x, y = (np.unique(data[name]) for name in ("beta", "alpha_attn"))
    gain = np.full((len(x), len(y)), np.nan)
    gain[np.searchsorted(x, data["beta"]), np.searchsorted(y, data["alpha_attn"])] = data["gain"]
    mesh = axes.pcolormesh(x, y, np.ma.masked_invalid(gain).T, cmap="cividis", vmin=0, vmax=top,
                           shading="nearest", rasterized=True)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=label("beta"), ylabel=label("alpha_attn"))
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_yticks([], minor=True)
    trains = gain > data.attrs["margin"]
    xs, ys = np.meshgrid(x, y, indexing="ij")
    axes.plot(xs[trains], ys[trains], "o", ms=3.5, color="white", mec=BLACK, mew=0.6)
    axes.plot(xs[~trains], ys[~trains], "x", ms=3.5, color="white", mew=0.9)
    prefix = boundary_names(model, depth)
    own = [str(name) for name in data if str(name).startswith(prefix)]
    boundary_lines(axes, data[own].rename({name: name.removeprefix(prefix) for name in own}))
    axes.set_title(f"{model}, $L = {depth}$: circles train, crosses do not", fontsize=8)
    return mesh


def _letters(axes: Axes, data: xr.Dataset) -> None:
    """Write a letter where each marked initialisation lies, with a key below."""
    ends = [np.log(axes.get_xlim()), np.log(axes.get_ylim())]
    names = [n for n in dict.fromkeys(data["part"].values.tolist()) if n not in PARTS]
    keys = []
    for letter, name in zip(LETTERS, names, strict=False):
        one = part(data, part=name)
        place = np.log([float(one["beta"][0]), float(one["strength"][0])])
        x, y = (np.clip((at - a) / (b - a), 0.03, 0.97)
                for at, (a, b) in zip(place, ends, strict=True))  # fmt: skip
        trains = bool((one["gain"] > data.attrs["margin"]).all())
        ring = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": BLACK if trains else VERMILLION}
        axes.text(x, y, letter, transform=axes.transAxes, fontsize=7, ha="center", va="center",
                  bbox=ring)  # fmt: skip
        keys.append(f"{letter} {NAMES.get(name, name)} {float(one['gain'].mean()):.2f}")
    lines = ["   ".join(keys[i : i + 3]) for i in range(0, len(keys), 3)]
    axes.set_xlabel("\n".join([axes.get_xlabel(), *lines]), fontsize=7.5)


def _scatter(axes: Axes, data: xr.Dataset, model: str, name: str) -> None:
    """Gain against a predictor: the distance, or the product."""
    build = PREDICTORS[name][1]
    marks = data.isel(run=np.flatnonzero(~np.isin(data["part"].values, PARTS)))
    for (mark, colour), depth in zip(LOOKS, np.unique(data["depth"]), strict=False):
        one = part(data, part="grid", depth=depth)
        axes.errorbar(
            build(one), one["gain"], one["gain_se"], fmt=mark, ms=3.5, lw=0.6, color=colour,
            label=f"grid, $L = {depth}$",
        )  # fmt: skip
        other = part(marks, depth=depth)
        if other.sizes["run"]:
            axes.plot(build(other), other["gain"], mark, ms=7, mfc="none", color=VERMILLION,
                      label=f"marked, $L = {depth}$")  # fmt: skip
    axes.axhline(data.attrs["margin"], color="0.5", lw=0.8, ls=":")
    if name == "distance":
        axes.axvline(0, color=BLACK, lw=0.8)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_title("right of the line: predicted trainable", fontsize=8)
    else:
        axes.set(xscale="log")
        axes.set_title("no threshold of its own", fontsize=8)
    axes.set(xlabel=XLABELS[name], ylabel=GAINS[model])
    axes.legend(fontsize=7, loc="upper left", frameon=False)
