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
        self._table = _data()["table"] if table is None else table
        cold = np.minimum(s, HOTTEST)
        self._terms = basis(co.from_deviation(cold, 0.0, HOTTEST), len(self._table))
        self._scale = STEP * _stretch(cold)
        self._first = self._rows(0, 0, self._table.shape[1])

    def _rows(self, line: int, first: int, stop: int) -> tuple[Floats, Floats]:
        """Values of a line at some points of the table, and steps between them, of N deviations.

        The last step of each is not to be asked for.
        """
        rows = self._terms @ self._table[:, first:stop, line]
        steps = np.empty_like(rows)
        np.subtract(rows[:, 1:], rows[:, :-1], out=steps[:, :-1])
        return rows, steps

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
        each = np.arange(len(u)).reshape((-1,) + (1,) * (u.ndim - 1))
        part, count = u / self._scale.reshape(each.shape), self._table.shape[1]
        part -= LOW / STEP
        np.clip(part, 0.0, count - 1.001, out=part)
        index = part.astype(np.intp)
        part -= index
        first, stop = int(index.min()), int(index.max()) + 2
        out, start = np.empty((number, *u.shape)), np.empty(u.shape)
        index += count * each  # in the first line, which is known in whole
        for line, value in enumerate(out):
            rows, steps = self._rows(line, first, stop) if line else self._first
            if line == 1:  # in that part of the others
                index -= first + (count - stop + first) * each
            # "clip" fills without a copy, which "raise" makes
            steps.take(index, out=value, mode="clip")
            value *= part
            value += rows.take(index, out=start, mode="clip")
        return out
