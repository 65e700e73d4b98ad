"""Attention weights of the queries of a layout, from the deviations of their scores (E6-E9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sigprop.arrays import Floats, Ints, Number
from sigprop.layout import Layout, pairs_between
from sigprop.maps.distances import make_field
from sigprop.rem.fields import LINEAR
from sigprop.rem.table import Finite
from sigprop.rem.unequal import queries, shared_excess

__all__ = [
    "RATIOS",
    "WAVES",
    "Exact",
    "Single",
    "Statistics",
    "Turned",
    "between",
    "resolved",
    "turned_width",
]

WAVES = 32  # frequencies of rotary positions that are resolved
NODES = 8  # positions at which correlated scores are drawn
RATIOS = np.linspace(0.2, 1.1, 19)


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


class Turned(NamedTuple):
    r"""What correlated scores do to the attention of one query.

    Attributes
    ----------
    shrink : array, shape (..., P)
        Factor on the score deviation, at which independent scores have the Y_2 of correlated ones.
    near : array, shape (..., P)
        Mean gap of two different keys that are picked, over that of two keys that are seen.

    Examples
    --------
    >>> from sigprop.maps.weights import Turned
    >>> Turned(1.0, 1.0).shrink
    1.0
    """

    shrink: Number
    near: Number


class Statistics(Protocol):
    """Source of the statistics of attention in a layout."""

    def single(self, sigma: Floats) -> Single:
        """Statistics of each of `Layout.queries`."""

    def shared(self, sigma: Floats, r: Floats) -> Floats:
        """Excess overlap of each of `Layout.couples`, whose scores have correlation r."""

    def turned(self, scale: Number, deficit: Floats, sigma: Floats) -> Turned:
        """Find what rotary positions do to each of `Layout.queries`."""


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
    """Blocks at whose centres correlated scores are drawn.

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

    def turned(self, scale: Number, deficit: Floats, sigma: Floats) -> Turned:
        """Find what rotary positions do to each query.

        Parameters
        ----------
        scale : float
            Score variance of two keys of gap q.
        deficit : array, shape (B, B)
            Gap over q of two keys, by block.
        sigma : array, shape (P,)
            Standard deviations of the scores.

        Returns
        -------
        Turned
            Of shape (P,); scalar ones without rotary positions or scores.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> Exact(make_layout(2)).turned(1.0, np.ones((2, 2)), np.ones(2)).shrink
        1.0
        """
        index = resolved(self.layout)
        if self.rotary_base is None or not index.size or not scale:
            return Turned(1.0, 1.0)
        parts, warm = self.layout.parts[index], max(float(scale), LINEAR)
        found = [self.drawn(warm, deficit, sizes) for sizes in parts]
        excess, near = (np.array(column) for column in zip(*found, strict=True))
        part = float(scale) / warm  # below `LINEAR` all is linear in the scale
        cells = zip(excess, parts.sum(axis=1), sigma[index] / np.sqrt(part), strict=True)
        ratio, near = np.array([self._ratio(*cell) for cell in cells]), 1 + part * (near - 1)
        return Turned(between(self.layout, ratio), between(self.layout, near))

    def drawn(self, scale: float, deficit: Floats, sizes: Ints) -> tuple[float, float]:
        """Excess participation of one query under rotary positions, and `Turned.near`.

        Parameters
        ----------
        scale : float
            Score variance of two keys of gap q.
        deficit : array, shape (B, B)
            Gap over q of two keys, by block.
        sizes : array of int, shape (B,)
            Numbers of keys seen of each block, at least two together.

        Returns
        -------
        excess, near : float
            By fixed draws of the scores (`sigprop.rem.fields`).

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layout import make_layout
        >>> from sigprop.maps.weights import Exact
        >>> exact = Exact(make_layout(64), rotary_base=1e4)
        >>> _, near = exact.drawn(4.0, np.full((1, 1), 0.3), np.array([64]))
        >>> bool(abs(near - 1) < 1e-6)  # a flat kernel has no nearer keys
        True
        """
        held = np.flatnonzero(sizes)
        sizes, deficit = sizes[held], deficit[np.ix_(held, held)]
        count = int(sizes.sum())
        field = make_field(count, float(self.rotary_base or 1.0), self.head_width)
        y2, mean = field.blocked(scale, deficit, sizes)
        even = float(np.sum(pairs_between(sizes) * deficit)) / (count * (count - 1)) * (1 - y2)
        return y2 - 1 / count, mean / even if even > 0 else 1.0

    def _ratio(self, excess: float, count: float, sigma: float) -> float:
        """Part of a score deviation at which independent scores have the given excess."""
        from scipy.interpolate import PchipInterpolator

        if sigma == 0:
            return 1.0
        b = RATIOS * sigma / np.sqrt(np.log(count))
        known = np.asarray(Finite(count, self.head_width).weights(b, 1.0).excess)
        held = known[np.isfinite(known)]  # the theory covers no larger scores
        if len(held) < 2 or (len(held) < len(known) and excess > held[-1]):
            return float("nan")
        x, first = np.unique(held, return_index=True)
        return float(PchipInterpolator(x, RATIOS[first])(np.clip(excess, x[0], x[-1])))
