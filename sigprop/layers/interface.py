"""What layers, geometries and sources of attention statistics ask of each other.

There is one kernel of tokens (`sigprop.layers.state.State`). A `Layer` maps it, and owns the
transports of the gradient and of the spread over networks. A `Geometry` says which pairs of tokens
are told apart, an `AttentionStatistics` where the statistics of attention come from. Each layer
works in every geometry that its components know.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from sigprop.core.arrays import Floats, Number
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.fluctuation import BranchNoise, Fluctuation
from sigprop.layers.state import Gradient, State

__all__ = [
    "AttentionStatistics",
    "AttentionStats",
    "BackwardStep",
    "BranchLayer",
    "Geometry",
    "Layer",
    "Place",
    "Spread",
    "Step",
    "Transported",
]


class AttentionStats(Protocol):
    """Statistics of one attention layer: what its geometry mixes values by."""

    @property
    def reduced_beta(self) -> Floats:
        """Standard deviation of the scores over sqrt(log T), a mean over queries."""
        ...

    @property
    def entropy_ratio(self) -> Floats:
        """Entropy over the logarithm of the number of keys seen, a mean over queries."""
        ...

    def columns(self) -> dict[str, Floats]:
        """Columns that a trajectory keeps."""
        ...


class AttentionStatistics(Protocol):
    """Source of attention statistics: limit, exact, table or draws."""

    def __call__(self, scores: Any) -> Any:
        """Statistics (`AttentionStats`) of scores, both as the geometry has them."""
        ...


class Geometry(Protocol):
    """Which pairs of tokens are told apart."""

    def initial(self, q: Number, rho: Number) -> State:
        """Kernel of tokens that all have one variance and one overlap."""
        ...

    def pairs(self, kernel: State) -> tuple[Number, Number | None, Number]:
        """Variances of the two tokens of each pair, the second None where they are equal; gap."""
        ...

    def scores(self, layer: AttentionNumbers, kernel: State) -> Any:
        """Everything about the scores of a layer that the statistics may depend on."""
        ...

    def mix(self, kernel: State, attention: Any, value: Number, bias: Number,
            centred: bool) -> State:  # fmt: skip
        """Kernel of the means of values over keys; `value`, `bias`: variances of the values."""
        ...

    def pull(self, layer: AttentionNumbers, kernel: State, gradient: Gradient, statistics: Any,
             spread: Spread) -> BackwardStep:  # fmt: skip
        """Pull a gradient kernel back through attention that read `kernel`."""
        ...

    def total(self, own: Number, others: Number) -> Number:
        """Mean over tokens of a gradient kernel, weighted or not, summed over the other token."""
        ...

    def covariance(self, kernel: State, attention: Any, centred: bool) -> State:
        """Covariance of what attention reads with its mean over keys; of exchangeable tokens."""
        ...

    def deficit(self, kernel: State) -> Number:
        """Mean overlap deficit 1 - rho over all pairs of different tokens."""
        ...

    def is_valid(self, kernel: State) -> Any:
        """Whether a kernel is finite and has not vanished, for each stack."""
        ...

    def select(self, known: Any, kernel: State, other: State) -> State:
        """Kernel of the stacks that are known, another one of the rest."""
        ...


class Place(NamedTuple):
    """Where a layer acts: its geometry, and the statistics of its attention.

    Attributes
    ----------
    geometry : Geometry
        Which pairs of tokens are told apart.
    statistics : AttentionStatistics
        Source of the statistics.
    """

    geometry: Any
    statistics: Any


class Step(NamedTuple):
    """What a layer did.

    Attributes
    ----------
    kernel : State
        The kernel behind it.
    attention : AttentionStats or None
        Statistics of the attention in it.
    covariance : State or None
        Covariance of what the layer reads with what it writes; None is zero.
    entered : tuple of State
        Kernels that entered its layers, of a sequence of layers.

    Examples
    --------
    >>> from sigprop.layers.interface import Step
    >>> from sigprop.layers.state import State
    >>> Step(State(1.0, 0.5)).attention is None
    True
    """

    kernel: State
    attention: Any = None
    covariance: State | None = None
    entered: tuple[State, ...] = ()


class Spread(NamedTuple):
    """Variation of networks around the kernel of a trajectory.

    Attributes
    ----------
    seeds : float or None
        Variance of log gap over networks; None for that of random tokens.
    crowding : float
        Width over the number of directions that tokens share.

    Examples
    --------
    >>> from sigprop.layers.interface import Spread
    >>> Spread().crowding
    1.0
    """

    seeds: float | None = None
    crowding: float = 1.0


class BackwardStep(NamedTuple):
    """What a layer did on the way back.

    Attributes
    ----------
    gradient : Gradient
        Gradient kernel at its input.
    weights : dict
        Squared Frobenius norms of the gradients of its matrices by name, over T d (so for a
        gradient of total squared norm one) and over the fan-in of the matrix.
    """

    gradient: Gradient
    weights: dict[str, Number]


class Transported(Protocol):
    """A map of the token kernel that the gradient is pulled back through."""

    def forward(self, kernel: State, place: Place) -> Step:
        """Map the kernel."""
        ...

    def backward(self, kernel: State, gradient: Gradient, place: Place,
                 spread: Spread) -> BackwardStep:  # fmt: skip
        """Pull a gradient kernel back to the input `kernel` (E22-E24)."""
        ...


class Layer(Transported, Protocol):
    """A layer of a block: it carries the spread over networks as well."""

    def noise(self, networks: Fluctuation, place: Place) -> Fluctuation:
        """Carry the spread over networks, and add what this layer adds (E26)."""
        ...


class BranchLayer(Transported, Protocol):
    """A layer that ends a residual branch: its noise enters together with that of the skip."""

    def branch(self, read: State, points: State, networks: Fluctuation, unit: State,
               place: Place) -> BranchNoise:  # fmt: skip
        """Find what it adds to the stream, in units of what the stream becomes."""
        ...
