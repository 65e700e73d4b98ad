"""What uniform attention keeps, and closed forms of single numbers of the layers."""

import dataclasses
import importlib
import inspect
import pkgutil
from types import SimpleNamespace

import numpy as np
import pytest

import sigprop.layers
import sigprop.propagation
from sigprop import DomainError, ModelSpec, bands, gradients, propagate
from sigprop.layers.activations import activation
from sigprop.layers.attention.backward import EXACT, _lengths
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.exchangeable import Exchangeable
from sigprop.layers.attention.head_noise import _turned
from sigprop.layers.attention.key_correlations import CorrelatedKeys
from sigprop.layers.attention.key_directions import keys, moved_means
from sigprop.layers.attention.layer import Attention, Mask
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.rotation import Rotation, frequencies
from sigprop.layers.attention.statistics import Finite, reduced_beta
from sigprop.layers.attention.statistics.correlated_scores import Field, whitened
from sigprop.layers.attention.statistics.two_queries import head_pairs
from sigprop.layers.fluctuation import Fluctuation
from sigprop.layers.interface import Place, Spread
from sigprop.layers.mlp import Mlp
from sigprop.layers.residual import Residual, Sublayer
from sigprop.layers.state import Gradient, State
from sigprop.propagation.every_pair import solve
from sigprop.propagation.finite_width.bands import input_variance


@pytest.mark.parametrize("window", [np.inf, 60.0])
def test_rows_of_weights_sum_to_one(window):
    """Averages keep the sum of all gradients; control: the sum over tokens alone."""
    layout = make_layout(200, resolution=48, window=window)
    layer = Attention(beta=0.0, sigma_v2=1.0, context=200, mask=Mask(window))
    place = Place(PositionGeometry(layout), Universal(layout))
    gap = np.where(layout.pairs > 0, 0.7, 0.0)
    given = Gradient(np.ones((layout.size.size, 1)), np.zeros(gap.shape))
    found = layer.backward(State(1.0, gap), given, place, Spread()).gradient
    own = float(np.sum(found.q * layout.size[:, None]))
    assert own + np.sum(found.others) == pytest.approx(200, rel=2e-3)
    assert own < 0.5 * 200


def test_rows_of_weights_of_exchangeable_tokens_sum_to_one():
    layer = Attention(beta=0.0, sigma_v2=1.0, context=32.0)
    place = Place(Exchangeable(32.0), Finite(32.0))
    found = layer.backward(State(1.0, 0.7), Gradient(1.0, 0.4), place, Spread()).gradient
    assert found.q + found.others == pytest.approx(1.4, rel=1e-9)
    assert found.q == pytest.approx(1.4 / 32, rel=1e-9)


def test_a_skip_branch_alone():
    """Equal output gradients stay equal, and each block passes alpha squared."""
    spec = ModelSpec(
        depth=2, context=30, causal=True, norm="pre", beta=1, sigma_v2=0, sigma_w2=0, rho0=0.1,
        alpha_attn=0.5,
    )  # fmt: skip
    found = gradients(spec, start=np.ones((30, 30)))
    np.testing.assert_allclose(found.q, [1 / 16, 1 / 4], rtol=1e-9)
    np.testing.assert_allclose(found.p, found.q, rtol=1e-9)
    assert found.apjn == pytest.approx(1 / 16, rel=1e-9)


def test_the_range_of_draws():
    spec = ModelSpec(
        depth=1, context=8, width=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0
    )
    with pytest.raises(DomainError, match=r"draws = 1 .* \[2, 1000000\]"):
        gradients(spec, draws=1)


