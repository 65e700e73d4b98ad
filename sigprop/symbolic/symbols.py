"""Symbols named as in the code, printed with the letters of the dictionary."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError
from sigprop.core.notation import NOTATION

__all__ = ["BivariateCdf", "NormalCdf", "latex", "normal_density", "symbol"]

REAL = ("rho", "rho0", "score_overlap", "p", "angle_exponent", "depth_scale", "p_grad", "kappa_bar")
NONNEGATIVE = ("sigma_b2", "rho_max", "overlap", "y2", "y3", "y4", "y22", "excess", "spread")


@validated
def symbol(name: str) -> sp.Symbol:
    """Symbol of a code name, with the assumptions of its admissible range.

    Parameters
    ----------
    name : str
        A name of `sigprop.core.notation.NOTATION`.

    Returns
    -------
    sympy.Symbol
        Positive, unless the quantity may vanish (variances of biases) or be negative (overlaps).

    Raises
    ------
    DomainError
        If the dictionary has no such name.

    Examples
    --------
    >>> from sigprop.symbolic import symbol
    >>> symbol("sigma_v2").is_positive
    True
    """
    if name not in NOTATION:
        raise DomainError("name", name, "a code name of sigprop.core.notation")
    if name in REAL:
        return sp.Symbol(name, real=True)
    return (
        sp.Symbol(name, nonnegative=True) if name in NONNEGATIVE else sp.Symbol(name, positive=True)
    )


class NormalCdf(sp.Function):
    """Standard normal distribution function.

    Examples
    --------
    >>> import sympy as sp
    >>> from sigprop.symbolic.symbols import NormalCdf
    >>> y = sp.Symbol("y")
    >>> sp.diff(NormalCdf(y), y)
    sqrt(2)*exp(-y**2/2)/(2*sqrt(pi))
    """

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Differentiate: the density."""
        return normal_density(self.args[0])

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\Phi_N{power}\left({printer._print(self.args[0])}\right)"


class BivariateCdf(sp.Function):
    """Distribution function of two standard normals x, y of correlation r.

    Examples
    --------
    >>> import sympy as sp
    >>> from sigprop.symbolic.symbols import BivariateCdf
    >>> x, y = sp.symbols("x y")
    >>> sp.diff(BivariateCdf(x, y, 0), x)
    sqrt(2)*exp(-x**2/2)*NormalCdf(y)/(2*sqrt(pi))
    """

    nargs = 3

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Differentiate in x, y or r (Plackett 1954: the density)."""
        x, y, r = self.args
        if argindex == 3:
            square = (x**2 - 2 * r * x * y + y**2) / (1 - r**2)
            return sp.exp(-square / 2) / (2 * sp.pi * sp.sqrt(1 - r**2))
        near, far = (x, y) if argindex == 1 else (y, x)
        return normal_density(near) * NormalCdf((far - r * near) / sp.sqrt(1 - r**2))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        inside = ", ".join(printer._print(a) for a in self.args)
        return rf"\Phi_2{power}\left({inside}\right)"


def normal_density(y: sp.Expr) -> sp.Expr:
    """Density of a standard normal at y.

    Parameters
    ----------
    y : sympy.Expr
        Argument.

    Returns
    -------
    sympy.Expr
        The density.

    Examples
    --------
    >>> from sigprop.symbolic.symbols import normal_density
    >>> normal_density(0)
    sqrt(2)/(2*sqrt(pi))
    """
    return sp.exp(-(sp.sympify(y) ** 2) / 2) / sp.sqrt(2 * sp.pi)


def latex(expression: Any) -> str:
    r"""LaTeX with the letters of the dictionary, in macros that GitHub and mathtext both render.

    Parameters
    ----------
    expression : sympy object
        What to print.

    Returns
    -------
    str
        LaTeX without dollar signs.

    Examples
    --------
    >>> from sigprop.symbolic import latex, symbol
    >>> print(latex(symbol("sigma_v2") * symbol("gap")))
    \Delta \sigma_v^2
    """
    names = {s: NOTATION[s.name].symbol for s in _symbols(expression) if s.name in NOTATION}
    names = {s: _closed(letter) for s, letter in names.items()}
    printer = _Printer({"symbol_names": names, "inv_trig_style": "full", "itex": True})
    text: str = printer.doprint(expression)
    return text.replace(r"\operatorname", r"\mathrm")


class _Printer(LatexPrinter):
    """Sums begin with a term that is not negative."""

    def _as_ordered_terms(self, expr: sp.Expr, order: str | None = None) -> list[sp.Expr]:
        terms = super()._as_ordered_terms(expr, order=order)
        return sorted(terms, key=lambda term: bool(term.could_extract_minus_sign()))


def _symbols(expression: Any) -> set[sp.Symbol]:
    return expression.atoms(sp.Symbol) if hasattr(expression, "atoms") else set()


def _closed(letter: str) -> str:
    """Letters that carry an exponent or an operator, in brackets: they may be raised to a power."""
    if " - " in letter:
        return rf"\left({letter}\right)"
    return letter
