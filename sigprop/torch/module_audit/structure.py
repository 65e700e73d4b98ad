"""Anatomy of a torch transformer: its blocks (`sigprop.torch.placement`) and its positions.

What a forward pass really does is checked against this by
`sigprop.torch.module_audit.forward_pass`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sigprop.core.errors import AssumptionError
from sigprop.torch.placement import ROLES, BlockParts, Matrix, find_blocks

__all__ = ["ROLES", "Anatomy", "BlockParts", "Matrix", "dissect"]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Blocks of a model, in order of depth.

    Attributes
    ----------
    blocks : tuple of BlockParts
        The blocks.
    rotary_base : float or None
        Base of rotary positions, from the buffer of inverse frequencies.
    rotary_width : int or None
        Numbers of each head that they turn.
    """

    blocks: tuple[BlockParts, ...]
    rotary_base: float | None
    rotary_width: int | None


def dissect(model: nn.Module, batch: Any = None) -> Anatomy:
    """Find the blocks of a model and what is in them.

    Parameters
    ----------
    model : torch.nn.Module
        A transformer of one stack of blocks.
    batch : mapping, tuple or tensor, optional
        What its forward pass takes; where one projection has queries, keys and values, a pass shows
        which are which. Without it, that is a pass of one token of id 0.

    Returns
    -------
    Anatomy
        Its parts.

    Raises
    ------
    AssumptionError
        If there is no such stack, or a block has other parts than one attention and one MLP; the
        message names the module and the reason.

    Examples
    --------
    >>> from torch import nn
    >>> from sigprop.torch.module_audit.structure import dissect
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> dissect(nn.TransformerEncoder(layer, 3)).blocks[2].matrices["w2"].name
    'layers.2.linear2.weight'
    >>> dissect(nn.Linear(2, 2))
    Traceback (most recent call last):
        ...
    sigprop.core.errors.AssumptionError: Linear has no attention that can be read: ...
    """
    return Anatomy(find_blocks(model, batch), *_rotary(model))


def _rotary(model: nn.Module) -> tuple[float | None, int | None]:
    """Read base and width from the model's own buffer of frequencies base^(-i/n), i < n."""
    for name, values in _frequencies(model):
        rates = values.detach().double().cpu()
        if len(rates) < 2:
            raise AssumptionError(f"{name} has one frequency: its base is not known")
        base = float(rates[1]) ** -len(rates)
        ideal = base ** (-torch.arange(len(rates), dtype=torch.float64) / len(rates))
        if not torch.allclose(rates, ideal, rtol=1e-3):
            raise AssumptionError(f"{name} does not hold powers of one base: rescaled rotary")
        return float(f"{base:.6g}"), 2 * len(rates)  # the buffer is in single precision
    return None, None


def _frequencies(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((n, b) for n, b in model.named_buffers() if n.split(".")[-1] == "inv_freq")
