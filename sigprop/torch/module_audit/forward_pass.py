"""One forward pass of a model, recorded block by block and checked against what the theory knows.

Nothing is taken from names that the numbers can tell: the softmax is caught as an operation (fused
attention is switched to its plain form for this pass), residual strengths are fitted from the
states, the activation is the one that maps hidden states into each other, and scores must be one
number times the products of queries and keys. What does not fit is refused with the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from sigprop.core.arrays import Floats
from sigprop.core.errors import AssumptionError
from sigprop.torch.module_audit.block_reader import Layer, Reader, Tape, centred
from sigprop.torch.module_audit.measure import kernels
from sigprop.torch.module_audit.structure import Anatomy, BlockParts, Matrix

__all__ = ["Recording", "record", "sequences"]

LARGEST = 2**20  # of sequences times context squared


@dataclass(frozen=True)
class Recording:
    """A whole pass.

    Attributes
    ----------
    layers : tuple of Layer
        The blocks.
    kernel : array, shape (B, T, T)
        Kernel after the last one.
    gradients : dict of str to list of float
        For independent output gradients of unit variance: q, mean square at the input of each
        block; wq, wk, wv, w1, w2, squared norms of the weights' gradients over that of the output
        gradient. Empty where the pass was not differentiable.
    """

    layers: tuple[Layer, ...]
    kernel: Floats
    gradients: dict[str, list[float]]


class _Softmaxes(TorchDispatchMode):
    """Catch every softmax while attention runs."""

    def __init__(self) -> None:
        super().__init__()
        self.sink: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.sink is not None and str(func).split(".")[1] in ("_softmax", "_safe_softmax"):
            self.sink.append((args[0].detach(), out.detach()))
        return out


def record(model: nn.Module, batch: Any, anatomy: Anatomy, seed: int = 0) -> Recording:
    """Run a batch through a model and describe every block.

    Parameters
    ----------
    model : torch.nn.Module
        The model, in float32 or float64; it runs in evaluation mode and is left as it was.
    batch : mapping, tuple or tensor
        Keyword arguments, positional arguments, or the one argument of its forward pass. The first
        few sequences are used, as many as keep B T^2 below 2^20.
    anatomy : Anatomy
        Its parts.
    seed : int
        Of the output gradients.

    Returns
    -------
    Recording
        The blocks.

    Raises
    ------
    AssumptionError
        If a block does something else than the theory describes; the message says what.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sigprop.torch.module_audit.structure import dissect
    >>> from sigprop.torch.module_audit.forward_pass import record
    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    >>> found = record(model, torch.randn(1, 4, 8), dissect(model))
    >>> found.layers[0].placement, found.layers[0].activation, found.layers[0].heads
    ('post', 'relu', 2)
    """
    _single(model)
    session = _Session(anatomy)
    with _evaluating(model), ExitStack() as stack:
        for handle in session.hooks():
            stack.callback(handle.remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(session.mode)
        _run(model, batch)
    return session.finish(seed)


def _single(model: nn.Module) -> None:
    kinds = {p.dtype for p in model.parameters()} - {torch.float32, torch.float64}
    if kinds:
        kind = str(kinds.pop()).removeprefix("torch.")
        raise AssumptionError(f"the model is in {kind}; its audit needs model.float()")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Keep evaluation mode, in which dropout is the identity."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _run(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)


def sequences(batch: int, context: int) -> int:
    """How many sequences of a batch are used.

    Parameters
    ----------
    batch, context : int
        Sequences in the batch and tokens in each.

    Returns
    -------
    int
        At least one, at most eight.

    Examples
    --------
    >>> from sigprop.torch.module_audit.forward_pass import sequences
    >>> sequences(32, 128), sequences(32, 512), sequences(32, 4096)
    (8, 4, 1)
    """
    return max(1, min(batch, 8, LARGEST // context**2))


class _Session:
    """Hooks of one pass, and what they found."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.mode, self.tape = _Softmaxes(), Tape()
        self.layers: list[Layer] = []
        self.states: list[torch.Tensor] = []
        first = anatomy.blocks[0].attention
        self.first = not isinstance(first, nn.MultiheadAttention) or first.batch_first

    def hooks(self) -> Iterator[Any]:
        """Register everything."""
        for parts in self.anatomy.blocks:
            yield parts.module.register_forward_pre_hook(self._enter(parts), with_kwargs=True)
            yield parts.module.register_forward_hook(self._leave(parts))
            yield parts.attention.register_forward_pre_hook(self._attend, with_kwargs=True)
            yield parts.attention.register_forward_hook(self._attended)
            for norm in parts.norms:
                yield norm.register_forward_hook(self._normed)
            for matrix in parts.matrices.values():
                if matrix.module is not None:
                    yield matrix.module.register_forward_hook(self._called)

    def _enter(self, parts: BlockParts) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.tape = Tape()
            key, x = _stream(parts, args, kwargs)
            if not self.states:  # the stack is differentiated from here on
                x = x.detach().requires_grad_()
            self.states.append(x)
            self.tape.entry, self.tape.batch = self._few(x), x.shape[0 if self.first else 1]
            if isinstance(key, int):
                return (*args[:key], x, *args[key + 1 :]), kwargs
            return args, kwargs | {key: x}

        return hook

    def _leave(self, parts: BlockParts) -> Callable[..., Any]:
        def hook(_: nn.Module, args: Any, out: Any) -> None:
            last = out if isinstance(out, torch.Tensor) else out[0]
            with torch.no_grad():
                number = len(self.layers)
                if number >= len(self.anatomy.blocks) or self.anatomy.blocks[number] is not parts:
                    raise AssumptionError(f"{parts.name} runs out of order or more than once")
                base = self.anatomy.rotary_base
                self.layers.append(Reader(parts, self.tape, self._few(last), base).layer())
            self.tape, self.last = Tape(), last

        return hook

    def _attend(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.mode.sink = self.tape.softmax
        read = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))
        self.tape.read = self._few(read) if isinstance(read, torch.Tensor) else None

    def _attended(self, _: nn.Module, args: Any, out: Any) -> None:
        self.mode.sink = None
        first = out if isinstance(out, torch.Tensor) else out[0]
        self.tape.mixed = self._few(first)

    def _normed(self, _: nn.Module, args: Any, out: torch.Tensor) -> None:
        self.tape.norms.append((self._few(args[0]), self._few(out)))

    def _called(self, module: nn.Module, args: Any, out: torch.Tensor) -> None:
        self.tape.calls[id(module)] = (self._few(args[0]), self._few(out))

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        """First sequences, as (B, T, d)."""
        whole = x.detach() if self.first or x.ndim != 3 else x.detach().transpose(0, 1)
        return whole[: sequences(*whole.shape[:2])] if whole.ndim == 3 else whole

    def finish(self, seed: int) -> Recording:
        """Describe the end of the stack, and pull output gradients back."""
        missing = len(self.anatomy.blocks) - len(self.layers)
        if missing:
            raise AssumptionError(f"{missing} blocks of the model did not run")
        placement = self.layers[-1].placement
        end = kernels(self._few(self.last), centred(self.anatomy.blocks[-1], placement))
        return Recording(tuple(self.layers), end, self._gradients(seed))

    def _gradients(self, seed: int) -> dict[str, list[float]]:
        if not self.last.requires_grad:
            return {}
        generator = torch.Generator().manual_seed(seed)
        g = torch.randn(self.last.shape, generator=generator).to(self.last)
        weights = self._weights()
        wanted = [*self.states, *(m.parameter for m in weights.values())]
        found = torch.autograd.grad(self.last, wanted, g, allow_unused=True)
        if any(value is None for value in found):
            return {}
        depth, total = len(self.states), float(g.double().square().sum())
        out = {"q": [float(v.double().square().mean()) for v in found[:depth]]}
        for (name, matrix), value in zip(weights.items(), found[depth:], strict=True):
            whole = value.T if matrix.transposed else value
            square = float(matrix.of(whole).double().square().sum())
            out.setdefault(name[0], []).append(square / total)
        return out

    def _weights(self) -> dict[tuple[str, int], Matrix]:
        roles = {"wq": "query", "wk": "key", "wv": "value", "w1": "w1", "w2": "w2"}
        return {
            (name, i): parts.matrices[role]
            for name, role in roles.items()
            for i, parts in enumerate(self.anatomy.blocks)
            if parts.matrices[role].parameter.requires_grad
        }


def _stream(
    parts: BlockParts, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int | str, torch.Tensor]:
    """Find the states among the arguments of a block."""
    width = parts.matrices["query"].fan_in
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for key, x in given:
        if isinstance(x, torch.Tensor) and x.ndim == 3 and x.shape[-1] == width:
            return key, x
    raise AssumptionError(f"{parts.name} is given no states of shape (B, T, {width})")
