"""Rotary positions: closed form against measured networks, Gaussian fields and exact limits."""

import numpy as np
import pytest

from sigprop import Transformer, propagate
from sigprop.maps.rotary import RotaryAttention, frequencies, make_distances
from sigprop.propagate import exchangeable
from sigprop.rem import Finite, moments
from sigprop.rem.hierarchy import picks
from sigprop.state import State

CASES = ["rotary_encoder_mid_beta", "rotary_encoder_high_beta"]
SPEC = Transformer(
    depth=8, context=256, rotary_base=1e4, beta=2, sigma_v2=0.5, sigma_w2=0.2, rho0=0.3
)


def spec_of(case, rho0):
    return Transformer(
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
    d = make_distances(case["T"], case["rotary_base"], case["d"] // case["H"])
    mean = d.uniform @ d.waves.mean(axis=1)
    s = case["beta"] * np.sqrt(np.log(case["T"]) * (1 - rho * mean))
    assert float(moments(s, case["T"]).y2) - measured["y2"][-1] > 0.1


def sampled_y2(rng, variance, rho, omega, context, draws):
    """Participation ratio of softmax over a field drawn frequency by frequency."""
    angle = np.outer(np.arange(context), omega)
    waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(omega.size)
    field = rng.standard_normal((draws, 2 * omega.size)) @ waves.T
    alone = rng.standard_normal((draws, context))
    scores = np.sqrt(variance) * (np.sqrt(rho) * field + np.sqrt(1 - rho) * alone)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    y2 = np.sum(weights**2, axis=1) / np.sum(weights, axis=1) ** 2
    return y2.mean(), y2.std() / np.sqrt(draws)


@pytest.mark.parametrize(
    ("beta", "rho", "base", "allowed"),
    [
        (1, 0.3, 1e4, 0),
        (1, 0.9, 1e4, 0),
        (3, 0.56, 1e4, 0),
        (2, 0.8, 100, 0.01),
        (3, 0.98, 1e4, 0.03),
    ],
)
def test_tree_against_gaussian_fields(beta, rho, base, allowed):
    """Four standard errors, and what the docstring of the hierarchy admits."""
    context, variance = 192, beta**2 * np.log(192)
    d = make_distances(context, float(base), 64)
    covariance = variance * rho * d.waves.mean(axis=1)
    covariance[0] = variance
    mean, error = sampled_y2(
        np.random.default_rng(5), variance, rho, frequencies(base, 64), context, 3000
    )
    found = picks(covariance, d.sizes).pairs[0]
    assert abs(found - mean) <= 4 * error + allowed
    if rho > 0.85:  # negative control: as many independent energies
        s = np.sqrt(variance - d.uniform @ covariance)
        assert abs(moments(s, context).y2 - mean) > 4 * error + allowed


def test_the_tree_of_independent_energies_is_the_random_energy_model():
    d = make_distances(512, 1e4, None)
    for sigma in (1e-4, 0.1, 1.0, 4.0):
        covariance = np.where(np.arange(d.sizes.size) == 0, sigma**2, 0.0)
        found, exact = picks(covariance, d.sizes), moments(sigma, 512)
        np.testing.assert_allclose(found.pairs[0] - 1 / 512, exact.y2 - 1 / 512, rtol=2e-5)
        np.testing.assert_allclose(found.entropy, exact.entropy, rtol=1e-9)
        np.testing.assert_allclose(found.pairs.sum(), 1, rtol=1e-12)


def test_slow_rotation_is_none():
    """Wavelengths far beyond the context leave the exchangeable theory."""
    d = make_distances(64, 1.0, 2)  # one frequency of one radian: not slow
    assert d.waves[1, 0] == pytest.approx(np.cos(1.0))
    slow = d._replace(waves=np.ones_like(d.waves))
    out = RotaryAttention(slow, 64, beta=1.5, sigma_v2=1.0)(State(1.0, np.full(7, 0.6)))
    passed = Finite(64).passed(1.5, State(1.0, 0.6))
    np.testing.assert_allclose(out.q, 0.4 + passed.kept, rtol=1e-6)
    np.testing.assert_allclose(out.gap, passed.spread, rtol=1e-6)


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
        for gap in (2.0**-30, 2.0**-44)
    ]
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-6)


def test_centred_attention_and_long_contexts():
    found = propagate(SPEC.replace(attention="centred", context=65536, depth=3, norm="pre"))
    assert np.isfinite(found.rho).all()
    assert found.ended == 3
