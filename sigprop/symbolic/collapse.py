"""Slopes and leading non-linear terms of the maps at the collapsed fixed point gap = 0."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from sigprop.symbolic import rem
from sigprop.symbolic.block import fold
from sigprop.symbolic.derivation import derivation
from sigprop.symbolic.kernels import KERNELS, Kernel
from sigprop.symbolic.maps import Attention, Map, Mlp, Norm, Residual, State
from sigprop.symbolic.symbols import symbol

__all__ = ["RELU_MLP", "UNIFORM", "gap_gain", "leading_term", "overlap_map", "slope"]

X = sp.Symbol("x", positive=True)  # gap/q
ROOT = sp.Symbol("e", positive=True)  # its square root: ReLU's map is a power series in it
UNIFORM, RELU_MLP = Attention(rem.uniform), Mlp()
GAINED = Norm(symbol("norm_gain"))
Steps = Iterator[tuple[str, sp.Basic]]


def overlap_map(maps: tuple[Map, ...], q: sp.Expr = sp.S.One) -> sp.Expr:
    """Ratio gap'/q' that a fold of maps makes of x = gap/q.

    Parameters
    ----------
    maps : tuple of callables State -> State
        Maps in order.
    q : sympy.Expr
        Variance that enters.

    Returns
    -------
    sympy.Expr
        A function of the symbol x.

    Examples
    --------
    >>> from sigprop.symbolic import Norm
    >>> from sigprop.symbolic.collapse import overlap_map
    >>> overlap_map((Norm(),))
    x
    """
    out = fold(maps, State(q, q * X))
    return out.gap / out.q


def slope(function: sp.Expr) -> sp.Expr:
    """Differentiate a function of x at x -> 0.

    Parameters
    ----------
    function : sympy.Expr
        Vanishes at x = 0.

    Returns
    -------
    sympy.Expr
        The slope.

    Examples
    --------
    >>> from sigprop.symbolic.collapse import X, slope
    >>> slope(2 * X + X**2)
    2
    """
    derivative = sp.diff(function, X)
    value = derivative.subs(X, 0)
    if value.has(sp.nan, sp.zoo, sp.oo):
        value = sp.limit(derivative, X, 0, "+")
    return sp.factor(sp.simplify(value))


def gap_gain(maps: tuple[Map, ...], q: sp.Expr) -> sp.Expr:
    """Gain gap'/gap of a fold of maps as the gap vanishes.

    Parameters
    ----------
    maps : tuple of callables State -> State
        Maps in order.
    q : sympy.Expr
        Variance that enters.

    Returns
    -------
    sympy.Expr
        The gain.

    Examples
    --------
    >>> from sigprop.symbolic import Norm
    >>> from sigprop.symbolic.collapse import gap_gain
    >>> gap_gain((Norm(),), 2)
    1/2
    """
    return slope(fold(maps, State(q, X)).gap)


def leading_term(function: sp.Expr, order: int = 6) -> tuple[sp.Expr, sp.Expr]:
    """Linear term and leading non-linear term of a function of x, a series in sqrt(x).

    Parameters
    ----------
    function : sympy.Expr
        Vanishes at x = 0.
    order : int
        Power of sqrt(x) from which the series is cut.

    Returns
    -------
    tuple of sympy.Expr
        Both terms, coefficient times power of x.

    Examples
    --------
    >>> import sympy as sp
    >>> from sigprop.symbolic.collapse import X, leading_term
    >>> leading_term(sp.sin(X) + 2 * X ** sp.Rational(3, 2))
    (x, 2*x**(3/2))
    """
    series = sp.series(function.subs(X, ROOT**2), ROOT, 0, order).removeO().expand()
    linear = series.coeff(ROOT, 2)
    powers = [n for n in range(3, order) if series.coeff(ROOT, n) != 0]
    rest = sp.simplify(series.coeff(ROOT, powers[0])) * X ** sp.Rational(powers[0], 2)
    return sp.simplify(linear) * X, rest


def sublayer(branch: Map, alpha: str) -> tuple[Map, ...]:
    """Post-norm sublayer around one branch."""
    return Residual(symbol(alpha), (branch,)), Norm()


@derivation("chi-norm", "slope of a norm", "E14, E18")
def chi_norm(norm: Map = GAINED) -> Steps:
    """Slope of gap'/q' of the norm."""
    ratio = overlap_map((norm,), symbol("q"))
    yield "the norm's map of x = gap/q", ratio
    yield "its slope at x = 0", sp.Eq(symbol("chi"), slope(ratio))


@derivation("chi-attention", "slope of an attention sublayer, post-norm, low beta", "E10, E13, E19")
def chi_attention(attention: Map = UNIFORM) -> Steps:
    """E19 for attention, from E10, E13 and E14."""
    ratio = overlap_map(sublayer(attention, "alpha_attn"))
    yield "attention with Y_2 = O = 0, residual, norm: the map of x = gap/q", ratio
    yield "its slope at x = 0", sp.Eq(symbol("chi_attn"), slope(ratio))


@derivation("chi-mlp", "slope of an MLP sublayer with ReLU, post-norm", "E13, E15, E19",
            "Poole et al. (2016)")  # fmt: skip
def chi_mlp(mlp: Map = RELU_MLP) -> Steps:
    """E19 for the MLP."""
    gap = fold((mlp,), State(sp.S.One, X)).gap
    yield "gap' of the MLP at q = 1, x = gap", gap
    yield "its slope at x = 0", slope(gap)
    ratio = overlap_map(sublayer(mlp, "alpha_mlp"))
    yield (
        "slope of the sublayer, residual and norm included",
        sp.Eq(symbol("chi_mlp"), slope(ratio)),
    )


def _chi_of(kernel: Kernel) -> Steps:
    """E19 of any kernel, in terms of the preactivation variance."""
    q1 = symbol("q1")
    drop = kernel.drop(q1, X)
    yield "drop of the dual", drop
    yield "its slope at gap = 0, E phi'^2", slope(drop)
    mlp = Mlp(kernel)

    def behind(state: State) -> State:
        return mlp.outer(State(q1, mlp.inner(state).gap))

    ratio = overlap_map(sublayer(behind, "alpha_mlp"))
    yield (
        "slope of the sublayer, q_1 the preactivation variance",
        sp.Eq(symbol("chi_mlp"), slope(ratio)),
    )


@derivation("chi-mlp-erf", "slope of an MLP sublayer with erf", "E15, E17, E19")
def chi_mlp_erf(kernel: Kernel = KERNELS["erf"]) -> Steps:
    """E19 with erf."""
    yield from _chi_of(kernel)


@derivation("chi-mlp-gelu", "slope of an MLP sublayer with GELU", "E15, E17, E19")
def chi_mlp_gelu(kernel: Kernel = KERNELS["gelu"]) -> Steps:
    """E19 with GELU."""
    yield from _chi_of(kernel)


@derivation("chi-mlp-linear", "slope of an MLP sublayer without activation", "E15, E19")
def chi_mlp_linear(kernel: Kernel = KERNELS["linear"]) -> Steps:
    """E19 of a linear network."""
    yield from _chi_of(kernel)


@derivation("chi-block", "slope of a post-norm block with ReLU, low beta", "E18, E19")
def chi_block(attention: Map = UNIFORM, mlp: Map = RELU_MLP) -> Steps:
    """Slope of the whole block, and its factors."""
    first, second = sublayer(attention, "alpha_attn"), sublayer(mlp, "alpha_mlp")
    whole = slope(overlap_map((*first, *second)))
    yield "slope of the folded block at x = 0", whole
    product = slope(overlap_map(first)) * slope(overlap_map(second))
    yield "product of the slopes of its sublayers, minus that", sp.simplify(product - whole)
    still = whole.subs(symbol("sigma_b2"), 0)
    yield "without bias the MLP's factor is one", sp.Eq(symbol("chi"), sp.factor(still))


@derivation("relu-nonlinear", "leading non-linear term of ReLU's MLP: gap^(3/2)", "E15, E16",
            "Cho & Saul (2009)")  # fmt: skip
def relu_nonlinear(kernel: Kernel = KERNELS["relu"]) -> Steps:
    """Series of the drop in sqrt(gap/q)."""
    q, gap = symbol("q"), symbol("gap")
    linear, rest = leading_term(kernel.drop(sp.S.One, X))
    yield "drop of the dual at q = 1, x = gap", kernel.drop(sp.S.One, X)
    yield "linear term of its series in sqrt(x)", linear
    yield "leading non-linear term", rest
    pair = sum(q * term.subs(X, gap / q) for term in (linear, rest))
    drop = sp.Function("Phi")(q, 0) - sp.Function("Phi")(q, gap)
    yield "scaled to any q (ReLU is homogeneous)", sp.Eq(drop, pair)
