"""Profiles and boundaries of the entropy where tokens are told apart: held by `propagate`."""

import numpy as np
import pytest

from sigprop import ModelSpec, beta_profile, entropy_boundary, propagate

SPEC = ModelSpec(depth=3, context=10, width=32, heads=2, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.1)
PLAIN = {"causal": False, "window": None, "rotary_base": None}
KINDS = {
    "causal": {"causal": True},
    "windowed": {"causal": True, "window": 4},
    "rotary": {"rotary_base": 1e4, "context": 24},
    "both": {"causal": True, "rotary_base": 1e4, "depth": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_holds_the_mean_entropy_in_every_block(kind):
    """The profile of exchangeable tokens, asked of the same stack, does not."""
    spec = SPEC.replace(**KINDS[kind])
    profile = beta_profile(spec, 0.7)
    found = propagate(spec, beta_by_layer=profile.beta)
    np.testing.assert_allclose(found.entropy_ratio, 0.7, atol=1e-6)
    np.testing.assert_allclose(found.rho, profile.rho, rtol=1e-12)
    plain = beta_profile(spec.replace(**PLAIN), 0.7)
    missed = propagate(spec, beta_by_layer=plain.beta)
    assert np.abs(missed.entropy_ratio - 0.7).min() > 0.005


@pytest.mark.parametrize("kind", ["causal", "windowed", "rotary"])
def test_a_profile_of_an_array_is_its_single_profiles(kind):
    spec = SPEC.replace(**KINDS[kind] | {"depth": 2})
    many, finished = spec.replace(context=[[8], [6]], rho0=[0.0, 0.4]), []
    profile = beta_profile(many, 0.6, progress=finished.append)
    assert profile.beta.shape == (2, 2, 2)
    assert profile.rho.shape == (3, 2, 2)
    assert finished == [1] * 4
    one = beta_profile(spec.replace(context=6, rho0=0.4), 0.6)
    # roots of functions that sum in another order: not to the last bit on every processor
    np.testing.assert_allclose(profile.beta[:, 1, 1], one.beta, rtol=1e-11)
    np.testing.assert_allclose(profile.rho[:, 1, 1], one.rho, rtol=1e-11)
    found = propagate(many, beta_by_layer=profile.beta)
    np.testing.assert_allclose(found.entropy_ratio, 0.6, atol=1e-6)


@pytest.mark.parametrize("kind", ["causal", "rotary"])
def test_at_the_boundary_a_block_that_sees_the_same_tokens_has_that_entropy(kind):
    spec = SPEC.replace(**KINDS[kind])
    edge = entropy_boundary(spec, 0.5)
    for layer in range(spec.depth):
        betas = np.where(np.arange(spec.depth) == layer, edge, 1.0)
        found = propagate(spec, beta_by_layer=betas)
        assert found.entropy_ratio[layer] == pytest.approx(0.5, abs=1e-6)
    many = entropy_boundary(spec.replace(rho0=[0.1, 1.0]), 0.5)
    np.testing.assert_array_equal(many[:, 0], edge)
    if kind == "causal":  # nothing freezes merged tokens; rotation tells them apart
        assert np.all(np.isinf(many[:, 1]))
    else:
        assert np.all(many[:, 1] > edge)


def test_two_tokens_under_a_mask_are_two_exchangeable_ones():
    """Only the second query chooses, between the same two keys as without a mask."""
    spec = SPEC.replace(context=2, depth=1, causal=True)
    for ratio in (0.3, 0.9):
        own, plain = beta_profile(spec, ratio), beta_profile(spec.replace(causal=False), ratio)
        np.testing.assert_allclose(own.beta, plain.beta, rtol=1e-6)


def test_the_limit_has_no_positions():
    spec = SPEC.replace(causal=True, context="inf")
    plain = spec.replace(causal=False)
    for masked in (spec, SPEC.replace(causal=True)):
        found = beta_profile(masked, 0.7, "limit")
        np.testing.assert_array_equal(found.beta, beta_profile(plain, 0.7).beta)
        edge = entropy_boundary(masked, 0.7, "limit")
        np.testing.assert_array_equal(edge, entropy_boundary(plain, 0.7))
