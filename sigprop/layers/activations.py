r"""Dual activations: averages of an activation over two correlated Gaussians (E15-E17).

For preactivations of variance q and covariance q - gap,
:math:`\Phi(q, gap) = E\,\phi(u_1)\phi(u_2)`. Every dual gives :math:`\Phi(q, 0)`, the drop
:math:`\Phi(q, 0) - \Phi(q, gap)` without cancellation, and the slopes :math:`E\phi'^2` and
:math:`E\,\phi'(u_1)\phi'(u_2) = -\partial\Phi/\partial gap` (Price's theorem).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.errors import DomainError
from sigprop.layers.activations_smooth import SILU, TANH, silu
from sigprop.layers.state import multiplied

__all__ = ["Activation", "Dual", "activation"]

SMALL_ANGLE = 2e-3  # below it sin t - t cos t is a series; above, it errs by 1e-13 of the drop


class Dual(Protocol):
    """An activation's averages at one preactivation variance q (an array).

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.activations import Dual, activation
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


@dataclass(frozen=True)
class Activation:
    """An activation: the function, and its averages over Gaussian preactivations.

    Parameters
    ----------
    name : str
        Its name.
    dual : callable
        From a preactivation variance (array) to a `Dual`.
    function : callable
        From preactivations to activations.
    homogeneous : bool
        Whether phi(a x) = a phi(x) for a > 0.

    Examples
    --------
    >>> from sigprop.layers.activations import activation
    >>> activation("relu").homogeneous
    True
    """

    name: str
    dual: Callable[[Floats], Dual]
    function: Callable[[Floats], Floats]
    homogeneous: bool = False

    def __call__(self, q: Number) -> Dual:
        """Averages at a preactivation variance."""
        return self.dual(np.asarray(q, dtype=np.float64))


def _gelu(x: Floats) -> Floats:
    from scipy.special import ndtr

    return np.asarray(x * ndtr(x))


def _erf(x: Floats) -> Floats:
    from scipy.special import erf

    return np.asarray(erf(x))


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0.0)


_KNOWN = {
    known.name: known
    for known in (
        Activation("relu", Relu, _relu, homogeneous=True),
        Activation("gelu", Gelu, _gelu),
        Activation("erf", Erf, _erf),
        Activation("linear", Linear, lambda x: x, homogeneous=True),
        Activation("tanh", TANH, np.tanh),
        Activation("silu", SILU, silu),
    )
}


def activation(name: str) -> Activation:
    """Activation by name.

    Parameters
    ----------
    name : {"relu", "gelu", "tanh", "erf", "silu", "linear"}
        The activation.

    Returns
    -------
    Activation
        Function and averages.

    Raises
    ------
    DomainError
        If the name is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.activations import activation
    >>> float(activation("erf")(np.array(0.5)).drop(np.array(0.0)))
    0.0
    >>> activation("relu").function(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    if name not in _KNOWN:
        raise DomainError("activation", name, "one of " + ", ".join(_KNOWN))
    return _KNOWN[name]
