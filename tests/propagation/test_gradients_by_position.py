"""Gradients and influence by position: exact matrices, drawn heads, random networks."""

from dataclasses import replace
from math import comb

import numpy as np
import pytest
from architectures import spec_of as described
from test_backward import misses
from test_causal import DECODERS, outside
from test_fluctuations import spec_of
from wrong_types import wrong

import sigprop
from sigprop import DomainError, ModelSpec, influence, propagate
from sigprop.layers.attention import position_backward, query_responses, score_path
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.drawn_heads import angles, drawn, head, root_of
from sigprop.layers.attention.layer import Attention, Mask
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_responses import Responses
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.score_path import ScoreGradients
from sigprop.layers.attention.statistics.pairs import response_at_gap
from sigprop.layers.interface import Place, Spread
from sigprop.layers.state import Gradient, State
from sigprop.propagation.capabilities import TheoryError
from sigprop.propagation.gradients import closed_form
from sigprop.propagation.gradients.by_position import pulled, resolved_gradients, start_of

ALONE = ModelSpec(
    depth=4, context=32, causal=True, norm="none", beta=0, sigma_v2=1, sigma_w2=0, rho0=0
)
PLAIN = ModelSpec(
    depth=3, context=24, causal=True, norm="pre", beta=1, sigma_v2=1, sigma_w2=1, rho0=0.1
)


def uniform(tokens, window=np.inf, prefix=0):
    """Averages over the keys that each token sees."""
    seen = Attention(0.0, 1.0, mask=Mask(window, prefix)).seen(tokens)
    return seen / seen.sum(axis=1, keepdims=True)


def walks(mean, depth, alpha=1.0, value=1.0):
    """Squared weights of the last token on all: branches of layers are independent."""
    powers = [np.linalg.matrix_power(mean, k)[-1] ** 2 for k in range(depth + 1)]
    return sum(
        comb(depth, k) * alpha ** (2 * (depth - k)) * value**k * row for k, row in enumerate(powers)
    )


def folded(values, bins):
    sums = values.reshape(bins, -1).sum(axis=1)
    return sums / sums.sum()


# influence


def test_wrong_types_of_an_influence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some text is a path to write to
    assert wrong("sigprop", "influence") == []


@pytest.mark.parametrize("changes", [{}, {"window": 6}, {"prefix": 9}, {"alpha_attn": 0.7}])
def test_influence_of_uniform_attention_is_a_sum_over_paths(changes):
    spec = ALONE.replace(**changes, sigma_v2=0.6)
    mean = uniform(32, changes.get("window", np.inf), changes.get("prefix", 0))
    found = influence(spec, bins=8)
    for layer in range(4):
        exact = walks(mean, 4 - layer, changes.get("alpha_attn", 1.0), 0.6)
        np.testing.assert_allclose(found[layer], folded(exact, 8), rtol=1e-9)


def test_influence_is_not_that_of_the_squared_sum():
    """Negative control: entries of (1 + A)^L add amplitudes of paths in place of squares."""
    found = influence(ALONE, bins=8)[0, -1]
    assert found == pytest.approx(0.437, abs=0.01)  # simulated
    wrong = folded(np.linalg.matrix_power(np.eye(32) + uniform(32), 4)[-1], 8)[-1]
    assert wrong == pytest.approx(0.098, abs=0.001)
    without = folded(walks(uniform(32), 4, alpha=0.0), 8)[-1]  # nor that without residuals
    assert abs(found - without) > 0.3


@pytest.mark.parametrize("window", [None, 100])
def test_influence_over_blocks_is_that_over_positions(window):
    found = influence(ALONE.replace(context=1024, window=window), bins=8)
    exact = folded(walks(uniform(1024, window or np.inf), 4), 8)
    np.testing.assert_allclose(found[0], exact, atol=5e-4)


