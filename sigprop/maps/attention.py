"""Attention: from token kernel to token kernel (E2, E3, E10, E11)."""

from __future__ import annotations

from dataclasses import dataclass

from sigprop.arrays import Number
from sigprop.rem.sphere import Sphere
from sigprop.rem.statistics import Rem
from sigprop.state import State, added, multiplied, subtracted

__all__ = ["Attention"]


@dataclass(frozen=True)
class Attention:
    r"""Softmax or centred attention with value and output projections.

    Softmax (E10): :math:`q' = \sigma_v^2 (p + gap\,Y_2) + \sigma_b^2`,
    :math:`gap' = \sigma_v^2\, gap\, (Y_2 - O)`. Centred (E11):
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

    def __call__(self, state: State) -> State:
        """Apply the map."""
        kept, spread = self.rem.passed(self.beta, state, self.centred)
        value = self.sigma_o2 * self.sigma_v2
        gap = multiplied(spread, value)
        kept = gap if kept is spread else multiplied(kept, value)
        if self.centred:
            return State(+kept, gap)
        q = subtracted(value * state.gap, value * state.q + self.sigma_o2 * self.sigma_b2)
        return State(added(q, kept), gap)
