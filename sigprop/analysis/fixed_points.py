r"""Fixed points of the block map, exponents and depth scales (E18, E18b, E19, E19b).

No slope is typed in: the maps keep their relative accuracy down to vanishing gaps, so the slope at
the collapsed fixed point is the map itself at gap/q = 1e-40 (relative error 1e-16 for smooth
activations, 1e-20 for ReLU, whose leading correction is (gap/q)^{1/2}).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.export import Exported
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import (
    UNSETTLED,
    covers,
    geometry_of,
    is_causal,
    refusal,
    require_theory,
)
from sigprop.propagation.causal import Positions, positions_of
from sigprop.propagation.points import parts_of_one_context
from sigprop.propagation.rotary import ByDistance, distances_of
from sigprop.propagation.run import solve
from sigprop.propagation.settled import (
    alike,
    has_merged,
    multiplier,
    period_of,
    settled,
)
from sigprop.propagation.stack import (
    Block,
    Stack,
    build_block,
    build_stack,
    first_norm,
    of_two_tokens,
)

__all__ = [
    "Exponents",
    "FirstTokens",
    "FixedPoint",
    "by_first_tokens",
    "exponents",
    "fixed_points",
    "linear_response",
]

TINY = 1e-40
TOGETHER = 64  # stacks of two tokens that are solved together
SCAN = 400  # points between gap/q = 1e-12 and its largest value


@dataclass(frozen=True)
class Exponents(Exported):
    r"""Fate of a small gap between tokens.

    Attributes
    ----------
    chi : array
        Factor by which gap/q shrinks in one block at rho = 1 (E18). NaN where q grows linearly,
        which is where `power_law` holds, and in arrays where nothing passes.
    angle_exponent : array
        :math:`\lambda_a = \log\chi`.
    depth_scale : array
        :math:`\xi = -1/\lambda_a` blocks; infinite at chi = 1, negative where tokens separate.
    power_law : array
        Pre-norm with alpha_attn alpha_mlp = 1: :math:`1 - \rho_l \sim l^{\kappa/c - 1}`, with
        kappa the linear gap gain and c the increment of q per block. NaN otherwise.

    Notes
    -----
    theory.md section 4; Schoenholz et al. (2017), Cowsik et al., arXiv 2403.02579.

    Examples
    --------
    >>> from sigprop import ModelSpec, exponents
    >>> spec = ModelSpec(depth=1, context=512, beta=0.5, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> round(float(exponents(spec).depth_scale), 6)
    1.442695
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        ("chi", "angle_exponent", "depth_scale", "power_law"), ()
    )

    chi: Floats
    angle_exponent: Floats
    depth_scale: Floats
    power_law: Floats


@dataclass(frozen=True)
class FixedPoint:
    """Fixed point of the overlap under the block map.

    Attributes
    ----------
    rho, gap : float
        Overlap, and 1 - rho with its own digits; over all pairs of tokens, their mean.
    slope : float
        Derivative of the map of gap/q there, the largest in size of its eigenvalues where pairs are
        told apart; stable when below one in size.
    stable : bool
        Whether nearby overlaps converge to it.
    resolved : Positions, ByDistance or None
        Kernel and attention there by position or distance, through one period of layers; None of
        exchangeable tokens, and where all have merged.

    Examples
    --------
    >>> from sigprop import ModelSpec, fixed_points
    >>> spec = ModelSpec(depth=1, context=512, beta=0.5, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> point = fixed_points(spec)[0]
    >>> point.rho, point.stable
    (1.0, True)
    """

    rho: float
    gap: float
    slope: float
    stable: bool
    resolved: Positions | ByDistance | None = None


def linear_response(step: Callable[[State], State], q: Floats) -> tuple[Floats, Floats]:
    """Output variance and gap gain gap'/gap of a map of the kernel at rho = 1.

    Parameters
    ----------
    step : callable State -> State
        The map.
    q : array
        Input variance.

    Returns
    -------
    q, gain : arrays
        Output variance, and output gap over input gap as the gap vanishes.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import State
    >>> from sigprop.analysis.fixed_points import linear_response
    >>> found = linear_response(lambda kernel: State(kernel.q, kernel.gap / 4), np.array(4.0))
    >>> [float(v) for v in found]
    [4.0, 0.25]
    """
    out = step(State(q, q * TINY))
    return np.asarray(out.q), np.asarray(out.gap / (q * TINY))


