"""Attention statistics of queries whose own key has an advantage (E2b, `biased`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arrays import Floats, Number
from sigprop.core.errors import AssumptionError
from sigprop.layers.attention.statistics.biased import biased, biased_overlap
from sigprop.layers.attention.statistics.interface import (
    Passed,
    Response,
    Source,
    Weights,
    reduced_beta,
)
from sigprop.layers.attention.statistics.pairs import overlap, spread_at_gap
from sigprop.layers.attention.statistics.table import MAX_SIGMA
from sigprop.layers.state import State

__all__ = ["SelfBiased"]

FAINT = 1e-4  # bias below which its part of the spread is its leading order
NATS, CERTAIN = 40.0, 17.0  # e^-40 and normals beyond 12 sqrt 2 are below rounding
Function = Callable[[Floats, Floats, Floats, Floats], Floats]


class SelfBiased(Source):
    r"""Attention statistics of queries whose own key has an advantage, behind a norm.

    Behind a norm the variance q is one number, so that the advantage
    :math:`\mu = \gamma \log T\, q x` follows from x = gap/q. Everything is computed by quadrature,
    about 0.1 s a point; NaN where the standard deviation of scores exceeds 40. Heads are taken to
    be infinitely wide.

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
    >>> from sigprop.layers.attention.statistics.self_biased import SelfBiased
    >>> from sigprop.layers.attention.statistics import Finite
    >>> pair = SelfBiased(64, 0.0).weights(1.0, 0.5), Finite(64).weights(1.0, 0.5)
    >>> bool(abs(pair[0].spread - pair[1].spread) < 1e-6)
    True
    """

    def __init__(self, context: ArrayLike, gamma: ArrayLike, q: ArrayLike = 1.0) -> None:
        self.context, self.gamma, self.q = (np.asarray(v, float) for v in (context, gamma, q))
        self.even = 1 / self.context

    def _known(self, function: Function, b: Number, x: Number) -> Floats:
        """Evaluate a function of (s, mu, T, x); NaN where scores exceed what is known.

        Beyond `CERTAIN` standard deviations and as many nats as rounding has, a bias decides alone.
        """
        s = np.asarray(b) * np.sqrt(np.log(self.context))
        mu = self.gamma * self.q * x * np.log(self.context)
        s, mu, t, x = np.broadcast_arrays(s, mu, self.context, x)
        known = (s <= MAX_SIGMA) & (np.abs(x - 1) <= 1 + 1e-9) & ~np.isnan(mu)
        most = NATS + CERTAIN * s[known]
        cells = (s[known], np.clip(mu[known], -most, most), t[known], x[known])
        found = np.atleast_1d(function(*cells))
        out = np.full((*s.shape, *found.shape[1:]), np.nan)
        out[known] = found
        return out

    def weights(self, b: Number, x: Number) -> Weights:
        """Participation, excess and spread, as `Finite.weights`.

        Parameters
        ----------
        b, x : float or array
            Reduced inverse temperature beta sqrt(q gap), and gap/q = 1 - r.

        Returns
        -------
        Weights
            Arrays of the broadcast shape.
        """
        y2, spread = np.moveaxis(self._known(_pairs, b, x), -1, 0)
        return Weights(y2, y2 - self.even, spread)

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
        own = self._known(lambda s, mu, t, x: biased(s, mu, t).own, b, x)
        return np.asarray(own - (1 - own) / (self.context - 1))

    def response(self, b: Number, x: Number, tilt: int = 0) -> Response:
        """Refused: a bias has no backward theory."""
        raise AssumptionError("identity parts have no backward theory")

    def passed(self, beta: Number, state: State) -> Passed:
        """Parts of the gap that attention passes, as `Finite.passed`.

        Parameters
        ----------
        beta : float or array
            Inverse temperature.
        state : State
            The tokens that attention reads.

        Returns
        -------
        Passed
            Arrays of the broadcast shape.
        """
        found = self.weights(reduced_beta(beta, state), state.gap / state.q)
        return found.times(state.gap)

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
        entropy = self._known(lambda s, mu, t, x: biased(s, mu, t).entropy, b, x)
        return np.asarray(entropy / np.log(self.context))


def _pairs(s: Floats, mu: Floats, t: Floats, x: Floats) -> Floats:
    """Y_2 and spread."""
    y2, r = biased(s, mu, t).y2, np.clip(1 - x, -1, 1)
    extra = y2 - biased(s, 0.0, t).y2 - biased_overlap(s, mu, t, r) + overlap(s, t, r)
    faint = np.where(np.abs(mu) < FAINT, (mu / t) ** 2, extra)
    return np.stack([y2, spread_at_gap(s, t, 1 - r) + faint], axis=-1)
