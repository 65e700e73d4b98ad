"""Rotary positions: closed form against measured networks, Gaussian fields and exact limits."""

from functools import partial

import numpy as np
import pytest

from sigprop import AssumptionError, ModelSpec, propagate
from sigprop.layers.attention.by_distance import DistanceGeometry
from sigprop.layers.attention.distance_grid import make_distances, make_field
from sigprop.layers.attention.layer import Attention
from sigprop.layers.attention.pair_probabilities import Drawn, tabulated_pairs
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.rotation import Rotation, frequencies
from sigprop.layers.attention.statistics import Finite, moments
from sigprop.layers.attention.statistics.correlated_scores import LINEAR, SEED, Field
from sigprop.layers.interface import Place
from sigprop.layers.state import State
from sigprop.propagation.every_pair import exchangeable_kernel, solve
from sigprop.propagation.grids import sweep

exchangeable = partial(propagate, geometry="exchangeable")
CASES = ["rotary_encoder_mid_beta", "rotary_encoder_high_beta"]
SPEC = ModelSpec(
    depth=8, context=256, rotary_base=1e4, beta=2, sigma_v2=0.5, sigma_w2=0.2, rho0=0.3
)


def spec_of(case, rho0):
    return ModelSpec(
        depth=case["L"],
        context=case["T"],
        width=case["d"],
        heads=case["H"],
        rotary_base=case["rotary_base"],
        beta=case["beta"],
        sigma_v2=case["vv"],
        sigma_w2=case["vw"],
        sigma_b2=case["vb"],
        rho0=rho0,
    )


def errors(found, measured):
    rho = np.abs(found.rho - measured["rho"]).max()
    return rho, np.abs(found.y2 - np.array(measured["y2"][1:], float)).max()


@pytest.mark.parametrize("name", CASES)
def test_every_layer_against_measurement(rotary, name):
    measured = rotary[name]
    rho, y2 = errors(propagate(spec_of(measured["case"], measured["rho"][0])), measured)
    assert rho <= 0.02
    assert y2 <= 0.03


def test_theory_without_rotation_fails(rotary):
    """Negative control: the same data reject scores without positions."""
    measured = rotary["rotary_encoder_high_beta"]
    rho, y2 = errors(exchangeable(spec_of(measured["case"], measured["rho"][0])), measured)
    assert rho > 0.02
    assert y2 > 0.03
    measured = rotary["rotary_encoder_mid_beta"]  # within 0.03, but far in standard errors
    found = exchangeable(spec_of(measured["case"], measured["rho"][0]))
    assert measured["y2"][-1] - found.y2[-1] > 8 * measured["y2_se"][-1]


def test_uncorrelated_energies_fail(rotary):
    """Negative control: E3r without the field's correlations misses Y_2 near collapse."""
    measured = rotary["rotary_encoder_high_beta"]
    case, rho = measured["case"], measured["rho"][-2]
    d = make_distances(case["T"], Rotation(case["rotary_base"]), case["d"] // case["H"])
    mean = d.uniform @ d.waves.mean(axis=1)
    s = case["beta"] * np.sqrt(np.log(case["T"]) * (1 - rho * mean))
    assert float(moments(s, case["T"]).y2) - measured["y2"][-1] > 0.1


OWN = {  # heads of 32 to 128, bases of 100 to 1e6
    "narrow": {"context": 128, "width": 512, "heads": 16, "rotary_base": 500, "beta": 2},
    "narrowest": {"context": 96, "width": 512, "heads": 32, "beta": 3, "sigma_w2": 0.2},
    "pre": {"context": 192, "width": 256, "heads": 4, "rotary_base": 100, "beta": 3, "norm": "pre"},
    "wide": {"context": 192, "width": 512, "heads": 4, "rotary_base": 1e6, "beta": 2.5},
}


def own_case(name, **changes):
    base = {"depth": 8, "rotary_base": 1e4, "sigma_v2": 0.5, "sigma_w2": 0.3, "rho0": 0.5}
    return ModelSpec(**(base | OWN[name] | changes))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_own_parameters_against_drawn_kernels(name, causal):
    """The bounds of the references, at parameters they do not have, beyond two standard errors."""
    spec = own_case(name, causal=causal)
    measured = solve(spec, exchangeable_kernel(spec), draws=12)
    found = propagate(spec)
    for column, allowed in (("rho", 0.01), ("y2", 0.02), ("overlap", 0.02)):
        mean, error = measured.mean(column), measured.se(column)
        assert (np.abs(getattr(found, column) - mean) <= allowed + 2 * error).all()
    without = propagate(spec.replace(rotary_base=None))  # negative control
    error = measured.mean("y2") - without.y2
    assert (np.abs(error) > 0.02 + 2 * measured.se("y2")).any()


def weights_over(rng, covariance, draws):
    """Softmax over a field drawn from its dense covariance."""
    at = np.arange(len(covariance))
    values, vectors = np.linalg.eigh(covariance[np.abs(at[:, None] - at)])
    scores = rng.standard_normal((draws, at.size)) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("beta", "rho", "base", "fall"),
    [
        (1, 0.3, 1e4, 0),
        (1, 0.9, 1e4, 0),
        (3, 0.56, 1e4, 0.2),
        (2, 0.8, 100, 0.1),
        (3, 0.98, 1e4, 0),
    ],
)
def test_fields_against_dense_covariances(beta, rho, base, fall):
    """Pair probabilities, entropy and the error that is stated, within four standard errors."""
    context, omega = 96, frequencies(Rotation(base), 64)
    distance = np.arange(context)
    kernel = rho + fall * (1 - np.log(np.maximum(distance, 1)) / np.log(context)) * (1 - rho)
    kernel[0] = 1
    variance = beta**2 * np.log(context)
    waves = np.cos(np.outer(distance, omega)).mean(axis=1)
    p = weights_over(np.random.default_rng(5), variance * kernel * waves, 3000)
    found = Field(context, omega).pair_averages(variance, kernel)
    y2, entropy = np.sum(p**2, axis=1), -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=1)
    assert abs(found.pairs[0] - y2.mean()) < 4 * np.hypot(found.error, y2.std() / 3000**0.5)
    assert abs(found.entropy - entropy.mean()) < 5 * entropy.std() / 3000**0.5
    near = 2 * np.sum(p[:, 1:] * p[:, :-1], axis=1)
    assert abs(found.pairs[1] - near.mean()) < 5 * near.std() / 3000**0.5
    assert found.pairs.sum() == pytest.approx(1, abs=1e-6)
    if rho > 0.85:  # negative control: as many independent energies
        s = np.sqrt(variance * (1 - np.mean(kernel[1:] * waves[1:])))
        assert abs(moments(s, context).y2 - y2.mean()) > 4 * y2.std() / 3000**0.5


