"""Skip connections (E13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from sigprop.arrays import Number
from sigprop.state import State, added, scaled

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
    along : callable State -> State, optional
        Covariance of the stream with a branch that contains a part of it; enters twice, times
        alpha.

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
    along: Callable[[State], State] | None = None

    @cached_property
    def square(self) -> Number:
        """Gain of the skip branch, alpha squared."""
        return self.alpha * self.alpha

    def __call__(self, state: State) -> State:
        """Apply the map."""
        q, gap = scaled(state.q, self.square), scaled(state.gap, self.square)
        for branch in self.branches:
            out = branch(state)
            q, gap = added(out.q, q), added(out.gap, gap)
        if self.along is not None:
            cross, twice = self.along(state), 2 * self.alpha
            q, gap = q + twice * cross.q, gap + twice * cross.gap
        return State(q, gap)
