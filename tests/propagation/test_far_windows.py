"""Windows far shorter than the context, against every position by itself (E25h)."""

import numpy as np
import pytest

import sigprop.propagation.stack as stacks
from sigprop import ModelSpec, bands, propagate
from sigprop.layers.attention import position_blocks
from sigprop.layers.attention.position_blocks import make_layout, with_short_distances
from sigprop.layers.attention.sliding_window import SlidingWindow, short_distances
from sigprop.propagation.causal import causal

HOT = ModelSpec(
    depth=8, context=400, width=1024, heads=16, causal=True, window=24, norm="post", beta=2,
    sigma_v2=2, sigma_w2=2, rho0=0.05,
)  # fmt: skip
STACKS = {
    "window": HOT,
    "rotary": HOT.replace(rotary_base=1e4),
    "alternating": HOT.replace(window=None, pattern=[{"window": 24}, {}]),
    "pre-norm": HOT.replace(norm="pre", beta=1, sigma_b2=0.01),
    "centred": HOT.replace(attention="centred", beta=1),
    "few keys": HOT.replace(window=3, context=150),
    "two windows": HOT.replace(window=None, pattern=[{"window": 12}, {"window": 40}]),
}


def largest(spec):
    """Largest differences of rho, Y_2 and entropy of means, and of rho by position."""
    found, exact = causal(spec), causal(spec, resolution=int(spec.context))
    places = np.log(exact.position)
    by_position = np.stack([np.interp(places, np.log(found.position), row) for row in found.q])
    means = [
        np.abs(found.mean(getattr(found, name)) - exact.mean(getattr(exact, name))).max()
        for name in ("y2", "entropy")
    ]
    late = np.nanmax(np.abs(found.rho_late - exact.rho_late))
    return late, *means, np.abs(by_position / exact.q - 1).max()


@pytest.mark.parametrize("name", STACKS)
def test_as_every_position_by_itself(name):
    spec = STACKS[name]
    assert len(causal(spec).position) < 100
    late, y2, entropy, q = largest(spec)
    assert late < 0.003
    assert y2 < 0.005
    assert entropy < 0.03
    assert q < 0.005


def test_distances_are_needed(monkeypatch):
    monkeypatch.setattr(stacks, "with_short_distances", lambda layout, windows: layout)
    late, y2, entropy, _ = largest(STACKS["window"])
    assert max(late / 0.003, y2 / 0.005, entropy / 0.03) > 3


@pytest.mark.parametrize("context", [2**17, 2**20])
def test_any_context(context):
    scale = np.sqrt(np.log(2**14) / np.log(context))  # of the scores, as at 2^14
    spec = HOT.replace(context=context, window=128, depth=3, beta=2 * scale)
    near = propagate(spec.replace(context=2**14, beta=2))
    far = propagate(spec)
    # all windows but the first are alike, which holds 1 % of 2^14 tokens
    np.testing.assert_allclose(far.y2, near.y2, atol=2e-3)
    np.testing.assert_allclose(far.rho, near.rho, atol=5e-3)
    assert np.abs(propagate(spec.replace(window=256)).y2 - near.y2).max() > 0.01


def brute_force(window, values, distances, shift):
    """Pairs of keys of two queries, one by one: sums of values, and of common keys."""
    sums = common = 0.0
    for s in range(window):
        for other in range(window):
            apart = abs(shift + s - other)
            if apart:
                sums += np.interp(apart, distances, values)
            else:
                common += 1
    return sums, common


@pytest.mark.parametrize("window", [1, 3, 8, 21])
def test_sums_over_a_window(window):
    distances = short_distances([window], 100)
    values = np.random.default_rng(0).uniform(0.5, 1, len(distances))
    one = SlidingWindow(window, distances, np.array([1]), np.array([1.0, 500.0]))
    ones = np.ones((1, len(one.sizes)))
    assert one.sizes.sum() == window
    own, _ = brute_force(window, values, distances, 0)
    np.testing.assert_allclose(one.own_sums(values[None], ones), [own], rtol=1e-12)
    expected = [brute_force(window, values, distances, d) for d in distances.tolist()]
    sums, common = np.transpose(expected)
    both = np.broadcast_to(values, (1, len(distances), len(distances)))
    np.testing.assert_allclose(one.shifted_sums(both, ones)[0], sums, rtol=1e-12)
    np.testing.assert_allclose(one.common_sums(ones, ones)[0], common)
    ahead = np.interp(np.arange(1, window), distances, values).sum()
    np.testing.assert_allclose(one.ahead() @ values * max(window - 1, 1), ahead)
    assert one.beside().sum() == window * (window - 1)


