"""Large arrays of specs in batches that stay in cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from sigprop.spec import Transformer

__all__ = ["chunks", "part_of"]

CHUNK = 20000  # states iterated together: a dozen work arrays of 160 KB fit the cache


def chunks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into boxes of about CHUNK elements, last axes whole.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.

    Yields
    ------
    tuple of slice
        One box.

    Examples
    --------
    >>> from sigprop.batches import chunks
    >>> len(list(chunks((3, 20000))))
    3
    """
    sizes, room = [], CHUNK
    for length in reversed(shape):
        take = max(1, min(length, room))
        sizes.append(take)
        room //= take
    boxes = [
        [slice(i, i + take) for i in range(0, length, take)]
        for length, take in zip(shape, reversed(sizes), strict=True)
    ]
    yield from product(*boxes)


def part_of(spec: Transformer, index: tuple[slice, ...]) -> Transformer:
    """Part of a spec: every array sliced where it is not of length one.

    Parameters
    ----------
    spec : Transformer
        The whole.
    index : tuple of slice
        One slice for each axis of `spec.shape`.

    Returns
    -------
    Transformer
        The part.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.batches import part_of
    >>> spec = Transformer(depth=1, context=8, beta=[0, 1, 2], sigma_v2=1, sigma_w2=1, rho0=0)
    >>> part_of(spec, (slice(0, 2),)).shape
    (2,)
    """
    changes: dict[str, Any] = {}
    for name in spec.numbers():
        value = np.asarray(getattr(spec, name), dtype=np.float64)
        if value.ndim:
            own = index[len(index) - value.ndim :]
            pairs = zip(own, value.shape, strict=True)
            changes[name] = value[tuple(slice(None) if n == 1 else i for i, n in pairs)]
    return replace(spec, **changes)
