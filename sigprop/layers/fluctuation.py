"""How the kernels of networks vary, and what one residual branch adds to that (E26a-E26f)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.layers.state import State

__all__ = [
    *("BranchNoise", "Fluctuation", "MatrixNoise", "admissible", "around", "common_part"),
    *("matrix_noise", "moments"),
]


class Fluctuation(NamedTuple):
    """Log-normal law of the kernel of one network.

    Attributes
    ----------
    mean, cov : arrays, shape (2,) and (2, 2)
        Of (log q, log gap) over networks.
    crowding : float
        kappa, variance of pair overlaps in units of gap^2/d (E26f); one for random tokens.
    tokens : array, shape (2,)
        Variation over the tokens of one network, in units of q^2: variance of a squared norm, and
        its covariance with the mean overlap with the others.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.fluctuation import Fluctuation
    >>> Fluctuation(np.zeros(2), np.zeros((2, 2))).centre.q
    np.float64(1.0)
    """

    mean: Floats
    cov: Floats
    crowding: float = 1.0
    tokens: Floats = np.zeros(2)

    @property
    def points(self) -> State:
        """Four sigma points, of shape (4,)."""
        first = np.sqrt(self.cov[0, 0])
        mixed = self.cov[0, 1] / first if first > 0 else 0.0
        factor = np.array([[first, 0], [mixed, np.sqrt(max(self.cov[1, 1] - mixed**2, 0.0))]])
        shift = np.sqrt(2) * np.hstack([factor, -factor])
        return State(*np.exp(self.mean[:, None] + shift))

    @property
    def centre(self) -> State:
        """State at the mean of the logarithms."""
        return State(*np.exp(self.mean))


class BranchNoise(NamedTuple):
    """What one residual branch adds: at the centre, at the points, and its noise.

    All but the points are in units of what the stream becomes, q for p and tokens, gap for the
    rest: so they keep their digits where tokens merge, and scales may be of any size.

    Attributes
    ----------
    p, gap : float
        Common part (squared norm of the mean token over d) and gap.
    points : State
        The branch at the sigma points.
    noise : array, shape (2, 2)
        Covariance over networks of (p, gap), beside that of the last matrix.
    crowding : float
        What it adds to the variance of pair overlaps, times d (E26f).
    kept : float
        Gap whose pairs of tokens stay what they were.
    moved : float
        What their overlaps move by, in units of what the overlaps that enter do (E26f).
    tokens : array, shape (2,)
        As of `Fluctuation`.
    """

    p: float
    gap: float
    points: State
    noise: Floats
    crowding: float = 0.0
    kept: float = 0.0
    moved: float = 0.0
    tokens: Floats = np.zeros(2)


class MatrixNoise(NamedTuple):
    """What one random matrix adds to the spread over networks, in units as of `BranchNoise`.

    Attributes
    ----------
    noise : array, shape (2, 2)
        Covariance over networks of (p, gap).
    tokens : array, shape (2,)
        As of `Fluctuation`.
    crowding : float
        Variance of pair overlaps, times d.
    """

    noise: Floats
    tokens: Floats
    crowding: float


def matrix_noise(
    made: tuple[float, float],
    stay: tuple[float, float],
    tokens: float,
    width: float,
    x: float,
    crowding: float,
    kept: float = 0.0,
    sharing: int = 1,
) -> MatrixNoise:
    r"""Noise of a Gaussian matrix of which d rows make what is added to a stream (E26b).

    Parameters
    ----------
    made, stay : tuple of float
        (p, gap) of what the matrix makes, and of the stream that it is added to.
    tokens : float
        Number of tokens T.
    width : float
        Number of rows d.
    x : float
        Overlap deficit of what the stream becomes.
    crowding : float
        kappa, of the tokens that enter.
    kept : float
        Part of the gap made whose pairs of tokens are those of the stream.
    sharing : int
        Number of heads that repeat the same rows.

    Returns
    -------
    MatrixNoise
        Variances.

    Examples
    --------
    >>> from sigprop.layers.fluctuation import matrix_noise
    >>> matrix_noise((1.0, 0.0), (0.0, 0.0), 64.0, 100.0, 1.0, 1.0, sharing=4).noise[0, 0]
    np.float64(0.08)
    """
    (p_f, gap_f), (p, own) = made, stay
    like = (2 * gap_f**2 + 4 * own * kept) * crowding / width
    apart = (2 * gap_f + 4 * own) * gap_f / tokens
    noise = np.diag([(2 * sharing * p_f + 4 * p) * p_f, apart + like]) / width
    alone = gap_f**2 + 2 * own * gap_f  # of directions apart, over d
    along = 2 * (p_f * gap_f + p * gap_f + own * p_f) * x / width
    fresh = np.array([2 * along + 2 * alone * x**2 / width, along])
    return MatrixNoise(noise, fresh, alone)


def around(state: State, variance: float) -> Fluctuation:
    """Networks whose gaps have the mean of a state, and a given variance of their logarithm.

    Parameters
    ----------
    state : State
        The mean, numbers.
    variance : float
        The variance.

    Returns
    -------
    Fluctuation
        One variance, and none of q.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.fluctuation import around
    >>> from sigprop.layers.state import State
    >>> round(float(np.mean(around(State(1.0, 0.5), 0.1).points.gap)), 12)
    0.5
    """
    law = Fluctuation(
        np.log(np.array([state.q, state.gap], dtype=np.float64)), np.diag([0.0, variance])
    )
    excess = np.log(np.mean(law.points.gap) / state.gap)
    return law._replace(mean=law.mean - [0.0, excess])


def moments(points: State, crowding: float) -> Fluctuation:
    """Law whose sigma points have been moved to `points`."""
    y = np.log(np.stack([np.asarray(v, dtype=np.float64) for v in points]))
    mean = y.mean(axis=1)
    return Fluctuation(mean, (y - mean[:, None]) @ (y - mean[:, None]).T / y.shape[1], crowding)


def admissible(state: State, tokens: Number) -> State:
    """Cap of the gap at q T/(T-1)."""
    return State(state.q, np.minimum(state.gap, np.asarray(state.q) * (tokens / (tokens - 1))))


def common_part(state: State, tokens: Number) -> float:
    """Squared norm of the mean of T tokens over d: p, and what is left of the gap."""
    return float(state.q - state.gap * (1 - 1 / tokens))
