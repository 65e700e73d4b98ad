"""What enters a random network: Gaussian tokens, a given kernel, or embedded token ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sigprop.arrays import Floats, Ints
from sigprop.errors import DomainError, require
from sigprop.spec import Transformer

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
LEVELS = 2**16


class Source(Protocol):
    """A kind of input.

    Examples
    --------
    >>> from sigprop.simulate import Exchangeable
    >>> from sigprop.simulate.inputs import Source
    >>> source: Source = Exchangeable()
    """

    def draw(self, spec: Transformer, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block.

        Parameters
        ----------
        spec : Transformer
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
def _quantiles() -> Singles:
    """Tabulate the standard normal at equally likely values, of unit variance (kurtosis 2.9992)."""
    inverse = NormalDist().inv_cdf
    half = np.array([inverse((i + 0.5) / LEVELS) for i in range(LEVELS // 2)])
    values = np.concatenate([half, -half[::-1]])
    return np.asarray(values / values.std(), dtype=np.float32)


def gaussian(rng: np.random.Generator, *shape: int) -> Singles:
    """Independent standard normal numbers, by inversion of 16 random bits each.

    A ziggurat in double the precision takes six times as long, as long as the matrix products;
    the 65 536 levels change the fourth moment by 3e-4 of itself and end at 4.2 standard deviations,
    which moves the token kernel by 3e-4/d.

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
    >>> from sigprop.simulate.inputs import gaussian
    >>> gaussian(np.random.Generator(np.random.SFC64(1)), 2, 3).shape
    (2, 3)
    """
    size = int(np.prod(shape))
    bits = rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
    return np.take(_quantiles(), bits, mode="clip").reshape(shape)


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
    >>> from sigprop.simulate.inputs import layer_norm
    >>> layer_norm(np.array([[1.0, 3.0]], dtype=np.float32)).tolist()
    [[-1.0, 1.0]]
    """
    width = np.float32(x.shape[-1])
    x -= x.sum(axis=-1, keepdims=True) / width
    x *= np.sqrt(width / np.einsum("...i,...i->...", x, x))[..., None]
    return x


def _scale(spec: Transformer) -> Singles:
    """Root mean square of the entries that enter the first block, shape (G, 1, 1)."""
    rms = spec.norm_gain if spec.norm == "post" else np.sqrt(spec.q0)
    return np.asarray(rms, np.float32).reshape(-1, 1, 1)


@dataclass(frozen=True)
class Exchangeable:
    r"""Gaussian tokens that all overlap alike: LN(sqrt(rho0) u + sqrt(1 - rho0) n_t).

    Examples
    --------
    >>> from sigprop.simulate import Exchangeable
    >>> Exchangeable()
    Exchangeable()
    """

    def draw(self, spec: Transformer, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block, shape (G, T, d); `rho0` must not be negative."""
        require(np.asarray(spec.rho0) >= 0, "rho0", spec.rho0, "a number in [0, 1] to simulate")
        assert spec.width is not None
        rho0: Singles = np.asarray(spec.rho0, np.float32).reshape(-1, 1, 1)
        common = gaussian(rng, 1, spec.width)
        own = gaussian(rng, int(spec.context), spec.width)
        x = np.sqrt(rho0) * common + np.sqrt(1 - rho0) * own
        return layer_norm(x.astype(np.float32, copy=False)) * _scale(spec)


@dataclass(frozen=True, eq=False)
class Given:
    """Gaussian tokens with a given kernel E x_t x_s / d; behind a norm only its cosines matter.

    Parameters
    ----------
    kernel : array, shape (T, T)
        Symmetric, positive semidefinite.

    Raises
    ------
    DomainError
        If the kernel does not fit the context, or is not positive semidefinite.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulate import Given
    >>> Given(np.eye(4)).kernel.shape
    (4, 4)
    """

    kernel: Floats

    def draw(self, spec: Transformer, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block, shape (G, T, d)."""
        assert spec.width is not None
        context = int(spec.context)
        fits = self.kernel.shape == (context, context)
        require(fits, "kernel", self.kernel.shape, f"shape {(context, context)}")
        values, vectors = np.linalg.eigh(self.kernel)
        if values[0] < -1e-8 * values[-1]:
            raise DomainError("kernel", values[0], "no negative eigenvalue")
        root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
        x = root @ gaussian(rng, context, spec.width)
        if spec.norm == "post":
            x = layer_norm(x) * _scale(spec)
        return np.broadcast_to(x, (*spec.shape, *x.shape[-2:])).copy()


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

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.simulate import Tokens
    >>> Tokens(np.array([[3, 1, 3]])).positions
    'learned'
    """

    ids: Ints
    positions: str = "learned"

    def draw(self, spec: Transformer, rng: np.random.Generator) -> Singles:
        """Tokens that enter the first block, shape (G, T, d)."""
        assert spec.width is not None
        context, width = int(spec.context), spec.width
        fits = self.ids.shape[1] == context
        require(fits, "context", context, f"the length of the windows, {self.ids.shape[1]}")
        ids = self.ids[rng.integers(len(self.ids))]
        _, index = np.unique(ids, return_inverse=True)
        x = gaussian(rng, int(index.max()) + 1, width)[index]
        if self.positions == "learned":
            x += gaussian(rng, context, width)
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
    >>> from sigprop.simulate.inputs import sinusoids
    >>> sinusoids(1, 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    rate = 1e4 ** (-np.arange((width + 1) // 2) * 2 / width)
    angle = np.arange(context)[:, None] * rate
    both = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(context, -1)
    return both[:, :width].astype(np.float32)
