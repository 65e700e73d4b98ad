"""Two queries of one head of finite width (E12b): Wishart moments, drawn heads, limits."""

import numpy as np
import pytest

from sigprop.layers.attention.statistics import Finite, build_heads
from sigprop.layers.attention.statistics.heads import errors, lost, rows_of
from sigprop.layers.attention.statistics.two_queries import head_pairs

WIDTHS = [1, 2, 3, 8, 16.5, 64]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("r", [-0.2, 0.0, 0.7, 1.0])
def test_moments_of_the_gram_matrix(width, r):
    """E x = 1, E c = r, E x x' = 1 + 2 r^2/n, E c^2 = r^2 + (1 + r^2)/n of a Wishart matrix."""
    x, y, corr, weight = head_pairs(width, r, norms=4, cosines=3)
    covariance = corr * np.sqrt(x * y)
    assert weight.sum() == pytest.approx(1)
    assert weight @ x == pytest.approx(1)
    assert weight @ y == pytest.approx(1)
    assert weight @ covariance == pytest.approx(r, abs=1e-12)
    assert weight @ (x * y) == pytest.approx(1 + 2 * r**2 / width)
    assert weight @ covariance**2 == pytest.approx(r**2 + (1 + r**2) / width)
    assert np.all((x >= 0) & (y >= 0) & (np.abs(corr) <= 1))


def test_two_queries_of_one_component_are_parallel():
    x, y, corr, weight = head_pairs(1, 0.3, norms=6, cosines=4)
    seen = (weight > 0) & (x * y > 1e-12)
    assert np.abs(corr[seen]) == pytest.approx(1)


def drawn_overlap(rng, sigma, context, rho, width, draws=20_000):
    """Mean overlap of two queries of a head with scores of keys that are orthogonal."""
    total, square = 0.0, 0.0
    for _ in range(10):
        size = draws // 10
        common, one, two = rng.standard_normal((3, size, width))
        q, p = (np.sqrt(rho) * common + np.sqrt(1 - rho) * own for own in (one, two))
        a, b, c = np.sum([q * q, p * p, q * p], axis=-1) / width
        z, rest = rng.standard_normal((2, size, context))
        scores = np.sqrt(a)[:, None] * z
        other = (c / np.sqrt(a))[:, None] * z + np.sqrt(np.maximum(b - c**2 / a, 0))[:, None] * rest
        rows = [np.exp(sigma * (s - s.max(axis=1, keepdims=True))) for s in (scores, other)]
        rows = [row / row.sum(axis=1, keepdims=True) for row in rows]
        found = np.sum(rows[0] * rows[1], axis=1)
        total, square = total + found.sum(), square + np.sum(found**2)
    mean = total / draws
    return mean, np.sqrt((square / draws - mean**2) / draws)


@pytest.mark.parametrize(
    ("context", "width", "beta", "rho"),
    [
        (128, 16, 2.0, 0.0),
        (128, 16, 2.0, 0.3),
        (64, 4, 1.5, 0.1),
        (128, 32, 4.0, 0.6),
        (32, 1, 1.0, 0.2),
    ],
)
def test_overlap_of_drawn_heads(context, width, beta, rho):
    """Against two queries drawn in a head; the correlation rho for every head fails."""
    b = beta * np.sqrt(1 - rho)
    sigma = b * np.sqrt(np.log(context))
    mean, se = drawn_overlap(np.random.default_rng(1), sigma, context, rho, width)
    weights = Finite(context, width).weights(b, 1 - rho)
    assert abs(weights.y2 - weights.spread - mean) < 4 * se + 0.005 * mean
    wide = Finite(context).weights(b, 1 - rho)
    share = weights.excess / wide.excess
    assert abs(1 / context + share * (wide.excess - wide.spread) - mean) > 6 * se


def test_overlap_of_single_layers():
    """Measured on networks: theory.md 2c; the two narrow heads fail with r = rho."""
    measured = (
        (128, 16, 0.0, 0.0151, 0.0001),
        (128, 16, 0.3, 0.0405, 0.0018),
        (4096, 64, 0.3, 0.0057, 0.0005),
    )
    for context, width, rho, mean, se in measured:
        found = Finite(context, width).weights(2 * np.sqrt(1 - rho), 1 - rho)
        assert abs(found.y2 - found.spread - mean) <= 2 * se + 0.01 * mean


def test_a_wide_head_is_one_of_infinite_width():
    b, x = np.array([0.1, 1.0, 3.0])[:, None], np.array([0.01, 0.5, 1.0])
    wide, narrow = Finite(512).weights(b, x), Finite(512, 1e6).weights(b, x)
    assert narrow.spread == pytest.approx(wide.spread, rel=1e-4)
    half = [Finite(512, width).weights(1.0, 0.7).spread for width in (200.0, 400.0)]
    gain = [float(v / Finite(512).weights(1.0, 0.7).spread) - 1 for v in half]
    assert gain[0] / gain[1] == pytest.approx(2, rel=0.05)  # of first order in 1/d_h


def test_the_table_errs_as_its_file_says():
    """Random couples against the quadrature that made the table; no table is wrong by more."""
    rng, found, lost_all = np.random.default_rng(31), [], []
    for _ in range(3):
        width, s, gap = 2 ** rng.uniform(3, 7), rng.uniform(0.2, 8.0), rng.uniform(0.01, 1.0)
        keys = np.array([rng.uniform(8, 2000)])
        later = keys[:, None] * np.array([1.0, 2.0])
        one, two = build_heads.excess_of(keys[:, None]), build_heads.excess_of(later)
        finite, infinite = build_heads.shares(s, gap, width, keys, later, one, two)
        exact = np.log(infinite / finite).ravel()
        rows = rows_of(width, np.repeat(keys, 2), later.ravel())
        found.extend(np.abs(lost(rows, np.full(2, s), np.full(2, gap), width) - exact))
        lost_all.extend(exact)
    assert max(found) <= 2 * errors()[1]
    assert np.mean(np.abs(lost_all)) > 3 * np.mean(found)  # control: no table at all


def test_nothing_is_lost_without_scores():
    rows = rows_of(16, np.array([8.0, 64.0]), np.array([64.0, 64.0]))
    assert np.all(lost(rows, np.zeros(2), np.array([0.3, 1.0]), 16) == 0)
    small = lost(rows, np.full(2, 1e-3), np.full(2, 0.5), 16)
    assert np.all(np.abs(small) < 1e-6)
