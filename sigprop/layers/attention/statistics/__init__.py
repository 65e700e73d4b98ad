"""The random energy model of softmax attention: limit, exact at finite context, interpolated."""

from sigprop.layers.attention.statistics.finite_width_keys import Sphere, Traces
from sigprop.layers.attention.statistics.interface import (
    Passed,
    Rem,
    Response,
    Statistics,
    Weights,
    reduced_beta,
)
from sigprop.layers.attention.statistics.limit import Limit, critical_beta, freezing
from sigprop.layers.attention.statistics.moments import Moments, entropy_deficit, moments
from sigprop.layers.attention.statistics.pairs import excess, overlap, spread
from sigprop.layers.attention.statistics.profile import Profile
from sigprop.layers.attention.statistics.table import ERROR_BOUND, Finite, head_nodes
from sigprop.layers.attention.statistics.variances import entropy_variance, participation_variance

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
