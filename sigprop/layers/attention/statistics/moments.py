r"""One query at finite context length: moments, free energy and entropy, exactly (E6-E8).

With :math:`u = \log\lambda` and the averages :math:`F_k`, :math:`G` of
`sigprop.layers.attention.statistics.quadrature`,

.. math:: Y_k = \frac{T}{\Gamma(k)} \int F_k\, G^{T-1}\, du, \qquad
          Y_{22} = Y_4 + \frac{T(T-1)}{6} \int F_2^2\, G^{T-2}\, du .

The entropy is the derivative of :math:`Y_k` at k = 1, in which nothing cancels (E8b):

.. math:: H = -\partial_k Y_k|_{k=1} = -\gamma - T \int E[x e^{x - e^x}]\, G^{T-1}\, du,
          \quad x = u + s z,

and :math:`E \log Z = H + s^2 (1 - Y_2)` is Stein's lemma (E8) read backwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.errors import require
from sigprop.layers.attention.statistics.quadrature import NARROW, averages, log_grid, survival

__all__ = ["Moments", "checked", "entropy_deficit", "moments"]

CHUNK = 16  # points that share work arrays (about 50 MB)
KINDS = (0, 2, 3, 4)  # of F_k; 0 is the derivative in k


@dataclass(frozen=True)
class Moments:
    r"""Disorder averages of the attention weights of one query.

    Attributes
    ----------
    y2, y3, y4 : array
        Participation ratios :math:`Y_k = E \sum_s A_s^k`, in :math:`[T^{1-k}, 1]`.
    y22 : array
        :math:`E (\sum_s A_s^2)^2`.
    log_z : array
        :math:`E \log \sum_s e^{a_s}`, in nats.
    entropy : array
        :math:`-E \sum_s A_s \log A_s`, in nats, in [0, log T].

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import moments
    >>> float(round(moments(0.0, 512).y2 * 512, 10))
    1.0
    """

    y2: Floats
    y3: Floats
    y4: Floats
    y22: Floats
    log_z: Floats
    entropy: Floats


def checked(sigma: ArrayLike, context: ArrayLike) -> tuple[Floats, Floats]:
    """Both arguments as broadcast arrays, or a `DomainError`."""
    s, t = np.broadcast_arrays(np.asarray(sigma, float), np.asarray(context, float))
    require((s >= 0) & (s <= 1e6), "sigma", s, "a number in [0, 1e6]")
    require((t >= 2) & (t <= 1e12), "context", t, "a number in [2, 1e12]")
    return s, t


@validated
def moments(sigma: ArrayLike, context: ArrayLike) -> Moments:
    """Moments, free energy and entropy of softmax attention over T independent scores.

    Parameters
    ----------
    sigma : array_like
        Standard deviation of the scores (E3), in [0, 1e6].
    context : array_like
        Context length T, in [2, 1e12].

    Returns
    -------
    Moments
        Arrays of the broadcast shape; relative accuracy 1e-12.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Notes
    -----
    theory.md E6-E8; the limit is Derrida, Phys. Rev. B 24, 2613 (1981).

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import moments
    >>> m = moments(sigma=3.532230, context=512)
    >>> round(float(m.y2), 4), round(float(m.entropy), 3)
    (0.249, 2.434)
    """
    s, t = checked(sigma, context)
    flat_s, flat_t = s.ravel(), t.ravel()
    columns = np.empty((6, flat_s.size))
    order = np.argsort(flat_s, kind="stable")
    wide = int(np.searchsorted(flat_s[order], NARROW))
    for part in (order[:wide], order[wide:]):
        for start in range(0, part.size, CHUNK):
            index = part[start : start + CHUNK]
            columns[:, index] = _moments(flat_s[index], flat_t[index])
    return Moments(*columns.reshape(6, *s.shape))


def _moments(s: Floats, t: Floats) -> Floats:
    grid = log_grid(s, t)
    smooth, complement = averages(grid, s, KINDS)
    weight = t * grid.step
    rest = survival(complement, t[:, None] - 1)[..., None]
    slope, y2, y3, y4 = (weight[:, None] * np.sum(smooth * rest, axis=1)).T
    y3, y4 = y3 / 2, y4 / 6
    pairs = np.sum(smooth[..., 1] ** 2 * survival(complement, t[:, None] - 2), axis=1)
    y22 = y4 + weight * (t - 1) / 6 * pairs
    entropy = -np.euler_gamma - slope
    return np.stack([y2, y3, y4, y22, entropy + s**2 * (1 - y2), entropy])


@validated
def entropy_deficit(sigma: ArrayLike, context: ArrayLike) -> Floats:
    r"""Deficit log T - H in nats, with relative accuracy where attention is almost uniform (E8b).

    :math:`\log T - H = s^2 [(1 - Y_2(s)) - \tfrac12 \int_0^1 (1 - Y_2(s \sqrt x)) dx]`.

    Parameters
    ----------
    sigma, context : array_like
        As in `moments`.

    Returns
    -------
    array
        The deficit, of order s^2/2 for small s.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import entropy_deficit
    >>> float(round(entropy_deficit(1e-6, 512) / 1e-12, 6))
    0.499023
    """
    s, t = checked(sigma, context)
    x, weight = np.polynomial.legendre.leggauss(8)
    small = np.minimum(s, NARROW)
    nodes = small[..., None] * np.sqrt((1 + x) / 2)
    mean = (1 - moments(nodes, t[..., None]).y2) @ weight / 2
    exact = moments(s, t)
    series = small**2 * ((1 - exact.y2) - mean / 2)
    return np.where(s < NARROW, series, np.log(t) - exact.entropy)
