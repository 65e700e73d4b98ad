"""The blocks of a random transformer, whatever library multiplies its matrices."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sigprop.core.arrays import Bools, Floats
from sigprop.core.errors import AssumptionError, DomainError, require
from sigprop.model.spec import ModelSpec
from sigprop.simulation.inputs import Singles

__all__ = ["MASKED", "Architecture", "Layer", "check", "unseen"]

MASKED = -1e30  # of a score; zero times it is zero, unlike infinity


def check(spec: ModelSpec) -> None:
    """Refuse a description that no finite network realises.

    Parameters
    ----------
    spec : ModelSpec
        The description.

    Raises
    ------
    DomainError
        If the width is not given or not a multiple of the heads, or the context is not one finite
        number, or the heads are odd under rotary positions.
    AssumptionError
        If it has identity parts.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation.architecture import check
    >>> check(ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: width = None is not admissible: expected an integer to simulate
    """
    if spec.width is None:
        raise DomainError("width", None, "an integer to simulate")
    for layer in set(spec.layers):
        divides = spec.width % layer.heads == 0
        require(divides, "heads", layer.heads, f"a divisor of width = {spec.width} to simulate")
        even = layer.rotary_base is None or spec.width // layer.heads % 2 == 0
        require(even, "width", spec.width, "heads of even width under rotary positions")
    one = np.ndim(spec.context) == 0 and np.isfinite(spec.context) and spec.context <= 2**17
    require(one, "context", spec.context, "one integer in [2, 131072] to simulate")
    if spec.has_identity:
        raise AssumptionError("the simulated network knows no identity parts")


def unseen(spec: ModelSpec) -> Bools | None:
    """Keys that a query does not see.

    Parameters
    ----------
    spec : ModelSpec
        The description; window, prefix, documents and chunk are parts of a causal mask.

    Returns
    -------
    array of bool, shape (T, T), or None
        Queries by keys; None without a mask.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation.architecture import unseen
    >>> spec = ModelSpec(depth=1, context=3, beta=1, sigma_v2=1, sigma_w2=1, rho0=0, causal=True,
    ...                    window=2)
    >>> (1 - unseen(spec)).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    if not spec.causal:
        return None
    query, key = np.ogrid[: int(spec.context), : int(spec.context)]
    last = np.maximum(query, spec.prefix - 1)
    first = query - (math.inf if spec.window is None else spec.window - 1)
    own = np.arange(int(spec.context)) // (spec.chunk or int(spec.context))
    if spec.documents is not None:
        own = np.repeat(np.arange(len(spec.documents)), spec.documents)
    return np.asarray((key > last) | (key < first) | (own[:, None] != own))


class Layer(NamedTuple):
    """One block done.

    Attributes
    ----------
    x : array of float32, shape (..., T, d)
        The stream after it.
    attention : array, shape (3, ...)
        Statistics of its attention, averaged over the heads.
    """

    x: Singles
    attention: Floats


@dataclass(frozen=True)
class Architecture(ABC):
    """A random transformer, run on G settings of its scales with the same draws.

    An engine says how to draw, multiply and attend; the arrays are its own.

    Parameters
    ----------
    spec : ModelSpec
        The description, its numbers of shape (G,).
    projection : bool
        Draw the output matrix of attention; else it is its gain times the identity, which acts on
        the mean kernel alike: networks then differ less, except that values which heads share add
        up in the stream over the blocks.

    Examples
    --------
    >>> from sigprop.simulation.architecture import Architecture
    >>> from sigprop.simulation.network_numpy import Network
    >>> issubclass(Network, Architecture)
    True
    """

    spec: ModelSpec
    projection: bool = field(default=True, kw_only=True)
    statistics: list[Floats] = field(default_factory=list, repr=False, kw_only=True)

    @abstractmethod
    def _array(self, values: Any) -> Any:
        """Array of the engine from one of numpy."""

    @abstractmethod
    def _numpy(self, x: Any) -> Singles: ...

    @abstractmethod
    def _gaussian(self, *shape: int) -> Any:
        """Draw standard normal numbers, the same for all settings."""

    @abstractmethod
    def _product(self, x: Any, out: int) -> Any:
        """Multiply by a fresh matrix of standard normal numbers."""

    @abstractmethod
    def _normed(self, x: Any, own: bool) -> Any:
        """Centre and scale every token; `own` allows overwriting."""

    @abstractmethod
    def _activated(self, y: Any) -> Any:
        """Activation of the MLP; may overwrite."""

    @abstractmethod
    def _paired(self, y: Any) -> Any:
        """Pairs of neighbouring features as complex numbers."""

    @abstractmethod
    def _unpaired(self, y: Any) -> Any: ...

    @abstractmethod
    def _attended(self, query: Any, key: Any, value: Any) -> Any:
        """Attention of all heads, (..., H, T, d/H); leaves its statistics behind.

        Keys and values may be shared by groups of heads.
        """

    def run(self, x: Singles) -> Iterator[Layer]:
        """Blocks, one after the other.

        Parameters
        ----------
        x : array of float32, shape (..., T, d)
            Tokens that enter the first block; may be overwritten.

        Yields
        ------
        Layer
            The stream after each block and the statistics of its attention.
        """
        stream, layers = self._array(x), self.spec.layers
        own = {layer: replace(self, spec=layer) for layer in set(layers)}
        for layer in layers:
            stream = own[layer]._block(stream)
            yield Layer(self._numpy(stream), self.statistics.pop())

    def _block(self, x: Any) -> Any:
        if self.spec.parallel:
            read = self._normed_by_gain(x, own=False)
            return x * self._number("alpha_attn") + self._attention(read) + self._mlp(read)
        x = self._sublayer(x, "alpha_attn", self._attention)
        return self._sublayer(x, "alpha_mlp", self._mlp)

    def _sublayer(self, x: Any, alpha: str, branch: Callable[[Any], Any]) -> Any:
        out = x
        for step in self.spec.order:
            if step == "norm":
                out = self._normed_by_gain(out, own=out is not x)
            elif step == "branch":
                out = branch(out)
            else:
                out += x * self._number(alpha)
        return out

    def _normed_by_gain(self, x: Any, own: bool) -> Any:
        x = self._normed(x, own)
        x *= self._number("norm_gain")
        return x

    def _number(self, name: str, root: bool = False, scale: float = 1.0) -> Any:
        """Take a number of the spec, times a scale; shape (G, 1, 1)."""
        value = np.asarray(getattr(self.spec, name), np.float64)
        scaled = scale * (np.sqrt(value) if root else value)
        return self._array(scaled.astype(np.float32).reshape(-1, 1, 1))

    def _linear(self, x: Any, out: int, variance: str, bias: bool = True) -> Any:
        """Fresh Gaussian matrix of the given variance times fan-in, with its bias."""
        y = self._product(x, out)
        y *= self._number(variance, root=True, scale=1 / math.sqrt(x.shape[-1]))
        if bias and np.any(self.spec.sigma_b2):
            y += self._number("sigma_b2", root=True) * self._gaussian(1, out)
        return y

    def _mlp(self, x: Any) -> Any:
        assert self.spec.width is not None
        hidden = max(1, round(self.spec.mlp_ratio * self.spec.width))
        y = self._activated(self._linear(x, hidden, "sigma_w1_2"))
        if self.spec.gated:
            y *= self._linear(x, hidden, "sigma_w1_2")
        return self._linear(y, self.spec.width, "sigma_w2_2")

    def _attention(self, x: Any) -> Any:
        """All heads of one layer; leaves their statistics behind."""
        context, width = x.shape[-2:]
        shared = width // self.spec.heads_per_key
        query, key = (self._product(x, out) for out in (width, shared))
        value = self._linear(x, shared, "sigma_v2")
        # score variance beta^2 log T q^2 from unit Gaussian matrices
        scale = math.sqrt(math.log(context) / self._head_width) / width
        query *= self._number("beta", scale=scale)
        query, key = (self._heads(self._rotated(y)) for y in (query, key))
        out = self._attended(query, key, self._heads(value)).swapaxes(-2, -3).reshape(x.shape)
        if self.projection:
            return self._linear(out, width, "sigma_o2", bias=False)
        out *= self._number("sigma_o2", root=True)
        return out

    def _heads(self, y: Any) -> Any:
        """Split the last axis: (..., T, d) to (..., H, T, d/H), or fewer heads that are shared."""
        return y.reshape(*y.shape[:-1], -1, self._head_width).swapaxes(-2, -3)

    @property
    def _head_width(self) -> int:
        assert self.spec.width is not None
        return self.spec.width // self.spec.heads

    def _rotated(self, y: Any) -> Any:
        """Rotary positions (Su et al. 2021): pairs of a head's features turn with the position."""
        if self.spec.rotary_base is None:
            return y
        pairs = self._paired(y).reshape(*y.shape[:-1], -1, self._head_width // 2)
        turned = pairs * self._turn
        return self._unpaired(turned).reshape(y.shape)

    @cached_property
    def _turn(self) -> Any:
        assert self.spec.rotary_base is not None
        size = self._head_width
        rate = self.spec.rotary_base ** (-np.arange(0, size, 2) / size)
        angle = np.arange(int(self.spec.context))[:, None, None] * rate
        return self._array(np.exp(1j * angle).astype(np.complex64))

    @cached_property
    def _mask(self) -> Any:
        """Scores' places that no query sees, or None."""
        hidden = unseen(self.spec)
        return None if hidden is None else self._array(hidden)

    @cached_property
    def _uniform(self) -> Any:
        """Equal weights on all keys that a query sees, (T, T) or (1, T)."""
        hidden = unseen(self.spec)
        if hidden is None:
            hidden = np.zeros((1, int(self.spec.context)), bool)
        return self._array((~hidden / (~hidden).sum(axis=1, keepdims=True)).astype(np.float32))
