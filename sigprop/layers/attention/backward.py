r"""Gradient kernel pulled back through attention, at finite context length (E22-E24, E22b, E24c).

With A the weights of one query, :math:`J_{su} = A_s(\delta_{su} - A_u)`, :math:`P = E\,
\mathrm{tr} J J'` (`sigprop.layers.attention.statistics.Response`) and
:math:`\sigma^2 = \beta\sqrt{\log T}`, the exchangeable gradient kernel becomes

.. math::
   \text{values}:\quad & \sigma_v^2\,(Y_2 q^g + (T-1) O p^g),
   \quad \text{and the sum of all entries stays}, \\
   \text{queries}:\quad & \sigma^4\sigma_v^2\, gap^2\,(P(1)\, q^g,\; P(\rho)\, p^g), \\
   \text{keys}:\quad & (S,\; -S/(T-1)), \quad
   S = \sigma^4\sigma_v^2\, gap\,[q P(1)\, q^g + (T-1)\, p P(\rho)\, p^g] .

*Finite width.* A single spec with a width takes, for one query, the traces of
`sigprop.layers.attention.statistics.finite_width_keys` (E24d) at the width over which tokens spread
there, and scales the terms of two queries by their ratio to the first order (E24c); arrays of specs
take the first order.

*Causal mask.* Query t sees t keys. For single states statistics of one query are means over t = 1
... T, those of two take the number of keys of the one that sees more (exact for both at beta = 0 up
to (1 - 1/t)); arrays of specs have T keys for all. Gradients and kernels are taken as equal at all
positions. Measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.errors import AssumptionError
from sigprop.layers.attention.key_directions import keys
from sigprop.layers.attention.numbers import AttentionNumbers
from sigprop.layers.attention.statistics import Finite, Response, Traces, reduced_beta
from sigprop.layers.attention.statistics.table import MAX_SIGMA
from sigprop.layers.interface import BackwardStep, Spread
from sigprop.layers.state import Gradient, State

__all__ = ["pull"]

EXACT, NODES = 4, 7  # numbers of keys taken one by one, and nodes for the larger ones


def pull(
    layer: AttentionNumbers, state: State, gradient: Gradient, rem: Finite, spread: Spread
) -> BackwardStep:
    """Pull a gradient kernel back through attention.

    Parameters
    ----------
    layer : AttentionNumbers
        The layer.
    state : State
        Its input on the forward pass.
    gradient : Gradient
        Gradient kernel at its output.
    rem : Finite
        Statistics of its weights.
    spread : Spread
        How networks and keys vary around the state, which is the typical one; matters to score
        gradients at finite width.

    Returns
    -------
    BackwardStep
        Gradient kernel at its input, and the gradients of its weights.

    Raises
    ------
    AssumptionError
        If the statistics have no response, or values an identity part.
    """
    if np.any(layer.value_identity):
        raise AssumptionError("identity parts have no backward theory")
    value = layer.sigma_v2 * layer.sigma_o2
    view = _view(layer, state, rem, spread)
    responses = _responses(layer, view)
    passed, wv = _values(layer, state, gradient, view)
    queries, keys, wq, wk = _scores(layer, state, gradient, view, responses)
    q = value * (passed.q + queries.q + keys)
    others = value * (passed.others + queries.others - keys)
    bias = 0.0 if layer.centred else layer.sigma_b2 * (gradient.q + gradient.others)
    weights = {
        "wq": value * wq,
        "wk": value * wk,
        "wv": layer.sigma_o2 * wv,
        "wo": layer.sigma_v2 * wv + bias,
    }
    return BackwardStep(Gradient(q, others), weights)


class _View(NamedTuple):
    """What queries see: one number of keys, or under a causal mask many and how often."""

    rem: Finite
    b: Floats
    x: Number
    traces: Traces | None
    singles: Floats | None = None
    pairs: Floats | None = None
    once: float = 1.0

    def mean(self, values: Number, first: float = 0.0) -> Number:
        """Mean over queries; `first` is the value at the query that sees one key."""
        if self.singles is None:
            return values
        return np.asarray(self.singles @ values + first * self.once)

    def pair(self, values: Number) -> Number:
        """Mean over pairs of queries, of which the one with more keys counts."""
        return values if self.pairs is None else np.asarray(self.pairs @ values)


def _view(layer: AttentionNumbers, state: State, rem: Finite, spread: Spread) -> _View:
    """Numbers of keys that queries see, and the traces at finite width of single states."""
    b, x = reduced_beta(layer.beta, state), state.gap / state.q
    s = b * np.sqrt(np.log(rem.context))
    if s.ndim or not s <= MAX_SIGMA:
        return _View(rem, b, x, None)
    if layer.mask is None:
        return _View(rem, b, x, _traces(layer, state, spread, s, rem.context))
    t, singles, pairs = _lengths(int(rem.context))
    traces = _traces(layer, state, spread, s, t)
    hot, once = s / np.sqrt(np.log(t)), 1 / float(rem.context)
    return _View(Finite(t, rem.head_width), hot, x, traces, singles, pairs, once)


def _lengths(context: int) -> tuple[Floats, Floats, Floats]:
    """Numbers of keys from two to T, with weights of sums over queries and over pairs.

    The first `EXACT`, then Gauss-Legendre in the logarithm.
    """
    t = np.arange(2.0, min(context, EXACT) + 1)
    number = np.ones_like(t)
    if context > EXACT:
        node, weight = np.polynomial.legendre.leggauss(NODES)
        low, half = np.log(EXACT + 0.5), np.log((context + 0.5) / (EXACT + 0.5)) / 2
        rest = np.minimum(np.exp(low + half * (node + 1)), context)
        t, number = np.append(t, rest), np.append(number, half * weight * rest)
    return t, number / context, number * 2 * (t - 1) / (context * (context - 1.0))


def _traces(
    layer: AttentionNumbers, state: State, spread: Spread, s: Floats, context: Floats
) -> Traces | None:
    """Exact traces at finite width, for each number of keys."""
    sphere = keys(layer, spread.crowding)
    if sphere is None:
        return None
    return sphere.traces(s, context, state.rho, spread.seeds)


def _values(
    layer: AttentionNumbers, state: State, gradient: Gradient, view: _View
) -> tuple[Gradient, Number]:
    """E23 at sigma_v2 = 1, and the squared gradient of the value weights."""
    weights, traces = view.rem.weights(view.b, view.x), view.traces
    lost = weights.y2 - weights.excess if layer.centred else 0.0
    total = 0.0 if layer.centred else gradient.q + gradient.others
    first = 0.0 if layer.centred else 1.0
    cross = view.pair(weights.y2 - weights.spread - lost) * gradient.others
    q = view.mean(weights.y2 - lost, first) * gradient.q + cross
    mean = q
    if traces is not None:
        gained = traces.mean - (traces.common if layer.centred else 0.0)
        mean = view.mean(gained - lost, first) * gradient.q + cross
    common = 0.0 if layer.centred else (state.q - state.gap) * total
    return Gradient(q, total - q), common + state.gap * mean


class _Scores(NamedTuple):
    queries: Gradient
    keys: Number
    wq: Number
    wk: Number


def _scores(
    layer: AttentionNumbers,
    state: State,
    gradient: Gradient,
    view: _View,
    responses: tuple[Response, Response, Response],
) -> _Scores:
    """E24 at sigma_v2 = 1: queries, the sum S over keys, and the weights of both (E22)."""
    root = layer.beta * np.sqrt(np.log(layer.context))  # sigma^2
    p, square = state.q - state.gap, state.gap**2
    query, key, weight = (
        (view.mean(r.own) * gradient.q, view.pair(r.cross) * gradient.others) for r in responses
    )
    return _Scores(
        Gradient(root**2 * square * query[0], root**2 * square * query[1]),
        root**2 * state.gap * (state.q * key[0] + p * key[1]),
        root * square * (state.q * query[0] + p * query[1]),
        root * square * (state.q * weight[0] + p * weight[1]),
    )


def _responses(layer: AttentionNumbers, view: _View) -> tuple[Response, Response, Response]:
    """P of the query path, the key path and the key weights, at finite width."""
    one, hot = (view.rem.response(view.b, view.x, tilt=tilt) for tilt in (0, 1))
    if layer.sphere is None:
        return one, hot, hot
    flat = (1 - view.rem.weights(view.b, view.x).y2) ** 2 / layer.sphere.width
    query, weight = (Response(r.own + flat, r.cross + flat) for r in (one, hot))
    traces = view.traces
    if traces is None:
        return query, hot, weight
    return (
        _scaled(query, traces.query),
        _scaled(hot, traces.key),
        _scaled(weight, traces.weight),
    )


def _scaled(response: Response, own: Number) -> Response:
    return Response(own, response.cross * (own / response.own))
