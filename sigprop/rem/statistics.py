"""What attention's map needs to know of the random energy model."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rem", "Weights"]

Floats = NDArray[np.float64]


class Weights(NamedTuple):
    r"""Second-order statistics of attention weights.

    Attributes
    ----------
    y2 : array
        Participation ratio :math:`Y_2`.
    excess : array
        :math:`Y_2 - 1/T`, kept apart so that it has relative accuracy (E11).
    spread : array
        :math:`Y_2 - O`, kept apart so that it has relative accuracy (E10).

    Examples
    --------
    >>> from sigprop.rem import Weights
    >>> Weights(0.5, 0.25, 0.125).spread
    0.125
    """

    y2: Floats
    excess: Floats
    spread: Floats


class Rem(Protocol):
    """A random energy model: statistics at b = beta sqrt(q gap) and x = gap/q = 1 - r."""

    def weights(self, b: Floats, x: Floats) -> Weights:
        """Participation, excess and spread."""
        ...

    def entropy_ratio(self, b: Floats) -> Floats:
        """Attention entropy over log T, in [0, 1]."""
        ...
