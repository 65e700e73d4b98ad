"""Where the matrices of a torch transformer are: blocks, attention, MLP and norms, by structure.

A block is the item of a `ModuleList` or `Sequential` that holds one attention. An attention is an
`nn.MultiheadAttention`, or a module with query, key and value projections under their usual names,
separate or side by side. Of the other matrices in a block the first that leads from the heads to
the stream is its output; those left are the MLP, the one that leads back to the stream its second.
What a forward pass really does is checked against this by `sigprop.torch.record`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sigprop.errors import AssumptionError

__all__ = ["ROLES", "Anatomy", "BlockParts", "Matrix", "dissect"]

ROLES = ("query", "key", "value", "output", "gate", "w1", "w2")
TRIPLES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
JOINT = ("c_attn", "in_proj", "qkv", "qkv_proj", "wqkv", "Wqkv", "to_qkv")
GATES = re.compile(r"(^|\.)(gate\w*|w_gate|linear_gate)$")
NORMS = re.compile(r"(Layer|RMS)Norm")


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix inside a parameter, written so that a product reads x @ weight.T.

    Parameters
    ----------
    name : str
        Name of the parameter in the model.
    parameter : torch.nn.Parameter
        Where it is stored.
    bias_parameter : torch.nn.Parameter or None
        Where its bias is stored.
    part, parts : int
        It is this one of so many equal parts, along the outputs.
    transposed : bool
        Whether the parameter is stored as (fan-in, fan-out), as in GPT-2.
    module : torch.nn.Module or None
        The module that is called with it; None inside `nn.MultiheadAttention`.

    Examples
    --------
    >>> from torch import nn
    >>> from sigprop.torch.anatomy import Matrix
    >>> layer = nn.Linear(4, 6)
    >>> joint = Matrix("qkv.weight", layer.weight, layer.bias, part=1, parts=3)
    >>> tuple(joint.weight.shape), joint.fan_in
    ((2, 4), 4)
    """

    name: str
    parameter: nn.Parameter
    bias_parameter: nn.Parameter | None
    part: int = 0
    parts: int = 1
    transposed: bool = False
    module: nn.Module | None = None

    @property
    def weight(self) -> torch.Tensor:
        """View of shape (fan-out, fan-in); writing to it writes to the model."""
        whole = self.parameter.detach()
        return (whole.T if self.transposed else whole).chunk(self.parts)[self.part]

    @property
    def bias(self) -> torch.Tensor | None:
        """View of the bias."""
        if self.bias_parameter is None:
            return None
        return self.bias_parameter.detach().chunk(self.parts)[self.part]

    @property
    def fan_in(self) -> int:
        """Number of inputs."""
        return int(self.weight.shape[1])

    @property
    def variance(self) -> float:
        """Mean square entry times fan-in, summed in float64 (theory.md section 1)."""
        return float(self.weight.double().square().mean()) * self.fan_in

    @property
    def bias_variance(self) -> float:
        """Mean square entry of the bias; zero without one."""
        return 0.0 if self.bias is None else float(self.bias.double().square().mean())


