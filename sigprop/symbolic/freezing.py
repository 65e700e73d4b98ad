r"""Freezing of attention: thresholds from counting levels, moments from stable jumps (E4, E5, E22).

Of T levels, about :math:`T^{1 - x^2}` have scores near :math:`s x \sqrt{2 \log T}`, x in [-1, 1];
beyond, none. All thresholds follow from where a sum over levels finds its saddle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import sympy as sp

from sigprop.symbolic import rem
from sigprop.symbolic.backward import query_bracket
from sigprop.symbolic.collapse import Steps
from sigprop.symbolic.derivation import derivation
from sigprop.symbolic.symbols import symbol

__all__ = ["level_count", "reduced", "saddle"]

POSITION = sp.Symbol("x", real=True)
B = sp.Symbol("b", positive=True)  # reduced inverse temperature s/sqrt(log T)
N = sp.Symbol("n", positive=True)  # 1 - m
LAMBDA = symbol("laplace")
REM = "Derrida (1981)"
PD = "Mezard, Parisi & Virasoro (1984); Pitman & Yor (1997)"
Std = Callable[[sp.Expr, sp.Expr], sp.Expr]
Integral = Callable[..., sp.Expr]
Moments = dict[str, sp.Expr]


def level_count(position: sp.Expr) -> sp.Expr:
    """Exponent, in units of log T, of the mean number of levels at x; no levels where negative.

    T times the normal density at z = x sqrt(2 log T).

    Parameters
    ----------
    position : sympy.Expr
        x.

    Returns
    -------
    sympy.Expr
        1 - x^2.

    Examples
    --------
    >>> from sigprop.symbolic.freezing import POSITION, level_count
    >>> level_count(POSITION)
    1 - x**2
    """
    log_t = sp.Symbol("log_t", positive=True)
    z = position * sp.sqrt(2 * log_t)
    return sp.expand((log_t - z**2 / 2) / log_t)


def saddle(power: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Position and exponent of the levels that dominate the mean of a sum of w^power.

    Parameters
    ----------
    power : sympy.Expr
        Power of the Boltzmann weights.

    Returns
    -------
    tuple of sympy.Expr
        x, and the exponent of the mean sum in units of log T.

    Examples
    --------
    >>> from sigprop.symbolic.freezing import saddle
    >>> saddle(1)
    (sqrt(2)*b/2, b**2/2 + 1)
    """
    exponent = level_count(POSITION) + power * weight_exponent()
    (position,) = sp.solve(sp.diff(exponent, POSITION), POSITION)
    return position, sp.expand(exponent.subs(POSITION, position))


def weight_exponent() -> sp.Expr:
    """Logarithm of the weight of a level at x, in units of log T."""
    return sp.sqrt(2) * B * POSITION


def reduced(std: Std = rem.score_std) -> sp.Expr:
    """Reduced inverse temperature b of a map of score standard deviations.

    Parameters
    ----------
    std : callable (q, gap) -> sympy.Expr
        E3.

    Returns
    -------
    sympy.Expr
        s / sqrt(log T).

    Examples
    --------
    >>> from sigprop.symbolic.freezing import reduced
    >>> reduced()
    beta*sqrt(gap)*sqrt(q)
    """
    return sp.simplify(std(symbol("q"), symbol("gap")) / sp.sqrt(sp.log(symbol("context"))))


def _threshold(condition: sp.Eq, std: Std) -> tuple[sp.Expr, sp.Expr]:
    """Positive solution b of a condition, and the beta there over beta_c."""
    b = next(root for root in sp.solve(condition, B) if root.is_positive)
    freezes = next(root for root in sp.solve(sp.Eq(saddle(sp.S.One)[0], 1), B) if root.is_positive)
    at = [sp.solve(sp.Eq(reduced(std), value), symbol("beta"))[0] for value in (b, freezes)]
    return b, sp.simplify(at[0] / at[1])


@derivation("critical-beta", "freezing point: the quenched threshold", "E3, E4", REM)
def critical_beta(std: Std = rem.score_std) -> Steps:
    """Where the levels that dominate the partition function cease to exist."""
    position, _ = saddle(sp.S.One)
    yield "number of levels at z = x sqrt(2 log T), as a power of T", level_count(POSITION)
    yield "position x of the levels that dominate Z, b = s/sqrt(log T)", position
    (b,) = sp.solve(sp.Eq(position, 1), B)
    yield "they reach the last level, x = 1, at b", b
    (beta,) = sp.solve(sp.Eq(reduced(std), b), symbol("beta"))
    yield "which is beta, by E3", sp.Eq(symbol("beta_c"), beta)


