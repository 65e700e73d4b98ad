"""Pictures of trainability diagrams: fields, regimes and boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.analysis.diagram.grid import BOUNDARIES, GRADIENT_BOUNDARIES, REGIMES
from sigprop.core.arguments import validated
from sigprop.core.checks import variables
from sigprop.core.errors import DomainError
from sigprop.core.notation import label
from sigprop.plotting.base import (
    BLACK,
    ORANGE,
    PURPLE,
    VERMILLION,
    entitle,
    panels,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["LINES", "boundary_lines", "field", "plot_diagram"]

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
    >>> from sigprop import ModelSpec, diagram
    >>> from sigprop.plotting import plot_diagram
    >>> spec = ModelSpec(depth=12, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
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