@dataclass(frozen=True, eq=False)
class BlockParts:
    """Parts of one block.

    Attributes
    ----------
    name : str
        Name of the block in the model.
    module, attention : torch.nn.Module
        The block, and its attention.
    matrices : dict of str to Matrix
        By role: query, key, value, output, w1, w2, and gate in a gated MLP.
    norms : tuple of torch.nn.Module
        Its norms, in order of registration.
    """

    name: str
    module: nn.Module
    attention: nn.Module
    matrices: dict[str, Matrix]
    norms: tuple[nn.Module, ...]

    @property
    def joint_attention(self) -> bool:
        """Whether one function does all of attention, so that its matrices are never called."""
        return isinstance(self.attention, nn.MultiheadAttention)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Blocks of a model, in order of depth.

    Attributes
    ----------
    blocks : tuple of BlockParts
        The blocks.
    rotary_base : float or None
        Base of rotary positions, from the buffer of inverse frequencies.
    """

    blocks: tuple[BlockParts, ...]
    rotary_base: float | None


def dissect(model: nn.Module) -> Anatomy:
    """Find the blocks of a model and what is in them.

    Parameters
    ----------
    model : torch.nn.Module
        A transformer of one stack of blocks.

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
    >>> from sigprop.torch.anatomy import dissect
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> dissect(nn.TransformerEncoder(layer, 3)).blocks[2].matrices["w2"].name
    'layers.2.linear2.weight'
    >>> dissect(nn.Linear(2, 2))
    Traceback (most recent call last):
        ...
    sigprop.errors.AssumptionError: Linear has no attention that can be read: ...
    """
    if not isinstance(model, nn.Module):
        raise AssumptionError(f"an audit needs a torch.nn.Module, not {type(model).__name__}")
    names = [name for name, module in model.named_modules() if _is_attention(module)]
    if not names:
        raise AssumptionError(
            f"{type(model).__name__} has no attention that can be read: no nn.MultiheadAttention, "
            "and no module with projections named as in "
            + ", ".join("/".join(t) for t in TRIPLES[:2]) + " or " + ", ".join(JOINT[:3])
        )  # fmt: skip
    owners = [_owner(name) for name in names]
    stacks = {owner.rpartition(".")[0] for owner in owners}
    if len(stacks) > 1:
        raise AssumptionError(
            "there are several stacks of blocks: " + ", ".join(sorted(stacks)) + "; audit one"
        )
    for owner in owners:
        if owners.count(owner) > 1:
            raise AssumptionError(f"{owner} has several attentions; the theory has one in a block")
    blocks = tuple(_block(model, *pair) for pair in zip(owners, names, strict=True))
    return Anatomy(blocks, _rotary_base(model))


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or _projections(module) is not None


def _projections(module: nn.Module) -> tuple[str, ...] | None:
    """Names of the children that project to queries, keys and values."""
    children = {name for name, child in module.named_children() if _is_matrix(child)}
    if "query_key_value" in children:
        raise AssumptionError(
            f"{type(module).__name__}.query_key_value interleaves queries, keys and values by "
            "head: its layout is not known here"
        )
    for names in TRIPLES:
        if set(names) <= children:
            return names
    return next(((name,) for name in JOINT if name in children), None)


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _owner(name: str) -> str:
    """Name of the block that holds an attention: the prefix that ends in a number."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if parts[end - 1].isdigit():
            return ".".join(parts[:end])
    raise AssumptionError(f"{name} is not inside a numbered block (ModuleList or Sequential)")


def _block(model: nn.Module, owner: str, name: str) -> BlockParts:
    block, attention = model.get_submodule(owner), model.get_submodule(name)
    matrices = _attention_matrices(attention, name)
    taken = {id(matrix.module) for matrix in matrices.values() if matrix.module is not None}
    rest = [
        _matrix(f"{owner}.{child}", module)
        for child, module in block.named_modules()
        if _is_matrix(module) and id(module) not in taken
    ]
    if "output" in matrices:
        rest = [m for m in rest if m.parameter is not matrices["output"].parameter]
    else:
        matrices["output"] = _output(rest, matrices, owner)
        rest.remove(matrices["output"])
    norms = tuple(m for m in block.modules() if NORMS.search(type(m).__name__))
    return BlockParts(owner, block, attention, matrices | _mlp(rest, matrices, owner), norms)


def _matrix(name: str, module: nn.Module, part: int = 0, parts: int = 1) -> Matrix:
    weight, bias = module.get_parameter("weight"), module._parameters.get("bias")
    turned = not isinstance(module, nn.Linear)
    return Matrix(f"{name}.weight", weight, bias, part, parts, turned, module)


