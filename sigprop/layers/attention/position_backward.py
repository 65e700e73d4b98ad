r"""Gradient kernel pulled back through attention, position by position (E23b-E23d, E24f).

With :math:`w_{ts}` the mean weights of query t, :math:`z_{tt'} = \sum_s w_{ts} w_{t's}` and
:math:`O_{tt} = Y_2(t)`, values pass on (E23b)

.. math:: E[A_{ts} A_{t's'}] = w_{ts} w_{t's'} \Big[\delta_{ss'} \frac{O_{tt'}}{z_{tt'}}
          + (1 - \delta_{ss'}) \frac{1 - O_{tt'}}{1 - z_{tt'}}\Big] ,

the transpose of the averages of E25. Behind a Jacobian :math:`J_t` of the softmax only the doubly
centred gaps of the keys survive, :math:`\tilde D_{ss'} = D_{ss'} - (D w_{t'})_s - (D w_t)_{s'}
+ w_t D w_{t'}`, on one key (:math:`-\tilde D_{ss}`, the variance of its score) and on two. What
meets on one key passes as :math:`P(r)` does, what meets on different keys as mean weights do:
with :math:`\pi = P/P_0`, :math:`P_0` its value for equal weights, and :math:`\varphi_t =
(1 - Y_2)/(1 - 1/n)`,

.. math:: \mathrm{tr}\,J_t K J_{t'} K = \pi_{tt'} \sum_s w_{ts} w_{t's} \tilde D_{ss} \tilde D_{ss}
          + \varphi_t \varphi_{t'} \sum_{s \ne s'} w_{ts} w_{t's'} \tilde D_{ss'}^2 ,

in which what a flat kernel has on different keys passes with the first. The gaps of pairs vary by
:math:`gap^2/d` about their mean, which is the term of E24c. Rotation turns the second D. Measured:
notebooks/accuracy.md.
"""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.errors import AssumptionError
from sigprop.layers.attention import score_path
from sigprop.layers.attention.attended import Attended
from sigprop.layers.attention.pair_sums import divided, of_queries, per_stack, total
from sigprop.layers.interface import BackwardStep
from sigprop.layers.state import Gradient

__all__ = ["pull"]


def pull(at: Attended, gradient: Gradient) -> BackwardStep:
    """Pull a gradient kernel back through attention.

    Parameters
    ----------
    at : Attended
        What attention did.
    gradient : Gradient
        Gradient kernel at its output.

    Returns
    -------
    BackwardStep
        Gradient kernel at its input, and the gradients of its weights.

    Raises
    ------
    AssumptionError
        If values have an identity part.
    """
    layer, tokens = at.layer, at.layout.tokens
    if np.any(layer.value_identity):
        raise AssumptionError("identity parts have no backward theory")
    queries, value = of_queries(at.layout, gradient), layer.sigma_v2 * layer.sigma_o2
    own, others = _values(at, queries)
    q, p = at.kernel.q, at.kernel.q - at.gap
    product = np.sum(q * own[..., None], axis=(-2, -1)) + np.sum(p * others, axis=(-2, -1))
    both = 0.0 if layer.centred else total(at.layout, queries)
    scores = score_path.pull(at, queries)
    of_value, of_output, of_both, bias = map(
        per_stack, (layer.sigma_v2, layer.sigma_o2, value, layer.sigma_b2)
    )
    weights = {
        "wq": of_both * scores.wq / tokens,
        "wk": of_both * scores.wk / tokens,
        "wv": of_output * product / tokens,
        "wo": (of_value * product + bias * both) / tokens,
    }
    own = (own + scores.own) / at.layout.size
    return BackwardStep(Gradient(value * own[..., None], value * (others + scores.others)), weights)


def _values(at: Attended, queries: Floats) -> tuple[Floats, Floats]:
    """Value path (E23b): sums over the tokens of each block, and over pairs of tokens."""
    same = at.same
    own, _ = at.to_keys(queries * divided(at.overlap, same))
    _, others = at.to_keys(queries * divided(1 - at.overlap, 1 - same))
    if not at.layer.centred:
        return own, others
    for left, right, sign in ((None, at.even, -1), (at.even, None, -1), (at.even, at.even, 1)):
        lost = at.to_keys(queries, left, right)
        own, others = own + sign * lost[0], others + sign * lost[1]
    return own, others
