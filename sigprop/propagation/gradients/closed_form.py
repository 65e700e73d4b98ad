"""Gradient kernel and weight gradients of a stack, layer by layer (E22-E24, E22b)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Number, finite_or_none
from sigprop.core.errors import AssumptionError
from sigprop.core.export import Exported
from sigprop.layers.attention.statistics import freezing
from sigprop.layers.interface import BackwardStep, Spread
from sigprop.layers.state import Gradient, State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import covers, require_theory
from sigprop.propagation.finite_width.bands import bands
from sigprop.propagation.points import chunks, part_of
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate
from sigprop.propagation.stack import Block, build_stack, iterate

__all__ = [
    "EXPLODING",
    "VANISHING",
    "Gradients",
    "gradient_sweep",
    "gradients",
    "query_gradient_limit",
]

WEIGHTS = ("wq", "wk", "wv", "w1", "w2")  # whose sizes designs compare
MATRICES = ("wq", "wk", "wv", "wo", "w1", "wg", "w2")  # of which gated MLPs have wg
VANISHING, EXPLODING = 1e-3, 1e3  # squared norm over the largest of the last block


@dataclass(frozen=True)
class Gradients(Exported):
    r"""Gradients of a stack, for independent output gradients.

    Entries where a trajectory has ended are NaN.

    Attributes
    ----------
    q, p : arrays, shape (L, ...)
        Variance of the gradient at the input of each block, and covariance of two tokens, for
        output gradients of unit variance.
    wq, wk, wv, wo, w1, w2 : arrays, shape (L, ...)
        Squared Frobenius norms of the gradients of the query, key, value, output and MLP matrices,
        for output gradients of total squared norm one. Without a width they are per unit of width.
    apjn : array, shape (...)
        Averaged squared partial Jacobian norm of the stack, q at the first block.
    exponent : array, shape (...)
        :math:`\lambda_g`, log apjn over the number of blocks; its limit is
        `sigprop.gradient_exponent`.
    wg : array, shape (L, ...), or None
        Likewise of the matrix that multiplies the activation of w1 in a gated MLP.
    q_blocks : array, shape (L, B), or None
        Mean of the variance of the gradient in B equal ranges of positions, where asked for.
    errors : dict of str to array, shape (L,), or None
        Standard errors of q, p and the weights, where they were sampled.
    draws, seed : int or None
        How often, from which seed.

    Notes
    -----
    theory.md section 5; Cowsik et al., arXiv 2403.02579 (exponent); Doshi et al., arXiv 2111.12143
    (APJN).

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.closed_form import gradients
    >>> spec = ModelSpec(depth=3, context=64, beta=0, sigma_v2=0, sigma_w2=0, rho0=0,
    ...                    alpha_attn=2, norm="none")
    >>> gradients(spec).q.tolist()
    [64.0, 16.0, 4.0]
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {
        **dict.fromkeys(("q", "p", *MATRICES), ("block",)),
        **dict.fromkeys(("apjn", "exponent"), ()),
        "q_blocks": ("block", "range"),
    }

    q: Floats
    p: Floats
    wq: Floats
    wk: Floats
    wv: Floats
    wo: Floats
    w1: Floats
    w2: Floats
    apjn: Floats
    exponent: Floats
    wg: Floats | None = None
    q_blocks: Floats | None = None
    errors: dict[str, Floats] | None = None
    draws: int | None = None
    seed: int | None = None

    @property
    def norms(self) -> dict[str, Floats]:
        """Squared gradients of the matrices that the blocks have, by name."""
        return {name: v for name in MATRICES if (v := getattr(self, name)) is not None}

    def fates(
        self, vanishing: float = VANISHING, exploding: float = EXPLODING
    ) -> dict[str, NDArray[np.str_]]:
        """Which parameters' gradients vanish or explode, block by block.

        Parameters
        ----------
        vanishing, exploding : float
            Squared norm, over the largest of the last block, below and above which a gradient is
            called so.

        Returns
        -------
        dict
            For each of the matrices an array of shape (L, ...) of "vanishing", "healthy",
            "exploding" or, where it is not known, "undefined".

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> from sigprop.propagation.gradients.closed_form import gradients
        >>> spec = ModelSpec(depth=2, context=512, beta=0.1, sigma_v2=1, sigma_w2=1, rho0=0.5)
        >>> gradients(spec).fates()["wq"].tolist()
        ['vanishing', 'vanishing']
        """
        norms = self.norms
        known = np.isfinite(self.q)
        last = np.maximum(known.sum(axis=0, keepdims=True) - 1, 0)
        ends = [np.take_along_axis(value, last, 0) for value in norms.values()]
        scale = np.max(ends, axis=0)
        return {
            name: np.select(
                [~known, value < vanishing * scale, value > exploding * scale],
                ["undefined", "vanishing", "exploding"],
                "healthy",
            )
            for name, value in norms.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null.

        Returns
        -------
        dict
            grad_q, grad_p, grad_wq, ..., apjn and lambda_g; grad_q_blocks where asked for; where
            they were sampled also grad_q_se, ..., draws and seed.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> from sigprop.propagation.gradients.closed_form import gradients
        >>> spec = ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
        >>> sorted(gradients(spec).to_dict())[:3]
        ['apjn', 'grad_p', 'grad_q']
        """
        values = {"q": self.q, "p": self.p, **self.norms}
        if self.q_blocks is not None:
            values["q_blocks"] = self.q_blocks
        out = {f"grad_{name}": finite_or_none(value) for name, value in values.items()}
        out |= {"apjn": finite_or_none(self.apjn), "lambda_g": finite_or_none(self.exponent)}
        if self.errors is None:
            return out
        errors = {f"grad_{n}_se": finite_or_none(v) for n, v in self.errors.items()}
        return out | errors | {"draws": self.draws, "seed": self.seed}


@validated
def gradients(
    spec: ModelSpec,
    trajectory: Trajectory | None = None,
    beta_by_layer: ArrayLike | None = None,
) -> Gradients:
    """Gradient kernel and weight gradients of a spec, layer by layer.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast. Under a mask or rotary positions, late tokens without
        rotation.
    trajectory : Trajectory, optional
        Its trajectory, if it is known; by default that of `bands` where there is a width, since
        score gradients, which grow as the squared gap, need its spread.
    beta_by_layer : array_like, shape (L, ...), optional
        Inverse temperature of each block, in place of `spec.beta`; the spread of `bands` is then
        left out.

    Returns
    -------
    Gradients
        Everything, layer by layer. The output gradient enters after the last block reached.

    Raises
    ------
    AssumptionError
        If the context is infinite, where the gradient of the scores diverges as log T, or tokens
        see their own document or chunk alone.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.closed_form import gradients
    >>> spec = ModelSpec(depth=10, context=256, width=384, beta=2, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> found = gradients(spec)
    >>> found.q.shape, bool(found.q[0] > 10)
    ((10,), True)
    """
    require_theory(spec, "gradients", geometry="exchangeable")
    require_theory(spec, "late_gradients")
    if trajectory is None and beta_by_layer is not None:
        trajectory = _late(spec, beta_by_layer)
    found, gap, spread = _typical(spec, trajectory)
    blocks = build_stack(spec, beta_by_layer=beta_by_layer).blocks[: len(found.q) - 1]

    def back(step: BackwardStep, layer: tuple[int, Block]) -> BackwardStep:
        index, block = layer
        last = found.ended == index + 1
        q, others = step.gradient
        gradient = Gradient(np.where(last, 1, q), np.where(last, 0, others))
        entered = block.entered(State(found.q[index], gap[index]))
        return block.backward(entered, gradient, spread[index])

    start = BackwardStep(Gradient(np.full(spec.shape, np.nan), np.zeros(spec.shape)), {})
    with np.errstate(all="ignore"):  # what overflows is masked
        rows = list(iterate(start, reversed(list(enumerate(blocks))), back))
    return _collected(spec, found, rows[::-1])


def _late(spec: ModelSpec, beta_by_layer: ArrayLike | None = None) -> Trajectory:
    return propagate(spec, beta_by_layer=beta_by_layer, geometry="exchangeable")


def _typical(
    spec: ModelSpec, trajectory: Trajectory | None
) -> tuple[Trajectory, Floats, list[Spread]]:
    """Trajectory, the gap of a typical network and the variation around it."""
    if trajectory is None:
        trajectory = bands(spec) if covers(spec, "bands") else _late(spec)
    if trajectory.rho_std is None or trajectory.crowding is None:
        return trajectory, trajectory.gap, [Spread()] * len(trajectory.q)
    variance = np.log1p((trajectory.rho_std * trajectory.q / trajectory.gap) ** 2)
    pairs = zip(variance.tolist(), trajectory.crowding.tolist(), strict=True)
    spread = [Spread(*pair) for pair in pairs]
    return trajectory, trajectory.gap * np.exp(-variance / 2), spread


def _collected(spec: ModelSpec, found: Trajectory, rows: list[BackwardStep]) -> Gradients:
    q = _column(spec.shape, (row.gradient.q for row in rows))
    with np.errstate(divide="ignore"):  # nothing passes
        exponent = np.log(q[0]) / found.ended
    return Gradients(
        q=q,
        p=_column(spec.shape, (row.gradient.others for row in rows))
        / (np.asarray(spec.context) - 1),
        apjn=q[0],
        exponent=exponent,
        **norms_of(spec, rows, spec.shape),
    )


def _column(shape: tuple[int, ...], values: Iterable[Number]) -> Floats:
    wide = np.stack([np.broadcast_to(v, shape) for v in values])
    return np.where(np.isfinite(wide), wide, np.nan)


def norms_of(spec: ModelSpec, rows: list[BackwardStep], shape: tuple[int, ...]) -> dict[str, Any]:
    """Squared gradients of the matrices of each block, from those per unit of fan-in.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    rows : list of BackwardStep
        Of each block.
    shape : tuple of int
        Of the stacks.

    Returns
    -------
    dict
        Arrays of shape (L, ...), by name.
    """
    width = 1.0 if spec.width is None else float(spec.width)
    fan_in = dict.fromkeys(MATRICES, width) | {"w2": width * spec.mlp_ratio}
    known = [name for name in MATRICES if name in rows[0].weights]
    return {n: fan_in[n] * _column(shape, (row.weights[n] for row in rows)) for n in known}


@validated
def gradient_sweep(spec: ModelSpec) -> tuple[Floats, Floats]:
    """Gain of the gradient and weakness of score gradients over an array of specs, in chunks.

    Parameters
    ----------
    spec : ModelSpec
        The description; memory grows with depth for one chunk alone.

    Returns
    -------
    apjn, score_gradient : arrays
        Squared gradient at the first block over that at the output; smallest over the blocks of the
        squared gradient of the query weights over that of the value weights. NaN where nothing
        reaches the last block.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.closed_form import gradient_sweep
    >>> spec = ModelSpec(depth=3, context=64, beta=[0.5, 2], sigma_v2=1, sigma_w2=1, rho0=0.1)
    >>> gradient_sweep(spec)[0].shape
    (2,)
    """
    apjn, score = np.empty(spec.shape), np.empty(spec.shape)
    for index in chunks(spec.shape):
        part = part_of(spec, index)
        found = gradients(part, _late(part))
        apjn[index] = found.apjn
        with np.errstate(all="ignore"):
            score[index] = np.min(found.wq / found.wv, axis=0)
    return apjn, score


@validated
def query_gradient_limit(spec: ModelSpec) -> Floats:
    r"""Squared gradient of W_Q in one attention layer as the context grows (E22).

    :math:`\sigma_v^2 \beta \sqrt{\log T}\, d\, m(1 - m)/3` for output gradients of total squared
    norm one, q = 1 and rho = 0: zero below the freezing point, where the value at finite context
    (`gradients`) is not.

    Parameters
    ----------
    spec : ModelSpec
        The description, with a width and a finite context, whose logarithm scales the scores.

    Returns
    -------
    array, shape of the spec
        The squared norm.

    Raises
    ------
    AssumptionError
        If tokens overlap, or width or context are infinite.

    Notes
    -----
    Giorlandino & Goldt, arXiv 2505.24333.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.gradients.closed_form import query_gradient_limit
    >>> spec = ModelSpec(depth=1, context=512, width=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> float(query_gradient_limit(spec))
    0.0
    """
    if np.any(spec.rho0) or spec.width is None or np.any(np.isinf(spec.context)):
        raise AssumptionError("the limit of E22 needs rho0 = 0, a width and a finite context")
    m = freezing(spec.beta)
    scale = spec.sigma_v2 * spec.beta * np.sqrt(np.log(spec.context))
    return np.asarray(np.broadcast_to(scale * spec.width * m * (1 - m) / 3, spec.shape))
