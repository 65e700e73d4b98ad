"""Names of array types, and arrays as plain values; shared by every module."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Bools", "Floats", "Ints", "Number", "distinct", "finite_or_none"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Number = float | Floats  # one value, or many that broadcast; a np.float64 is a float
Scalar = TypeVar("Scalar", bound=np.generic)


def distinct(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Different values in order: `numpy.unique`, which imports `numpy.ma` where it is first called.

    Parameters
    ----------
    values : array
        Numbers, in any shape.

    Returns
    -------
    array, shape (N,)
        Each of them once.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.arrays import distinct
    >>> distinct(np.array([3, 1, 3])).tolist()
    [1, 3]
    """
    ordered = np.sort(values, axis=None)
    return np.concatenate([ordered[:1], ordered[1:][np.diff(ordered) != 0]])


def finite_or_none(values: ArrayLike) -> Any:
    """Plain Python values of an array, for JSON: None stands for what is not finite.

    Parameters
    ----------
    values : array_like
        Numbers or booleans.

    Returns
    -------
    object
        Nested lists, or one value where there is no shape.

    Examples
    --------
    >>> from sigprop.core.arrays import finite_or_none
    >>> finite_or_none([1.5, float("nan")])
    [1.5, None]
    """
    numbers = np.asarray(values)
    out = numbers.astype(object)
    out[~np.isfinite(numbers)] = None
    return out.tolist()
