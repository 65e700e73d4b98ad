r"""One level with an advantage: queries and keys with an identity part, exactly (E2b, E6b, E9c).

Identity-like attention has :math:`W_Q^\top W_K/\sqrt{d_h} = R + (\gamma \log T/d)\, 1` with R
random as in E1. The identity adds :math:`\gamma \log T\, x_t\cdot x_s/d` to a score: gamma log T q
on a query's own key, gamma log T p on the others. A query sees T random energies of standard
deviation s (E3) of which its own has the advantage

.. math:: \mu = \gamma \log T\; gap .

With :math:`g_k, F_k, C = 1 - G` of `sigprop.layers.attention.statistics.quadrature` every integrand
of E6 has one factor shifted, :math:`M_k(\lambda e^\mu)` or :math:`G(\lambda e^\mu)`, that is u by
mu:

.. math:: E A_1^k = \frac{1}{\Gamma(k)} \int F_k(u+\mu)\, G(u)^{T-1} du, \qquad
          E \sum_{s>1} A_s^k = \frac{T-1}{\Gamma(k)} \int F_k(u)\, G(u)^{T-2}\, G(u+\mu)\, du .

Two queries have their own key each. A pair of queries brings a joint density and a joint
survival to E9, :math:`J(u, u') = E[w w' e^{-\lambda w - \lambda' w'}]` and
:math:`G_2(u, u') = E\,e^{-\lambda w - \lambda' w'}` at corr(z, z') = r, and each own key
shifts one argument of its factor. With key 1 that of the first query and key 2 that of the second,

.. math:: O = \iint \big[2\, J(u+\mu, u')\, G_2(u, u'+\mu)\, G_2^{T-2}
          + (T-2)\, J\, G_2(u+\mu, u')\, G_2(u, u'+\mu)\, G_2^{T-3}\big]\, du\, du' ,

where factors without arguments are at (u, u') and symmetry has counted the first term twice.

Approximation: infinite width. At width d the identity adds a score variance (E3b), which
`sigprop.propagation.stack` counts; the own key's score varies more than the others', which nothing
counts (notebooks/accuracy.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.errors import require
from sigprop.layers.attention.statistics.moments import checked
from sigprop.layers.attention.statistics.pairs import conditional, ends
from sigprop.layers.attention.statistics.quadrature import (
    NARROW,
    Grid,
    averages,
    log_grid,
    survival,
)

__all__ = ["Biased", "biased", "biased_overlap", "critical_gamma", "own_bias"]

CHUNK = 8  # points that share work arrays (about 50 MB)
FAINT = 1e-4  # bias below which its part of the spread is its leading order
KINDS = (0, 1, 2)  # of F_k; 0 is the derivative in k


@dataclass(frozen=True)
class Biased:
    r"""Disorder averages of attention weights of which one has an advantage.

    Attributes
    ----------
    own : array
        Mean weight :math:`E A_1` of that level, in [0, 1].
    y2 : array
        Participation ratio :math:`E \sum_s A_s^2`, that level included.
    entropy : array
        :math:`-E \sum_s A_s \log A_s`, in nats, in [0, log T].
    log_z : array
        :math:`E \log \sum_s e^{a_s}`, in nats.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.biased import biased
    >>> float(round(biased(0.0, 0.0, 8).own, 12))
    0.125
    """

    own: Floats
    y2: Floats
    entropy: Floats
    log_z: Floats


@validated
def biased(sigma: ArrayLike, bias: ArrayLike, context: ArrayLike) -> Biased:
    r"""Softmax attention over T random scores, to one of which a constant is added.

    Parameters
    ----------
    sigma : array_like
        Standard deviation s of the scores (E3), in [0, 1e6].
    bias : array_like
        Advantage mu of the one score, in [-1e6, 1e6]; see `own_bias`.
    context : array_like
        Context length T, in [2, 1e12].

    Returns
    -------
    Biased
        Arrays of the broadcast shape; relative accuracy 1e-11.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Notes
    -----
    theory.md E6b; E8 likewise. Without noise the weight is
    :math:`e^\mu/(e^\mu + T - 1)`, the model of Chen et al., arXiv 2510.05554; without bias the
    random energy model of E6. The entropy is the derivative of the moments at k = 1, and
    :math:`E\log Z = H + s^2 (1 - Y_2) + \mu E A_1` is Stein's lemma.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.biased import biased
    >>> bool(np.isclose(biased(0.0, np.log(511.0), 512).own, 0.5, rtol=1e-12))
    True
    """
    s, t = checked(sigma, context)
    s, mu, t = np.broadcast_arrays(s, np.asarray(bias, float), t)
    require(np.abs(mu) <= 1e6, "bias", mu, "a number in [-1e6, 1e6]")
    flat = np.stack([s.ravel(), mu.ravel(), t.ravel()])
    columns = np.empty((4, s.size))
    for part in (np.flatnonzero(flat[0] < NARROW), np.flatnonzero(flat[0] >= NARROW)):
        for start in range(0, part.size, CHUNK):
            index = part[start : start + CHUNK]
            columns[:, index] = _points(*flat[:, index])
    return Biased(*columns.reshape(4, *s.shape))


def _points(s: Floats, mu: Floats, t: Floats) -> Floats:
    grid = _grid(s, mu, t)
    smooth, lost = averages(grid, s, KINDS)
    shifted, gone = averages(grid._replace(start=grid.start + mu), s, KINDS)
    others = survival(lost, t[:, None] - 1)
    beside = (t[:, None] - 1) * survival(lost, t[:, None] - 2) * survival(gone, 1.0)
    favoured = grid.step * np.sum(shifted * others[..., None], axis=1).T
    rest = grid.step * np.sum(smooth * beside[..., None], axis=1).T
    slope, own, y2 = favoured[0] + rest[0], favoured[1], favoured[2] + rest[2]
    entropy = -np.euler_gamma - slope
    return np.stack([own, y2, entropy, entropy + s**2 * (1 - y2) + mu * own])


def _grid(s: Floats, mu: Floats, t: Floats) -> Grid:
    """Grid of u for Z = w_1 + others: it starts below both, and each alone bounds its end."""
    others, own = log_grid(s, t - 1), log_grid(s, np.ones_like(t))
    ends = [g.start + g.step * (g.size - 1) for g in (others, own)]
    start = np.minimum(others.start, own.start - mu)
    stop = np.minimum(ends[0], ends[1] - mu)
    size = int(np.ceil(np.max((stop - start) / others.step))) + 1
    return Grid(start, others.step, size)


@validated
def biased_overlap(sigma: ArrayLike, bias: ArrayLike, context: ArrayLike, r: ArrayLike) -> Floats:
    r"""Overlap :math:`E \sum_s A_{ts} A_{t's}` of two queries, each with its own key.

    Parameters
    ----------
    sigma, bias, context : array_like
        As in `biased`.
    r : array_like
        Correlation of the two queries' scores on a key, in [-1, 1].

    Returns
    -------
    array
        Overlap, in [0, Y_2]; that of `sigprop.layers.attention.statistics.overlap` at no bias.
        Relative accuracy 1e-9.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Notes
    -----
    theory.md E9c (the formula is at the head of this module). Without
    noise it is :math:`2 a o + (T-2) o^2` for the own weight a and that on another key, o.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.biased import biased_overlap
    >>> round(float(biased_overlap(1.0, 0.0, 64, 0.0)) * 64, 9)
    1.0
    """
    s, t = checked(sigma, context)
    s, mu, t, r_ = np.broadcast_arrays(s, np.asarray(bias, float), t, np.asarray(r, float))
    require(np.abs(mu) <= 1e6, "bias", mu, "a number in [-1e6, 1e6]")
    require(np.abs(r_) <= 1 + 1e-9, "r", r_, "a number in [-1, 1]")
    found = np.vectorize(_overlap_point, otypes=[float])(s, mu, t, np.clip(r_, -1, 1))
    return np.asarray(found, dtype=np.float64)


def _overlap_point(s: float, mu: float, t: float, r: float) -> float:
    window = ends(_grid(np.array([s]), np.array([mu]), np.array([t])))
    found = conditional(s, t, r, window, (0.0, mu))
    mirror = slice(None, None, 1 if r >= 0 else -1)
    (near, lost), (far, gone) = ((smooth[..., 0], lost) for smooth, lost in found.at)

    def joint(one: Floats, two: Floats) -> Floats:
        return np.asarray((one * found.weight) @ two.T[mirror])

    def both(one: Floats, two: Floats) -> Floats:
        return (one @ found.weight)[:, None] + two @ found.weight - joint(one, two)

    plain, shifted = both(lost, lost), survival(both(lost, gone), 1.0)
    own = 2 * joint(far, near) * shifted * survival(plain, t - 2)
    rest = (t - 2) * joint(near, near) * shifted * survival(both(gone, lost), 1.0)
    return float(found.step**2 * np.sum(own + rest * survival(plain, t - 3)))


@validated
def own_bias(gamma: ArrayLike, gap: ArrayLike, context: ArrayLike) -> Floats:
    r"""Advantage of a query's own key, :math:`\mu = \gamma \log T\; gap`.

    Parameters
    ----------
    gamma : array_like
        Identity part: W_Q^T W_K / sqrt(d_h) contains gamma log T / d times the identity.
    gap : array_like
        Gap q - p of the tokens that attention reads, >= 0.
    context : array_like
        Context length T, in [2, 1e12].

    Returns
    -------
    array
        The advantage, in nats.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.biased import own_bias
    >>> float(own_bias(2.0, 0.5, 512).round(3))
    6.238
    """
    strength, width, t = (np.asarray(v, float) for v in (gamma, gap, context))
    require(np.isfinite(strength), "gamma", strength, "a finite number")
    require((width >= 0) & (width < np.inf), "gap", width, "a number >= 0")
    require((t >= 2) & (t <= 1e12), "context", t, "a number in [2, 1e12]")
    return np.asarray(strength * width * np.log(t))


@validated
def critical_gamma(b: ArrayLike, gap: ArrayLike) -> Floats:
    r"""Identity part above which a query attends to its own key alone, at infinite context (E4b).

    .. math:: \gamma_c\, gap = 1 + b^2/2 \;(b \le \sqrt 2), \qquad \sqrt 2\, b \;(b > \sqrt 2).

    Parameters
    ----------
    b : array_like
        Reduced inverse temperature beta sqrt(q gap) of the random part, >= 0.
    gap : array_like
        Gap q - p of the tokens that attention reads, > 0.

    Returns
    -------
    array
        gamma_c; 1/(1 - rho) at b = 0 behind a norm.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Notes
    -----
    b = 0 is the transition of Chen et al., arXiv 2510.05554 (log n scaling); gap -> infinity the
    freezing of the random energy model at b = sqrt 2 (sqrt(log n) scaling), Derrida, Phys. Rev. B
    24, 2613 (1981). Both scalings meet here because mu grows as log T and s as sqrt(log T).

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.biased import critical_gamma
    >>> float(critical_gamma(0.0, 0.25)), float(critical_gamma(1.0, 1.0))
    (4.0, 1.5)
    """
    heat, width = np.asarray(b, float), np.asarray(gap, float)
    require(heat >= 0, "b", heat, "a number >= 0")
    require(width > 0, "gap", width, "a number > 0")
    height = np.where(heat <= np.sqrt(2), 1 + heat**2 / 2, np.sqrt(2) * heat)
    return np.asarray(height / width)
