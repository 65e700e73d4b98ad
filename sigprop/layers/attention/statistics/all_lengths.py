r"""Excess overlap of two queries for all numbers of keys at once (E9 with two lengths).

Query t sees n keys and query t' sees n'; c of them are common, and scores on a common key have
correlation r. With F and K the averages of g_1 and of 1 - exp(-e^x) over the private part of a
score (`sigprop.layers.attention.statistics.pairs`), and z the common part,

.. math:: \kappa_g = \mathrm{cov}_z(F, F'), \quad \kappa_k = \mathrm{cov}_z(K, K'), \quad
          J = E F\,E F' + \kappa_g, \quad \lambda = \log\Big(1 + \frac{\kappa_k}{G\,G'}\Big),

.. math:: O - \frac{c}{n n'} = c \iint G^{n-1}\, [\kappa_g + J\,(e^{(c-1)\lambda} - 1)]\,
          G'^{\,n'-1}\,du\,du' .

Both covariances are products of deviations, so that nothing cancels at small s or r; what depends
on s, s' and r alone is computed once for all lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.statistics.quadrature import (
    NARROW,
    Grid,
    averages,
    gaussian_nodes,
)

__all__ = ["excess_overlaps", "mean_key_weights"]

STEP = 0.4  # of u: trapezoid error e^(-pi^2/0.4) = 2e-11
TAIL = 20.0  # -log of the weight that is dropped at the ends of u
Z_STEP = 0.5  # of z: trapezoid error of a Gaussian 5e-35
LINE = 0.03  # step of the line on which averages are splined: relative error 2e-9
REACH = 9.0  # standard deviations of a normal variable that are kept
TILTED = 20.2  # largest z that e^x shifts weight to


class _Side(NamedTuple):
    """One query on the grid of u: step, means over z of F and K, and deviations from them."""

    step: float
    smooth: Floats
    lost: Floats
    smooth_off: Floats
    lost_off: Floats

    @property
    def rest(self) -> Floats:
        """Logarithm of G = 1 - E K."""
        return np.log1p(-np.minimum(self.lost, 1 - 2.0**-53))


def excess_overlaps(
    s: float,
    later: float,
    r: float,
    keys: Floats,
    keys_later: Floats,
    common: Floats | None = None,
) -> Floats:
    """Overlap of two queries less its value c/(n n') without correlation.

    Parameters
    ----------
    s, later : float
        Standard deviations of the scores of the earlier and of the later query, > 0.
    r : float
        Correlation of the two scores on a common key, in [-1, 1].
    keys : array, shape (N,)
        Numbers n >= 2 of keys of the first query.
    keys_later : array, shape (N, M)
        Numbers n' >= 2 of keys of the other query.
    common : array, shape (N,), optional
        Number c of keys that both see, > 0; by default all n.

    Returns
    -------
    array, shape (N, M)
        The excess; relative accuracy 1e-8.

    Notes
    -----
    theory.md E9 with two lengths, as E25 needs it.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics import overlap
    >>> from sigprop.layers.attention.statistics.all_lengths import excess_overlaps
    >>> found = excess_overlaps(2.0, 2.0, 0.5, np.array([64.0]), np.array([[64.0]]))
    >>> bool(abs(found[0, 0] + 1 / 64 - overlap(2.0, 64, 0.5)) < 1e-9)
    True
    """
    lengths = (min(keys.min(), keys_later.min()), max(keys.max(), keys_later.max()))
    apart = np.sqrt(1 - abs(r)) * min(s, later)
    grids = [_grid(value, *lengths, apart) for value in (s, later)]
    shared = np.sqrt(abs(r)) * np.array([s, later * np.sign(r)])
    private = np.sqrt(1 - abs(r)) * np.array([s, later])
    z, weight = _common(np.abs(shared).max(), private.min(), min(g.start[0] for g in grids))
    one, two = (_side(*parts, z, weight) for parts in zip(grids, shared, private, strict=True))
    both = keys if common is None else common
    return one.step * two.step * _sums(one, two, weight, (keys, keys_later, both), r)


def mean_key_weights(s: float, keys: Floats, own: Floats) -> Floats:
    r"""Mean weight, times n, of a key whose score varies more or less than those of the others.

    :math:`E A_1 - 1/n = (n-1) \int G^{n-2} F\, (K_1 - K)\, du`, F, G and K of the others: E6 with
    k = 1 by parts, less its value among equals, so that nothing cancels at small s.

    Parameters
    ----------
    s : float
        Standard deviation of the scores of the other keys, > 0.
    keys : array, shape (N,)
        Numbers n >= 2 of keys.
    own : array, shape (K,)
        Standard deviations of the key's score, > 0.

    Returns
    -------
    array, shape (N, K)
        The weights times n; one among equals.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.all_lengths import mean_key_weights
    >>> mean_key_weights(1.0, np.array([2.0, 8.0]), np.array([1.0])).tolist()
    [[1.0], [1.0]]
    """
    grid = _grid(s, keys.min(), keys.max(), s)
    smooth, lost = averages(grid, np.array([s]), (1,))
    rest = np.log1p(-np.minimum(lost[0], 1 - 2.0**-53))
    own_lost = np.stack([averages(grid, np.array([one]), (1,))[1][0] for one in own.tolist()])
    others = (keys - 1)[:, None]
    density = others * np.exp((others - 1) * rest) * smooth[0, :, 0] * grid.step
    more = keys[:, None] * (density @ (own_lost - lost[0]).T)
    return np.asarray(np.where(more > -0.5, 1 + more, keys[:, None] * (density @ own_lost.T)))


def _sums(
    one: _Side, two: _Side, weight: Floats, lengths: tuple[Floats, Floats, Floats], r: float
) -> Floats:
    """Sum over both grids for each pair of lengths."""
    together = (one.smooth_off * weight) @ two.smooth_off.T
    joint = together + np.outer(one.smooth, two.smooth)
    rest, other = one.rest[:, None], two.rest
    ratio = (one.lost_off * weight) @ two.lost_off.T / np.exp(rest + other)
    low, high = (0.0, np.minimum(-rest, -other)) if r >= 0 else (-36.0, 0.0)
    gain = np.clip(np.log1p(np.maximum(ratio, 2.0**-53 - 1)), low, high)  # rounding has no sign
    out = np.empty(lengths[1].shape)
    for row, n, more, c in zip(out, *lengths, strict=True):
        alone = (n - 1) * rest
        power = (c - 1) * gain
        if (c - 1) * r < 0:
            both = np.expm1(power) * np.exp(alone)
        else:
            both = -np.expm1(-power) * np.exp(np.minimum(alone + power, 0.0))
        seen = np.exp(alone[:, 0]) @ together + np.einsum("uv,uv->v", joint, both)
        row[:] = c * (np.exp(np.outer(more - 1, other)) @ seen)
    return out


def _grid(s: float, least: float, most: float, apart: float) -> Grid:
    """Grid of u that holds the integrand for all lengths in between, `apart` as wide or wider."""
    from scipy.special import ndtri

    log_n = np.log(most)
    typical = log_n + min(s**2 / 2, s * np.sqrt(2 * log_n))
    high = max(typical, s * np.sqrt(2 * (log_n + TAIL)))
    start, stop = -high - TAIL, 4.0 - s * ndtri(np.exp(-TAIL / least))
    step = STEP * max(1.0, min(s / np.sqrt(2 * log_n + 20), 0.7 * apart))
    return Grid(np.array([start]), np.array([step]), int(np.ceil((stop - start) / step)) + 1)


def _common(wide: float, private: float, start: float) -> tuple[Floats, Floats]:
    """Nodes and weights of the common part z of both scores; `wide` is its larger scale."""
    if wide < NARROW:
        return gaussian_nodes()
    step = min(Z_STEP, STEP * max(1.0, private / 2) / wide)
    top = min(TILTED, max(REACH, (REACH * (1 + private) - start) / wide))
    z = np.arange(-top, top + step, step)
    weight = np.exp(-(z**2) / 2)
    return z, weight / weight.sum()


def _side(grid: Grid, common: float, private: float, z: Floats, weight: Floats) -> _Side:
    """Averages over the private part, at u + common * z."""
    step = float(grid.step[0])
    if np.hypot(common, private) < NARROW:
        lines = Grid(grid.start[0] + common * z, np.full(z.size, step), grid.size)
        smooth, lost = averages(lines._replace(start=lines.start[None], step=lines.step[None]),
                                np.array([private]), (1,))  # fmt: skip
        smooth, lost = smooth[0, ..., 0].T, lost[0].T
    else:
        smooth, lost = _splined(grid.points[0][:, None] + common * z, private)
    means = smooth @ weight, lost @ weight
    return _Side(step, *means, smooth - means[0][:, None], lost - means[1][:, None])


def _splined(x: Floats, private: float) -> tuple[Floats, Floats]:
    """F_1 and K at all x, from a spline on a fine line."""
    from scipy.interpolate import CubicSpline

    step = LINE * max(1.0, private / 2)
    low = max(x.min(), -75 - REACH * private) - step
    high = min(x.max(), 7 + REACH * private) + step
    line = Grid(np.array([low]), np.array([step]), int(np.ceil((high - low) / step)) + 1)
    smooth, lost = averages(line, np.array([private]), (1,))
    values = CubicSpline(line.points[0], np.stack([smooth[0, :, 0], lost[0]], axis=-1))
    found = values(np.clip(x, low, high))
    return found[..., 0], found[..., 1]
