r"""Attention weights of the queries of a layout by interpolation, for many stacks at once.

A grid of stacks shares one layout, so each query's excess and entropy are functions of its score
deviation alone, and the excess overlap of a couple is one of both deviations and the correlation.
`Exact` is evaluated at Chebyshev nodes of

.. math:: \frac{Y_2 - 1/n}{s^2/(1 + s^2)}, \quad \frac{\log n - H}{s^2/(1 + s)}, \quad
          \frac{O - c/(nn')}{r \sqrt{(Y_2 - 1/n)(Y_2' - 1/n')}}

in the coordinates of `sigprop.rem.coordinates`, and afterwards a stack costs a few small matrix
products a layer. A query whose deviation leaves the shipped table of `sigprop.rem` (early tokens
of hot stacks) is continued by :math:`1 - Y_2 \propto 1/s` and :math:`H \propto 1/s`. Largest
errors of O measured against `Exact` (lengths 8 to 1024, s up to 8): 1.3e-3, and 7.4e-4 for s < 6.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from numpy.polynomial import chebyshev

from sigprop.arrays import Floats, Number
from sigprop.chebyshev import nodes, transform
from sigprop.layout import make_layout
from sigprop.maps.rotary import make_distances
from sigprop.maps.weights import RATIOS, Exact, Single, between, resolved, turned_width
from sigprop.rem.coordinates import MAX_BETA, MAX_GAP, A, B
from sigprop.rem.table import head_nodes
from sigprop.rem.unequal import queries, shared_excess

__all__ = ["Tabulated", "tabulated"]

RESOLUTION, SINGLES = 24, 8  # blocks, and first positions that are blocks of one
ONE = 32  # nodes of one query, in s
PAIR = (8, 8, 6)  # of a couple, in s, s' and 1 - r
TREE = (12, 6)  # of correlated scores, in their scale and gap
LOWEST = 0.2  # score deviation below which the third quotient is constant


def _bent(s: Number) -> Floats:
    return np.asarray(s / (s + A))


def _place(value: Floats, low: float, high: Number) -> Floats:
    """Score deviation on [-1, 1], in the coordinate s/(s + a)."""
    start, stop = _bent(low), _bent(high)
    return np.asarray(2 * (_bent(np.clip(value, low, high)) - start) / (stop - start) - 1)


def _deviations(count: int, low: float, high: Number) -> Floats:
    """Score deviations at the nodes of `_place`."""
    start, stop = _bent(low), _bent(high)
    y = start + (nodes(count).reshape(-1, *(1,) * np.ndim(high)) + 1) / 2 * (stop - start)
    return np.asarray(A * y / (1 - y))


def _near(r: Floats, s: Floats) -> Floats:
    """Correlation on [-1, 1], as in `sigprop.rem.coordinates.from_gap`."""
    root = np.sqrt(np.clip((1 - r) / MAX_GAP, 0.0, 1.0))
    return np.asarray(2 * root * (s + B) / (s * root + B) - 1)


def _correlations(count: int, s: Floats) -> Floats:
    """Correlations at the nodes of `_near`."""
    v = (nodes(count) + 1) / 2
    root = v * B / (s * (1 - v) + B)
    return np.asarray(1 - root**2 * MAX_GAP)


def _fitted(values: Floats, axes: int) -> Floats:
    """Chebyshev coefficients along the first axes, moved last: (K1, ..., N) to (N, K1, ...)."""
    for axis in range(axes):
        values = transform(values, axis)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def _basis(place: Floats, count: int) -> Floats:
    return np.reshape(chebyshev.chebvander(place, count - 1), (*place.shape, count))


class Tabulated:
    """Statistics of the queries of a layout by interpolation; any leading axes.

    Parameters
    ----------
    exact : Exact
        What is interpolated.
    top : float
        Largest score deviation; beyond it statistics are those at it.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layout import make_layout
    >>> from sigprop.maps.tabulated import Tabulated
    >>> from sigprop.maps.weights import Exact
    >>> exact, sigma = Exact(make_layout(3)), np.array([0.0, 0.5, 1.0])
    >>> found = Tabulated(exact, 2.0).single(sigma).entropy
    >>> bool(abs(found - exact.single(sigma).entropy).max() < 1e-6)
    True
    """

    def __init__(self, exact: Exact, top: float) -> None:
        self.layout, self._exact, self._top = exact.layout, exact, top
        self._count = exact.layout.queries.count
        hottest = 1.0 if exact.head_width is None else head_nodes(exact.head_width)[0].max()
        edge = MAX_BETA * np.sqrt(np.log(np.maximum(self._count, 2.0)) / hottest)
        self._cap = np.minimum(top, edge * (1 - 1e-9))
        self._one = self._singles()
        self._two = self._couples()

    def single(self, sigma: Floats) -> Single:
        """Statistics of one query.

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
        >>> from sigprop.maps.tabulated import tabulated
        >>> tabulated(2, 1.0).single(np.zeros((5, 2))).excess.shape
        (5, 2)
        """
        s = np.minimum(sigma, self._cap)
        rows = _basis(_place(s, 0.0, self._cap), ONE)
        excess, deficit, heads = np.einsum("pck,...pk->c...p", self._one, rows)
        rest = self._cap / np.maximum(sigma, self._cap)  # of what vanishes as attention freezes
        whole = 1 - 1 / self._count
        excess = whole - (whole - excess * s**2 / (1 + s**2)) * rest
        entropy = (np.log(self._count) - deficit * s**2 / (1 + s)) * rest
        return Single(excess, entropy, heads)

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
        >>> from sigprop.maps.tabulated import tabulated
        >>> tabulated(3, 1.0).shared(np.ones((5, 3)), np.ones((5, 3))).shape
        (5, 3)
        """
        i, j = self.layout.couples
        one = self.single(sigma)
        plain = np.sqrt(np.maximum(one.excess, 0.0)) / one.heads
        place = _place(sigma, LOWEST, self._top)
        first, second = _basis(place[..., i], PAIR[0]), _basis(place[..., j], PAIR[1])
        s = np.clip(sigma, LOWEST, self._top)
        third = _basis(_near(r, np.sqrt(s[..., i] * s[..., j])), PAIR[2])
        share = np.einsum("nabc,...na->...nbc", self._two, first)
        share = np.einsum("...nbc,...nb,...nc->...n", share, second, third)
        return np.asarray(share * r * plain[..., i] * plain[..., j])

    def shrink(self, scale: Number, own: Floats, sigma: Floats) -> Number:
        """Factor on the score deviation, at which independent scores have the tree's Y_2.

        Parameters
        ----------
        scale : array, shape (..., 1)
            Score variance of two keys of gap q.
        own : array, shape (..., P)
            Mean gap over q of the keys seen.
        sigma : array, shape (..., P)
            Standard deviations of the scores.

        Returns
        -------
        array, shape (..., P)
            The factor; one without rotary positions.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.maps.tabulated import tabulated
        >>> tabulated(2, 1.0).shrink(1.0, np.ones(2), np.ones(2))
        1.0
        """
        index = resolved(self.layout)
        if self._exact.rotary_base is None or not index.size:
            return 1.0
        own, sigma = own[..., index], sigma[..., index]
        hot = _basis(_place(np.sqrt(scale) * np.ones_like(own), LOWEST, self._top), TREE[0])
        far = _basis(2 * np.sqrt(np.clip(own / MAX_GAP, 0.0, 1.0)) - 1, TREE[1])
        factor = np.einsum("kab,...ka,...kb->...k", self._tree, hot, far)
        free = factor * np.sqrt(scale * (1 - (1 - own) * self._turned))
        ratio = np.divide(free, sigma, out=np.ones_like(free), where=sigma > 0)
        return between(self.layout, np.clip(ratio, RATIOS[0], RATIOS[-1]))

    def _singles(self) -> Floats:
        """Coefficients of excess, entropy deficit and heads, shape (P, 3, K)."""
        s = _deviations(ONE, 0.0, self._cap)
        excess, entropy, heads = self._exact.single(s)
        deficit = (np.log(self._count) - entropy) * (1 + s) / s**2
        rows = np.stack([excess * (1 + s**2) / s**2, deficit, heads], axis=1)
        return np.moveaxis(_fitted(rows, 1), 1, 2)

    def _couples(self) -> Floats:
        """Coefficients of the share of the excess that is common, shape (N, K, K', K'')."""
        (i, j), size = self.layout.couples, len(self._count)
        s = _deviations(PAIR[0], LOWEST, self._top)
        r = _correlations(PAIR[2], np.sqrt(np.outer(s, s))[..., None])[..., None]
        shape = (*PAIR, len(i))
        a, b = np.arange(PAIR[0])[:, None, None, None], np.arange(PAIR[1])[:, None, None]
        sigma = np.repeat(s, size)
        own = queries(sigma, np.tile(self._count, PAIR[0]))
        pairs = [np.broadcast_to(v, shape).ravel() for v in (a * size + i, b * size + j)]
        rest = [np.broadcast_to(v, shape).ravel() for v in (self.layout.common, r)]
        found = shared_excess(own, *pairs, *rest).reshape(shape)
        one = self.single(sigma.reshape(-1, size))
        plain = np.sqrt(np.maximum(one.excess, 0.0)) / one.heads
        scale = r * plain[a, i] * plain[b, j]
        share = np.divide(found, scale, out=np.zeros(shape), where=np.abs(scale) > 1e-12)
        return _fitted(share, 3)

    @cached_property
    def _turned(self) -> Floats:
        """Mean of kappa over what the resolved queries see."""
        base, width = self._exact.rotary_base, turned_width(self._exact.head_width)
        counts = self.layout.centres.count[resolved(self.layout)]
        sets = [make_distances(int(n), float(base or 1.0), width) for n in counts]
        return np.array([d.mean(d.waves[1:]).mean() for d in sets])

    @cached_property
    def _tree(self) -> Floats:
        """Coefficients of the factor on the deviation of a flat kernel, shape (K, ., .)."""
        index = resolved(self.layout)
        sigma, ones = np.ones(len(self._count)), np.ones(len(self._count))
        scale = _deviations(TREE[0], LOWEST, self._top) ** 2
        own = ((nodes(TREE[1]) + 1) / 2) ** 2 * MAX_GAP
        rows = np.empty((*TREE, index.size))
        for a, b in np.ndindex(*TREE):
            sigma[index] = np.sqrt(scale[a] * (1 - (1 - own[b]) * self._turned))
            factor = self._exact.shrink(scale[a], own[b] * ones, sigma)
            rows[a, b] = np.broadcast_to(factor, sigma.shape)[index]
        return _fitted(rows, 2)


@lru_cache(maxsize=16)
def tabulated(
    context: int,
    top: float,
    window: float = np.inf,
    prefix: int = 0,
    head_width: float | None = None,
    rotary_base: float | None = None,
) -> Tabulated:
    """Table of a context on coarse blocks, built once.

    Parameters
    ----------
    context : int
        Context length T, >= 2.
    top : float
        Largest score deviation, > 0.2.
    window, prefix
        As in `sigprop.layout.make_layout`.
    head_width : float, optional
        Width of a head.
    rotary_base : float, optional
        Base of rotary positions.

    Returns
    -------
    Tabulated
        The table: 25 ms for each pair of blocks, about 7 s without a window.

    Examples
    --------
    >>> from sigprop.maps.tabulated import tabulated
    >>> tabulated(2, 1.0) is tabulated(2, 1.0)
    True
    """
    layout = make_layout(context, RESOLUTION, window, prefix, singles=SINGLES)
    return Tabulated(Exact(layout, head_width, rotary_base), top)
