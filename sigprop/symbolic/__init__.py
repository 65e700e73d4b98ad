"""The theory as symbols: equations, derivations that sympy performs, expansions, LaTeX."""

from sigprop.symbolic import choices, collapse, freezing, rem, strength
from sigprop.symbolic.accuracy import accurate_to, estimated_error, evaluate
from sigprop.symbolic.block import LAYOUTS, block, fold
from sigprop.symbolic.bridge import compiled, stable
from sigprop.symbolic.derivation import Entry, derive, entries
from sigprop.symbolic.equation import Derivation, Equation, Step
from sigprop.symbolic.expansions import Expansion, expansion
from sigprop.symbolic.kernels import KERNELS, Kernel
from sigprop.symbolic.maps import Attention, Mlp, Norm, Residual, State
from sigprop.symbolic.rem import critical_beta
from sigprop.symbolic.sheet import sheet
from sigprop.symbolic.symbols import latex, symbol
from sigprop.symbolic.theory import EQUATIONS

__all__ = [
    "EQUATIONS",
    "KERNELS",
    "LAYOUTS",
    "Attention",
    "Derivation",
    "Entry",
    "Equation",
    "Expansion",
    "Kernel",
    "Mlp",
    "Norm",
    "Residual",
    "State",
    "Step",
    "accurate_to",
    "block",
    "choices",
    "collapse",
    "compiled",
    "critical_beta",
    "derive",
    "entries",
    "estimated_error",
    "evaluate",
    "expansion",
    "fold",
    "freezing",
    "latex",
    "rem",
    "sheet",
    "stable",
    "strength",
    "symbol",
]
