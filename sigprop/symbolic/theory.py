"""The theory sheet: every equation of theory.md that is a formula, by name."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from sigprop.core.notation import NOTATION
from sigprop.symbolic import rem
from sigprop.symbolic.backward import query_bracket, relu_backward, score_path, value_path
from sigprop.symbolic.equation import Equation
from sigprop.symbolic.kernels import ABSTRACT, KERNELS, angle
from sigprop.symbolic.maps import Attention, Map, Mlp, Norm, Residual, State
from sigprop.symbolic.symbols import symbol

__all__ = ["EQUATIONS", "SOURCES"]

SOURCES = {
    "GG": "Giorlandino & Goldt, arXiv 2505.24333",
    "REM": "Derrida (1981); Mezard, Parisi & Virasoro (1984)",
    "CS": "Cho & Saul (2009)",
    "P": "Poole et al. (2016); Schoenholz et al. (2017)",
    "C": "Cowsik et al., arXiv 2403.02579",
    "W": "Williams (1998)",
    "M": "Mehler (1866)",
    "new": "new in theory.md",
}
Rows = Iterator[tuple[str, str, str, sp.Expr, sp.Expr, str]]


def _s(names: str) -> list[sp.Symbol]:
    return [symbol(name) for name in names.split()]


def _new(letter: str) -> sp.Symbol:
    """Make a letter of one equation alone, which the dictionary does not hold."""
    return sp.Symbol(letter, positive=True)


Q, GAP, BETA, T = _s("q gap beta context")
Q_OUT, GAP_OUT = _new("q'"), _new(r"\Delta'")
FREE = State.free()


def _scores() -> Rows:
    kappa, s = _s("kappa_bar score_std")
    total = BETA**2 * sp.log(T)
    yield "score_variance", "E1", "variance of a score", _new(r"\sigma_a^2"), total * Q**2, "GG"
    name, own = "score_variance_keys", "part of it that differs between keys"
    yield name, "E2", own, _new(r"\sigma_{keys}^2"), total * Q * GAP, "GG"
    yield "score_std", "E3", "score standard deviation", s, rem.score_std(Q, GAP), "GG"
    rotary = rem.score_std(Q, Q - (Q - GAP) * kappa)
    yield "score_std_rotary", "E3r", "the same with rotary positions", s, rotary, "new"


def _limit() -> Rows:
    beta_c, m, ratio = _s("beta_c freezing entropy_ratio")
    yield "beta_c", "E4", "critical inverse temperature", beta_c, rem.critical_beta(Q, GAP), "REM"
    yield "freezing", "E4", "freezing order parameter", m, sp.Min(1, beta_c / BETA), "REM"
    for name, right in rem.frozen_moments(m).items():
        meaning = f"{NOTATION[name].meaning} as T grows"
        yield f"{name}_limit", "E5", meaning, symbol(name), right, "REM"
    yield "overlap_limit", "E5", "attention overlap as T grows", symbol("overlap"), sp.S.Zero, "GG"
    below = sp.Max(0, 1 - (BETA / beta_c) ** 2)
    yield "entropy_limit", "E5", "relative entropy as T grows", ratio, below, "REM"


def _finite() -> Rows:
    k, lam, s, y2, y4, r = _s("power laplace score_std y2 y4 score_overlap")
    z, other = sp.Symbol("z", real=True), _new(r"\lambda'")
    g, moment = sp.Function("G"), sp.Function("M")
    density = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
    boltzmann = density * sp.exp(-lam * sp.exp(s * z))
    line = (z, -sp.oo, sp.oo)
    yield (
        "laplace",
        "E6",
        "Laplace transform of a level",
        g(lam),
        sp.Integral(boltzmann, line),
        "new",
    )
    power = sp.Integral(boltzmann * sp.exp(k * s * z), line)
    yield "level_moment", "E6", "moment of a level", moment(k, lam), power, "new"
    yk = rem.laplace_moment(k, T * moment(k, lam), g(lam) ** (T - 1), lam)
    yield "yk", "E6", "moments of attention weights", symbol("yk"), yk, "new"
    pair = rem.laplace_pair(T * (T - 1) * moment(2, lam) ** 2, g(lam) ** (T - 2), lam)
    yield "y22", "E7", "second moment of the participation ratio", symbol("y22"), y4 + pair, "new"
    free = sp.Integral((sp.exp(-lam) - g(lam) ** T) / lam, (lam, 0, sp.oo))
    yield "log_z", "E8", "free energy", symbol("log_z"), free, "new"
    entropy = symbol("log_z") - s**2 * (1 - y2)
    yield "entropy", "E8", "entropy (Stein's lemma)", symbol("entropy"), entropy, "new"
    two, both = sp.Function("G_2"), sp.Function("M_2")
    inner = both(lam, other, r) * two(lam, other, r) ** (T - 1)
    pairs = T * sp.Integral(inner, (lam, 0, sp.oo), (other, 0, sp.oo))
    yield "overlap", "E9", "attention overlap of two queries", symbol("overlap"), pairs, "new"


def _components() -> Rows:
    alpha, gain, width, s = _s("alpha_attn norm_gain head_width score_std")
    yield from _map("attention", "E10", "softmax attention", Attention(), "GG")
    yield from _map("centred", "E11", "centred attention", Attention(centred=True), "GG")
    x, y = _new("x"), sp.Function("Y")
    density = x ** (width / 2 - 1) * sp.exp(-x) / sp.gamma(width / 2)
    average = sp.Integral(density * y(s * sp.sqrt(2 * x / width)), (x, 0, sp.oo))
    name, meaning = "head_average", "any statistic Y averaged over heads of finite width"
    yield name, "E12", meaning, _new(r"\bar{Y}"), average, "new"
    yield from _queries_of_a_head()
    branch = State(_new("f_q"), _new(r"f_\Delta"))
    skip = Residual(alpha, (lambda _: branch,))
    yield from _map("residual", "E13", "skip branch around f", skip, "GG")
    yield from _map("norm", "E14", "LayerNorm or RMSNorm", Norm(gain), "GG")


def _queries_of_a_head() -> Rows:
    """Two queries, of which U and V are the squared norms of sum and difference."""
    u, v, c, rho = _new("U"), _new("V"), _new("c"), symbol("rho")
    mean, apart = ((1 + rho) * u + (1 - rho) * v) / 2, c * sp.sqrt((1 - rho**2) * u * v)
    meaning = "score-variance factors of two queries of a head"
    yield "query_factor", "E12b", meaning, _new("x"), mean + apart, "new"
    yield "other_query_factor", "E12b", meaning, _new("x'"), mean - apart, "new"
    r = ((1 + rho) * u - (1 - rho) * v) / 2 / sp.sqrt(_new("x") * _new("x'"))
    meaning = "correlation of their scores"
    yield "query_correlation", "E12b", meaning, _new(r"\hat{r}"), r, "new"


def _perceptron() -> Rows:
    q1, gap1, theta = _s("q1 gap1 theta")
    inner = Mlp().inner(FREE)
    yield "mlp_inner_q", "E15", "preactivation variance", q1, inner.q, "P"
    yield "mlp_inner_gap", "E15", "preactivation gap", gap1, inner.gap, "P"
    out = Mlp(ABSTRACT).outer(State(q1, gap1))
    yield "mlp_q", "E15", "MLP, variance", Q_OUT, out.q, "P"
    yield "mlp_gap", "E15", "MLP, gap", GAP_OUT, out.gap, "P"
    yield "theta", "E16", "angle between preactivations", theta, angle(Q, GAP), "CS"
    phi = ABSTRACT.dual(Q, GAP)
    relu, at = KERNELS["relu"], {angle(Q, GAP): theta}
    yield "relu", "E16", "ReLU's dual", phi, relu.dual(Q, GAP).subs(at), "CS"
    drop = ABSTRACT.drop(Q, GAP)
    yield (
        "relu_drop",
        "E16",
        "its drop, without cancellation",
        drop,
        relu.drop(Q, GAP).subs(at),
        "CS",
    )
    yield "erf", "E17", "erf's dual", phi, KERNELS["erf"].dual(Q, GAP), "W"
    yield "gelu", "E17", "GELU's dual", phi, KERNELS["gelu"].dual(Q, GAP), "new"
    k = sp.Symbol("k", integer=True, nonnegative=True)
    series = sp.Sum(sp.Function("b")(k) ** 2 * (1 - GAP / Q) ** k, (k, 0, sp.oo))
    meaning = "any dual, from Hermite coefficients b(k) at variance q"
    yield "mehler", "E17", meaning, phi, series, "M"


def _map(name: str, number: str, meaning: str, component: Map, source: str) -> Rows:
    """Both sides of a component's map."""
    out = component(FREE)
    yield f"{name}_q", number, f"{meaning}, variance", Q_OUT, out.q, source
    yield f"{name}_gap", number, f"{meaning}, gap", GAP_OUT, out.gap, source


