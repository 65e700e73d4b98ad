"""The symbolic engine as a witness: lambdified equations against the numerical engine.

Both sides round: a function f of inputs x_i is compared to 1e-12 of its value plus a few units in
the last place of its conditioning, sum |x_i df/dx_i|, where it is said so. That second part matters
only where f vanishes continuously, as Y_2 = 1 - m does at the freezing point.
"""

from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from places import at, back

from sigprop import ModelSpec, exponents
from sigprop.analysis.critical import asymptotic_alpha, critical
from sigprop.core.errors import DomainError
from sigprop.layers.activations import activation
from sigprop.layers.attention.layer import Attention as NumericAttention
from sigprop.layers.attention.statistics import (
    Finite,
    Limit,
    critical_beta,
    freezing,
    head_nodes,
    moments,
    reduced_beta,
)
from sigprop.layers.attention.statistics.two_queries import cosines_of, head_pairs, squares
from sigprop.layers.interface import Step
from sigprop.layers.mlp import Mlp as NumericMlp
from sigprop.layers.norm import Norm as NumericNorm
from sigprop.layers.residual import Residual as NumericResidual
from sigprop.layers.state import Gradient
from sigprop.layers.state import State as NumericState
from sigprop.model.spec import NORMS
from sigprop.propagation.gradients.closed_form import gradients
from sigprop.propagation.stack import assembled, build_block
from sigprop.symbolic import (
    EQUATIONS,
    KERNELS,
    Attention,
    Mlp,
    Norm,
    Residual,
    State,
    block,
    compiled,
    fold,
    latex,
    rem,
    stable,
    symbol,
)

RELATIVE, ULPS = 1e-12, 8 * np.finfo(float).eps
FREE = State.free()
EXPONENT = st.floats(-14, 0)
WIDE = st.floats(-2, 2).map(lambda x: 10.0**x)
ANY_GAP = st.one_of(EXPONENT.map(lambda x: 10.0**x), st.just(1.0), st.floats(1.0, 1.3))
# beta/beta_c - 1: at the boundary, close on both sides, far on both sides
OFFSET = st.one_of(
    st.just(0.0),
    st.tuples(st.sampled_from((-1, 1)), st.floats(-15, -0.01)).map(lambda t: t[0] * 10 ** t[1]),
    st.floats(0.5, 30),
)
many = settings(max_examples=100, deadline=None)


@cache
def function(expression, names, digits=None):
    return compiled(expression, *names, digits=digits)


@cache
def conditioning(expression, names):
    symbols = {s.name: s for s in expression.free_symbols}
    parts = [sp.Abs(symbols[n] * sp.diff(expression, symbols[n])) for n in names if n in symbols]
    return compiled(sp.Add(*parts), *names)


def rounding(expression, values):
    """Change of an expression per relative change of its inputs, on either side of a kink."""
    names = tuple(values)
    sides = [{n: v * (1 + nudge) if n == "beta" else v for n, v in values.items()}
             for nudge in (-1e-14, 0, 1e-14)]  # fmt: skip
    return max(conditioning(expression, names)(*side.values()) for side in sides)


def agree(found, expression, conditioned=False, digits=None, **values):
    """Whether a number of the engine is the value of an expression."""
    exact = function(expression, tuple(values), digits)(*values.values())
    allowed = RELATIVE * abs(exact)
    if conditioned:
        allowed += ULPS * rounding(expression, values)
    assert abs(float(found) - exact) <= allowed, (float(found), exact, values)


@many
@given(q=WIDE, x=ANY_GAP, beta=WIDE, context=st.integers(2, 10**9))
def test_scores(q, x, beta, context):
    gap = q * x
    values = {"q": q, "gap": gap, "beta": beta, "context": float(context)}
    b = reduced_beta(beta, NumericState(q, gap))
    std = EQUATIONS["score_std"].right
    agree(b * np.sqrt(np.log(context)), std, **values)
    agree(b**2 * np.log(context), EQUATIONS["score_variance_keys"].right, **values)
    assert sp.simplify(std**2 - EQUATIONS["score_variance_keys"].right) == 0
    agree(critical_beta(q, gap), EQUATIONS["beta_c"].right, q=q, gap=gap)


