"""Stacks whose layers differ: overrides cycled over the depth, or one number a layer."""

import numpy as np
import pytest
from outcomes import outcome

from sigprop import DomainError, ModelSpec, critical, diagram, gradients, propagate, sweep
from sigprop.analysis.fixed_points import exponents
from sigprop.layers.attention.query_tables import tabulated
from sigprop.propagation import grids, stack
from sigprop.propagation.capabilities import TheoryError
from sigprop.propagation.every_pair import exchangeable_kernel, solve
from sigprop.propagation.finite_width.bands import bands
from sigprop.simulation import simulate

SPEC = ModelSpec(
    depth=4, context=24, width=64, heads=4, causal=True, beta=1.5, sigma_v2=1, sigma_w2=0.5,
    rho0=0.1, alpha_attn=1.2,
)  # fmt: skip
OPEN = SPEC.replace(causal=False)
COLUMNS = ("q", "gap", "rho", "y2", "overlap", "entropy", "entropy_ratio", "score_std")
LOCAL = [{"window": 3}, {}]


def same(one, other, rtol=1e-12):
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol, err_msg=name)


@pytest.mark.parametrize("spec", [SPEC, OPEN, OPEN.replace(rotary_base=1e4)])
def test_a_pattern_of_like_layers_is_the_uniform_stack(spec):
    found = propagate(spec.replace(pattern=[{"beta": 1.5}, {}]))
    same(found, propagate(spec))
    other = propagate(spec.replace(pattern=[{"beta": 2.5}, {}]))
    assert abs(other.rho[-1] - found.rho[-1]) > 1e-3  # negative control


@pytest.mark.parametrize("spec", [SPEC, OPEN, OPEN.replace(rotary_base=1e4)])
def test_one_number_a_layer_is_the_argument(spec):
    betas = [0.5, 1.0, 2.0, 1.5]
    found = propagate(spec.replace(by_layer={"beta": betas}))
    same(found, propagate(spec, beta_by_layer=betas))


@pytest.mark.parametrize("spec", [SPEC, OPEN])
def test_temperatures_of_other_points_are_refused_by_name(spec):
    found = outcome(propagate, spec.replace(beta=[1.0, 2.0]), beta_by_layer=np.ones((4, 3, 2)))
    assert isinstance(found, DomainError)
    assert "beta_by_layer = (4, 3, 2)" in str(found)


def dense(spec):
    """Cosines by matrix products at beta = 0, attention alone."""
    t = np.arange(int(spec.context))
    kernel = spec.rho0 + (1 - spec.rho0) * np.eye(len(t))
    for layer in spec.layers:
        last = np.maximum(t[:, None], layer.prefix - 1) if layer.causal else spec.context - 1
        seen = (t <= last) & (t[:, None] - t < (layer.window or spec.context))
        a = seen / seen.sum(axis=1, keepdims=True)
        kernel = layer.alpha_attn**2 * kernel + layer.sigma_v2 * a @ kernel @ a.T
        root = np.sqrt(np.diagonal(kernel))
        kernel = kernel / np.outer(root, root)
    return kernel


@pytest.mark.parametrize(
    "pattern",
    [
        LOCAL,
        [{"window": 3}, {"window": 8, "prefix": 5}, {}],
        {"first": [{"causal": False}], "cycle": [{"sigma_v2": 3.0}], "last": [{"alpha_attn": 0.5}]},
    ],
)
def test_uniform_attention_is_a_matrix_product(pattern):
    """At beta = 0 the theory is exact, whatever the masks."""
    spec = SPEC.replace(beta=0, sigma_w2=0, sigma_b2=0, pattern=pattern)
    deficit = propagate(spec).positions.gap_ratio[-1]
    np.testing.assert_allclose(deficit, 1 - dense(spec), atol=2e-6)
    assert np.abs(deficit - 1 + dense(spec.replace(pattern=None))).max() > 0.01