def test_another_seed_is_within_the_stated_error():
    omega, kernel = frequencies(Rotation(1e4), 64), np.where(np.arange(128) == 0, 1, 0.9)
    one, two = (Field(128, omega, True, seed).pair_averages(20.0, kernel) for seed in (SEED, 7))
    assert 0 < abs(one.pairs[0] - two.pairs[0]) < 4 * np.hypot(one.error, two.error)
    flat = Field(128, omega, True).blocked(20.0, np.array([[0.1]]), np.array([128])).y2
    assert abs(flat - one.pairs[0]) < 4 * np.hypot(one.error, one.error)


@pytest.mark.parametrize("heads", [False, True])
def test_cold_fields_are_of_first_order(heads):
    """Draws at small beta meet the exact first order, which takes over below."""
    context, kernel = 128, np.where(np.arange(128) == 0, 1, 0.8)
    field, distances = (
        Field(context, frequencies(Rotation(1e4), 32), heads),
        make_distances(128, Rotation(1e4), 32),
    )
    starts = np.concatenate([[0], distances.edges[:-1] + 1])
    even = distances.uniform
    drawn, exact = (
        (np.add.reduceat(field.pair_averages(v, kernel).pairs, starts) - even) / v
        for v in (2 * LINEAR, LINEAR / 2)
    )
    assert np.abs(drawn - exact).max() < 0.03 * np.abs(exact).max()
    assert drawn[0] == pytest.approx(exact[0], rel=0.01)


def test_cold_attention_over_long_contexts_keeps_its_digits():
    """What all keys have in common passes on nothing, however small the response."""
    field, kernel = (
        Field(4096, frequencies(Rotation(1e4), 32)),
        np.where(np.arange(4096) == 0, 1, 0.8),
    )
    even = field.pair_averages(0.0, kernel).pairs
    exact, drawn = (
        (field.pair_averages(v, kernel).pairs - even) / v for v in (LINEAR / 2, 2 * LINEAR)
    )
    for response in (exact, drawn):
        assert -response[1:].sum() == pytest.approx(response[0], rel=1e-6)
    assert drawn[0] == pytest.approx(exact[0], rel=0.02)


def test_picked_keys_are_nearer(monkeypatch):
    """Under a mask too: `KeyCorrelation.near` at zero, the negative control, loses it."""
    spec = own_case(
        "narrow", context=256, depth=10, beta=0.7, rho0=0.2, rotary_base=1e4, causal=True
    )
    measured = solve(spec, exchangeable_kernel(spec), draws=6)
    allowed, turned = 0.001 + 2 * measured.se("rho"), Universal.correlations
    assert (np.abs(propagate(spec).rho - measured.mean("rho")) <= allowed).all()
    monkeypatch.setattr(Universal, "correlations", lambda *args: turned(*args)._replace(near=0.0))
    assert (np.abs(propagate(spec).rho - measured.mean("rho")) > allowed).any()


