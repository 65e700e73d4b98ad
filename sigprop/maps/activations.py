r"""Dual activations: averages of an activation over two correlated Gaussians (E15-E17).

For preactivations of variance q and covariance q - gap,
:math:`\Phi(q, gap) = E\,\phi(u_1)\phi(u_2)`. Every dual gives :math:`\Phi(q, 0)`, the drop
:math:`\Phi(q, 0) - \Phi(q, gap)` without cancellation, and the slopes :math:`E\phi'^2` and
:math:`E\,\phi'(u_1)\phi'(u_2) = -\partial\Phi/\partial gap` (Price's theorem).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.polynomial.chebyshev import chebvander

from sigprop.arrays import Floats, Number
from sigprop.chebyshev import Series, fit, nodes, transform
from sigprop.errors import DomainError
from sigprop.state import multiplied

__all__ = ["Activation", "Dual", "activation", "pointwise"]

SMALL_ANGLE = 2e-3  # below it sin t - t cos t is a series; above, it errs by 1e-13 of the drop
MEHLER_TERMS = 16384
SHARED = 8  # gaps per variance from which a Chebyshev series pays
MAX_Q = 100.0  # preactivation variance up to which the Mehler series is summed
MANY = 4  # variances from which interpolating between series pays
Q_NODES = 64  # variances at which the interpolated series are known
X_NODES = 64  # gaps at which they are


class Dual(Protocol):
    """An activation's averages at one preactivation variance q (an array).

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.maps.activations import Dual, activation
    >>> dual: Dual = activation("relu")(np.array(2.0))
    >>> float(dual.variance)
    1.0
    """

    @property
    def q(self) -> Floats:
        """Preactivation variance."""
        ...

    @property
    def variance(self) -> Floats:
        """Second moment of the activation, Phi(q, 0)."""
        ...

    @property
    def slope(self) -> Floats:
        """Mean square derivative, lim drop/gap at gap -> 0."""
        ...

    def drop(self, x: Number) -> Number:
        """[Phi(q, 0) - Phi(q, x q)] / q, for x = gap/q in [0, 2].

        Parameters
        ----------
        x : float or array
            gap/q, which broadcasts with q.

        Returns
        -------
        float or array
            The drop over q, without cancellation.
        """
        ...

    def slopes(self, x: Number) -> Number:
        """Average of phi'(u_1) phi'(u_2), for x = gap/q in [0, 2].

        Parameters
        ----------
        x : float or array
            gap/q, which broadcasts with q.

        Returns
        -------
        float or array
            The average; `slope` at x = 0.
        """
        ...


Activation = Callable[[Floats], Dual]


@dataclass(frozen=True)
class Linear:
    """phi(x) = x: Phi = q - gap."""

    q: Floats

    @property
    def variance(self) -> Floats:
        return self.q

    @property
    def slope(self) -> Floats:
        return np.ones_like(self.q)

    def drop(self, x: Number) -> Number:
        return 1.0 * x

    def slopes(self, x: Number) -> Number:
        return np.ones(np.broadcast_shapes(np.shape(x), self.q.shape))


@dataclass(frozen=True)
class Relu:
    r"""Arc-cosine kernel of order one (E16; Cho & Saul 2009, eq. 6 with n = 1).

    :math:`\Phi = \frac{q}{2\pi}(\sin\theta + (\pi - \theta)\cos\theta)`, so the drop is
    :math:`\frac{gap}{2} - \frac{q}{2\pi}(\sin\theta - \theta\cos\theta)` with
    :math:`\sin^2(\theta/2) = gap/2q`. The bracket is summed by its series below
    theta = 0.002, where the difference would lose digits (truncation 1e-18).
    """

    q: Floats

    @property
    def variance(self) -> Floats:
        return self.q / 2

    @property
    def slope(self) -> Floats:
        return np.full_like(self.q, 0.5)

    def drop(self, x: Number) -> Floats:
        y = np.asarray(multiplied(x, 0.5))
        np.minimum(y, 1.0, out=y)  # exceeds one by rounding only
        half = np.asarray(np.sqrt(y))
        np.arcsin(half, out=half)
        cos = np.asarray(1 - y)
        arc = np.asarray(cos * y)
        np.sqrt(arc, out=arc)
        cos -= y
        cos *= half
        arc -= cos  # (sin theta - theta cos theta) / 2
        small = np.flatnonzero(half < SMALL_ANGLE / 2)
        if small.size:
            arc.reshape(-1)[small] = _small_arc(half.take(small))
        arc *= 1 / np.pi
        y -= arc
        return y

    def slopes(self, x: Number) -> Floats:
        """(pi - theta) / 2 pi, the arc-cosine kernel of order zero."""
        half = np.arcsin(np.sqrt(np.clip(np.asarray(x) / 2, 0, 1)))
        return np.asarray((0.5 - half / np.pi) * np.ones_like(self.q))


def _small_arc(half: Floats) -> Floats:
    """(sin theta - theta cos theta) / 2 by its series in theta / 2."""
    square = half * half
    return half * square * (4 / 3 - square * (8 / 15))


@dataclass(frozen=True)
class Erf:
    r"""phi(x) = erf(x): :math:`\Phi = \frac{2}{\pi}\arcsin\frac{2(q - gap)}{1 + 2q}` (E17).

    C. K. I. Williams, Neural Computation 10, 1203 (1998).
    """

    q: Floats

    @property
    def variance(self) -> Floats:
        variance: Floats = 2 / np.pi * np.arctan2(2 * self.q, np.sqrt(1 + 4 * self.q))
        return variance

    @property
    def slope(self) -> Floats:
        return 4 / np.pi / np.sqrt(1 + 4 * self.q)

    def drop(self, x: Number) -> Floats:
        one, q, gap = 1 + 2 * self.q, self.q, x * self.q
        p = q - gap
        cosines = np.sqrt(1 + 4 * q) + np.sqrt((1 + 2 * gap) * (one + 2 * p))
        drop: Floats = 4 / np.pi / q * np.arctan(2 * gap / cosines)
        return drop

    def slopes(self, x: Number) -> Floats:
        """4 / pi sqrt((1 + 2q)^2 - 4p^2), Williams' arcsine differentiated in p."""
        gap = x * self.q
        return np.asarray(4 / np.pi / np.sqrt((1 + 2 * gap) * (1 + 4 * self.q - 2 * gap)))