@pytest.mark.parametrize(
    "pattern",
    [LOCAL, [{"rotary_base": 30, "beta": 4}, {}], [{"causal": False, "beta": 2.5}, {"window": 6}]],
)
def test_drawn_kernels_of_layers_that_differ(pattern):
    spec = SPEC.replace(pattern=pattern, width=512, heads=8)
    drawn = solve(spec, exchangeable_kernel(spec), draws=12, blocks=1)
    mean, error = drawn.mean("rho")[1:], drawn.se("rho")[1:]
    assert (np.abs(propagate(spec).rho[1:] - mean) < 3 * error + 0.012).all()
    plain = propagate(spec.replace(pattern=[pattern[1]])).rho[1:]
    assert (np.abs(plain - mean) > 3 * error + 0.012).any()  # negative control


@pytest.mark.parametrize(
    "spec",
    [
        SPEC.replace(pattern=LOCAL, context=8),
        OPEN.replace(pattern=[{"beta": 3}, {}]),
        OPEN.replace(pattern=[{"rotary_base": 1e3}, {}]),
    ],
)
def test_a_grid_is_its_single_stacks(spec):
    many = spec.replace(sigma_v2=[0.5, 1.0])
    final, each = sweep(many), propagate(many)
    ones = [propagate(spec.replace(sigma_v2=v)) for v in (0.5, 1.0)]
    for i, one in enumerate(ones):
        assert abs(final.state.rho[i] - one.rho[-1]) < 0.005
        np.testing.assert_allclose(each.rho[:, i], one.rho, rtol=1e-10)
        assert final.reduced_beta[i] == pytest.approx(one.reduced_beta.max(), rel=0.01)


def of_several_masks(local):
    return SPEC.replace(
        depth=9, context=64, width=None, heads=32, beta=2, sigma_w2=0.3, alpha_attn=1,
        norm="post", pattern=[local, local, {}],
    )  # fmt: skip


@pytest.mark.parametrize("local", [{"chunk": 16}, {"window": 16}])
def test_a_sweep_of_several_masks_is_its_single_stacks(local):
    spec = of_several_masks(local)
    assert abs(sweep(spec).state.rho - propagate(spec).rho[-1]) < 0.001


@pytest.mark.parametrize("local", [{"chunk": 16}, {"window": 8}])
def test_the_network_of_one_mask_does_not_know_several(local, monkeypatch):
    """Control: what the network, fitted to stacks of one mask, makes of their kernels."""
    spec = of_several_masks(local).replace(beta=2.5)
    known = propagate(spec).rho[-1]
    assert abs(sweep(spec).state.rho - known) < 0.001

    def alike(*numbers):
        return tabulated(*numbers[:-1], True)

    monkeypatch.setattr(stack, "tabulated", alike)
    monkeypatch.setattr(grids, "SHRUNK", (0.0, 1e-9))  # else it is not asked where it matters
    assert abs(sweep(spec).state.rho - known) > 0.002


def test_what_is_scanned_applies_where_it_is_not_overridden():
    spec = OPEN.replace(pattern=[{"alpha_attn": 2.0}, {}], sigma_v2=2.0)
    found = critical(spec, 0.6)
    assert found.converged
    at = propagate(spec.replace(alpha_attn=float(found.alpha_attn)))
    assert at.rho[-1] == pytest.approx(0.6, abs=1e-6)
    assert [layer.alpha_attn for layer in spec.layers] == [2.0, 1.2, 2.0, 1.2]
    data = diagram(spec, beta=[0.5, 2.0], alpha_attn=[0.5, 1.5])
    corner = propagate(spec.replace(beta=2.0, alpha_attn=0.5))
    ratio = data.gap_ratio.sel(beta=2.0, alpha_attn=0.5)
    assert float(ratio) == pytest.approx(1 - corner.rho[-1], rel=1e-6)


