r"""What the heads of one attention layer differ by over networks and tokens (E26d).

Keys that queries share and the score variance of a head let its participation, overlap and entropy
vary. Heads that share a key read it by queries of their own, of which no two are orthogonal in a
head of finite width. With rotary positions the common part of the keys is a field over positions,
whose strength is one number for all queries that read a key. Everything is found from deviations
from uniform attention, so that it keeps its digits where tokens merge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.key_directions import keys, pull
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.rotation import frequencies
from sigprop.layers.attention.statistics import (
    Finite,
    entropy_variance,
    participation_variance,
    reduced_beta,
)
from sigprop.layers.attention.statistics.coordinates import MAX_GAP
from sigprop.layers.attention.statistics.two_queries import head_pairs
from sigprop.layers.fluctuation import BranchNoise, Fluctuation, common_part, matrix_noise
from sigprop.layers.state import State

__all__ = ["HeadNoise", "branch", "head_noise", "shared_variance"]

STEP = 1e-3  # of log s^2, for derivatives of tabulated statistics


class HeadNoise(NamedTuple):
    """Attention of one head: slopes in log s^2, and variances over tokens and networks.

    Attributes
    ----------
    y2, overlap, entropy : float
        Slopes of the participation ratio, of the overlap of two queries, and of the entropy.
    tokens : float
        Variance of participation over tokens.
    y2_mean, entropy_mean : float
        Variances over networks of the means over tokens and over heads that share a key, times the
        number of these heads, of participation and entropy at a given temperature.
    temperature : float
        Variance of log s^2 over networks.

    Examples
    --------
    >>> from sigprop.layers.attention.head_noise import HeadNoise
    >>> HeadNoise(0.1, 0.05, -0.1, 0.01, 0.005, 0.01, 0.0).temperature
    0.0
    """

    y2: float
    overlap: float
    entropy: float
    tokens: float
    y2_mean: float
    entropy_mean: float
    temperature: float

    def of_means(self, heads: int) -> tuple[float, float]:
        """Variances of the averages of participation and entropy over tokens and heads."""
        y2 = self.temperature * self.y2**2 + self.y2_mean
        entropy = self.temperature * self.entropy**2 + self.entropy_mean
        return y2 / heads, entropy / heads

    def of_kernel(self, p: float, gap: float, heads: int) -> Floats:
        """Covariance of attention's common part and gap, from temperature and shared keys.

        Parameters
        ----------
        p, gap : float
            The gap that attention reads, times the value variance, in units of either.
        heads : int
            Number of heads.

        Returns
        -------
        array, shape (2, 2)
            In the squares of those units.

        Examples
        --------
        >>> from sigprop.layers.attention.head_noise import HeadNoise
        >>> HeadNoise(0.1, 0.05, -0.1, 0.01, 0.005, 0.01, 0.0).of_kernel(1.0, 1.0, 1).tolist()
        [[0.0, 0.0], [0.0, 0.005]]
        """
        rates = np.array([self.overlap * p, (self.y2 - self.overlap) * gap])
        noise = self.temperature * np.outer(rates, rates)
        noise[1, 1] += self.y2_mean * gap**2
        return noise / heads


def head_noise(layer: AttentionNumbers, read: State) -> HeadNoise:
    """Slopes and variances of one head at the state that attention reads.

    Parameters
    ----------
    layer : AttentionNumbers
        The layer, with a width.
    read : State
        What it reads, numbers.

    Returns
    -------
    HeadNoise
        Slopes and variances.

    Examples
    --------
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.head_noise import head_noise
    >>> from sigprop.layers.state import State
    >>> layer = Attention(beta=1.0, sigma_v2=1.0, context=64, width=64)
    >>> found = head_noise(layer, State(1.0, 1e-12))
    >>> 0 < found.y2_mean < found.tokens, bool(found.y2 > 0)
    (True, True)
    """
    assert layer.width is not None
    rem, t = Finite(layer.context), float(np.asarray(layer.context))
    b, x = float(reduced_beta(layer.beta, read)), float(read.gap / read.q)
    s, (y2, spread, deficit) = b * np.sqrt(np.log(t)), _slopes(rem, b, x)
    own = 2 * layer.heads / layer.width + 2 / layer.width  # variance of log s^2 of one query
    rho, turned = max(1 - x, 0.0), 2 * layer.heads * layer.heads_per_key / layer.width
    variances = float(participation_variance(s, t)), float(entropy_variance(s, t))
    one, other = shared_variance(layer, b, x)
    alike = one + (1 - one) / t + (layer.heads_per_key - 1) * other
    alone = own * (1 - rho**2) / t
    return HeadNoise(
        y2=y2,
        overlap=y2 - spread,
        entropy=-deficit,
        tokens=variances[0] + y2**2 * own,
        y2_mean=variances[0] * alike + y2**2 * alone,
        entropy_mean=variances[1] * alike + deficit**2 * alone,
        temperature=own * rho**2 + _turned(layer, rho) ** 2 * turned,
    )


def _turned(layer: AttentionNumbers, rho: float) -> float:
    """Share of the score variance that the rotated common part of the keys makes (E2r)."""
    if layer.rotation is None:
        return 0.0
    t, half = float(layer.context), frequencies(layer.rotation, layer.head_width) / 2
    waves = np.sin(half * t) / (t * np.sin(half))
    kept = float(np.mean(waves**2))  # mean of kappa over pairs of positions
    return rho * (1 - kept) / (1 - rho * kept)


def shared_variance(layer: AttentionNumbers, b: float, x: float) -> tuple[float, float]:
    """Part of the variance of participation that two queries have in common, f^2 (E26d).

    Parameters
    ----------
    layer : AttentionNumbers
        The layer, with a width.
    b : float
        Reduced inverse temperature.
    x : float
        1 - r, r the correlation of the scores of two queries of a head of infinite width.

    Returns
    -------
    one, other : float
        Of two queries of one head, and of two heads that share a key, whose queries are
        independent; averages over their correlation in a head of this width (E12b).

    Examples
    --------
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.head_noise import shared_variance
    >>> layer = Attention(beta=1.0, sigma_v2=1.0, context=64, width=64)
    >>> one, other = shared_variance(layer, 0.5, 0.0)
    >>> round(one, 6), 0.005 < other < 0.02
    (1.0, True)
    """
    rem = Finite(layer.context)

    def square(x: float) -> float:
        first, second, r, weight = head_pairs(layer.head_width or np.inf, 1 - x)
        found = rem.weights(b * (first * second) ** 0.25, np.minimum(1 - r, MAX_GAP))
        lost = np.divide(found.spread, found.excess, out=1 - r, where=np.asarray(found.excess) > 0)
        return float(weight @ (1 - lost) ** 2)

    return square(x), square(1.0)


def _slopes(rem: Finite, b: float, x: float) -> tuple[float, float, float]:
    """Differentiate excess, spread and entropy deficit in log s^2."""
    ends = b * (1 + STEP / 2 * np.array([-1.0, 1.0]))
    found = rem.weights(ends, x)
    values = (found.excess, found.spread, rem.entropy_deficit(ends))
    excess, spread, deficit = (float(np.diff(v)[0]) / (2 * STEP) for v in values)
    return excess, spread, deficit


def branch(
    layer: AttentionNumbers,
    read: State,
    points: State,
    out: tuple[State, State],
    networks: Fluctuation,
    unit: State,
) -> BranchNoise:
    """Find what attention adds to the spread over networks; `out` is what it makes of both."""
    assert layer.width is not None
    (own, moved), found = out, head_noise(layer, read)
    t = float(layer.context)
    level, apart = float(unit.q), float(unit.gap)
    p, gap = common_part(own, t) / level, float(own.gap) / apart
    value = float(layer.sigma_v2 * layer.sigma_o2)
    scale = value * float(read.gap)
    values = matrix_noise(
        *((p, gap), (0.0, 0.0), t, float(layer.width), apart / level, networks.crowding),
        sharing=layer.heads_per_key,
    )
    rem = Finite(layer.context, layer.head_width)
    shift = pull(layer, keys(layer, networks.crowding), points, rem)
    return BranchNoise(
        p,
        gap,
        State(moved.q + value * shift.q, moved.gap + value * shift.gap),
        found.of_kernel(scale / level, scale / apart, layer.heads) + values.noise,
        crowding=values.crowding,
        tokens=np.array([(scale / level) ** 2 * found.tokens / layer.heads, 0.0]) + values.tokens,
    )