def test_without_masks_every_other_token_is_alike():
    spec = PLAIN.replace(causal=False, context=16)
    for changes in ({}, {"norm": "post"}, {"norm": "none", "beta": 0.3}, {"attention": "centred"}):
        found = influence(spec.replace(**changes), bins=16)
        np.testing.assert_allclose(found[:, 1:-1], found[:, :1] * np.ones(14), rtol=1e-6)
        assert (found[:, -1] > found[:, 0]).all()
    wide = influence(PLAIN.replace(causal=False, context=512), bins=4)
    assert (wide[:, 3] > 0.5).all()


def test_a_window_hides_what_is_out_of_reach():
    found = influence(PLAIN.replace(context=64, window=8), bins=8)
    for layer in range(3):  # each block reaches seven tokens further back
        reach = 63 - 7 * (3 - layer)
        dark = (np.arange(1, 9) * 8 - 1) < reach
        assert (found[layer, dark] == 0).all()
        assert (found[layer, ~dark] > 0).all()


def test_influence_refuses_by_name():
    for changes, words in (
        ({"norm": "none"}, "tokens differ in size"),
        ({"beta": [0.5, 1.0]}, "single spec"),
        ({"context": "inf"}, "finite context"),
        ({"value_identity": 0.5}, "identity"),
    ):
        with pytest.raises(TheoryError, match=words):
            influence(PLAIN.replace(**changes))
    for bins in (0, 25):
        with pytest.raises(DomainError, match="bins"):
            influence(PLAIN, bins)


# values: exact matrices


def linear_stack(spec, start):
    """Gradient kernels of uniform attention and a linear MLP, pair by pair."""
    tokens, mean = int(spec.context), uniform(int(spec.context))
    kernel = spec.rho0 + (1 - spec.rho0) * np.eye(tokens)
    value, linear = spec.sigma_v2, spec.sigma_w2**2

    def normed(k):
        scale = 1 / np.sqrt(np.diag(k))
        return k * np.outer(scale, scale), np.outer(scale, scale)

    tape = []
    for _ in range(spec.depth):
        read, scale = normed(kernel)
        kernel = kernel + value * mean @ read @ mean.T
        tape.append(lambda g, s=scale: g + value * s * (mean.T @ g @ mean))
        read, scale = normed(kernel)
        kernel = kernel + linear * read
        tape.append(lambda g, s=scale: g * (1 + linear * s))
    gradient, rows = start, []
    for step, pull in enumerate(reversed(tape)):
        gradient = pull(gradient)
        rows += [gradient] if step % 2 else []
    return rows[::-1]


@pytest.mark.parametrize("ids", [False, True])
def test_uniform_attention_with_norms_is_a_product_of_matrices(ids):
    spec = PLAIN.replace(beta=0.0, activation="linear", sigma_w2=0.8)
    targets = np.arange(24) % 5
    start = (targets[:, None] == targets).astype(float) if ids else np.eye(24)
    found = pulled(spec, targets if ids else "identity")
    for row, exact in zip(found.rows, linear_stack(spec, start), strict=True):
        np.testing.assert_allclose(row.gradient.q[:, 0], np.diag(exact), rtol=1e-9)
        off = exact - np.diag(np.diag(exact))
        np.testing.assert_allclose(row.gradient.others, off, rtol=1e-8, atol=1e-12)


def test_blocks_are_as_good_as_positions():
    spec = PLAIN.replace(beta=0.0, activation="linear", context=512)
    found = resolved_gradients(spec, ranges=8).q_blocks
    for mine, exact in zip(found, linear_stack(spec, np.eye(512)), strict=True):
        np.testing.assert_allclose(mine, np.diag(exact).reshape(8, -1).mean(axis=1), rtol=2e-3)


def test_centred_attention_passes_no_common_gradient():
    """Equal weights are subtracted: without scores nothing is left but the skip."""
    found = resolved_gradients(PLAIN.replace(beta=0.0, attention="centred", sigma_w2=0))
    np.testing.assert_allclose(found.q, 1.0, rtol=1e-12)
    np.testing.assert_allclose(found.wv, 0.0, atol=1e-12)


# one layer against drawn heads


def curved(tokens):
    """Kernel that varies smoothly over positions beside a diagonal."""
    place = np.log(np.arange(1, tokens + 1)) / np.log(tokens)
    rows = np.stack([0.6 * np.ones(tokens), 0.5 * (place - 0.3), 0.3 * np.cos(3 * place)])
    kernel = rows.T @ rows
    return kernel + np.diag(1 - np.diag(kernel))


