"""A random transformer: matrices are drawn when a layer needs them and forgotten after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sigprop.arrays import Floats
from sigprop.errors import DomainError, require
from sigprop.simulate.inputs import Singles, gaussian, layer_norm
from sigprop.simulate.measure import attended
from sigprop.spec import Transformer

__all__ = ["Layer", "Network", "check"]

MASKED = np.float32(-1e30)  # of a score; zero times it is zero, unlike infinity


def check(spec: Transformer) -> None:
    """Refuse a description that no finite network realises.

    Parameters
    ----------
    spec : Transformer
        The description.

    Raises
    ------
    DomainError
        If the width is not given or not a multiple of the heads, or the context is not one finite
        number, or the heads are odd under rotary positions.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.simulate.network import check
    >>> check(Transformer(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    Traceback (most recent call last):
        ...
    sigprop.errors.DomainError: width = None is not admissible: expected an integer to simulate
    """
    if spec.width is None:
        raise DomainError("width", None, "an integer to simulate")
    divides = spec.width % spec.heads == 0
    require(divides, "heads", spec.heads, f"a divisor of width = {spec.width} to simulate")
    one = np.ndim(spec.context) == 0 and np.isfinite(spec.context) and spec.context <= 2**17
    require(one, "context", spec.context, "one integer in [2, 131072] to simulate")
    even = spec.rotary_base is None or spec.width // spec.heads % 2 == 0
    require(even, "width", spec.width, "heads of even width under rotary positions")


class Layer(NamedTuple):
    """One block done.

    Attributes
    ----------
    x : array of float32, shape (G, T, d)
        The stream after it.
    attention : array, shape (3, G)
        Statistics of its attention, averaged over the heads.
    """

    x: Singles
    attention: Floats


@dataclass(frozen=True)
class Network:
    """A random transformer, run on G settings of its scales with the same draws.

    Parameters
    ----------
    spec : Transformer
        The description, its numbers of shape (G,).
    rng : numpy.random.Generator
        Source of the weights.
    projection : bool
        Draw the output matrix of attention; else it is a rotation with the same gain, which acts on
        the kernel as its gain alone, without the seed-to-seed spread of a matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import Transformer
    >>> from sigprop.simulate.inputs import gaussian
    >>> from sigprop.simulate.network import Network
    >>> spec = Transformer(depth=2, context=8, width=4, beta=[1.0], sigma_v2=1, sigma_w2=1, rho0=0)
    >>> rng = np.random.Generator(np.random.SFC64(1))
    >>> layers = Network(spec, rng).run(gaussian(rng, 1, 8, 4))
    >>> [layer.x.shape for layer in layers]
    [(1, 8, 4), (1, 8, 4)]
    """

    spec: Transformer
    rng: np.random.Generator
    projection: bool = False
    statistics: list[Floats] = field(default_factory=list, repr=False)

    def run(self, x: Singles) -> Iterator[Layer]:
        """Blocks, one after the other.

        Parameters
        ----------
        x : array of float32, shape (G, T, d)
            Tokens that enter the first block.

        Yields
        ------
        Layer
            The stream after each block and the statistics of its attention.
        """
        for _ in range(self.spec.depth):
            x = self._block(x)
            yield Layer(x, self.statistics.pop())

    def _block(self, x: Singles) -> Singles:
        if self.spec.parallel:
            read = self._norm("pre", x)
            return self._scaled("alpha_attn", x) + self._attention(read) + self._mlp(read)
        x = self._sublayer(x, "alpha_attn", self._attention)
        return self._sublayer(x, "alpha_mlp", self._mlp)

    def _sublayer(self, x: Singles, alpha: str, branch: Callable[[Singles], Singles]) -> Singles:
        out = branch(self._norm("pre", x))
        out += self._scaled(alpha, x)
        return self._norm("post", out, own=True)

    def _norm(self, place: str, x: Singles, own: bool = False) -> Singles:
        """Norm where the spec has one at this place; `own` allows overwriting."""
        if self.spec.norm != place:
            return x
        x = layer_norm(x if own else x.copy())
        x *= self._number("norm_gain")
        return x

    def _number(self, name: str, root: bool = False) -> Singles:
        value = np.asarray(getattr(self.spec, name), np.float64)
        return np.asarray(np.sqrt(value) if root else value, np.float32).reshape(-1, 1, 1)

    def _scaled(self, name: str, x: Singles) -> Singles:
        return x * self._number(name)

    def _linear(self, x: Singles, out: int, variance: str, bias: bool = True) -> Singles:
        """Fresh Gaussian matrix of the given variance times fan-in, with its bias."""
        fan_in = x.shape[-1]
        y = (x.reshape(-1, fan_in) @ gaussian(self.rng, fan_in, out)).reshape(*x.shape[:-1], out)
        y *= self._number(variance, root=True) / np.float32(math.sqrt(fan_in))
        if bias and np.any(self.spec.sigma_b2):
            y += self._number("sigma_b2", root=True) * gaussian(self.rng, out)
        return y

    def _mlp(self, x: Singles) -> Singles:
        assert self.spec.width is not None
        hidden = max(1, round(self.spec.mlp_ratio * self.spec.width))
        y = ACTIVATIONS[self.spec.activation](self._linear(x, hidden, "sigma_w1_2"))
        if self.spec.gated:
            y *= self._linear(x, hidden, "sigma_w1_2")
        return self._linear(y, self.spec.width, "sigma_w2_2")

    def _attention(self, x: Singles) -> Singles:
        """All heads of one layer; leaves their statistics behind."""
        spec, (points, context, width) = self.spec, x.shape
        shared = width // spec.heads_per_key
        query, key = (
            (x.reshape(-1, width) @ gaussian(self.rng, width, n)).reshape(*x.shape[:2], n)
            for n in (width, shared)
        )
        value = self._linear(x, shared, "sigma_v2")
        # score variance beta^2 log T q^2 from unit Gaussian matrices
        query *= self._number("beta") * np.float32(
            math.sqrt(math.log(context) / (width // spec.heads)) / width
        )
        query, key = (self._heads(self._rotated(y)) for y in (query, key))
        value = self._heads(value)
        out = np.empty_like(query)
        found = np.array([[self._head(query, key, value, out, (g, h)) for h in range(spec.heads)]
                          for g in range(points)])  # fmt: skip
        self.statistics.append(found.mean(axis=1).T)
        return self._projected(out.transpose(0, 2, 1, 3).reshape(x.shape))

    def _heads(self, y: Singles) -> Singles:
        """Split the last axis: (G, T, d) to (G, H, T, d/H), or fewer heads that are shared."""
        return y.reshape(*y.shape[:2], -1, self._head_width).transpose(0, 2, 1, 3)

    @property
    def _head_width(self) -> int:
        assert self.spec.width is not None
        return self.spec.width // self.spec.heads

    def _head(
        self, query: Singles, key: Singles, value: Singles, out: Singles, at: tuple[int, int]
    ) -> Floats:
        """Attention of one head of one setting, into `out`."""
        shared = (at[0], at[1] // self.spec.heads_per_key)
        scores = query[at] @ key[shared].T
        if self.spec.causal:
            scores[np.triu_indices(len(scores), 1)] = MASKED
        weights, total, statistics = attended(scores, np.empty_like(scores))
        np.matmul(weights, value[shared], out=out[at])
        out[at] /= total[:, None]
        if self.spec.attention == "centred":
            out[at] -= self._uniform(value[shared])
        return statistics

    def _uniform(self, value: Singles) -> Singles:
        """Mean of the values that each query sees."""
        if not self.spec.causal:
            return np.asarray(value.mean(axis=0, keepdims=True))
        seen = np.arange(1, len(value) + 1, dtype=np.float32)[:, None]
        return np.asarray(value.cumsum(axis=0) / seen, np.float32)

    def _rotated(self, y: Singles) -> Singles:
        """Rotary positions (Su et al. 2021): pairs of a head's features turn with the position."""
        base, size = self.spec.rotary_base, self._head_width
        if base is None:
            return y
        angle = np.arange(y.shape[1])[:, None, None] * base ** (-np.arange(0, size, 2) / size)
        turn = np.exp(1j * angle).astype(np.complex64)
        pairs = np.ascontiguousarray(y).view(np.complex64).reshape(*y.shape[:2], -1, size // 2)
        return np.asarray((pairs * turn).view(np.float32).reshape(y.shape))

    def _projected(self, y: Singles) -> Singles:
        if self.projection:
            return self._linear(y, y.shape[-1], "sigma_o2", bias=False)
        y *= self._number("sigma_o2", root=True)
        return y


def _relu(y: Singles) -> Singles:
    return np.maximum(y, 0, out=y)


def _erf(y: Singles) -> Singles:
    """Error function to 6e-7 (Abramowitz & Stegun 7.1.26), in a third of the time of scipy."""
    t = np.abs(y)
    t *= np.float32(0.3275911)
    t += 1
    np.divide(1, t, out=t)
    sum_ = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        sum_ += np.float32(coefficient)
        sum_ *= t
    np.square(y, out=t)
    np.negative(t, out=t)
    np.exp(t, out=t)
    sum_ *= t
    np.subtract(1, sum_, out=sum_)
    return np.copysign(sum_, y, out=sum_)


def _gelu(y: Singles) -> Singles:
    y *= (1 + _erf(y * np.float32(math.sqrt(0.5)))) / 2
    return y


def _silu(y: Singles) -> Singles:
    y *= (1 + np.tanh(y / 2)) / 2
    return y


ACTIVATIONS: dict[str, Callable[[Singles], Singles]] = {
    "relu": _relu,
    "gelu": _gelu,
    "erf": _erf,
    "silu": _silu,
    "tanh": np.tanh,
    "linear": lambda y: y,
}
