r"""Rotary positions: attention over scores whose common part varies with distance (E3r).

A rotation by position turns the common part of the scores into a stationary random field,
:math:`Cov(a_{ts}, a_{ts'}) = \beta^2 \log T\, q\, K_{ss'}\, \kappa(s - s')`,
:math:`\kappa(\Delta) = \frac{2}{d_h} \sum_i \cos\omega_i\Delta`. Near queries then attend alike, so
near tokens grow alike first: the kernel depends on distance, and the state carries one gap for
each group of distances. Attention's map, with :math:`P_j` the probability that two keys picked by
one query are j apart, :math:`P_j^0` its value for uniform attention and :math:`S = \sum_j P_j K_j`,
:math:`S^0` likewise, is

.. math:: q' = \sigma_v^2 S + \sigma_b^2, \qquad
          gap'(\Delta) = \sigma_v^2 (1 - f(\Delta)) (S - S^0),

which is E10 when K and the energies do not depend on distance: then f is the share of the way from
1/T to Y_2 that the overlap O has gone, :math:`f = (O - 1/T)/(Y_2 - 1/T)`.

Approximations: keys picked by two queries are distributed as a mixture, with weight f, of those
of equal and of independent queries (exact at f = 0 and 1); f is that of E9 at the correlation of
the two queries' scores on a common key after their means over the context are taken out,
:math:`r(\Delta) = \frac{K(\Delta)}{q} \frac{q \kappa(\Delta) - \overline{K \kappa(\Delta -
\cdot)}}{q - \overline{K\kappa}}` (exact at small s); K is linear in log distance between the
middles of groups. :math:`P_j` and the entropy are averages over drawn fields
(`sigprop.layers.attention.statistics.correlated_scores` states their error), a head of finite width
having random weights :math:`\chi^2_2/2` on its frequencies.

Against random networks (T = 256, d = 512, 16 layers): rho within 0.0072, Y_2 within 0.004 at
beta = 1 and 0.018 at beta = 3. Against kernels drawn at infinite width, with bases from 100 to 1e6,
heads of 16 to 128, T = 96 to 384 and beta = 1.5 to 3: rho within 0.011, Y_2 within 0.015, O within
0.022 (standard errors 0.001, 0.009 and 0.002); rho within 0.025 where it grows from 0.02 to 0.99 in
twelve blocks (beta = 2, sigma_v2 = 2, four heads; 0.018 without rotation).
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

    Notes
    -----
    theory.md 2d (new there), with the derivation of this module's docstring.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.distance_grid import make_distances, make_field
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.attention.pair_probabilities import Drawn
    >>> from sigprop.layers.attention.by_distance import DistanceGeometry
    >>> from sigprop.layers.state import State
    >>> d = make_distances(8, 1e4, None)
    >>> place = Place(DistanceGeometry(d, 8), Drawn(d, make_field(8, 1e4, None)))
    >>> attention = Attention(beta=0.0, sigma_v2=1.0, context=8, rotary_base=1e4)
    >>> attention.forward(State(1.0, np.full(4, 0.5)), place).kernel.q.round(6).tolist()
    [0.5625]
    """

    distances: Distances
    tokens: int

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
        """Kernel of the means of values over keys, by the distances of picked keys."""
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
        return Finite(self.tokens)

    def _common(self, beta: Number, q: Floats, gap: Floats, variance: Floats) -> Floats:
        """Share f of the way from 1/T to Y_2 that the overlap goes, for each group of distances."""
        waves = variance @ self.distances.waves[1:].T / np.sum(variance, axis=-1, keepdims=True)
        mean = np.mean(variance, axis=-1, keepdims=True)
        b = np.maximum(beta * np.sqrt(q * mean), FLAT)
        weights = self._rem.weights(b, 1 - (1 - gap / q) * waves)
        return np.asarray(1 - weights.spread / weights.excess)
