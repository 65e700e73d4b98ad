"""Where the matrices of a torch transformer are, by structure; and drawing them.

A block is the item of a `ModuleList` or `Sequential` that holds one attention. An attention is an
`nn.MultiheadAttention`, or a module with query, key and value projections under their usual names,
separate or side by side. Of the other matrices in a block the first that leads from the heads to
the stream is its output; those left are the MLP, the one that leads back to the stream its second.
Where projections are side by side, a pass shows which of their outputs are values; no name says so.

This module needs PyTorch alone: `sigprop.model.export` copies it into the code that it writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from sigprop.core.errors import AssumptionError

ROLES = ("query", "key", "value", "output", "gate", "w1", "w2")
BIASED = ("value", "w1", "w2")  # with the variance that a description gives; others are zero
WRITERS = ("output", "w2")  # matrices that write to the stream
TRIPLES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
JOINT = ("c_attn", "in_proj", "qkv", "qkv_proj", "wqkv", "Wqkv", "to_qkv", "query_key_value")
GATES = re.compile(r"(^|\.)(gate\w*|w_gate|linear_gate)$")
NORMS = re.compile(r"(Layer|RMS)Norm")


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix inside a parameter, written so that a product reads x @ weight.T.

    The outputs of the parameter are `groups` groups of equal size (one, or one for each head); the
    matrix has those from `start` to `stop` of each. A `transposed` parameter is stored as (fan-in,
    fan-out). `module` is called with it; there is none inside `nn.MultiheadAttention`.
    """

    name: str
    parameter: nn.Parameter
    bias_parameter: nn.Parameter | None
    module: nn.Module | None = None
    transposed: bool = False
    groups: int = 1
    start: int = 0
    stop: int | None = None

    def of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Its part of what has the parameter's outputs first; writing to it writes to them."""
        grouped: torch.Tensor = outputs.unflatten(0, (self.groups, -1))
        return grouped[:, self.start : self.stop]

    def view(self) -> torch.Tensor:
        """Its entries, as (groups, outputs in each, fan-in)."""
        whole = self.parameter.detach()
        return self.of(whole.T if self.transposed else whole)

    @property
    def weight(self) -> torch.Tensor:
        """The matrix, of shape (fan-out, fan-in)."""
        return self.view().flatten(0, 1)

    @property
    def bias(self) -> torch.Tensor | None:
        """Its bias."""
        if self.bias_parameter is None:
            return None
        return self.of(self.bias_parameter.detach()).flatten()

    @property
    def fan_in(self) -> int:
        """Number of inputs."""
        return int(self.parameter.shape[0 if self.transposed else 1])

    @property
    def variance(self) -> float:
        """Mean square entry times fan-in, summed in float64."""
        return float(self.view().double().square().mean()) * self.fan_in

    @property
    def bias_variance(self) -> float:
        """Mean square entry of the bias; zero without one."""
        return 0.0 if self.bias is None else float(self.bias.double().square().mean())


@dataclass(frozen=True, eq=False)
class BlockParts:
    """Parts of one block: name, module, attention, matrices by role, norms in order."""

    name: str
    module: nn.Module
    attention: nn.Module
    matrices: dict[str, Matrix]
    norms: tuple[nn.Module, ...]

    @property
    def joint_attention(self) -> bool:
        """Whether one function does all of attention, so that its matrices are never called."""
        return isinstance(self.attention, nn.MultiheadAttention)


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


def find_blocks(model: nn.Module, batch: Any = None) -> tuple[BlockParts, ...]:
    """Blocks of a model, in order of depth; `batch` is what its forward pass takes.

    Without a batch, projections that are side by side are looked at with one token of id 0.
    """
    if not isinstance(model, nn.Module):
        raise AssumptionError(f"this needs a torch.nn.Module, not a {type(model).__name__}")
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
            "there are several stacks of blocks: " + ", ".join(sorted(stacks)) + "; take one"
        )
    for owner in owners:
        if owners.count(owner) > 1:
            raise AssumptionError(f"{owner} has several attentions; the theory has one in a block")
    _require_whole_stack(model, stacks.pop(), owners)
    blocks = tuple(_block(model, *pair) for pair in zip(owners, names, strict=True))
    fused = [len(_projections(parts.attention)) == 1 for parts in blocks]
    return _separated(model, blocks, batch) if any(fused) else blocks


