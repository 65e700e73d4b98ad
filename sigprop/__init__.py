"""Signal propagation in transformers at initialisation: overlap, entropy, criticality.

Importing it loads numpy alone; scipy, xarray and matplotlib load where they are used.
"""

from sigprop import first  # noqa: F401  # before all else
from sigprop.backward import gradient_exponent
from sigprop.critical import Critical, asymptotic_alpha, critical
from sigprop.design import recommend
from sigprop.diagram import boundaries, diagram
from sigprop.entropy import beta_profile, entropy_boundary
from sigprop.errors import (
    AssumptionError,
    DomainError,
    NoBracketError,
    NotConvergedError,
    SigpropError,
)
from sigprop.fixed_points import exponents, fixed_points
from sigprop.growth import grow
from sigprop.huggingface import example, from_config, load
from sigprop.positional import bands, gradients
from sigprop.propagate import propagate
from sigprop.rem.biased import biased
from sigprop.spec import Transformer
from sigprop.state import State
from sigprop.sweep import sweep
from sigprop.targets import Targets
from sigprop.trajectory import Trajectory
from sigprop.verdict import judge
from sigprop.version import __version__

__all__ = [
    "AssumptionError",
    "Critical",
    "DomainError",
    "NoBracketError",
    "NotConvergedError",
    "SigpropError",
    "State",
    "Targets",
    "Trajectory",
    "Transformer",
    "__version__",
    "asymptotic_alpha",
    "bands",
    "beta_profile",
    "biased",
    "boundaries",
    "critical",
    "diagram",
    "entropy_boundary",
    "example",
    "exponents",
    "fixed_points",
    "from_config",
    "gradient_exponent",
    "gradients",
    "grow",
    "judge",
    "load",
    "propagate",
    "recommend",
    "sweep",
]
