r"""Gaussian averages of Boltzmann factors on a uniform logarithmic grid.

With :math:`\lambda = e^u` and :math:`w = e^{sz}` every integrand of theory E6-E9 is built from

.. math:: F_k(u) = E\,g_k(u + s z), \quad g_k(x) = e^{kx - e^x}, \qquad
          C(u) = 1 - G(u) = E\,[1 - \exp(-e^{u + s z})],

all of them positive, so that sums lose no digits, and analytic in the strip
:math:`|\operatorname{Im} u| < \pi/2`, so that the trapezoid rule with step :math:`h` errs by
:math:`e^{-\pi^2/h}` times a power of 1/h: measured at :math:`h = 0.24`, 2e-15 of :math:`Y_2` and
2e-14 of :math:`Y_4` (Trefethen & Weideman, SIAM Review 56, 2014).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sigprop.core.arrays import Floats, Number

__all__ = ["Grid", "averages", "gaussian_nodes", "log_grid", "survival"]


STEP = 0.24  # of u and of x: trapezoid error 2e-15 of Y_2, 2e-14 of Y_4
NARROW = 0.5  # below this s the average runs over z, above it over x = u + s z
LEVELS = np.arange(-72.0, 4.3, STEP)  # x: g_1(-72) = 5e-32, g_4(4.2) = 1e-22
Z_COUNT = 20  # Gauss-Hermite: error 1e-15 for functions analytic in |Im z| < pi (s < NARROW)
TAIL = 33.0  # -log of the weight that is dropped: 5e-15


class Grid(NamedTuple):
    """Uniform grids `start + step * arange(size)`, one for each element of `start`.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.quadrature import Grid
    >>> Grid(np.array(1.0), np.array(0.5), 3).points.tolist()
    [1.0, 1.5, 2.0]
    """

    start: Floats
    step: Floats
    size: int

    @property
    def points(self) -> Floats:
        """All points, along a new last axis."""
        return self.start[..., None] + self.step[..., None] * np.arange(self.size)


def log_grid(s: Floats, context: Floats) -> Grid:
    """Grid of u = log(lambda) that holds all but 5e-15 of every integrand of E6-E9.

    The integrands live where u + log Z is of order one, on the left with a tail e^u; log Z lies
    between s times the lower quantile of the largest of T normals and log T + s^2/2 or, frozen,
    s times the upper quantile. The step grows with the scale s/sqrt(2 log T) on which G^T varies.

    Parameters
    ----------
    s, context : array, shape (P,)
        Standard deviations of the scores and context lengths.

    Returns
    -------
    Grid
        One line of points for each pair.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.quadrature import log_grid
    >>> bool(log_grid(np.array([1.0]), np.array([512.0])).points[0, 0] < -33)
    True
    """
    from scipy.special import ndtri

    log_t = np.log(context)
    top = np.sqrt(2 * (log_t + TAIL))
    high = np.maximum(log_t + np.minimum(s**2 / 2, s * np.sqrt(2 * log_t)), s * top)
    low = s * ndtri(np.exp(-TAIL / context))
    step = STEP * np.maximum(1.0, s / np.sqrt(2 * log_t + 20))
    start, stop = -high - TAIL, 5.0 - low
    return Grid(start, step, int(np.ceil(np.max((stop - start) / step))) + 1)


def survival(complement: Floats, power: Number) -> Floats:
    """(1 - complement)**power without cancellation; the last ulp below one stands for one.

    Parameters
    ----------
    complement : array
        One minus the base, in [0, 1].
    power : float or array
        Exponent.

    Returns
    -------
    array
        The power.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.quadrature import survival
    >>> float(survival(np.array(0.5), 2.0).round(12))
    0.25
    """
    return np.exp(power * np.log1p(-np.minimum(complement, 1 - 2.0**-53)))


@cache
def gaussian_nodes() -> tuple[Floats, Floats]:
    """Gauss-Hermite nodes and weights for E_z at widths below `NARROW`.

    Returns
    -------
    nodes, weights : arrays
        Standard normal quadrature.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.quadrature import gaussian_nodes
    >>> nodes, weights = gaussian_nodes()
    >>> round(float(weights @ nodes**2), 12)
    1.0
    """
    z, weight = np.polynomial.hermite_e.hermegauss(Z_COUNT)
    return z, weight / np.sqrt(2 * np.pi)


def _boltzmann(x: Floats, kinds: tuple[float, ...]) -> list[Floats]:
    """g_k(x) for each k of `kinds`; k = 0 stands for x g_1(x), the derivative in k at one."""
    x = np.minimum(x, 6.0)  # g_k(6) < 1e-160, and exp must not overflow
    w = np.exp(x)
    return [(x if k == 0 else 1.0) * np.exp((k or 1) * x - w) for k in kinds]


def averages(grid: Grid, s: Floats, kinds: tuple[float, ...]) -> tuple[Floats, Floats]:
    """F_k for each k of `kinds`, stacked on the last axis, and C, at every point of `grid`.

    Parameters
    ----------
    grid : Grid
        Grids of u, start of shape (P, ...).
    s : array, shape (P,)
        Standard deviations, all below or all from `NARROW`.
    kinds : tuple of float
        Exponents k; 0 stands for the average of x g_1(x).

    Returns
    -------
    smooth : array, shape (P, ..., size, K)
        F_k at every point.
    complement : array, shape (P, ..., size)
        C at every point.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.quadrature import averages, log_grid
    >>> s = np.array([1.0])
    >>> smooth, complement = averages(log_grid(s, np.array([512.0])), s, (2, 3))
    >>> smooth.shape == (*complement.shape, 2)
    True
    """
    s = s.reshape(s.shape + (1,) * (grid.start.ndim - s.ndim))
    return (_average_z if np.all(s < NARROW) else _average_x)(grid, s, kinds)


def _average_z(grid: Grid, s: Floats, kinds: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Average over z: for widths so small that g_k varies little."""
    z, weight = gaussian_nodes()
    x = grid.points[..., None] + s[..., None, None] * z
    smooth = [g @ weight for g in _boltzmann(x, kinds)]
    return np.stack(smooth, axis=-1), -np.expm1(-np.exp(np.minimum(x, 6.0))) @ weight


def _average_x(grid: Grid, s: Floats, kinds: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Average over x = u + s z on the fixed window where g_k lives.

    C follows from 1 - exp(-e^x) = int_{-inf}^x g_1, so C(u) = int g_1(x) Phi((u - x)/s) dx.
    Both kernels depend on u - x alone, of which there are few where u and x have one step.
    """
    from scipy.special import ndtr

    wide, weights = s[..., None], STEP * np.stack(_boltzmann(LEVELS, kinds), axis=-1)
    ones, even = STEP * _boltzmann(LEVELS, (1,))[0], bool(np.all(grid.step == STEP))
    if even:
        apart = np.arange(1 - LEVELS.size, grid.size)
        z = (grid.start[..., None] - LEVELS[0] + STEP * apart) / wide
    else:
        z = (grid.points[..., None] - LEVELS) / wide[..., None]
    kernel, below = np.exp(-(z**2) / 2), ndtr(z)
    if even:
        kernel, below = (
            sliding_window_view(part, LEVELS.size, axis=-1)[..., ::-1] for part in (kernel, below)
        )
    return kernel @ weights / (np.sqrt(2 * np.pi) * wide[..., None]), below @ ones
