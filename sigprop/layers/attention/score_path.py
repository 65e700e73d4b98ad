r"""Gradient of the scores by position: queries, keys and their weights (E24e, E24f).

Notation as in `sigprop.layers.attention.position_backward`: D gaps of two keys, u and v the mean
gaps and rotated gaps of a key to those that a query sees, m and r their means over the query's
keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.numerics.interpolation import cubics
from sigprop.layers.attention.attended import Attended
from sigprop.layers.attention.key_directions import keys
from sigprop.layers.attention.key_weights import KeyWeights
from sigprop.layers.attention.pair_sums import (
    PairSums,
    by_block,
    divided,
    joined,
    per_query,
    per_stack,
    product,
    total,
    transposed,
)
from sigprop.layers.attention.position_grid import evenly
from sigprop.layers.attention.statistics.table import MAX_SIGMA
from sigprop.layers.attention.window_scores import KeySums, WindowScores, varied

__all__ = ["ScoreGradients", "pull"]

LENGTHS = 4  # positions, even in their logarithm, at which traces at finite width are taken
LONG, LONGER = 4096, 1  # number of keys beyond which there are so many more
FIRST, REACH = 4, 2.0**14  # fewest keys, and the largest ratio to the most


class ScoreGradients(NamedTuple):
    """What the scores pass back, at sigma_v2 = 1.

    Attributes
    ----------
    own : array, shape (..., B)
        Sums over the tokens of each block.
    others : array, shape (..., B, B+J)
        Sums over pairs of different tokens of two blocks.
    wq, wk : array, shape (...)
        Squared gradients of the query and key weights.

    Examples
    --------
    >>> from sigprop.layers.attention.score_path import ScoreGradients
    >>> ScoreGradients(0.0, 0.0, 1.0, 2.0).wq
    1.0
    """

    own: Number
    others: Number
    wq: Number
    wk: Number


class _Means(NamedTuple):
    """Mean gaps of keys of blocks under the mean weights of queries that see blocks."""

    gaps: Floats  # (..., B, B): of two keys of two blocks, one key counted as zero
    beside: Floats  # (..., P, B): of a key to those of a query
    between: Floats  # (..., P, P): of the keys of two queries


def pull(at: Attended, queries: Floats) -> ScoreGradients:
    """Pull a kernel of queries back through the scores.

    Parameters
    ----------
    at : Attended
        What attention did.
    queries : array, shape (..., P + N)
        Gradient kernel at its output (`sigprop.layers.attention.pair_sums`).

    Returns
    -------
    ScoreGradients
        Of both paths.
    """
    root = np.asarray(at.layer.beta * np.sqrt(np.log(float(at.layer.context))))
    if not np.any(root):
        return ScoreGradients(0.0, 0.0, 0.0, 0.0)
    blocks, layout = at.blocks, at.layout
    plain = _means(blocks.sums, blocks.gap)
    found = _key_sums(at, plain)
    if at.windowed is not None:
        windows = WindowScores(at, at.windowed)
        pairs = zip(found, windows.sums, strict=True)
        found = KeySums(*(at.joined(one, *two) for one, two in pairs))
    alike, apart = _traces(at, found)
    query_ratio, key_ratio, weight_ratio = (product(layout, root) for root in _finite_width(at))
    one, both = _responses(at)
    passed = product(layout, at.passed)
    query = queries * at.rotation * (one * alike + passed * apart) * query_ratio
    weight = queries * (both * alike + passed * at.products * apart) * weight_ratio
    first, second = queries * both * key_ratio, queries * passed * at.products
    once = _once(at, found, first - second)
    between = found.between
    kernels = first, first * between, second, second * between, once
    keys = _keys(at, plain, *(at.over_blocks(kernel) for kernel in kernels))
    if at.windowed is not None:
        keys = at.added(keys, windows.keys(*kernels))
    own, others = by_block(layout, query)
    return ScoreGradients(
        per_query(root) ** 2 * (own + keys[0]),
        root**2 * (others + keys[1] * at.waves),
        per_stack(root) * total(layout, query * at.tokens_kernel),
        per_stack(root) * total(layout, weight),
    )


def _means(sums: PairSums, gap: Floats) -> _Means:
    gaps = gap[..., : gap.shape[-2]] * sums.different
    beside = sums.weight @ gaps
    return _Means(gaps, beside, beside @ transposed(sums.weight))


def _responses(at: Attended) -> tuple[Floats, Floats]:
    """Responses over those of equal weights, alone and with the product of the two queries."""
    found, least = at.response, at.same * at.apart
    (i, j), std = at.layout.couples, at.scores.std
    one = joined(found.own, found.cross)
    both = at.q * joined(found.own_key, found.cross_key * divided(std[..., j], std[..., i]))
    return divided(one, least), divided(both, least)


def _key_sums(at: Attended, plain: _Means) -> KeySums:
    """Sum over keys of blocks."""
    blocks, sums = at.blocks, at.blocks.sums
    rotated = _means(sums, blocks.rotated)
    each, weight, u, v = sums.each, sums.weight, plain.beside, rotated.beside
    across = transposed(weight)
    both, cross = (each * u * v) @ across, (each * u) @ transposed(weight * v)
    first, second = (each * u) @ across, (each * v) @ across
    products = varied(at, blocks.gap, blocks.rotated, blocks.waves)
    products = products[..., : u.shape[-1]] * sums.different
    rows = weight @ transposed(u * v)
    whole = weight @ products @ across - _twice(rows) + plain.between * rotated.between
    between, between_turned, whole = map(sums.picked, (plain.between, rotated.between, whole))
    beside, beside_turned = sums.on_common(_twice(first), u), sums.on_common(_twice(second), v)
    one_key = sums.on_common(_twice(both + cross), u, v)
    one_key += between * between_turned * sums.same
    one_key -= between * beside_turned + between_turned * beside
    return KeySums(between, between_turned, one_key, whole, beside)


def _twice(matrix: Floats) -> Floats:
    """Sum of both orders."""
    return matrix + transposed(matrix)


def _traces(at: Attended, found: KeySums) -> tuple[Floats, Floats]:
    """Products of doubly centred gaps on one key and on different keys.

    What a flat kernel has on different keys is counted with the first.
    """
    level = divided(found.between * found.turned, (1 - at.same) ** 2)
    flat = level * at.even_overlap * at.apart * (1 - at.apart)
    return found.one_key + flat, found.whole - found.one_key - flat


def _once(at: Attended, found: KeySums, more: Floats) -> Floats:
    """Find what is on one key beyond what mean weights pass, for one key of the first query."""
    same, number = at.same, len(at.layout.queries.count)
    total = more * (found.beside - found.between * same)
    total[..., number:] *= 2  # both orders
    own = same[..., :number]
    return divided(total, same * (1 - joined(own, own[..., at.layout.couples[0]])))


def _keys(
    at: Attended, means: _Means,
    alike: Floats, less: Floats, apart: Floats, level: Floats, once: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Key path (E24f) from queries that see blocks: what meets on one key, and on different keys.

    Each score gradient sums to zero over keys: what is on one key beyond what mean weights pass is
    taken from the others in proportion to the weights of the query that sees fewer.
    """
    sums, layout, beside = at.blocks.sums, at.blocks.layout, means.beside
    each, weight = sums.each, sums.weight
    own = 2 * np.sum(each * beside * (sums.matrix(alike) @ weight), axis=-2)
    own -= np.sum(each * (sums.matrix(less) @ weight), axis=-2)
    own += sums.to_common(alike, beside) - sums.to_common(less)
    across, taken = transposed(each), sums.matrix(apart) @ each
    rows, rest = transposed(taken * beside) @ each, sums.to_one_key(once)
    lost = across @ sums.matrix(level) @ each - _twice(rows) + _twice(rest) / 2
    others = layout.everywhere(across @ taken) * at.blocks.gap + layout.everywhere(lost)
    return own, -others * layout.number


