r"""Positions of a context in blocks, and which keys each position sees.

A kernel that is smooth in position is kept as means over pairs of blocks. The first
positions are blocks of one, so a short context is kept in full; after them block lengths grow in
proportion to the position, as the kernel's variation does. A block is represented by its centre,
pairs within a block by its points at 1/3 and 2/3 (the mean positions of the earlier and the later
of two tokens drawn from it). What is seen of a block in part counts as shares of three blocks, as
by a parabola in log position.

Far behind a sliding window blocks are longer than the window, and the kernel varies over distances
within a block. Pairs of tokens of such a block are then kept at a few short distances besides, and
queries see a window in ranges of their own (`sigprop.layers.attention.sliding_window`).

Tokens of a segment, a document or a chunk, see no other. Two documents may stand for all
(`sigprop.layers.attention.packed_documents`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Bools, Floats, Ints, distinct
from sigprop.core.numerics.interpolation import cubics
from sigprop.layers.attention.packed_documents import PackedDocuments
from sigprop.layers.attention.sliding_window import SlidingWindow, between_nodes

__all__ = ["CommonParts", "Layout", "Rows", "evenly", "moved", "pairs_between"]

WINDOWS = 4  # windows at the start of a context whose blocks are parts of the window
RESOLVED, FEWEST = 96, 6  # queries at which correlations are found, in all and in each segment
BESIDE = 3  # of them at least before and behind the end of a window or of a prefix


def _none() -> Ints:
    """Make an empty array of integers."""
    return np.zeros(0, dtype=np.int64)


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
    >>> from sigprop.layers.attention.position_blocks import make_layout
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


class CommonParts(NamedTuple):
    """Blocks of which two queries see more in common than the product of their parts.

    Attributes
    ----------
    kernel : array of int, shape (C,)
        Place of the two among queries, and couples behind them.
    first, second : arrays of int
        The queries.
    block : array of int
        The block.
    more : array
        The part in common over the product of the two, less one.
    orders : array of int
        Orders that a couple stands for.
    """

    kernel: Ints
    first: Ints
    second: Ints
    block: Ints
    more: Floats
    orders: Ints


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
    distances : array of int, shape (J,)
        Short distances at which pairs within long blocks are told apart; none by default.
    reach : array of int, shape (B,)
        Distance up to which they are, for each block; zero of blocks that are not long.
    starts : array of int, shape (S,)
        Positions behind which segments begin, documents or chunks, of which tokens see their own
        alone; zero is the first.
    documents : PackedDocuments, optional
        Those for which the segments stand: the longest, or the two longest.
    joints : array of int, shape (J,)
        Positions after the first behind which segments of any layer begin.

    Examples
    --------
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> layout = make_layout(4096)
    >>> layout.size.sum(), len(layout.size) < 140
    (np.int64(4096), True)
    """

    edges: Ints
    window: float = np.inf
    prefix: int = 0
    distances: Ints = field(default_factory=_none)
    reach: Ints = field(default_factory=_none)
    starts: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    documents: PackedDocuments | None = None
    joints: Ints = field(default_factory=_none)

    @cached_property
    def local(self) -> SlidingWindow | None:
        """Window that queries of long blocks see in ranges of its own, if there are such."""
        if not (len(self.distances) and np.isfinite(self.window)):
            return None
        start = int(np.searchsorted(self.edges[:-1], WINDOWS * self.window))
        if start == len(self.size):
            return None
        rows = np.arange(start, len(self.size))
        return SlidingWindow(int(self.window), self.distances, rows, self.centres.position)

    @cached_property
    def head(self) -> Layout:
        """Blocks before those of which queries see a window in ranges of its own."""
        last = len(self.size) if self.local is None else int(self.local.rows[0])
        return replace(self, edges=self.edges[: last + 1], reach=self.reach[:last])

    @cached_property
    def head_rows(self) -> Ints:
        """Which of `queries` are those of `head`."""
        rows = np.arange(len(self.queries.position))
        return rows if self.local is None else np.setdiff1d(rows, self.local.rows)

    @cached_property
    def joined(self) -> Ints:
        """Blocks with which the segments behind `joints` begin."""
        inside = self.joints[self.joints < self.edges[-1]]
        return np.asarray(np.searchsorted(self.edges[:-1], inside))

    @cached_property
    def long(self) -> Ints:
        """Blocks whose pairs are told apart by distance."""
        return np.flatnonzero(self.reach)

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
        """Blocks of more than one position whose pairs are not told apart by distance."""
        several = self.size > 1
        several[self.long] = False
        return np.flatnonzero(several)

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
        """Pairs of `queries`: earlier and later block, then the two points of each wide block.

        Last come queries of long blocks, taken twice, at each of the short `distances`.
        """
        (i, j), extra = self._apart, len(self.wide)
        within, (near, _) = len(self.size) + np.arange(extra), self.close
        return np.concatenate([i, within, near]), np.concatenate([j, within + extra, near])

    @cached_property
    def cells(self) -> tuple[Ints, Ints]:
        """Place of each of `couples` in a matrix over blocks, and over distances behind them."""
        (i, j), (near, distance) = self._apart, self.close
        beside = len(self.size) + distance
        return np.concatenate([i, self.wide, near]), np.concatenate([j, self.wide, beside])

    @cached_property
    def even(self) -> Floats:
        """Overlap of two queries of equal weights, for each of `couples`."""
        (i, j), count = self.couples, self.queries.count
        return np.asarray(self.common / (count[i] * count[j]))

    @cached_property
    def offsets(self) -> Floats:
        """Distance of the two queries of each of `couples`."""
        (i, j), position, near = self.couples, self.queries.position, self.close[1]
        apart = position[j] - position[i]
        apart[len(apart) - len(near) :] = self.distances[near]
        return apart

    def of_two(self, values: Floats) -> Floats:
        """Means over the two queries of each couple.

        Parameters
        ----------
        values : array, shape (..., P)
            One for each of `queries`.

        Returns
        -------
        array, shape (..., N)
            The means; a query at a short distance before another has what lies between blocks.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(3).of_two(np.array([0.0, 1.0, 4.0])).tolist()
        [0.5, 2.0, 2.5]
        """
        (i, j), (first, part) = self.couples, self.before
        other = values[..., j]
        if len(first):
            low, high = values[..., first], values[..., first + 1]
            other[..., other.shape[-1] - len(first) :] = low + part * (high - low)
        return np.asarray((values[..., i] + other) / 2)

    @cached_property
    def before(self) -> tuple[Ints, Floats]:
        """Place among blocks of the earlier query of each couple at a short distance."""
        (near, distance), centre = self.close, self.centres.position
        return between_nodes(centre, centre[near] - self.distances[distance])

    @cached_property
    def close(self) -> tuple[Ints, Ints]:
        """Long block and index of the distance of couples at short distances."""
        block, distance = np.nonzero(self.distances <= self.reach[self.long][:, None])
        return self.long[block], distance

    @property
    def apart_couples(self) -> int:
        """Number of `couples` of two blocks at no short distance, which come first."""
        return len(self._apart[0])

    @cached_property
    def _apart(self) -> tuple[Ints, Ints]:
        """Pairs of blocks at no short distance."""
        i, j = np.triu_indices(len(self.size), 1)
        if not len(self.long):
            return i, j
        centre = self.centres.position
        far = centre[j] - centre[i] > self.reach[j]
        return i[far], j[far]

    def spread_out(self, values: Floats) -> Floats:
        """One value for each of `couples` as a matrix over blocks, and over distances behind them.

        Parameters
        ----------
        values : array, shape (..., N)
            Values in the order of `couples`.

        Returns
        -------
        array, shape (..., B, B+J)
            The matrix, symmetric over blocks; zero on the diagonal where a block has one position,
            and at distances within blocks that are not long.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(2).spread_out(np.array([3.0])).tolist()
        [[0.0, 3.0], [3.0, 0.0]]
        """
        (i, j), blocks = self.cells, len(self.size)
        out = np.zeros((*values.shape[:-1], blocks, blocks + len(self.distances)))
        out[..., i, j] = values
        square = out[..., :blocks]
        if not len(self.long):
            square[..., j, i] = values
            return out
        _fill(out, *self._at_short_distance)
        profile = out[..., self.long, blocks:]
        square[...] += np.tril(square, -1).swapaxes(-1, -2) + np.triu(square, 1).swapaxes(-1, -2)
        square[..., self.long, self.long] = np.einsum("...bj,bj->...b", profile, self._within)
        _fill(out, *self._further)
        return out

    @cached_property
    def _at_short_distance(self) -> tuple[Ints, Ints, Ints, Floats]:
        """Pairs of blocks (later, earlier), between which distances of the later they lie."""
        blocks, centre = len(self.size), self.centres.position
        j, i = np.tril_indices(blocks, -1)
        near = centre[j] - centre[i] <= self.reach[j]
        j, i = j[near], i[near]
        first, part = between_nodes(self.distances, centre[j] - centre[i])
        return j, i, blocks + first, part

    @cached_property
    def _further(self) -> tuple[Ints, Ints, Ints, Floats]:
        """Distances beyond the reach of a block, between which earlier blocks they lie.

        Of long blocks, and of those before them that their queries see.
        """
        blocks, centre = len(self.size), self.centres.position
        start = np.searchsorted(centre, (WINDOWS - 1) / WINDOWS * self.edges[self.long[0]])
        row, distance = np.nonzero(self.distances > self.reach[start:, None])
        row += start
        place = np.maximum(centre[row] - self.distances[distance], centre[row] / WINDOWS)
        first, part = between_nodes(centre, place)
        return row, blocks + distance, first, part

    @cached_property
    def _within(self) -> Floats:
        """Weights of the distances in the mean over pairs of tokens of each long block."""
        hats = np.zeros((len(self.long), len(self.distances)))
        for row, size in zip(hats, self.size[self.long].tolist(), strict=True):
            if size > 1:
                apart = np.arange(1, size)
                first, part = between_nodes(self.distances, apart.astype(np.float64))
                weight = (size - apart) / (size * (size - 1) / 2)
                np.add.at(row, first, weight * (1 - part))
                np.add.at(row, first + 1, weight * part)
        return hats

    def _rows(self, part: float, index: Ints | slice = slice(None)) -> Rows:
        position = self.edges[:-1][index] + (self.size[index] + 1) * part
        start = self.starts[self._segment(position)]
        low = np.maximum(position - self.window, start)
        return Rows(position, low, np.maximum(position, self.prefix))

    @property
    def tokens(self) -> int:
        """Context length T."""
        return int(self.edges[-1]) if self.documents is None else self.documents.tokens

    @cached_property
    def shown(self) -> int:
        """Number of blocks whose tokens stand for all: those of the longest document."""
        packed = self.documents
        return len(self.size) if packed is None else int(self.edges.searchsorted(packed.longest[0]))

    @cached_property
    def stands_for(self) -> Floats:
        """Tokens of the context that each block stands for, shape (B,)."""
        if self.documents is None:
            return self.size.astype(np.float64)
        own = self.documents.numbers(self.edges[: self.shown + 1])
        return np.pad(own, (0, len(self.size) - self.shown))

    @cached_property
    def token_pairs(self) -> Floats:
        """Ordered pairs of different tokens of the context, shape (B, B), likewise."""
        if self.documents is None:
            return self.pairs
        return self.documents.pairs(self.edges[: self.shown + 1])

    @cached_property
    def late_pairs(self) -> Floats:
        """Likewise of tokens of its second half."""
        if self.documents is None:
            half = self.merged(2)[1] / self.size
            return np.asarray(self.pairs * np.outer(half, half))
        return self.documents.pairs(self.edges[: self.shown + 1], self.tokens // 2)

    @cached_property
    def seen(self) -> Floats:
        """Part of each block that each of `queries` sees, shape (P, B).

        The seen part of a block counts as shares of the blocks beside it, which have its mean and
        variance in log position. Ranges of a window come behind the blocks, and queries that see a
        window in them see no blocks, shape (P, K).
        """
        return self._and_ranges(self._moved(self.visible(self.queries)))

    @cached_property
    def passed_to(self) -> Floats:
        """Part of each block that each of `queries` sees, as what it passes to keys, shape (P, K).

        In densities on blocks of different lengths no part may count elsewhere, as in `seen`.
        """
        return self._and_ranges(self.visible(self.queries))

    @cached_property
    def common_parts(self) -> CommonParts:
        """Blocks that two queries see in part, of which their parts overlap."""
        rows, (i, j), number = self.queries, self.couples, len(self.queries.count)
        one = np.append(np.arange(number), i)
        other = np.append(np.arange(number), j)
        high = np.minimum(rows.high[one], rows.high[other])
        low = np.maximum(rows.low[one], rows.low[other])
        both = self.visible(Rows(rows.position[one], low, high))
        parts = self.visible(rows)
        chance = parts[one] * parts[other]
        kernel, block = np.nonzero((chance > 0) & (chance < both))
        more = both[kernel, block] / chance[kernel, block] - 1
        orders = np.where(kernel < number, 1, 2)
        return CommonParts(kernel, one[kernel], other[kernel], block, more, orders)

    def _and_ranges(self, blocks: Floats) -> Floats:
        """Parts of blocks, and behind them of ranges of a window, shape (P, K)."""
        if self.local is None:
            return blocks
        ranges = np.zeros((len(blocks), len(self.local.sizes)))
        blocks[self.local.rows], ranges[self.local.rows] = 0.0, 1.0
        return np.concatenate([blocks, ranges], axis=1)

    def _moved(self, seen: Floats) -> Floats:
        """Parts of blocks, those seen in part moved to blocks of which the query sees more."""
        row, block = np.nonzero((seen > 0) & (seen < 1))
        first = np.maximum(self.queries.low[row], self.edges[block])
        last = np.minimum(self.queries.high[row], self.edges[block + 1])
        before, part = between_nodes(self.centres.position, (first + last + 1) / 2)
        number = seen[row, block] * self.size[block]
        places = np.stack([before, before + 1, before])
        shares = np.stack([1 - part, part, np.zeros_like(part)])
        step: Ints = np.where(first > self.edges[block], 1, -1).astype(np.int64)
        three = block + step * np.arange(3)[:, None]
        whole = (three[2] >= 0) & (three[2] < len(self.size))
        behind = three[1:, whole]
        whole[whole] = np.all(seen[row[whole], behind] == 1, axis=0)
        places[:, whole] = three[:, whole]
        shares[:, whole] = self._shares(row[whole], three[:, whole], first[whole], last[whole])
        out = seen.copy()
        out[row, block] = 0.0
        for place, share in zip(places, shares, strict=True):
            np.add.at(out, (row, place), number * share / self.size[place])
        return out

    def _shares(self, row: Ints, blocks: Ints, first: Floats, last: Floats) -> Floats:
        """Shares of blocks that have the mean and variance in log position of those in between.

        Parameters
        ----------
        row : array of int, shape (n,)
            Queries.
        blocks : array of int, shape (3, n)
            Blocks whose keys a query sees.
        first, last : array, shape (n,)
            Positions in (first, last] that the shares stand for.

        Returns
        -------
        array, shape (3, n)
            The shares, one together.
        """
        start = self.starts[self._segment(self.queries.position[row])]
        centre, size = self.centres.position[blocks] - start, self.size[blocks]
        middle = (first + last + 1) / 2 - start
        scale = np.log(centre[0]) - np.log(centre[1])
        place, spread = np.log(centre / middle) / scale, (size**2 - 1) / 12 / centre**2
        own = ((last - first) ** 2 - 1) / 12 / middle**2
        second = place * place - place * spread / scale + spread / scale**2
        moments = np.stack([np.ones_like(place), place - spread / 2 / scale, second])
        wanted = np.stack([np.ones_like(own), -own / 2 / scale, own / scale**2])
        found = np.linalg.solve(np.moveaxis(moments, -1, 0), wanted.T[..., None])
        return np.asarray(found[..., 0].T)

    @cached_property
    def key_sizes(self) -> Ints:
        """Keys in each block and, behind them, in each range of a window, shape (K,)."""
        return self.size if self.local is None else np.append(self.size, self.local.sizes)

    @cached_property
    def common(self) -> Floats:
        """Number of keys that both queries of each of `couples` see.

        A query at a short distance before another counts as one of as many keys: of those that it
        sees, the part that both see.
        """
        (i, j), (near, distance) = self.couples, self.close
        low, high = self.queries.low, self.queries.high
        most = np.minimum(high[i], high[j]) - np.maximum(low[i], low[j])
        if len(near):
            before = self.centres.position[near] - self.distances[distance]
            first = np.maximum(before - self.window, 0.0)
            last = np.maximum(before, self.prefix)
            both = np.maximum(last - low[near], 0.0) * self.centres.count[near] / (last - first)
            most[len(most) - len(near) :] = both
        return np.asarray(np.maximum(most, 0.0))

    def resolved(self, number: int) -> Ints:
        """Blocks at whose centres correlations of scores are found, where queries see three keys.

        Parameters
        ----------
        number : int
            About how many in each segment, even in the logarithm of the position in it, on either
            side of the end of a window or of a prefix, but for those where a segment of another
            layer ends; fewer of many.

        Returns
        -------
        array of int
            The blocks.

        Examples
        --------
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(4).resolved(2).tolist()
        [2, 3]
        """
        segment, place = self.places(self.centres)
        segment, place = segment[: self.shown], place[: self.shown]
        side = self._side(self.centres)[: self.shown]
        many = self.centres.count[: self.shown] >= 3
        found, held = [_none()], distinct(segment[many])
        number = min(number, max(RESOLVED // max(len(held), 1), FEWEST))
        for one in held:
            index = np.flatnonzero(many & (segment == one))
            joints = self.joints[self.joints > self.starts[one]] - self.starts[one]
            whole = max(place[index[-1]] - place[index[0]], 1e-9)
            for where in distinct(side[index]):
                part = index[side[index] == where]
                share = (place[part[-1]] - place[part[0]]) / whole
                few = number if len(part) == len(index) else max(round(number * share), BESIDE)
                found.append(part[evenly(place[part], few, tuple(np.log(joints)))])
        return np.concatenate(found)

    def _segment(self, position: Floats) -> Ints:
        """Segment of each position."""
        return np.searchsorted(self.starts, position) - 1

    def _side(self, rows: Rows) -> Ints:
        """Count the ends of a window or a prefix before each query, where values bend."""
        start = self.starts[self._segment(rows.position)]
        behind = (rows.position > start + self.window).astype(np.int64)
        return behind + (rows.position > self.prefix) if self.prefix else behind

    def places(self, rows: Rows) -> tuple[Ints, Floats]:
        """Segment of each query, and the logarithm of its position in it.

        Parameters
        ----------
        rows : Rows
            P queries.

        Returns
        -------
        segment, place : arrays, shape (P,)
            Documents that stand for all count as one segment.

        Examples
        --------
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> layout = make_layout(4)
        >>> [column.tolist() for column in layout.places(layout.centres)][0]
        [0, 0, 0, 0]
        """
        segment = self._segment(rows.position)
        place = np.log(rows.position - self.starts[segment])
        return segment if self.documents is None else np.zeros_like(segment), place

    def between(self, blocks: Ints) -> Floats:
        """Weights of values at blocks in values at every query of their segment, as `resolved`.

        Parameters
        ----------
        blocks : array of int, shape (K,)
            The blocks.

        Returns
        -------
        array, shape (K, P)
            The weights, cubic in log position on either side of the end of a window or of a prefix;
            the first and the last value of each side hold beyond.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> (np.array([0.5, 0.7]) @ make_layout(4).between(np.array([2, 3]))).tolist()
        [0.5, 0.5, 0.5, 0.7]
        """
        (own, node), (segment, place) = self.places(self.centres), self.places(self.queries)
        held, side = self._side(self.centres)[blocks], self._side(self.queries)
        out = np.zeros((len(blocks), len(place)))
        for one in distinct(own[blocks]):
            here = own[blocks] == one
            for where in distinct(side[segment == one]):
                beside = here & (held == where)
                at = np.flatnonzero(beside if beside.any() else here)
                queries = (segment == one) & (side == where)
                out[np.ix_(at, queries)] = cubics(node[blocks[at]], place[queries])
        return out

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
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(3).own(np.full((3, 3), 0.5)).tolist()
        [0.0, 0.5, 0.5]
        """
        sums, count = (self._over_pairs(v) for v in (self.pairs * values, self.pairs))
        return np.asarray(np.divide(sums, count, out=np.zeros_like(sums), where=count > 0))

    def _over_pairs(self, values: Floats) -> Floats:
        """Add up over pairs of blocks the parts that each query sees, segment by segment."""
        out = np.zeros((*values.shape[:-2], len(self.queries.position)))
        ends = np.searchsorted(self.edges, np.append(self.starts, self.edges[-1]))
        for first, last in pairwise(ends.tolist()):
            queries = np.flatnonzero((self.blocks >= first) & (self.blocks < last))
            seen = self.seen[queries, first:last]
            out[..., queries] = np.sum((seen @ values[..., first:last, first:last]) * seen, axis=-1)
        return out

    @cached_property
    def windowed(self) -> Bools:
        """Whether a query of each of `couples` sees a window in ranges of its own."""
        local = np.zeros(len(self.queries.position), dtype=bool)
        local[self.local.rows if self.local else []] = True
        i, j = self.couples
        return np.asarray(local[i] | local[j])

    @cached_property
    def close_windows(self) -> tuple[Ints, Ints, Ints]:
        """Couples at short distances of such queries: their places, rows and distances."""
        block, distance = self.close
        start = 0 if self.local is None else self.local.rows[0]
        held = np.flatnonzero(block >= start)
        places = len(self.cells[0]) - len(block) + held
        return places, block[held] - start, distance[held]

    def mean_over_seen(self, values: Floats) -> Floats:
        """Means over the pairs of a token of each block and another that it sees.

        Parameters
        ----------
        values : array, shape (..., B, B+J)
            Mean of a quantity over pairs of different tokens of two blocks, and at distances.

        Returns
        -------
        array, shape (..., B)
            The means; NaN where a token sees itself alone.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(3).mean_over_seen(np.full((3, 3), 0.5)).tolist()
        [nan, 0.5, 0.5]
        """
        blocks = len(self.size)
        weight = self.visible(self.centres) * self.pairs / self.size[:, None]
        with np.errstate(invalid="ignore"):
            out = np.sum(values[..., :blocks] * weight, axis=-1) / weight.sum(axis=-1)
        if self.local is not None and self.window > 1:
            rows = self.local.rows
            out[..., rows] = values[..., rows, blocks:] @ self.local.ahead()
        return np.asarray(out)

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
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(2).beside(np.array([[0.0, 0.5], [0.5, 0.0]])).tolist()
        [[0.0, 0.5], [0.5, 0.5]]
        """
        seen = self.seen[:, : len(self.size)]
        sums, count = seen @ (self.pairs * values), seen @ self.pairs
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
        >>> from sigprop.layers.attention.position_blocks import make_layout
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
        >>> from sigprop.layers.attention.position_blocks import make_layout
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

    @cached_property
    def number(self) -> Floats:
        """Ordered pairs of different tokens that each cell of `spread_out` stands for.

        Each pair counts once: beside a long block at short distances, elsewhere in blocks. Shape
        (B, B+J).
        """
        square, short = self.pairs.copy(), np.zeros((len(self.size), len(self.distances)))
        if len(self.long):
            j, i, _, _ = self._at_short_distance
            square[i, j] = square[j, i] = square[self.long, self.long] = 0.0
        for block in self.long.tolist():
            first, last = self.edges[block : block + 2]
            start = self.edges[min(i[j == block], default=block)]
            apart = np.arange(1, last - start)
            tokens = np.minimum(last, self.edges[-1]) - np.maximum(start + apart, first)
            node, part = between_nodes(self.distances, np.minimum(apart, self.reach[block]))
            np.add.at(short[block], node, 2 * tokens * (1 - part))
            np.add.at(short[block], node + 1, 2 * tokens * part)
        return np.concatenate([square, short], axis=1)

    def everywhere(self, values: Floats) -> Floats:
        """Values of pairs of blocks, smooth in position, at short distances too.

        Parameters
        ----------
        values : array, shape (..., B, B)
            The values.

        Returns
        -------
        array, shape (..., B, B+J)
            Those at a short distance lie between two blocks.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(2).everywhere(np.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        if not len(self.distances):
            return values
        centre, row = self.centres.position, np.arange(len(self.size))[:, None]
        first, part = between_nodes(centre, centre[:, None] - self.distances)
        low, high = values[..., row, first], values[..., row, first + 1]
        return np.concatenate([values, low + part * (high - low)], axis=-1)

    def fill(self, values: Floats) -> None:
        """Set the cells that `number` has no pairs for to what lies between others.

        Parameters
        ----------
        values : array, shape (..., B, B+J)
            Values of the other cells, symmetric over blocks; changed in place.
        """
        j, i, first, part = self._at_short_distance
        _fill(values, *self._empty)
        _fill(values, j, i, first, part)
        values[..., i, j] = values[..., j, i]

    @cached_property
    def _empty(self) -> tuple[Ints, Ints, Ints, Floats]:
        """Short distances without pairs, between which far blocks they lie."""
        blocks, centre = len(self.size), self.centres.position
        j, i, _, _ = self._at_short_distance
        closest = np.arange(blocks)
        np.minimum.at(closest, j, i)
        row, distance = np.nonzero(self.number[:, blocks:] == 0)
        held = row >= self.long[0]
        row, distance = row[held], distance[held]
        place = np.minimum(centre[row] - self.distances[distance], centre[closest[row] - 1])
        first, part = between_nodes(centre, place)
        return row, blocks + distance, first, part

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
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> make_layout(4).merged(2).tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
        """
        cuts = np.linspace(0, self.edges[-1], blocks + 1)
        stop = np.minimum(cuts[1:, None], self.edges[1:])
        start = np.maximum(cuts[:-1, None], self.edges[:-1])
        return np.asarray(np.maximum(stop - start, 0.0))


def evenly(place: Floats, number: int, kept: tuple[float, ...] = ()) -> Ints:
    """Find the increasing places that are nearest to evenly spaced ones.

    Parameters
    ----------
    place : array, shape (n,)
        The places.
    number : int
        How many, at most.
    kept : tuple of float
        Where there is to be one, in place of the nearest that is not at an end.

    Returns
    -------
    array of int
        Their indices, each once.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_grid import evenly
    >>> place = np.log([1, 2, 3, 4, 16])
    >>> evenly(place, 3).tolist(), evenly(place, 3, (np.log(3),)).tolist()
    ([0, 3, 4], [0, 2, 4])
    """
    wanted = np.linspace(place[0], place[-1], number)
    wanted[1:-1] = moved(wanted, np.array(kept))[1:-1]
    return distinct(np.abs(place[:, None] - wanted).argmin(axis=0))


def moved(cuts: Floats, joints: Floats | Ints) -> Floats:
    """Cuts, each at the joint next to it if no other cut is nearer to that.

    Parameters
    ----------
    cuts : array, shape (n,)
        The cuts.
    joints : array, shape (m,)
        Where they are to be.

    Returns
    -------
    array, shape (n,)
        The cuts.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_grid import moved
    >>> moved(np.array([1.0, 4.0, 9.0]), np.array([5, 8])).tolist()
    [1.0, 5.0, 8.0]
    """
    if not joints.size:
        return cuts
    near = joints[np.abs(np.subtract.outer(cuts, joints)).argmin(axis=1)]
    nearest = np.abs(np.subtract.outer(near, cuts)).argmin(axis=1) == np.arange(cuts.size)
    return np.where(nearest, near, cuts)


def pairs_between(sizes: Ints) -> Floats:
    """Numbers of ordered pairs of different members of each pair of blocks.

    Parameters
    ----------
    sizes : array of int, shape (..., B)
        Members of each block.

    Returns
    -------
    array, shape (..., B, B)
        The numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_grid import pairs_between
    >>> pairs_between(np.array([1, 3])).tolist()
    [[0.0, 3.0], [3.0, 6.0]]
    """
    size = sizes.astype(np.float64)
    return size[..., :, None] * size[..., None, :] - size[..., None] * np.eye(size.shape[-1])


def _fill(out: Floats, rows: Ints, columns: Ints, first: Ints, part: Floats) -> None:
    """Set entries to what lies between two others of their row."""
    low, high = out[..., rows, first], out[..., rows, first + 1]
    out[..., rows, columns] = low + part * (high - low)
