"""Attention weights of the queries of a layout, from the deviations of their scores (E6-E9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sigprop.arrays import Floats, Number
from sigprop.chebyshev import basis, nodes, transform
from sigprop.layout import Layout
from sigprop.maps.together import Together, Turned, between, resolved
from sigprop.rem.table import Finite
from sigprop.rem.unequal import mean_weights, queries, shared_excess

__all__ = ["Exact", "Single", "Statistics", "from_ratio", "to_ratio"]

LEVELS = 10  # variances of a key between which the logarithm of its weight is interpolated
SMALLEST = 1e-9  # score deviation
COLD = 0.01  # score deviation below which the response is linear to 1e-4


def from_ratio(ratio: Floats) -> Floats:
    """Place of a variance ratio in [0, 1).

    Parameters
    ----------
    ratio : array
        Ratios, >= 0.

    Returns
    -------
    array
        The places.

    Examples
    --------
    >>> from sigprop.maps.weights import from_ratio
    >>> from_ratio(1.0)
    0.5
    """
    return ratio / (1 + ratio)


def to_ratio(place: Floats) -> Floats:
    """Inverse of `from_ratio`.

    Parameters
    ----------
    place : array
        Places in [0, 1).

    Returns
    -------
    array
        The ratios.

    Examples
    --------
    >>> from sigprop.maps.weights import to_ratio
    >>> to_ratio(0.5)
    1.0
    """
    return place / (1 - place)


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
    deficit : array, shape (..., P)
        log n less the entropy, with relative accuracy where attention is almost uniform.

    Examples
    --------
    >>> from sigprop.maps.weights import Single
    >>> Single(0.1, 2.0, 1.0, 0.3).heads
    1.0
    """

    excess: Floats
    entropy: Floats
    heads: Floats
    deficit: Floats


class Statistics(Protocol):
    """Source of the statistics of attention in a layout."""

    def single(self, sigma: Floats) -> Single:
        """Statistics of each of `Layout.queries`."""

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of each of `Layout.couples`, whose scores have correlation r."""

    def favour(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of each key, whose score has `ratio` times the mean variance."""

    def turned(self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats) -> Turned:
        """Find what correlations of the keys' scores do to each of `Layout.queries`."""


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
        deficit = rem.entropy_deficit(b)
        heads = np.divide(excess, plain, out=np.ones_like(sigma), where=plain > 0)
        found = (np.where(many, v, 0.0) for v in (excess, np.log(length) - deficit, deficit))
        excess, entropy, deficit = found
        return Single(excess, entropy, np.sqrt(heads), deficit)

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
        warm = np.maximum(sigma, COLD)  # below it the excess is linear in both deviations
        own, part = queries(warm, self.layout.queries.count), sigma / warm
        i, j = self.layout.couples
        return part[i] * part[j] * shared_excess(own, i, j, self.layout.common, r)

    def favour(self, sigma: Floats, ratio: Floats) -> Floats:
        """Weight of a key whose score varies more or less than those of the others.

        Parameters
        ----------
        sigma : array, shape (P,)
            Standard deviations of the scores.
        ratio : array, shape (P, B)
            Variance of the score of a key of each block over the mean one.

        Returns
        -------
        array, shape (P, B)
            The weights, up to a factor for each query: log weights by interpolation in the ratio.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> found = Exact(make_layout(3)).favour(np.ones(3), np.array([[1.0, 2.0, 1.0]] * 3))
        >>> (found[2] / found[2, 0]).round(2).tolist()
        [1.0, 1.05, 1.0]
        """
        block, size = self.layout.blocks, len(self.layout.size)
        top = np.ones(size)
        np.maximum.at(top, block, ratio.max(axis=1))
        held = from_ratio(top)[:, None]
        levels = to_ratio((nodes(LEVELS) + 1) / 2 * held)
        own = np.maximum(sigma[:size], SMALLEST)
        rows = transform(np.log(mean_weights(own, self.layout.centres.count, levels)), 1)
        place = 2 * from_ratio(ratio) / held[block] - 1
        return np.asarray(np.exp(np.einsum("pbk,pk->pb", basis(place, LEVELS), rows[block])))

    def turned(self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats) -> Turned:
        """Find what correlations of the keys' scores do to each query.

        Parameters
        ----------
        scale : float
            Score variance of two keys of gap q.
        deficit : array, shape (B, B)
            Gap over q of two keys, by block.
        sigma : array, shape (P,)
            Standard deviations of the scores.
        weight : array, shape (P, B)
            Mean weight of a key of each block.

        Returns
        -------
        Turned
            Of shape (P,); scalar ones without scores.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> one = np.ones((2, 2))
        >>> Exact(make_layout(2)).turned(1.0, one, np.ones(2), one).shrink
        1.0
        """
        index = resolved(self.layout)
        if not index.size or not scale:
            return Turned(1.0, 0.0, 1.0)
        cells = zip(self.layout.parts[index], sigma[index], weight[index], strict=True)
        together = Together(self.rotary_base, self.head_width)
        found = np.array([together(float(scale), deficit, *cell) for cell in cells])
        return Turned(*between(self.layout, found.T))
