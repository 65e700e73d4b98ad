"""Attention statistics of queries that favour their own key (`sigprop.rem.biased`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sigprop.arrays import Floats, Number
from sigprop.errors import AssumptionError
from sigprop.rem.biased import biased, biased_overlap, own_bias
from sigprop.rem.overlap import overlap, spread_at_gap
from sigprop.rem.statistics import Passed, Weights, reduced_beta
from sigprop.state import State

__all__ = ["Favoured"]

FAINT = 1e-4  # bias below which its part of the spread is its leading order


class Favoured:
    r"""Attention statistics of queries that favour their own key, behind a norm.

    Behind a norm the variance q is one number, so that the advantage
    :math:`\mu = \gamma \log T\, q x` follows from x = gap/q. Everything is computed by quadrature,
    about 0.1 s a point. Heads are taken to be infinitely wide.

    Parameters
    ----------
    context : array_like
        Context length T, in [2, 1e12].
    gamma : array_like
        Identity part, as in `own_bias`.
    q : array_like
        Variance of the tokens that attention reads.

    Notes
    -----
    Where mu is below 1e-4 its part of the spread is taken to leading order, mu^2/T^2: relative
    accuracy 1e-4 there, 1e-7 above.

    Examples
    --------
    >>> from sigprop.rem.favoured import Favoured
    >>> from sigprop.rem import Finite
    >>> pair = Favoured(64, 0.0).weights(1.0, 0.5), Finite(64).weights(1.0, 0.5)
    >>> bool(abs(pair[0].spread - pair[1].spread) < 1e-6)
    True
    """

    def __init__(self, context: ArrayLike, gamma: ArrayLike, q: ArrayLike = 1.0) -> None:
        self.context, self.gamma, self.q = (np.asarray(v, float) for v in (context, gamma, q))

    def _scores(self, b: Number, x: Number) -> tuple[Floats, Floats]:
        s = np.asarray(b) * np.sqrt(np.log(self.context))
        return s, own_bias(self.gamma, self.q * x, self.context)

    def weights(self, b: Number, x: Number) -> Weights:
        """Participation, excess and spread, as `sigprop.rem.Finite.weights`.

        Parameters
        ----------
        b, x : float or array
            Reduced inverse temperature beta sqrt(q gap), and gap/q = 1 - r.

        Returns
        -------
        Weights
            Arrays of the broadcast shape.
        """
        (s, mu), t = self._scores(b, x), self.context
        y2 = biased(s, mu, t).y2
        plain = spread_at_gap(s, t, x)
        free = biased(s, 0.0, t).y2
        extra = (
            y2
            - free
            - biased_overlap(s, mu, t, 1 - np.asarray(x))
            + overlap(s, t, 1 - np.asarray(x))
        )
        return Weights(y2, y2 - 1 / t, plain + np.where(np.abs(mu) < FAINT, (mu / t) ** 2, extra))

    def own(self, b: Number, x: Number) -> Floats:
        """Mean weight on the own key less that on another.

        Parameters
        ----------
        b, x : float or array
            As in `weights`.

        Returns
        -------
        array
            The difference, zero without an identity part.
        """
        s, mu = self._scores(b, x)
        own = biased(s, mu, self.context).own
        return np.asarray(own - (1 - own) / (self.context - 1))

    def passed(self, beta: Number, state: State, centred: bool = False) -> Passed:
        """Parts of the gap that attention passes, as `sigprop.rem.Finite.passed`.

        Parameters
        ----------
        beta : float or array
            Inverse temperature.
        state : State
            The tokens that attention reads.
        centred : bool
            Whether 1/T is subtracted from every weight.

        Returns
        -------
        Passed
            Arrays of the broadcast shape.
        """
        found = self.weights(reduced_beta(beta, state), state.gap / state.q)
        return found.times(state.gap, centred)

    def entropy_ratio(self, b: Number, x: Number | None = None) -> Floats:
        """Attention entropy over log T.

        Parameters
        ----------
        b, x : float or array
            As in `weights`.

        Returns
        -------
        array
            The ratio, in [0, 1].
        """
        if x is None:
            raise AssumptionError("identity parts: the entropy depends on the overlap too")
        s, mu = self._scores(b, x)
        return np.asarray(biased(s, mu, self.context).entropy / np.log(self.context))
