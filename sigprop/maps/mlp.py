"""Two-layer perceptrons, plain and gated (E15-E17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sigprop.arrays import Floats, Number
from sigprop.maps.activations import Activation, Dual
from sigprop.state import State, multiplied

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
    >>> from sigprop.maps.mlp import Moments
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
        >>> from sigprop.maps.mlp import Moments
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

    Notes
    -----
    theory.md E15-E17; Cho & Saul (2009); Poole et al. (2016).

    Examples
    --------
    >>> from sigprop.maps.activations import activation
    >>> from sigprop.maps.mlp import Mlp
    >>> from sigprop.state import State
    >>> float(Mlp(activation("relu"), 1.0, 2.0)(State(1.0, 0.0)).q)
    1.0
    """

    activation: Activation
    sigma_w1_2: Number
    sigma_w2_2: Number
    sigma_b2: Number = 0.0
    gated: bool = False
    q: Number | None = None

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

    def __call__(self, state: State) -> State:
        """Apply the map."""
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
        >>> from sigprop.maps.activations import activation
        >>> from sigprop.maps.mlp import Mlp
        >>> from sigprop.state import State
        >>> hidden, slopes = Mlp(activation("relu"), 1.0, 2.0).second_moments(State(1.0, 0.0))
        >>> float(hidden.own), float(slopes.cross)
        (0.5, 0.5)
        """
        dual, inner = self._constants(state.q)[:2]
        x = state.gap * inner
        hidden = Moments(dual.variance, dual.variance - dual.q * dual.drop(1.0 * x))
        slopes = Moments(dual.slope, dual.slopes(x))
        if not self.gated:
            return hidden, slopes
        linear = Moments(dual.q, dual.q * (1 - x))
        return linear.times(hidden), Moments(*map(np.add, linear.times(slopes), hidden))

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
        >>> from sigprop.maps.activations import activation
        >>> from sigprop.maps.mlp import Mlp
        >>> float(Mlp(activation("relu"), 1.0, 2.0).slope(1.0))
        1.0
        """
        dual = self._constants(q).dual
        rate = dual.slope
        if self.gated:
            rate = rate * dual.q + dual.variance
        return np.asarray(self.sigma_w1_2 * self.sigma_w2_2 * rate)
