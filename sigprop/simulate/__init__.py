"""Random networks of finite size, measured layer by layer: the witness of the theory.

It draws matrices and takes softmaxes; it shares no formula with the theory.
"""

from sigprop.simulate.gradients import query_gradient
from sigprop.simulate.inputs import Exchangeable, Given, Source, Tokens
from sigprop.simulate.measured import Measured
from sigprop.simulate.run import simulate

__all__ = ["Exchangeable", "Given", "Measured", "Source", "Tokens", "query_gradient", "simulate"]
