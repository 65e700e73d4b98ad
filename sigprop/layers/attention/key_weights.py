"""Mean weights of keys, each its own (E25c)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.block_means import BlockMeans
from sigprop.layers.attention.position_grid import Layout

__all__ = ["KeyWeights", "normalised_weights"]


@dataclass(frozen=True)
class KeyWeights:
    """Mean weights of the keys that each query of a layout sees.

    Attributes
    ----------
    layout : Layout
        Blocks and mask.
    more : array, shape (..., P, K)
        Weight of a key of each block times the number of keys seen, less one.
    blocks : BlockMeans, optional
        Of the layout, where weights are smooth in log position, so that slopes between blocks tell
        deviations within these; under rotation weights vary with distance.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.key_weights import KeyWeights
    >>> KeyWeights(make_layout(2), np.zeros((2, 2))).squares.tolist()
    [0.0, 0.0]
    """

    layout: Layout
    more: Floats
    blocks: BlockMeans | None = None

    @property
    def weight(self) -> Floats:
        """Weight of a key of each block times the number of keys seen."""
        return 1 + self.more

    @cached_property
    def squares(self) -> Floats:
        """Sum of squared weights less its value for equal ones, shape (..., P)."""
        layout, blocks = self.layout, len(self.layout.size)
        sums = np.sum(layout.seen * layout.key_sizes * self.more**2, axis=-1)
        if self.blocks is not None:
            sums += np.sum(layout.seen[:, :blocks] * layout.size * self._rise**2, axis=-1)
        return np.asarray(sums / layout.queries.count**2)

    @cached_property
    def products(self) -> Floats:
        """Sum over common keys of the product of two queries' weights, likewise, shape (..., N)."""
        layout = self.layout
        blocks, window = len(layout.size), layout.local
        seen, size = layout.seen[:, :blocks], layout.size
        more = self.more[..., :blocks] * seen
        sums = _of_couples(layout, more, size * (seen + more))
        sums += _of_couples(layout, seen, size * more)
        if self.blocks is not None:
            sums += _of_couples(layout, self._risen, self._rise * seen)
        if window is not None:
            couples, row, distance = layout.close_windows
            beyond = self.more[..., window.rows, blocks:]
            close = window.common_sums(beyond, 1 + beyond)
            close = close + window.common_sums(np.ones_like(beyond), beyond)
            sums[..., couples] = close[..., row, distance]
        return np.asarray(sums / self._scale[1])

    def means(self, values: Floats) -> tuple[Floats, Floats]:
        """Weighted means over pairs of different keys, for each query and each couple.

        Parameters
        ----------
        values : array, shape (..., B, B+J)
            Mean of a quantity over pairs of different tokens of two blocks, and at distances.

        Returns
        -------
        own : array, shape (..., P)
            Over the keys that a query sees, taken twice; zero where it sees one.
        between : array, shape (..., N)
            Over the keys of the one and the keys of the other query.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.key_weights import KeyWeights
        >>> even = KeyWeights(make_layout(3), np.zeros((3, 3)))
        >>> [part.tolist() for part in even.means(np.full((3, 3), 0.5))]
        [[0.0, 0.5, 0.5], [0.5, 0.5, 0.5]]
        """
        own, between = map(_mean, self._sums(values, self.weight), self._numbers)
        return own, between

    def own_means(self, values: Floats) -> Floats:
        """Weighted means over pairs of different keys of each query: the first of `means`.

        Parameters
        ----------
        values : array, shape (..., B, B+J)
            As in `means`.

        Returns
        -------
        array, shape (..., P)
            The means.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.key_weights import KeyWeights
        >>> KeyWeights(make_layout(2), np.zeros((2, 2))).own_means(np.full((2, 2), 0.5)).tolist()
        [0.0, 0.5]
        """
        picked, ones = self.layout.seen * self.weight, np.ones(np.shape(values)[-2:])
        own, number = (self._own_sums(v, picked)[0] for v in (values, ones))
        return _mean(own, number)

    def excess(self, values: Floats) -> tuple[Floats, Floats]:
        """Find the sums over pairs of keys of what weights exceed equal ones by, as `means`.

        Parameters
        ----------
        values : array, shape (..., B, B+J)
            Mean of a quantity over pairs of different tokens of two blocks, and at distances.

        Returns
        -------
        own, between : arrays, shape (..., P) and (..., N)
            Sums of products of two excesses.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.key_weights import KeyWeights
        >>> even = KeyWeights(make_layout(2), np.zeros((2, 2)))
        >>> [part.tolist() for part in even.excess(np.ones((2, 2)))]
        [[0.0, 0.0], [0.0]]
        """
        own, between = self._sums(values, self.more)
        return own / self._scale[0], between / self._scale[1]

    def _sums(self, values: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """Weighted sums over pairs of different keys, for each query and each couple."""
        layout, picked = self.layout, self.layout.seen * weight
        blocks, window = len(layout.size), layout.local
        square, of_blocks = values[..., :blocks], picked[..., :blocks]
        own, rows, rises = self._own_sums(values, picked)
        sums = _of_both(layout, rows, of_blocks) / 2
        if self.blocks is not None:
            sums += _of_both(layout, self._risen, rises)
        if window is None:
            return own, sums
        profile, ranges = values[..., blocks:], picked[..., window.rows, blocks:]
        numbers = of_blocks * layout.size
        numbers[..., window.rows, :] = window.over_blocks(ranges)
        apart = _of_couples(layout, numbers @ square, numbers)
        between = np.where(layout.windowed, apart, sums)
        couples, row, distance = layout.close_windows
        close = window.shifted_sums(window.of_both(profile), ranges)
        between[..., couples] = close[..., row, distance]
        return own, between

    def _own_sums(self, values: Floats, picked: Floats) -> tuple[Floats, Floats, Floats]:
        """Weighted sums over pairs of different keys of each query, and over its pairs by block.

        Behind these the deviations within blocks of their mean over the other key, (..., P, B).
        """
        layout, blocks, window = self.layout, len(self.layout.size), self.layout.local
        of_blocks = picked[..., :blocks]
        rows = of_blocks @ (layout.pairs * values[..., :blocks])
        own, rises = np.sum(rows * of_blocks, axis=-1), self._deviations(rows / layout.size)
        if self.blocks is not None:
            own += 2 * np.sum(self._risen * rises, axis=-1)
        if window is not None:
            ranges = picked[..., window.rows, blocks:]
            own[..., window.rows] = window.own_sums(window.of_keys(values[..., blocks:]), ranges)
        return own, rows, rises

    @cached_property
    def _numbers(self) -> tuple[Floats, Floats]:
        """Weighted numbers of pairs of different keys, as `_sums` of ones."""
        layout, picked = self.layout, self.layout.seen * self.weight
        if layout.local is not None:
            blocks = len(layout.size)
            return self._sums(np.ones((blocks, blocks + len(layout.distances))), self.weight)
        (i, j), numbers = layout.couples, picked * layout.size
        total, same = np.sum(numbers, axis=-1), _of_couples(layout, numbers, picked)
        own = total**2 - np.sum(numbers * picked, axis=-1)
        if self.blocks is not None:
            rises = self._deviations(picked)
            own -= 2 * np.sum(self._risen * rises, axis=-1)
            same += _of_both(layout, self._risen, rises)
        return own, total[..., i] * total[..., j] - same

    @cached_property
    def _rise(self) -> Floats:
        """Deviations of the weights within blocks, shape (..., P, B)."""
        return self._deviations(self.more[..., : len(self.layout.size)])

    def _deviations(self, values: Floats) -> Floats:
        """Deviations of means over blocks within these, where they are known."""
        return np.zeros_like(values) if self.blocks is None else self.blocks.deviations(values)

    @cached_property
    def _risen(self) -> Floats:
        """Likewise, summed over the keys of each block that a query sees."""
        layout = self.layout
        return np.asarray(self._rise * layout.seen[:, : len(layout.size)] * layout.size)

    @cached_property
    def _scale(self) -> tuple[Floats, Floats]:
        count, (i, j) = self.layout.queries.count, self.layout.couples
        return count**2, count[i] * count[j]


def _of_couples(layout: Layout, first: Floats, second: Floats) -> Floats:
    """Sum over blocks of products of a row of the one and a row of the other query."""
    return _joined(layout, _of_centres(layout, first, second), _of_points(layout, first, second))


def _of_both(layout: Layout, first: Floats, second: Floats) -> Floats:
    """Sum of both orders."""
    centres = _of_centres(layout, first, second)
    points = _of_points(layout, first, second) + _of_points(layout, second, first)
    return _joined(layout, centres + np.swapaxes(centres, -1, -2), points)


def _of_centres(layout: Layout, first: Floats, second: Floats) -> Floats:
    """Products of the rows of all centres."""
    blocks = len(layout.size)
    return np.asarray(first[..., :blocks, :] @ np.swapaxes(second[..., :blocks, :], -1, -2))


def _of_points(layout: Layout, first: Floats, second: Floats) -> Floats:
    """Products of the rows of both points of each wide block."""
    blocks, last = len(layout.size), len(layout.size) + len(layout.wide)
    return np.asarray(np.sum(first[..., blocks:last, :] * second[..., last:, :], axis=-1))


def _joined(layout: Layout, centres: Floats, points: Floats) -> Floats:
    """Values of couples, from those of two centres, and of two points of each wide block."""
    (i, j), apart = layout.couples, layout.apart_couples
    out = np.empty((*points.shape[:-1], len(i)))
    out[..., :apart] = centres[..., i[:apart], j[:apart]]
    last = apart + len(layout.wide)
    out[..., apart:last] = points
    if last < len(i):  # queries taken twice
        out[..., last:] = centres[..., i[last:], j[last:]]
    return out


def _mean(total: Floats, number: Floats) -> Floats:
    """Quotient, zero without pairs."""
    number = np.broadcast_to(number, total.shape)
    return np.divide(total, number, out=np.zeros_like(total), where=number > 0)


def normalised_weights(
    layout: Layout, weight: Floats, blocks: BlockMeans | None = None
) -> KeyWeights:
    """Mean weights that are known up to a factor for each query.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    weight : array, shape (..., P, K)
        Weight of a key of each block, > 0.
    blocks : BlockMeans, optional
        As of `KeyWeights`.

    Returns
    -------
    KeyWeights
        The weights, of mean one over the keys that a query sees.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.key_weights import normalised_weights
    >>> normalised_weights(make_layout(2), np.array([[1.0, 3.0], [1.0, 3.0]])).weight.tolist()
    [[1.0, 3.0], [0.5, 1.5]]
    """
    number = layout.seen * layout.key_sizes
    mean = np.sum(number * weight, axis=-1) / np.sum(number, axis=-1)
    return KeyWeights(layout, weight / mean[..., None] - 1, blocks)
