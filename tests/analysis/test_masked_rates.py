"""Rates where all tokens have merged under a causal mask, against deep stacks by position."""

import numpy as np
import pytest

from sigprop import ModelSpec, critical, exponents
from sigprop.analysis.critical import asymptotic_alpha
from sigprop.propagation.capabilities import TheoryError
from sigprop.propagation.causal import causal

DEEP = ModelSpec(
    depth=120, context=16, causal=True, beta=1.5, sigma_v2=1, sigma_w2=0, rho0=0.5
)  # fmt: skip
STACKS = {
    "attention": {},
    "tanh": {"sigma_w2": 1.0, "activation": "tanh"},
    "bias": {"sigma_w2": 1.0, "activation": "tanh", "sigma_b2": 0.3, "alpha_attn": 1.5},
    "window of one": {"window": 1},
    "window": {"window": 4, "sigma_w2": 0.5, "activation": "tanh"},
    "rotary": {"rotary_base": 1e4, "width": 64, "heads": 4, "beta": 2.5},
}


@pytest.mark.parametrize("name", STACKS)
def test_the_first_gap_shrinks_by_chi(name):
    """Exactly; control: the factor of late tokens."""
    spec = DEEP.replace(**STACKS[name])
    gap = causal(spec).gap_ratio[:, 0, 1]
    factor = (gap[-1] / gap[-21]) ** (1 / 20)
    assert float(exponents(spec).chi) == pytest.approx(factor, rel=1e-9)
    late = float(exponents(spec, geometry="exchangeable").chi)
    assert abs(late / factor - 1) > 0.05


def test_late_gaps_follow_the_first_ones():
    """They shrink as without a mask at first, and by chi in the end."""
    gap = causal(DEEP.replace(context=256, beta=0.0, rho0=1 - 1e-9)).gap_ratio[:, -2, -1]
    factor = gap[1:] / gap[:-1]
    assert factor[0] == pytest.approx(float(exponents(DEEP, geometry="exchangeable").chi), rel=0.05)
    assert factor[-1] == pytest.approx(float(exponents(DEEP).chi), rel=0.01)
    assert float(exponents(DEEP).chi) == pytest.approx(0.625, rel=1e-12)  # (1 + 1/4)/(1 + 1)


def test_power_law_before_a_norm():
    spec = DEEP.replace(
        depth=2000, context=4, norm="pre", beta=0.5, sigma_w2=1.0, activation="tanh", rho0=0.9
    )
    gap = causal(spec).gap_ratio[:, 0, 1]
    power = np.log(gap[2000] / gap[1000]) / np.log(2)
    assert float(exponents(spec).power_law) == pytest.approx(power, abs=2e-3)
    assert abs(float(exponents(spec, geometry="exchangeable").power_law) - power) > 0.1


def test_asymptotic_strength_keeps_the_first_gap():
    """Just above it the gap grows, just below it shrinks; at the one of late tokens it grows."""
    spec = DEEP.replace(depth=60, sigma_w2=3.0, activation="tanh", rho0=1 - 1e-12)
    alpha = float(asymptotic_alpha(spec))

    def factor(strength):
        gap = causal(spec.replace(alpha_attn=strength)).gap_ratio[:, 0, 1]
        return (gap[-1] / gap[-21]) ** (1 / 20)

    assert factor(alpha) == pytest.approx(1, abs=1e-6)
    assert factor(0.99 * alpha) < 0.999 < 1.001 < factor(1.01 * alpha)
    assert factor(float(asymptotic_alpha(spec, geometry="exchangeable"))) > 1.05
    assert float(critical(spec, 0.9).asymptotic) == pytest.approx(alpha)
    assert np.isinf(asymptotic_alpha(spec.replace(sigma_w2=0.0)))


def test_arrays_are_single_specs():
    beta, context = np.array([[0.5], [2.0]]), np.array([8, 64, 8])
    spec = DEEP.replace(rotary_base=1e4, beta=beta, context=context, width=64, heads=4)
    found = exponents(spec).chi
    assert found.shape == (2, 3)
    for i, j in np.ndindex(found.shape):
        one = spec.replace(beta=beta[i, 0], context=int(context[j]))
        assert found[i, j] == pytest.approx(float(exponents(one).chi), rel=1e-12)
    assert found[0, 0] < found[1, 0] < found[1, 1]  # scores grow, and with them the choice of keys


def test_refused_by_name():
    for changes, words in (
        ({"prefix": 4}, "prefix above one"),
        ({"context": "inf"}, "limit of infinite context"),
        ({"value_identity": 0.5}, "identity"),
        ({"causal": False, "rotary_base": 1e4}, "rotary_base without"),
    ):
        for command in (exponents, asymptotic_alpha):
            with pytest.raises(TheoryError, match=words):
                command(DEEP.replace(**changes))
