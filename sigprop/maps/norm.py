"""LayerNorm and RMSNorm (E14)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sigprop.arrays import Number
from sigprop.state import State, scaled

__all__ = ["Norm"]


@dataclass(frozen=True)
class Norm:
    r"""LayerNorm or RMSNorm with gain: :math:`q' = \gamma^2`, :math:`gap' = \gamma^2 gap/q` (E14).

    In wide networks of zero-mean features the two norms act alike; their epsilon is neglected
    (relative size epsilon/q).

    Parameters
    ----------
    gain : float or array
        Gain gamma, > 0.

    Notes
    -----
    theory.md E14. A state of zero variance stays so: the caller reports it as undefined.

    Examples
    --------
    >>> from sigprop.maps.norm import Norm
    >>> from sigprop.state import State
    >>> Norm(1.0)(State(4.0, 1.0)).gap
    0.25
    """

    gain: Number = 1.0

    def __call__(self, state: State) -> State:
        """Apply the map."""
        square = self.gain * self.gain
        if np.ndim(state.q) == 0:
            return State(square, state.gap * float(np.divide(square, state.q)))
        return State(square, scaled(state.gap / state.q, square))
