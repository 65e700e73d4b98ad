"""Roots of many functions at once, by inverse interpolation in brackets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Bools, Floats, Ints, Number

__all__ = ["Roots", "first_crossing", "refined", "refined_from"]

INNER = 3  # points inside a bracket, called together: a few cost little more than one
POINTS = 4  # through which the inverse is interpolated
CLOSE = 1e-15  # width of a bracket, over one plus the size of its root
FLAT = 1e-10  # size of a function near its root
NARROW = 0.3  # of a bracket in which functions are cubics
HALVES = 40  # of a bracket, in which the root of a cubic is found
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
    points: Floats | Sequence[Floats],
    values: Floats | Sequence[Floats],
    spread: float,
    flat: Number = FLAT,
) -> Roots:
    """Refine the first roots of functions from those of cheaper ones that are nearly the same.

    Parameters
    ----------
    nearly : callable
        As `function`, with roots that are close by.
    function : callable
        As of `refined`.
    points : array, shape (S, N)
        Where `nearly` is known, increasing: the ends of the brackets of its roots, and neighbours.
    values : array, shape (S, N)
        What it is there; NaN where it is not known after all.
    spread : float
        About how far roots of `function` are from those of `nearly`.
    flat : float or array, shape (N,)
        Size of a function near its root.

    Returns
    -------
    Roots
        As of `refined`, started at three points about the roots of `nearly`, which are those of
        cubics, through three more points if any bracket is wide; where the functions have no root
        within a width of the bracket, values that are not small.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.roots import refined_from
    >>> ends, nearly = np.array([[0.0], [2.0]]), lambda x, which: x**2 - 2.02
    >>> found = refined_from(nearly, lambda x, which: x**2 - 2, ends, nearly(ends, None), 0.01)
    >>> bool(abs(found.x[0] - np.sqrt(2)) < 1e-13)
    True
    """
    xs, ys = np.asarray(points), np.asarray(values)
    start, ends = _of_cubic(xs, ys)
    every, wide = np.arange(start.size), ends[1] - ends[0]
    if np.any(wide > NARROW):
        inside = np.linspace(ends[0], ends[1], INNER + 2)[1:-1]
        xs, ys = np.concatenate([xs, inside]), np.concatenate([ys, nearly(inside, every)])
        order = xs.argsort(axis=0)
        start, _ = _of_cubic(*(np.take_along_axis(v, order, axis=0) for v in (xs, ys)))
    xs = start + spread * np.array([-1.0, 0.0, 1.0, 0.0])[:, None]
    ys = np.full_like(xs, ABSENT)
    ys[:-1] = function(xs[:-1], every)
    low = np.max(np.where(ys < 0, xs, ends[0] - wide), axis=0)
    high = np.min(np.where((ys < 0) | (ys == ABSENT), ends[1] + wide, xs), axis=0)
    return _stepped(function, *_in_order(xs, ys), low, high, 2 * INNER, flat)


def _of_cubic(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Roots in the first brackets, of cubics through their ends and neighbours, and these ends.

    Without a neighbour the order is less, and the root in the middle where an end is infinite.
    """
    rows = first_crossing(y)[0] + np.array([0, 1, 2, -1])[:, None]
    held = np.clip(rows, 0, len(y) - 1)
    x, y = (np.take_along_axis(v, held, axis=0) for v in (x, y))
    known = (rows == held) & np.isfinite(y)
    last = np.where(known[2], [[2], [3]], [[3], [2]])  # a neighbour that is known comes first
    x, y, known = (np.concatenate([v[:2], np.take_along_axis(v, last, axis=0)])
                   for v in (x, y, known))  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.diff(y, axis=0) / np.diff(x, axis=0)
        bends = np.diff(slopes, axis=0) / (x[2:] - x[:-2])
        third = np.where(known[3], (bends[1] - bends[0]) / (x[3] - x[0]), 0.0)
        second = np.where(known[2], bends[0], 0.0)
        low, high = x[0], x[1]
        for _ in range(HALVES):
            middle = (low + high) / 2
            more = second + (middle - x[2]) * third
            below = y[0] + (middle - x[0]) * (slopes[0] + (middle - x[1]) * more) < 0
            low, high = np.where(below, (middle, high), (low, middle))
    finite = np.isfinite(slopes[0])
    return np.where(finite, (low + high) / 2, (x[0] + x[1]) / 2), x[:2]


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
    function: Function, xs: Floats, ys: Floats, low: Floats, high: Floats, called: int,
    flat: Number = FLAT,
) -> Roots:  # fmt: skip
    """Step on from points and values in order, and brackets."""
    every = np.arange(low.size)
    calls, halve = np.full(every.size, called), np.zeros(every.size, dtype=bool)
    roots, left = _next(xs, ys)
    for _ in range(MOST):
        wide = high - low > CLOSE * (1 + np.abs(xs[0]))
        index = np.flatnonzero((left > flat) & wide & ~np.isnan(ys).any(axis=0))
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
