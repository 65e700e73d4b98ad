"""What attention's map needs to know of the random energy model."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sigprop.state import State

__all__ = ["Rem", "Weights", "reduced_beta"]

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


def reduced_beta(beta: float | Floats, state: State) -> Floats:
    r"""Score standard deviation over :math:`\sqrt{\log T}`: :math:`b = \beta\sqrt{q\,gap}` (E3).

    Parameters
    ----------
    beta : float or array
        Inverse temperature.
    state : State
        The tokens that attention reads.

    Returns
    -------
    array
        The reduced inverse temperature; attention freezes at b = sqrt(2) in the limit.

    Examples
    --------
    >>> from sigprop.rem import reduced_beta
    >>> from sigprop.state import State
    >>> float(reduced_beta(3.0, State(1.0, 0.25)))
    1.5
    """
    return np.asarray(beta * np.sqrt(state.q * state.gap))


class Rem(Protocol):
    """A random energy model as attention's map sees it."""

    def seen(self, beta: float | Floats, state: State) -> Weights:
        """Participation, excess and spread when attention at `beta` reads `state`."""
        ...

    def entropy_ratio(self, b: Floats) -> Floats:
        """Attention entropy over log T, in [0, 1], at b = beta sqrt(q gap)."""
        ...
