"""A random network drawn from the numbers one types: the std of every matrix, the multipliers.

It knows nothing of variances times fan-in, and so tests every conversion to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.errors import AssumptionError
from sigprop.model.spec import ModelSpec
from sigprop.simulation.architecture import check
from sigprop.simulation.network_numpy import ACTIVATIONS

__all__ = ["Typed", "Walk", "overlap"]

PLAIN = {"score": 1.0, "attn_branch": 1.0, "mlp_branch": 1.0, "skip": 1.0, "norm_gain": 1.0}
STEP = 1e-5  # of a perturbation, relative to what is perturbed
Weights = dict[str, Floats]


class Walk(NamedTuple):
    """Streams of one network and its attention.

    Attributes
    ----------
    streams : list of array, shape (T, d)
        The input and the stream after every block.
    weights : list of array, shape (H, T, T)
        Attention of every block.
    """

    streams: list[Floats]
    weights: list[Floats]


@dataclass(frozen=True)
class Typed:
    """A network of an architecture with typed scales.

    Parameters
    ----------
    spec : ModelSpec
        The architecture, with a width; of its numbers only context, rho0 and q0 count.
    std : mapping of str to float
        Standard deviations of query, key, value, output, mlp_in and mlp_out.
    multipliers : mapping of str to float
        score, attn_branch, mlp_branch, skip and norm_gain; one where it is missing.
    bias : float
        Standard deviation of the biases of value and MLP.
    uniform : bool
        Uniform entries rather than Gaussian ones.
    sub_norm : bool
        Norms before the output projections too.
    skips : sequence of float, optional
        Skip multiplier of each of the 2 L sublayers, in place of one for all.

    Raises
    ------
    DomainError
        If no finite network realises the architecture.
    AssumptionError
        If it has rotary positions, a window, a prefix, documents, a chunk or centred attention.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation.typed_weights import Typed
    >>> spec = ModelSpec(depth=2, context=8, width=16, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> names = ("query", "key", "value", "output", "mlp_in", "mlp_out")
    >>> network = Typed(spec, dict.fromkeys(names, 0.25))
    >>> len(network.walk(np.random.default_rng(1)).streams)
    3
    """

    spec: ModelSpec
    std: Mapping[str, float]
    multipliers: Mapping[str, float] | None = None
    bias: float = 0.0
    uniform: bool = False
    sub_norm: bool = False
    skips: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check(self.spec)
        odd = self.spec.rotary_base is not None or self.spec.window or self.spec.prefix
        if odd or self.spec.is_segmented or self.spec.attention != "softmax":
            raise AssumptionError("a typed network has plain softmax attention without rotation")

    def size(self, name: str) -> float:
        """Multiplier of a name."""
        return (self.multipliers or PLAIN).get(name, 1.0)

    def draw(self, rng: np.random.Generator) -> list[Weights]:
        """Matrices of every block, inputs by outputs.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the weights.

        Returns
        -------
        list of dict of str to array
            query, key, value, output, mlp_in, mlp_out, the gate if there is one, and biases.
        """
        return [self._layer(rng) for _ in range(self.spec.depth)]

    def _layer(self, rng: np.random.Generator) -> Weights:
        d = self.spec.width or 1
        hidden = max(1, round(d * self.spec.mlp_ratio))
        shapes = {name: (d, d) for name in ("query", "key", "value", "output")}
        shapes |= {"mlp_in": (d, hidden), "mlp_out": (hidden, d)}
        out = {name: self.std[name] * self._unit(rng, *shape) for name, shape in shapes.items()}
        if self.spec.gated:
            out["gate"] = self.std["mlp_in"] * self._unit(rng, d, hidden)
        for name, n in (("b_value", d), ("b_in", hidden), ("b_out", d)):
            out[name] = self.bias * self._unit(rng, n)
        return out | {name: self._shared(out[name]) for name in ("key", "value", "b_value")}

    def _shared(self, matrix: Floats) -> Floats:
        """Columns in which every group of query heads has those of its first head."""
        heads = matrix.reshape(*matrix.shape[:-1], self.spec.heads, -1)
        kept = heads[..., :: self.spec.heads_per_key, :]
        return np.repeat(kept, self.spec.heads_per_key, axis=-2).reshape(matrix.shape)

    def _unit(self, rng: np.random.Generator, *shape: int) -> Floats:
        if self.uniform:
            return np.asarray(rng.uniform(-math.sqrt(3), math.sqrt(3), shape))
        return np.asarray(rng.standard_normal(shape))

    def tokens(self, rng: np.random.Generator) -> Floats:
        """Gaussian tokens of overlap rho0 and variance q0, normed in a post-norm stack.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the tokens.

        Returns
        -------
        array, shape (T, d)
            The tokens.
        """
        spec, shape = self.spec, (int(self.spec.context), self.spec.width or 1)
        rho = float(spec.rho0)
        common, own = rng.standard_normal(shape[1]), rng.standard_normal(shape)
        x = _normed(math.sqrt(rho) * common + math.sqrt(1 - rho) * own)
        return x * (self.size("norm_gain") if spec.ends_in_norm else math.sqrt(float(spec.q0)))

    def walk(self, rng: np.random.Generator) -> Walk:
        """Draw tokens and matrices, and run.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        Walk
            Streams and attention.
        """
        return self.run(self.tokens(rng), self.draw(rng))

    def run(self, x: Floats, layers: list[Weights], first: int = 0) -> Walk:
        """Run the blocks from `first` on.

        Parameters
        ----------
        x : array, shape (T, d)
            What enters block `first`.
        layers : list of dict of str to array
            Matrices of every block.
        first : int
            Block to start from.

        Returns
        -------
        Walk
            Streams from x on, and attention.
        """
        streams, weights = [x], []
        for number in range(first, len(layers)):
            x, seen = self._block(x, layers[number], number)
            streams.append(x)
            weights.append(seen)
        return Walk(streams, weights)

    def _block(self, x: Floats, layer: Weights, number: int) -> tuple[Floats, Floats]:
        skips = (self.size("skip"),) * 2 if self.skips is None else self.skips[2 * number :][:2]
        seen: list[Floats] = []
        if self.spec.parallel:
            read = self.normed(x)
            branch, weights = self.attention(read, layer)
            return skips[0] * x + branch + self.mlp(read, layer), weights

        def attend(x: Floats) -> Floats:
            branch, weights = self.attention(x, layer)
            seen.append(weights)
            return branch

        x = self._sublayer(x, skips[0], attend)
        return self._sublayer(x, skips[1], lambda x: self.mlp(x, layer)), seen[0]

    def _sublayer(self, x: Floats, skip: float, branch: Callable[[Floats], Floats]) -> Floats:
        steps: dict[str, Callable[[Floats], Floats]] = {
            "norm": self.normed,
            "branch": branch,
            "skip": lambda out: skip * x + out,
        }
        return reduce(lambda out, step: steps[step](out), self.spec.order, x)

    def normed(self, x: Floats) -> Floats:
        """Norm of every token, with the gain of the norms.

        Parameters
        ----------
        x : array, shape (T, d)
            Tokens.

        Returns
        -------
        array, shape (T, d)
            The same, behind the norm.
        """
        return self.size("norm_gain") * _normed(x)

    def scores(self, x: Floats, layer: Weights) -> Floats:
        """Scores of every head.

        Parameters
        ----------
        x : array, shape (T, d)
            What attention reads.
        layer : dict of str to array
            Matrices of the block.

        Returns
        -------
        array, shape (H, T, T)
            Queries by keys.
        """
        query, key = (self._heads(x @ layer[name]) for name in ("query", "key"))
        return np.asarray(
            self.size("score") * query @ key.swapaxes(1, 2) / math.sqrt(query.shape[2])
        )

    def _heads(self, y: Floats) -> Floats:
        return y.reshape(len(y), self.spec.heads, -1).swapaxes(0, 1)

    def attention(self, x: Floats, layer: Weights) -> tuple[Floats, Floats]:
        """Branch of attention, with its multiplier, and the attention weights.

        Parameters
        ----------
        x : array, shape (T, d)
            What it reads.
        layer : dict of str to array
            Matrices of the block.

        Returns
        -------
        branch : array, shape (T, d)
            What is added to the stream.
        weights : array, shape (H, T, T)
            Queries by keys.
        """
        scores = self.scores(x, layer)
        if self.spec.causal:
            scores[:, ~np.tri(len(x), dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        value = self._heads(x @ layer["value"] + layer["b_value"])
        mixed = (weights @ value).swapaxes(0, 1).reshape(x.shape)
        mixed = _normed(mixed) if self.sub_norm else mixed
        return self.size("attn_branch") * mixed @ layer["output"], weights

    def mlp(self, x: Floats, layer: Weights) -> Floats:
        """Branch of the MLP, with its multiplier.

        Parameters
        ----------
        x : array, shape (T, d)
            What it reads.
        layer : dict of str to array
            Matrices of the block.

        Returns
        -------
        array, shape (T, d)
            What is added to the stream.
        """
        inner = ACTIVATIONS[self.spec.activation](x @ layer["mlp_in"] + layer["b_in"])  # type: ignore[arg-type]
        if "gate" in layer:
            inner = inner * (x @ layer["gate"] + layer["b_in"])  # type: ignore[assignment]
        if self.sub_norm:
            inner = inner / np.sqrt(np.mean(inner**2, axis=1, keepdims=True))
        return np.asarray(self.size("mlp_branch") * (inner @ layer["mlp_out"] + layer["b_out"]))

    def gains(self, rng: np.random.Generator) -> Floats:
        r"""Squared Jacobian norms :math:`\|\partial x_L / \partial x_l\|^2/(T d)`, by differences.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the network and of one random direction for each block.

        Returns
        -------
        array, shape (L+1,)
            From the stream that enters each block; the last is one.
        """
        x, layers = self.tokens(rng), self.draw(rng)
        streams = self.run(x, layers).streams
        out = np.ones(len(streams))
        for first, stream in enumerate(streams[:-1]):
            step = STEP * np.std(stream) * rng.standard_normal(stream.shape)
            moved = self.run(stream + step, layers, first).streams[-1] - streams[-1]
            out[first] = np.sum(moved**2) / np.sum(step**2)
        return out

    def weight_gains(self, rng: np.random.Generator, name: str) -> Floats:
        r"""Squared gradient norms of one kind of matrix, by differences.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the network and of one random direction for each block.
        name : str
            Kind of matrix.

        Returns
        -------
        array, shape (L,)
            :math:`\|\partial x_L/\partial W_l\|^2/(T d)`: of the gradient, for independent output
            gradients of total squared norm one.
        """
        x, layers = self.tokens(rng), self.draw(rng)
        streams, out = self.run(x, layers).streams, []
        for first, layer in enumerate(layers):
            step = STEP * self.std[name]
            moved = layer | {name: layer[name] + step * rng.standard_normal(layer[name].shape)}
            end = self.run(streams[first], [*layers[:first], moved, *layers[first + 1 :]], first)
            out.append(np.sum((end.streams[-1] - streams[-1]) ** 2) / step**2 / x.size)
        return np.asarray(out)


def _normed(x: Floats) -> Floats:
    x = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True)))


def overlap(x: Floats) -> float:
    """Mean cosine of different rows.

    Parameters
    ----------
    x : array, shape (T, d)
        Tokens.

    Returns
    -------
    float
        The mean.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation.typed_weights import overlap
    >>> overlap(np.ones((3, 4)))
    1.0
    """
    unit = x / np.sqrt(np.sum(x**2, axis=1, keepdims=True))
    number = len(x)
    return float((np.sum(unit.sum(axis=0) ** 2) - number) / (number * (number - 1)))
