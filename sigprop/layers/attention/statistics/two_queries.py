r"""Two queries of one head of finite width (E12b).

The queries of two tokens whose scores have correlation r are two Gaussian vectors of d_h
components. Given them, the scores of the keys are independent Gaussian pairs with the Gram matrix
of the two queries, so that what two queries have in common is an average over a Wishart matrix of
d_h degrees of freedom. Sum and difference of the two vectors are independent: with
:math:`U, V \sim \chi^2_{d_h}/d_h` their squared norms and c the cosine of the angle between them,

.. math:: x, x' = \tfrac12[(1+r) U + (1-r) V] \pm \sqrt{1-r^2}\sqrt{U V}\,c, \qquad
          \hat r = \frac{(1+r) U - (1-r) V}{2\sqrt{x x'}},

x and x' multiply the score variances of the two, and :math:`\hat r` is the correlation of their
scores. Gauss quadrature in U, V and c: at :math:`d_h = 1` the cosine is :math:`\pm 1`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number

__all__ = ["HeadPairs", "cosines_of", "head_pairs", "squares"]


class HeadPairs(NamedTuple):
    """Nodes of the average over two queries of one head, along a new first axis.

    Attributes
    ----------
    first, second : arrays, shape (K, ...)
        Factors of the two score variances.
    correlation : array, shape (K, ...)
        Correlation of the two scores.
    weight : array, shape (K,)
        Probabilities.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.two_queries import head_pairs
    >>> head_pairs(16, 0.3).weight.sum().round(12).item()
    1.0
    """

    first: Floats
    second: Floats
    correlation: Floats
    weight: Floats


def head_pairs(head_width: float, r: Number, norms: int = 3, cosines: int = 2) -> HeadPairs:
    """Nodes and weights for the average over two queries of one head (E12b).

    Parameters
    ----------
    head_width : float
        Width of a head, >= 1.
    r : float or array
        Correlation of the scores of the two queries in a head of infinite width, in [-1, 1].
    norms, cosines : int
        Nodes of each squared norm and of the cosine.

    Returns
    -------
    HeadPairs
        `norms`^2 `cosines` nodes.

    Notes
    -----
    theory.md E12b.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.two_queries import head_pairs
    >>> first, second, r, weight = head_pairs(16, 0.3)
    >>> round(float(weight @ first), 12), round(float(weight @ (r * (first * second) ** 0.5)), 12)
    (1.0, 0.3)
    """
    (u, one), (c, two) = squares(head_width, norms), cosines_of(head_width, cosines)
    weight = one[:, None, None] * one[:, None] * two
    axes = (*weight.shape, *[1] * np.ndim(r))
    weight, c = weight.ravel(), np.broadcast_to(c, weight.shape).reshape(-1, *axes[3:])
    both = [np.broadcast_to(v, axes[:3]).reshape(c.shape) for v in (u[:, None, None], u[:, None])]
    total, rest = (1 + np.asarray(r)) * both[0], (1 - np.asarray(r)) * both[1]
    mean, apart = (total + rest) / 2, np.sqrt(total * rest) * c
    first, second = mean + apart, mean - apart
    root, covariance = np.sqrt(first * second), (total - rest) / 2
    correlation = np.divide(covariance, root, out=np.zeros_like(root), where=root > 0)
    return HeadPairs(first, second, np.clip(correlation, -1.0, 1.0), weight)


@cache
def squares(head_width: float, count: int) -> tuple[Floats, Floats]:
    """Nodes and weights of chi^2_n / n: generalised Gauss-Laguerre (Golub & Welsch 1969).

    Parameters
    ----------
    head_width : float
        Degrees of freedom n, >= 1.
    count : int
        How many.

    Returns
    -------
    nodes, weights : arrays, shape (count,)
        Exact for moments up to order 2 count - 1.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.two_queries import squares
    >>> nodes, weights = squares(64, 2)
    >>> round(float(weights @ nodes**2), 12)
    1.03125
    """
    k, shift = np.arange(count, dtype=np.float64), head_width / 2 - 1
    values, probability = _gauss(2 * k + 1 + shift, k[1:] * (k[1:] + shift))
    return values * 2 / head_width, probability


@cache
def cosines_of(head_width: float, count: int) -> tuple[Floats, Floats]:
    """Nodes and weights of the cosine between two directions: Gauss-Gegenbauer.

    Parameters
    ----------
    head_width : float
        Number n of dimensions, >= 1; for one the cosine is +-1.
    count : int
        How many.

    Returns
    -------
    nodes, weights : arrays, shape (count,)
        Exact for moments up to order 2 count - 1.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.two_queries import cosines_of
    >>> nodes, weights = cosines_of(16, 2)
    >>> round(float(weights @ nodes**2), 12)
    0.0625
    """
    k, n = np.arange(2.0, count), head_width
    square = k * (k + n - 3) / ((2 * k + n - 4) * (2 * k + n - 2))
    values, weight = _gauss(np.zeros(count), np.append(1 / n, square)[: count - 1])
    return (values - values[::-1]) / 2, weight


def _gauss(diagonal: Floats, square: Floats) -> tuple[Floats, Floats]:
    """Gauss quadrature from a Jacobi matrix, by its eigenvectors."""
    off = np.sqrt(square)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return values, vectors[0] ** 2
