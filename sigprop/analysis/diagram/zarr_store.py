"""Diagrams of any size: chunk by chunk into a Zarr store, here or on a dask cluster."""

from __future__ import annotations

import hashlib
import json
import os
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.analysis.diagram.fields import INTERPOLATION, Plan
from sigprop.analysis.diagram.files import MARK, UNKNOWN, Box, Files, encoded, verify
from sigprop.analysis.diagram.grid import boundaries, undefined
from sigprop.analysis.diagram.interpolation import bound_words
from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError, need, require
from sigprop.core.files import clear, tell
from sigprop.core.jobs.cluster import kept_said, spread
from sigprop.core.jobs.execution import Execution, takes_execution
from sigprop.core.version import REVISIONS, __version__
from sigprop.model.spec import ModelSpec
from sigprop.propagation.points import chunks

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["UNKNOWN", "diagram_store", "open_store"]

# attributes that ask nothing
ANSWER = ("undefined", "sigprop_version", "theory_revision", INTERPOLATION)


@takes_execution
@validated
def diagram_store(
    spec: ModelSpec,
    path: str | Path,
    *,
    rho_max: float = 0.98,
    entropy_min: float | None = None,
    theory: str = "finite",
    gradients: bool = False,
    geometry: str = "auto",
    execution: Execution | None = None,
    **axes: ArrayLike,
) -> xr.Dataset:
    """Compute a diagram chunk by chunk into a Zarr store; a second call continues.

    The chunks are those in which `sigprop.diagram` iterates, so that all numbers are the same;
    where it interpolates, every chunk is interpolated on its own, to the same tolerance. A worker
    writes its chunk where it sees the store, before it answers; the client writes what it then does
    not find. Memory does not grow with the grid, but for the boundaries of a diagram of two axes,
    which are traced at the end over the whole of it.

    Chunks are sealed with the diagram that they belong to and a digest of their files. One that
    fails it (damaged, lost, of another store) is computed again, and standard error says so; so is
    a store of another revision of the theory, as a whole.

    Parameters
    ----------
    spec, rho_max, entropy_min, theory, gradients, geometry, axes
        As in `sigprop.diagram`.
    path : str or Path
        The store, a folder: a new one, or one of this very diagram.
    execution : Execution, optional
        Cluster and progress; without a scheduler all is computed here. The folder is `path`.

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
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.diagram.zarr_store import diagram_store
    >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     d = diagram_store(spec, folder + "/d.zarr", beta=[0, 1], alpha_attn=[1, 2])
    ...     d.rho.shape
    (2, 2)
    """
    need("a .zarr diagram", "distributed", "dask", "zarr")
    how = execution or Execution()
    require(how.folder is None, "folder", how.folder, "none: a diagram is kept in path")
    plan = Plan.of(spec, axes, rho_max, entropy_min, theory, gradients, geometry)
    files = _prepare(plan, Path(path).resolve())
    boxes = list(chunks(plan.wide.shape))
    todo = {f"{files.identity}-{i}": boxes[i] for i in _unfinished(files, boxes)}
    how.tell(prod(plan.wide.shape) - sum(_size(box) for box in todo.values()))

    def done(key: str, data: dict[str, NDArray[Any]]) -> None:
        if files.state(todo[key]) is None:
            files.keep(todo[key], data)
        how.tell(_size(todo[key]))

    with kept_said(lambda: _count(files, boxes), len(boxes), path):
        if how.scheduler is None:
            for key, box in todo.items():
                done(key, plan.part(box).values())
        elif todo:
            tasks = {key: (files, plan.part(box), box) for key, box in todo.items()}
            spread(_computed_once, tasks, done, how.scheduler, how.workers)
    _close(files)
    return _open(files.path)


def _count(files: Files, boxes: list[Box]) -> int:
    """Count the chunks that are on disk."""
    return sum(files.state(box) is not None for box in boxes)