FLAT = 0.3 + 0.7 * np.eye(48)
MIXED = np.diag(np.linspace(0.5, 1.5, 48)) + 0.02


def layer_of(beta, **changes):
    return Attention(beta=beta, sigma_v2=1.0, context=48, mask=Mask(), **changes)


def sampled(layer, kernel, gradient, draws):
    """Paths of queries, keys and values by drawn heads (E24b): means and standard errors."""
    rng = np.random.default_rng(0)
    root, own = root_of(kernel), root_of(gradient)
    scale, turn = float(layer.beta * np.sqrt(np.log(48))), angles(layer, 48)
    rows = []
    for _ in range(draws):
        one = head(layer, rng, root, layer.seen(48), scale, turn)
        query, key = one.scores(drawn(rng, own, 48) @ root.T, turn)
        whole = scale * (query + key) + one.weights.T @ gradient @ one.weights
        sums = [whole[a : a + 12, b : b + 12].sum() for a in range(0, 48, 12) for b in (0, 24)]
        own_sums = np.diag(whole).reshape(4, 12).sum(axis=1)
        rows.append([*own_sums, *sums, np.sum(kernel * query), np.sum(kernel * key)])
    rows = np.array(rows)
    return rows.mean(axis=0), rows.std(axis=0) / np.sqrt(draws)


def predicted(layer, kernel, gradient):
    layout = make_layout(48, 48)
    place = Place(PositionGeometry(layout), Universal(layout, layer.head_width, layer.rotation))
    off = gradient - np.diag(np.diag(gradient))
    gap = np.where(layout.pairs > 0, 1 - kernel, 0.0)
    start = Gradient(np.diag(gradient)[:, None], off)
    row = layer.backward(State(1.0, gap), start, place, Spread())
    whole = row.gradient.others + np.diag(row.gradient.q[:, 0])
    sums = [whole[a : a + 12, b : b + 12].sum() for a in range(0, 48, 12) for b in (0, 24)]
    own = row.gradient.q[:, 0].reshape(4, 12).sum(axis=1)
    return np.array([*own, *sums, 48 * row.weights["wq"], 48 * row.weights["wk"]])


@pytest.mark.parametrize(
    ("beta", "kernel", "gradient", "changes", "slack"),
    [
        (1.0, FLAT, np.eye(48), {}, 0.02),
        (2.0, FLAT, MIXED, {}, 0.03),
        (2.0, FLAT, np.eye(48) - 0.02, {}, 0.03),
        (0.5, curved(48), MIXED, {}, 0.04),
        (1.5, curved(48), np.eye(48), {}, 0.08),
    ],
)
def test_a_layer_of_infinite_width_against_drawn_heads(beta, kernel, gradient, changes, slack):
    """Variances and block sums of the gradient at its input, and gradients of W_Q and W_K."""
    layer = layer_of(beta, **changes)
    mean, se = sampled(layer, kernel, gradient, 300)
    found = predicted(layer, kernel, gradient)
    scale = np.maximum(np.abs(mean), np.abs(mean[:4]).mean())
    assert (np.abs(found - mean) < 4 * se + slack * scale).all()


def test_without_scores_drawn_heads_are_missed(monkeypatch):
    mean, se = sampled(layer_of(2.0), FLAT, MIXED, 60)
    none = ScoreGradients(np.zeros(48), np.zeros((48, 48)), 0.0, 0.0)
    monkeypatch.setattr(position_backward.score_path, "pull", lambda *_: none)
    found = predicted(layer_of(2.0), FLAT, MIXED)
    assert (np.abs(found - mean) > 8 * se)[:4].all()


