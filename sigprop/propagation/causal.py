r"""Causal attention position by position: the full token kernel through depth (section 6).

The kernel :math:`K_{tt'}` is carried in blocks of positions
(`sigprop.layers.attention.position_grid`) as variances and gaps; attention is that of
`sigprop.layers.attention.by_position` (E25c-E25f, E25r), norm, residual and MLP are those of every
other block. A layer costs one overlap of unequal lengths for each pair of blocks, whatever T.
Of packed documents two stand for all, if tokens are exchangeable where they enter (E25j).
Approximations: mean weights and correlated keys of one query at a time, f for two, blocks of
positions; measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints, finite_or_none
from sigprop.core.checks import count as checked_count
from sigprop.core.errors import require
from sigprop.core.export import Exported
from sigprop.core.memory import allow
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.key_correlations import BlockedKeys
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_statistics import INTEGRATED
from sigprop.layers.state import State
from sigprop.model.inputs import TokenKernel, admit
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import MAX_POSITIONS, geometry_of, refusal
from sigprop.propagation.run import Run, solve
from sigprop.propagation.stack import build_stack, first_norm

__all__ = ["MAX_BLOCKS", "MAX_POSITIONS", "Positions", "causal", "positions_of"]

MAX_RESOLUTION = 4096  # blocks of positions; time grows with their square
ROUGH = 0.03  # of a given kernel, above which it is not smooth in position
MAX_BLOCKS = 256


@dataclass(frozen=True)
class Positions(Exported):
    r"""Token kernel and attention, position by position and layer by layer.

    Positions are those at the centres of P blocks; P is about 100 however long the context.

    Attributes
    ----------
    position : array, shape (P,)
        Position of each block's centre, from 1; of packed documents, and of chunks that all layers
        have alike, in the longest one.
    size : array of int, shape (P,)
        Tokens in each block, of all documents or chunks for which the longest stands.
    q : array, shape (L+1, P)
        Variance of the stream.
    gap_ratio : array, shape (L+1, P, P)
        Mean overlap deficit 1 - rho over pairs of different tokens of two blocks, of one document.
    rho : array, shape (L+1, P)
        Mean overlap of a token with the others that it sees; NaN where it sees itself alone.
    rho_late : array, shape (L+1,)
        Mean overlap of two tokens of the second half of the context; NaN where it holds one.
    y2, entropy, entropy_ratio, score_std : arrays, shape (L, P)
        Participation ratio, entropy in nats, entropy over the logarithm of the number of keys seen
        (NaN at one key), and standard deviation of the scores.
    first_weight : array, shape (L, P)
        Mean weight on the first token.
    overlap : array, shape (L, P)
        Mean overlap of a token's attention with that of the others that it sees; NaN where it sees
        itself alone.
    overlap_mean : array, shape (L,)
        Mean attention overlap over all pairs of queries.
    kernel_blocks : array, shape (L+1, B, B), or None
        Means of the normalised kernel, diagonal included, over equal ranges of positions.
    kernel_moved : float
        Largest change of a cosine that made a given kernel admissible; zero for almost all.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.causal import causal
    >>> spec = ModelSpec(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> causal(spec).entropy.shape
    (2, 64)
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {
        "size": ("position",),
        **dict.fromkeys(("q", "rho"), ("layer", "position")),
        "gap_ratio": ("layer", "position", "other_position"),
        "rho_late": ("layer",),
        **dict.fromkeys(("y2", "entropy", "entropy_ratio"), ("block", "position")),
        **dict.fromkeys(("score_std", "first_weight", "overlap"), ("block", "position")),
        "overlap_mean": ("block",),
        "kernel_blocks": ("layer", "range", "other_range"),
    }

    position: Floats
    size: Ints
    q: Floats
    gap_ratio: Floats
    rho: Floats
    rho_late: Floats
    y2: Floats
    entropy: Floats
    entropy_ratio: Floats
    score_std: Floats
    first_weight: Floats
    overlap: Floats
    overlap_mean: Floats
    kernel_blocks: Floats | None
    kernel_moved: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of what is listed by position or layer; null is not finite.

        Returns
        -------
        dict
            One list for each attribute.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> from sigprop.propagation.causal import causal
        >>> spec = ModelSpec(depth=1, context=4, causal=True, beta=0, sigma_v2=1, sigma_w2=1,
        ...                    rho0=0)
        >>> [round(h, 4) for h in causal(spec).to_dict()["first_weight"][0]]
        [1.0, 0.5, 0.3333, 0.25]
        """
        left_out = ("gap_ratio", "kernel_blocks", "kernel_moved")
        return {k: finite_or_none(v) for k, v in vars(self).items() if k not in left_out}

    def mean(self, values: Floats) -> Floats:
        """Mean over positions, NaN left out.

        Parameters
        ----------
        values : array, shape (..., P)
            One of the attributes by position.

        Returns
        -------
        array, shape (...)
            The mean; zero where all are NaN: the entropy of queries that see one key.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> from sigprop.propagation.causal import causal
        >>> spec = ModelSpec(depth=1, context=2, causal=True, beta=0, sigma_v2=1, sigma_w2=1,
        ...                    rho0=0)
        >>> causal(spec).mean(causal(spec).y2).tolist()
        [0.75]
        """
        known = np.isfinite(values)
        total, number = np.where(known, values, 0.0) @ self.size, known @ self.size
        return np.asarray(total / np.maximum(number, 1))


@validated
def causal(
    spec: ModelSpec,
    kernel: ArrayLike | TokenKernel | None = None,
    blocks: int | None = None,
    resolution: int | None = None,
    beta_by_layer: ArrayLike | None = None,
) -> Positions:
    """Solve a causal spec position by position.

    Parameters
    ----------
    spec : ModelSpec
        A single causal description with norms, context at most 2^20, or 2^17 where the
        scores of rotated keys are drawn.
    kernel : array_like, shape (T, T), optional
        Token kernel of the input; exchangeable with overlap rho0 when absent. Any positive
        semidefinite matrix: embeddings, repeated tokens, positions; one that only rounding keeps
        from it is moved to the nearest (`sigprop.model.inputs.admit`).
    blocks : int, optional
        Number of equal ranges of positions for `kernel_blocks`, in [1, 256] and at most T.
    resolution : int, optional
        About how many blocks of positions carry the kernel, in [24, 4096]; by default 64, and 44
        to 64 where every mask has rotary positions.
    beta_by_layer : array_like, shape (L,), optional
        Inverse temperature of each block, in place of `spec.beta`.

    Returns
    -------
    Positions
        Everything, by position and layer; fewer layers where the state leaves the range in which
        its statistics are known.

    Raises
    ------
    AssumptionError
        If the spec is not of that kind, or nothing passes the first block.
    DomainError
        If the kernel is not a token kernel, or a number is outside its range.

    Notes
    -----
    theory.md section 6: E25c-E25f, with rotary positions E25r.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.causal import causal
    >>> spec = ModelSpec(depth=2, context=64, causal=True, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0.1)
    >>> late = causal(spec)
    >>> bool(late.rho_late[-1] > late.rho_late[1] > 0.1)
    True
    """
    if geometry_of(spec) != "position" or spec.shape:
        raise refusal("no causal mask that is resolved", "causal")
    if resolution is not None:
        checked_count("resolution", resolution, 24, MAX_RESOLUTION)
    if blocks is not None:
        checked_count("blocks", blocks, 1, min(MAX_BLOCKS, int(np.asarray(spec.context))))
    betas = _betas(spec, beta_by_layer)
    build = partial(
        build_stack, spec, "position", beta_by_layer=betas, resolution=resolution, ranges=blocks,
        far=kernel is None, kept=2 if kernel is None else 0,
    )  # fmt: skip
    stack = build()
    place = stack.place
    layout = place.geometry.layout
    given = None if kernel is None else admit(kernel, place.geometry.tokens)
    squares = 4 * len(layout.size) ** 2 + 2 * (blocks or 0) ** 2
    allow(8 * (spec.depth + 1) * squares, "depth", spec.depth, "fewer layers or blocks")
    start = stack.initial(spec)
    if given is not None:
        start = _given(given.values, layout, spec)
        if _is_rough(layout, place.geometry.deficits(start)):
            stack = build(smooth=False)
    run = solve(stack, start)
    found = positions_of(place.geometry, run, blocks)
    return found if given is None else replace(found, kernel_moved=given.moved)


def _betas(spec: ModelSpec, beta_by_layer: ArrayLike | None) -> Floats | None:
    if beta_by_layer is None:
        return None
    betas = np.asarray(beta_by_layer, dtype=np.float64)
    fits = betas.shape in ((), (spec.depth,))
    require(fits, "beta_by_layer", betas.shape, f"one number, or {spec.depth}")
    require((betas >= 0) & (betas <= 1e3), "beta_by_layer", betas, "numbers in [0, 1000]")
    return np.broadcast_to(betas, (spec.depth,))


def _given(kernel: Floats, layout: Layout, spec: ModelSpec) -> State:
    """Means over blocks of a given kernel; behind the first norm in a post-norm stack."""
    variance = np.diagonal(kernel)
    gap = (variance[:, None] + variance) / 2 - kernel
    least = np.square(np.sqrt(variance)[:, None] - np.sqrt(variance)) / 2  # of parallel tokens
    state = State(variance[:, None], np.maximum(gap, least))
    first = first_norm(spec)
    if first is not None:
        state = first.at(variance[:, None], variance, state.gap)
    start, size = layout.edges[:-1], layout.size
    sums = np.add.reduceat(np.add.reduceat(state.gap, start, axis=0), start, axis=1)
    q = state.q if np.ndim(state.q) == 0 else np.add.reduceat(state.q, start) / size[:, None]
    return State(q, sums / np.maximum(layout.pairs, 1))


def _is_rough(layout: Layout, deficits: Floats) -> bool:
    """Whether a kernel is not smooth in position, so that correlated scores need every block."""
    index = layout.resolved(INTEGRATED)
    keys = BlockedKeys(layout.parts[index], joints=layout.joined)
    return bool(index.size and keys.roughness(deficits) > ROUGH)


def positions_of(geometry: PositionGeometry, run: Run, blocks: int | None = None) -> Positions:
    """Kernel and attention by position, from the steps of a solution.

    Parameters
    ----------
    geometry : PositionGeometry
        Its geometry.
    run : Run
        The solution; leading axes of its kernels are many stacks.
    blocks : int, optional
        Number of equal ranges of positions for `kernel_blocks`.

    Returns
    -------
    Positions
        Everything, layer by layer.
    """
    layout, columns, shown = geometry.layout, run.columns, geometry.layout.shown
    size = len(layout.size)
    every = np.stack([geometry.deficits(kernel) for kernel in run.kernels])
    cosines = every[..., :size]
    with np.errstate(divide="ignore", invalid="ignore"):  # tokens that see one key
        ratio = columns["entropy"] / np.log(columns["count"])
    by_block: dict[str, Any] = {
        "q": np.stack([geometry.variances(kernel) for kernel in run.kernels]),
        "rho": 1 - layout.mean_over_seen(every),
        "entropy_ratio": ratio,
        "overlap": layout.mean_over_seen(columns["overlap"]),
        **{name: columns[name] for name in ("score_std", "y2", "entropy", "first_weight")},
    }
    return Positions(
        position=layout.centres.position[:shown],
        size=layout.stands_for[:shown].astype(np.int64),
        gap_ratio=cosines[..., :shown, :shown],
        rho_late=1 - _weighted(cosines, layout.late_pairs),
        overlap_mean=_weighted(columns["overlap"][..., :size], layout.token_pairs),
        kernel_blocks=None if blocks is None else _merged(layout, cosines, blocks),
        **{name: value[..., :shown] for name, value in by_block.items()},
    )


def _weighted(values: Floats, weight: Floats) -> Floats:
    """Weighted mean over pairs of blocks; NaN where there is no weight."""
    total = np.sum(weight)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sum(values * weight, axis=(-2, -1)) / total)


def _merged(layout: Layout, cosines: Floats, blocks: int) -> Floats:
    share = layout.merged(blocks) / layout.size
    size = share @ layout.size
    return np.asarray(1 - share @ (layout.pairs * cosines) @ share.T / np.outer(size, size))
