"""Attention: from token kernel to token kernel (E2, E3, E10, E11)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.arrays import Number
from sigprop.maps import attention_backward, head_noise
from sigprop.maps.fluctuation import BranchNoise, Fluctuation
from sigprop.maps.interface import BackwardStep, Place, Spread, Step
from sigprop.rem.sphere import Sphere
from sigprop.state import Gradient, State

__all__ = ["Attention", "Mask"]

SMALLEST = 8  # width from which keys are taken to lie on a sphere


@dataclass(frozen=True)
class Mask:
    """Keys that a query sees: those up to its own, in a window, or in a prefix.

    Parameters
    ----------
    window : float
        Number of latest keys that a token sees, itself included.
    prefix : int
        Number of leading tokens that see each other in both directions.

    Examples
    --------
    >>> from sigprop.maps.attention import Mask
    >>> Mask().window
    inf
    """

    window: float = np.inf
    prefix: int = 0


@dataclass(frozen=True)
class Attention:
    r"""Softmax or centred attention with value and output projections.

    With A the weights, the kernel of the tokens is mixed as
    :math:`K'_{tt'} = \sigma_o^2 (\sigma_v^2 \langle A K A^T\rangle_{tt'} + \sigma_b^2)`: how is a
    matter of the geometry, what A does one of the statistics. Centred attention subtracts equal
    weights from A; the value bias then drops out.

    Parameters
    ----------
    beta, sigma_v2, sigma_b2, sigma_o2 : float or array
        Inverse temperature and weight variances.
    centred : bool
        Whether equal weights are subtracted.
    value_identity : float or array
        Multiple c of the identity in the product of value and output matrices; adds c^2 to
        sigma_v2 sigma_o2, and a covariance with the stream.
    context : float or array
        Context length T, whose logarithm scales the scores.
    width : int, optional
        Width d of the stream; None is infinite.
    heads, heads_per_key : int
        Number of heads, and how many of them share one key and value.
    mask : Mask, optional
        None is bidirectional.
    rotary_base : float, optional
        Base of rotary positions.

    Notes
    -----
    theory.md E10, E11. Giorlandino & Goldt, arXiv 2505.24333, in the limit.

    Examples
    --------
    >>> from sigprop.maps.attention import Attention
    >>> from sigprop.maps.exchangeable import Exchangeable
    >>> from sigprop.maps.interface import Place
    >>> from sigprop.rem import Limit
    >>> from sigprop.state import State
    >>> place = Place(Exchangeable(), Limit())
    >>> float(Attention(beta=0.0, sigma_v2=2.0).forward(State(1.0, 0.25), place).kernel.q)
    1.5
    """

    beta: Number
    sigma_v2: Number
    sigma_b2: Number = 0.0
    sigma_o2: Number = 1.0
    centred: bool = False
    value_identity: Number = 0.0
    context: Number = np.inf
    width: int | None = None
    heads: int = 1
    heads_per_key: int = 1
    mask: Mask | None = None
    rotary_base: float | None = None

    @property
    def head_width(self) -> float | None:
        """Width of a head; None is infinite."""
        return None if self.width is None else self.width / self.heads

    @property
    def sphere(self) -> Sphere | None:
        """Keys of finite width (`sigprop.rem.sphere`); None is infinite."""
        if self.width is None or self.width < SMALLEST:
            return None
        return Sphere(self.width, self.width / self.heads)

    @cached_property
    def value(self) -> Number:
        """Variance of the product of value and output matrices, times d."""
        return self.sigma_o2 * self.sigma_v2 + self.value_identity * self.value_identity

    @cached_property
    def _keeps(self) -> bool:
        return bool(np.any(self.value_identity))

    def forward(self, kernel: State, place: Place) -> Step:
        """Apply the map; the covariance is that of value identities (E20)."""
        geometry, statistics = place
        attention = statistics(geometry.scores(self, kernel))
        bias = self.sigma_o2 * self.sigma_b2
        out = geometry.mix(kernel, attention, self.value, bias, self.centred)
        if not self._keeps:
            return Step(out, attention)
        q, gap = geometry.covariance(kernel, attention, self.centred)
        c = self.value_identity
        return Step(out, attention, State(c * q, c * gap))

    def backward(
        self, kernel: State, gradient: Gradient, place: Place, spread: Spread
    ) -> BackwardStep:
        """E23 and E24, and the gradients of the query, key and value weights (E22)."""
        return attention_backward.pull(self, kernel, gradient, place.statistics, spread)

    def branch(
        self, read: State, points: State, networks: Fluctuation, unit: State, place: Place
    ) -> BranchNoise:
        """E26: heads that differ, shared values and keys of finite width."""
        return head_noise.branch(self, read, points, networks, unit, place)
