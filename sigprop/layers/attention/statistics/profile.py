"""Attention statistics along the one line that attention follows behind a norm."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arrays import Floats, Number
from sigprop.core.numerics.chebyshev import Series, fit
from sigprop.core.numerics.piecewise import Cells
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics.interface import Passed, Source, Weights, opposed
from sigprop.layers.attention.statistics.table import Finite
from sigprop.layers.state import State, multiplied

__all__ = ["Profile", "along_line"]

PROFILE_COST = 256  # states for which one profile pays
PROFILE_ERROR = 1e-7  # absolute, of excess and spread
FLAT = 1e-5  # score standard deviation below which attention is uniform to 1e-10


class Profile(Source):
    r"""Statistics along the line b = B sqrt(x) that attention follows behind a norm.

    There q is constant, so at each inverse temperature everything depends on x = gap/q alone. Each
    statistic over its value at small s becomes a Chebyshev series in s/(s + a), and that a
    piecewise cubic, to an absolute error of 1e-7 in excess and spread beside the table's own. This
    is what makes a grid of many states at few temperatures fast.

    Parameters
    ----------
    rem : Finite
        Statistics to follow.
    top : array_like
        B = beta q, the reduced inverse temperature at x = 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics import Finite, Profile
    >>> rem, x = Finite(512), np.array(0.3)
    >>> exact, fast = rem.weights(2.0 * np.sqrt(x), x), Profile(rem, 2.0).weights(x)
    >>> bool(abs(exact.spread - fast.spread) < 1e-8)
    True
    """

    def __init__(self, rem: Finite, top: ArrayLike) -> None:
        self.rem, self.even, context = rem, rem.even, rem.context
        self.context, self.head_width = context, rem.head_width
        self._root = np.sqrt(np.log(context))
        self._top = np.asarray(top, dtype=np.float64) * self._root
        self._line = np.maximum(self._top, FLAT)
        self._end = self._line / np.sqrt(1 - 1 / context)  # at the largest x, 1 + 1/(T-1)
        self._unit = (1 - 1 / context) / context
        lines = np.shape(self._end)
        tolerance = PROFILE_ERROR * float(np.min(1 / np.maximum(self._end**2 * self._unit, 1e-2)))
        series = fit(self._at_nodes, tolerance, start=32)
        rest, fall = (Series(np.ascontiguousarray(series.coefficients[:, i])) for i in (0, 1))
        self._rest = Cells(lambda y: rest(2 * y - 1), lines, tolerance)
        self._fall = Cells(lambda y: fall(2 * y - 1), lines, tolerance)

    def _at_nodes(self, t: Floats) -> Floats:
        t = t.reshape((-1,) + (1,) * np.ndim(self._end))
        y = (t + 1) / 2 * self._end / (self._end + co.A)
        s = co.A * y / (1 - y)
        x = (s / self._line) ** 2
        weights = self.rem.weights(s / self._root, x)
        unit = s**2 * self._unit
        return np.stack([weights.excess / unit, weights.spread / (unit * x)], axis=1)

    def passed(self, beta: Number, state: State) -> Passed:
        """Parts of the gap that attention at `beta` passes when it reads `state`.

        Parameters
        ----------
        beta : float or array
            Inverse temperature; ignored, the profile has its own.
        state : State
            The tokens that attention reads.

        Returns
        -------
        Passed
            Arrays of the broadcast shape.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Finite, Profile
        >>> from sigprop.layers.state import State
        >>> float(Profile(Finite(512), 1.0).passed(1.0, State(1.0, 0.0)).spread)
        0.0
        """
        excess, spread = self._parts(state.gap / state.q)
        return Passed(multiplied(excess, state.gap), multiplied(spread, state.gap))

    def weights(self, x: Number) -> Weights:
        """Participation, excess and spread at x.

        Parameters
        ----------
        x : float or array
            gap/q = 1 - r, r the correlation of the scores of two queries.

        Returns
        -------
        Weights
            Arrays of the broadcast shape.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Finite, Profile
        >>> float(Profile(Finite(512), 1.0).weights(0.0).spread)
        0.0
        """
        excess, spread = self._parts(x)
        return Weights(self.even + excess, excess, spread)

    def _parts(self, x: Number) -> tuple[Number, Number]:
        """Excess and spread at x."""
        s = self._top * np.sqrt(x)
        y = s / (s + co.A)
        y *= (self._end + co.A) / self._end
        unit = (self._top**2 * self._unit) * x
        fall = self._fall(y)
        fall *= unit
        fall *= x
        unit *= self._rest(y)
        return unit, opposed(unit, fall, x)

    def entropy_ratio(self, b: Number, x: Number | None = None) -> Floats:
        """Attention entropy over log T.

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.

        Returns
        -------
        array
            The ratio, in [0, 1].

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Finite, Profile
        >>> float(Profile(Finite(512), 1.0).entropy_ratio(0.0))
        1.0
        """
        return self.rem.entropy_ratio(b)


def along_line(rem: Any, top: Number, states: int) -> Any:
    """Statistics behind a norm: a profile where that is cheaper than the full table.

    Parameters
    ----------
    rem : Statistics
        The statistics; others than `Finite` have no profile.
    top : float or array
        B = beta q, one for each line.
    states : int
        How many states will be looked up; beyond the table the states of one line share its
        quadratures.

    Returns
    -------
    Statistics or Profile
        The cheaper of the two.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.profile import along_line
    >>> from sigprop.layers.attention.statistics import Finite
    >>> type(along_line(Finite(512), 1.0, 10)).__name__
    'Finite'
    """
    if not isinstance(rem, Finite):
        return rem
    lines = np.broadcast(top, rem.context).size
    if lines == 1 and np.all(rem.context > co.MAX_CONTEXT):
        return _line(float(rem.context.item()), rem.head_width, float(np.asarray(top).item()))
    return Profile(rem, top) if states > PROFILE_COST * lines else rem


@lru_cache(64)
def _line(context: float, head_width: float | None, top: float) -> Profile:
    """Profile of one line, kept: it takes seconds to fit beyond the table."""
    return Profile(Finite(context, head_width), top)
