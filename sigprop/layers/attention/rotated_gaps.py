r"""Gaps of the rotated keys of queries, frequency by frequency (E25r)."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations

import numpy as np

from sigprop.core.arrays import Bools, Floats, Ints, Number, distinct
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.sliding_window import SlidingWindow, hats

__all__ = ["RotatedGaps"]

LATEST = 3  # blocks that a query sees in part, or as shares of such a part
SAMPLES = 64  # distances between two short ones at which rotations are taken


class RotatedGaps:
    r"""Mean gaps :math:`gap\,\cos\omega\Delta + q (1 - \cos\omega\Delta)` of rotated keys.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    omega : array, shape (F,)
        Frequencies in radians a token; one of zero is no rotation.

    Notes
    -----
    Under a mask without a window the keys of a query are all of some blocks and a part of the next:
    their pairs are summed over blocks in the order of positions.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.rotated_gaps import RotatedGaps
    >>> half = np.full((3, 3), 0.5)
    >>> RotatedGaps(make_layout(3), np.zeros(1)).own(half, 1.0).tolist()
    [[0.0, 0.5, 0.5]]
    >>> RotatedGaps(make_layout(2), np.array([np.pi])).own(half[:2, :2], 1.0).round(12).tolist()
    [[0.0, 1.5]]
    """

    def __init__(self, layout: Layout, omega: Floats) -> None:
        self.layout, self._omega = layout, omega

    def own(self, gap: Floats, q: Number) -> Floats:
        """Means over pairs of different keys of each query.

        Parameters
        ----------
        gap : array, shape (..., B, B+J)
            Mean gap of two different tokens of two blocks, symmetric, and at short distances.
        q : float or array, shape (..., 1, 1)
            Variance of the tokens.

        Returns
        -------
        array, shape (..., F, P)
            The means; zero where a query sees one key.
        """
        return self._cosine_means(gap) + q * self._still

    def beside(self, gap: Floats, q: Number) -> Floats:
        """Mean over frequencies of the gap of a key of each block and the others of each query.

        Parameters
        ----------
        gap, q
            As in `own`.

        Returns
        -------
        array, shape (..., P, K)
            The means; zero where there is no other key.
        """
        layout = self.layout
        if layout.local is None:
            return layout.beside(self.between(gap, q))
        rows, blocks, near = layout.local.rows, len(layout.size), self._near_keys
        out = np.zeros((*np.shape(gap)[:-2], *layout.seen.shape))
        before = len(layout.head.size)
        first = self._head.beside(gap[..., :before, :before], q)
        out[..., layout.head_rows[:, None], np.arange(before)] = first
        still = 1 - near.sum(axis=-1)
        out[..., rows, blocks:] = layout.local.of_keys(gap[..., blocks:]) @ near.T + q * still
        return out

    def between(self, gap: Floats, q: Number) -> Floats:
        """Mean over frequencies of the gap of two keys of two blocks.

        Parameters
        ----------
        gap, q
            As in `own`.

        Returns
        -------
        array, shape (..., B, B)
            The means.
        """
        square = gap[..., : len(self.waves)]
        return np.asarray(square * self.waves + q * (1 - self.waves))

    def turned(self, parts: Floats) -> Floats:
        """Mean over frequencies of values of the first query of each couple, turned to the second.

        Parameters
        ----------
        parts : array, shape (..., F, P)
            Values by frequency.

        Returns
        -------
        array, shape (..., N)
            The means.
        """
        first = parts[..., self.layout.couples[0]]
        return np.asarray(np.einsum("...fn,fn->...n", first, self._cosines) / len(self._cosines))

    @cached_property
    def _still(self) -> Floats:
        """Means of one less the cosine, shape (F, P)."""
        if self.layout.local is None:
            return self.layout.own(1 - self._by_frequency)
        return self._joined(self._head._still, 1 - self._in_window.sum(axis=-1)[:, None])

    def _joined(self, head: Floats, local: Floats) -> Floats:
        """Values of queries of the first blocks, and of those that see a window in ranges."""
        out = np.empty((*head.shape[:-1], len(self.layout.queries.position)))
        out[..., self.layout.head_rows] = head
        out[..., self._window.rows] = local
        return out

    @cached_property
    def waves(self) -> Floats:
        """Mean over frequencies of the cosine of the rotation between two keys, by block."""
        return np.asarray(self._by_frequency.mean(axis=0))

    @cached_property
    def all_waves(self) -> Floats:
        """Likewise, and between two keys about a short distance, shape (B, B+J)."""
        beside = np.broadcast_to(self._beside.mean(axis=0), (len(self.waves), self._short))
        return np.concatenate([self.waves, beside], axis=1)

    @property
    def _short(self) -> int:
        return len(self.layout.distances)

    @cached_property
    def _beside(self) -> Floats:
        """Mean cosines about each short distance, shape (F, J)."""
        distances = self.layout.distances
        if not len(distances):
            return np.zeros((len(self._omega), 0))
        parts = np.linspace(distances[:-1], distances[1:], SAMPLES, endpoint=False)
        apart = distinct(np.append(parts.round(), distances[-1]))
        weight = hats(distances, apart) * np.gradient(apart)[:, None]
        return np.asarray(np.cos(self._omega[:, None] * apart) @ weight / weight.sum(axis=0))

    @cached_property
    def _cosines(self) -> Floats:
        """Mean cosines of the rotation between the tokens of each couple, shape (F, N).

        Over pairs of tokens of its blocks, or about its short distance: at one distance the fast
        frequencies would stand at an arbitrary phase.
        """
        (i, j), blocks = self.layout.cells, len(self.layout.size)
        far = j < blocks
        out = np.empty((len(self._omega), len(i)))
        out[:, far] = self._by_frequency[:, i[far], j[far]]
        out[:, ~far] = self._beside[:, j[~far] - blocks]
        return out

    @cached_property
    def _by_frequency(self) -> Floats:
        return self.layout.waves(self._omega)

    @cached_property
    def _head(self) -> RotatedGaps:
        return RotatedGaps(self.layout.head, self._omega)

    @cached_property
    def _in_window(self) -> Floats:
        """Weights of the means of gap times cosine over pairs of keys of a window, shape (F, J)."""
        return self._window.cosines(self._omega)

    @cached_property
    def _near_keys(self) -> Floats:
        """Likewise over keys beside a key of each range, over frequencies too, shape (M, J)."""
        return self._window.cosines_beside(self._omega)

    @property
    def _window(self) -> SlidingWindow:
        if self.layout.local is None:
            raise ValueError("no query sees a window in ranges of its own")
        return self.layout.local

    def _cosine_means(self, gap: Floats) -> Floats:
        """Means of gap times cosine, shape (..., F, P)."""
        layout, blocks = self.layout, len(self.layout.size)
        if layout.local is not None:
            first, profile = len(layout.head.size), layout.local.of_keys(gap[..., blocks:])
            local = np.swapaxes(profile @ self._in_window.T, -1, -2)
            return self._joined(self._head._cosine_means(gap[..., :first, :first]), local)
        gap = gap[..., :blocks]
        if self._is_offset:
            return self.layout.own(gap[..., None, :, :] * self._by_frequency)
        before, within = self._pairs
        wide = gap.reshape(-1, blocks, blocks).transpose(1, 2, 0)  # (B, B, stacks)
        beside = (before @ wide).transpose(2, 1, 0).reshape(*gap.shape[:-2], -1, blocks)
        inside = within * np.diagonal(gap, axis1=-2, axis2=-1)[..., None, :]
        whole, square = self._whole
        sums = beside @ whole + inside @ square
        for weight, later, earlier in self._next:
            sums = sums + weight * gap[..., None, later, earlier]
        count = self._count
        return np.asarray(np.divide(sums, count, out=np.zeros_like(sums), where=count > 0))

    @cached_property
    def _is_offset(self) -> bool:
        """Whether keys before those that a query sees are not seen."""
        return bool(np.any(self.layout.queries.low > 0))

    @cached_property
    def _pairs(self) -> tuple[Floats, Floats]:
        """Cosines times numbers of pairs, of each block with those before it and with itself."""
        whole = self._by_frequency * self.layout.pairs
        before = np.ascontiguousarray(np.moveaxis(np.tril(whole, -1), 0, 1))
        return before, np.diagonal(whole, axis1=-2, axis2=-1).copy()

    @cached_property
    def _whole(self) -> tuple[Floats, Floats]:
        """Twice what a query sees of each block, and its square, shape (B, P)."""
        seen = self.layout.seen.T
        return np.ascontiguousarray(2 * seen), np.ascontiguousarray(seen**2)

    @cached_property
    def _next(self) -> list[tuple[Floats, Ints, Ints]]:
        """What pairs of the `_last` blocks count beside whole earlier ones, and the two blocks.

        Cosines times numbers of pairs, shape (F, P).
        """
        last, seen = self._last
        found = []
        for one, other in combinations(range(len(last)), 2):
            later, earlier = last[other], last[one]
            weight = 2 * seen[other] * (seen[one] - 1) * self.layout.pairs[later, earlier]
            found.append((weight * self._by_frequency[:, later, earlier], later, earlier))
        return found

    @cached_property
    def _last(self) -> tuple[Ints, Floats]:
        """Latest blocks of which each query sees keys, and what it sees of them, shape (3, P).

        It sees those before them in whole.
        """
        seen = self.layout.seen
        width = min(LATEST, seen.shape[1])
        held: Bools = seen > 0
        latest = np.maximum(seen.shape[1] - 1 - np.argmax(held[:, ::-1], axis=1), width - 1)
        last = latest - np.arange(width)[::-1, None]
        return last, seen[np.arange(len(seen)), last]

    @cached_property
    def _count(self) -> Floats:
        """Numbers of pairs of different keys."""
        seen = self.layout.seen
        return np.asarray(np.sum((seen @ self.layout.pairs) * seen, axis=-1))
