"""Critical residual strength, solved from the maps (E20, E21), and pre-norm's power law."""

from __future__ import annotations

import sympy as sp

from sigprop.symbolic.block import block, fold
from sigprop.symbolic.collapse import (
    RELU_MLP,
    UNIFORM,
    Steps,
    X,
    gap_gain,
    overlap_map,
    slope,
    sublayer,
)
from sigprop.symbolic.derivation import derivation
from sigprop.symbolic.maps import Map, Norm, State
from sigprop.symbolic.symbols import symbol

__all__ = ["recursion"]

LAYER = sp.Symbol("l", integer=True, nonnegative=True)
U = sp.Symbol("u", positive=True)  # q/gap
STRENGTH = sp.Symbol("alpha_squared", positive=True)
GROWTH = sp.Symbol("R", positive=True)


def recursion(maps: tuple[Map, ...]) -> tuple[sp.Expr, sp.Expr]:
    """Factor and constant of the linear recursion u' = R u + c of u = q/gap.

    Parameters
    ----------
    maps : tuple of callables State -> State
        A sublayer whose map of 1/x is linear.

    Returns
    -------
    tuple of sympy.Expr
        R and c.

    Raises
    ------
    ValueError
        If the recursion is not linear.

    Examples
    --------
    >>> from sigprop.symbolic import Norm
    >>> from sigprop.symbolic.strength import recursion
    >>> recursion((Norm(),))
    (1, 0)
    """
    image = sp.expand(sp.simplify(1 / overlap_map(maps).subs(X, 1 / U)))
    factor = sp.simplify(sp.diff(image, U))
    if factor.has(U):
        raise ValueError(f"not linear in 1/x: {image}")
    return factor, sp.simplify(image - factor * U)


@derivation("alpha-asymptotic", "critical residual strength at infinite depth", "E20")
def alpha_asymptotic(attention: Map = UNIFORM) -> Steps:
    """Solve chi_attn chi_mlp = 1 for alpha_attn^2."""
    chi = slope(overlap_map(sublayer(attention, "alpha_attn"))) * symbol("chi_mlp")
    yield "slope of the block, that of the MLP left open", chi
    squared = chi.subs(symbol("alpha_attn"), sp.sqrt(STRENGTH))
    (found,) = sp.solve(sp.Eq(squared, 1), STRENGTH)
    yield "solved for chi = 1; positive if chi_mlp > 1", sp.Eq(symbol("alpha_c") ** 2, found)


def _at_depth(attention: Map) -> Steps:
    """Yield the steps that E21 with and without bias share; the last one is alpha_c^2."""
    alpha, depth = symbol("alpha_attn"), symbol("depth")
    factor, constant = recursion(sublayer(attention, "alpha_attn"))
    yield "u = 1/(1 - rho) grows by the factor", factor
    yield "and the constant", constant
    u, first, last = sp.Function("u"), sp.Symbol("u_0"), sp.Symbol("u_L")
    still = sp.simplify(constant / (1 - factor))
    shifted = sp.Eq(u(LAYER + 1), GROWTH * u(LAYER) + still * (1 - GROWTH))
    path = sp.rsolve(shifted.lhs - shifted.rhs, u(LAYER), {u(0): first})
    path = sp.simplify(path)
    yield "the recursion with R for the factor, solved over depth", path
    (power,) = sp.solve(sp.Eq(path.subs(GROWTH**LAYER, X), last), X)
    yield "what R^L must be to end at u_L", sp.factor(power)
    ends = {first: 1 / (1 - symbol("rho0")), last: 1 / (1 - symbol("rho_max"))}
    power = sp.factor(sp.simplify(power.subs(ends)))
    yield "in terms of the overlaps", power
    condition = sp.Eq(factor.subs(alpha, sp.sqrt(STRENGTH)), GROWTH)
    (found,) = sp.solve(condition, STRENGTH)
    strength = sp.factor(found).subs(GROWTH, power ** (1 / depth))
    yield "R = that to the power 1/L, solved", sp.Eq(symbol("alpha_c") ** 2, strength)


