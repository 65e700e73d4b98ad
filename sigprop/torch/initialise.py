"""Write a recommended initialisation into a real model."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from sigprop.analysis.design.recommend import Design
from sigprop.core.arguments import validated
from sigprop.core.checks import count, scalar
from sigprop.core.errors import AssumptionError, require
from sigprop.model.export import Prescription
from sigprop.torch.placement import WRITERS, Change, draw, find_blocks

__all__ = ["Change", "initialise_"]


@validated
def initialise_(
    model: nn.Module,
    recommendation: Design | Prescription,
    *,
    seed: int = 0,
    forward: tuple[float, float] = (1.0, 1.0),
    batch: Any = None,
) -> tuple[Change, ...]:
    """Draw the matrices and biases of every block anew, in place, as recommended.

    Parameters
    ----------
    model : torch.nn.Module
        As for `audit`. What is outside its blocks, embeddings and heads, is left as it is; norms
        in them are, where they have the gain of the recommendation.
    recommendation : Design or Prescription
        From `sigprop.analysis.design.recommend.recommend`, `Audit.recommendation` or
        `sigprop.model.export.prescribe`.
    seed : int
        Of the draw.
    forward : tuple of float
        For attention and MLP, the multiplier of the skip branch over that of the branch that the
        model's forward pass has already, > 0 (`Audit.forward`); other than one only post-norm.
    batch : mapping, tuple or tensor, optional
        As for `audit`; needed where one projection has queries, keys and values and the model takes
        something else than token ids.

    Returns
    -------
    tuple of Change
        Every matrix with its standard deviation before and after.

    Raises
    ------
    AssumptionError
        If a parameter of a block cannot be placed, the MLP or the norms are others than in the
        recommendation, or residual multipliers cannot be folded into weights.
    DomainError
        If its depth is not that of the recommendation, or `forward` is not admissible.

    Notes
    -----
    Residual strengths are folded into the matrices that write to the stream, exactly
    (`sigprop.model.export`). Nothing is written unless everything can be.

    Examples
    --------
    >>> from torch import nn
    >>> from sigprop import ModelSpec
    >>> from sigprop.model.export import prescribe
    >>> from sigprop.torch import initialise_
    >>> layer = nn.TransformerEncoderLayer(64, 2, 128, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, 2)
    >>> spec = ModelSpec(depth=2, context=16, width=64, beta=1, sigma_v2=1, sigma_w2=2, rho0=0,
    ...                    alpha_mlp=2)
    >>> changes = initialise_(model, prescribe(spec))
    >>> [round(c.after, 2) for c in changes if c.role == "w2"]  # sqrt(2 / 128) / 2
    [0.06, 0.06]
    """
    plan = recommendation.prescription if isinstance(recommendation, Design) else recommendation
    start = count("seed", seed, 0, 2**62)
    blocks = find_blocks(model, batch)
    require(plan.spec.depth == len(blocks), "depth", plan.spec.depth, f"{len(blocks)}, the model's")
    shares = _forward(plan, forward)
    variance, bias = (
        {role: values * shares.get(role, 1.0) for role, values in columns.items()}
        for columns in (plan.variance, plan.bias)
    )
    return draw(model, blocks, variance, bias, plan.norm_gain, start)


def _forward(plan: Prescription, forward: tuple[float, float]) -> dict[str, float]:
    """Factor on the variance of each matrix that writes to the stream."""
    values = [scalar("forward", value, 1e-6, 1e6) for value in forward]
    if not plan.folded:
        raise AssumptionError("without norms residual multipliers cannot be folded into weights")
    if not plan.spec.ends_in_norm and not np.allclose(values, 1.0, rtol=1e-3):
        raise AssumptionError(
            "a pre-norm forward pass with multipliers of its own cannot take folded ones: remove "
            "them first"
        )
    return {name: value**2 for name, value in zip(WRITERS, values, strict=True)}
