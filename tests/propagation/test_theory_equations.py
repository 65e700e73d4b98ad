"""Equations as the page of the theory has them, term by term in scalars."""

from itertools import combinations, permutations

import numpy as np
import pytest

from sigprop import ModelSpec
from sigprop.layers.activations import activation
from sigprop.layers.attention.by_distance import DistanceGeometry
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.distance_grid import make_distances, make_field
from sigprop.layers.attention.exchangeable import Exchangeable
from sigprop.layers.attention.key_correlations import _part
from sigprop.layers.attention.key_directions import keys
from sigprop.layers.attention.layer import Attention, Mask
from sigprop.layers.attention.pair_probabilities import Drawn
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.query_statistics import Exact
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics import Finite, excess, participation_variance
from sigprop.layers.attention.statistics.two_queries import head_pairs
from sigprop.layers.attention.statistics.unequal_lengths import queries, shared_excess
from sigprop.layers.fluctuation import Fluctuation
from sigprop.layers.interface import Place, Spread
from sigprop.layers.mlp import Mlp
from sigprop.layers.residual import Residual, Sublayer
from sigprop.layers.state import Gradient, State
from sigprop.propagation.positional import _common, _of_heads, _own_y2

T, BETA, VALUE, BIAS = 5, 1.3, 0.7, 0.1
TOKENS = range(T)


@pytest.fixture(scope="module")
def kernel():
    x = np.random.default_rng(3).normal(size=(T, 4)) + 0.8
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def scores_of(kernel, **changes):
    layout = make_layout(T)
    layer = Attention(beta=BETA, sigma_v2=VALUE, context=T, mask=Mask(), **changes)
    found = PositionGeometry(layout).scores(layer, State(1.0, 1 - kernel))
    return layout, found


def mean_gap(gap, keys):
    return np.mean([gap[pair] for pair in permutations(keys, 2)])


def couples(layout):
    """Index of the couple of each pair of different positions t < t', which are blocks of one."""
    position = layout.queries.position
    found = {}
    for n, (i, j) in enumerate(zip(*layout.couples, strict=True)):
        found[int(position[i]) - 1, int(position[j]) - 1] = n, i, j
    return {pair: found[pair] for pair in combinations(TOKENS, 2)}


def test_scores_by_position(kernel):
    """E25c."""
    gap, (_, found) = 1 - kernel, scores_of(kernel)
    for t in range(1, T):
        keys = range(t + 1)
        m = mean_gap(gap, keys)
        assert found.std[t] == pytest.approx(BETA * np.sqrt(np.log(T) * m), rel=1e-12)
        own = [np.mean([gap[s, other] for other in keys if other != s]) for s in keys]
        expected = np.maximum(2 * np.array(own) / m - 1, 0)
        np.testing.assert_allclose(found.key_variance[t, : t + 1], expected, rtol=1e-12)


@pytest.mark.parametrize("base", [None, 10.0])
def test_correlation_of_two_queries(kernel, base):
    """E25d, and E25r with heads of 8 features."""
    changes = {} if base is None else {"rotation": Rotation(base), "width": 8}
    layout, found = scores_of(kernel, **changes)
    omega = np.zeros(1) if base is None else base ** (-2 * np.arange(4) / 8)
    distance = np.subtract.outer(TOKENS, TOKENS)
    rotated = [1 - kernel * np.cos(w * distance) for w in omega]
    for (t, later), (n, _, _) in couples(layout).items():
        if t == 0:
            continue  # one key has no scores
        first, second = (
            np.array([mean_gap(gap, range(end + 1)) for gap in rotated]) for end in (t, later)
        )
        phase = np.cos(omega * (later - t))
        expected = kernel[t, later] * np.mean(first * phase)
        expected /= np.sqrt(np.mean(first) * np.mean(second))
        assert found.correlation[n] == pytest.approx(np.clip(expected, -1, 1), abs=1e-12)


