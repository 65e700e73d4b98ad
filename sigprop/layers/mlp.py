"""Two-layer perceptrons, plain and gated (E15-E17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.layers.activations import Activation, Dual
from sigprop.layers.fluctuation import BranchNoise, Fluctuation, common_part
from sigprop.layers.interface import BackwardStep, Place, Spread, Step
from sigprop.layers.mlp_units import HiddenUnits, unit_noise
from sigprop.layers.state import Gradient, State, multiplied

__all__ = ["Mlp", "Moments"]

ABSENT = 1e-300  # stands for a vanishing preactivation variance, whose duals all vanish


class _Constants(NamedTuple):
    dual: Dual
    inner: Number  # from gap to gap/q of the preactivations
    outer: Number
    out: Number  # output variance


class Moments(NamedTuple):
    """An average at one token and at two different ones.

    Attributes
    ----------
    own, cross : float or array
        At one token; at two.

    Examples
    --------
    >>> from sigprop.layers.mlp import Moments
    >>> Moments(1.0, 0.5).cross
    0.5
    """

    own: Number
    cross: Number

    def times(self, other: Moments) -> Moments:
        """Moments of the product of independent factors.

        Parameters
        ----------
        other : Moments
            Moments of the other factor.

        Returns
        -------
        Moments
            The products.

        Examples
        --------
        >>> from sigprop.layers.mlp import Moments
        >>> Moments(1.0, 0.5).times(Moments(2.0, 1.0))
        Moments(own=2.0, cross=0.5)
        """
        return Moments(self.own * other.own, self.cross * other.cross)


def _number(value: Floats) -> Number:
    """Make a float where there is no shape: Python's arithmetic is faster on it than numpy's."""
    return float(value) if np.ndim(value) == 0 else value


@dataclass(frozen=True)
class Mlp:
    r"""MLP :math:`W_2 \phi(W_1 x + b_1) + b_2`, or gated :math:`W_2 [\phi(W_1 x) \odot W_3 x]`.

    With :math:`q_1 = \sigma_{w1}^2 q + \sigma_b^2`, :math:`gap_1 = \sigma_{w1}^2 gap` and the
    dual activation :math:`\Phi` (E15): :math:`q' = \sigma_{w2}^2 \Phi(q_1, 0) + \sigma_b^2`,
    :math:`gap' = \sigma_{w2}^2 [\Phi(q_1, 0) - \Phi(q_1, gap_1)]`. Gated: the dual of the product
    of independent branches is the product of duals, :math:`\Phi\,(q_1 - gap_1)`.

    Parameters
    ----------
    activation : Activation
        Source of dual activations.
    sigma_w1_2, sigma_w2_2, sigma_b2 : float or array
        Weight and bias variances; the linear branch of a gated MLP shares those of the first layer.
    gated : bool
        Whether the first layer is gated.
    q : array, optional
        Variance of every input that will come, when it is known (behind a norm): the dual
        activation is then prepared once.
    width, ratio : float
        Width d of the stream, infinite by default, and number of hidden units over d: for the
        spread over networks.

    Notes
    -----
    theory.md E15-E17; Cho & Saul (2009); Poole et al. (2016).

    Examples
    --------
    >>> from sigprop.layers.activations import activation
    >>> from sigprop.layers.mlp import Mlp
    >>> from sigprop.layers.state import State
    >>> float(Mlp(activation("relu"), 1.0, 2.0).at(State(1.0, 0.0)).q)
    1.0
    """

    activation: Activation
    sigma_w1_2: Number
    sigma_w2_2: Number
    sigma_b2: Number = 0.0
    gated: bool = False
    q: Number | None = None
    width: float = np.inf
    ratio: float = 1.0

    def __post_init__(self) -> None:
        constants = None if self.q is None else self._constants(self.q)
        object.__setattr__(self, "_prepared", constants)

    def _constants(self, q: Number) -> _Constants:
        """Dual at input variance q, and the numbers that go with it."""
        dual = self.activation(np.maximum(self.sigma_w1_2 * q + self.sigma_b2, ABSENT))
        variance = dual.variance * (dual.q if self.gated else 1.0)
        return _Constants(
            dual,
            _number(self.sigma_w1_2 / dual.q),
            _number(self.sigma_w2_2 * dual.q),
            _number(self.sigma_w2_2 * variance + self.sigma_b2),
        )

    def forward(self, kernel: State, place: Place) -> Step:
        """Apply the map."""
        return Step(self.at(kernel))

    def at(self, state: State) -> State:
        """Kernel behind the MLP: tokens meet in no other layer than attention.

        Parameters
        ----------
        state : State
            Kernel that it reads, of any pairs of tokens of one variance.

        Returns
        -------
        State
            The kernel.

        Examples
        --------
        >>> from sigprop.layers.activations import activation
        >>> from sigprop.layers.mlp import Mlp
        >>> from sigprop.layers.state import State
        >>> float(Mlp(activation("linear"), 1.0, 2.0).at(State(1.0, 0.25)).gap)
        0.5
        """
        known: _Constants = getattr(self, "_prepared", None) or self._constants(state.q)
        x = state.gap * known.inner
        drop = known.dual.drop(1.0 * x if self.gated else x)  # which may overwrite x
        if self.gated:
            drop = drop * known.dual.q + (known.dual.variance - drop * known.dual.q) * x
        return State(+known.out, multiplied(drop, known.outer))

    def second_moments(self, state: State) -> tuple[Moments, Moments]:
        r"""Averages over hidden units at one token and at two.

        Parameters
        ----------
        state : State
            Input of the MLP.

        Returns
        -------
        hidden : Moments
            Of the second layer's input: :math:`E\phi^2`, :math:`E\phi\phi`; gated, times those of
            the linear branch.
        slopes : Moments
            Of its derivative: :math:`E\phi'^2`, :math:`E\phi'\phi'`; gated,
            :math:`q_1\phi'\phi' + \phi\phi`, from the two branches.

        Examples
        --------
        >>> from sigprop.layers.activations import activation
        >>> from sigprop.layers.mlp import Mlp
        >>> from sigprop.layers.state import State
        >>> hidden, slopes = Mlp(activation("relu"), 1.0, 2.0).second_moments(State(1.0, 0.0))
        >>> float(hidden.own), float(slopes.cross)
        (0.5, 0.5)
        """
        hidden, *slopes = self._moments(state)
        return hidden, slopes[0] if len(slopes) == 1 else Moments(*map(np.add, *slopes))

    def _moments(self, state: State) -> tuple[Moments, ...]:
        """Averages of hidden units, and of the slope of each branch: the activation's first."""
        dual, inner = self._constants(state.q)[:2]
        x = state.gap * inner
        hidden = Moments(dual.variance, dual.variance - dual.q * dual.drop(1.0 * x))
        slopes = Moments(dual.slope, dual.slopes(x))
        if not self.gated:
            return hidden, slopes
        linear = Moments(dual.q, dual.q * (1 - x))
        return linear.times(hidden), linear.times(slopes), hidden

    def slope(self, q: Number) -> Floats:
        r"""Gain gap'/gap in the limit gap -> 0: :math:`\sigma_{w1}^2 \sigma_{w2}^2 E\phi'^2` (E19).

        Parameters
        ----------
        q : float or array
            Input variance.

        Returns
        -------
        array
            The gain; for a gated MLP :math:`q_1 E\phi'^2 + E\phi^2` takes the place of
            :math:`E\phi'^2`.

        Examples
        --------
        >>> from sigprop.layers.activations import activation
        >>> from sigprop.layers.mlp import Mlp
        >>> float(Mlp(activation("relu"), 1.0, 2.0).slope(1.0))
        1.0
        """
        dual = self._constants(q).dual
        rate = dual.slope
        if self.gated:
            rate = rate * dual.q + dual.variance
        return np.asarray(self.sigma_w1_2 * self.sigma_w2_2 * rate)

    def backward(
        self, kernel: State, gradient: Gradient, place: Place, spread: Spread
    ) -> BackwardStep:
        """E23: the slopes' kernel times that of the gradient; gradients of the weights (E22b)."""
        hidden, *slopes = self._moments(kernel)
        p, total = kernel.q - kernel.gap, place.geometry.total
        parts = [Gradient(b.own * gradient.q, b.cross * gradient.others) for b in slopes]
        weights = {"w2": total(hidden.own * gradient.q, hidden.cross * gradient.others)}
        for name, part in zip(("w1", "wg"), parts, strict=False):
            q, others = (self.sigma_w2_2 * v for v in part)
            weights[name] = total(kernel.q * q, p * others)
        inner = self.sigma_w1_2 * self.sigma_w2_2
        own, others = (inner * sum(values) for values in zip(*parts, strict=True))
        return BackwardStep(Gradient(own, others), weights)

    def branch(
        self, read: State, points: State, networks: Fluctuation, unit: State, place: Place
    ) -> BranchNoise:
        """Noise of the hidden units (E26c), and the pairs of tokens that are kept (E26f)."""
        own, out, t = self.at(read), self.at(points), float(place.geometry.tokens)
        p, gap = common_part(own, t) / float(unit.q), float(own.gap) / float(unit.gap)
        units = HiddenUnits(
            self.activation, self.sigma_w1_2, self.sigma_w2_2, self.sigma_b2, self.gated
        )
        d = self.width
        noise, tokens = (v / (self.ratio * d) for v in unit_noise(units, read, unit, t))
        out = State(out.q, out.gap + self._bend(read, networks.crowding / d))
        crowding = d * float(noise[1, 1]) + gap**2 / self.ratio
        slope = self.sigma_w1_2 * self.sigma_w2_2 * self.second_moments(read)[1].cross
        moved = float(slope * read.gap / unit.gap)
        return BranchNoise(p, gap, out, noise, crowding, gap, moved, tokens)

    def _bend(self, state: State, crowding: float) -> Floats:
        r"""Change of the mean gap by the variance of overlaps over pairs, to second order.

        Overlaps vary by :math:`gap^2 \kappa (1 + \rho(2 - \rho))/d`, `crowding` being kappa/d.
        """
        rho = max(float(1 - state.gap / state.q), 0.0)
        step = np.sqrt(min(crowding * (1 + rho * (2 - rho)), 1.0))
        gap = np.asarray(self.at(State(state.q, state.gap * (1 + step * np.array([-1, 0, 1])))).gap)
        return np.asarray((gap[0] + gap[2]) / 2 - gap[1])
