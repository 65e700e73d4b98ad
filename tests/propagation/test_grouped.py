"""Grouped queries: heads that share keys and values, against random networks."""

import numpy as np
import pytest

from sigprop import DomainError, ModelSpec
from sigprop.layers.fluctuation import matrix_noise
from sigprop.propagation.every_pair import exchangeable_kernel, solve
from sigprop.propagation.finite_width.bands import bands
from sigprop.simulation import simulate

SPEC = ModelSpec(
    depth=3, context=32, width=64, heads=8, beta=0.5, sigma_v2=0.5, sigma_w2=0, rho0=0.3,
)  # fmt: skip


@pytest.mark.parametrize("number", [0, 3, 16, 2.5])
def test_groups_must_be_even(number):
    with pytest.raises(DomainError, match="kv_heads"):
        SPEC.replace(kv_heads=number)


def test_the_description_goes_out_and_in():
    spec = SPEC.replace(kv_heads=2)
    assert ModelSpec.from_dict(spec.to_dict()).heads_per_key == 4
    assert SPEC.heads_per_key == 1


def test_groups_of_one_change_nothing():
    for base in (None, 1e4):
        spec = SPEC.replace(rotary_base=base)
        one, other = (simulate(s, seeds=2).mean("rho") for s in (spec, spec.replace(kv_heads=8)))
        np.testing.assert_array_equal(one, other)


def test_spread_over_networks():
    """Repeated values widen the spread, layer by layer; control: a value for every head."""
    spec = SPEC.replace(kv_heads=1)
    measured = simulate(spec, seeds=300).samples["rho"][:, 1:]
    alone = simulate(SPEC, seeds=300).samples["rho"][:, 1:]
    size = measured.std(axis=0)
    np.testing.assert_allclose(bands(spec).rho_std[1:], size, rtol=0.15)
    np.testing.assert_allclose(bands(SPEC).rho_std[1:], alone.std(axis=0), rtol=0.05)
    assert bands(SPEC).rho_std[-1] < 0.85 * size[-1]


@pytest.mark.parametrize("sharing", [1, 2, 8])
def test_noise_of_values_and_outputs(sharing):
    """Squared norm of a common vector behind both matrices; control: the last matrix alone."""
    rng, heads, width = np.random.default_rng(sharing), 8, 64
    shape = (20_000, heads // sharing, width // heads)
    values = np.repeat(rng.standard_normal(shape), sharing, axis=1)
    norms = np.square(values).sum(axis=(1, 2)) * rng.chisquare(width, len(values)) / width**2
    last, first = (
        matrix_noise((1.0, 0.0), (0.0, 0.0), 32.0, width, 1.0, 1.0, sharing=k).noise[0, 0]
        for k in (1, sharing)
    )
    expected = (1 + last) * (1 + first) - 1
    assert abs(norms.var() - expected) < 0.05 * expected
    assert last < 0.6 * norms.var()


def test_sampled_kernels_keep_their_mean():
    spec = SPEC.replace(beta=1.5, heads=16, width=256)
    kernel = exchangeable_kernel(spec)
    one, other = (solve(s, kernel, draws=24, blocks=2) for s in (spec, spec.replace(kv_heads=2)))
    size = np.hypot(one.se("rho"), other.se("rho"))[1:]
    assert (np.abs(one.mean("rho") - other.mean("rho"))[1:] < 4 * size).all()
