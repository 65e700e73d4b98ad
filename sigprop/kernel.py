r"""Any token kernel at infinite width: draw what the weights do, never a weight matrix (E25b).

With :math:`R R^T = K`, a head's queries and keys are :math:`Q = \sigma R Z_q`,
:math:`K_h = \sigma R Z_k`, :math:`\sigma^2 = \beta\sqrt{\log T}`, Z standard normal of the head's
width; rotated, multiplied, masked and through softmax they give A, and

.. math:: K' = \sigma_o^2 \left(\sigma_v^2 \langle A K A^T \rangle_h + \sigma_b^2\right)
          + \alpha^2 K .

MLP and norms act on every entry of K (E14, E15). Heads of infinite width have jointly Gaussian
scores :math:`\sigma^2 R Z R^T`, Z of shape T x T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.arrays import Bools, Floats, Ints, finite_or_none
from sigprop.errors import AssumptionError, DomainError, require
from sigprop.maps.activations import activation
from sigprop.maps.mlp import Mlp
from sigprop.spec import Transformer
from sigprop.state import State
from sigprop.store import Arrays, Job, gather
from sigprop.validate import choice, count

__all__ = [
    "POSITIONS",
    "Solved",
    "collect",
    "exchangeable_kernel",
    "jobs",
    "kernel_cell",
    "read_kernel",
    "solve",
    "text_kernel",
]

POSITIONS = ("sinusoidal", "learned", "none")
HOMOGENEOUS = ("relu", "linear")  # phi(a x) = a phi(x), a > 0
LARGEST = 8192  # context: three matrices of 512 MiB
TOLERANCE = 1e-8  # negative eigenvalue accepted as rounding, relative to the largest


@dataclass(frozen=True)
class Solved:
    """Kernel of every layer, averaged over position blocks, with its standard error.

    Attributes
    ----------
    samples : array, shape (draws, L+1, B, B)
        Block means of the normalised kernel of each draw, the diagonal included.
    rho : array, shape (draws, L+1)
        Mean cosine of two tokens at different positions.
    q : array, shape (draws, L+1)
        Mean variance.
    y2, overlap, entropy : arrays, shape (draws, L)
        Attention in each block: participation ratio, mean over pairs of queries of the overlap,
        entropy in nats.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.kernel import exchangeable_kernel, solve
    >>> spec = Transformer(depth=2, context=16, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> solve(spec, exchangeable_kernel(spec), draws=2, blocks=4).mean("samples").shape
    (3, 4, 4)
    """

    samples: Floats
    rho: Floats
    q: Floats
    y2: Floats
    overlap: Floats
    entropy: Floats

    def mean(self, name: str) -> Floats:
        """Mean over the draws of an attribute.

        Parameters
        ----------
        name : str
            Attribute.

        Returns
        -------
        array
            Without the first axis.
        """
        return np.asarray(getattr(self, name).mean(axis=0))

    def se(self, name: str) -> Floats:
        """Find the standard error over the draws of an attribute; NaN for one draw.

        Parameters
        ----------
        name : str
            Attribute.

        Returns
        -------
        array
            Without the first axis.
        """
        values = getattr(self, name)
        if len(values) < 2:
            return np.full(values.shape[1:], np.nan)
        return np.asarray(values.std(axis=0, ddof=1) / math.sqrt(len(values)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: layer, block_means, se, and each statistic with its NAME_se.

        Returns
        -------
        dict
            Nested lists; what is not finite is null.
        """
        out: dict[str, Any] = {
            "layer": list(range(self.rho.shape[1])),
            "draws": len(self.rho),
            "block_means": finite_or_none(self.mean("samples")),
            "se": finite_or_none(self.se("samples")),
        }
        for name in ("rho", "q", "y2", "overlap", "entropy"):
            out[name] = finite_or_none(self.mean(name))
            out[f"{name}_se"] = finite_or_none(self.se(name))
        return out


def exchangeable_kernel(spec: Transformer) -> Floats:
    """Kernel of tokens that all overlap alike, q0 on the diagonal.

    Parameters
    ----------
    spec : Transformer
        A single description.

    Returns
    -------
    array, shape (T, T)
        The kernel.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.kernel import exchangeable_kernel
    >>> spec = Transformer(depth=1, context=2, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.25)
    >>> exchangeable_kernel(spec).tolist()
    [[1.0, 0.25], [0.25, 1.0]]
    """
    context = _checked(spec)
    rho0 = float(spec.rho0)
    return float(spec.q0) * (rho0 + (1 - rho0) * np.eye(context))


def text_kernel(ids: Ints, positions: str = "sinusoidal") -> Floats:
    r"""Kernel of random embeddings of unit variance, with positions added.

    :math:`K_{ts} = 1[\mathrm{id}_t = \mathrm{id}_s] + P_{ts}`; learned positions of unit variance
    have :math:`P_{ts} = \delta_{ts}`, sinusoidal ones of base :math:`10^4` (Vaswani et al. 2017)
    :math:`P_{ts} = \frac12 \int_0^1 \cos(10^{-4u}(t - s))\,du - \mu_t \mu_s` as d grows; LayerNorm
    removes the mean over features, :math:`\mu_t = \frac12 \int_0^1 (\sin + \cos)(10^{-4u} t)\,du`.

    Parameters
    ----------
    ids : array of int, shape (T,)
        Token ids.
    positions : {"sinusoidal", "learned", "none"}
        Position code.

    Returns
    -------
    array, shape (T, T)
        The kernel.

    Raises
    ------
    DomainError
        If `positions` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.kernel import text_kernel
    >>> text_kernel(np.array([5, 7, 5]), "learned").tolist()
    [[2.0, 0.0, 1.0], [0.0, 2.0, 0.0], [1.0, 0.0, 2.0]]
    """
    choice("positions", positions, POSITIONS)
    same = np.equal.outer(ids, ids).astype(np.float64)
    if positions == "learned":
        same += np.eye(len(ids))
    if positions == "sinusoidal":
        same += _sinusoidal(len(ids))
    return same


def _sinusoidal(context: int) -> Floats:
    """Kernel of sines and cosines of base 10^4, their mean over the features removed."""
    angle = np.arange(context)[:, None] * 1e4 ** -((np.arange(2048) + 0.5) / 2048)
    features = np.hstack([np.sin(angle), np.cos(angle)])
    features -= features.mean(axis=1, keepdims=True)
    return np.asarray(features @ features.T / features.shape[1])


def read_kernel(path: str | Path) -> Floats:
    """Read a kernel from a .npy file.

    Parameters
    ----------
    path : str or Path
        File with a square array of numbers.

    Returns
    -------
    array, shape (T, T)
        The kernel.

    Raises
    ------
    DomainError
        If the file is not that.

    Examples
    --------
    >>> from sigprop.kernel import read_kernel
    >>> read_kernel("/nowhere/k.npy")
    Traceback (most recent call last):
        ...
    sigprop.errors.DomainError: kernel = '/nowhere/k.npy' is not admissible: ...
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DomainError("kernel", str(path), f"a .npy file of numbers ({error})") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise DomainError("kernel", str(path), "a .npy file of real numbers")
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise DomainError("kernel", str(path), f"a square array, not one of shape {values.shape}")
    return values.astype(np.float64)


def solve(
    spec: Transformer,
    kernel: Floats,
    *,
    draws: int = 8,
    blocks: int = 16,
    first_seed: int = 0,
    workers: int = 1,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Solved:
    """Follow a token kernel through the layers, at infinite width.

    Parameters
    ----------
    spec : Transformer
        A single description. Its width only sets the width of its heads, width / heads; None is
        the limit of wide heads. One draw has as many heads as the spec.
    kernel : array, shape (T, T)
        Symmetric, positive semidefinite, of positive diagonal. Post-norm uses its cosines alone.
    draws : int
        Independent draws, in [1, 100000].
    blocks : int
        Position blocks, in [1, T].
    first_seed : int
        Seeds are first_seed, first_seed + 1, ...
    workers, folder, progress
        As in `sigprop.store.gather`.

    Returns
    -------
    Solved
        Block means and attention statistics of every draw.

    Raises
    ------
    DomainError
        If the kernel is not admissible or the spec has arrays.
    AssumptionError
        If the spec asks for rotary positions without a head width, or for a smooth activation
        without norms, where tokens have different variances.

    Notes
    -----
    theory.md E25b (new there). Exact at any T and head width for one draw's statistics; what
    is left is the sampling error, which is reported.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.kernel import exchangeable_kernel, solve
    >>> spec = Transformer(depth=1, context=32, beta=0, sigma_v2=1, sigma_w2=0, rho0=0, causal=True)
    >>> solve(spec, exchangeable_kernel(spec), draws=1, blocks=2).rho.round(4).tolist()
    [[0.0, 0.0489]]
    """
    todo = jobs(spec, kernel, draws=draws, blocks=blocks, first_seed=first_seed)
    return collect(gather(todo, folder, workers, progress))


def jobs(
    spec: Transformer, kernel: Floats, *, draws: int, blocks: int, first_seed: int = 0
) -> list[Job]:
    """One job for each draw of `solve`, to be gathered with others.

    Parameters
    ----------
    spec, kernel, draws, blocks, first_seed
        As in `solve`.

    Returns
    -------
    list of Job
        In the order of the draws.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.kernel import exchangeable_kernel, jobs
    >>> spec = Transformer(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> len(jobs(spec, exchangeable_kernel(spec), draws=3, blocks=2))
    3
    """
    context = _checked(spec)
    _admissible(kernel, context)
    known = {
        "spec": spec.to_dict(),
        "kernel": kernel,
        "blocks": count("blocks", blocks, 1, context),
    }
    first = count("first_seed", first_seed, 0, 2**62)
    number = count("draws", draws, 1, 100_000)
    return [Job(kernel_cell, known | {"seed": seed}) for seed in range(first, first + number)]


def collect(found: list[Arrays]) -> Solved:
    """Put the draws of one `jobs` together.

    Parameters
    ----------
    found : list of dict of str to array
        Their results.

    Returns
    -------
    Solved
        All draws.
    """
    return Solved(**{name: np.stack([draw[name] for draw in found]) for name in found[0]})


def kernel_cell(spec: dict[str, Any], kernel: Floats, blocks: int, seed: int) -> Arrays:
    """Follow one draw through the layers: the job of one seed.

    Parameters
    ----------
    spec : dict
        As from `Transformer.to_dict`.
    kernel, blocks, seed
        As in `solve`.

    Returns
    -------
    dict of str to array
        The attributes of `Solved` without their first axis.
    """
    return _Draw(Transformer.from_dict(spec), np.random.default_rng(seed)).run(kernel, blocks)


def _checked(spec: Transformer) -> int:
    """Context of a spec that the solver takes."""
    if spec.shape:
        raise AssumptionError(f"the kernel solver needs a single spec, not shape {spec.shape}")
    context = float(spec.context)
    require(context <= LARGEST, "context", context, f"an integer in [2, {LARGEST}] for a kernel")
    if spec.norm == "none" and spec.activation not in HOMOGENEOUS:
        raise AssumptionError(
            f"without norms tokens have different variances, for which {spec.activation} has no "
            f"dual here: use a norm, or one of {', '.join(HOMOGENEOUS)}"
        )
    _head_size(spec)
    return int(context)


def _head_size(spec: Transformer) -> int | None:
    if spec.width is None:
        if spec.rotary_base is not None:
            raise AssumptionError("rotary positions depend on the width of a head: give width")
        return None
    size, rest = divmod(spec.width, spec.heads)
    require(rest == 0, "heads", spec.heads, f"a divisor of width = {spec.width}")
    even = spec.rotary_base is None or size % 2 == 0
    require(even, "width", spec.width, "heads of even width under rotary positions")
    return size


def _admissible(kernel: Floats, context: int) -> None:
    shape = kernel.shape == (context, context)
    require(shape, "kernel", kernel.shape, f"shape {(context, context)}, the context squared")
    require(np.isfinite(kernel), "kernel", kernel, "finite numbers")
    diagonal = np.diagonal(kernel)
    require(diagonal > 0, "kernel", diagonal, "a positive diagonal")
    worst = float(np.abs(kernel - kernel.T).max())
    require(worst <= TOLERANCE * diagonal.max(), "kernel", worst, "a symmetric matrix")
    values = np.linalg.eigvalsh(kernel)
    require(values[0] >= -TOLERANCE * values[-1], "kernel", values[0], "no negative eigenvalue")


@dataclass(frozen=True)
class _Draw:
    """One draw of all heads of all layers."""

    spec: Transformer
    rng: np.random.Generator

    def run(self, kernel: Floats, blocks: int) -> Arrays:
        if self.spec.norm == "post":
            kernel = self._norm(kernel)
        kernels, heads = [_described(kernel, blocks)], []
        for _ in range(self.spec.depth):
            kernel, attention = self._block(kernel)
            heads.append(attention)
            kernels.append(_described(kernel, blocks))
        names = ("y2", "overlap", "entropy")
        out = {name: np.stack([k[name] for k in kernels]) for name in kernels[0]}
        return out | dict(zip(names, np.stack(heads, axis=1), strict=True))

    def _block(self, kernel: Floats) -> tuple[Floats, Floats]:
        spec = self.spec
        read = self._norm(kernel) if spec.norm == "pre" else kernel
        branch, attention = self._attention(read)
        kernel = float(spec.alpha_attn) ** 2 * kernel + branch
        if spec.parallel:
            return kernel + self._mlp(read), attention
        read = kernel if spec.norm == "none" else self._norm(kernel)
        skip = kernel if spec.norm == "pre" else read
        kernel = float(spec.alpha_mlp) ** 2 * skip + self._mlp(read)
        return (self._norm(kernel) if spec.norm == "post" else kernel), attention

    def _norm(self, kernel: Floats) -> Floats:
        """Norm of every token (E14)."""
        return float(self.spec.norm_gain) ** 2 * _cosines(kernel)

    def _attention(self, kernel: Floats) -> tuple[Floats, Floats]:
        """E25b, without the residual; with participation, overlap and entropy."""
        spec, root = self.spec, _root(kernel)
        total, statistics = np.zeros_like(kernel), np.zeros(3)
        for _ in range(spec.heads):
            weights = self._softmax(self._scores(root))
            statistics += _statistics(weights)
            if spec.attention == "centred":
                weights -= self._uniform
            total += weights @ kernel @ weights.T
        bias = 0.0 if spec.attention == "centred" else float(spec.sigma_b2)
        branch = float(spec.sigma_o2) * (float(spec.sigma_v2) / spec.heads * total + bias)
        return (branch + branch.T) / 2, statistics / spec.heads

    def _scores(self, root: Floats) -> Floats:
        """Scores of one head (E1, E25b)."""
        rank, size = root.shape[1], _head_size(self.spec)
        variance = float(self.spec.beta) * math.sqrt(math.log(len(root)))
        if size is None:
            return np.asarray(variance * (root @ self.rng.standard_normal((rank, rank)) @ root.T))
        query, key = (root @ self.rng.standard_normal((rank, size)) for _ in range(2))
        scores: Floats = variance / math.sqrt(size) * (self._turned(query) @ self._turned(key).T)
        return scores

    def _turned(self, y: Floats) -> Floats:
        """Rotary positions: pairs of features turn with the position (theory.md 2d)."""
        base = self.spec.rotary_base
        if base is None:
            return y
        rates = base ** (-np.arange(0, y.shape[1], 2) / y.shape[1])
        turn = np.exp(1j * np.arange(len(y))[:, None] * rates)
        pairs = np.ascontiguousarray(y).view(np.complex128) * turn
        return np.asarray(pairs.view(np.float64))

    @cached_property
    def _mask(self) -> Bools:
        return np.tri(int(self.spec.context), dtype=bool)

    @cached_property
    def _uniform(self) -> Floats:
        """Equal weights on all keys that a query sees (E11)."""
        context = int(self.spec.context)
        if not self.spec.causal:
            return np.full((context, context), 1 / context)
        return self._mask / np.arange(1, context + 1)[:, None]

    def _softmax(self, scores: Floats) -> Floats:
        if self.spec.causal:
            scores = np.where(self._mask, scores, -np.inf)
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        return scores

    @cached_property
    def _perceptron(self) -> Mlp:
        spec = self.spec
        unit = None if spec.norm == "none" else float(spec.norm_gain) ** 2
        dual = activation(spec.activation)
        scales = (float(spec.sigma_w1_2), float(spec.sigma_w2_2), float(spec.sigma_b2))
        return Mlp(dual, *scales, spec.gated, unit)

    def _mlp(self, kernel: Floats) -> Floats:
        """MLP on every entry (E15)."""
        if self.spec.norm == "none":
            return self._homogeneous(kernel)
        q = float(self.spec.norm_gain) ** 2
        out = self._perceptron(State(q, np.maximum(q - kernel, 0.0)))
        branch = np.asarray(out.q - out.gap)
        np.fill_diagonal(branch, out.q)
        return branch

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


def _cosines(kernel: Floats) -> Floats:
    root = np.sqrt(np.diagonal(kernel))
    out: Floats = kernel / np.outer(root, root)
    np.fill_diagonal(out, 1.0)
    return out


def _root(kernel: Floats) -> Floats:
    """R with R R^T = K, by pivoted Cholesky: repeated tokens make K singular, which costs no rank.

    It stops at the rounding error of the largest variance times T.
    """
    from scipy.linalg.lapack import dpstrf

    factor, pivots, rank, _ = dpstrf(kernel, lower=1)
    root = np.empty((len(kernel), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return root


def _statistics(weights: Floats) -> Floats:
    """Participation ratio, overlap of two queries, entropy of a matrix of attention weights."""
    count_ = len(weights)
    squares = float(np.square(weights).sum())
    pairs = (float(np.square(weights.sum(axis=0)).sum()) - squares) / (count_ * (count_ - 1))
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return np.array([squares / count_, pairs, -float((weights * logs).sum()) / count_])


def _described(kernel: Floats, blocks: int) -> Arrays:
    """Block means of the cosines, mean cosine off the diagonal, mean variance."""
    cosines, number = _cosines(kernel), len(kernel)
    edges = np.linspace(0, number, blocks + 1).round().astype(int)
    size = np.diff(edges)
    sums = np.add.reduceat(np.add.reduceat(cosines, edges[:-1], axis=0), edges[:-1], axis=1)
    rho = (cosines.sum() - number) / (number * (number - 1))
    q = np.diagonal(kernel).mean()
    return {"samples": sums / np.outer(size, size), "rho": np.array(rho), "q": np.array(q)}
