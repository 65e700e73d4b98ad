r"""Growth of gradients in deep stacks that have settled (E24g).

Under a causal mask the gradient of a token comes from itself and later ones, so the map back is
triangular in the order of the tokens. It maps gradient kernels to gradient kernels, whose
covariances are bounded by their variances: its spectral radius is the largest factor by which the
variance at one token, or of a set of tokens that see each other, is passed back to itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.state import Gradient, State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import (
    UNSETTLED,
    TheoryError,
    has_positions,
    refusal,
    require_theory,
)
from sigprop.propagation.gradients.by_position import pullback, stack_of
from sigprop.propagation.points import singles
from sigprop.propagation.settled import alike, period_of, settled
from sigprop.propagation.stack import build_block, build_stack

__all__ = ["gradient_exponent"]

MOST = 3000  # periods back
EXACT = 1e-10  # change of the growth in one period
RESOLUTION = 48  # blocks of positions
SOME = 24  # tokens at which the largest factor is looked for first
FIRST, LATE = 32, 9  # late tokens that have a block each: where they begin, how many

Pull = Callable[[Gradient], Gradient]


@validated
def gradient_exponent(spec: ModelSpec, state: State | None = None) -> Floats:
    r"""Limit of :math:`\lambda_g` in a stack that stays at one state, as at a fixed point.

    Pulling back is linear in the gradient kernel: this is the logarithm of its spectral radius. Of
    exchangeable tokens the kernel is (q^g, (T-1) p^g); under a causal mask or rotary positions it
    is resolved by position, and the radius is the largest factor by which one token, or a prefix,
    passes its own gradient back to itself (E24g).

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast, those with positions one stack after the other. With
        positions, layers of a pattern may differ.
    state : State, optional
        What enters the block, for instance the last state of a trajectory: the variance of all
        tokens and the gap of all pairs. By default the state that independent tokens settle in
        (`sigprop.propagation.settled`).

    Returns
    -------
    array
        Growth of the squared gradient per block, toward the input. NaN where the state of one of
        an array of stacks does not settle.

    Raises
    ------
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`), or the state of a single
        one does not settle.

    Notes
    -----
    Cowsik et al., arXiv 2403.02579, who give it at rho = 1 in the limit of infinite context.

    Examples
    --------
    >>> from sigprop import State, ModelSpec
    >>> from sigprop.propagation.gradients.exponent import gradient_exponent
    >>> spec = ModelSpec(depth=1, context=64, beta=1, sigma_v2=0, sigma_w2=0, rho0=0, norm="none")
    >>> float(gradient_exponent(spec, State(1.0, 0.5)))
    0.0
    >>> spec = ModelSpec(depth=1, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0,
    ...                    sigma_b2=1)
    >>> round(float(gradient_exponent(spec)), 6)  # log(2/3 1/2)
    -1.098612
    """
    require_theory(spec, "gradient_exponent")
    if state is not None and not has_positions(spec):
        return _of_exchangeable(spec, state)
    if not spec.shape and (state is None or np.ndim(state.q) == np.ndim(state.gap) == 0):
        return np.asarray(_of_one(spec, state))
    return _of_each(spec, state)


def _of_exchangeable(spec: ModelSpec, state: State) -> Floats:
    """Exponent of tokens that are exchangeable."""
    block, units = build_block(spec), (Gradient(1.0, 0.0), Gradient(0.0, 1.0))
    with np.errstate(all="ignore"):
        entered = block.entered(state)
        columns = [block.backward(entered, unit).gradient for unit in units]
    entries = np.broadcast_arrays(*(np.asarray(v) for column in columns for v in column))
    matrix = np.moveaxis(np.stack(entries), 0, -1)
    matrix = matrix.reshape(*matrix.shape[:-1], 2, 2)
    known = np.all(np.isfinite(matrix), axis=(-2, -1), keepdims=True)
    values = np.linalg.eigvals(np.where(known, matrix, 0.0))
    with np.errstate(divide="ignore"):
        radius = np.log(np.abs(values).max(axis=-1))
    return np.where(known[..., 0, 0], radius, np.nan)


def _of_each(spec: ModelSpec, state: State | None) -> Floats:
    """Exponents of an array of specs or states, one by one."""
    given = (spec.rho0,) if state is None else (spec.rho0, state.q, state.gap)
    rho, *numbers = np.broadcast_arrays(np.empty(spec.shape), *given)[1:]
    out = np.full(rho.shape, np.nan)
    for index, one in singles(spec.replace(rho0=rho)):
        try:
            out[index] = _of_one(one, State(*(v[index] for v in numbers)) if numbers else None)
        except TheoryError:
            continue
    return out


def _of_one(spec: ModelSpec, state: State | None) -> float:
    """Exponent of one spec."""
    period, positions = period_of(spec), has_positions(spec)
    if positions:
        stack = stack_of(period, _late(int(period.context)), resolution=RESOLUTION)
    else:
        stack = build_stack(period)
    with np.errstate(all="ignore"):  # what vanishes or overflows is refused
        if state is None:
            state = settled(stack, period)
        elif positions:
            state = alike(stack, state)
        if state is None:
            raise refusal(UNSETTLED, "gradient_exponent")
        if not positions:
            return float(_of_exchangeable(spec, state))
        found = _radius(stack.place.geometry.layout, pullback(stack, state))
        if not np.isfinite(found):
            raise refusal(UNSETTLED, "gradient_exponent")
        return float(np.log(found) / period.depth)


def _late(context: int) -> tuple[int, ...]:
    """List ends of blocks that hold one late token each."""
    tokens = np.geomspace(min(FIRST, context), context, LATE).round().astype(int)
    return tuple(sorted({*tokens.tolist(), *(tokens - 1).tolist()}))


def _radius(layout: Layout, pull: Pull) -> float:
    """Spectral radius of the map back: the largest of the prefix and of single tokens.

    It is smooth in position: it is found at a few tokens, and at all around the largest of them.
    """
    seen = int(np.searchsorted(layout.edges, max(layout.prefix, 1)))
    alone = np.flatnonzero((layout.size == 1) & (np.arange(len(layout.size)) >= seen))
    prefix = _of_prefix(layout, pull, seen)
    if not len(alone):
        return prefix
    some = np.unique(np.linspace(0, len(alone) - 1, SOME).round().astype(int))
    own = [_of_token(layout, pull, block) for block in alone[some]]
    best = int(np.argmax(own))
    around = slice(some[max(best - 1, 0)] + 1, some[min(best + 1, len(some) - 1)])
    own += [_of_token(layout, pull, block) for block in alone[around]]
    return max(prefix, *own)


def _of_token(layout: Layout, pull: Pull, block: int) -> float:
    """Part of the squared gradient of a token, alone in its block, that returns to it."""
    size = len(layout.size)
    own = np.zeros((size, 1))
    own[block] = 1.0
    return float(np.asarray(pull(Gradient(own, np.zeros(layout.number.shape))).q)[block, 0])


def _of_prefix(layout: Layout, pull: Pull, seen: int) -> float:
    """Spectral radius of the first blocks, of which each sees all: by power iteration."""
    size = len(layout.size)
    weight = np.where(np.arange(size) < seen, 1.0, 0.0)
    kept = np.outer(weight, np.append(weight, np.zeros(len(layout.distances))))
    q, others, last = weight[:, None], np.zeros(kept.shape), 0.0
    for _ in range(MOST):
        found = pull(Gradient(q, others))
        q, others = found.q * weight[:, None], found.others * kept
        growth = float(layout.size @ q[:, 0]) / float(layout.size[:seen].sum())
        q, others = q / growth, others / growth
        if abs(growth - last) <= EXACT * growth:
            return growth
        last = growth
    return np.nan
