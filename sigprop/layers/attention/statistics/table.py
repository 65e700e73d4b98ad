r"""Fast attention statistics at finite context: shipped interpolants, exact outside their domain.

Chebyshev coefficients over the coordinates of `sigprop.layers.attention.statistics.coordinates`,
made by `sigprop.layers.attention.statistics.build_table`, hold

.. math:: \log\frac{(Y_2 - 1/T)\,T^2}{(T-1)\,s^2}, \quad
          \log\frac{2(\log T - H)}{(1 - 1/T) s^2}, \quad
          \frac1r \log\frac{Y_2 - O(r)}{(1-r)(Y_2 - 1/T)},

each divided by :math:`s^2/(1+s^2)`. All three vanish at s = 0, so near collapse the relative
error of the statistics vanishes with s^2; O(0) = 1/T and O(1) = Y_2 hold by construction.

Domain: 2 <= T <= 2^20 (in two parts), b = s/sqrt(log T) <= 6, r in [-0.3, 1]. Outside it the
statistics are computed by quadrature (about 0.1 s a point): those of pairs up to s = 40, the
entropy up to s = 1e6. Beyond they are NaN. Error over the domain: see `ERROR_BOUND`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Bools, Floats, Number
from sigprop.core.errors import require
from sigprop.core.numerics.chebyshev import basis
from sigprop.core.numerics.shipped import shipped
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics.heads import lost, rows_of
from sigprop.layers.attention.statistics.interface import (
    Passed,
    Response,
    Source,
    Weights,
    opposed,
    reduced_beta,
)
from sigprop.layers.attention.statistics.moments import entropy_deficit
from sigprop.layers.attention.statistics.pairs import excess, response_at_gap, spread_at_gap
from sigprop.layers.attention.statistics.two_queries import squares
from sigprop.layers.state import State

__all__ = ["ERROR_BOUND", "Finite", "head_nodes"]

MAX_SIGMA = 40.0  # score standard deviation up to which pairs are computed by quadrature
MAX_SINGLE = 1e6  # and what one query alone decides
ERROR_BOUND = 1e-6  # absolute, of y2, overlap and entropy / log T; ten times what was measured
HEAD_NODES = 8
Function = Callable[..., tuple[Floats, ...]]  # of the score standard deviation and more


def _contracted(name: str, context: Floats) -> Floats:
    """Coefficients of a statistic at each context, from the part of the table that holds it."""
    data, far = shipped("sigprop.layers.attention.statistics", "table.npz"), context > co.JOINT
    near, beyond = (
        _contract(data[f"{name}{part}"], co.from_context(context, part)) if wanted else None
        for part, wanted in enumerate((not np.all(far), np.any(far)))
    )
    if near is None or beyond is None:
        return np.asarray(beyond if near is None else near)
    return np.where(far.reshape(*far.shape, *[1] * (near.ndim - far.ndim)), beyond, near)


@validated
def head_nodes(head_width: float) -> tuple[Floats, Floats]:
    """Nodes and weights for the average over chi^2_n / n, n the width of a head (E12).

    Generalised Gauss-Laguerre quadrature, exact for moments up to order 15.

    Parameters
    ----------
    head_width : float
        Degrees of freedom, >= 1.

    Returns
    -------
    nodes, weights : arrays, shape (8,)
        Score-variance factors and probabilities.

    Raises
    ------
    DomainError
        If the width is below one.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import head_nodes
    >>> nodes, weights = head_nodes(64)
    >>> round(float(weights @ nodes), 12), round(float(weights @ nodes**2), 12)
    (1.0, 1.03125)
    """
    require(head_width >= 1, "head_width", head_width, "a number >= 1")
    return squares(head_width, HEAD_NODES)


@validated
class Finite(Source):
    """Attention statistics at finite context length (E6-E9, E12, E12b).

    Parameters
    ----------
    context : array_like
        Context length T, in [2, 1e12].
    head_width : float, optional
        Width of a head; None is infinite.
    exact : bool
        Compute by quadrature, with relative accuracy 1e-10 and slowly, all but what a finite head
        width does to two queries.

    Raises
    ------
    DomainError
        If a parameter is outside its range.

    Notes
    -----
    theory.md 2b and 2c; measured: notebooks/accuracy.md.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Finite
    >>> round(float(Finite(512).weights(1.4142135623730951, 1.0).y2), 4)
    0.249
    """

    def __init__(
        self, context: ArrayLike, head_width: float | None = None, exact: bool = False
    ) -> None:
        self._exact = exact
        self.context = np.asarray(context, dtype=np.float64)
        known = (self.context >= 2) & (self.context <= 1e12)
        require(known, "context", self.context, "a number in [2, 1e12]")
        self.even, self.head_width = 1 / self.context, head_width
        self._heads = None if head_width is None else head_nodes(head_width)
        self._root = np.sqrt(np.log(self.context))
        inside = np.minimum(self.context, co.MAX_CONTEXT)
        self._inside = inside
        self._single, self._pair = (_contracted(name, inside) for name in ("single", "pair"))

    def weights(self, b: Number, x: Number) -> Weights:
        """Participation, excess and spread at b = beta sqrt(q gap), x = gap/q = 1 - r.

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.
        x : float or array
            gap/q = 1 - r, r the correlation of the scores of two queries.

        Returns
        -------
        Weights
            Arrays of the broadcast shape.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Finite
        >>> round(float(Finite(512).weights(1.0, 0.5).excess), 4)
        0.0995
        """
        s = np.asarray(b, dtype=np.float64) * self._root
        rest, share = self._pairs(s, x)
        if self.head_width is not None:
            (rest,) = self._averaged(self._excess, b)
            share = share * np.exp(-lost(self._rows, s, np.asarray(x), self.head_width))
        return Weights(self.even + rest, rest, opposed(rest, rest * share, x))

    def passed(self, beta: Number, state: State) -> Passed:
        """Parts of the gap that attention at `beta` passes when it reads `state`.

        Parameters
        ----------
        beta : float or array
            Inverse temperature.
        state : State
            The tokens that attention reads.

        Returns
        -------
        Passed
            Arrays of the broadcast shape.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Finite
        >>> from sigprop.layers.state import State
        >>> float(Finite(512).passed(1.0, State(1.0, 0.0)).spread)
        0.0
        """
        weights = self.weights(reduced_beta(beta, state), state.gap / state.q)
        return weights.times(state.gap)

    def response(self, b: Number, x: Number, tilt: int = 0) -> Response:
        """Answer of the weights to the scores at b = beta sqrt(q gap), x = gap/q = 1 - r.

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.
        x : float or array
            gap/q = 1 - r, r the correlation of the scores of two queries.
        tilt : int
            Power of the score-variance factor of a head (E12) that weighs the average.

        Returns
        -------
        Response
            Arrays of the broadcast shape; relative accuracy 2e-5 from the table for r >= 0.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Finite
        >>> round(float(Finite(512).response(0.0, 0.5).own) * 512, 6)
        0.998047
        """
        return Response(*self._averaged(self._slopes, b, x, tilt=tilt))

    def entropy_ratio(self, b: Number, x: Number | None = None) -> Floats:
        """Attention entropy over log T.

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.

        Returns
        -------
        array
            The ratio, in [0, 1].

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Finite
        >>> round(float(Finite(512).entropy_ratio(1.0)), 4)
        0.5829
        """
        return np.asarray(1 - self.entropy_deficit(b) / np.log(self.context))

    def entropy_deficit(self, b: Number) -> Floats:
        """Attention's entropy deficit log T - H in nats, with relative accuracy at small b.

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.

        Returns
        -------
        array
            The deficit, in [0, log T].

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.statistics import Finite
        >>> b = 1e-9 / np.sqrt(np.log(512))
        >>> float(round(Finite(512).entropy_deficit(b) / 1e-18, 6))
        0.499023
        """
        (deficit,) = self._averaged(self._deficit, b)
        return np.asarray(deficit)

    def _averaged(
        self, function: Function, b: Number, *args: Number, tilt: int = 0
    ) -> tuple[Floats, ...]:
        """Average `function` at s = b sqrt(log T) over heads of finite width."""
        s = np.asarray(b, dtype=np.float64) * self._root
        if self._heads is None:
            return function(s, *args)
        factors, probability = self._heads
        axes = (1,) * max(np.ndim(s), *(np.ndim(a) for a in (*args, s)))
        scaled = np.sqrt(factors).reshape(-1, *axes) * s
        weight = probability * factors**tilt
        return tuple(np.tensordot(weight, v, 1) for v in function(scaled, *args))

    def _covered(self, s: Floats) -> Bools:
        inside = (s <= co.MAX_BETA * self._root) & (self.context <= co.MAX_CONTEXT)
        return inside & (not self._exact)

    @cached_property
    def _rows(self) -> Floats:
        """Coefficients of what a finite head width does to two queries."""
        return rows_of(self.head_width or np.inf, self.context, self.context)

    def _excess(self, s: Floats) -> tuple[Floats, ...]:
        covered = self._covered(s)
        safe = np.where(covered, s, 0.0)
        y = basis(co.from_sigma(safe, self._inside), self._single.shape[-2])
        rest = self._unit(safe, y)
        return _patched(covered, (rest,), _exact_excess, s, self.context)

    def _pairs(self, s: Floats, x: Number) -> tuple[Floats, ...]:
        """Excess of one query, and the share of it that two differ by: spread over excess."""
        s, x = np.broadcast_arrays(s, x)
        covered = self._covered(s) & (x <= co.MAX_GAP)
        safe = np.where(covered, s, 0.0)
        y = basis(co.from_sigma(safe, self._inside), self._single.shape[-2])
        rest = self._unit(safe, y)
        y = y[..., : self._pair.shape[-2]]
        v = basis(co.from_gap(np.minimum(x, co.MAX_GAP), safe), self._pair.shape[-1])
        share = x * np.exp((1 - x) * co.bend(safe) * _dot(_apply(self._pair, v), y))
        return _patched(covered, (rest, share), _exact_pairs, s, self.context, x)

    def _unit(self, s: Floats, y: Floats) -> Floats:
        """Excess of one query from the table."""
        small = s**2 * (1 - 1 / self._inside) / self._inside
        return np.asarray(small * np.exp(co.bend(s) * _dot(self._single[..., 0], y)))

    def _slopes(self, s: Floats, x: Number) -> tuple[Floats, ...]:
        """Differentiate in x, at zero and at x, what `_pairs` tabulates; over s^2."""
        s, x = np.broadcast_arrays(s, x)
        covered = self._covered(s) & (x <= co.MAX_GAP)
        safe, near = np.where(covered, s, 0.0), np.minimum(x, co.MAX_GAP)
        bend = co.bend(safe)
        y = basis(co.from_sigma(safe, self._inside), self._single.shape[-2])
        unit = (1 - 1 / self._inside) / self._inside * np.exp(bend * _dot(self._single[..., 0], y))
        y, count = y[..., : self._pair.shape[-2]], self._pair.shape[-1]
        v = co.from_gap(near, safe)
        at, start = (_dot(_apply(self._pair, basis(w, count)), y) for w in (v, -np.ones_like(v)))
        turn = _dot(_apply(_derivative(self._pair), basis(v, count - 1)), y)
        bent = 1 + bend * ((1 - near) * turn * co.gap_rate(near, safe) - near * at)
        own, cross = unit * np.exp(bend * start), unit * np.exp((1 - near) * bend * at) * bent
        return _patched(covered, (own, cross), _exact_slopes, s, self.context, x)

    def _deficit(self, s: Floats) -> tuple[Floats, ...]:
        covered = self._covered(s)
        safe = np.where(covered, s, 0.0)
        y = basis(co.from_sigma(safe, self._inside), self._single.shape[-2])
        small = safe**2 / 2 * (1 - 1 / self._inside)
        deficit = small * np.exp(co.bend(safe) * _dot(self._single[..., 1], y))
        return _patched(covered, (deficit,), _exact_deficit, s, self.context, top=MAX_SINGLE)


def _exact_excess(s: Floats, context: Floats) -> tuple[Floats, ...]:
    return (excess(s, context),)


def _exact_pairs(s: Floats, context: Floats, x: Floats) -> tuple[Floats, ...]:
    rest, share = excess(s, context), np.array(x, dtype=np.float64)
    apart = (x != 0) & (x != 1) & (rest > 0)  # at r = 0 the spread is the excess
    share[apart] = spread_at_gap(s[apart], context[apart], x[apart]) / rest[apart]
    return rest, share


def _exact_slopes(s: Floats, context: Floats, x: Floats) -> tuple[Floats, ...]:
    return response_at_gap(s, context, 0.0), response_at_gap(s, context, x)


def _exact_deficit(s: Floats, context: Floats) -> tuple[Floats, ...]:
    return (entropy_deficit(s, context),)


def _contract(coefficients: Floats, tau: Floats) -> Floats:
    """Sum the first axis of a coefficient tensor at each tau."""
    return np.tensordot(basis(tau, len(coefficients)), coefficients, 1)


def _derivative(coefficients: Floats) -> Floats:
    return np.asarray(chebyshev.chebder(coefficients, axis=-1))


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("...i,...i->...", a, b))


def _apply(matrix: Floats, vector: Floats) -> Floats:
    """Matrix times vector on the last axes; one matrix product when the matrix is shared."""
    if matrix.ndim == 2:
        return vector @ matrix.T
    return np.asarray(np.einsum("...ij,...j->...i", matrix, vector))


def _patched(
    covered: Bools,
    values: tuple[Floats, ...],
    exact: Function,
    *args: Floats,
    top: float = MAX_SIGMA,
) -> tuple[Floats, ...]:
    """Replace the values at points that the table does not cover by quadrature; NaN beyond it.

    args[0] is the score standard deviation, known up to `top`.
    """
    if np.all(covered):
        return values
    shape = np.broadcast_shapes(covered.shape, *(v.shape for v in values))
    missing = ~np.broadcast_to(covered, shape)
    wide = [np.broadcast_to(a, shape) for a in args]
    known = missing & (wide[0] <= top) & np.all(np.isfinite(wide), axis=0)
    points = [a[known] for a in wide]
    out = [np.where(missing, np.nan, value) for value in values]
    for value, fresh in zip(out, exact(*points), strict=True):
        value[known] = fresh
    return tuple(out)
