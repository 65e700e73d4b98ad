"""A transformer block as a list of maps, folded in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np

from sigprop.arrays import Number
from sigprop.capabilities import require_theory
from sigprop.maps.activations import activation
from sigprop.maps.attention import Attention
from sigprop.maps.mlp import Mlp
from sigprop.maps.norm import Norm
from sigprop.maps.residual import Residual
from sigprop.rem import Finite, Limit, Profile, Rem, Sphere, Statistics
from sigprop.rem.coordinates import MAX_CONTEXT
from sigprop.rem.favoured import Favoured
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["Block", "Fold", "Map", "build_block", "fold", "ordered", "rem_of"]

Map = Callable[[State], State]
SMALLEST = 8  # width from which keys are taken to lie on a sphere
PROFILE_COST = 256  # states for which one profile pays


@dataclass(frozen=True)
class Fold:
    """Composition of maps, first to last.

    Parameters
    ----------
    maps : tuple of callables State -> State
        Maps in the order in which they act.

    Examples
    --------
    >>> from sigprop.block import Fold
    >>> from sigprop.state import State
    >>> Fold(())(State(1.0, 0.5))
    State(q=1.0, gap=0.5)
    """

    maps: tuple[Map, ...]

    def __call__(self, state: State) -> State:
        """Apply the maps in order."""
        return reduce(lambda s, m: m(s), self.maps, state)


def fold(maps: tuple[Map, ...]) -> Fold:
    """Composition of maps, first to last.

    Parameters
    ----------
    maps : tuple of callables State -> State
        Maps in the order in which they act.

    Returns
    -------
    Fold
        The composed map.

    Examples
    --------
    >>> from sigprop.block import fold
    >>> from sigprop.maps.norm import Norm
    >>> from sigprop.state import State
    >>> float(fold((Norm(), Norm()))(State(4.0, 1.0)).gap)
    0.25
    """
    return Fold(maps)


@dataclass(frozen=True)
class Block:
    """A block: the maps it folds, and where attention reads.

    Parameters
    ----------
    maps : tuple of callables State -> State
        Maps of the block in order.
    attention_maps, mlp_maps : tuple of callables
        The two branches, norms before them included.
    attention : Attention
        The attention map itself.
    norm : Norm or None
        The norm before attention (pre-norm), for the state that attention reads.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.block import build_block
    >>> from sigprop.state import State
    >>> spec = Transformer(depth=1, context=64, beta=0, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> float(round(build_block(spec)(State(1.0, 1.0)).gap, 6))
    0.984615
    """

    maps: tuple[Map, ...]
    attention_maps: tuple[Map, ...]
    mlp_maps: tuple[Map, ...]
    attention: Attention
    norm: Norm | None

    def __call__(self, state: State) -> State:
        """Apply the block."""
        return fold(self.maps)(state)

    def read(self, state: State) -> State:
        """State that attention reads, given the state that enters the block.

        Parameters
        ----------
        state : State
            What enters the block.

        Returns
        -------
        State
            The same, behind the norm if the block is pre-norm.

        Examples
        --------
        >>> from sigprop import State, Transformer
        >>> from sigprop.block import build_block
        >>> spec = Transformer(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0,
        ...                    norm="pre")
        >>> float(build_block(spec).read(State(4.0, 1.0)).gap)
        0.25
        """
        return state if self.norm is None else self.norm(state)


def rem_of(spec: Transformer, limit: bool = False) -> Statistics:
    """Attention statistics of a spec: exact at its context length, or the published limit.

    Parameters
    ----------
    spec : Transformer
        The description; an infinite context asks for the limit.
    limit : bool
        Ask for the limit at any context.

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
    >>> from sigprop import Transformer
    >>> from sigprop.block import rem_of
    >>> spec = Transformer(depth=1, context="inf", beta=3, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> type(rem_of(spec)).__name__
    'Limit'
    """
    require_theory(spec, "attention", limit)
    if np.any(spec.identity):
        return Favoured(spec.context, spec.identity, np.square(spec.norm_gain))
    if limit or np.all(np.isinf(spec.context)):
        return Limit(spec.context)
    return Finite(spec.context, spec.head_width)


def build_block(spec: Transformer, limit: bool = False, states: int = 1) -> Block:
    """Block of a spec.

    Parameters
    ----------
    spec : Transformer
        The description.
    limit : bool
        Use the limit of infinite context.
    states : int
        How many states it will be applied to; many make it worth preparing profiles.

    Returns
    -------
    Block
        The maps, in the order of the norm placement.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.block import build_block
    >>> spec = Transformer(depth=1, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0, norm="pre")
    >>> len(build_block(spec).maps)
    2
    """
    norm = None if spec.norm == "none" else Norm(spec.norm_gain)
    q = None if norm is None else np.square(spec.norm_gain)
    attention = Attention(
        _profiled(rem_of(spec, limit), spec, states),
        _temperature(spec),
        spec.sigma_v2,
        spec.sigma_b2,
        spec.sigma_o2,
        spec.attention == "centred",
        _sphere(spec),
        spec.causal,
        spec.value_identity,
    )
    dual = activation(spec.activation)
    mlp = Mlp(dual, spec.sigma_w1_2, spec.sigma_w2_2, spec.sigma_b2, spec.gated, q)
    return assemble(spec, norm, attention, mlp)


def _temperature(spec: Transformer) -> Number:
    r"""Inverse temperature of all random scores, :math:`\beta^2 + \gamma^2 \log T/d`.

    At finite width the identity part of queries and keys adds gamma log T x_t.x_s/d to a score,
    whose spread over keys is that of a random part (new here).
    """
    if spec.width is None or not np.any(spec.identity):
        return spec.beta
    share = np.square(spec.identity) * np.log(spec.context) / spec.width
    return np.asarray(np.sqrt(np.square(spec.beta) + share))


def _sphere(spec: Transformer) -> Sphere | None:
    if spec.width is None or spec.width < SMALLEST:
        return None
    return Sphere(spec.width, spec.width / spec.heads)


def assemble(spec: Transformer, norm: Norm | None, attention: Attention, mlp: Map) -> Block:
    """Block of the maps, which knows where attention reads."""
    before = (norm,) if norm is not None and spec.norm == "pre" else ()
    maps = ordered(spec, norm, attention, mlp)
    return Block(maps, (*before, attention), (*before, mlp), attention, norm if before else None)


def ordered(spec: Transformer, norm: Map | None, attention: Map, mlp: Map) -> tuple[Map, ...]:
    """Order of maps: post-norm `LN(alpha x + f(x))`, pre-norm `alpha x + f(LN(x))`, or no norm."""
    before = (norm,) if norm is not None and spec.norm == "pre" else ()
    after = (norm,) if norm is not None and spec.norm == "post" else ()
    read, think = fold((*before, attention)), fold((*before, mlp))
    along = _along(before, attention) if np.any(spec.value_identity) else None
    if spec.parallel:
        return (Residual(spec.alpha_attn, (read, think), along),)
    first = Residual(spec.alpha_attn, (read,), along)
    return (first, *after, Residual(spec.alpha_mlp, (think,)), *after)


def _along(before: tuple[Map, ...], attention: Map) -> Map:
    """Covariance of the stream with attention's output, of which one end is behind the norm."""

    def along(state: State) -> State:
        assert isinstance(attention, Attention)  # others are refused: sigprop.capabilities
        read = fold(before)(state)
        cross, scale = attention.along(read), np.sqrt(state.q / read.q)
        return State(cross.q * scale, cross.gap * scale)

    return along


def _profiled(rem: Statistics, spec: Transformer, states: int) -> Rem:
    """Follow the line of constant q behind a norm when that is cheaper than the full table.

    Beyond the table the states of one line share its quadratures.
    """
    if spec.norm == "none" or not isinstance(rem, Finite):
        return rem
    top = spec.beta * np.square(spec.norm_gain)
    lines = np.broadcast(top, spec.context).size
    if lines == 1 and np.all(rem.context > MAX_CONTEXT):
        return _line(float(rem.context.item()), spec.head_width, float(np.asarray(top).item()))
    return Profile(rem, top) if states > PROFILE_COST * lines else rem


@lru_cache(64)
def _line(context: float, head_width: float | None, top: float) -> Profile:
    """Profile of one line, kept: it takes seconds to fit beyond the table."""
    return Profile(Finite(context, head_width), top)
