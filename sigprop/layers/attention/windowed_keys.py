r"""Queries behind a sliding window that see the keys of each block (E23d, E25h).

A key at the centre of a block is seen by the w next queries. In range m of their windows it is that
of the :math:`N_{smb}` queries of block b, in which densities are linear. With X a kernel of two
queries, whose later one is t, and f and g what they do to a key at s and to one d before it,

.. math:: \sum_{tt'} X_{tt'} f_t(s)\,g_{t'}(s - d) = \sum_{bm} N_{smb} f_{bm} \sum_n g_{bn}
          \sum_\delta n_{dmn}(\delta)\,X_b(\delta) + \dots ,

n the mean number of earlier queries at a distance :math:`\delta` that have the second key in range
n; and a sum of the same form where t' is the later one. Leading axes are many stacks. Measured:
notebooks/accuracy.md.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.layers.attention.pair_sums import by_block, divided, transposed
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.sliding_window import SlidingWindow, between_nodes

__all__ = ["Densities", "WindowedKeys"]

SHORT = 1 / 4  # of a window: length of a block above which densities are linear in it


class Densities:
    """Kernel of queries per pair of tokens, as `WindowedKeys` reads it.

    Parameters
    ----------
    keys : WindowedKeys
        What reads it.
    kernel : array, shape (..., P + N)
        Kernel of queries (`sigprop.layers.attention.pair_sums`).

    Attributes
    ----------
    own : array, shape (..., R)
        Of a query of each block behind the window.
    profile : array, shape (..., R, J)
        Of such a query and one at each short distance before it.
    far : array, shape (..., B, B)
        Of queries of two blocks, not both before those.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout, with_short_distances
    >>> from sigprop.layers.attention.windowed_keys import Densities, WindowedKeys
    >>> layout = with_short_distances(make_layout(64, 32, window=4, far=True), [4])
    >>> none = np.zeros(len(layout.queries.count) + len(layout.couples[0]))
    >>> Densities(WindowedKeys(layout, layout.local), none).profile.max()
    np.float64(0.0)
    """

    def __init__(self, keys: WindowedKeys, kernel: Floats) -> None:
        layout, rows, size = keys.layout, keys.window.rows, keys.layout.size
        self._keys, number = keys, layout.number
        _, sums = by_block(layout, kernel)
        density = divided(sums, number)
        layout.fill(density)
        self.own = kernel[..., rows] / size[rows]
        self.profile, self.far = density[..., rows, len(size) :], density[..., : len(size)]
        self.far[..., : rows[0], : rows[0]] = 0.0

    @cached_property
    def earlier(self) -> Floats:
        """Sum over queries no later than one that sees the later key, (..., R, J+1, M, M)."""
        sums = np.tensordot(self.profile, self._keys.earlier, (-1, -1))
        return np.asarray(sums + self.own[..., None, None, None] * self._keys.both)

    @cached_property
    def later(self) -> Floats:
        """Sum over queries earlier than one that sees the earlier key, likewise."""
        return np.tensordot(self.profile, self._keys.later, (-1, -1))

    def passed(self, late: Floats, early: Floats) -> Floats:
        """Sum over the queries of two keys, by the query that is not the earlier one.

        Parameters
        ----------
        late, early : arrays, shape (..., R, J+1, M) or (..., R, 1, M)
            What a query does to the later and to the earlier key in a range of its window.

        Returns
        -------
        array, shape (2, ..., R, J+1, M)
            For a query that sees the later key in a range, over queries that are not later; and for
            one that sees the earlier key, over queries that are earlier.
        """
        first = late * (self.earlier @ early[..., None])[..., 0]
        return np.stack([first, early * (self.later @ late[..., None])[..., 0]])

    def on_one(self, one: Floats, other: Floats) -> Floats:
        """Sum over the queries of one key, shape (..., B), of arrays of shape (..., R, M)."""
        keys = self._keys
        earlier, later = (
            np.tensordot(self.profile, t[0], (-1, -1)) for t in (keys.earlier, keys.later)
        )
        first = one * ((earlier @ other[..., None])[..., 0] + self.own[..., None] * other)
        both = first + other * (later @ one[..., None])[..., 0]
        return np.asarray(np.einsum("smr,...rm->...s", keys.numbers, both))


class WindowedKeys:
    """Keys at the centres of blocks, and the queries with a window that see them.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    window : SlidingWindow
        The window, `Layout.local`.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout, with_short_distances
    >>> from sigprop.layers.attention.windowed_keys import WindowedKeys
    >>> layout = make_layout(64, 32, window=4, cuts=(63,), far=True)
    >>> layout = with_short_distances(layout, [4])
    >>> keys = WindowedKeys(layout, layout.local)
    >>> keys.numbers.sum(axis=(1, 2))[[20, -1]].tolist()
    [4.0, 1.0]
    """

    def __init__(self, layout: Layout, window: SlidingWindow) -> None:
        self.layout, self.window = layout, window
        self._start = int(self.window.rows[0])

    @cached_property
    def numbers(self) -> Floats:
        """Queries of each block that see a key at each centre, by range, shape (B, M, R)."""
        layout, w, ends = self.layout, self.window.window, self.window.ends
        rows, place = self.window.rows, layout.centres.position
        low, high = ((place[:, None] + w - end - 0.5)[..., None] for end in (ends[1:], ends[:-1]))
        start = np.maximum(low, layout.edges[rows] + 0.5)
        stop = np.minimum(high, layout.edges[rows + 1] + 0.5)
        number = np.maximum(stop - start, 0.0)
        moment = number * ((start + stop) / 2 - place[rows])
        return np.asarray(number + moment @ self._slopes)

    @cached_property
    def _slopes(self) -> Floats:
        """Slopes of densities in blocks longer than a part of the window, shape (R, R)."""
        rows, place = self.window.rows, self.layout.centres.position[self.window.rows]
        long = self.layout.size[rows] > max(SHORT * self.window.window, 1)
        long[-1] = False
        index = np.arange(len(rows))
        before, after = np.maximum(index - 1, 0), np.minimum(index + 1, len(rows) - 1)
        unit, apart = np.eye(len(rows)), np.maximum(place[after] - place[before], 1.0)
        return np.asarray((unit[after] - unit[before]) * (long / apart)[:, None])

    @cached_property
    def _shifts(self) -> Floats:
        """Distances of two keys: none, and the short ones, shape (J+1,)."""
        return np.append(0, self.window.distances)

    @cached_property
    def number(self) -> Floats:
        """Weights of sums over different keys of two ranges of two queries, (J+1, M M, J)."""
        window = self.window
        pairs = window.pairs.reshape(1, -1, window.pairs.shape[-1])
        return np.concatenate([pairs, np.swapaxes(window.shifted, 0, 1)])

    @cached_property
    def common(self) -> Floats:
        """Numbers of common keys of two ranges of two queries, shape (J+1, M, M)."""
        return np.concatenate([np.diag(self.window.sizes)[None], self.window.common])

    @cached_property
    def both(self) -> Floats:
        """Part of the queries of a range that have a key before in another, shape (J+1, M, M)."""
        return np.asarray(np.swapaxes(self.common, 1, 2) / self.window.sizes[:, None])

    @cached_property
    def earlier(self) -> Floats:
        """Numbers of earlier queries for one that sees the later key, shape (J+1, M, M, J)."""
        return self._earlier(1)

    @cached_property
    def later(self) -> Floats:
        """Numbers of earlier queries for one that sees the earlier key, likewise."""
        return np.swapaxes(self._earlier(-1), 1, 2)

    def _earlier(self, sign: int) -> Floats:
        window = self.window
        apart, number = window.sampled
        zero, sizes = window.hats(np.zeros(1))[0], window.sizes
        rows = []
        for shift, both in zip(self._shifts.tolist(), self.both, strict=True):
            away = sign * (shift + apart)
            part = (away > 0) + (away == 0) / 2
            sums = (number * part) @ window.hats(np.maximum(away, 0.0))
            rows.append(sums - (both * sizes[:, None] / 2)[..., None] * zero)
        whole = np.stack(rows)
        return whole / (sizes[:, None, None] if sign > 0 else sizes[None, :, None])

    def gathered(self, passed: Floats) -> Floats:
        """Sum over the queries of two keys.

        Parameters
        ----------
        passed : array, shape (2, ..., R, J+1, M)
            Of `Densities.passed`.

        Returns
        -------
        array, shape (..., B, J+1)
            For one key and itself, and for two at each short distance.
        """
        rows = np.moveaxis(passed, -1, -3)
        rows = rows.reshape(*rows.shape[:-3], self._numbers.shape[1], rows.shape[-1])
        sums, moved = self._numbers @ rows
        return np.asarray(sums + self._before(moved))

    @cached_property
    def _numbers(self) -> Floats:
        """`numbers`, ranges and blocks as one axis."""
        return self.numbers.reshape(len(self.numbers), -1)

    def of_one(self, late: Floats, early: Floats) -> Floats:
        """Sum over the queries that see both of two keys, as the first of `Densities.passed`.

        Parameters
        ----------
        late, early : arrays, shape (..., R, M)
            What queries do to the later and to the earlier key.

        Returns
        -------
        array, shape (..., R, J+1, M)
            The sums.
        """
        return late[..., None, :] * (self.both @ early[..., None, :, None])[..., 0]

    def _before(self, values: Floats) -> Floats:
        """Values of keys, shape (..., B, J+1), at the key that each distance before leads to."""
        centre = self.layout.centres.position
        place = centre[:, None] - self._shifts
        first, part = between_nodes(centre, place)
        column = np.arange(len(self._shifts))
        low, high = values[..., first, column], values[..., first + 1, column]
        return np.where(place >= 1, low + part * (high - low), 0.0)

    def spread(self, kernel: Floats, late: Floats, early: Floats) -> tuple[Floats, Floats]:
        """Spread a kernel of queries over their keys, as `PairSums.spread`.

        Parameters
        ----------
        kernel : array, shape (..., P + N)
            Kernel of queries.
        late, early : arrays, shape (..., P, K)
            Mean weights of the queries on one key of each block, or range.

        Returns
        -------
        own : array, shape (..., B)
            Where both have one key.
        others : array, shape (..., B, B+J)
            Where they have different keys.
        """
        blocks, rows = len(self.layout.size), self.window.rows
        held = Densities(self, kernel)
        of_ranges = (v[..., rows, None, blocks:] for v in (late, early))
        near = self.gathered(held.passed(*of_ranges))
        far = self._seen(late) @ held.far @ transposed(self._seen(early))
        return self.by_cell(near, far)

    def by_cell(self, near: Floats, far: Floats) -> tuple[Floats, Floats]:
        """Values for pairs of keys as sums over the cells of the layout.

        Parameters
        ----------
        near : array, shape (..., B, J+1)
            For one key and itself, and for two at each short distance.
        far : array, shape (..., B, B)
            For keys far from each other.

        Returns
        -------
        own, others : arrays, shape (..., B) and (..., B, B+J)
            The sums.
        """
        layout, (later, earlier, first, part) = self.layout, self._close
        square, low, high = far.copy(), near[..., later, first], near[..., later, first + 1]
        value = low + part * (high - low)
        square[..., later, earlier] = square[..., earlier, later] = value
        others = np.concatenate([square, near[..., 1:]], axis=-1) * layout.number
        return near[..., 0] * layout.size, others

    def _seen(self, weight: Floats) -> Floats:
        """Weight of all queries of each block on a key at each centre, shape (..., B, B)."""
        size, rows = self.layout.size, self.window.rows
        blocks = len(size)
        out = transposed(weight[..., :blocks, :blocks] * size[:, None])
        of_ranges = weight[..., rows, blocks:]
        out[..., rows] += np.einsum("smr,...rm->...sr", self.numbers, of_ranges)
        return out

    @cached_property
    def _close(self) -> tuple[Ints, Ints, Ints, Floats]:
        """Pairs of blocks (later, earlier) before the window, close to each other.

        Between which short distances they lie.
        """
        size, centre = self.layout.size, self.layout.centres.position
        later, earlier = np.tril_indices(self._start)
        apart = np.where(later == earlier, (size[later] + 1) / 3, centre[later] - centre[earlier])
        held = apart <= 2 * self.window.window
        first, part = between_nodes(self.window.distances, apart[held])
        return later[held], earlier[held], first + 1, part
