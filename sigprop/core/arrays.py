"""Names of array types, and arrays as plain values; shared by every module."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Bools", "Floats", "Ints", "Number", "finite_or_none"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Number = float | Floats  # one value, or many that broadcast; a np.float64 is a float


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
