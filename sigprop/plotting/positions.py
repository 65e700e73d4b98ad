"""Figures of what depends on position: rotary codes and causal masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.notation import NOTATION, axis, label
from sigprop.plotting.base import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    by_block,
    decades,
    legend_above,
    lengths,
    panels,
)
from sigprop.propagation.causal import Positions
from sigprop.propagation.rotary import ByDistance

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from sigprop.propagation.gradients.closed_form import Gradients

__all__ = [
    "draw_distances",
    "draw_gradients",
    "draw_positions",
    "plot_positions",
    "plot_rotary",
]


LONG = 30  # letters beyond which a label takes two lines


@validated
def plot_rotary(data: xr.Dataset) -> Figure:
    """Collapse, critical residual strength and entropy with rotary positions and without.

    Parameters
    ----------
    data : xarray.Dataset
        Result of `sigprop.analysis.rotary_effect.rotary_effect`.

    Returns
    -------
    matplotlib.figure.Figure
        1 - rho against depth at up to four temperatures; critical alpha_attn against temperature;
        H / log T in the first and the last block. Full lines: rotary positions; dashed: without.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.rotary_effect import rotary_effect
    >>> from sigprop.plotting.positions import plot_rotary
    >>> spec = ModelSpec(depth=2, context=64, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=0,
    ...                    rho0=0.1)
    >>> len(plot_rotary(rotary_effect(spec, [1.0, 2.0])).axes)
    3
    """
    figure, ((first, second, third),) = panels(3, width=3.2)
    beta, layer = np.asarray(data["beta"]), np.asarray(data["layer"])
    shown = np.unique(np.linspace(0, len(beta) - 1, 4).round().astype(int))
    for rotary, style in ((1, "-"), (0, "--")):
        for i, colour in zip(shown, (BLUE, GREEN, ORANGE, VERMILLION), strict=False):
            text = rf"$\beta = {beta[i]:.3g}$" if rotary else None
            first.semilogy(layer, data["gap_ratio"][rotary, i], style, color=colour, label=text)
        alpha = np.asarray(data["alpha_attn"])[rotary]
        text = "rotary positions" if rotary else "without"
        second.plot(beta, alpha, style, color=BLACK, label=text)
        for block, colour in ((0, BLUE), (-1, PURPLE)):
            text = ("last" if block else "first") + " block"
            curve = data["entropy_ratio"][rotary, :, block]
            third.plot(beta, curve, style, color=colour, label=text if rotary else None)
    first.set(xlabel=label("layer"), ylabel=label("gap_ratio"))
    second.set(xlabel=label("beta"), ylabel=f"critical {label('alpha_attn')}", ylim=(0, None))
    third.set(xlabel=label("beta"), ylabel=label("entropy_ratio"), ylim=(-0.02, 1.02))
    for axes in (first, second, third):
        axes.legend(fontsize=7, frameon=False)
    return figure


def plot_positions(positions: Positions | xr.Dataset) -> Figure:
    """Overlap, relative entropy and weight on the first token against position.

    Parameters
    ----------
    positions : Positions or xarray.Dataset
        Result of `sigprop.propagation.causal.causal`, or its columns by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel each, for the first, middle and last block; logarithmic positions.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.causal import causal
    >>> from sigprop.plotting.positions import plot_positions
    >>> spec = ModelSpec(depth=3, context=16, causal=True, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0)
    >>> len(plot_positions(causal(spec)).axes)
    3
    """
    figure, (row,) = panels(3, width=3.2)
    draw_positions(row, positions)
    return figure


def draw_positions(row: Any, positions: Positions | xr.Dataset) -> None:
    """Overlap, relative entropy and weight on the first token against position.

    Parameters
    ----------
    row : three matplotlib.axes.Axes
        Where.
    positions : Positions or xarray.Dataset
        As in `plot_positions`.
    """
    names = ("rho", "entropy_by_position", "first_weight")
    for layer, style in _shown(len(positions.entropy_ratio)):
        curves = (positions.rho[layer], positions.entropy_ratio[layer - 1])
        for axes, curve in zip(row, (*curves, positions.first_weight[layer - 1]), strict=True):
            axes.plot(positions.position, curve, label=f"block {layer}", **style)
    for axes, name in zip(row, names, strict=True):
        text = axis(name)
        text = text if len(text) < LONG else text.replace(" $", "\n$")
        axes.set(xlabel=axis("position"), ylabel=text)
        lengths(axes)
        legend_above(axes, columns=3)
    decades(row[2])


def _shown(depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """First, middle and last block, each with its line."""
    lines = ({"color": BLUE}, {"color": GREEN, "ls": "--"}, {"color": VERMILLION, "ls": "-."})
    yield from zip(sorted({1, (depth + 1) // 2, depth}), lines, strict=False)


def draw_distances(row: Any, distances: ByDistance) -> None:
    """Overlap deficit against distance and block, and scores against block.

    Parameters
    ----------
    row : three matplotlib.axes.Axes
        Where.
    distances : ByDistance
        Result of `sigprop.propagation.rotary.by_distance`.
    """
    first, second, third = row
    middle = (distances.edges[:-1] + 1 + distances.edges[1:]) / 2
    layer, gap = np.arange(len(distances.gap_ratio)), distances.gap_ratio
    for block, style in _shown(len(layer) - 1):
        first.loglog(middle, gap[block], label=f"block {block}", **style)
    ends = (
        (gap[:, 0], f"at {middle[0]:.4g} token", BLUE, "-"),
        (distances.gap_ratio_mean, "over all pairs", BLACK, "--"),
        (gap[:, -1], f"at {middle[-1]:.4g} tokens", VERMILLION, "-."),
    )
    for curve, text, colour, dash in ends:
        second.semilogy(layer, curve, dash, color=colour, label=text)
    third.plot(layer[1:], distances.score_std, color=PURPLE)
    first.set(xlabel=axis("distance"), ylabel=axis("gap_ratio"))
    lengths(first)
    second.set(ylabel=axis("gap_ratio"))
    third.set(ylabel=axis("score_std"), ylim=(0, None))
    for axes in (first, second):
        decades(axes)
        legend_above(axes, columns=3)
    for axes in (second, third):
        by_block(axes)


def draw_gradients(row: Any, gradients: Gradients) -> None:
    """Variance and covariance of gradients, and squared gradients of weights, against block.

    Parameters
    ----------
    row : three matplotlib.axes.Axes
        Where.
    gradients : Gradients
        Of a single description; one standard error is shaded where they were sampled.
    """
    names = {
        "q": ("grad_q", BLUE, "-"),
        "p": ("grad_p", ORANGE, "--"),
        "wq": ("grad_wq", BLUE, "-"),
        "wk": ("grad_wk", VERMILLION, "--"),
        "wv": ("grad_wv", GREEN, "-."),
        "w1": ("grad_w1", PURPLE, "-"),
        "w2": ("grad_w2", BLACK, "--"),
    }
    block = np.arange(1, len(gradients.q) + 1)
    for (name, (code, colour, style)), at in zip(names.items(), (0, 0, 1, 1, 1, 2, 2), strict=True):
        mean = np.abs(getattr(gradients, name))
        text = f"$|{NOTATION[code].symbol}|$" if name == "p" else f"${NOTATION[code].symbol}$"
        row[at].semilogy(block, np.where(mean > 0, mean, np.nan), style, color=colour, label=text)
        if gradients.errors is not None and name in gradients.errors and name != "p":
            error = gradients.errors[name]
            low = np.maximum(mean - error, mean / 10)
            row[at].fill_between(block, low, mean + error, color=colour, alpha=0.2, lw=0)
    texts = (
        "gradient kernel\nof the tokens",
        "squared gradient of\nattention weights",
        "squared gradient of\nMLP weights",
    )
    for axes, text in zip(row, texts, strict=True):
        axes.set(ylabel=text)
        by_block(axes)
        decades(axes)
        legend_above(axes, columns=3)
