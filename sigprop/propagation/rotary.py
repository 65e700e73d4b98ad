"""Rotary positions through depth: the token kernel by distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints, finite_or_none
from sigprop.core.export import Exported
from sigprop.layers.attention.by_distance import DistanceGeometry
from sigprop.layers.attention.statistics.correlated_scores import SEED
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import geometry_of, refusal
from sigprop.propagation.run import Run, solve
from sigprop.propagation.stack import build_stack

__all__ = ["ByDistance", "by_distance", "distances_of"]

SHOWN = ("edges", "gap_ratio", "y2_error", "seed")


@dataclass(frozen=True)
class ByDistance(Exported):
    """Token kernel by distance and attention, layer by layer, under rotary positions.

    Attributes
    ----------
    edges : array of int, shape (J+1,)
        Group j holds distances edges[j] + 1 to edges[j+1].
    q : array, shape (L+1,)
        Variance of the stream.
    gap_ratio : array, shape (L+1, J)
        Mean overlap deficit 1 - rho of two tokens, for each group of distances.
    gap_ratio_mean : array, shape (L+1,)
        The same over all pairs.
    y2, overlap, entropy, score_std : arrays, shape (L,)
        Participation ratio, attention overlap over all pairs of queries, entropy in nats, and
        standard deviation of the scores about their mean over the context.
    y2_error : array, shape (L,)
        Standard error of Y_2 in each layer, from the drawn fields; the same draws in all.
    seed : int
        Their seed.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.rotary import by_distance
    >>> spec = ModelSpec(depth=3, context=256, rotary_base=1e4, beta=3, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> rho = 1 - by_distance(spec).gap_ratio[-1]
    >>> bool(rho[0] > rho[-1])  # near tokens grow alike first
    True
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {
        "q": ("layer",),
        "gap_ratio": ("layer", "distance"),
        "gap_ratio_mean": ("layer",),
        **dict.fromkeys(("y2", "overlap", "entropy", "score_std", "y2_error"), ("block",)),
    }

    edges: Ints
    q: Floats
    gap_ratio: Floats
    gap_ratio_mean: Floats
    y2: Floats
    overlap: Floats
    entropy: Floats
    score_std: Floats
    y2_error: Floats
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of the kernel by distance.

        Returns
        -------
        dict
            Edges of the groups, the overlap deficit in each, standard error of Y_2 and seed.

        Examples
        --------
        >>> from sigprop import ModelSpec
        >>> from sigprop.propagation.rotary import by_distance
        >>> spec = ModelSpec(depth=1, context=4, rotary_base=1e4, beta=0, sigma_v2=1, sigma_w2=1,
        ...                    rho0=0)
        >>> by_distance(spec).to_dict()["edges"]
        [0, 1, 2, 3]
        """
        return {name: finite_or_none(getattr(self, name)) for name in SHOWN}


@validated
def by_distance(spec: ModelSpec, beta_by_layer: Floats | None = None) -> ByDistance:
    """Solve a bidirectional spec with rotary positions, distance by distance.

    Parameters
    ----------
    spec : ModelSpec
        A single bidirectional description with `rotary_base`, context at most 131 072.
    beta_by_layer : array, shape (L,), optional
        Inverse temperature of each block, in place of `spec.beta`.

    Returns
    -------
    ByDistance
        Everything, by distance and layer; fewer layers where the state vanishes or overflows, or
        the scores' standard deviation exceeds 40.

    Raises
    ------
    AssumptionError
        If the spec is not of that kind, or nothing passes the first block.

    Notes
    -----
    theory.md 2d: E2r, E9r, E10r.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.rotary import by_distance
    >>> spec = ModelSpec(depth=3, context=256, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> by_distance(spec).y2.shape
    (3,)
    """
    if geometry_of(spec) != "distance" or spec.shape:
        raise refusal("no rotary positions that are resolved", "by_distance")
    stack = build_stack(spec, "distance", beta_by_layer=beta_by_layer)
    return distances_of(stack.place.geometry, solve(stack, stack.initial(spec)))


def distances_of(geometry: DistanceGeometry, run: Run) -> ByDistance:
    """Kernel and attention by distance, from the steps of a solution.

    Parameters
    ----------
    geometry : DistanceGeometry
        Its geometry.
    run : Run
        The solution; leading axes of its kernels are many stacks.

    Returns
    -------
    ByDistance
        Everything, layer by layer.
    """
    return ByDistance(
        edges=geometry.distances.edges,
        q=np.stack([geometry.variance(kernel) for kernel in run.kernels]),
        gap_ratio=np.stack([geometry.deficits(kernel) for kernel in run.kernels]),
        gap_ratio_mean=np.stack([geometry.deficit(kernel) for kernel in run.kernels]),
        seed=SEED,
        **run.columns,
    )
