"""Sums over pairs of queries and over pairs of keys of a layout (E25, E23b).

A kernel of queries is a matrix over all `Layout.queries`: on the diagonal what tokens have of
themselves, summed over each block; beside it what belongs to the couples, in both orders, summed
over pairs of different tokens. A kernel of keys is a pair: sums over the tokens of each block, and
over pairs of different tokens of two blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.state import Gradient

__all__ = ["PairSums", "divided"]


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


@dataclass(frozen=True)
class PairSums:
    """Sums over pairs under given mean weights.

    Attributes
    ----------
    layout : Layout
        Blocks and mask.
    weight : array, shape (P, B)
        Total mean weight of each query on the keys of each block.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.pair_sums import PairSums
    >>> from sigprop.layers.attention.position_grid import make_layout
    >>> layout = make_layout(2)
    >>> PairSums(layout, layout.seen / layout.queries.count[:, None]).same.tolist()
    [[1.0, 0.5], [0.5, 0.5]]
    """

    layout: Layout
    weight: Floats

    @cached_property
    def each(self) -> Floats:
        """Mean weight of one key of each block, shape (P, B)."""
        return np.asarray(self.weight / self.layout.size)

    @cached_property
    def same(self) -> Floats:
        """Sum over common keys of the product of two queries' weights, shape (P, P)."""
        return np.asarray(self.each @ self.weight.T)

    @cached_property
    def different(self) -> Floats:
        """Part of the pairs of tokens of two blocks that are different tokens, shape (B, B)."""
        size = self.layout.size
        return np.asarray(self.layout.pairs / np.outer(size, size))

    def matrix(self, own: Floats, couples: Floats) -> Floats:
        """Values of queries and couples as a symmetric matrix.

        Parameters
        ----------
        own : array, shape (P,)
            For each query.
        couples : array, shape (N,)
            For each couple.

        Returns
        -------
        array, shape (P, P)
            The matrix; zero for two queries that are no couple.
        """
        i, j = self.layout.couples
        out = np.diag(np.asarray(own, dtype=np.float64))
        out[i, j] = out[j, i] = couples
        return out

    def of_queries(self, gradient: Gradient) -> Floats:
        """Kernel of queries from a gradient kernel by position."""
        size, cells = self.layout.size, self.layout.cells
        own = np.zeros(len(self.layout.queries.count))
        own[: len(size)] = np.asarray(gradient.q)[:, 0] * size
        couples = np.asarray(gradient.others)[cells]
        within = len(self.layout.wide)
        couples[len(couples) - within :] /= 2  # both orders are in one block
        return self.matrix(own, couples)

    def by_block(self, queries: Floats) -> tuple[Floats, Floats]:
        """Kernel of queries as one of the tokens of each block: inverse of `of_queries`."""
        wide, block = self.layout.wide, np.arange(len(self.layout.size))
        others = self.layout.spread_out(queries[self.layout.couples])
        others[wide, wide] *= 2
        return queries[block, block], others

    def spread(
        self, queries: Floats, left: Floats | None = None, right: Floats | None = None
    ) -> tuple[Floats, Floats]:
        r"""Spread a kernel of queries over their keys: :math:`\sum_{tt'} X_{tt'} w_{ts} w_{t's'}`.

        Parameters
        ----------
        queries : array, shape (P, P)
            The kernel X.
        left, right : array, shape (P, B), optional
            Weights of the two queries; by default the mean weights.

        Returns
        -------
        own : array, shape (B,)
            Where both have one key.
        others : array, shape (B, B)
            Where they have different keys.
        """
        left = self.weight if left is None else left
        right = self.weight if right is None else right
        taken = queries @ right
        own = np.sum(left * taken, axis=0) / self.layout.size
        return own, (left.T @ taken) * self.different