@dataclass(frozen=True)
class Gelu:
    r"""phi(x) = x Phi_N(x), Phi_N the normal distribution function (E17).

    Stein's lemma, twice: with p = q - gap, :math:`D = (1+q)^2 - p^2`,
    :math:`A = 1/(2\pi\sqrt D)` and :math:`B = \frac14 + \frac{1}{2\pi}\arcsin\frac{p}{1+q}`,

    .. math:: \Phi = p B + A \left[q^2 + p^2 \frac{1-q}{1+q}\right].

    The tanh approximation of GELU differs from it by less than 5e-4 pointwise.
    """

    q: Floats

    @property
    def _at_zero(self) -> tuple[Floats, Floats]:
        root = np.sqrt(1 + 2 * self.q)
        return 1 / (2 * np.pi * root), 0.25 + np.arctan2(self.q, root) / (2 * np.pi)

    @property
    def variance(self) -> Floats:
        a0, b0 = self._at_zero
        return self.q * b0 + a0 * 2 * self.q**2 / (1 + self.q)

    @property
    def slope(self) -> Floats:
        q, (a0, b0) = self.q, self._at_zero
        inner = q + 2 * q**3 / ((1 + q) * (1 + 2 * q)) + 2 * q * (1 - q) / (1 + q)
        return b0 + a0 * inner

    def drop(self, x: Number) -> Floats:
        q, gap, (_, b0) = self.q, x * self.q, self._at_zero
        p = q - gap
        squares = gap * (q + p)  # q^2 - p^2
        root0 = np.sqrt(1 + 2 * q)
        root = np.sqrt(1 + 2 * q + squares)
        a = 1 / (2 * np.pi * root)
        fall_a = squares / (2 * np.pi * root * root0 * (root + root0))
        fall_b = np.arctan(gap / (root0 + root)) / np.pi
        rest = fall_a * (2 * q / (1 + q)) + a * (x * (q + p)) * ((1 - q) / (1 + q))
        return np.asarray(x * b0 + (1 - x) * fall_b + rest)

    def slopes(self, x: Number) -> Floats:
        """B + p A [1 + (q^2 + p^2 k)/D + 2 k], k = (1-q)/(1+q): the dual differentiated in p."""
        q, p, k = self.q, (1 - x) * self.q, (1 - self.q) / (1 + self.q)
        d = (1 + x * q) * (1 + q + p)
        a = 1 / (2 * np.pi * np.sqrt(d))
        b = 0.25 + np.arctan2(p, np.sqrt(d)) / (2 * np.pi)
        return np.asarray(b + p * a * (1 + (q**2 + p**2 * k) / d + 2 * k))


def _silu(x: Floats) -> Floats:
    value: Floats = x / (1 + np.exp(-x))
    return value


