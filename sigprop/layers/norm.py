"""LayerNorm and RMSNorm (E14)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sigprop.core.arrays import Number
from sigprop.layers.fluctuation import Fluctuation, admissible, moments
from sigprop.layers.interface import BackwardStep, Layer, Place, Spread, Step
from sigprop.layers.state import Gradient, State, scaled

__all__ = ["Norm", "normed"]


@dataclass(frozen=True)
class Norm:
    r"""LayerNorm or RMSNorm: :math:`K_{tt'} \to \gamma^2 K_{tt'}/\sqrt{q_t q_{t'}}` (E14).

    In gaps, without cancellation:
    :math:`gap' = \gamma^2\,[gap - (\sqrt{q_t} - \sqrt{q_{t'}})^2/2] / \sqrt{q_t q_{t'}}`, which is
    :math:`\gamma^2 gap/q` where tokens have one variance. In wide networks of zero-mean features
    the two norms act alike; their epsilon is neglected (relative size epsilon/q).

    Parameters
    ----------
    gain : float or array
        Gain gamma, > 0.

    Notes
    -----
    theory.md E14. A state of zero variance stays so: the caller reports it as undefined.

    Examples
    --------
    >>> from sigprop.layers.attention.exchangeable import Exchangeable
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.norm import Norm
    >>> from sigprop.layers.state import State
    >>> Norm(1.0).forward(State(4.0, 1.0), Place(Exchangeable(), None)).kernel.gap
    0.25
    """

    gain: Number = 1.0

    def forward(self, kernel: State, place: Place) -> Step:
        """Apply the map."""
        return Step(self.at(*place.geometry.pairs(kernel)))

    def at(self, own: Number, other: Number | None, gap: Number) -> State:
        """Kernel behind the norm.

        Parameters
        ----------
        own, other : float or array
            Variances of the two tokens of each pair; None where they are equal.
        gap : float or array
            Gap of the pair.

        Returns
        -------
        State
            The kernel.

        Examples
        --------
        >>> from sigprop.layers.norm import Norm
        >>> float(Norm().at(1.0, 4.0, 2.5).gap)
        1.0
        """
        square = self.gain * self.gain
        if other is not None:
            first, second = np.sqrt(own), np.sqrt(other)
            return State(square, square * (gap - (first - second) ** 2 / 2) / (first * second))
        if np.ndim(own) == 0:
            return State(square, gap * float(np.divide(square, own)))
        return State(square, scaled(gap / own, square))

    def backward(
        self, kernel: State, gradient: Gradient, place: Place, spread: Spread
    ) -> BackwardStep:
        """E23: division by the variance before the norm, without the radial direction, 1/d."""
        own, other, _ = place.geometry.pairs(kernel)
        square = self.gain * self.gain
        pair = own if other is None else np.sqrt(own * other)
        return BackwardStep(
            Gradient(square / own * gradient.q, square / pair * gradient.others), {}
        )

    def noise(self, networks: Fluctuation, place: Place) -> Fluctuation:
        """Behind a norm tokens vary no more."""
        return moments(normed(self, networks, networks.points, place), networks.crowding)


def normed(norm: Layer | None, networks: Fluctuation, points: State, place: Place) -> State:
    """Behind a norm all tokens have the same norm: second order in its variation (E26a).

    The change of the gap is taken relative to it, since its parts are of the order of the gap. T
    vectors have a mean cosine of at least -1/(T-1), which the points of a log-normal law may pass:
    gap <= q T/(T-1).

    Parameters
    ----------
    norm : Layer, optional
        The norm; None changes nothing.
    networks : Fluctuation
        Whose tokens vary.
    points : State
        States that it acts on.
    place : Place
        Where it acts.

    Returns
    -------
    State
        Behind the norm.

    Examples
    --------
    >>> from sigprop.layers.attention.exchangeable import Exchangeable
    >>> from sigprop.layers.fluctuation import around
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.norm import Norm, normed
    >>> from sigprop.layers.state import State
    >>> state = State(4.0, 1.0)
    >>> float(normed(Norm(), around(state, 0.0), state, Place(Exchangeable(8), None)).gap)
    0.25
    """
    out, change = points, np.float64(1.0)
    if norm is not None:
        x = float(networks.centre.gap / networks.centre.q)
        variance, overlap = networks.tokens
        out = norm.forward(points, place).kernel
        change = np.exp((overlap - 0.75 * variance * (1 - x)) / x)
    moved = admissible(State(out.q, out.gap * change), place.geometry.tokens)
    return State(np.broadcast_to(moved.q, np.shape(moved.gap)), moved.gap)
