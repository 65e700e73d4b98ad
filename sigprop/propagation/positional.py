r"""Gradients and bands where positions matter: causal masks and rotary codes (E23-E26).

*Gradients* are found on blocks of positions (`sigprop.propagation.gradients.by_position`), or
sampled, with their standard errors (`sigprop.propagation.gradients.sampled`).

*Bands* are carried along the trajectory of `propagate`, position by position. The mode of the
kernel in which networks differ is the squared norm of the mean of T tokens,
:math:`P = 1 - x (1 - 1/T)` of q, which moves the overlap deficit x of a pair by a multiple of x P;
the slope of a block is that of the map of the geometry along it, its noise :math:`n_l` that of a
block of exchangeable tokens (`sigprop.propagation.finite_width.bands`):

.. math:: \mathrm{var}\,\rho_{l+1} = \Big(\frac{dx_{l+1}}{dx_l}\Big)^2 \mathrm{var}\,\rho_l + n_l .

The shift of the mean is carried the same way (E26g). Under a mask the noise of the mean :math:`Y_2`
counts positions (E26h). Approximation: one mode of the kernel, and noise of exchangeable tokens.
Measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints
from sigprop.core.checks import count
from sigprop.core.errors import require
from sigprop.layers.attention.head_noise import shared_variance
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.statistics import Finite, participation_variance
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import (
    MAX_SAMPLED,
    TheoryError,
    geometry_of,
    has_positions,
    refusal,
    require_theory,
)
from sigprop.propagation.finite_width import bands as fluctuations
from sigprop.propagation.finite_width.bands import Noise, block_noise
from sigprop.propagation.gradients import closed_form
from sigprop.propagation.gradients.by_position import (
    VANISHES,
    gradients_of_array,
    is_pulled_through,
    parts_kept,
    resolved_gradients,
)
from sigprop.propagation.gradients.closed_form import Gradients
from sigprop.propagation.gradients.sampled import sampled_gradients
from sigprop.propagation.points import singles
from sigprop.propagation.result import Trajectory
from sigprop.propagation.run import solve
from sigprop.propagation.solve import propagate
from sigprop.propagation.stack import Stack, attention_of, build_stack
from sigprop.propagation.trajectories import from_positions

__all__ = ["DRAWS", "MAX_SAMPLED", "bands", "both_ways", "gradients"]

DRAWS = 8
COARSE = 24  # blocks of positions that the slopes are taken on
NUDGE = 2e-3  # largest relative step of the gaps
FLAT = 1e-9  # common part below which it is taken to be the same for all pairs


@validated
def gradients(
    spec: ModelSpec,
    trajectory: Trajectory | None = None,
    beta_by_layer: ArrayLike | None = None,
    draws: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    geometry: str = "auto",
    start: Any = "identity",
    blocks: int | None = None,
    sampled: bool = False,
) -> Gradients:
    """Gradient kernel and weight gradients of a spec, layer by layer.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast. With a causal mask or rotary positions gradients are
        found position by position (`sigprop.propagation.gradients.by_position`), those of an array
        one stack after the other.
    trajectory, beta_by_layer
        As in `sigprop.propagation.gradients.closed_form.gradients`; by position the first is not
        used.
    draws : int, optional
        Networks that are sampled, >= 2; given, it asks for `sampled` where positions matter.
    seed : int
        Their seed.
    progress : callable, optional
        Called with one after each draw, or with the number of stacks after some of an array.
    geometry : {"auto", "exchangeable"}
        "exchangeable" describes late tokens of a causal spec, and leaves rotations out.
    start : {"identity", "last"} or array_like
        Output gradients: independent ones, that of the last token alone, a kernel of shape (T, T),
        or the T token ids of the targets, of which equal ones have equal gradients. The kernel is
        scaled to a mean variance of one.
    blocks : int, optional
        Number of equal ranges of positions in which the variance is given as well.
    sampled : bool
        Sample the weights (`sigprop.propagation.gradients.sampled`), by default 8 times: a witness,
        with standard errors, of at most 2048 tokens and independent output gradients.

    Returns
    -------
    Gradients
        Everything, layer by layer; with standard errors where it was sampled. NaN where nothing
        passes one of many stacks.

    Raises
    ------
    AssumptionError
        If the context is infinite, or above 2048 where gradients are sampled, or no theory covers
        the spec (`sigprop.propagation.capabilities`).

    Notes
    -----
    theory.md E22-E24f.

    Examples
    --------
    >>> from sigprop import ModelSpec, gradients
    >>> spec = ModelSpec(depth=2, context=16, width=32, causal=True, beta=1, sigma_v2=1,
    ...                    sigma_w2=1, rho0=0.1)
    >>> found = gradients(spec, blocks=4)
    >>> found.q.shape, found.q_blocks.shape
    ((2,), (2, 4))
    """
    require_theory(spec, "gradients", geometry=geometry)
    number = DRAWS if draws is None else count("draws", draws, 2, 10**6)
    count("seed", seed, 0, 2**63)
    positions = geometry == "auto" and has_positions(spec)
    sampled = sampled or (draws is not None and positions)
    plain = isinstance(start, str) and start == "identity" and blocks is None
    if plain and not (sampled or positions):
        return closed_form.gradients(spec, trajectory, beta_by_layer)
    require(geometry == "auto", "geometry", geometry, "'auto' with a start, blocks or sampling")
    if sampled:
        words = "False with a start, blocks or beta_by_layer"
        require(plain and beta_by_layer is None, "sampled", sampled, words)
        return _each(spec, partial(_sampled, draws=number, seed=seed, progress=progress))
    pull = partial(resolved_gradients, start=start, ranges=blocks, beta_by_layer=beta_by_layer)
    if spec.shape and geometry_of(spec) == "position" and beta_by_layer is None:
        return gradients_of_array(spec, start, blocks, progress)
    return _each(spec, pull, progress)


def _each(
    spec: ModelSpec,
    pull: Callable[[ModelSpec], Gradients],
    progress: Callable[[int], None] | None = None,
) -> Gradients:
    """Gradients of one stack, or of each of an array; NaN where nothing passes."""
    if not spec.shape:
        return pull(spec)
    parts = []
    for _, one in singles(spec):
        parts.append(_passed(one, pull))
        if progress is not None:
            progress(1)
    known = next((part for part in parts if part is not None), None)
    if known is None:
        raise refusal(*VANISHES, where="any of the stacks")

    def wide(read: Callable[[Gradients], Any]) -> Any:
        empty = np.full(np.shape(read(known)), np.nan)
        values = np.stack([empty if part is None else read(part) for part in parts], axis=-1)
        return values.reshape(*values.shape[:-1], *spec.shape)

    names = [name for name in Gradients.AXES if getattr(known, name) is not None]
    columns: dict[str, Any] = {name: wide(attrgetter(name)) for name in names}
    errors = None
    if known.errors is not None:
        errors = {name: wide(partial(_error, name=name)) for name in known.errors}
    return replace(known, **columns, errors=errors)


def _error(found: Gradients, name: str) -> Any:
    """Find the standard error of a sampled value."""
    return (found.errors or {})[name]


def _passed(spec: ModelSpec, pull: Callable[[ModelSpec], Gradients]) -> Gradients | None:
    """Gradients of one of many stacks, None where nothing passes it."""
    try:
        return pull(spec)
    except TheoryError as error:
        if error.structure != VANISHES[0]:
            raise
    return None


def _sampled(
    spec: ModelSpec, draws: int, seed: int, progress: Callable[[int], None] | None
) -> Gradients:
    found = sampled_gradients(spec, np.random.default_rng(seed), draws, progress=progress)
    width = 1.0 if spec.width is None else float(spec.width)
    fan_in = dict.fromkeys(found.weights, width) | {"w2": width * spec.mlp_ratio}
    errors = {"q": found.q_se, "p": found.p_se}
    errors |= {name: fan_in[name] * value for name, value in found.weights_se.items()}
    apjn = np.asarray(found.q[0])
    weights: dict[str, Any] = {n: fan_in[n] * value for n, value in found.weights.items()}
    return Gradients(
        q=found.q,
        p=found.p,
        apjn=apjn,
        exponent=np.asarray(np.log(apjn) / spec.depth),
        errors=errors,
        draws=draws,
        seed=seed,
        **weights,
    )


def both_ways(spec: ModelSpec) -> Iterator[tuple[Ints, Trajectory, Gradients]]:
    """Trajectories and gradients of stacks by position; from one way forward where blocks agree.

    Parameters
    ----------
    spec : ModelSpec
        One description or an array of them, some of which are solved together.

    Yields
    ------
    index : array of int, shape (n,)
        Places of some stacks in the flattened array.
    trajectory, gradients : Trajectory, Gradients
        As of `propagate` and of `gradients`, with one axis of stacks behind the others; NaN of what
        passes nothing.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.positional import both_ways
    >>> spec = ModelSpec(depth=2, context=16, width=32, causal=True, beta=[0.5, 1], sigma_v2=1,
    ...                    sigma_w2=1, rho0=0.1)
    >>> [(index.tolist(), there.q.shape, back.q.shape) for index, there, back in both_ways(spec)]
    [([0, 1], (3, 2), (2, 2))]
    """
    for index, part in parts_kept(spec):
        stack = build_stack(part, "position")
        run = solve(stack, stack.initial(part), part.shape[:1], columns=False)
        found = from_positions(part, run.read, stack.place)
        shared = (stack, run) if is_pulled_through(part, stack) else None
        yield index, found, resolved_gradients(part, forward=shared)


class _Slopes(NamedTuple):
    """Answers of one block to the deficit x of its input, each the derivative in x."""

    deficit: float
    y2: float
    entropy: float
    own: float | None = None  # variance that the block adds to Y_2, where positions matter


@validated
def bands(spec: ModelSpec) -> Trajectory:
    """Trajectory with its spread over networks, and the mean at finite width.

    Parameters
    ----------
    spec : ModelSpec
        One description, with a width.

    Returns
    -------
    Trajectory
        As of `propagate`, means over networks at this width, with rho_std, y2_std and entropy_std:
        standard deviations over networks (seeds) of averages over tokens and heads.

    Raises
    ------
    AssumptionError
        If the spec has arrays, no width, an infinite context, tokens that do not differ, or a state
        that vanishes or fluctuates beyond a factor e^3.

    Notes
    -----
    theory.md section 7: E26a-E26h.

    Examples
    --------
    >>> from sigprop import ModelSpec, bands
    >>> spec = ModelSpec(depth=2, context=32, width=64, causal=True, beta=1, sigma_v2=1,
    ...                    sigma_w2=1, rho0=0.1)
    >>> bands(spec).rho_std.shape
    (3,)
    """
    require_theory(spec, "bands")
    kind = geometry_of(spec)
    if kind == "exchangeable":
        return fluctuations.bands(spec)
    base = propagate(spec)
    if len(base.q) <= spec.depth:
        raise refusal("a state that vanishes or overflows", "bands", where=f"block {len(base.q)}")
    if not np.all(base.gap > 0):
        raise refusal("tokens that merge", "bands", where="the last block")
    by = _by_position if kind == "position" else _by_distance
    return _spread(spec, base, by(spec, base))


def _spread(spec: ModelSpec, base: Trajectory, slopes: list[_Slopes]) -> Trajectory:
    """Carry variance and shift of the mean deficit x through the blocks."""
    x, t = base.gap / base.q, float(spec.context)
    entering = fluctuations.input_variance(spec, State(1.0, x[0]))
    variance, shift, noise = [entering * x[0] ** 2], [0.0], []
    for layer, slope in enumerate(slopes):
        state, b = State(base.q[layer], base.gap[layer]), float(base.reduced_beta[layer])
        one = block_noise(spec, state, b, variance[-1] / x[layer] ** 2, layer + 1)
        own = one.y2 if slope.own is None else (slope.own, one.y2[1])
        noise.append(one._replace(y2=own))
        alike = _moved(x[layer + 1], t) / _moved(one.behind, t)
        variance.append(slope.deficit**2 * variance[-1] + alike**2 * one.deficit[0])
        shift.append(slope.deficit * shift[-1] + one.deficit[1])
    x = np.minimum(x * np.exp(shift / x), 1 + 1 / (spec.context - 1))
    y2, y2_std = _read("y2", base.y2, slopes, noise, variance, shift)
    entropy, entropy_std = _read("entropy", base.entropy, slopes, noise, variance, shift)
    least, most = _uniform(spec)
    entropy, known = np.clip(entropy, 0.0, most), np.where(base.entropy > 0, base.entropy, 1.0)
    return replace(
        base,
        rho=1 - x,
        gap=base.q * x,
        y2=np.clip(y2, least, 1.0),
        entropy=entropy,
        entropy_ratio=np.minimum(base.entropy_ratio * entropy / known, 1.0),
        rho_std=np.sqrt(variance),
        y2_std=y2_std,
        entropy_std=entropy_std,
    )


def _uniform(spec: ModelSpec) -> tuple[float, float]:
    """Mean participation and entropy of uniform attention, which no mean is below and above."""
    geometry: Any = build_stack(spec, geometry_of(spec)).place.geometry
    count, share = geometry.keys_seen, geometry.share
    return float(share @ (1 / count)), float(share @ np.log(count))


def _moved(deficit: float, context: float) -> float:
    """Change of the deficit x by that of the logarithm of P, -x P, up to a factor."""
    return deficit * max(1 - deficit * (1 - 1 / context), FLAT)


def _read(
    name: str,
    mean: Floats,
    slopes: list[_Slopes],
    noise: list[Noise],
    variance: list[float],
    shift: list[float],
) -> tuple[Floats, Floats]:
    """Mean and deviation over networks of an average of attention."""
    rate = np.array([getattr(slope, name) for slope in slopes])
    own, moved = np.array([getattr(one, name) for one in noise]).T
    deviation = np.sqrt(rate**2 * variance[:-1] + own)
    return mean + rate * shift[:-1] + moved, deviation


def _common(deficits: Floats, context: float) -> Floats:
    """Direction in which networks differ, over its largest component.

    Networks differ in the squared norm of the mean of T tokens, 1 - x (1 - 1/T) of q, which also
    random tokens have; a larger one lowers the deficits.
    """
    part = np.maximum(1 - deficits * (1 - 1 / context), FLAT)
    return np.asarray(part / part.max())


def _slopes(
    spec: ModelSpec, stack: Stack, averages: Callable[[dict[str, Floats]], Floats]
) -> tuple[list[_Slopes], list[dict[str, Floats]]]:
    """Apply every block to its input and to the same with more in common (`_common`).

    `averages` finds the mean participation and entropy of what attention did. Beside the slopes,
    what it did at the inputs themselves.
    """
    geometry: Any = stack.place.geometry
    out, seen = [], []
    before = stack.initial(spec)
    for block, step in zip(stack.blocks, stack.steps(before), strict=True):
        lower = NUDGE * _common(geometry.deficits(before), float(spec.context))
        near = State(before.q, np.asarray(before.gap) * (1 - lower))
        moved = block.forward(near)
        entered = geometry.deficit(near) - geometry.deficit(before)
        rows = [
            np.array([geometry.deficit(one.kernel), *averages(one.attention.columns())])
            for one in (step, moved)
        ]
        out.append(_Slopes(*((rows[1] - rows[0]) / entered)))
        seen.append(step.attention.columns())
        before = step.kernel
    return out, seen


def _by_position(spec: ModelSpec, base: Trajectory) -> list[_Slopes]:
    stack = build_stack(spec, "position", resolution=COARSE)
    geometry: Any = stack.place.geometry
    layout = geometry.layout

    def averages(columns: dict[str, Floats]) -> Floats:
        rows = np.stack([columns["excess"], -columns["deficit"]])
        return np.asarray(rows @ layout.size / layout.edges[-1])

    slopes, seen = _slopes(spec, stack, averages)
    rho = 1 - base.gap / base.q
    return [
        slope._replace(own=_own_y2(spec, layout, one, max(float(r), 0.0)))
        for slope, one, r in zip(slopes, seen, rho[:-1], strict=True)
    ]


def _own_y2(spec: ModelSpec, layout: Layout, seen: dict[str, Floats], rho: float) -> float:
    """Variance of the mean Y_2 of given tokens: keys that queries share, and heads' temperature.

    Y_2 of two queries varies together as far as their scores and their keys are the same (E26h), in
    a head of finite width and in heads that share a key (E26d).
    """
    assert spec.width is not None
    many, sizes = layout.centres.count >= 2, layout.size.astype(np.float64)
    count = np.where(many, layout.centres.count, 2.0)
    sigma = np.where(many, seen["score_std"], 0.0)
    ends = sigma * (1 + NUDGE / 2 * np.array([[-1.0], [1.0]])) / np.sqrt(np.log(count))
    low, high = np.asarray(Finite(count).weights(ends, 1.0).excess)
    slope = np.where(many, (high - low) / (2 * NUDGE), 0.0)  # in log s^2
    heat = 2 * spec.heads / spec.width + 2 / spec.width
    spread = np.sqrt(np.where(many, participation_variance(sigma, count), 0.0))
    root = np.sqrt(np.where(many, np.maximum(seen["excess"], 0.0), 0.0))
    most, common = np.outer(root, root), layout.spread_out(layout.common)
    common, joint = common[:, : len(sizes)], seen["joint"][..., : len(sizes)]
    alike = np.divide(joint, most, out=np.zeros_like(most), where=most > 0)
    part = common / np.sqrt(np.outer(count, count))
    inverse = np.divide(1.0, part, out=np.zeros_like(most), where=part > 0)
    vary, other = _of_heads(spec, float(sigma @ sizes / sizes.sum()), rho)
    shared = layout.pairs * np.clip(alike**2 * inverse + vary * part, 0.0, 1.0)
    shared += other * (layout.pairs + np.diag(sizes)) * part
    total = spread @ shared @ spread + sizes @ (spread**2 + heat * (1 - rho**2) * slope**2)
    total += heat * rho**2 * (slope @ sizes) ** 2
    return float(total / (spec.heads * sizes.sum() ** 2))


def _of_heads(spec: ModelSpec, sigma: float, rho: float) -> tuple[float, float]:
    """Variance of f over two queries of a head, and f^2 of all other heads of a key (E26d)."""
    layer, b = attention_of(spec), sigma / float(np.sqrt(np.log(spec.context)))
    one, other = shared_variance(layer, b, 1 - rho)
    weights = Finite(spec.context, spec.head_width).weights(b, 1 - rho)
    mean = 1 - float(weights.spread / weights.excess) if weights.excess > 0 else rho
    return max(one - mean**2, 0.0), (spec.heads_per_key - 1) * other


def _by_distance(spec: ModelSpec, base: Trajectory) -> list[_Slopes]:
    stack = build_stack(spec, "distance")
    return _slopes(spec, stack, lambda columns: np.stack([columns["y2"], columns["entropy"]]))[0]