@many
@given(q=WIDE, x=ANY_GAP, offset=OFFSET)
def test_limit_on_both_sides_of_freezing(q, x, offset):
    gap = q * x
    beta = float(critical_beta(q, gap)) * (1 + offset)
    b = reduced_beta(beta, NumericState(q, gap))
    values = {"q": q, "gap": gap, "beta": beta}
    m = rem.freezing(FREE.q, FREE.gap)
    agree(freezing(b), m, **values)
    y2 = 1 - m
    weights = Limit().weights(b, x)
    agree(weights.y2, y2, conditioned=True, **values)
    agree(weights.spread, y2 - rem.limit(FREE.q, FREE.gap)[1], conditioned=True, **values)
    ratio = EQUATIONS["entropy_limit"].right.subs(symbol("beta_c"), EQUATIONS["beta_c"].right)
    agree(Limit().entropy_ratio(b), ratio, conditioned=True, **values)


@pytest.mark.parametrize(("beta", "sign"), [(2 * (1 - 1e-15), 0), (2.0, 0), (2 * (1 + 4e-15), 1)])
def test_limit_at_the_boundary(beta, sign):
    """q = 1, gap = 1/2: beta_c = 2 without rounding."""
    y2 = compiled(1 - rem.freezing(FREE.q, FREE.gap), "q", "gap", "beta")(1.0, 0.5, beta)
    assert (
        np.sign(y2)
        == np.sign(Limit().weights(reduced_beta(beta, NumericState(1.0, 0.5)), 0.5).y2)
        == sign
    )


@many
@given(q=WIDE, x=ANY_GAP, beta=st.floats(0, 4), context=st.sampled_from((2, 17, 512, 65536)),
       v=WIDE, o=WIDE, b=st.one_of(st.just(0.0), WIDE), centred=st.booleans(),
       limit=st.booleans())  # fmt: skip
def test_attention(q, x, beta, context, v, o, b, centred, limit):
    x = min(x, 1.0 if limit else context / (context - 1))  # T vectors have no larger gap
    beta /= q  # keeps the score deviation within the table
    source = Limit(context) if limit else Finite(context)
    state = NumericState(q, q * x)
    found = at(NumericAttention(beta, v, b, o, centred), state, source)
    weights = source.weights(reduced_beta(beta, state), state.gap / state.q)
    y2, excess, spread, t = symbol("y2"), symbol("excess"), symbol("spread"), symbol("context")
    if centred:
        y2 = excess + 1 / t
    out = Attention(lambda q, gap: (y2, y2 - spread), sigma_o2=symbol("sigma_o2"),
                    centred=centred)(FREE)  # fmt: skip
    values = {"q": q, "gap": q * x, "sigma_v2": v, "sigma_o2": o, "sigma_b2": b,
              "y2": float(weights.y2), "excess": float(weights.excess),
              "spread": float(weights.spread)}  # fmt: skip
    agree(found.q, out.q, conditioned=True, **values)  # q - gap + gap Y_2 may cancel at p < 0
    agree(found.gap, out.gap, **values)


@many
@given(q=WIDE, x=ANY_GAP, gain=WIDE, alpha=WIDE)
def test_norm_and_residual(q, x, gain, alpha):
    state, values = NumericState(q, q * x), {"q": q, "gap": q * x}
    values |= {"norm_gain": gain, "alpha_attn": alpha}
    norm = Norm(symbol("norm_gain"))
    around = Residual(symbol("alpha_attn"), (norm, norm))(FREE)
    branch = NumericNorm(gain)
    numeric = at(NumericResidual(alpha, (branch, branch)), state)
    for found, exact in ((at(branch, state), norm(FREE)), (numeric, around)):
        agree(found.q, exact.q, **values)
        agree(found.gap, exact.gap, **values)


@many
@given(q=WIDE, x=ANY_GAP, w1=WIDE, w2=WIDE, b=st.one_of(st.just(0.0), WIDE),
       name=st.sampled_from(("relu", "linear")))  # fmt: skip
