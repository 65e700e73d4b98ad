"""Interpolation as weights of the values at a few nodes."""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats

__all__ = ["cubics"]


def cubics(nodes: Floats, x: Floats) -> Floats:
    """Weights of values at nodes in the cubic through the four nodes about each point.

    Parameters
    ----------
    nodes : array, shape (K,)
        Increasing nodes.
    x : array, shape (N,)
        Points; beyond the nodes the first and the last value hold.

    Returns
    -------
    array, shape (K, N)
        The weights; of the polynomial through all nodes where there are fewer than four.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.interpolation import cubics
    >>> nodes = np.array([0.0, 1.0, 2.0, 4.0, 5.0])
    >>> (nodes**3 @ cubics(nodes, np.array([-1.0, 0.5, 3.0, 9.0]))).round(12).tolist()
    [0.0, 0.125, 27.0, 125.0]
    """
    order, x = min(len(nodes), 4), np.clip(x, nodes[0], nodes[-1])
    first = np.clip(np.searchsorted(nodes, x) - order // 2, 0, len(nodes) - order)
    index = first + np.arange(order)[:, None]
    here = nodes[index]
    own = np.eye(order, dtype=bool)[..., None]
    factors = (x - here) / np.where(own, 1.0, here[:, None] - here)  # Lagrange's, (k, m, N)
    out = np.zeros((len(nodes), x.size))
    out[index, np.arange(x.size)] = np.prod(np.where(own, 1.0, factors), axis=1)
    return out
