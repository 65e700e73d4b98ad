r"""What rounding does to a token kernel, and the nearest kernel that it can come from.

Everything here is about cosines C, whose diagonal is one: variances stay as they are. Rounding to
the digits that are left makes errors :math:`|E_{ts}| \le h_{ts}` (`explained`). If C came from some
kernel Z so, the nearest kernel X (Frobenius norm) satisfies
:math:`\langle X - C, Z - X\rangle \ge 0`, since kernels form a convex set, and therefore

.. math:: \sum_{ts} (X - C)_{ts}^2 \le \sum_{ts} |X - C|_{ts} h_{ts} .

What violates this is not the rounding of any kernel. X is found by Newton's method on the dual
(Qi & Sun, SIAM J. Matrix Anal. Appl. 28, 2006, 360): the positive part of :math:`C + \mathrm{diag}
(y)` with y such that its diagonal is one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats

__all__ = ["DOUBLE", "Nearest", "Rounding", "explained", "nearest"]

DOUBLE = 1e-8  # error of a cosine that formulas with angles leave in double precision, sqrt(eps)
EXACT = 2.0**-53  # relative rounding error of a number in double precision
SINGLE = 2.0**-24  # relative rounding error of one operation in single precision
FORMATS = {8: "bfloat16", 11: "half precision", 24: "single precision"}  # by bits of a number
TYPED_BITS, TYPED_DIGITS = 4, 1  # numbers as short as this are exact, like 0.5
UNSEEN = 0.1  # of a unit: what the format is off by must be less for digits to be seen
DIGITS = 8  # beyond, decimals are those of double precision
ROUNDS, STEPS = 30, 40  # of Newton's method, and of the conjugate gradients in it
SETTLED = 0.02  # error of the diagonal at which it ends, in units of what rounding explains


class Rounding(NamedTuple):
    """Errors that the digits of a kernel leave possible.

    Attributes
    ----------
    bound : array, shape (T, T)
        Largest error of each cosine.
    words : str
        Which digits these are.
    """

    bound: Floats
    words: str


class Nearest(NamedTuple):
    """Nearest kernel of unit diagonal.

    Attributes
    ----------
    cosines : array, shape (T, T)
        Positive semidefinite.
    excess : float
        Sum of its squared distances over what rounding explains of it; above one nothing that is
        rounded gives what was given.
    """

    cosines: Floats
    excess: float


def explained(kernel: Floats, exact: bool = False) -> Rounding:
    r"""Largest errors of the cosines of a kernel that its digits leave possible.

    A number that is a multiple of :math:`10^{-k}` is off by half of it; one of p binary digits, and
    a Gram matrix summed in single precision, by :math:`2^{1-p} + 2^{-24}\sqrt{T}` of the standard
    deviations (Higham & Mary, SIAM J. Sci. Comput. 41, 2019, A2815, for T summands); any, by
    `DOUBLE`. Digits are read off the numbers: float32 that was stored as float64 is recognised. A
    single decimal digit is no measurement: such numbers are exact.

    Parameters
    ----------
    kernel : array, shape (T, T)
        Symmetric, of positive diagonal.
    exact : bool
        The numbers were integers: nothing was rounded.

    Returns
    -------
    Rounding
        Bounds and their origin.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.kernel_rounding import explained
    >>> found = explained(np.array([[1, 0.123], [0.123, 1]]))
    >>> found.words, round(float(found.bound[0, 1]), 6)
    ('3 decimals', 0.0005)
    """
    bits = 1 if exact else _bits(kernel)
    width = next((p for p in FORMATS if TYPED_BITS < bits <= p), None)
    binary = DOUBLE if width is None else 2.0 ** (1 - width) + SINGLE * np.sqrt(len(kernel))
    found = [(np.full_like(kernel, binary), FORMATS.get(width or 0, "double precision"))]
    if bits > TYPED_BITS:
        halves = _decimal(np.abs(kernel), EXACT if width is None else 2.0**-width)
        found += [(_of_cosines(half, kernel) + binary, words) for half, words in halves]
    for bound, _ in found:
        np.fill_diagonal(bound, 0.0)
    return Rounding(*max(found, key=lambda pair: round(float(pair[0].mean()), 12)))


def _of_cosines(half: Floats, kernel: Floats) -> Floats:
    """Errors of cosines, to first order, from those of a kernel; a diagonal of ones is exact."""
    variance = np.diagonal(kernel)
    scale = np.sqrt(variance)
    own = np.diagonal(half) / variance * (not np.all(variance == 1))
    return np.asarray(half / scale[:, None] / scale + np.add.outer(own, own) / 2)


def _bits(kernel: Floats) -> int:
    """Binary digits of the longest number."""
    mantissa = np.ldexp(np.abs(np.frexp(kernel)[0]), 53).astype(np.int64)
    lowest = mantissa & -mantissa
    return 53 - int(np.log2(np.min(lowest, initial=2**53, where=mantissa > 0)))


def _decimal(size: Floats, error: float) -> list[tuple[Floats, str]]:
    """Half a unit of the last digit of every number: of equally many decimals, or digits."""
    unit_diagonal = bool(np.all(np.diagonal(size) == 1))
    below = 1 - 1e-9 * unit_diagonal  # no cosine exceeds one, so that 1.0 was rounded up
    each = np.floor(np.log10(size * below, where=size > 0, out=np.full_like(size, -np.inf)))
    found = []
    for first, name in ((np.full_like(size, each.max()), "decimals"), (each, "digits")):
        for digits in range(1, DIGITS + 1):
            unit = 10.0 ** (first - digits + 1)
            if _multiples(size, unit, EXACT) or _multiples(size, unit, error):
                number = digits - 1 - int(first.max()) if name == "decimals" else digits
                found += [(unit / 2, f"{number} {name}")] if digits > TYPED_DIGITS else []
                break
    return found


def _multiples(size: Floats, unit: Floats, error: float) -> bool:
    """Whether all numbers are multiples of their unit, stored with a relative error of each."""
    ratio = np.divide(size, unit, where=unit > 0, out=np.zeros_like(size))
    off, allowed = np.abs(ratio - np.rint(ratio)), 4 * error * ratio
    return bool(np.all(off <= allowed)) and float(allowed.max()) < UNSEEN


def nearest(cosines: Floats, rounding: Rounding) -> Nearest:
    """Nearest kernel of unit diagonal, and whether rounding explains the distance.

    Parameters
    ----------
    cosines : array, shape (T, T)
        Symmetric, with ones on the diagonal.
    rounding : Rounding
        What rounding explains.

    Returns
    -------
    Nearest
        The kernel; where the negative part alone is beyond rounding, that of a first step.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.kernel_rounding import explained, nearest
    >>> wrong = np.array([[1, 1.02], [1.02, 1]])
    >>> nearest(wrong, explained(wrong)).excess > 1
    True
    """
    shift = np.zeros(len(cosines))
    tolerance = SETTLED * float(np.sqrt(np.mean(rounding.bound**2)))
    for step in range(ROUNDS):
        values, vectors = np.linalg.eigh(cosines + np.diag(shift))
        positive = (vectors * np.maximum(values, 0)) @ vectors.T
        lacking = 1 - np.diagonal(positive)
        if np.abs(lacking).max() <= tolerance:
            break
        if step == 0 and (excess := _excess(positive - cosines, rounding)) > 1:
            return Nearest(_unit(positive), excess)  # <N, Z> >= 0 for the part N of <N, C> = -|N|^2
        shift = shift + _newton(values, vectors, lacking)
    found = _unit(positive)
    return Nearest(found, _excess(found - cosines, rounding))


def _unit(positive: Floats) -> Floats:
    """Cosines of a positive semidefinite matrix."""
    root = 1 / np.sqrt(np.diagonal(positive))
    found = np.clip((positive + positive.T) / 2 * np.outer(root, root), -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def _excess(move: Floats, rounding: Rounding) -> float:
    """Sum of squares of a move over that of its products with the bounds."""
    square = float(np.vdot(move, move))
    return square / max(float(np.vdot(np.abs(move), rounding.bound)), 1e-300)


def _newton(values: Floats, vectors: Floats, lacking: Floats) -> Floats:
    """Shift of the diagonal that supplies what it lacks, to first order in it.

    The positive part changes by P (W o P^T diag(h) P) P^T, W one between positive eigenvalues and
    a/(a + |b|) between a > 0 and b <= 0; solved by conjugate gradients.
    """
    up = values > 0
    above, below = vectors[:, up], vectors[:, ~up]
    share = values[up][:, None] / (values[up][:, None] - values[~up] + 1e-300)

    def slope(h: Floats) -> Floats:
        within = above @ (above.T @ (h[:, None] * above))
        between = above @ (share * (above.T @ (h[:, None] * below)))
        whole = np.einsum("ij,ij->i", within, above) + 2 * np.einsum("ij,ij->i", between, below)
        return np.asarray(whole + 1e-12 * h)

    step, rest = np.zeros_like(lacking), lacking.copy()
    way, square = rest.copy(), float(rest @ rest)
    start = square
    for _ in range(STEPS):
        ahead = slope(way)
        length = square / float(way @ ahead)
        step, rest = step + length * way, rest - length * ahead
        square, before = float(rest @ rest), square
        if square <= 1e-6 * start:
            break
        way = rest + square / before * way
    return step
