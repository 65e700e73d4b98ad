"""Measurements behind circulating rules: small draws, many times, no theory."""

from __future__ import annotations

import math

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.simulation.inputs import sinusoids
from sigprop.simulation.network_numpy import ACTIVATIONS

__all__ = ["layer_gain", "mlp_branch", "own_weight", "score_variance", "sinusoid_kernel", "softmax"]


def layer_gain(
    rng: np.random.Generator, ins: int, outs: int, std: float, activation: str = "linear"
) -> float:
    """Mean square after over before a layer, for unit Gaussian input.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    ins, outs : int
        Size of the matrix.
    std : float
        Standard deviation of its entries.
    activation : str
        What follows it.

    Returns
    -------
    float
        The ratio.
    """
    x = rng.standard_normal((64, ins))
    y = ACTIVATIONS[activation](x @ (std * rng.standard_normal((ins, outs))))  # type: ignore[arg-type]
    return float(np.mean(y.astype(float) ** 2) / np.mean(x**2))


def mlp_branch(rng: np.random.Generator, d: int, hidden: int, frobenius: float) -> float:
    """Mean square of a ReLU MLP whose two matrices have Frobenius norms of a given product.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    d, hidden : int
        Widths.
    frobenius : float
        Product of the norms.

    Returns
    -------
    float
        For input of mean square one.
    """
    first, second = rng.standard_normal((d, hidden)), rng.standard_normal((hidden, d))
    scale = frobenius / (np.linalg.norm(first) * np.linalg.norm(second))
    x = rng.standard_normal((64, d))
    y = np.maximum(x @ first, 0) @ second * scale
    return float(np.mean(y**2) / np.mean(x**2))


def score_variance(rng: np.random.Generator, d: int, rho: float) -> float:
    """Variance over keys of q.k/sqrt d, for unit-gain matrices and tokens of overlap rho.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    d : int
        Width, also of the head.
    rho : float
        Overlap.

    Returns
    -------
    float
        Mean over the queries.
    """
    common, own = rng.standard_normal(d), rng.standard_normal((64, d))
    x = math.sqrt(rho) * common + math.sqrt(1 - rho) * own
    x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    query, key = (x @ rng.standard_normal((d, d)) / math.sqrt(d) for _ in range(2))
    return float((query @ key.T).var(axis=1, ddof=1).mean() / d)


def softmax(rng: np.random.Generator, context: int, std: float, rows: int = 64) -> Floats:
    """Softmax of independent Gaussian scores.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    context : int
        Scores in a row.
    std : float
        Their standard deviation.
    rows : int
        Rows.

    Returns
    -------
    array, shape (rows, context)
        Weights.
    """
    w = np.exp(std * rng.standard_normal((rows, context)))
    return np.asarray(w / w.sum(axis=1, keepdims=True))


def own_weight(rng: np.random.Generator, d: int, context: int) -> float:
    """Mean weight of a token on itself where queries and keys are the tokens themselves.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    d : int
        Width of the head.
    context : int
        Tokens.

    Returns
    -------
    float
        The mean.
    """
    x = rng.standard_normal((context, d))
    x /= np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    w = np.exp(x @ x.T / math.sqrt(d) - math.sqrt(d))
    return float(np.mean(np.diag(w) / w.sum(axis=1)))


def sinusoid_kernel(context: int, width: int) -> Floats:
    """Inner products of sinusoidal positions, over the width.

    Parameters
    ----------
    context, width : int
        Positions and features.

    Returns
    -------
    array, shape (context, context)
        The kernel.
    """
    table = sinusoids(context, width).astype(float)
    return np.asarray(table @ table.T / width)
