"""A random transformer in torch: many seeds at once, on a processor or an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sigprop.simulation.architecture import MASKED, Architecture
from sigprop.simulation.inputs import Singles

__all__ = ["TorchNetwork"]


@dataclass(frozen=True)
class TorchNetwork(Architecture):
    """Random transformers of several seeds; arrays have the shape (S, G, T, d).

    Each seed draws from a generator of its own, so that it does not depend on the others. Products
    are in single precision, sums over tokens in double.

    Parameters
    ----------
    spec, projection
        As in `Architecture`.
    seeds : tuple of int
        One for each network.
    device : {"cpu", "cuda"}
        Where it runs.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation.network_torch import TorchNetwork
    >>> spec = ModelSpec(depth=2, context=8, width=4, beta=[1.0], sigma_v2=1, sigma_w2=1, rho0=0)
    >>> x = np.random.default_rng(1).standard_normal((3, 1, 8, 4), dtype=np.float32)
    >>> [layer.x.shape for layer in TorchNetwork(spec, (1, 2, 3), "cpu").run(x)]
    [(3, 1, 8, 4), (3, 1, 8, 4)]
    """

    seeds: tuple[int, ...]
    device: str

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [torch.Generator(self.device).manual_seed(seed) for seed in self.seeds]

    def _array(self, values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _numpy(self, x: Tensor) -> Singles:
        return np.asarray(x.cpu().numpy())

    def _gaussian(self, *shape: int) -> Tensor:
        """Draw standard normal numbers of every seed, (S, 1, ...)."""
        draws = [torch.randn(shape, generator=g, device=self.device) for g in self._generators]
        return torch.stack(draws)[:, None]

    def _product(self, x: Tensor, out: int) -> Tensor:
        matrix = self._gaussian(x.shape[-1], out)[:, 0]
        return (x.flatten(1, 2) @ matrix).reshape(*x.shape[:-1], out)

    def _normed(self, x: Tensor, own: bool) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=0.0)

    def _activated(self, y: Tensor) -> Tensor:
        return ACTIVATIONS[self.spec.activation](y)

    def _paired(self, y: Tensor) -> Tensor:
        return torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2))

    def _unpaired(self, y: Tensor) -> Tensor:
        return torch.view_as_real(y)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        group = self.spec.heads_per_key
        key, value = (y.repeat_interleave(group, dim=-3) for y in (key, value))
        scores = query @ key.mT
        if self._mask is not None:
            scores.masked_fill_(self._mask, MASKED)
        scores -= scores.amax(dim=-1, keepdim=True)
        weights = scores.exp()
        total = weights.sum(dim=-1, keepdim=True)
        self.statistics.append(_statistics(weights, scores, total))
        out = weights @ value / total
        return out - self._uniform @ value if self.spec.attention == "centred" else out


def _statistics(weights: Tensor, scores: Tensor, total: Tensor) -> Any:
    """Participation, overlap and entropy, averaged over heads and queries; (3, S, G)."""
    count = weights.shape[-2]
    y2 = ((weights * weights).sum(dim=-1) / total[..., 0] ** 2).sum(dim=-1, dtype=torch.float64)
    received = ((1 / total).mT @ weights)[..., 0, :].double()
    pairs = ((received * received).sum(dim=-1) - y2) / (count * (count - 1))
    energy = (weights * scores).sum(dim=-1) / total[..., 0]
    entropy = (total[..., 0].log() - energy).mean(dim=-1, dtype=torch.float64)
    return torch.stack([y2 / count, pairs, entropy]).mean(dim=-1).cpu().numpy()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "erf": torch.erf,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "linear": lambda y: y,
}
