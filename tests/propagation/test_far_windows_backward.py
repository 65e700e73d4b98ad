"""Gradients and influence far behind windows, against every position by itself (E25h)."""

from contextlib import contextmanager
from math import comb

import numpy as np
import pytest

import sigprop.propagation.gradients.by_position as backward
from sigprop import ModelSpec, gradients, influence
from sigprop.layers.attention.pair_sums import by_block, of_queries
from sigprop.layers.attention.position_blocks import (
    make_layout,
    shrinking_blocks,
    with_short_distances,
)
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.window_scores import WindowScores
from sigprop.layers.attention.windowed_keys import WindowedKeys
from sigprop.layers.state import Gradient
from sigprop.propagation.gradients.by_position import pulled, resolved_gradients, start_of

WINDOWED = ModelSpec(
    depth=4, context=300, width=1024, heads=16, causal=True, window=16, norm="pre", beta=1.5,
    sigma_v2=2, sigma_w2=1, rho0=0.05,
)  # fmt: skip
STACKS = {
    "window": WINDOWED,
    "rotary, post-norm": WINDOWED.replace(rotary_base=1e4, norm="post", sigma_b2=0.05),
    "alternating": WINDOWED.replace(window=None, pattern=[{"window": 16}, {}]),
    "centred": WINDOWED.replace(attention="centred"),
    "few keys": WINDOWED.replace(window=3, context=80),
    "one key": WINDOWED.replace(window=1, context=80),
    "two windows": WINDOWED.replace(window=None, pattern=[{"window": 8}, {"window": 30}]),
}
WEIGHTS = ("wq", "wk", "wv", "wo", "w1", "w2")


@contextmanager
def every_position():
    """Stacks whose blocks hold one position each."""

    def short(spec, *args, **options):
        every = {"shrinking": None, "resolution": int(spec.context)}
        return made(spec, *args, **(options | every))

    made = backward.stack_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backward, "stack_of", short)
        yield


def largest(spec, start):
    """Largest relative differences of means, and of the shares of eight ranges."""
    found = resolved_gradients(spec, start=start, ranges=8)
    with every_position():
        exact = resolved_gradients(spec, start=start, ranges=8)
    names = ("q", *WEIGHTS)
    rows = [np.asarray(getattr(found, n)) - getattr(exact, n) for n in names]
    with np.errstate(invalid="ignore"):
        means = [row / getattr(exact, n) for n, row in zip(names, rows, strict=True)]
    shares = (one.q_blocks / one.q_blocks.sum(axis=1, keepdims=True) for one in (found, exact))
    return np.nanmax(np.abs(means)), np.abs(np.subtract(*shares)).max()


@pytest.mark.parametrize("start", ["identity", "last"])
@pytest.mark.parametrize("name", STACKS)
def test_as_every_position_by_itself(name, start):
    means, shares = largest(STACKS[name], start)
    assert means < 0.02
    assert shares < 0.003


def test_targets_as_every_position_by_itself():
    ids = np.random.default_rng(1).integers(0, 20, 300)
    means, shares = largest(WINDOWED, ids)
    assert means < 0.02
    assert shares < 0.003


def test_queries_are_ahead_of_their_keys(monkeypatch):
    """Negative control: queries in the place of the keys that they see."""
    exact = WindowedKeys.numbers.func
    monkeypatch.setattr(
        WindowedKeys, "numbers",
        property(lambda keys: exact(keys).sum(axis=2, keepdims=True)
                 * np.eye(len(keys.layout.size))[:, None, keys.window.rows]),
    )  # fmt: skip
    means, shares = largest(WINDOWED, "last")
    assert max(means / 0.02, shares / 0.003) > 3


def test_scores_of_windows_matter(monkeypatch):
    """Negative control: key gradients of windows left out."""

    def none(self, *kernels):
        shape = self._at.layout.number.shape
        return np.zeros(shape[0]), np.zeros(shape)

    monkeypatch.setattr(WindowScores, "keys", none)
    means, _ = largest(WINDOWED, "identity")
    assert means > 0.06