def test_ranges_carry_their_own_weights():
    """Weights on one range leave the pairs within it."""
    one = SlidingWindow(16, short_distances([16], 40), np.array([1]), np.array([1.0, 500.0]))
    picked = np.eye(len(one.sizes))[2:3]
    flat = np.ones((1, len(short_distances([16], 40))))
    assert one.own_sums(flat, picked).tolist() == [2.0]  # two keys: two ordered pairs
    both = np.broadcast_to(flat[:, None], (1, flat.size, flat.size))
    assert one.shifted_sums(both, picked)[0, 1] == 4 - one.common_sums(picked, picked)[0, 1]


def test_pairs_are_counted_once():
    layout = with_short_distances(make_layout(4096, window=64, far=True), [64])
    ones = np.ones(len(layout.couples[0]))
    spread = layout.spread_out(ones)
    pairs = layout.pairs > 0
    np.testing.assert_allclose(spread[:, : len(pairs)][pairs], 1.0)
    np.testing.assert_allclose(spread[layout.long, len(pairs) :], 1.0)
    np.testing.assert_allclose(spread[:, : len(pairs)], spread[:, : len(pairs)].T)
    assert layout.size.sum() == 4096
    assert (layout.common <= 64).all()


MERGING = HOT.replace(
    depth=30, context=1024, window=None, beta=0.5, alpha_attn=0.1, rho0=0.02, width=768, heads=12
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"context": 2**17},
        {"window": 100},
        {"window": 64, "rotary_base": 1e4},
        {"rotary_base": 1e4, "beta": 0.1, "sigma_v2": 1, "context": 512},
        {"pattern": [{"window": 50}, {}]},
    ],
    ids=str,
)
def test_merging_tokens_pass_every_block(change):
    """Gaps are halves of squared distances: what approximations leave of them is not negative."""
    spec = MERGING.replace(**change)
    found = causal(spec)
    assert len(found.q) == spec.depth + 1
    assert found.gap_ratio.min() >= 0
    falling = found.gap_ratio.mean(axis=(-2, -1))
    assert falling[-1] < 0.05 * falling[0]


def test_late_tokens_merge_as_those_of_every_position():
    spec = MERGING.replace(context=400, depth=20)
    found, exact = 1 - causal(spec).rho_late, 1 - causal(spec, resolution=400).rho_late
    assert found[-1] < 1e-4
    np.testing.assert_allclose(found, exact, rtol=0.02)
    alike = propagate(spec, geometry="exchangeable")
    assert np.abs(alike.gap / alike.q / exact - 1).max() > 0.1


@pytest.mark.parametrize("change", [{}, {"rotary_base": 1e4, "norm": "pre"}], ids=str)
def test_bands_far_behind_a_window(monkeypatch, change):
    """Their coarse blocks are at most as long as what comes before them."""
    spec = HOT.replace(depth=3, context=900, window=77, beta=1.5, **change)
    found, other = bands(spec), bands(spec.replace(window=9))
    monkeypatch.setattr(position_blocks, "FAR", np.inf)
    short = bands(spec)  # on blocks that are parts of the window throughout
    for name in ("rho_std", "y2_std", "entropy_std"):
        values = [getattr(one, name)[1:] for one in (found, short, other)]
        np.testing.assert_allclose(values[0], values[1], rtol=0.03)
        assert np.abs(values[2] / values[1] - 1).max() > 0.03


def test_coarse_blocks_far_behind_a_window():
    layout = make_layout(2**20, resolution=24, window=128, far=True)
    assert (layout.size <= np.maximum(layout.edges[:-1], 1)).all()
    reach = with_short_distances(layout, [128]).reach
    assert (reach < layout.centres.position)[reach > 0].all()