def test_mlp(q, x, w1, w2, b, name):
    found = NumericMlp(activation(name), w1, w2, b).at(NumericState(q, q * x))
    exact = Mlp(KERNELS[name])(FREE)
    values = {"q": q, "gap": q * x, "sigma_w1_2": w1, "sigma_w2_2": w2, "sigma_b2": b}
    agree(found.q, exact.q, **values)
    agree(found.gap, exact.gap, **values)


@many
@given(q=WIDE, x=ANY_GAP, name=st.sampled_from(("relu", "erf", "gelu", "linear")))
def test_kernels_in_forty_digits(q, x, name):
    """The defining difference Phi(q, 0) - Phi(q, gap), where floating point would cancel."""
    dual, kernel = activation(name)(np.array(q)), KERNELS[name]
    ratio = float(np.float64(q * x) / q)
    gap = sp.Symbol("gap", positive=True)
    drop = (kernel.dual(FREE.q, 0) - kernel.dual(FREE.q, gap * FREE.q)) / FREE.q
    agree(dual.drop(np.array(ratio)), drop, digits=60, q=q, gap=ratio)
    agree(dual.variance, kernel.dual(FREE.q, 0), q=q)
    given_form = compiled(kernel.drop(FREE.q, FREE.gap), "q", "gap", digits=60)(q, q * x)
    difference = kernel.dual(FREE.q, 0) - kernel.dual(FREE.q, FREE.gap)
    assert given_form == pytest.approx(
        compiled(difference, "q", "gap", digits=60)(q, q * x), rel=1e-15
    )


def test_without_the_stable_form_relu_fails():
    """Negative control: the textbook form in floating point, near rank collapse."""
    expression = KERNELS["relu"].drop(FREE.q, FREE.gap)
    naive = sp.lambdify((FREE.q, FREE.gap), expression, modules="numpy")(1.0, 1e-14)
    exact = compiled(expression, "q", "gap", digits=60)(1.0, 1e-14)
    assert abs(naive / exact - 1) > 100 * RELATIVE
    assert abs(compiled(expression, "q", "gap")(1.0, 1e-14) / exact - 1) < 1e-15
    rewritten = stable(expression).subs({FREE.q: 1, FREE.gap: sp.Rational(1, 3)})
    plain = expression.subs({FREE.q: 1, FREE.gap: sp.Rational(1, 3)})
    assert abs(sp.N(rewritten - plain, 40)) < 1e-38


