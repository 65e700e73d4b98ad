"""Figure of the training runs over a trainability diagram: it draws results, computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.notation import label
from sigprop.plots import BLACK, BLUE, ORANGE, VERMILLION, boundary_lines, panels

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_training"]

GAIN = "nats below guessing by frequency"
LETTERS = "ABCDEFGH"
TICKS = (0.5, 1.0, 2.0, 4.0)
LOOKS = (("o", BLUE), ("s", ORANGE), ("^", BLACK))
NAMES = {
    "pytorch": "PyTorch",
    "glorot-normal": "Xavier",
    "gpt2": "GPT-2",
    "deepnorm": "DeepNorm",
    "recommended": "recommended",
    "recommended-0.5": r"rec. $\rho_L<0.5$",
}


def plot_training(data: xr.Dataset) -> Figure:
    """Gain of every run over the diagram of its depth, and against the predicted distance.

    Parameters
    ----------
    data : xarray.Dataset
        From `sigprop.torch.trainability.experiment`.

    Returns
    -------
    matplotlib.figure.Figure
        One row a learning rate. One map a depth, with the predicted boundaries as curves and the
        marked initialisations as letters, those beyond the axes at the edge, in an orange ring
        where a seed does not train; and the gain against the distance.
    """
    depths, rates = (data[name].values.tolist() for name in ("depth", "rate"))
    figure, rows = panels(len(depths) + 1, len(rates), width=3.9, height=3.5)
    top = float(np.nanmax([np.nanmax(data["gain"]), np.nanmax(data["mark_gain"])]))
    for row, rate in zip(rows, rates, strict=True):
        one = data.sel(rate=rate)
        for axes, depth in zip(row, depths, strict=False):
            mesh = _map(axes, one.sel(depth=depth), top)
            _letters(axes, one.sel(depth=depth))
        figure.colorbar(mesh, ax=row[len(depths) - 1], label=GAIN)
        _scatter(row[-1], one)
    if rows[0][0].get_legend_handles_labels()[0]:  # a boundary crosses the grid
        rows[0][0].legend(fontsize=7, loc="lower left", frameon=True, framealpha=0.85)
    rows[-1][-1].legend(fontsize=7, loc="upper left", frameon=False)
    return figure


def _map(axes: Axes, data: xr.Dataset, top: float) -> Any:
    gain = np.ma.masked_invalid(np.asarray(data["gain"]))
    x, y = np.asarray(data["beta"]), np.asarray(data["alpha_attn"])
    mesh = axes.pcolormesh(x, y, gain.T, cmap="cividis", vmin=0, vmax=top, shading="nearest",
                           rasterized=True)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=label("beta"), ylabel=label("alpha_attn"))
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_yticks([], minor=True)
    trains = np.asarray(data["gain"] > data.attrs["margin"])
    xs, ys = np.meshgrid(x, y, indexing="ij")
    axes.plot(xs[trains], ys[trains], "o", ms=3.5, color="white", mec=BLACK, mew=0.6)
    axes.plot(xs[~trains], ys[~trains], "x", ms=3.5, color="white", mew=0.9)
    depth = int(data["depth"])
    own = [str(name) for name in data if str(name).endswith(f"_{depth}")]
    names = {name: name.removesuffix(f"_{depth}") for name in own}
    boundary_lines(axes, data[own].rename(names))
    rate = float(data["rate"])
    axes.set_title(f"$L = {depth}$, rate {rate:g}: circles train, crosses do not", fontsize=8)
    return mesh


def _letters(axes: Axes, data: xr.Dataset) -> None:
    """Write a letter where each marked initialisation lies, with a key below."""
    ends = [np.log(axes.get_xlim()), np.log(axes.get_ylim())]
    keys = []
    for letter, name in zip(LETTERS, data["scheme"].values.tolist(), strict=False):
        one = data.sel(scheme=name)
        place = np.log([float(one["mark_beta"]), float(one["mark_strength"])])
        x, y = (np.clip((at - a) / (b - a), 0.03, 0.97)
                for at, (a, b) in zip(place, ends, strict=True))  # fmt: skip
        trains = bool((one["mark_gain"] > data.attrs["margin"]).all())
        ring = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": BLACK if trains else VERMILLION}
        axes.text(x, y, letter, transform=axes.transAxes, fontsize=7, ha="center", va="center",
                  bbox=ring)  # fmt: skip
        keys.append(f"{letter} {NAMES.get(name, name)} {float(one['mark_gain'].mean()):.2f}")
    lines = ["   ".join(keys[i : i + 3]) for i in range(0, len(keys), 3)]
    axes.set_xlabel("\n".join([axes.get_xlabel(), *lines]), fontsize=7.5)


def _scatter(axes: Axes, data: xr.Dataset) -> None:
    for (mark, colour), depth in zip(LOOKS, data["depth"].values.tolist(), strict=False):
        one = data.sel(depth=depth)
        axes.errorbar(
            np.ravel(one["distance"]), np.ravel(one["gain"]), np.ravel(one["gain_se"]), fmt=mark,
            ms=3.5, lw=0.6, color=colour, label=f"grid, $L = {depth}$",
        )  # fmt: skip
        axes.plot(
            one["mark_distance"], one["mark_gain"].mean("seed"), mark, ms=7, mfc="none",
            color=VERMILLION, label=f"marked, $L = {depth}$",
        )  # fmt: skip
    axes.axvline(0, color=BLACK, lw=0.8)
    axes.axhline(data.attrs["margin"], color="0.5", lw=0.8, ls=":")
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set(xlabel="predicted distance to the boundary", ylabel=GAIN)
    axes.set_title("right of the line: predicted trainable", fontsize=8)
