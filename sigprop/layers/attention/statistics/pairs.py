r"""Two queries at finite context length: overlap and spread of attention, exactly (E9).

Scores of the two queries have correlation r. Split them into a common and two private parts,
:math:`z = \sqrt r\, c + \sqrt{1-r}\, a`, :math:`z' = \sqrt r\, c + \sqrt{1-r}\, b`. Given c the
queries are independent, so each inner average is one function F of one variable, tabulated once,
and the double integral over (u, u') is a product of matrices with entries
:math:`F(u_i + s\sqrt r\, c_j)`. The grid of c is aligned with that of u: no interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.errors import require
from sigprop.layers.attention.statistics.moments import checked, moments
from sigprop.layers.attention.statistics.quadrature import (
    NARROW,
    STEP,
    Grid,
    averages,
    gaussian_nodes,
    log_grid,
    survival,
)

__all__ = ["conditional", "ends", "excess", "overlap", "response_at_gap", "spread", "spread_at_gap"]

SMALL = 0.3  # sigma below which Y_2 - 1/T is computed as a spread
C_STEP = 0.5  # of c: trapezoid error of a Gaussian, e^(-2 pi^2/h^2) = 5e-35
SERIES = 0.2  # below this s^2 (1 - r) the spread is an integral of its derivative


@validated
def overlap(sigma: ArrayLike, context: ArrayLike, r: ArrayLike) -> Floats:
    r"""Overlap :math:`O(r) = E \sum_s A_{ts} A_{t's}` of the attention of two queries.

    Parameters
    ----------
    sigma, context : array_like
        As in `sigprop.layers.attention.statistics.moments`.
    r : array_like
        Correlation of the two queries' scores, in [-1, 1].

    Returns
    -------
    array
        Overlap, 1/T at r = 0 and Y_2 at r = 1; relative accuracy 1e-10.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Notes
    -----
    theory.md E9. In the limit of infinite context it vanishes for r < 1 (E5).

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import overlap
    >>> float(round(overlap(2.0, 64, 0.0) * 64, 10))
    1.0
    """
    return _each(_overlap_point, sigma, context, r, 0.0)


@validated
def spread(sigma: ArrayLike, context: ArrayLike, r: ArrayLike) -> Floats:
    r"""Spread :math:`D(r) = Y_2 - O(r) = \tfrac12 E \sum_s (A_{ts} - A_{t's})^2` of attention.

    Near r = 1 or s = 0 it is integrated from its derivative (Price's theorem),
    :math:`-dD/dr = s^2 E[\sum A A' - 2 \sum A^2 A' + (\sum A A')^2]`, so that it keeps its
    relative accuracy when D is far below rounding of Y_2.

    Parameters
    ----------
    sigma, context, r : array_like
        As in `overlap`.

    Returns
    -------
    array
        Spread, zero at r = 1; relative accuracy 1e-10.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import spread
    >>> float(round(spread(1e-3, 8, 1 - 1e-9) * 1e15, 6))
    0.109375
    """
    return spread_at_gap(sigma, context, 1 - np.asarray(r, float))


def spread_at_gap(sigma: ArrayLike, context: ArrayLike, gap: ArrayLike) -> Floats:
    """`spread` as a function of 1 - r in [0, 2], which keeps its digits near r = 1.

    Parameters
    ----------
    sigma, context : array_like
        As in `overlap`.
    gap : array_like
        1 - r.

    Returns
    -------
    array
        Spread.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.pairs import spread_at_gap
    >>> round(float(spread_at_gap(1e-6, 2, 1e-14) / 1e-26), 9)
    0.25
    """
    return _each(_spread_point, sigma, context, gap, 1.0)


def response_at_gap(sigma: ArrayLike, context: ArrayLike, gap: ArrayLike) -> Floats:
    r"""Response :math:`E\,\mathrm{tr}\,J J'` of two softmaxes: the spread differentiated, over s^2.

    Parameters
    ----------
    sigma, context : array_like
        As in `overlap`.
    gap : array_like
        1 - r in [0, 2], r the correlation of the two queries' scores.

    Returns
    -------
    array
        Response, :math:`Y_2 - 2 Y_3 + Y_{22}` at zero gap.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.pairs import response_at_gap
    >>> round(float(response_at_gap(0.0, 2, 1.0)), 9)
    0.25
    """
    return _each(_response_point, sigma, context, gap, 1.0)


@validated
def excess(sigma: ArrayLike, context: ArrayLike) -> Floats:
    """Y_2 - 1/T, which is the spread at r = 0, with relative accuracy also at small sigma.

    Parameters
    ----------
    sigma, context : array_like
        As in `sigprop.layers.attention.statistics.moments`.

    Returns
    -------
    array
        Excess participation, s^2 (1 - 1/T)/T for small s.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics import excess
    >>> float(round(excess(1e-6, 4) * 1e12, 6))
    0.1875
    """
    s, t = checked(sigma, context)
    small = s < SMALL
    out = np.empty_like(s)
    out[small] = spread(s[small], t[small], 0.0)
    out[~small] = moments(s[~small], t[~small]).y2 - 1 / t[~small]
    return out


def _each(
    function: Callable[[float, float, float], float],
    sigma: ArrayLike,
    context: ArrayLike,
    r: ArrayLike,
    centre: float,
) -> Floats:
    """Apply a point function over broadcast arguments: each point is its own matrix product."""
    s, t = checked(sigma, context)
    s, t, third = np.broadcast_arrays(s, t, np.asarray(r, float))
    require(np.abs(third - centre) <= 1 + 1e-9, "r", third, "a number in [-1, 1]")
    return np.asarray(np.vectorize(function, otypes=[float])(s, t, third), dtype=np.float64)


def _overlap_point(s: float, t: float, r: float) -> float:
    return _pair_sums(s, t, min(max(r, -1.0), 1.0))[0]


def _spread_point(s: float, t: float, gap: float) -> float:
    if s**2 * gap > SERIES:
        return float(moments(s, t).y2) - _overlap_point(s, t, 1 - gap)
    x, weight = np.polynomial.legendre.leggauss(5)
    slopes = [_response_point(s, t, gap * (1 + node) / 2) for node in x]
    return float(s**2 * gap * np.dot(weight, slopes) / 2)


def _response_point(s: float, t: float, gap: float) -> float:
    if gap == 0:
        one = moments(s, t)
        return float(one.y2 - 2 * one.y3 + one.y22)
    return float(np.dot(_pair_sums(s, t, max(1 - gap, -1.0)), (1, -2, 1)))


def _pair_sums(s: float, t: float, r: float) -> tuple[float, float, float]:
    r"""E of :math:`\sum A A'`, :math:`\sum A^2 A'` and :math:`(\sum A A')^2`."""
    first, second, lost, weight, step = _conditional(s, t, r)
    mirror = slice(None, None, 1 if r >= 0 else -1)
    g1, g2 = first * weight, second * weight
    joint = g1 @ first.T[mirror]
    alone = lost @ weight
    both = alone[:, None] + alone - (lost * weight) @ lost.T[mirror]
    others = step**2 * survival(both, t - 1)
    two = step**2 * survival(both, t - 2)
    one_one = t * float(np.vdot(joint, others))
    two_one = t * float(np.vdot(g2 @ first.T[mirror], others))
    same = t * float(np.vdot(g2 @ second.T[mirror], others))
    return one_one, two_one, same + t * (t - 1) * float(np.vdot(joint**2, two))


def _conditional(s: float, t: float, r: float) -> tuple[Floats, Floats, Floats, Floats, float]:
    """F_1, F_2 and C given c, on the grid (u, c), with the weights of c and the step of u."""
    coarse = log_grid(np.array([s]), np.array([t]))
    start, stop = ends(coarse)
    found = conditional(s, t, r, (start, stop))
    (smooth, lost), *_ = found.at
    return smooth[..., 0], smooth[..., 1], lost, found.weight, found.step


def ends(grid: Grid) -> tuple[float, float]:
    """First and last point of the one line of a grid."""
    start = float(grid.start[0])
    return start, start + float(grid.step[0]) * (grid.size - 1)


class Conditional(NamedTuple):
    """F_1 and F_2 (last axis) and C on the grid (u, c) for each shift of u; weights of c."""

    at: list[tuple[Floats, Floats]]
    weight: Floats
    step: float


def conditional(
    s: float, t: float, r: float, window: tuple[float, float], shifts: tuple[float, ...] = (0.0,)
) -> Conditional:
    """Averages over the private part of a score, given the common part c, for u in a window."""
    common, private = s * np.sqrt(abs(r)), s * np.sqrt(1 - abs(r))
    scale = min(s / np.sqrt(2 * np.log(t) + 20), 0.7 * private)
    step = STEP * max(1.0, scale)
    count = int(np.ceil((window[1] - window[0]) / step)) + 1
    if common < NARROW:
        c, weight = gaussian_nodes()
        lines = Grid(window[0] + common * c[:, None], np.full((c.size, 1), step), count)
        return Conditional([_over(lines, shift, private) for shift in shifts], weight, step)
    parts = int(np.ceil(step / min(C_STEP * common, STEP * max(1.0, 0.5 * private))))
    fine = step / parts
    low, high = window[0] + min(shifts), window[1] + max(shifts)
    low, high = _reach(common, private, low, high, r < 0)
    first, last = int(np.floor(low * common / fine)), int(np.ceil(high * common / fine))
    c = fine / common * np.arange(first, last + 1)
    weight = fine / common * np.exp(-(c**2) / 2) / np.sqrt(2 * np.pi)
    line = Grid(
        np.array([window[0] + first * fine]), np.array([fine]), (count - 1) * parts + c.size
    )
    index = parts * np.arange(count)[:, None] + np.arange(c.size)
    tables = [_along(line, shift, private) for shift in shifts]
    return Conditional([(smooth[index], lost[index]) for smooth, lost in tables], weight, step)


def _over(lines: Grid, shift: float, private: float) -> tuple[Floats, Floats]:
    smooth, lost = averages(lines._replace(start=lines.start + shift), np.array([private]), (1, 2))
    return smooth[:, 0].swapaxes(0, 1), lost[:, 0].T


def _along(line: Grid, shift: float, private: float) -> tuple[Floats, Floats]:
    smooth, lost = averages(line._replace(start=line.start + shift), np.array([private]), (1, 2))
    return smooth[0], lost[0]


def _reach(
    common: float, private: float, start: float, stop: float, mirrored: bool
) -> tuple[float, float]:
    """Range of c in which u + common c, +-9 private, meets the window of g for u in [start, stop].

    Normal weights end at 9, shifted by at most 11.2 by the tilt of w^k.
    """
    low = max(-9.0, -(stop + 72.0 + 9 * private) / common)
    high = min(20.2, max(9.0, (6.0 + 9 * private - start) / common))
    return (-max(-low, high), max(-low, high)) if mirrored else (low, high)