@pytest.mark.parametrize("width", [1.0, 2.0, 64.0])
def test_head_average(width):
    """E12 over even powers of s: the engine's quadrature is exact for them."""
    equation = EQUATIONS["head_average"].right.subs(symbol("score_std"), 1)
    d = symbol("head_width")
    nodes, weights = head_nodes(width)
    for power in (2, 4, 8):
        monomial = equation.replace(sp.Function("Y"), lambda s, n=power: s**n).subs(d, width)
        exact = sp.simplify(sp.nsimplify(monomial).doit())
        assert weights @ nodes ** (power // 2) == pytest.approx(float(exact), rel=RELATIVE)


@pytest.mark.parametrize(("width", "rho"), [(8.0, 0.3), (3.0, 0.9)])
def test_two_queries_of_a_head(width, rho):
    """E12b at the engine's nodes; the moments of its Gram matrix are tested with the engine."""
    x, other, r, weight = head_pairs(width, rho, norms=2, cosines=2)
    norms, cosines = squares(width, 2)[0], cosines_of(width, 2)[0]
    rows = zip(product(norms, norms, cosines), x, other, r, strict=True)
    for (u, v, c), *expected in rows:
        at = {"U": u, "V": v, "c": c, "x": expected[0], "x'": expected[1]}
        names = ("query_factor", "other_query_factor", "query_correlation")
        for name, value in zip(names, expected, strict=True):
            right = EQUATIONS[name].right
            known = {s: at.get(s.name, rho) for s in right.free_symbols}
            assert float(right.subs(known)) == pytest.approx(value, rel=RELATIVE)
    assert weight.sum() == pytest.approx(1)


LAYOUT = st.sampled_from(("post", "pre", "none", "parallel"))


class Symbolic:
    """A symbolic component as a layer."""

    def __init__(self, component):
        self.component = component

    def forward(self, kernel, place):
        return Step(self.component(kernel))


def specified(layout):
    norm = "pre" if layout == "parallel" else layout
    return SimpleNamespace(norm=norm, order=NORMS[norm], ends_in_norm=norm == "post",
                           parallel=layout == "parallel", width=None,
                           alpha_attn=symbol("alpha_attn"),
                           alpha_mlp=symbol("alpha_mlp"))  # fmt: skip


@cache
def in_the_limit(layout):
    parts = {"attention": Attention(rem.limit), "norm": Norm(), "mlp": Mlp()}
    return fold(block(layout, parts, {"alpha_mlp": sp.S.One}), FREE)


@pytest.mark.parametrize("layout", ["post", "pre", "none", "parallel"])
def test_both_blocks_fold_the_same_components(layout):
    """The numerical block's own assembly, given symbolic components, is the symbolic block."""
    spec = specified(layout)
    norm = None if spec.norm == "none" else Symbolic(Norm())
    numeric = assembled(spec, norm, Symbolic(Attention()), Symbolic(Mlp()), None)(FREE)
    assert tuple(numeric) == tuple(fold(block(layout), FREE))
    other = "pre" if layout == "post" else "post"
    assert tuple(numeric) != tuple(fold(block(other), FREE))


@many
@given(layout=LAYOUT, x=EXPONENT.map(lambda x: 10.0**x), offset=OFFSET,
       q=st.floats(-0.5, 0.5).map(lambda e: 10.0**e), v=WIDE, w=WIDE,
       b=st.one_of(st.just(0.0), WIDE), alpha=WIDE)  # fmt: skip
def test_block_in_the_limit(layout, x, q, offset, v, w, b, alpha):
    read = 1.0 if layout in ("pre", "parallel") else q
    beta = min(float(critical_beta(read, read * x)) * (1 + offset), 1000.0)
    spec = specified(layout)
    numeric = ModelSpec(depth=1, context="inf", beta=beta, sigma_v2=v, sigma_w2=w, sigma_b2=b,
                          alpha_attn=alpha, rho0=0.0, norm=spec.norm,
                          parallel=spec.parallel)  # fmt: skip
    found = build_block(numeric)(NumericState(q, q * x))
    exact = in_the_limit(layout)
    values = {"q": q, "gap": q * x, "beta": beta, "sigma_v2": v, "sigma_w1_2": w, "sigma_w2_2": w,
              "sigma_b2": b, "alpha_attn": alpha}  # fmt: skip
    agree(found.q, exact.q, conditioned=True, **values)
    agree(found.gap, exact.gap, conditioned=True, **values)


@cache
def mlp_slope(name):
    """E19 of one activation, E phi'^2 taken from its kernel."""
    kernel, q1 = KERNELS[name], symbol("q1")
    slope = sp.limit(sp.diff(kernel.drop(q1, FREE.gap), FREE.gap), FREE.gap, 0, "+")
    chi = EQUATIONS["chi_mlp"].right.replace(sp.Function("Phi"), kernel.dual)
    (unknown,) = (s for s in chi.free_symbols if "phi" in s.name)
    return chi.subs(unknown, slope).subs(q1, symbol("sigma_w1_2") + symbol("sigma_b2"))


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from(("relu", "erf", "gelu", "linear")), alpha=WIDE, skip=WIDE, v=WIDE,
       w=WIDE, b=st.one_of(st.just(0.0), WIDE))  # fmt: skip
