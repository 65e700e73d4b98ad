"""Gaps of merging tokens on blocks of positions, against four times as many (E25)."""

import numpy as np
import pytest

from sigprop import ModelSpec
from sigprop.layers.attention import by_position, query_universal
from sigprop.layers.attention.block_means import BlockMeans
from sigprop.layers.attention.correlation_table import rise
from sigprop.layers.attention.log_distances import log_moments, slope_weights
from sigprop.layers.attention.position_blocks import make_layout, resolution_of
from sigprop.layers.attention.position_grid import Layout, pairs_between
from sigprop.layers.attention.query_universal import _mean_and_slope
from sigprop.layers.attention.rotated_gaps import RotatedGaps
from sigprop.layers.attention.sliding_window import between_nodes
from sigprop.propagation.causal import causal

MASKED = ModelSpec(
    depth=23, context=1024, width=768, heads=12, causal=True, norm="post", beta=0.5,
    alpha_attn=0.1, sigma_v2=2, sigma_w2=2, rho0=0.02,
)  # fmt: skip
STACKS = {
    "masked": MASKED,
    "rotary": MASKED.replace(rotary_base=1e4),
    "cool": MASKED.replace(rotary_base=1e4, beta=0.1),
    "without an MLP": MASKED.replace(rotary_base=1e4, sigma_w2=0),
    "slow": MASKED.replace(rotary_base=1e6, alpha_attn=0.5, depth=27),
    "pre-norm": MASKED.replace(
        rotary_base=1e4, norm="pre", sigma_v2=4, sigma_w2=1, alpha_attn=0.5, alpha_mlp=0.5, depth=26
    ),
}
LONG = MASKED.replace(context=2**17, rotary_base=1e4, depth=28)


def late(spec, resolution=None):
    return 1 - causal(spec, resolution=resolution).rho_late


def fine(spec):
    return late(spec, 4 * resolution_of(float(spec.context), spec.rotary_base is not None))


def furthest(spec, exact):
    """Largest relative error of the gap of late tokens, down to 1e-8."""
    assert exact.min() < 2e-8
    held = exact > 1e-8
    return np.abs(late(spec)[held] / exact[held] - 1).max()


@pytest.mark.parametrize("name", STACKS)
def test_late_tokens_merge_as_on_four_times_the_blocks(name):
    assert furthest(STACKS[name], fine(STACKS[name])) < 0.01


def test_late_tokens_of_a_hot_stack_merge_almost_as_precisely():
    spec = STACKS["rotary"].replace(beta=1)
    assert furthest(spec, fine(spec)) < 0.012


def test_correlations_are_looked_up_at_every_block(monkeypatch):
    """Negative control: those of a quarter of the blocks, between which they are cubics."""
    exact = fine(LONG)
    monkeypatch.setattr(query_universal, "LOOKED_UP", 12)
    assert furthest(LONG, exact) > 0.02


def values_at_centres(layout):
    """Make a substitute of `BlockMeans` that leaves values as they are."""
    found = BlockMeans(layout)
    vars(found)["_stencils"] = np.zeros((len(found._couples[0]), 1), dtype=int), np.zeros((1, 1))
    vars(found)["_single"] = np.zeros((len(layout.size), 1), dtype=int), np.zeros((1, 1))
    return found


def slopes_of_blocks(sizes):
    """Regression on means of blocks alone."""
    found = [_mean_and_slope(pairs_between(n), rise(n)) for n in sizes]
    return np.moveaxis(np.array(found), 1, 0)


def between_centres(layout, seen):
    """Parts of blocks at their mean positions, linear between the centres of blocks."""
    row, block = np.nonzero((seen > 0) & (seen < 1))
    middle = (layout.edges[block] + layout.queries.high[row] + 1) / 2
    before, part = between_nodes(layout.centres.position, middle)
    number, out = seen[row, block] * layout.size[block], seen.copy()
    out[row, block] = 0
    for place, share in ((before, 1 - part), (before + 1, part)):
        np.add.at(out, (row, place), number * share / layout.size[place])
    return out


