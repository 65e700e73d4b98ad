"""Work in cells: each finished cell is on disk, whole, before the next; a second run continues."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sigprop.core.errors import DomainError, UnfinishedError
from sigprop.core.files import clear, read, seal, tell, unseal, write
from sigprop.core.jobs.cluster import THREADS, kept_said, spread
from sigprop.core.jobs.execution import Execution
from sigprop.core.version import REVISIONS

__all__ = ["Arrays", "Job", "gather", "job"]

Arrays = dict[str, NDArray[Any]]
F = TypeVar("F", bound=Callable[..., Arrays])
MARK = "stable_name"  # attribute of a function: it travels with one that is pickled by value


def job(name: str) -> Callable[[F], F]:
    """Give a function the stable name under which its results are kept.

    Parameters
    ----------
    name : str
        KIND.WHAT, of no other function; the kind says whose revision voids the results: "theory",
        "simulation" or "training" (`sigprop.core.version.REVISIONS`).

    Returns
    -------
    callable
        Decorator of a function at module level, which may move.

    Raises
    ------
    DomainError
        If there is no such kind.

    Examples
    --------
    >>> from sigprop.core.jobs.cache import job
    >>> job("square")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: name = 'square' is not admissible: expected KIND.WHAT, ...
    """
    kind, _, what = name.partition(".")
    if kind not in REVISIONS or not what:
        words = "KIND.WHAT, the kind one of " + ", ".join(REVISIONS)
        raise DomainError("name", name, words)

    def named(function: F) -> F:
        setattr(function, MARK, name)
        return function

    return named


@dataclass(frozen=True, eq=False)
class Job:
    """A piece of work: a function at module level, and arguments that say all about the result.

    Attributes
    ----------
    function : callable
        From the arguments to a dict of arrays, with a stable name (`job`).
    arguments : dict
        JSON values and arrays; the seed is one of them.

    Examples
    --------
    >>> from sigprop.core.jobs.cache import Job, job
    >>> @job("theory.square")
    ... def square(x): return {"y": x * x}
    >>> Job(square, {"x": 3}).key[32:]
    '-17'
    """

    function: Callable[..., Arrays]
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """Stable name of the function."""
        name: str | None = getattr(self.function, MARK, None)
        if name is None:
            raise DomainError("function", self.function.__qualname__, "one with a name by `job`")
        return name

    @cached_property
    def question(self) -> str:
        """Digest of the stable name and the arguments."""
        text = json.dumps([self.name, self.arguments], sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def key(self) -> str:
        """Name under which the result is kept: the question, and the revision that answers it."""
        return f"{self.question}-{REVISIONS[self.name.partition('.')[0]]}"


def _plain(value: Any) -> Any:
    """Integers and flags of numpy as those of Python; of an array, a digest."""
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    values = np.ascontiguousarray(value)
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()


def gather(jobs: list[Job], execution: Execution | None = None) -> list[Arrays]:
    """Results of all jobs, those that a folder holds already included.

    Files are sealed with the job that they answer and a digest of their content. One that fails it
    (damaged, of another job, written by another program) is computed again, as is one of another
    revision, and standard error says so. What killed writers left half done is removed.

    On a cluster a worker writes what it finishes where it sees the folder, before it answers: then
    a client that is killed loses nothing. What is not in the folder by then, because the worker's
    machine does not share it, the client writes before the job counts as done.

    Parameters
    ----------
    jobs : list of Job
        What to do.
    execution : Execution, optional
        How; by default here, one after the other.

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
    >>> from sigprop.core.jobs.cache import Job, gather, job
    >>> @job("theory.square")
    ... def square(x): return {"y": x * x}
    >>> gather([Job(square, {"x": 3}), Job(square, {"x": 4})])
    [{'y': 9}, {'y': 16}]
    """
    how = execution or Execution()
    found = {} if how.folder is None else _opened(jobs, how.folder)
    how.tell(len(found))
    todo = {i: one for i, one in enumerate(jobs) if i not in found}

    def done(i: int, out: Arrays) -> None:
        found[i] = out
        how.tell(1)

    with kept_said(lambda: _count(jobs, how.folder), len(jobs), how.folder):
        if todo:
            _way(how)(todo, how, done)
    return [found[i] for i in range(len(jobs))]


Done = Callable[[int, Arrays], None]  # told of each job, by its place in the list, and its result


def _way(how: Execution) -> Callable[[dict[int, Job], Execution, Done], None]:
    """Choose who works; one job too runs in a process: threads change last digits."""
    if how.scheduler is not None:
        return _spread
    return _one_by_one if how.workers == 1 else _pooled


def _opened(jobs: list[Job], folder: Path) -> dict[int, Arrays]:
    """Make the folder, or read what of these jobs it holds."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"a folder that can be made ({error.strerror})"
        raise DomainError("folder", str(folder), words) from None
    clear(folder)
    found = {i: kept for i, job in enumerate(jobs) if (kept := _kept(job, folder)) is not None}
    missing = [job for i, job in enumerate(jobs) if i not in found]
    damaged = [job for job in missing if _is_there(job, folder)]
    _say_superseded(set(missing) - set(damaged), len(jobs), folder)
    if damaged:
        _remove(damaged, len(jobs), folder)
    return found