@validated
def exponents(spec: ModelSpec, theory: str = "finite", geometry: str = "auto") -> Exponents:
    """Angle exponent, depth scale and power law at the collapsed fixed point.

    Parameters
    ----------
    spec : ModelSpec
        Post- or pre-norm; arrays broadcast.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    geometry : {"auto", "exchangeable"}
        As in `sigprop.propagate`.

    Returns
    -------
    Exponents
        Arrays of the spec's shape.

    Raises
    ------
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`): without norms q has no
        fixed point in general; under rotary positions without a mask, and behind a prefix, the
        collapsed state has other exponents.

    Notes
    -----
    Under a causal mask the exponents are those of the first two tokens (E19b), which all gaps
    approach in the end: those of late tokens shrink as without a mask until their means over early
    keys, a part 1/t of the whole, outlast them.

    Examples
    --------
    >>> from sigprop import ModelSpec, exponents
    >>> spec = ModelSpec(depth=1, context=512, beta=0.5, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> float(exponents(spec).chi)
    0.5
    """
    require_theory(spec, "exponents", theory, geometry)
    with np.errstate(all="ignore"):  # vanished branches are masked below
        if geometry_of(spec, theory, geometry) == "position":
            chi, power = by_first_tokens(spec, _rates)
        else:
            chi, power = _rates(spec, build_block(spec, theory))
        rate = np.log(chi)
        if not spec.shape and np.isnan(chi) and np.isnan(power):
            raise refusal("a state that vanishes or overflows", "exponents", where="a block")
        return Exponents(chi, rate, np.where(rate == 0, np.inf, -1 / rate), power)


@dataclass(frozen=True)
class FirstTokens:
    """Block of two tokens under a causal mask, as a map of one variance and one gap.

    Attributes
    ----------
    block : Block
        The block, of two tokens.

    Notes
    -----
    theory.md section 4, E19b: vanishing gaps of a causal stack feed those of later tokens alone.
    Their map is triangular, its eigenvalues are those of single pairs, and the largest is that of
    the first two tokens, whose mean over keys is the shortest.
    """

    block: Block

    def __call__(self, state: State) -> State:
        """Apply the block."""
        return _of_two(self.block)(state)

    def part(self, *layers: Any) -> Callable[[State], State]:
        """Map of some of its layers."""
        return _of_two(self.block.part(*layers))


def _of_two(step: Callable[[State], State]) -> Callable[[State], State]:
    """Map of the kernel of two tokens as one of a variance and a gap, shape (n,)."""

    def mapped(state: State) -> State:
        q, gap = (np.asarray(value)[..., None, None] for value in state)
        out = step(State(q, gap * (1 - np.eye(2))))
        return State(np.asarray(out.q)[..., 0, 0], np.asarray(out.gap)[..., 0, 1])

    return mapped


def by_first_tokens(
    spec: ModelSpec, function: Callable[[ModelSpec, Any], tuple[Floats, ...]]
) -> list[Floats]:
    """Arrays that a function finds of specs and their `FirstTokens`, in the shape of the spec.

    Parameters
    ----------
    spec : ModelSpec
        With a causal mask; arrays broadcast.
    function : callable
        Of specs of shape (n,) and a map.

    Returns
    -------
    list of array
        What it returns, in the shape of the spec.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.fixed_points import by_first_tokens, linear_response
    >>> spec = ModelSpec(depth=1, context=512, causal=True, beta=1, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> found = by_first_tokens(spec, lambda spec, block: linear_response(block, np.ones(1)))
    >>> [round(float(value), 12) for value in found]  # q; (1 + 1/4)/(1 + 1)
    [1.0, 0.625]
    """
    rows: list[Floats] = []
    for index, part in parts_of_one_context(of_two_tokens(spec), "position", TOGETHER):
        flat: dict[str, Any] = {n: np.ravel(getattr(part, n)) for n in part.numbers()}
        block = build_stack(part, "position").blocks[0]
        lanes = replace(part, **(flat | {"context": 2, "sigma_w2": None}))
        found = function(lanes, FirstTokens(block))
        rows = rows or [np.empty(prod(spec.shape)) for _ in found]
        for row, value in zip(rows, found, strict=True):
            row[index] = value
    return [row.reshape(spec.shape) for row in rows]


def _rates(spec: ModelSpec, block: Block | FirstTokens) -> tuple[Floats, Floats]:
    """Factor on gap/q at rho = 1, and power law."""
    if first_norm(spec) is None:
        return _pre_norm(spec, block)
    q = np.broadcast_to(np.square(spec.norm_gain), spec.shape).astype(np.float64)
    out, gain = linear_response(block, q)
    return gain * q / out, np.full(spec.shape, np.nan)


def _pre_norm(spec: ModelSpec, block: Block | FirstTokens) -> tuple[Floats, Floats]:
    """Slope at the fixed point of q, or the power law when skips neither grow nor shrink.

    At rho = 1 the block acts on q as q -> a q + c; without branches, c = 0, all overlaps stay.
    """
    one, whole = np.ones(spec.shape), block.block if isinstance(block, FirstTokens) else block
    read, mixed = linear_response(block.part(whole.attention_branch), one)
    thought, kappa = linear_response(block.part(whole.mlp_branch), one)
    skip = np.square(spec.alpha_mlp)
    kappa = kappa + (mixed * skip if isinstance(block, FirstTokens) else 0.0)
    a = np.square(spec.alpha_attn) * skip * one
    c = read * skip + thought
    q = np.where(a < 1, c / (1 - a), one)
    _, settled = linear_response(block, np.where(c > 0, q, one))
    settled = np.where(c > 0, settled, np.where(a > 0, 1.0, np.nan))
    power = np.where((a == 1) & (c > 0), kappa / c - 1, np.nan)
    still = np.where((a > 1) | (c == 0), 1.0, np.nan)
    return np.where(a < 1, settled, still), power


