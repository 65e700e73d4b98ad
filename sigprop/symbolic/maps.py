"""Components as maps from symbolic state to symbolic state (E10, E11, E13-E15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import sympy as sp

from sigprop.symbolic.kernels import KERNELS, Kernel
from sigprop.symbolic.rem import Statistics, free
from sigprop.symbolic.symbols import symbol

__all__ = ["Attention", "Map", "Mlp", "Norm", "Residual", "State"]

SIGMA_V2, SIGMA_B2 = symbol("sigma_v2"), symbol("sigma_b2")
SIGMA_W1_2, SIGMA_W2_2 = symbol("sigma_w1_2"), symbol("sigma_w2_2")


class State(NamedTuple):
    """Exchangeable token kernel, as expressions.

    Attributes
    ----------
    q, gap : sympy.Expr
        Variance, and variance minus covariance.

    Examples
    --------
    >>> from sigprop.symbolic import State
    >>> State.free()
    State(q=q, gap=gap)
    """

    q: sp.Expr
    gap: sp.Expr

    @classmethod
    def free(cls) -> State:
        """Symbols q and gap.

        Returns
        -------
        State
            What every map is applied to in the equations.

        Examples
        --------
        >>> from sigprop.symbolic import State
        >>> State.free().gap
        gap
        """
        return cls(symbol("q"), symbol("gap"))


Map = Callable[[State], State]


@dataclass(frozen=True)
class Attention:
    """Softmax or centred attention (E10, E11).

    Parameters
    ----------
    statistics : callable State -> (Y_2, O)
        Attention statistics; by default the symbols themselves.
    sigma_v2, sigma_b2, sigma_o2 : sympy.Expr
        Weight and bias variances.
    centred : bool
        Whether 1/T is subtracted from every weight.

    Examples
    --------
    >>> from sigprop.symbolic import Attention, State
    >>> Attention()(State.free()).gap
    gap*sigma_v2*(-overlap + y2)
    """

    statistics: Statistics = free
    sigma_v2: sp.Expr = SIGMA_V2
    sigma_b2: sp.Expr = SIGMA_B2
    sigma_o2: sp.Expr = sp.S.One
    centred: bool = False

    def __call__(self, state: State) -> State:
        """Apply the map."""
        y2, overlap = self.statistics(state.q, state.gap)
        value = self.sigma_o2 * self.sigma_v2
        gap = value * state.gap * (y2 - overlap)
        if self.centred:
            return State(value * state.gap * (y2 - 1 / symbol("context")), gap)
        p = state.q - state.gap
        return State(value * (p + state.gap * y2) + self.sigma_o2 * self.sigma_b2, gap)


@dataclass(frozen=True)
class Norm:
    """LayerNorm or RMSNorm with gain (E14).

    Parameters
    ----------
    gain : sympy.Expr
        Gain gamma.

    Examples
    --------
    >>> from sigprop.symbolic import Norm, State
    >>> Norm()(State.free())
    State(q=1, gap=gap/q)
    """

    gain: sp.Expr = sp.S.One

    def __call__(self, state: State) -> State:
        """Apply the map."""
        return State(self.gain**2, self.gain**2 * state.gap / state.q)


@dataclass(frozen=True)
class Residual:
    """Skip branch of strength alpha around independent branches (E13).

    Parameters
    ----------
    alpha : sympy.Expr
        Residual strength.
    branches : tuple of callables State -> State
        Branches.

    Examples
    --------
    >>> from sigprop.symbolic import Norm, Residual, State, symbol
    >>> Residual(symbol("alpha_attn"), (Norm(),))(State.free()).q
    alpha_attn**2*q + 1
    """

    alpha: sp.Expr
    branches: tuple[Map, ...]

    def __call__(self, state: State) -> State:
        """Apply the map."""
        outs = [branch(state) for branch in self.branches]
        q, gap = (sum(parts) for parts in zip(*outs, strict=True))
        return State(self.alpha**2 * state.q + q, self.alpha**2 * state.gap + gap)


@dataclass(frozen=True)
class Mlp:
    """Two-layer perceptron (E15).

    Parameters
    ----------
    kernel : Kernel
        Dual activation.
    sigma_w1_2, sigma_w2_2, sigma_b2 : sympy.Expr
        Weight and bias variances.

    Examples
    --------
    >>> from sigprop.symbolic import Mlp, State
    >>> Mlp()(State.free()).q
    sigma_b2 + sigma_w2_2*(q*sigma_w1_2/2 + sigma_b2/2)
    """

    kernel: Kernel = KERNELS["relu"]
    sigma_w1_2: sp.Expr = SIGMA_W1_2
    sigma_w2_2: sp.Expr = SIGMA_W2_2
    sigma_b2: sp.Expr = SIGMA_B2

    def inner(self, state: State) -> State:
        """State of the preactivations.

        Parameters
        ----------
        state : State
            Input.

        Returns
        -------
        State
            Variance and gap of the preactivations.

        Examples
        --------
        >>> from sigprop.symbolic import Mlp, State
        >>> Mlp().inner(State.free()).gap
        gap*sigma_w1_2
        """
        return State(self.sigma_w1_2 * state.q + self.sigma_b2, self.sigma_w1_2 * state.gap)

    def outer(self, preactivations: State) -> State:
        """State of the output, given that of the preactivations.

        Parameters
        ----------
        preactivations : State
            Their variance and gap.

        Returns
        -------
        State
            Variance and gap of the output.

        Examples
        --------
        >>> from sigprop.symbolic import Mlp, State
        >>> Mlp().outer(State.free()).q
        q*sigma_w2_2/2 + sigma_b2
        """
        q1, gap1 = preactivations
        q = self.sigma_w2_2 * self.kernel.dual(q1, 0) + self.sigma_b2
        return State(q, self.sigma_w2_2 * self.kernel.drop(q1, gap1))

    def __call__(self, state: State) -> State:
        """Apply the map."""
        return self.outer(self.inner(state))