@pytest.mark.parametrize(
    ("module", "name", "other"),
    [
        (by_position, "BlockMeans", values_at_centres),
        (query_universal, "slope_weights", slopes_of_blocks),
    ],
)
def test_values_at_centres_are_no_means(monkeypatch, module, name, other):
    """Negative control: kernels at centres of blocks, and slopes of means of blocks alone."""
    spec = STACKS["rotary"]
    exact = fine(spec)
    monkeypatch.setattr(module, name, other)
    assert furthest(spec, exact) > 0.025


def test_late_tokens_of_a_long_context_merge_as_on_four_times_the_blocks(monkeypatch):
    spec = LONG.replace(beta=1, depth=29)
    exact, hot = fine(LONG), fine(spec)
    assert furthest(LONG, exact) < 0.01
    assert furthest(spec, hot) < 0.01
    with monkeypatch.context() as patch:  # negative controls
        patch.setattr(by_position, "BlockMeans", values_at_centres)
        assert furthest(LONG, exact) > 0.03
    monkeypatch.setattr(Layout, "_moved", between_centres)
    assert furthest(spec, hot) > 0.04


def test_short_contexts_have_every_position_by_itself():
    for context in (2, 3, 64):
        assert resolution_of(context, rotated=True) >= context
    rising = [resolution_of(2.0**n, rotated=False) for n in range(7, 21)]
    assert rising == [52] * 7 + [56, 60] + [64] * 5


# means over blocks


@pytest.mark.parametrize(
    ("kernel", "error"),
    [
        (lambda u, x: u, 0.01),
        (lambda u, x: u**2, 0.01),
        (lambda u, x: np.exp(1.5 * x) * u**2, 0.05),
        (lambda u, x: 0.1 + np.exp(-0.5 * x) * (u + u**2), 0.01),
    ],
)
def test_means_of_a_kernel_over_pairs_of_blocks(kernel, error):
    layout = make_layout(2000, 44)
    position = np.arange(1, 2001.0)

    def at(one, other):
        place = np.log(one), np.log(other)
        return kernel(np.abs(place[0] - place[1]), (place[0] + place[1]) / 2)

    edges, (i, j) = layout.edges[:-1], layout.couples
    whole = at(position[:, None], position)
    np.fill_diagonal(whole, 0.0)
    sums = np.add.reduceat(np.add.reduceat(whole, edges, axis=0), edges, axis=1)
    exact = np.divide(sums, layout.pairs, out=np.zeros_like(sums), where=layout.pairs > 0)
    points = layout.spread_out(at(layout.queries.position[i], layout.queries.position[j]))
    found = BlockMeans(layout)(points)
    off = [np.abs(v - exact)[layout.pairs > 0] / exact[layout.pairs > 0] for v in (found, points)]
    assert off[0].max() < error
    assert off[1].max() > 2 * off[0].max()


def test_means_of_tokens_of_blocks():
    layout = make_layout(2000, 44)
    position, centre = np.arange(1, 2001.0), layout.centres.position
    for power in (-1, 2):
        exact = np.add.reduceat(position**power, layout.edges[:-1]) / layout.size
        found = BlockMeans(layout).of_blocks(centre**power)
        np.testing.assert_allclose(found, exact, rtol=1e-3)
        assert np.abs(centre**power / exact - 1).max() > 2e-3


@pytest.mark.parametrize("context", [2, 3, 4, 9])
def test_single_positions_are_their_own_means(context):
    layout = make_layout(context)
    values = np.random.default_rng(0).uniform(size=(context, context))
    values = np.triu(values, 1) + np.triu(values, 1).T
    np.testing.assert_array_equal(BlockMeans(layout)(values), values)
    np.testing.assert_array_equal(BlockMeans(layout).of_blocks(values[0]), values[0])


# slopes in log distance


