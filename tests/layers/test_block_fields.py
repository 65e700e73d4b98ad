"""Attention over blocks of keys whose scores share a field, against draws, laws and quadrature."""

import numpy as np
import pytest

from sigprop import ModelSpec
from sigprop.layers.attention.correlation_table import PLAIN, errors, rise
from sigprop.layers.attention.key_correlations import BlockedKeys
from sigprop.layers.attention.key_gaps import ENDS, GROWING, KeyGaps
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.statistics import block_fields, boltzmann, moments
from sigprop.layers.attention.statistics.block_fields import Fields, attended, factored
from sigprop.layers.attention.statistics.quadrature import Grid, averages
from sigprop.layers.attention.statistics.universal import OneQuery
from sigprop.propagation.stack import build_stack
from sigprop.studies import build_correlations, build_field_points

SIZES = np.array([[1.0, 2.0, 5.0, 8.0]])


@pytest.fixture(scope="module")
def kernel():
    """Overlaps of four blocks that fall with log distance."""
    place = np.log([1.0, 3.0, 7.0, 14.0])
    return 0.15 + 0.7 * np.exp(-np.abs(place[:, None] - place))


def drawn(kernel, sizes, variance, number=200_000):
    """Participation, pairs, weights and log Z of random scores; the error of the first; entropy."""
    rng, block = np.random.default_rng(5), np.repeat(np.arange(sizes.size), sizes.astype(int))
    whole = kernel[np.ix_(block, block)]
    np.fill_diagonal(whole, 1.0)
    scores = rng.standard_normal((number, block.size)) @ np.linalg.cholesky(whole).T
    weight = np.exp(np.sqrt(variance) * scores)
    weight /= weight.sum(axis=1, keepdims=True)
    y2, entropy = np.sum(weight**2, axis=1), -np.mean(np.sum(weight * np.log(weight), axis=1))
    inside = np.eye(sizes.size)[block]
    pairs = inside.T @ (weight.T @ weight / number - np.diag(np.mean(weight**2, axis=0))) @ inside
    error = y2.std() / np.sqrt(number)
    return y2.mean(), pairs, inside.T @ weight.mean(axis=0), error, entropy


@pytest.mark.parametrize("variance", [0.3, 4.0, 25.0])
def test_draws(kernel, variance):
    """Control: the same scores without what the keys of a block share."""
    weight = np.ones_like(SIZES)
    fields = factored(np.full(1, variance), 1 - kernel[None], SIZES, weight)
    found = attended(fields, SIZES)
    y2, pairs, weights, error, entropy = drawn(kernel, SIZES[0], variance)
    assert found.y2[0] == pytest.approx(y2, abs=4 * error + 0.002 * y2)
    np.testing.assert_allclose(found.pairs[0], pairs, atol=0.002)
    np.testing.assert_allclose(found.weights[0], weights, atol=0.004)
    apart = variance * np.sum(found.pairs[0] * (1 - kernel))
    assert found.log_z[0] - apart == pytest.approx(entropy, abs=0.02)
    assert abs(found.log_z[0] - 0.8 * apart - entropy) > 0.02  # control: another mean gap
    alone = attended(Fields(0 * fields.roots, np.full_like(SIZES, np.sqrt(variance))), SIZES)
    assert abs(alone.y2[0] - y2) > 4 * error + 0.002 * y2


@pytest.mark.parametrize("count", [3.0, 64.0, 1e5])
def test_independent_scores(count):
    s = np.array([0.5, 1.0, 3.0, 9.0])
    found = attended(Fields(np.zeros((4, 1, 1)), s[:, None]), np.full((4, 1), count))
    exact = np.array([float(moments(v, count).y2) for v in s])
    np.testing.assert_allclose(found.y2 - 1 / count, exact - 1 / count, rtol=5e-3)
    np.testing.assert_allclose(found.y2 + found.pairs[:, 0, 0], 1.0, rtol=1e-6)
    assert np.abs(found.y2[1:] / exact[:-1] - 1).min() > 0.1  # control: another temperature


