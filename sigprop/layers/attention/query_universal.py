"""Attention weights of the queries of a layout by look-up in tables of every context and mask.

The excess overlap of a couple, the excess and entropy of a query and the weight of a key are those
of `sigprop.layers.attention.statistics.universal`, whose numbers of keys are contracted once for a
layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.query_statistics import COLD, SMALLEST, Exact, Single
from sigprop.layers.attention.statistics.table import Finite, head_nodes
from sigprop.layers.attention.statistics.unequal_lengths import (
    mean_weights,
    queries,
    shared_excess,
)
from sigprop.layers.attention.statistics.universal import Couples, KeyWeights, OneQuery

__all__ = ["Universal"]


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
    Beyond 2^20 keys, and for couples with r < -0.3, values are by quadrature. What correlations of
    scores do is found as in `Exact`.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_grid import make_layout
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
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> from sigprop.layers.attention.query_universal import Universal
        >>> Universal(make_layout(2)).single(np.zeros((5, 2))).excess.shape
        (5, 2)
        """
        many = self.layout.queries.count >= 2
        factors, probability = np.ones(1), np.ones(1)
        if self.head_width is not None:
            factors, probability = head_nodes(self.head_width)
        root = np.sqrt(factors).reshape(-1, *[1] * sigma.ndim) * sigma
        rest, deficit = (np.tensordot(probability, part, 1) for part in self._one(root))
        plain = rest if self.head_width is None else self._one(sigma)[0]
        heads = np.divide(rest, plain, out=np.ones_like(sigma), where=plain > 0)
        found = (np.where(many, v, 0.0) for v in (rest, np.log(self._count) - deficit, deficit))
        rest, entropy, deficit = found
        return Single(rest, entropy, np.sqrt(heads), deficit)

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of two queries, before the average over heads.

        Parameters
        ----------
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        r : array, shape (..., N)
            Correlation of the scores of each couple.

        Returns
        -------
        array, shape (..., N)
            The excess.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> from sigprop.layers.attention.query_universal import Universal
        >>> Universal(make_layout(2)).shared(np.ones((5, 2)), np.ones((5, 1))).tolist()
        [[0.0], [0.0], [0.0], [0.0], [0.0]]
        """
        warm = np.maximum(sigma, COLD)  # below it the excess is linear in both deviations
        (i, j), part = self.layout.couples, sigma / warm
        found = self._two(warm, r)
        missing = np.isnan(found)
        for k in np.ndindex(found.shape[:-1]) if missing.any() else ():
            own, index = queries(warm[k], self.layout.queries.count), np.flatnonzero(missing[k])
            common = self.layout.common[index]
            found[k][index] = shared_excess(own, i[index], j[index], common, r[k][index])
        return np.asarray(part[..., i] * part[..., j] * found)

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
        >>> from sigprop.layers.attention.position_grid import make_layout
        >>> from sigprop.layers.attention.query_universal import Universal
        >>> ratio = np.array([[1.0, 2.0, 1.0]] * 3)
        >>> found = Universal(make_layout(3)).key_weights(np.ones(3), ratio)
        >>> (found[2] / found[2, 0]).round(2).tolist()
        [1.0, 1.05, 1.0]
        """
        found = np.exp(self._weights(sigma, ratio))
        missing = np.isnan(found).any(axis=-1)
        if missing.any():
            count = np.broadcast_to(self.layout.queries.count, missing.shape)[missing]
            own = np.maximum(sigma[missing], SMALLEST)
            found[missing] = mean_weights(own, count, ratio[missing]) * count[:, None]
        return np.asarray(found)

    def _one(self, sigma: Floats) -> tuple[Floats, Floats]:
        """Excess and deficit of one query, as in `Exact` where the tables end."""
        found = self._looked_up(sigma)
        missing = np.isnan(found[0])
        if missing.any():
            rem = Finite(np.broadcast_to(self._count, sigma.shape)[missing])
            b = sigma[missing] / np.sqrt(np.log(rem.context))
            found[0][missing], found[1][missing] = (
                rem.weights(b, 1.0).excess,
                rem.entropy_deficit(b),
            )
        return found

    @cached_property
    def _count(self) -> Floats:
        """Numbers of keys, at least two."""
        return np.maximum(self.layout.queries.count, 2.0)

    @cached_property
    def _looked_up(self) -> OneQuery:
        return OneQuery(self._count)

    @cached_property
    def _two(self) -> Couples:
        return Couples(self.layout.queries.count, *self.layout.couples, self.layout.common)

    @cached_property
    def _weights(self) -> KeyWeights:
        return KeyWeights(self._count)
