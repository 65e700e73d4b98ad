r"""Distances of two keys of one query under rotary positions (E6r): drawn, or interpolated.

`Tabulated` takes kernels whose gap is linear in log distance, :math:`gap/q = g\,(1 + \tau\ell)`,
with the same mean and slope over all pairs, and interpolates what draws of them give: at Chebyshev
nodes of the score deviation, g and :math:`\tau`,

.. math:: \frac{Y_2 - 1/T}{s^2/(1 + s^2)}, \quad \frac{P_j - P_j^0}{Y_2 - 1/T}, \quad
          \frac{\log T - H}{s^2/(1 + s)}.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.numerics.chebyshev import basis, fitted, nodes
from sigprop.layers.attention.distance_grid import Distances, make_distances, make_field
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics.correlated_scores import Field

__all__ = [
    "DistanceScores",
    "DistanceStats",
    "Drawn",
    "PairExcess",
    "PairProbabilities",
    "Tabulated",
    "tabulated_pairs",
]

SHAPE = (10, 7, 4)  # nodes in the score deviation, the gap and its slope
LOWEST = 0.2  # score deviation below which the quotients are constant
SHORTEST = 0.2  # floor of the mean log distance over the nearest: only T = 2 is below it


class PairExcess(NamedTuple):
    """Distances of two keys drawn from the weights of one query.

    Attributes
    ----------
    excess : array, shape (..., J+1)
        Probability that two such keys are the same, or in each group of distances, less its
        value for uniform attention.
    entropy : array, shape (...)
        In nats.
    error : float or array
        Standard error of the first excess; zero where it was not drawn.

    Examples
    --------
    >>> from sigprop.layers.attention.pair_probabilities import PairExcess
    >>> PairExcess([0.1, -0.1], 2.0, 0.0).entropy
    2.0
    """

    excess: Floats
    entropy: Floats
    error: Number


class DistanceScores(NamedTuple):
    """Scores under rotary positions (`sigprop.layers.attention.by_distance`).

    Attributes
    ----------
    std : array, shape (...)
        Standard deviation of the scores about their mean over the context.
    whole : array, shape (..., 1)
        Score variance of two keys of gap q.
    deficit : array, shape (..., J)
        Gap over q of each group of distances.
    common : array, shape (..., J)
        Share of the way from 1/T to Y_2 that the overlap of two queries goes, by distance.
    """

    std: Floats
    whole: Floats
    deficit: Floats
    common: Floats


@dataclass(frozen=True)
class DistanceStats:
    """Statistics of one attention layer under rotary positions.

    Parameters
    ----------
    distances : Distances
        Groups of distances.
    scores : DistanceScores
        The scores.
    excess : array, shape (..., J+1)
        Probability that two keys are the same, or in each group of distances, less its value
        for uniform attention.
    entropy : array, shape (...)
        In nats.
    error : float
        Standard error of the first excess; zero where it was not drawn.
    """

    distances: Distances
    scores: DistanceScores
    excess: Floats
    entropy: Floats
    error: Number

    @property
    def even(self) -> float:
        """Weight of uniform attention, 1/T."""
        return 1 / float(self.distances.sizes[-1])

    @property
    def reduced_beta(self) -> Floats:
        """Score deviation over sqrt(log T)."""
        return np.asarray(self.scores.std / np.sqrt(-np.log(self.even)))

    @property
    def entropy_ratio(self) -> Floats:
        """Entropy over log T."""
        return np.asarray(-self.entropy / np.log(self.even))

    def columns(self) -> dict[str, Floats]:
        """Score deviation, Y_2, mean overlap of two queries, entropy and error of Y_2."""
        same = self.excess[..., 0]
        overlap = self.even + same * (self.scores.common @ self.distances.even)
        found = {"y2": self.even + same, "overlap": overlap, "entropy": self.entropy}
        error = np.broadcast_to(self.error, np.shape(same))
        columns = {"score_std": self.scores.std, "y2_error": error, **found}
        return {name: np.asarray(value) for name, value in columns.items()}


class PairProbabilities(ABC):
    """Source of the probabilities that two keys of one query are at a distance."""

    distances: Distances

    def __call__(self, scores: DistanceScores) -> DistanceStats:
        """Statistics of the scores."""
        found = self.pair_excess(scores.whole, scores.deficit)
        return DistanceStats(self.distances, scores, *found)

    @abstractmethod
    def pair_excess(self, scale: Floats, deficit: Floats) -> PairExcess:
        """Distances of two keys of one query."""


class Drawn(PairProbabilities):
    """Draws of the scores; leading axes are taken one by one.

    Parameters
    ----------
    distances : Distances
        Groups of distances.
    field : Field
        Draws of the same context and frequencies.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.distance_grid import make_distances, make_field
    >>> from sigprop.layers.attention.pair_probabilities import Drawn
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> turn = Rotation(1e4)
    >>> drawn = Drawn(make_distances(8, turn, None), make_field(8, turn, None))
    >>> drawn.pair_excess(np.zeros(1), np.ones(4)).excess.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, distances: Distances, field: Field) -> None:
        self.distances, self.field = distances, field
        self._starts = np.concatenate([[0], distances.edges[:-1] + 1])
        self._place = np.log(np.arange(1, field.context))

    def pair_excess(self, scale: Floats, deficit: Floats) -> PairExcess:
        """Average over the draws.

        Parameters
        ----------
        scale : array, shape (..., 1)
            Score variance of two keys of gap q.
        deficit : array, shape (..., J)
            Gap over q of each group of distances, taken at its middle.

        Returns
        -------
        PairExcess
            For each stack.
        """
        if deficit.ndim > 1:
            return self._each(scale, deficit)
        near = np.interp(self._place, np.log(self.distances.middles), deficit)
        found = self.field.pair_averages(scale.item(), 1 - np.concatenate([[0.0], near]))
        pairs = np.add.reduceat(found.pairs, self._starts)
        return PairExcess(pairs - self.distances.uniform, np.asarray(found.entropy), found.error)

    def _each(self, scale: Floats, deficit: Floats) -> PairExcess:
        """Stacks of the leading axes, one by one."""
        shape = deficit.shape[:-1]
        scale = np.broadcast_to(scale, (*shape, 1))
        rows = [self.pair_excess(scale[k], deficit[k]) for k in np.ndindex(shape)]
        excess, entropy, error = (np.array(column) for column in zip(*rows, strict=True))
        wide = (excess.reshape(*shape, -1), entropy.reshape(shape), error.reshape(shape))
        return PairExcess(*wide)


