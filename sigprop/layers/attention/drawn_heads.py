"""Heads of sampled attention: weights, queries and keys drawn from the kernel that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sigprop.core.arrays import Bools, Floats
from sigprop.layers.attention.numbers import AttentionNumbers

__all__ = ["DrawnStep", "Head", "angles", "drawn", "head", "root_of", "rotated", "softmax"]


def root_of(kernel: Floats) -> Floats:
    """Symmetric root R, R R^T the given kernel, negative rounding removed.

    Unlike eigenvectors times roots of eigenvalues, it does not depend on the signs or, in a space
    of equal eigenvalues, on the basis that a solver returns, which differ between processors.

    Parameters
    ----------
    kernel : array, shape (T, T)
        Symmetric, positive semidefinite.

    Returns
    -------
    array, shape (T, T)
        The root.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.drawn_heads import root_of
    >>> root_of(4 * np.eye(1)).tolist()
    [[2.0]]
    """
    values, vectors = np.linalg.eigh(kernel)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def drawn(rng: np.random.Generator, root: Floats, columns: int) -> Floats:
    """Gaussian tokens with the covariance of `root`."""
    return np.asarray(root @ rng.standard_normal((root.shape[1], columns)))


def softmax(scores: Floats, seen: Bools) -> Floats:
    """Attention weights over the keys that each query sees."""
    weights = np.where(seen, scores, -np.inf)
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


class DrawnStep(NamedTuple):
    """What a drawn layer did, as `sigprop.layers.interface.Step`: the stream is an array."""

    kernel: Floats
    attention: Any = None
    covariance: None = None


@dataclass(frozen=True)
class Head:
    """One head's weights, and its queries and keys, or roots of their kernels."""

    weights: Floats
    queries: Floats
    keys: Floats

    def scores(self, product: Floats, turn: Floats | None) -> tuple[Floats, Floats]:
        """Kernels of dQ and dK, given B."""
        c = self.weights * (product - (self.weights * product).sum(axis=1, keepdims=True))
        dq, dk = c @ self.keys, c.T @ self.queries
        if turn is not None:
            dq, dk = rotated(dq, -turn), rotated(dk, -turn)
        return dq @ dq.T, dk @ dk.T


def head(
    layer: AttentionNumbers,
    rng: np.random.Generator,
    root: Floats,
    seen: Bools,
    variance: float,
    turn: Floats | None,
) -> Head:
    """Draw queries and keys over sqrt(d_h); at infinite width, the roots of their kernels."""
    if layer.head_width is None:
        weights = softmax(variance * drawn(rng, root, len(root)) @ root.T, seen)
        return Head(weights, np.sqrt(variance) * root, np.sqrt(variance) * root)
    size = int(layer.head_width)
    q, k = (drawn(rng, np.sqrt(variance) * root, size) for _ in range(2))
    if turn is not None:
        q, k = rotated(q, turn), rotated(k, turn)
    scale = np.sqrt(size)
    return Head(softmax(q @ k.T / scale, seen), q / scale, k / scale)


def angles(layer: AttentionNumbers, tokens: int) -> Floats | None:
    """Rotary angles, position by frequency."""
    if layer.rotation is None or layer.head_width is None:
        return None
    omega = layer.rotation.frequencies(layer.head_width)[: int(layer.head_width) // 2]
    return np.outer(np.arange(tokens), omega)


def rotated(x: Floats, angle: Floats) -> Floats:
    """Turn pairs (i, i + d_h/2) of features; an odd last one stays."""
    half = angle.shape[1]
    a, b, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.hstack([a * cos - b * sin, a * sin + b * cos, rest])
