"""The theory as symbols: equations, derivations that sympy performs, expansions, LaTeX."""

from sigprop.symbolic.block import LAYOUTS, block, fold
from sigprop.symbolic.equation import Derivation, Equation, Step
from sigprop.symbolic.kernels import KERNELS
from sigprop.symbolic.maps import Attention, Mlp, Norm, Residual, State
from sigprop.symbolic.symbols import latex, symbol
from sigprop.symbolic.theory import EQUATIONS
