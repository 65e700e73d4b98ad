"""Figure of an audit: draws, computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from sigprop.core.notation import label
from sigprop.plotting.base import BLACK, BLUE, VERMILLION, entitle, panels
from sigprop.torch.module_audit.prediction import HALF
from sigprop.torch.module_audit.report import Audit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_audit"]


def plot_audit(found: Audit) -> Figure:
    """Measured and predicted trajectories.

    Parameters
    ----------
    found : Audit
        What to draw.

    Returns
    -------
    matplotlib.figure.Figure
        Overlap, participation ratio, entropy and gradient against depth: points measured, full line
        and band predicted for this batch, dashed exchangeable theory.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sigprop.torch import audit
    >>> from sigprop.torch.module_audit.plot import plot_audit
    >>> layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    >>> len(plot_audit(audit(nn.TransformerEncoder(layer, 2), torch.randn(2, 8, 64))).axes)
    4
    """
    figure, (row,) = panels(4, width=3.0)
    for axes, name in zip(row, ("rho", "y2", "entropy"), strict=False):
        _trajectory(axes, found, name)
    row[0].legend(fontsize=7, frameon=False)
    if found.gradients:
        blocks = np.arange(1, found.spec.depth + 1)
        row[3].plot(blocks, found.gradients["q"], ".", ms=4, color=BLACK)
        row[3].plot(blocks, found.predicted.gradients["q"], "--", color=VERMILLION)
        row[3].set_yscale("log")
    row[3].set(xlabel=label("layer"), ylabel="squared gradient of the stream")
    for axes in row:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    entitle(figure, f"{found.model}: {found.verdict}", 9)
    return figure


def _trajectory(axes: Axes, found: Audit, name: str) -> None:
    mean, half = found.predicted.mean[name], HALF * found.predicted.std[name]
    blocks = np.arange(found.spec.depth + 1)[-len(mean) :]
    axes.fill_between(blocks, mean - half, mean + half, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(blocks, mean, color=BLUE, label="predicted, two std")
    flat = found.predicted.exchangeable[name]
    axes.plot(blocks, flat, "--", color=VERMILLION, label="exchangeable tokens")
    axes.plot(blocks, found.measured[name], ".", ms=4, color=BLACK, label="measured")
    axes.set(xlabel=label("layer"), ylabel=label(name))