def draw(
    model: nn.Module,
    blocks: tuple[BlockParts, ...],
    variance: Mapping[str, Any],
    bias: Mapping[str, Any],
    norm_gain: float | None,
    seed: int = 0,
) -> tuple[Change, ...]:
    """Draw every matrix and bias of every block anew, in place, once all can be placed.

    `variance` (times fan-in) and `bias` have one number for each block by role. Norms keep their
    weights where they have `norm_gain` already, to 5 %; it is None for blocks without norms.
    """
    roles = {role for parts in blocks for role in parts.matrices}
    if roles != set(variance):
        raise AssumptionError(
            f"the model has the matrices {', '.join(sorted(roles))}; the recommendation is for "
            + ", ".join(sorted(variance))
        )
    if any(len(values) != len(blocks) for values in variance.values()):
        depth = len(variance["query"])
        raise AssumptionError(f"the model has {len(blocks)} blocks; the recommendation has {depth}")
    _require_all_placed(model, blocks)
    norms = [pair for parts in blocks for pair in _gains(parts, norm_gain)]
    generator = torch.Generator().manual_seed(seed)
    changes = []
    with torch.no_grad():
        for norm, weight in norms:
            for name, tensor in _affine(norm, weight).items():
                norm.get_parameter(name).copy_(tensor)
        for i, parts in enumerate(blocks):
            for role, matrix in parts.matrices.items():
                before = (matrix.variance / matrix.fan_in) ** 0.5
                after = (float(variance[role][i]) / matrix.fan_in) ** 0.5
                _draw(matrix.view(), after, generator)
                if matrix.bias_parameter is not None:
                    std = float(bias[role][i]) ** 0.5 if role in BIASED else 0.0
                    _draw(matrix.of(matrix.bias_parameter), std, generator)
                changes.append(Change(matrix.name, role, i + 1, before, after))
    return tuple(changes)


def _draw(target: torch.Tensor, std: float, generator: torch.Generator) -> None:
    """Draw on the CPU, so that a seed gives the same weights on every device."""
    target.copy_(torch.randn(target.shape, generator=generator) * std)


def _is_matrix(module: nn.Module) -> bool:
    """Whether it is a linear layer; Conv1D of transformers is one, stored as (fan-in, fan-out)."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.Linear) or weight is None:
        return isinstance(module, nn.Linear)
    return type(module).__name__ == "Conv1D" and getattr(module, "nf", None) == weight.shape[-1]


def _is_norm(module: nn.Module) -> bool:
    return any(NORMS.search(kind.__name__) for kind in type(module).__mro__)


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or bool(_projections(module))


def _projections(module: nn.Module) -> tuple[str, ...]:
    """Names of the children that project to queries, keys and values: three, or one for all."""
    children = {name for name, child in module.named_children() if _is_matrix(child)}
    for names in TRIPLES:
        if set(names) <= children:
            return names
    return next(((name,) for name in JOINT if name in children), ())


def _owner(name: str) -> str:
    """Name of the block that holds an attention: the prefix that ends in a number."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if parts[end - 1].isdigit():
            return ".".join(parts[:end])
    raise AssumptionError(f"{name} is not inside a numbered block (ModuleList or Sequential)")


def _require_whole_stack(model: nn.Module, stack: str, owners: list[str]) -> None:
    """Refuse items without attention: any of a ModuleList, those between blocks of others."""
    parent = model.get_submodule(stack)
    items = [f"{stack}.{name}".lstrip(".") for name, _ in parent.named_children()]
    if not isinstance(parent, nn.ModuleList):
        items = items[items.index(owners[0]) : items.index(owners[-1]) + 1]
    for item in items:
        if item not in owners:
            kind = type(model.get_submodule(item)).__name__
            raise AssumptionError(f"{item} ({kind}) has no attention that can be read")


