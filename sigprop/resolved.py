"""Final states of many specs with causal masks or rotary positions, resolved (E25, 2d).

Causal: the kernel lies on a quarter of the blocks of `sigprop.causal.causal`, and the statistics of
attention are interpolated (`sigprop.maps.tabulated`). A grid costs one table for each context
length, and then milliseconds a stack. Bidirectional with rotary positions: likewise, the kernel by
distance as in `sigprop.rotary`, and a table as in `sigprop.maps.picked`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import numpy as np

from sigprop.arguments import validated
from sigprop.arrays import Floats
from sigprop.block import Map, ordered
from sigprop.causal import MAX_POSITIONS
from sigprop.layout import Layout
from sigprop.maps.activations import activation
from sigprop.maps.causal import CausalAttention, Seen, TokenNorm
from sigprop.maps.distances import Distances, make_distances
from sigprop.maps.mlp import Mlp
from sigprop.maps.picked import Picking, tabulated_picks
from sigprop.maps.rotary import Heard
from sigprop.maps.tabulated import Tabulated, tabulated
from sigprop.rotary import entering, layer
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["Reached", "is_resolved", "reach"]

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


@validated
def is_resolved(spec: Transformer) -> bool:
    """Whether arrays of a spec are solved position by position, or distance by distance.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast.

    Returns
    -------
    bool
        True for causal specs with norms, and for rotary positions; contexts up to 131 072.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.resolved import is_resolved
    >>> is_resolved(Transformer(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    False
    """
    kind = spec.norm != "none" if spec.causal else spec.rotary_base is not None
    return kind and bool(np.all(np.asarray(spec.context) <= MAX_POSITIONS))


@validated
def reach(spec: Transformer, progress: Callable[[int], None] | None = None) -> Reached:
    """Compute the final states of an array of specs with causal masks or rotary positions.

    Parameters
    ----------
    spec : Transformer
        The description; arrays broadcast.
    progress : callable, optional
        Called with the number of finished states after each chunk.

    Returns
    -------
    Reached
        As `sigprop.propagate` reports them of each; causal: overlap within 0.005 (where it grows
        from 0.02 to 0.97 in ten blocks; 0.001 at slower growth) and relative entropy within 0.0005
        (T = 128 to 1024, beta = 0.7 to 3, with and without a window); with rotary positions 0.001
        and 0.0015 (T = 40 to 512, beta = 1 to 3), under a mask as well 0.008 and 0.007.

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
    for index, rows in _by_context(spec, flat):
        out[:, index] = rows
        if progress is not None:
            progress(np.size(index))
    return Reached(*out.reshape(4, *spec.shape))


def _by_context(spec: Transformer, flat: dict[str, Floats]) -> Iterator[tuple[Any, Floats]]:
    """Stacks of one context, a chunk at a time: which, and their rows."""
    for context in np.unique(flat["context"]).astype(int).tolist():
        same = np.flatnonzero(flat["context"] == context)
        run = _solver(spec, context, _top(spec, context, {n: v[same] for n, v in flat.items()}))
        for index in np.array_split(same, -(-len(same) // CHUNK)):
            axes = (slice(None), None, None) if spec.causal else (slice(None), None)
            own: dict[str, Any] = {n: v[index][axes] for n, v in flat.items()}
            part = replace(spec, **(own | {"context": context, "sigma_w2": None}))
            with np.errstate(all="ignore"):  # what overflows or vanishes is masked
                yield index, run(part)


def _top(spec: Transformer, context: int, flat: dict[str, Floats]) -> float:
    """Largest score deviation that a table must hold."""
    if spec.norm == "none":
        return TOPS[-1]
    sigma = ROOM * np.max(flat["beta"] * flat["norm_gain"] ** 2) * np.sqrt(np.log(context))
    return next((t for t in TOPS if t >= sigma), TOPS[-1])


def _solver(spec: Transformer, context: int, top: float) -> Callable[[Transformer], Floats]:
    base, width = spec.rotary_base, spec.head_width
    if not spec.causal and base is not None:
        table = tabulated_picks(context, base, width, top)
        distances = make_distances(context, base, width)
        return partial(_run_turned, distances=distances, table=table)
    window = np.inf if spec.window is None else float(spec.window)
    return partial(_run, table=tabulated(context, top, window, spec.prefix, width, base))


def _run_turned(spec: Transformer, distances: Distances, table: Picking) -> Floats:
    """Rows as of `_run`, over stacks with rotary positions and no mask."""
    heard: list[Heard] = []
    state = entering(spec, distances)
    maps = layer(spec, distances, table, spec.beta, heard)
    count = len(np.asarray(state.gap))
    hot, cold, good = np.zeros(count), np.full(count, np.inf), np.ones(count, dtype=bool)
    for _ in range(spec.depth):
        state = reduce(lambda s, m: m(s), maps, state)
        last = heard.pop()
        hot, cold = np.maximum(hot, last.score_std), np.minimum(cold, last.entropy)
        q, gap = np.broadcast_to(state.q, (count, 1))[:, 0], np.asarray(state.gap)
        alive = (q > 0) & (q < 1e150) & np.all(np.isfinite(gap) & (gap >= 0), axis=-1)
        good = good & alive & (hot <= TOPS[-1])
    log = np.log(spec.context)
    rows = [q, (gap / q[:, None]) @ distances.even, hot / np.sqrt(log), cold / log]
    return np.where(good, np.stack(rows), np.nan)


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
