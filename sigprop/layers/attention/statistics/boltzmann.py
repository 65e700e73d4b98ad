r"""Averages of Boltzmann factors over one Gaussian score, by look-up.

With :math:`g_k(x) = e^{kx - e^x}`, :math:`F_k(u) = E\,g_k(u + sz)` and
:math:`G(u) = E\,e^{-e^{u + sz}}`, one table holds

.. math:: \log(-\log G), \qquad \log\frac{F_1}{G}, \qquad \log\frac{F_2}{G},

which are u, u and 2u at s = 0: Chebyshev series in s, at uniform points of u/(1 + s/3.2), between
which they are taken linear. It was made by
``python -m sigprop.layers.attention.statistics.build_boltzmann``; the measured errors are in the
file (`error`) and in notebooks/accuracy.md.
"""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import basis
from sigprop.core.numerics.shipped import shipped
from sigprop.layers.attention.statistics import coordinates as co

__all__ = ["HOTTEST", "Lines", "errors", "points"]

HOTTEST = 16.0  # score deviation
LOW, HIGH, STEP = -28.0, 12.0, 0.1  # of u/(1 + s/3.2)


def points(s: Floats) -> Floats:
    """Points of u at score deviations, along a new last axis."""
    count = round((HIGH - LOW) / STEP) + 1
    return np.asarray((LOW + STEP * np.arange(count)) * _stretch(s)[..., None])


def _stretch(s: Floats) -> Floats:
    return np.asarray(1 + s / 3.2)


def _data() -> dict[str, Floats]:
    return shipped("sigprop.layers.attention.statistics", "boltzmann.npz")


def errors() -> Floats:
    """Errors of the three logarithms, measured against quadrature when the file was made.

    Returns
    -------
    array, shape (3,)
        The largest at random points where -log G is below 30.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.boltzmann import errors
    >>> bool(errors().max() < 0.01)
    True
    """
    return _data()["error"]


class Lines:
    """The three logarithms along u, at given score deviations.

    Parameters
    ----------
    s : array, shape (N,)
        Score deviations, >= 0; beyond 16 those at 16.
    table : array, optional
        Coefficients, shape (K, N, 3); by default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.boltzmann import Lines
    >>> Lines(np.array([1e-6]))(np.array([[-2.0]])).round(3).ravel().tolist()  # (u, u, 2u)
    [-2.0, -2.0, -4.0]
    """

    def __init__(self, s: Floats, table: Floats | None = None) -> None:
        rows = _data()["table"] if table is None else table
        cold = np.minimum(s, HOTTEST)
        terms = basis(co.from_deviation(cold, 0.0, HOTTEST), len(rows))
        self._count = rows.shape[1]
        # query by query, so the same in any batch: the three lines of each, one after the other
        self._rows = (terms @ rows.swapaxes(1, 2).reshape(len(rows), -1)).ravel()
        self._steps = np.diff(self._rows, append=0.0)
        self._start = 3 * self._count * np.arange(cold.size)
        self._scale = STEP * _stretch(cold)

    def __call__(self, u: Floats, number: int = 3) -> Floats:
        """Look the logarithms up.

        Parameters
        ----------
        u : array, shape (N, ...)
            Points for each score deviation.
        number : int
            How many of the three are asked for.

        Returns
        -------
        array, shape (number, N, ...)
            The logarithms; beyond the table those at its ends.
        """
        along = (-1,) + (1,) * (u.ndim - 1)
        part = u / self._scale.reshape(along)
        part -= LOW / STEP
        np.clip(part, 0.0, self._count - 1.001, out=part)
        index = part.astype(np.intp)
        part -= index
        index += self._start.reshape(along)
        out, first = np.empty((number, *u.shape)), np.empty(u.shape)
        for value, line in zip(out, self._count * np.arange(number), strict=True):
            # "clip" fills without a copy, which "raise" makes
            self._steps[line:].take(index, out=value, mode="clip")
            value *= part
            value += self._rows[line:].take(index, out=first, mode="clip")
        return out
