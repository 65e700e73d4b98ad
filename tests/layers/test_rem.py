"""The random energy model against independent quadrature, exact cases, laws and limits."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigprop.core.errors import DomainError
from sigprop.core.numerics.chebyshev import nodes
from sigprop.layers.attention.statistics import (
    ERROR_BOUND,
    Finite,
    Limit,
    Profile,
    build_table,
    coordinates,
    entropy_deficit,
    entropy_variance,
    excess,
    freezing,
    head_nodes,
    moments,
    overlap,
    participation_variance,
    quadrature,
    spread,
    table,
)
from sigprop.layers.attention.statistics.quadrature import averages, log_grid

MOMENTS = {"y2": "y2", "y3": "y3", "y4": "y4", "y22": "y22", "log_z": "logz", "entropy": "h"}


def two_level(sigma, r=None):
    """T = 2 exactly: the weights are logistic in the difference of two scores."""
    z = np.arange(-12, 12, 0.025)
    weight = np.exp(-(z**2) / 2) * 0.025 / np.sqrt(2 * np.pi)

    def logistic(d):
        return 1 / (1 + np.exp(-d))

    a = logistic(sigma * np.sqrt(2) * z)
    if r is None:
        return {
            "y2": 2 * weight @ a**2,
            "y3": 2 * weight @ a**3,
            "y4": 2 * weight @ a**4,
            "y22": weight @ (a**2 + (1 - a) ** 2) ** 2,
            "entropy": -2 * weight @ (a * np.log(a)),
        }
    second = logistic(sigma * np.sqrt(2) * (r * z[:, None] + np.sqrt(1 - r**2) * z))
    return 2 * weight @ (a[:, None] * second) @ weight


def digits(value):
    """Rounding of a value that is printed with nine significant digits."""
    return 0.5 * 10.0 ** (np.floor(np.log10(abs(value))) - 8)


def test_reference_moments(rem_rows):
    for row in rem_rows:
        found = moments(row["sigma"], row["T"])
        for name, key in MOMENTS.items():
            error = abs(getattr(found, name) - row[key])
            # the file holds nine digits; y22 of the largest sigma carries its own 1e-8
            assert error <= 1e-8 + digits(row[key]), (row["T"], row["sigma"], name, error)


def test_reference_overlaps(rem_rows):
    checked = 0
    for row in rem_rows:
        for r, value in row["o"].items():
            if row["T"] == 2 and row["sigma"] < 0.1:
                continue  # the file is wrong there: see test_reference_error
            assert abs(overlap(row["sigma"], row["T"], float(r)) - value) <= 2e-7
            checked += 1
    assert checked > 80


def test_reference_error(rem_rows):
    """The first row's overlaps are off by 5.7e-7; the exact T = 2 integral proves it."""
    row = rem_rows[0]
    for r, value in row["o"].items():
        exact = two_level(row["sigma"], float(r))
        assert abs(overlap(row["sigma"], 2, float(r)) - exact) < 1e-12
        assert abs(value - exact) > 4e-7


def test_reference_interpolants(rem_rows):
    for row in rem_rows:
        root = np.sqrt(np.log(row["T"]))
        rem = Finite(row["T"])
        b = np.array(row["sigma"] / root)
        assert abs(rem.weights(b, np.array(1.0)).y2 - row["y2"]) <= 1e-6
        assert abs(rem.entropy_ratio(b) - row["h"] / root**2) <= 1e-6
        for r, value in row["o"].items():
            found = rem.weights(b, np.array(1 - float(r)))
            assert abs(found.y2 - found.spread - value) <= 1e-6


@pytest.mark.parametrize("sigma", [0.05, 0.4999, 0.5, 1.0, 3.0])
def test_two_levels(sigma):
    found, exact = moments(sigma, 2), two_level(sigma)
    for name, value in exact.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12)
    for r in (-0.9, -0.2, 0.3, 0.99):
        assert overlap(sigma, 2, r) == pytest.approx(two_level(sigma, r), rel=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 40), st.floats(0.3, 12))
def test_laws(sigma, log_context):
    context = min(np.floor(10**log_context) + 1, 1e12)
    m = moments(sigma, context)
    slack = 1e-12
    assert 1 / context * (1 - slack) <= m.y2 <= 1 + slack
    assert m.y4 <= m.y3 <= m.y2
    assert m.y2**2 * (1 - slack) <= m.y22 <= m.y2 * (1 + slack)
    assert -slack <= m.entropy <= np.log(context) * (1 + slack)
    # Stein's lemma (E8) on an independent integral of log Z for small sigma
    assert m.log_z >= np.log(context) - slack


