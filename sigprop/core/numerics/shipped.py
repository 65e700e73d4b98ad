"""Tables that are shipped with the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import numpy as np

from sigprop.core.arrays import Floats

__all__ = ["shipped"]


@cache
def shipped(package: str, name: str) -> dict[str, Floats]:
    """Read a shipped archive once, in double precision.

    Parameters
    ----------
    package : str
        Dotted name of the package that holds it.
    name : str
        Name of the file.

    Returns
    -------
    dict of str to array
        Its arrays.

    Examples
    --------
    >>> from sigprop.core.numerics.shipped import shipped
    >>> sorted(shipped("sigprop.layers.attention", "rotary_correlations.npz"))
    ['error', 'table']
    """
    with as_file(files(package) / name) as path, np.load(path) as file:
        return {key: np.asarray(file[key], np.float64) for key in file.files}
