"""From expressions to numbers: numpy functions in forms that keep their digits, or mpmath."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray
from sympy.codegen.cfunctions import expm1, log1p

from sigprop.core.arguments import validated
from sigprop.core.checks import count
from sigprop.core.errors import DomainError
from sigprop.symbolic.symbols import NormalCdf

__all__ = ["compiled", "stable"]

NODES = 24  # Gauss-Legendre, in asin r: the bivariate distribution to 1e-14 for |r| <= 0.95
LOG_CDF = sp.Function("log_ndtr")


@validated
def stable(expression: sp.Expr) -> sp.Expr:
    r"""Identical expression without the cancellations that arise near rank collapse.

    :math:`\sin\theta - \theta\cos\theta = \theta^2 j_1(\theta)`, a spherical Bessel function;
    :math:`e^x - 1` and :math:`\log(1 + x)` by their own functions; powers of the normal
    distribution function through its logarithm.

    Parameters
    ----------
    expression : sympy.Expr
        What to rewrite.

    Returns
    -------
    sympy.Expr
        The same function.

    Examples
    --------
    >>> import sympy as sp
    >>> from sigprop.symbolic.bridge import stable
    >>> x = sp.Symbol("x")
    >>> stable(sp.sin(x) - x * sp.cos(x))
    x**2*jn(1, x)
    """
    out = expression.replace(lambda e: isinstance(e, sp.Derivative), lambda e: e.doit())
    out = out.replace(lambda e: e.is_Pow and isinstance(e.base, NormalCdf), _through_log)
    out = out.replace(lambda e: e.is_Add, _sum_without_cancellation)
    return out.replace(
        lambda e: isinstance(e, sp.log) and e.args[0].is_Add and sp.S.One in e.args[0].args,
        lambda e: log1p(e.args[0] - 1),
    )


def _through_log(power: sp.Expr) -> sp.Expr:
    return sp.exp(power.exp * LOG_CDF(power.base.args[0]))


def _sum_without_cancellation(total: sp.Expr) -> sp.Expr:
    for term in total.args:
        if isinstance(term, sp.exp) and sp.S.NegativeOne in total.args:
            return total - term + 1 + expm1(term.args[0])
        if isinstance(term, sp.sin):
            angle = term.args[0]
            partner = -angle * sp.cos(angle)
            if partner in total.args:
                return total - term - partner + angle**2 * sp.jn(1, angle)
    return total


@validated
def compiled(expression: sp.Expr, *names: str, digits: int | None = None) -> Callable[..., Any]:
    """Numerical function of an expression, common subexpressions computed once.

    Parameters
    ----------
    expression : sympy.Expr
        Closed form: without unevaluated integrals or unknown functions.
    *names : str
        Code names of its symbols, in the order of the function's arguments.
    digits : int, optional
        Work in mpmath with this many digits, and return a float; numpy by default, broadcasting.

    Returns
    -------
    callable
        Function of as many positional arguments.

    Raises
    ------
    DomainError
        If the expression has symbols that are not named.

    Examples
    --------
    >>> from sigprop.symbolic import compiled, critical_beta, symbol
    >>> float(compiled(critical_beta(symbol("q"), symbol("gap")), "q", "gap")(1.0, 0.5))
    2.0
    """
    if digits is not None:
        count("digits", digits, 1, 10_000)
    unknown = {s.name for s in expression.free_symbols} - set(names)
    if unknown:
        raise DomainError("names", names, f"also the symbols {sorted(unknown)}")
    by_name = {s.name: s for s in expression.free_symbols}
    arguments = [by_name.get(name, sp.Symbol(name)) for name in names]
    if digits is not None:
        return _precise(sp.lambdify(arguments, expression, modules="mpmath", cse=True), digits)
    from scipy.special import log_ndtr, ndtr, spherical_jn

    own = {"jn": spherical_jn, "NormalCdf": ndtr, "BivariateCdf": _bivariate, "log_ndtr": log_ndtr}
    function: Callable[..., Any] = sp.lambdify(
        arguments, stable(expression), modules=[own, "scipy", "numpy"], cse=True
    )
    return function


def _precise(function: Callable[..., Any], digits: int) -> Callable[..., float]:
    import mpmath

    def wrapped(*values: float) -> float:
        with mpmath.workdps(digits):
            return float(function(*(mpmath.mpf(v) for v in values)))

    return wrapped


def _bivariate(x: ArrayLike, y: ArrayLike, r: float) -> NDArray[np.float64]:
    """Distribution function of two standard normals: its derivative in r, integrated (Plackett)."""
    from scipy.special import ndtr

    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    total = ndtr(x) * ndtr(y)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    end = np.arcsin(r)
    for node, weight in zip(end * (1 + nodes) / 2, end * weights / (4 * np.pi), strict=True):
        square = (x**2 + y**2 - 2 * x * y * np.sin(node)) / (2 * np.cos(node) ** 2)
        total = total + weight * np.exp(-square)
    return np.asarray(total)
