r"""Variances over the disorder of participation and entropy, with relative accuracy (E7b).

Differences of averages lose their digits where attention is almost uniform or the context is long.
There both sums are those of many small independent parts: with :math:`a = s^2` and weights
:math:`w = e^{sz}`, to first order in 1/T,

.. math:: \mathrm{var}\,Y \to \frac{Y_2^2}{T}\,\mathrm{var}\Big(\frac{w^2}{E w^2}
          - \frac{2 w}{E w}\Big) = \frac{Y_2^2}{T} \sum_{n \ge 2} \frac{(2^n - 2)^2 a^n}{n!}, \qquad
          \mathrm{var}\,H \to \frac1T \sum_{n \ge 2} \frac{(n - 1)^2 a^n}{n!}

and times 1 - 1/T both are exact as s vanishes, at any T.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.layers.attention.statistics.moments import checked, moments
from sigprop.layers.attention.statistics.quadrature import averages, log_grid, survival

__all__ = ["entropy_variance", "participation_variance"]

EPSILON = 0.02  # of k, for the mixed derivative: error EPSILON^2, rounding 1e-10
FEW = 1e-8  # relative variance of Y below which the law takes the place of the difference
SMALL = 1e-6  # variance of H below which it does
TERMS, LAST = 100, 10.0  # of the series, which is not needed at larger s^2


@validated
def participation_variance(sigma: ArrayLike, context: ArrayLike) -> Floats:
    r"""Variance over the disorder of the participation ratio of one query, :math:`Y_{22} - Y_2^2`.

    Parameters
    ----------
    sigma, context : array_like
        As in `sigprop.layers.attention.statistics.moments`.

    Returns
    -------
    array
        The variance, in [0, 1]; relative accuracy 1e-3 where it is small, else 1e-4 or better.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Notes
    -----
    theory.md E6, E7, E7b.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import participation_variance
    >>> float(round(participation_variance(1e-5, 4) / 1e-20 / (2 * 3 / 4**4), 6))  # 2 s^4 (T-1)/T^4
    1.0
    """
    s, t = checked(sigma, context)
    known = moments(s, t)
    law = _law(s, t, lambda n: np.square(2.0**n - 2))
    difference = np.maximum(known.y22 - known.y2**2, 0.0)
    return np.where(law < FEW, law * known.y2**2, difference)


@validated
def entropy_variance(sigma: ArrayLike, context: ArrayLike) -> Floats:
    r"""Variance over the disorder of the entropy of one query.

    The entropy is a derivative in k of :math:`\sum A^k` at one, so its square is a mixed derivative
    of :math:`E \sum A^k \sum A^l = \frac{T}{\Gamma(k+l)} \int [F_{k+l} G^{T-1} + (T-1) F_k F_l
    G^{T-2}] du`.

    Parameters
    ----------
    sigma, context : array_like
        As in `sigprop.layers.attention.statistics.moments`.

    Returns
    -------
    array
        Variance in nats squared; absolute accuracy 1e-3 of the squared entropy's scale, relative
        accuracy 0.02 where it is below 1e-6.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Notes
    -----
    theory.md E6-E8, E7b.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import entropy_variance
    >>> bool(0.5 < entropy_variance(3.3, 256) < 0.6)
    True
    """
    s, t = checked(sigma, context)
    law = _law(s, t, lambda n: np.square(n - 1))
    out = np.array(law)
    warm = law >= SMALL
    out[warm] = np.vectorize(_entropy_variance, otypes=[float])(s[warm], t[warm])
    return out


def _law(s: Floats, t: Floats, coefficient: Callable[[Floats], Floats]) -> Floats:
    """Sum of c_n s^(2n)/n! over n >= 2, times (1 - 1/T)/T."""
    n = np.arange(2.0, TERMS)
    scale = coefficient(n) / np.cumprod(n)
    power = np.minimum(s**2, LAST)[..., None] ** n
    return np.asarray(power @ scale * (1 - 1 / t) / t)


def _entropy_variance(s: float, t: float) -> float:
    """Subtract the squared mean inside the same difference, so that its error cancels."""
    from scipy.special import gamma

    up, down = 1 + EPSILON, 1 - EPSILON
    one = np.array([s])
    grid = log_grid(one, np.array([t]))
    smooth, complement = averages(grid, one, (up, down, 2 * up, 2.0, 2 * down))
    rest, two = (survival(complement, t - n) for n in (1, 2))
    f = dict(zip((up, down, 2 * up, 2.0, 2 * down), np.moveaxis(smooth[0], -1, 0), strict=True))

    def mean(*k: float) -> float:
        both = f[k[0]] * rest[0] if len(k) == 1 else _both(k)
        return float(t * grid.step[0] / gamma(sum(k)) * np.sum(both))

    def _both(k: tuple[float, ...]) -> Floats:
        total = 2.0 if k[0] != k[1] else k[0] + k[1]
        return np.asarray(f[total] * rest[0] + (t - 1) * f[k[0]] * f[k[1]] * two[0])

    square = mean(up, up) - 2 * mean(up, down) + mean(down, down)
    return max((square - (mean(up) - mean(down)) ** 2) / (4 * EPSILON**2), 0.0)
