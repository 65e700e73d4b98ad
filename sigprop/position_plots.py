"""Figures of what depends on position: rotary codes and causal masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sigprop.arguments import validated
from sigprop.causal import Positions
from sigprop.notation import label
from sigprop.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, panels

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["plot_positions", "plot_rotary"]


@validated
def plot_rotary(data: xr.Dataset) -> Figure:
    """Collapse, critical residual strength and entropy with rotary positions and without.

    Parameters
    ----------
    data : xarray.Dataset
        Result of `sigprop.effects.rotary_effect`.

    Returns
    -------
    matplotlib.figure.Figure
        1 - rho against depth at up to four temperatures; critical alpha_attn against temperature;
        H / log T in the first and the last block. Full lines: rotary positions; dashed: without.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.effects import rotary_effect
    >>> from sigprop.position_plots import plot_rotary
    >>> spec = Transformer(depth=2, context=64, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=0,
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
        Result of `sigprop.causal.causal`, or its columns by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel each, for the first, middle and last block; logarithmic positions.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.causal import causal
    >>> from sigprop.position_plots import plot_positions
    >>> spec = Transformer(depth=3, context=16, causal=True, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0)
    >>> len(plot_positions(causal(spec)).axes)
    3
    """
    figure, (row,) = panels(3, width=3.2)
    depth = len(positions.entropy_ratio)
    shown = sorted({1, (depth + 1) // 2, depth})
    for layer, colour in zip(shown, (BLUE, GREEN, VERMILLION), strict=False):
        curves = (positions.rho[layer], positions.entropy_ratio[layer - 1])
        for axes, curve in zip(row, (*curves, positions.first_weight[layer - 1]), strict=True):
            axes.plot(positions.position, curve, color=colour, label=f"block {layer}")
    for axes, name in zip(row, ("rho", "entropy_by_position", "first_weight"), strict=True):
        axes.set(xscale="log", xlabel=label("position"), ylabel=label(name))
    row[2].set(yscale="log")
    row[0].legend(fontsize=7, frameon=False)
    return figure