@derivation("alpha-depth", "critical residual strength at depth L, attention alone, no bias", "E21")
def alpha_depth(attention: Map = UNIFORM) -> Steps:
    """Solve the recursion of the odds of rho for alpha."""

    def unbiased(state: State) -> State:
        return State(*(side.subs(symbol("sigma_b2"), 0) for side in attention(state)))

    yield from _at_depth(unbiased)


@derivation("alpha-depth-bias", "critical residual strength at depth L with a value bias", "E21")
def alpha_depth_bias(attention: Map = UNIFORM) -> Steps:
    """Solve the linear recursion of 1/gap for alpha."""
    yield from _at_depth(attention)


@derivation("alpha-large-depth", "large-depth asymptote of the critical strength", "E21")
def alpha_large_depth(attention: Map = UNIFORM) -> Steps:
    """Limit of alpha_c^2 / L, then of its ratio to 1/log(1/epsilon), epsilon = 1 - rho_max."""
    *_, (_, equation) = _at_depth(attention)
    depth, eps, ratio = (
        symbol("depth"),
        sp.Symbol("epsilon", positive=True),
        sp.Symbol("P", positive=True),
    )
    power = next(p for p in equation.rhs.atoms(sp.Pow) if p.exp == 1 / depth)
    yield "alpha_c^2, with P the growth of u - u*", equation.rhs.subs(power, ratio ** (1 / depth))
    grown = sp.simplify(equation.rhs.subs(power, ratio ** (1 / depth)))
    rate = sp.limit(grown / depth, depth, sp.oo)
    yield "limit of alpha_c^2 / L at infinite L", sp.simplify(rate)
    inside = sp.log(power.base.subs(symbol("rho_max"), 1 - eps).subs(symbol("rho0"), 0))
    share = sp.limit(sp.simplify(inside) / sp.log(1 / eps), eps, 0, "+")
    yield "log P over log(1/epsilon) as epsilon = 1 - rho_max vanishes", share
    asymptote = rate.subs(sp.log(ratio), share * sp.log(1 / eps)) * depth
    yield "together", sp.Eq(symbol("alpha_c") ** 2, sp.simplify(asymptote))


@derivation("pre-norm-power", "pre-norm: 1 - rho decays as a power of depth", "section 4, E13-E16")
def pre_norm_power(attention: Map = UNIFORM, mlp: Map = RELU_MLP) -> Steps:
    """Exponent from the ratio of successive gaps (Raabe's limit), after solving the recursions."""
    parts: dict[str, Map] = {"attention": attention, "norm": Norm(), "mlp": mlp}
    maps = block("pre", parts, {"alpha_attn": sp.S.One, "alpha_mlp": sp.S.One})
    q, gap, variance = sp.Function("q"), sp.Function("gap"), symbol("q")
    grown = sp.factor(fold(maps, State(variance, sp.S.Zero)).q - variance)
    yield "growth c of q per block at rho = 1, unit residual strengths", grown
    c, first = sp.Symbol("c", positive=True), symbol("q0")
    path = sp.rsolve(q(LAYER + 1) - q(LAYER) - c, q(LAYER), {q(0): first})
    yield "so q grows linearly with depth", sp.expand(path)
    gain = gap_gain(maps, variance)
    yield "gain of a small gap in one block", gain
    factor = sp.together(gain.subs(variance, path))
    top, bottom = sp.fraction(sp.factor(factor))
    solved = sp.rsolve(bottom * gap(LAYER + 1) - top * gap(LAYER), gap(LAYER))
    yield "gap of block l, up to a constant", solved
    ratio = factor * path / path.subs(LAYER, LAYER + 1)
    exponent = sp.limit(LAYER * (ratio - 1), LAYER, sp.oo)
    yield "exponent of gap/q in l (Raabe), with c", sp.simplify(exponent)
    yield "with c inserted", sp.simplify(exponent.subs(c, grown))
