r"""Attention over blocks of keys whose scores share a Gaussian field (E25g, E25k).

The score of a key of block b is :math:`h_b + \sigma_b z`: a field h that the keys of a block share,
correlated between blocks, and what each key has alone. Given h keys are independent, and

.. math:: Y_2 = E_h \int du\, G \sum_b n_b \frac{F_{2,b}}{G_b}, \qquad
          P_{bc} = E_h \int du\, G\, n_b (n_c - \delta_{bc}) \frac{F_{1,b} F_{1,c}}{G_b G_c}, \qquad
          G = \prod_b G_b^{n_b},

with G_b and F_{k,b} of `sigprop.layers.attention.statistics.boltzmann` at :math:`u + h_b`, P the
probability that two different keys of one query are in two blocks, and :math:`n_b F_{1,b}/G_b` in
place of the sums the weight of a block. For the entropy, scores of covariance v c have by Stein's
lemma (E25k)

.. math:: H = E \log Z - v \sum P_{bc} (1 - c_{bc}), \qquad
          E \log Z = E_h \int du \left(e^{-e^u} - G\right).

The field is kept in its largest factors, weighted by what attention makes of the blocks; the rest
is each key's own. Its average runs over fixed points, each with both signs, at which averages over
the fields of random stacks are nearest to what they are over thousands of Sobol points
(``python -m sigprop.studies.build_field_points``); the integral is a sum, which
:math:`Y_2 + \sum P = 1` normalises point by point. Measured errors are in the file of the points
(`errors`) and in notebooks/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.numerics.shipped import shipped
from sigprop.layers.attention.statistics.boltzmann import Lines

__all__ = ["COLD", "FACTORS", "Attended", "Fields", "attended", "errors", "factored", "variances"]

SUM, MARGIN = 14, 1.5  # points of u, and how far they go beyond what a vanishing field needs
LEVELS = np.array([1e-3, 25.0])  # of -log G between which that is
LOWEST, FINE = -136, 14  # u from which on these are sought, and steps that are taken twice: to 60
CHUNK = 512  # queries times points at once: their arrays stay in cache
COLD = 0.5  # variance of a field below which fewer points are enough
FACTORS = 6  # of a field
LEAST = -80.0  # logarithm of what counts; what underflows is slow


class Fields(NamedTuple):
    """Scores of queries, block by block.

    Attributes
    ----------
    roots : array, shape (Q, B, R)
        Factors of the field's covariance.
    own : array, shape (Q, B)
        Standard deviation of what each key has alone.
    """

    roots: Floats
    own: Floats


class Attended(NamedTuple):
    """Where the attention of queries lies.

    Attributes
    ----------
    y2 : array, shape (Q,)
        Participation ratio.
    pairs : array, shape (Q, B, B)
        Probability that two keys of one query are different ones of two blocks.
    weights : array, shape (Q, B)
        Mean weight of all keys of each block.
    log_z : array, shape (Q,)
        Mean logarithm of the sum of the Boltzmann factors.
    """

    y2: Floats
    pairs: Floats
    weights: Floats
    log_z: Floats


def factored(variance: Floats, deficit: Floats, sizes: Floats, weight: Floats) -> Fields:
    """Find the largest factors of a blockwise kernel, about its mean, and what they leave.

    Parameters
    ----------
    variance : array, shape (Q,)
        Variance of the scores where the kernel is one.
    deficit : array, shape (Q, B, B)
        One minus the kernel of two different keys; the diagonal of a block of one key is not used.
    sizes : array, shape (Q, B)
        Numbers of keys; zero where there is no block.
    weight : array, shape (Q, B)
        Mean weight of a key, up to a factor.

    Returns
    -------
    Fields
        What all keys have in common is left out; an eigenvector's sign is chosen by the last bits
        of the solver, so here its product with 1, ..., B is positive.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.block_fields import factored
    >>> found = factored(np.ones(1), np.full((1, 1, 1), 0.5), np.full((1, 1), 8), np.ones((1, 1)))
    >>> found.own.round(6).tolist()
    [[0.707107]]
    """
    held, at = sizes > 0, np.arange(sizes.shape[-1])
    apart = np.where(held[:, :, None] & held[:, None, :], deficit, np.inf)
    apart[:, at, at] = np.where(sizes > 1, deficit[:, at, at], np.inf)
    nearest = np.minimum(apart.min(axis=-1), 1.0)  # of a lone key: another's
    own = np.where(sizes > 1, deficit[:, at, at], nearest)
    kernel = 1 - np.where(np.isfinite(apart), deficit, 0.0)
    kernel[:, at, at] = 1 - own
    share = sizes * weight / np.sum(sizes * weight, axis=-1, keepdims=True)
    mean = (kernel @ share[..., None])[..., 0]
    kernel += np.sum(mean * share, axis=-1)[:, None, None] - mean[:, :, None] - mean[:, None, :]
    kernel *= variance[:, None, None]
    root = np.sqrt(share)
    values, vectors = np.linalg.eigh(root[:, :, None] * kernel * root[:, None, :])
    values, vectors = values[:, ::-1][:, :FACTORS], vectors[:, :, ::-1][..., :FACTORS]
    sign = np.where((at + 1.0) @ vectors < 0, -1.0, 1.0)
    scale = sign * np.sqrt(np.maximum(values, 0.0))
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=held)
    roots = vectors * scale[:, None, :] * inverse[..., None]
    rest = kernel[:, at, at] + variance[:, None] * own - np.sum(roots**2, axis=-1)
    return Fields(roots, np.sqrt(np.maximum(rest, 0.0)) * held)


def errors() -> Floats:
    """Errors of averages over the points of strong fields and of weak ones, as measured when made.

    Returns
    -------
    array, shape (2, 3)
        Root mean squares, over fields that were left out of the fit, of the error of Y_2 and of the
        sums of absolute errors of pairs and of weights.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.block_fields import errors
    >>> bool((errors() < 0.01).all())
    True
    """
    return _points()["error"]


def _points() -> dict[str, Floats]:
    return shipped("sigprop.layers.attention.statistics", "field_points.npz")


def variances(fields: Fields) -> Floats:
    """Largest variance of a block's field, shape (Q,)."""
    return np.asarray(np.sum(fields.roots**2, axis=-1).max(axis=-1))


