"""Statistics of one query, averaged over heads of finite width (E12), by look-up."""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import nodes, transform
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics.table import head_nodes
from sigprop.layers.attention.statistics.universal import HOTTEST, OneQuery

__all__ = ["OneHead"]


class OneHead(OneQuery):
    """Excess and entropy deficit of one query, averaged over heads.

    The scores of a head vary as its query does. Their average is taken once, at nodes of the score
    deviation, and is a series between them; where the scores of some heads leave the tables it is
    taken anew.

    Parameters
    ----------
    keys : array, shape (P,)
        Numbers of keys.
    head_width : float
        Width of a head.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.one_head import OneHead
    >>> from sigprop.layers.attention.statistics.universal import OneQuery
    >>> keys, s = np.array([512.0]), np.array([2.0])
    >>> bool(OneHead(keys, 8.0)(s)[0] > OneQuery(keys)(s)[0])
    True
    """

    def __init__(self, keys: Floats, head_width: float) -> None:
        super().__init__(keys)
        factors, self._probability = head_nodes(head_width)
        self._roots = np.sqrt(factors)
        self._edge = float(HOTTEST / self._roots.max())
        count = self._rows.shape[1]
        s = co.to_deviation(nodes(count), 0.0, self._edge)[:, None]
        found = transform(self._logarithms(s, self._averaged(s)), 1)
        self._averages = np.ascontiguousarray(found.transpose(2, 1, 0))

    def __call__(self, s: Floats) -> tuple[Floats, Floats]:
        """Find the averages; as of `OneQuery`.

        Parameters
        ----------
        s : array, shape (..., P)
            Standard deviations of the scores, over all heads.

        Returns
        -------
        excess, deficit : arrays, shape (..., P)
            :math:`Y_2 - 1/n`, and log n less the entropy; NaN for too many keys.
        """
        found = self._series(np.minimum(s, self._edge), self._averages, self._edge)
        if np.any(hot := s > self._edge):
            found = np.where(hot, self._averaged(s), found)
        return found[0], found[1]

    def _averaged(self, s: Floats) -> tuple[Floats, Floats]:
        """Averages over the nodes of a head's score variance."""
        every = super().__call__(self._roots.reshape(-1, *[1] * s.ndim) * s)
        excess, deficit = (np.tensordot(self._probability, value, 1) for value in every)
        return excess, deficit