@pytest.mark.parametrize("window", [1, 5, 16, 64])
def test_influence_is_a_sum_over_paths(window):
    tokens, depth, bins = 1100, 5, 11
    spec = ModelSpec(
        depth=depth, context=tokens, causal=True, window=window, norm="none", beta=0, sigma_v2=0.7,
        sigma_w2=0, rho0=0,
    )  # fmt: skip
    apart = np.subtract.outer(np.arange(tokens), np.arange(tokens))
    seen = (apart >= 0) & (apart < window)
    mean, row, exact = seen / seen.sum(axis=1, keepdims=True), np.eye(tokens)[-1], 0.0
    for k in range(depth + 1):
        exact, row = exact + comb(depth, k) * 0.7**k * row**2, row @ mean
    exact = exact.reshape(bins, -1).sum(axis=1)
    np.testing.assert_allclose(influence(spec, bins)[0], exact / exact.sum(), atol=1e-3)


def test_values_keep_the_sum_of_all_entries():
    """Rows of attention sum to one, so that its value path keeps the sum of a gradient kernel."""
    spec = WINDOWED.replace(context=2000, beta=0, norm="none", sigma_v2=1, sigma_w2=0, depth=3)
    found = resolved_gradients(spec)
    total = found.q + 1999 * found.p
    np.testing.assert_allclose(total, [8, 4, 2], rtol=3e-3)
    assert found.q[0] < 6  # the diagonal alone does not


@pytest.mark.parametrize("rotary_base", [None, 1e4])
def test_any_context(rotary_base):
    """Tokens far from both ends are alike, whatever the context."""
    spec = WINDOWED.replace(window=64, rotary_base=rotary_base, depth=3)
    scale = np.sqrt(np.log(2**14) / np.log(2**20))  # of the scores, as at 2^14
    near, far = (
        gradients(spec.replace(context=2**k, beta=beta)) for k, beta in ((14, 2), (20, 2 * scale))
    )
    for name in ("q", *WEIGHTS):
        np.testing.assert_allclose(getattr(far, name), getattr(near, name), rtol=0.03)
    wider = gradients(spec.replace(context=2**14, beta=2, window=128))
    assert np.abs(wider.wq / near.wq - 1).max() > 0.1


def far_layout(context=600, window=16, cuts=()):
    cuts = (*cuts, *(context - shrinking_blocks(window, context)).tolist())
    return with_short_distances(make_layout(context, 48, window, cuts=cuts, far=True), [window])


def test_pairs_are_counted_once():
    for layout in (far_layout(), far_layout(1024, 64), far_layout(500, 3, cuts=(100, 101, 499))):
        tokens = int(layout.edges[-1])
        assert layout.number.sum() == pytest.approx(tokens * (tokens - 1))
        assert layout.number.min() >= 0
    whole = make_layout(64)
    np.testing.assert_array_equal(whole.number, whole.pairs)


def test_kernels_of_queries_are_kernels_of_tokens():
    layout = far_layout()
    rng = np.random.default_rng(0)
    others = rng.uniform(1, 2, layout.number.shape)
    others[:, : len(others)] += others[:, : len(others)].T
    couples = np.zeros(layout.number.shape)
    couples[layout.cells] = 1
    couples[:, : len(others)] += np.triu(couples[:, : len(others)], 1).T
    own, found = by_block(layout, of_queries(layout, Gradient(np.ones((len(others), 1)), others)))
    np.testing.assert_array_equal(own, layout.size)
    np.testing.assert_allclose(found, others * couples)


def test_starts_count_each_pair_once():
    spec = WINDOWED.replace(context=600)
    ids = np.random.default_rng(2).integers(0, 7, 600)
    kernel = (ids[:, None] == ids).astype(float)
    geometry = pulled(spec, "identity").geometry
    assert isinstance(geometry.layout, Layout)
    assert len(geometry.layout.distances)
    for start in (ids, kernel):
        made = start_of(geometry, start)
        whole = np.sum(made.others) + geometry.layout.size @ made.q[:, 0]
        assert whole == pytest.approx(kernel.sum(), rel=0.02)
    np.testing.assert_allclose(start_of(geometry, ids).others, start_of(geometry, kernel).others)
