"""A picture of attention's statistics against temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.checks import variables
from sigprop.core.notation import label
from sigprop.plotting.base import (
    BLACK,
    panels,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


__all__ = ["plot_rem"]


@validated
def plot_rem(data: xr.Dataset) -> Figure:
    """Participation ratio, overlap and entropy of attention against temperature.

    Parameters
    ----------
    data : xarray.Dataset
        Result of `sigprop.analysis.diagram.grid.rem_curves`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a statistic; the limit in black, the freezing point dotted.

    Examples
    --------
    >>> from sigprop.analysis.diagram.grid import rem_curves
    >>> from sigprop.plotting import plot_rem
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
