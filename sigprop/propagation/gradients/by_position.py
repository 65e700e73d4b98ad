"""Gradients of a stack, position by position, in closed form (E23b, E24e, E24f).

The gradient kernel lives on the blocks of positions of the forward kernel. It may start from any
kernel of output gradients, so tokens that are alike on the way forward are told apart as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arrays import Bools, Floats, Ints, Number
from sigprop.core.checks import count
from sigprop.core.errors import DomainError, require
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.key_correlations import ALONE, KeyCorrelation
from sigprop.layers.attention.pair_sums import divided
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.interface import BackwardStep, Place
from sigprop.layers.state import Gradient, State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import geometry_of, has_positions, refusal
from sigprop.propagation.gradients.closed_form import Gradients, norms_of
from sigprop.propagation.points import parts_of_one_context
from sigprop.propagation.run import Run, solve
from sigprop.propagation.solve import TOGETHER
from sigprop.propagation.stack import Block, Stack, build_stack, iterate

__all__ = [
    "STARTS",
    "VANISHES",
    "Pulled",
    "gradients_of_array",
    "is_pulled_through",
    "parts_kept",
    "pullback",
    "pulled",
    "resolved_gradients",
    "stack_of",
    "start_of",
]

STARTS = ("identity", "last")  # starts by name
LATE, LAST = (2, 4), (4, 8)  # last windows in parts, and parts; where gradients start there
MAX_RANGES = 256
VANISHES = ("a state that vanishes or overflows", "gradients")
LAYERS = 200  # about how many are kept of the stacks that are solved together

Forward = tuple[Stack, Run]


class Pulled(NamedTuple):
    """What a stack passes back.

    Attributes
    ----------
    geometry : PositionGeometry
        Blocks of positions.
    rows : list of BackwardStep
        Gradient kernel at the input of each block, and what its weights receive.
    known : array of bool, shape (...)
        Whether each of many stacks passes something, forward and back.
    """

    geometry: PositionGeometry
    rows: list[BackwardStep]
    known: Bools

    def ranges(self, number: int) -> Floats:
        """Squared gradients in equal ranges of positions.

        Parameters
        ----------
        number : int
            Number of ranges.

        Returns
        -------
        array, shape (L, ..., number)
            Sums over the positions of each.
        """
        merged = self.geometry.layout.merged(number)
        squares = np.stack([np.asarray(row.gradient.q)[..., 0] @ merged.T for row in self.rows])
        return np.asarray(
            np.maximum(squares, 0.0)
        )  # densities that are linear in a block may fall below


def start_of(geometry: PositionGeometry, start: str | ArrayLike) -> Gradient:
    """Gradient kernel at the output, of mean variance one.

    Parameters
    ----------
    geometry : PositionGeometry
        Blocks of positions; of one position at the end where the last token alone is asked for.
    start : {"identity", "last"} or array_like
        Independent gradients; that of the last token alone; a kernel of shape (T, T); or the T
        token ids of the targets, of which those that are equal have equal gradients.

    Returns
    -------
    Gradient
        Mean variance in each block, and sums over pairs of different tokens of two blocks; of a
        document that stands for others, summed over them.

    Raises
    ------
    DomainError
        If the start is not one of these.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.by_position import PositionGeometry
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.propagation.gradients.by_position import start_of
    >>> start_of(PositionGeometry(make_layout(3)), np.array([7, 5, 7])).others.tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    layout = geometry.layout
    none, size = np.zeros(layout.number.shape), layout.size
    if isinstance(start, str):
        if start not in STARTS:
            raise DomainError("start", start, f"one of {', '.join(STARTS)}, ids or a kernel")
        if start == "identity":
            return Gradient((layout.stands_for / size)[:, None], none)
        last = np.where(np.arange(len(size)) == len(size) - 1, geometry.tokens / size[-1], 0.0)
        return Gradient(last[:, None], none)
    values = np.asarray(start)
    if values.shape == (geometry.tokens,):
        return _of_ids(values, layout)
    if values.shape != (geometry.tokens, geometry.tokens):
        shape = f"shape ({geometry.tokens},) or ({geometry.tokens}, {geometry.tokens})"
        raise DomainError("start", values.shape, shape)
    return _of_kernel(values.astype(np.float64), layout)


def _of_ids(ids: Any, layout: Layout) -> Gradient:
    """Start of targets: how often two blocks, and two positions, have the same one."""
    edges = layout.edges
    known, index = np.unique(ids, return_inverse=True)
    number = np.zeros((len(edges) - 1, len(known)))
    np.add.at(number, (np.repeat(np.arange(len(edges) - 1), np.diff(edges)), index), 1.0)
    sums = number @ number.T - np.diag(np.diff(edges))
    beside = (ids[d:] == ids[:-d] for d in layout.distances.tolist())
    return Gradient(np.ones((len(number), 1)), _of_cells(layout, sums, beside))