def test_factors_leave_the_kernel(kernel):
    """Field and own noise together have the variances of the keys about their mean."""
    found = factored(np.array([2.0]), 1 - kernel[None], SIZES, np.ones_like(SIZES))
    field = kernel.copy()
    field[0, 0] = kernel[0, 1]  # a lone key shares with none more than with its nearest
    centred = np.eye(4) - SIZES[0] / SIZES.sum()
    exact = 2 * (np.diag(centred @ field @ centred.T) + 1 - np.diag(field))
    squares, own = found.roots[0] ** 2, found.own[0] ** 2
    np.testing.assert_allclose(np.sum(squares, axis=1) + own, exact, rtol=1e-12)
    few = squares[:, 0] + own  # control: one factor alone
    assert np.abs(few / exact - 1).max() > 0.05


def test_averages_of_boltzmann_factors():
    """Against the quadrature of E6; control: a deviation 5 % larger."""
    for s in (0.7, 2.0, 6.0):
        u = np.linspace(-8.0, 1.0, 13)
        grid = Grid(np.array([u[0]]), np.array([u[1] - u[0]]), u.size)
        smooth, lost = averages(grid, np.array([s]), (1, 2))
        left = np.log1p(-lost[0])
        exact = np.stack([np.log(-left), *(np.log(smooth[0]).T - left)], axis=-1)
        near, far = (boltzmann.Lines(np.full(1, v))(u[None])[:, 0].T for v in (s, 1.05 * s))
        assert np.abs(near - exact).max() < 4e-3
        assert np.abs(far - exact).max() > 0.02
    assert boltzmann.errors().max() < 5e-3


def test_points_of_fields(kernel):
    """Against thousands of Sobol points; control: as many Sobol points are farther."""
    sizes = np.tile(SIZES * [[1.0], [3.0], [90.0]], (5, 1))
    variance = np.repeat([0.1, 1.0, 4.0, 9.0, 25.0], 3)
    deficit = np.broadcast_to(1 - kernel, (15, 4, 4))
    fields = factored(variance, deficit, sizes, np.ones_like(sizes))

    def error(points):
        found = attended(fields, sizes, points)
        return np.sqrt(np.mean((found.weights - known) ** 2))

    known = attended(fields, sizes, build_field_points.sobol(4096)).weights
    assert error(None) < 1.5e-3
    others = [error(build_field_points.sobol(64, seed)) for seed in range(4)]
    assert np.mean(others) > 2 * error(None)
    strong, weak = block_fields.errors()
    assert strong.max() < 0.005
    assert (weak < strong).all()


def test_few_keys_far_from_many_near_ones():
    """A query that may attend to one of three; controls: a smaller shrink, entropy at it."""
    sizes, scale, number = np.array([3, 400]), 4.0, 20_000
    gaps, rng = np.array([[1.0, 1.0], [1.0, 0.02]]), np.random.default_rng(1)
    common, own = rng.standard_normal((number, 1)), rng.standard_normal((number, 400))
    late = np.sqrt(1 - gaps[1, 1]) * common + np.sqrt(gaps[1, 1]) * own
    scores = np.concatenate([rng.standard_normal((number, 3)), late], axis=1)
    weight = np.exp(np.sqrt(scale) * scores)
    weight /= weight.sum(axis=1, keepdims=True)
    y2, mean = np.mean(np.sum(weight**2, axis=1)), 403 * weight.mean(axis=0)
    lost = np.log(403) + np.mean(np.sum(weight * np.log(weight), axis=1))
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    sigma = np.full((1, 1), np.sqrt(scale * np.sum(pairs * gaps) / pairs.sum()))
    keys = np.array([mean[:3].mean(), mean[3:].mean()])
    one = OneQuery(np.array([403.0]))
    found = BlockedKeys(sizes[None])(np.array([scale]), gaps[None, None], sigma, keys[None, None])
    excess, less = one(sigma * found.shrink)
    assert excess.item() == pytest.approx(y2, rel=0.15)
    assert one(1.5 * sigma)[0].item() < 0.1 * y2
    assert (one(sigma)[1] * found.loss).item() == pytest.approx(lost, rel=0.03)
    assert less.item() > 3 * lost


