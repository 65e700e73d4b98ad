"""Signal propagation in transformers at initialisation: overlap, entropy, criticality.

Importing it loads numpy alone; scipy, xarray and matplotlib load where they are used.
"""

from sigprop.core import interrupts  # noqa: F401  # before all else

# isort: split
import warnings

from sigprop import moved
from sigprop.analysis.context_growth import grow
from sigprop.analysis.critical import Critical, asymptotic_alpha, critical
from sigprop.analysis.design.recommend import recommend
from sigprop.analysis.design.targets import Targets
from sigprop.analysis.diagram.grid import boundaries, diagram
from sigprop.analysis.entropy import beta_profile, entropy_boundary
from sigprop.analysis.fixed_points import exponents, fixed_points
from sigprop.analysis.influence import influence
from sigprop.analysis.verdict import judge
from sigprop.core.errors import (
    AssumptionError,
    DomainError,
    NoBracketError,
    NotConvergedError,
    SigpropError,
)
from sigprop.core.jobs.execution import Execution
from sigprop.core.version import __version__
from sigprop.layers.attention.statistics.biased import biased
from sigprop.layers.state import State
from sigprop.model.huggingface import example, from_config, load
from sigprop.model.spec import ModelSpec
from sigprop.propagation.gradients.exponent import gradient_exponent
from sigprop.propagation.grids import sweep
from sigprop.propagation.positional import bands, gradients
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate

__all__ = [
    "AssumptionError",
    "Critical",
    "DomainError",
    "Execution",
    "ModelSpec",
    "NoBracketError",
    "NotConvergedError",
    "SigpropError",
    "State",
    "Targets",
    "Trajectory",
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
    "influence",
    "judge",
    "load",
    "propagate",
    "recommend",
    "sweep",
]

moved.install()


def __getattr__(name: str) -> type[ModelSpec]:
    """Name of 0.2, with a warning."""
    if name != "Transformer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    told = f"{__name__}.Transformer is now {__name__}.ModelSpec"
    warnings.warn(told, DeprecationWarning, stacklevel=2)
    return ModelSpec
