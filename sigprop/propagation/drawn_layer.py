"""One draw of the kernel solver: attention drawn at infinite width, MLP and norms exact (E25b)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sigprop.core.arrays import Bools, Floats, Number
from sigprop.core.errors import AssumptionError, require
from sigprop.core.jobs.cache import Arrays, job
from sigprop.layers.activations import activation
from sigprop.layers.attention.drawn_heads import DrawnStep, angles, rotated, softmax
from sigprop.layers.attention.layer import Attention
from sigprop.layers.mlp import Mlp
from sigprop.layers.residual import Sequence
from sigprop.layers.state import State
from sigprop.model.inputs import allow_tokens
from sigprop.model.spec import ModelSpec
from sigprop.propagation.stack import (
    any_norm,
    attention_of,
    first_norm,
    iterate,
    mlp_of,
    ordered,
    sublayers,
)

__all__ = ["context_of", "follow", "kernel_cell"]

UNSEEN = 1e-10  # of a token's variance: what its scores leave out


@job("theory.kernel")
def kernel_cell(spec: dict[str, Any], kernel: Floats, blocks: int, seed: int) -> Arrays:
    """Follow one draw through the layers: the job of one seed.

    Parameters
    ----------
    spec : dict
        As from `ModelSpec.to_dict`.
    kernel, blocks, seed
        As in `solve`.

    Returns
    -------
    dict of str to array
        The attributes of `Solved` without their first axis.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    known = ModelSpec.from_dict(spec)
    if first_norm(known) is not None:
        kernel = _Draw(known, rng).norm(kernel).kernel
    return follow(known.layers, kernel, blocks, rng)


def follow(
    specs: Items[ModelSpec], kernel: Floats, blocks: int, rng: np.random.Generator
) -> Arrays:
    """Follow one draw through blocks that may differ, from the kernel that the first one reads.

    Parameters
    ----------
    specs : sequence of ModelSpec
        One for each block; their depth has no meaning, nor has a window or a prefix.
    kernel : array, shape (T, T)
        Kernel of the stream; no norm precedes it.
    blocks : int
        Position blocks.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    dict of str to array
        The attributes of `Solved` without their first axis.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.drawn_layer import follow
    >>> spec = ModelSpec(depth=1, context=4, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> cold = spec.replace(beta=3.0)
    >>> follow([spec, cold], np.eye(4), 1, np.random.default_rng(0))["rho"].shape
    (3,)
    """
    kernels, heads = [_described(kernel, blocks)], []
    draws = {spec: _Draw(spec, rng) for spec in specs}
    steps = iterate((kernel, np.zeros(3)), specs, lambda step, spec: draws[spec].block(step[0]))
    for behind, attention in steps:
        heads.append(attention)
        kernels.append(_described(behind, blocks))
    out = {name: np.stack([k[name] for k in kernels]) for name in kernels[0]}
    names = ("y2", "overlap", "entropy")
    return out | dict(zip(names, np.stack(heads, axis=1), strict=True))


def context_of(spec: ModelSpec) -> int:
    """Context of a spec that the solver takes.

    Parameters
    ----------
    spec : ModelSpec
        The description.

    Returns
    -------
    int
        The context.

    Raises
    ------
    DomainError
        If the context is infinite or too large, or the heads do not divide the width.
    AssumptionError
        If the spec has arrays, or is outside what the solver knows.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.drawn_layer import context_of
    >>> context_of(ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    8
    """
    if spec.shape:
        raise AssumptionError(f"the kernel solver needs a single spec, not shape {spec.shape}")
    if spec.has_identity:
        raise AssumptionError("the kernel solver knows no identity parts")
    context = float(spec.context)
    allow_tokens("context", spec.context, context)
    if any_norm(spec) is None and not activation(spec.activation).homogeneous:
        raise AssumptionError(
            f"without norms tokens have different variances, for which {spec.activation} has no "
            f"dual here: use a norm, or relu or linear"
        )
    for layer in set(spec.layers):
        _head_size(attention_of(layer))
    return int(context)