@settings(deadline=None, max_examples=10)
@given(st.floats(0.01, 15), st.sampled_from([2, 3, 17, 512, 10**6, 10**12]))
def test_overlap_ends(sigma, context):
    assert overlap(sigma, context, 0.0) * context == pytest.approx(1, rel=1e-10)
    y2 = float(moments(sigma, context).y2)
    assert overlap(sigma, context, 1.0) == pytest.approx(y2, rel=1e-10)


def test_free_energy_by_direct_integration():
    """E log Z from its own integral (E8, left) equals Stein's form."""
    for sigma, context in ((0.3, 7), (2.0, 512)):
        rng = np.random.default_rng(7)
        sample = np.log(np.exp(sigma * rng.standard_normal((40_000, context))).sum(axis=1))
        error = sample.std() / 200
        assert abs(sample.mean() - moments(sigma, context).log_z) < 4 * error
        assert abs(sample.mean() - moments(1.1 * sigma, context).log_z) > 4 * error  # control


@pytest.mark.parametrize("sigma", [0.003, 0.02, 0.3, 1.0, 3.0])
def test_variances_of_two_keys(sigma):
    """T = 2 exactly: the weights are logistic in the difference of two scores."""
    z = np.arange(-12, 12, 0.025)
    weight = np.exp(-(z**2) / 2) * 0.025 / np.sqrt(2 * np.pi)
    x = sigma * np.sqrt(2) * z
    y2 = 0.5 * np.tanh(x / 2) ** 2  # over one half
    lost = np.log(2) + x / (1 + np.exp(-x)) - np.logaddexp(0, x)  # log 2 - H
    for found, value, error in (
        (participation_variance(sigma, 2), y2, 1e-4),
        (entropy_variance(sigma, 2), lost, 0.02),
    ):
        exact = weight @ (value - weight @ value) ** 2
        assert found == pytest.approx(exact, rel=error)


@pytest.mark.parametrize(("sigma", "context"), [(1.0, 5), (2.0, 16), (4.0, 16)])
def test_variances_against_sampling(sigma, context):
    x = sigma * np.random.default_rng(8).standard_normal((200_000, context))
    p = np.exp(x)
    p /= p.sum(axis=1, keepdims=True)
    for found, value in (
        (participation_variance(sigma, context), np.sum(p**2, axis=1)),
        (entropy_variance(sigma, context), -np.sum(p * np.log(p), axis=1)),
    ):
        square = (value - value.mean()) ** 2
        error = square.std() / np.sqrt(square.size)
        assert abs(found - square.mean()) < 4 * error + 1e-3 * square.mean()
        assert abs(1.1 * found - square.mean()) > 4 * error  # control


def test_sources_agree_on_uniform_attention():
    """Participation less its excess is 1/T, at infinite context nothing."""
    for rem, even in ((Finite(64), 1 / 64), (Limit(), 0.0)):
        found = rem.weights(2.5, 1.0)
        assert found.y2 - found.excess == pytest.approx(even, abs=1e-15)
        assert rem.even == even


def test_small_sigma():
    s = 1e-4
    assert excess(s, 512) * 512 / s**2 == pytest.approx(1 - 1 / 512, rel=1e-7)
    assert entropy_deficit(s, 512) / s**2 == pytest.approx((1 - 1 / 512) / 2, rel=1e-7)
    both = excess([0.29, 0.31], 64)  # either side of where the formula changes
    assert both == pytest.approx(moments([0.29, 0.31], 64).y2 - 1 / 64, rel=1e-9)
    # Y_2 = e^{s^2}/T for s -> 0 at large T
    assert moments(0.5, 10**9).y2 * 1e9 == pytest.approx(np.exp(0.25), rel=1e-7)


def test_spread_keeps_digits():
    """Near r = 1 the spread is (1 - r) s^2 (Y_2 - 2 Y_3 + Y_22), by Price's theorem."""
    for sigma, context in ((0.2, 5), (2.0, 512), (6.0, 65536)):
        m = moments(sigma, context)
        slope = sigma**2 * (m.y2 - 2 * m.y3 + m.y22)
        for gap in (2.0**-20, 2.0**-40):
            correction = 30 * gap * sigma**2
            found = spread(sigma, context, 1 - gap)
            assert found / gap == pytest.approx(float(slope), rel=1e-10 + correction)