def _finite_width(at: Attended) -> tuple[Floats, Floats, Floats]:
    """Ratios of traces exact in T/d to those of the first order: queries, keys, weights (E24d)."""
    sphere, layout = keys(at.layer, at.spread.crowding), at.layout
    (segment, node), (_, place) = layout.places(layout.centres), layout.places(layout.queries)
    count, longest = layout.centres.count, segment == np.argmax(np.bincount(segment, layout.size))
    most = count[longest].max()
    if sphere is None or most < 2:
        one = np.ones(len(place))
        return one, one, one
    fewest = max(min(FIRST, most), most / REACH)
    index = np.flatnonzero(longest & (count >= fewest))
    index = index[evenly(node[index], LENGTHS + LONGER * (most > LONG))]
    flat = (1 - at.stats.y2[..., index]) ** 2 / sphere.width
    means = KeyWeights(layout, np.zeros(layout.seen.shape)).own_means(at.gap)
    rho = np.clip(1 - means / at.q, 0.0, 1.0)[..., index]
    std = np.minimum(at.scores.std[..., index], MAX_SIGMA)
    exact = np.stack(sphere.traces(std, count[index], rho, at.spread.seeds)[:3])
    own, key = at.response.own[..., index], at.response.own_key[..., index]
    parts = np.stack([own + flat, key, key + flat])
    ratio = divided(exact, parts)
    logs = np.log(ratio, out=np.zeros_like(ratio), where=ratio != 0) / 2
    query, key, weight = np.exp(logs @ cubics(node[index], place))
    return query, key, weight
