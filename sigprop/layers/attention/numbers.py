"""Numbers of an attention layer: what geometries, statistics and transports read of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Bools, Ints, Number
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics.finite_width_keys import Sphere

__all__ = ["AttentionNumbers", "Mask"]

SMALLEST = 8  # width from which keys are taken to lie on a sphere


@dataclass(frozen=True)
class Mask:
    """Keys that a query sees: those up to its own, in a window, in a prefix, in its own range.

    Parameters
    ----------
    window : float
        Number of latest keys that a token sees, itself included.
    prefix : int
        Number of leading tokens that see each other in both directions.
    documents : tuple of int
        Lengths of packed documents, each seen by its own tokens alone; none by default.
    chunk : float
        Number of consecutive positions that are seen by each other alone.

    Examples
    --------
    >>> from sigprop.layers.attention.layer import Mask
    >>> Mask().window
    inf
    """

    window: float = np.inf
    prefix: int = 0
    documents: tuple[int, ...] = ()
    chunk: float = np.inf

    def starts(self, tokens: int) -> Ints:
        """Positions behind which documents or chunks begin.

        Parameters
        ----------
        tokens : int
            Number of tokens T.

        Returns
        -------
        array of int
            From zero.

        Examples
        --------
        >>> from sigprop.layers.attention.layer import Mask
        >>> Mask(documents=(3, 5)).starts(8).tolist(), Mask(chunk=4).starts(10).tolist()
        ([0, 3], [0, 4, 8])
        """
        if self.documents:
            return np.cumsum([0, *self.documents[:-1]])
        return np.arange(0, tokens, int(min(self.chunk, tokens)))


@dataclass(frozen=True)
class AttentionNumbers:
    """Scales, heads, mask and rotation of an attention layer.

    Parameters
    ----------
    beta, sigma_v2, sigma_b2, sigma_o2 : float or array
        Inverse temperature and weight variances.
    centred : bool
        Whether equal weights are subtracted.
    value_identity : float or array
        Multiple c of the identity in the product of value and output matrices; adds c^2 to
        sigma_v2 sigma_o2, and a covariance with the stream (E10b).
    context : float or array
        Context length T, whose logarithm scales the scores.
    width : int, optional
        Width d of the stream; None is infinite.
    heads, heads_per_key : int
        Number of heads, and how many of them share one key and value.
    mask : Mask, optional
        None is bidirectional.
    rotation : Rotation, optional
        Rotary positions.

    Examples
    --------
    >>> from sigprop.layers.attention.numbers import AttentionNumbers
    >>> AttentionNumbers(beta=1.0, sigma_v2=1.0, width=64, heads=4).head_width
    16.0
    """

    beta: Number
    sigma_v2: Number
    sigma_b2: Number = 0.0
    sigma_o2: Number = 1.0
    centred: bool = False
    value_identity: Number = 0.0
    context: Number = np.inf
    width: int | None = None
    heads: int = 1
    heads_per_key: int = 1
    mask: Mask | None = None
    rotation: Rotation | None = None

    def seen(self, tokens: int) -> Bools:
        """Keys (columns) that each query sees.

        Parameters
        ----------
        tokens : int
            Number of tokens T.

        Returns
        -------
        array of bool, shape (T, T)
            All without a mask.

        Examples
        --------
        >>> from sigprop.layers.attention.numbers import AttentionNumbers, Mask
        >>> AttentionNumbers(1.0, 1.0, mask=Mask(window=1)).seen(2).tolist()
        [[True, False], [False, True]]
        """
        if self.mask is None:
            return np.ones((tokens, tokens), dtype=bool)
        query, key = np.ogrid[:tokens, :tokens]
        last = np.maximum(query, self.mask.prefix - 1)
        starts = self.mask.starts(tokens)
        first = starts[np.searchsorted(starts, query, side="right") - 1]
        return np.asarray((key <= last) & (key > query - self.mask.window) & (key >= first))

    @property
    def head_width(self) -> float | None:
        """Width of a head; None is infinite."""
        return None if self.width is None else self.width / self.heads

    @property
    def sphere(self) -> Sphere | None:
        """Keys of finite width; None is infinite."""
        if self.width is None or self.width < SMALLEST:
            return None
        return Sphere(self.width, self.width / self.heads)

    @cached_property
    def value(self) -> Number:
        """Variance of the product of value and output matrices, times d."""
        return self.sigma_o2 * self.sigma_v2 + self.value_identity * self.value_identity
