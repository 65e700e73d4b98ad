"""Kernels in which deep stacks settle, and how fast small deviations from them decay (E18b).

Measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.stack import Stack, first_norm

__all__ = ["FAINT", "alike", "has_merged", "multiplier", "period_of", "settled"]

FAINT = 1e-30  # gap/q of tokens that have merged
MERGED = 1e-5  # mean 1 - rho below which they are on their way there
EXACT = 1e-10  # change in one period, over the largest gap; tables are smooth to 3e-12
PLAIN = 12  # periods before their changes are extrapolated
KEPT = 8  # changes that an extrapolation is made of
MOST = 2000  # periods
NUDGE = 1e-5  # relative step of slopes, of second order in it
SURE = 1e-5  # error of multipliers


def period_of(spec: ModelSpec) -> ModelSpec:
    """Spec of the layers that a deep stack repeats: one, or the cycle of its pattern.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.

    Returns
    -------
    ModelSpec
        Of the depth of one period; first and last layers that differ are left out.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.settled import period_of
    >>> spec = ModelSpec(depth=9, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0,
    ...                    pattern=[{"window": 4}, {}])
    >>> period_of(spec).depth
    2
    """
    cycle = list((spec.pattern or {}).get("cycle", ()))
    return spec.replace(depth=max(len(cycle), 1), pattern=cycle or None)


@dataclass(frozen=True)
class _Period:
    """Map of one period as one of vectors of the shapes of a kernel: variances, then gaps."""

    stack: Stack
    q: tuple[int, ...]
    gap: tuple[int, ...]

    def flat(self, kernel: State) -> Floats:
        """Vector of a kernel."""
        return np.concatenate([np.broadcast_to(kernel.q, self.q).ravel(), np.ravel(kernel.gap)])

    def kernel(self, flat: Floats) -> State:
        """Kernel of a vector."""
        q, gap = np.split(flat, [int(np.prod(self.q))])
        return State(q.reshape(self.q), gap.reshape(self.gap))

    def __call__(self, flat: Floats) -> Floats:
        """Vector one period on."""
        return self.flat(_behind(self.stack, self.kernel(flat)))


def _behind(stack: Stack, kernel: State) -> State:
    """Kernel behind one period."""
    for step in stack.steps(kernel):
        kernel = step.kernel
    return kernel


def _period(stack: Stack, kernel: State) -> tuple[_Period, Floats]:
    """Map of one period, and the vector of a kernel."""
    after = _behind(stack, kernel)
    period = _Period(stack, np.shape(after.q), np.shape(after.gap))
    return period, period.flat(kernel)


def settled(stack: Stack, spec: ModelSpec) -> State | None:
    """Kernel that independent tokens converge to.

    Parameters
    ----------
    stack : Stack
        The blocks of one period.
    spec : ModelSpec
        Its description.

    Returns
    -------
    State or None
        The kernel, its gaps 1e-30 of the variance where tokens merge; None where it vanishes,
        overflows, or has not settled in 2000 periods: in front of norms, unless skips shrink it.

    Notes
    -----
    Anderson, J. ACM 12, 547 (1965), with plain steps wherever changes grow or no kernel is found.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.settled import settled
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=1, context=8, beta=0, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> bool(settled(build_stack(spec), spec).gap < 1e-29)
    True
    """
    if first_norm(spec) is None and _skips(spec) >= 1:
        return None
    period, x = _period(stack, stack.initial(spec.replace(rho0=0.0)))
    points: list[Floats] = []
    changes: list[Floats] = []
    safe, waited, plain, least = x, 0, PLAIN, np.inf
    for _ in range(MOST):
        after = period(x)
        size = np.max(np.abs(after - x))
        if not np.isfinite(size) or np.min(after) < 0:
            if not points:
                return None
            x, waited, plain, points, changes = safe, 0, 2 * plain, [], []  # it was no kernel
            continue
        if has_merged(stack, period.kernel(after)):
            return alike(stack, State(period.kernel(after).q, 0.0))
        if size <= EXACT * np.max(period.kernel(x).gap):
            return period.kernel(x)
        if waited < plain:
            x = safe = after
            waited += 1
            continue
        if size > 2 * least:
            points, changes = [], []
        least = min(size, least)
        points, changes = [*points[-KEPT:], x], [*changes[-KEPT:], after - x]
        x = _extrapolated(points, changes)
    return None


def _skips(spec: ModelSpec) -> float:
    """Gain of the skips of one period."""
    return float(np.prod([np.square(one.alpha_attn * one.alpha_mlp) for one in spec.layers]))


def _extrapolated(points: list[Floats], changes: list[Floats]) -> Floats:
    """Point where the changes would vanish if they were linear in the points (Anderson 1965)."""
    after = points[-1] + changes[-1]
    if len(points) == 1:
        return after
    moves, turns = np.diff(points, axis=0), np.diff(changes, axis=0)
    parts = np.linalg.lstsq(turns.T, changes[-1], rcond=1e-12)[0]
    return np.maximum(after - parts @ (moves + turns), after / 10)


def has_merged(stack: Stack, kernel: State) -> bool:
    """Whether the tokens of a kernel are on their way to be all alike."""
    return bool(stack.place.geometry.deficit(kernel) < MERGED)


def alike(stack: Stack, state: State) -> State:
    """Kernel of tokens of one variance, and one gap of all pairs.

    Parameters
    ----------
    stack : Stack
        Blocks in a geometry.
    state : State
        The variance and the gap; a gap of zero is raised to 1e-30 of the variance.

    Returns
    -------
    State
        The kernel.

    Examples
    --------
    >>> from sigprop import ModelSpec, State
    >>> from sigprop.propagation.settled import alike
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=1, context=2, causal=True, beta=0, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> alike(build_stack(spec, "position"), State(2.0, 0.5)).gap.tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    pairs: Any = stack.place.geometry.initial(1.0, 0.0).gap
    return State(state.q, np.maximum(state.gap, state.q * FAINT) * pairs)


