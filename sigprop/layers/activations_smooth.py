"""Duals of smooth activations without a closed form: tanh and silu (E17)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.numerics.chebyshev import Series, basis, fit, nodes, transform

__all__ = ["SILU", "TANH", "silu"]

MEHLER_TERMS = 16384
SHARED = 8  # gaps per variance from which a Chebyshev series pays
MAX_Q = 100.0  # preactivation variance up to which the Mehler series is summed
MANY = 4  # variances from which interpolating between series pays
Q_NODES = 64  # variances at which the interpolated series are known
X_NODES = 64  # gaps at which they are


def silu(x: Floats) -> Floats:
    """Compute x / (1 + exp(-x)).

    Parameters
    ----------
    x : array
        Preactivation.

    Returns
    -------
    array
        Of the same shape.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.activations_smooth import silu
    >>> float(silu(np.array(0.0)))
    0.0
    """
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
        object.__setattr__(self, "slope", np.where(known, (k * squares).sum(axis=0) / q, np.nan))
        object.__setattr__(self, "tails", tails)

    @cached_property
    def compressed(self) -> Series:
        def at_nodes(c: Floats) -> Floats:
            return _power_series(self.tails, c.reshape(c.shape + (1,) * self.q.ndim))

        return fit(at_nodes, 1e-12 * float(np.min(self.tails.sum(axis=0))))

    def drop(self, x: Number) -> Floats:
        shared = np.size(x) >= SHARED * self.q.size
        ratio = self.compressed(1 - x) if shared else _power_series(self.tails, 1 - x)
        return np.asarray(x * ratio)

    def slopes(self, x: Number) -> Floats:
        """(1/q) sum_k k b_k^2 c^(k-1), the power series differentiated."""
        squares = -np.diff(self.tails, axis=0, append=0)
        rates = np.arange(1, len(squares) + 1).reshape((-1,) + (1,) * self.q.ndim) * squares
        return np.where(self.q <= MAX_Q, _power_series(rates, 1 - x), np.nan)


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
class Smooth:
    """phi(x) = linear x + psi(x), psi even or odd."""

    function: Callable[[Floats], Floats]
    linear: float
    odd: bool

    def __call__(self, q: Floats) -> Interpolated | Mehler:
        if q.size and np.all(q == q.flat[0]):  # behind a norm
            return _of_one(self.function, float(q.flat[0]), q.ndim)
        return Interpolated(self, q) if q.size > MANY else Mehler(self.function, q)


@lru_cache(maxsize=16)
def _of_one(function: Callable[[Floats], Floats], q: float, axes: int) -> Mehler:
    """Series of one variance, which many blocks and stacks share."""
    return Mehler(function, np.full((1,) * axes, q))


TANH = Smooth(np.tanh, 0.0, True)
SILU = Smooth(silu, 0.5, False)  # x/2 + x tanh(x/2)/2


@dataclass(frozen=True)
class Interpolated:
    r"""Mehler series of many variances, interpolated between some of them (E17).

    Chebyshev in :math:`\sqrt q/(1+\sqrt q)` and in :math:`\theta/(\theta+a)`,
    :math:`a = 2/\sqrt{1+q}` the angle at which the dual bends, :math:`\theta \le \pi/2`; beyond,
    by the parity of phi. Within 1e-11 of the series it is made from, once in a process. Above
    q = 100 the variance is NaN, as there.
    """

    phi: Smooth
    q: Floats
    basis: Floats = field(init=False)
    variance: Floats = field(init=False)

    def __post_init__(self) -> None:
        terms = basis(_compact(np.minimum(self.q, MAX_Q)), Q_NODES)
        object.__setattr__(self, "basis", terms)
        grid, known = _grid(self.phi), np.where(self.q <= MAX_Q, self.q, np.nan)
        # at x = 1 the drop of an odd phi is its variance: to rounding, not to the table's error
        ratio = self._at(grid.ratio, 1.0) if self.phi.odd else terms @ grid.variance
        object.__setattr__(self, "variance", known * ratio)

    @property
    def slope(self) -> Floats:
        return np.where(self.q <= MAX_Q, self.basis @ _grid(self.phi).slope, np.nan)

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
        whole = np.where(near == x, slopes, sign * (slopes - square) + square)
        return np.where(self.q <= MAX_Q, whole, np.nan)

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
def _grid(phi: Smooth) -> _Grid:
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