def _unfinished(files: Files, boxes: list[Box]) -> list[int]:
    """Numbers of the chunks that are still to be computed; seals that fail are removed."""
    states = [files.state(box) for box in boxes]
    failed = [i for i, state in enumerate(states) if state is False]
    for i in failed:
        files.forget(boxes[i])
    if failed:
        tell(f"{len(failed)} of {len(boxes)} chunks in {files.path} fail their checksum "
             "and are computed again")  # fmt: skip
    return [i for i, state in enumerate(states) if not state]


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
        If it is no Zarr store, or something in it is not as it was written.
    """
    if wrong := verify(Path(path)):
        words = f"a whole store; {wrong[0]} fails its checksum: the call that made it repairs it"
        raise DomainError("store", str(path), words)
    return _open(Path(path))


def _open(path: Path) -> xr.Dataset:
    """Open any Zarr store."""
    import xarray as xr

    try:
        data: xr.Dataset = xr.open_zarr(path, consolidated=False)
    except Exception as error:  # zarr raises what the broken part of a file raised
        raise DomainError("out", str(path), f"a Zarr store ({error})") from None
    return data


def _size(box: Box) -> int:
    return prod(side.stop - side.start for side in box)


def _prepare(plan: Plan, path: Path) -> Files:
    """Make an empty store, unless there is one of this diagram; what is damaged there is mended."""
    template = _template(plan)
    known = encoded(template, values=False)
    files = Files(path, _name(template), REVISIONS["theory"], known, plan.names)
    if not os.path.lexists(path) or _is_superseded(files):
        files.make()
        return files
    for folder, _, _ in os.walk(path):
        clear(Path(folder))
    if files.repair():
        tell(f"{path} was damaged, or written by another version, and is mended")
    return files


def _is_superseded(files: Files) -> bool:
    """Whether another revision of the theory answered what a diagram asks; others are refused."""
    name, revision = files.owner() or _asked(_open(files.path))
    if name != files.name:
        words = "a new store, or one of this diagram with these axes"
        raise DomainError("out", str(files.path), words)
    if revision == files.revision:
        return False
    tell(f"{files.path} is of revision {revision} of the theory, not {files.revision}, "
         "and is computed again")  # fmt: skip
    return True


def _template(plan: Plan) -> xr.Dataset:
    """Describe the diagram with arrays that are not there yet, in the chunks of the iteration."""
    import dask.array as da

    shape = plan.wide.shape
    sides = tuple(side.stop for side in next(chunks(shape)))
    kinds = {name: np.int8 if name == MARK else np.float64 for name in plan.names}
    out = plan.labelled({n: da.zeros(shape, dtype=k, chunks=sides) for n, k in kinds.items()})
    del out.attrs["sigprop_version"]  # known at the end
    out.attrs |= {INTERPOLATION: bound_words()} if plan.is_interpolated else {}
    return out


def _asked(data: xr.Dataset) -> tuple[str, Any]:
    """Digest of what a diagram asks, and the revision that answers; version 0.2 had none."""
    return _name(data), data.attrs.get("theory_revision", 0)


def _name(data: xr.Dataset) -> str:
    """Digest of what a diagram asks, the same for the store and for the plan."""
    dims = data["rho"].dims if "rho" in data else ()  # the store may hold anything
    asked = {n: v for n, v in data.attrs.items() if n not in ANSWER}
    grid = {str(n): data[n].values.tolist() for n in dims}
    computed = sorted(str(n) for n, v in data.data_vars.items() if v.dims == dims)
    text = json.dumps([asked, list(grid), grid, computed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _computed_once(files: Files, part: Plan, box: Box) -> dict[str, NDArray[Any]]:
    """Compute a chunk on a worker, unless another one wrote it and died before it could answer."""
    import zarr

    shared = files.owner() == (files.name, files.revision)
    if shared and files.state(box):
        group = zarr.open_group(files.path, mode="r")
        return {n: np.asarray(a[box]) for n, a in group.arrays() if n in part.names}
    data = part.values()
    if shared:
        files.keep(box, data)
    return data


def _close(files: Files) -> None:
    """Add what is known at the end: undefined points, version, and boundaries of a plane."""
    import xarray as xr

    if files.is_closed():
        return
    files.open_again()
    data = _open(files.path)
    curves = boundaries(data) if len(data["rho"].dims) == 2 else {}
    about = {"undefined": undefined(data), "sigprop_version": __version__}
    files.close(encoded(xr.Dataset(curves)), about)
