"""What is measured in a random network: single precision in, double precision out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.simulation.inputs import Singles

__all__ = ["ATTENTION", "STREAM", "Attended", "attended", "block_means", "stream"]

STREAM = ("rho", "gap_ratio", "q")
ATTENTION = ("y2", "overlap", "entropy")


def stream(x: Singles) -> Floats:
    """Mean cosine of two tokens, one minus it, and mean square entry.

    Parameters
    ----------
    x : array of float32, shape (..., T, d)
        Tokens.

    Returns
    -------
    array, shape (3, ...)
        In the order of `STREAM`. One minus the cosine is a sum of squares, so that it keeps its
        digits where tokens merge.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation.statistics import stream
    >>> stream(np.array([[2.0, 0.0], [0.0, 2.0]], dtype=np.float32)).tolist()
    [0.0, 1.0, 2.0]
    """
    context, width = x.shape[-2:]
    square, unit = _unit(x)
    # centred on the first token: the others differ from it by little where tokens have merged
    mean = unit[..., :1, :] + (unit - unit[..., :1, :]).mean(axis=-2, keepdims=True)
    unit -= mean
    gap = np.einsum("...ti,...ti->...t", unit, unit).sum(axis=-1, dtype=np.float64) / (context - 1)
    return np.stack([1 - gap, gap, square.mean(axis=-1, dtype=np.float64) / width])


def _unit(x: Singles) -> tuple[Singles, Singles]:
    square = np.einsum("...i,...i->...", x, x)
    return square, x / np.sqrt(square)[..., None]


def block_means(x: Singles, blocks: int) -> Floats:
    """Mean cosine over every pair of position blocks, the diagonal included.

    Parameters
    ----------
    x : array of float32, shape (..., T, d)
        Tokens.
    blocks : int
        Number of blocks, at most T; blocks = T gives the whole kernel.

    Returns
    -------
    array, shape (..., blocks, blocks)
        The means.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation.statistics import block_means
    >>> block_means(np.eye(4, dtype=np.float32), 2).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    unit = _unit(x)[1].astype(np.float64)
    edges = np.linspace(0, x.shape[-2], blocks + 1).round().astype(int)
    sums = np.add.reduceat(unit, edges[:-1], axis=-2) / np.diff(edges)[:, None]
    return np.asarray(sums @ sums.swapaxes(-1, -2))


class Attended(NamedTuple):
    """Softmax of one head, unnormalised, and its statistics.

    Attributes
    ----------
    weights : array of float32, shape (T, T)
        Exponentials of the scores.
    total : array of float32, shape (T,)
        Their sums over the keys.
    statistics : array, shape (3,)
        In the order of `ATTENTION`: mean over queries of sum_s A^2; mean over pairs of queries of
        sum_s A A'; mean over queries of -sum_s A log A.
    """

    weights: Singles
    total: Singles
    statistics: Floats


def attended(scores: Singles, work: Singles) -> Attended:
    """Softmax over the keys, in the memory of `work`, measured on the way.

    Parameters
    ----------
    scores : array of float32, shape (T, T)
        Scores of queries (rows) and keys; overwritten.
    work : array of float32, shape (T, T)
        Room for the exponentials.

    Returns
    -------
    Attended
        Unnormalised weights, their sums, statistics.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation.statistics import attended
    >>> zero = np.zeros((4, 4), dtype=np.float32)
    >>> attended(zero, np.empty_like(zero)).statistics.round(6).tolist()
    [0.25, 0.25, 1.386294]
    """
    scores -= scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores, out=work)
    total = weights.sum(axis=-1)
    count = len(scores)
    square = np.einsum("ts,ts->t", weights, weights) / total**2
    energy = np.einsum("ts,ts->t", weights, scores) / total
    received = np.asarray((1 / total) @ weights, dtype=np.float64)
    y2 = square.sum(dtype=np.float64)
    pairs = (received @ received - y2) / (count * (count - 1))
    entropy = (np.log(total) - energy).mean(dtype=np.float64)
    return Attended(weights, total, np.array([y2 / count, pairs, entropy]))