class Tabulated(PairProbabilities):
    """Interpolated draws, for many stacks of one context at once.

    Parameters
    ----------
    drawn : Drawn
        What is interpolated.
    top : float
        Largest score deviation; beyond it 1 - Y_2 and the entropy fall as its inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.pair_probabilities import tabulated_pairs
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> table = tabulated_pairs(8, Rotation(1e4), None, 2.0)
    >>> table.pair_excess(np.ones((5, 1)), np.ones((5, 4))).excess.shape
    (5, 5)
    """

    def __init__(self, drawn: Drawn, top: float) -> None:
        self.distances, self._top, even = drawn.distances, top, drawn.distances.even
        self._log = np.log(drawn.field.context)
        line = np.log(drawn.distances.middles)
        line = line - even @ line
        self._line = line / max(-line[0], SHORTEST)
        self._mean, self._slope = even, even * self._line / max(even @ self._line**2, SHORTEST**4)
        self._rows = self._nodes(drawn)

    def pair_excess(self, scale: Floats, deficit: Floats) -> PairExcess:
        """Interpolate.

        Parameters
        ----------
        scale : array, shape (..., 1)
            Score variance of two keys of gap q.
        deficit : array, shape (..., J)
            Gap over q of each group of distances.

        Returns
        -------
        PairExcess
            For each stack.
        """
        own, rise = deficit @ self._mean, deficit @ self._slope
        slope = np.divide(rise, own, out=np.zeros_like(own), where=own > 0)
        whole = np.broadcast_to(np.sqrt(scale[..., 0]), own.shape)
        s, rest = np.minimum(whole, self._top), self._top / np.maximum(whole, self._top)
        rows = (
            basis(co.from_deviation(s, LOWEST, self._top), SHAPE[0]),
            basis(co.from_gap(np.clip(own, 0.0, co.MAX_GAP), 0.0), SHAPE[1]),
            basis(2 * np.clip(slope, 0.0, 1.0) - 1, SHAPE[2]),
        )
        found = np.einsum("zabc,...a,...b,...c->...z", self._rows, *rows)
        most = 1 - np.exp(-self._log)
        same = most - (most - found[..., 0] * s**2 / (1 + s**2)) * rest
        excess = same[..., None] * np.concatenate(
            [np.ones_like(found[..., :1]), found[..., 1:-1]], -1
        )
        return PairExcess(excess, (self._log - found[..., -1] * s**2 / (1 + s)) * rest, 0.0)

    def _nodes(self, drawn: Drawn) -> Floats:
        """Coefficients of the quotients, shape (J+2, ., ., .)."""
        s = co.to_deviation(nodes(SHAPE[0]), LOWEST, self._top)
        own = co.to_gap(nodes(SHAPE[1]), 0.0)
        slope = (nodes(SHAPE[2]) + 1) / 2
        rows = np.empty((*SHAPE, len(self._line) + 2))
        for a, b, c in np.ndindex(*SHAPE):
            found = drawn.pair_excess(s[[a]] ** 2, own[b] * (1 + slope[c] * self._line))
            first = found.excess[0]
            rows[a, b, c, 0] = first * (1 + s[a] ** 2) / s[a] ** 2
            rows[a, b, c, 1:-1] = found.excess[1:] / first
            rows[a, b, c, -1] = (self._log - found.entropy) * (1 + s[a]) / s[a] ** 2
        return fitted(rows, 3)


@lru_cache(maxsize=16)
def tabulated_pairs(
    context: int, rotation: Rotation | None, head_width: float | None, top: float
) -> Tabulated:
    """Table of a context, built once.

    Parameters
    ----------
    context : int
        Context length T, in [2, 131072].
    rotation : Rotation, optional
        Rotary positions.
    head_width : float, optional
        Width of a head.
    top : float
        Largest score deviation, > 0.2.

    Returns
    -------
    Tabulated
        The table: 8 s at T = 256, 35 s at T = 1024.

    Examples
    --------
    >>> from sigprop.layers.attention.pair_probabilities import tabulated_pairs
    >>> tabulated_pairs(2, None, None, 1.0) is tabulated_pairs(2, None, None, 1.0)
    True
    """
    distances = make_distances(context, rotation, head_width)
    return Tabulated(Drawn(distances, make_field(context, rotation, head_width)), top)
