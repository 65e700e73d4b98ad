"""A random transformer: matrices are drawn when a layer needs them and forgotten after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.simulation.architecture import MASKED, Architecture
from sigprop.simulation.inputs import Singles, gaussian, layer_norm
from sigprop.simulation.statistics import attended

__all__ = ["ACTIVATIONS", "Network"]

CHUNK = 2**15  # entries at a time, to stay in the cache


@dataclass(frozen=True)
class Network(Architecture):
    """A random transformer in numpy; arrays have the shape (G, T, d).

    Parameters
    ----------
    spec, projection
        As in `Architecture`.
    rng : numpy.random.Generator
        Source of the weights.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation.inputs import gaussian
    >>> from sigprop.simulation.network_numpy import Network
    >>> spec = ModelSpec(depth=2, context=8, width=4, beta=[1.0], sigma_v2=1, sigma_w2=1, rho0=0)
    >>> rng = np.random.Generator(np.random.SFC64(1))
    >>> layers = Network(spec, rng).run(gaussian(rng, 1, 8, 4))
    >>> [layer.x.shape for layer in layers]
    [(1, 8, 4), (1, 8, 4)]
    """

    rng: np.random.Generator

    def _array(self, values: Any) -> Any:
        return values

    def _numpy(self, x: Any) -> Singles:
        return np.asarray(x)

    def _gaussian(self, *shape: int) -> Singles:
        return gaussian(self.rng, *shape)

    def _product(self, x: Singles, out: int) -> Singles:
        fan_in = x.shape[-1]
        y = x.reshape(-1, fan_in) @ self._gaussian(fan_in, out)
        return np.asarray(y.reshape(*x.shape[:-1], out))

    def _normed(self, x: Singles, own: bool) -> Singles:
        return layer_norm(x if own else x.copy())

    def _activated(self, y: Singles) -> Singles:
        function, flat = ACTIVATIONS[self.spec.activation], y.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            part[...] = function(part)
        return y

    def _paired(self, y: Singles) -> Any:
        return np.ascontiguousarray(y).view(np.complex64)

    def _unpaired(self, y: Any) -> Singles:
        return np.asarray(y.view(np.float32))

    def _attended(self, query: Singles, key: Singles, value: Singles) -> Singles:
        points, heads = query.shape[:2]
        out = np.empty_like(query)
        found = np.array([[self._head(query, key, value, out, (g, h)) for h in range(heads)]
                          for g in range(points)])  # fmt: skip
        self.statistics.append(found.mean(axis=1).T)
        return out

    def _head(
        self, query: Singles, key: Singles, value: Singles, out: Singles, at: tuple[int, int]
    ) -> Floats:
        """Attention of one head of one setting, into `out`."""
        shared = (at[0], at[1] // self.spec.heads_per_key)
        scores = query[at] @ key[shared].T
        if self._mask is not None:
            np.copyto(scores, MASKED, where=self._mask)
        weights, total, statistics = attended(scores, np.empty_like(scores))
        np.matmul(weights, value[shared], out=out[at])
        out[at] /= total[:, None]
        if self.spec.attention == "centred":
            out[at] -= self._uniform @ value[shared]
        return statistics


def _relu(y: Singles) -> Singles:
    return np.maximum(y, 0, out=y)


def _tail(y: Singles) -> Singles:
    """Probability of a normal number above |y|, to 3e-7 (Abramowitz & Stegun 7.1.26)."""
    t = np.abs(y)
    t *= np.float32(0.3275911 * math.sqrt(0.5))
    t += 1
    np.divide(1, t, out=t)
    sum_ = t * np.float32(1.061405429 / 2)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        sum_ += np.float32(coefficient / 2)
        sum_ *= t
    np.multiply(y, y, out=t)
    t *= np.float32(-0.5)
    np.exp(t, out=t)
    sum_ *= t
    return sum_


def _erf(y: Singles) -> Singles:
    """Error function to 6e-7."""
    out = _tail(y * np.float32(math.sqrt(2)))
    out *= -2
    out += 1
    return np.copysign(out, y, out=out)


def _gelu(y: Singles) -> Singles:
    """max(y, 0) - |y| P(z > |y|)."""
    rest = _tail(y)
    rest *= np.abs(y)
    np.maximum(y, 0, out=y)
    y -= rest
    return y


def _silu(y: Singles) -> Singles:
    y *= (1 + np.tanh(y / 2)) / 2
    return y


ACTIVATIONS: dict[str, Callable[[Singles], Singles]] = {
    "relu": _relu,
    "gelu": _gelu,
    "erf": _erf,
    "silu": _silu,
    "tanh": lambda y: np.tanh(y, out=y),
    "linear": lambda y: y,
}