def test_exponents(name, alpha, skip, v, w, b):
    """E18 to E20: the engine's slope at gap/q = 1e-40 against E19's closed form."""
    spec = ModelSpec(depth=1, context="inf", beta=1, sigma_v2=v, sigma_w2=w, sigma_b2=b, rho0=0,
                       alpha_attn=alpha, alpha_mlp=skip, activation=name)  # fmt: skip
    chi_mlp = mlp_slope(name)
    chi = EQUATIONS["chi_attn"].right * chi_mlp
    values = {"alpha_attn": alpha, "alpha_mlp": skip, "sigma_v2": v, "sigma_w1_2": w,
              "sigma_w2_2": w, "sigma_b2": b}  # fmt: skip
    found = exponents(spec)
    agree(found.chi, chi, **values)
    agree(found.angle_exponent, EQUATIONS["angle_exponent"].right, chi=float(found.chi))
    agree(found.depth_scale, EQUATIONS["depth_scale"].right, chi=float(found.chi))
    strength = asymptotic_alpha(spec)
    factor = function(chi_mlp, tuple(values))(*values.values())
    if abs(factor - 1) < 1e-14:  # ReLU without bias: exactly one
        assert np.isinf(strength)
    elif np.isfinite(strength):
        agree(strength**2, EQUATIONS["alpha_asymptotic"].right, conditioned=True,
              sigma_v2=v, sigma_b2=b, chi_mlp=factor)  # fmt: skip
    else:
        assert factor < 1


@settings(max_examples=15, deadline=None)
@given(depth=st.integers(2, 96), v=st.floats(0.05, 5), rho0=st.floats(0.01, 0.6),
       top=st.floats(0.7, 0.999))  # fmt: skip
def test_critical_strength(depth, v, rho0, top):
    """E21 against the root finder on the full map, which stops at 1e-13 of log(1 - rho_L)."""
    spec = ModelSpec(depth=depth, context="inf", beta=0, sigma_v2=v, sigma_w2=0, rho0=rho0)
    found = critical(spec, top)
    exact = EQUATIONS["alpha_depth"].right
    names = ("sigma_v2", "depth", "rho0", "rho_max")
    value = compiled(exact, *names)(v, depth, rho0, top)
    height = 2 * depth * top * v / (value + v)  # slope of log(1 - rho_L) in log alpha
    assert found.alpha_attn**2 == pytest.approx(value, rel=RELATIVE + 4e-13 / height)


PAIR = st.floats(-0.9, 0.9).map(lambda p: p if abs(p) > 1e-200 else 0.0)  # quotients stay normal


@many
@given(q=WIDE, x=st.floats(-10, 0).map(lambda e: 10.0**e), beta=st.floats(0, 4), p=PAIR, v=WIDE,
       context=st.sampled_from((2, 17, 512, 65536)))  # fmt: skip
def test_backward_attention(q, x, beta, p, v, context):
    """E23 and E24 together, with the weights' statistics of the engine."""
    beta, state = beta / q, NumericState(q, q * x)
    rem = Finite(context)
    found = back(NumericAttention(beta, v, context=context), state, Gradient(1.0, p), rem)
    b = reduced_beta(beta, state)
    weights = rem.weights(b, x)
    one, hot = rem.response(b, x), rem.response(b, x, tilt=1)
    values = {"q": q, "gap": q * x, "beta": beta, "sigma_v2": v, "context": float(context)}
    values |= {"y2": weights.y2, "overlap": weights.y2 - weights.spread, "q_grad": 1.0}
    values |= {"p_grad": p / (context - 1), "P": one.own, "P_r": one.cross}
    values |= {r"\hat{P}": hot.own, r"\hat{P}_r": hot.cross}
    values = {name: float(value) for name, value in values.items()}
    for side, number in (("q", found.q), ("p", found.others / (context - 1))):
        right = EQUATIONS[f"value_path_{side}"].right + EQUATIONS[f"score_path_{side}"].right
        agree(number, right, conditioned=True, **values)


