r"""Overlap of two queries that see different numbers of keys, with some in common (E9b).

Query t sees n keys and query t' sees n'; c of them are common, and scores on a common key have
correlation r. With :math:`\lambda = e^u` and the Hermite coefficients
:math:`a_m(u) = E\,h_m(z)\,g_1(u + s z)` and :math:`k_m(u) = E\,h_m(z)\,(1 - e^{-e^{u+sz}})`,

.. math:: O = c \iint J\, G_2^{c-1}\, G^{n-c}\, G'^{\,n'-c}\, du\, du', \quad
          J = \sum_m r^m a_m(u)\,a_m'(u'), \quad
          1 - G_2 = k_0 + k_0' - \sum_m r^m k_m(u)\,k_m'(u') ,

so the coefficients belong to one query alone and every pair costs two small matrix products.
At r = 0 the overlap is c/(n n') exactly, because the mean weight of a key is 1/n. Approximation:
`TERMS` polynomials on `POINTS` points of u (notebooks/accuracy.md).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from os import cpu_count
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.layers.attention.statistics.quadrature import survival

__all__ = ["Queries", "mean_weights", "queries", "shared_excess"]

TERMS = 32
POINTS = 44
TAIL = 13.0  # -log of the weight that is dropped at the ends of u
CHUNK = 128  # pairs that share work arrays (8 MB)
THREADS = min(4, cpu_count() or 1)


class Queries(NamedTuple):
    """What each of P queries contributes to its overlaps with others.

    Attributes
    ----------
    keys : array, shape (P,)
        Number of keys seen, >= 1.
    step : array, shape (P,)
        Step of u.
    smooth, lost : arrays, shape (P, POINTS, TERMS)
        Hermite coefficients of g_1 and of 1 - exp(-e^x) at every u.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.unequal_lengths import queries
    >>> queries(np.array([1.0, 2.0]), np.array([3.0, 5.0])).smooth.shape
    (2, 44, 32)
    """

    keys: Floats
    step: Floats
    smooth: Floats
    lost: Floats


@cache
def _hermite() -> tuple[Floats, Floats]:
    """Trapezoid nodes z, and normal weights times orthonormal Hermite polynomials."""
    z = np.arange(-12.0, 12.01, 0.15)
    rows = [np.ones_like(z), z]
    for m in range(2, TERMS):
        rows.append((z * rows[-1] - np.sqrt(m - 1) * rows[-2]) / np.sqrt(m))
    weight = 0.15 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return z, (np.stack(rows) * weight).T


def queries(sigma: Floats, count: Floats) -> Queries:
    """Hermite coefficients of queries with score standard deviation sigma over `count` keys.

    Parameters
    ----------
    sigma : array, shape (P,)
        Standard deviations of the scores, > 0.
    count : array, shape (P,)
        Numbers of keys, >= 1.

    Returns
    -------
    Queries
        Coefficients on a grid of u that holds all but e^-13 of the integrand.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.unequal_lengths import queries
    >>> q = queries(np.array([1.0]), np.array([8.0]))
    >>> bool(abs(q.lost[0, -1, 0] - 1) < 1e-3)
    True
    """
    u, step = _grid(sigma, count)
    smooth, lost = _averages(u, sigma, TERMS)
    return Queries(count, step, smooth, lost)


def _grid(sigma: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Points u that hold the integrand, shape (P, POINTS), and their step."""
    from scipy.special import ndtri

    log_n = np.log(count)
    typical = log_n + np.minimum(sigma**2 / 2, sigma * np.sqrt(2 * log_n))
    high = np.maximum(typical, sigma * np.sqrt(2 * (log_n + TAIL)))
    start, stop = -high - TAIL, 3.5 - sigma * ndtri(np.exp(-TAIL / count))
    step = (stop - start) / (POINTS - 1)
    return start[:, None] + step[:, None] * np.arange(POINTS), step


def _averages(u: Floats, sigma: Floats, terms: int) -> tuple[Floats, Floats]:
    """Hermite coefficients of g_1(u + s z) and of 1 - exp(-e^(u + s z))."""
    z, basis = _hermite()
    x = np.minimum(u[..., None] + sigma[:, None, None] * z, 6.0)
    w = np.exp(x)
    return np.exp(x - w) @ basis[:, :terms], -np.expm1(-w) @ basis[:, :terms]


