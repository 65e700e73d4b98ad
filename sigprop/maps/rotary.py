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
middles of groups. :math:`P_j` and the entropy are averages over drawn fields (`sigprop.rem.fields`
states their error), a head of finite width having random weights :math:`\chi^2_2/2` on its
frequencies.

Against random networks (T = 256, d = 512, 16 layers): rho within 0.0072, Y_2 within 0.004 at
beta = 1 and 0.018 at beta = 3. Against kernels drawn at infinite width, with bases from 100 to 1e6,
heads of 16 to 128, T = 96 to 384 and beta = 1.5 to 3: rho within 0.011, Y_2 within 0.015, O within
0.022 (standard errors 0.001, 0.009 and 0.002); rho within 0.025 where it grows from 0.02 to 0.99 in
twelve blocks (beta = 2, sigma_v2 = 2, four heads; 0.018 without rotation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.arrays import Floats, Number
from sigprop.maps.distances import Distances
from sigprop.maps.picked import Picking
from sigprop.rem.table import Finite
from sigprop.state import State

__all__ = ["Heard", "RotaryAttention"]

FLAT = 1e-4  # reduced inverse temperature below which f is r to 1e-8


@dataclass(frozen=True)
class Heard:
    """Statistics of one attention layer under rotary positions.

    Attributes
    ----------
    score_std, y2, overlap, entropy : arrays
        Standard deviation of scores about their mean over the context, participation ratio,
        overlap averaged over pairs of queries, entropy in nats; one for each stack.
    y2_error : float
        Standard error of Y_2 from the drawn fields.

    Examples
    --------
    >>> from sigprop.maps.rotary import Heard
    >>> Heard(1.0, 0.5, 0.1, 2.0, 0.0).entropy
    2.0
    """

    score_std: Number
    y2: Number
    overlap: Number
    entropy: Number
    y2_error: float


@dataclass(frozen=True)
class RotaryAttention:
    """Attention with rotary positions; the state has one gap for each group of distances.

    Leading axes are many stacks at once; their variances and parameters have the shape (..., 1).

    Parameters
    ----------
    distances : Distances
        Groups of distances.
    context : int
        Context length T.
    picking : callable
        Source of the pair probabilities: `sigprop.maps.picked.Drawn`, for one stack, or
        `sigprop.maps.picked.Tabulated`.
    beta, sigma_v2, sigma_b2, sigma_o2 : float or array
        Inverse temperature and weight variances.
    centred : bool
        Whether attention is centred.
    record : callable, optional
        Receives the `Heard` of every call.

    Notes
    -----
    theory.md 2d (new there), with the derivation of this module's docstring.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.maps.distances import make_distances, make_field
    >>> from sigprop.maps.picked import Drawn
    >>> from sigprop.maps.rotary import RotaryAttention
    >>> from sigprop.state import State
    >>> d = make_distances(8, 1e4, None)
    >>> picking = Drawn(d, make_field(8, 1e4, None))
    >>> attention = RotaryAttention(d, 8, picking, beta=0.0, sigma_v2=1.0)
    >>> attention(State(1.0, np.full(4, 0.5))).q.round(6).tolist()
    [0.5625]
    """

    distances: Distances
    context: int
    picking: Picking
    beta: Number
    sigma_v2: Number
    sigma_b2: Number = 0.0
    sigma_o2: Number = 1.0
    centred: bool = False
    record: Callable[[Heard], None] | None = None

    def __call__(self, state: State) -> State:
        """Apply the map."""
        gap = np.asarray(state.gap)
        q = np.broadcast_to(state.q, (*gap.shape[:-1], 1))
        scale = np.square(self.beta) * np.log(self.context) * q  # variance of scores over q
        found = self.picking(scale * q, gap / q)
        variance = self._variance(q, gap)
        common = self._common(q, gap, variance)
        spread = -np.sum(found.excess[..., 1:] * gap, axis=-1, keepdims=True)
        if self.record is not None:
            std = np.sqrt(scale * np.mean(variance, axis=-1, keepdims=True))[..., 0]
            y2, even = found.excess[..., 0], 1 / self.context
            overlap = even + y2 * (common @ self.distances.even)
            self.record(Heard(std, even + y2, overlap, found.entropy, found.error))
        value = self.sigma_o2 * self.sigma_v2
        seen = np.sum(self.distances.uniform[1:] * gap, axis=-1, keepdims=True)
        whole = value * (q - seen + spread) + self.sigma_o2 * self.sigma_b2
        return State(value * spread if self.centred else whole, value * spread * (1 - common))

    def _variance(self, q: Floats, gap: Floats) -> Floats:
        """Variance of scores about their mean over the context, at each frequency, over q."""
        return np.asarray(q - (q - gap) @ (self.distances.even[:, None] * self.distances.waves[1:]))

    @cached_property
    def _rem(self) -> Finite:
        return Finite(self.context)

    def _common(self, q: Floats, gap: Floats, variance: Floats) -> Floats:
        """Share f of the way from 1/T to Y_2 that the overlap goes, for each group of distances."""
        waves = variance @ self.distances.waves[1:].T / np.sum(variance, axis=-1, keepdims=True)
        mean = np.mean(variance, axis=-1, keepdims=True)
        b = np.maximum(self.beta * np.sqrt(q * mean), FLAT)
        weights = self._rem.weights(b, 1 - (1 - gap / q) * waves)
        return np.asarray(1 - weights.spread / weights.excess)
