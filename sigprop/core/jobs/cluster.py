"""Work on a dask cluster: tasks go out to its workers, results come back as they are finished."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from sigprop.core.checks import count
from sigprop.core.errors import AssumptionError, DomainError, SigpropError, UnfinishedError, need
from sigprop.core.files import note
from sigprop.core.version import REVISIONS, __version__

__all__ = ["LOCAL", "THREADS", "kept_said", "spread"]

LOCAL = "local"  # in place of an address: a cluster of our own, for as long as the work lasts
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ANSWER = 10.0  # seconds for a scheduler to answer at first
STALL = 60.0  # seconds that a busy one may be silent
PATIENCE = 60.0  # seconds without any worker
DASHBOARD = "127.0.0.1:0"  # any free port of this machine alone; None would ask for 8787
SILENT = logging.CRITICAL + 1
SETTINGS = {"distributed.admin.large-graph-warning-threshold": "1TB"}  # arguments hold kernels


def spread(
    function: Callable[..., Any],
    tasks: dict[str, tuple[Any, ...]],
    done: Callable[[str, Any], None],
    scheduler: str,
    workers: int = 1,
) -> None:
    """Call a function with each set of arguments, on the workers of a dask cluster.

    A task whose worker dies goes to another one; the scheduler gives it up after as many deaths as
    its setting `distributed.scheduler.allowed-failures` says (3, and a fourth ends it). An error of
    one task, an interrupt or the loss of the scheduler drops all tasks that have not begun.

    Parameters
    ----------
    function : callable
        At module level, importable by the workers.
    tasks : dict of str to tuple
        Arguments of each call, by a name that is the same in a second run.
    done : callable
        Called here with name and result, once for each task, in the order of completion.
    scheduler : str
        HOST:PORT of a running scheduler, or "local" for worker processes on this machine.
    workers : int
        Processes of a local cluster, in [1, 1024]; an address has workers of its own.

    Raises
    ------
    MissingExtraError
        If dask is not installed.
    DomainError
        If no scheduler answers at the address, or its workers cannot import the function.
    AssumptionError
        If a worker has another version of sigprop, or uses several threads of the linear algebra
        library, which change the last digits.
    UnfinishedError
        If the scheduler is lost, has no worker for a minute, or gives a task up.

    Examples
    --------
    >>> from sigprop.core.jobs.cluster import spread
    >>> def square(x): return x * x
    >>> def show(name, value): print(name, value)
    >>> spread(square, {}, show, "nowhere")  # no tasks, no cluster
    """
    if not tasks:
        return
    need("--scheduler", "distributed", "dask", "distributed")
    with _client(scheduler, workers) as client:
        ended: SimpleQueue[Any] = SimpleQueue()
        futures = {}  # a task is wanted for as long as its future is held
        call = partial(_checked, _edition(), function)
        for name, arguments in tasks.items():
            futures[name] = client.submit(call, *arguments, key=name)
            futures[name].add_done_callback(ended.put)
        while futures:
            future = _next(client, ended, scheduler)
            done(future.key, _result(future, scheduler))
            del futures[future.key]


@contextmanager
def kept_said(kept: Callable[[], int], total: int, folder: object) -> Iterator[None]:
    """Let what ends a work say what of it is kept, and how to go on.

    Parameters
    ----------
    kept : callable
        Counts the cells that are on disk.
    total : int
        All cells.
    folder : object
        Where they are kept; None is nowhere.

    Raises
    ------
    UnfinishedError
        The one that ended the work, in its own words and these.

    Examples
    --------
    >>> from sigprop.core.errors import UnfinishedError
    >>> from sigprop.core.jobs.cluster import kept_said
    >>> with kept_said(lambda: 3, 8, "cells"):
    ...     raise UnfinishedError("the scheduler was lost")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.UnfinishedError: the scheduler was lost; 3 of 8 cells are kept in cells: ...
    """
    try:
        yield
    except UnfinishedError as error:
        raise UnfinishedError(f"{error}; {_kept_words(kept(), total, folder)}") from None
    except BaseException as error:
        if number := kept():
            note(error, _kept_words(number, total, folder))
        raise


def _kept_words(kept: int, total: int, folder: object) -> str:
    if folder is None:
        return "nothing is kept without a folder (--keep)"
    return f"{kept} of {total} cells are kept in {folder}: the same call goes on from there"


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[Any]:
    """Connect to a cluster, and leave it without a trace, also when it is gone."""
    import dask
    from distributed import Client, LocalCluster

    with _quiet(), dask.config.set(SETTINGS):
        if scheduler == LOCAL:
            number = count("workers", workers, 1, 1024)
            alone = {"dashboard_address": DASHBOARD, "silence_logs": SILENT}
            with (
                LocalCluster(number, threads_per_worker=1, **alone) as cluster,
                Client(cluster, set_as_default=False) as client,
            ):
                client.register_worker_callbacks(_deaf)
                yield client
            return
        _answers(scheduler)
        client = Client(scheduler, timeout=ANSWER, set_as_default=False)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of dask off standard error: what matters there is raised here as an error."""
    handlers = logging.getLogger("distributed").handlers
    levels = [handler.level for handler in handlers]
    try:
        for handler in handlers:
            handler.setLevel(SILENT)
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _answers(scheduler: str) -> None:
    """Refuse an address where nobody answers, before a client is built that would try again."""
    import asyncio

    from distributed.comm import connect
    from distributed.security import Security

    async def greet() -> None:
        known = Security().get_connection_args("client")
        comm = await connect(scheduler, timeout=ANSWER, **known)
        await comm.close()

    try:
        asyncio.run(greet())
    except (OSError, ValueError, TypeError) as error:
        words = f"'{LOCAL}', or HOST:PORT of a running dask scheduler ({error})"
        raise DomainError("scheduler", scheduler, words) from None


