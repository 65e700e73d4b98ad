r"""Queries that see a sliding window far shorter than the blocks of positions (E25h).

Behind many windows a block of positions is longer than a window, and the kernel depends on distance
within it. Pairs of its tokens are kept at distances :math:`d_j`, between which they are linear, and
the keys of its queries are those of `PER_WINDOW` ranges of the window. Sums over pairs of keys are
linear in the values at these distances, with hat functions :math:`h_j` and numbers N of pairs of
keys of two ranges at each distance:

.. math:: \sum_{s \ne s'} a_s a_{s'}\,v(|s - s'|)
          = \sum_{o o'} a_o a_{o'} \sum_\delta N_{oo'}(\delta) \sum_j h_j(|\delta|)\,v_j .

Another query at a distance d before it sees its keys at :math:`|d - \delta|`, of which those at
zero are common. Far from each other, two windows see the kernel at the mean positions of their
ranges, linear between blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats, Ints, distinct

__all__ = ["PER_WINDOW", "SlidingWindow", "between_nodes", "hats", "short_distances"]

PER_WINDOW = 8  # ranges of a window
GROWTH = 1.35  # of distances beyond two windows
SAMPLES = 1024  # distances in a window at which pairs are counted


def between_nodes(nodes: Floats | Ints, place: Floats) -> tuple[Ints, Floats]:
    """Place among increasing nodes: the one before, and the part of the way to the next.

    Parameters
    ----------
    nodes : array, shape (J,)
        At least two.
    place : array
        Places; those beyond the ends count as the ends.

    Returns
    -------
    first : array of int
        Index of the node before.
    part : array
        In [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.sliding_window import between_nodes
    >>> first, part = between_nodes(np.array([1, 3, 7]), np.array([0.0, 2.0, 6.0]))
    >>> first.tolist(), part.tolist()
    ([0, 0, 1], [0.0, 0.5, 0.75])
    """
    first = np.clip(np.searchsorted(nodes, place, side="right") - 1, 0, len(nodes) - 2)
    part = (place - nodes[first]) / (nodes[first + 1] - nodes[first])
    return first, np.clip(part, 0.0, 1.0)


def short_distances(windows: Sequence[int], longest: int) -> Ints:
    """Distances at which pairs of tokens of long blocks are told apart.

    Parameters
    ----------
    windows : sequence of int
        Sliding windows, the shortest first.
    longest : int
        Distance that the last must reach.

    Returns
    -------
    array of int, shape (J,)
        One, parts of a window up to two windows, and beyond them in a geometric sequence.

    Examples
    --------
    >>> from sigprop.layers.attention.sliding_window import short_distances
    >>> short_distances([8], 30).tolist()
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 30]
    """
    parts = [np.arange(0, 2 * w + 1, max(w // PER_WINDOW, 1)) for w in windows]
    first = 2 * windows[0]
    number = int(np.ceil(np.log(max(longest / first, 1.0)) / np.log(GROWTH))) + 1
    grown = np.round(np.geomspace(first, max(longest, first), number))
    found = distinct(np.concatenate([[1], *parts, grown, [2 * w for w in windows]]))
    return found[found > 0].astype(np.int64)


class SlidingWindow:
    """Window of the queries of long blocks.

    Parameters
    ----------
    window : int
        Number of latest keys that a query sees, >= 1.
    distances : array of int, shape (J,)
        Short distances.
    rows : array of int, shape (R,)
        Blocks of these queries, the last ones.
    position : array, shape (B,)
        Positions of all blocks.

    Attributes
    ----------
    sizes : array of int, shape (M,)
        Keys in each range of the window, the earliest first.
    ends : array of int, shape (M+1,)
        Where the ranges end, from the start of the window.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.sliding_window import SlidingWindow
    >>> one = SlidingWindow(3, np.array([1, 2, 3]), np.array([1]), np.array([1.0, 9.0]))
    >>> one.own_sums(np.ones((1, 3)), np.ones((1, 3))).tolist()  # ordered pairs of three keys
    [6.0]
    """

    def __init__(self, window: int, distances: Ints, rows: Ints, position: Floats) -> None:
        self.window, self.rows, self.distances = window, rows, distances
        self.ends = np.round(np.linspace(0, window, min(PER_WINDOW, window) + 1)).astype(int)
        self.sizes, self._position = np.diff(self.ends), position

    def own_sums(self, profile: Floats, picked: Floats) -> Floats:
        """Add up weighted values over pairs of different keys.

        Parameters
        ----------
        profile : array, shape (..., R, J)
            Values at the short distances.
        picked : array, shape (..., R, M)
            Weight of a key of each range.

        Returns
        -------
        array, shape (..., R)
            The sums.
        """
        rows = np.tensordot(_products(picked, picked), self.pairs.reshape(-1, profile.shape[-1]), 1)
        return np.asarray(np.sum(rows * profile, axis=-1))

    def of_keys(self, profiles: Floats) -> Floats:
        """Values of pairs of keys of one query, where the later of two keys stands in the mean.

        Parameters
        ----------
        profiles : array, shape (..., B, J)
            Values at the short distances, of each block.

        Returns
        -------
        array, shape (..., R, J)
            The values, linear between blocks.
        """
        return _between(profiles, *self._keys_stand)

    def of_both(self, profiles: Floats) -> Floats:
        """Values of pairs of keys of two queries at each short distance, as `of_keys`.

        Parameters
        ----------
        profiles : array, shape (..., B, J)
            Values at the short distances, of each block.

        Returns
        -------
        array, shape (..., R, J, J)
            The values.
        """
        return _between(profiles, *self._both_stand)

    @cached_property
    def _keys_stand(self) -> tuple[Ints, Floats]:
        """Place among blocks of the later of two keys of each query, shape (R,)."""
        return between_nodes(self._position, self._position[self.rows] - self._later(0))

    @cached_property
    def _both_stand(self) -> tuple[Ints, Floats]:
        """Likewise of the keys of two queries at each short distance, shape (R, J)."""
        later = np.array([self._later(d) for d in self.distances.tolist()])
        return between_nodes(self._position, self._position[self.rows][:, None] - later)

    def _later(self, apart: int) -> float:
        """Mean distance from the later of two queries to the later of two keys, one of each."""
        own = np.arange(self.window, dtype=np.float64)
        before = np.clip(own - apart, 0.0, self.window)  # keys of the earlier that are later
        earlier = np.clip(apart + own, 0.0, self.window)  # keys of the later that are later
        number = self.window**2
        return float(
            (own @ (self.window - before) + (apart + own) @ (self.window - earlier)) / number
        )

    def shifted_sums(self, profile: Floats, picked: Floats) -> Floats:
        """Add up weighted values over the keys of two queries at each short distance.

        Parameters
        ----------
        profile : array, shape (..., R, J, J)
            Values at the short distances, for queries at each of them.
        picked
            As in `own_sums`.

        Returns
        -------
        array, shape (..., R, J)
            The sums.
        """
        rows = np.tensordot(_products(picked, picked), self.shifted, 1)  # (..., R, J, J)
        return np.asarray(np.sum(rows * profile, axis=-1))

    def common_sums(self, first: Floats, second: Floats) -> Floats:
        """Add up products of weights over common keys of two queries at each short distance.

        Parameters
        ----------
        first, second : array, shape (..., R, M)
            Weight of a key of each range for the later and the earlier query.

        Returns
        -------
        array, shape (..., R, J)
            The sums.
        """
        flat = self.common.reshape(len(self.common), -1)
        return np.asarray(_products(first, second) @ flat.T)

    def matrices(self, profile: Floats) -> Floats:
        """Mean values over pairs of different keys of two ranges, shape (..., R, M, M)."""
        return np.asarray(np.einsum("mnj,...rj->...rmn", self._means, profile))

    @cached_property
    def _means(self) -> Floats:
        """Weights of means over pairs of different keys of two ranges, shape (M, M, J)."""
        number = self.pairs.sum(axis=-1, keepdims=True)
        none = np.zeros_like(self.pairs)
        return np.asarray(np.divide(self.pairs, number, out=none, where=number > 0.5))

    def over_blocks(self, picked: Floats) -> Floats:
        """Numbers of keys, weighted, as numbers at the centres of blocks, shape (..., R, B)."""
        return np.asarray(((picked * self.sizes)[..., None, :] @ self._places)[..., 0, :])

    def linear(self, count: Floats) -> Floats:
        """Weights of the short distances in a sum over the distances 1 to w - 1.

        Parameters
        ----------
        count : array, shape (..., w-1)
            Number of pairs at each distance, or its product with what depends on distance alone.

        Returns
        -------
        array, shape (..., J)
            The weights.
        """
        return np.asarray(count @ self.hats(self.apart))

    def cosines(self, omega: Floats) -> Floats:
        """Weights of the means of values times cosine over pairs of keys.

        Parameters
        ----------
        omega : array, shape (F,)
            Frequencies in radians a token.

        Returns
        -------
        array, shape (F, J)
            The weights.
        """
        number = self.numbers()
        return self.linear(np.cos(omega[:, None] * self.apart) * number / max(number.sum(), 1))

    def cosines_beside(self, omega: Floats) -> Floats:
        """Weights of such means over keys beside a key of each range, over frequencies too.

        Parameters
        ----------
        omega : array, shape (F,)
            Frequencies in radians a token.

        Returns
        -------
        array, shape (M, J)
            The weights.
        """
        number = self.beside()
        total = np.maximum(number.sum(axis=-1, keepdims=True), 1)
        return self.linear(np.cos(omega[:, None] * self.apart).mean(axis=0) * number / total)

    def ahead(self) -> Floats:
        """Weights of the mean over pairs of the latest key and another, shape (J,)."""
        others = max(self.window - 1, 1)
        return self.linear(np.ones(self.window - 1) / others)

    @property
    def apart(self) -> Floats:
        """Distances of two different keys: 1 to w - 1."""
        return np.arange(1.0, self.window)

    def numbers(self) -> Floats:
        """Numbers of ordered pairs of different keys at these distances."""
        return 2.0 * (self.window - self.apart)

    def beside(self) -> Floats:
        """Count keys at the distances 1 to w - 1 from the keys of each range, shape (M, w-1)."""
        apart = np.arange(1, self.window)
        whole = np.array([0, self.window])
        after = _number(apart, self.ends[:-1, None], self.ends[1:, None], *whole)
        before = _number(-apart, self.ends[:-1, None], self.ends[1:, None], *whole)
        return np.asarray(after + before)

    @cached_property
    def pairs(self) -> Floats:
        """Weights of sums over pairs of different keys of two ranges, shape (M, M, J)."""
        apart, number = self.sampled
        sums = number @ self.hats(np.abs(apart))
        same = np.diag(self.sizes)[..., None] * self.hats(np.zeros(1))[0]
        return np.asarray(sums - same)

    @cached_property
    def common(self) -> Floats:
        """Numbers of common keys of two ranges of queries at each distance, shape (J, M, M)."""
        start, stop = self.ends[:-1], self.ends[1:]
        bounds = start[:, None], stop[:, None], start, stop
        return np.stack([_number(np.asarray(d), *bounds) for d in self.distances])

    @cached_property
    def shifted(self) -> Floats:
        """Weights of sums over pairs of different keys of two queries, shape (M M, J, J)."""
        apart, number = self.sampled
        whole = number.reshape(-1, len(apart))
        zero = self.hats(np.zeros(1))[0]
        rows = [
            whole @ self.hats(np.abs(d - apart)) - common.ravel()[:, None] * zero
            for d, common in zip(self.distances.tolist(), self.common, strict=True)
        ]
        return np.stack(rows, axis=1)

    @cached_property
    def sampled(self) -> tuple[Floats, Floats]:
        """Some distances of pairs of keys of two ranges, and for how many pairs each stands."""
        step = max(self.window // SAMPLES, 1)
        half = np.arange(step, self.window + step, step)
        apart = np.concatenate([-half[::-1], [0], half])
        start, stop = self.ends[:-1, None, None], self.ends[1:, None, None]
        other = self.ends[:-1, None], self.ends[1:, None]
        number = _number(apart, start, stop, *other)
        total = number.sum(axis=-1, keepdims=True)
        exact = (self.sizes[:, None] * self.sizes)[..., None]
        return apart.astype(np.float64), number * exact / np.where(total > 0, total, 1.0)

    def hats(self, apart: Floats) -> Floats:
        """Hat functions of the short distances, shape (n, J)."""
        return hats(self.distances, apart)

    @cached_property
    def _places(self) -> Floats:
        """Weights of blocks at the mean positions of the ranges of each query, shape (R, M, B)."""
        middle = (self.ends[:-1] + self.ends[1:] + 1) / 2 - self.window
        place = self._position[self.rows][:, None] + middle
        return hats(self._position, place)


def hats(nodes: Floats | Ints, place: Floats) -> Floats:
    """Hat functions of nodes.

    Parameters
    ----------
    nodes : array, shape (J,)
        At least two, increasing.
    place : array
        Places; those beyond the ends count as the ends.

    Returns
    -------
    array, shape (..., J)
        The functions, on a last axis.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.sliding_window import hats
    >>> hats(np.array([1, 3]), np.array([1.5])).tolist()
    [[0.75, 0.25]]
    """
    out = np.zeros((*place.shape, len(nodes)))
    first, part = between_nodes(nodes, place)
    np.put_along_axis(out, first[..., None], 1 - part[..., None], axis=-1)
    np.put_along_axis(out, first[..., None] + 1, part[..., None], axis=-1)
    return out


def _between(profiles: Floats, first: Ints, part: Floats) -> Floats:
    """Values of blocks, shape (..., B, J), at places between them."""
    low, high = profiles[..., first, :], profiles[..., first + 1, :]
    return np.asarray(low + part[..., None] * (high - low))


def _products(first: Floats, second: Floats) -> Floats:
    """Products of weights of two ranges, the ranges as one axis."""
    both = first[..., :, None] * second[..., None, :]
    return np.asarray(both.reshape(*both.shape[:-2], -1))


def _number(apart: Ints, start: Ints, stop: Ints, first: Ints, last: Ints) -> Floats:
    """Count s in [start, stop) for which s + apart is in [first, last)."""
    most = np.minimum(stop, last - apart) - np.maximum(start, first - apart)
    return np.asarray(np.maximum(most, 0), dtype=np.float64)