def test_overlap_and_map(kernel):
    """E25d to E25f, from the mean weights and the numbers of E25e that were found."""
    layout, scores = scores_of(kernel)
    found, gap = Exact(layout)(scores), 1 - kernel
    count = np.arange(1, T + 1)
    w = found.keys.weight[:T] / count[:, None] * np.tri(T)
    np.testing.assert_allclose(w.sum(axis=1), 1, rtol=1e-12)
    y2, nu = found.y2[:T], 1 + found.near[:T]

    def mean(t, later):
        product = np.outer(w[t], w[later]) * (1 - np.eye(T))
        return np.sum(product * gap) / np.sum(product) if np.sum(product) else 0.0

    known = Exact(layout).correlations(scores.whole, scores.deficit, scores.std, found.keys.weight)
    zeta, loss = known.shrink, known.loss
    own = queries(np.maximum(zeta * scores.std, 0.01), layout.queries.count)
    alone = [
        Finite(t + 1).entropy_deficit(scores.std[t] / np.log(t + 1) ** 0.5) for t in range(2, T)
    ]
    lost = loss[2:T] * np.array(alone)
    np.testing.assert_allclose(np.log(count[2:]) - found.entropy[2:T], lost, rtol=1e-4)
    excess = shared_excess(own, *layout.couples, layout.common, scores.correlation)
    expected = np.eye(T)
    for t in TOKENS:
        expected[t, t] = 1 - (1 - y2[t]) * nu[t] * mean(t, t)
    for (t, later), (n, _, _) in couples(layout).items():
        even, shared = 1 / count[later], excess[n]
        most = np.sqrt((y2[t] - 1 / count[t]) * (y2[later] - even))
        f = np.clip(shared / most, 0, 1) if most else 0.0
        overlap = even + shared + (1 - f) * (w[t] @ w[later] - even)
        assert found.overlap[n] == pytest.approx(overlap, abs=1e-12)
        both = 1 + f * (np.sqrt(nu[t] * nu[later]) - 1)
        expected[t, later] = expected[later, t] = 1 - (1 - overlap) * mean(t, later) * both
    out = PositionGeometry(layout).mix(State(1.0, gap), found, VALUE, BIAS, False)
    apart = ~np.eye(T, dtype=bool)  # a block of one token has no pair
    np.testing.assert_allclose(out.q[:, 0], VALUE * np.diag(expected) + BIAS, rtol=1e-12)
    pairs = ((out.q + out.q.T) / 2 - out.gap)[apart]
    np.testing.assert_allclose(pairs, VALUE * expected[apart] + BIAS, rtol=1e-12)
    assert np.ptp(nu) > 0.01  # each of the three counts in this kernel
    assert np.ptp(w[T - 1]) > 0.01
    assert np.min(zeta[2:T]) < 0.99
    assert np.ptp(loss[2:T]) > 0.01


def test_rotary_positions_by_distance():
    """E9r and E10r on three tokens, whose distances are groups of one, with heads of 4 features."""
    q, near, base = 1.0, np.array([0.6, 0.25]), 30.0  # K at distances 1 and 2
    omega, spread = base ** (-2 * np.arange(2) / 4), {1: 2 / 3, 2: 1 / 3}  # of the pairs
    layer = Attention(beta=BETA, sigma_v2=VALUE, context=3, rotation=Rotation(base), width=4)
    geometry = DistanceGeometry(make_distances(3, Rotation(base), 4), 3)
    found = geometry.scores(layer, State(q, q - near))

    def kappa(distance):
        return np.mean(np.cos(omega * distance))

    def mean(function):
        return sum(p * near[d - 1] * (function(d) + function(-d)) / 2 for d, p in spread.items())

    level = q - mean(kappa)
    assert found.std == pytest.approx(BETA * np.sqrt(np.log(3) * q * level), rel=1e-12)
    for distance in spread:
        r = (
            near[distance - 1]
            / q
            * (q * kappa(distance) - mean(lambda d, D=distance: kappa(D - d)))
        )
        one = Finite(3).weights(BETA * np.sqrt(q * level), 1 - r / level)
        f = (one.y2 - one.spread - 1 / 3) / (one.y2 - 1 / 3)
        assert found.common[distance - 1] == pytest.approx(f, rel=1e-9)

    drawn = Drawn(geometry.distances, make_field(3, Rotation(base), 4))(found)
    out = geometry.mix(State(q, q - near), drawn, VALUE, BIAS, False)
    uniform = np.array([3, 4, 2]) / 9
    probability = uniform + drawn.excess
    s, s0 = (p @ np.append(q, near) for p in (probability, uniform))
    assert out.q == pytest.approx(VALUE * s + BIAS, rel=1e-12)
    np.testing.assert_allclose(out.gap, VALUE * (1 - found.common) * (s - s0), rtol=1e-12)


