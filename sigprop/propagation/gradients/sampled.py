r"""Gradient kernels by sampling what the weights do (E24b, E25b).

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
elementwise. With a width d, tokens are realised: what a branch adds is drawn given its input,
:math:`R_f Z` with Z of d columns, so K is :math:`X X^T/d`, R is :math:`X/\sqrt d`, and all that
finite width does to the score gradients (entries of K, overlaps that differ from seed to seed) is
there. Of the assumptions of the closed form only the independence of forward and backward
weights is left: tokens need not be exchangeable, so any input kernel, mask and position code will
do. Keys and values that heads share (grouped queries) are drawn for each head: query and output
matrices of the heads are independent, so no second moment of a gradient knows of the sharing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arrays import Bools, Floats, Number
from sigprop.core.errors import DomainError, require
from sigprop.core.memory import LIMIT, allow
from sigprop.layers.activations import activation
from sigprop.layers.attention.drawn_heads import DrawnStep, angles, drawn, head, root_of
from sigprop.layers.residual import Sequence
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import refusal, require_theory
from sigprop.propagation.gradients.closed_form import MATRICES
from sigprop.propagation.stack import (
    attention_of,
    first_norm,
    initial_state,
    iterate,
    ordered,
    sublayers,
)

__all__ = ["SampledGradients", "sampled_gradients"]

Pull = Callable[[Floats], Floats]
Book = dict[str, float]  # what the weights of a block receive
Back = Callable[[], tuple[Pull, Book]]  # gives the pullback of a block
SQUARES = 24  # matrices T x T beside the weights of the heads

VANISHES = ("a state that vanishes or overflows", "gradients")


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
    weights, weights_se : dict of str to array, shape (L,)
        Squared Frobenius norms of the gradients of wq, wk, wv, wo, w1, w2 and, of a gated MLP, wg,
        for output gradients of total squared norm one, per unit of width; and their standard
        errors.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.sampled import sampled_gradients
    >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.1)
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
    weights: dict[str, Floats]
    weights_se: dict[str, Floats]


def sampled_gradients(
    spec: ModelSpec,
    rng: np.random.Generator,
    draws: int = 8,
    kernel: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    progress: Callable[[int], None] | None = None,
) -> SampledGradients:
    """Gradient kernel through depth by sampling attention, for any input, mask and position code.

    Parameters
    ----------
    spec : ModelSpec
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
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.sampled import sampled_gradients
    >>> spec = ModelSpec(depth=1, context=8, beta=0, sigma_v2=1, sigma_w2=0, rho0=0,
    ...                    norm="pre")
    >>> sampled_gradients(spec, np.random.default_rng(0), draws=2).q.round(3).tolist()
    [1.125]
    """
    require(draws >= 2, "draws", draws, "an integer >= 2")
    _check(spec)
    t = int(spec.context)
    needed = _block_bytes(spec) + _stream_bytes(spec)
    allow(needed, "context", t, "fewer tokens, heads or features, or a smaller depth")
    start = _input(spec, t, kernel)
    masks = {layer: _mask(layer, t, mask) for layer in set(spec.layers)}
    layers, rhos, first = [], [], np.zeros((t, t))
    names = [name for name in MATRICES if name != "wg" or spec.gated]
    for _ in range(draws):
        with np.errstate(all="ignore"):  # what vanishes or overflows is refused
            tape, rho = _forward(spec, rng, start, masks)
            rows = []
            blocks = (tape.pop() for _ in range(spec.depth))
            for gradient, book in iterate((np.eye(t), Book()), blocks, _back):
                if not np.all(np.isfinite(gradient)):
                    raise refusal(*VANISHES, where="the way back")
                rows.append((*_means(gradient), *(book[name] / t for name in names)))
        layers.append(rows[::-1])
        rhos.append(rho)
        first += gradient / draws
        if progress is not None:
            progress(1)
    values = np.array(layers)
    mean, error = values.mean(axis=0).T, values.std(axis=0, ddof=1).T / np.sqrt(draws)
    rho = np.mean(rhos, axis=0)
    weights, weights_se = (dict(zip(names, v[2:], strict=True)) for v in (mean, error))
    ends = (mean[0], mean[1], error[0], error[1])
    return SampledGradients(*ends, rho, first, draws, weights, weights_se)


def _back(behind: tuple[Floats, Book], block: Back) -> tuple[Floats, Book]:
    """Gradient kernel before a block, and what its weights receive."""
    pull, book = block()
    return pull(behind[0]), book


def _check(spec: ModelSpec) -> None:
    require_theory(spec, "gradients")
    require_theory(spec, "sampled_gradients")


def _input(spec: ModelSpec, t: int, kernel: ArrayLike | None) -> Floats:
    if kernel is None:
        state = initial_state(spec)
        return float(state.q - state.gap) + float(state.gap) * np.eye(t)
    values = np.asarray(kernel, dtype=np.float64)
    if values.shape != (t, t):
        raise DomainError("kernel", values.shape, f"shape ({t}, {t})")
    require(np.isfinite(values), "kernel", values, "finite numbers")
    require(np.diagonal(values) > 0, "kernel", values, "a positive diagonal")
    return values


def _mask(spec: ModelSpec, t: int, mask: ArrayLike | None) -> Bools:
    if mask is None:
        return attention_of(spec).seen(t)
    values = np.asarray(mask, dtype=bool)
    if values.shape != (t, t) or not values.any(axis=1).all():
        raise DomainError("mask", values.shape, f"shape ({t}, {t}), a key for every query")
    return values


def _means(kernel: Floats) -> tuple[float, float]:
    t, trace = len(kernel), float(np.trace(kernel))
    return trace / t, float(kernel.sum() - trace) / (t * (t - 1))


def _block_bytes(spec: ModelSpec) -> float:
    """Memory of one block: weights of all heads, kernels and products, and drawn units."""
    t, heads = float(spec.context), spec.heads * (2 if attention_of(spec).centred else 1)
    matrices = 8 * t**2 * (heads + SQUARES)
    if spec.width is None:
        return matrices
    units = spec.width * max(spec.mlp_ratio, 1.0) * (2 if spec.gated else 1)
    return matrices + 8 * (8 * t + 2 * units) * spec.width + 24 * t * units


def _stream_bytes(spec: ModelSpec) -> float:
    """Memory of what enters the blocks: kernels, or tokens where there is a width."""
    return 8 * (spec.depth + 1) * float(spec.context) * (spec.width or float(spec.context))


def _forward(
    spec: ModelSpec, rng: np.random.Generator, kernel: Floats, masks: dict[ModelSpec, Bools]
) -> tuple[list[Back], Floats]:
    """One stack: what gives its pullbacks, block by block, and its tokens' overlap.

    Where the weights of all blocks do not fit into memory, a block is drawn again on the way back.
    """
    fits = spec.depth * _block_bytes(spec) <= LIMIT
    x = kernel if spec.width is None else drawn(rng, root_of(kernel), spec.width)
    if first_norm(spec) is not None and spec.width is not None:
        x = _norm(spec, x, float(spec.norm_gain))[0]
    tape: list[Back] = []
    rho = [_overlap(spec, x)]

    def step(entered: Floats, layer: ModelSpec) -> Floats:
        book, state = Book(), rng.bit_generator.state
        x, pull = _block(layer, rng, entered, masks[layer], book)
        if not np.all(np.isfinite(_norm(spec, x, 1.0)[0])):
            raise refusal(*VANISHES, where=f"block {len(tape) + 1}")
        again = partial(_again, layer, rng, entered, masks[layer], state)
        tape.append(partial(_same, pull, book) if fits else again)
        return x

    rho += [_overlap(spec, x) for x in iterate(x, spec.layers, step)]
    return tape, np.array(rho)


def _same(pull: Pull, book: Book) -> tuple[Pull, Book]:
    return pull, book


def _again(
    spec: ModelSpec, rng: np.random.Generator, x: Floats, seen: Bools, state: Any
) -> tuple[Pull, Book]:
    """Pullback of a block that is drawn again, from the state of the generator before it."""
    book, now = Book(), rng.bit_generator.state
    rng.bit_generator.state = state
    _, pull = _block(spec, rng, x, seen, book)
    rng.bit_generator.state = now
    return pull, book


def _read(spec: ModelSpec, x: Floats) -> tuple[Floats, Floats]:
    """Kernel of a stream and its root: the stream is a kernel, or tokens where there is a width."""
    if spec.width is None:
        return x, root_of(x)
    root = x / np.sqrt(spec.width)
    return root @ root.T, root


def _overlap(spec: ModelSpec, x: Floats) -> float:
    x = _norm(spec, x, 1.0)[0]
    return _means(x if spec.width is None else x @ x.T / spec.width)[1]


def _block(
    spec: ModelSpec, rng: np.random.Generator, x: Floats, seen: Bools, book: Book
) -> tuple[Floats, Pull]:
    """Apply a block of drawn weights; what leaves it, and its pullback."""
    norm = _Drawn(lambda x: _norm(spec, x, float(spec.norm_gain)))
    attention = _Drawn(lambda x: _attention(spec, rng, x, seen, book))
    mlp = _Drawn(lambda x: _mlp(spec, rng, x, book))
    residual = partial(_Residual, spec.width is None)
    whole: Any = Sequence(ordered(spec, norm, sublayers(spec, norm, attention, mlp), residual))
    tape: list[Pull] = []
    return whole.forward(x, tape).kernel, _chain(tape)


@dataclass(frozen=True)
class _Drawn:
    """A layer that puts its pullback on a tape."""

    step: Callable[[Floats], tuple[Floats, Pull]]

    def forward(self, x: Floats, tape: list[Pull]) -> DrawnStep:
        out, pull = self.step(x)
        tape.append(pull)
        return DrawnStep(out)


@dataclass(frozen=True)
class _Residual:
    """Residual sublayer of a kernel, or of tokens, whose skip has the root of the kernel's gain."""

    of_kernels: bool
    alpha: Number
    branches: tuple[Any, ...]
    width: float

    def forward(self, x: Floats, tape: list[Pull]) -> DrawnStep:
        square, parts = float(self.alpha) ** 2, [list[Pull]() for _ in self.branches]
        out = (square if self.of_kernels else float(self.alpha)) * x
        for branch, part in zip(self.branches, parts, strict=True):
            out = out + branch.forward(x, part).kernel
        pulls = [_chain(part) for part in parts]
        tape.append(lambda g: sum((pull(g) for pull in pulls), square * g))
        return DrawnStep(out)


