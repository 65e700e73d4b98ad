r"""Attention's random energy model as expressions (E1-E9, E12)."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from sigprop.core.arguments import validated
from sigprop.symbolic.symbols import symbol

__all__ = [
    "Statistics",
    "critical_beta",
    "free",
    "freezing",
    "frozen_moments",
    "laplace_moment",
    "laplace_pair",
    "limit",
    "score_std",
    "uniform",
]

Statistics = Callable[[sp.Expr, sp.Expr], tuple[sp.Expr, sp.Expr]]


def free(q: sp.Expr, gap: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Y_2 and O as symbols.

    Parameters
    ----------
    q, gap : sympy.Expr
        State that attention reads; not used.

    Returns
    -------
    tuple of sympy.Expr
        Y_2 and O.

    Examples
    --------
    >>> from sigprop.symbolic.rem import free
    >>> free(1, 1)
    (y2, overlap)
    """
    return symbol("y2"), symbol("overlap")


def uniform(q: sp.Expr, gap: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Y_2 and O of the limit T -> infinity below freezing: both vanish (E5).

    Parameters
    ----------
    q, gap : sympy.Expr
        State that attention reads; not used.

    Returns
    -------
    tuple of sympy.Expr
        Two zeros.

    Examples
    --------
    >>> from sigprop.symbolic.rem import uniform
    >>> uniform(1, 1)
    (0, 0)
    """
    return sp.S.Zero, sp.S.Zero


def limit(q: sp.Expr, gap: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Y_2 and O of the limit T -> infinity in both phases (E4, E5).

    Parameters
    ----------
    q, gap : sympy.Expr
        State that attention reads.

    Returns
    -------
    tuple of sympy.Expr
        1 - m and zero.

    Examples
    --------
    >>> from sigprop.symbolic.rem import limit
    >>> limit(1, 2)
    (1 - Min(1, 1/beta), 0)
    """
    return 1 - freezing(q, gap), sp.S.Zero


def score_std(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    """Score standard deviation: of the part that differs between keys (E3).

    Parameters
    ----------
    q, gap : sympy.Expr
        State that attention reads.

    Returns
    -------
    sympy.Expr
        beta sqrt(log T q gap).

    Examples
    --------
    >>> from sigprop.symbolic.rem import score_std
    >>> score_std(1, 4)
    2*beta*sqrt(log(context))
    """
    return symbol("beta") * sp.sqrt(sp.log(symbol("context")) * q * gap)


@validated
def critical_beta(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    """Freezing point (E4).

    Parameters
    ----------
    q, gap : sympy.Expr
        State that attention reads.

    Returns
    -------
    sympy.Expr
        sqrt(2/(q gap)).

    Examples
    --------
    >>> from sigprop.symbolic.rem import critical_beta
    >>> critical_beta(1, 2)
    1
    """
    return sp.sqrt(2 / (sp.sympify(q) * gap))


def freezing(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    """Order parameter m of freezing (E4).

    Parameters
    ----------
    q, gap : sympy.Expr
        State that attention reads.

    Returns
    -------
    sympy.Expr
        min(1, beta_c/beta).

    Examples
    --------
    >>> from sigprop.symbolic.rem import freezing
    >>> freezing(1, 2)
    Min(1, 1/beta)
    """
    return sp.Min(1, critical_beta(q, gap) / symbol("beta"))


def frozen_moments(m: sp.Expr) -> dict[str, sp.Expr]:
    """Y_2, Y_3, Y_22 of the limit as functions of the order parameter (E5).

    Parameters
    ----------
    m : sympy.Expr
        Order parameter.

    Returns
    -------
    dict
        By code name.

    Examples
    --------
    >>> from sigprop.symbolic.rem import frozen_moments
    >>> frozen_moments(1)["y22"]
    0
    """
    y2 = sp.S.One - m
    return {"y2": y2, "y3": (1 - m) * (2 - m) / 2, "y22": (y2 + 2 * y2**2) / 3}


def laplace_moment(k: sp.Expr, weight: sp.Expr, rest: sp.Expr, variable: sp.Symbol) -> sp.Expr:
    r"""Y_k as an unevaluated Laplace integral (E6).

    Parameters
    ----------
    k : sympy.Expr
        Power of the weights.
    weight : sympy.Expr
        :math:`T M_k(\lambda)`, what all levels contribute.
    rest : sympy.Expr
        :math:`G^{T-1}(\lambda)`, the average over the other levels.
    variable : sympy.Symbol
        :math:`\lambda`.

    Returns
    -------
    sympy.Expr
        Integral over the variable.

    Examples
    --------
    >>> import sympy as sp
    >>> from sigprop.symbolic.rem import laplace_moment
    >>> x = sp.Symbol("x", positive=True)
    >>> laplace_moment(2, sp.exp(-x), 1, x).doit()
    1
    """
    integrand = variable ** (sp.sympify(k) - 1) * weight * rest
    return sp.Integral(integrand, (variable, 0, sp.oo)) / sp.gamma(k)


def laplace_pair(weight: sp.Expr, rest: sp.Expr, variable: sp.Symbol) -> sp.Expr:
    r"""Y_22 - Y_4, the part of two different keys (E7).

    Parameters
    ----------
    weight : sympy.Expr
        :math:`T(T-1) M_2^2`, what all pairs of levels contribute.
    rest : sympy.Expr
        :math:`G^{T-2}`.
    variable : sympy.Symbol
        :math:`\lambda`.

    Returns
    -------
    sympy.Expr
        Integral over the variable.

    Examples
    --------
    >>> import sympy as sp
    >>> from sigprop.symbolic.rem import laplace_pair
    >>> x = sp.Symbol("x", positive=True)
    >>> laplace_pair(sp.exp(-x), 1, x).doit()
    1
    """
    return sp.Integral(variable**3 * weight * rest, (variable, 0, sp.oo)) / 6
