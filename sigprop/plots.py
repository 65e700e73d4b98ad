"""Figures: they draw results and compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.arguments import validated
from sigprop.diagram import BOUNDARIES, GRADIENT_BOUNDARIES, REGIMES
from sigprop.errors import DomainError
from sigprop.notation import axis, label
from sigprop.plot_base import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    by_block,
    decades,
    entitle,
    legend_above,
    letter_panels,
    panels,
    save_figure,
)
from sigprop.position_plots import draw_distances, draw_gradients, draw_positions
from sigprop.trajectory import Trajectory
from sigprop.validate import variables

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sigprop.backward import Gradients

__all__ = [
    "boundary_lines",
    "field",
    "panels",
    "plot_diagram",
    "plot_rem",
    "plot_trajectory",
    "save_figure",
]

LINES = {
    "rank_collapse": ("-", BLACK),
    "entropy_collapse": ("--", VERMILLION),
    "exploding_gradients": ("-.", ORANGE),
    "vanishing_gradients": (":", ORANGE),
    "vanishing_score_gradients": (":", PURPLE),
}
NAMES = {name: name.replace("_", " ").replace(" and ", " + ") for name in REGIMES}
FLAT, ROOM = 3.0, 0.009  # shape of a regime's name; half its width per letter, in axes


@validated
def plot_trajectory(
    trajectory: Trajectory, title: str = "", gradients: Gradients | None = None
) -> Figure:
    """Overlap and attention entropy against depth; by position or distance, and gradients.

    Parameters
    ----------
    trajectory : Trajectory
        A single trajectory.
    title : str
        Title of the figure.
    gradients : Gradients, optional
        Of the same description.

    Returns
    -------
    matplotlib.figure.Figure
        Rows of three panels: rho, 1 - rho on a logarithmic axis, H / log T with Y_2, each with one
        standard deviation over networks if the trajectory has it; overlap, entropy and weight on
        the first token by position (causal), or overlap by distance, its extremes and scores by
        block (rotary positions); variance of gradients and squared norms of weight gradients.

    Raises
    ------
    DomainError
        If the trajectory or the gradients have array parameters.

    Examples
    --------
    >>> from sigprop import Transformer, propagate
    >>> from sigprop.plots import plot_trajectory
    >>> spec = Transformer(depth=4, context="inf", beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> len(plot_trajectory(propagate(spec)).axes)
    3
    """
    if trajectory.rho.ndim != 1:
        raise DomainError("trajectory", trajectory.rho.shape, "a single trajectory")
    if gradients is not None and gradients.q.ndim != 1:
        raise DomainError("gradients", gradients.q.shape, "those of a single description")

    below: list[Callable[[Any], None]] = []
    if trajectory.positions is not None:
        below.append(partial(draw_positions, positions=trajectory.positions))
    if trajectory.distances is not None:
        below.append(partial(draw_distances, distances=trajectory.distances))
    if gradients is not None:
        below.append(partial(draw_gradients, gradients=gradients))
    figure, rows = panels(3, 1 + len(below), width=3.2, height=2.7)
    _trajectory(rows[0], trajectory)
    for draw, row in zip(below, rows[1:], strict=True):
        draw(row)
    letter_panels(rows)
    if title:
        entitle(figure, title, 10)
    return figure


def _trajectory(row: Any, trajectory: Trajectory) -> None:
    """Overlap, its deficit and attention, block by block."""
    first, second, third = row
    layer = trajectory.layer
    first.plot(layer, trajectory.rho, color=BLUE)
    first.set(ylabel=axis("rho"), ylim=(min(0.0, float(trajectory.rho.min())), 1.02))
    second.semilogy(layer, trajectory.gap / trajectory.q, color=BLUE)
    second.set(ylabel=axis("gap_ratio"))
    decades(second)
    third.plot(layer[1:], trajectory.entropy_ratio, color=GREEN, label=label("entropy_ratio"))
    third.plot(layer[1:], trajectory.y2, "--", color=PURPLE, label=label("y2"))
    _bands(trajectory, first, second, third)
    third.set(ylabel="statistics of attention", ylim=(-0.02, 1.02))
    legend_above(third, columns=1)
    for axes in row:
        by_block(axes)


def _bands(trajectory: Trajectory, first: Axes, second: Axes, third: Axes) -> None:
    """Shade one standard deviation over networks."""
    if trajectory.rho_std is None or trajectory.y2_std is None or trajectory.entropy_std is None:
        return
    layer, gap = trajectory.layer, trajectory.gap / trajectory.q
    log_t = trajectory.entropy / np.maximum(trajectory.entropy_ratio, 1e-300)
    rows = (
        (first, layer, trajectory.rho, trajectory.rho_std, BLUE),
        (second, layer, gap, trajectory.rho_std, BLUE),
        (third, layer[1:], trajectory.y2, trajectory.y2_std, PURPLE),
        (third, layer[1:], trajectory.entropy_ratio, trajectory.entropy_std / log_t, GREEN),
    )
    for axes, x, mean, std, colour in rows:
        low = mean - std if axes is not second else np.maximum(mean - std, mean / 10)
        axes.fill_between(x, low, mean + std, color=colour, alpha=0.2, lw=0)


@validated
def plot_diagram(data: xr.Dataset, title: str = "") -> Figure:
    """Trainability diagram: final overlap and smallest entropy, with their boundaries.

    Parameters
    ----------
    data : xarray.Dataset
        Two-dimensional result of `sigprop.diagram`.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        Left: 1 - rho_L, with the regimes named. Right: smallest H / log T over the layers. In
        both: rank collapse as a full line, entropy collapse as a dashed line.

    Raises
    ------
    DomainError
        If the diagram does not have two dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import Transformer, diagram
    >>> from sigprop.plots import plot_diagram
    >>> spec = Transformer(depth=12, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> d = diagram(spec, beta=np.linspace(0, 3, 7), alpha_attn=np.linspace(0.5, 4, 8))
    >>> len(plot_diagram(d).axes)
    4
    """
    variables("data", data, "rho", "gap_ratio", "entropy_ratio", "regime")
    if data["rho"].ndim != 2:
        raise DomainError("diagram", data["rho"].dims, "two dimensions; select a slice")
    from matplotlib.colors import LogNorm

    figure, ((left, right),) = panels(2, width=4.4, height=3.7)
    gap = np.asarray(data["gap_ratio"])
    floor = max(float(np.nanmin(gap, initial=1.0)), 1e-6)
    top = max(float(np.nanmax(gap, initial=floor)), 2 * floor)
    field(
        left,
        data,
        np.ma.masked_invalid(np.maximum(gap, floor)),
        "gap_ratio",
        "cividis",
        LogNorm(floor, top),
    )
    entropy = np.ma.masked_invalid(np.asarray(data["entropy_ratio"]))
    field(right, data, entropy, "entropy_ratio", "viridis")
    for axes in (left, right):
        boundary_lines(axes, data)
    _regimes(left, data)
    right.legend(
        *left.get_legend_handles_labels(),
        loc="upper right",
        frameon=True,
        framealpha=0.85,
        fontsize=8,
    )
    left.set_title("after the last block", fontsize=9)
    right.set_title("smallest over the blocks", fontsize=9)
    if title:
        entitle(figure, title, 10)
    return figure


def field(
    axes: Axes, data: xr.Dataset, values: Any, name: str, cmap: str, norm: Any = None
) -> None:
    """Draw a field over the two axes of a diagram, with its scale.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    data : xarray.Dataset
        The diagram.
    values : array
        The field.
    name : str
        Its code name.
    cmap : str
        Colours.
    norm : matplotlib.colors.Normalize, optional
        Scale of the colours.
    """
    x, y = (np.asarray(data[d]) for d in data["rho"].dims)
    mesh = axes.pcolormesh(x, y, values.T, cmap=cmap, norm=norm, shading="nearest", rasterized=True)
    axes.set(
        xlabel=label(str(data["rho"].dims[0])),
        ylabel=label(str(data["rho"].dims[1])),
        xlim=(x[0], x[-1]),
        ylim=(y[0], y[-1]),
    )
    assert axes.figure is not None
    axes.figure.colorbar(mesh, ax=axes, label=label(name))


def boundary_lines(axes: Axes, data: xr.Dataset) -> None:
    """Draw the boundaries of a diagram.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    data : xarray.Dataset
        The diagram.
    """
    for name in (*BOUNDARIES, *GRADIENT_BOUNDARIES):
        if f"{name}_x" not in data:
            continue
        style, colour = LINES[name]
        x, y, curve = (np.asarray(data[f"{name}_{part}"]) for part in ("x", "y", "curve"))
        for number in np.unique(curve):
            part = curve == number
            text = name.replace("_", " ") if number == curve.min() else None
            axes.plot(x[part], y[part], color="white", linewidth=3.2)
            axes.plot(x[part], y[part], style, color=colour, linewidth=1.6, label=text)


def _regimes(axes: Axes, data: xr.Dataset) -> None:
    """Name each regime where its text has most room; leave out names that do not fit."""
    from scipy.ndimage import distance_transform_edt

    x, y = (np.asarray(data[d]) for d in data["rho"].dims)
    inside = np.zeros((len(x), len(y)), dtype=bool)
    inside[1:-1, 1:-1] = True  # the frame is no room
    for number, name in enumerate(REGIMES):
        # distance to other regimes, in widths of the axes, for a box FLAT times wider than high
        room = distance_transform_edt(
            inside & (np.asarray(data["regime"]) == number), sampling=(1 / len(x), FLAT / len(y))
        )
        best = np.argwhere(room >= room.max() * (1 - 1e-9))  # the middle one of equals
        i, j = best[np.argmin(np.sum(np.square(best - best.mean(axis=0)), axis=1))]
        if room[i, j] >= ROOM * len(NAMES[name]):
            axes.text(
                x[i],
                y[j],
                NAMES[name],
                ha="center",
                va="center",
                fontsize=7,
                bbox={
                    "boxstyle": "round",
                    "facecolor": "white",
                    "alpha": 0.85,
                    "edgecolor": "none",
                },
            )


@validated
def plot_rem(data: xr.Dataset) -> Figure:
    """Participation ratio, overlap and entropy of attention against temperature.

    Parameters
    ----------
    data : xarray.Dataset
        Result of `sigprop.diagram.rem_curves`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a statistic; the limit in black, the freezing point dotted.

    Examples
    --------
    >>> from sigprop.diagram import rem_curves
    >>> from sigprop.plots import plot_rem
    >>> len(plot_rem(rem_curves([16], [0.5, 1.0])).axes)
    3
    """
    from matplotlib import colormaps

    variables("data", data, "y2", "overlap", "entropy_ratio", "context", "beta")
    figure, (row,) = panels(3, width=3.2)
    lengths = np.asarray(data["context"])
    shades = colormaps["viridis"](np.linspace(0.1, 0.85, max(len(lengths) - 1, 1)))
    for axes, name in zip(row, ("y2", "overlap", "entropy_ratio"), strict=True):
        for i, length in enumerate(lengths):
            limit = np.isinf(length)
            axes.plot(
                data["beta"],
                data[name][i],
                color=BLACK if limit else shades[i],
                linestyle="--" if limit else "-",
                label=r"$T \to \infty$" if limit else f"$T = {length:g}$",
            )
        axes.axvline(np.sqrt(2), color="0.5", linewidth=0.8, linestyle=":")
        axes.set(xlabel=label("reduced_beta"), ylabel=label(name))
    row[0].legend(fontsize=7, frameon=False)
    return figure