def _depth() -> Rows:
    chi, rate, xi, chi_attn, chi_mlp = _s("chi angle_exponent depth_scale chi_attn chi_mlp")
    alpha, skip, v, b = _s("alpha_attn alpha_mlp sigma_v2 sigma_b2")
    w1, w2, alpha_c, rho0, top, depth = _s("sigma_w1_2 sigma_w2_2 alpha_c rho0 rho_max depth")
    x, q1 = _new("x"), symbol("q1")
    slope = sp.Limit(sp.Function("f")(x) / x, x, 0)
    yield "chi", "E18", "collapse slope of the map f of x = gap/q", chi, slope, "P"
    yield "angle_exponent", "E18", "angle exponent", rate, sp.log(chi), "C"
    yield "depth_scale", "E18", "depth scale", xi, -1 / sp.log(chi), "P"
    attn = alpha**2 / (alpha**2 + v + b)
    yield "chi_attn", "E19", "attention's slope, post-norm, low beta", chi_attn, attn, "C"
    gain = w1 * w2 * _new(r"E\phi'^2") + skip**2
    mlp = gain / (w2 * ABSTRACT.dual(q1, 0) + b + skip**2)
    yield "chi_mlp", "E19", "MLP's slope, post-norm", chi_mlp, mlp, "C"
    asymptotic = (v + b) / (chi_mlp - 1)
    meaning = "critical strength at infinite depth, chi_mlp > 1"
    yield "alpha_asymptotic", "E20", meaning, alpha_c**2, asymptotic, "new"
    last = sp.Symbol(r"\rho_L", real=True)
    logit = _logit(rho0) + depth * sp.log(1 + v / alpha**2)
    yield "logit", "E21", "attention alone, low beta, no bias", _logit(last), logit, "new"
    growth = (_logit(top) - _logit(rho0)) / depth
    meaning = "critical strength at depth L"
    yield "alpha_depth", "E21", meaning, alpha_c**2, v / (sp.exp(growth) - 1), "new"


