"""What one block did, read from recorded tensors and checked against what the theory knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from sigprop.core.arrays import Floats
from sigprop.core.errors import AssumptionError, require
from sigprop.torch.module_audit.measure import (
    Attended,
    attended,
    fit,
    kernels,
    nearest_activation,
    products,
)
from sigprop.torch.module_audit.structure import BlockParts

__all__ = ["Layer", "Reader", "Tape", "centred"]

TOLERANCE = 2e-3  # relative distance accepted as rounding, or as the tanh form of GELU


class Layer(NamedTuple):
    """What one block does.

    Attributes
    ----------
    kernel : array, shape (B, T, T)
        Kernel of the states that enter it.
    attended : Attended
        Its attention.
    causal, parallel : bool
        Mask, and whether attention and MLP read the same state.
    placement : {"post", "pre", "none"}
        Where its norms are.
    heads : int
        Number of heads.
    scale : float
        Factor on the products of queries and keys.
    skip, branch : tuple of float
        Multipliers of the skip branch and of the branch, for attention and MLP.
    norm_gain : float
        Root mean square of what its norms put out; one without norms.
    activation : str
        Activation of the MLP.
    """

    kernel: Floats
    attended: Attended
    causal: bool
    parallel: bool
    placement: str
    heads: int
    scale: float
    skip: tuple[float, float]
    branch: tuple[float, float]
    norm_gain: float
    activation: str


@dataclass
class Tape:
    """Tensors of the block that is running, as (B, T, d) without gradients.

    Attributes
    ----------
    entry : torch.Tensor or None
        What entered it.
    batch : int
        Number of sequences, of which only the first few are here.
    norms : list of pair of torch.Tensor
        Input and output of its norms, in order of their calls.
    calls : dict of int to pair of torch.Tensor
        Input and output of its matrices, by id of the module.
    softmax : list of pair of torch.Tensor
        What entered and what left each softmax of its attention.
    read, mixed : torch.Tensor or None
        First argument and first result of its attention.
    """

    entry: torch.Tensor | None = None
    batch: int = 1
    norms: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    calls: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    softmax: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    read: torch.Tensor | None = None
    mixed: torch.Tensor | None = None


def centred(parts: BlockParts, placement: str) -> bool:
    """Whether a LayerNorm removes the mean of the stream before each branch reads it.

    Parameters
    ----------
    parts : BlockParts
        The block.
    placement : {"post", "pre", "none"}
        Where its norms are.

    Returns
    -------
    bool
        Its kernels are then taken without the mean.
    """
    return placement == "pre" and "RMS" not in type(parts.norms[0]).__name__


class Reader:
    """Reads one block from its tape.

    Parameters
    ----------
    parts : BlockParts
        The block.
    tape : Tape
        What it did.
    out : torch.Tensor, shape (B, T, d)
        What left it.
    rotary : float or None
        Base of rotary positions.

    Raises
    ------
    DomainError
        If there are less than two tokens.
    """

    def __init__(
        self, parts: BlockParts, tape: Tape, out: torch.Tensor, rotary: float | None
    ) -> None:
        assert tape.entry is not None
        self.parts, self.tape, self.out, self.x = parts, tape, out, tape.entry
        self.name, self.rotary = parts.name, rotary
        require(self.x.shape[1] >= 2, "context", self.x.shape[1], "at least 2 tokens")

    def layer(self) -> Layer:
        """Describe the block.

        Returns
        -------
        Layer
            What it does.

        Raises
        ------
        AssumptionError
            If that is not what the theory describes.
        """
        placement = self._placement()
        read, self.hidden = self._reads(placement)
        found, causal = attended(*self._softmax())
        if causal is None:
            raise AssumptionError(
                f"{self.name} has a mask that is neither full nor causal: pass sequences of one "
                "length, without padding or window"
            )
        heads = self._softmax()[0].shape[1]
        parallel = placement == "pre" and self._same(self._second(), self.x)
        skip, branch = self._residual(placement, parallel)
        kernel = kernels(self.x, centred(self.parts, placement))
        scale = self._scale(read, heads, causal)
        parts = (skip, branch, self._gain(), self._activation())
        return Layer(kernel, found, causal, parallel, placement, heads, scale, *parts)

    def _same(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        return a.shape == b.shape and float((a - b).norm()) <= TOLERANCE * float(b.norm())

    def _call(self, role: str) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.tape.calls.get(id(self.parts.matrices[role].module))
        if found is None:
            raise AssumptionError(f"{self.parts.matrices[role].name} is not called in the pass")
        return found

    def _placement(self) -> str:
        norms = self.tape.norms
        if not norms:
            return "none"
        if len(norms) == 2 and self._same(norms[-1][1], self.out):
            return "post"
        if len(norms) <= 2 and self._same(norms[0][0], self.x):
            return "pre"
        raise AssumptionError(
            f"{self.name} runs {len(norms)} norms in places that are neither pre-norm nor post-norm"
        )

    def _second(self) -> torch.Tensor:
        """State that the second norm reads (pre-norm)."""
        return self.tape.norms[-1][0]

    def _reads(self, placement: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what attention and the MLP read; refuse if it is something else."""
        norms, calls = self.tape.norms, self.tape.calls
        attention = self.x if placement != "pre" else norms[0][1]
        mlp = {"post": lambda: norms[0][1], "pre": lambda: norms[-1][1]}.get(
            placement, lambda: self._call("w1")[0]
        )()
        query = calls.get(id(self.parts.matrices["query"].module), (self.tape.read,))[0]
        for what, found, ideal in (
            ("attention", query, attention),
            ("the MLP", self._call("w1")[0], mlp),
        ):
            if found is None or not self._same(found, ideal):
                raise AssumptionError(f"in {self.name} {what} reads neither the stream nor a norm")
        return attention, mlp

    def _residual(
        self, placement: str, parallel: bool
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Multipliers, fitted: the sum after each branch is skip * state + branch * output."""
        mixed = self.tape.mixed if self.parts.joint_attention else self._call("output")[1]
        assert mixed is not None
        thought, norms = self._call("w2")[1], self.tape.norms
        if parallel:
            (skip, first, second), left = fit(self.out, self.x, mixed, thought)
            self._check(left, "skip, attention and MLP")
            return (skip, 1.0), (first, second)
        middle = self.hidden if placement != "pre" else norms[1][0]
        joined = norms[0][0] if placement == "post" else middle
        (skip, first), left = fit(joined, self.x, mixed)
        self._check(left, "skip and attention")
        end = norms[1][0] if placement == "post" else self.out
        (again, second), rest = fit(end, middle, thought)
        self._check(rest, "skip and MLP")
        return (skip, again), (first, second)

    def _check(self, left: float, what: str) -> None:
        if left > TOLERANCE:
            raise AssumptionError(
                f"the stream in {self.name} is not a sum of {what}: {left:.2g} of it is left"
            )

    def _gain(self) -> float:
        outs = [float(out.double().square().mean()) for _, out in self.tape.norms]
        return float(sum(outs) / len(outs)) ** 0.5 if outs else 1.0

    def _softmax(self) -> tuple[torch.Tensor, torch.Tensor]:
        number = len(self.tape.softmax)
        if number != 1:
            raise AssumptionError(
                f"the attention of {self.name} runs {number} softmaxes where one can be read; "
                'set attn_implementation = "sdpa" or "eager"'
            )
        scores, context = self.tape.softmax[0][0], self.x.shape[1]
        if scores.shape[-2:] != (context, context) or scores[..., 0, 0].numel() % self.tape.batch:
            raise AssumptionError(f"{self.name} has scores of shape {tuple(scores.shape)}")
        whole = (self.tape.batch, -1, context, context)
        few = [v.reshape(whole)[: len(self.x)] for v in self.tape.softmax[0]]
        return few[0], few[1]

    def _scale(self, read: torch.Tensor, heads: int, causal: bool) -> float:
        """Factor on the products; rotation leaves those of a token with itself as they are."""
        query, key = (self._projected(read, role) for role in ("query", "key"))
        scores, ideal = self._softmax()[0].double(), products(query, key, heads)
        if self.rotary is not None:
            pair = [v.diagonal(dim1=-2, dim2=-1) for v in (scores, ideal)]
        else:
            seen = torch.ones_like(scores[0, 0], dtype=torch.bool)
            pair = [v[..., seen.tril() if causal else seen] for v in (scores, ideal)]
        (scale,), left = fit(*pair)
        if left > TOLERANCE:
            raise AssumptionError(
                f"the scores of {self.name} are not products of its queries and keys: {left:.2g} "
                "of them is left (biased or normed scores, or rotary positions without inv_freq)"
            )
        return scale

    def _projected(self, read: torch.Tensor, role: str) -> torch.Tensor:
        matrix = self.parts.matrices[role]
        out = read.double() @ matrix.weight.double().T
        return out if matrix.bias is None else out + matrix.bias.double()

    def _activation(self) -> str:
        hidden = self._call("w2")[0]
        gated = "gate" in self.parts.matrices
        inner = self._call("gate" if gated else "w1")[1]
        name, left = nearest_activation(hidden, inner, self._call("w1")[1] if gated else None)
        if left > TOLERANCE:
            raise AssumptionError(
                f"the activation of {self.name} is none that the theory knows: {left:.2g} of the "
                f"hidden state is left with {name}, the nearest"
            )
        return name