def test_gradients_of_attention():
    """E22b, E23 and E24 at infinite width, where the hat changes nothing."""
    t, q, gap, sigma_v2, sigma_o2, q_g, p_g = 32, 1.0, 0.6, 0.7, 1.4, 1.0, 0.02
    rem = Finite(t)
    layer = Attention(beta=BETA, sigma_v2=sigma_v2, sigma_o2=sigma_o2, context=t)
    out, weights = layer.backward(
        State(q, gap), Gradient(q_g, (t - 1) * p_g), Place(Exchangeable(t), rem), Spread()
    )
    p, value, sigma4 = q - gap, sigma_v2 * sigma_o2, BETA**2 * np.log(t)
    b, x = BETA * np.sqrt(q * gap), gap / q
    y2, overlap = rem.weights(b, x).y2, rem.weights(b, x).y2 - rem.weights(b, x).spread
    own, cross = rem.response(b, x)
    keys = sigma4 * value * gap * (q * own * q_g + (t - 1) * p * cross * p_g)
    wanted_q = value * (y2 * q_g + (t - 1) * overlap * p_g)
    wanted_q += sigma4 * value * gap**2 * own * q_g + keys
    wanted_p = value * ((1 - y2) / (t - 1) * q_g + (1 - overlap) * p_g)
    wanted_p += sigma4 * value * gap**2 * cross * p_g - keys / (t - 1)
    assert out.q == pytest.approx(wanted_q, rel=1e-12)
    assert out.others / (t - 1) == pytest.approx(wanted_p, rel=1e-12)
    score = np.sqrt(sigma4) * value * gap**2 * (q * own * q_g + (t - 1) * p * cross * p_g)
    read = p * (q_g + (t - 1) * p_g) + gap * (y2 * q_g + (t - 1) * overlap * p_g)
    assert weights["wq"] == pytest.approx(score, rel=1e-12)
    assert weights["wk"] == pytest.approx(score, rel=1e-12)
    assert weights["wv"] == pytest.approx(sigma_o2 * read, rel=1e-12)