def _chain(tape: list[Pull]) -> Pull:
    """Pullback of layers that acted one after the other."""

    def pull(gradient: Floats) -> Floats:
        for one in reversed(tape):
            gradient = one(gradient)
        return gradient

    return pull


def _norm(spec: ModelSpec, x: Floats, gain: float) -> tuple[Floats, Pull]:
    square = np.diagonal(x) if spec.width is None else np.mean(x * x, axis=1)
    scale = gain / np.sqrt(square)
    both = np.outer(scale, scale)
    out = x * both if spec.width is None else x * scale[:, None]
    return out, lambda g: g * both


def _mlp(spec: ModelSpec, rng: np.random.Generator, x: Floats, book: Book) -> tuple[Floats, Pull]:
    """Elementwise duals; behind a norm every token has the same variance."""
    inner, outer = float(spec.sigma_w1_2), float(spec.sigma_w2_2)
    kernel, root = _read(spec, x) if spec.width is not None else (x, x)
    bias, q = float(spec.sigma_b2), float(kernel[0, 0])
    dual = activation(spec.activation)(np.asarray(max(inner * q + bias, 1e-300)))
    if not np.isfinite(dual.variance):
        raise refusal(*VANISHES, where="a block")
    gap = np.clip(inner * (q - kernel) / dual.q, 0.0, 2.0)
    hidden = dual.variance - dual.q * dual.drop(1.0 * gap)
    slopes = {"w1": np.asarray(dual.slopes(gap))}
    if spec.gated:
        linear = dual.q * (1 - gap)
        slopes = {"w1": slopes["w1"] * linear, "wg": hidden}
        hidden = hidden * linear

    def pull(gradient: Floats) -> Floats:
        for name, slope in slopes.items():
            book[name] = outer * float(np.sum(kernel * slope * gradient))
        book["w2"] = float(np.sum(hidden * gradient))
        return np.asarray(inner * outer * sum(slopes.values()) * gradient)

    return outer * hidden + bias if spec.width is None else _thought(spec, rng, root), pull


