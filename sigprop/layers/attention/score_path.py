r"""Gradient of the scores by position: queries, keys and their weights (E24e, E24f).

Notation as in `sigprop.layers.attention.position_backward`: D gaps of two keys, u and v the mean
gaps and rotated gaps of a key to those that a query sees, m and r their means over the query's
keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.layers.attention.attended import Attended
from sigprop.layers.attention.key_directions import keys
from sigprop.layers.attention.pair_sums import PairSums, divided
from sigprop.layers.attention.statistics.table import MAX_SIGMA

__all__ = ["ScoreGradients", "pull"]

LENGTHS = 5  # positions at which traces at finite width are taken


class ScoreGradients(NamedTuple):
    """What the scores pass back, at sigma_v2 = 1.

    Attributes
    ----------
    own : array, shape (B,)
        Sums over the tokens of each block.
    others : array, shape (B, B)
        Sums over pairs of different tokens of two blocks.
    wq, wk : float
        Squared gradients of the query and key weights.

    Examples
    --------
    >>> from sigprop.layers.attention.score_path import ScoreGradients
    >>> ScoreGradients(0.0, 0.0, 1.0, 2.0).wq
    1.0
    """

    own: Floats
    others: Floats
    wq: float
    wk: float


class _Means(NamedTuple):
    """Mean gaps that queries see, under their mean weights."""

    gaps: Floats  # of two keys of two blocks, one key counted as zero
    beside: Floats  # (P, B): of a key to those of a query
    between: Floats  # (P, P): of the keys of two queries


def pull(at: Attended, queries: Floats) -> ScoreGradients:
    """Pull a kernel of queries back through the scores.

    Parameters
    ----------
    at : Attended
        What attention did.
    queries : array, shape (P, P)
        Gradient kernel at its output (`sigprop.layers.attention.pair_sums`).

    Returns
    -------
    ScoreGradients
        Of both paths.
    """
    root = float(at.layer.beta) * np.sqrt(np.log(float(at.layer.context)))
    if not root:
        size = len(at.layout.size)
        return ScoreGradients(np.zeros(size), np.zeros((size, size)), 0.0, 0.0)
    plain, turned = _means(at.sums, at.gap), _means(at.sums, at.rotated)
    alike, apart = _traces(at, plain, turned)
    query_ratio, key_ratio, weight_ratio = _finite_width(at)
    one, both = _responses(at)
    passed = np.outer(at.passed, at.passed)
    query = queries * at.rotation * (one * alike + passed * apart) * query_ratio
    weight = queries * (both * alike + passed * at.products * apart) * weight_ratio
    key_own, key_others = _keys(at, plain, queries * both * key_ratio,
                                queries * passed * at.products)  # fmt: skip
    own, others = at.sums.by_block(query)
    return ScoreGradients(
        root**2 * (own + key_own),
        root**2 * (others + key_others),
        root * float(np.sum(query * at.tokens_kernel)),
        root * float(np.sum(weight)),
    )


def _means(sums: PairSums, gap: Floats) -> _Means:
    gaps = gap * sums.different
    beside = sums.weight @ gaps
    return _Means(gaps, beside, beside @ sums.weight.T)


def _responses(at: Attended) -> tuple[Floats, Floats]:
    """Responses over those of equal weights, alone and with the product of the two queries."""
    sums, found = at.sums, at.response
    least = sums.same * at.apart
    (i, j), std = at.layout.couples, at.scores.std
    one = sums.matrix(found.own, found.cross)
    both = at.q * sums.matrix(found.own_key, found.cross_key * divided(std[j], std[i]))
    return divided(one, least), divided(both, least)


def _traces(at: Attended, plain: _Means, turned: _Means) -> tuple[Floats, Floats]:
    """Products of doubly centred gaps on one key and on different keys, shape (P, P).

    What a flat kernel has on different keys is counted with the first.
    """
    sums = at.sums
    same = _on_one_key(sums, plain, turned)
    products = plain.gaps * at.rotated
    if at.layer.width is not None:  # pairs vary about their mean
        products = products + plain.gaps * at.gap * at.waves * at.spread.crowding / at.layer.width
    rows = sums.weight @ (plain.beside * turned.beside).T
    whole = sums.weight @ products @ sums.weight.T - rows - rows.T + plain.between * turned.between
    level = divided(plain.between * turned.between, (1 - sums.same) ** 2)
    flat = level * at.even_overlap * at.apart * (1 - at.apart)
    return same + flat, whole - same - flat


def _on_one_key(sums: PairSums, plain: _Means, turned: _Means) -> Floats:
    """Sum over common keys of the product of two centred gaps, weighted."""
    each, weight, u, v = sums.each, sums.weight, plain.beside, turned.beside
    both, cross = (each * u * v) @ weight.T, (each * u) @ (weight * v).T
    first, second = (each * u) @ weight.T, (each * v) @ weight.T
    lost = turned.between * (first + first.T) + plain.between * (second + second.T)
    kept = plain.between * turned.between * sums.same
    return np.asarray(both + both.T + cross + cross.T - lost + kept)


def _keys(at: Attended, means: _Means, alike: Floats, apart: Floats) -> tuple[Floats, Floats]:
    """Key path (E24f): what meets on one key, and on different keys.

    Each score gradient sums to zero over keys: what is on one key beyond what mean weights pass is
    taken from the others in proportion to the weights of the query that sees fewer.
    """
    sums, weight = at.sums, at.sums.weight
    own = _centred(sums, means, alike)
    taken = apart @ weight
    rows = (taken * means.beside).T @ weight
    whole = (weight.T @ taken) * means.gaps - rows - rows.T
    whole += weight.T @ (apart * means.between) @ weight
    others = -whole - np.diag(_centred(sums, means, apart))
    first = (sums.each * means.beside) @ weight.T
    total = (alike - apart) * (first + first.T - means.between * sums.same)
    once = np.diag(np.diag(total)) + 2 * np.triu(total, 1)
    once = divided(once, sums.same * (1 - np.diag(sums.same)[:, None]))
    rest = (sums.each * (once @ weight)).T @ weight * sums.different
    return own, (others - (rest + rest.T) / 2) * at.waves


def _centred(sums: PairSums, means: _Means, queries: Floats) -> Floats:
    """Spread a kernel of queries over common keys, by the centred gap of a key."""
    weight = sums.weight
    twice = 2 * np.sum(weight * means.beside * (queries @ weight), axis=0)
    less = np.sum(weight * ((queries * means.between) @ weight), axis=0)
    return np.asarray((twice - less) / sums.layout.size)


def _finite_width(at: Attended) -> tuple[Floats, Floats, Floats]:
    """Ratios of traces exact in T/d to those of the first order: queries, keys, weights (E24d)."""
    sphere, layout = keys(at.layer, at.spread.crowding), at.layout
    one = np.ones((1, 1))
    index = np.flatnonzero(layout.centres.count >= 2)
    if sphere is None or not index.size:
        return one, one, one
    index = index[np.unique(np.geomspace(1, index.size, LENGTHS).round().astype(int)) - 1]
    flat = (1 - at.stats.y2[index]) ** 2 / sphere.width
    found, std = at.response, at.scores.std
    rho = np.clip(1 - layout.own(at.gap) / at.q, 0.0, 1.0)
    rows = [
        sphere.traces(min(float(std[k]), MAX_SIGMA), float(layout.queries.count[k]),
                      float(rho[k]), at.spread.seeds)
        for k in index
    ]  # fmt: skip
    exact = np.array([[row.query, row.key, row.weight] for row in rows]).T
    own, key = found.own[index], found.own_key[index]
    ratio = np.sqrt(divided(exact, np.stack([own + flat, key, key + flat])))
    node, place = np.log(layout.centres.position[index]), np.log(layout.queries.position)
    roots = [np.interp(place, node, row) for row in ratio]
    query, key, weight = (np.outer(root, root) for root in roots)
    return query, key, weight
