"""Figures of recommended designs and context growth: they draw results and compute nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.analysis.context_growth import RULES, Growth
from sigprop.analysis.design.recommend import Design
from sigprop.core.errors import AssumptionError
from sigprop.core.notation import label
from sigprop.plotting.base import BLACK, BLUE, GREEN, VERMILLION, entitle, letter_panels, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_design", "plot_growth"]

LOOKS = ((BLACK, "-"), (BLUE, "--"), (VERMILLION, "-."), (GREEN, ":"))


def plot_design(found: Design, name: str) -> Figure:
    """Trade-off against beta, with targets and the recommended value.

    Parameters
    ----------
    found : Design
        With beta among the free parameters.
    name : str
        What it is a design of.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels: overlap and entropy; gradients.

    Raises
    ------
    AssumptionError
        If beta was not free.
    """
    if not found.curve:
        raise AssumptionError("a figure of the trade-off needs beta among the bounds")
    figure, (row,) = panels(2, width=3.9, height=3.3)
    beta, targets = found.curve["beta"], found.targets
    here = np.asarray(found.curve["recommended"], bool)
    sides = (
        (
            ("rho", "overlap", targets.rho_max),
            ("entropy", "lowest $H/\\log T$", targets.entropy_min),
        ),
        (
            ("query", "smallest query gradient", targets.query_min),
            ("gradient", "largest gradient", targets.gradient_max),
        ),
    )
    reduced = "reduced " if found.beta_by_layer is not None else ""
    for axes, lines in zip(row, sides, strict=True):
        for (key, words, bound), (colour, dash) in zip(lines, LOOKS[1:], strict=False):
            axes.plot(beta, found.curve[key], dash, color=colour, label=words)
            axes.plot(beta[here], found.curve[key][here], "o", color=BLACK, ms=4)
            axes.axhline(bound, color=colour, lw=0.8, ls=dash, alpha=0.5)
        _shade(axes, beta, np.asarray(found.curve["feasible"], bool))
        axes.axvline(float(beta[here][0]), color="0.3", lw=0.9)
        axes.set(xscale="log", xlabel=reduced + label("beta"), xlim=(beta[0], beta[-1]))
        axes.legend(fontsize=7, frameon=False)
    row[0].set(ylim=(-0.02, 1.02), ylabel="overlap, entropy ratio")
    row[1].set(yscale="log", ylabel="squared gradient, relative")
    entitle(row[0], f"{name}: targets thin, feasible grey, design black", 9)
    letter_panels(row)
    return figure


def _shade(axes: Any, beta: Any, feasible: Any) -> None:
    transform = axes.get_xaxis_transform()
    axes.fill_between(
        beta, 0, feasible.astype(float), step="mid", color="0.9", lw=0, transform=transform
    )


def plot_growth(found: Growth, name: str) -> Figure:
    """Temperature, entropy and critical strength against context, one line for each rule.

    Parameters
    ----------
    found : Growth
        What to draw.
    name : str
        What it is the growth of.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels.
    """
    figure, (row,) = panels(3, width=3.2, height=3.0)
    words = {
        "beta": label("beta"),
        "entropy_ratio": "$H/\\log T$ in block 1",
        "alpha_critical": f"critical $\\alpha_{{SA}}$ for $\\rho_L \\leq {found.rho_max:g}$",
    }
    for axes, (key, text) in zip(row, words.items(), strict=True):
        values = getattr(found, key)
        for rule, line, (colour, dash) in zip(RULES, values, LOOKS, strict=True):
            axes.plot(found.context, np.where(np.isfinite(line), line, np.nan), dash,
                      color=colour, label=rule)  # fmt: skip
        axes.set(xscale="log", xlabel=label("context"), ylabel=text)
        axes.ticklabel_format(axis="y", useOffset=False)
    row[0].legend(fontsize=7, frameon=False)
    entitle(row[1], name, 9)
    letter_panels(row)
    return figure
