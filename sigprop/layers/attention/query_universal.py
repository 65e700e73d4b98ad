"""Attention weights of the queries of a layout by look-up in tables of every context and mask.

The excess overlap of a couple, the excess and entropy of a query and the weight of a key are those
of `sigprop.layers.attention.statistics.universal`, whose numbers of keys are contracted once for a
layout. What correlations of rotated scores do is that of
`sigprop.layers.attention.correlation_table`, for gaps that rise linearly with log distance, of the
mean and slope that the kernel's have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number
from sigprop.layers.attention.correlation_table import (
    SMALL,
    RotaryCorrelations,
    covers,
    risen,
)
from sigprop.layers.attention.key_correlations import RATIOS, KeyCorrelation, rotated_width
from sigprop.layers.attention.log_distances import slope_weights
from sigprop.layers.attention.query_statistics import COLD, INTEGRATED, Exact, Single
from sigprop.layers.attention.rotation import frequencies
from sigprop.layers.attention.statistics.one_head import OneHead
from sigprop.layers.attention.statistics.table import MAX_SIGMA
from sigprop.layers.attention.statistics.universal import Couples, KeyWeights, OneQuery

__all__ = ["Universal"]

LOOKED_UP = 96  # of the queries at which correlations of scores are looked up, at most


@dataclass(frozen=True)
class Universal(Exact):
    """Statistics by look-up; any leading axes.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    head_width : float, optional
        Width of a head.
    rotation : Rotation, optional
        Rotary positions.
    smooth : bool
        As of `Exact`.

    Notes
    -----
    The tables hold up to 2^20 keys. What correlations of scores do is found as in `Exact` without
    rotation, where kernels are not smooth, and where the table of rotary positions ends.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.query_statistics import Exact
    >>> from sigprop.layers.attention.query_universal import Universal
    >>> layout, sigma = make_layout(3), np.array([0.0, 1.0, 2.0])
    >>> found, exact = Universal(layout).single(sigma), Exact(layout).single(sigma)
    >>> bool(abs(found.excess - exact.excess).max() < 1e-5)
    True
    """

    def single(self, sigma: Floats) -> Single:
        """Statistics of one query; a query with one key puts all its weight there.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.

        Returns
        -------
        Single
            Of the same shape.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_universal import Universal
        >>> Universal(make_layout(2)).single(np.zeros((5, 2))).excess.shape
        (5, 2)
        """
        excess, deficit = self._one(sigma)
        found = excess, np.log(self._count) - deficit, deficit
        return Single(*(np.where(self.layout.queries.count >= 2, v, 0.0) for v in found))

    def share(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap over the geometric mean of the excesses, before the average over heads.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        r : array, shape (..., N)
            Correlation of the scores of each couple.

        Returns
        -------
        array, shape (..., N)
            The share; zero where a query sees one key.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_universal import Universal
        >>> Universal(make_layout(2)).share(np.ones((5, 2)), np.ones((5, 1))).tolist()
        [[0.0], [0.0], [0.0], [0.0], [0.0]]
        """
        live, count = self.live, len(self.layout.common)
        found = np.zeros((*np.broadcast_shapes(sigma.shape[:-1], r.shape[:-1]), count))
        found[..., live] = self.two.share(np.maximum(sigma, COLD), r[..., live])
        return found

    def key_weights(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of a key whose score varies more or less than those of the others.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        ratio : array, shape (..., P, B)
            Variance of the score of a key of each block over the mean one.

        Returns
        -------
        array, shape (..., P, B)
            The weights, up to a factor for each query.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_universal import Universal
        >>> ratio = np.array([[1.0, 2.0, 1.0]] * 3)
        >>> found = Universal(make_layout(3)).key_weights(np.ones(3), ratio)
        >>> (found[2] / found[2, 0]).round(2).tolist()
        [1.0, 1.05, 1.0]
        """
        return np.exp(self._weights(sigma, ratio))

    def correlations(
        self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        """Find what correlations of the keys' scores do to each query.

        Parameters
        ----------
        scale, deficit, sigma, weight
            As in `Exact`.

        Returns
        -------
        KeyCorrelation
            Of shape (..., P); scalar ones without scores.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_blocks import make_layout
        >>> from sigprop.layers.attention.query_universal import Universal
        >>> one = np.ones((2, 2))
        >>> Universal(make_layout(2)).correlations(1.0, one, np.ones(2), one).shrink
        1.0
        """
        if self._rotated is None:
            return super().correlations(scale, deficit, sigma, weight)
        own, tilt = self._climb(deficit)
        share = np.divide(own, self._varied(deficit), out=np.ones_like(own), where=own > 0)
        rows = sigma[..., self.resolved]
        found = self._rotated(rows, share, tilt)
        found[0] = np.where(rows > MAX_SIGMA, np.nan, found[0])
        return self._clipped(found)

    def _clipped(self, found: Floats) -> KeyCorrelation:
        """Values that a table gives at the `resolved` blocks, at every query."""
        found[0] = np.clip(found[0], RATIOS[0], RATIOS[-1])
        return self._between(found)

    @cached_property
    def resolved(self) -> Ints:
        """Blocks at whose centres correlations of scores are found."""
        return self.layout.resolved(INTEGRATED if self._rotated is None else LOOKED_UP)

    @cached_property
    def _rotated(self) -> RotaryCorrelations | None:
        """Table of rotary positions, if it is the one to ask."""
        turns = self.rotation
        if not self.smooth or turns is None or not covers(turns, self.head_width):
            return None
        count = self.layout.centres.count[self.layout.resolved(LOOKED_UP)]
        return RotaryCorrelations(count, turns, self.head_width) if count.size else None

    def _climb(self, deficit: Floats) -> tuple[Floats, Floats]:
        """Mean gap of the keys of each resolved block, and its rise with log distance over it."""
        own, steep = (self._sums(*weights, deficit) for weights in self._pairs)
        return own, np.divide(steep, own, out=np.zeros_like(own), where=own > 0)

    def _varied(self, deficit: Floats) -> Floats:
        """Mean gap of their rotated keys, in units of q."""
        return self._sums(*self._cosines, deficit) + self._turned

    @cached_property
    def _turned(self) -> Floats:
        """Mean over the same pairs of one less the cosine."""
        blocks, ranges = self._cosines
        number = len(self.resolved) - len(blocks)
        return 1 - np.append(blocks.sum(axis=(1, 2)), np.full(number, ranges.sum()))

    def _sums(self, blocks: Floats, ranges: Floats, deficit: Floats) -> Floats:
        """Weighted sums over blocks and over distances, for each resolved block."""
        size, index = len(self.layout.size), self.resolved[len(blocks) :]
        square = deficit[..., :size]
        found = square.reshape(*square.shape[:-2], -1) @ blocks.reshape(len(blocks), -1).T
        if self.layout.local is None or not index.size:
            return np.asarray(found)
        row = index - self.layout.local.rows[0]
        profile = self.layout.local.of_keys(deficit[..., size:])[..., row, :]
        return np.concatenate([found, profile @ ranges], axis=-1)

    @cached_property
    def _cosines(self) -> tuple[Floats, Floats]:
        """Weights whose sums with a gap are the mean of gap times cosine of the rotation."""
        omega = frequencies(self.rotation, rotated_width(self.head_width))
        (blocks, ranges), _ = self._pairs
        if self.layout.local is not None:
            ranges = self.layout.local.cosines(omega).mean(axis=0)
        return np.asarray(blocks * self.layout.waves(omega).mean(axis=0)), ranges

    @cached_property
    def _pairs(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Weights whose sums with a gap are its mean and its rise with log distance.

        Over blocks for queries that see blocks, and over distances in a window.
        """
        layout = self.layout
        index = self.resolved[self.resolved < len(layout.head.size)]
        mean, climb = slope_weights(layout.parts[index])
        near = steep = np.zeros(len(layout.distances))
        if layout.local is not None and layout.window > 1:
            number = layout.local.numbers()
            weights = _mean_and_slope(number, risen(np.log(layout.local.apart), number))
            near, steep = map(layout.local.linear, weights)
        return (mean, near), (climb, steep)

    @cached_property
    def _count(self) -> Floats:
        """Numbers of keys, at least two."""
        return np.maximum(self.layout.queries.count, 2.0)

    @cached_property
    def _one(self) -> OneQuery:
        width = self.head_width
        return OneQuery(self._count) if width is None else OneHead(self._count, width)

    @cached_property
    def live(self) -> Ints | slice:
        """Couples of queries that share keys; all where none does."""
        live = np.flatnonzero(self.layout.common > 0)
        return live if 0 < len(live) < len(self.layout.common) else slice(None)

    @cached_property
    def two(self) -> Couples:
        """Look-up of these couples."""
        (i, j), live = self.layout.couples, self.live
        return Couples(self.layout.queries.count, i[live], j[live], self.layout.common[live])

    @cached_property
    def _weights(self) -> KeyWeights:
        return KeyWeights(self._count)


def _mean_and_slope(number: Floats, climb: Floats) -> tuple[Floats, Floats]:
    """Weights of a mean over pairs, of which there are some numbers, and of its slope in a form."""
    mean = number / number.sum()
    return mean, mean * climb / max(np.sum(mean * climb * climb), SMALL)
