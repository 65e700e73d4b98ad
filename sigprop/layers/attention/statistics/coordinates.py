r"""Coordinates in which the finite-context statistics are smooth, and the shape of the table.

The table holds Chebyshev coefficients over (log T, y, v), each mapped to [-1, 1]:

.. math:: y = \frac{s}{s + a}, \qquad v = \frac{\delta}{\delta + b}\Big/\frac{s}{s + b}, \qquad
          \delta = s \sqrt{(1-r)/1.3} .

The singularities of the statistics lie near s = +-2i, which y carries away from the real axis,
and 1/s tails become polynomials at y = 1. v resolves queries closer than one unit of score.
"""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats, Number

__all__ = ["COUNTS", "JOINT", "MAX_BETA", "MAX_CONTEXT", "MIN_CONTEXT", "PARTS"]

MIN_CONTEXT, JOINT, MAX_CONTEXT = 2.0, 2.0**17, 2.0**20  # ends of both parts of the table
PARTS = (MIN_CONTEXT, JOINT), (JOINT, MAX_CONTEXT)
MAX_BETA = 6.0  # of s / sqrt(log T) = beta sqrt(q gap)
MAX_GAP = 1.3  # of 1 - r: below r = -0.3 (T < 5 only) the statistics are singular at r = -1
A, B = 2.5, 3.0
COUNTS = ((28, 6), 56, 34)  # Chebyshev nodes in log T, of both parts, in y and v
COUNTS_1 = ((32, 8), 72)  # of the statistics of one query, in log T and y


def from_context(context: Floats, part: int = 0) -> Floats:
    """Log T on [-1, 1], clipped."""
    low, high = np.log(PARTS[part])
    tau: Floats = 2 * (np.log(np.clip(context, *PARTS[part])) - low) / (high - low) - 1
    return tau


def to_context(tau: Floats, part: int = 0) -> Floats:
    """Inverse of `from_context`."""
    low, high = np.log(PARTS[part])
    context: Floats = np.exp(low + (tau + 1) / 2 * (high - low))
    return context


def _top(context: Floats) -> Floats:
    top: Floats = MAX_BETA * np.sqrt(np.log(context))
    return top / (top + A)


def from_sigma(s: Floats, context: Floats) -> Floats:
    """Score standard deviation on [-1, 1]."""
    return 2 * s / (s + A) / _top(context) - 1


def to_sigma(y: Floats, context: Floats) -> Floats:
    """Inverse of `from_sigma`."""
    y = (y + 1) / 2 * _top(context)
    return A * y / (1 - y)


def from_deviation(s: Floats, low: Number, high: Number) -> Floats:
    """Score standard deviation, clipped to a range, on [-1, 1]."""
    start, stop = low / (low + A), high / (high + A)
    y = np.minimum(np.maximum(s, low), high)
    return np.asarray(2 * (y / (y + A) - start) / (stop - start) - 1)


def to_deviation(y: Floats, low: Number, high: Number) -> Floats:
    """Inverse of `from_deviation`."""
    start, stop = low / (low + A), high / (high + A)
    y = start + (y + 1) / 2 * (stop - start)
    return np.asarray(A * y / (1 - y))


def bend(s: Floats) -> Floats:
    """Divide out of a logarithm that vanishes with s: s^2/(1 + s^2)."""
    return np.asarray(s**2 / (1 + s**2))


def from_gap(gap: Floats, s: Number) -> Floats:
    """1 - r on [-1, 1], given s."""
    root = np.sqrt(gap / MAX_GAP)
    return 2 * root * (s + B) / (s * root + B) - 1


def gap_rate(gap: Floats, s: Floats) -> Floats:
    """Gap times the derivative of `from_gap` in it."""
    root = np.sqrt(gap / MAX_GAP)
    return root * B * (s + B) / (s * root + B) ** 2


def to_gap(v: Floats, s: Number) -> Floats:
    """Inverse of `from_gap`: 1 - r."""
    v = (v + 1) / 2
    root = v * B / (s * (1 - v) + B)
    return root**2 * MAX_GAP
