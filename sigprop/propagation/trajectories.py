"""What the solvers found, as trajectories: averages, why they end, what they approximate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number
from sigprop.layers.attention.statistics import Statistics, Weights, freezing
from sigprop.layers.attention.statistics.correlated_scores import SEED
from sigprop.layers.interface import Place
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import is_causal, is_drawn, is_rotary
from sigprop.propagation.causal import positions_of
from sigprop.propagation.result import Trajectory
from sigprop.propagation.rotary import distances_of
from sigprop.propagation.run import Run
from sigprop.propagation.stack import rem_of

__all__ = ["from_distances", "from_positions", "from_states", "of_one", "reason_of"]

PACKED = "Packed documents or chunks: `positions` has those of the longest, which stands for all."
ROOM = 2**16  # states whose statistics are computed together


def from_states(spec: ModelSpec, theory: str, run: Run) -> Trajectory:
    """Trajectory of exchangeable tokens, with the statistics of attention.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    theory : {"finite", "limit"}
        Whether the statistics are those of the context length or of infinite context.
    run : Run
        The solution.

    Returns
    -------
    Trajectory
        Layer by layer.
    """
    ended = run.ended
    q, gap = (
        np.stack([np.broadcast_to(kernel[i], spec.shape) for kernel in run.kernels]) for i in (0, 1)
    )
    q, gap = (_masked(v, ended, 0) for v in (q, gap))
    b, x = (
        np.stack([np.broadcast_to(row[name], spec.shape) for row in run.rows])
        for name in ("reduced_beta", "decorrelation")
    )
    known = np.isfinite(x) & np.isfinite(q[1:])
    b, x = np.where(known, b, 0.0), np.where(known, x, 0.0)
    weights, ratio = _by_layer(spec, theory, b, x)
    entropy, std = _in_nats(spec, b, ratio)

    def masked(column: Number) -> Floats:
        return np.where(known, np.broadcast_to(column, b.shape), np.nan)

    return Trajectory(
        layer=np.arange(len(q)),
        q=q,
        gap=gap,
        rho=1 - gap / q,
        y2=masked(weights.y2),
        overlap=masked(weights.y2 - weights.spread),
        entropy=masked(entropy),
        entropy_ratio=masked(ratio),
        score_std=masked(std),
        reduced_beta=masked(b),
        ended=ended,
        reason=reason_of(spec, ended),
        notes=_notes(spec, theory),
    )


def _masked(column: Floats, ended: Ints, first: int) -> Floats:
    """NaN behind the end of each of many stacks; `first` is the layer of the first row."""
    if not ended.ndim:
        return column
    layer = np.arange(len(column)).reshape((-1,) + (1,) * ended.ndim) + first
    return np.where(layer <= ended, column, np.nan)


def _by_layer(spec: ModelSpec, theory: str, b: Floats, x: Floats) -> tuple[Weights, Floats]:
    """Statistics of attention at every state, with the heads of its layer."""
    rows: dict[ModelSpec, list[int]] = {}
    for index, layer in enumerate(spec.layers[: len(b)]):
        rows.setdefault(layer, []).append(index)
    columns = np.zeros((len(Weights._fields) + 1, *b.shape))
    for layer, held in rows.items():
        weights, ratio = _attention(rem_of(layer, theory), b[held], x[held])
        columns[:, held] = np.stack([*weights, ratio])
    return Weights(*columns[:-1]), columns[-1]


def _attention(rem: Statistics, b: Floats, x: Floats) -> tuple[Weights, Floats]:
    """Statistics of attention at every state, as many layers at a time as there is room."""
    layers = max(1, ROOM // max(1, b[0].size))

    def one(b: Floats, x: Floats) -> tuple[Number, ...]:
        return *rem.weights(b, x), rem.entropy_ratio(b, x)

    parts = [one(b[i : i + layers], x[i : i + layers]) for i in range(0, len(b), layers)]
    *weights, ratio = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Weights(*weights), ratio


def _in_nats(spec: ModelSpec, b: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    r"""Entropy and standard deviation of scores, in nats.

    At infinite context both are infinite, but at b = 0, and where attention has frozen: weights are
    then a Poisson-Dirichlet process of index m, of entropy psi(1) - psi(1 - m) (E4, E5).
    """
    log_t = np.log(spec.context)
    if np.all(np.isfinite(log_t)):
        return ratio * log_t, b * np.sqrt(log_t)
    from scipy.special import digamma

    frozen = np.where(ratio > 0, np.inf, -np.euler_gamma - digamma(1 - freezing(b)))
    return frozen, np.where(b > 0, np.inf, 0.0)


def from_distances(spec: ModelSpec, run: Run, place: Place) -> Trajectory:
    """Means over pairs of positions, as one trajectory; `distances` has each of a single spec.

    Parameters
    ----------
    spec, run
        As in `from_states`.
    place : Place
        Where the blocks act.

    Returns
    -------
    Trajectory
        Layer by layer.
    """
    found = distances_of(place.geometry, run)
    single = not spec.shape
    means: dict[str, Any] = {
        "deficit": found.gap_ratio_mean,
        "q": found.q,
        "y2": found.y2,
        "overlap": found.overlap,
        "entropy": found.entropy,
        "entropy_ratio": found.entropy / np.log(place.geometry.tokens),
        "score_std": found.score_std,
    }
    return _of_means(spec, run, place, means, distances=found if single else None)


def from_positions(
    spec: ModelSpec, run: Run, place: Place, blocks: int | None = None
) -> Trajectory:
    """Means over positions, as one trajectory; `positions` has each of a single spec.

    Parameters
    ----------
    spec, run, place
        As in `from_distances`.
    blocks : int, optional
        Number of equal ranges of positions for `kernel_blocks`.

    Returns
    -------
    Trajectory
        Layer by layer.
    """
    found = positions_of(place.geometry, run, blocks)
    single = not spec.shape
    means: dict[str, Any] = {
        "deficit": np.stack([place.geometry.deficit(kernel) for kernel in run.kernels]),
        "overlap": found.overlap_mean,
        **{n: found.mean(getattr(found, n)) for n in ("q", "y2", "entropy", "entropy_ratio")},
        "score_std": found.mean(found.score_std),
    }
    trajectory = _of_means(
        spec, run, place, means, positions=found if single else None,
        kernel_blocks=found.kernel_blocks,
    )  # fmt: skip
    if place.geometry.layout.documents is None:
        return trajectory
    return replace(trajectory, notes=(*trajectory.notes, PACKED))


def _of_means(
    spec: ModelSpec, run: Run, place: Place, means: dict[str, Any], **more: Any
) -> Trajectory:
    """Trajectory of means over tokens and pairs, NaN behind the end of one of many stacks."""
    ended = run.ended
    q, deficit = (_masked(means.pop(name), ended, 0) for name in ("q", "deficit"))
    means = {name: _masked(column, ended, 1) for name, column in means.items()}
    return Trajectory(
        layer=np.arange(len(q)),
        q=q,
        gap=q * deficit,
        rho=1 - deficit,
        reduced_beta=means["score_std"] / np.sqrt(np.log(place.geometry.tokens)),
        ended=ended,
        reason=reason_of(spec, ended),
        notes=_notes(spec, "finite", True),
        **means,
        **more,
    )


def _notes(spec: ModelSpec, theory: str, by_position: bool = False) -> tuple[str, ...]:
    """Approximations that the exchangeable theory makes for a spec, one sentence each."""
    notes = []
    if theory == "limit" or np.any(np.isinf(spec.context)):
        notes.append(
            "Limit of infinite context: Y_2 is off by 12-100 % at the lengths people train."
        )
    if np.any(spec.identity):
        notes.append("Identity parts: heads are taken to be infinitely wide.")
    if is_causal(spec) and by_position:
        notes.append("Causal mask: means over positions; `positions` has each.")
    elif is_causal(spec):
        notes.append("Causal mask: the numbers describe late tokens, which see the whole context.")
    if is_rotary(spec) and by_position:
        notes.append("Rotary positions: means over pairs; near tokens are more alike than far.")
        found = f"drawn, with seed {SEED}" if is_drawn(spec) else "looked up, in a table of draws"
        notes.append(f"Scores under rotary positions are {found}.")
    elif is_rotary(spec):
        notes.append(
            "Rotary positions are not in the score variance: at beta sqrt(log T) > 1 "
            "collapse is slower than predicted."
        )
    return tuple(notes)


def reason_of(spec: ModelSpec, ended: Ints) -> str:
    """How trajectories ended, as a sentence."""
    short = int(np.sum(ended < spec.depth))
    if not short:
        return f"all {spec.depth} layers were computed"
    which = "the trajectory" if ended.ndim == 0 else f"{short} of {ended.size} trajectories"
    return (
        f"{which} ended before layer {spec.depth}: the state vanished, overflowed, or left the "
        "range where its statistics are known (score standard deviation 40, an activation "
        "without closed form at variance 100)"
    )


def of_one(found: Trajectory, index: int) -> Trajectory:
    """Trajectory of one of a row of specs.

    Parameters
    ----------
    found : Trajectory
        Of all, whose reason this one shares.
    index : int
        Which it is.

    Returns
    -------
    Trajectory
        Its own; entries after its end are NaN.

    Examples
    --------
    >>> from sigprop import ModelSpec, propagate
    >>> from sigprop.propagation.trajectories import of_one
    >>> spec = ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> of_one(propagate(spec.replace(beta=[1, 2])), 0).rho.shape
    (3,)
    """
    columns: dict[str, Any] = {
        name: np.asarray(value[..., index])
        for name, value in vars(found).items()
        if isinstance(value, np.ndarray) and name != "layer"
    }
    return replace(found, **columns)
