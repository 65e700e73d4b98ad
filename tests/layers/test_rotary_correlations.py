"""Correlated scores under rotary positions, looked up: limits, draws, the fit, long contexts."""

import numpy as np
import pytest

from sigprop import ModelSpec, gradients, propagate
from sigprop.layers.attention import build_rotary
from sigprop.layers.attention.correlation_table import (
    RotaryCorrelations,
    covers,
    errors,
    from_base,
    from_width,
)
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.query_statistics import Exact
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.rotated_gaps import RotatedGaps
from sigprop.layers.attention.rotation import Rotation

ONE = np.ones((1, 1))


def test_independent_scores_are_an_exact_limit():
    rng = np.random.default_rng(4)
    for width in (8, 64, 100.0, None):
        count, base = np.exp(rng.uniform(1.2, 13)), np.exp(rng.uniform(3.5, 20))
        table = RotaryCorrelations(np.array([count]), Rotation(base), width)
        assert table(rng.uniform(0.1, 20) * ONE, ONE, 0 * ONE).ravel() == pytest.approx(
            [1, 0, 1, 1], abs=1e-5
        )
        assert table(1e-4 * ONE, 0.3 * ONE, ONE)[0, 0, 0] == pytest.approx(1, abs=1e-6)


def test_against_draws():
    """Fields of draws of other seeds than those of the fit; their shares shuffled are not it."""
    off, wrong = [], []
    for field in range(12):
        rows = np.array([*build_rotary.points_of(5, field, 1500.0)])
        rows = rows[np.isfinite(rows[:, 6]) & (rows[:, 3] < 8)]
        width, base, count = rows[0, :3]
        rotation = Rotation(1 / np.interp(base, (-1, 1), 1 / np.log([1e9, 30])))
        rotation = Rotation(np.exp(rotation.base))
        head = None if width == -1 else 16 / (width + 1)
        table = RotaryCorrelations(np.array([count]), rotation, head)
        assert from_base(rotation.base) == pytest.approx(base)
        assert from_width(head) == pytest.approx(width)
        s, share, tilt = rows[:, 3:6].T[..., None]
        off.append(table(s, share, tilt)[:2, :, 0].T - rows[:, 6:8])
        wrong.append(table(s, share[::-1], tilt)[:2, :, 0].T - rows[:, 6:8])
    off, wrong = (np.sqrt(np.mean(np.concatenate(v) ** 2, axis=0)) for v in (off, wrong))
    assert (off < 1.5 * errors(rotated=True)[0, :2]).all()
    assert wrong[0] > 4 * errors(rotated=True)[0, 0]


def test_the_fit_finds_a_polynomial_again():
    """Noise apart, least squares return what the points were made of, and its exact limit."""
    rng = np.random.default_rng(2)
    place = rng.uniform(-1, 1, (4000, 2))
    count, s = 3 * (2**17 / 3) ** rng.uniform(size=4000), 16 * rng.uniform(size=4000) + 0.2
    share, tilt = rng.uniform(size=(2, 4000))
    value = (1 - share) * (0.3 + 0.2 * place[:, 0]) * (1 + share) + 0.1 * tilt * place[:, 1]
    rows = np.column_stack([place, count, s, share, tilt, 1 - value, value, 1 + 0 * value,
                            1 + value, np.full(4000, 128.0), np.arange(4000)])  # fmt: skip
    table = build_rotary.fitted(rows)
    assert build_rotary.at(table, rows[:200]) == pytest.approx(rows[:200, 6:10], abs=1e-5)
    alone = rows[:50].copy()
    alone[:, 4:6] = 1, 0
    assert build_rotary.at(table, alone) == pytest.approx(
        np.broadcast_to([1, 0, 1, 1], (50, 4)), abs=1e-12
    )


def test_draws_where_no_table_holds():
    """Other bases, narrow heads, and kernels that are not smooth are drawn as in `Exact`."""
    layout, deficit = make_layout(12), np.full((12, 12), 0.4)
    gaps = RotatedGaps(layout, Rotation(1e4).frequencies(64)).own(deficit, 1.0).mean(axis=0)
    scores = np.full(1, 4.0), deficit, 2 * np.sqrt(gaps), np.ones((12, 12))
    for rotation, width, smooth in ((1e4, 4.0, True), (5.0, 64.0, True), (1e4, 64.0, False)):
        turn = Rotation(rotation)
        found = Universal(layout, width, turn, smooth).correlations(*scores)
        assert np.array_equal(found, Exact(layout, width, turn, smooth).correlations(*scores))
        assert not smooth or not covers(turn, width)
    found = Universal(layout, 64.0, Rotation(1e4)).correlations(*scores)
    drawn = Exact(layout, 64.0, Rotation(1e4)).correlations(*scores)
    assert 0 < np.abs(found.shrink - drawn.shrink).max() < 0.03


def test_a_million_rotated_tokens():
    """Positions and gradients at any context, without a step where the table of keys ends."""
    spec = ModelSpec(
        depth=3, context=2**20, width=1024, heads=16, kv_heads=4, causal=True, norm="pre",
        rotary_base=5e5, beta=1.5, sigma_v2=1, sigma_w2=1, rho0=0.1,
    )  # fmt: skip
    short, next_, long = (propagate(spec.replace(context=t)) for t in (2**17, 2**17 + 999, 2**20))
    assert 1e-6 < np.abs(next_.rho - short.rho).max() < 1e-4
    assert 1e-3 < np.abs(long.rho - short.rho).max() < 1e-2  # the scale of scores grows as log T
    assert (long.entropy > short.entropy + 0.15).all()
    assert np.isfinite(gradients(spec).wq).all()