def mean_weights(sigma: Floats, count: Floats, ratio: Floats) -> Floats:
    r"""Mean weight of a key whose score varies more or less than those of the others (E6c).

    :math:`E A_1 = \int (n-1)\, G(u)^{n-2}\, E\,g_1(u + s z)\, (1 - G_1(u))\, du`.

    Parameters
    ----------
    sigma : array, shape (P,)
        Standard deviation s of the scores of the other keys, > 0.
    count : array, shape (P,)
        Number n of keys, >= 1.
    ratio : array, shape (P, K)
        Variances of the key's score over that of the others, >= 0.

    Returns
    -------
    array, shape (P, K)
        The weights; 1/n at ratio one.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.unequal_lengths import mean_weights
    >>> one = np.ones((1, 1))
    >>> round(float(mean_weights(one[0], 8 * one[0], one)[0, 0]), 5)
    0.125
    """
    u, step = _grid(sigma, count)
    smooth, lost = (part[..., 0] for part in _averages(u, sigma, 1))
    others = (count - 1)[:, None]
    density = step[:, None] * others * smooth * survival(lost, np.maximum(others - 1, 0.0))
    z, basis = _hermite()
    deviations = (sigma[:, None] * np.sqrt(ratio)).T
    scores = (np.minimum(u[..., None] + s[:, None, None] * z, 6.0) for s in deviations)
    own = [np.sum(density * (-np.expm1(-np.exp(x)) @ basis[:, 0]), axis=1) for x in scores]
    return np.where(others > 0, np.stack(own, axis=-1), 1.0)


def shared_excess(own: Queries, i: Ints, j: Ints, common: Floats, r: Floats) -> Floats:
    r"""Overlap minus its value without correlation, :math:`O(r) - c/(n n')`, of pairs (i, j).

    Parameters
    ----------
    own : Queries
        The queries.
    i, j : arrays of int, shape (N,)
        Which pairs.
    common : array, shape (N,)
        Number of keys that both see, from 0 to the smaller count.
    r : array, shape (N,)
        Correlation of the two scores on a common key, in [-1, 1].

    Returns
    -------
    array, shape (N,)
        The excess; zero where nothing is common, or one query sees one key.

    Notes
    -----
    theory.md E9b.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics import overlap
    >>> from sigprop.layers.attention.statistics.unequal_lengths import queries, shared_excess
    >>> own = queries(np.array([2.0]), np.array([64.0]))
    >>> zero = np.array([0])
    >>> found = shared_excess(own, zero, zero, np.array([64.0]), np.array([0.5]))
    >>> bool(abs(found[0] + 1 / 64 - overlap(2.0, 64, 0.5)) < 1e-6)
    True
    """
    out = np.zeros(len(i))
    live = np.flatnonzero((common > 0) & (own.keys[i] > 1) & (own.keys[j] > 1))
    parts = [live[k : k + CHUNK] for k in range(0, len(live), CHUNK)]

    def fill(part: Ints) -> None:
        out[part] = _pairs(own, i[part], j[part], common[part], r[part])

    with ThreadPoolExecutor(THREADS) as pool:  # numpy releases the interpreter's lock
        list(pool.map(fill, parts))
    return out


def _pairs(own: Queries, i: Ints, j: Ints, common: Floats, r: Floats) -> Floats:
    powers = r[:, None, None] ** np.arange(TERMS)
    smooth, other = own.smooth[i], own.smooth[j].swapaxes(1, 2)
    lost, far = own.lost[i], own.lost[j].swapaxes(1, 2)
    alone, apart = lost[..., :1], far[:, :1]
    both = (lost * powers) @ far
    np.subtract(alone, both, out=both)
    both += apart
    rest = survival(both, common[:, None, None] - 1)
    rest *= survival(alone, (own.keys[i] - common)[:, None, None])
    rest *= survival(apart, (own.keys[j] - common)[:, None, None])
    joint = (smooth * powers) @ other
    total = np.einsum("nuv,nuv->n", joint, rest)
    product = _mean(own, i) * _mean(own, j)  # 1/(n n') with the error of the same quadrature
    found: Floats = common * (own.step[i] * own.step[j] * total - product)
    return found


def _mean(own: Queries, i: Ints) -> Floats:
    """Mean weight of a key, by quadrature."""
    rest = survival(own.lost[i, :, 0], (own.keys[i] - 1)[:, None])
    return np.asarray(own.step[i] * np.sum(own.smooth[i, :, 0] * rest, axis=1))
