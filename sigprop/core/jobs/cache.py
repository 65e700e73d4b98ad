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
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigprop.core.checks import count
from sigprop.core.errors import DomainError, UnfinishedError
from sigprop.core.files import clear, note, read, seal, tell, unseal, write
from sigprop.core.jobs.cluster import THREADS, kept_words, spread
from sigprop.core.version import __version__

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
    edition : str
        What else the result depends on: the version of the package, unless the function states an
        edition of its own and so outlives versions that do not change its results.

    Examples
    --------
    >>> from sigprop.core.jobs.cache import Job
    >>> def square(x): return {"y": x * x}
    >>> len(Job(square, {"x": 3}).key)
    32
    """

    function: Callable[..., Arrays]
    arguments: dict[str, Any]
    edition: str = __version__

    @property
    def key(self) -> str:
        """Name under which the result is kept: a digest of function, arguments and edition."""
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        text = json.dumps([self.edition, name, self.arguments], sort_keys=True, default=_digest)
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

    Files are sealed with the job that they answer and a digest of their content. One that fails it
    (damaged, of another job, written by another program) is computed again, and standard error
    says so. What killed writers left half done in the folder is removed.

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
    >>> from sigprop.core.jobs.cache import Job, gather
    >>> def square(x): return {"y": x * x}
    >>> gather([Job(square, {"x": 3}), Job(square, {"x": 4})])
    [{'y': 9}, {'y': 16}]
    """
    count("workers", workers, 1, 1024)
    told = progress or (lambda _: None)
    found = {} if folder is None else _opened(jobs, folder)
    told(len(found))
    todo = [i for i in range(len(jobs)) if i not in found]
    try:
        if scheduler is not None and todo:
            _spread(jobs, todo, folder, workers, scheduler, found, told)
        elif workers == 1 or not todo:  # one job too runs in a process: threads change last digits
            for i in todo:
                found[i] = _done(jobs[i], folder)
                told(1)
        else:
            _pooled(jobs, todo, folder, min(workers, len(todo)), found, told)
    except BaseException as error:
        if folder is not None and (kept := _count(jobs, folder)):
            note(error, kept_words(kept, len(jobs), folder))
        raise
    return [found[i] for i in range(len(jobs))]


def _opened(jobs: list[Job], folder: Path) -> dict[int, Arrays]:
    """Make the folder, or read what of these jobs it holds."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"a folder that can be made ({error.strerror})"
        raise DomainError("folder", str(folder), words) from None
    clear(folder)
    found = {i: kept for i, job in enumerate(jobs) if (kept := _kept(job, folder)) is not None}
    failed = [job.key for i, job in enumerate(jobs) if i not in found and _is_there(job, folder)]
    for key in failed:  # so that from here on what is there is whole
        with suppress(OSError):
            (folder / f"{key}.npz").unlink(missing_ok=True)
    if failed:
        names = ", ".join(key[:8] for key in failed[:3]) + (", ..." if len(failed) > 3 else "")
        tell(f"{len(failed)} of {len(jobs)} cells in {folder} fail their checksum "
             f"and are computed again: {names}")  # fmt: skip
    return found


def _is_there(job: Job, folder: Path) -> bool:
    return os.path.lexists(_place(job, folder))


def _count(jobs: list[Job], folder: Path) -> int:
    """Count the jobs that are on disk."""
    return len({job.key for job in jobs if _is_there(job, folder)})


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
        if where is not None and not _is_there(jobs[i], where):
            _keep(jobs[i], where, out)
        found[i] = out
        told(1)

    try:
        tasks = {name: (jobs[i], where) for name, i in names.items()}
        spread(_done_once, tasks, done, scheduler, workers)
    except UnfinishedError as error:
        kept = 0 if where is None else _count(jobs, where)
        raise UnfinishedError(f"{error}; {kept_words(kept, len(jobs), folder)}") from None


def _done_once(job: Job, folder: Path | None) -> Arrays:
    """Do a job on a worker, unless another worker kept it and died before it could answer."""
    if (kept := _kept(job, folder)) is not None:
        return kept
    out = _done(job, None)
    if folder is not None:
        with suppress(DomainError):  # this machine does not have the folder: the client writes
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
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _follow, (os.getpid(),))
    try:
        with _starting():
            waiting = {pool.submit(_done, jobs[i], folder): i for i in todo}
        for future in as_completed(waiting):
            found[waiting[future]] = future.result()
            told(1)
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