def test_approach_to_the_limit():
    """The limit is approached from above as the context grows, and slowly."""
    b = 2.0
    finite = [float(moments(b * np.sqrt(np.log(t)), t).y2) for t in (512, 10**5, 10**9, 10**12)]
    limit = 1 - freezing(b)
    assert all(a > c > limit for a, c in pairwise(finite))
    assert finite[0] - limit > 0.1 > finite[-1] - limit


@pytest.mark.parametrize("b", [0.5, np.sqrt(2) * (1 - 1e-12), np.sqrt(2), 1.5, 5.0])
def test_limit_branches(b):
    y2 = Limit().weights(np.array(b), np.array(1.0)).y2
    assert y2 == pytest.approx(max(0.0, 1 - np.sqrt(2) / b), abs=1e-12)
    assert Limit().entropy_ratio(np.array(b)) == pytest.approx(max(0.0, 1 - b**2 / 2), abs=1e-12)


def test_interpolants_on_random_points():
    """A fresh sample of the documented domain; the whole survey is `-m slow`."""
    _survey(np.random.default_rng(11), 150)


@pytest.mark.slow
def test_interpolants_survey():
    _survey(np.random.default_rng(12), 6000)


def _survey(rng, count):
    context = np.floor(np.exp(rng.uniform(np.log(2), np.log(2**20), count)))
    context = np.maximum(context, 2)
    b = rng.uniform(0, 6, count) * rng.choice([1, 0.2], count)
    x = rng.uniform(0, 1.3, count) ** rng.choice([1, 3, 8], count)
    x = np.minimum(x, 1 / (1 - 1 / context))
    sigma = b * np.sqrt(np.log(context))
    rem, exact = Finite(context), moments(sigma, context)
    found = rem.weights(b, x)
    assert np.abs(found.y2 - exact.y2).max() < ERROR_BOUND
    assert np.abs(rem.entropy_ratio(b) - exact.entropy / np.log(context)).max() < ERROR_BOUND
    pair = np.array([overlap(*p) for p in zip(sigma, context, 1 - x, strict=True)])
    error = np.abs(found.y2 - found.spread - pair)
    worst = error.argmax()
    assert error[worst] < ERROR_BOUND, (context[worst], b[worst], x[worst])


def test_table_is_the_quadrature_at_its_nodes(monkeypatch, tmp_path):
    """Whatever lies between nodes: the look-up undoes at a node what the command divided out."""
    monkeypatch.setattr(coordinates, "COUNTS", ((2, 2), 3, 3))
    monkeypatch.setattr(coordinates, "COUNTS_1", ((2, 2), 4))
    monkeypatch.setattr(build_table, "ProcessPoolExecutor", ThreadPoolExecutor)
    build_table.build(tmp_path / "few.npz", 1)
    with np.load(tmp_path / "few.npz") as file:
        few = dict(file)
    monkeypatch.setattr(table, "shipped", lambda *names: few)
    for context in np.ravel([coordinates.to_context(nodes(2), part) for part in (0, 1)]):
        rem, root = Finite(context), np.sqrt(np.log(context))
        s = coordinates.to_sigma(nodes(4), context)
        assert rem.weights(s / root, 1.0).excess == pytest.approx(excess(s, context), rel=1e-9)
        deficit = entropy_deficit(s, context)
        assert rem.entropy_deficit(s / root) == pytest.approx(deficit, rel=1e-9)
        for s in coordinates.to_sigma(nodes(3), context):
            x = coordinates.to_gap(nodes(3), s)
            found = rem.weights(s / root, x)
            exact = spread(s, context, 1 - x) / excess(s, context)
            assert found.spread / found.excess == pytest.approx(exact, rel=1e-9)


