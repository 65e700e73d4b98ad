r"""Fast attention statistics at finite context: shipped interpolants, exact outside their domain.

Chebyshev coefficients over the coordinates of `sigprop.rem.coordinates`, made by
`sigprop.rem.tabulate`, hold

.. math:: \log\frac{(Y_2 - 1/T)\,T^2}{(T-1)\,s^2}, \quad
          \log\frac{2(\log T - H)}{(1 - 1/T) s^2}, \quad
          \frac1r \log\frac{Y_2 - O(r)}{(1-r)(Y_2 - 1/T)},

each divided by :math:`s^2/(1+s^2)`. All three vanish at s = 0, so near collapse the relative
error of the statistics vanishes with s^2; O(0) = 1/T and O(1) = Y_2 hold by construction.

Domain: 2 <= T <= 2^17, b = s/sqrt(log T) <= 6, r in [-0.3, 1]. Outside it the statistics are
computed by quadrature (about 0.1 s a point) up to s = 40, and are NaN beyond. Error over the domain: see `ERROR_BOUND`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from sigprop.cells import Cells
from sigprop.chebyshev import Series, fit
from sigprop.errors import require
from sigprop.rem import coordinates as co
from sigprop.rem.finite import entropy_deficit
from sigprop.rem.overlap import excess, spread_at_gap
from sigprop.rem.statistics import Weights, reduced_beta
from sigprop.state import State

__all__ = ["ERROR_BOUND", "Finite", "Profile", "head_nodes"]

Floats = NDArray[np.float64]
MAX_SIGMA = 40.0  # score standard deviation up to which the quadrature is used
ERROR_BOUND = 1e-6  # absolute, of y2, overlap and entropy / log T
PROFILE_ERROR = 1e-7  # absolute, of excess and spread
FLAT = 1e-5  # score standard deviation below which attention is uniform to 1e-10
HEAD_NODES = 8


@cache
def _table() -> tuple[Floats, Floats]:
    with as_file(files("sigprop.rem") / "table.npz") as path, np.load(path) as data:
        return data["single"], data["pair"]


def head_nodes(head_width: float) -> tuple[Floats, Floats]:
    """Nodes and weights for the average over chi^2_n / n, n the width of a head (E12).

    Generalised Gauss-Laguerre quadrature by the eigenvectors of its Jacobi matrix (Golub & Welsch
    1969), exact for moments up to order 15.

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
    >>> from sigprop.rem import head_nodes
    >>> nodes, weights = head_nodes(64)
    >>> round(float(weights @ nodes), 12), round(float(weights @ nodes**2), 12)
    (1.0, 1.03125)
    """
    require(head_width >= 1, "head_width", head_width, "a number >= 1")
    k, shift = np.arange(HEAD_NODES), head_width / 2 - 1
    off = np.sqrt(k[1:] * (k[1:] + shift))
    values, vectors = np.linalg.eigh(np.diag(2 * k + 1 + shift) + np.diag(off, 1) + np.diag(off, -1))
    return values * 2 / head_width, vectors[0] ** 2


class Finite:
    """Attention statistics at finite context length (E6-E9, E12).

    Parameters
    ----------
    context : array_like
        Context length T, in [2, 1e12].
    head_width : float, optional
        Width of a head; None is infinite. The two queries of E9 are given one common score
        variance, which is exact at r = 1 and at r = 0.
    exact : bool
        Compute everything by quadrature, with relative accuracy 1e-10 and slowly.

    Raises
    ------
    DomainError
        If a parameter is outside its range.

    Notes
    -----
    theory.md 2b (new there).

    Examples
    --------
    >>> from sigprop.rem import Finite
    >>> round(float(Finite(512).weights(1.4142135623730951, 1.0).y2), 4)
    0.2492
    """

    def __init__(
        self, context: ArrayLike, head_width: float | None = None, exact: bool = False
    ) -> None:
        self._exact = exact
        self.context = np.asarray(context, dtype=np.float64)
        require((self.context >= 2) & (self.context <= 1e12), "context", self.context,
                "a number in [2, 1e12]")  # fmt: skip
        self._heads = None if head_width is None else head_nodes(head_width)
        self._root = np.sqrt(np.log(self.context))
        inside = np.minimum(self.context, co.MAX_CONTEXT)
        tau = co.from_context(inside)
        self._inside = inside
        single, pair = _table()
        self._single = _contract(single, tau)
        self._pair = _contract(pair, tau)

    def weights(self, b: Floats, x: Floats) -> Weights:
        """Participation, excess and spread at b = beta sqrt(q gap), x = gap/q = 1 - r."""
        rest, fall = self._averaged(self._pairs, b, x)
        return Weights(1 / self.context + rest, rest, fall)

    def seen(self, beta: float | Floats, state: State) -> Weights:
        """Participation, excess and spread when attention at `beta` reads `state`."""
        return self.weights(reduced_beta(beta, state), state.gap / state.q)

    def entropy_ratio(self, b: Floats) -> Floats:
        """Attention entropy over log T."""
        (deficit,) = self._averaged(self._deficit, b)
        return np.asarray(1 - deficit / np.log(self.context))

    def _averaged(self, function: object, b: Floats, *args: Floats) -> tuple[Floats, ...]:
        """`function` at s = b sqrt(log T), averaged over heads of finite width."""
        s = np.asarray(b, dtype=np.float64) * self._root
        if self._heads is None:
            return function(s, *args)  # type: ignore[no-any-return,operator]
        factors, probability = self._heads
        axes = (1,) * max(np.ndim(s), *(np.ndim(a) for a in (*args, s)))
        scaled = np.sqrt(factors).reshape(-1, *axes) * s
        return tuple(np.tensordot(probability, v, 1) for v in function(scaled, *args))  # type: ignore[operator]

    def _covered(self, s: Floats) -> NDArray[np.bool_]:
        inside = (s <= co.MAX_BETA * self._root) & (self.context <= co.MAX_CONTEXT)
        return inside & (not self._exact)

    def _pairs(self, s: Floats, x: Floats) -> tuple[Floats, Floats]:
        s, x = np.broadcast_arrays(s, x)
        covered = self._covered(s) & (x <= co.MAX_GAP)
        safe = np.where(covered, s, 0.0)
        square = safe**2
        bend = square / (1 + square)
        y = _vander(co.from_sigma(safe, self._inside), self._single.shape[-2])
        rest = square * (1 - 1 / self._inside) / self._inside
        rest = rest * np.exp(bend * _dot(self._single[..., 0], y))
        y = y[..., : self._pair.shape[-2]]
        v = _vander(co.from_gap(np.minimum(x, co.MAX_GAP), safe), self._pair.shape[-1])
        fall = x * rest * np.exp((1 - x) * bend * _dot(_apply(self._pair, v), y))
        return _patched(covered, (rest, fall), lambda s, t, x: (excess(s, t), spread_at_gap(s, t, x)),
                        s, self.context, x)  # fmt: skip

    def _deficit(self, s: Floats) -> tuple[Floats]:
        covered = self._covered(s)
        safe = np.where(covered, s, 0.0)
        square = safe**2
        y = _vander(co.from_sigma(safe, self._inside), self._single.shape[-2])
        small = square / 2 * (1 - 1 / self._inside)
        deficit = small * np.exp(square / (1 + square) * _dot(self._single[..., 1], y))
        (out,) = _patched(covered, (deficit,), lambda s, t: (entropy_deficit(s, t),),
                          s, self.context)  # fmt: skip
        return (out,)


def _contract(coefficients: Floats, tau: Floats) -> Floats:
    """Sum the first axis of a coefficient tensor at each tau."""
    return np.tensordot(_vander(tau, len(coefficients)), coefficients, 1)


def _vander(x: Floats, count: int) -> Floats:
    return np.reshape(chebyshev.chebvander(x, count - 1), (*np.shape(x), count))


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("...i,...i->...", a, b))


def _apply(matrix: Floats, vector: Floats) -> Floats:
    """Matrix times vector on the last axes; one matrix product when the matrix is shared."""
    if matrix.ndim == 2:
        return vector @ matrix.T
    return np.asarray(np.einsum("...ij,...j->...i", matrix, vector))


def _patched(
    covered: NDArray[np.bool_], values: tuple[Floats, ...], exact: object, *args: Floats
) -> tuple[Floats, ...]:
    """Replace the values at points that the table does not cover by quadrature; NaN beyond it.

    args[0] is the score standard deviation.
    """
    if np.all(covered):
        return values
    shape = np.broadcast_shapes(covered.shape, *(v.shape for v in values))
    missing = ~np.broadcast_to(covered, shape)
    known = missing & (np.broadcast_to(args[0], shape) <= MAX_SIGMA)
    points = [np.broadcast_to(a, shape)[known] for a in args]
    out = [np.where(missing, np.nan, value) for value in values]
    for value, fresh in zip(out, exact(*points), strict=True):  # type: ignore[operator]
        value[known] = fresh
    return tuple(out)


class Profile:
    r"""Statistics along the line b = B sqrt(x) that attention follows behind a norm.

    There q is constant, so at each inverse temperature everything depends on x = gap/q alone. Each
    statistic over its value at small s becomes a Chebyshev series in s/(s + a), and that a piecewise
    cubic, to an absolute error of 1e-7 in excess and spread beside the table's own. This is what
    makes a grid of many states at few temperatures fast.

    Parameters
    ----------
    rem : Finite
        Statistics to follow.
    top : array_like
        B = beta q, the reduced inverse temperature at x = 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.rem import Finite, Profile
    >>> rem, x = Finite(512), np.array(0.3)
    >>> exact, fast = rem.weights(2.0 * np.sqrt(x), x), Profile(rem, 2.0).weights(x)
    >>> bool(abs(exact.spread - fast.spread) < 1e-8)
    True
    """

    def __init__(self, rem: Finite, top: ArrayLike) -> None:
        self.rem, context = rem, rem.context
        self._root = np.sqrt(np.log(context))
        self._top = np.asarray(top, dtype=np.float64) * self._root
        self._line = np.maximum(self._top, FLAT)
        self._end = self._line / np.sqrt(1 - 1 / context)  # at the largest x, 1 + 1/(T-1)
        self._unit = (1 - 1 / context) / context
        lines = np.shape(self._end)
        tolerance = PROFILE_ERROR * float(np.min(1 / np.maximum(self._end**2 * self._unit, 1e-2)))
        series = fit(self._at_nodes, tolerance, start=32)
        rest, fall = (Series(np.ascontiguousarray(series.coefficients[:, i])) for i in (0, 1))
        self._rest = Cells(lambda y: rest(2 * y - 1), lines, tolerance)
        self._fall = Cells(lambda y: fall(2 * y - 1), lines, tolerance)

    def _at_nodes(self, t: Floats) -> Floats:
        t = t.reshape((-1,) + (1,) * np.ndim(self._end))
        y = (t + 1) / 2 * self._end / (self._end + co.A)
        s = co.A * y / (1 - y)
        x = (s / self._line) ** 2
        weights = self.rem.weights(s / self._root, x)
        unit = s**2 * self._unit
        return np.stack([weights.excess / unit, weights.spread / (unit * x)], axis=1)

    def seen(self, beta: float | Floats, state: State) -> Weights:
        """Participation, excess and spread; `beta` is that of the profile."""
        return self.weights(state.gap / state.q)

    def weights(self, x: Floats) -> Weights:
        """Participation, excess and spread at x."""
        s = self._top * np.sqrt(x)
        y = s / (s + co.A)
        y *= (self._end + co.A) / self._end
        unit = (self._top**2 * self._unit) * x
        fall = self._fall(y)
        fall *= unit
        fall *= x
        unit *= self._rest(y)
        return Weights(1 / self.rem.context + unit, unit, fall)

    def entropy_ratio(self, b: Floats) -> Floats:
        """Attention entropy over log T."""
        return self.rem.entropy_ratio(b)