@dataclass(frozen=True)
class Mehler:
    r"""Any smooth activation, by its Hermite coefficients (E17; Mehler 1866).

    With :math:`\phi(\sqrt q z) = \sum_k b_k h_k(z)`, h orthonormal:
    :math:`\Phi = \sum_k b_k^2 c^k`, c = 1 - gap/q, and
    :math:`drop/gap = \frac1q \sum_j c^j S_j`, :math:`S_j = \sum_{k>j} b_k^2`: positive terms.
    The power series runs until its tail is below 1e-14 of the slope. When many gaps share one q
    (behind a norm) it is replaced by a Chebyshev series, to 1e-12 of the slope. The number of terms
    grows as 105 q; above q = 100 the variance is NaN, which ends a trajectory.
    """

    function: Callable[[Floats], Floats]
    q: Floats
    variance: Floats = field(init=False)
    slope: Floats = field(init=False)
    tails: Floats = field(init=False)

    def __post_init__(self) -> None:
        known = self.q <= MAX_Q
        q = np.where(known, self.q, 1.0)
        squares = _squared_coefficients(self.function, q)
        k = np.arange(len(squares)).reshape((-1,) + (1,) * q.ndim)
        tails = np.cumsum(squares[:0:-1], axis=0)[::-1] / q
        object.__setattr__(self, "variance", np.where(known, squares.sum(axis=0), np.nan))
        object.__setattr__(self, "slope", (k * squares).sum(axis=0) / q)
        object.__setattr__(self, "tails", tails)

    @cached_property
    def compressed(self) -> Series:
        def at_nodes(c: Floats) -> Floats:
            return _power_series(self.tails, c.reshape(c.shape + (1,) * self.q.ndim))

        return fit(at_nodes, 1e-12 * float(np.min(self.slope)))

    def drop(self, x: Number) -> Floats:
        shared = np.size(x) >= SHARED * self.q.size
        ratio = self.compressed(1 - x) if shared else _power_series(self.tails, 1 - x)
        return np.asarray(x * ratio)

    def slopes(self, x: Number) -> Floats:
        """(1/q) sum_k k b_k^2 c^(k-1), the power series differentiated."""
        squares = -np.diff(self.tails, axis=0, append=0)
        rates = np.arange(1, len(squares) + 1).reshape((-1,) + (1,) * self.q.ndim) * squares
        return _power_series(rates, 1 - x)


def _power_series(coefficients: Floats, c: Number) -> Floats:
    total = np.zeros(np.broadcast_shapes(np.shape(c), coefficients.shape[1:]))
    for coefficient in coefficients[::-1]:
        total *= c
        total += coefficient
    return total


def _squared_coefficients(function: Callable[[Floats], Floats], q: Floats) -> Floats:
    """b_k^2 on the first axis, by the trapezoid rule on |z| <= 13, until the tail is negligible."""
    largest = float(np.max(q))
    z_step = min(0.2 / np.sqrt(max(largest, 1.0)), 0.05)
    z = np.arange(-13.0, 13.0 + z_step, z_step)
    half = np.exp(-(z**2) / 4)
    sampled = function(np.sqrt(q)[..., None] * z) * half * (z_step / np.sqrt(2 * np.pi))
    before, now = np.zeros_like(z), half
    squares = []
    slope = peak = 0.0
    for k in range(MEHLER_TERMS):
        square = (sampled @ now) ** 2
        squares.append(square)
        before, now = now, (z * now - np.sqrt(k) * before) / np.sqrt(k + 1)
        slope = slope + k * square
        if k % 16 == 15:
            recent = np.max(np.sum(squares[-16:], axis=0) * k**2 / slope)
            if recent < 1e-14 and peak < 1e-14 * k:
                break
            peak = float(recent)
    return np.stack(squares)


@dataclass(frozen=True)
class _Smooth:
    """phi(x) = linear x + psi(x), psi even or odd."""

    function: Callable[[Floats], Floats]
    linear: float
    odd: bool

    def __call__(self, q: Floats) -> Dual:
        return Interpolated(self, q) if q.size > MANY else Mehler(self.function, q)


TANH = _Smooth(np.tanh, 0.0, True)
SILU = _Smooth(_silu, 0.5, False)  # x/2 + x tanh(x/2)/2


