"""Attention weights of the queries of a layout, from the deviations of their scores (E6-E9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sigprop.arrays import Floats, Ints, Number
from sigprop.layout import Layout
from sigprop.maps.rotary import make_distances
from sigprop.rem.hierarchy import picks
from sigprop.rem.table import Finite
from sigprop.rem.unequal import queries, shared_excess

__all__ = [
    "RATIOS",
    "WAVES",
    "Exact",
    "Single",
    "Statistics",
    "between",
    "resolved",
    "turned_width",
]

WAVES = 32  # frequencies of rotary positions that are resolved
NODES = 8  # positions at which correlated scores are solved on a tree
RATIOS = np.linspace(0.2, 1.1, 181)


class Single(NamedTuple):
    r"""Statistics of one query.

    Attributes
    ----------
    excess : array, shape (..., P)
        :math:`Y_2 - 1/n`, averaged over heads (E12).
    entropy : array, shape (..., P)
        In nats, averaged over heads.
    heads : array, shape (..., P)
        Square root of what the average over heads does to the excess.

    Examples
    --------
    >>> from sigprop.maps.weights import Single
    >>> Single(0.1, 2.0, 1.0).heads
    1.0
    """

    excess: Floats
    entropy: Floats
    heads: Floats


class Statistics(Protocol):
    """Source of the statistics of attention in a layout."""

    def single(self, sigma: Floats) -> Single:
        """Statistics of each of `Layout.queries`."""

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of each of `Layout.couples`, whose scores have correlation r."""

    def shrink(self, scale: Number, own: Floats, sigma: Floats) -> Number:
        """Factor on sigma at which independent scores have the Y_2 of correlated ones."""


def turned_width(head_width: float | None) -> float:
    """Head width whose rotary frequencies are used: more than `WAVES` change little.

    Parameters
    ----------
    head_width : float, optional
        Width of a head.

    Returns
    -------
    float
        At most twice `WAVES`.

    Examples
    --------
    >>> from sigprop.maps.weights import turned_width
    >>> turned_width(None), turned_width(16)
    (64.0, 16)
    """
    return min(head_width or np.inf, 2.0 * WAVES)


def resolved(layout: Layout) -> Ints:
    """Blocks at whose centres correlated scores are solved.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.

    Returns
    -------
    array of int
        At most `NODES` blocks, in order; none where no query sees three keys.

    Examples
    --------
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.weights import resolved
    >>> resolved(make_layout(4)).tolist()
    [2, 3]
    """
    index = np.flatnonzero(layout.centres.count >= 3)
    if not index.size:
        return index
    return np.asarray(index[np.unique(np.geomspace(1, index.size, NODES).round().astype(int)) - 1])


def between(layout: Layout, ratio: Floats) -> Floats:
    """Values at the `resolved` blocks as values at every query, linear in log position.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    ratio : array, shape (..., K)
        Values at the resolved blocks.

    Returns
    -------
    array, shape (..., P)
        Values at all queries, constant beyond the ends.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.weights import between
    >>> between(make_layout(4), np.array([0.5, 1.0])).tolist()
    [0.5, 0.5, 0.5, 1.0]
    """
    node = np.log(layout.centres.position[resolved(layout)])
    place = np.log(layout.queries.position)
    hats = np.stack([np.interp(place, node, unit) for unit in np.eye(len(node))])
    return np.asarray(ratio @ hats)


@dataclass(frozen=True)
class Exact:
    """Statistics by quadrature, for one stack.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    head_width : float, optional
        Width of a head.
    rotary_base : float, optional
        Base of rotary positions.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.weights import Exact
    >>> Exact(make_layout(3)).single(np.zeros(3)).excess.tolist()
    [0.0, 0.0, 0.0]
    """

    layout: Layout
    head_width: float | None = None
    rotary_base: float | None = None

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
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> Exact(make_layout(2)).single(np.zeros(2)).entropy.round(6).tolist()
        [0.0, 0.693147]
        """
        count = self.layout.queries.count
        many = count >= 2
        length = np.where(many, count, 2.0)
        b = sigma / np.sqrt(np.log(length))
        plain = Finite(length).weights(b, 1.0).excess
        rem = Finite(length, self.head_width)
        excess = rem.weights(b, 1.0).excess
        entropy = rem.entropy_ratio(b) * np.log(length)
        heads = np.divide(excess, plain, out=np.ones_like(sigma), where=plain > 0)
        return Single(np.where(many, excess, 0.0), np.where(many, entropy, 0.0), np.sqrt(heads))

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of two queries, before the average over heads.

        Parameters
        ----------
        sigma : array, shape (P,)
            Standard deviations of the scores.
        r : array, shape (N,)
            Correlation of the scores of each couple.

        Returns
        -------
        array, shape (N,)
            The excess.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> Exact(make_layout(2)).shared(np.ones(2), np.ones(1)).tolist()
        [0.0]
        """
        own = queries(sigma, self.layout.queries.count)
        return shared_excess(own, *self.layout.couples, self.layout.common, r)

    def shrink(self, scale: Number, own: Floats, sigma: Floats) -> Number:
        """Factor on the score deviation, at which independent scores have the tree's Y_2.

        Parameters
        ----------
        scale : float
            Score variance of two keys of gap q.
        own : array, shape (P,)
            Mean gap over q of the keys seen.
        sigma : array, shape (P,)
            Standard deviations of the scores.

        Returns
        -------
        array, shape (P,)
            The factor; one without rotary positions.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> Exact(make_layout(2)).shrink(1.0, np.ones(2), np.ones(2))
        1.0
        """
        index = resolved(self.layout)
        if self.rotary_base is None or not index.size or not scale:
            return 1.0
        cells = zip(own[index], sigma[index], self.layout.centres.count[index], strict=True)
        return between(self.layout, np.array([self._ratio(float(scale), *cell) for cell in cells]))

    def _ratio(self, scale: float, own: float, sigma: float, count: float) -> float:
        if self.rotary_base is None or sigma == 0:
            return 1.0
        length = int(count)
        distances = make_distances(length, self.rotary_base, turned_width(self.head_width))
        covariance = scale * (1 - own) * distances.waves.mean(axis=1)
        covariance[0] = scale
        tree = picks(covariance, distances.sizes).pairs[0] - 1 / length
        excess = Finite(length).weights(RATIOS * sigma / np.sqrt(np.log(length)), 1.0).excess
        return float(np.interp(tree, excess, RATIOS))
