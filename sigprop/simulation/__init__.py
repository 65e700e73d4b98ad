"""Random networks of finite size, measured layer by layer: the witness of the theory.

It draws matrices and takes softmaxes; it shares no formula with the theory.
"""

from sigprop.simulation.gradients import query_gradient
from sigprop.simulation.inputs import Exchangeable, Given, Source, Tokens
from sigprop.simulation.result import Measured
from sigprop.simulation.run import simulate

__all__ = ["Exchangeable", "Given", "Measured", "Source", "Tokens", "query_gradient", "simulate"]
