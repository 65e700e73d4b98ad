"""Points of arrays of specs: those of one context together, and boxes that stay in cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from sigprop.core.arrays import Ints, distinct
from sigprop.model.spec import ModelSpec

__all__ = ["TRAILING", "chunks", "part_of", "parts_of_one_context", "picked", "singles"]

TRAILING = {"position": (1, 1), "distance": (1,)}  # axes of a kernel behind those of stacks
CHUNK = 30000  # states iterated together: a dozen work arrays of 240 KB


def parts_of_one_context(spec: ModelSpec, kind: str, size: int) -> Iterator[tuple[Ints, ModelSpec]]:
    """Stacks of one context, a few at a time.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.
    kind : {"position", "distance"}
        Which pairs of tokens are told apart: numbers get an axis of length one, behind that of the
        stacks, for each axis of a kernel.
    size : int
        Most stacks of one part.

    Yields
    ------
    index : array of int, shape (n,)
        Places of the stacks in the flattened array.
    part : ModelSpec
        Their description, numbers of shape (n, 1, ...), of one context.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.points import parts_of_one_context
    >>> spec = ModelSpec(depth=1, context=[8, 9, 8], beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> [index.tolist() for index, part in parts_of_one_context(spec, "distance", 10)]
    [[0, 2], [1]]
    """
    names = [n for n in spec.numbers() if n != "sigma_w2"]
    wide = {n: np.broadcast_to(np.asarray(getattr(spec, n), float), spec.shape) for n in names}
    flat = {name: value.ravel() for name, value in wide.items()}
    for context in distinct(flat["context"]).astype(int).tolist():
        same = np.flatnonzero(flat["context"] == context)
        for index in np.array_split(same, -(-len(same) // size)):
            own: dict[str, Any] = {
                n: v[index].reshape(-1, *TRAILING[kind]) for n, v in flat.items()
            }
            yield index, replace(spec, **(own | {"context": context, "sigma_w2": None}))


def singles(spec: ModelSpec) -> Iterator[tuple[tuple[int, ...], ModelSpec]]:
    """Stacks of an array, one by one.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.

    Yields
    ------
    index : tuple of int
        Place of the stack in the array.
    one : ModelSpec
        Its description, without arrays.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.points import singles
    >>> spec = ModelSpec(depth=1, context=8, beta=[0, 1], sigma_v2=1, sigma_w2=1, rho0=0)
    >>> [(index, one.beta) for index, one in singles(spec)]
    [((0,), 0.0), ((1,), 1.0)]
    """
    names = [n for n in spec.numbers() if n != "sigma_w2"]
    wide = {n: np.broadcast_to(getattr(spec, n), spec.shape) for n in names}
    for index in np.ndindex(spec.shape):
        own: dict[str, Any] = {n: v[index].item() for n, v in wide.items()}
        yield index, replace(spec, **own, sigma_w2=None)


def picked(spec: ModelSpec, places: Ints) -> ModelSpec:
    """Pick stacks of an array, in one dimension.

    Parameters
    ----------
    spec : ModelSpec
        The description; arrays broadcast.
    places : array of int, shape (n,)
        Places in the flattened array.

    Returns
    -------
    ModelSpec
        Their description, numbers of shape (n,).

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.points import picked
    >>> spec = ModelSpec(depth=1, context=8, beta=[0, 1], sigma_v2=1, sigma_w2=1, rho0=0)
    >>> picked(spec, [1, 0, 1]).beta.tolist()
    [1.0, 0.0, 1.0]
    """
    index = np.unravel_index(places, spec.shape)
    own: dict[str, Any] = {
        n: np.broadcast_to(getattr(spec, n), spec.shape)[index]
        for n in spec.numbers()
        if n != "sigma_w2"
    }
    return replace(spec, **own, sigma_w2=None)


def chunks(shape: tuple[int, ...], size: int | None = None) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into boxes of about `size` elements, last axes whole.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    size : int, optional
        Most elements of a box; by default what stays in cache.

    Yields
    ------
    tuple of slice
        One box.

    Examples
    --------
    >>> from sigprop.propagation.points import chunks
    >>> len(list(chunks((3, 20000))))
    3
    """
    sizes, room = [], size or CHUNK
    for length in reversed(shape):
        take = max(1, min(length, room))
        sizes.append(take)
        room //= take
    boxes = [
        [slice(i, i + take) for i in range(0, length, take)]
        for length, take in zip(shape, reversed(sizes), strict=True)
    ]
    yield from product(*boxes)


def part_of(spec: ModelSpec, index: tuple[slice, ...]) -> ModelSpec:
    """Part of a spec: every array sliced where it is not of length one.

    Parameters
    ----------
    spec : ModelSpec
        The whole.
    index : tuple of slice
        One slice for each axis of `spec.shape`.

    Returns
    -------
    ModelSpec
        The part.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.points import part_of
    >>> spec = ModelSpec(depth=1, context=8, beta=[0, 1, 2], sigma_v2=1, sigma_w2=1, rho0=0)
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