def _of_kernel(kernel: Floats, layout: Layout) -> Gradient:
    """Start of a kernel: its sums over blocks, and at short distances."""
    own, edges = np.diagonal(kernel), layout.edges
    require(np.isfinite(kernel), "start", kernel, "finite numbers")
    require(own >= 0, "start", kernel, "a diagonal that is nowhere negative")
    require(own.mean() > 0, "start", kernel, "a diagonal that is somewhere positive")
    first = edges[:-1]
    sums = np.add.reduceat(np.add.reduceat(kernel, first, axis=0), first, axis=1)
    alone = np.add.reduceat(own, first)
    beside = (
        (np.diagonal(kernel, d) + np.diagonal(kernel, -d)) / 2 for d in layout.distances.tolist()
    )
    others = _of_cells(layout, (sums + sums.T) / 2 - np.diag(alone), beside)
    return Gradient((alone / np.diff(edges))[:, None] / own.mean(), others / own.mean())


def _of_cells(layout: Layout, sums: Floats, beside: Iterable[Any]) -> Floats:
    """Sum over the pairs of each cell, from those over blocks and values of tokens by distance."""
    number, blocks, later = layout.number, len(sums), layout.edges[1:]
    out = np.where(number > 0, 1.0, 0.0)
    out[:, :blocks] *= sums
    for column, (d, values) in enumerate(zip(layout.distances.tolist(), beside, strict=True)):
        whole = np.append(0.0, np.cumsum(values))  # over later tokens, from position d + 1
        last = np.maximum(later - d, 0)
        first = np.maximum(layout.edges[:-1] - d, 0)
        mean = divided(whole[last] - whole[first], (last - first).astype(np.float64))
        out[:, blocks + column] = number[:, blocks + column] * mean
    return out


def pulled(
    spec: ModelSpec,
    start: str | ArrayLike = "identity",
    ranges: int | None = None,
    beta_by_layer: ArrayLike | None = None,
    forward: Forward | None = None,
) -> Pulled:
    """Pull a gradient kernel back through a stack, or through many that differ in numbers alone.

    Parameters
    ----------
    spec : ModelSpec
        One description; or one of `sigprop.propagation.points.parts_of_one_context`, of tokens that
        are told apart.
    start : {"identity", "last"} or array_like
        As in `start_of`.
    ranges : int, optional
        Number of equal ranges of positions at whose ends blocks must end.
    beta_by_layer : array_like, shape (L,), optional
        Inverse temperature of each block.
    forward : tuple of Stack and Run, optional
        Blocks of many stacks that the gradients go back through (`is_pulled_through`), and the way
        forward, with its statistics.

    Returns
    -------
    Pulled
        Block by block; of a stack that passes nothing the rows are to be masked.

    Raises
    ------
    TheoryError
        If a kernel vanishes or overflows in a stack that is alone.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.by_position import pulled
    >>> spec = ModelSpec(depth=2, context=8, causal=True, beta=0, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> len(pulled(spec).rows)
    2
    """
    with np.errstate(all="ignore"):  # what vanishes or overflows is refused, or masked
        if spec.shape:
            stack, run = forward or _together(spec, start, ranges)
            reached = zip(stack.blocks, run.rows, run.entered, strict=True)
            passed, known = [_knowing(*one) for one in reached], run.ended == spec.depth
        else:
            stack = _stack_from(spec, start, ranges, beta_by_layer)
            passed, known = _forward(spec, stack, beta_by_layer), np.asarray(True)
        geometry: Any = stack.place.geometry
        begin = BackwardStep(start_of(geometry, start), {})
        rows = list(iterate(begin, reversed(passed), _back))
        known = known & np.all([_is_finite(row.gradient) for row in rows], axis=0)
    if not (spec.shape or known):
        raise refusal(*VANISHES, where="the way back")
    return Pulled(geometry, rows[::-1], known)


def pullback(stack: Stack, kernel: State) -> Callable[[Gradient], Gradient]:
    """Linear map of gradient kernels back through blocks.

    Parameters
    ----------
    stack : Stack
        The blocks, that resolve positions.
    kernel : State
        What enters the first.

    Returns
    -------
    callable Gradient -> Gradient
        From their output to their input.

    Raises
    ------
    TheoryError
        If a kernel vanishes or overflows.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.by_position import pullback, start_of
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=1, context=2, causal=True, beta=0, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> stack = build_stack(spec, "position")
    >>> pull = pullback(stack, stack.initial(spec))
    >>> pull(start_of(stack.place.geometry, "identity")).q[:, 0].round(6).tolist()
    [1.166667, 0.833333]
    """
    passed = _passed_by(stack, kernel)

    def pull(gradient: Gradient) -> Gradient:
        *_, found = iterate(BackwardStep(gradient, {}), reversed(passed), _back)
        if not _is_finite(found.gradient):
            raise refusal(*VANISHES, where="the way back")
        return found.gradient

    return pull


