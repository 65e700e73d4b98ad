"""Interpolation weights against polynomials."""

import numpy as np
import pytest

from sigprop.core.numerics.interpolation import cubics

NODES = np.array([0.5, 1.0, 1.7, 3.0, 3.4, 6.0])
POINTS = np.linspace(0.5, 6.0, 57)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_polynomials_are_interpolated(count):
    """Up to a degree below the number of nodes and four; control: one degree more."""
    nodes, order = NODES[:count], min(count, 4)
    weights = cubics(nodes, POINTS)
    inside = np.minimum(POINTS, nodes[-1])
    for power in range(order):
        np.testing.assert_allclose(nodes**power @ weights, inside**power, rtol=1e-11)
    missed = np.abs(nodes**order @ weights - inside**order).max()
    assert missed > 1e-3 if count > 1 else missed == 0


def test_ends_hold_beyond_the_nodes():
    found = np.arange(6.0) @ cubics(NODES, np.array([-9.0, 0.5, 6.0, 1e3]))
    np.testing.assert_allclose(found, [0, 0, 5, 5], atol=1e-12)


def test_nodes_are_met():
    np.testing.assert_allclose(cubics(NODES, NODES), np.eye(6), atol=1e-12)
