"""Roots of many functions at once, by inverse interpolation in brackets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Bools, Floats, Ints

__all__ = ["Roots", "first_crossing", "refined", "refined_from"]

INNER = 3  # points inside a bracket, called together: a few cost little more than one
POINTS = 4  # through which the inverse is interpolated
CLOSE = 1e-15  # width of a bracket, over one plus the size of its root
FLAT = 1e-10  # size of a function near its root
SPREAD = 0.02  # of three points about a root of functions that are nearly the same
ABSENT = 1e100  # value of a point without weight: interpolation of the inverse passes over it
NEAR = 1e-5  # size from which on the next interpolation is trusted if two orders of it agree
MOST = 200  # steps

Function = Callable[[Floats, Ints], Floats]


class Roots(NamedTuple):
    """Roots, and how they were found.

    Attributes
    ----------
    x, value : arrays, shape (N,)
        The roots; the functions there at most: at the nearest points that were called, or by how
        much two orders of interpolation differ.
    calls : array of int, shape (N,)
        How often each function was called.

    Examples
    --------
    >>> from sigprop.core.numerics.roots import Roots
    >>> Roots(0.5, 0.0, 9).calls
    9
    """

    x: Floats
    value: Floats
    calls: Ints


def first_crossing(values: Floats) -> tuple[Ints, Bools]:
    """Find where functions first rise through zero along a scan.

    Parameters
    ----------
    values : array, shape (S, N)
        Values of N functions.

    Returns
    -------
    before : array of int, shape (N,)
        Place of the last negative value before.
    found : array of bool, shape (N,)
        Whether there is one.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.roots import first_crossing
    >>> before, found = first_crossing(np.array([[-2.0, 1.0], [-1.0, 2.0], [3.0, 3.0]]))
    >>> before.tolist(), found.tolist()
    ([1, 0], [True, False])
    """
    crossing = (values[:-1] < 0) & (values[1:] >= 0)
    return crossing.argmax(axis=0), np.asarray(crossing.any(axis=0))


def refined(
    function: Function, bracket: tuple[Floats, Floats], values: tuple[Floats, Floats]
) -> Roots:
    """Refine the first roots of functions that rise through zero in brackets.

    A few points inside come first. Each step then takes the cubic of x in the function through its
    four smallest values, or halves the bracket, where the cubic leaves it or the last step has not
    halved the function.

    Parameters
    ----------
    function : callable
        From points, shape (..., M), and the numbers of the functions, shape (M,), to their values.
    bracket : tuple of array, shape (N,)
        Ends of the brackets.
    values : tuple of array, shape (N,)
        Functions there: negative, perhaps infinite, at the first ends, and not at the second.

    Returns
    -------
    Roots
        By one more cubic where functions are below 1e-10 in size, where they are below 1e-5 and the
        quadratic puts the root so near that functions are, where brackets are 1e-15 wide, or after
        200 steps.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.roots import refined
    >>> ends = np.zeros(1), np.full(1, 2.0)
    >>> found = refined(lambda x, which: x**2 - 2, ends, (ends[0] - 2, ends[1]))
    >>> bool(abs(found.x[0] - np.sqrt(2)) < 1e-13), bool(found.calls[0] < 10)
    (True, True)
    """
    return _stepped(function, *_inside(function, bracket, values), INNER)


def refined_from(
    nearly: Function,
    function: Function,
    bracket: tuple[Floats, Floats],
    values: tuple[Floats, Floats],
) -> Roots:
    """Refine the first roots of functions from those of cheaper ones that are nearly the same.

    Parameters
    ----------
    nearly : callable
        As `function`, with roots that are close by.
    function, bracket
        As of `refined`.
    values : tuple of array, shape (N,)
        What `nearly` is at the ends.

    Returns
    -------
    Roots
        As of `refined`, started at three points about the roots of `nearly`; where the functions
        have no root within a width of the bracket, values that are not small.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.roots import refined_from
    >>> ends, nearly = (np.zeros(1), np.full(1, 2.0)), lambda x, which: x**2 - 2.02
    >>> found = refined_from(nearly, lambda x, which: x**2 - 2, ends, (ends[0] - 2, ends[1]))
    >>> bool(abs(found.x[0] - np.sqrt(2)) < 1e-13)
    True
    """
    x, y, low, high = _inside(nearly, bracket, values)
    start, _ = _next(x, y)
    start = np.where((low < start) & (start < high), start, (low + high) / 2)
    xs = start + SPREAD * np.array([-1.0, 0.0, 1.0, 0.0])[:, None]
    ys, wide = np.full_like(xs, ABSENT), bracket[1] - bracket[0]
    ys[:-1] = function(xs[:-1], np.arange(start.size))
    low = np.max(np.where(ys < 0, xs, bracket[0] - wide), axis=0)
    high = np.min(np.where((ys < 0) | (ys == ABSENT), bracket[1] + wide, xs), axis=0)
    return _stepped(function, *_in_order(xs, ys), low, high, 2 * INNER)


def _inside(
    function: Function, bracket: tuple[Floats, Floats], values: tuple[Floats, Floats]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Points and values nearest to the roots, of the ends and a few inside; narrower brackets."""
    every = np.arange(bracket[0].size)
    xs = np.linspace(*bracket, INNER + 2)
    ys = np.stack([values[0], *function(xs[1:-1], every), values[1]])
    before, found = first_crossing(ys)
    low, high = np.where(found, (xs[before, every], xs[before + 1, every]), bracket)
    xs, ys = _in_order(xs, ys)
    return xs[:POINTS], ys[:POINTS], low, high


