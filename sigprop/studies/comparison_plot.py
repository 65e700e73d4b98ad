"""Theory beside measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sigprop.core.notation import label
from sigprop.plotting.base import BLACK, BLUE, VERMILLION, entitle, panels
from sigprop.studies.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_comparisons"]


def plot_comparisons(found: list[Comparison]) -> Figure:
    """Theory and measurement, one row a description.

    Parameters
    ----------
    found : list of Comparison
        What to draw, at least one.

    Returns
    -------
    matplotlib.figure.Figure
        Overlap, participation ratio and relative entropy against depth: points with four standard
        errors measured, full line the theory at finite context, dashed its limit.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.studies.comparison import compare
    >>> from sigprop.studies.comparison_plot import plot_comparisons
    >>> spec = ModelSpec(depth=2, context=32, width=32, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> len(plot_comparisons([compare("small", spec, seeds=2)]).axes)
    3
    """
    figure, rows = panels(3, len(found), width=3.2, height=2.3)
    for row, one in zip(rows, found, strict=True):
        layer = one.finite.layer
        for axes, name in zip(row, ("rho", "y2", "entropy"), strict=True):
            mean, se = one.measured.mean(name), one.measured.se(name)
            at = layer[len(layer) - len(mean) :]
            axes.errorbar(
                at, mean, 4 * se, fmt=".", ms=3, lw=0.8, color=BLACK, label="measured, 4 s.e."
            )
            axes.plot(at, getattr(one.finite, name), color=BLUE, label=f"T = {one.spec.context:g}")
            axes.plot(at, getattr(one.limit, name), "--", color=VERMILLION, label="limit")
            axes.set(xlabel=label("layer"), ylabel=label(name))
        entitle(row[1], one.name, 9)
    rows[0][0].legend(fontsize=7, frameon=False)
    return figure
