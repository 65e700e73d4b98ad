"""Mean weights and gaps on blocks of positions, against every position by itself (E25c)."""

import numpy as np
import pytest

from sigprop.layers.attention.block_means import BlockMeans
from sigprop.layers.attention.key_weights import KeyWeights, normalised_weights
from sigprop.layers.attention.position_blocks import make_layout

TOKENS = 359


def weights(place):
    """Those of keys that stand apart, early and late."""
    return 1 + 0.8 * (place - 4) ** 2 / 4


def gaps(one, other):
    """A kernel with a kink on the diagonal, that falls with the position."""
    return (0.2 + np.abs(one - other)) * np.exp(-(one + other) / 8)


def on_blocks(smooth):
    """Means over keys on blocks, and at the same queries with every position by itself."""
    layout = make_layout(TOKENS, 32, singles=4)
    place, first = np.log(np.arange(1.0, TOKENS + 1)), layout.edges[:-1]
    whole = gaps(place[:, None], place)
    np.fill_diagonal(whole, 0.0)
    sums = np.add.reduceat(np.add.reduceat(whole, first, axis=0), first, axis=1)
    kernel = np.divide(sums, layout.pairs, out=np.zeros_like(sums), where=layout.pairs > 0)
    mean = np.add.reduceat(weights(place), first) / layout.size
    blocks = BlockMeans(layout) if smooth else None
    keys = normalised_weights(layout, np.tile(mean, (len(layout.seen), 1)), blocks)
    every = make_layout(TOKENS, TOKENS)
    exact = normalised_weights(every, np.tile(weights(place), (TOKENS, 1)))
    odd = np.flatnonzero((layout.size % 2 == 1) & (layout.size > 4))  # a token stands at the centre
    return layout, keys, kernel, exact, whole, odd, layout.centres.count[odd].astype(int) - 1


@pytest.mark.parametrize("part", ["means of a query", "means of two", "squares", "products"])
def test_weights_vary_within_blocks(part):
    """Control: weights that are alike in a block."""
    off = []
    for smooth in (True, False):
        layout, keys, kernel, exact, whole, odd, token = on_blocks(smooth)
        (i, j), (a, b) = layout.couples, exact.layout.couples
        place = {(x, y): n for n, (x, y) in enumerate(zip(i.tolist(), j.tolist(), strict=True))}
        rows = {(x, y): n for n, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True))}
        couples = [(x, y) for x, y in np.ndindex(2 * odd.shape) if odd[y] > odd[x] + 2]
        here = [place[odd[x], odd[y]] for x, y in couples]
        there = [rows[token[x], token[y]] for x, y in couples]
        if part == "means of a query":
            found, wanted = keys.means(kernel)[0][odd], exact.means(whole)[0][token]
        elif part == "means of two":
            found, wanted = keys.means(kernel)[1][here], exact.means(whole)[1][there]
        elif part == "squares":
            found, wanted = keys.squares[odd], exact.squares[token]
        else:
            found, wanted = keys.products[here], exact.products[there]
        off.append(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    assert off[0] < off[1] / 5


def test_means_of_a_constant_are_the_constant():
    layout, keys, *_ = on_blocks(smooth=True)
    own, between = keys.means(np.where(layout.pairs > 0, 0.3, 0.0))
    np.testing.assert_allclose(own[layout.queries.count > 1], 0.3, rtol=1e-12)
    np.testing.assert_allclose(between, 0.3, rtol=1e-12)


def test_equal_weights_have_no_deviations():
    layout, *_ = on_blocks(smooth=True)
    even = np.zeros(layout.seen.shape)
    kernel = np.random.default_rng(0).uniform(size=layout.pairs.shape)
    kernel += kernel.T
    one, other = (KeyWeights(layout, even, b).means(kernel) for b in (BlockMeans(layout), None))
    for found, wanted in zip(one, other, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
