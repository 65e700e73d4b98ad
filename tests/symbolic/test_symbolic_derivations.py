"""Derivations: what sympy finds from the maps, and that it changes when the maps change."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from places import at

from sigprop import ModelSpec, propagate
from sigprop.core.errors import DomainError
from sigprop.layers.attention.layer import Attention as NumericAttention
from sigprop.layers.attention.statistics import Finite, Limit, moments
from sigprop.layers.norm import Norm as NumericNorm
from sigprop.layers.residual import Residual as NumericResidual
from sigprop.layers.residual import Sequence
from sigprop.layers.state import State as NumericState
from sigprop.symbolic import (
    EQUATIONS,
    KERNELS,
    Kernel,
    Mlp,
    State,
    compiled,
    derive,
    entries,
    rem,
    strength,
    symbol,
)
from sigprop.symbolic.collapse import UNIFORM

ALPHA, V, B, CHI = (symbol(n) for n in ("alpha_attn", "sigma_v2", "sigma_b2", "chi_mlp"))
W1, W2, SKIP, DEPTH = (symbol(n) for n in ("sigma_w1_2", "sigma_w2_2", "alpha_mlp", "depth"))
Q, GAP, BETA, M, BETA_C = (symbol(n) for n in ("q", "gap", "beta", "freezing", "beta_c"))


def same(a, b):
    return sp.simplify(a - b) == 0


def result(name, **maps):
    return derive(name, **maps).result.rhs


def third(q, gap):
    """ReLU's drop with gap/3 in place of gap/2."""
    return KERNELS["relu"].drop(q, gap) - gap / 6


def twice(state):
    """Attention whose values are twice as strong."""
    return replace(UNIFORM, sigma_v2=2 * V)(state)


WRONG = Mlp(Kernel("third", KERNELS["relu"].dual, third))
DOUBLE = {"attention": twice}
HALF_STD = {"std": lambda q, gap: rem.score_std(q, gap) / 2}


def doubled(integral):
    return lambda *words: 2 * integral(*words)