def test_keys_of_segments_are_not_merged():
    """A query of chunks of near keys; control: merged blocks that end elsewhere."""
    segment, scale, number = np.arange(46) // 16, 9.0, 20_000
    gaps, rng = np.where(np.equal.outer(segment, segment), 0.1, 1.0), np.random.default_rng(2)
    scores = np.sqrt(0.9) * rng.standard_normal((number, 3))[:, segment]
    scores += np.sqrt(0.1) * rng.standard_normal((number, 46))
    weight = np.exp(np.sqrt(scale) * scores)
    weight /= weight.sum(axis=1, keepdims=True)
    y2, even = np.mean(np.sum(weight**2, axis=1)), np.ones((1, 1, 46))
    sigma = np.full((1, 1), np.sqrt(scale * gaps[~np.eye(46, dtype=bool)].mean()))

    def excess(*joints):
        keys = BlockedKeys(np.ones((1, 46), dtype=int), joints=np.array(joints, dtype=int))
        found = keys(np.array([scale]), gaps[None, None], sigma, even)
        return OneQuery(np.array([46.0]))(sigma * found.shrink)[0].item()

    assert excess(16, 32) == pytest.approx(y2 - 1 / 46, rel=0.03)
    assert excess() > 1.1 * y2


def test_a_flat_kernel_has_no_nearer_keys():
    parts, one = np.array([[1, 3, 12], [2, 0, 40]]), np.ones((1, 2))
    flat = np.full((1, 3, 3), 0.4)
    found = BlockedKeys(parts)(np.array([9.0]), flat, np.sqrt(3.6) * one, np.ones((1, 2, 3)))
    for value, expected in zip(found, (1.0, 0.0, 1.0, 1.0), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6)
    near = np.where(np.eye(3, dtype=bool), 0.2, 0.4)[None]  # control: blocks of near keys
    even = BlockedKeys(np.array([[8, 8, 8]]))
    found = even(np.array([9.0]), near, np.full((1, 1), 1.8), np.ones((1, 1, 3)))
    assert found.near.item() < -0.02


def test_faint_scores_respond_linearly():
    """Near is proportional to the score variance; control: it is not at larger ones."""
    sizes = make_layout(64, 24, singles=8).parts[-1]
    gap = (0.5 * (1 + 0.8 * rise(sizes)))[None]

    def near(scale):
        sigma = np.full((1, 1), np.sqrt(0.5 * scale))
        return BlockedKeys(sizes[None])(
            np.array([scale]), gap, sigma, np.ones((1, 1, sizes.size))
        ).near

    assert (near(0.02) / near(0.01)).item() == pytest.approx(2, rel=1e-6)
    assert (near(8.0) / near(4.0)).item() < 1.8


def test_the_network_of_all_masks():
    """On stacks that it was not fitted to, within the errors that it states.

    Controls: pairs whose gaps are what their keys add, hotter scores, ranges in another order.
    """
    rows, (typical, largest) = build_correlations.samples(range(10**6, 10**6 + 6)), errors()
    found = build_correlations.errors(None, rows)
    assert (found[0] < 1.5 * typical).all()
    assert (found[1] < largest).all()
    wrong = {"apart": 0 * rows["apart"], "sigma": 1.3 * rows["sigma"]}
    wrong["ranges"] = rows["ranges"][:, ::-1]
    for name, value in wrong.items():
        assert build_correlations.errors(None, rows | {name: value})[0, 1] > 5 * found[0, 1]


