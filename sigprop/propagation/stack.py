"""From a description to its blocks: layers where they act, in a geometry, with statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arrays import Floats, Ints, Number, distinct
from sigprop.core.errors import DomainError, require
from sigprop.layers.activations import activation
from sigprop.layers.attention.by_distance import DistanceGeometry
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.distance_grid import make_distances, make_field
from sigprop.layers.attention.exchangeable import Exchangeable
from sigprop.layers.attention.layer import Attention, Mask
from sigprop.layers.attention.packed_documents import PackedDocuments
from sigprop.layers.attention.pair_probabilities import Drawn, tabulated_pairs
from sigprop.layers.attention.position_blocks import (
    MAX_SIZE,
    is_far,
    make_layout,
    resolution_of,
    shrinking_blocks,
    with_short_distances,
)
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_tables import coarse_layout, tabulated
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics import Finite, Limit, Statistics
from sigprop.layers.attention.statistics.profile import along_line
from sigprop.layers.attention.statistics.self_biased import SelfBiased
from sigprop.layers.fluctuation import Fluctuation
from sigprop.layers.interface import BackwardStep, Layer, Place, Spread, Step
from sigprop.layers.mlp import Mlp
from sigprop.layers.norm import Norm
from sigprop.layers.residual import Residual, Sequence, Sublayer
from sigprop.layers.state import Gradient, State
from sigprop.model.spec import RANGES, ModelSpec
from sigprop.propagation.capabilities import is_looked_up, require_theory

__all__ = [
    "Block",
    "Stack",
    "any_norm",
    "at_beta",
    "attention_of",
    "build_block",
    "build_stack",
    "exchangeable_place",
    "first_norm",
    "initial_state",
    "iterate",
    "layer_betas",
    "mlp_of",
    "of_two_tokens",
    "ordered",
    "rem_of",
    "rotation_of",
    "sublayers",
]

WITHIN, FIRST = 24, 8  # of a document or chunk behind others, and how many of these are of one

Value = TypeVar("Value")
Layers = TypeVar("Layers")


def iterate(
    value: Value, layers: Iterable[Layers], step: Callable[[Value, Layers], Value]
) -> Iterator[Value]:
    """Carry a value through the layers of a stack: the one loop over depth.

    Parameters
    ----------
    value
        What enters.
    layers : iterable
        The layers, in the order in which they act; reversed on the way back.
    step : callable
        From a value and a layer to the next value.

    Yields
    ------
    value
        What leaves each layer.

    Examples
    --------
    >>> from sigprop.propagation.stack import iterate
    >>> list(iterate(1.0, [2.0, 3.0], lambda value, layer: value * layer))
    [2.0, 6.0]
    """
    for layer in layers:
        value = step(value, layer)
        yield value


@dataclass(frozen=True)
class Block:
    """A block where it acts: its layers, a geometry, and the statistics of its attention.

    Parameters
    ----------
    layers : tuple of Layer
        Residual sublayers and norms, in the order in which they act.
    attention_branch, mlp_branch : Sublayer
        The two branches, norms before them included.
    place : Place
        Geometry and statistics.

    Examples
    --------
    >>> from sigprop import State, ModelSpec
    >>> from sigprop.propagation.stack import build_block
    >>> spec = ModelSpec(depth=1, context=64, beta=0, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> float(round(build_block(spec)(State(1.0, 1.0)).gap, 6))
    0.984615
    """

    layers: tuple[Layer, ...]
    attention_branch: Sublayer
    mlp_branch: Sublayer
    place: Place

    @cached_property
    def _whole(self) -> Sequence:
        return Sequence(self.layers)

    @property
    def attention(self) -> Any:
        """The attention layer."""
        return self.attention_branch.layer

    @property
    def mlp(self) -> Any:
        """The MLP."""
        return self.mlp_branch.layer

    @property
    def steady(self) -> bool:
        """Whether attention reads one variance in every layer: behind a norm."""
        return self.mlp.q is not None

    def __call__(self, kernel: State) -> State:
        """Kernel behind the block."""
        return self.forward(kernel).kernel

    def forward(self, kernel: State) -> Step:
        """Apply the block."""
        return self._whole.forward(kernel, self.place)

    def entered(self, kernel: State) -> tuple[State, ...]:
        """Kernels that enter the layers, given the one that enters the block."""
        return self._whole.entered(kernel, self.place)

    def backward(
        self, entered: tuple[State, ...], gradient: Gradient, spread: Spread | None = None
    ) -> BackwardStep:
        """Pull a gradient kernel back to the input, given the kernels that entered the layers."""
        spread = Spread() if spread is None else spread
        return self._whole.backward(entered, gradient, self.place, spread)

    def noise(self, networks: Fluctuation) -> Fluctuation:
        """Carry the spread over networks through the block."""
        return self._whole.noise(networks, self.place)

    def read(self, kernel: State) -> State:
        """State that attention reads, given the state that enters the block.

        Parameters
        ----------
        kernel : State
            What enters the block.

        Returns
        -------
        State
            The same, behind the norm if the block is pre-norm.

        Examples
        --------
        >>> from sigprop import State, ModelSpec
        >>> from sigprop.propagation.stack import build_block
        >>> spec = ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0,
        ...                    norm="pre")
        >>> float(build_block(spec).read(State(4.0, 1.0)).gap)
        0.25
        """
        return self.attention_branch.read(kernel, self.place)

    def part(self, *layers: Any) -> Callable[[State], State]:
        """Map of some layers of the block, in its place.

        Parameters
        ----------
        *layers : Layer
            Layers, in the order in which they act.

        Returns
        -------
        callable State -> State
            Their composition.

        Examples
        --------
        >>> from sigprop import State, ModelSpec
        >>> from sigprop.propagation.stack import build_block
        >>> spec = ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=0, rho0=0)
        >>> block = build_block(spec)
        >>> block.part(block.mlp_branch)(State(1.0, 1.0)).q
        0.0
        """
        return lambda kernel: Sequence(layers).forward(kernel, self.place).kernel


def initial_state(spec: ModelSpec, place: Place | None = None) -> State:
    """Kernel that enters the first block; behind the first norm in a post-norm stack.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    place : Place, optional
        Where the blocks act; exchangeable tokens by default.

    Returns
    -------
    State
        Tokens of one variance and of overlap rho0.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import initial_state
    >>> spec = ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.25)
    >>> float(initial_state(spec).gap)
    0.75
    """
    geometry = Exchangeable() if place is None else place.geometry
    q = np.asarray(spec.q0) if first_norm(spec) is None else np.square(spec.norm_gain)
    state: State = geometry.initial(q, spec.rho0)
    return state


def any_norm(spec: ModelSpec) -> Norm | None:
    """Norm of every sublayer, if there is one."""
    return Norm(spec.norm_gain) if "norm" in spec.order else None


def first_norm(spec: ModelSpec) -> Norm | None:
    """Norm before the first block, where one ends every sublayer."""
    return Norm(spec.norm_gain) if spec.ends_in_norm else None


def rem_of(spec: ModelSpec, theory: str = "finite") -> Statistics:
    """Attention statistics of a spec: exact at its context length, or the published limit.

    Parameters
    ----------
    spec : ModelSpec
        The description; an infinite context asks for the limit.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.

    Returns
    -------
    Statistics
        Source of attention statistics.

    Raises
    ------
    AssumptionError
        If an array mixes finite and infinite contexts, or one with identity is infinite.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import rem_of
    >>> spec = ModelSpec(depth=1, context="inf", beta=3, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> type(rem_of(spec)).__name__
    'Limit'
    """
    require_theory(spec, "attention", theory)
    if np.any(spec.identity):
        return SelfBiased(spec.context, spec.identity, np.square(spec.norm_gain))
    if theory == "limit" or np.all(np.isinf(spec.context)):
        return Limit(spec.context)
    return Finite(spec.context, spec.head_width)


def exchangeable_place(spec: ModelSpec, theory: str = "finite", states: int = 1) -> Place:
    """Where blocks of exchangeable tokens act.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    states : int
        How many states a block will be applied to; many make it worth preparing profiles.

    Returns
    -------
    Place
        Geometry and statistics.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import exchangeable_place
    >>> spec = ModelSpec(depth=1, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> exchangeable_place(spec).geometry.tokens
    64.0
    """
    rem = rem_of(spec, theory)
    if spec.reads_norm:
        rem = along_line(rem, spec.beta * np.square(spec.norm_gain), states)
    return Place(Exchangeable(spec.context), rem)


def mask_of(spec: ModelSpec) -> Mask | None:
    """Mask of a layer; None of a bidirectional one."""
    if not spec.causal:
        return None
    window, chunk = (np.inf if n is None else float(n) for n in (spec.window, spec.chunk))
    return Mask(window, spec.prefix, spec.documents or (), chunk)


def rotation_of(spec: ModelSpec) -> Rotation | None:
    """Rotary positions of a layer."""
    return None if spec.rotary_base is None else Rotation(float(spec.rotary_base))


class Stack(NamedTuple):
    """Blocks of a spec, and the geometry that describes the kernels between them.

    Attributes
    ----------
    blocks : list of Block
        In order of depth; each has its own mask and rotation.
    place : Place
        Geometry of the kernels, under the mask that lets most pass, with statistics of one block.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.25)
    >>> float(build_stack(spec).initial(spec).gap)
    0.75
    """

    blocks: list[Block]
    place: Place

    def initial(self, spec: ModelSpec) -> State:
        """Kernel that enters the first block."""
        return initial_state(spec, self.place)

    def steps(self, kernel: State) -> Iterator[Step]:
        """Apply the blocks one after the other to a kernel that enters the first."""
        return iterate(Step(kernel), self.blocks, lambda last, block: block.forward(last.kernel))


def build_stack(
    spec: ModelSpec,
    kind: str = "exchangeable",
    theory: str = "finite",
    beta_by_layer: ArrayLike | None = None,
    *,
    states: int = 1,
    resolution: int | None = None,
    ranges: int | None = None,
    top: float | None = None,
    ends: tuple[int, ...] = (),
    smooth: bool = True,
    far: bool = True,
    shrinking: tuple[int, int] | None = None,
    kept: int = 2,
) -> Stack:
    """Blocks of a spec in a geometry.

    Parameters
    ----------
    spec : ModelSpec
        The description; of one context where tokens are told apart.
    kind : {"exchangeable", "position", "distance"}
        Which pairs of tokens are told apart.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    beta_by_layer : array_like, shape (L, ...), optional
        Inverse temperature of each block, in place of that of the spec.
    states : int
        How many states a block of exchangeable tokens will be applied to; many make it worth
        preparing profiles.
    resolution : int, optional
        About how many blocks of positions carry the kernel; by default 64, and 44 to 64 where every
        mask
        has rotary positions.
    ranges : int, optional
        Number of equal ranges of positions whose ends must be ends of blocks.
    top : float, optional
        Largest score deviation of tables that take the place of quadratures and draws, on coarse
        blocks of positions.
    ends : tuple of int
        Positions at which further blocks must end.
    smooth : bool
        Whether the kernel that enters is smooth in position.
    far : bool
        Whether blocks far behind a window may be longer than it, where pairs are told apart by
        distance; of a kernel that depends on position through the masks alone.
    shrinking : tuple of int, optional
        Number of last windows and of parts of each, from which on blocks are short, as gradients
        need them (`sigprop.layers.attention.position_blocks.shrinking_blocks`).
    kept : int
        How many documents, or chunks that all layers have alike, stand for all where the tokens
        that enter are exchangeable: two, or one where pairs of documents do not matter; none where
        they differ, as where `ranges` or `ends` are given.

    Returns
    -------
    Stack
        The blocks.

    Raises
    ------
    DomainError
        If `beta_by_layer` has the wrong length.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=2, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=2, rho0=0,
    ...                    pattern=[{"window": 4}, {}])
    >>> stack = build_stack(spec, "position")
    >>> [block.place.geometry.layout.window for block in stack.blocks]
    [4.0, inf]
    """
    layers = spec.layers
    if beta_by_layer is not None:
        betas = layer_betas(spec, beta_by_layer)
        layers = tuple(one.replace(beta=beta) for one, beta in zip(layers, betas, strict=True))
    place = None
    if kind == "position":
        place_of, place = _by_position(
            layers, resolution, ranges, top, ends, smooth, far, shrinking, kept
        )
    elif kind == "distance":
        place_of = partial(_by_distance, top=top)
    else:
        place_of = partial(exchangeable_place, theory=theory, states=states)
    made = {one: build_block(one, theory, place_of(one)) for one in dict.fromkeys(layers)}
    blocks = [made[layer] for layer in layers]
    return Stack(blocks, place or blocks[0].place)


def _by_position(
    layers: tuple[ModelSpec, ...],
    resolution: int | None,
    ranges: int | None,
    top: float | None,
    ends: tuple[int, ...],
    smooth: bool,
    far: bool,
    shrinking: tuple[int, int] | None,
    kept: int,
) -> tuple[Callable[[ModelSpec], Place], Place]:
    """Where each layer acts, on blocks of positions that suit all masks; and the widest mask."""
    context = int(np.max(layers[0].context))
    own = {layer: mask_of(layer) or Mask(prefix=context) for layer in layers}
    masks = set(own.values())
    cuts = np.array(ends, dtype=np.float64)
    if ranges is not None:
        cuts = np.append(cuts, np.round(np.linspace(0, context, ranges + 1)))
    packed = _packed(masks, context, kept) if kept and not cuts.size else None
    if packed is None:
        cuts = np.append(cuts, _inside(masks, context))
    rotated = all(one.rotary_base is not None for one in layers)
    blocks = resolution_of(context, rotated) if resolution is None else resolution
    segmented = any(len(mask.starts(context)) > 1 for mask in masks)
    far &= smooth and blocks < context and all(map(is_looked_up, layers))
    far &= not (segmented or any(mask.prefix for mask in masks))
    far &= any(is_far(mask.window, context) for mask in masks)
    tabled = None if far else top  # what tells pairs apart by distance has no tables
    make: Callable[..., Layout] = partial(make_layout, resolution=blocks)
    if tabled is not None:
        make = partial(coarse_layout, rotated=rotated, resolution=resolution)
    if shrinking is not None and not segmented:
        short = [int(mask.window) for mask in masks if mask.window < context]
        late = (context - shrinking_blocks(window, context, *shrinking) for window in short)
        cuts = np.concatenate([cuts, *late])
    length, inside = context, cuts.astype(np.int64)
    if packed is not None:
        length, inside = max(packed.longest[0], 2), np.array(packed.longest)
    layouts = [make(length, window=m.window, prefix=m.prefix, cuts=inside, far=far) for m in masks]
    edges = distinct(np.concatenate([layout.edges for layout in layouts]))
    if packed is None:
        common = Layout(edges, joints=_starts(masks, context)[1:])
    else:
        common = Layout(packed.laid_out(edges), documents=packed)
    if far:
        common = with_short_distances(common, [m.window for m in masks])

    @cache
    def placed(mask: Mask, width: float | None, rotation: Rotation | None) -> Place:
        starts = mask.starts(context) if packed is None else packed.starts
        if tabled is not None:
            arrays = common.edges, starts, common.joints
            held, begin, joints = (tuple(v.tolist()) for v in arrays)
            table = tabulated(
                context, tabled, mask.window, mask.prefix, width, rotation, held, begin, packed,
                joints, len(masks) == 1,
            )  # fmt: skip
            return Place(table.geometry, table)
        layout = replace(common, window=mask.window, prefix=mask.prefix, starts=starts)
        return Place(PositionGeometry(layout), Universal(layout, width, rotation, smooth))

    def place_of(layer: ModelSpec) -> Place:
        return placed(own[layer], layer.head_width, rotation_of(layer))

    windows, prefixes, _, chunks = zip(*map(astuple, masks), strict=True)
    widest = Mask(max(windows), max(prefixes), layers[0].documents or (), max(chunks))
    return place_of, placed(widest, layers[0].head_width, rotation_of(layers[0]))


def _packed(masks: set[Mask], context: int, kept: int) -> PackedDocuments | None:
    """Documents, or chunks that all layers have alike; None where there are no two."""
    starts = {tuple(mask.starts(context).tolist()) for mask in masks}
    if len(starts) > 1 or len(next(iter(starts))) == 1:
        return None
    lengths = tuple(np.diff([*starts.pop(), context]).tolist())
    return PackedDocuments(lengths, kept if max(lengths) > 1 else 2)  # no kernel is of one token


def _starts(masks: set[Mask], context: int) -> Ints:
    """Positions behind which segments of any mask begin."""
    return distinct(np.concatenate([mask.starts(context) for mask in masks]))


def _inside(masks: set[Mask], context: int) -> Ints:
    """Positions at which blocks of documents or chunks end, close behind the start of each."""
    starts = _starts(masks, context)
    lengths = np.diff([*starts, context])
    within = make_layout(max(lengths.max(), 2), WITHIN, singles=FIRST).edges
    ends = [start + within[within < length] for start, length in zip(starts, lengths, strict=True)]
    found = np.concatenate(ends[1:] or [starts])
    words = f"so few that at most {MAX_SIZE} blocks of positions tell their tokens apart"
    require(len(found) <= MAX_SIZE, "number of documents or chunks", len(starts), words)
    return found


@lru_cache(16)
def _distance_place(
    context: int, rotation: Rotation | None, width: float | None, top: float | None
) -> Place:
    """Geometry by distance with draws, or tables of them."""
    distances = make_distances(context, rotation, width)
    geometry = DistanceGeometry(distances, context, width)
    if top is not None:
        return Place(geometry, tabulated_pairs(context, rotation, width, top))
    return Place(geometry, Drawn(distances, make_field(context, rotation, width)))


def _by_distance(layer: ModelSpec, top: float | None) -> Place:
    """Where a layer acts whose tokens are told apart by distance."""
    context = int(np.max(layer.context))
    return _distance_place(context, rotation_of(layer), layer.head_width, top)


def build_block(spec: ModelSpec, theory: str = "finite", place: Place | None = None) -> Block:
    """Block of a spec.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    place : Place, optional
        Where it acts; that of exchangeable tokens by default.

    Returns
    -------
    Block
        The layers, in the order of the norm placement.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import build_block
    >>> spec = ModelSpec(depth=1, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0, norm="pre")
    >>> len(build_block(spec).layers)
    2
    """
    if place is None:
        place = exchangeable_place(spec, theory)
    return assembled(spec, any_norm(spec), attention_of(spec), mlp_of(spec), place)


def of_two_tokens(spec: ModelSpec) -> ModelSpec:
    """Copy with the first two tokens alone, whose scores keep their scale.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.

    Returns
    -------
    ModelSpec
        Of context two; without rotary positions at beta = 0, as scores of merged tokens vanish.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import of_two_tokens
    >>> spec = ModelSpec(depth=1, context=16, causal=True, rotary_base=1e4, beta=1, sigma_v2=1,
    ...                    sigma_w2=1, rho0=0)
    >>> float(of_two_tokens(spec).beta)
    2.0
    """
    scale = np.sqrt(np.log(spec.context) / np.log(2.0))
    heat = np.zeros(()) if rotation_of(spec) is None else spec.beta * scale
    beta = np.broadcast_to(np.minimum(heat, RANGES["beta"][1]), spec.shape)
    window = None if spec.window is None else min(int(spec.window), 2)
    return spec.replace(context=2, beta=beta, window=window)


def at_beta(spec: ModelSpec, block: Block, beta: Number) -> Block:
    """Block at another inverse temperature, which may be beyond those of specs."""
    attention = replace(block.attention, beta=beta)
    return assembled(spec, any_norm(spec), attention, block.mlp, block.place)


def assembled(spec: ModelSpec, norm: Norm | None, attention: Any, mlp: Any, place: Place) -> Block:
    """Block of given layers."""
    branches = sublayers(spec, norm, attention, mlp)
    return Block(ordered(spec, norm, branches), *branches, place)


def sublayers(spec: ModelSpec, norm: Any, attention: Any, mlp: Any) -> tuple[Sublayer, Sublayer]:
    """Branches of attention and MLP, behind a norm each where one stands before the branch."""
    before = norm if spec.order[0] == "norm" else None
    return Sublayer(before, attention), Sublayer(before, mlp)


def ordered(
    spec: ModelSpec,
    norm: Any,
    branches: tuple[Sublayer, Sublayer],
    residual: Callable[..., Any] = Residual,
) -> tuple[Any, ...]:
    """Order of layers: post-norm `LN(alpha x + f(x))`, pre-norm `alpha x + f(LN(x))`, no norm.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    norm : Layer or None
        The norm.
    branches : tuple of Sublayer
        Attention and MLP, as of `sublayers`.
    residual : callable
        Makes a residual sublayer from its strength, its branches and the width of the stream.

    Returns
    -------
    tuple of Layer
        The layers of one block.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import ordered
    >>> spec = ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0, norm="pre",
    ...                    parallel=True)
    >>> ordered(spec, "norm", ("attention", "mlp"), lambda alpha, branches, width: branches)
    (('attention', 'mlp'),)
    """
    after = (norm,) if spec.ends_in_norm else ()
    width = np.inf if spec.width is None else float(spec.width)
    if spec.parallel:
        return (residual(spec.alpha_attn, branches, width),)
    first, second = branches
    attend = residual(spec.alpha_attn, (first,), width)
    return (attend, *after, residual(spec.alpha_mlp, (second,), width), *after)


def attention_of(spec: ModelSpec) -> Attention:
    """Attention layer of a spec."""
    return Attention(
        beta=_temperature(spec),
        sigma_v2=spec.sigma_v2,
        sigma_b2=spec.sigma_b2,
        sigma_o2=spec.sigma_o2,
        centred=spec.attention == "centred",
        value_identity=spec.value_identity,
        context=spec.context,
        width=spec.width,
        heads=spec.heads,
        heads_per_key=spec.heads_per_key,
        mask=mask_of(spec),
        rotation=rotation_of(spec),
    )


def mlp_of(spec: ModelSpec) -> Mlp:
    """MLP of a spec."""
    return Mlp(
        activation(spec.activation),
        spec.sigma_w1_2,
        spec.sigma_w2_2,
        spec.sigma_b2,
        spec.gated,
        np.square(spec.norm_gain) if spec.reads_norm else None,
        np.inf if spec.width is None else float(spec.width),
        spec.mlp_ratio,
    )


def _temperature(spec: ModelSpec) -> Number:
    r"""Inverse temperature of all random scores, :math:`\beta^2 + \gamma^2 \log T/d` (E3b).

    At finite width the identity part of queries and keys adds gamma log T x_t.x_s/d to a score,
    whose spread over keys is that of a random part.
    """
    if spec.width is None or not np.any(spec.identity):
        return spec.beta
    share = np.square(spec.identity) * np.log(spec.context) / spec.width
    return np.asarray(np.sqrt(np.square(spec.beta) + share))


def layer_betas(spec: ModelSpec, beta_by_layer: ArrayLike) -> Floats:
    """Inverse temperatures with one entry of the first axis for each block."""
    betas = np.asarray(beta_by_layer, dtype=np.float64)
    if betas.shape[:1] != (spec.depth,):
        raise DomainError("beta_by_layer", betas.shape, f"a first axis of length {spec.depth}")
    require(np.isfinite(betas), "beta_by_layer", betas, "numbers in [0, 1000]")
    points = betas.shape[1:]
    fits = len(points) <= len(spec.shape) and all(
        own in (1, whole) for own, whole in zip(points[::-1], spec.shape[::-1], strict=False)
    )
    require(fits, "beta_by_layer", betas.shape, f"({spec.depth},) before axes of the spec's shape")
    return betas
