"""Write a recommended initialisation into a real model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sigprop.arguments import validated
from sigprop.design import Design
from sigprop.errors import AssumptionError, require
from sigprop.prescription import Prescription
from sigprop.torch.anatomy import BlockParts, Matrix, dissect
from sigprop.validate import count, scalar

__all__ = ["Change", "initialise_"]

BIASED = ("value", "w1", "w2")  # with the variance that the description gives; others are zero
WRITERS = ("output", "w2")  # matrices that write to the stream


class Change(NamedTuple):
    """What happened to one matrix.

    Attributes
    ----------
    name, role : str
        Parameter, and what it is.
    block : int
        Its block, from 1.
    before, after : float
        Standard deviation of the entries.
    """

    name: str
    role: str
    block: int
    before: float
    after: float


@validated
def initialise_(
    model: nn.Module,
    recommendation: Design | Prescription,
    *,
    seed: int = 0,
    forward: tuple[float, float] = (1.0, 1.0),
) -> tuple[Change, ...]:
    """Draw the matrices and biases of every block anew, in place, as recommended.

    Parameters
    ----------
    model : torch.nn.Module
        As for `audit`. Embeddings, norms and heads are left as they are.
    recommendation : Design or Prescription
        From `sigprop.design.recommend`, `Audit.recommendation` or `sigprop.prescription.prescribe`.
    seed : int
        Of the draw.
    forward : tuple of float
        For attention and MLP, the multiplier of the skip branch over that of the branch that the
        model's forward pass has already, > 0 (`Audit.forward`); other than one only post-norm.

    Returns
    -------
    tuple of Change
        Every matrix with its standard deviation before and after.

    Raises
    ------
    AssumptionError
        If the model cannot be read, has another MLP than the recommendation, or residual
        multipliers cannot be folded into its weights.
    DomainError
        If its depth is not that of the recommendation, or `forward` is not admissible.

    Notes
    -----
    Residual strengths are folded into the matrices that write to the stream, exactly
    (`sigprop.prescription`). Nothing is written unless everything can be.

    Examples
    --------
    >>> from torch import nn
    >>> from sigprop import Transformer
    >>> from sigprop.prescription import prescribe
    >>> from sigprop.torch import initialise_
    >>> layer = nn.TransformerEncoderLayer(64, 2, 128, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, 2)
    >>> spec = Transformer(depth=2, context=16, width=64, beta=1, sigma_v2=1, sigma_w2=2, rho0=0,
    ...                    alpha_mlp=2)
    >>> changes = initialise_(model, prescribe(spec))
    >>> [round(c.after, 2) for c in changes if c.role == "w2"]  # sqrt(2 / 128) / 2
    [0.06, 0.06]
    """
    plan = recommendation.prescription if isinstance(recommendation, Design) else recommendation
    blocks = dissect(model).blocks
    require(plan.spec.depth == len(blocks), "depth", plan.spec.depth, f"{len(blocks)}, the model's")
    shares = _forward(plan, forward)
    roles = {role for parts in blocks for role in parts.matrices}
    if roles != set(plan.variance):
        raise AssumptionError(
            f"the model has the matrices {', '.join(sorted(roles))}; the recommendation is for "
            + ", ".join(sorted(plan.variance))
        )
    generator = torch.Generator().manual_seed(count("seed", seed, 0, 2**62))
    return tuple(
        _drawn(matrix, role, i, parts, plan, shares.get(role, 1.0), generator)
        for i, parts in enumerate(blocks)
        for role, matrix in parts.matrices.items()
    )


def _forward(plan: Prescription, forward: tuple[float, float]) -> dict[str, float]:
    """Factor on the variance of each matrix that writes to the stream."""
    values = [scalar("forward", value, 1e-6, 1e6) for value in forward]
    if not plan.folded:
        raise AssumptionError("without norms residual multipliers cannot be folded into weights")
    if plan.spec.norm != "post" and not np.allclose(values, 1.0, rtol=1e-3):
        raise AssumptionError(
            "a pre-norm forward pass with multipliers of its own cannot take folded ones: remove "
            "them first"
        )
    return {name: value**2 for name, value in zip(WRITERS, values, strict=True)}


def _drawn(
    matrix: Matrix,
    role: str,
    block: int,
    parts: BlockParts,
    plan: Prescription,
    share: float,
    generator: torch.Generator,
) -> Change:
    before = float(matrix.weight.double().square().mean()) ** 0.5
    after = float(np.sqrt(plan.variance[role][block] * share / matrix.fan_in))
    _draw(matrix.weight, after, generator)
    if matrix.bias is not None:
        variance = plan.bias[role][block] * share if role in BIASED else 0.0
        _draw(matrix.bias, float(np.sqrt(variance)), generator)
    return Change(matrix.name, role, block + 1, before, after)


def _draw(target: torch.Tensor, std: float, generator: torch.Generator) -> None:
    """Draw on the CPU, so that a seed gives the same weights on every device."""
    values: Any = torch.randn(target.shape, generator=generator) * std
    target.copy_(values)