@many
@given(q=WIDE, x=ANY_GAP, p=PAIR, w1=WIDE, w2=WIDE, gain=WIDE, alpha=WIDE)
def test_backward_other_maps(q, x, p, w1, w2, gain, alpha):
    state, gradient = NumericState(q, q * x), Gradient(1.0, p)
    values = {"q": q, "gap": q * x, "q_grad": 1.0, "p_grad": p, "sigma_w1_2": w1, "sigma_w2_2": w2}
    values |= {"alpha_attn": alpha, "norm_gain": gain}
    for layer, name, gained in (
        (NumericMlp(activation("relu"), w1, w2), "relu_backward", 1),
        (NumericNorm(gain), "norm_backward", symbol("norm_gain") ** 2),
        (NumericResidual(alpha, ()), "residual_backward", 1),
    ):
        found = back(layer, state, gradient)
        for side, number in (("q", found.q), ("p", found.others)):
            right = EQUATIONS[f"{name}_{side}"].right * gained
            right = right.subs(symbol("theta"), EQUATIONS["theta"].right)
            agree(number, right, conditioned=True, **values)


def test_gradients_through_values():
    """E23 is an identity of any row-stochastic A: the mean of A^T G A over exchangeable G."""
    rng = np.random.default_rng(0)
    t, q, p = 7, 1.3, 0.4
    a = rng.dirichlet(np.ones(t), t)
    kernel = np.full((t, t), p) + (q - p) * np.eye(t)
    back = 2.5 * a.T @ kernel @ a
    product = a @ a.T
    shared = (product.sum() - np.trace(product)) / t / (t - 1)
    values = {"y2": np.trace(product) / t, "context": float(t), "sigma_v2": 2.5, "q_grad": q}
    values |= {"p_grad": p, "overlap": shared}
    agree(np.trace(back) / t, EQUATIONS["value_path_q"].right, **values)
    off = (back.sum() - np.trace(back)) / t / (t - 1)
    agree(off, EQUATIONS["value_path_p"].right, **values)


def test_gradients_through_relu():
    """E phi'(u) phi'(u') is the derivative of the dual in the covariance (Price's theorem)."""
    kernel, theta = KERNELS["relu"], EQUATIONS["theta"].right
    derivative = -sp.diff(kernel.dual(FREE.q, FREE.gap), FREE.gap)
    p = EQUATIONS["relu_backward_p"].right.subs(symbol("theta"), theta)
    p = p / symbol("p_grad") / symbol("sigma_w1_2") / symbol("sigma_w2_2")
    for gap in (1e-10, 0.2, 1.0, 1.3):
        exact = compiled(derivative, "q", "gap", digits=60)(1.0, gap)
        agree(exact, p, q=1.0, gap=gap)


@pytest.mark.parametrize("beta", [0.3, 1.5, 3.0])
def test_query_gradient(beta):
    """E22 at finite T; so wide that heads and keys of finite width, which it leaves out, agree."""
    spec = ModelSpec(
        depth=1,
        context=512,
        width=10**6,
        beta=[beta],
        sigma_v2=1.3,
        sigma_w2=0,
        rho0=0,
        norm="none",
    )
    found = moments(beta * np.sqrt(np.log(512)), 512)
    right = EQUATIONS["query_gradient"].right
    (g2,) = (s for s in right.free_symbols if s.name == "g^2")
    values = {n: float(getattr(found, n)) for n in ("y2", "y3", "y22")}
    values |= {"beta": beta, "sigma_v2": 1.3, "context": 512.0, "width": 1e6}
    exact = function(right.subs(g2, 1), tuple(values))(*values.values())
    assert gradients(spec).wq[0, 0] == pytest.approx(exact, rel=1e-4)


def test_every_equation_is_there():
    numbers = {row.number for row in EQUATIONS.values()}
    assert {f"E{n}" for n in range(1, 27)} <= numbers
    for row in EQUATIONS.values():
        assert row.source
        assert row.meaning
        assert row.latex == f"{latex(row.left)} = {latex(row.right)}"


def test_every_formula_parses_as_mathtext():
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("agg")
    for row in EQUATIONS.values():
        parser.parse(f"${row.latex}$")


def test_refusals():
    with pytest.raises(DomainError, match="layout = 'side'"):
        block("side")
    with pytest.raises(ValueError, match="also the symbols"):
        compiled(symbol("q") * symbol("gap"), "q")
    with pytest.raises(DomainError, match="nonsense"):
        symbol("nonsense")
