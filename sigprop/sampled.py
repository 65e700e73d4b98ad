r"""Gradient kernels by sampling what the weights do, at infinite width (E24b, E25b).

No weight matrix is drawn. With :math:`R R^T = K` the token kernel, a head has
:math:`Q = \sigma R Z_q`, :math:`K_h = \sigma R Z_k`, Z standard normal of shape T x d_h and
:math:`\sigma^2 = \beta\sqrt{\log T}`; scores, mask and softmax give A, and
:math:`K' = \sigma_v^2 \langle A K A^T \rangle_{heads} + \sigma_b^2`. Backward, with
:math:`R_g R_g^T = G` the gradient kernel and :math:`B = \sqrt{d_h \sigma_v^2} R_g Z R^T`,

.. math:: C = A \circ (B - (A \circ B) 1), \quad dQ = C K_h / \sqrt{d_h}, \quad
          dK = C^T Q / \sqrt{d_h}, \qquad
          G' = \sum_h [\sigma_v^2 A^T G A / H + \sigma^2 (dQ\,dQ^T + dK\,dK^T)/d] .

Without a width heads are infinitely wide: scores are :math:`\sigma^2 R Z R^T`, and K takes the
place of :math:`K_h K_h^T/(\sigma^2 d_h)` and of the same of queries. Norms and MLPs act
elementwise. Of the assumptions of the closed form only the independence of forward and backward
weights is left: tokens need not be exchangeable, so any input kernel, mask and position code will
do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sigprop.arrays import Bools, Floats
from sigprop.errors import AssumptionError, DomainError, require
from sigprop.maps.activations import activation
from sigprop.propagate import initial_state
from sigprop.spec import Transformer

__all__ = ["SampledGradients", "sampled_gradients"]

Pull = Callable[[Floats], Floats]


@dataclass(frozen=True)
class SampledGradients:
    """Gradient kernel by sampling, for independent output gradients of unit variance.

    Attributes
    ----------
    q, p : arrays, shape (L,)
        Mean over tokens of the squared gradient, and over pairs of two tokens' product, at the
        input of each block.
    q_se, p_se : arrays, shape (L,)
        Standard errors over the draws.
    rho : array, shape (L+1,)
        Mean off-diagonal cosine of the tokens.
    kernel : array, shape (T, T)
        Gradient kernel at the first block, averaged over the draws.
    draws : int
        How many.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import Transformer
    >>> from sigprop.sampled import sampled_gradients
    >>> spec = Transformer(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.1)
    >>> sampled_gradients(spec, np.random.default_rng(0), draws=2).q.shape
    (2,)
    """

    q: Floats
    p: Floats
    q_se: Floats
    p_se: Floats
    rho: Floats
    kernel: Floats
    draws: int


def sampled_gradients(
    spec: Transformer,
    rng: np.random.Generator,
    draws: int = 8,
    kernel: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    progress: Callable[[int], None] | None = None,
) -> SampledGradients:
    """Gradient kernel through depth by sampling attention, exact at infinite width.

    Parameters
    ----------
    spec : Transformer
        One description with norms; `causal` and `rotary_base` are obeyed.
    rng : numpy.random.Generator
        Source of randomness.
    draws : int
        Independent stacks, >= 2.
    kernel : array_like, shape (T, T), optional
        Positive semidefinite kernel of the input tokens; by default that of overlap rho0.
    mask : array_like of bool, shape (T, T), optional
        Which key (column) each query (row) sees; by default all, or those up to it if causal.
    progress : callable, optional
        Called with one after each draw.

    Returns
    -------
    SampledGradients
        Means and standard errors.

    Raises
    ------
    DomainError
        If kernel or mask has the wrong shape or a query sees no key.
    AssumptionError
        If the spec has arrays, no norm, an infinite context, or rotary positions without a width.

    Notes
    -----
    theory.md E24b. Cost O(T^3 + T^2 d) a layer and draw. Gradients at high beta are heavy-tailed:
    trust the standard error only over many draws.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import Transformer
    >>> from sigprop.sampled import sampled_gradients
    >>> spec = Transformer(depth=1, context=8, beta=0, sigma_v2=1, sigma_w2=0, rho0=0,
    ...                    norm="pre")
    >>> sampled_gradients(spec, np.random.default_rng(0), draws=2).q.round(3).tolist()
    [1.125]
    """
    require(draws >= 2, "draws", draws, "an integer >= 2")
    _check(spec)
    t = int(spec.context)
    start = _input(spec, t, kernel)
    seen = _mask(spec, t, mask)
    layers, rhos, first = [], [], np.zeros((t, t))
    for _ in range(draws):
        tape, rho = _forward(spec, rng, start, seen)
        gradient, rows = np.eye(t), []
        for pull in reversed(tape):
            gradient = pull(gradient)
            rows.append(_means(gradient))
        layers.append(rows[::-1])
        rhos.append(rho)
        first += gradient / draws
        if progress is not None:
            progress(1)
    values = np.array(layers)
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(draws)
    rho = np.mean(rhos, axis=0)
    return SampledGradients(mean[:, 0], mean[:, 1], error[:, 0], error[:, 1], rho, first, draws)


def _check(spec: Transformer) -> None:
    if spec.has_identity:
        raise AssumptionError("sampling knows no identity parts")
    if spec.shape or np.isinf(spec.context) or spec.norm == "none":
        raise AssumptionError("sampling needs a single spec with norms and a finite context")
    if spec.rotary_base is not None and spec.width is None:
        raise AssumptionError("sampling rotary positions needs a width")
    if spec.width is not None and spec.width % spec.heads:
        raise AssumptionError("sampling needs a width that the heads divide")


def _input(spec: Transformer, t: int, kernel: ArrayLike | None) -> Floats:
    if kernel is None:
        state = initial_state(spec)
        return float(state.q - state.gap) + float(state.gap) * np.eye(t)
    values = np.asarray(kernel, dtype=np.float64)
    if values.shape != (t, t):
        raise DomainError("kernel", values.shape, f"shape ({t}, {t})")
    require(np.isfinite(values), "kernel", values, "finite numbers")
    require(np.diagonal(values) > 0, "kernel", values, "a positive diagonal")
    return values


def _mask(spec: Transformer, t: int, mask: ArrayLike | None) -> Bools:
    if mask is None:
        return np.tri(t, dtype=bool) if spec.causal else np.ones((t, t), dtype=bool)
    values = np.asarray(mask, dtype=bool)
    if values.shape != (t, t) or not values.any(axis=1).all():
        raise DomainError("mask", values.shape, f"shape ({t}, {t}), a key for every query")
    return values


def _means(kernel: Floats) -> tuple[float, float]:
    t, trace = len(kernel), float(np.trace(kernel))
    return trace / t, float(kernel.sum() - trace) / (t * (t - 1))


def _forward(
    spec: Transformer, rng: np.random.Generator, kernel: Floats, seen: Bools
) -> tuple[list[Pull], Floats]:
    """One stack: its pullbacks, block by block, and the overlap of its tokens."""
    tape, rho = [], [_means(_norm(kernel, 1.0)[0])[1]]
    for _ in range(spec.depth):
        kernel, pull = _block(spec, rng, kernel, seen)
        tape.append(pull)
        rho.append(_means(_norm(kernel, 1.0)[0])[1])
    return tape, np.array(rho)


def _block(
    spec: Transformer, rng: np.random.Generator, kernel: Floats, seen: Bools
) -> tuple[Floats, Pull]:
    gain = float(spec.norm_gain)
    alphas = float(spec.alpha_attn) ** 2, float(spec.alpha_mlp) ** 2
    if spec.norm == "pre":
        read, inner = _norm(kernel, gain)
        mixed, attend = _attention(spec, rng, read, seen)
        middle = alphas[0] * kernel + mixed
        again, outer = (read, inner) if spec.parallel else _norm(middle, gain)
        thought, think = _mlp(spec, again)
        if spec.parallel:
            return middle + thought, lambda g: alphas[0] * g + inner(attend(g) + think(g))
        return alphas[1] * middle + thought, _chain(
            lambda g: alphas[1] * g + outer(think(g)), lambda g: alphas[0] * g + inner(attend(g))
        )
    mixed, attend = _attention(spec, rng, kernel, seen)
    middle, first = _norm(alphas[0] * kernel + mixed, gain)
    thought, think = _mlp(spec, middle)
    out, second = _norm(alphas[1] * middle + thought, gain)
    return out, _chain(
        second,
        lambda g: alphas[1] * g + think(g),
        first,
        lambda g: alphas[0] * g + attend(g),
    )


def _chain(*pulls: Pull) -> Pull:
    def pull(gradient: Floats) -> Floats:
        for one in pulls:
            gradient = one(gradient)
        return gradient

    return pull


def _norm(kernel: Floats, gain: float) -> tuple[Floats, Pull]:
    scale = gain / np.sqrt(np.diagonal(kernel))
    both = np.outer(scale, scale)
    return kernel * both, lambda g: g * both


def _mlp(spec: Transformer, kernel: Floats) -> tuple[Floats, Pull]:
    """Elementwise duals; behind a norm every token has the same variance."""
    inner, outer = float(spec.sigma_w1_2), float(spec.sigma_w2_2)
    bias, q = float(spec.sigma_b2), float(kernel[0, 0])
    dual = activation(spec.activation)(np.asarray(max(inner * q + bias, 1e-300)))
    x = np.clip(inner * (q - kernel) / dual.q, 0.0, 2.0)
    hidden = dual.variance - dual.q * dual.drop(1.0 * x)
    slopes = np.asarray(dual.slopes(x))
    if spec.gated:
        linear = dual.q * (1 - x)
        hidden, slopes = hidden * linear, slopes * linear + hidden
    return outer * hidden + bias, lambda g: inner * outer * slopes * g


def _root(kernel: Floats) -> Floats:
    values, vectors = np.linalg.eigh(kernel)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _softmax(scores: Floats, seen: Bools) -> Floats:
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class _Head:
    """One head's weights, and its queries and keys, or roots of their kernels."""

    weights: Floats
    queries: Floats
    keys: Floats

    def scores(self, product: Floats, turn: Floats | None) -> Floats:
        """Sum the kernels of dQ and dK, given B."""
        c = self.weights * (product - (self.weights * product).sum(axis=1, keepdims=True))
        dq, dk = c @ self.keys, c.T @ self.queries
        if turn is not None:
            dq, dk = _rotated(dq, -turn), _rotated(dk, -turn)
        return np.asarray(dq @ dq.T + dk @ dk.T)


