"""Rotary positions through depth: the token kernel by distance (`sigprop.maps.rotary`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from sigprop.arrays import Floats, Ints, Number, finite_or_none
from sigprop.block import Map, ordered
from sigprop.capabilities import MAX_POSITIONS, refusal
from sigprop.maps.activations import activation
from sigprop.maps.distances import Distances, make_distances, make_field
from sigprop.maps.mlp import Mlp
from sigprop.maps.norm import Norm
from sigprop.maps.picked import Drawn, Picking
from sigprop.maps.rotary import Heard, RotaryAttention
from sigprop.rem.fields import SEED
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["ByDistance", "by_distance", "entering", "layer", "start", "turns"]

SHOWN = ("edges", "gap_ratio", "y2_error", "seed")


@dataclass(frozen=True)
class ByDistance:
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
    >>> from sigprop import Transformer
    >>> from sigprop.rotary import by_distance
    >>> spec = Transformer(depth=3, context=256, rotary_base=1e4, beta=3, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> rho = 1 - by_distance(spec).gap_ratio[-1]
    >>> bool(rho[0] > rho[-1])  # near tokens grow alike first
    True
    """

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
        >>> from sigprop import Transformer
        >>> from sigprop.rotary import by_distance
        >>> spec = Transformer(depth=1, context=4, rotary_base=1e4, beta=0, sigma_v2=1, sigma_w2=1,
        ...                    rho0=0)
        >>> by_distance(spec).to_dict()["edges"]
        [0, 1, 2, 3]
        """
        return {name: finite_or_none(getattr(self, name)) for name in SHOWN}


def turns(spec: Transformer) -> bool:
    """Whether the kernel of a spec is solved by distance.

    Parameters
    ----------
    spec : Transformer
        The description.

    Returns
    -------
    bool
        True for a single bidirectional spec with rotary positions and context up to 131 072.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.rotary import turns
    >>> turns(Transformer(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    False
    """
    single = spec.shape == () and bool(np.asarray(spec.context) <= MAX_POSITIONS)
    plain = not (spec.causal or spec.has_identity)
    return spec.rotary_base is not None and plain and single


def by_distance(spec: Transformer, beta_by_layer: Floats | None = None) -> ByDistance:
    """Solve a bidirectional spec with rotary positions, distance by distance.

    Parameters
    ----------
    spec : Transformer
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
    theory.md 2d (new there); the map's derivation and the size of its approximations are in
    `sigprop.maps.rotary`.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.rotary import by_distance
    >>> spec = Transformer(depth=3, context=256, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=1,
    ...                    rho0=0.1)
    >>> by_distance(spec).y2.shape
    (3,)
    """
    if not turns(spec) or spec.rotary_base is None:
        raise refusal("no rotary positions that are resolved", "by_distance")
    heard: list[Heard] = []
    distances, state, layers = start(spec, heard, beta_by_layer)
    states = [state]
    for maps in layers:
        with np.errstate(all="ignore"):  # what overflows or vanishes ends the loop
            state = reduce(lambda s, m: m(s), maps, states[-1])
        if not _valid(state):
            break
        states.append(state)
    if len(states) == 1:
        raise refusal("a state that vanishes or overflows", "propagate", where="block 1")
    return _described(distances, states, heard)


def start(
    spec: Transformer, heard: list[Heard], beta_by_layer: Floats | None = None
) -> tuple[Distances, State, list[tuple[Map, ...]]]:
    """List the maps of a spec with rotary positions, to be applied one by one.

    Parameters
    ----------
    spec : Transformer
        As in `by_distance`.
    heard : list
        Receives the statistics of every attention.
    beta_by_layer : array, shape (L,), optional
        Inverse temperature of each block.

    Returns
    -------
    distances : Distances
        Groups of distances.
    state : State
        What enters the first block.
    layers : list of tuples of maps
        The blocks.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.rotary import start
    >>> spec = Transformer(depth=2, context=64, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> len(start(spec, [])[2])
    2
    """
    context, base = int(np.asarray(spec.context)), float(spec.rotary_base or 1.0)
    distances = make_distances(context, base, spec.head_width)
    picking = Drawn(distances, make_field(context, base, spec.head_width))
    betas = np.broadcast_to(spec.beta if beta_by_layer is None else beta_by_layer, (spec.depth,))
    layers = [layer(spec, distances, picking, beta, heard) for beta in betas.tolist()]
    return distances, entering(spec, distances), layers


def entering(spec: Transformer, distances: Distances) -> State:
    """State that enters the first block.

    Parameters
    ----------
    spec : Transformer
        A description with rotary positions; its arrays have the shape (..., 1).
    distances : Distances
        Groups of distances.

    Returns
    -------
    State
        Variance of shape (..., 1), gaps of shape (..., J).

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.maps.distances import make_distances
    >>> from sigprop.rotary import entering
    >>> spec = Transformer(depth=2, context=8, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=[[0.5], [0.25]])
    >>> entering(spec, make_distances(8, 1e4, None)).gap.tolist()
    [[0.5, 0.5, 0.5, 0.5], [0.75, 0.75, 0.75, 0.75]]
    """
    level = np.square(spec.norm_gain) if spec.norm == "post" else np.asarray(spec.q0)
    gap = level * (1 - np.asarray(spec.rho0))
    return State(level, gap * np.ones(len(distances.edges) - 1))


def layer(
    spec: Transformer, distances: Distances, picking: Picking, beta: Number, heard: list[Heard]
) -> tuple[Map, ...]:
    """List the maps of one block.

    Parameters
    ----------
    spec : Transformer
        As in `entering`; of one context.
    distances : Distances
        Groups of distances.
    picking : callable
        As in `sigprop.maps.rotary.RotaryAttention`.
    beta : float or array, shape (..., 1)
        Inverse temperature of this block.
    heard : list
        Receives the statistics of the attention.

    Returns
    -------
    tuple of maps
        In the order in which they act.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.maps.distances import make_distances
    >>> from sigprop.maps.picked import tabulated_picks
    >>> from sigprop.rotary import layer
    >>> spec = Transformer(depth=2, context=8, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=2,
    ...                    rho0=0)
    >>> picking = tabulated_picks(8, 1e4, None, 2.0)
    >>> len(layer(spec, make_distances(8, 1e4, None), picking, 1.0, []))
    4
    """
    norm = None if spec.norm == "none" else Norm(spec.norm_gain)
    q = None if norm is None else np.square(spec.norm_gain)
    dual = activation(spec.activation)
    mlp = Mlp(dual, spec.sigma_w1_2, spec.sigma_w2_2, spec.sigma_b2, spec.gated, q)
    attention = RotaryAttention(
        distances,
        int(np.max(spec.context)),
        picking,
        beta,
        spec.sigma_v2,
        spec.sigma_b2,
        spec.sigma_o2,
        spec.attention == "centred",
        heard.append,
    )
    return ordered(spec, norm, attention, mlp)


def _valid(state: State) -> bool:
    q, gap = np.asarray(state.q).item(), np.asarray(state.gap)
    return 0 < q < 1e150 and bool(np.all(np.isfinite(gap) & (gap >= 0)))


def _described(distances: Distances, states: list[State], heard: list[Heard]) -> ByDistance:
    q = np.array([np.asarray(state.q).item() for state in states])
    ratio = np.stack([np.asarray(state.gap) for state in states]) / q[:, None]
    y2, overlap, entropy, std, error = (
        np.array([float(np.squeeze(getattr(h, name))) for h in heard[: len(q) - 1]])
        for name in ("y2", "overlap", "entropy", "score_std", "y2_error")
    )
    mean = ratio @ distances.even
    return ByDistance(distances.edges, q, ratio, mean, y2, overlap, entropy, std, error, SEED)
