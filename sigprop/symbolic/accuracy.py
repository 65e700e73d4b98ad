"""Expansions as numbers, and where each is accurate."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError, require
from sigprop.symbolic.bridge import compiled
from sigprop.symbolic.expansions import V, Y, expansion

__all__ = ["accurate_to", "estimated_error", "evaluate"]

LINE = np.arange(-9.5, 9.5, 0.05)  # trapezoid rule on |y| <= 9.5, where T <= 1e12 normals lie
SCAN = np.geomspace(1e-3, 1e4, 7001)  # s, in steps of 0.23 %
SAFETY = 1.25  # over the estimate; where tested it was at most 7 % below the true error
MAX_R = 0.95  # |r| up to which the two-dimensional rule resolves the ridge y = v
Floats = NDArray[np.float64]


@validated
def evaluate(
    quantity: str, regime: str, sigma: ArrayLike, context: float, r: float = 0.0
) -> Floats:
    """Value of a truncated expansion.

    Parameters
    ----------
    quantity : {"y2", "entropy", "overlap"}
        Statistic; entropy in nats.
    regime : {"small", "large"}
        Which expansion.
    sigma : array_like
        Score standard deviation s, > 0.
    context : float
        Context length T, in [2, 1e12]; [2, 1e8] for the overlap at large s.
    r : float
        Correlation of the scores of two queries, |r| <= 0.95 (overlap alone).

    Returns
    -------
    array, shape of sigma
        The sum of the terms that are kept.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.symbolic import evaluate
    >>> round(float(evaluate("y2", "small", 0.5, 512) * 512), 6)
    1.282783
    """
    kept, _ = _numbers(quantity, regime, *_checked(context, r))
    return _sum(kept, _scores(sigma))


@validated
def estimated_error(
    quantity: str, regime: str, sigma: ArrayLike, context: float, r: float = 0.0
) -> Floats:
    """Estimated relative error of a truncated expansion.

    The size of the two terms left out, the second continued as a geometric series. Its rate is the
    smaller of two estimates, since one coefficient may happen to be small at some T.

    Parameters
    ----------
    quantity, regime, sigma, context, r
        As in `evaluate`.

    Returns
    -------
    array, shape of sigma
        Relative error; infinite where the terms left out do not decrease.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.symbolic import estimated_error
    >>> bool(estimated_error("y2", "small", 0.5, 512) < 1e-3)
    True
    """
    s = _scores(sigma)
    kept, omitted = _numbers(quantity, regime, *_checked(context, r))
    *_, last = (abs(c) * s**n for n, c in kept.items())
    first, second = (abs(c) * s**n for n, c in omitted.items())
    with np.errstate(divide="ignore", invalid="ignore"):  # a coefficient may vanish at some T
        rate = np.fmin(second / first, np.sqrt(second / last))
        rate = np.where(second > 0, rate, 0.0)
        left = first + second / (1 - rate)
        return np.where(rate < 1, left / np.abs(_sum(kept, s)), np.inf)


@validated
def accurate_to(
    quantity: str, regime: str, context: float, r: float = 0.0, tolerance: float = 0.01
) -> float:
    """Score standard deviation up to which (large s: from which) an expansion is accurate.

    Parameters
    ----------
    quantity, regime, context, r
        As in `evaluate`.
    tolerance : float
        Relative error, 1 % by default.

    Returns
    -------
    float
        s at the end of the range in which the estimated error meets the tolerance, resolved to
        0.23 %.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.symbolic import accurate_to
    >>> 0.8 < accurate_to("y2", "small", 512) < 1.2
    True
    """
    require(0 < tolerance < 1, "tolerance", tolerance, "a number in (0, 1)")
    good = SAFETY * estimated_error(quantity, regime, SCAN, context, r) <= tolerance
    if regime == "large":
        good = good[::-1]
    run = int(np.argmin(good)) if not good.all() else len(good)
    return float((SCAN if regime == "small" else SCAN[::-1])[run - 1])


def _checked(context: float, r: float) -> tuple[float, float]:
    require(2 <= context <= 1e12, "context", context, "a number in [2, 1e12]")
    require(abs(r) <= MAX_R, "r", r, f"a number in [-{MAX_R}, {MAX_R}]")
    return float(context), float(r)


def _scores(sigma: ArrayLike) -> Floats:
    s = np.asarray(sigma, float)
    require(s >= 0, "sigma", s, "a number >= 0")
    return s


def _sum(terms: dict[int, float], s: Floats) -> Floats:
    return np.asarray(sum(c * s**n for n, c in terms.items()))


@cache
def _numbers(
    quantity: str, regime: str, context: float, r: float
) -> tuple[dict[int, float], dict[int, float]]:
    found = expansion(quantity, regime)
    if (quantity, regime) == ("overlap", "large") and context > 1e8:
        raise DomainError("context", context, "a number in [2, 1e8] for the overlap at large s")
    kept, omitted = (
        {n: _number(c, context, r) for n, c in part.items()} for part in (found.kept, found.omitted)
    )
    return kept, omitted


def _number(expression: sp.Expr, context: float, r: float) -> float:
    """Value of a coefficient; its integrals by the trapezoid rule."""
    outer, integrands = _functions(expression)
    step = LINE[1] - LINE[0]
    values = []
    for function, plane in integrands:
        grid = (LINE[:, None], LINE) if plane else (LINE, 0.0)
        values.append(np.sum(function(*grid, context, r)) * (step**2 if plane else step))
    return float(outer(context, r, *values))


@cache
def _functions(
    expression: sp.Expr,
) -> tuple[Callable[..., float], list[tuple[Callable[..., Floats], bool]]]:
    """Compile the function of T, r and the integrals, and integrands; say which are double."""
    integrals = sorted(expression.atoms(sp.Integral), key=str)
    names = [sp.Dummy(f"I{i}") for i in range(len(integrals))]
    rest = expression.subs(dict(zip(integrals, names, strict=True)))
    outer = compiled(rest, "context", "score_overlap", *(n.name for n in names))
    variables = (Y.name, V.name, "context", "score_overlap")
    return outer, [(compiled(i.function, *variables), len(i.limits) == 2) for i in integrals]
