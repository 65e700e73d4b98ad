"""Gradient of one attention layer's query matrix, by the chain rule written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.checks import count
from sigprop.core.errors import require
from sigprop.core.jobs.cache import Arrays, job
from sigprop.model.spec import ModelSpec
from sigprop.simulation.architecture import check
from sigprop.simulation.inputs import Exchangeable, Singles, gaussian

__all__ = ["query_gradient", "query_gradient_cell"]


@validated
def query_gradient(spec: ModelSpec, seed: int) -> Floats:
    r"""Measure :math:`\|\partial L/\partial W_Q\|^2 / \sum_t |g_t|^2` in one attention layer.

    The output gradients g_t are independent standard normal vectors. One head, no mask.

    Parameters
    ----------
    spec : ModelSpec
        The description, with a width; its arrays must have one axis or none.
    seed : int
        Seed of input, weights and output gradients, the same for all settings.

    Returns
    -------
    array, shape of the spec
        The measured ratio.

    Raises
    ------
    DomainError
        If the description has no width, more than one head, a causal mask, centred attention or
        rotary positions.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation import query_gradient
    >>> spec = ModelSpec(depth=1, context=32, width=16, beta=[0.0, 1.0], sigma_v2=1, sigma_w2=1,
    ...                    rho0=0)
    >>> uniform, selective = query_gradient(spec, seed=1)
    >>> bool(uniform == 0 < selective)
    True
    """
    check(spec)
    count("seed", seed, 0, 2**62)
    require(spec.heads == 1, "heads", spec.heads, "1")
    require(spec.is_uniform, "pattern", spec.pattern, "null, and by_layer likewise")
    require(not spec.causal, "causal", spec.causal, "false")
    require(spec.attention == "softmax", "attention", spec.attention, "softmax")
    require(spec.rotary_base is None, "rotary_base", spec.rotary_base, "null")
    require(len(spec.shape) <= 1, "spec", spec.shape, "one axis at most")
    assert spec.width is not None
    context, d = int(spec.context), spec.width
    rng = np.random.Generator(np.random.SFC64(seed))
    x = Exchangeable().draw(spec.replace(beta=0.0, sigma_v2=1.0), rng)
    x = np.broadcast_to(x, (math.prod(spec.shape), context, d))
    matrices = [gaussian(rng, d, d) for _ in range(3)]
    g = gaussian(rng, context, d)
    beta = np.broadcast_to(spec.beta, spec.shape).ravel() * math.sqrt(math.log(context))
    value = np.broadcast_to(spec.sigma_v2, spec.shape).ravel()
    norms = [_norm2(*each, matrices, g) for each in zip(x, beta, value, strict=True)]
    return np.asarray(np.reshape(norms, spec.shape) / np.square(g).sum(dtype=np.float64))


def _norm2(
    x: Singles, variance: float, sigma_v2: float, matrices: list[Singles], g: Singles
) -> float:
    """Squared norm of the gradient, for query and key weights of `variance` over d."""
    d = x.shape[1]
    scale = np.float32(math.sqrt(variance / d))
    query, key = (x @ w * scale for w in matrices[:2])
    values = x @ matrices[2] * np.float32(math.sqrt(sigma_v2 / d))
    weights = query @ key.T / np.float32(math.sqrt(d))
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    back = g @ values.T  # gradient of the attention weights
    back -= np.einsum("ts,ts->t", weights, back)[:, None]
    back *= weights
    gradient = x.T @ (back @ key) / np.float32(math.sqrt(d))
    return float(np.square(gradient).sum(dtype=np.float64))


@job("simulation.query_gradient")
def query_gradient_cell(spec: dict[str, Any], seed: int) -> Arrays:
    """Measure one seed of `query_gradient`, as a job.

    Parameters
    ----------
    spec : dict
        As from `ModelSpec.to_dict`.
    seed : int
        The seed.

    Returns
    -------
    dict of str to array
        The ratio under "gain".
    """
    return {"gain": query_gradient(ModelSpec.from_dict(spec), seed)}