class _Passed(NamedTuple):
    """A block, and the kernels that entered its layers."""

    block: Block
    entered: tuple[State, ...]


def _back(behind: BackwardStep, passed: _Passed) -> BackwardStep:
    """Gradient kernel before a block."""
    return passed.block.backward(passed.entered, behind.gradient)


def _is_finite(gradient: Gradient) -> Bools:
    """Whether the variances of each stack are finite."""
    return np.asarray(np.all(np.isfinite(gradient.q), axis=(-2, -1)))


def _ends(context: int, ranges: int | None, last: bool) -> tuple[int, ...]:
    """Positions at which blocks must end: of ranges, and ever closer to the last token."""
    ends = set() if ranges is None else set(np.linspace(0, context, ranges + 1).round().tolist())
    if last:
        ends |= {context - 2**k for k in range(max(context - 1, 1).bit_length())}
    return tuple(sorted(int(end) for end in ends))


@dataclass(frozen=True)
class _Alike(Universal):
    """Statistics of keys that are all alike: none is nearer to another."""

    def correlations(
        self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        return ALONE


def stack_of(
    spec: ModelSpec,
    ends: tuple[int, ...] = (),
    beta_by_layer: ArrayLike | None = None,
    shrinking: tuple[int, int] | None = LATE,
    kept: int = 1,
    resolution: int | None = None,
) -> Stack:
    """Blocks of a spec by position; tokens that are all alike need no statistics of their own."""
    made = build_stack(
        spec, "position", beta_by_layer=beta_by_layer, resolution=resolution, ends=ends,
        far=shrinking is not None, shrinking=shrinking, kept=kept,
    )  # fmt: skip
    if has_positions(spec):
        return made
    place: Any = made.place
    alike = Place(place.geometry, _Alike(place.geometry.layout, spec.head_width))
    return Stack([replace(block, place=alike) for block in made.blocks], alike)


def _stack_from(
    spec: ModelSpec,
    start: str | ArrayLike,
    ranges: int | None = None,
    beta_by_layer: ArrayLike | None = None,
) -> Stack:
    """Blocks of a spec by position that suit a start."""
    named = start if isinstance(start, str) else None
    ends = _ends(int(spec.context), ranges, named == "last")
    late = LAST if named == "last" else LATE
    return stack_of(spec, ends, beta_by_layer, shrinking=late, kept=int(named == "identity"))


def _forward(spec: ModelSpec, stack: Stack, beta_by_layer: ArrayLike | None) -> list[_Passed]:
    """Blocks with the kernels that enter them; of tokens all alike those of `propagate`."""
    if geometry_of(spec) == "exchangeable":
        alike = build_stack(spec, "exchangeable", beta_by_layer=beta_by_layer)
        geometry: Any = stack.place.geometry
        pairs = geometry.initial(1.0, 0.0).gap
        kernels = [
            State(float(q), float(gap) * pairs)
            for q, gap in solve(alike, alike.initial(spec)).kernels
        ]
        if len(kernels) <= spec.depth:
            raise refusal(*VANISHES, where=f"block {len(kernels)}")
        entering = zip(stack.blocks, kernels[:-1], strict=True)
        return [_Passed(block, block.entered(kernel)) for block, kernel in entering]
    return _passed_by(stack, stack.initial(spec))


def _passed_by(stack: Stack, kernel: State) -> list[_Passed]:
    """Blocks, whose statistics are known, with the kernels that enter them."""
    passed: list[_Passed] = []
    for block, step in zip(stack.blocks, stack.steps(kernel), strict=True):
        if not block.place.geometry.is_valid(step.kernel):
            raise refusal(*VANISHES, where=f"block {len(passed) + 1}")
        passed.append(_knowing(block, step.attention, step.entered))
    return passed


def _knowing(block: Block, attention: Any, entered: tuple[State, ...]) -> _Passed:
    """Block whose statistics are known, those of the way forward, with the kernels that entered."""
    place = block.place._replace(statistics=lambda scores: attention)
    return _Passed(replace(block, place=place), entered)


def _together(spec: ModelSpec, start: str | ArrayLike, ranges: int | None) -> Forward:
    """Blocks of many stacks that suit a start, and the way forward."""
    stack = _stack_from(spec, start, ranges)
    return stack, solve(stack, stack.initial(spec), spec.shape[:-2], columns=False)


def is_pulled_through(spec: ModelSpec, stack: Stack) -> bool:
    """Whether independent output gradients go back on the blocks of positions of a stack.

    Parameters
    ----------
    spec : ModelSpec
        One description, or one of `sigprop.propagation.points.parts_of_one_context`.
    stack : Stack
        Its blocks, that resolve positions.

    Returns
    -------
    bool
        Whether `pulled` has the same ones.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.by_position import is_pulled_through
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=2, context=512, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> [is_pulled_through(one, build_stack(one, "position")) for one in
    ...  (spec, spec.replace(window=16))]
    [True, False]
    """
    geometries: list[Any] = [one.place.geometry for one in (stack, _stack_from(spec, "identity"))]
    own, other = (geometry.layout for geometry in geometries)
    return bool(np.array_equal(own.edges, other.edges)) and own.documents == other.documents


def resolved_gradients(
    spec: ModelSpec,
    start: str | ArrayLike = "identity",
    ranges: int | None = None,
    beta_by_layer: ArrayLike | None = None,
    forward: Forward | None = None,
) -> Gradients:
    """Gradients of one stack, or of many that differ in numbers alone, position by position.

    Parameters
    ----------
    spec, start, ranges, beta_by_layer, forward
        As in `pulled`.

    Returns
    -------
    Gradients
        Means over positions; the variance in `ranges` equal ranges of positions, if asked for. NaN
        of a stack that passes nothing.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.by_position import resolved_gradients
    >>> spec = ModelSpec(depth=2, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> resolved_gradients(spec, ranges=2).q_blocks.shape
    (2, 2)
    """
    tokens = int(spec.context)
    if ranges is not None:
        count("blocks", ranges, 1, min(MAX_RANGES, tokens))
    geometry, rows, known = found = pulled(spec, start, ranges, beta_by_layer, forward)
    size, lead = geometry.layout.size, spec.shape[:-2]
    q = np.stack([np.asarray(row.gradient.q)[..., 0] @ size for row in rows]) / tokens
    p = np.stack([np.sum(row.gradient.others, axis=(-2, -1)) for row in rows])
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing passes
        exponent = np.asarray(np.log(q[0]) / spec.depth)
    values: dict[str, Any] = {
        "q": q,
        "p": p / (tokens * (tokens - 1.0)),
        "apjn": q[0],
        "exponent": exponent,
    }
    values |= norms_of(spec, rows, lead)
    if ranges is not None:
        values["q_blocks"] = np.moveaxis(found.ranges(ranges), -1, 1) * ranges / tokens
    masked: dict[str, Any] = {n: np.where(known, value, np.nan) for n, value in values.items()}
    return Gradients(**masked)


def parts_kept(spec: ModelSpec) -> Iterator[tuple[Ints, ModelSpec]]:
    """Stacks by position that are solved together and of which every layer is kept.

    Parameters
    ----------
    spec : ModelSpec
        One description or an array of them.

    Returns
    -------
    iterator
        As of `sigprop.propagation.points.parts_of_one_context`; fewer of deep stacks at a time.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.by_position import parts_kept
    >>> spec = ModelSpec(depth=96, context=8, causal=True, beta=[0, 1, 2, 3], sigma_v2=1,
    ...                    sigma_w2=1, rho0=0)
    >>> [index.tolist() for index, part in parts_kept(spec)]
    [[0, 1], [2, 3]]
    """
    number = int(np.clip(LAYERS // spec.depth, 1, TOGETHER))
    return parts_of_one_context(spec, "position", number)


def gradients_of_array(
    spec: ModelSpec,
    start: str | ArrayLike = "identity",
    ranges: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Gradients:
    """Gradients of an array of stacks whose tokens are told apart, a few at a time.

    Parameters
    ----------
    spec : ModelSpec
        The description, with arrays.
    start, ranges
        As in `pulled`.
    progress : callable, optional
        Called with the number of stacks after some.

    Returns
    -------
    Gradients
        With the axes of the array behind the others; NaN of stacks that pass nothing.

    Raises
    ------
    TheoryError
        If no stack passes anything.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.by_position import gradients_of_array
    >>> spec = ModelSpec(depth=3, context=8, causal=True, beta=[0, 1], sigma_v2=1, sigma_w2=1,
    ...                    rho0=0)
    >>> gradients_of_array(spec).q.shape
    (3, 2)
    """
    whole: dict[str, Floats] = {}
    for index, part in parts_kept(spec):
        found = resolved_gradients(part, start, ranges)
        for name in (name for name in Gradients.AXES if getattr(found, name) is not None):
            value = getattr(found, name)
            empty = np.full((*value.shape[:-1], prod(spec.shape)), np.nan)
            whole.setdefault(name, empty)[..., index] = value
        if progress is not None:
            progress(len(index))
    if not np.any(np.isfinite(whole["apjn"])):
        raise refusal(*VANISHES, where="any of the stacks")
    shaped: dict[str, Any] = {
        name: v.reshape(*v.shape[:-1], *spec.shape) for name, v in whole.items()
    }
    return Gradients(**shaped)
