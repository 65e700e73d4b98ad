"""Batches of Chebyshev series on [-1, 1], chopped at a tolerance and summed by Clenshaw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from sigprop.core.arrays import Floats, Ints, Number

__all__ = ["Series", "basis", "contracted", "fit", "fitted", "nodes", "transform"]

FEW = 8  # polynomials that are found one by one


def nodes(count: int) -> Floats:
    """Chebyshev nodes of the first kind.

    Parameters
    ----------
    count : int
        How many.

    Returns
    -------
    array, shape (count,)
        Nodes in (-1, 1), increasing.

    Examples
    --------
    >>> from sigprop.core.numerics.chebyshev import nodes
    >>> nodes(3).round(6).tolist()
    [-0.866025, 0.0, 0.866025]
    """
    return np.asarray(chebyshev.chebpts1(count))


def transform(values: Floats, axis: int = 0) -> Floats:
    """Coefficients along `axis` from values at first-kind nodes.

    Parameters
    ----------
    values : array
        Values at `nodes(values.shape[axis])` along `axis`.
    axis : int
        The axis to transform.

    Returns
    -------
    array
        Chebyshev coefficients, of the same shape.

    Examples
    --------
    >>> from sigprop.core.numerics.chebyshev import nodes, transform
    >>> abs(transform(nodes(3) ** 2)).round(12).tolist()
    [0.5, 0.0, 0.5]
    """
    count = values.shape[axis]
    exact = chebyshev.chebvander(nodes(count), count - 1)  # to a few more bits than `basis`
    rows = exact * np.where(np.arange(count) == 0, 1, 2) / count
    return np.moveaxis(np.tensordot(rows.T, values, (1, axis)), 0, axis)


def fitted(values: Floats, axes: int) -> Floats:
    """Coefficients along the first axes, moved behind the rest.

    Parameters
    ----------
    values : array, shape (K1, ..., N)
        Values at nodes along each of the first axes.
    axes : int
        How many.

    Returns
    -------
    array, shape (N, K1, ...)
        Coefficients.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.chebyshev import fitted
    >>> fitted(np.ones((3, 4, 2)), 2).shape
    (2, 3, 4)
    """
    for axis in range(axes):
        values = transform(values, axis)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def basis(x: Floats, count: int) -> Floats:
    """Evaluate the Chebyshev polynomials T_0 ... T_{K-1}.

    Parameters
    ----------
    x : array, shape (...)
        Points in [-1, 1].
    count : int
        Number K of polynomials.

    Returns
    -------
    array, shape (..., K)
        Their values, to 1e-13 at K = 64.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.chebyshev import basis
    >>> basis(np.array(0.5), 3).tolist()
    [1.0, 0.5, -0.5]
    """
    first = np.asarray(x, dtype=np.float64)
    out = np.empty((count, *first.shape))
    out[0], out[1:2] = 1.0, first
    twice, known = 2 * first, 2
    while known < min(count, FEW):  # one by one, which takes fewer calls of few
        part = np.multiply(twice, out[known - 1], out=out[known, ...])
        part -= out[known - 2]
        known += 1
    while known < count:  # T_{m+n} = 2 T_m T_n - T_{m-n}, for as many n at a time as are known
        top, more = known - 1, min(known - 1, count - known)
        part = out[known : known + more]
        np.multiply(2 * out[top], out[1 : more + 1], out=part)
        part -= out[:top][::-1][:more]
        known += more
    return out.transpose(*range(1, out.ndim), 0)


def contracted(table: Floats, terms: Floats) -> Floats:
    """Sum over k of a table for each of P rows and terms for each.

    Parameters
    ----------
    table : array, shape (P, K, V)
        Coefficients.
    terms : array, shape (..., P, K)
        Terms, such as polynomials of `basis`.

    Returns
    -------
    array, shape (V, ..., P)
        The sums.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.chebyshev import contracted
    >>> contracted(np.ones((1, 3, 2)), np.array([[1.0, 0.5, -0.5]])).tolist()
    [[1.0], [1.0]]
    """
    rows = terms.reshape(-1, *terms.shape[-2:]).swapaxes(0, 1) @ table
    return rows.transpose(2, 1, 0).reshape(-1, *terms.shape[:-1])


@dataclass(frozen=True)
class Series:
    """Chebyshev series with coefficients on the first axis; the others broadcast with x.

    Parameters
    ----------
    coefficients : array, shape (K, ...)
        Coefficients of T_0 ... T_{K-1}.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.chebyshev import Series
    >>> float(Series(np.array([1.0, 0.0, 2.0]))(0.5))
    0.0
    """

    coefficients: Floats

    def __call__(self, x: Number, index: Ints | None = None) -> Floats:
        """Sum of the series at x, in place on four work arrays.

        Parameters
        ----------
        x : array
            Points in [-1, 1].
        index : array of int, shape (N,), optional
            Which series of the last axis; by default each once.

        Returns
        -------
        array
            The sums.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.core.numerics.chebyshev import Series
        >>> Series(np.array([[1.0, 2.0], [0.0, 1.0]]))(0.5, np.array([1, 0, 1])).tolist()
        [2.5, 1.0, 2.5]
        """
        x = np.asarray(x, dtype=np.float64)

        def row(k: int) -> Floats:
            one: Floats = self.coefficients[k]
            return one if index is None else one.take(index, axis=-1)

        first = row(0)
        shape = np.broadcast_shapes(x.shape, first.shape)
        twice = 2 * x
        b1, b2, work = np.zeros(shape), np.zeros(shape), np.empty(shape)
        for k in range(len(self.coefficients) - 1, 0, -1):
            np.multiply(twice, b1, out=work)
            np.subtract(work, b2, out=b2)
            np.add(b2, row(k), out=b2)
            b1, b2 = b2, b1
        return np.asarray(first + x * b1 - b2)

    def chopped(self, tolerance: float) -> Series:
        """Without the trailing coefficients whose sum is below `tolerance` in every series.

        Parameters
        ----------
        tolerance : float
            Absolute size of what may be dropped.

        Returns
        -------
        Series
            The shorter series, of one coefficient at least.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.core.numerics.chebyshev import Series
        >>> Series(np.array([1.0, 0.5, 1e-20])).chopped(1e-15).coefficients.size
        2
        """
        tail = np.cumsum(np.abs(self.coefficients[::-1]), axis=0)[::-1]
        keep = int(np.sum(tail.reshape(len(tail), -1).max(axis=1) > tolerance))
        return Series(self.coefficients[: max(keep, 1)])


def fit(
    function: Callable[[Floats], Floats], tolerance: float, start: int = 16, stop: int = 1024
) -> Series:
    """Interpolate `function` on more and more nodes until the last coefficients are negligible.

    Parameters
    ----------
    function : callable
        From nodes, shape (n,), to values, shape (n, ...).
    tolerance : float
        Absolute size of what may be dropped.
    start, stop : int
        First and largest number of nodes; at `stop` the series is returned as it is.

    Returns
    -------
    Series
        The chopped series.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.numerics.chebyshev import fit
    >>> bool(abs(fit(np.exp, 1e-14)(0.3) - np.exp(0.3)) < 1e-14)
    True
    """
    count = start
    while True:
        coefficients = transform(function(nodes(count)))
        last = np.abs(coefficients[-max(count // 8, 2) :]).max(initial=0.0)
        if last <= tolerance / 4 or count >= stop:
            return Series(coefficients).chopped(tolerance)
        count *= 2