def _head_size(layer: Attention) -> int | None:
    if layer.width is None:
        if layer.rotation is not None:
            raise AssumptionError("rotary positions depend on the width of a head: give width")
        return None
    size, rest = divmod(layer.width, layer.heads)
    require(rest == 0, "heads", layer.heads, f"a divisor of width = {layer.width}")
    even = layer.rotation is None or size % 2 == 0
    require(even, "width", layer.width, "heads of even width under rotary positions")
    return size


@dataclass(frozen=True)
class _Drawn:
    """A layer on the matrix of all pairs."""

    step: Callable[[Floats], DrawnStep]

    def forward(self, kernel: Floats, place: None) -> DrawnStep:
        return self.step(kernel)


@dataclass(frozen=True)
class _Residual:
    """Residual sublayer on the matrix of all pairs (E13)."""

    alpha: Number
    branches: tuple[Any, ...]
    width: float

    def forward(self, kernel: Floats, place: None) -> DrawnStep:
        steps = [branch.forward(kernel, place) for branch in self.branches]
        out: Floats = sum((step.kernel for step in steps), float(self.alpha) ** 2 * kernel)
        return DrawnStep(out, steps[0].attention)


@dataclass(frozen=True)
class _Draw:
    """Attention of one block drawn, norms and MLP exact."""

    spec: ModelSpec
    rng: np.random.Generator

    @cached_property
    def _heads(self) -> Attention:
        return attention_of(self.spec)

    def block(self, kernel: Floats) -> tuple[Floats, Floats]:
        """Kernel behind the block, and statistics of its attention."""
        norm, layers = _Drawn(self.norm), (_Drawn(self._attention), _Drawn(self._mlp))
        branches = sublayers(self.spec, norm, *layers)
        whole: Any = Sequence(ordered(self.spec, norm, branches, _Residual))
        step = whole.forward(kernel, None)
        return step.kernel, step.attention

    def norm(self, kernel: Floats) -> DrawnStep:
        """Norm of every token (E14)."""
        _alive(kernel)
        return DrawnStep(float(self.spec.norm_gain) ** 2 * _cosines(kernel))

    def _attention(self, kernel: Floats) -> DrawnStep:
        """E25b, without the residual; with participation, overlap and entropy."""
        layer, root = self._heads, _root(kernel)
        total, statistics = np.zeros_like(kernel), np.zeros(3)
        for scores in self._scores(root):
            weights = softmax(scores, self._seen)
            statistics += _statistics(weights)
            if layer.centred:
                weights -= self._uniform
            total += weights @ kernel @ weights.T
        bias = 0.0 if layer.centred else float(layer.sigma_b2)
        branch = float(layer.sigma_o2) * (float(layer.sigma_v2) / layer.heads * total + bias)
        return DrawnStep((branch + branch.T) / 2, statistics / layer.heads)

    def _scores(self, root: Floats) -> Iterator[Floats]:
        """Scores of every head (E1, E25b)."""
        layer, size = self._heads, _head_size(self._heads)
        scale = float(layer.beta) * math.sqrt(math.log(len(root)) / (size or 1))
        for head in range(layer.heads):
            if head % layer.heads_per_key == 0:
                keys = root if size is None else self._keys(root, size)
            query = root @ self.rng.standard_normal((root.shape[1], keys.shape[1]))
            yield np.asarray(scale * (self._rotated(query) @ keys.T))

    def _keys(self, root: Floats, size: int) -> Floats:
        """Keys of one group of heads."""
        rank = root.shape[1]
        if size >= rank and self._angles is None:
            return np.asarray(root @ self._wishart_root(rank, size))
        return self._rotated(root @ self.rng.standard_normal((rank, size)))

    def _wishart_root(self, rank: int, size: int) -> Floats:
        """Triangular factor L of Z = L V, Z normal (rank, size) and V orthonormal (Bartlett 1933).

        V times an independent normal matrix is a normal matrix of shape (rank, rank): wide heads
        need no more numbers than the rank of the kernel.
        """
        root = np.tril(self.rng.standard_normal((rank, rank)), -1)
        np.fill_diagonal(root, np.sqrt(self.rng.chisquare(size - np.arange(rank))))
        return root

    def _rotated(self, y: Floats) -> Floats:
        """Turn queries or keys by their positions (theory.md 2d)."""
        return y if self._angles is None else rotated(y, self._angles)

    @cached_property
    def _angles(self) -> Floats | None:
        return angles(self._heads, int(self._heads.context))

    @cached_property
    def _seen(self) -> Bools:
        return self._heads.seen(int(self._heads.context))

    @cached_property
    def _uniform(self) -> Floats:
        """Equal weights on all keys that a query sees (E11)."""
        return np.asarray(self._seen / self._seen.sum(axis=1, keepdims=True))

    @cached_property
    def _perceptron(self) -> Mlp:
        return mlp_of(self.spec)

    def _mlp(self, kernel: Floats) -> DrawnStep:
        """MLP on every entry (E15)."""
        if any_norm(self.spec) is None:
            return DrawnStep(self._homogeneous(kernel))
        q = float(self.spec.norm_gain) ** 2
        out = self._perceptron.at(State(q, np.maximum(q - kernel, 0.0)))
        branch = np.asarray(out.q - out.gap)
        np.fill_diagonal(branch, out.q)
        return DrawnStep(branch)

    def _homogeneous(self, kernel: Floats) -> Floats:
        """MLP on tokens of different variances: phi(a x) = a phi(x) reduces them to one."""
        spec = self.spec
        inner = float(spec.sigma_w1_2) * kernel + float(spec.sigma_b2)
        root = np.sqrt(np.diagonal(inner))
        dual = activation(spec.activation)(np.array(1.0))
        unlike = np.maximum(1 - _cosines(inner), 0.0)
        branch = np.outer(root, root) * (dual.variance - dual.drop(unlike))
        if spec.gated:
            branch *= inner
        return float(spec.sigma_w2_2) * branch + float(spec.sigma_b2)