def by_key(sizes, gaps):
    """Gaps of single keys of some blocks, and the additive part of them by least squares."""
    block, number = np.repeat(np.arange(len(sizes)), sizes), int(np.sum(sizes))
    whole, (i, j) = gaps[np.ix_(block, block)], np.triu_indices(number, 1)
    relative = whole[i, j] / whole[i, j].mean()
    ones = np.zeros((len(i), number))
    ones[np.arange(len(i)), i] = ones[np.arange(len(i)), j] = 1.0
    added = np.linalg.lstsq(ones, relative - 1, rcond=None)[0]
    return relative, added, relative - 1 - ones @ added


def test_gaps_of_keys_in_a_few_numbers():
    """Against least squares over single keys; a control has blocks in another order."""
    sizes, rng = np.array([1, 3, 4, 12]), np.random.default_rng(3)
    gaps = rng.uniform(0.2, 1.0, (4, 4))
    gaps += gaps.T
    relative, added, left = by_key(sizes, gaps)
    found = KeyGaps(sizes[None])(gaps)
    assert found.uneven[0] == pytest.approx(np.sqrt(np.mean(added**2)), rel=1e-9)
    assert found.apart[0] == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-9)
    first, last = np.triu_indices(20, 1)
    late = first >= 10  # both in the last range
    assert ENDS[-2:] == (0.5, 1.0)
    ends, shares = np.triu_indices(len(ENDS))[0].size, found.ranges[0]
    assert shares[ends - 1] == pytest.approx(relative[late].mean(), rel=1e-9)
    early = 20.0 ** (-1 / GROWING) * 20  # both before the last of the ranges that grow
    inside = np.clip(early - np.arange(20), 0, 1)
    weight = (1 - inside)[first] * (1 - inside)[last]
    assert shares[-1] == pytest.approx(np.average(relative, weights=weight), rel=0.02)
    assert abs(shares[-3] / shares[-1] - 1) > 0.04  # control: pairs of the range before
    other = KeyGaps(sizes[None, ::-1])(gaps)
    assert abs(other.apart[0] / found.apart[0] - 1) > 0.05


def test_keys_that_add_up_have_independent_scores():
    place = np.array([0.0, 0.1, 0.4])
    gaps = KeyGaps(np.array([[2, 5, 9], [1, 1, 1]]))
    added = gaps(1 + place[:, None] + place)
    np.testing.assert_allclose(added.apart, 0, atol=1e-7)
    assert (added.uneven > 0.05).all()
    near = gaps(np.abs(place[:, None] - place) + 0.1)  # control
    assert near.apart[0] > 0.05


def test_a_short_fit(monkeypatch):
    """Its errors are below those of independent scores; control: after one step they are not."""
    pytest.importorskip("torch", reason="needs the extra torch")
    rows = build_correlations.samples(range(14, 18))
    monkeypatch.setattr(build_correlations, "HIDDEN", (64, 64))

    def error(steps):
        monkeypatch.setattr(build_correlations, "STEPS", steps)
        return build_correlations.errors(build_correlations.fitted(rows), rows)[0]

    alone = np.sqrt(np.mean((rows["found"] - PLAIN) ** 2, axis=0))
    assert (error(400) < 0.5 * alone).all()
    assert (error(1) > 0.5 * alone).any()


def test_late_keys_of_a_masked_stack():
    """The table answers the kernel of a merging stack; without the slope it misses late queries."""
    spec = ModelSpec(
        depth=5, context=1678, width=1024, heads=8, causal=True, beta=2.3, sigma_v2=1.9,
        sigma_w2=1, rho0=0.3,
    )  # fmt: skip
    stack = build_stack(spec, "position", top=16.0)
    *_, last = stack.steps(stack.initial(spec))
    scores, table = last.attention.scores, stack.place.statistics
    exact = Universal(table.layout, table.head_width)
    weight = last.attention.keys.weight
    given = scores.whole, scores.deficit, scores.std, weight
    late = table.resolved[-2:]
    found, known = (np.asarray(t.correlations(*given).shrink)[..., late] for t in (table, exact))
    assert known.max() > 1.05  # variances of early and late keys differ
    assert np.abs(found - known).max() < 0.05
    assert np.abs(1 - known).max() > 0.05