def _logit(rho: sp.Expr) -> sp.Expr:
    return sp.log(rho / (1 - rho))


def _backward() -> Rows:
    q, p, theta, v, alpha = _s("q_grad p_grad theta sigma_v2 alpha_attn")
    y2, y3, y22, width = _s("y2 y3 y22 width")
    out, pair = _new("{q^g}'"), _new("{p^g}'")
    bracket = query_bracket({"y2": y2, "y3": y3, "y22": y22}, width)
    norm = _new("g^2") * v * BETA * sp.sqrt(sp.log(T)) * bracket
    meaning = "squared gradient of W_Q, g^2 the sum of squared output gradients"
    yield "query_gradient", "E22", meaning, _new(r"E|\partial_{W_Q}|^2"), norm, "GG"
    value = value_path(q, p)
    mlp = relu_backward(q, p, theta)
    for name, meaning, sides in (
        ("value_path", "gradient through values", value),
        ("relu_backward", "gradient through a ReLU MLP", mlp),
        ("norm_backward", "gradient through a norm", (q / Q, p / Q)),
        ("residual_backward", "gradient of a skip branch alone", (alpha**2 * q, alpha**2 * p)),
    ):
        yield f"{name}_q", "E23", f"{meaning}, variance", out, sides[0], "GG"
        yield f"{name}_p", "E23", f"{meaning}, covariance", pair, sides[1], "GG"
    scores = score_path(q, p)
    meaning = "gradient through queries and keys, P the squared softmax Jacobian (hat: tilted)"
    yield "score_path_q", "E24", f"{meaning}, variance", out, scores[0], "new"
    yield "score_path_p", "E24", f"{meaning}, covariance", pair, scores[1], "new"


def _kernels() -> Rows:
    o = symbol("overlap")
    same, other = _new(r"\bar{K}_{same}"), _new(r"\bar{K}_{other}")
    meaning = "causal attention, from the mean kernel over equal and over different keys"
    row = o * same + (1 - o) * other
    yield "causal", "E25", meaning, _new(r"K_{tt'}'"), symbol("sigma_v2") * row, "new"
    n = sp.Symbol("T", integer=True, positive=True)
    a, k = sp.MatrixSymbol("A", n, n), sp.MatrixSymbol("K", n, n)
    ones = sp.MatrixSymbol("J", n, n)
    v, b, alpha = _s("sigma_v2 sigma_b2 alpha_attn")
    exact = v * a * k * a.T + b * ones + alpha**2 * k
    meaning = "any kernel, averaged over heads A (J is all ones)"
    yield "kernel", "E25b", meaning, sp.MatrixSymbol("K'", n, n), exact, "new"
    y2, y22, cv, heads = _s("y2 y22 token_variance heads")
    spread = (v * GAP) ** 2 * (y22 - y2**2) / (heads * Q_OUT**2)
    yield "token_variance", "E26", "relative variance over tokens", cv, spread, "new"
    factor = 1 + sp.Rational(3, 4) * cv
    meaning = "factor of the norm's fluctuation on gap/q"
    yield "norm_factor", "E26", meaning, _new("f_{norm}"), factor, "new"


def _gather() -> dict[str, Equation]:
    parts = (_scores, _limit, _finite, _components, _perceptron, _depth, _backward, _kernels)
    rows = (Equation(*row[:5], SOURCES[row[5]]) for part in parts for row in part())
    return {row.name: row for row in rows}


EQUATIONS = _gather()