def _alive(kernel: Floats) -> None:
    """Refuse a kernel whose cosines are not defined."""
    q = np.diagonal(kernel)
    if not (np.isfinite(kernel).all() and (q > 0).all()):
        raise AssumptionError("the state of some token vanishes or overflows on the way")


def _cosines(kernel: Floats) -> Floats:
    """Cosines of the tokens; zero where one has no variance."""
    root = np.sqrt(np.diagonal(kernel))
    square = np.outer(root, root)
    out: Floats = np.zeros_like(kernel)
    np.divide(kernel, square, out=out, where=square > 0)
    np.fill_diagonal(out, 1.0)
    return out


def _root(kernel: Floats) -> Floats:
    """R with R R^T = K, by pivoted Cholesky: repeated tokens make K singular, which costs no rank.

    Rounding, which differs between processors, decides neither the order nor the rank, on which
    all draws depend: of tokens that are equally far the earliest comes first, and the rank ends
    where less than `UNSEEN` of the variance of every token is left, far above rounding.
    """
    from scipy.linalg.lapack import dpstrf

    earlier = np.linspace(1.0, 0.5, len(kernel))
    cosines = _cosines(kernel) * np.outer(earlier, earlier)
    factor, pivots, rank, _ = dpstrf(cosines, tol=UNSEEN / 4, lower=1)
    root = np.empty((len(kernel), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return root * (np.sqrt(np.diagonal(kernel)) / earlier)[:, None]


def _statistics(weights: Floats) -> Floats:
    """Participation ratio, overlap of two queries, entropy of a matrix of attention weights."""
    count_ = len(weights)
    squares = float(np.square(weights).sum())
    pairs = (float(np.square(weights.sum(axis=0)).sum()) - squares) / (count_ * (count_ - 1))
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return np.array([squares / count_, pairs, -float((weights * logs).sum()) / count_])


def _described(kernel: Floats, blocks: int) -> Arrays:
    """Block means of the cosines, mean cosine off the diagonal, mean variance."""
    _alive(kernel)
    cosines, number = _cosines(kernel), len(kernel)
    edges = np.linspace(0, number, blocks + 1).round().astype(int)
    size = np.diff(edges)
    sums = np.add.reduceat(np.add.reduceat(cosines, edges[:-1], axis=0), edges[:-1], axis=1)
    rho = (cosines.sum() - number) / (number * (number - 1))
    q = np.diagonal(kernel).mean()
    return {"samples": sums / np.outer(size, size), "rho": np.array(rho), "q": np.array(q)}
