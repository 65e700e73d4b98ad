"""Distances between positions of a context in groups, and rotary frequencies over them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.layers.attention.rotation import Rotation, frequencies
from sigprop.layers.attention.statistics.correlated_scores import MOST, SEED, Field

__all__ = ["Distances", "make_distances", "make_field"]

CHUNK = 2**16


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
    >>> from sigprop.layers.attention.distance_grid import make_distances
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> make_distances(8, Rotation(1e4), None).edges.tolist()
    [0, 1, 2, 4, 7]
    """

    edges: Ints
    sizes: Floats
    waves: Floats

    @property
    def uniform(self) -> Floats:
        """Probability that two random keys are equal, or in each group."""
        return np.asarray(np.diff(self.sizes, prepend=0.0) / self.sizes[-1])

    @property
    def middles(self) -> Floats:
        """Geometric mean distance of each group."""
        return np.asarray(np.sqrt((self.edges[:-1] + 1.0) * self.edges[1:]))

    @property
    def even(self) -> Floats:
        """Part of the pairs of different positions that is in each group."""
        weight = self.uniform[1:]
        return np.asarray(weight / weight.sum())


@lru_cache(maxsize=64)
def make_distances(context: int, rotation: Rotation | None, head_width: float | None) -> Distances:
    """Group the distances of a context, and average the waves over each group.

    Parameters
    ----------
    context : int
        Context length T, in [2, 131072].
    rotation : Rotation, optional
        Rotary positions.
    head_width : float, optional
        Width of a head.

    Returns
    -------
    Distances
        About log2 T groups.

    Examples
    --------
    >>> from sigprop.layers.attention.distance_grid import make_distances
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> d = make_distances(256, Rotation(1e4), 128)  # mean of kappa over the context (E3r)
    >>> float(round(d.even @ d.waves[1:].mean(axis=1), 3))
    0.488
    """
    ends = [0, 1]
    while ends[-1] < context - 1:
        ends.append(min(2 * ends[-1], context - 1))
    edges, omega = np.array(ends), frequencies(rotation, head_width)
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


@lru_cache(maxsize=8)
def make_field(
    context: int,
    rotation: Rotation | None,
    head_width: float | None,
    most: int = MOST,
    seed: int = SEED,
) -> Field:
    """Prepare the draws of a context's scores.

    Parameters
    ----------
    context : int
        Context length T, in [2, 131072].
    rotation : Rotation, optional
        Rotary positions.
    head_width : float, optional
        Width of a head; None is infinite, where weights of frequencies do not fluctuate.
    most : int
        Largest number of draws.
    seed : int
        Their seed.

    Returns
    -------
    Field
        Up to 50 MB for T <= 32 768 and heads up to 512 wide; it grows with either beyond.

    Examples
    --------
    >>> from sigprop.layers.attention.distance_grid import make_field
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> make_field(256, Rotation(1e4), 64).draws
    2048
    """
    turning = rotation is not None and head_width is not None
    return Field(context, frequencies(rotation, head_width), turning, seed, most)
