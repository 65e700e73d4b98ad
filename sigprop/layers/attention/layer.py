"""Attention: from token kernel to token kernel (E2, E3, E10, E11)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.layers.attention import head_noise
from sigprop.layers.attention.numbers import AttentionNumbers, Mask
from sigprop.layers.fluctuation import BranchNoise, Fluctuation
from sigprop.layers.interface import BackwardStep, Place, Spread, Step
from sigprop.layers.state import Gradient, State

__all__ = ["Attention", "Mask"]


@dataclass(frozen=True)
class Attention(AttentionNumbers):
    r"""Softmax or centred attention with value and output projections.

    With A the weights, the kernel of the tokens is mixed as
    :math:`K'_{tt'} = \sigma_o^2 (\sigma_v^2 \langle A K A^T\rangle_{tt'} + \sigma_b^2)`: how is a
    matter of the geometry, what A does one of the statistics. Centred attention subtracts equal
    weights from A; the value bias then drops out.

    The numbers are those of `AttentionNumbers`.

    Notes
    -----
    theory.md E10, E11. Giorlandino & Goldt, arXiv 2505.24333, in the limit.

    Examples
    --------
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.exchangeable import Exchangeable
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.attention.statistics import Limit
    >>> from sigprop.layers.state import State
    >>> place = Place(Exchangeable(), Limit())
    >>> float(Attention(beta=0.0, sigma_v2=2.0).forward(State(1.0, 0.25), place).kernel.q)
    1.5
    """

    @cached_property
    def _keeps(self) -> bool:
        return bool(np.any(self.value_identity))

    def forward(self, kernel: State, place: Place) -> Step:
        """Apply the map; the covariance is that of value identities (E10b)."""
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
        """E23 and E24, and the gradients of the query, key and value weights (E22b)."""
        step: BackwardStep = place.geometry.pull(self, kernel, gradient, place.statistics, spread)
        return step

    def branch(
        self, read: State, points: State, networks: Fluctuation, unit: State, place: Place
    ) -> BranchNoise:
        """Heads that differ, shared values and keys of finite width (E26b, E26d, E26e)."""
        out = self.forward(read, place).kernel, self.forward(points, place).kernel
        return head_noise.branch(self, read, points, out, networks, unit)
