"""Diagrams of any size: chunk by chunk into a Zarr store, here or on a dask cluster."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.arguments import validated
from sigprop.arrays import Bools
from sigprop.diagram import boundaries, undefined
from sigprop.distribute import kept_words, spread
from sigprop.errors import DomainError, UnfinishedError, need
from sigprop.plan import Plan
from sigprop.spec import Transformer
from sigprop.sweep import chunks

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["diagram_store", "open_store"]

Box = tuple[slice, ...]
UNKNOWN = -2  # regime of a point that is still to be computed; nothing else is written there
MARK = "regime"  # written last of a chunk, by one renaming (zarr 3.1.3): then the chunk is whole


@validated
def diagram_store(
    spec: Transformer,
    path: str | Path,
    *,
    rho_max: float = 0.98,
    entropy_min: float | None = None,
    limit: bool = False,
    gradients: bool = False,
    scheduler: str | None = None,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    **axes: ArrayLike,
) -> xr.Dataset:
    """Compute a diagram chunk by chunk into a Zarr store; a second call continues.

    The chunks are those in which `sigprop.diagram` iterates, so that all numbers are the same.
    A worker writes its chunk where it sees the store, before it answers; the client writes what
    it then does not find. Memory does not grow with the grid, but for the boundaries of a diagram
    of two axes, which are traced at the end over the whole of it.

    Parameters
    ----------
    spec, rho_max, entropy_min, limit, gradients, axes
        As in `sigprop.diagram`.
    path : str or Path
        The store, a folder: a new one, or one of this very diagram.
    scheduler, workers
        As in `sigprop.store.gather`; without a scheduler all is computed here.
    progress : callable, optional
        Called with the number of finished grid points.

    Returns
    -------
    xarray.Dataset
        As from `sigprop.diagram`, of dask arrays that are read when they are used.

    Raises
    ------
    MissingExtraError
        If dask or zarr is not installed.
    DomainError
        If a value is not admissible, the folder cannot be written or holds something else.
    UnfinishedError
        If the cluster is lost; it says how many chunks are kept.

    Examples
    --------
    >>> import tempfile
    >>> from sigprop import Transformer
    >>> from sigprop.grid_store import diagram_store
    >>> spec = Transformer(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     d = diagram_store(spec, folder + "/d.zarr", limit=True, beta=[0, 1], alpha_attn=[1, 2])
    ...     d.rho.shape
    (2, 2)
    """
    need("a .zarr diagram", "distributed", "dask", "zarr")
    told = progress or (lambda _: None)
    plan = Plan.of(spec, axes, rho_max, entropy_min, limit, gradients)
    where = Path(path).resolve()
    name = _prepare(plan, where)
    boxes = list(chunks(plan.wide.shape))
    ready = _finished(where, boxes)
    todo = {f"{name}-{i}": box for i, box in enumerate(boxes) if not ready[i]}
    told(prod(plan.wide.shape) - sum(_size(box) for box in todo.values()))

    def done(key: str, data: dict[str, NDArray[Any]]) -> None:
        if not _finished(where, [todo[key]]).all():
            _write(where, todo[key], data)
        told(_size(todo[key]))

    if scheduler is None:
        for key, box in todo.items():
            done(key, plan.part(box).values())
    elif todo:
        tasks = {key: (str(where), name, plan.part(box), box) for key, box in todo.items()}
        try:
            spread(_computed_once, tasks, done, scheduler, workers)
        except UnfinishedError as error:
            kept = int(_finished(where, boxes).sum())
            raise UnfinishedError(f"{error}; {kept_words(kept, len(boxes), path)}") from None
    _close(where)
    return open_store(where)


@validated
def open_store(path: str | Path) -> xr.Dataset:
    """Open a diagram that `diagram_store` wrote.

    Parameters
    ----------
    path : str or Path
        The store.

    Returns
    -------
    xarray.Dataset
        Of dask arrays. Where an unfinished one is still to be computed, the regime is -2.

    Raises
    ------
    DomainError
        If it is no Zarr store.
    """
    import xarray as xr

    try:
        data: xr.Dataset = xr.open_zarr(path, consolidated=False)
    except (OSError, ValueError) as error:
        raise DomainError("out", str(path), f"a Zarr store ({error})") from None
    return data


def _size(box: Box) -> int:
    return prod(side.stop - side.start for side in box)


def _prepare(plan: Plan, path: Path) -> str:
    """Make an empty store, whole or not at all, unless there is one; return the diagram's name."""
    template = _template(plan)
    name = _name(template)
    if path.exists():
        if _name(open_store(path)) != name:
            words = "a new store, or one of this diagram with these axes and this version"
            raise DomainError("out", str(path), words)
        return name
    temporary = path.with_name(f".sigprop.{os.getpid()}.zarr")
    try:
        encoding = {n: {"fill_value": UNKNOWN if n == MARK else np.nan} for n in plan.names}
        template.to_zarr(temporary, compute=False, consolidated=False, encoding=encoding)
        temporary.replace(path)
    except OSError as error:
        words = f"a store in an existing, writable folder ({error.strerror})"
        raise DomainError("out", str(path), words) from None
    finally:
        rmtree(temporary, ignore_errors=True)
    return name


def _template(plan: Plan) -> xr.Dataset:
    """Describe the diagram with arrays that are not there yet, in the chunks of the iteration."""
    import dask.array as da

    shape = plan.wide.shape
    sides = tuple(side.stop for side in next(chunks(shape)))
    kinds = {name: np.int8 if name == MARK else np.float64 for name in plan.names}
    return plan.labelled({n: da.zeros(shape, dtype=k, chunks=sides) for n, k in kinds.items()})


def _name(data: xr.Dataset) -> str:
    """Digest of what a diagram asks, the same for the store and for the plan."""
    dims = data["rho"].dims if "rho" in data else ()  # the store may hold anything
    asked = {n: v for n, v in data.attrs.items() if n != "undefined"}
    grid = {str(n): data[n].values.tolist() for n in dims}
    computed = sorted(str(n) for n, v in data.data_vars.items() if v.dims == dims)
    text = json.dumps([asked, list(grid), grid, computed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _finished(path: Path, boxes: list[Box]) -> Bools:
    """Tell for each chunk whether it is written, from one of its points."""
    import zarr

    mark = zarr.open_array(path / MARK, mode="r")
    corners = tuple(np.array([[side.start for side in box] for box in boxes]).T)
    return np.asarray(mark.vindex[corners] != UNKNOWN)


def _write(path: Path, box: Box, data: dict[str, NDArray[Any]]) -> None:
    """Write a chunk, the mark after all else is on the disk."""
    import zarr

    group = zarr.open_group(path, mode="r+")
    for name in (*(n for n in data if n != MARK), MARK):
        group[name][box] = data[name]
        _flush(path / name, box, group[name].chunks)


def _flush(array: Path, box: Box, sides: tuple[int, ...]) -> None:
    place = (str(side.start // length) for side, length in zip(box, sides, strict=True))
    try:
        with array.joinpath("c", *place).open("rb") as file:
            os.fsync(file.fileno())
    except FileNotFoundError:  # all values are those of an empty chunk, which is not stored
        pass


def _computed_once(path: str, name: str, part: Plan, box: Box) -> dict[str, NDArray[Any]]:
    """Compute a chunk on a worker, unless another one wrote it and died before it could answer."""
    import zarr

    where = Path(path)
    try:
        shared = where.is_dir() and _name(open_store(where)) == name
    except DomainError:
        shared = False
    if shared and _finished(where, [box]).all():
        group = zarr.open_group(where, mode="r")
        return {n: np.asarray(a[box]) for n, a in group.arrays() if n in part.names}
    data = part.values()
    if shared:
        _write(where, box, data)
    return data


def _close(path: Path) -> None:
    """Add what is known at the end: undefined points, and boundaries of a plane."""
    import xarray as xr
    import zarr

    data = open_store(path)
    if "undefined" in data.attrs:
        return
    number = undefined(data)
    if len(data["rho"].dims) == 2:
        curves = xr.Dataset(boundaries(data), attrs=data.attrs)
        curves.to_zarr(path, mode="a", consolidated=False)
    zarr.open_group(path, mode="r+").attrs["undefined"] = number
