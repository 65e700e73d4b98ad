r"""What a finite head width does to the overlap of two queries, by look-up (E12b).

With e and e' the excess of two queries of n and n' keys, f = E/sqrt(e e') is the share of it that
their overlap has: f_0 in a head of infinite width, at the correlation r of the scores of two
queries, and f on average over two queries of one head of width d_h
(`sigprop.layers.attention.statistics.two_queries`), whose excesses are averages as well (E12). One
table over head width, log n, log n'/n, the geometric mean s of both score deviations and 1 - r
holds

.. math:: \kappa = \log\frac{1 - f_0}{1 - f}\Big/\Big(\delta\,\frac{s^2}{1 + s^2}\Big), \qquad
          \delta = \frac{4}{d_h + 3} .

It was made by ``python -m sigprop.layers.attention.statistics.build_heads``, for equal score
deviations and n common keys; beyond s = 21 and n' = 2^20 the value at the edge is taken. The
measured errors are in the file (`error`) and in notebooks/accuracy.md.
"""

from __future__ import annotations

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import basis, contracted
from sigprop.core.numerics.shipped import shipped
from sigprop.layers.attention.statistics import coordinates as co

__all__ = ["HOTTEST", "LATER", "bend", "errors", "lengths", "lost", "rows_of", "to_width"]

LEAST, MOST = 2.0, 2.0**20  # keys
HOTTEST = 21.0  # score deviation
LATER = 7  # nodes in n'/n
EDGE = np.cos(np.pi / (2 * LATER))  # the outermost of them, which then hold n' = n


def _narrow(head_width: float) -> float:
    """Place of a head width in (0, 1]; one for a head of width one."""
    return 4 / (head_width + 3)


def to_width(place: Floats) -> Floats:
    """Head width at a place on [-1, 1]."""
    return np.asarray(8 / (place + 1) - 3)


def bend(s: Floats, head_width: float) -> Floats:
    """Divide out of the logarithm, which vanishes with s and in wide heads."""
    return np.asarray(_narrow(head_width) * co.bend(s))


def lengths(place: Floats, later: Floats) -> tuple[Floats, Floats]:
    """Numbers of keys at places, shape (N,), and numbers of the other query's keys, (N, M)."""
    keys = LEAST * (MOST / LEAST) ** ((place + 1) / 2)
    return keys, keys[:, None] * (MOST / keys[:, None]) ** ((later / EDGE + 1) / 2)


def _data() -> dict[str, Floats]:
    return shipped("sigprop.layers.attention.statistics", "heads.npz")


def errors() -> Floats:
    """Errors of the logarithm, measured against quadrature when the file was made.

    Returns
    -------
    array, shape (2,)
        95 % of random couples stay below the first; the largest.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.heads import errors
    >>> bool(0 < errors()[0] < errors()[1])
    True
    """
    return _data()["error"]


def rows_of(head_width: float, keys: Floats, later: Floats, table: Floats | None = None) -> Floats:
    """Coefficients of s and 1 - r for couples of queries of n <= n' keys.

    Parameters
    ----------
    head_width : float
        Width of a head, >= 1.
    keys, later : array
        Numbers n <= n' of keys.
    table : array, optional
        Coefficients; by default those of the shipped file.

    Returns
    -------
    array, shape (..., S, R)
        The coefficients.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.heads import rows_of
    >>> rows_of(64, np.array(128.0), np.array(128.0)).ndim
    2
    """
    table = _data()["table"] if table is None else table
    table = np.tensordot(basis(np.asarray(2 * _narrow(head_width) - 1), len(table)), table, 1)
    keys = np.clip(keys, LEAST, MOST)
    room = np.maximum(np.log(MOST / keys), 1e-9)
    share = np.clip(np.log(np.clip(later, keys, MOST) / keys) / room, 0.0, 1.0)
    place = 2 * np.log(keys / LEAST) / np.log(MOST / LEAST) - 1
    one, two = basis(place, table.shape[0]), basis(EDGE * (2 * share - 1), table.shape[1])
    both = one[..., :, None] * two[..., None, :]
    return np.tensordot(both, table, 2)


def lost(rows: Floats, s: Floats, gap: Floats, head_width: float) -> Floats:
    """Logarithm of (1 - f_0)/(1 - f).

    Parameters
    ----------
    rows : array, shape (..., S, R)
        Coefficients of the couples, by `rows_of`.
    s : array
        Geometric mean of both score deviations.
    gap : array
        1 - r.
    head_width : float
        Width of a head, >= 1.

    Returns
    -------
    array
        The logarithm; zero without scores.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.heads import lost, rows_of
    >>> rows = rows_of(64, np.array(128.0), np.array(128.0))
    >>> float(lost(rows, np.array(0.0), np.array(0.5), 64))
    0.0
    """
    hot = basis(co.from_deviation(s, 0.0, HOTTEST), rows.shape[-2])
    place = co.from_gap(np.clip(gap, 0.0, co.MAX_GAP), np.minimum(s, HOTTEST))
    near = basis(np.clip(place, -1.0, 1.0), rows.shape[-1])
    if rows.ndim == 2:
        found = np.einsum("...i,...i->...", near @ rows.T, hot)
    elif rows.shape[:-2] == hot.shape[-2:-1]:
        found = np.einsum("j...,...j->...", contracted(rows, hot), near)
    else:
        found = np.einsum("...ij,...i,...j->...", rows, hot, near, optimize=True)
    return np.asarray(bend(s, head_width) * found)
