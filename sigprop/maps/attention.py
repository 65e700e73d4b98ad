"""Attention: from token kernel to token kernel (E2, E3, E10, E11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sigprop.arrays import Number
from sigprop.rem.favoured import Favoured
from sigprop.rem.sphere import Sphere
from sigprop.rem.statistics import Rem, reduced_beta
from sigprop.state import State, added, multiplied, subtracted

__all__ = ["Attention"]

ROUNDING = 4 * np.finfo(float).eps  # of q - gap (1 - 1/T), relative to q


@dataclass(frozen=True)
class Attention:
    r"""Softmax or centred attention with value and output projections.

    Softmax (E10): :math:`q' = \sigma_v^2 (\bar q + gap\,(Y_2 - 1/T)) + \sigma_b^2`,
    :math:`gap' = \sigma_v^2\, gap\, (Y_2 - O)`, with the variance of the mean of all tokens
    :math:`\bar q = q - gap\,(1 - 1/T)`, which is :math:`\ge 0`. Centred (E11):
    :math:`q' = \sigma_v^2\, gap\, (Y_2 - 1/T)` and the same gap; the value bias drops out.
    The output projection multiplies both by :math:`\sigma_o^2`.

    Parameters
    ----------
    rem : Rem
        Source of the attention statistics: limit, finite context, or a profile.
    beta, sigma_v2, sigma_b2, sigma_o2 : float or array
        Inverse temperature and weight variances.
    centred : bool
        Whether 1/T is subtracted from every weight.
    sphere : Sphere, optional
        Keys of finite width, for the gradients; None is infinite width.
    causal : bool
        Whether queries see the keys up to their own, for the gradients; the state is that of late
        ones.

    value_identity : float or array
        Multiple c of the identity in the product of value and output matrices; adds c^2 to
        sigma_v2 sigma_o2, and to the residual what `along` finds.

    Notes
    -----
    theory.md E10, E11. Giorlandino & Goldt, arXiv 2505.24333, in the limit. Scores of two
    queries are taken to have correlation rho (E9).

    Examples
    --------
    >>> from sigprop.maps.attention import Attention
    >>> from sigprop.rem import Limit
    >>> from sigprop.state import State
    >>> float(Attention(Limit(), beta=0.0, sigma_v2=2.0)(State(1.0, 0.25)).q)
    1.5
    """

    rem: Rem
    beta: Number
    sigma_v2: Number
    sigma_b2: Number = 0.0
    sigma_o2: Number = 1.0
    centred: bool = False
    sphere: Sphere | None = None
    causal: bool = False
    value_identity: Number = 0.0

    def __call__(self, state: State) -> State:
        """Apply the map."""
        kept, spread = self.rem.passed(self.beta, state)
        value = self.sigma_o2 * self.sigma_v2 + self.value_identity * self.value_identity
        gap = multiplied(spread, value)
        kept = gap if kept is spread else multiplied(kept, value)
        if self.centred:
            return State(+kept, gap)
        q = multiplied(self._mean(state), value)
        return State(added(added(q, self.sigma_o2 * self.sigma_b2), kept), gap)

    def _mean(self, state: State) -> Number:
        """Variance of the mean of all tokens; within rounding of zero it is zero."""
        mean = subtracted(state.gap * (1 - self.rem.even), state.q)
        lost = mean <= ROUNDING * state.q
        return np.where(lost, 0.0, mean) if np.any(lost) else mean

    def along(self, state: State) -> State:
        r"""Covariance of what attention reads with what it writes, by the identity of its values.

        The tokens :math:`c \sum_s A_{ts} x_s` have with :math:`x_t` the mean product
        :math:`c\,(p + gap\,E A_{tt})`, and with another token c (p + gap E A_ts) (new here).

        Parameters
        ----------
        state : State
            What attention reads.

        Returns
        -------
        State
            Covariance at one token, and its excess over that of two.
        """
        own: Number = 0.0  # random scores favour no key
        if isinstance(self.rem, Favoured):
            own = self.rem.own(reduced_beta(self.beta, state), state.gap / state.q)
        mean = self.rem.even
        first = mean + (1 - mean) * own - (mean if self.centred else 0.0)
        common = 0.0 if self.centred else state.q - state.gap
        c = self.value_identity
        return State(c * (common + state.gap * first), c * state.gap * own)
