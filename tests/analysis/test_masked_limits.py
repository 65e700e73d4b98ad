"""Fixed points and gradient exponents by position, against deep stacks and whole spectra."""

from functools import partial

import numpy as np
import pytest

from sigprop import (
    ModelSpec,
    State,
    exponents,
    fixed_points,
    gradient_exponent,
    gradients,
    propagate,
)
from sigprop.layers.state import Gradient
from sigprop.propagation.capabilities import TheoryError
from sigprop.propagation.causal import causal
from sigprop.propagation.gradients import exponent
from sigprop.propagation.gradients.by_position import pullback, stack_of
from sigprop.propagation.settled import alike, multiplier, period_of, settled
from sigprop.propagation.stack import build_stack

CHAOTIC = ModelSpec(
    depth=80, context=8, width=512, heads=8, causal=True, beta=3, sigma_v2=1, sigma_w2=16,
    sigma_b2=0.05, activation="tanh", rho0=0.5, rotary_base=1e4,
)  # fmt: skip
PLAIN = {"causal": False, "rotary_base": None}
STACKS = {
    "rotary": {},
    "mask": {"rotary_base": None, "beta": 0.0},
    "window": {"window": 4},
    "prefix": {"prefix": 4},
    "distance": {"causal": False},
    "pattern": {"pattern": [{"window": 2}, {"beta": 1.0}]},
}


@pytest.mark.parametrize("name", STACKS)
def test_deep_stacks_settle_at_the_fixed_point(name):
    """From any start; control: tokens without positions settle elsewhere."""
    spec = CHAOTIC.replace(**STACKS[name])
    merged, apart = fixed_points(spec)
    assert (merged.rho, merged.stable, apart.stable) == (1.0, False, True)
    depth = spec.depth / period_of(spec).depth
    assert float(propagate(spec).rho[-1]) == pytest.approx(apart.rho, abs=2 * apart.slope**depth)
    late = fixed_points(CHAOTIC.replace(**PLAIN))[-1]
    assert abs(late.rho - apart.rho) > 0.003 > 20 * apart.slope**depth
    assert len(apart.resolved.y2) == period_of(spec).depth


def test_the_slope_is_the_rate_of_a_deep_stack():
    """Of two tokens; control: without a mask."""
    spec = CHAOTIC.replace(context=2, depth=40)
    moved = np.abs(np.diff(causal(spec).gap_ratio[:, 0, 1]))
    factor = (moved[36] / moved[32]) ** 0.25
    assert fixed_points(spec)[1].slope == pytest.approx(factor, rel=1e-4)
    assert abs(fixed_points(spec.replace(**PLAIN))[-1].slope / factor - 1) > 0.01


@pytest.mark.parametrize("name", ["rotary", "window"])
def test_the_slope_is_that_of_the_whole_derivative(name):
    """Largest eigenvalue of differences pair by pair; control: the second largest."""
    spec = CHAOTIC.replace(context=6, depth=1, **STACKS[name])
    stack = build_stack(spec, "position")
    kernel = settled(stack, spec)
    i, j = np.triu_indices(6, 1)

    def moved(step):
        found = [stack.blocks[0](State(kernel.q, kernel.gap + step * one)).gap for one in units]
        return np.array(found)[:, i, j]

    units = np.zeros((len(i), 6, 6))
    units[np.arange(len(i)), i, j] = units[np.arange(len(i)), j, i] = 1.0
    derivative = (moved(1e-5) - moved(-1e-5)) / 2e-5
    whole = np.sort(np.abs(np.linalg.eigvals(derivative)))
    assert fixed_points(spec)[1].slope == pytest.approx(whole[-1], rel=1e-5)
    assert whole[-2] < whole[-1] * (1 - 1e-3)


@pytest.mark.parametrize("name", ["mask", "rotary"])
def test_the_slope_of_merged_tokens_is_chi(name):
    """Found from all pairs and from the first two alone."""
    spec = CHAOTIC.replace(**STACKS[name])
    stack = build_stack(period_of(spec), "position")
    whole = multiplier(stack, alike(stack, State(1.0, 0.0)))
    assert whole == pytest.approx(float(exponents(spec).chi), rel=1e-6)
    assert fixed_points(spec)[0].slope == float(exponents(spec).chi)


@pytest.mark.parametrize("changes", [{}, {"activation": "relu"}, {"context": 1024}])
def test_tokens_merge_where_chi_is_below_one(changes):
    spec = CHAOTIC.replace(**({"sigma_w2": 1.0, "alpha_attn": 0.7} | changes))
    (only,) = fixed_points(spec)
    assert (only.rho, only.gap, only.stable, only.resolved) == (1.0, 0.0, True, None)
    assert only.slope == float(exponents(spec).chi) < 1


def spectrum(spec):
    """Largest eigenvalues of the map back of a period, from its whole matrix."""
    period = period_of(spec)
    stack = stack_of(period)
    pull = pullback(stack, settled(stack, period))
    tokens = int(spec.context)
    i, j = np.triu_indices(tokens, 1)
    columns = []
    for number in range(tokens + len(i)):
        q, others = np.zeros((tokens, 1)), np.zeros((tokens, tokens))
        if number < tokens:
            q[number] = 1.0
        else:
            pair = i[number - tokens], j[number - tokens]
            others[pair] = others[pair[::-1]] = 0.5
        found = pull(Gradient(q, others))
        columns.append(np.concatenate([found.q[:, 0], (found.others + found.others.T)[i, j]]))
    return np.sort(np.abs(np.linalg.eigvals(columns)))[::-1]


