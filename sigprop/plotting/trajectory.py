"""A picture of what a stack does, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError
from sigprop.core.notation import axis, label
from sigprop.plotting.base import (
    BLUE,
    GREEN,
    PURPLE,
    by_block,
    decades,
    entitle,
    legend_above,
    letter_panels,
    panels,
)
from sigprop.plotting.positions import draw_distances, draw_gradients, draw_positions
from sigprop.propagation.result import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sigprop.propagation.gradients.closed_form import Gradients

__all__ = ["plot_trajectory"]


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
    >>> from sigprop import ModelSpec, propagate
    >>> from sigprop.plotting import plot_trajectory
    >>> spec = ModelSpec(depth=4, context="inf", beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
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
