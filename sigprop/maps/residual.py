"""Skip connections (E13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sigprop.arrays import Number
from sigprop.state import State, added

__all__ = ["Residual"]


@dataclass(frozen=True)
class Residual:
    r"""Skip branch of strength alpha around branches that are independent at initialisation.

    :math:`q' = \alpha^2 q + \sum_b f_b(q)`, and the same for the gap (E13).

    Parameters
    ----------
    alpha : float or array
        Residual strength, >= 0.
    branches : tuple of callables State -> State
        Branches; each is a fold of maps. More than one is a parallel block.

    Notes
    -----
    theory.md E13.

    Examples
    --------
    >>> from sigprop.maps.residual import Residual
    >>> from sigprop.state import State
    >>> Residual(2.0, (lambda s: s,))(State(1.0, 0.5))
    State(q=5.0, gap=2.5)
    """

    alpha: Number
    branches: tuple[Callable[[State], State], ...]

    def __call__(self, state: State) -> State:
        """Apply the map."""
        square = self.alpha * self.alpha
        q, gap = square * state.q, square * state.gap
        for branch in self.branches:
            out = branch(state)
            q, gap = added(q, out.q), added(gap, out.gap)
        return State(q, gap)
