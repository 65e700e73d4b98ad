"""Keys of finite width that share fewer directions than d (E26e, E26f)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.statistics import Finite, Sphere, reduced_beta
from sigprop.layers.attention.statistics.interface import Statistics
from sigprop.layers.state import State

SMALLEST = 8.0  # least number of directions
__all__ = ["keys", "moved_means", "pull"]


def keys(layer: AttentionNumbers, crowding: float) -> Sphere | None:
    """Sphere of the keys when tokens share d / crowding directions.

    Parameters
    ----------
    layer : AttentionNumbers
        The attention map.
    crowding : float
        kappa, >= 1.

    Returns
    -------
    Sphere or None
        None at infinite width.

    Examples
    --------
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.key_directions import keys
    >>> keys(Attention(beta=1.0, sigma_v2=1.0, width=64), 2.0).width
    32.0
    """
    if layer.sphere is None:
        return None
    return replace(layer.sphere, width=max(layer.sphere.width / crowding, SMALLEST))


def pull(layer: AttentionNumbers, sphere: Sphere | None, points: State, rem: Statistics) -> State:
    """Find what keys of finite width add to the output of attention (E26e), at sigma_v2 = 1.

    Parameters
    ----------
    layer : AttentionNumbers
        The attention map.
    sphere : Sphere, optional
        Of the keys, from `keys`; None adds nothing.
    points : State
        States that attention reads, of shape (N,).
    rem : Statistics
        Statistics of its weights.

    Returns
    -------
    State
        Changes of q and gap, of shape (N,). Relative to the gap they are exact at the two states of
        smallest and largest gap, and linear in log gap between; NaN if a gap vanishes.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.key_directions import keys, pull
    >>> from sigprop.layers.attention.statistics import Finite
    >>> from sigprop.layers.state import State
    >>> layer = Attention(beta=1.0, sigma_v2=1.0, context=64, width=64)
    >>> read = State(np.ones(2), np.array([0.5, 1.0]))
    >>> pull(layer, keys(layer, 1.0), read, Finite(64, 64)).gap.round(4)
    array([0.0065, 0.0225])
    """
    if sphere is None:
        return State(0.0, 0.0)
    q, gap = np.broadcast_arrays(points.q, points.gap)
    ends = [State(float(q[i]), float(gap[i])) for i in (gap.argmin(), gap.argmax())]
    if not ends[0].gap > 0:
        return State(np.full(gap.shape, np.nan), np.full(gap.shape, np.nan))
    low, high = (_pulled(layer, sphere, end, rem) for end in ends)
    width = float(np.log(ends[1].gap / ends[0].gap))
    share = np.log(gap / ends[0].gap) / width if width > 0 else np.zeros(gap.shape)
    rates = low[:, None] + np.outer(high - low, share)
    return State(gap * rates[0], gap * rates[1])


def moved_means(
    layer: AttentionNumbers, sphere: Sphere | None, read: State, rem: Finite
) -> tuple[float, float]:
    """Find what keys of finite width change of the mean participation and entropy (E26e).

    Parameters
    ----------
    layer : AttentionNumbers
        The attention map.
    sphere : Sphere, optional
        Of the keys, from `keys`; None changes nothing.
    read : State
        State that attention reads, numbers.
    rem : Finite
        Statistics of its weights.

    Returns
    -------
    y2, entropy : float
        The changes; scores on a sphere have shorter tails than Gaussian ones.

    Examples
    --------
    >>> from sigprop.layers.attention.layer import Attention
    >>> from sigprop.layers.attention.key_directions import keys, moved_means
    >>> from sigprop.layers.attention.statistics import Finite
    >>> from sigprop.layers.state import State
    >>> layer = Attention(beta=2.0, sigma_v2=1.0, context=64, width=64)
    >>> y2, entropy = moved_means(layer, keys(layer, 1.0), State(1.0, 1.0), Finite(64, 64))
    >>> y2 < 0, bool(entropy > 0)
    (True, True)
    """
    if sphere is None:
        return 0.0, 0.0
    t, b, x = float(layer.context), float(reduced_beta(layer.beta, read)), float(read.gap / read.q)
    found = sphere.traces(b * np.sqrt(np.log(t)), t, 1 - x, 0.0)
    y2, deficit = float(rem.weights(b, x).y2), float(rem.entropy_deficit(b))
    return float(found.y2) - y2, float(found.entropy) - (np.log(t) - deficit)


def _pulled(layer: AttentionNumbers, sphere: Sphere, read: State, rem: Statistics) -> Floats:
    """Change of (q, gap) at one state, over its gap."""
    t, b, x = float(layer.context), float(reduced_beta(layer.beta, read)), float(read.gap / read.q)
    one = rem.weights(b, x)
    y2, spread = float(one.y2), float(one.spread)
    traces = sphere.traces(b * np.sqrt(np.log(t)), t, 1 - x, 0.0)
    q = traces.mean - y2 - (traces.common if layer.centred else 0.0)
    return np.array([q, spread * (traces.kept / y2 - 1) + x * traces.drift])
