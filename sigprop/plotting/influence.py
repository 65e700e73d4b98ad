"""A picture of how far back the last token looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.notation import axis
from sigprop.plotting.base import (
    BLACK,
    BLUE,
    GREEN,
    VERMILLION,
    decades,
    entitle,
    legend_above,
    letter_panels,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_influence"]

LEAST = 1e-6  # share below which nothing is told apart
PLACE = "position, part of the context"


@validated
def plot_influence(shares: ArrayLike, title: str = "") -> Figure:
    """Influence of positions on the last token: by position, and over the whole depth.

    Parameters
    ----------
    shares : array_like, shape (L, bins)
        Result of `sigprop.analysis.influence.influence`.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        Shares of equal ranges of positions, for the input of the first, the middle and the last
        block, with the even share dotted; and for every block, as colours over the even share.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.plotting.influence import plot_influence
    >>> len(plot_influence(np.full((4, 8), 1 / 8)).axes)
    3
    """
    values = np.atleast_2d(np.asarray(shares, dtype=np.float64))
    figure, (row,) = panels(2, width=3.6, height=3.1)
    _curves(row[0], values)
    _map(figure, row[1], values)
    letter_panels(row)
    if title:
        entitle(figure, title, 9)
    return figure


def _curves(axes: Any, values: Any) -> None:
    depth, bins = values.shape
    place = (np.arange(bins) + 0.5) / bins
    styles = zip((BLUE, GREEN, VERMILLION), ("-", "--", "-."), ("o", "s", "^"), strict=True)
    blocks = sorted({1, (depth + 1) // 2, depth})
    for block, (colour, dash, mark) in zip(blocks, styles, strict=False):
        curve = np.where(values[block - 1] >= LEAST, values[block - 1], np.nan)
        look = {"color": colour, "ls": dash, "marker": mark, "ms": 2.5, "lw": 1.1}
        axes.plot(place, curve, label=f"input of block {block}", **look)
    axes.axhline(1 / bins, color=BLACK, lw=0.8, ls=":")
    decades(axes)
    axes.set(xlabel=PLACE, ylabel=f"share of {bins} ranges\nin the squared gradient", xlim=(0, 1))
    legend_above(axes, columns=2)


def _map(figure: Any, axes: Any, values: Any) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    depth, bins = values.shape
    shade = np.maximum(values * bins, LEAST)
    low = float(max(np.nanmin(shade), 1e-3)) if np.isfinite(shade).any() else 1e-3
    edges = np.linspace(0, 1, bins + 1), np.arange(depth + 1) + 0.5
    norm = LogNorm(min(low, 0.5), bins)
    image = axes.pcolormesh(*edges, shade, norm=norm, cmap="viridis", rasterized=True)
    axes.set(xlabel=PLACE, ylabel=axis("layer"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    bar = figure.colorbar(image, ax=axes, extend="min" if low <= 1e-3 else "neither")
    bar.set_label("influence over its mean")