def test_noise_of_a_sublayer_of_attention():
    """E26a, E26b and E26d-E26f of one network state, with heads that share values."""
    t, d, heads, shared, alpha, kappa = 48, 96, 4, 2, 0.8, 3.0
    q, gap = 1.0, 0.6
    layer = Attention(
        beta=BETA, sigma_v2=VALUE, context=t, width=d, heads=heads, heads_per_key=shared
    )
    rem = Finite(t, d / heads)
    place = Place(Exchangeable(t), rem)
    law = Fluctuation(np.log([q, gap]), np.zeros((2, 2)), kappa)
    found = Residual(alpha, (Sublayer(None, layer),), d).noise(law, place)

    out, wide = layer.forward(State(q, gap), place).kernel, Finite(t)
    common = [q - gap * (1 - 1 / t), out.q - out.gap * (1 - 1 / t)]
    skip, p_f, gap_f = alpha**2 * gap, common[1], out.gap
    cov = np.diag(
        [
            (2 * p_f**2 + 4 * alpha**2 * common[0] * p_f + 2 * p_f**2 * shared) / d,
            (4 * gap_f**2 + 4 * skip * gap_f) / (d * t) + kappa * 4 * gap_f**2 / d**2,
        ]
    )
    rho, s = 1 - gap / q, BETA * np.sqrt(np.log(t) * q * gap)
    step, b = 1e-4, BETA * np.sqrt(q * gap)
    low, high = (wide.weights(b * np.exp(k * step / 2), gap / q) for k in (-1, 1))
    slopes = [
        (one - other) / (2 * step)
        for one, other in ((high.y2 - high.spread, low.y2 - low.spread), (high.spread, low.spread))
    ]  # in log s^2, of O and of Y_2 - O
    heat = 2 * (heads / d + 1 / d)
    rates = VALUE * gap * np.array(slopes)
    cov += rho**2 * heat * np.outer(rates, rates) / heads
    disorder, own = participation_variance(s, t), heat * sum(slopes) ** 2
    y = disorder + own

    def alike(rho):
        """Average of f^2 over two queries of a head, at its nodes."""
        x, other, r, weight = head_pairs(d / heads, rho)
        found = wide.weights(b * (x * other) ** 0.25, np.minimum(1 - r, 1.3))
        return weight @ (1 - found.spread / found.excess) ** 2

    one, other = alike(rho), alike(0.0)
    kept = disorder * (one + (1 - one) / t + (shared - 1) * other) + own * (1 - rho**2) / t
    cov[1, 1] += (VALUE * gap) ** 2 * kept / heads
    level, apart = np.exp(found.mean + np.diag(found.cov) / 2)  # the centre, without noise
    change = np.array([[1 / level, 1 / level], [0, 1 / apart]])
    np.testing.assert_allclose(found.cov, change @ cov @ change.T, rtol=1e-6)

    traces = keys(layer, kappa).traces(s, t, rho, 0.0)
    own = rem.weights(b, gap / q)
    pulled = own.spread * traces.kept / own.y2 + (1 - rho) * traces.drift
    assert apart == pytest.approx(skip + VALUE * gap * pulled, rel=1e-12)
    assert level == pytest.approx(alpha**2 * q + VALUE * (q - gap + gap * traces.mean), rel=1e-12)

    crowded = 2 * gap_f**2 + 2 * skip * gap_f + kappa * (skip**2 + gap_f**2)
    assert found.crowding == pytest.approx(crowded / (skip + gap_f) ** 2, rel=1e-12)
    along = 2 * (2 * p_f * gap_f + alpha**2 * (common[0] * gap_f + gap * p_f)) / d
    own = 2 * along + (4 * gap_f**2 + 4 * skip * gap_f) / d + (VALUE * gap) ** 2 * y / heads
    np.testing.assert_allclose(found.tokens * np.exp(2 * found.mean[0]), [own, along], rtol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_pair_overlaps_pass_an_mlp_by_the_slope_of_its_dual(gated):
    """E26f: what depends on kappa, against the derivative of the map; their quotient fails."""
    alpha, d, read = 0.7, 96, State(1.0, 0.9)
    mlp = Mlp(activation("silu"), 1.0, 1.5, gated=gated, width=d)
    place = Place(Exchangeable(64), None)

    def crowding(kappa):
        law = Fluctuation(np.log([read.q, read.gap]), np.zeros((2, 2)), kappa)
        return Residual(alpha, (Sublayer(None, mlp),), d).noise(law, place).crowding

    step = 1e-5
    low, high = (float(mlp.at(State(1.0, read.gap * (1 + k * step))).gap) for k in (-1, 1))
    gap, skip = float(mlp.at(read).gap), alpha**2 * read.gap
    slope = (high - low) / (2 * step)
    found = (crowding(3.0) - crowding(1.0)) / 2
    assert found == pytest.approx(((skip + slope) / (skip + gap)) ** 2, rel=1e-6)
    assert slope < (0.5 if gated else 0.9) * gap


def test_noise_of_a_sublayer_of_linear_units():
    """E26a-E26c and E26f where a unit is linear: v is one number, and its moments are normal."""
    t, d, ratio, alpha, kappa, q, gap = 48, 96, 2.0, 0.8, 3.0, 1.0, 0.6
    place = Place(Exchangeable(t), Finite(t))
    mlp = Mlp(activation("linear"), 1.2, 0.5, width=d, ratio=ratio)
    law = Fluctuation(np.log([q, gap]), np.zeros((2, 2)), kappa)
    found = Residual(alpha, (Sublayer(None, mlp),), d).noise(law, place)

    gain, units = 1.2 * 0.5, ratio * d
    p, skip, gap_f = q - gap * (1 - 1 / t), alpha**2 * gap, gain * gap
    p_f, wide = gain * p, skip + gap_f
    var_p = (2 * p_f**2 + 4 * alpha**2 * p * p_f) / d + 2 * p_f**2 / units
    var_gap = (2 * gap_f**2 + 4 * skip * gap_f) * (1 / t + kappa / d) / d
    var_gap += 2 * gap_f**2 / t / units
    level = alpha**2 * q + gain * q
    change = np.array([[1 / level, 1 / level], [0, 1 / wide]])
    exact = change @ np.diag([var_p, var_gap]) @ change.T
    np.testing.assert_allclose(found.cov, exact, rtol=1e-9)

    crowded = gap_f**2 + 2 * skip * gap_f + (gap_f**2 + 2 * gap_f**2 / t) / ratio + kappa * wide**2
    assert found.crowding == pytest.approx(crowded / wide**2, rel=1e-9)
    along = 2 * (p_f * gap_f + alpha**2 * (p * gap_f + gap * p_f)) / d
    own = 2 * along + (2 * gap_f**2 + 4 * skip * gap_f) / d
    m2 = gain * (q - gap)  # E m^2
    own += (4 * m2 * gap_f + 2 * gap_f**2) / units
    along += 2 * m2 * gap_f / units
    np.testing.assert_allclose(found.tokens * np.exp(2 * found.mean[0]), [own, along], rtol=1e-9)


def test_participation_varies_with_keys_that_queries_share():
    """E26h, with the temperature of heads: variance of the mean over tokens and heads."""
    layout, rng, heads, d, rho, step = make_layout(T), np.random.default_rng(2), 2, 16, 0.3, 1e-3
    spec = ModelSpec(
        depth=1, context=T, causal=True, width=d, heads=heads, beta=1, sigma_v2=1, sigma_w2=1,
        rho0=rho,
    )  # fmt: skip
    s, joint = rng.uniform(0.5, 2, T), np.full((T, T), 0.02)
    rest = np.array([0.0, *(float(excess(s[t], t + 1)) for t in range(1, T))])
    seen = {"score_std": s, "excess": rest, "joint": joint}
    heat = 2 * heads / d + 2 / d
    slope, own = np.zeros(T), np.zeros(T)
    for t in range(1, T):
        low, high = (float(excess(s[t] * np.exp(k * step / 2), t + 1)) for k in (-1, 1))
        slope[t] = (high - low) / (2 * step)  # in log s^2
        own[t] = participation_variance(s[t], t + 1)
    temperature = rho**2 * np.sum(slope) ** 2 + (1 - rho**2) * np.sum(slope**2)
    total, vary = np.sum(own) + heat * temperature, _of_heads(spec, np.sum(s[1:]) / T, rho)[0]
    for t, later in permutations(range(1, T), 2):
        share = (min(t, later) + 1) / np.sqrt((t + 1) * (later + 1))
        phi = joint[t, later] ** 2 / (rest[t] * rest[later]) / share + vary * share
        total += np.sqrt(own[t] * own[later]) * min(phi, 1.0)
    found = _own_y2(spec, layout, seen, rho)
    assert found == pytest.approx(total / heads / T**2, rel=1e-5)


def test_direction_in_which_networks_differ():
    """The squared norm of the mean of T tokens, of each block alone, over the largest."""
    t, deficits = 7, np.array([0.9, 0.2, 1.1, 1 + 1 / 6])
    means = [np.mean(1 - x * (1 - np.eye(t))) for x in deficits]
    assert means[3] == pytest.approx(0, abs=1e-12)  # tokens that sum to zero
    assert _common(deficits, t) == pytest.approx(np.array(means) / max(means), abs=1e-8)


@pytest.mark.parametrize(
    ("slope", "part"), [(-1.0, 0.0), (0.0, 0.0), (0.4, 0.4), (1.0, 1.0), (2.0, 1.0)]
)
def test_part_of_the_deviations_of_weights(slope, part):
    """Least squares over keys, between none and all."""
    more, sizes = np.array([0.3, -0.2, 0.1]), np.array([1, 2, 1])
    rest = np.array([1.0, 1.0, 1.0])  # orthogonal to `more` over keys
    assert sizes @ (rest * more) == pytest.approx(0)
    assert _part(slope * more + 0.1 * rest, more, sizes) == pytest.approx(part)
