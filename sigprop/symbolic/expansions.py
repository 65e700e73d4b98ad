r"""Expansions of finite-context Y_2, H and O in small and in large score standard deviation s.

All come from the random energy model's :math:`F = E \log Z`, :math:`Z = \sum_i e^{s z_i}`:
:math:`Y_2 = 1 - F'/s` and :math:`H = F - s F'` (Stein's lemma, E8), and by Price's theorem
:math:`O = s^{-2}\, \partial_r E \log Z \log Z'`, r the correlation of the scores of two queries.

Small s: log Z is a series in empirical moments of the scores, averaged in `wick`.

Large s: with :math:`\eta_i` independent, centred logarithms of exponential variables,
:math:`F = s\,E \max_i (z_i - \eta_i/s)` (the Gumbel-max trick), so that
:math:`F = s \int [1_{y>0} - \tilde\Phi^T]\, dy` with :math:`\tilde\Phi(y) = E\,\Phi_N(y + \eta/s)`,
and by Hoeffding's formula :math:`O = \partial_r \iint \tilde\Phi_2^T`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import sympy as sp

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError
from sigprop.symbolic import rem
from sigprop.symbolic.collapse import Steps
from sigprop.symbolic.derivation import derivation
from sigprop.symbolic.maps import Attention, State
from sigprop.symbolic.symbols import BivariateCdf, NormalCdf, symbol
from sigprop.symbolic.wick import log_mean, log_pair

__all__ = ["Expansion", "expansion"]

S, T, R = symbol("score_std"), symbol("context"), symbol("score_overlap")
Y, V = sp.symbols("y v", real=True)
EPS = sp.Symbol("epsilon", positive=True)
# powers of s that are kept, then two that are left out and measure the error
POWERS = {
    ("y2", "small"): ((0, 2, 4, 6), (8, 10)),
    ("entropy", "small"): ((0, 2, 4, 6), (8, 10)),
    ("overlap", "small"): ((0, 2, 4), (6, 8)),
    ("y2", "large"): ((0, -1, -3, -4), (-5, -6)),
    ("entropy", "large"): ((-1, -2, -3), (-4, -5)),
    ("overlap", "large"): ((0, -2), (-3, -4)),
}
MEANING = {"y2": "participation ratio", "entropy": "entropy", "overlap": "attention overlap"}


class Expansion(NamedTuple):
    """Truncated expansion in powers of s.

    Attributes
    ----------
    quantity : {"y2", "entropy", "overlap"}
        What is expanded.
    regime : {"small", "large"}
        Small or large s.
    kept, omitted : dict from int to sympy.Expr
        Coefficients, functions of T (and r), by power of s: those of the expansion, and the two
        that follow.

    Examples
    --------
    >>> from sigprop.symbolic import expansion
    >>> expansion("y2", "small").kept[2]
    (context - 1)/context**2
    """

    quantity: str
    regime: str
    kept: dict[int, sp.Expr]
    omitted: dict[int, sp.Expr]

    @property
    def expression(self) -> sp.Expr:
        """The truncated sum."""
        return sp.Add(*(c * S**n for n, c in self.kept.items()))


@validated
def expansion(quantity: str, regime: str) -> Expansion:
    """Expansion of a statistic of finite-context attention.

    Parameters
    ----------
    quantity : {"y2", "entropy", "overlap"}
        Statistic.
    regime : {"small", "large"}
        Small or large score standard deviation.

    Returns
    -------
    Expansion
        Coefficients, derived on first use.

    Raises
    ------
    DomainError
        If there is no such expansion.

    Examples
    --------
    >>> from sigprop.symbolic import expansion
    >>> expansion("overlap", "small").kept[2]
    score_overlap*(context - 1)/context**2
    """
    if (quantity, regime) not in POWERS:
        pairs = ", ".join(" ".join(key) for key in POWERS)
        raise DomainError("expansion", f"{quantity} {regime}", f"one of {pairs}")
    kept, omitted = (
        {n: coefficient(quantity, regime, n) for n in powers} for powers in POWERS[quantity, regime]
    )
    return Expansion(quantity, regime, kept, omitted)


def coefficient(quantity: str, regime: str, power: int) -> sp.Expr:
    """Coefficient of one power of s."""
    if quantity == "overlap":
        pairs = log_pair(power + 2) if regime == "small" else None
        return _pair_coefficient(-power) if pairs is None else sp.factor(sp.diff(pairs, R))
    part = _free_small if regime == "small" else _free_large
    if quantity == "entropy":
        return _scaled(S**power - S * sp.diff(S**power, S), S**power, part(power))
    own = _scaled(-sp.diff(S ** (power + 2), S) / S, S**power, part(power + 2))
    return sp.factor(own + 1) if power == 0 else own


def _scaled(operated: sp.Expr, power: sp.Expr, part: sp.Expr) -> sp.Expr:
    """Multiply what an operator makes of a power of s by the coefficient that stands before it."""
    factor = sp.simplify(operated / power)
    return sp.factor(factor * part) if part.is_rational_function(T) else factor * part


def _free_small(power: int) -> sp.Expr:
    return sp.log(T) if power == 0 else log_mean(power)


@cache
def _smoothing(order: int) -> sp.Expr:
    """E eta^order, eta the centred logarithm of an exponential variable."""
    t = sp.Symbol("t")
    generating = sp.exp(sp.loggamma(1 + t) + sp.EulerGamma * t)
    return sp.expand(sp.series(generating, t, 0, order + 1).removeO()).coeff(t, order) * (
        sp.factorial(order)
    )


@cache
def _free_large(power: int) -> sp.Expr:
    """Coefficient of s^power in F: that of epsilon^(1 - power) in -int G^T, epsilon = 1/s."""
    order = 1 - power
    if order <= 0:  # E max, from int [1_{y>0} - Phi^T] by parts
        return _line(Y * sp.diff(NormalCdf(Y) ** T, Y)) if order == 0 else sp.S.Zero
    smooth = [_smoothing(n) / sp.factorial(n) * sp.diff(NormalCdf(Y), Y, n)
              for n in range(order + 1)]  # fmt: skip
    return _line(-_taylor(lambda g: g**T, smooth))


def _taylor(function: Callable[..., sp.Expr], *series: list[sp.Expr]) -> sp.Expr:
    """Last coefficient in epsilon of a function of series, given by their coefficients."""
    order = len(series[0]) - 1
    names = [[sp.Dummy(f"g{n}", positive=True) for n in range(order + 1)] for _ in series]
    sums = [sum(g * EPS**n for n, g in enumerate(row) if n != 1) for row in names]
    derivative = sp.diff(function(*sums), EPS, order) if order else function(*sums)
    values = {g: c for row, cs in zip(names, series, strict=True)
              for g, c in zip(row, cs, strict=True)}  # fmt: skip
    return (derivative.subs(EPS, 0) / sp.factorial(order)).subs(values)


def _line(integrand: sp.Expr) -> sp.Expr:
    """Integral over the line, with constants in front."""
    constant, rest = sp.powsimp(sp.expand(integrand)).as_independent(Y, as_Add=False)
    return constant * sp.Integral(rest, (Y, -sp.oo, sp.oo)) if rest != 0 else sp.S.Zero


@cache
def _pair_coefficient(order: int) -> sp.Expr:
    """Coefficient of epsilon^order in d/dr iint G_2^T."""
    cdf = [sum(_smoothing(j) * _smoothing(n - j) / (sp.factorial(j) * sp.factorial(n - j))
               * _partial(j, n - j) for j in range(n + 1) if 1 not in (j, n - j))
           for n in range(order + 1)]  # fmt: skip
    integrand = _taylor(lambda g, d: T * g ** (T - 1) * d, cdf, [sp.diff(c, R) for c in cdf])
    plane = ((Y, -sp.oo, sp.oo), (V, -sp.oo, sp.oo))
    constant, rest = integrand.as_independent(Y, V)
    return constant * sp.Integral(rest, *plane)


def _partial(j: int, k: int) -> sp.Expr:
    """Unevaluated, so that the coefficient stays readable."""
    orders = [(v, n) for v, n in ((Y, j), (V, k)) if n]
    return sp.Derivative(BivariateCdf(Y, V, R), *orders) if orders else BivariateCdf(Y, V, R)


def _in_maxima(expression: sp.Expr) -> sp.Expr:
    """Name the integrals that are moments mu_n of the largest of T normals."""
    density = sp.diff(NormalCdf(Y) ** T, Y)
    names = {}
    for integral in expression.atoms(sp.Integral):
        ratio = sp.expand(sp.powsimp(sp.expand(integral.function / density)))
        if ratio.is_polynomial(Y):
            moments = sp.Poly(ratio, Y).terms()
            names[integral] = sum(c * _maximum(n) for (n,), c in moments)
    return expression.subs(names)


def _maximum(power: int) -> sp.Expr:
    return sp.Symbol(f"mu_{power}", positive=True) if power else sp.S.One


def _steps(quantity: str, regime: str, *before: tuple[str, sp.Basic]) -> Steps:
    yield from before
    kept = {n: coefficient(quantity, regime, n) for n in POWERS[quantity, regime][0]}
    shown = {n: c if quantity == "overlap" else _in_maxima(c) for n, c in kept.items()}
    for power, c in shown.items():
        yield f"coefficient of s^{power}", c
    powers = ", ".join(str(n) for n in shown)
    total = sp.Add(*(c * S**n for n, c in shown.items()))
    yield f"expansion in powers {powers} of s", sp.Eq(symbol(quantity), total)


def _free_energy() -> sp.Expr:
    return sp.log(T) + sp.Add(*(log_mean(n) * S**n for n in (2, 4, 6)))


@derivation("attention-nonlinear", "attention's gap near collapse: gap^3", "E3, E10")
def attention_nonlinear(std: Callable[..., sp.Expr] = rem.score_std) -> Steps:
    """Leading term of E10 at finite T, from the expansions in small s."""
    q, gap = State.free()
    at = {S: std(q, gap), R: 1 - gap / q}
    y2, overlap = (
        sum(coefficient(name, "small", n) * S**n for n in (0, 2, 4)).subs(at)
        for name in ("y2", "overlap")
    )
    yield "Y_2 - O at small s, with s and r = 1 - gap/q inserted", sp.factor(y2 - overlap)
    out = Attention(lambda q, gap: (y2, overlap))(State(q, gap)).gap
    leading = sp.limit(sp.expand(out / gap**3), gap, 0)
    yield "limit of gap'/gap^3: no linear term, the slope of attention alone is zero", leading
    yield "leading term", sp.Eq(sp.Symbol("Delta'"), sp.factor(leading) * gap**3)


def _largest() -> Steps:
    moment = sp.Integral(Y * sp.diff(NormalCdf(Y) ** T, Y), (Y, -sp.oo, sp.oo))
    yield "mu_n: n-th moment of the largest of T normals; F/s tends to mu_1", moment
    yield "variance of eta, from its generating function", _smoothing(2)


@derivation("y2-small", "participation ratio at small s and any T", "E6, E8")
def y2_small() -> Steps:
    """Y_2 = 1 - F'/s."""
    yield from _steps("y2", "small", ("E log Z to s^6; Y_2 = 1 - F'/s", _free_energy()))


