r"""How attention weights of the queries of a layout answer to their scores (E24e).

With J the Jacobian of the softmax of one query, of n keys, and J' that of another, of n', of which
c are common and whose scores there have correlation r, Price's theorem makes of the overlap

.. math:: P(r) = E\,\mathrm{tr}\,J J' = \frac{1}{s s'} \frac{dO}{dr}, \qquad
          P \to \frac{c}{n n'}\Big(1 - \frac1n - \frac1{n'} + \frac c{n n'}\Big)
          \text{ as } s, s' \to 0 .

In a head of finite width r varies (E12b), here to the leading order in 1/d_h with one score
variance of both queries: :math:`\mathrm{atanh}\,\hat r \sim N(\mathrm{atanh}\,r, 1/(d_h - 2))`.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.statistics.coordinates import MAX_GAP
from sigprop.layers.attention.statistics.table import HEAD_NODES
from sigprop.layers.attention.statistics.two_queries import squares
from sigprop.layers.attention.statistics.universal import HOT, Alike

__all__ = ["Response", "Responses", "correlations"]

STEP = 0.05  # of 1 - r, where s is small
SMALLEST = 1e-3  # score deviation, below which responses are those of uniform weights
NODES = 3  # correlations of two queries over heads
WIDE, FEW, FEW_VARIANCES = 48.0, 2, 3  # width of a head from which fewer nodes are enough
CLOSEST = 1e-12  # 1 - |r| of two queries whose correlation still varies over heads


class Response(NamedTuple):
    r"""Response of each query and of each couple.

    Attributes
    ----------
    own, cross : arrays, shape (..., P) and (..., N)
        Averages over heads of P.
    own_key, cross_key : arrays, shape (..., P) and (..., N)
        Averages of P with the product of the two queries: of :math:`x P` and :math:`\hat r x P`,
        x the variance of the scores of a head over its mean.

    Examples
    --------
    >>> from sigprop.layers.attention.query_responses import Response
    >>> Response(0.5, 0.1, 0.4, 0.05).own
    0.5
    """

    own: Floats
    cross: Floats
    own_key: Floats
    cross_key: Floats


def correlations(r: Floats, head_width: float | None) -> tuple[Floats, Floats]:
    """Correlations of two queries over heads, and their probabilities; leading order of E12b.

    Parameters
    ----------
    r : array, shape (..., N)
        Their mean, in [-1, 1].
    head_width : float, optional
        Width of a head; None is infinite.

    Returns
    -------
    nodes, weights : arrays, shape (K, ..., N) and (K,)
        The nodes, and their weights.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.query_responses import correlations
    >>> nodes, weights = correlations(np.zeros(1), 18.0)
    >>> round(float(weights @ nodes[:, 0] ** 2), 3)
    0.055
    """
    if head_width is None or head_width <= 3:
        return np.asarray(r)[None], np.ones(1)
    place, weight = np.polynomial.hermite_e.hermegauss(NODES if head_width < WIDE else FEW)
    middle = np.arctanh(np.clip(r, CLOSEST - 1, 1 - CLOSEST))
    apart = place.reshape(-1, *[1] * middle.ndim) / np.sqrt(head_width - 2)
    return np.tanh(middle + apart), weight / weight.sum()


class Responses:
    """Responses of the queries and couples of a layout.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.query_responses import Responses
    >>> found = Responses(make_layout(3))(np.full(3, 1e-3), np.full(3, 0.5), None)
    >>> found.own.round(4).tolist(), found.cross.round(4).tolist()
    ([0.0, 0.25, 0.2222], [0.0, 0.0, 0.1667])
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, std: Floats, r: Floats, head_width: float | None) -> Response:
        """Find the responses.

        Parameters
        ----------
        std : array, shape (..., P)
            Standard deviations of the scores.
        r : array, shape (..., N)
            Correlations of the scores of each couple.
        head_width : float, optional
            Width of a head; None is infinite.

        Returns
        -------
        Response
            Zero for a query that sees one key.
        """
        plain, own, own_key = self._own(std, head_width)
        (i, j), known = self.layout.couples, plain > 0
        heads, hot = (
            np.sqrt(np.divide(value, plain, out=np.ones_like(plain), where=known))
            for value in (own, own_key)
        )
        nodes, weight = correlations(r, head_width)
        values = self._cross(std, nodes)
        cross, turned = (np.tensordot(weight, v, 1) for v in (values, nodes * values))
        cross, turned = (
            v * one[..., i] * one[..., j] for v, one in ((cross, heads), (turned, hot))
        )
        return Response(own, cross, own_key, turned)

    def _own(self, std: Floats, head_width: float | None) -> tuple[Floats, Floats, Floats]:
        """Y_2 - 2 Y_3 + Y_22 of each query: as it is, over heads alike, and by their variance."""
        factors, weight = np.ones(1), np.ones(1)
        if head_width is not None:
            number = HEAD_NODES if head_width < WIDE else FEW_VARIANCES
            factors, weight = squares(head_width, number)
        heat = np.sqrt(np.append(1.0, factors)).reshape(-1, *[1] * std.ndim)
        first, rest = np.split(self._alone(std * heat), [1])
        return first[0], np.tensordot(weight, rest, 1), np.tensordot(weight * factors, rest, 1)

    def _alone(self, std: Floats) -> Floats:
        """Response of a query with itself: the slope at r = 1; beyond the table as 1/s."""
        s = np.clip(std, SMALLEST, HOT)
        step = STEP / (1 + s**2)
        first, second, third = self._same(s, 1 - step * np.arange(3).reshape(-1, *[1] * s.ndim))
        slope = (1.5 * first - 2 * second + 0.5 * third) / (step * s**2)
        return np.asarray(np.where(std > HOT, HOT / np.maximum(std, HOT), 1.0) * slope)

    def _cross(self, std: Floats, r: Floats) -> Floats:
        """Slope of the excess overlap in r, over s s': of the parabola through three points.

        Beyond r = -0.3, where the table ends, it is the slope there.
        """
        live, two = self._overlaps.live, self._overlaps.two
        i, j = (one[live] for one in self.layout.couples)
        s, found = np.maximum(std, SMALLEST), np.zeros(r.shape)
        product = s[..., i] * s[..., j]
        step = STEP / (1 + product)
        gap = np.minimum(1 - r[..., live], MAX_GAP - step)
        first = np.maximum(gap - step, 0.0)  # 1 - r of the first point
        place = np.where(first > 0, 1.0, gap / step)  # of r among them
        ends = two(s, 1 - np.stack([first, first + 2 * step]))
        slope = np.sum(np.stack([1.5 - place, 0.5 - place]) * ends, axis=0)
        near = np.flatnonzero(np.any(place != 1, axis=tuple(range(place.ndim - 1))))
        if near.size:  # of the others r is in the middle, whose value does not matter
            middle = two(s, 1 - (first + step)[..., near], near)
            slope[..., near] += 2 * (place[..., near] - 1) * middle
        found[..., live] = slope / (step * product)
        return found

    @cached_property
    def _overlaps(self) -> Universal:
        return Universal(self.layout)

    @cached_property
    def _same(self) -> Alike:
        return Alike(self.layout.queries.count)
