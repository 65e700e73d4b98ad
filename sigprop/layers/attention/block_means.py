r"""Means over the pairs of tokens of two blocks, from values at their centres (E25).

A function f of the logarithm x of position has, over a block of n positions about c, the mean

.. math:: f + \frac{n^2 - 1}{24\,c^2}\,(f_{xx} - f_x) .

On one side of the diagonal, where a kernel has a kink, it is a smooth function of the difference u
of two logarithms. Two points of a block stand for :math:`u = (n + 1)/(3 c)`, and the mean square of
u over its pairs is :math:`n (n + 1)/(6 c^2)`. Derivatives are those of the parabola through three
blocks of one segment, on one side of the end of a prefix.

The mean of a product of two functions differs from the product of their means by that of their
deviations in the block, :math:`f_x g_x (n^2 - 1)/(12 c^2)`.

Where tokens merge the gap of two queries grows with the square of u, and its mean over the pairs of
a block is half as large again as that of its two points.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sigprop.core.arrays import Bools, Floats, Ints, distinct
from sigprop.layers.attention.position_grid import Layout

__all__ = ["BlockMeans", "derivatives"]

MOST = 0.5  # of a value, by which its mean differs
SMALL = 1e-300


class BlockMeans:
    """Means over pairs of blocks.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.block_means import BlockMeans
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> layout = make_layout(10**4, 48)
    >>> place = np.log(layout.centres.position)
    >>> square = (place[:, None] - place) ** 2
    >>> more, length = BlockMeans(layout)(square) - square, place[-2] - place[-3]
    >>> (more[-2, -7:-4] / length**2).round(1).tolist()  # two blocks: a twelfth each
    [0.2, 0.2, 0.2]
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __call__(self, values: Floats) -> Floats:
        """Means, of values at the centres of two blocks, and at two points of a block.

        Parameters
        ----------
        values : array, shape (..., B, B+J)
            Values of `Layout.spread_out`, >= 0.

        Returns
        -------
        array, shape (..., B, B+J)
            The means, which differ by half a value at most; values at short distances, and those
            between them, stay.
        """
        (i, j), (cells, weights) = self._couples, self._stencils
        square, out = values[..., : len(self._layout.size)], values.copy()
        flat = square.reshape(*square.shape[:-2], -1)
        own = square[..., i, j]
        more = np.einsum("...nk,nk->...n", flat[..., cells], weights)
        part = np.divide(more, own, out=np.zeros_like(own), where=own > 0)
        last, before, scale = self._ends
        part[..., last] = scale * part[..., before]
        out[..., i, j] = out[..., j, i] = own * (1 + np.clip(part, -MOST, MOST))
        return out

    def of_blocks(self, values: Floats) -> Floats:
        """Means over the tokens of each block, of values at its centre.

        Parameters
        ----------
        values : array, shape (..., B)
            The values.

        Returns
        -------
        array, shape (..., B)
            The means.
        """
        three, weights = self._single
        return np.asarray(values + np.einsum("...nk,nk->...n", values[..., three], weights))

    def deviations(self, values: Floats) -> Floats:
        """Find standard deviations over the tokens of each block, negative of values that fall.

        Parameters
        ----------
        values : array, shape (..., B)
            The means over blocks.

        Returns
        -------
        array, shape (..., B)
            The deviations; zero where fewer than three blocks are in a segment.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.block_means import BlockMeans
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> layout = make_layout(10**4, 48)
        >>> values = np.log(layout.centres.position)
        >>> last = layout.edges[-2:] / layout.centres.position[-1]
        >>> found = BlockMeans(layout).deviations(values)[-1] / np.diff(last)
        >>> (found * np.sqrt(12)).round(2).tolist()
        [1.0]
        """
        return np.asarray(values @ self._slopes.T)

    @cached_property
    def _slopes(self) -> Floats:
        """Weights of values in their deviations, shape (B, B)."""
        block, place = np.arange(len(self._layout.size)), self._place
        three, known = _three(block, *self._regions)
        slope, _ = _known_derivatives(place[three], place, known)
        out = np.zeros((block.size, block.size))
        np.add.at(out, (block[:, None], three), np.sqrt(2 * self._spread)[:, None] * slope)
        return out

    @cached_property
    def _single(self) -> tuple[Ints, Floats]:
        """Blocks on which the mean of each one depends, and their weights, shape (B, 3)."""
        block, place = np.arange(len(self._layout.size)), self._place
        three, known = _three(block, *self._regions)
        return three, self._spread[:, None] * _of_parabola(place[three], place, known)

    @cached_property
    def _couples(self) -> tuple[Ints, Ints]:
        """Cells of the couples that are not at short distances."""
        (i, j), (near, _) = self._layout.cells, self._layout.close
        last = len(i) - len(near)
        return i[:last], j[:last]

    @cached_property
    def _ends(self) -> tuple[Ints, Ints, Floats]:
        """Couples near the diagonal whose later block is the last, and those a block before.

        What their means add has about the same part in both, by the lengths of the blocks.
        """
        (i, j), (first, last), blocks = self._couples, self._regions, len(self._layout.size)
        place = np.full((blocks, blocks), -1)
        place[i, j] = np.arange(len(i))
        near = np.flatnonzero((j == last[j]) & (i > np.maximum(j - 3, first[j])))
        before = place[i[near] - 1, j[near] - 1]
        near, before = near[before >= 0], before[before >= 0]
        length = self._spread[i] + self._spread[j]
        return near, before, np.divide(length[near], np.maximum(length[before], SMALL))

    @cached_property
    def _stencils(self) -> tuple[Ints, Floats]:
        """Cells on which the mean of each couple depends, and their weights, shape (C, 6)."""
        apart, wide = self._layout.apart_couples, self._layout.wide
        two = self._of_two(*(rows[:apart] for rows in self._couples))
        one = (np.pad(rows, ((0, 0), (0, 2))) for rows in self._of_one(wide))
        cells, weights = (np.concatenate(rows) for rows in zip(two, one, strict=True))
        return cells, weights

    def _of_two(self, i: Ints, j: Ints) -> tuple[Ints, Floats]:
        """Those of an earlier and a later block."""
        (first, last), blocks, place = self._regions, len(self._layout.size), self._place
        alike, wide = first[i] == first[j], self._layout.size > 1
        one, known = _three(i, first[i], np.minimum(last[i], j - ~(alike & wide[j])))
        two, found = _three(j, np.maximum(first[j], i + ~(alike & wide[i])), last[j])
        earlier = np.where(one == j[:, None], (place - self._inside)[j, None], place[one])
        later = np.where(two == i[:, None], (place + self._inside)[i, None], place[two])
        weights = [
            self._spread[i, None] * _of_parabola(earlier, place[i], known),
            self._spread[j, None] * _of_parabola(later, place[j], found),
        ]
        cells = [one * blocks + j[:, None], i[:, None] * blocks + two]
        return np.concatenate(cells, axis=1), np.concatenate(weights, axis=1)

    def _of_one(self, wide: Ints) -> tuple[Ints, Floats]:
        """Those of two points of a block, from blocks on both sides of it."""
        (first, last), blocks, place = self._regions, len(self._layout.size), self._place
        held = (wide > first[wide]) & (wide < last[wide])
        before, behind = wide - held, wide + held
        number, inside = self._layout.size[wide], self._inside[wide]
        whole = np.where(held, place[behind] - place[before], 4 * inside)
        half = np.where(held, whole / 2, 2 * inside)
        _, bend = derivatives(np.column_stack([inside, half, whole]), inside)
        mean = 1.5 * (number / (number + 1)) * inside**2
        bend *= (held * (mean - inside**2) / 2)[:, None]
        cells = [(wide, wide), (before, wide), (wide, behind), (before, behind)]
        weights = [bend[:, 0], bend[:, 1] / 2, bend[:, 1] / 2, bend[:, 2]]
        return np.column_stack([a * blocks + b for a, b in cells]), np.column_stack(weights)

    @cached_property
    def _place(self) -> Floats:
        """Logarithm of the position of each centre in its segment."""
        return self._layout.places(self._layout.centres)[1]

    @cached_property
    def _spread(self) -> Floats:
        """Half the variance of the logarithm of position in each block."""
        return np.asarray((self._layout.size**2 - 1) / 24 * np.exp(-2 * self._place))

    @cached_property
    def _inside(self) -> Floats:
        """Difference of the logarithms of two points of each block."""
        return np.asarray((self._layout.size + 1) / 3 * np.exp(-self._place))

    @cached_property
    def _regions(self) -> tuple[Ints, Ints]:
        """First and last block of the segment, or side of the end of a prefix, of each block."""
        layout, blocks = self._layout, len(self._layout.size)
        ends = distinct(
            np.array([0, *layout.edges.searchsorted([*layout.starts, layout.prefix]), blocks])
        )
        region = np.searchsorted(ends, np.arange(blocks), side="right")
        return ends[region - 1], ends[region] - 1