def test_independent_energies_are_the_random_energy_model():
    for sigma in (0.1, 1.0, 4.0):
        found = Field(512, np.zeros(1)).pair_averages(sigma**2, np.eye(512)[0])
        exact = moments(sigma, 512)
        assert abs(found.pairs[0] - exact.y2) < 4 * found.error
        assert found.entropy == pytest.approx(float(exact.entropy), abs=0.03)


def test_the_stated_error_is_that_of_other_seeds():
    """Of hot attention; where it is cold first orders cancel, and the error is smaller."""
    kernel, omega = 1 - 0.5 * np.log1p(np.arange(64)) / np.log(64), frequencies(Rotation(1e4), 32)
    found = [Field(64, omega, True, seed).pair_averages(20.0, kernel) for seed in range(24)]
    spread = np.std([picks.pairs[0] for picks in found], ddof=1)
    assert 0.6 < spread / np.mean([picks.error for picks in found]) < 1.5


def test_a_kernel_across_blocks_is_that_of_its_dense_field():
    """Factors of a kernel that is not flat, its heads random, against its own covariance."""
    sizes, variance, count = np.array([1, 1, 2, 4, 8, 16, 32]), 20.0, 64
    centre = np.cumsum(sizes) - sizes / 2
    deficit = 0.1 + 0.08 * np.log1p(np.abs(centre[:, None] - centre))
    omega, at = frequencies(Rotation(1e4), 16), np.arange(count)
    found = Field(count, omega, True).blocked(variance, deficit, sizes)
    block = np.repeat(np.arange(len(sizes)), sizes)
    apart = deficit[np.ix_(block, block)] * (1 - np.eye(count))
    waves = np.cos(omega[:, None, None] * (at[:, None] - at)) / omega.size
    rng, rows = np.random.default_rng(5), []
    for _ in range(1500):
        heads = np.tensordot(rng.exponential(size=omega.size), waves, 1)
        values, vectors = np.linalg.eigh(variance * (1 - apart) * heads)
        scores = (vectors * np.sqrt(np.maximum(values, 0.0))) @ rng.standard_normal((count, 4))
        p = np.exp(scores - scores.max(axis=0))
        p /= p.sum(axis=0)
        weights = np.add.reduceat(p, np.cumsum(sizes) - sizes).mean(axis=1)
        rows.append([(p**2).sum(axis=0).mean(), (p * (apart @ p)).sum(axis=0).mean(), *weights])
    mean, error = np.mean(rows, axis=0), np.std(rows, axis=0) / np.sqrt(len(rows))
    drawn = np.array([found.y2, found.deficit, *found.weights])
    assert (np.abs(drawn - mean) < 4 * error + 0.003).all(), (drawn, mean, error)
    uniform = np.diff(np.cumsum(sizes), prepend=0) / count
    even = uniform @ deficit @ uniform - np.sum(sizes * np.diagonal(deficit)) / count**2
    assert found.deficit < 0.9 * even * (1 - found.y2) / (1 - 1 / count)  # picked keys are nearer


def test_interpolated_picks_beyond_their_scores():
    """Frozen attention: 1 - Y_2 and the entropy fall as one over the scores, and stay positive."""
    distances = make_distances(40, Rotation(1e4), 32)
    drawn, table = (
        Drawn(distances, make_field(40, Rotation(1e4), 32)),
        tabulated_pairs(40, Rotation(1e4), 32, 8.0),
    )
    deficit = np.full(len(distances.middles), 0.4)
    for s in (12.0, 40.0):
        one, other = (f.pair_excess(np.array([s**2]), deficit) for f in (drawn, table))
        assert 0 < other.entropy < 1.3 * one.entropy
        assert 1 - other.excess[0] == pytest.approx(1 - one.excess[0], rel=0.2)


def test_long_contexts_are_drawn_in_parts():
    """Chunks of draws are independent, and give what one chunk gives."""
    field = Field(2**15, np.zeros(1))
    found = field.pair_averages(16.0, np.eye(2**15)[0])
    first, second = list(field._parts())[:2]
    assert not np.any(field._drawn(first)[1] == field._drawn(second)[1])
    assert abs(found.pairs[0] - moments(4.0, 2**15).y2) < 4 * found.error