def _next(client: Any, ended: SimpleQueue[Any], scheduler: str) -> Any:
    """Wait for a task to end, and see to it meanwhile that the cluster lives."""
    since = monotonic()
    while True:
        try:
            return ended.get(timeout=1.0)
        except Empty:
            if _workers(client, scheduler):
                since = monotonic()
            elif monotonic() - since > PATIENCE:
                words = f"the scheduler at {scheduler} has had no worker for {PATIENCE:.0f} s"
                raise UnfinishedError(words) from None


def _workers(client: Any, scheduler: str) -> int:
    try:
        if client.status == "running":
            return len(client.sync(client.scheduler.ncores, callback_timeout=STALL))
    except OSError:  # closed, or no answer in time
        pass
    raise _lost(scheduler)


def _lost(scheduler: str) -> UnfinishedError:
    return UnfinishedError(f"the scheduler at {scheduler} was lost")


def _result(future: Any, scheduler: str) -> Any:
    """Return what a task gave, or raise what ended it by its name."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return future.result()
    except SigpropError:
        raise
    except (CancelledError, OSError):
        if future.status == "error":  # the task's own
            raise
        raise _lost(scheduler) from None
    except KilledWorker as error:
        words = f"cell {future.key} ended {error.allowed_failures + 1} workers, one after another"
        raise UnfinishedError(words) from None
    except ImportError as error:
        words = f"workers that can import sigprop {__version__} and the work ({error})"
        raise DomainError("scheduler", scheduler, words) from None


def _deaf() -> None:
    """Leave an interrupt from the terminal, which reaches all processes, to the client."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _edition() -> str:
    """Version and revisions: those of a worker say under which names it keeps results."""
    revisions = ", ".join(f"{kind} {number}" for kind, number in REVISIONS.items())
    return f"{__version__} ({revisions})"


def _checked(edition: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a worker that gives the same digits as any other."""
    if edition != _edition():
        raise AssumptionError(f"a worker has sigprop {_edition()}, not {edition}")
    if not all(os.environ.get(name) == "1" for name in THREADS):
        words = "=1 ".join(THREADS) + "=1"
        raise AssumptionError(f"workers use one thread for products: start them with {words}")
    return function(*arguments)
