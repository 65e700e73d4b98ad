"""What correlated scores do to queries of masked stacks, by look-up (E25e).

One table over the number of keys, the score deviation, the mean gap and its rise with log distance
holds shrink, near and part of `sigprop.layers.attention.key_correlations` for gaps that rise
linearly with log distance. It was made by
``python -m sigprop.layers.attention.build_correlations``; the measured errors are in the file
(`error`) and in notebooks/accuracy.md.
"""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.numerics.chebyshev import basis
from sigprop.core.numerics.shipped import shipped
from sigprop.layers.attention.position_grid import pairs_between
from sigprop.layers.attention.statistics import coordinates as co

__all__ = ["Correlations", "errors", "rise"]

RESOLUTION, SINGLES = 24, 8  # blocks, and first positions that are blocks of one
LEAST, MOST = 3.0, 2.0**20  # keys
COLDEST, HOTTEST = 0.2, 16.0  # score deviations
SMALL = 1e-9


def from_keys(count: Floats) -> Floats:
    """Place of a number of keys on [-1, 1]."""
    inside = np.clip(count, LEAST, MOST)
    return np.asarray(2 * np.log(inside / LEAST) / np.log(MOST / LEAST) - 1)


def to_keys(place: Floats | float) -> Floats:
    """Whole number of keys at a place."""
    return np.round(LEAST * (MOST / LEAST) ** ((np.asarray(place) + 1) / 2))


def to_deviation(place: Floats) -> Floats:
    """Score deviation at a place."""
    return co.to_deviation(place, COLDEST, HOTTEST)


def to_gap(place: Floats) -> Floats:
    """Mean gap at a place, in units of q."""
    return co.to_gap(place, 0.0)


def to_tilt(place: Floats) -> Floats:
    """Rise with log distance at a place, over the mean gap."""
    return np.asarray((place + 1) / 2)


def rise(sizes: Ints) -> Floats:
    """Log distance of two keys by block, about its mean over pairs, -1 at the nearest pair."""
    middle = np.cumsum(sizes) - sizes / 2
    distance = np.abs(middle[:, None] - middle)
    np.fill_diagonal(distance, np.exp(-1.5) * sizes)  # E log |x - y| in a block
    log, pairs = np.log(np.maximum(distance, 0.5)), pairs_between(sizes)
    log -= np.sum(pairs * log) / pairs.sum()
    return np.asarray(log / max(-log[pairs > 0].min(), SMALL))


def _data() -> dict[str, Floats]:
    return shipped("sigprop.layers.attention", "correlations.npz")


def errors() -> Floats:
    """Errors of shrink, near and part, measured when the file was made.

    Returns
    -------
    array, shape (2, 3)
        Root mean square over random points; the largest.

    Examples
    --------
    >>> from sigprop.layers.attention.correlation_table import errors
    >>> bool((errors()[0] < errors()[1]).all())
    True
    """
    return _data()["error"]


class Correlations:
    """Shrink, near and part of queries.

    Parameters
    ----------
    count : array, shape (K,)
        Numbers of keys.
    table : array, optional
        Coefficients; by default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.correlation_table import Correlations
    >>> one = np.ones((1, 1))
    >>> found = Correlations(np.array([64.0]))(one, 0.5 * one, 0 * one)
    >>> bool(abs(found[1]).max() < 0.01)  # a flat kernel has no nearer keys
    True
    """

    def __init__(self, count: Floats, table: Floats | None = None) -> None:
        rows = _data()["table"] if table is None else table
        found = np.tensordot(basis(from_keys(count), len(rows)), rows, 1)
        self._counts = found.shape[1:4]
        self._rows = found.reshape(len(count), -1, 3)

    def __call__(self, sigma: Floats, own: Floats, tilt: Floats) -> Floats:
        """Look them up.

        Parameters
        ----------
        sigma, own, tilt : arrays, shape (..., K)
            Score deviation, mean gap in units of q, and rise with log distance over it.

        Returns
        -------
        array, shape (3, ..., K)
            The three numbers; beyond the table those at its ends, and linear in the score variance
            below it.
        """
        terms = (
            co.from_deviation(sigma, COLDEST, HOTTEST),
            co.from_gap(np.clip(own, 0.0, co.MAX_GAP), 0.0),
            2 * np.clip(tilt, 0.0, 1.0) - 1,
        )
        parts = (basis(x, n) for x, n in zip(terms, self._counts, strict=True))
        wide = np.einsum("...a,...b,...c->...abc", *parts).reshape(*sigma.shape, -1)
        found = np.moveaxis(np.einsum("...ki,kiz->...kz", wide, self._rows), -1, 0)
        warmth = np.minimum(sigma / COLDEST, 1.0) ** 2
        plain = np.array([1.0, 0.0, 1.0]).reshape(-1, *[1] * sigma.ndim)
        return np.asarray(plain + warmth * (found - plain))
