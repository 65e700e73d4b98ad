"""The random energy model of softmax attention: limit, exact at finite context, interpolated."""

from sigprop.rem.finite import Moments, entropy_deficit, moments
from sigprop.rem.limit import Limit, critical_beta, freezing
from sigprop.rem.overlap import excess, overlap, spread
from sigprop.rem.profile import Profile
from sigprop.rem.sphere import Sphere, Traces
from sigprop.rem.statistics import (
    Passed,
    Rem,
    Response,
    Statistics,
    Weights,
    reduced_beta,
)
from sigprop.rem.table import ERROR_BOUND, Finite, head_nodes
from sigprop.rem.variances import entropy_variance, participation_variance

__all__ = [
    "ERROR_BOUND",
    "Finite",
    "Limit",
    "Moments",
    "Passed",
    "Profile",
    "Rem",
    "Response",
    "Sphere",
    "Statistics",
    "Traces",
    "Weights",
    "critical_beta",
    "entropy_deficit",
    "entropy_variance",
    "excess",
    "freezing",
    "head_nodes",
    "moments",
    "overlap",
    "participation_variance",
    "reduced_beta",
    "spread",
]
