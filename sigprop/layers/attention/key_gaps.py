r"""What the gaps between the keys of a query are like, in a few numbers (E25e).

With g the gap of two keys over its mean over pairs, the nearest sum of one number for each key is
:math:`1 + a_s + a_{s'}`, and c what it leaves,

.. math:: g_{ss'} = 1 + a_s + a_{s'} + c_{ss'} .

Scores of keys whose c vanishes are independent, of variances :math:`1 + 2 a_s` over their mean. The
numbers are the root mean squares of a and of c, and the means of g over pairs of keys in two ranges
of places s among n: those that end at the shares `ENDS` of n, and `GROWING` whose ends are in a
geometric sequence from 1 to n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints

__all__ = ["ENDS", "GROWING", "GapShape", "KeyGaps"]

ENDS = (0.05, 0.2, 0.5, 1.0)  # of ranges of places among the keys of a query
GROWING = 6  # further ranges


class GapShape(NamedTuple):
    """What the gaps between the keys of queries are like.

    Attributes
    ----------
    uneven : array, shape (..., K)
        Root mean square of a, what the mean gap of a key is above that of all, over that.
    apart : array, shape (..., K)
        Root mean square of c, what the gap of two keys is above what the two have on average.
    ranges : array, shape (..., K, I)
        Mean gap of keys in two ranges over that of all; zero of ranges without two keys. First the
        pairs of the ranges that end at `ENDS`, then of those that grow.

    Examples
    --------
    >>> from sigprop.layers.attention.key_gaps import GapShape
    >>> GapShape(0.1, 0.2, 1.0).apart
    0.2
    """

    uneven: Floats
    apart: Floats
    ranges: Floats


@dataclass(frozen=True)
class KeyGaps:
    """Sums over pairs of the keys of queries.

    Parameters
    ----------
    parts : array of int, shape (K, B)
        Numbers of keys of each block that each query sees, at least three together.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.key_gaps import KeyGaps
    >>> place = np.array([0.0, 0.1, 0.3])  # what keys add to each other
    >>> found = KeyGaps(np.array([[5, 9, 20]]))(1 + place[:, None] + place)
    >>> bool(found.uneven[0] > 0.05), bool(found.apart[0] < 1e-7)
    (True, True)
    """

    parts: Ints

    def __call__(self, deficit: Floats) -> GapShape:
        """Find the shape of gaps.

        Parameters
        ----------
        deficit : array, shape (..., B, B)
            Gap of two keys, by block.

        Returns
        -------
        GapShape
            Of shape (..., K); zeros where all gaps vanish.
        """
        count = self.count
        row, square = self._rows(deficit), self._rows(deficit * deficit)
        own, whole = (np.einsum("kb,...bk->...k", self._share, v) for v in (row, square))
        known = own > np.finfo(float).tiny
        level = np.divide(1.0, own, out=np.zeros_like(own), where=known)
        more = (row * level[..., None, :] - 1) * (count - 1) / (count - 2)
        uneven = np.einsum("kb,...bk->...k", self._share, more * more)
        apart = whole * level * level - 1 - 2 * uneven * (1 - 1 / (count - 1))
        flat = deficit.reshape(*deficit.shape[:-2], -1)
        ranges = (flat @ self._ranges).reshape(*own.shape, -1) * level[..., None]
        return GapShape(np.sqrt(uneven * known), np.sqrt(np.maximum(apart * known, 0.0)), ranges)

    @cached_property
    def count(self) -> Floats:
        """Numbers of keys, shape (K,)."""
        return np.asarray(self.parts.sum(axis=1), dtype=np.float64)

    @cached_property
    def _share(self) -> Floats:
        """Share of each block in the keys, shape (K, B)."""
        return np.asarray(self.parts / self.count[:, None])

    def _rows(self, values: Floats) -> Floats:
        """Mean over the other keys of a query for a key of each block, shape (..., B, K)."""
        own = np.diagonal(values, axis1=-2, axis2=-1)[..., None]
        return np.asarray((values @ self._seen - own) / (self.count - 1))

    @cached_property
    def _seen(self) -> Floats:
        """Numbers of keys of each block, shape (B, K)."""
        return np.ascontiguousarray(self.parts.T, dtype=np.float64)

    @cached_property
    def _ranges(self) -> Floats:
        """Weights of the pairs of blocks in the means over two ranges, shape (B B, K I)."""
        power = np.arange(1 - GROWING, 1) / GROWING
        ends = np.broadcast_to(ENDS, (self.count.size, len(ENDS))), self.count[:, None] ** power
        pairs = np.concatenate([self._of_ranges(one) for one in ends], axis=1)
        return np.ascontiguousarray(pairs.reshape(-1, self.parts.shape[1] ** 2).T)

    def _of_ranges(self, stop: Floats) -> Floats:
        """Likewise of ranges that end at shares of shape (K, R), shape (K, R (R+1)/2, B, B)."""
        end, one = np.cumsum(self._share, axis=1)[:, None, :], np.arange(self.parts.shape[1])
        start = np.append(np.zeros((len(stop), 1)), stop[:, :-1], axis=1)
        first = end - self._share[:, None, :]
        low, high = start[..., None], stop[..., None]
        inside = np.clip(np.minimum(end, high) - np.maximum(first, low), 0.0, None)
        i, j = np.triu_indices(stop.shape[1])
        pairs = inside[:, i, :, None] * inside[:, j, None, :]
        pairs[..., one, one] *= 1 - 1 / np.maximum(self.parts, 1)[:, None, :]
        total = pairs.sum(axis=(-2, -1), keepdims=True)
        return np.asarray(np.divide(pairs, total, out=np.zeros_like(pairs), where=total > 0))