@pytest.mark.parametrize("base", [None, 1e4])
def test_narrow_heads_against_drawn_ones(base):
    """Queries of one head are more alike than their tokens (E12b): endless heads miss W_Q's."""
    narrow = layer_of(2.0, width=2**14, heads=2**10, rotation=base and Rotation(base))
    mean, se = sampled(narrow, FLAT, MIXED, 300)
    found = predicted(narrow, FLAT, MIXED)
    scale = np.maximum(np.abs(mean), np.abs(mean[:4]).mean())
    assert (np.abs(found - mean) < 3 * se + 0.02 * scale).all()
    endless = predicted(replace(narrow, width=None), FLAT, MIXED)
    assert abs(endless[12] - mean[12]) > 4 * se[12]


# responses


@pytest.mark.parametrize("s", [0.01, 1.0, 4.0])
def test_responses_of_equal_queries(s):
    """The two points of a wide block see almost the same keys."""
    layout = Layout(np.array([0, 63, 64, 65]))
    found = Responses(layout)
    for r in (0.0, 0.6, 0.98, 1.0):
        count = layout.queries.count
        one = found(np.full(len(count), s), np.full(len(layout.couples[0]), r), None)
        i, j = (part[2] for part in layout.couples)
        exact = response_at_gap(s, count[i], 1 - r) * count[i] / count[j]
        assert one.cross[2] == pytest.approx(exact, rel=0.02)
        assert one.own[1] == pytest.approx(response_at_gap(s, count[1], 0.0), rel=2e-3)


def test_responses_at_small_scores_are_those_of_equal_weights():
    layout = make_layout(8)
    count = layout.queries.count
    one = Responses(layout)(np.full(8, 1e-6), np.zeros(28), 64.0)
    i, j = layout.couples
    n, later = count[i], count[j]
    np.testing.assert_allclose(one.cross, (1 - 1 / n) / later, rtol=1e-3, atol=1e-9)


# starts


def test_a_start_by_ids_is_its_kernel():
    ids = np.array([3, 1, 3, 3, 2, 1, 1, 5])
    geometry = PositionGeometry(Layout(np.array([0, 1, 4, 8])))
    kernel = (ids[:, None] == ids).astype(float)
    one, other = start_of(geometry, ids), start_of(geometry, 2 * kernel)
    np.testing.assert_allclose(one.q, other.q)
    np.testing.assert_allclose(one.others, other.others)
    np.testing.assert_allclose(one.others.sum(), kernel.sum() - 8)


def test_equal_targets_raise_the_gradient_of_values():
    spec = PLAIN.replace(width=64, heads=2)
    even = sigprop.gradients(spec)
    same = sigprop.gradients(spec, start=np.zeros(24, int))
    assert (same.wv > 3 * even.wv).all()
    np.testing.assert_allclose(sigprop.gradients(spec, start=np.eye(24)).wq, even.wq, rtol=1e-12)


@pytest.mark.parametrize("start", ["first", np.zeros(3), np.zeros((24, 24)), -np.eye(24)])
def test_starts_that_are_none(start):
    with pytest.raises(DomainError, match="start"):
        sigprop.gradients(PLAIN, start=start)


# stacks


@pytest.mark.parametrize("changes", [{}, {"norm": "post", "beta": 2.0}, {"attention": "centred"}])
def test_tokens_that_are_alike_have_the_closed_form(changes):
    spec = PLAIN.replace(causal=False, context=64, **changes)
    found, exact = resolved_gradients(spec), closed_form.gradients(spec, propagate(spec))
    for name in ("q", *exact.norms):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=0.01)
    np.testing.assert_allclose(found.p, exact.p, atol=0.02 * np.abs(exact.p).max())


@pytest.mark.parametrize("name", ["gradient_low_beta", "gradient_high_beta"])
def test_encoders_against_autograd(causal_gradients, name):
    measured = causal_gradients[name]
    assert misses(resolved_gradients(spec_of(measured["case"])), measured) == 0


def test_a_stack_of_one_mask_in_parts_is_that_stack():
    """Layers that differ share blocks of positions."""
    whole = PLAIN.replace(context=64, window=16)
    parts = PLAIN.replace(context=64, pattern=[{"window": 16}])
    np.testing.assert_allclose(
        resolved_gradients(parts).wq, resolved_gradients(whole).wq, rtol=1e-12
    )
    other = PLAIN.replace(context=64, pattern=[{"window": 16}, {}, {}])
    assert not np.allclose(resolved_gradients(other).wq, resolved_gradients(whole).wq, rtol=0.01)