@pytest.mark.parametrize("name", STACKS)
def test_the_exponent_is_that_of_the_whole_spectrum(name):
    spec = CHAOTIC.replace(context=5, **STACKS[name])
    whole = np.log(spectrum(spec)[:2]) / period_of(spec).depth
    # the state has settled to 1e-10 of its gaps
    assert float(gradient_exponent(spec)) == pytest.approx(whole[0], abs=1e-8)
    assert abs(whole[1] - whole[0]) > 1e-4


def test_gradients_of_deep_stacks_grow_by_the_exponent():
    """Those of the first token outgrow all others; control: the exponent without a mask."""
    spec = CHAOTIC.replace(beta=1.0, depth=50)
    found = gradients(spec, blocks=8)
    growth = np.log(found.q[14:18] / found.q[15:19])
    exponent = float(gradient_exponent(spec))
    # what is left of the other modes, and of the state, after fourteen blocks from either end
    np.testing.assert_allclose(growth, exponent, atol=1e-5)
    assert found.q_blocks[14, 0] > 0.5 * found.q_blocks[14].sum()
    late = float(gradient_exponent(spec.replace(**PLAIN)))
    assert abs(late - exponent) > 0.1


def test_the_last_token_may_outgrow_the_first():
    """Scores that are hot pass more of a late token's gradient back to it."""
    hot, cold = CHAOTIC.replace(beta=8.0), CHAOTIC.replace(beta=0.5)
    first = float(gradient_exponent(hot, State(1.0, 0.0)))
    assert float(gradient_exponent(cold)) == pytest.approx(first, rel=1e-12)
    assert float(gradient_exponent(hot)) > first + 0.02


def test_merged_tokens_have_one_exponent_under_every_mask():
    """That of the first token, whatever mask; control: where they are apart it differs."""
    merged = State(1.0, 0.0)
    plain = float(gradient_exponent(CHAOTIC.replace(**PLAIN), merged))
    for name in ("window", "distance"):
        spec = CHAOTIC.replace(context=5, **STACKS[name])
        assert float(gradient_exponent(spec, merged)) == pytest.approx(plain, abs=1e-7)
    apart = float(gradient_exponent(CHAOTIC.replace(**PLAIN), State(1.0, 0.5)))
    assert abs(apart - plain) > 0.02


def test_late_tokens_are_resolved():
    """A few late tokens stand for all; control: another context."""
    spec = CHAOTIC.replace(context=64, beta=4.0, alpha_attn=2.0)
    period = period_of(spec)
    every = stack_of(period, tuple(range(65)))
    pull = pullback(every, settled(every, period))

    def own(token):
        return float(pull(Gradient(np.eye(64)[:, [token]], np.zeros((64, 64)))).q[token, 0])

    exact = np.log(max(own(token) for token in range(3, 64, 10)))
    assert float(gradient_exponent(spec)) == pytest.approx(exact, abs=1e-4)
    assert abs(float(gradient_exponent(spec.replace(context=32))) - exact) > 0.01


def test_arrays_of_decoders_are_single_ones():
    spec = CHAOTIC.replace(context=4, beta=[0.5, 8.0])
    found = gradient_exponent(spec)
    each = [float(gradient_exponent(spec.replace(beta=beta))) for beta in (0.5, 8.0)]
    np.testing.assert_array_equal(found, each)
    wide = gradient_exponent(spec, State(1.0, np.array([[0.0], [0.5], [1.0]])))
    assert wide.shape == (3, 2)
    assert wide[2, 1] == float(gradient_exponent(spec.replace(beta=8.0), State(1.0, 1.0)))


def test_the_default_state_of_exchangeable_tokens_is_their_fixed_point():
    spec = CHAOTIC.replace(**PLAIN)
    gap = fixed_points(spec)[-1].gap
    assert float(gradient_exponent(spec)) == pytest.approx(
        float(gradient_exponent(spec, State(1.0, gap))), abs=1e-9
    )


def test_refused_by_name():
    by_layer = {"by_layer": {"beta": [1.0] * CHAOTIC.depth}}
    for changes, words in (
        ({"context": "inf"}, "limit of infinite context"),
        ({"value_identity": 0.5}, "identity"),
        (by_layer, "by_layer"),
        ({**PLAIN, "pattern": [{"beta": 2.0}, {}]}, "by_layer, or a pattern without"),
    ):
        for command in (fixed_points, gradient_exponent):
            with pytest.raises(TheoryError, match=words):
                command(CHAOTIC.replace(**changes))
    grows = CHAOTIC.replace(norm="pre")
    with pytest.raises(TheoryError, match="settle"):
        gradient_exponent(grows)
    assert np.isnan(gradient_exponent(grows.replace(beta=[1.0, 2.0]))).all()
    assert np.isfinite(gradient_exponent(grows.replace(alpha_attn=0.5)))
    assert np.isfinite(gradient_exponent(grows, State(1.0, 0.5)))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"window": 16}, {"pattern": [{"window": 16}, {}]}])
def test_exponents_far_behind_windows(monkeypatch, changes):
    """Long blocks against every position by itself; control: another window."""
    spec = CHAOTIC.replace(context=160, depth=2, beta=4.0, rotary_base=None, **changes)
    found = float(gradient_exponent(spec))
    monkeypatch.setattr(exponent, "stack_of", partial(stack_of, shrinking=None))
    monkeypatch.setattr(exponent, "RESOLUTION", 160)
    exact = float(gradient_exponent(spec))
    assert found == pytest.approx(exact, abs=0.005)
    other = {"window": 8} if "window" in changes else {"pattern": [{"window": 2}, {}]}
    assert abs(float(gradient_exponent(spec.replace(**other))) - exact) > 0.02