def _remove(damaged: list[Job], total: int, folder: Path) -> None:
    """Remove what fails its checksum: from here on what is there is whole."""
    for job in damaged:
        with suppress(OSError):
            _place(job, folder).unlink(missing_ok=True)
    names = ", ".join(job.key[:8] for job in damaged[:3]) + (", ..." if len(damaged) > 3 else "")
    tell(f"{len(damaged)} of {total} cells in {folder} fail their checksum "
         f"and are computed again: {names}")  # fmt: skip


def _say_superseded(missing: set[Job], total: int, folder: Path) -> None:
    """Say how many cells are there in another revision only."""
    there = set()
    with suppress(OSError):
        there = {entry.name.partition("-")[0] for entry in os.scandir(folder)}
    if number := sum(job.question in there for job in missing):
        tell(f"{number} of {total} cells in {folder} are of another revision "
             "and are computed again")  # fmt: skip


def _is_there(job: Job, folder: Path) -> bool:
    return os.path.lexists(_place(job, folder))


def _count(jobs: list[Job], folder: Path | None) -> int:
    """Count the jobs that are on disk."""
    return 0 if folder is None else len({job.key for job in jobs if _is_there(job, folder)})


def _kept(job: Job, folder: Path | None) -> Arrays | None:
    """Read a result from disk, or None; a file that is not this job's, whole, is computed again."""
    if folder is None:
        return None
    try:
        content = unseal(job.key, read(_place(job, folder)))
    except OSError:
        return None
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return dict(stored)


def _done(job: Job, folder: Path | None) -> Arrays:
    out = job.function(**job.arguments)
    if folder is not None:
        _keep(job, folder, out)
    return out


def _place(job: Job, folder: Path) -> Path:
    return folder / f"{job.key}.npz"


def _keep(job: Job, folder: Path, out: Arrays) -> None:
    file = io.BytesIO()
    np.savez(file, **out)  # type: ignore[arg-type]  # allow_pickle is a keyword of its own
    write(_place(job, folder), seal(job.key, file.getvalue()), "folder")


def _one_by_one(todo: dict[int, Job], how: Execution, done: Done) -> None:
    for i, job in todo.items():
        done(i, _done(job, how.folder))


def _spread(todo: dict[int, Job], how: Execution, done: Done) -> None:
    """Run jobs on a dask cluster."""
    assert how.scheduler is not None
    where = None if how.folder is None else how.folder.resolve()  # workers start in their own
    places = {f"{job.name}-{i}-{job.key}": i for i, job in todo.items()}

    def answered(name: str, out: Arrays) -> None:
        job = todo[places[name]]
        if where is not None and not _is_there(job, where):
            _keep(job, where, out)
        done(places[name], out)

    tasks = {name: (todo[i], where) for name, i in places.items()}
    spread(_done_once, tasks, answered, how.scheduler, how.workers)


def _done_once(job: Job, folder: Path | None) -> Arrays:
    """Do a job on a worker, unless another worker kept it and died before it could answer."""
    if (kept := _kept(job, folder)) is not None:
        return kept
    out = _done(job, None)
    if folder is not None:
        with suppress(DomainError):  # this machine does not have the folder: the client writes
            _keep(job, folder, out)
    return out


def _pooled(todo: dict[int, Job], how: Execution, done: Done) -> None:
    """Run jobs in fresh processes, one thread each: products are as fast, and all cores busy."""
    others, number = set(active_children()), min(how.workers, len(todo))
    pool = ProcessPoolExecutor(number, get_context("spawn"), _follow, (os.getpid(),))
    try:
        with _starting():
            waiting = {pool.submit(_done, job, how.folder): i for i, job in todo.items()}
        for future in as_completed(waiting):
            done(waiting[future], future.result())
    except BrokenExecutor:
        raise UnfinishedError("a worker process was ended from outside") from None
    except BaseException:
        for process in set(active_children()) - others:
            process.terminate()  # what they were at is not kept, and what is kept is whole
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _starting() -> Iterator[None]:
    """Let processes that start now inherit one thread, and no interrupt until they end by it."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by a process when it starts
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _follow(parent: int) -> None:
    """End this process on an interrupt, and when its parent has ended, even by a signal."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=watch, daemon=True).start()
