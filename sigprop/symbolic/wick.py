r"""Averages of empirical moments of T Gaussian pairs, exactly as rational functions of T.

:math:`\hat m_k = \frac1T \sum_i z_i^k`. A product of n of them is :math:`T^{-n}` times a sum over
n indices; grouping equal indices gives a sum over set partitions, a partition into j blocks
counting T(T-1)...(T-j+1) choices and each block contributing one Gaussian moment (Isserlis 1918).
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import comb, factorial, prod
from typing import Any

import sympy as sp
from sympy.polys.ring_series import rs_log
from sympy.polys.rings import ring

from sigprop.symbolic.symbols import symbol

__all__ = ["log_mean", "log_pair"]

Factor = tuple[int, int]  # powers of z and z' in one empirical moment
RING, BLOCKS, R = ring("y, r", sp.QQ)


@cache
def _gaussian(a: int, b: int) -> Any:
    """E z^a z'^b at correlation r: pairs across, then pairs within each."""
    total = RING(0)
    for j in range(a % 2, min(a, b) + 1, 2):
        if (b - j) % 2 == 0:
            within = prod(range(a - j - 1, 0, -2)) * prod(range(b - j - 1, 0, -2))
            total += comb(a, j) * comb(b, j) * factorial(j) * within * R**j
    return total


@cache
def _partitions(factors: tuple[Factor, ...]) -> Any:
    """Sum over set partitions of the factors: y^blocks times the Gaussian moment of each block."""
    if not factors:
        return RING(1)
    (a, b), rest = factors[0], factors[1:]
    kinds = sorted(set(rest))
    total = RING(0)
    for taken in product(*(range(rest.count(kind) + 1) for kind in kinds)):
        pairs = list(zip(kinds, taken, strict=True))
        block = _gaussian(a + sum(k[0] * n for k, n in pairs), b + sum(k[1] * n for k, n in pairs))
        if block:
            ways = prod(comb(rest.count(kind), n) for kind, n in pairs)
            left = tuple(kind for kind, n in pairs for _ in range(rest.count(kind) - n))
            total += ways * BLOCKS * block * _partitions(left)
    return total


@cache
def _average(factors: tuple[Factor, ...]) -> sp.Expr:
    """E of a product of empirical moments."""
    t, r = symbol("context"), symbol("score_overlap")
    terms = _partitions(tuple(sorted(factors))).terms()
    total = sum(c * sp.ff(t, blocks) * r**power for (blocks, power), c in terms)
    return sp.expand(sp.expand_func(total)) / t ** len(factors)


@cache
def _cumulants(order: int) -> list[list[tuple[tuple[int, ...], sp.Rational]]]:
    """Coefficients of s^k in log of sum_k s^k m_k/k!: monomials in m_1 ... m_order."""
    names = [f"m{k}" for k in range(1, order + 1)]
    domain, s, *moments = ring(["s", *names], sp.QQ)
    series = domain(1)
    for k, moment in enumerate(moments, 1):
        series += s**k * moment / factorial(k)
    out: list[list[tuple[tuple[int, ...], sp.Rational]]] = [[] for _ in range(order + 1)]
    for (power, *exponents), c in rs_log(series, s, order + 1).terms():
        factors = tuple(k for k, n in enumerate(exponents, 1) for _ in range(n))
        out[power].append((factors, sp.Rational(c.numerator, c.denominator)))
    return out


@cache
def log_mean(order: int) -> sp.Expr:
    """Coefficient of s^order in E log Z - log T.

    Parameters
    ----------
    order : int
        Even; the odd ones vanish.

    Returns
    -------
    sympy.Expr
        A rational function of T.

    Examples
    --------
    >>> from sigprop.symbolic.wick import log_mean
    >>> log_mean(2)
    (context - 1)/(2*context)
    """
    monomials = _cumulants(order)[order]
    return sp.factor(sum(c * _average(tuple((k, 0) for k in f)) for f, c in monomials))


@cache
def log_pair(order: int) -> sp.Expr:
    """Coefficient of s^order in E (log Z - log T)(log Z' - log T) of two queries.

    Parameters
    ----------
    order : int
        Even; the odd ones vanish.

    Returns
    -------
    sympy.Expr
        A rational function of T, polynomial in the correlation r of the scores.

    Examples
    --------
    >>> from sigprop.symbolic.wick import log_pair
    >>> log_pair(2)
    score_overlap/context
    """
    total = sp.S.Zero
    for k in range(1, order):
        for (f, c), (g, d) in product(_cumulants(order)[k], _cumulants(order)[order - k]):
            pair = tuple((n, 0) for n in f) + tuple((0, n) for n in g)
            total += c * d * _average(pair)
    return sp.factor(total)