def test_random_networks_of_layers_that_differ():
    """Two patterns of the same layers in another order are other networks, as the theory says."""
    pattern = [{"window": 2, "beta": 0.5}, {"sigma_v2": 4.0, "gated": True}]
    spec = SPEC.replace(depth=2, width=256, pattern=pattern)
    found = simulate(spec, 12)
    mean, error = found.mean("rho"), found.se("rho")
    assert (np.abs(propagate(spec).rho - mean) < 3 * error + 0.03).all()
    turned = propagate(spec.replace(pattern=pattern[::-1])).rho
    assert (np.abs(turned - mean)[1:] > 3 * error[1:] + 0.03).any()


def test_gradients_follow_the_layers():
    betas = [0.5, 1.0, 2.0, 1.5]
    spec = OPEN.replace(width=None, heads=1)
    found = gradients(spec.replace(by_layer={"beta": betas}))
    known = gradients(spec, beta_by_layer=betas)
    np.testing.assert_allclose(found.wq, known.wq, rtol=1e-12)
    local = gradients(SPEC.replace(pattern=[{"window": 24}, {}]), draws=2)
    plain = gradients(SPEC, draws=2)  # the same draws under the same masks
    np.testing.assert_allclose(local.q, plain.q, rtol=1e-9)


@pytest.mark.parametrize("command", [exponents, bands])
def test_what_needs_like_layers_refuses_by_name(command):
    found = outcome(command, OPEN.replace(pattern=[{"beta": 2.0}, {}]))
    assert isinstance(found, TheoryError)
    assert found.structure == "pattern or by_layer"


def test_descriptions_are_read_back():
    spec = SPEC.replace(
        pattern={"first": [{"gated": True}], "cycle": LOCAL}, by_layer={"beta": [1, 2, 3, 4]}
    )
    again = ModelSpec.from_dict(spec.to_dict())
    assert [v.to_dict() for v in again.layers] == [v.to_dict() for v in spec.layers]
    assert [v.window for v in again.layers] == [None, 3, None, 3]
    assert "pattern" not in SPEC.to_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pattern": [{"depth": 3}]}, "pattern.depth = 3"),
        ({"pattern": 3}, "pattern = 3"),
        ({"pattern": [{"window": 0}]}, "window = 0"),
        ({"pattern": {"first": [{}] * 5}}, "at most depth = 4"),
        ({"pattern": [{"beta": [1, 2]}]}, "pattern.beta = [1, 2]"),
        ({"by_layer": {"beta": [1, 2]}}, "by_layer.beta = [1, 2]"),
        ({"by_layer": {"beta": [1, 2, 3, -4]}}, "beta = -4.0"),
        ({"by_layer": {"q0": [1, 1, 1, 1]}}, "by_layer.q0"),
        ({"pattern": [{"beta": 1}], "by_layer": {"beta": [1, 2, 3, 4]}}, "does not override"),
    ],
)
def test_what_is_inadmissible_is_named(changes, words):
    found = outcome(SPEC.replace, **changes)
    assert isinstance(found, DomainError)
    assert words in str(found)


def test_statistics_are_those_of_the_heads_of_each_layer():
    spec = ModelSpec(
        depth=2, context=256, width=64, heads=2, beta=np.array([1.5, 2.0]), sigma_v2=1, sigma_w2=1,
        rho0=0.1,
    )  # fmt: skip
    mixed = spec.replace(pattern=[{"heads": 8}, {}])
    first = propagate(spec.replace(heads=8))
    found = propagate(mixed)
    np.testing.assert_allclose(found.y2[0], first.y2[0], rtol=1e-12)
    assert np.all(np.abs(propagate(spec).y2[0] / first.y2[0] - 1) > 0.01)
    data = diagram(mixed.replace(beta=1), beta=[1.5, 2.0], alpha_attn=[0.5, 1.0])
    rows = [
        propagate(mixed.replace(beta=beta, alpha_attn=alpha)).entropy_ratio.min()
        for beta in (1.5, 2.0)
        for alpha in (0.5, 1.0)
    ]
    np.testing.assert_allclose(np.ravel(data["entropy_ratio"]), rows, rtol=1e-6)
