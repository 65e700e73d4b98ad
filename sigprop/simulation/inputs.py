"""What enters a random network: Gaussian tokens, a given kernel, or embedded token ids."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints
from sigprop.core.checks import choice
from sigprop.core.errors import require
from sigprop.model.inputs import TokenKernel, admit
from sigprop.model.spec import ModelSpec

__all__ = [
    "Exchangeable",
    "Given",
    "Singles",
    "Source",
    "Tokens",
    "gaussian",
    "layer_norm",
    "sinusoids",
]

Singles = NDArray[np.float32]
RADII, DIRECTIONS = 2**11, 2**5
CHUNK = 2**15  # pairs at a time, to stay in the cache


class Source(Protocol):
    """A kind of input.

    Examples
    --------
    >>> from sigprop.simulation import Exchangeable
    >>> from sigprop.simulation.inputs import Source
    >>> source: Source = Exchangeable()
    """

    def check(self, spec: ModelSpec) -> None:
        """Refuse a description that this input does not fit, before any work.

        Parameters
        ----------
        spec : ModelSpec
            The description.

        Raises
        ------
        DomainError
            If it does not.
        """
        ...

    def draw(self, spec: ModelSpec, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block.

        Parameters
        ----------
        spec : ModelSpec
            The description, its numbers of shape (G,).
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        array of float32, shape (G, T, d)
            The tokens.
        """
        ...


@cache
def _pairs() -> NDArray[np.complex64]:
    """Plane points of equal weight: means of radius^2 over its equally likely bins, by angles."""
    edges = np.arange(RADII + 1) / RADII
    below = 2 * edges * (1 - np.log(np.maximum(edges, 1e-300)))  # mean of -2 log u below an edge
    radius = np.sqrt(RADII * np.diff(below))
    angle = 2 * np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    return np.outer(radius, np.exp(1j * angle)).astype(np.complex64).ravel()