def attended(fields: Fields, sizes: Floats, points: Floats | None = None) -> Attended:
    """Average attention over the fields.

    Parameters
    ----------
    fields : Fields
        Scores of Q queries.
    sizes : array, shape (Q, B)
        Numbers of keys of the blocks; zero where there is none.
    points : array, shape (S, R), optional
        Half of the points of independent normals, whose other half has the other sign; by default
        those of the shipped file, fewer of weak fields.

    Returns
    -------
    Attended
        Participation ratio, pairs and weights; their sums are one.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics import moments
    >>> from sigprop.layers.attention.statistics.block_fields import Fields, attended
    >>> alone = Fields(np.zeros((1, 1, 1)), np.full((1, 1), 2.0))  # independent scores
    >>> bool(abs(attended(alone, np.full((1, 1), 64.0)).y2[0] - moments(2.0, 64).y2) < 1e-3)
    True
    """
    queries, blocks = sizes.shape
    square = (queries, blocks, blocks)
    out = Attended(*(np.zeros(s) for s in (queries, square, sizes.shape, queries)))
    variance, none = variances(fields), np.zeros((1, FACTORS))
    strong, weak = (_points()[n] if points is None else points for n in ("strong", "weak"))
    cold = (variance > 0) & (variance <= COLD)
    for each, rows in ((strong, variance > COLD), (weak, cold), (none, variance == 0)):
        index = np.flatnonzero(rows)
        chunks = min(-(-len(index) * len(each) // CHUNK), len(index))
        for part in np.array_split(index, chunks) if chunks else ():
            found = _averages(Fields(*(v[part] for v in fields)), sizes[part], each)
            for whole, value in zip(out, found, strict=True):
                whole[part] = value
    return out


def _averages(fields: Fields, sizes: Floats, points: Floats) -> Attended:
    held = sizes > 0  # the rest is left out: H blocks of all queries, one after the other
    query, number = np.nonzero(held)[0], sizes[held]
    numbers = np.where(query == np.arange(len(sizes))[:, None], number, 0.0)

    def summed(values: Floats) -> Floats:
        """Sum over the keys of each query, shape (Q, ...)."""
        total = numbers @ values.reshape(query.size, -1)
        return total.reshape(len(sizes), *values.shape[1:])

    points = np.concatenate([points, -points])[:, : fields.roots.shape[-1]]
    lines = Lines(fields.own[held])
    u = _range(lines, summed, query)
    logs = lines(u[query][:, :, None] + (fields.roots[held] @ points.T)[:, None])
    decay, one, two = np.exp(np.maximum(logs, LEAST, out=logs), out=logs)  # (H, U, S)
    left = np.exp(np.maximum(-summed(decay), LEAST))
    middle = u.mean(axis=1, keepdims=True)  # where the reference falls, too
    less = np.sum(np.exp(-np.exp(u - middle)) - left.mean(axis=2), axis=1)
    log_z = (u[:, 1] - u[:, 0]) * less - middle[:, 0]
    alike = left * summed(two)
    total = np.sum(alike + left * (summed(one) ** 2 - summed(one * one)), axis=1)  # (Q, S)
    alone = np.einsum("hus,hus->hs", one, left[query])
    weights = np.zeros(sizes.shape)
    weights[held] = number * np.mean(alone / summed(alone)[query], axis=1)
    one *= np.sqrt(left / total[:, None])[query]
    pairs, first = np.zeros((*sizes.shape, sizes.shape[1])), np.flatnonzero(np.diff(query)) + 1
    for q, rows in enumerate(np.split(one.reshape(query.size, -1), first)):
        pairs[q][np.ix_(held[q], held[q])] = rows @ rows.T / len(points)
    at = np.arange(sizes.shape[1])
    pairs *= sizes[:, :, None] * sizes[:, None]
    pairs[:, at, at] *= 1 - np.divide(1.0, sizes, out=np.zeros(sizes.shape), where=held)
    return Attended(np.mean(np.sum(alike, axis=1) / total, axis=1), pairs, weights, log_z)


def _range(lines: Lines, summed: Callable[[Floats], Floats], query: Ints) -> Floats:
    """Points of u where the integrals of a vanishing field live, shape (Q, U)."""
    below = np.full((query[-1] + 1, 2), LOWEST)  # last integer at which -log G is below a level
    for step in (FINE, 1):  # coarse, then between
        u = below[..., None] + step * np.arange(1, FINE)
        found = lines(u.reshape(len(below), -1)[query].astype(float), 1)[0]
        less = summed(np.exp(found)).reshape(u.shape) < LEVELS[:, None]
        below = below + step * np.sum(less, axis=-1)
    return np.linspace(below[:, 0] - MARGIN, below[:, 1] + 1 + MARGIN, SUM, axis=1)
