"""What every figure is made with: colours, panels, axes, titles and files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError, PictureError
from sigprop.core.files import write
from sigprop.core.notation import axis
from sigprop.core.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLACK", "BLUE", "GREEN", "ORANGE", "PURPLE", "VERMILLION", "by_block", "decades", "entitle",
    "legend_above", "lengths", "letter_panels", "panels", "save_figure",
]  # fmt: skip

# Okabe & Ito (2008): distinguishable with every common colour-vision deficiency
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#000000",
)
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 150,
    "savefig.dpi": 200,
}


@validated
def panels(
    columns: int, rows: int = 1, width: float = 3.4, height: float = 3.0
) -> tuple[Figure, Any]:
    """Make an empty figure in the house style.

    Parameters
    ----------
    columns, rows : int
        Panels.
    width, height : float
        Size of a panel, in inches.

    Returns
    -------
    figure, array of matplotlib.axes.Axes
        The figure and its panels, rows first.

    Examples
    --------
    >>> from sigprop.plotting.base import panels
    >>> panels(3, 2)[1].shape
    (2, 3)
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # plain names of parameters
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False)


def entitle(part: Figure | Axes, text: str, size: float) -> None:
    """Write a title that holds a name of the user's: shown as it is, never as mathematics.

    Parameters
    ----------
    part : matplotlib.figure.Figure or matplotlib.axes.Axes
        What it is the title of.
    text : str
        The title.
    size : float
        Size of its letters, in points.
    """
    write: Any = part.suptitle if hasattr(part, "suptitle") else part.set_title
    write(printable(text), fontsize=size, parse_math=False)


@validated
def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or PDF, whole or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to write.
    path : str or Path
        Target; the ending names the format.

    Raises
    ------
    DomainError
        If the file cannot be written or the ending is unknown.
    PictureError
        If it cannot be drawn.

    Examples
    --------
    >>> from sigprop import ModelSpec, propagate
    >>> from sigprop.plotting import plot_trajectory, save_figure
    >>> spec = ModelSpec(depth=4, context="inf", beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> save_figure(plot_trajectory(propagate(spec)), "/nowhere/a.png")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: png = '/nowhere/a.png' is not admissible: ...
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise DomainError("png", str(path), "a name ending in .png, .pdf or .svg")
    write(path, _drawn(figure, path), "png")


def _drawn(figure: Figure, path: Path) -> bytes:
    """Content of a picture's file; what the drawing library raises becomes an error with a name."""
    from matplotlib.text import Text

    out = io.BytesIO()
    try:
        for text in figure.findobj(Text):  # names of files may hold bytes that are no letters
            assert isinstance(text, Text)
            text.set_text(text.get_text().encode("utf-8", "replace").decode())
        figure.savefig(out, format=path.suffix[1:].lower())
    except Exception as error:  # whatever it is, the data are not to be lost with it
        raise PictureError(f"png = {str(path)!r} could not be drawn: {error}") from error
    return out.getvalue()


def by_block(axes: Axes) -> None:
    """Make the horizontal axis that of blocks.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    """
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel=axis("layer"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def decades(axes: Axes) -> None:
    """Make the vertical axis logarithmic, over whole decades.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where; the curves are drawn.
    """
    from matplotlib.ticker import NullFormatter

    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[(values > 0) & np.isfinite(values)]
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if values.size:
        low, high = np.floor(np.log10(values.min())), np.ceil(np.log10(values.max()))
        axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))


def lengths(axes: Axes) -> None:
    """Make the horizontal axis that of tokens: logarithmic, with plain numbers that do not meet.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where; the curves are drawn.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    few = high / low < 300.0
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend_above(axes: Axes, columns: int) -> None:
    """Put the legend above the panel, where it hides no curve.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    columns : int
        Its columns.
    """
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        fontsize=7,
        frameon=False,
        borderaxespad=0.1,
        columnspacing=1.0,
        handlelength=2.2,
    )


def letter_panels(rows: Any) -> None:
    """Letter the panels of a figure.

    Parameters
    ----------
    rows : array of matplotlib.axes.Axes
        The panels, in reading order.
    """
    for letter, axes in zip("abcdefghijkl", np.ravel(rows), strict=False):
        place = {"xycoords": "axes fraction", "va": "bottom", "ha": "right", "weight": "bold"}
        axes.annotate(letter, (-0.16, 1.02), fontsize=10, **place)
