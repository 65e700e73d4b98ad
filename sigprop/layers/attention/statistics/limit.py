r"""The random energy model in the limit of infinite context: closed forms (E4, E5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Number
from sigprop.core.errors import require
from sigprop.layers.attention.statistics.interface import Passed, Source, Weights
from sigprop.layers.state import State, multiplied, subtracted

__all__ = ["Limit", "critical_beta", "freezing"]

ROOT = float(np.sqrt(2.0))
COLD = 1e-150  # smallest beta sqrt(q) that is told from zero


@validated
def critical_beta(q: ArrayLike, gap: ArrayLike) -> Floats:
    r"""Freezing point :math:`\beta_c = \sqrt{2/(q\,gap)}` of attention (E4).

    Parameters
    ----------
    q, gap : array_like
        Variance and gap of the tokens that attention reads, > 0.

    Returns
    -------
    array
        Critical inverse temperature; above it attention condenses on few keys.

    Raises
    ------
    DomainError
        If q or gap is not positive.

    Notes
    -----
    Derrida (1981); Giorlandino & Goldt, arXiv 2505.24333.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import critical_beta
    >>> float(critical_beta(1.0, 0.5))
    2.0
    """
    q, gap = np.asarray(q, float), np.asarray(gap, float)
    require(q > 0, "q", q, "a number > 0")
    require(gap > 0, "gap", gap, "a number > 0")
    return np.asarray(np.sqrt(2 / (q * gap)))


@validated
def freezing(b: ArrayLike) -> Floats:
    r"""Order parameter :math:`m = \min(1, \beta_c/\beta)` at :math:`b = \beta\sqrt{q\,gap}` (E4).

    Parameters
    ----------
    b : array_like
        Reduced inverse temperature, >= 0; the score standard deviation over sqrt(log T).

    Returns
    -------
    array
        m in (0, 1]; one in the uniform phase.

    Raises
    ------
    DomainError
        If b is negative.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import freezing
    >>> freezing([0.5, 2**1.5]).round(12).tolist()
    [1.0, 0.5]
    """
    b = np.asarray(b, float)
    require(b >= 0, "b", b, "a number >= 0")
    m: Floats = ROOT / np.maximum(b, ROOT)
    return m


@validated
class Limit(Source):
    """Attention statistics at infinite context (E5); overlap vanishes and 1/T is dropped.

    Its error decays as 1/log T (notebooks/accuracy.md).

    Parameters
    ----------
    context : array_like, optional
        Context length, used only to state entropies in nats.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import Limit
    >>> float(round(Limit().weights(2**1.5, 1.0).y2, 12))
    0.5
    """

    even = 0.0

    def __init__(self, context: ArrayLike = np.inf) -> None:
        self.context = np.asarray(context, float)
        require(self.context >= 2, "context", self.context, "a number >= 2, or infinity")

    def weights(self, b: Number, x: Number) -> Weights:
        """Participation, excess and spread at b, whatever x < 1; all three equal 1 - m.

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

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Limit
        >>> float(round(Limit().weights(2**1.5, 1.0).spread, 12))
        0.5
        """
        y2 = 1 - freezing(b)
        return Weights(y2, y2, y2)

    def passed(self, beta: Number, state: State) -> Passed:
        r"""Parts of the gap passed: :math:`gap\,Y_2 = \max(0, gap - \sqrt{2\,gap/q}/\beta)`.

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

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Limit
        >>> from sigprop.layers.state import State
        >>> round(float(Limit().passed(4.0, State(1.0, 0.5)).kept), 12)
        0.25
        """
        frozen = np.asarray(np.sqrt(state.gap))
        scale = ROOT / np.maximum(beta * np.sqrt(state.q), COLD)
        kept = np.asarray(subtracted(multiplied(frozen, scale), state.gap))
        np.maximum(kept, 0.0, out=kept)
        return Passed(kept, kept)

    def entropy_ratio(self, b: Number, x: Number | None = None) -> Floats:
        """H / log T = max(0, 1 - b^2/2).

        Parameters
        ----------
        b : float or array
            Reduced inverse temperature beta sqrt(q gap), >= 0.

        Returns
        -------
        array
            The ratio, in [0, 1].

        Examples
        --------
        >>> from sigprop.layers.attention.statistics import Limit
        >>> float(Limit().entropy_ratio(1.0))
        0.5
        """
        return np.maximum(0.0, 1 - b**2 / 2)
