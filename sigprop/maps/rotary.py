r"""Rotary positions: attention over scores whose common part varies with distance (E3r).

A rotation by position turns the common part of the scores into a stationary random field,
:math:`Cov(a_{ts}, a_{ts'}) = \beta^2 \log T\, q\, K_{ss'}\, \kappa(s - s')`,
:math:`\kappa(\Delta) = \frac{2}{d_h} \sum_i \cos\omega_i\Delta`. Near queries then attend alike, so
near tokens grow alike first: the kernel depends on distance, and the state carries one gap for
each group of distances of `sigprop.rem.hierarchy`. Attention's map, with :math:`P_j` the
probability that two keys picked by one query are j apart, :math:`P_j^0` its value for uniform
attention and :math:`S = \sum_j P_j K_j`, :math:`S^0` likewise, is

.. math:: q' = \sigma_v^2 S + \sigma_b^2, \qquad
          gap'(\Delta) = \sigma_v^2 (1 - f(\Delta)) (S - S^0),

which is E10 when K and the energies do not depend on distance: then f is the share of the way from
1/T to Y_2 that the overlap O has gone, :math:`f = (O - 1/T)/(Y_2 - 1/T)`.

Approximations: the tree of `sigprop.rem.hierarchy`; keys picked by two queries are distributed as
a mixture, with weight f, of those of equal and of independent queries (exact at f = 0 and 1); f is
that of E9 at the correlation of the two queries' scores on a common key after their means over the
context are taken out, :math:`r(\Delta) = \frac{K(\Delta)}{q} \frac{q \kappa(\Delta) - \overline{K
\kappa(\Delta - \cdot)}}{q - \overline{K\kappa}}` (exact at small s). A head of finite width has
random weights chi^2_2/2 on its frequencies; their effect is taken to second order. Against random
networks (T = 256, 16 layers): rho within 0.007, Y_2 within 0.004 at beta = 1 and 0.030 at beta = 3.
Against heads drawn at infinite width: rho within 0.005 and Y_2 within 0.016 at T = 384, beta = 1.5,
0.012 and 0.045 at T = 128, beta = 2, base 500, heads of 32 (standard errors of Y_2 0.01).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from sigprop.arrays import Floats, Ints
from sigprop.rem.hierarchy import Picks, picks
from sigprop.rem.table import Finite
from sigprop.state import State

__all__ = ["Distances", "Heard", "RotaryAttention", "frequencies", "make_distances"]

CONTINUUM = 128  # frequencies that stand for a head of infinite width
CHUNK = 2**16
NUDGE = 0.25  # step of second differences in the weights of frequencies, in standard deviations
DIRECTIONS = 6  # of largest variance, over which they are taken
FLAT = 1e-4  # reduced inverse temperature below which f is r to 1e-8


def frequencies(base: float, head_width: float | None) -> Floats:
    r"""Frequencies :math:`\omega_i = base^{-2i/d_h}` of rotary positions.

    Parameters
    ----------
    base : float
        Base of the geometric progression, >= 1.
    head_width : float, optional
        Width d_h of a head; None is infinite.

    Returns
    -------
    array
        Frequencies in radians a token.

    Examples
    --------
    >>> from sigprop.maps.rotary import frequencies
    >>> frequencies(100.0, 4).round(12).tolist()
    [1.0, 0.1]
    """
    if head_width is None:
        return np.asarray(base ** -((np.arange(CONTINUUM) + 0.5) / CONTINUUM))
    half = max(int(head_width) // 2, 1)
    return np.asarray(float(base) ** -(np.arange(half) / half))


class Distances(NamedTuple):
    """Groups of distances between two positions of a context.

    Attributes
    ----------
    edges : array of int, shape (J+1,)
        Group j holds distances edges[j] + 1 to edges[j+1].
    sizes : array, shape (J+1,)
        Mean number of positions up to the end of each group, the position itself first.
    waves : array, shape (J+1, F)
        Mean of cos(omega Delta) over each group, for each frequency; distance zero first.

    Examples
    --------
    >>> from sigprop.maps.rotary import make_distances
    >>> make_distances(8, 1e4, None).edges.tolist()
    [0, 1, 2, 4, 7]
    """

    edges: Ints
    sizes: Floats
    waves: Floats

    @property
    def uniform(self) -> Floats:
        """Probability that two random keys are equal, or in each group."""
        return np.asarray(np.diff(self.sizes, prepend=0.0) / self.sizes[-1])

    def mean(self, values: Floats) -> Floats:
        """Mean over pairs of different positions.

        Parameters
        ----------
        values : array, shape (J, ...)
            A value for each group.

        Returns
        -------
        array, shape (...)
            The mean.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.maps.rotary import make_distances
        >>> float(make_distances(8, 1e4, None).mean(np.ones(4)))
        1.0
        """
        weight = self.uniform[1:]
        return np.asarray(np.tensordot(weight / weight.sum(), values, 1))


@lru_cache(maxsize=64)
def make_distances(context: int, base: float, head_width: float | None) -> Distances:
    """Group the distances of a context, and average the waves over each group.

    Parameters
    ----------
    context : int
        Context length T, in [2, 131072].
    base : float
        Base of rotary positions.
    head_width : float, optional
        Width of a head.

    Returns
    -------
    Distances
        About log2 T groups.

    Examples
    --------
    >>> from sigprop.maps.rotary import make_distances
    >>> d = make_distances(256, 1e4, 128)  # mean of kappa over the context, theory.md 2d
    >>> float(round(d.mean(d.waves[1:]).mean(), 3))
    0.488
    """
    ends = [0, 1]
    while ends[-1] < context - 1:
        ends.append(min(2 * ends[-1], context - 1))
    edges, omega = np.array(ends), frequencies(base, head_width)
    counts = np.zeros(len(ends) - 1)
    waves = np.zeros((len(ends) - 1, omega.size))
    for first in range(1, context, CHUNK):
        delta = np.arange(first, min(first + CHUNK, context))
        group = np.searchsorted(edges, delta) - 1
        weight = 2 * (1 - delta / context)
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        held = group[starts]
        counts[held] += np.add.reduceat(weight, starts)
        cosines = np.cos(np.outer(delta, omega)) * weight[:, None]
        waves[held] += np.add.reduceat(cosines, starts, axis=0)
    sizes = 1 + np.concatenate([[0.0], np.cumsum(counts)])
    sizes[-1] = context
    return Distances(edges, sizes, np.concatenate([[np.ones(omega.size)], waves / counts[:, None]]))


@dataclass(frozen=True)
class Heard:
    """Statistics of one attention layer under rotary positions.

    Attributes
    ----------
    score_std, y2, overlap, entropy : float
        Standard deviation of scores about their mean over the context, participation ratio,
        overlap averaged over pairs of queries, entropy in nats.

    Examples
    --------
    >>> from sigprop.maps.rotary import Heard
    >>> Heard(1.0, 0.5, 0.1, 2.0).entropy
    2.0
    """

    score_std: float
    y2: float
    overlap: float
    entropy: float


@dataclass(frozen=True)
class RotaryAttention:
    """Attention with rotary positions; the state has one gap for each group of distances.

    Parameters
    ----------
    distances : Distances
        Groups of distances.
    context : int
        Context length T.
    beta, sigma_v2, sigma_b2, sigma_o2 : float
        Inverse temperature and weight variances.
    centred : bool
        Whether attention is centred.
    random_heads : bool
        Whether heads are of finite width, so that weights of frequencies fluctuate.
    record : callable, optional
        Receives the `Heard` of every call.

    Notes
    -----
    theory.md 2d (new there), with the derivation of this module's docstring.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.maps.rotary import RotaryAttention, make_distances
    >>> from sigprop.state import State
    >>> d = make_distances(8, 1e4, None)
    >>> attention = RotaryAttention(d, 8, beta=0.0, sigma_v2=1.0)
    >>> float(round(attention(State(1.0, np.full(4, 0.5))).q, 6))
    0.5625
    """

    distances: Distances
    context: int
    beta: float
    sigma_v2: float
    sigma_b2: float = 0.0
    sigma_o2: float = 1.0
    centred: bool = False
    random_heads: bool = False
    record: Callable[[Heard], None] | None = None

    def __call__(self, state: State) -> State:
        """Apply the map."""
        q, gap = float(state.q), np.asarray(state.gap)
        kernel = np.concatenate([[q], q - gap])
        found = self._picks(q, kernel)
        common = self._common(q, kernel)
        excess = found.pairs - self.distances.uniform
        spread = -float(excess[1:] @ gap)
        if self.record is not None:
            self.record(self._heard(q, kernel, found, common))
        value = self.sigma_o2 * self.sigma_v2
        whole = q - float(found.pairs[1:] @ gap)
        alone = value * spread if self.centred else value * whole + self.sigma_o2 * self.sigma_b2
        return State(alone, value * spread * (1 - common))

    def _variance(self, q: float, kernel: Floats) -> Floats:
        """Variance of scores about their mean over the context, at each frequency, over q."""
        return q - self.distances.mean(kernel[1:, None] * self.distances.waves[1:])

    def _scale(self, q: float) -> float:
        return float(self.beta**2 * np.log(self.context) * q)

    def _picks(self, q: float, kernel: Floats) -> Picks:
        """Average picks over random weights of the frequencies, to second order (E12)."""
        waves = self._scale(q) * kernel[:, None] * self.distances.waves / self._count
        sizes = self.distances.sizes
        centre = picks(waves.sum(axis=1), sizes)
        if not self.random_heads:
            return centre
        directions = np.linalg.svd(np.diff(waves, axis=0), full_matrices=False)[2][:DIRECTIONS]
        pairs, entropy = centre
        for direction in NUDGE * directions:
            sides = [picks(waves @ (1 + sign * direction), sizes) for sign in (1, -1)]
            pairs = pairs + (sides[0].pairs + sides[1].pairs - 2 * centre.pairs) / (2 * NUDGE**2)
            entropy += (sides[0].entropy + sides[1].entropy - 2 * centre.entropy) / (2 * NUDGE**2)
        return Picks(pairs, entropy)

    @property
    def _count(self) -> int:
        return int(self.distances.waves.shape[1])

    @cached_property
    def _rem(self) -> Finite:
        return Finite(self.context)

    def _common(self, q: float, kernel: Floats) -> Floats:
        """Share f of the way from 1/T to Y_2 that the overlap goes, for each group of distances."""
        variance = self._variance(q, kernel)
        r = kernel[1:] / q * (self.distances.waves[1:] @ variance) / np.sum(variance)
        b = max(self.beta * np.sqrt(q * np.mean(variance)), FLAT)
        weights = self._rem.weights(b, 1 - r)
        return np.asarray(1 - weights.spread / weights.excess)

    def _heard(self, q: float, kernel: Floats, found: Picks, common: Floats) -> Heard:
        y2 = float(found.pairs[0])
        std = np.sqrt(self._scale(q) * np.mean(self._variance(q, kernel)))
        overlap = 1 / self.context + float(self.distances.mean(common)) * (y2 - 1 / self.context)
        return Heard(float(std), y2, overlap, found.entropy)