def multiplier(stack: Stack, kernel: State) -> float:
    """Largest factor by which a small change of the gaps grows in one period at a fixed point.

    Parameters
    ----------
    stack : Stack
        The blocks of one period, of tokens of one variance: post-norm.
    kernel : State
        The fixed point, or one of `alike` tokens that have merged.

    Returns
    -------
    float
        The spectral radius of the derivative of gap/q.

    Examples
    --------
    >>> from sigprop import ModelSpec, State
    >>> from sigprop.propagation.settled import alike, multiplier
    >>> from sigprop.propagation.stack import build_stack
    >>> spec = ModelSpec(depth=1, context=8, causal=True, beta=1, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> stack = build_stack(spec, "position")
    >>> round(multiplier(stack, alike(stack, State(1.0, 0.0))), 6)
    0.625
    """
    gap = np.asarray(kernel.gap)
    known = gap > 0

    def gaps(change: Floats) -> Floats:
        moved = gap.copy()
        moved[known] += change
        return np.asarray(_behind(stack, State(kernel.q, moved)).gap)[known]

    def slope(direction: Floats) -> Floats:
        step = NUDGE / float(np.max(np.abs(direction) / gap[known]))
        return (gaps(step * direction) - gaps(-step * direction)) / (2 * step)

    return _radius(slope, gap[known] / gap.max())


def _radius(slope: Callable[[Floats], Floats], start: Floats) -> float:
    """Spectral radius of a linear map."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

    size = len(start)
    if size < 8:
        columns = np.array([slope(unit) for unit in np.eye(size)])
        known = np.all(np.isfinite(columns))
        return float(np.abs(np.linalg.eigvals(columns)).max()) if known else np.nan
    operator = LinearOperator((size, size), matvec=slope, dtype=np.float64)
    try:
        found = eigs(operator, 1, v0=start, tol=SURE, maxiter=40, return_eigenvectors=False)
    except ArpackError:
        return np.nan
    return float(np.abs(found).max())
