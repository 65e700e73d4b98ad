r"""Positions of a context in blocks, and which keys each position sees.

A kernel that is smooth in position is kept as means over pairs of blocks. The first `SINGLES`
positions are blocks of one, so a short context is kept in full; after them block lengths grow in
proportion to the position, as the kernel's variation does. A block is represented by its centre,
pairs within a block by its points at 1/3 and 2/3 (the mean positions of the earlier and the later
of two tokens drawn from it). Sums over the visible part of a block are taken linear in position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number
from sigprop.core.errors import require

__all__ = ["Layout", "Rows", "make_layout"]

SINGLES = 24
PER_WINDOW = 8  # blocks in a sliding window
MAX_SIZE = 500  # blocks of a context behind a window
RESOLVED = 8  # of the queries at which correlations of scores are found


@dataclass(frozen=True)
class Rows:
    """Queries at given positions, and what they see.

    Attributes
    ----------
    position : array, shape (P,)
        Positions, from 1; a block's centre may lie between two.
    low, high : array, shape (P,)
        Keys at positions in (low, high] are seen.

    Examples
    --------
    >>> from sigprop.layers.attention.position_grid import make_layout
    >>> make_layout(4).centres.count.tolist()
    [1.0, 2.0, 3.0, 4.0]
    """

    position: Floats
    low: Floats
    high: Floats

    @property
    def count(self) -> Floats:
        """Number of keys seen."""
        return self.high - self.low


@dataclass(frozen=True)
class Layout:
    """Blocks of positions under a mask.

    Attributes
    ----------
    edges : array of int, shape (B+1,)
        Block b holds positions edges[b] + 1 to edges[b+1].
    window : float
        Number of latest keys that a token sees.
    prefix : int
        Number of leading tokens that see each other in both directions.

    Examples
    --------
    >>> from sigprop.layers.attention.position_grid import make_layout
    >>> layout = make_layout(4096)
    >>> layout.size.sum(), len(layout.size) < 140
    (np.int64(4096), True)
    """

    edges: Ints
    window: float = np.inf
    prefix: int = 0

    @cached_property
    def size(self) -> Ints:
        """Positions in each block."""
        return np.diff(self.edges)

    @cached_property
    def centres(self) -> Rows:
        """One query a block."""
        return self._rows(1 / 2)

    @cached_property
    def wide(self) -> Ints:
        """Blocks of more than one position."""
        return np.flatnonzero(self.size > 1)

    @cached_property
    def queries(self) -> Rows:
        """Centres of all blocks, then points at 1/3, then points at 2/3 of the wide ones."""
        parts = [self._rows(p, self.wide) for p in (1 / 3, 2 / 3)]
        columns = zip(*(vars(rows).values() for rows in (self.centres, *parts)), strict=True)
        return Rows(*(np.concatenate(column) for column in columns))

    @cached_property
    def blocks(self) -> Ints:
        """Block that each of `queries` lies in."""
        return np.concatenate([np.arange(len(self.size)), self.wide, self.wide])

    @cached_property
    def couples(self) -> tuple[Ints, Ints]:
        """Pairs of `queries`: earlier and later block, then the two points of each wide block."""
        (i, j), extra = np.triu_indices(len(self.size), 1), len(self.wide)
        within = len(self.size) + np.arange(extra)
        return np.concatenate([i, within]), np.concatenate([j, within + extra])

    @cached_property
    def cells(self) -> tuple[Ints, Ints]:
        """Pair of blocks that each of `couples` stands for."""
        i, j = np.triu_indices(len(self.size), 1)
        return np.concatenate([i, self.wide]), np.concatenate([j, self.wide])

    def spread_out(self, values: Floats) -> Floats:
        """One value for each of `couples` as a symmetric matrix over blocks.

        Parameters
        ----------
        values : array, shape (..., N)
            Values in the order of `couples`.

        Returns
        -------
        array, shape (..., B, B)
            The matrix; zero on the diagonal where a block has one position.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> make_layout(2).spread_out(np.array([3.0])).tolist()
        [[0.0, 3.0], [3.0, 0.0]]
        """
        i, j = self.cells
        out = np.zeros((*values.shape[:-1], len(self.size), len(self.size)))
        out[..., i, j] = out[..., j, i] = values
        return out

    def _rows(self, part: float, index: Ints | slice = slice(None)) -> Rows:
        position = self.edges[:-1][index] + (self.size[index] + 1) * part
        low = np.maximum(position - self.window, 0.0)
        return Rows(position, low, np.maximum(position, self.prefix))

    @cached_property
    def seen(self) -> Floats:
        """Part of each block that each of `queries` sees, shape (P, B)."""
        return self.visible(self.queries)

    @cached_property
    def common(self) -> Floats:
        """Number of keys that both queries of each of `couples` see."""
        i, j = self.couples
        low, high = self.queries.low, self.queries.high
        most = np.minimum(high[i], high[j]) - np.maximum(low[i], low[j])
        return np.asarray(np.maximum(most, 0.0))

    @cached_property
    def resolved(self) -> Ints:
        """Blocks at whose centres correlations of scores are found, where queries see three keys.

        Examples
        --------
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> make_layout(4).resolved.tolist()
        [2, 3]
        """
        index = np.flatnonzero(self.centres.count >= 3)
        if not index.size:
            return index
        rows = np.unique(np.geomspace(1, index.size, RESOLVED).round().astype(int)) - 1
        return np.asarray(index[rows])

    def between(self, values: Floats, few: Number) -> Floats:
        """Values at the `resolved` blocks as values at every query, linear in log position.

        Parameters
        ----------
        values : array, shape (..., K)
            Values at these blocks.
        few : float
            Value of queries that see fewer than three keys.

        Returns
        -------
        array, shape (..., P)
            Values at all queries, constant beyond the ends.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> make_layout(4).between(np.array([0.5, 0.7]), 1.0).tolist()
        [1.0, 1.0, 0.5, 0.7]
        """
        return np.where(self.queries.count < 3, few, values @ self._hats)

    @cached_property
    def _hats(self) -> Floats:
        """What each resolved block contributes to each query."""
        node = np.log(self.centres.position[self.resolved])
        place = np.log(self.queries.position)
        return np.stack([np.interp(place, node, unit) for unit in np.eye(len(node))])

    def own(self, values: Floats) -> Floats:
        """Means over pairs of different keys, for each of `queries`.

        Parameters
        ----------
        values : array, shape (..., B, B)
            Mean of a quantity over pairs of different tokens of two blocks.

        Returns
        -------
        array, shape (..., P)
            The means; zero where it sees one.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> make_layout(3).own(np.full((3, 3), 0.5)).tolist()
        [0.0, 0.5, 0.5]
        """
        sums, count = (
            np.sum((self.seen @ v) * self.seen, axis=-1) for v in (self.pairs * values, self.pairs)
        )
        return np.asarray(np.divide(sums, count, out=np.zeros_like(sums), where=count > 0))

    def beside(self, values: Floats) -> Floats:
        """Mean over the other keys that a query sees, for a key of each block.

        Parameters
        ----------
        values : array, shape (..., B, B)
            Mean of a quantity over pairs of different tokens of two blocks.

        Returns
        -------
        array, shape (..., P, B)
            The means; zero where there is no other key.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> make_layout(2).beside(np.array([[0.0, 0.5], [0.5, 0.0]])).tolist()
        [[0.0, 0.5], [0.5, 0.5]]
        """
        sums, count = self.seen @ (self.pairs * values), self.seen @ self.pairs
        return np.divide(sums, count, out=np.zeros_like(sums), where=count > 0)

    def waves(self, omega: Floats) -> Floats:
        r"""Mean of :math:`\cos\omega(s - s')` over pairs of different tokens of two blocks.

        Parameters
        ----------
        omega : array, shape (F,)
            Frequencies in radians a token.

        Returns
        -------
        array, shape (F, B, B)
            The means.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> make_layout(2).waves(np.array([np.pi]))[0, 0, 1].round(12)
        np.float64(-1.0)
        """
        phase, size = omega[:, None], self.size.astype(np.float64)
        half = np.sin(phase / 2)
        single = (np.abs(half) < 1e-12) | (size < 2)
        shape = np.where(single, 1.0, np.sin(phase * size / 2) / np.where(single, 1.0, size * half))
        centre = self.centres.position
        angle = phase[..., None] * (centre[:, None] - centre)
        sums = np.cos(angle) * (shape * size)[:, :, None] * (shape * size)[:, None, :]
        at = np.arange(len(size))
        sums[:, at, at] -= size  # pairs of one token
        return np.asarray(sums / np.where(self.pairs > 0, self.pairs, 1.0))

    def visible(self, rows: Rows) -> Floats:
        """Part of each block that each query sees.

        Parameters
        ----------
        rows : Rows
            P queries.

        Returns
        -------
        array, shape (P, B)
            Fractions in [0, 1].

        Examples
        --------
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> layout = make_layout(3, window=2)
        >>> layout.visible(layout.centres).tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
        """
        start, stop = self.edges[:-1], self.edges[1:]
        seen = np.minimum(rows.high[:, None], stop) - np.maximum(rows.low[:, None], start)
        return np.asarray(np.maximum(seen, 0.0) / self.size)

    @cached_property
    def pairs(self) -> Floats:
        """Number of ordered pairs of different tokens in each pair of blocks, shape (B, B)."""
        return pairs_between(self.size)

    @property
    def parts(self) -> Ints:
        """Whole keys of each block that the query at each centre sees, shape (B, B)."""
        seen = self.visible(self.centres) * self.size
        ends = np.floor(np.cumsum(seen, axis=1) + 0.5).astype(int)  # no block has more than its own
        return np.diff(ends, axis=1, prepend=0)

    def merged(self, blocks: int) -> Floats:
        """Share of each block in `blocks` equal ranges of positions.

        Parameters
        ----------
        blocks : int
            Number of ranges, at most the context length.

        Returns
        -------
        array, shape (blocks, B)
            Number of positions of each block in each range.

        Examples
        --------
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> make_layout(4).merged(2).tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
        """
        cuts = np.linspace(0, self.edges[-1], blocks + 1)
        stop = np.minimum(cuts[1:, None], self.edges[1:])
        start = np.maximum(cuts[:-1, None], self.edges[:-1])
        return np.asarray(np.maximum(stop - start, 0.0))


def pairs_between(sizes: Ints) -> Floats:
    """Numbers of ordered pairs of different members of each pair of blocks.

    Parameters
    ----------
    sizes : array of int, shape (B,)
        Members of each block.

    Returns
    -------
    array, shape (B, B)
        The numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_grid import pairs_between
    >>> pairs_between(np.array([1, 3])).tolist()
    [[0.0, 3.0], [3.0, 6.0]]
    """
    size = sizes.astype(np.float64)
    return np.outer(size, size) - np.diag(size)


def make_layout(
    context: int,
    resolution: int = 64,
    window: float = np.inf,
    prefix: int = 0,
    cuts: Ints | tuple[int, ...] = (),
    singles: int = SINGLES,
) -> Layout:
    """Blocks of a context.

    Parameters
    ----------
    context : int
        Context length T, >= 2.
    resolution : int
        About how many blocks; from T on every position is a block.
    window : float
        Number of latest keys that a token sees, >= 1.
    prefix : int
        Number of leading tokens that see each other, in [0, T].
    cuts : sequence of int
        Positions at which a block must end.
    singles : int
        Number of first positions that are blocks of one, >= 2.

    Returns
    -------
    Layout
        Blocks and mask.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.layers.attention.position_grid import make_layout
    >>> make_layout(8).edges.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    require(context >= 2, "context", context, "an integer >= 2")
    require(singles >= 2, "singles", singles, "an integer >= 2")
    require(resolution >= singles, "resolution", resolution, f"an integer >= {singles}")
    require(window >= 1, "window", window, "a number >= 1")
    require(0 <= prefix <= context, "prefix", prefix, "an integer in [0, context]")
    single = np.arange(min(singles, context) + 1)
    grown = np.geomspace(single[-1], context, max(resolution - singles, 1) + 1)
    if resolution >= context:
        grown = np.arange(context + 1.0)
    if window < context:  # behind a window the kernel varies over the window, not the position
        fine = np.arange(0, context, max(window // PER_WINDOW, 1))
        require(len(fine) <= MAX_SIZE, "window", window, f"at least {context} / 50")
        grown = np.concatenate([grown, fine])
    inside = [c for c in (*cuts, prefix) if 0 < c < context]
    edges = np.unique(np.concatenate([single, np.round(grown), inside]).astype(np.int64))
    return Layout(edges, window, prefix)
