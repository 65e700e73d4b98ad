"""Batches of piecewise cubics on equal cells of [0, 1]: many points, few lines, fast look-up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import nodes

__all__ = ["Cells"]


class Cells:
    """Piecewise cubic interpolant of one function a line; a point costs four look-ups.

    Parameters
    ----------
    function : callable
        From positions in [0, 1], shape (n, 1, ...), to values of shape (n, *lines).
    lines : tuple of int
        Shape of the lines, which broadcasts with the points.
    tolerance : float
        Largest error at the middle of a cell; cells are halved until it is met.
    start, stop : int
        First and largest number of cells.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.piecewise import Cells
    >>> cells = Cells(np.exp, (), 1e-9)
    >>> bool(abs(cells(np.array(0.3)) - np.exp(0.3)) < 1e-9)
    True
    """

    def __init__(
        self,
        function: Callable[[Floats], Floats],
        lines: tuple[int, ...],
        tolerance: float,
        start: int = 64,
        stop: int = 4096,
    ) -> None:
        self.count = start
        while True:
            self._table = self._fit(function, lines)
            self._offset = self.count * np.arange(int(np.prod(lines))).reshape(lines)
            middle = (np.arange(self.count) + 0.5) / self.count
            middle = middle.reshape((-1,) + (1,) * len(lines))
            error = float(np.abs(self(middle) - function(middle)).max())
            if error <= tolerance or self.count >= stop:
                return
            self.count *= 2

    def _fit(self, function: Callable[[Floats], Floats], lines: tuple[int, ...]) -> Floats:
        """Coefficients of 1, t, t^2, t^3 on each cell, from four Chebyshev nodes in it."""
        t = (nodes(4) + 1) / 2
        places = (np.arange(self.count)[:, None] + t) / self.count
        values = function(places.reshape((-1,) + (1,) * len(lines))).reshape(self.count, 4, -1)
        inverse = np.linalg.inv(np.vander(t, increasing=True))
        return np.ascontiguousarray(np.einsum("kj,cjl->klc", inverse, values).reshape(4, -1))

    def __call__(self, y: Floats) -> Floats:
        """Values at positions y in [0, 1]."""
        place = y * self.count
        cell = np.minimum(place.astype(np.intp), self.count - 1)
        place = place - cell
        cell = cell + self._offset
        c0, c1, c2, c3 = self._table
        out: Floats = c3.take(cell, mode="clip")  # a NaN, which has no cell, stays NaN
        for coefficient in (c2, c1, c0):
            out = out * place
            out += coefficient.take(cell, mode="clip")
        return out