def test_biases_reach_the_output_matrix():
    """Its gradient has the bias of the values, W_V's has not: sigma_b^2 times the sum of G."""
    spec = PLAIN.replace(beta=0.0, sigma_w2=0.0, depth=1, sigma_v2=0.8, sigma_o2=0.5)
    plain, biased = (sigprop.gradients(spec.replace(sigma_b2=b)) for b in (0.0, 0.3))
    np.testing.assert_allclose(plain.wo, plain.wv * 0.8 / 0.5, rtol=1e-12)
    np.testing.assert_allclose(biased.wo, plain.wo + 0.3, rtol=1e-12)


def holds(values, measured, name, share, slack=0.0):
    mean, se = (np.array(measured[key]) for key in (name, f"{name}_se"))
    beyond, farthest = outside(values - mean, se, slack + share * np.abs(mean))
    return beyond <= 0.01 and farthest <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_against_random_networks(decoders, name):
    measured, spec = decoders[name], described(decoders[name]["case"])
    found = sigprop.gradients(spec, blocks=16)
    assert holds(found.q_blocks, measured, "gqpos", 0.08)
    assert holds(found.q, measured, "gq", 0.08)
    for weight, values in found.norms.items():
        assert holds(values, measured, f"g_{weight}", 0.08), weight
    assert holds(influence(spec), measured, "influence", 0.1, 0.001)


@pytest.mark.slow
def test_decoders_need_scores_and_residuals(decoders, monkeypatch):
    """Negative controls: no score path; influence without residuals."""
    measured = decoders["decoder_plain"]
    spec = described(measured["case"])
    assert not holds(influence(spec.replace(alpha_attn=0.0)), measured, "influence", 0.1, 0.001)
    size = len(pulled(spec).geometry.layout.size)
    none = ScoreGradients(np.zeros(size), np.zeros((size, size)), 0.0, 0.0)
    monkeypatch.setattr(position_backward.score_path, "pull", lambda *_: none)
    found = sigprop.gradients(spec)
    assert not holds(found.q, measured, "gq", 0.08)
    assert not holds(found.wq, measured, "g_wq", 0.08)


def test_few_heads_stand_for_wide_ones(monkeypatch):
    """As many of them as of narrow heads; control: narrow ones need more."""
    layout = make_layout(256, 24)
    std = np.array([0.3, 1.0, 2.0, 5.0])[:, None] + np.zeros(len(layout.queries.count))
    r = np.full((4, len(layout.couples[0])), 0.3)

    def apart(width):
        found = []
        for wide in (0.0, np.inf):
            monkeypatch.setattr(query_responses, "WIDE", wide)
            found.append(np.concatenate(Responses(layout)(std, r, width), axis=-1))
        few, many = found
        return np.max(np.abs(few - many).max(axis=-1) / np.abs(many).max(axis=-1))

    assert apart(64.0) < 5e-4
    assert apart(8.0) > 5e-3


@pytest.mark.parametrize(
    ("context", "beta", "rotary_base", "bound"), [(1024, 1.5, None, 0.008), (2**15, 1, 1e4, 0.025)]
)
def test_traces_at_finite_width_are_resolved(monkeypatch, context, beta, rotary_base, bound):
    """Taken at a few positions; two are too few."""
    spec = ModelSpec(
        depth=6, context=context, width=128, heads=4, causal=True, norm="post", beta=beta,
        sigma_v2=1, sigma_w2=1, rho0=0.1, rotary_base=rotary_base,
    )  # fmt: skip
    found = resolved_gradients(spec).wq
    monkeypatch.setattr(score_path, "LENGTHS", 16)
    exact = resolved_gradients(spec).wq
    np.testing.assert_allclose(found, exact, rtol=bound)
    monkeypatch.setattr(score_path, "LONGER", 0)
    monkeypatch.setattr(score_path, "LENGTHS", 2)
    assert np.abs(resolved_gradients(spec).wq / exact - 1).max() > 0.03
