"""Tokens that all overlap alike: one variance and one gap (E10, E11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.core.arrays import Bools, Number
from sigprop.layers.attention import backward as attention_backward
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.statistics.interface import ExchangeableStats, Scores
from sigprop.layers.interface import BackwardStep, Spread
from sigprop.layers.state import Gradient, State, added, multiplied, subtracted

__all__ = ["Exchangeable", "valid"]

ROUNDING = 4 * np.finfo(float).eps  # of q - gap (1 - 1/T), relative to q
LARGEST = 1e150  # of q: its square must not overflow


@dataclass(frozen=True)
class Exchangeable:
    r"""Geometry of exchangeable tokens: every pair is like every other.

    Softmax (E10): :math:`q' = \sigma_v^2 (\bar q + gap\,(Y_2 - 1/T)) + \sigma_b^2`,
    :math:`gap' = \sigma_v^2\, gap\, (Y_2 - O)`, with the variance of the mean of all tokens
    :math:`\bar q = q - gap\,(1 - 1/T)`, which is :math:`\ge 0`. Centred (E11):
    :math:`q' = \sigma_v^2\, gap\, (Y_2 - 1/T)` and the same gap. Scores of two queries are taken to
    have correlation rho (E9).

    Parameters
    ----------
    tokens : float or array
        Context length T.

    Notes
    -----
    theory.md E10, E11.

    Examples
    --------
    >>> from sigprop.layers.attention.exchangeable import Exchangeable
    >>> float(Exchangeable().initial(1.0, 0.25).gap)
    0.75
    """

    tokens: Number = np.inf

    def initial(self, q: Number, rho: Number) -> State:
        """Kernel of tokens of one variance and one overlap."""
        return State(q, q * (1 - np.asarray(rho)))

    def pairs(self, kernel: State) -> tuple[Number, None, Number]:
        """All tokens have one variance."""
        return kernel.q, None, kernel.gap

    def scores(self, layer: AttentionNumbers, kernel: State) -> Scores:
        """Scores by what attention reads."""
        return Scores(layer.beta, kernel)

    def mix(
        self, kernel: State, attention: ExchangeableStats, value: Number, bias: Number,
        centred: bool,
    ) -> State:  # fmt: skip
        """Kernel of the means of values over keys (E10, E11)."""
        kept, spread = attention.passed
        gap = multiplied(spread, value)
        kept = gap if kept is spread else multiplied(kept, value)
        if centred:
            return State(+kept, gap)
        q = multiplied(_mean(kernel, attention.even), value)
        return State(added(added(q, bias), kept), gap)

    def covariance(self, kernel: State, attention: ExchangeableStats, centred: bool) -> State:
        r"""Covariance of x and :math:`\sum_s A_{ts} x_s` at t: :math:`p + gap\,E A_{tt}` (E10b)."""
        even, own = attention.even, attention.own
        first = even + (1 - even) * own - (even if centred else 0.0)
        common = 0.0 if centred else kernel.q - kernel.gap
        return State(common + kernel.gap * first, kernel.gap * own)

    def pull(
        self, layer: AttentionNumbers, kernel: State, gradient: Gradient, statistics: Any,
        spread: Spread,
    ) -> BackwardStep:  # fmt: skip
        """Gradient kernel at the input of attention, and the gradients of its weights."""
        return attention_backward.pull(layer, kernel, gradient, statistics, spread)

    def total(self, own: Number, others: Number) -> Number:
        """Mean over tokens of a kernel summed over the other token."""
        return own + others

    def deficit(self, kernel: State) -> Number:
        """Overlap deficit of all pairs."""
        return kernel.gap / kernel.q

    def is_valid(self, kernel: State) -> Bools:
        """Whether a kernel is finite and has not vanished."""
        return valid(kernel.q, kernel.gap)

    def select(self, known: Bools, kernel: State, other: State) -> State:
        """Kernel itself: no stack depends on another, and what is not finite stays so."""
        return kernel


def _mean(kernel: State, even: Number) -> Number:
    """Variance of the mean of all tokens; within rounding of zero it is zero."""
    mean = subtracted(kernel.gap * (1 - even), kernel.q)
    lost = mean <= ROUNDING * kernel.q
    return np.where(lost, 0.0, mean) if np.any(lost) else mean


def valid(q: Number, gap: Number) -> Bools:
    """Whether a state is finite and has not vanished.

    Parameters
    ----------
    q, gap : float or array
        Variance and gap.

    Returns
    -------
    array of bool
        False where either is NaN, overflows, or q vanishes.

    Examples
    --------
    >>> from sigprop.layers.attention.exchangeable import valid
    >>> valid(float("nan"), 1.0).tolist()
    False
    """
    return np.asarray((q > 0) & (q < LARGEST) & (gap >= 0) & (gap < LARGEST))
