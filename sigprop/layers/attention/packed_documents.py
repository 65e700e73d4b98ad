"""Packed documents: which tokens of a context two of them stand for (E25j).

Where the tokens that enter are exchangeable, a document is the first tokens of the longest one, in
law, and two documents meet in no layer. The two longest then stand for all: position p of the first
for position p of each document of p tokens or more, and pairs of positions of the two for those of
all pairs of documents. Measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats, Ints

__all__ = ["PackedDocuments"]


@dataclass(frozen=True)
class PackedDocuments:
    """Documents that share a context.

    Parameters
    ----------
    lengths : tuple of int
        Tokens of each, in the order of the context.
    kept : int
        How many of the longest stand for all: two, or one where pairs of documents do not matter.

    Examples
    --------
    >>> from sigprop.layers.attention.packed_documents import PackedDocuments
    >>> PackedDocuments((2, 5, 4)).longest
    (5, 4)
    """

    lengths: tuple[int, ...]
    kept: int = 2

    @property
    def tokens(self) -> int:
        """Context length T."""
        return sum(self.lengths)

    @cached_property
    def longest(self) -> tuple[int, ...]:
        """Lengths of those that stand for all, the longest first."""
        return tuple(sorted(self.lengths, reverse=True)[: self.kept])

    @property
    def starts(self) -> Ints:
        """Positions behind which they begin, one behind the other."""
        return np.array([0, *self.longest[:-1]])

    def laid_out(self, edges: Ints) -> Ints:
        """Lay out blocks of the longest documents, one behind the other.

        Parameters
        ----------
        edges : array of int
            Ends of blocks of positions in a document, those of the longest among them.

        Returns
        -------
        array of int, shape (B+1,)
            The ends.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.packed_documents import PackedDocuments
        >>> PackedDocuments((2, 5, 4)).laid_out(np.array([0, 1, 2, 4, 5])).tolist()
        [0, 1, 2, 4, 5, 6, 7, 9]
        """
        longest, *others = self.longest
        own = edges[edges <= longest]
        return np.concatenate([own, *(longest + own[1:][own[1:] <= n] for n in others)])

    def numbers(self, edges: Ints) -> Floats:
        """Tokens of the context that blocks of the longest document stand for.

        Parameters
        ----------
        edges : array of int, shape (B+1,)
            Ends of its blocks.

        Returns
        -------
        array, shape (B,)
            The numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.packed_documents import PackedDocuments
        >>> PackedDocuments((2, 5, 4)).numbers(np.array([0, 1, 3, 5])).tolist()
        [3.0, 5.0, 3.0]
        """
        held, copies = self._held(edges, 0)
        return np.asarray(copies @ held)

    def pairs(self, edges: Ints, first: int = 0) -> Floats:
        """Pairs of tokens of the context that pairs of blocks of the longest documents stand for.

        Parameters
        ----------
        edges : array of int, shape (B+1,)
            Ends of the blocks of the longest.
        first : int
            Number of tokens at the start of the context that are not counted.

        Returns
        -------
        array, shape (B+C, B+C)
            Ordered pairs of different tokens, C the blocks of the second longest; all of one
            document stand in the first B rows and columns.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.packed_documents import PackedDocuments
        >>> PackedDocuments((1, 2, 1)).pairs(np.array([0, 1, 2])).tolist()
        [[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]
        """
        held, copies = self._held(edges, first)
        number = copies @ held
        own = (copies[:, None] * held).T @ held
        between = np.outer(number, number) - own  # in both orders
        second = len(self.laid_out(edges)) - len(edges)
        between = between[:, :second]
        between[:second] /= 2
        return np.block([[own - np.diag(number), between], [between.T, np.zeros((second, second))]])

    def _held(self, edges: Ints, first: int) -> tuple[Floats, Floats]:
        """Tokens of each different document in each block, and how many documents are alike."""
        length = np.array(self.lengths)
        start = np.clip(first - (np.cumsum(length) - length), 0, length)
        kinds, copies = np.unique(np.stack([start, length]), axis=1, return_counts=True)
        low, high = kinds[..., None]
        held = np.clip(edges[1:], low, high) - np.clip(edges[:-1], low, high)
        return held.astype(np.float64), copies.astype(np.float64)