@derivation("entropy-small", "entropy at small s and any T", "E8")
def entropy_small() -> Steps:
    """H = F - s F'."""
    yield from _steps("entropy", "small", ("E log Z to s^6; H = F - s F'", _free_energy()))


@derivation("overlap-small", "attention overlap at small s and any T", "E9")
def overlap_small() -> Steps:
    """O = s^-2 d/dr E log Z log Z'."""
    pair = sp.Add(*(log_pair(n) * S**n for n in (2, 4)))
    text = "E log Z log Z' to s^4, less what r does not enter; O = s^-2 d/dr of it"
    yield from _steps("overlap", "small", (text, pair))


@derivation("y2-large", "participation ratio at large s and any T", "E6, E8")
def y2_large() -> Steps:
    """Y_2 = 1 - F'/s with F = s mu_1 + ..."""
    yield from _steps("y2", "large", *_largest())


@derivation("entropy-large", "entropy at large s and any T", "E8")
def entropy_large() -> Steps:
    """H = F - s F'; s mu_1 drops out."""
    yield from _steps("entropy", "large", *_largest())


@derivation("overlap-large", "attention overlap at large s and any T, r < 1", "E9")
def overlap_large() -> Steps:
    """Probability that two queries choose one key, and its correction."""
    variance = ("variance of eta, from its generating function", _smoothing(2))
    yield from _steps("overlap", "large", variance)
