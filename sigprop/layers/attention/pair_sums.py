"""Sums over pairs of queries and over pairs of keys of a layout (E25, E23b, E23c).

A kernel of queries has one value for each of `Layout.queries`, what tokens have of themselves,
summed over each block, and behind these one for each of `Layout.couples`, summed over pairs of
different tokens in one order. A kernel of keys is a pair: sums over the tokens of each block, and
over the pairs of different tokens that `Layout.number` counts. Leading axes are many stacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.state import Gradient

__all__ = [
    "PairSums",
    "by_block",
    "divided",
    "joined",
    "of_queries",
    "per_query",
    "per_stack",
    "product",
    "total",
    "transposed",
]


def divided(value: Floats, by: Floats) -> Floats:
    """Quotient, zero where the divisor is.

    Parameters
    ----------
    value, by : array
        Of shapes that broadcast.

    Returns
    -------
    array
        The quotient.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.pair_sums import divided
    >>> divided(np.ones(2), np.array([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    out = np.zeros(np.broadcast_shapes(np.shape(value), np.shape(by)))
    return np.divide(value, by, out=out, where=np.broadcast_to(by, out.shape) != 0)


def joined(own: Floats, couples: Floats) -> Floats:
    """Kernel of queries of values of queries and of couples.

    Parameters
    ----------
    own : array, shape (..., P)
        For each query.
    couples : array, shape (..., N)
        For each couple.

    Returns
    -------
    array, shape (..., P + N)
        The kernel.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.pair_sums import joined
    >>> joined(np.ones(2), np.zeros(1)).tolist()
    [1.0, 1.0, 0.0]
    """
    lead = np.broadcast_shapes(own.shape[:-1], couples.shape[:-1])
    return np.concatenate(
        [np.broadcast_to(v, (*lead, v.shape[-1])) for v in (own, couples)], axis=-1
    )


def of_queries(layout: Layout, gradient: Gradient) -> Floats:
    """Kernel of queries from a gradient kernel by position.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    gradient : Gradient
        Of shapes (..., B, 1) and (..., B, B+J).

    Returns
    -------
    array, shape (..., P + N)
        The kernel.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.pair_sums import of_queries
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.state import Gradient
    >>> of_queries(make_layout(2), Gradient(np.ones((2, 1)), np.zeros((2, 2)))).tolist()
    [1.0, 1.0, 0.0]
    """
    (i, j), others = layout.cells, np.asarray(gradient.others)
    own = np.zeros((*others.shape[:-2], len(layout.queries.count)))
    own[..., : len(layout.size)] = np.asarray(gradient.q)[..., 0] * layout.size
    couples = others[..., i, j]
    couples[..., layout.apart_couples :] /= 2  # both orders are in one cell
    return joined(own, couples)


def by_block(layout: Layout, kernel: Floats) -> tuple[Floats, Floats]:
    """Kernel of queries as one of the tokens of each block: inverse of `of_queries`.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    kernel : array, shape (..., P + N)
        Kernel of queries.

    Returns
    -------
    own, others : array, shape (..., B) and (..., B, B+J)
        Sums over the tokens of each block, and over pairs of different tokens.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.pair_sums import by_block
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> by_block(make_layout(2), np.array([1.0, 2.0, 3.0]))[1].tolist()
    [[0.0, 3.0], [3.0, 0.0]]
    """
    blocks, (i, j) = len(layout.size), layout.cells
    couples = kernel[..., len(layout.queries.count) :].copy()
    couples[..., layout.apart_couples :] *= 2
    out = np.zeros((*kernel.shape[:-1], *layout.number.shape))
    out[..., i, j] = couples
    square = out[..., :blocks]
    square += transposed(np.triu(square, 1))
    return kernel[..., :blocks], out


def total(layout: Layout, kernel: Floats) -> Floats:
    """Sum of a kernel of queries over all pairs, in both orders, shape (...)."""
    number = len(layout.queries.count)
    own, couples = kernel[..., :number], kernel[..., number:]
    return np.asarray(np.sum(own, axis=-1) + 2 * np.sum(couples, axis=-1))


def product(layout: Layout, values: Floats) -> Floats:
    """Kernel of the products of the values of two queries, of shape (..., P)."""
    i, j = layout.couples
    return joined(values**2, values[..., i] * values[..., j])


def per_query(value: Number) -> Number:
    """Drop the last axis of a parameter of shape (..., 1, 1), so that it meets queries."""
    return np.asarray(value)[..., 0] if np.ndim(value) else value


def per_stack(value: Number) -> Number:
    """Drop the last axes of a parameter of shape (..., 1, 1), so that it meets stacks."""
    return np.asarray(value)[..., 0, 0] if np.ndim(value) else value


def transposed(matrix: Floats) -> Floats:
    """Transpose of each matrix."""
    return np.swapaxes(matrix, -1, -2)


def _by_place(place: Ints, values: Floats, number: int) -> Floats:
    """Sum over the last axis of values of one place, shape (..., number)."""
    lead = values.shape[:-1]
    every = place + number * np.arange(prod(lead))[:, None]
    sums = np.bincount(every.ravel(), values.ravel(), number * prod(lead))
    return np.reshape(sums, (*lead, number)).astype(np.float64)


@dataclass(frozen=True)
class PairSums:
    """Sums over pairs under given mean weights.

    Attributes
    ----------
    layout : Layout
        Blocks and mask.
    weight : array, shape (..., P, B)
        Total mean weight of each query on the keys of each block.

    Examples
    --------
    >>> from sigprop.layers.attention.pair_sums import PairSums
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> layout = make_layout(2)
    >>> PairSums(layout, layout.seen / layout.queries.count[:, None]).same.tolist()
    [1.0, 0.5, 0.5]
    """

    layout: Layout
    weight: Floats

    @cached_property
    def each(self) -> Floats:
        """Mean weight of one key of each block, shape (..., P, B)."""
        return np.asarray(self.weight / self.layout.size)

    @cached_property
    def same(self) -> Floats:
        """Sum over common keys of the product of two queries' weights, shape (..., P + N)."""
        return self.on_common(self.each @ transposed(self.weight))

    def on_common(self, matrix: Floats, *values: Floats) -> Floats:
        """Sum over common keys of two queries, from those over independent parts of blocks.

        Parameters
        ----------
        matrix : array, shape (..., P, P)
            Sums of the products of weights and values.
        *values : array, shape (..., P, B)
            Values of each query, of which the sum of the two enters as a factor.

        Returns
        -------
        array, shape (..., P + N)
            The sums.
        """
        out, more = self.picked(matrix), self._more(self.each, self.each, *values)
        return out + _by_place(self.layout.common_parts.kernel, more, out.shape[-1])

    def _more(self, left: Floats, right: Floats, *values: Floats) -> Floats:
        """Find what two queries have in common of a block above independent parts, (..., C)."""
        at = self.layout.common_parts
        one, two = left[..., at.first, at.block], left[..., at.second, at.block]
        other, another = right[..., at.second, at.block], right[..., at.first, at.block]
        out = at.more * self.layout.size[at.block] * (one * other + two * another) / 2
        for value in values:
            out = out * (value[..., at.first, at.block] + value[..., at.second, at.block])
        return np.asarray(out)

    def to_common(self, kernel: Floats, *values: Floats) -> Floats:
        """Sum over queries for their common keys, as `on_common`.

        Parameters
        ----------
        kernel : array, shape (..., P + N)
            Kernel of queries.
        *values : array, shape (..., P, B)
            As in `on_common`.

        Returns
        -------
        array, shape (..., B)
            What they pass to the tokens of each block above what independent parts do.
        """
        return self._to_blocks(kernel, self._more(self.each, self.each, *values))

    def _to_blocks(self, kernel: Floats, more: Floats) -> Floats:
        """Sum over both orders of two queries, shape (..., B)."""
        at = self.layout.common_parts
        return _by_place(at.block, at.orders * kernel[..., at.kernel] * more, len(self.layout.size))

    def to_one_key(self, once: Floats) -> Floats:
        """Sum over queries of what they have on a key with others, and on another key.

        Parameters
        ----------
        once : array, shape (..., P + N)
            Kernel of queries, for both orders of a couple, of which the earlier has the other key.

        Returns
        -------
        array, shape (..., B, B)
            The sums.
        """
        each, at, (queries, blocks) = self.each, self.layout.common_parts, self.each.shape[-2:]
        more = once[..., at.kernel] * self._more(each, each) / self.layout.size[at.block]
        common = _by_place(at.block * queries + at.first, more, blocks * queries)
        common = common.reshape(*common.shape[:-1], blocks, queries)
        return np.asarray((transposed(each * (self.ordered(once) @ each)) + common) @ each)

    @cached_property
    def different(self) -> Floats:
        """Part of the pairs of tokens of two blocks that are different tokens, shape (B, B)."""
        size = self.layout.size
        return np.asarray(self.layout.pairs / np.outer(size, size))

    def picked(self, matrix: Floats) -> Floats:
        """Kernel of queries of a matrix over queries, shape (..., P, P)."""
        i, j = self.layout.couples
        return joined(np.diagonal(matrix, axis1=-2, axis2=-1), matrix[..., i, j])

    def ordered(self, kernel: Floats) -> Floats:
        """Kernel of queries as a matrix of the earlier and the later, shape (..., P, P).

        A query at a short distance before another counts as one between the centres of two blocks.
        """
        layout, number = self.layout, len(self.layout.queries.count)
        out, (i, j) = np.zeros((*kernel.shape[:-1], number, number)), layout.couples
        (first, part), (near, _) = layout.before, layout.close
        apart, row = len(i) - len(near), np.arange(number)
        couples, close = np.split(kernel[..., number:], [apart], axis=-1)
        out[..., row, row] = kernel[..., :number]
        out[..., i[:apart], j[:apart]] = couples
        if len(near):
            place = np.append(first, first + 1) * number + np.append(near, near)
            sums = np.concatenate([(1 - part) * close, part * close], axis=-1)
            out += _by_place(place, sums, number * number).reshape(out.shape)
        return out

    def matrix(self, kernel: Floats) -> Floats:
        """Kernel of queries as a symmetric matrix, shape (..., P, P), likewise."""
        one, number = self.ordered(kernel), len(self.layout.queries.count)
        out, row = one + transposed(one), np.arange(number)
        out[..., row, row] -= kernel[..., :number]
        return out

    def spread(self, kernel: Floats, left: Floats, right: Floats) -> tuple[Floats, Floats]:
        r"""Spread a kernel of queries over their keys: :math:`\sum_{tt'} X_{tt'} w_{ts} w_{t's'}`.

        Parameters
        ----------
        kernel : array, shape (..., P + N)
            The kernel X.
        left, right : array, shape (..., P, B)
            Weights of the two queries.

        Returns
        -------
        own : array, shape (..., B)
            Where both have one key.
        others : array, shape (..., B, B+J)
            Where they have different keys.
        """
        layout, size = self.layout, self.layout.size
        a, b = left / size, right / size
        taken = self.matrix(kernel) @ b
        more, block = self._to_blocks(kernel, self._more(a, b)), np.arange(len(size))
        others = layout.everywhere(transposed(a) @ taken) * layout.number
        others[..., block, block] -= np.where(layout.number[block, block] > 0, more, 0.0)
        return np.sum(a * taken, axis=-2) * size + more, others
