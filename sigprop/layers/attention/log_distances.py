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
    sizes : array of int, shape (..., B)
        Numbers of keys of blocks beside each other.

    Returns
    -------
    mean, variance : arrays, shape (..., B, B)
        Over pairs of different keys; zero where there are none.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.log_distances import log_moments
    >>> mean, variance = log_moments(np.array([1, 1, 2]))
    >>> np.exp(mean[0]).round(6).tolist()  # the last: the root of 2 times 3
    [1.0, 1.0, 2.44949]
    """
    edges = np.cumsum(np.append(np.zeros_like(sizes[..., :1]), sizes, axis=-1), axis=-1)
    apart = np.abs(edges[..., :, None] - edges[..., None, :])
    sums = _summed(int(edges.max())).take(apart, axis=1)
    near = sums[..., :-1, :-1] + sums[..., 1:, 1:]
    total, pairs = sums[..., 1:, :-1] + sums[..., :-1, 1:] - near, pairs_between(sizes)
    mean, square = np.divide(total, pairs, out=np.zeros_like(total), where=pairs > 0)
    return mean, np.maximum(square - mean * mean, 0.0)


def slope_weights(sizes: Ints) -> tuple[Floats, Floats]:
    """Weights whose sums with a gap are its mean and its slope in log distance.

    The slope is that in the logarithm of distance about its mean over pairs, -1 at distance one.

    Parameters
    ----------
    sizes : array of int, shape (..., B)
        Numbers of keys of each block that queries see, at least two together.

    Returns
    -------
    mean, slope : arrays, shape (..., B, B)
        The weights of each query.

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
    rows = sizes.reshape(-1, sizes.shape[-1])
    held = np.argsort(rows == 0, axis=1, kind="stable")  # blocks that have keys stand first
    back = np.argsort(held, axis=1)
    query = np.arange(len(rows))[:, None, None]
    found = _weights(np.take_along_axis(rows, held, axis=1))
    mean, slope = (part[query, back[:, :, None], back[:, None, :]] for part in found)
    shape = (*sizes.shape, sizes.shape[-1])
    return mean.reshape(shape), slope.reshape(shape)


def _weights(sizes: Ints) -> tuple[Floats, Floats]:
    """Likewise, of blocks of K queries of which those without keys stand last."""
    log, spread = log_moments(sizes)
    share = pairs_between(sizes)
    share /= share.sum(axis=(1, 2), keepdims=True)
    middle = np.sum(share * log, axis=(1, 2), keepdims=True)
    about = log - middle
    slope, square = share * about, np.sum(share * about * about, axis=(1, 2))
    query = np.arange(len(sizes))[:, None]
    for apart in (0, 1):
        later = np.arange(apart, sizes.shape[1])
        part = (1 + apart) * share[:, later, later - apart] * spread[:, later, later - apart]
        rows, columns, weights = _steps(later, apart, sizes)
        run = np.sum(weights * log[query, rows, columns], axis=0)
        held = (run > SMALL) & (part > 0)
        weights *= np.divide(part, run, out=np.zeros_like(part), where=held)
        np.add.at(slope, (query, rows, columns), weights)
        square += np.sum(part * held, axis=1)
    return share, slope * middle / np.maximum(square, SMALL)[:, None, None]


def _steps(later: Ints, apart: int, sizes: Ints) -> tuple[Ints, Ints, Floats]:
    """Pairs of blocks, and their weights in a step to longer distances at one mean position.

    From a block to those beside it, or from two neighbours to those beside them; the last ones
    stand where those before them do. Rows, columns and weights of shape (4, K, .).
    """
    number = np.sum(sizes > 0, axis=1, keepdims=True)
    block = np.minimum(np.clip(later, 1 + apart, np.maximum(number - 2, 1 + apart)), number - 1)
    ahead, other = np.minimum(block + 1, number - 1), np.maximum(block - apart, 0)
    inner = np.stack([np.take_along_axis(sizes, place, axis=1) > 1 for place in (block, other)])
    shared = inner / np.maximum(inner.sum(axis=0), 1.0)
    rows, columns = np.stack([block, ahead, block, other]), np.stack([other, other, block, other])
    columns[0] -= other > 0
    found = np.concatenate([np.full((2, *other.shape), 0.5), -shared])
    return rows, columns, np.where(other < 1, 0.0, found)
