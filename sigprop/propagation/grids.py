"""Final states of many specs at once, in chunks that stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Bools, Floats, Ints, distinct
from sigprop.core.checks import count as checked_count
from sigprop.core.memory import allow, keep_heap
from sigprop.layers.attention.exchangeable import valid
from sigprop.layers.attention.query_tables import Tabulated
from sigprop.layers.state import State, scaled
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import geometry_of, require_theory
from sigprop.propagation.points import chunks, part_of, parts_of_one_context, picked, singles
from sigprop.propagation.solve import TOGETHER as SOLVED_TOGETHER
from sigprop.propagation.stack import Stack, any_norm, build_stack, rem_of

__all__ = ["FinalStates", "over_layers", "rows_by_layer", "sweep"]

TOGETHER = 64  # most stacks iterated together whose tokens are told apart
PAIRS = 20_000  # and about how many pairs of their positions
TOPS = (1.0, 2.0, 4.0, 8.0, 16.0, 40.0)  # largest score deviations of a table
ROOM = 1.1  # of them over beta sqrt(log T): gaps may exceed q
LEAST, MOST = 8, 128  # blocks of positions that may be asked for
SHRUNK = 0.85, 0.87  # factors on score deviations from which down tables are left, by and by
APART = 0.1, 0.2  # final overlap deficits from which up that matters
LONG, LONG_APART = 2.0**16, (0.02, 0.05)  # and from which it does in contexts beyond this one


@dataclass(frozen=True)
class FinalStates:
    """States at the last layer, and the hottest attention met on the way.

    Attributes
    ----------
    state : State
        Variance and gap after the last block, means over tokens and pairs; NaN where `defined` is
        false.
    reduced_beta : array
        Largest score deviation over sqrt(log T) in any layer, a mean over queries: among
        exchangeable tokens entropy decreases with it, so the smallest entropy over the layers is
        the entropy there.
    defined : array of bool
        Whether the iteration stayed finite with q > 0.
    entropy_ratio : array or None
        Smallest H / log n over the layers, a mean over queries, where it does not follow from
        `reduced_beta`.

    Examples
    --------
    >>> from sigprop import ModelSpec, sweep
    >>> final = sweep(ModelSpec(depth=2, context=8, beta=[1, 2], sigma_v2=1, sigma_w2=2, rho0=0))
    >>> final.defined.tolist()
    [True, True]
    """

    state: State
    reduced_beta: Floats
    defined: Bools
    entropy_ratio: Floats | None = None


@validated
def sweep(
    spec: ModelSpec,
    theory: str = "finite",
    progress: Callable[[int], None] | None = None,
    geometry: str = "auto",
    entropy: bool = True,
    resolution: int | None = None,
) -> FinalStates:
    """Compute the final states of an array of specs, in chunks that stay in cache: for large grids.

    Parameters
    ----------
    spec : ModelSpec
        The description; memory grows with the output alone, not with depth.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    progress : callable, optional
        Called with the number of finished states after each chunk.
    geometry : {"auto", "exchangeable"}
        As in `propagate`.
    entropy : bool
        Whether the entropies of tokens that are told apart are asked for.
    resolution : int, optional
        About how many blocks of positions tell them apart under a mask, 8 to 128, with tables
        throughout; by default as many as what is said below needs.

    Returns
    -------
    FinalStates
        Final states. Causal specs with norms are solved by position, rotary positions by distance,
        from tables on coarse blocks that are built once for each context; where correlations of
        scores weigh more than these tables know, as by `propagate`. notebooks/accuracy.md has the
        distance from it.

    Raises
    ------
    DomainError
        If `resolution` is out of range.
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`).

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.grids import sweep
    >>> spec = ModelSpec(depth=12, context=512, beta=np.linspace(0, 3, 5), sigma_v2=1,
    ...                    sigma_w2=2, rho0=0.1)
    >>> sweep(spec).state.gap.shape
    (5,)
    """
    require_theory(spec, "sweep", theory, geometry)
    if resolution is not None:
        checked_count("resolution", resolution, LEAST, MOST)
    kind = geometry_of(spec, theory, geometry)
    keep_heap()
    if kind != "exchangeable":
        return _resolved(spec, kind, progress, entropy, resolution)
    shape = spec.shape
    allow(64 * prod(shape), "shape", shape, "fewer points")
    q, gap, heat = np.empty(shape), np.empty(shape), np.empty(shape)
    defined = np.empty(shape, dtype=bool)
    lowest = np.empty(shape) if len({layer.head_width for layer in spec.layers}) > 1 else None
    for index in chunks(shape):
        part = part_of(spec, index)
        state, heat[index] = _run(part, theory)
        if lowest is not None:
            lowest[index] = _lowest(part, theory)
        good = valid(state.q, state.gap)
        q[index], gap[index] = (np.where(good, value, np.nan) for value in state)
        defined[index] = good
        if progress is not None:
            progress(prod(part.shape))
    if lowest is not None:
        lowest[~defined] = np.nan
    return FinalStates(State(q, gap), heat, defined, lowest)


def _lowest(spec: ModelSpec, theory: str) -> Floats:
    """Smallest entropy ratio over layers of exchangeable tokens, each with its own heads."""
    stack, out = build_stack(spec, "exchangeable", theory), np.ones(spec.shape)
    with np.errstate(all="ignore"):  # what overflows or vanishes is masked in sweep
        for layer, step in zip(spec.layers, stack.steps(stack.initial(spec)), strict=True):
            b = np.nan_to_num(step.attention.reduced_beta, posinf=0.0)
            np.minimum(out, rem_of(layer, theory).entropy_ratio(b), out=out)
    return out


def _run(spec: ModelSpec, theory: str) -> tuple[State, Floats]:
    """Last state of exchangeable tokens, and the largest reduced inverse temperature."""
    states = prod(spec.shape) * spec.depth
    stack = build_stack(spec, "exchangeable", theory, states=states)
    heat, steady = np.zeros(spec.shape), stack.blocks[0].steady
    with np.errstate(all="ignore"):  # what overflows or vanishes is masked in sweep
        for step in stack.steps(stack.initial(spec)):
            scores = step.attention.scores
            read, cold = scores.kernel, 1.0 if spec.is_uniform else scores.beta * scores.beta
            found = read.gap if steady else read.q * read.gap
            np.maximum(heat, scaled(found, cold), out=heat)
        beta = spec.beta if spec.is_uniform else 1.0
        return step.kernel, beta * np.sqrt(heat * read.q if steady else heat)


def _resolved(
    spec: ModelSpec,
    kind: str,
    progress: Callable[[int], None] | None,
    entropy: bool,
    resolution: int | None,
) -> FinalStates:
    """Solve stacks whose tokens are told apart, from tables."""
    out = np.empty((4, prod(spec.shape)))
    for index, rows in rows_by_layer(spec, kind, spec, entropy, resolution):
        out[:, index] = over_layers(rows)
        if progress is not None:
            progress(np.size(index))
    q, deficit, heat, lowest = out.reshape(4, *spec.shape)
    state = State(q, q * deficit)
    return FinalStates(state, heat, np.isfinite(q), lowest if entropy else None)


def rows_by_layer(
    spec: ModelSpec,
    kind: str,
    grid: ModelSpec,
    entropy: bool = True,
    resolution: int | None = None,
) -> Iterator[tuple[Ints, Floats]]:
    """Solve stacks whose tokens are told apart, from tables, and keep what attention does by layer.

    Parameters
    ----------
    spec : ModelSpec
        The stacks.
    kind : {"position", "distance"}
        Which pairs of tokens are told apart.
    grid : ModelSpec
        All stacks that share the tables: those, or more.
    entropy : bool
        Whether entropies are asked for.
    resolution : int, optional
        About how many blocks of positions there are.

    Yields
    ------
    index : array of int, shape (n,)
        Places of some stacks in the flattened array.
    rows : array, shape (2 + 2 L, n)
        Variance and overlap deficit after the last block, then the reduced inverse temperatures and
        the entropy ratios of the layers, if asked for; NaN where the state vanishes or overflows.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.grids import rows_by_layer
    >>> spec = ModelSpec(depth=3, context=8, causal=True, beta=[0, 1], sigma_v2=1, sigma_w2=1,
    ...                    rho0=0)
    >>> [rows.shape for index, rows in rows_by_layer(spec, "position", spec)]
    [(8, 2)]
    """
    tops = _tops(grid)
    for index, part in parts_of_one_context(spec, kind, _together(spec, kind, resolution)):
        top = tops[int(np.max(part.context))]
        stack = build_stack(part, kind, top=top, resolution=resolution)
        with np.errstate(all="ignore"):  # what overflows or vanishes is masked
            rows, least = _rows(part, stack, entropy)
            if resolution is None:
                _solve_harsh(part, kind, rows, least, entropy)
        yield index, rows


def over_layers(rows: Floats) -> Floats:
    """Largest reduced inverse temperature and smallest entropy ratio over the layers.

    Parameters
    ----------
    rows : array, shape (2 + 2 L, ...)
        As from `rows_by_layer`.

    Returns
    -------
    array, shape (4, ...)
        Variance, overlap deficit, and the two.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.propagation.grids import over_layers
    >>> over_layers(np.array([1.0, 0.5, 2.0, 3.0, 0.9, 0.8])).tolist()
    [1.0, 0.5, 3.0, 0.8]
    """
    heat, cold = np.split(rows[2:], 2)
    return np.stack([*rows[:2], heat.max(axis=0), cold.min(axis=0)])


def _together(spec: ModelSpec, kind: str, resolution: int | None) -> int:
    """How many stacks are iterated together: their arrays over pairs of positions stay in cache."""
    if kind != "position" or prod(spec.shape) == 1:
        return TOGETHER
    _, one = next(singles(spec))
    one = one.replace(context=np.max(spec.context))
    longest: Any = build_stack(one, kind, top=TOPS[0], resolution=resolution).place
    return int(np.clip(PAIRS // len(longest.geometry.layout.couples[0]), 1, TOGETHER))


def _tops(spec: ModelSpec) -> dict[int, float]:
    """Largest score deviation that the table of each context must hold."""
    beta = np.max([np.broadcast_to(layer.beta, spec.shape) for layer in set(spec.layers)], axis=0)
    context, level = np.broadcast_arrays(spec.context, np.square(spec.norm_gain) * beta)
    out = {}
    for one in distinct(context).astype(int).tolist():
        sigma = ROOM * np.max(level[context == one]) * np.sqrt(np.log(one))
        known = () if any_norm(spec) is None else TOPS
        out[one] = next((t for t in known if t >= sigma), TOPS[-1])
    return out


def _solve_harsh(spec: ModelSpec, kind: str, rows: Floats, least: Floats, entropy: bool) -> None:
    """Solve again, as single ones, stacks whose scores are correlated more than tables know."""
    ends = SHRUNK, LONG_APART if np.max(spec.context) > LONG else APART
    shrunk, apart = (
        np.clip((value - low) / (high - low), 0.0, 1.0)
        for value, (low, high) in zip((least, rows[1]), ends, strict=True)
    )
    share = (1 - shrunk) * apart
    harsh = np.flatnonzero(share > 0)
    if not harsh.size:
        return
    for index, part in parts_of_one_context(picked(spec, harsh), kind, SOLVED_TOGETHER):
        place = harsh[index]
        exact, _ = _rows(part, build_stack(part, kind), entropy)
        rows[:, place] += share[place] * (exact - rows[:, place])


def _rows(spec: ModelSpec, stack: Stack, entropy: bool) -> tuple[Floats, Floats]:
    """Rows of `rows_by_layer`, and the least factors on score deviations that a table gave."""
    geometry: Any = stack.place.geometry
    start = stack.initial(spec)
    good = np.ones(len(np.asarray(start.gap)), dtype=bool)
    heat, cold = np.full((2, spec.depth, good.size), np.nan)
    least, source = np.ones(good.size), stack.place.statistics
    fitted = isinstance(source, Tabulated) and source.fitted
    edge = TOPS[-1] / np.sqrt(np.log(spec.context))
    for layer, step in enumerate(stack.steps(start)):
        heat[layer] = step.attention.reduced_beta
        if fitted:
            np.minimum(least, step.attention.least_shrink, out=least)
        if entropy:
            cold[layer] = step.attention.entropy_ratio
        good &= geometry.is_valid(step.kernel) & (heat[layer] <= edge)
    ends = [geometry.variance(step.kernel), geometry.deficit(step.kernel)]
    return np.where(good, np.concatenate([np.stack(ends), heat, cold]), np.nan), least