def _attention(
    spec: Transformer, rng: np.random.Generator, kernel: Floats, seen: Bools
) -> tuple[Floats, Pull]:
    value = float(spec.sigma_v2 * spec.sigma_o2)
    variance = float(spec.beta * np.sqrt(np.log(spec.context)))
    root, turn = _root(kernel), _angles(spec)
    heads = [_head(spec, rng, root, seen, variance, turn) for _ in range(spec.heads)]
    flat = seen / seen.sum(axis=1, keepdims=True) if spec.attention == "centred" else 0.0
    mixers = [head.weights - flat for head in heads]
    out = value * sum(m @ kernel @ m.T for m in mixers) / spec.heads
    if spec.attention == "softmax":
        out = out + float(spec.sigma_b2 * spec.sigma_o2)

    def pull(gradient: Floats) -> Floats:
        own, total = _root(gradient), np.zeros_like(gradient)
        for head, mixer in zip(heads, mixers, strict=True):
            product = own @ rng.standard_normal(gradient.shape) @ root.T
            total += mixer.T @ gradient @ mixer + variance * head.scores(product, turn)
        return np.asarray(value * total / spec.heads)

    return np.asarray(out), pull


def _head(
    spec: Transformer,
    rng: np.random.Generator,
    root: Floats,
    seen: Bools,
    variance: float,
    turn: Floats | None,
) -> _Head:
    """Draw queries and keys over sqrt(d_h); at infinite width, the roots of their kernels."""
    t = len(root)
    if spec.head_width is None:
        weights = _softmax(variance * root @ rng.standard_normal((t, t)) @ root.T, seen)
        return _Head(weights, np.sqrt(variance) * root, np.sqrt(variance) * root)
    size = (t, int(spec.head_width))
    q, k = (np.sqrt(variance) * root @ rng.standard_normal(size) for _ in range(2))
    if turn is not None:
        q, k = _rotated(q, turn), _rotated(k, turn)
    scale = np.sqrt(size[1])
    return _Head(_softmax(q @ k.T / scale, seen), q / scale, k / scale)


def _angles(spec: Transformer) -> Floats | None:
    """Rotary angles, position by frequency."""
    if spec.rotary_base is None or spec.head_width is None:
        return None
    half = int(spec.head_width) // 2
    frequency = spec.rotary_base ** (-np.arange(half) / half)
    return np.outer(np.arange(int(spec.context)), frequency)


def _rotated(x: Floats, angle: Floats) -> Floats:
    """Turn pairs (i, i + d_h/2) of features; an odd last one stays."""
    half = angle.shape[1]
    a, b, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.hstack([a * cos - b * sin, a * sin + b * cos, rest])
