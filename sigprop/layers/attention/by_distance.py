r"""Tokens told apart by distance: attention with rotary positions (E2r, E9r, E10r).

The kernel depends on distance, and the state carries one gap for each group of distances. With
:math:`P_j` the probability that two keys drawn from one query's weights are j apart,
:math:`P_j^0` its value for uniform attention, :math:`S = \sum_j P_j K_j` and :math:`S^0` likewise,

.. math:: q' = \sigma_v^2 S + \sigma_b^2, \qquad
          gap'(\Delta) = \sigma_v^2 (1 - f(\Delta)) (S - S^0),

f the share of the way from 1/T to Y_2 that the overlap of two queries goes, E9 at their correlation
:math:`r(\Delta)` (E9r). :math:`P_j` and the entropy are averages over drawn fields (E6r); K is
linear in log distance between the middles of groups. Measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Bools, Floats, Number
from sigprop.layers.attention.distance_grid import Distances
from sigprop.layers.attention.exchangeable import LARGEST
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.pair_probabilities import DistanceScores, DistanceStats
from sigprop.layers.attention.statistics.table import Finite
from sigprop.layers.state import State

__all__ = ["DistanceGeometry"]

FLAT = 1e-4  # reduced inverse temperature below which f is r to 1e-8


@dataclass(frozen=True)
class DistanceGeometry:
    """Geometry of pairs told apart by distance; the state has one gap for each group of distances.

    Leading axes are many stacks at once; their variances and parameters have the shape (..., 1).

    Parameters
    ----------
    distances : Distances
        Groups of distances.
    tokens : int
        Context length T.
    head_width : float, optional
        Width of a head; None is infinite.

    Notes
    -----
    theory.md 2d: E2r, E9r, E10r.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.distance_grid import make_distances, make_field
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.attention.pair_probabilities import Drawn
    >>> from sigprop.layers.attention.by_distance import DistanceGeometry
    >>> from sigprop.layers.state import State
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> d = make_distances(8, Rotation(1e4), None)
    >>> place = Place(DistanceGeometry(d, 8), Drawn(d, make_field(8, Rotation(1e4), None)))
    >>> attention = Attention(beta=0.0, sigma_v2=1.0, context=8, rotation=Rotation(1e4))
    >>> attention.forward(State(1.0, np.full(4, 0.5)), place).kernel.q.round(6).tolist()
    [0.5625]
    """

    distances: Distances
    tokens: int
    head_width: float | None = None

    @property
    def keys_seen(self) -> Floats:
        """Number of keys that every query sees."""
        return np.array([float(self.tokens)])

    @property
    def share(self) -> Floats:
        """All queries are alike."""
        return np.ones(1)

    def initial(self, q: Number, rho: Number) -> State:
        """Kernel of tokens of one variance and one overlap."""
        return State(q, q * (1 - np.asarray(rho)) * np.ones(len(self.distances.edges) - 1))

    def pairs(self, kernel: State) -> tuple[Number, None, Number]:
        """All tokens have one variance."""
        return kernel.q, None, kernel.gap

    def scores(self, layer: AttentionNumbers, kernel: State) -> DistanceScores:
        """Variances of the scores, and the shares of two queries' attention that are common."""
        gap = np.asarray(kernel.gap)
        q = np.broadcast_to(kernel.q, (*gap.shape[:-1], 1))
        scale = np.square(layer.beta) * np.log(self.tokens) * q  # variance of scores over q
        variance = self._variance(q, gap)
        return DistanceScores(
            std=np.sqrt(scale * np.mean(variance, axis=-1, keepdims=True))[..., 0],
            whole=scale * q,
            deficit=gap / q,
            common=self._common(layer.beta, q, gap, variance),
        )

    def mix(
        self, kernel: State, attention: DistanceStats, value: Number, bias: Number, centred: bool
    ) -> State:
        """Kernel of the means of values over keys (E10r)."""
        gap = np.asarray(kernel.gap)
        q = np.broadcast_to(kernel.q, (*gap.shape[:-1], 1))
        spread = -np.sum(attention.excess[..., 1:] * gap, axis=-1, keepdims=True)
        seen = np.sum(self.distances.uniform[1:] * gap, axis=-1, keepdims=True)
        whole = value * spread if centred else value * (q - seen + spread) + bias
        return State(whole, value * spread * (1 - attention.scores.common))

    def is_valid(self, kernel: State) -> Bools:
        """Whether the kernel is finite and has not vanished, for each stack."""
        gap = np.asarray(kernel.gap)
        q = np.broadcast_to(kernel.q, (*gap.shape[:-1], 1))[..., 0]
        return np.asarray((q > 0) & (q < LARGEST) & np.all(np.isfinite(gap) & (gap >= 0), axis=-1))

    def select(self, known: Bools, kernel: State, other: State) -> State:
        """Kernel of the stacks that are known, another one of the rest."""
        wide = known[..., None]
        return State(np.where(wide, kernel.q, other.q), np.where(wide, kernel.gap, other.gap))

    def deficits(self, kernel: State) -> Floats:
        """Overlap deficits 1 - rho by distance."""
        return np.asarray(kernel.gap / kernel.q)

    def deficit(self, kernel: State) -> Floats:
        """Mean overlap deficit over all pairs of different tokens."""
        return np.asarray(self.deficits(kernel) @ self.distances.even)

    def variance(self, kernel: State) -> Floats:
        """Mean variance of the tokens."""
        gap = np.asarray(kernel.gap)
        return np.broadcast_to(kernel.q, (*gap.shape[:-1], 1))[..., 0]

    def _variance(self, q: Floats, gap: Floats) -> Floats:
        """Variance of scores about their mean over the context, at each frequency, over q."""
        return np.asarray(q - (q - gap) @ (self.distances.even[:, None] * self.distances.waves[1:]))

    @cached_property
    def _rem(self) -> Finite:
        return Finite(self.tokens, self.head_width)

    def _common(self, beta: Number, q: Floats, gap: Floats, variance: Floats) -> Floats:
        """Share f of the way from 1/T to Y_2 that the overlap goes, by group of distances (E9r)."""
        waves = variance @ self.distances.waves[1:].T / np.sum(variance, axis=-1, keepdims=True)
        mean = np.mean(variance, axis=-1, keepdims=True)
        b = np.maximum(beta * np.sqrt(q * mean), FLAT)
        weights = self._rem.weights(b, 1 - (1 - gap / q) * waves)
        return np.asarray(1 - weights.spread / weights.excess)