@dataclass(frozen=True)
class Interpolated:
    r"""Mehler series of many variances, interpolated between some of them (E17).

    Chebyshev in :math:`\sqrt q/(1+\sqrt q)` and in :math:`\theta/(\theta+a)`,
    :math:`a = 2/\sqrt{1+q}` the angle at which the dual bends, :math:`\theta \le \pi/2`; beyond,
    by the parity of phi. Within 1e-11 of the series it is made from, once in a process. Above
    q = 100 the variance is NaN, as there.
    """

    phi: _Smooth
    q: Floats
    basis: Floats = field(init=False)
    variance: Floats = field(init=False)

    def __post_init__(self) -> None:
        compact = _compact(np.minimum(self.q, MAX_Q))
        basis = chebvander(compact, Q_NODES - 1).reshape(*compact.shape, Q_NODES)
        object.__setattr__(self, "basis", basis)
        grid, known = _grid(self.phi), np.where(self.q <= MAX_Q, self.q, np.nan)
        # at x = 1 the drop of an odd phi is its variance: to rounding, not to the table's error
        ratio = self._at(grid.ratio, 1.0) if self.phi.odd else basis @ grid.variance
        object.__setattr__(self, "variance", known * ratio)

    @property
    def slope(self) -> Floats:
        return np.asarray(self.basis @ _grid(self.phi).slope)

    def drop(self, x: Number) -> Floats:
        near = np.minimum(x, 2 - x)
        drop = near * self._at(_grid(self.phi).ratio, near)
        square, sign = self.phi.linear**2, -1 if self.phi.odd else 1
        psi = sign * (drop - square * near) + (1 - sign) * (self.variance / self.q - square)
        return np.where(near == x, drop, psi + square * x)

    def slopes(self, x: Number) -> Floats:
        near = np.minimum(x, 2 - x)
        slopes = self._at(_grid(self.phi).slopes, near)
        square, sign = self.phi.linear**2, 1 if self.phi.odd else -1
        return np.where(near == x, slopes, sign * (slopes - square) + square)

    def _at(self, coefficients: Floats, x: Number) -> Floats:
        """Interpolant at x in [0, 1]."""
        return Series(np.moveaxis(self.basis @ coefficients, -1, 0))(_bent(x, self.q))


class _Grid(NamedTuple):
    """Chebyshev coefficients in q, and in q and gap, of four averages."""

    variance: Floats  # over q
    slope: Floats
    ratio: Floats  # drop/gap
    slopes: Floats


@cache
def _grid(phi: _Smooth) -> _Grid:
    top = np.sqrt(MAX_Q)
    y = (nodes(Q_NODES) + 1) / 2 * top / (1 + top)
    known = Mehler(phi.function, (y / (1 - y)) ** 2)
    x = _unbent(nodes(X_NODES)[:, None], known.q)
    averages = (_power_series(known.tails, 1 - x), known.slopes(x))
    ratio, slopes = (transform(transform(values.T), axis=1) for values in averages)
    return _Grid(transform(known.variance / known.q), transform(known.slope), ratio, slopes)


def _compact(q: Floats) -> Floats:
    """From q in [0, MAX_Q] to [-1, 1]."""
    root, top = np.sqrt(q), np.sqrt(MAX_Q)
    return np.asarray(2 * (root / (1 + root)) * ((1 + top) / top) - 1)


def _bent(x: Number, q: Floats) -> Floats:
    """From x in [0, 1] to [-1, 1]."""
    theta, a = 2 * np.arcsin(np.sqrt(np.asarray(x) / 2)), 2 / np.sqrt(1 + q)
    return np.asarray(2 * theta / (theta + a) * (1 + a / (np.pi / 2)) - 1)


def _unbent(t: Floats, q: Floats) -> Floats:
    a = 2 / np.sqrt(1 + q)
    y = (t + 1) / 2 / (1 + a / (np.pi / 2))
    return np.asarray(2 * np.sin(a * y / (1 - y) / 2) ** 2)


_KINDS: dict[str, Activation] = {
    "relu": Relu,
    "gelu": Gelu,
    "erf": Erf,
    "linear": Linear,
    "tanh": TANH,
    "silu": SILU,
}


def activation(name: str) -> Activation:
    """Dual activation by name.

    Parameters
    ----------
    name : {"relu", "gelu", "tanh", "erf", "silu", "linear"}
        The activation.

    Returns
    -------
    callable
        From a preactivation variance (array) to a `Dual`.

    Raises
    ------
    DomainError
        If the name is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.maps.activations import activation
    >>> float(activation("erf")(np.array(0.5)).drop(np.array(0.0)))
    0.0
    """
    if name not in _KINDS:
        raise DomainError("activation", name, "one of " + ", ".join(_KINDS))
    kind = _KINDS[name]
    return lambda q: kind(np.asarray(q, dtype=np.float64))


def pointwise(name: str) -> Callable[[Floats], Floats]:
    """Activation itself, by name.

    Parameters
    ----------
    name : {"relu", "gelu", "tanh", "erf", "silu", "linear"}
        The activation.

    Returns
    -------
    callable
        From preactivations to activations.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.maps.activations import pointwise
    >>> pointwise("relu")(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    from scipy.special import erf, ndtr

    functions: dict[str, Callable[[Floats], Floats]] = {
        "relu": lambda x: np.maximum(x, 0.0),
        "gelu": lambda x: x * ndtr(x),
        "erf": erf,
        "linear": lambda x: x,
        "tanh": np.tanh,
        "silu": _silu,
    }
    return functions[name]
