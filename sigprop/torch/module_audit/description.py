r"""The description of a real model: `ModelSpec` with the variances that its weights have.

A matrix of mean square entry v at fan-in n has :math:`\sigma^2 = v n`; scores are scale times the
products of queries and keys, so :math:`\beta = scale\,\sqrt{d_h\,\sigma_q^2 \sigma_k^2/\log T}`
(theory.md section 1). What multiplies a branch in the forward pass is part of its last matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from sigprop.core.errors import AssumptionError
from sigprop.model.spec import ModelSpec
from sigprop.torch.module_audit.block_reader import Layer
from sigprop.torch.module_audit.forward_pass import Recording
from sigprop.torch.module_audit.measure import cosines
from sigprop.torch.module_audit.structure import Anatomy, BlockParts, Matrix

__all__ = ["Assumption", "assumptions", "layer_specs", "whole_spec"]

AVERAGED = ("beta", "sigma_v2", "sigma_o2", "sigma_w1_2", "sigma_w2_2", "sigma_b2", "alpha_attn",
            "alpha_mlp", "norm_gain")  # fmt: skip
EDGE = 40  # power iterations: the edge of a random spectrum to about 3 % from below


@dataclass(frozen=True)
class Assumption:
    """One assumption of the prediction, and how far this model is from it.

    Attributes
    ----------
    name : str
        The assumption.
    size : float
        Distance from it, in the unit that `meaning` states; zero where it holds.
    tolerated : float
        Distance up to which it counts as met.
    meaning : str
        What was measured, as a sentence.

    Examples
    --------
    >>> from sigprop.torch.module_audit.description import Assumption
    >>> Assumption("equal blocks", 0.5, 0.1, "Scales differ.").fails
    True
    """

    name: str
    size: float
    tolerated: float
    meaning: str

    @property
    def fails(self) -> bool:
        """Whether the distance is beyond what is tolerated."""
        return self.size > self.tolerated


def layer_specs(anatomy: Anatomy, recording: Recording) -> list[ModelSpec]:
    """Describe every block by its own weights.

    Parameters
    ----------
    anatomy : Anatomy
        Where the matrices are.
    recording : Recording
        What the blocks do.

    Returns
    -------
    list of ModelSpec
        One description of depth one for each block; the width is that of the joined heads.

    Raises
    ------
    AssumptionError
        If the blocks differ in kind, or the weights are beyond what a description admits.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sigprop.torch.module_audit.structure import dissect
    >>> from sigprop.torch.module_audit.description import layer_specs
    >>> from sigprop.torch.module_audit.forward_pass import record
    >>> layer = nn.TransformerEncoderLayer(64, 2, 128, batch_first=True, norm_first=True)
    >>> model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> anatomy = dissect(model)
    >>> spec = layer_specs(anatomy, record(model, torch.randn(1, 4, 64), anatomy))[0]
    >>> spec.norm, spec.heads, round(spec.sigma_w1_2, 1)
    ('pre', 2, 0.3)
    """
    pairs = list(zip(anatomy.blocks, recording.layers, strict=True))
    kinds = {(p.placement, p.parallel, p.causal, p.heads, p.activation) for p in recording.layers}
    if len(kinds) > 1:
        raise AssumptionError(f"the blocks are of {len(kinds)} kinds; the theory has one")
    out: list[ModelSpec] = []
    for parts, layer in pairs:
        known = _values(parts, layer, anatomy.rotary_base)
        if out and known == {name: out[-1].to_dict()[name] for name in known}:
            out.append(out[-1])
        else:
            out.append(ModelSpec(**known))
    return out


def _values(parts: BlockParts, layer: Layer, rotary: float | None) -> dict[str, Any]:
    matrices, first = parts.matrices, layer.kernel
    joined, width = matrices["query"].weight.shape
    variance = {role: matrix.variance for role, matrix in matrices.items()}
    context = first.shape[-1]
    rho, q = cosines(first)
    heat = variance["query"] * variance["key"] * joined / layer.heads / math.log(context)
    inner = math.sqrt(variance.get("gate", variance["w1"]) * variance["w1"])
    return {
        "depth": 1,
        "context": context,
        "width": int(joined),
        "heads": layer.heads,
        "kv_heads": layer.heads * len(matrices["key"].weight) // joined,
        "norm": layer.placement,
        "causal": layer.causal,
        "activation": layer.activation,
        "gated": "gate" in matrices,
        "mlp_ratio": matrices["w2"].fan_in / width,
        "rotary_base": rotary,
        "parallel": layer.parallel,
        "beta": abs(layer.scale) * math.sqrt(heat),
        "sigma_v2": variance["value"],
        "sigma_o2": variance["output"] * layer.branch[0] ** 2,
        "sigma_w1_2": inner,
        "sigma_w2_2": variance["w2"] * layer.branch[1] ** 2,
        "sigma_b2": float(np.mean([matrices[r].bias_variance for r in ("value", "w1", "w2")])),
        "alpha_attn": abs(layer.skip[0]),
        "alpha_mlp": abs(layer.skip[1]),
        "norm_gain": layer.norm_gain,
        "rho0": float(np.clip(rho, -1 / (context - 1), 1)),
        "q0": q,
    }


def whole_spec(anatomy: Anatomy, specs: list[ModelSpec]) -> ModelSpec:
    """One description of the whole stack: scales averaged over the blocks.

    Parameters
    ----------
    anatomy : Anatomy
        Where the matrices are.
    specs : list of ModelSpec
        From `layer_specs`.

    Returns
    -------
    ModelSpec
        Of the model's depth and width, at the input of the first block.
    """
    means = {n: float(np.mean([np.asarray(getattr(s, n)) for s in specs])) for n in AVERAGED}
    width = anatomy.blocks[0].matrices["query"].fan_in
    return specs[0].replace(depth=len(specs), width=width, **means)


def assumptions(
    anatomy: Anatomy, recording: Recording, specs: list[ModelSpec]
) -> tuple[Assumption, ...]:
    """Measure how far weights and input are from what the prediction assumes.

    Parameters
    ----------
    anatomy, recording, specs
        As in `layer_specs`, and its result.

    Returns
    -------
    tuple of Assumption
        The ones that need the model; those about the trajectory come with the prediction.
    """
    edges = [_edge(m) for parts in anatomy.blocks for m in parts.matrices.values()]
    spread = [_variation([float(np.asarray(getattr(s, n))) for s in specs]) for n in AVERAGED[:5]]
    return (
        Assumption(
            "independent Gaussian weights",
            max(edges) - 1,
            0.15,
            f"The largest singular value of a matrix is {max(edges):.3g} of a random one's.",
        ),
        Assumption(
            "blocks of equal scale",
            max(spread),
            0.1,
            f"Variances differ from block to block by {max(spread):.2g} of their mean (the kernel "
            "prediction takes each block's own).",
        ),
        _copies(anatomy),
        _partly_rotary(anatomy, recording),
        _biases(anatomy, recording),
        _input_norm(recording),
    )


def _edge(matrix: Matrix) -> float:
    """Largest singular value over sqrt(v) (sqrt(rows) + sqrt(columns)), the random edge."""
    weight = matrix.weight.double()
    vector = torch.ones(weight.shape[1], dtype=torch.float64, device=weight.device)
    for _ in range(EDGE):
        vector = weight.T @ (weight @ (vector / vector.norm().clamp(min=1e-300)))
    ideal = math.sqrt(matrix.variance / matrix.fan_in) * sum(math.sqrt(n) for n in weight.shape)
    return math.sqrt(float(vector.norm())) / max(ideal, 1e-300)


def _copies(anatomy: Anatomy) -> Assumption:
    """Correlation of a block's matrices with the next block's; nn.TransformerEncoder copies."""
    found = [0.0]
    for one, two in pairwise(anatomy.blocks):
        for role, matrix in one.matrices.items():
            a, b = (m.weight.double().flatten() for m in (matrix, two.matrices[role]))
            scale = float(a.norm() * b.norm()) if a.shape == b.shape else 0.0
            found.append(abs(float(a @ b)) / scale if scale else 0.0)
    return Assumption(
        "blocks drawn independently",
        max(found),
        0.1,
        f"Weights of neighbouring blocks are correlated by {max(found):.2g}: every block turns "
        "tokens the same way, and common parts add up coherently.",
    )


def _partly_rotary(anatomy: Anatomy, recording: Recording) -> Assumption:
    """Share of each head that rotary positions leave alone; the theory turns all of it."""
    head = len(anatomy.blocks[0].matrices["query"].weight) / recording.layers[0].heads
    left = 0.0 if anatomy.rotary_width is None else 1 - anatomy.rotary_width / head
    meaning = f"They leave {left:.0%} of each head alone."
    return Assumption("rotary positions turn whole heads", left, 0.01, meaning)


def _variation(values: list[float]) -> float:
    mean = float(np.mean(values))
    return float(np.std(values)) / mean if mean > 0 else 0.0


def _biases(anatomy: Anatomy, recording: Recording) -> Assumption:
    """Variance that query biases add to the scores, over that of the queries."""
    shares: list[float] = []
    for parts, layer in zip(anatomy.blocks, recording.layers, strict=True):
        query = parts.matrices["query"]
        q = layer.norm_gain**2 if layer.placement != "none" else cosines(layer.kernel)[1]
        shares.append(query.bias_variance / max(query.variance * q, 1e-300))
    size = max(shares)
    return Assumption(
        "queries without bias", size, 0.05, f"Biases are {size:.2g} of the variance of queries."
    )


def _input_norm(recording: Recording) -> Assumption:
    """Post-norm theory starts behind a norm; a model without one starts at another variance."""
    first, post = recording.layers[0], recording.layers[0].placement == "post"
    size = abs(cosines(first.kernel)[1] / first.norm_gain**2 - 1) if post else 0.0
    return Assumption(
        "a norm before the first post-norm block",
        size,
        0.1,
        f"Its input is off the norm's variance by {size:.2g} of it (the kernel prediction takes "
        "it as it is).",
    )
