"""Statistics of recorded tensors, all in float64: kernels, attention, fits."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from sigprop.core.arrays import Floats
from sigprop.simulation.network_torch import ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "Attended",
    "attended",
    "cosines",
    "fit",
    "kernels",
    "nearest_activation",
    "products",
]

MASKED = -1e4  # a score below it is a mask, not a product


class Attended(NamedTuple):
    """Attention of one layer, averaged over sequences, heads and queries.

    Attributes
    ----------
    y2, overlap, entropy, score_std : float
        Participation ratio, overlap of two queries, entropy in nats, and root mean variance of
        the scores over the keys that a query sees.
    """

    y2: float
    overlap: float
    entropy: float
    score_std: float


def kernels(x: torch.Tensor, centred: bool = False) -> Floats:
    """Token kernel of each sequence.

    Parameters
    ----------
    x : torch.Tensor, shape (B, T, d)
        States.
    centred : bool
        Whether to remove each token's mean over the features, as LayerNorm does.

    Returns
    -------
    array, shape (B, T, T)
        Products over d.

    Examples
    --------
    >>> import torch
    >>> from sigprop.torch.module_audit.measure import kernels
    >>> kernels(torch.eye(2)[None]).tolist()
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    values = x.detach().double()
    if centred:
        values = values - values.mean(dim=-1, keepdim=True)
    product: Floats = (values @ values.mT / values.shape[-1]).cpu().numpy()
    return product


def cosines(kernel: Floats) -> tuple[float, float]:
    """Mean cosine of two tokens of a sequence, and mean variance of a token.

    Parameters
    ----------
    kernel : array, shape (B, T, T)
        Kernels of the sequences.

    Returns
    -------
    rho, q : float
        Averages over pairs of positions, or positions, and sequences.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.torch.module_audit.measure import cosines
    >>> cosines(np.array([[[4.0, 1.0], [1.0, 1.0]]]))
    (0.5, 2.5)
    """
    q = torch.from_numpy(kernel).diagonal(dim1=-2, dim2=-1)
    root = torch.clamp(q, min=1e-300).rsqrt()
    scaled = torch.from_numpy(kernel) * root[:, :, None] * root[:, None, :]
    number = kernel.shape[-1]
    total = scaled.sum(dim=(-2, -1)) - scaled.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return float(total.mean()) / (number * (number - 1)), float(q.mean())


def attended(scores: torch.Tensor, weights: torch.Tensor) -> tuple[Attended, bool | None]:
    """Statistics of attention weights, and whether they are causal.

    Parameters
    ----------
    scores, weights : torch.Tensor, shape (B, H, T, T)
        What entered and what left the softmax.

    Returns
    -------
    found : Attended
        The statistics.
    causal : bool or None
        None for a mask that is neither full nor causal.

    Examples
    --------
    >>> import torch
    >>> from sigprop.torch.module_audit.measure import attended
    >>> found, causal = attended(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.25))
    >>> found.y2, found.overlap, causal
    (0.25, 0.25, False)
    """
    seen = scores.detach() > MASKED
    number = scores.shape[-1]
    lower = torch.ones(number, number, dtype=torch.bool, device=seen.device).tril()
    causal = False if bool(seen.all()) else True if bool((seen == lower).all()) else None
    a = weights.detach().double()
    squares = a.square().sum(dim=(-2, -1))
    pairs = (a.sum(dim=-2).square().sum(dim=-1) - squares) / (number * (number - 1))
    entropy = torch.special.entr(a).sum(dim=-1).mean()
    return Attended(
        float((squares / number).mean()), float(pairs.mean()), float(entropy), _std(scores, seen)
    ), causal


def _std(scores: torch.Tensor, seen: torch.Tensor) -> float:
    """Root mean variance over the keys, of the queries that see two or more."""
    values = torch.where(seen, scores.detach().double(), 0.0)
    count = seen.sum(dim=-1)
    mean = values.sum(dim=-1) / count.clamp(min=1)
    spread = torch.where(seen, values - mean[..., None], 0.0).square().sum(dim=-1)
    variance = (spread / (count - 1).clamp(min=1))[count > 1]
    return math.sqrt(float(variance.mean())) if variance.numel() else 0.0


def fit(target: torch.Tensor, *parts: torch.Tensor) -> tuple[list[float], float]:
    """Coefficients of the sum of parts nearest to a target, and the relative distance left.

    Parameters
    ----------
    target, *parts : torch.Tensor
        One shape.

    Returns
    -------
    coefficients : list of float
        One for each part; one where a part is zero.
    residual : float
        Norm of what is left over that of the target.

    Examples
    --------
    >>> import torch
    >>> from sigprop.torch.module_audit.measure import fit
    >>> x, y = torch.eye(2)
    >>> fit(2 * x + 3 * y, x, y)
    ([2.0, 3.0], 0.0)
    """
    columns = torch.stack([p.detach().double().flatten() for p in parts])
    flat = target.detach().double().flatten()
    norms = columns.norm(dim=1)
    scaled = columns / norms.clamp(min=1e-300)[:, None]
    solved = torch.linalg.pinv(scaled @ scaled.T) @ (scaled @ flat)
    left = (flat - solved @ scaled).norm() / flat.norm().clamp(min=1e-300)
    values = torch.where(norms > 0, solved / norms.clamp(min=1e-300), 1.0)
    return [float(v) for v in values], float(left)


def products(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    """Products of queries and keys of each head; heads may share keys.

    Parameters
    ----------
    query : torch.Tensor, shape (B, T, H d_h)
        Queries of all heads, side by side.
    key : torch.Tensor, shape (B, T, G d_h)
        Keys of all groups of heads.
    heads : int
        Number of heads H, a multiple of G.

    Returns
    -------
    torch.Tensor, shape (B, H, T, T)
        The products, not scaled.

    Examples
    --------
    >>> import torch
    >>> from sigprop.torch.module_audit.measure import products
    >>> products(torch.ones(1, 3, 8), torch.ones(1, 3, 4), 4)[0, :, 0, 0].tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    size = query.shape[-1] // heads
    queries, keys = (x.reshape(*x.shape[:2], -1, size).transpose(1, 2) for x in (query, key))
    return queries @ keys.repeat_interleave(heads // keys.shape[1], dim=1).mT


def nearest_activation(
    hidden: torch.Tensor, inner: torch.Tensor, linear: torch.Tensor | None = None
) -> tuple[str, float]:
    """Activation that leads from what the first matrix gives to what the second reads.

    Parameters
    ----------
    hidden, inner : torch.Tensor
        Input of the second matrix, output of the first (the gate, in a gated MLP).
    linear : torch.Tensor, optional
        Linear branch of a gated MLP.

    Returns
    -------
    name : str
        One of `ACTIVATIONS`.
    residual : float
        Relative distance left.

    Examples
    --------
    >>> import torch
    >>> from sigprop.torch.module_audit.measure import nearest_activation
    >>> x = torch.linspace(-1, 1, 9)
    >>> nearest_activation(torch.tanh(x), x)
    ('tanh', 0.0)
    """
    target, scale = hidden.detach(), float(hidden.detach().norm())
    factor = 1.0 if linear is None else linear.detach()
    left = {
        name: float((target - function(inner.detach()) * factor).norm()) / max(scale, 1e-300)
        for name, function in ACTIVATIONS.items()
    }
    best = min(left, key=lambda name: left[name])
    return best, left[best]