def test_both_parts_of_the_table_join():
    """At the context that both hold, and for arrays that need both."""
    b, x = np.meshgrid([0.1, 1.0, 3.0, 6.0], [0.05, 0.6, 1.0])
    low, high = (Finite(coordinates.JOINT + step) for step in (0, 1e-3))
    for one, other in zip(low.weights(b, x), high.weights(b, x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    assert not np.array_equal(low.weights(b, x).spread, high.weights(b, x).spread)
    context = np.array([512.0, 2.0**18])
    both = Finite(context).weights(1.0, 0.5)
    alone = [Finite(one).weights(1.0, 0.5) for one in context]
    np.testing.assert_allclose(both.spread, [one.spread for one in alone], rtol=1e-12)


def test_interpolants_fall_back():
    """Outside the domain (context, temperature, correlation) the value is the quadrature's."""
    for context, b, r in ((2**21, 1.0, 0.5), (512, 7.0, 0.5), (2, 1.0, -0.9)):
        sigma = b * np.sqrt(np.log(context))
        found = Finite(context).weights(np.array(b), np.array(1 - r))
        assert found.y2 == pytest.approx(float(moments(sigma, context).y2), rel=1e-10)
        assert found.spread == pytest.approx(float(spread(sigma, context, r)), rel=1e-10)


def test_table_keeps_digits_near_collapse():
    """Its relative error vanishes with s^2: 1e-10 once s < 0.02."""
    for context in (5, 512, 10**5):
        b = 0.02 / np.sqrt(np.log(context))
        for x in (1e-14, 1e-4, 0.5):
            found = Finite(context).weights(np.array(b), np.array(x))
            assert found.spread == pytest.approx(
                float(spread(0.02, context, 1 - x)) * (x / (1 - (1 - x))), rel=1e-10
            )  # 1 - x rounds at x = 1e-14
            assert found.excess == pytest.approx(float(excess(0.02, context)), rel=1e-10)


def test_profile_equals_table():
    rem, top = Finite(512), np.linspace(0, 5, 6)[:, None]
    x = np.geomspace(1e-14, 1.0, 40)
    exact, fast = rem.weights(top * np.sqrt(x), x), Profile(rem, top).weights(x)
    np.testing.assert_allclose(fast.y2, exact.y2, atol=2e-8)
    np.testing.assert_allclose(fast.spread, exact.spread, atol=2e-8, rtol=1e-6)


def test_head_average():
    """E12 against Monte Carlo over chi^2; infinite width recovers the plain value."""
    factor = np.random.default_rng(3).chisquare(8, 40_000) / 8
    b, one = 2.0 / np.sqrt(np.log(64)), np.array(1.0)
    sample = Finite(64).weights(b * np.sqrt(factor), one).y2
    found = Finite(64, 8.0).weights(np.array(b), one).y2
    error = sample.std() / 200
    assert abs(sample.mean() - found) < 4 * error
    assert abs(Finite(64).weights(np.array(b), one).y2 - found) > 4 * error  # control: it matters
    assert head_nodes(1e9)[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: moments(-1, 8), "sigma"),
        (lambda: moments(np.nan, 8), "sigma"),
        (lambda: moments(1, 1), "context"),
        (lambda: moments(1, 1e13), "context"),
        (lambda: overlap(1, 8, 1.1), "r"),
        (lambda: overlap(1, 8, np.nan), "r"),
        (lambda: head_nodes(0.5), "head_width"),
        (lambda: freezing(-1), "b"),
    ],
)
def test_refusals(call, name):
    with pytest.raises(DomainError, match=f"^{name} = "):
        call()


@pytest.mark.parametrize(("sigma", "even"), [(1.5, True), (12.0, False)])
def test_averages_over_scores_are_sums_over_levels(sigma, even):
    """Of Boltzmann factors with the density of the score; control: a score that varies more."""
    s, context = np.array([sigma, 1.1 * sigma]), np.array([512.0, 512.0])
    grid = log_grid(s, context)
    assert (grid.step == quadrature.STEP).all() == even
    smooth, complement = averages(grid, s, (2, 3))
    x = np.arange(-200, 200, 1 / 64)
    with np.errstate(over="ignore"):
        lost, (square, cube) = -np.expm1(-np.exp(x)), np.exp([k * x - np.exp(x) for k in (2, 3)])
    # sums of smooth functions at this step are exact to rounding; tails below 1e-15 are left out
    for own in s:
        z = (x - grid.points[0, ::40, None]) / own
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / own / 64
        same = np.allclose(density @ lost, complement[0, ::40], rtol=1e-9, atol=1e-15)
        for sums, found in zip((square, cube), smooth[0, ::40].T, strict=True):
            assert np.allclose(density @ sums, found, rtol=1e-9, atol=1e-15) == (own == s[0])
        assert same == (own == s[0])
