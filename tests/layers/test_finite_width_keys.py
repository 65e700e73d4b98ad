"""Keys of finite width: traces against draws of keys, averages over heads by a product rule."""

from itertools import product

import numpy as np
import pytest

from sigprop.layers.attention.statistics import Sphere

NAMES = ("query", "key", "weight", "kept", "drift", "common", "y2", "entropy")


def drawn_traces(s, t, width, head_width, spread, count, rng):
    """Traces of single queries with keys on a sphere, shape (8, count), E24d as it is defined."""
    dims = width - 1
    keys = rng.standard_normal((count, t, dims))
    keys *= np.sqrt(dims / np.sum(keys**2, axis=-1, keepdims=True))
    g = np.exp(np.sqrt(spread) * rng.standard_normal((count, t)) - spread / 2)
    keys *= np.sqrt(g)[..., None]
    z, kernel = keys[..., 0], keys @ keys.swapaxes(1, 2) / dims
    a = np.exp(s * z)
    a /= a.sum(axis=1, keepdims=True)
    jacobian = a[:, :, None] * (np.eye(t) - a[:, None, :])
    # a head has n projections: the query's along z, and n - 1 others
    of_head = z[:, :, None] * z[:, None, :] / head_width + (1 - 1 / head_width) * kernel
    both = jacobian @ kernel @ jacobian
    eta = g - z**2 / dims
    return np.array(
        [
            np.einsum("nij,nji->n", both, of_head),
            np.einsum("nii->n", both),
            np.einsum("nij,nji->n", both, kernel),
            np.sum(a**2 * eta, axis=1),
            np.sum(a * z, axis=1) ** 2 / dims,
            1 - np.sum(a * g, axis=1),
            np.sum(a**2, axis=1),
            -np.sum(a * np.log(a), axis=1),
        ]
    )


@pytest.mark.parametrize(
    ("s", "t", "width", "rho"),
    [(0.7, 3, 8, 0.0), (2.5, 3, 8, 0.0), (1.5, 12, 24, 0.0), (1.5, 5, 24, 0.4)],
)
def test_traces_of_drawn_keys(s, t, width, rho):
    """Within four standard errors; what holds at infinite width is not."""
    sphere, spread = Sphere(float(width), 4.0), 2 * rho * (2 - rho) / width
    rng = np.random.default_rng(1)
    found = np.array(sphere._at(s, float(t), rho))
    draws = np.concatenate(
        [drawn_traces(s, t, width, 4, spread, 40_000, rng) for _ in range(2)], axis=1
    )
    error = draws.std(axis=1) / np.sqrt(draws.shape[1])
    off = np.abs(found - draws.mean(axis=1))
    # three nodes of g stand for all, and quadratures err by 1e-8
    assert np.all(off < 4 * error + spread**3 + 1e-8), dict(zip(NAMES, off / error, strict=True))
    wide = np.array(Sphere(1e6, 1e6)._at(s, float(t), 0.0))
    assert np.sum(np.abs(wide - draws.mean(axis=1)) > 8 * error) >= 3


def test_averages_over_heads_and_networks():
    """The norm of the query, the rest of a head's temperature and the gap are three log-normals."""
    width, head_width, seeds, s, t, rho = 96.0, 48.0, 0.05, 1.5, 32.0, 0.3
    sphere = Sphere(width, head_width)
    nodes, share = np.polynomial.hermite_e.hermegauss(5)
    share /= share.sum()
    sd = np.sqrt([2 / head_width, 2 / width, seeds])
    total = np.zeros(8)
    for index in product(range(5), repeat=3):
        own, rest, network = sd * nodes[list(index)]
        query_norm, gap = np.exp(own - sd[0] ** 2 / 2), np.exp(network)
        heat = query_norm * gap * np.exp(rest - sd[1] ** 2 / 2)
        powers = [gap**2, query_norm * gap, query_norm * gap**2, gap, gap, gap, 1.0, 1.0]
        total += np.prod(share[list(index)]) * np.array(powers) * _at(sphere, heat, s, t, rho)
    found = np.array(sphere.traces(s, t, rho, seeds))
    assert found == pytest.approx(total, rel=2e-4)
    assert np.abs(np.array(sphere.traces(s, t, rho, 0.0)) / total - 1).max() > 2e-3  # control


def _at(sphere, heat, s, t, rho):
    return np.array(sphere._at(s * np.sqrt(heat), t, rho))


def test_random_tokens_vary_over_networks():
    """Without a given variance of log gap it is 2 rho^2/d."""
    sphere = Sphere(64.0, 16.0)
    given = sphere.traces(1.0, 32.0, 0.5, 2 * 0.5**2 / 64)
    assert sphere.traces(1.0, 32.0, 0.5) == pytest.approx(given, rel=1e-12)
    assert sphere.traces(1.0, 32.0, -0.1) == pytest.approx(sphere.traces(1.0, 32.0, 0.0))
