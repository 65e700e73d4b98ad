"""Final states of many causal specs at once, position by position (E25).

The kernel lies on a quarter of the blocks of `sigprop.causal.causal`, and the statistics of
attention are interpolated (`sigprop.maps.tabulated`). A grid costs one table for each context
length, and then milliseconds a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from sigprop.arrays import Floats, Ints
from sigprop.block import Map, ordered
from sigprop.causal import MAX_POSITIONS
from sigprop.layout import Layout
from sigprop.maps.activations import activation
from sigprop.maps.causal import CausalAttention, Seen, TokenNorm
from sigprop.maps.mlp import Mlp
from sigprop.maps.tabulated import Tabulated, tabulated
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["Reached", "by_position", "reach"]

CHUNK = 64  # stacks iterated together
TOPS = (1.0, 2.0, 4.0, 8.0, 16.0, 40.0)  # largest score deviations of a table
ROOM = 1.1  # of them over beta sqrt(log T): gaps may exceed q


@dataclass(frozen=True)
class Reached:
    """Means over positions after the last block, and the extremes met on the way.

    Attributes
    ----------
    q, gap_ratio : arrays
        Mean variance, and mean overlap deficit over pairs; NaN where the stack did not get there.
    reduced_beta : array
        Largest mean score deviation over sqrt(log T).
    entropy_ratio : array
        Smallest mean of the entropy over the logarithm of the number of keys seen.

    Examples
    --------
    >>> from sigprop.resolved import Reached
    >>> Reached(1.0, 0.5, 1.0, 0.9).gap_ratio
    0.5
    """

    q: Floats
    gap_ratio: Floats
    reduced_beta: Floats
    entropy_ratio: Floats


def by_position(spec: Transformer) -> bool:
    """Whether arrays of a spec are solved position by position.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast.

    Returns
    -------
    bool
        True for causal specs of contexts up to 131 072, with norms.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.resolved import by_position
    >>> by_position(Transformer(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    False
    """
    return spec.causal and spec.norm != "none" and bool(np.all(spec.context <= MAX_POSITIONS))


def reach(spec: Transformer, progress: Callable[[int], None] | None = None) -> Reached:
    """Final states of an array of causal specs.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast.
    progress : callable, optional
        Called with the number of finished states after each chunk.

    Returns
    -------
    Reached
        As `sigprop.propagate` reports them of each: overlap within 0.004, relative entropy within
        0.003, score deviation within 1 % (measured on MEASURED).

    Notes
    -----
    theory.md E25 (new there).

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.resolved import reach
    >>> spec = Transformer(depth=3, context=6, causal=True, beta=[0, 1], sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> reach(spec).gap_ratio.shape
    (2,)
    """
    names = [n for n in spec.numbers() if n != "sigma_w2"]
    wide = {n: np.broadcast_to(np.asarray(getattr(spec, n), float), spec.shape) for n in names}
    flat = {name: value.ravel() for name, value in wide.items()}
    out = np.empty((4, flat["beta"].size))
    for context, index in _boxes(flat["context"]):
        own: dict[str, Any] = {n: flat[n][index][:, None, None] for n in names}
        part = replace(spec, **(own | {"context": context, "sigma_w2": None}))
        with np.errstate(all="ignore"):  # what overflows or vanishes is masked
            out[:, index] = _run(part, _table(spec, context, flat))
        if progress is not None:
            progress(len(index))
    return Reached(*out.reshape(4, *spec.shape))


def _boxes(context: Floats) -> Iterator[tuple[int, Ints]]:
    """Stacks of one context, a chunk at a time."""
    for length in np.unique(context):
        index = np.flatnonzero(context == length)
        yield from ((int(length), index[k : k + CHUNK]) for k in range(0, len(index), CHUNK))


def _table(spec: Transformer, context: int, flat: dict[str, Floats]) -> Tabulated:
    inside = flat["context"] == context
    heat = np.max((flat["beta"] * flat["norm_gain"] ** 2)[inside])
    sigma = ROOM * heat * np.sqrt(np.log(context))
    top = next((t for t in TOPS if t >= sigma), TOPS[-1])
    window = np.inf if spec.window is None else float(spec.window)
    return tabulated(context, top, window, spec.prefix, spec.head_width, spec.rotary_base)


def _run(spec: Transformer, table: Tabulated) -> Floats:
    """Rows q, gap ratio, largest score deviation and smallest entropy, over stacks."""
    layout, seen = table.layout, list[Seen]()
    level = np.square(spec.norm_gain) if spec.norm == "post" else np.asarray(spec.q0)
    gap = np.where(layout.pairs > 0, level * (1 - np.asarray(spec.rho0)), 0.0)
    maps, state = _block(spec, table, seen), State(level, gap)
    hot, cold, good = np.zeros(len(gap)), np.full(len(gap), np.inf), np.ones(len(gap), dtype=bool)
    for _ in range(spec.depth):
        state = reduce(lambda s, m: m(s), maps, state)
        std, ratio = _means(layout, seen.pop())
        hot, cold = np.maximum(hot, std), np.minimum(cold, ratio)
        good &= _valid(state) & (hot <= TOPS[-1])
    deficit = np.sum(TokenNorm()(state).gap * layout.pairs, axis=(-2, -1)) / np.sum(layout.pairs)
    q = np.broadcast_to(state.q, (*gap.shape[:-1], 1))[..., 0] @ layout.size / layout.edges[-1]
    rows = np.stack([q, deficit, hot / np.sqrt(np.log(spec.context)), cold])
    return np.where(good, rows, np.nan)


def _block(spec: Transformer, table: Tabulated, seen: list[Seen]) -> tuple[Map, ...]:
    norm, square = TokenNorm(spec.norm_gain), np.square(spec.norm_gain)
    dual = activation(spec.activation)
    mlp = Mlp(dual, spec.sigma_w1_2, spec.sigma_w2_2, spec.sigma_b2, spec.gated, square)
    attention = CausalAttention(
        table.layout,
        int(spec.context),
        spec.beta,
        spec.sigma_v2,
        spec.sigma_b2,
        spec.sigma_o2,
        spec.attention == "centred",
        spec.head_width,
        spec.rotary_base,
        seen.append,
        table,
    )
    return ordered(spec, norm, attention, mlp)


def _means(layout: Layout, seen: Seen) -> tuple[Floats, Floats]:
    """Means over positions of the score deviation and the relative entropy, as `Positions.mean`."""
    size, count = layout.size, layout.centres.count
    known = np.where(count > 1, size, 0)
    ratio = seen.entropy / np.log(np.maximum(count, 2.0))
    return seen.score_std @ size / size.sum(), ratio @ known / max(known.sum(), 1)


def _valid(state: State) -> Any:
    q = np.broadcast_to(state.q, (*np.shape(state.gap)[:-1], 1))
    return np.all((q > 0) & (q < 1e150), axis=(-2, -1)) & np.all(
        np.isfinite(state.gap), axis=(-2, -1)
    )
