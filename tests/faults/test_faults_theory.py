"""What version 0.2 answered with another model's numbers, with NaN or with a traceback."""

import json
import warnings

import numpy as np
import pytest
from outcomes import outcome, run_cli

from sigprop import (
    ModelSpec,
    SigpropError,
    State,
    asymptotic_alpha,
    beta_profile,
    critical,
    diagram,
    exponents,
    fixed_points,
    gradient_exponent,
    gradients,
    judge,
    propagate,
    sweep,
)

SPEC = ModelSpec(depth=3, context=16, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
POSITIONS = {
    "causal": {"causal": True},
    "window": {"causal": True, "window": 4},
    "prefix": {"causal": True, "prefix": 4},
    "rotary": {"rotary_base": 1e4},
    "both": {"causal": True, "rotary_base": 1e4},
}
RATES = {
    "exponents": exponents,
    "fixed_points": fixed_points,
    "asymptotic_alpha": asymptotic_alpha,
    "gradient_exponent": lambda spec: gradient_exponent(spec, State(1.0, 0.5)),
}


def quiet(call, *args, **named):
    """What a call ends with; a warning counts as its exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return outcome(call, *args, **named)


def refused(found, *words):
    """Whether an outcome is a named error that says these words."""
    return isinstance(found, SigpropError) and all(word in str(found) for word in words)


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("command", RATES)
def test_rates_answer_positions_or_refuse_them_by_name(command, kind):
    """Rates where all tokens have merged are known under a mask, those of the first two tokens."""
    found = quiet(RATES[command], SPEC.replace(**POSITIONS[kind]))
    merged = command in ("exponents", "asymptotic_alpha")
    if not merged or kind in ("causal", "window", "both"):
        assert not isinstance(found, Exception)
        return
    assert refused(found, "rotary_base" if kind == "rotary" else "prefix above one", command)


@pytest.mark.parametrize("kind", ["causal", "rotary"])
def test_the_command_profile_answers_by_position(tmp_path, kind):
    changes = {"causal": "true"} if kind == "causal" else {"rotary_base": "10000"}
    keys = {"depth": 3, "context": 16, "beta": 1, "sigma_v2": 1, "sigma_w2": 2, "rho0": 0.1}
    body = ", ".join(f'"{k}": {v}' for k, v in (keys | changes).items())
    (tmp_path / "spec.json").write_text(f"{{{body}}}")
    run = run_cli("profile", "spec.json", "--entropy", "0.7", "--json", folder=tmp_path)
    assert (run.returncode, run.stderr.strip()) == (0, "")
    spec, found = SPEC.replace(**POSITIONS[kind]), json.loads(run.stdout)
    held = propagate(spec, beta_by_layer=found["beta"]).entropy_ratio
    np.testing.assert_allclose(held, 0.7, atol=1e-6)
    assert found == {n: v.tolist() for n, v in vars(beta_profile(spec, 0.7)).items()}


def test_a_critical_strength_by_position_has_no_asymptote_of_another_model():
    tokens = SPEC.replace(context=8, depth=1, sigma_w2=9, activation="tanh")
    assert np.isfinite(critical(tokens, 0.9).asymptotic)
    assert np.isnan(critical(tokens.replace(rotary_base=1e4, width=8), 0.9).asymptotic)


def test_a_verdict_says_whose_exponents_it_states():
    late = outcome(lambda: judge(SPEC.replace(rotary_base=1e4, width=16)).to_dict())
    every = outcome(lambda: judge(SPEC).to_dict())
    assert late.get("exponents_of") == "late tokens without mask or rotation"
    assert every.get("exponents_of") == "all tokens"
    assert late["exponents"] == every["exponents"]  # those of the spec without positions


@pytest.mark.parametrize("positions", [{"causal": True}, {"rotary_base": 1e4, "width": 16}])
@pytest.mark.parametrize("part", [{"value_identity": 0.5}, {"identity": 0.5}])
@pytest.mark.parametrize("call", [sweep, lambda spec: critical(spec, 0.9)])
def test_identity_parts_by_position_are_refused_by_name(call, part, positions):
    found = quiet(call, SPEC.replace(context=4, depth=1, **part, **positions))
    assert refused(found, "identity", "causal = true or rotary_base")


@pytest.mark.parametrize("positions", [{"causal": True}, {"rotary_base": 1e4, "width": 16}])
def test_a_diagram_of_identity_parts_by_position_is_refused_by_name(positions):
    spec = SPEC.replace(context=4, depth=1, value_identity=0.5, **positions)
    found = quiet(diagram, spec, beta=[0.5, 1.0], alpha_attn=[1.0, 2.0])
    assert refused(found, "identity", "diagram")


def test_values_with_an_identity_part_have_the_limit_of_infinite_context():
    """At rho = 1 a stream gains (1 + c)^2 + sigma_v^2 a block, without MLP and norms."""
    spec = SPEC.replace(norm="none", sigma_w2=0, rho0=1.0, value_identity=0.5, context="inf")
    found = quiet(propagate, spec)
    assert not isinstance(found, Exception)
    np.testing.assert_allclose(found.q, 3.25 ** np.arange(4), rtol=1e-14)


@pytest.mark.parametrize("gain", [300.0, 1000.0])
def test_causal_scores_beyond_the_theory_end_by_name(gain):
    assert refused(quiet(propagate, SPEC.replace(causal=True, norm_gain=gain)), "scores exceed")


def test_a_window_of_one_key_has_no_entropy():
    """Every token copies itself: Y_2 = 1, H = 0, and the overlaps of the values stay."""
    spec = SPEC.replace(causal=True, window=1, sigma_w2=0, beta=2)
    found = quiet(propagate, spec)
    assert not isinstance(found, Exception)
    np.testing.assert_allclose(found.y2, 1.0, rtol=1e-14)
    np.testing.assert_allclose(found.rho, 0.1, rtol=1e-12)
    assert found.entropy.tolist() == found.entropy_ratio.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("command", ["propagate", "exponents"])
def test_a_gain_whose_square_vanishes_is_refused_by_name(command, norm):
    call = {"propagate": propagate, "exponents": exponents}[command]
    found = quiet(call, SPEC.replace(context="inf", norm_gain=1e-200, norm=norm))
    assert refused(found, "norm_gain below 1e-150")


NOTHING = {
    "branches": {"sigma_v2": 0, "sigma_w2": 0, "alpha_attn": 0, "alpha_mlp": 0},
    "mlp": {"sigma_w2": 0, "alpha_mlp": 0},
    "pre": {"sigma_w2": 0, "alpha_mlp": 0, "norm": "pre"},
    "tanh": {"activation": "tanh", "sigma_w2": 1e6},
    "gated": {"activation": "tanh", "sigma_w2": 1e6, "gated": True},
}


@pytest.mark.parametrize("kind", NOTHING)
def test_causal_gradients_of_a_stack_that_passes_nothing_are_refused_by_name(kind):
    spec = SPEC.replace(causal=True, width=8, context=8, **NOTHING[kind])
    assert refused(quiet(gradients, spec, draws=2), "nothing passes")


def test_tokens_of_zero_mean_keep_the_largest_gap():
    """Of two tokens x and -x attention makes y and -y: gap = 2 q, however cold it is."""
    beta = np.geomspace(1e-12, 1e-2, 6)
    spec = SPEC.replace(context=2, depth=1, rho0=-1.0, alpha_attn=0, sigma_w2=0, norm="none",
                        beta=beta)  # fmt: skip
    found = propagate(spec)
    np.testing.assert_allclose(found.gap[1] / found.q[1], 2.0, rtol=1e-6)
    assert (found.gap[1] <= 2 * found.q[1] * (1 + 4e-16)).all()


@pytest.mark.parametrize("context", [3, 5, 16, 512])
def test_a_small_response_of_zero_mean_tokens_is_not_rounding(context):
    """The output of nearly uniform attention is linear: q' = q s^2/T, rho' = -1/(T-1)."""
    beta = np.array([1e-9, 1e-7, 1e-5])
    spec = SPEC.replace(context=context, depth=1, rho0=-1 / (context - 1), alpha_attn=0,
                        sigma_w2=0, norm="none", beta=beta)  # fmt: skip
    found = propagate(spec)
    gap = context / (context - 1)
    wanted = beta**2 * np.log(context) * gap * gap * (1 - 1 / context) / context
    np.testing.assert_allclose(found.q[1], wanted, rtol=1e-7)
    np.testing.assert_allclose(found.gap[1], wanted * gap, rtol=1e-7)


def test_a_negative_zero_is_zero():
    spec = SPEC.replace(norm="pre", alpha_mlp=-0.0)
    assert asymptotic_alpha(spec) == np.inf
    assert np.signbit([v for v in spec.to_dict().values() if v == 0]).sum() == 0


def test_no_skip_branch_passes_nothing_is_said():
    found = critical(SPEC.replace(norm="pre", sigma_v2=0, sigma_w2=1e-3, context=2, rho0=0.5), 0.9)
    assert np.isfinite(found.rho)
    assert "any alpha_attn > 0" in found.to_dict()["reason"]


def test_scores_without_temperature_have_no_spread_at_infinite_context():
    found = quiet(propagate, SPEC.replace(context="inf", beta=0.0))
    assert found.score_std.tolist() == [0.0, 0.0, 0.0]


def test_the_entropy_of_frozen_attention_is_that_of_poisson_dirichlet():
    """Index m = sqrt(2)/b = 1/2: H = psi(1) - psi(1/2) = 2 log 2 nats."""
    spec = SPEC.replace(context="inf", depth=1, beta=8**0.5, rho0=0.0)
    assert propagate(spec).entropy[0] == pytest.approx(2 * np.log(2), rel=1e-12)


def test_identity_parts_beyond_every_score_attend_to_themselves():
    spec = SPEC.replace(context=4, depth=1, identity=5.0, beta=0.0, norm_gain=1e3)
    found = quiet(propagate, spec)
    assert not isinstance(found, Exception)
    assert found.y2[0] == pytest.approx(1.0, abs=1e-12)


def test_a_profile_needs_an_admissible_temperature():
    merged = SPEC.replace(depth=1, rho0=1 - 1e-12)
    assert refused(quiet(beta_profile, merged, 0.7), "inverse temperature", "block 1")


def test_exponents_without_branches_keep_every_overlap():
    spec = SPEC.replace(norm="pre", sigma_v2=0, sigma_w2=0, alpha_attn=0.5)
    found = quiet(exponents, spec)
    assert not isinstance(found, Exception)
    assert (float(found.chi), float(found.depth_scale)) == (1.0, np.inf)
