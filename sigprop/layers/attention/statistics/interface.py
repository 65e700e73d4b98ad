"""What attention's map needs to know of the random energy model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.errors import AssumptionError
from sigprop.layers.state import State, multiplied

__all__ = [
    "ExchangeableStats",
    "Passed",
    "Rem",
    "Response",
    "Scores",
    "Source",
    "Statistics",
    "Weights",
    "opposed",
    "reduced_beta",
]


class Passed(NamedTuple):
    r"""Parts of the gap that attention passes (E10, E11); both may be one array.

    Attributes
    ----------
    kept : float or array
        :math:`gap\,(Y_2 - 1/T)`: to the variance, beside that of the mean of all tokens.
    spread : float or array
        :math:`gap\,(Y_2 - O)`: to the gap.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Passed
    >>> Passed(0.5, 0.25).kept
    0.5
    """

    kept: Number
    spread: Number


class Weights(NamedTuple):
    r"""Second-order statistics of attention weights.

    Attributes
    ----------
    y2 : float or array
        Participation ratio :math:`Y_2`.
    excess : float or array
        :math:`Y_2 - 1/T`, kept apart so that it has relative accuracy (E11).
    spread : float or array
        :math:`Y_2 - O`, kept apart so that it has relative accuracy (E10).

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Weights
    >>> Weights(0.5, 0.25, 0.125).spread
    0.125
    """

    y2: Number
    excess: Number
    spread: Number

    def times(self, gap: Number) -> Passed:
        """Parts of a gap that weights with these statistics pass, in the memory of the statistics.

        Parameters
        ----------
        gap : float or array
            Gap of the tokens that attention reads.

        Returns
        -------
        Passed
            Arrays of the broadcast shape.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Weights
        >>> Weights(0.5, 0.25, 0.125).times(2.0)
        Passed(kept=0.5, spread=0.25)
        """
        return Passed(multiplied(self.excess, gap), multiplied(self.spread, gap))


class Response(NamedTuple):
    r"""How attention weights answer to their scores: :math:`P = E\,\mathrm{tr}\,J J'` (E24).

    J is the Jacobian of the softmax, :math:`J_{su} = A_s (\delta_{su} - A_u)`, and J' that of a
    second query whose scores have correlation r = 1 - x. By Price's theorem :math:`s^2 P` is the
    derivative dD/dx of the spread D.

    Attributes
    ----------
    own : float or array
        One query: :math:`Y_2 - 2 Y_3 + Y_{22}`.
    cross : float or array
        Two: :math:`E[\sum A A' - \sum A^2 A' - \sum A A'^2 + (\sum A A')^2]`.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Response
    >>> Response(own=0.5, cross=0.25).own
    0.5
    """

    own: Number
    cross: Number


def opposed(excess: Number, spread: Number, x: Number) -> Number:
    r"""Spread of two queries whose scores have a negative correlation r = 1 - x, within its law.

    The overlap is a power series in r with positive coefficients (Price's theorem, E9), so
    :math:`1/T - O(-r) \le r\,(Y_2 - 1/T)` and :math:`Y_2 - O \le x\,(Y_2 - 1/T)` where x > 1: what
    interpolation and quadrature exceed it by is their error.

    Parameters
    ----------
    excess, spread : float or array
        :math:`Y_2 - 1/T` and :math:`Y_2 - O`.
    x : float or array
        1 - r, in [0, 2].

    Returns
    -------
    float or array
        The spread; `spread` itself where no x exceeds one.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.interface import opposed
    >>> float(opposed(0.25, 0.50001, 2.0)), opposed(0.25, 0.2, 0.9)
    (0.5, 0.2)
    """
    beyond = np.greater(x, 1)
    if not np.any(beyond):
        return spread
    return np.where(beyond, np.minimum(spread, x * excess), spread)


def reduced_beta(beta: Number, state: State) -> Floats:
    r"""Score standard deviation over :math:`\sqrt{\log T}`: :math:`b = \beta\sqrt{q\,gap}` (E3).

    Parameters
    ----------
    beta : float or array
        Inverse temperature.
    state : State
        The tokens that attention reads.

    Returns
    -------
    array
        The reduced inverse temperature; attention freezes at b = sqrt(2) in the limit.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import reduced_beta
    >>> from sigprop.layers.state import State
    >>> float(reduced_beta(3.0, State(1.0, 0.25)))
    1.5
    """
    return np.asarray(beta * np.sqrt(state.q * state.gap))


class Scores(NamedTuple):
    """Scores of exchangeable tokens, by what attention reads.

    Attributes
    ----------
    beta : float or array
        Inverse temperature.
    kernel : State
        The tokens that attention reads.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.interface import Scores
    >>> from sigprop.layers.state import State
    >>> float(Scores(3.0, State(1.0, 0.25)).reduced_beta)
    1.5
    """

    beta: Number
    kernel: State

    @property
    def reduced_beta(self) -> Floats:
        """Standard deviation over sqrt(log T)."""
        return reduced_beta(self.beta, self.kernel)

    @property
    def decorrelation(self) -> Number:
        """One less the correlation of the scores of two queries, gap/q (E9)."""
        return self.kernel.gap / self.kernel.q


@dataclass(frozen=True)
class ExchangeableStats:
    """Statistics of attention over exchangeable tokens, each computed when it is read.

    Parameters
    ----------
    source : Rem
        Where they come from.
    scores : Scores
        The scores.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Limit
    >>> from sigprop.layers.attention.statistics.interface import Scores
    >>> from sigprop.layers.state import State
    >>> float(Limit()(Scores(4.0, State(1.0, 0.5))).passed.kept.round(12))
    0.25
    """

    source: Any
    scores: Scores

    @property
    def reduced_beta(self) -> Floats:
        """Standard deviation of the scores over sqrt(log T)."""
        return self.scores.reduced_beta

    @property
    def entropy_ratio(self) -> Floats:
        """Entropy over log T."""
        ratio = self.source.entropy_ratio(self.scores.reduced_beta, self.scores.decorrelation)
        return np.asarray(ratio)

    @property
    def even(self) -> Number:
        """Weight of uniform attention."""
        return self.source.even  # type: ignore[no-any-return]

    @property
    def passed(self) -> Passed:
        """Parts of the gap that attention passes."""
        return self.source.passed(*self.scores)  # type: ignore[no-any-return]

    @property
    def own(self) -> Number:
        """Mean weight on the own key less that on another."""
        found = self.source.own(self.scores.reduced_beta, self.scores.decorrelation)
        return found  # type: ignore[no-any-return]

    def columns(self) -> dict[str, Floats]:
        """Columns that all statistics follow from."""
        x = np.asarray(self.scores.decorrelation)
        return {"reduced_beta": self.scores.reduced_beta, "decorrelation": x}


class Source:
    """A random energy model as a source of attention statistics."""

    def __call__(self, scores: Scores) -> ExchangeableStats:
        """Statistics of exchangeable tokens."""
        return ExchangeableStats(self, scores)

    def own(self, b: Number, x: Number) -> Number:
        """Mean weight on the own key less that on another: none for random scores."""
        return 0.0

    def response(self, b: Number, x: Number, tilt: int = 0) -> Response:
        """Response of weights to scores; refused where it has no theory."""
        raise AssumptionError("the gradient of scores grows as log T: it needs a finite context")


class Rem(Protocol):
    """A random energy model as attention's map sees it.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Finite, Profile, Rem
    >>> rem: Rem = Profile(Finite(512), 1.0)
    """

    @property
    def even(self) -> Number:
        """Weight of uniform attention, 1/T; zero where it is dropped."""
        ...

    def passed(self, beta: Number, state: State) -> Passed:
        """Parts of the gap that attention at `beta` passes when it reads `state`.

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
        ...

    def entropy_ratio(self, b: Number, x: Number | None = None) -> Floats:
        """Attention entropy over log T, in [0, 1], at b = beta sqrt(q gap).

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.
        x : float or array, optional
            gap/q, where the source depends on it.

        Returns
        -------
        array
            The ratio, in [0, 1].
        """
        ...


class Statistics(Rem, Protocol):
    """A random energy model at any pair (b, x), not only along one line as `Profile`.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Limit, Statistics
    >>> rem: Statistics = Limit()
    """

    def weights(self, b: Number, x: Number) -> Weights:
        """Participation, excess and spread at b = beta sqrt(q gap), x = gap/q = 1 - r.

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.
        x : float or array
            gap/q = 1 - r, r the correlation of the scores of two queries.

        Returns
        -------
        Weights
            Arrays of the broadcast shape.
        """
        ...
