r"""Dual activations :math:`\Phi(q, gap) = E\,\phi(u_1)\phi(u_2)` as expressions (E16, E17)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import sympy as sp

__all__ = ["ABSTRACT", "KERNELS", "Kernel", "angle"]


class Kernel(NamedTuple):
    """A dual activation.

    Attributes
    ----------
    name : str
        Name of the activation.
    dual : callable (q, gap) -> sympy.Expr
        Average of the product at variance q and covariance q - gap.
    drop : callable (q, gap) -> sympy.Expr
        dual(q, 0) - dual(q, gap), in the form without cancellation where there is one.

    Examples
    --------
    >>> from sigprop.symbolic import KERNELS, symbol
    >>> KERNELS["relu"].dual(symbol("q"), 0)
    q/2
    """

    name: str
    dual: Callable[..., sp.Expr]
    drop: Callable[..., sp.Expr]


def _difference(dual: Callable[..., sp.Expr]) -> Callable[..., sp.Expr]:
    return lambda q, gap: dual(q, 0) - dual(q, gap)


def angle(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    """Angle between two preactivations, exact near zero where arccos is not.

    Parameters
    ----------
    q, gap : sympy.Expr
        Variance and gap.

    Returns
    -------
    sympy.Expr
        2 asin sqrt(gap/2q).

    Examples
    --------
    >>> from sigprop.symbolic.kernels import angle
    >>> angle(1, 1)
    pi/2
    """
    return 2 * sp.asin(sp.sqrt(sp.sympify(gap) / (2 * sp.sympify(q))))


def _relu(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    theta = angle(q, gap)
    return q / (2 * sp.pi) * (sp.sin(theta) + (sp.pi - theta) * sp.cos(theta))


def _relu_drop(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    theta = angle(q, gap)
    return gap / 2 - q / (2 * sp.pi) * (sp.sin(theta) - theta * sp.cos(theta))


def _erf(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    return 2 / sp.pi * sp.asin(2 * (q - gap) / (1 + 2 * q))


def _gelu(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    p = q - gap
    a = 1 / (2 * sp.pi * sp.sqrt((1 + q) ** 2 - p**2))
    b = sp.Rational(1, 4) + sp.asin(p / (1 + q)) / (2 * sp.pi)
    return p * b + a * (q**2 + p**2 * (1 - q) / (1 + q))


def _linear(q: sp.Expr, gap: sp.Expr) -> sp.Expr:
    return q - gap


ABSTRACT = Kernel("any", sp.Function("Phi"), _difference(sp.Function("Phi")))
KERNELS = {
    "relu": Kernel("relu", _relu, _relu_drop),
    "erf": Kernel("erf", _erf, _difference(_erf)),
    "gelu": Kernel("gelu", _gelu, _difference(_gelu)),
    "linear": Kernel("linear", _linear, _difference(_linear)),
}
