"""Marginal choices in closed form: what keeps variance or gap where it is."""

from __future__ import annotations

import sympy as sp

from sigprop.symbolic.block import block, fold
from sigprop.symbolic.collapse import RELU_MLP, UNIFORM, Steps, overlap_map, slope
from sigprop.symbolic.derivation import derivation
from sigprop.symbolic.kernels import KERNELS, Kernel
from sigprop.symbolic.maps import Map, Mlp, Norm, State
from sigprop.symbolic.symbols import symbol

__all__: list[str] = []

UNKNOWN = sp.Symbol("v", positive=True)


def _parts(attention: Map, mlp: Map) -> dict[str, Map]:
    return {"attention": attention, "norm": Norm(), "mlp": mlp}


def _positive_root(equation: sp.Eq) -> sp.Expr:
    """Root of a quadratic that is positive at a generic point of the domain."""
    roots = sp.solve(equation, UNKNOWN)
    trial = {s: sp.Rational(3, 2) for s in equation.free_symbols}
    trial[symbol("sigma_b2")] = sp.Rational(1, 10)
    (root,) = (r for r in roots if r.subs(trial) > 0)
    return root


@derivation("relu-variance", "weight variance that preserves ReLU's second moment", "E15, E16",
            "He et al. (2015) for one layer")  # fmt: skip
def relu_variance(kernel: Kernel = KERNELS["relu"]) -> Steps:
    """Solve q' = q for equal weight variances in both layers."""
    q, b = symbol("q"), symbol("sigma_b2")
    layer = UNKNOWN * kernel.dual(q, 0)
    yield "one layer, weights behind the activation: q' ", layer
    yield "preserved by He's variance", sp.solve(sp.Eq(layer, q), UNKNOWN)[0]
    out = fold((Mlp(kernel, UNKNOWN, UNKNOWN, b),), State(q, sp.S.Zero)).q
    yield "both layers of E15, with v for both weight variances: q' ", out
    root = _positive_root(sp.Eq(out, q))
    yield "preserved, with biases of variance sigma_b^2 < q, by", sp.simplify(root)
    yield "without biases", sp.Eq(symbol("sigma_w2"), root.subs(b, 0))


@derivation("pre-norm-alpha", "residual strength that bounds q in pre-norm", "E13-E16")
def pre_norm_alpha(attention: Map = UNIFORM, mlp: Map = RELU_MLP) -> Steps:
    """Solve the fixed point of q at rho = 1 for one residual strength in both sublayers."""
    q, parts = symbol("q"), _parts(attention, mlp)
    alpha = sp.sqrt(UNKNOWN)
    maps = block("pre", parts, {"alpha_attn": alpha, "alpha_mlp": alpha})
    out = sp.expand(fold(maps, State(q, sp.S.Zero)).q)
    yield "q' of a block at rho = 1, v = alpha^2 in both sublayers", out
    yield "q stays bounded where the factor on q is below one", sp.diff(out, q)
    (still,) = sp.solve(sp.Eq(out, q), q)
    yield "and settles at q", sp.factor(still)
    found = sp.simplify(_positive_root(sp.Eq(out, q)))
    yield "strength that holds a given q", sp.Eq(symbol("alpha_attn") ** 2, found)


@derivation("pre-norm-bounded", "pre-norm of unequal strengths: when q is bounded", "E13-E16")
def pre_norm_bounded(attention: Map = UNIFORM, mlp: Map = RELU_MLP) -> Steps:
    """Path of q over depth."""
    q, parts = symbol("q"), _parts(attention, mlp)
    out = sp.expand(fold(block("pre", parts), State(q, sp.S.Zero)).q)
    factor = sp.diff(out, q)
    yield "factor on q per block; bounded where it is below one", factor
    a, c, layer = sp.Symbol("a"), sp.Symbol("c"), sp.Symbol("l", integer=True, nonnegative=True)
    y = sp.Function("q")
    path = sp.rsolve(y(layer + 1) - a * y(layer) - c, y(layer), {y(0): symbol("q0")})
    yield "q after l blocks, a that factor and c the rest", sp.simplify(path)
    yield "the rest", sp.factor(out - factor * q)
    still = sp.factor((out - factor * q) / (1 - factor))
    yield "fixed point", sp.Eq(q, still)


@derivation("relu-marginal", "ReLU's MLP keeps overlaps only without bias", "E16, E19")
def relu_marginal(mlp: Map = RELU_MLP) -> Steps:
    """Solve chi = 1 for the bias variance."""
    bias = sp.Symbol("b", real=True)
    chi = slope(overlap_map((mlp,)))
    yield "slope of gap/q through the MLP alone; at most one", chi
    (found,) = sp.solve(sp.Eq(chi.subs(symbol("sigma_b2"), bias), 1), bias)
    yield "it is one at this bias variance alone", sp.Eq(symbol("sigma_b2"), found)


@derivation("erf-chaos", "erf's MLP separates tokens at any weight variance, without bias",
            "E15, E17, E19")  # fmt: skip
def erf_chaos(kernel: Kernel = KERNELS["erf"]) -> Steps:
    """Slope without skip branch or bias."""
    w1 = symbol("sigma_w1_2")
    chi = slope(overlap_map((Mlp(kernel, sigma_b2=sp.S.Zero),)))
    yield "for small inner weights", sp.series(chi, w1, 0, 3)
    yield (
        "for large ones it grows as sqrt(sigma_w1^2) times",
        sp.limit(chi / sp.sqrt(w1), w1, sp.oo),
    )
    yield "slope of the MLP alone; the outer weights drop out", sp.Eq(symbol("chi"), chi)