@pytest.mark.parametrize("context", [EXACT // 2, 8 * EXACT])
def test_numbers_of_keys_of_all_queries(context):
    """Sums over 2 ... T: of ones, and of pairs whose later query is t."""
    keys, singles, pairs = _lengths(context)
    assert np.sum(singles) == pytest.approx((context - 1) / context, rel=1e-6)
    assert np.sum(pairs) == pytest.approx(1.0, rel=1e-6)
    exact = np.sum(np.arange(2.0, context + 1)) / context
    assert singles @ keys == pytest.approx(exact, rel=1e-6)


def test_covariance_with_the_stream():
    """E10b: p + gap E A_tt, of which centred attention has the gap's part beyond 1/T."""
    seen, state = SimpleNamespace(even=0.25, own=0.4), State(2.0, 1.5)
    plain, centred = (Exchangeable(4.0).covariance(state, seen, c) for c in (False, True))
    assert plain.q == pytest.approx(0.5 + 1.5 * (0.25 + 0.75 * 0.4))
    assert centred.q == pytest.approx(1.5 * 0.75 * 0.4)


@pytest.mark.parametrize("rho", [0.3, 1.0])
def test_rotated_common_part_of_the_keys(rho):
    """Share of the variance of score differences, by all pairs; all of it where tokens merge."""
    layer = Attention(
        beta=1.0, sigma_v2=1.0, context=40.0, width=64, heads=4, rotation=Rotation(100.0)
    )
    place, omega = np.arange(40), frequencies(layer.rotation, 16)
    kept = np.cos(omega * np.subtract.outer(place, place)[..., None]).mean()
    assert _turned(layer, rho) == pytest.approx(rho * (1 - kept) / (1 - rho * kept), rel=1e-9)


def test_first_order_of_independent_energies():
    """Entropy is log T - v (1 - 1/T)/2; control: without what all energies share."""
    field, variance = Field(4, np.zeros(1)), 1e-4
    lost = np.log(4) - field.pair_averages(variance, np.eye(4)[0]).entropy
    assert lost == pytest.approx(variance * 0.75 / 2, rel=1e-9)
    assert abs(lost / (variance / 2) - 1) > 0.2


def test_few_draws_have_unit_moments():
    rows = whitened(np.random.default_rng(0).standard_normal((3, 5)))
    np.testing.assert_allclose(np.mean(rows**2, axis=0), 1.0, rtol=1e-12)


def test_a_lost_law_has_the_shape_of_a_law():
    dead = Mlp(activation("linear"), 0.0, 0.0, width=64)
    place = Place(Exchangeable(8.0), None)
    law = Residual(0.0, (Sublayer(None, dead),), 64).noise(
        Fluctuation(np.zeros(2), np.zeros((2, 2))), place
    )
    assert law.mean.shape == (2,)
    assert law.cov.shape == (2, 2)
    assert np.isnan(law.cov).all()


@pytest.mark.parametrize("package", [sigprop.layers, sigprop.propagation])
def test_values_cannot_be_changed(package):
    """Every dataclass without a memory is frozen; control: one that is not."""
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    known = [
        one
        for name in names
        for one in vars(importlib.import_module(name)).values()
        if inspect.isclass(one) and one.__module__ == name and dataclasses.is_dataclass(one)
    ]
    assert len(known) > 5
    loose = [one for one in known if not one.__dataclass_params__.frozen]
    assert [one for one in loose if "memory" not in one.__dataclass_fields__] == []
    assert not dataclasses.make_dataclass("Loose", ["x"]).__dataclass_params__.frozen


def test_rows_of_weights_of_late_tokens_sum_to_one():
    """A mask lets the queries see 1 ... T keys; the average over them keeps the sum."""
    layer = Attention(beta=0.0, sigma_v2=1.0, context=32.0, mask=Mask())
    place = Place(Exchangeable(32.0), Finite(32.0))
    found = layer.backward(State(1.0, 0.7), Gradient(1.0, 0.4), place, Spread()).gradient
    assert found.q + found.others == pytest.approx(1.4, rel=1e-9)
    assert found.q == pytest.approx(np.mean(1 / np.arange(1, 33)) + 0.4 / 32, rel=0.1)


def test_spread_of_the_input():
    """The mean vector of random tokens has d components, so its square varies by 2/d."""
    spec = ModelSpec(depth=1, context=10, width=20, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.3)
    assert input_variance(spec, State(1.0, 0.7)) == pytest.approx(0.1 * (1 - 0.7 * 0.9) ** 2)


@pytest.mark.parametrize("width", [4, 7, 32])
@pytest.mark.parametrize("rho", [0.0, 0.4])
def test_moments_of_two_queries_of_a_head(width, rho):
    """Those of a Wishart matrix of d_h degrees of freedom."""
    first, second, cosine, weight = head_pairs(width, rho)
    assert weight.sum() == pytest.approx(1.0)
    assert weight @ (first + second) / 2 == pytest.approx(1.0, rel=1e-9)
    joint = np.sqrt(first * second) * cosine
    assert weight @ joint == pytest.approx(rho, abs=1e-9)
    assert weight @ joint**2 == pytest.approx(rho**2 + (1 + rho**2) / width, rel=1e-6)


@pytest.mark.parametrize("changes", [{}, {"rotary_base": 100.0}, {"causal": True}])
def test_the_gain_of_norms_scales_what_reads_them(changes):
    """Branches behind a norm of gain g read g times as much; control: the gain alone."""
    spec = ModelSpec(
        depth=3, context=24, width=64, norm="pre", beta=1, sigma_v2=0.5, sigma_w2=0, rho0=0.2,
        **changes,
    )  # fmt: skip
    gain = {"norm_gain": 2.0, "beta": 0.25, "sigma_v2": 0.125}
    for read in (lambda s: propagate(s).rho, lambda s: bands(s).rho, lambda s: bands(s).rho_std):
        np.testing.assert_allclose(read(spec.replace(**gain)), read(spec), rtol=1e-6)
    assert abs(propagate(spec.replace(norm_gain=2.0)).rho[-1] - propagate(spec).rho[-1]) > 0.004


def test_variances_behind_a_drawn_norm():
    spec = ModelSpec(depth=1, context=6, beta=1, sigma_v2=1, sigma_w2=0, rho0=0, norm_gain=2.0)
    found = solve(spec, np.eye(6), draws=1, blocks=3)
    np.testing.assert_allclose(found.mean("q")[1:], 4.0, rtol=1e-9)


def test_mean_participation_on_a_sphere():
    """E26e: the traces at the overlap itself; control: at that of unlike tokens."""
    layer = Attention(beta=2.0, sigma_v2=1.0, context=64.0, width=32)
    rem, read = Finite(64.0, 32.0), State(1.0, 0.6)
    b = float(reduced_beta(2.0, read))
    sphere = keys(layer, 1.0)
    near, far = (
        sphere.traces(b * np.sqrt(np.log(64)), 64.0, rho, 0.0).y2 - float(rem.weights(b, 0.6).y2)
        for rho in (0.4, 0.0)
    )
    assert moved_means(layer, sphere, read, rem)[0] == pytest.approx(near, rel=1e-9)
    assert abs(far / near - 1) > 0.02


def test_two_queries_overlap_less_than_one():
    """The overlap of independent queries is near 1/T, that of one is the participation ratio."""
    spec = ModelSpec(depth=2, context=32, beta=1.5, sigma_v2=1, sigma_w2=1, rho0=0.0)
    found = propagate(spec)
    assert found.overlap[0] == pytest.approx(1 / 32, rel=1e-9)
    assert (found.overlap < 0.9 * found.y2).all()


def test_points_that_stand_for_a_block():
    """The mean positions of the earlier and of the later of two tokens of a block of ten."""
    layout = make_layout(34, resolution=25, singles=24)
    assert layout.size.tolist() == [1] * 24 + [10]
    pairs = np.array([(s, t) for s in range(25, 35) for t in range(s + 1, 35)])
    centre, *within = layout.queries.position[-3:]
    assert centre == np.arange(25, 35).mean()
    np.testing.assert_allclose(within, pairs.mean(axis=0), rtol=1e-12)


def test_faint_correlated_scores_keep_mean_weights():
    """To first order what keys share does not move mean weights; at larger scores it does."""
    sizes = np.array([4, 12, 16])
    gap = 0.5 * np.exp(-0.8 * np.abs(np.subtract.outer(range(3), range(3)))) + 0.1
    weight = np.array([0.8, 1.0, 1.05])  # not those of these scores
    found = [
        CorrelatedKeys()(scale, 1.2 - gap, sizes, np.sqrt(0.5 * scale), weight).part
        for scale in (1e-4, 9.0)
    ]
    assert found[0] == 1.0
    assert found[1] < 0.99