def _in_order(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Points of each column by the sizes of their values."""
    order = np.abs(y).argsort(axis=0)
    return np.take_along_axis(x, order, axis=0), np.take_along_axis(y, order, axis=0)


def _stepped(
    function: Function, xs: Floats, ys: Floats, low: Floats, high: Floats, called: int
) -> Roots:
    """Step on from points and values in order, and brackets."""
    every = np.arange(low.size)
    calls, halve = np.full(every.size, called), np.zeros(every.size, dtype=bool)
    roots, left = _next(xs, ys)
    for _ in range(MOST):
        wide = high - low > CLOSE * (1 + np.abs(xs[0]))
        index = np.flatnonzero((left > FLAT) & wide & ~np.isnan(ys).any(axis=0))
        if not index.size:
            break
        start, stop, x, y = low[index], high[index], xs[:, index], ys[:, index]
        point = roots[index]
        point = np.where(
            (start < point) & (point < stop) & ~halve[index], point, (start + stop) / 2
        )
        value = function(point, index)
        calls[index] += 1
        low[index], high[index] = np.where(value < 0, (point, stop), (start, point))
        halve[index] = np.abs(value) > np.abs(y[0]) / 2
        points = _in_order(np.stack([*x[:-1], point]), np.stack([*y[:-1], value]))
        xs[:, index], ys[:, index] = points
        roots, left = _next(xs, ys)
    inside = (low <= roots) & (roots <= high)  # once more, without a call
    return Roots(np.where(inside, roots, xs[0]), np.where(inside, left, ys[0]), calls)


def _next(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Roots of the cubics, and the sizes of the functions there, at most."""
    roots, size = _inverse(x, y), np.abs(y[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (y[1] - y[0]) / (x[1] - x[0])
        apart = np.abs(slope * (roots - _inverse(x[:-1], y[:-1])))
    trusted = (size < NEAR) & (y[-1] != ABSENT)
    return roots, np.asarray(np.where(trusted, np.fmin(apart, size), size))


def _inverse(x: Floats, y: Floats) -> Floats:
    """Polynomial of x in y through the points of each column, at y = 0; NaN where y repeats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = -y / (y[:, None] - y)
        at = np.arange(len(y))
        parts[at, at] = 1.0
        return np.asarray(np.sum(x * np.prod(parts, axis=1), axis=0))