@derivation("annealed-beta", "annealed threshold beta_c/sqrt(2)", "E4, E6",
            "Cowsik et al., arXiv 2403.02579")  # fmt: skip
def annealed_beta(std: Std = rem.score_std) -> Steps:
    """Where E sum w^2 / (E Z)^2 reaches one."""
    once, twice = saddle(sp.S.One)[1], saddle(sp.Integer(2))[1]
    yield "E Z as a power of T", once
    yield "E sum w^2 as a power of T", twice
    ratio = sp.expand(twice - 2 * once)
    yield "annealed Y_2 = E sum w^2/(E Z)^2, also Var Z/(E Z)^2", ratio
    b, share = _threshold(sp.Eq(ratio, 0), std)
    yield "it reaches one at b", b
    yield "below the freezing point", sp.Eq(symbol("beta"), share * symbol("beta_c"))


@derivation("breakdown-beta", "breakdown of the annealed Y_2: typical beta_c/2", "E4, E6")
def breakdown_beta(std: Std = rem.score_std) -> Steps:
    """Where sum w^2, a partition function at 2 beta, freezes; and where its mean follows."""
    position, _ = saddle(sp.Integer(2))
    yield "position of the levels that dominate E sum w^2", position
    b, share = _threshold(sp.Eq(position, 1), std)
    yield "beyond this b no typical sample has them: sum w^2 freezes before Z does", b
    weight = weight_exponent().subs(POSITION, position)
    mean, _ = _threshold(sp.Eq(weight, saddle(sp.S.One)[1]), std)
    yield "the mean of Y_2 holds on, by rare samples, until one such level outweighs Z: b", mean
    third = sp.expand(saddle(sp.Integer(3))[1] - saddle(sp.Integer(2))[1] - saddle(sp.S.One)[1])
    yield "first correction of the 1/T expansion, E sum w^3/(E sum w^2 E Z), as a power of T", third
    yield "which also ceases to be small at b", _threshold(sp.Eq(third, 0), std)[0]
    yield "typical breakdown", sp.Eq(symbol("beta"), share * symbol("beta_c"))


@derivation("entropy-limit", "entropy as the derivative of the free energy", "E4, E5, E8", REM)
def entropy_limit(std: Std = rem.score_std) -> Steps:
    """H = log Z - beta d log Z / d beta in both phases."""
    warm = saddle(sp.S.One)[1]
    exponent = level_count(POSITION) + weight_exponent()
    cold = exponent.subs(POSITION, 1)
    yield "free energy log Z/log T below freezing", warm
    yield "and above, where the last level dominates", cold
    entropy = [sp.expand(f - B * sp.diff(f, B)) for f in (warm, cold)]
    yield "entropy f - b f'(b) below freezing", entropy[0]
    yield "and above", entropy[1]
    ratio = sp.Max(entropy[1], entropy[0].subs(B, reduced(std)))
    yield "together", sp.Eq(symbol("entropy_ratio"), ratio)


@derivation("freezing", "order parameter from the density of top weights", "E4, E5", REM)
def freezing(std: Std = rem.score_std) -> Steps:
    """Exponent of the density w^(-1-m) of weights near the last level."""
    slope = sp.diff(level_count(POSITION), POSITION) / sp.diff(weight_exponent(), POSITION)
    yield "d log(number of levels) / d log w", slope
    m = sp.simplify(-slope.subs(POSITION, 1))
    yield "at the last level: weights have density w^(-1-m) with m", m
    yield (
        "below freezing the last level does not matter and no share is finite: m = 1",
        sp.Eq(symbol("freezing"), sp.Min(1, m.subs(B, reduced(std)))),
    )


def _stable(k: sp.Expr) -> sp.Expr:
    """Moment int w^(k-m-1) exp(-lambda w) dw of the density w^(-1-m), with n = 1 - m."""
    w = sp.Symbol("w", positive=True)
    inside = w ** (k - 2 + N) * sp.exp(-LAMBDA * w)
    return sp.integrate(inside, (w, 0, sp.oo))


def _survivor() -> sp.Expr:
    """G^T = exp(-int (1 - exp(-lambda w)) w^(-1-m) dw), by parts."""
    return sp.exp(-LAMBDA * _stable(sp.S.One) / (1 - N))