def _attention_matrices(attention: nn.Module, name: str) -> dict[str, Matrix]:
    roles = ROLES[:3]
    if isinstance(attention, nn.MultiheadAttention):
        return _multihead(attention, name)
    names = _projections(attention)
    assert names is not None
    if len(names) == 3:
        pairs = zip(roles, names, strict=True)
        return {r: _matrix(f"{name}.{n}", attention.get_submodule(n)) for r, n in pairs}
    joint = attention.get_submodule(names[0])
    found = {r: _matrix(f"{name}.{names[0]}", joint, i, 3) for i, r in enumerate(roles)}
    first = found["query"]
    total = first.parameter.shape[1 if first.transposed else 0]
    if total != 3 * first.fan_in:
        raise AssumptionError(
            f"{name}.{names[0]} has {total} outputs, not three times its {first.fan_in} inputs: "
            "where its queries, keys and values are is not known here"
        )
    return found


def _multihead(attention: nn.MultiheadAttention, name: str) -> dict[str, Matrix]:
    if attention.in_proj_weight is None or attention.bias_k is not None or attention.add_zero_attn:
        raise AssumptionError(
            f"{name} has keys and values of another width, or adds keys: not read here"
        )
    weight, bias = attention.in_proj_weight, attention._parameters.get("in_proj_bias")
    out = {
        role: Matrix(f"{name}.in_proj_weight", weight, bias, i, 3)
        for i, role in enumerate(ROLES[:3])
    }
    return out | {"output": _matrix(f"{name}.out_proj", attention.out_proj)}


def _output(rest: list[Matrix], matrices: dict[str, Matrix], owner: str) -> Matrix:
    """Find the first matrix from the joined heads to the stream."""
    joined, width = matrices["query"].weight.shape
    for matrix in rest:
        if tuple(matrix.weight.shape) == (width, joined):
            return matrix
    raise AssumptionError(f"{owner} has no matrix from the heads ({joined}) to the width {width}")


def _mlp(rest: list[Matrix], matrices: dict[str, Matrix], owner: str) -> dict[str, Matrix]:
    """Roles of what is left: one matrix back to the stream, one or two into the hidden layer."""
    width = matrices["query"].fan_in
    names = [matrix.name for matrix in rest]
    if len(rest) not in (2, 3):
        raise AssumptionError(
            f"{owner} has {len(rest)} matrices beside attention ({', '.join(names)[:60]}); "
            "an MLP has two, or three if it is gated"
        )
    back = [m for m in rest if m.weight.shape[0] == width and m.fan_in != width] or rest[-1:]
    into = [m for m in rest if m is not back[0]]
    if len(back) > 1 or any(m.fan_in != width or len(m.weight) != back[0].fan_in for m in into):
        raise AssumptionError(f"the matrices {', '.join(names)[:80]} do not form one MLP")
    if len(into) == 1:
        return {"w1": into[0], "w2": back[0]}
    gates = [m for m in into if GATES.search(m.name.removesuffix(".weight"))]
    gate = gates[0] if gates else into[0]
    return {"gate": gate, "w1": next(m for m in into if m is not gate), "w2": back[0]}


def _rotary_base(model: nn.Module) -> float | None:
    """Read the base of the frequencies base^(-i/n), i < n, from the model's own buffer."""
    for name, values in _frequencies(model):
        rates = values.detach().double().cpu()
        if len(rates) < 2:
            raise AssumptionError(f"{name} has one frequency: its base is not known")
        base = float(rates[1]) ** -len(rates)
        ideal = base ** (-torch.arange(len(rates), dtype=torch.float64) / len(rates))
        if not torch.allclose(rates, ideal, rtol=1e-3):
            raise AssumptionError(f"{name} does not hold powers of one base: rescaled rotary")
        return float(f"{base:.6g}")  # the buffer is in single precision
    return None


def _frequencies(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((n, b) for n, b in model.named_buffers() if n.split(".")[-1] == "inv_freq")