@validated
def fixed_points(spec: ModelSpec, theory: str = "finite") -> list[FixedPoint]:
    """Find the fixed points of the overlap of a single post-norm spec, from rho = 1 downwards.

    Parameters
    ----------
    spec : ModelSpec
        Post-norm, without arrays; with causal masks or rotary positions a pattern may be cycled.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.

    Returns
    -------
    list of FixedPoint
        rho = 1 first. Others are found where the map crosses the diagonal on a logarithmic scan
        of 400 points and refined to relative accuracy 1e-12 of the gap. With masks or rotary
        positions a fixed point is a kernel, and there is one other at most: the one that
        independent tokens settle in, of a pattern before the first layer of its cycle.

    Raises
    ------
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`): it is not post-norm, has
        arrays, or masks or rotary positions in the limit; or nothing settles.

    Notes
    -----
    theory.md section 4, E18b. The slope at rho = 1 is chi of `exponents`.

    Examples
    --------
    >>> from sigprop import ModelSpec, fixed_points
    >>> spec = ModelSpec(depth=1, context=512, beta=0.5, sigma_v2=0.2, sigma_w2=9,
    ...                    sigma_b2=0.05, activation="tanh", alpha_attn=2, rho0=0)
    >>> [(round(p.rho, 3), p.stable) for p in fixed_points(spec)]
    [(1.0, False), (0.118, True)]
    >>> [(round(p.rho, 3), p.stable) for p in fixed_points(spec.replace(causal=True))]
    [(1.0, False), (0.118, True)]
    """
    require_theory(spec, "fixed_points", theory)
    kind = geometry_of(spec, theory)
    if kind == "exchangeable":
        return _crossings(spec, theory)
    with np.errstate(all="ignore"):  # what vanishes or overflows is refused
        return _resolved(period_of(spec), kind)


def _crossings(spec: ModelSpec, theory: str) -> list[FixedPoint]:
    """Find the fixed points of exchangeable tokens."""
    from scipy.optimize import elementwise

    block = build_block(spec, theory)
    q = np.square(spec.norm_gain)

    def growth(log_x: Floats) -> Floats:
        x = np.exp(log_x)
        out = block(State(np.full_like(x, q), q * x))
        return np.asarray(np.log(out.gap / out.q) - log_x)

    top = 0.0 if np.isinf(spec.context) else -np.log1p(-1 / float(spec.context))
    scan = np.linspace(np.log(1e-12), top, SCAN)
    with np.errstate(all="ignore"):  # a vanished state has no crossing
        value = growth(scan)
        crossing = np.flatnonzero(np.sign(value[:-1]) * np.sign(value[1:]) < 0)
        roots = elementwise.find_root(growth, (scan[crossing], scan[crossing + 1])).x
        step = 1e-6
        slopes = 1 + (growth(roots + step) - growth(roots - step)) / (2 * step)
    found = [(0.0, float(exponents(spec, theory).chi))]
    found += sorted(zip(np.exp(roots).tolist(), slopes.tolist(), strict=True))
    return [FixedPoint(1 - x, x, slope, abs(slope) < 1) for x, slope in found]


def _resolved(period: ModelSpec, kind: str) -> list[FixedPoint]:
    """Find merged tokens, and the kernel that independent ones settle in, if it is another."""
    stack = build_stack(period, kind)
    kernel = settled(stack, period)
    slope = np.nan if kernel is None else _merged_slope(period, stack)
    collapsed = FixedPoint(1.0, 0.0, slope, abs(slope) < 1)
    if kernel is None or not np.isfinite(slope):
        raise refusal(UNSETTLED, "fixed_points")
    if has_merged(stack, kernel) and collapsed.stable:
        return [collapsed]
    place: Any = stack.place
    gap, slope = float(place.geometry.deficit(kernel)), multiplier(stack, kernel)
    if has_merged(stack, kernel) or not np.isfinite(slope):
        raise refusal(UNSETTLED, "fixed_points")
    shown = positions_of if kind == "position" else distances_of
    found: Any = shown(place.geometry, solve(stack, kernel))
    return [collapsed, FixedPoint(1 - gap, gap, slope, abs(slope) < 1, found)]


def _merged_slope(period: ModelSpec, stack: Stack) -> float:
    """Slope at rho = 1: that of the first two tokens, if each token sees those before it alone."""
    layers = period.layers
    if all(is_causal(one) and covers(one, "exponents") for one in layers):
        return float(np.prod([exponents(one).chi for one in layers]))
    return multiplier(stack, alike(stack, State(np.square(period.norm_gain), 0.0)))