# name: expected result, maps with a changed coefficient, result with them
EXPECTED = {
    "chi-norm": (sp.S.One, None, None),
    "chi-attention": (EQUATIONS["chi_attn"].right, DOUBLE, ALPHA**2 / (ALPHA**2 + 2 * V + B)),
    "chi-mlp": (
        (W1 * W2 / 2 + SKIP**2) / (W2 * (W1 + B) / 2 + B + SKIP**2),
        {"mlp": WRONG},
        (W1 * W2 / 3 + SKIP**2) / (W2 * (W1 + B) / 2 + B + SKIP**2),
    ),
    "chi-block": (ALPHA**2 / (ALPHA**2 + V), DOUBLE, ALPHA**2 / (ALPHA**2 + 2 * V)),
    "alpha-asymptotic": (EQUATIONS["alpha_asymptotic"].right, DOUBLE, (2 * V + B) / (CHI - 1)),
    "alpha-large-depth": (
        (V + B) * DEPTH / sp.log(1 / sp.Symbol("epsilon", positive=True)),
        DOUBLE,
        (2 * V + B) * DEPTH / sp.log(1 / sp.Symbol("epsilon", positive=True)),
    ),
    "critical-beta": (sp.sqrt(2 / (Q * GAP)), HALF_STD, 2 * sp.sqrt(2 / (Q * GAP))),
    "annealed-beta": (BETA_C / sp.sqrt(2), None, None),
    "breakdown-beta": (BETA_C / 2, None, None),
    "freezing": (
        sp.Min(1, sp.sqrt(2 / (Q * GAP)) / BETA),
        HALF_STD,
        sp.Min(1, 2 * sp.sqrt(2 / (Q * GAP)) / BETA),
    ),
    "entropy-limit": (
        sp.Max(0, 1 - BETA**2 * Q * GAP / 2),
        HALF_STD,
        sp.Max(0, 1 - BETA**2 * Q * GAP / 8),
    ),
    "frozen-moments": (1 - M, {"integral": doubled(rem.laplace_moment)}, 2 * (1 - M)),
    "relu-variance": (sp.sqrt(2), {"kernel": KERNELS["linear"]}, sp.S.One),
    "relu-marginal": (sp.S.Zero, None, None),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_result(name):
    expected, changed, moved = EXPECTED[name]
    assert same(result(name), expected)
    if changed is not None:
        assert same(result(name, **changed), moved)
        assert not same(moved, expected)


def test_moments_of_the_frozen_phase():
    """Y_2, Y_3, Y_22 derived from E6 and E7 are E5, and Y_22 changes with E7."""
    found = derive("frozen-moments")
    limit = rem.frozen_moments(M)
    assert same(found.steps[-2].expression.rhs, limit["y3"])
    y22 = result("frozen-y22").subs(symbol("y2"), 1 - M)
    assert same(y22, limit["y22"])
    more = result("frozen-y22", integral=doubled(rem.laplace_pair)).subs(symbol("y2"), 1 - M)
    assert same(more - y22, M * (1 - M) ** 2 / 6)


def test_entropy_of_the_frozen_phase_is_that_of_a_long_context():
    """At m = 0.3 the entropy in nats tends to psi(1) - psi(1 - m), as slowly as 1/log T."""
    value = float(result("frozen-entropy").subs(M, 0.3))
    log_t = np.log([1e6, 1e12])
    exact = moments(np.sqrt(2 * log_t) / 0.3, [1e6, 1e12]).entropy
    error = abs(exact / value - 1)
    assert error[1] < 0.65 * error[0]
    assert error[0] < 0.12


def test_query_gradient_vanishes_below_freezing():
    *_, bracket, gain = derive("query-gradient-limit").steps
    assert same(bracket.expression, M * (1 - M) / 3)
    assert gain.expression.subs(BETA, BETA_C) == 0


def test_relu_leading_nonlinear_term():
    """gap^(3/2) with its coefficient, against the map in 60 digits."""
    linear, rest = (s.expression for s in derive("relu-nonlinear").steps[1:3])
    (x,) = rest.free_symbols
    assert same(rest, -sp.sqrt(2) * x ** sp.Rational(3, 2) / (3 * sp.pi))
    drop = compiled(KERNELS["relu"].drop(sp.S.One, GAP), "gap", digits=60)
    for gap in (1e-6, 1e-8):
        assert (drop(gap) - float(linear.subs(x, gap))) / float(rest.subs(x, gap)) == (
            pytest.approx(1, abs=gap)
        )
    changed = derive("relu-nonlinear", kernel=WRONG.kernel)
    assert same(changed.steps[1].expression, x / 3)


def test_attention_near_collapse():
    """gap' = sigma_v2 beta^2 log T (T-1)/T^2 gap^3, against the numerical map."""
    leading = result("attention-nonlinear")
    exact = compiled(leading, "beta", "sigma_v2", "gap", "q", "context")
    for q, gap in ((1.0, 1e-5), (0.5, 1e-8)):
        found = at(NumericAttention(2.0, 1.5), NumericState(q, gap), Finite(512)).gap
        assert found == pytest.approx(exact(2.0, 1.5, gap, q, 512.0), rel=1e-3)
    assert same(derive("attention-nonlinear", **HALF_STD).result.rhs, leading / 4)


@pytest.mark.parametrize("bias", [0.0, 0.3])
@pytest.mark.parametrize("attention", [UNIFORM, twice])
def test_critical_strength_at_depth(bias, attention):
    """The closed form, with and without bias, holds rho_L = rho_max on the numerical maps."""
    name = "alpha-depth-bias" if bias else "alpha-depth"
    squared = result(name, attention=attention)
    names = ("sigma_v2", "sigma_b2", "rho0", "rho_max", "depth")
    v, rho0, top, depth = 0.7, 0.2, 0.9, 12
    alpha = np.sqrt(compiled(squared, *names)(v, bias, rho0, top, depth))
    strong = v if attention is UNIFORM else 2 * v
    layer = NumericAttention(0.0, strong, bias)
    layers = (NumericResidual(alpha, (layer,)), NumericNorm()) * depth
    found = at(Sequence(layers), NumericState(1.0, 1 - rho0), Limit())
    assert float(found.rho) == pytest.approx(top, rel=1e-13)
    if not bias:  # E21 as theory.md has it
        stated = compiled(EQUATIONS["alpha_depth"].right, *names)
        derived = compiled(result(name), *names)
        values = (v, bias, rho0, top, depth)
        assert stated(*values) == pytest.approx(derived(*values), rel=1e-13)


def test_a_map_without_linear_odds_is_refused():
    with pytest.raises(ValueError, match="not linear"):
        strength.recursion((lambda s: State(s.q, s.gap**2),))


def test_pre_norm_power_law():
    """The exponent of 1 - rho in depth, against a deep trajectory that starts near collapse.

    There ReLU's gap^(3/2) is negligible; it vanishes only as l^(exponent/2) otherwise.
    """
    spec = ModelSpec(depth=2000, context="inf", beta=0, sigma_v2=0.6, sigma_w2=1.1,
                       rho0=1 - 1e-10, sigma_b2=0.1, norm="pre")  # fmt: skip
    found = propagate(spec)
    x = found.gap / found.q
    measured = np.log(x[2000] / x[1000]) / np.log(2)
    exponent = derive("pre-norm-power").result
    values = {V: 0.6, B: 0.1, W1: 1.1, W2: 1.1}
    assert measured == pytest.approx(float(exponent.subs(values)), abs=4e-3)
    changed = derive("pre-norm-power", attention=twice).result
    assert same(changed, exponent.subs(V, 2 * V))
    assert not same(changed, exponent)


def test_strength_that_holds_the_variance():
    squared = result("pre-norm-alpha")
    values = {Q: 3.0, V: 0.6, B: 0.1, W1: 1.1, W2: 1.1}
    alpha = float(sp.sqrt(squared.subs(values)))
    spec = ModelSpec(depth=40, context="inf", beta=0, sigma_v2=0.6, sigma_w2=1.1, rho0=1,
                       sigma_b2=0.1, norm="pre", alpha_attn=alpha, alpha_mlp=alpha,
                       q0=3)  # fmt: skip
    np.testing.assert_allclose(propagate(spec).q, 3.0, rtol=1e-13)
    bounded = result("pre-norm-bounded").subs({ALPHA: alpha, SKIP: alpha} | values)
    assert float(bounded) == pytest.approx(3.0, rel=1e-13)


def test_typical_and_mean_thresholds_on_long_contexts():
    """b = sqrt(2/3): the mean of Y_2 leaves e^(s^2)/T there, not at the typical sqrt(1/2)."""
    steps = [s.expression for s in derive("breakdown-beta").steps]
    assert sp.sqrt(6) / 3 in steps
    assert sp.sqrt(2) / 2 in steps
    t = 1e12
    s = np.array([0.6, 0.95]) * np.sqrt(np.log(t))
    below, above = moments(s, t).y2 * t / np.exp(s**2)
    assert abs(below - 1) < 0.02
    assert above < 0.1


def test_erf_always_separates():
    chi = result("erf-chaos")
    values = compiled(chi, "sigma_w1_2")(np.geomspace(1e-3, 1e3, 50))
    assert (values > 1).all()
    assert (
        compiled(result("chi-mlp").subs({SKIP: 0, B: 0}), "sigma_w1_2", "sigma_w2_2")(1, 1)
    ) == 1


@pytest.mark.parametrize("name", entries())
def test_each_derivation_is_printable(name):
    found = derive(name)
    assert len(found.steps) >= 2
    assert all(step.text and step.latex for step in found.steps)
    assert found.to_dict()["steps"][-1]["expression"] == str(found.result)


def test_unknown_name():
    with pytest.raises(DomainError, match=r"NAME = 'nonsense' .* chi-norm, "):
        derive("nonsense")