def _block(model: nn.Module, owner: str, name: str) -> BlockParts:
    block, attention = model.get_submodule(owner), model.get_submodule(name)
    matrices = _attention_matrices(attention, name)
    taken = {id(matrix.module) for matrix in matrices.values() if matrix.module is not None}
    rest = [
        _matrix(f"{owner}.{child}", module)
        for child, module in block.named_modules()
        if _is_matrix(module) and id(module) not in taken
    ]
    if "output" not in matrices:
        own = set(attention.modules())
        near = sorted(rest, key=lambda matrix: matrix.module not in own)
        matrices["output"] = _output(near, matrices, owner)
    rest = [m for m in rest if m.parameter is not matrices["output"].parameter]
    norms = tuple(m for m in block.modules() if _is_norm(m))
    return BlockParts(owner, block, attention, matrices | _mlp(rest, matrices, owner), norms)


def _matrix(name: str, module: nn.Module) -> Matrix:
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None or weight.is_meta or not weight.is_floating_point():
        raise AssumptionError(f"{name}.weight is no plain parameter: parametrised, empty or packed")
    return Matrix(f"{name}.weight", weight, bias, module, not isinstance(module, nn.Linear))


def _attention_matrices(attention: nn.Module, name: str) -> dict[str, Matrix]:
    """Projections of an attention; one for all stands for each of the three until `_separated`."""
    if isinstance(attention, nn.MultiheadAttention):
        return _multihead(attention, name)
    children = _projections(attention)
    found = [_matrix(f"{name}.{child}", attention.get_submodule(child)) for child in children]
    return dict(zip(ROLES[:3], found * (3 // len(found)), strict=True))


def _multihead(attention: nn.MultiheadAttention, name: str) -> dict[str, Matrix]:
    weight, bias = attention.in_proj_weight, attention._parameters.get("in_proj_bias")
    if weight is None or attention.bias_k is not None or attention.add_zero_attn:
        raise AssumptionError(
            f"{name} has keys and values of another width, or adds keys: not read here"
        )
    whole, width = Matrix(f"{name}.in_proj_weight", weight, bias), attention.embed_dim
    out = {
        role: replace(whole, start=i * width, stop=(i + 1) * width)
        for i, role in enumerate(ROLES[:3])
    }
    return out | {"output": _matrix(f"{name}.out_proj", attention.out_proj)}


def _output(rest: list[Matrix], matrices: dict[str, Matrix], owner: str) -> Matrix:
    """Find the first matrix from the joined heads to the stream."""
    query, fused = matrices["query"], matrices["query"] is matrices["key"]
    joined, width = len(query.weight), query.fan_in
    for matrix in rest:
        fits = matrix.fan_in < joined if fused else matrix.fan_in == joined
        if fits and len(matrix.weight) == width:
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


def _separated(
    model: nn.Module, blocks: tuple[BlockParts, ...], batch: Any
) -> tuple[BlockParts, ...]:
    """Tell queries, keys and values apart where one projection has all of them.

    All tokens are given the same outputs of that projection. What reaches the output matrix is then
    made of those that are values, whatever queries and keys are: its gradient tells which.
    """
    given: dict[int, torch.Tensor] = {}
    reached: dict[int, torch.Tensor] = {}

    def give(number: int) -> Any:
        def hook(_: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
            same = torch.linspace(-1, 1, out.shape[-1], device=out.device).to(out.dtype)
            given[number] = same.requires_grad_()
            return given[number].expand_as(out).contiguous()

        return hook

    def reach(number: int) -> Any:
        return lambda _, args: reached.update({number: args[0]})

    with _passing(model) as stack:
        for i, parts in enumerate(blocks):
            joint, output = (parts.matrices[role].module for role in ("query", "output"))
            if joint is None or output is None:
                raise AssumptionError(f"{parts.name} is of another kind than the first block")
            stack.callback(joint.register_forward_hook(give(i)).remove)
            stack.callback(output.register_forward_pre_hook(reach(i)).remove)
        _run(model, batch, blocks[0].matrices["query"].name)
    total = sum((value.sum() for value in reached.values()), torch.zeros(()))
    if len(given) < len(blocks) or len(reached) < len(blocks) or not total.requires_grad:
        raise AssumptionError("a pass does not show which projections are values")
    gradients = torch.autograd.grad(total, [given[i] for i in range(len(blocks))])
    return tuple(_split(*pair) for pair in zip(blocks, gradients, strict=True))


def _split(parts: BlockParts, gradient: torch.Tensor) -> BlockParts:
    """Read the layout: groups of queries, keys and as many values, in this order."""
    joint, output = parts.matrices["query"], parts.matrices["output"]
    values = gradient > 0.5 * gradient.max().clamp(min=1e-6)
    total, number = len(values), int(values.sum())
    last = values & ~values.roll(-1)
    last[-1] = values[-1]
    groups = max(int(last.sum()), 1)
    size, inside = total // groups, number // groups
    queries = size - 2 * inside
    pattern = torch.arange(size, device=values.device) >= size - inside
    known = total == groups * size and torch.equal(values, pattern.repeat(groups))
    if not known or groups * queries != output.fan_in:
        raise AssumptionError(
            f"{joint.name} has {total} outputs, {number} of them values: where its queries and "
            "keys are is not known here"
        )
    edges = (0, queries, queries + inside, size)
    split = {
        role: replace(joint, groups=groups, start=edges[i], stop=edges[i + 1])
        for i, role in enumerate(ROLES[:3])
    }
    return replace(parts, matrices=parts.matrices | split)


@contextmanager
def _passing(model: nn.Module) -> Iterator[ExitStack]:
    """Keep evaluation mode and gradients; modes and random state come back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with ExitStack() as stack, torch.enable_grad(), torch.random.fork_rng(devices=[]):
            yield stack
    finally:
        for module, mode in modes.items():
            module.training = mode


def _run(model: nn.Module, batch: Any, name: str) -> None:
    """Run a batch, or one token of id 0."""
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    elif batch is not None:
        model(batch)
    else:
        device = next(model.parameters()).device
        try:
            model(torch.zeros(1, 1, dtype=torch.long, device=device))
        except Exception as error:
            raise AssumptionError(
                f"{name} has queries, keys and values in one, and the pass of one token that "
                f"would show which are values ended in {type(error).__name__}: give a batch"
            ) from error


def _require_all_placed(model: nn.Module, blocks: tuple[BlockParts, ...]) -> None:
    """Refuse parameters of blocks that are no matrix, bias or norm, and those with two places."""
    known: set[int] = set()
    for parts in blocks:
        for matrix in parts.matrices.values():
            known |= {id(matrix.parameter), id(matrix.bias_parameter)}
        known |= {id(p) for norm in parts.norms for p in norm.parameters(recurse=False)}
    inside, seen = tuple(f"{parts.name}." for parts in blocks), dict[int, str]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name.startswith(inside) and id(parameter) not in known:
            raise AssumptionError(f"{name} is no matrix, bias or norm that can be placed")
        if id(parameter) in known & set(seen):
            raise AssumptionError(f"{name} is tied to {seen[id(parameter)]}")
        seen[id(parameter)] = name


def _gains(parts: BlockParts, gain: float | None) -> Iterator[tuple[nn.Module, float]]:
    """Norms that have another gain, and the weight that gives it: some add one to theirs."""
    number = len(parts.norms)
    if (gain is None) != (number == 0) or number > 2:
        wanted = "none" if gain is None else "one or two"
        raise AssumptionError(f"{parts.name} has {number} norms; the recommendation has {wanted}")
    width = parts.matrices["query"].fan_in
    for norm in parts.norms:
        assert gain is not None
        written = [w for w in (None, gain, gain - 1) if _has_gain(norm, w, gain, width)]
        if not written:
            raise AssumptionError(f"{parts.name} has a norm that has and takes no gain of {gain:g}")
        if written[0] is not None:
            yield norm, written[0]


def _has_gain(norm: nn.Module, weight: float | None, gain: float, width: int) -> bool:
    """Whether what it puts out has root mean square `gain`, as it is or with another weight."""
    tensors = {} if weight is None else _affine(norm, weight)
    if weight is not None and "weight" not in tensors:
        return False
    like = next(norm.parameters(), torch.zeros(()))
    x = torch.randn(64, width, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        out = torch.func.functional_call(norm, tensors, (x,))
    size: float = out.double().square().mean().sqrt().item()
    return abs(size - gain) <= 0.05 * gain


def _affine(norm: nn.Module, weight: float) -> dict[str, torch.Tensor]:
    """Parameters of a norm of constant weight without bias."""
    values = {"weight": weight, "bias": 0.0}
    own = dict(norm.named_parameters(recurse=False))
    return {name: torch.full_like(own[name], values[name]) for name in values if name in own}
