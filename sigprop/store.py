"""Work in cells: each finished cell is on disk, whole, before the next; a second run continues."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sigprop.distribute import THREADS, kept_words, spread
from sigprop.errors import DomainError, UnfinishedError
from sigprop.validate import count
from sigprop.version import __version__

__all__ = ["Arrays", "Job", "gather"]

Arrays = dict[str, NDArray[Any]]


class Job(NamedTuple):
    """A piece of work: a function at module level, and arguments that say all about the result.

    Attributes
    ----------
    function : callable
        From the arguments to a dict of arrays.
    arguments : dict
        JSON values and arrays; the seed is one of them.

    Examples
    --------
    >>> from sigprop.store import Job
    >>> def square(x): return {"y": x * x}
    >>> len(Job(square, {"x": 3}).key)
    32
    """

    function: Callable[..., Arrays]
    arguments: dict[str, Any]

    @property
    def key(self) -> str:
        """Name under which the result is kept: a digest of function, arguments and version."""
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        text = json.dumps([__version__, name, self.arguments], sort_keys=True, default=_digest)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest(value: Any) -> str:
    values = np.ascontiguousarray(value)
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()


def gather(
    jobs: list[Job],
    folder: Path | None = None,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    scheduler: str | None = None,
) -> list[Arrays]:
    """Results of all jobs, those that a folder holds already included.

    On a cluster a worker writes what it finishes where it sees the folder, before it answers: then
    a client that is killed loses nothing. What is not in the folder by then, because the worker's
    machine does not share it, the client writes before the job counts as done.

    Parameters
    ----------
    jobs : list of Job
        What to do.
    folder : Path, optional
        Where results are kept, one file a job, written whole or not at all.
    workers : int
        Processes, in [1, 1024]; each uses one thread of the linear algebra library.
    progress : callable, optional
        Called with 1 after each job.
    scheduler : str, optional
        Address of a dask scheduler whose workers do the jobs, or "local" for a dask cluster of
        `workers` processes. Results are those of one process with one thread, bit for bit, on
        machines with the same processors and libraries.

    Returns
    -------
    list of dict of str to array
        In the order of the jobs.

    Raises
    ------
    DomainError
        If the folder cannot be written, or no scheduler answers.
    UnfinishedError
        If the cluster is lost; it says how many jobs are kept.

    Examples
    --------
    >>> from sigprop.store import Job, gather
    >>> def square(x): return {"y": x * x}
    >>> gather([Job(square, {"x": 3}), Job(square, {"x": 4})])
    [{'y': 9}, {'y': 16}]
    """
    count("workers", workers, 1, 1024)
    told = progress or (lambda _: None)
    if folder is not None:
        _make(folder)
    found = {i: kept for i, job in enumerate(jobs) if (kept := _kept(job, folder)) is not None}
    told(len(found))
    todo = [i for i in range(len(jobs)) if i not in found]
    if scheduler is not None and todo:
        _spread(jobs, todo, folder, workers, scheduler, found, told)
    elif workers == 1 or not todo:  # one job too runs in a process: threads change the last digits
        for i in todo:
            found[i] = _done(jobs[i], folder)
            told(1)
    else:
        _pooled(jobs, todo, folder, min(workers, len(todo)), found, told)
    return [found[i] for i in range(len(jobs))]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"a folder that can be made ({error.strerror})"
        raise DomainError("folder", str(folder), words) from None


def _kept(job: Job, folder: Path | None) -> Arrays | None:
    """Read a result from disk, or None; a file that cannot be read is computed again."""
    if folder is None:
        return None
    try:
        with _place(job, folder).open("rb") as file:
            with np.load(file, allow_pickle=False) as stored:
                return dict(stored)
    except (OSError, ValueError, EOFError, BadZipFile):
        return None


def _done(job: Job, folder: Path | None) -> Arrays:
    out = job.function(**job.arguments)
    if folder is not None:
        _keep(job, folder, out)
    return out


def _place(job: Job, folder: Path) -> Path:
    return folder / f"{job.key}.npz"


def _keep(job: Job, folder: Path, out: Arrays) -> None:
    temporary = folder / f".{job.key}.{platform.node()}.{os.getpid()}.tmp"
    with temporary.open("wb") as file:
        np.savez(file, **out)  # type: ignore[arg-type]  # allow_pickle is a keyword of its own
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(_place(job, folder))


def _spread(
    jobs: list[Job],
    todo: list[int],
    folder: Path | None,
    workers: int,
    scheduler: str,
    found: dict[int, Arrays],
    told: Callable[[int], None],
) -> None:
    """Run jobs on a dask cluster."""
    where = None if folder is None else folder.resolve()  # workers start in folders of their own
    names = {f"{jobs[i].function.__qualname__}-{i}-{jobs[i].key}": i for i in todo}

    def done(name: str, out: Arrays) -> None:
        i = names[name]
        if where is not None and not _place(jobs[i], where).exists():
            _keep(jobs[i], where, out)
        found[i] = out
        told(1)

    try:
        tasks = {name: (jobs[i], where) for name, i in names.items()}
        spread(_done_once, tasks, done, scheduler, workers)
    except UnfinishedError as error:
        kept = 0 if where is None else sum(_place(job, where).exists() for job in jobs)
        raise UnfinishedError(f"{error}; {kept_words(kept, len(jobs), folder)}") from None


def _done_once(job: Job, folder: Path | None) -> Arrays:
    """Do a job on a worker, unless another worker kept it and died before it could answer."""
    if (kept := _kept(job, folder)) is not None:
        return kept
    out = _done(job, None)
    if folder is not None:
        with suppress(OSError):  # this machine does not have the folder: the client writes
            _keep(job, folder, out)
    return out


def _pooled(
    jobs: list[Job],
    todo: list[int],
    folder: Path | None,
    workers: int,
    found: dict[int, Arrays],
    told: Callable[[int], None],
) -> None:
    """Run jobs in fresh processes, one thread each: products are as fast, and all cores busy."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by a process when it starts
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _follow, (os.getpid(),))
    try:
        waiting = {pool.submit(_done, jobs[i], folder): i for i in todo}
        for future in as_completed(waiting):
            found[waiting[future]] = future.result()
            told(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _follow(parent: int) -> None:
    """End this process when its parent has ended, even by a signal that nobody can catch."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
