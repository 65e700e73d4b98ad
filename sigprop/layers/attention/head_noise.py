r"""What the heads of one attention layer differ by over networks and tokens (E26d).

Keys that queries share and the score variance of a head let its participation, overlap and entropy
vary. Everything is found from deviations from uniform attention, so that it keeps its digits where
tokens merge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.key_directions import keys, pull
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.statistics import (
    Finite,
    entropy_variance,
    participation_variance,
    reduced_beta,
)
from sigprop.layers.fluctuation import BranchNoise, Fluctuation, common_part
from sigprop.layers.state import State

__all__ = ["HeadNoise", "branch", "head_noise"]

STEP = 1e-3  # of log s^2, for derivatives of tabulated statistics


class HeadNoise(NamedTuple):
    """Attention of one head: slopes in log s^2, and variances over tokens and networks.

    Attributes
    ----------
    y2, overlap, entropy : float
        Slopes of the participation ratio, of the overlap of two queries, and of the entropy.
    tokens, entropy_tokens : float
        Variances of participation and entropy over tokens.
    shared : float
        Share of them that queries have in common.
    temperature : float
        Variance of log s^2 over networks.

    Examples
    --------
    >>> from sigprop.layers.attention.head_noise import HeadNoise
    >>> HeadNoise(0.1, 0.05, -0.1, 0.01, 0.02, 0.5, 0.0).temperature
    0.0
    """

    y2: float
    overlap: float
    entropy: float
    tokens: float
    entropy_tokens: float
    shared: float
    temperature: float

    def of_means(self, heads: int) -> tuple[float, float]:
        """Variances of the averages of participation and entropy over tokens and heads."""
        y2 = self.temperature * self.y2**2 + self.shared * self.tokens
        entropy = self.temperature * self.entropy**2 + self.shared * self.entropy_tokens
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
        >>> HeadNoise(0.1, 0.05, -0.1, 0.01, 0.02, 0.5, 0.0).of_kernel(1.0, 1.0, 1).tolist()
        [[0.0, 0.0], [0.0, 0.005]]
        """
        rates = np.array([self.overlap * p, (self.y2 - self.overlap) * gap])
        noise = self.temperature * np.outer(rates, rates)
        noise[1, 1] += self.tokens * self.shared * gap**2
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
    >>> round(found.shared, 6), bool(found.y2 > 0)
    (1.0, True)
    """
    assert layer.width is not None
    rem, t = Finite(layer.context), float(np.asarray(layer.context))
    b, x = float(reduced_beta(layer.beta, read)), float(read.gap / read.q)
    (y2, spread, deficit), known = _slopes(rem, b, x), rem.weights(b, x)
    share = 1 - float(np.divide(known.spread, known.excess)) if known.excess > 0 else 1 - x
    s, factor = b * np.sqrt(np.log(t)), 2 * layer.heads / layer.width + 2 / layer.width
    return HeadNoise(
        y2=y2,
        overlap=y2 - spread,
        entropy=-deficit,
        tokens=float(participation_variance(s, t)) + y2**2 * factor,
        entropy_tokens=float(entropy_variance(s, t)) + deficit**2 * factor,
        shared=share**2 + (1 - share**2) / t,
        temperature=factor * max(1 - x, 0.0) ** 2,
    )


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
    repeated = np.diag([2 * p**2 * (layer.heads_per_key - 1) / layer.width, 0.0])
    rem = Finite(layer.context, layer.head_width)
    shift = pull(layer, keys(layer, networks.crowding), points, rem)
    return BranchNoise(
        p,
        gap,
        State(moved.q + value * shift.q, moved.gap + value * shift.gap),
        found.of_kernel(scale / level, scale / apart, layer.heads) + repeated,
        tokens=np.array([(scale / level) ** 2 * found.tokens / layer.heads, 0.0]),
    )