def test_moments_of_log_distance():
    sizes = np.array([1, 1, 2, 5, 9, 30])
    mean, variance = log_moments(sizes)
    block = np.repeat(np.arange(len(sizes)), sizes)
    apart = np.abs(np.subtract.outer(np.arange(len(block)), np.arange(len(block))))
    for a, b in np.ndindex(mean.shape):
        own = apart[np.ix_(block == a, block == b)]
        log = np.log(own[own > 0]) if np.any(own) else np.zeros(1)
        assert mean[a, b] == pytest.approx(log.mean(), abs=1e-12)
        assert variance[a, b] == pytest.approx(log.var(), abs=1e-12)


@pytest.mark.parametrize(
    "gap",
    [
        lambda d, first, last: np.log(d),
        lambda d, first, last: np.sqrt(d),
        lambda d, first, last: 1 / np.sqrt(first),
        lambda d, first, last: np.log(last / first) ** 2,
        lambda d, first, last: np.log(d) / last,
    ],
)
def test_slope_in_log_distance(gap):
    """Of gaps of distance and position, as over all pairs of keys."""
    layout, place = make_layout(1024, 44), np.arange(1, 1025.0)
    apart = np.abs(place[:, None] - place) + np.eye(1024)
    pair = np.minimum.outer(place, place), np.maximum.outer(place, place)
    values = np.where(np.eye(1024), 0.0, gap(apart, *pair))
    log = np.log(apart)
    mean = log.sum() / (1024 * 1023)
    form = np.where(np.eye(1024), 0.0, (log - mean) / mean)
    exact = np.sum(form * values) / np.sum(form**2)
    edges = layout.edges[:-1]
    sums = np.add.reduceat(np.add.reduceat(values, edges, axis=0), edges, axis=1)
    blocks = sums / np.maximum(layout.pairs, 1)
    assert np.sum(slope_weights(layout.size)[1] * blocks) == pytest.approx(exact, rel=0.015)
    if gap(np.e, 1.0, 1.0) != 1.0 or gap(1.0, 4.0, 4.0) != 0.0:  # no function of log distance
        other = np.sum(slopes_of_blocks(layout.size[None])[1] * blocks)
        assert abs(other / exact - 1) > 0.03


# parts of blocks


@pytest.mark.parametrize("context", [2, 3, 9, 40, 1024])
def test_parts_of_blocks_keep_mean_and_variance_of_log_position(context):
    layout = make_layout(context, min(44, max(context, 8)))
    np.testing.assert_allclose(layout.seen @ layout.size, layout.queries.count, rtol=1e-12)
    log = np.log(np.arange(1, context + 1.0))
    edges = layout.edges[:-1]
    for power in (1, 2):
        means = np.add.reduceat(log**power, edges) / layout.size
        found = (layout.seen * layout.size) @ means
        for row in np.flatnonzero(layout.queries.count % 1 == 0):
            number = int(layout.queries.count[row])
            assert found[row] == pytest.approx(np.sum(log[:number] ** power), rel=1e-4)


@pytest.mark.parametrize("context", [2, 3, 9, 1024])
def test_rotated_gaps_of_parts_of_blocks(context):
    layout = make_layout(context, min(44, max(context, 8)))
    blocks, turned = len(layout.size), RotatedGaps(layout, np.geomspace(1e-3, 1, 5))
    gap = np.random.default_rng(1).uniform(size=(blocks, blocks))
    gap = gap + gap.T
    wide = gap * layout.waves(np.geomspace(1e-3, 1, 5))
    still = 1 - layout.waves(np.geomspace(1e-3, 1, 5))
    exact = layout.own(wide) + layout.own(still)
    np.testing.assert_allclose(turned.own(gap, 1.0), exact, rtol=1e-12)


def test_half_of_the_context_ends_a_block():
    for context in (100, 1024, 2**17):
        layout = make_layout(context)
        assert context // 2 in layout.edges
        step = np.diff(np.log(layout.edges[-6:]))
        np.testing.assert_allclose(step, step[0], rtol=0.3)