def _laplace(integral: Integral, weight: sp.Expr) -> sp.Expr:
    """Integrate E6 or E7 over a power of lambda times G^T, in t = c lambda^m, c = Gamma(1-m)/m."""
    t, m, c = sp.symbols("t m c", positive=True)
    whole = integral(weight, _survivor(), LAMBDA)
    (inner,) = whole.atoms(sp.Integral)
    integrand = inner.function.subs(N, 1 - m).subs(sp.gamma(1 - m), m * c)
    level = (t / c) ** (1 / m)
    image = sp.powsimp(integrand.subs(LAMBDA, level) * level / (m * t))
    done = (whole / inner).subs(N, 1 - m) * sp.integrate(image, (t, 0, sp.oo))
    return sp.gammasimp(done.subs(c, sp.gamma(1 - m) / m).subs(m, 1 - N))


def _in_m(expression: sp.Expr) -> sp.Expr:
    return sp.factor(sp.expand_func(expression).subs(N, 1 - symbol("freezing")))


def frozen(one: Integral = rem.laplace_moment, two: Integral = rem.laplace_pair) -> Moments:
    """Y_2, Y_3, Y_4, Y_22 of the frozen phase, derived from E6 and E7."""
    found = {f"y{k}": _in_m(_laplace(partial(one, sp.Integer(k)), _stable(sp.Integer(k))))
             for k in (2, 3, 4)}  # fmt: skip
    pairs = _in_m(_laplace(two, _stable(sp.Integer(2)) ** 2))
    return found | {"y22": sp.factor(found["y4"] + pairs)}


@derivation("frozen-moments", "moments Y_k of the frozen phase (Poisson-Dirichlet)", "E5, E6", PD)
def frozen_moments(integral: Integral = rem.laplace_moment) -> Steps:
    """E6 over the jumps of a stable subordinator, whose shares are Poisson-Dirichlet."""
    yield "T M_2: moment of the density w^(-1-m), n = 1 - m", _stable(sp.Integer(2))
    yield "G^T: no level below 1/lambda", _survivor()
    moments = frozen(integral)
    for k in (4, 3, 2):
        yield f"Y_{k} by E6", sp.Eq(symbol(f"y{k}"), moments[f"y{k}"])


@derivation("frozen-y22", "second moment of the participation ratio, frozen", "E5, E7", PD)
def frozen_y22(integral: Integral = rem.laplace_pair) -> Steps:
    """E7 over the same jumps."""
    moments = frozen(two=integral)
    yield "Y_22 - Y_4 by E7", sp.factor(moments["y22"] - moments["y4"])
    yield "Y_22", moments["y22"]
    y2 = symbol("y2")
    in_y2 = sp.expand(moments["y22"].subs(symbol("freezing"), 1 - y2))
    yield "in terms of Y_2", sp.Eq(symbol("y22"), in_y2)


@derivation("frozen-entropy", "entropy of the frozen phase in nats: of order one", "E5, E6", PD)
def frozen_entropy(integral: Integral = rem.laplace_moment) -> Steps:
    """H = -d Y_k / dk at k = 1."""
    j, m = sp.Symbol("j", positive=True), symbol("freezing")
    yk = _laplace(partial(integral, 1 + j), _stable(1 + j))
    yield "Y_k at any k = 1 + j, n = 1 - m", yk
    entropy = sp.simplify(-sp.diff(yk, j).subs(j, 0).subs(N, 1 - m))
    yield "H = - d Y_k/d k at k = 1", sp.Eq(symbol("entropy"), entropy)


@derivation("query-gradient-limit", "query gradients vanish below freezing", "E5, E22",
            "Giorlandino & Goldt, arXiv 2505.24333")  # fmt: skip
def query_gradient_limit() -> Steps:
    """Insert the frozen moments into the bracket of E22."""
    moments, d = frozen(), symbol("width")
    yield "bracket of E22 with the frozen moments", query_bracket(moments, d)
    leading = sp.factor(sp.diff(query_bracket(moments, d), d))
    yield "its part of order d", leading
    beta, beta_c = symbol("beta"), symbol("beta_c")
    gain = sp.factor((beta * leading).subs(symbol("freezing"), beta_c / beta))
    yield "times beta, as the gradient has it, m = beta_c/beta; zero at beta_c", gain
