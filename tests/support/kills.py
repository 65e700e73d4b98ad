"""Work that is killed at a random moment and goes on, in processes of its own.

They are forked from a server without threads: a process that has them, as one that stored a grid
does, must not be forked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import xarray as xr

from sigprop import Execution, ModelSpec
from sigprop.simulation import simulate
from sigprop.studies.figures import FIGURES, Figure
from sigprop.studies.figures.common import Lab, beside

SMALL = ModelSpec(depth=2, context=16, width=16, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
AXES = {"beta": np.linspace(0, 2, 8), "alpha_attn": np.linspace(0.5, 2, 9)}


def simulated(folder: Path) -> bytes:
    found = simulate(SMALL, 12, execution=Execution(folder=folder))
    return b"".join(values.tobytes() for values in found.samples.values())


def drawn(folder: Path) -> bytes:
    import sigprop.propagation.grids  # noqa: F401
    from sigprop.analysis.diagram.zarr_store import diagram_store

    sys.modules["sigprop.propagation.points"].CHUNK = 10
    spec = ModelSpec(depth=12, context="inf", beta=1, sigma_v2=0.5, sigma_w2=0.5, rho0=0.1)
    data = diagram_store(spec, folder / "d.zarr", theory="limit", **AXES).load()
    return b"".join(data[name].values.tobytes() for name in sorted(map(str, data.variables)))


def trained(folder: Path) -> bytes:
    import torch

    from sigprop.torch.training.config import Plan
    from sigprop.torch.training.corpus import Corpus
    from sigprop.torch.training.train import train

    torch.set_num_threads(1)
    draws = np.random.default_rng(0).integers(5, 16, (40, 8))
    spec = SMALL.replace(context=8, depth=1)
    text = Corpus(draws[:30], draws[30:], 16, "", "draws", "")
    run = train(spec, text, Plan(steps=30, every=3), folder, device="cpu")
    return repr((run.loss, run.gain)).encode() + b"".join(v.tobytes() for v in run.log.values())


def reproduced(folder: Path) -> bytes:
    from sigprop.studies.reproduce import reproduce

    FIGURES["kills"] = Figure("kills", "Kills", "", _data, _draw, lambda data: ["none"])
    reproduce(["kills"], Lab(quick=True), folder)
    return b"".join((folder / f"kills.{ending}").read_bytes() for ending in ("nc", "json"))


def _data(lab: Lab) -> xr.Dataset:
    (found,) = lab.measure([SMALL], 8, "kills")
    attributes = {"seeds": 8, "random_numbers": "numpy"}
    return xr.Dataset(beside("rho", ("layer",), found, {}), attrs=attributes)


def _draw(data: xr.Dataset):
    from sigprop.plotting import panels

    figure, ((axes,),) = panels(1)
    axes.plot(data["rho"])
    return figure


WORK: dict[str, Callable[[Path], bytes]] = {
    "simulate": simulated, "diagram": drawn, "train": trained, "reproduce": reproduced,
}  # fmt: skip


SERVER = get_context("forkserver")
SERVER.set_forkserver_preload([__name__])


def worked(name: str, folder: Path, answer: Path) -> None:
    answer.write_bytes(WORK[name](folder))


def started(name: str, folder: Path, answer: Path) -> BaseProcess:
    """Do work in a process of its own, with its answer in a file."""
    process = SERVER.Process(target=worked, args=(name, folder, answer))
    process.start()
    return process


def ended(process: BaseProcess) -> None:
    process.join()
    assert process.exitcode == 0


def killed(name: str, times: int, seed: int, folder: Path, told=lambda line: None) -> int:
    """Kill work before its end, at random moments, and let it go on; count these kills."""
    rng = np.random.default_rng(seed)
    expected = folder / f"{name}.whole"
    for first in (True, False):  # the first time caches are cold
        start = time.monotonic()
        (folder / f"whole-{name}-{first}").mkdir()
        ended(started(name, folder / f"whole-{name}-{first}", expected))
        lasts = time.monotonic() - start
    cut = 0
    for i in range(4 * times):
        place, answer = folder / f"{name}-{i}", folder / f"{name}-{i}.answer"
        place.mkdir()
        process = started(name, place, answer)
        time.sleep(rng.uniform(0, lasts))
        process.kill()
        process.join()
        if answer.exists():
            lasts *= 0.8  # it had ended: the machine is faster now
            continue
        cut += 1
        left = len(leftovers(place))
        ended(started(name, place, answer))
        assert answer.read_bytes() == expected.read_bytes(), (name, i)
        assert leftovers(place) == [], (name, i)
        told(f"{name} {i}: killed before its end {cut}, leftovers cleared {left}")
        if cut == times:
            break
    return cut


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix in (".tmp", ".partial")]