def test_slow_rotation_is_none():
    """Wavelengths far beyond the context leave the exchangeable theory."""
    d = make_distances(64, Rotation(1.0), 2)  # one frequency of one radian: not slow
    assert d.waves[1, 0] == pytest.approx(np.cos(1.0))
    slow = d._replace(waves=np.ones_like(d.waves))
    picking = Drawn(slow, Field(64, np.zeros(1)))
    place = Place(DistanceGeometry(slow, 64), picking)
    out = Attention(beta=1.5, sigma_v2=1.0).forward(State(1.0, np.full(7, 0.6)), place).kernel
    passed = Finite(64).passed(1.5, State(1.0, 0.6))
    # drawn scores: 0.01 is four standard errors of Y_2
    np.testing.assert_allclose(out.q, 0.4 + 0.6 / 64 + passed.kept, atol=0.01)
    np.testing.assert_allclose(out.gap, passed.spread, atol=0.01)


def test_interpolated_picks_are_the_drawn_ones():
    """Kernels that are linear in log distance, between the nodes."""
    drawn = Drawn(make_distances(64, Rotation(1e4), 32), make_field(64, Rotation(1e4), 32))
    table = tabulated_pairs(64, Rotation(1e4), 32, 8.0)
    for scale, own, slope in (
        (0.5, 0.05, 0.0),
        (4.0, 0.3, 0.7),
        (30.0, 0.7, 0.3),
        (30.0, 0.02, 0.5),
    ):
        deficit = own * (1 + slope * table._line)
        one, fast = (f.pair_excess(np.array([scale]), deficit) for f in (drawn, table))
        assert np.abs(fast.excess - one.excess).max() < 0.004
        assert abs(fast.entropy - one.entropy) < 0.02


@pytest.mark.parametrize("norm", ["post", "pre", "none"])
def test_grids_are_those_of_single_stacks(norm):
    spec = SPEC.replace(depth=6, context=96, norm=norm)
    final = sweep(spec.replace(beta=[0.0, 1.0, 2.0], alpha_attn=[[0.5], [1.0]]))
    for i, j, beta, alpha in ((0, 1, 1.0, 0.5), (1, 2, 2.0, 1.0), (1, 0, 0.0, 1.0)):
        found = propagate(spec.replace(beta=beta, alpha_attn=alpha))
        assert abs(final.state.rho[i, j] - found.rho[-1]) < 0.002
        assert abs(final.entropy_ratio[i, j] - found.entropy_ratio.min()) < 0.004
        assert final.state.q[i, j] == pytest.approx(found.q[-1], rel=0.005)


def test_the_seed_is_stored():
    found = propagate(SPEC.replace(depth=1))
    assert found.to_dict()["distances"]["seed"] == SEED
    assert 0 < found.distances.y2_error[0] < 0.01
    assert any(str(SEED) in note for note in found.notes)


def test_scores_say_where_they_come_from():
    """Looked up under a mask, but for heads that no table holds."""
    for changes, word in (({}, "looked up"), ({"heads": 16}, "drawn")):
        spec = SPEC.replace(depth=1, context=24, causal=True, width=64, **({"heads": 4} | changes))
        assert [word in note for note in propagate(spec).notes].count(True) == 1


def test_zero_temperature_is_uniform_attention():
    np.testing.assert_allclose(
        propagate(SPEC.replace(beta=0)).rho, exchangeable(SPEC.replace(beta=0)).rho, rtol=1e-9
    )


def test_rotation_slows_collapse_and_orders_distances():
    found = propagate(SPEC)
    assert found.rho[-1] < exchangeable(SPEC).rho[-1]
    assert (np.diff(found.distances.gap_ratio[-1]) > 0).all()


def test_attention_stays_selective_when_tokens_merge():
    merged = propagate(SPEC.replace(rho0=1 - 1e-9, depth=1))
    assert merged.y2[0] > 10 / 256
    assert exchangeable(SPEC.replace(rho0=1 - 1e-9, depth=1)).y2[0] == pytest.approx(1 / 256)


def test_small_gaps_keep_their_digits():
    """The gap is linear in a small initial gap: attention no longer depends on it."""
    gaps = [
        propagate(SPEC.replace(rho0=1 - gap, norm="pre", beta=1)).gap[-1] / gap
        for gap in (2.0**-38, 2.0**-46)
    ]
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-6)


def test_centred_attention_and_long_contexts():
    found = propagate(SPEC.replace(attention="centred", context=65536, depth=3, norm="pre"))
    assert np.isfinite(found.rho).all()
    assert found.ended == 3


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("context", [2, 3, 5])
def test_the_shortest_contexts(context, causal):
    found = propagate(SPEC.replace(context=context, causal=causal, width=64, heads=4, depth=2))
    assert np.all((found.y2 > 1 / context) & (found.y2 < 1))
    assert np.all((found.entropy > 0) & (found.entropy < np.log(context)))


@pytest.mark.parametrize("causal", [False, True])
def test_scores_beyond_the_theory_are_named(causal):
    with pytest.raises(AssumptionError, match="scores exceed"):
        propagate(SPEC.replace(context=32, beta=40, causal=causal, width=64, heads=4))
