r"""Regression of a gap on the logarithm of distance, over pairs of keys in blocks (E25e, E25r).

The logarithm of distance varies within a block and between two neighbours. Over their pairs

.. math:: \langle gap\,\log d\rangle = \langle gap\rangle \langle\log d\rangle
          + s\,[\langle\log^2 d\rangle - \langle\log d\rangle^2] ,

with s the slope at one mean position of the two keys: gaps depend on position too, and where tokens
merge more steeply than on distance.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.layers.attention.position_grid import pairs_between

__all__ = ["log_moments", "slope_weights"]

SMALL = 1e-9


@lru_cache(4)
def _summed(longest: int) -> Floats:
    """Add up (n - d) log d and (n - d) log^2 d over d < n, for each n to a length, (2, n+1)."""
    log = np.log(np.maximum(np.arange(longest), 1.0))
    twice = np.cumsum(np.cumsum(np.stack([log, log * log]), axis=1), axis=1)
    return np.concatenate([np.zeros((2, 1)), twice], axis=1)


def log_moments(sizes: Ints) -> tuple[Floats, Floats]:
    """Mean and variance of the logarithm of distance over pairs of keys of two blocks.

    Parameters
    ----------
    sizes : array of int, shape (B,)
        Numbers of keys of blocks beside each other.

    Returns
    -------
    mean, variance : arrays, shape (B, B)
        Over pairs of different keys; zero where there are none.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.log_distances import log_moments
    >>> mean, variance = log_moments(np.array([1, 1, 2]))
    >>> np.exp(mean[0]).round(6).tolist()  # the last: the root of 2 times 3
    [1.0, 1.0, 2.44949]
    """
    edges = np.append(0, np.cumsum(sizes))
    sums = _summed(int(edges[-1]))[:, np.abs(edges[:, None] - edges)]
    near, far = sums[:, :-1, :-1] + sums[:, 1:, 1:], sums[:, 1:, :-1] + sums[:, :-1, 1:]
    pairs = pairs_between(sizes)
    total = far - near
    mean, square = np.divide(total, pairs, out=np.zeros_like(total), where=pairs > 0)
    return mean, np.maximum(square - mean * mean, 0.0)


def slope_weights(sizes: Ints) -> tuple[Floats, Floats]:
    """Weights whose sums with a gap are its mean and its slope in log distance.

    The slope is that in the logarithm of distance about its mean over pairs, -1 at distance one.

    Parameters
    ----------
    sizes : array of int, shape (B,)
        Numbers of keys of each block that a query sees, at least two together.

    Returns
    -------
    mean, slope : arrays, shape (B, B)
        The weights.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.log_distances import log_moments, slope_weights
    >>> sizes = np.array([1, 2, 3])
    >>> log = log_moments(sizes)[0]
    >>> mean, slope = slope_weights(sizes)
    >>> float(np.sum(slope * log) / np.sum(mean * log)).__round__(12)
    1.0
    """
    held = np.flatnonzero(sizes)
    inner = np.ix_(held, held)
    out = np.zeros((2, len(sizes), len(sizes)))
    out[0][inner], out[1][inner] = _weights(sizes[held])
    return out[0], out[1]


def _weights(sizes: Ints) -> tuple[Floats, Floats]:
    """Likewise, of blocks that have keys."""
    log, spread = log_moments(sizes)
    share = pairs_between(sizes)
    share /= share.sum()
    middle = np.sum(share * log)
    about = log - middle
    slope, square = share * about, np.sum(share * about * about)
    for apart in (0, 1):
        later = np.arange(apart, len(sizes))
        part = (1 + apart) * share[later, later - apart] * spread[later, later - apart]
        cells, weights = _steps(later, apart, sizes)
        run = np.sum(weights * log[tuple(cells)], axis=0)
        held = (run > SMALL) & (part > 0)
        weights = weights[:, held] * (part[held] / run[held])
        np.add.at(slope, tuple(cells[:, :, held]), weights)
        square += part[held].sum()
    return share, slope * middle / max(square, SMALL)


def _steps(later: Ints, apart: int, sizes: Ints) -> tuple[Ints, Floats]:
    """Pairs of blocks, and their weights in a step to longer distances at one mean position.

    From a block to those beside it, or from two neighbours to those beside them; the last ones
    stand where those before them do. Cells of shape (2, n, .), and weights (n, .).
    """
    block = np.clip(later, 1 + apart, max(len(sizes) - 2, 1 + apart))
    ahead = np.minimum(block + 1, len(sizes) - 1)
    other = block - apart
    inner = np.stack([sizes[block] > 1, sizes[other] > 1]) / 1.0
    inner /= np.maximum(inner.sum(axis=0), 1.0)
    rows = np.stack([block, ahead, block, other])
    columns = np.stack([other - 1, other, block, other])
    found = np.concatenate([np.full((2, len(later)), 0.5), -inner])
    return np.stack([rows, columns]), np.where(other < 1, 0.0, found)