def gaussian(rng: np.random.Generator, *shape: int) -> Singles:
    r"""Independent standard normal numbers for weights, two from 16 random bits.

    Box & Muller's (1958) pairs :math:`r(\cos\theta, \sin\theta)`, :math:`r^2/2` exponential, at
    2048 equally likely radii and 32 directions: a sixth of the time of a ziggurat in single
    precision. Moments of a pair are those of the continuous distribution at fixed r up to order 31,
    the variance is exactly one, the fourth moment 3 - 8e-4, the largest number 4.15: for a layer of
    d inputs the fourth cumulant of a preactivation is of order 8e-4/d.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random bits.
    *shape : int
        Shape of the result.

    Returns
    -------
    array of float32
        The numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation.inputs import gaussian
    >>> gaussian(np.random.Generator(np.random.SFC64(1)), 2, 3).shape
    (2, 3)
    """
    size = math.prod(shape)
    number, table = -(-size // 2), _pairs()
    out = np.empty(number, np.complex64)
    for start in range(0, number, CHUNK):
        part = out[start : start + CHUNK]
        bits = rng.bit_generator.random_raw(-(-len(part) // 4)).view(np.uint16)
        np.take(table, bits[: len(part)], out=part, mode="clip")
    return out.view(np.float32)[:size].reshape(shape)


def _normal(rng: np.random.Generator, *shape: int) -> Singles:
    """Independent standard normal numbers to single precision, for tokens."""
    return rng.standard_normal(shape, dtype=np.float32)


def layer_norm(x: Singles) -> Singles:
    """Centre and scale every token, in the memory of x.

    Parameters
    ----------
    x : array, shape (..., d)
        Tokens; overwritten.

    Returns
    -------
    array
        The same array, with mean zero and mean square one along the last axis.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation.inputs import layer_norm
    >>> layer_norm(np.array([[1.0, 3.0]], dtype=np.float32)).tolist()
    [[-1.0, 1.0]]
    """
    width = np.float32(x.shape[-1])
    x -= x.sum(axis=-1, keepdims=True) / width
    x *= np.sqrt(width / np.einsum("...i,...i->...", x, x))[..., None]
    return x


def _scale(spec: ModelSpec) -> Singles:
    """Root mean square of the entries that enter the first block, shape (G, 1, 1)."""
    rms = spec.norm_gain if spec.ends_in_norm else np.sqrt(spec.q0)
    return np.asarray(rms, np.float32).reshape(-1, 1, 1)


@dataclass(frozen=True)
class Exchangeable:
    r"""Gaussian tokens that all overlap alike: LN(sqrt(rho0) u + sqrt(1 - rho0) n_t).

    Examples
    --------
    >>> from sigprop.simulation import Exchangeable
    >>> Exchangeable()
    Exchangeable()
    """

    def check(self, spec: ModelSpec) -> None:
        """Refuse negative overlaps."""
        require(np.asarray(spec.rho0) >= 0, "rho0", spec.rho0, "a number in [0, 1] to simulate")

    def draw(self, spec: ModelSpec, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block, shape (G, T, d); `rho0` must not be negative."""
        self.check(spec)
        assert spec.width is not None
        rho0: Singles = np.asarray(spec.rho0, np.float32).reshape(-1, 1, 1)
        common = _normal(rng, 1, spec.width)
        own = _normal(rng, int(spec.context), spec.width)
        x = np.sqrt(rho0) * common + np.sqrt(1 - rho0) * own
        return layer_norm(x.astype(np.float32, copy=False)) * _scale(spec)


@dataclass(frozen=True, eq=False)
class Given:
    """Gaussian tokens with a given kernel E x_t x_s / d; behind a norm only its cosines matter.

    Parameters
    ----------
    kernel : array_like, shape (T, T)
        Symmetric, positive semidefinite, of positive diagonal; one that only rounding keeps from it
        is moved to the nearest (`sigprop.model.inputs.admit`).

    Attributes
    ----------
    admitted : TokenKernel
        The kernel with how far it was moved.

    Raises
    ------
    DomainError
        If the kernel is not that, or does not fit the context.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation import Given
    >>> Given(np.eye(4)).kernel.shape
    (4, 4)
    """

    kernel: Floats
    admitted: TokenKernel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = admit(self.kernel)
        object.__setattr__(self, "kernel", found.values)
        object.__setattr__(self, "admitted", found)

    def check(self, spec: ModelSpec) -> None:
        """Refuse a kernel of another number of tokens."""
        shape = (int(spec.context),) * 2
        require(self.kernel.shape == shape, "kernel", self.kernel.shape, f"shape {shape}")

    def draw(self, spec: ModelSpec, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block, shape (G, T, d)."""
        self.check(spec)
        assert spec.width is not None
        scale = np.sqrt(np.diagonal(self.kernel))
        values, vectors = np.linalg.eigh(self.kernel / np.outer(scale, scale))
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # of any solver's vectors
        x = root.astype(np.float32) @ _normal(rng, len(scale), spec.width)
        if spec.ends_in_norm:
            x = layer_norm(x) * _scale(spec)
        else:
            x *= scale.astype(np.float32)[:, None]
        return np.broadcast_to(x, (*spec.shape, *x.shape[-2:])).copy()


@validated
@dataclass(frozen=True, eq=False)
class Tokens:
    """Random embeddings of token ids, with positions, behind a norm.

    Parameters
    ----------
    ids : array of int, shape (windows, T)
        Token ids; each draw takes one window at random.
    positions : {"sinusoidal", "learned", "none"}
        Sines and cosines of base 10^4, random vectors of unit variance, or nothing, added to
        embeddings of unit variance.

    Raises
    ------
    DomainError
        If the ids are not integers of that shape, or the kind of positions is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulation import Tokens
    >>> Tokens(np.array([[3, 1, 3]])).positions
    'learned'
    """

    ids: Ints
    positions: str = "learned"

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids)
        whole = ids.ndim == 2 and np.all(np.isfinite(ids) & (ids == np.floor(ids)))
        require(whole, "ids", ids.shape, "integers of shape (windows, T)")
        choice("positions", self.positions, ("sinusoidal", "learned", "none"))

    def check(self, spec: ModelSpec) -> None:
        """Refuse windows of another length."""
        size = self.ids.shape[1]
        require(size == spec.context, "context", spec.context, f"the length of the windows, {size}")

    def draw(self, spec: ModelSpec, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block, shape (G, T, d)."""
        self.check(spec)
        assert spec.width is not None
        context, width = int(spec.context), spec.width
        ids = self.ids[rng.integers(len(self.ids))]
        _, index = np.unique(ids, return_inverse=True)
        x = _normal(rng, int(index.max()) + 1, width)[index]
        if self.positions == "learned":
            x += _normal(rng, context, width)
        elif self.positions == "sinusoidal":
            x += sinusoids(context, width)
        x = layer_norm(x) * _scale(spec)
        return np.broadcast_to(x, (*spec.shape, context, width)).copy()


def sinusoids(context: int, width: int) -> Singles:
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5).

    Parameters
    ----------
    context, width : int
        Positions and features.

    Returns
    -------
    array of float32, shape (context, width)
        Sines and cosines in turn.

    Examples
    --------
    >>> from sigprop.simulation.inputs import sinusoids
    >>> sinusoids(1, 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    rate = 1e4 ** (-np.arange((width + 1) // 2) * 2 / width)
    angle = np.arange(context)[:, None] * rate
    both = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(context, -1)
    return both[:, :width].astype(np.float32)
