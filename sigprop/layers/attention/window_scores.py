r"""Gradient of the scores of queries that see a sliding window in ranges (E23d, E24e, E24f).

The sums over keys of `sigprop.layers.attention.score_path`, for a query and one at each short
distance before it, which counts as alike; and those over queries for two keys. Further apart the
gaps of the keys of two windows are all alike, so that centred ones vanish.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.attended import Attended
from sigprop.layers.attention.pair_sums import transposed
from sigprop.layers.attention.windowed_keys import Densities, WindowedKeys

__all__ = ["KeySums", "WindowScores", "varied"]


class KeySums(NamedTuple):
    """Sums over the keys of two queries, as kernels of queries.

    Attributes
    ----------
    between, turned : array
        Mean gap and rotated gap of a key of the one and a key of the other.
    one_key : array
        Product of the two centred gaps on common keys.
    whole : array
        That product on all pairs of keys.
    beside : array
        Over common keys, the mean gap to the keys of the one and of the other.

    Examples
    --------
    >>> from sigprop.layers.attention.window_scores import KeySums
    >>> KeySums(0.5, 0.5, 0.1, 0.2, 0.3).whole
    0.2
    """

    between: Floats
    turned: Floats
    one_key: Floats
    whole: Floats
    beside: Floats


def varied(at: Attended, gap: Floats, rotated: Floats, waves: Floats) -> Floats:
    """Mean product of gap and rotated gap of pairs of keys, which vary about their means (E24c)."""
    if at.layer.width is None:
        return gap * rotated
    return gap * rotated + gap * gap * waves * at.spread.crowding / at.layer.width


class _Gaps(NamedTuple):
    """Mean gaps of keys of a query and of one at a short distance before it, or of itself."""

    later: Floats  # of a key of the later query to those of the earlier, shape (..., R, J+1, M)
    earlier: Floats  # of a key of the earlier query to those of the later
    between: Floats  # of the keys of both, shape (..., R, J+1)


class WindowScores:
    """Sums over the keys of windows in ranges, and over the queries that see two keys.

    Parameters
    ----------
    at : Attended
        What attention did.
    seen_by : WindowedKeys
        Keys of queries that see a window in ranges.
    """

    def __init__(self, at: Attended, seen_by: WindowedKeys) -> None:
        self._at, self._seen_by, self._window = at, seen_by, seen_by.window
        self._blocks = len(at.layout.size)
        self._weight = at.weight[..., seen_by.window.rows, self._blocks :] / seen_by.window.sizes

    @cached_property
    def sums(self) -> tuple[tuple[Floats, Floats], ...]:
        """Own values and those of couples of each of `KeySums`."""
        at, plain, turned = self._at, self._gaps(self._at.gap), self._gaps(self._at.rotated)
        weight, key = self._weight, self._weight * self._window.sizes
        rows = (plain.later * turned.later + plain.earlier * turned.earlier) @ key[..., None]
        products = self._pairs(varied(at, at.gap, at.rotated, at.waves))
        whole = self._summed(products) - rows[..., 0] + plain.between * turned.between
        common = self._seen_by.common * (weight[..., None, :, None] * weight[..., None, None, :])
        u, v = (
            one.later[..., :1, :, None] + one.later[..., :1, None, :] for one in (plain, turned)
        )
        less, lost = (one.between[..., None, None] for one in (plain, turned))
        one_key = np.sum(common * (u - less) * (v - lost), axis=(-2, -1))
        beside = np.sum(common * u, axis=(-2, -1))
        found = plain.between, turned.between, one_key, whole, beside
        return tuple(self._by_query(values) for values in found)

    def _pairs(self, values: Floats) -> Floats:
        """Sum of values over different keys of two ranges, shape (..., R, J+1, M, M)."""
        profile, ranges = values[..., self._blocks :], len(self._window.sizes)
        own = self._window.of_keys(profile)[..., None, :]
        rows = np.concatenate([own, self._window.of_both(profile)], axis=-2)  # (..., R, J+1, J)
        wide = np.moveaxis(rows, -2, 0)
        sums = wide.reshape(len(wide), -1, wide.shape[-1]) @ transposed(self._seen_by.number)
        sums = np.moveaxis(sums.reshape(*wide.shape[:-1], -1), 0, -2)
        return np.asarray(sums.reshape(*rows.shape[:-1], ranges, ranges))

    def _summed(self, pairs: Floats) -> Floats:
        """Weighted sums over two ranges."""
        taken = pairs @ self._weight[..., None, :, None]
        return np.asarray((self._weight[..., None, None, :] @ taken)[..., 0, 0])

    def _gaps(self, gap: Floats) -> _Gaps:
        """Mean gaps under the mean weights."""
        pairs, weight, sizes = (
            self._pairs(gap),
            self._weight[..., None, :, None],
            self._window.sizes,
        )
        later = (pairs @ weight)[..., 0] / sizes
        earlier = (transposed(pairs) @ weight)[..., 0] / sizes
        return _Gaps(later, earlier, self._summed(pairs))

    @cached_property
    def _plain(self) -> _Gaps:
        return self._gaps(self._at.gap)

    def _by_query(self, values: Floats) -> tuple[Floats, Floats]:
        """Own values and those of couples, of values of shape (..., R, J+1)."""
        layout, lead = self._at.layout, values.shape[:-2]
        own, couples = (
            np.zeros((*lead, number))
            for number in (len(layout.queries.count), len(layout.couples[0]))
        )
        places, row, distance = layout.close_windows
        own[..., self._window.rows] = values[..., 0]
        couples[..., places] = values[..., row, distance + 1]
        return own, couples

    def keys(
        self, alike: Floats, less: Floats, apart: Floats, level: Floats, once: Floats
    ) -> tuple[Floats, Floats]:
        """Key path (E24f) of these queries, as of `sigprop.layers.attention.score_path`.

        Parameters
        ----------
        alike, less, apart, level : arrays, shape (..., P + N)
            Kernels of queries of what meets on one key, and on different keys; each also times the
            mean gap of the keys of the two queries.
        once : array, shape (..., P + N)
            What is on one key beyond what mean weights pass, for one key of a query.

        Returns
        -------
        own, others : arrays, shape (..., B) and (..., B, B+J)
            Sums over the tokens of each block, and over pairs of different tokens.
        """
        weight, seen_by, gaps = self._weight, self._seen_by, self._plain
        one, one_less, two, two_less, shared = (
            Densities(seen_by, kernel) for kernel in (alike, less, apart, level, once)
        )
        own = 2 * one.on_one(weight * gaps.later[..., 0, :], weight)
        own -= one_less.on_one(weight, weight)
        every = weight[..., None, :]
        lost = two_less.passed(every, every)
        lost -= two.passed(every, every * gaps.later) + two.passed(every * gaps.earlier, every)
        taken = weight * self._taken(shared)
        lost[0] += (seen_by.of_one(taken, weight) + seen_by.of_one(weight, taken)) / 2
        others = seen_by.gathered(lost)
        kept = seen_by.gathered(two.passed(every, every))
        others[..., 1:] += kept[..., 1:] * self._at.gap[..., self._blocks :]
        others[..., 0] = -own
        far = np.zeros((*own.shape[:-1], self._blocks, self._blocks))
        return seen_by.by_cell(-others, far)

    def _taken(self, once: Densities) -> Floats:
        """Find what a query has on a key of each range with itself and earlier ones."""
        weight, window = self._weight, self._window
        common = self._seen_by.common[1:] @ weight[..., None, :, None]  # (..., R, J, M, 1)
        ahead = window.linear(np.ones(window.window - 1))
        shared = np.einsum("...rj,...rjm->...rm", once.profile * ahead, common[..., 0])
        return np.asarray(once.own[..., None] * weight + shared / window.sizes)
