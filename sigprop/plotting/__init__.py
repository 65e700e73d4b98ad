"""Pictures of results; they compute nothing."""

from sigprop.plotting.attention_curves import plot_rem
from sigprop.plotting.base import panels, save_figure
from sigprop.plotting.diagram import plot_diagram
from sigprop.plotting.trajectory import plot_trajectory

__all__ = ["panels", "plot_diagram", "plot_rem", "plot_trajectory", "save_figure"]
