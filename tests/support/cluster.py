"""A dask cluster in processes of its own, to be killed; and jobs that note when they compute."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sigprop.core.jobs.cache import job

TESTS = Path(__file__).parents[1]
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


@job("simulation.noted")
def noted(x, notes, pause):
    """Job: numbers of a seed, noted in a file before it begins."""
    with open(Path(notes) / str(x), "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(pause)
    return {"y": np.random.default_rng(x).standard_normal((20, 20)).astype(np.float32)}


@job("simulation.product")
def product(x):
    """Job whose last digits change with the threads of the library (two of them: measured)."""
    draws = np.random.default_rng(x).standard_normal((300, 300))
    return {"y": draws @ draws.T}


@job("simulation.deadly")
def deadly(x):
    """Job that ends its worker."""
    os.kill(os.getpid(), signal.SIGKILL)


@job("simulation.refused")
def refused(x):
    """Job that refuses its argument."""
    from sigprop.core.errors import DomainError

    raise DomainError("x", x, "a number")


def counts(notes):
    """How often each cell was begun."""
    return {int(p.name): len(p.read_text().splitlines()) for p in Path(notes).iterdir()}


def environment(**extra):
    path = os.pathsep.join([str(TESTS), *sys.path])
    return os.environ | ONE_THREAD | {"PYTHONPATH": path} | extra


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class Cluster:
    """A scheduler and workers without nannies."""

    def __init__(self, folder, workers=2, **env):
        self.folder, self.env, self.processes = Path(folder), environment(**env), []
        file = self.folder / f"scheduler.{time.monotonic_ns()}.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1",
                                     "--no-dashboard", "--scheduler-file", str(file))  # fmt: skip
        self.file = file
        self.workers = [self.add() for _ in range(workers)]
        wait_for(lambda: file.exists() and file.read_text())  # it is not written at once

    @property
    def address(self):
        import json

        return json.loads(self.file.read_text())["address"]

    def add(self):
        return self._start("worker", "--scheduler-file", str(self.file), "--nthreads", "1",
                           "--no-nanny", "--no-dashboard", "--death-timeout", "300",
                           "--local-directory", str(self.folder))  # fmt: skip

    def _start(self, kind, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=self.env, cwd=self.folder, **quiet)
        self.processes.append(process)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