def _three(block: Ints, first: Ints, last: Ints) -> tuple[Ints, Bools]:
    """Three blocks about each between a first and a last one, and whether there are three."""
    known = last - first >= 2
    start = np.clip(block - 1, first, np.maximum(last - 2, first))
    return np.where(known[:, None], start[:, None] + np.arange(3), block[:, None]), known


def _of_parabola(nodes: Floats, place: Floats, known: Bools) -> Floats:
    """Weights of three values in the second derivative less the first; zero where not known."""
    slope, bend = _known_derivatives(nodes, place, known)
    return bend - slope


def _known_derivatives(nodes: Floats, place: Floats, known: Bools) -> tuple[Floats, Floats]:
    """Weights of three values in both derivatives of their parabola; zero where not known."""
    first, second = derivatives(np.where(known[:, None], nodes, np.arange(3)), place)
    return known[:, None] * first, known[:, None] * second


def derivatives(nodes: Floats, place: Floats) -> tuple[Floats, Floats]:
    """Weights of three values in the derivatives of their parabola.

    Parameters
    ----------
    nodes : array, shape (..., 3)
        Where the values are.
    place : array, shape (...)
        Where the first derivative is taken.

    Returns
    -------
    first, second : array, shape (..., 3)
        The weights.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.block_means import derivatives
    >>> first, second = derivatives(np.arange(3.0), np.array(1.0))
    >>> first.tolist(), second.tolist()
    ([-0.5, -0.0, 0.5], [1.0, -2.0, 1.0])
    """
    one, other = np.roll(nodes, 1, axis=-1), np.roll(nodes, 2, axis=-1)
    scale = (nodes - one) * (nodes - other)
    return (2 * np.asarray(place)[..., None] - one - other) / scale, 2 / scale