def _thought(spec: ModelSpec, rng: np.random.Generator, root: Floats) -> Floats:
    """Output of the MLP for tokens, from drawn units."""
    assert spec.width is not None
    units, bias = max(round(spec.width * spec.mlp_ratio), 1), np.sqrt(spec.sigma_b2)

    def inside() -> Floats:
        return np.sqrt(spec.sigma_w1_2) * drawn(rng, root, units) + bias * rng.standard_normal(
            units
        )

    hidden = activation(spec.activation).function(inside()) * (inside() if spec.gated else 1.0)
    out = drawn(rng, np.sqrt(spec.sigma_w2_2 / units) * hidden, spec.width)
    return np.asarray(out + bias * rng.standard_normal(spec.width))


def _attention(
    spec: ModelSpec, rng: np.random.Generator, x: Floats, seen: Bools, book: Book
) -> tuple[Floats, Pull]:
    value = float(spec.sigma_v2 * spec.sigma_o2)
    variance = float(spec.beta * np.sqrt(np.log(spec.context)))
    layer, (kernel, root) = attention_of(spec), _read(spec, x)
    turn = angles(layer, len(kernel))
    heads = [head(layer, rng, root, seen, variance, turn) for _ in range(spec.heads)]
    mixers = [one.weights for one in heads]
    if layer.centred:
        flat = seen / seen.sum(axis=1, keepdims=True)
        mixers = [mixer - flat for mixer in mixers]
    bias = 0.0 if layer.centred else float(spec.sigma_b2 * spec.sigma_o2)

    def pull(gradient: Floats) -> Floats:
        root_g, parts = root_of(gradient), np.zeros((3, *gradient.shape))
        for one, mixer in zip(heads, mixers, strict=True):
            product = drawn(rng, root_g, root.shape[1]) @ root.T
            parts += (*one.scores(product, turn), mixer.T @ gradient @ mixer)
        parts /= spec.heads
        query, key, passed = (float(np.sum(kernel * part)) for part in parts)
        book.update(wq=value * query, wk=value * key, wv=float(spec.sigma_o2) * passed)
        own = 0.0 if layer.centred else float(spec.sigma_b2) * float(np.sum(gradient))
        book["wo"] = float(spec.sigma_v2) * passed + own
        return np.asarray(value * (parts[2] + variance * (parts[0] + parts[1])))

    if spec.width is None:
        mixed = value * sum(m @ kernel @ m.T for m in mixers) / spec.heads + bias
    else:
        share = spec.width // spec.heads
        parts = [m @ drawn(rng, np.sqrt(value) * root, share) for m in mixers]
        mixed = np.hstack(parts) + np.sqrt(bias) * rng.standard_normal(spec.width)
    return np.asarray(mixed), pull
