"""Work on a dask cluster: the digits of a serial run; nothing lost or done twice when killed."""

import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from cluster import Cluster, counts, deadly, environment, noted, product, refused, wait_for

from sigprop import Execution, ModelSpec, __version__
from sigprop.cli import app
from sigprop.core.errors import AssumptionError, DomainError, MissingExtraError, UnfinishedError
from sigprop.core.jobs.cache import Job, gather
from sigprop.core.jobs.cluster import THREADS, _checked, _edition, spread
from sigprop.core.version import REVISIONS
from sigprop.simulation import simulate

SERIAL = """
import json
from pathlib import Path
from cluster import product
from sigprop import Execution, ModelSpec
from sigprop.cli import app
from sigprop.simulation import simulate
from sigprop.core.jobs.cache import Job, gather
how = Execution(folder=Path({folder!r}))
gather([Job(product, {{"x": x}}) for x in range(3)], how)
simulate(ModelSpec.from_dict(json.loads({spec!r})), 4, execution=how)
"""
CLIENT = """
from pathlib import Path
from cluster import noted
from sigprop import Execution
from sigprop.core.jobs.cache import Job, gather
jobs = [Job(noted, {{"x": x, "notes": {notes!r}, "pause": {pause}}}) for x in range({number})]
gather(jobs, Execution(2, Path({folder!r}), {scheduler!r}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def work(notes, number, pause):
    return [Job(noted, {"x": x, "notes": str(notes), "pause": pause}) for x in range(number)]


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["y"], other["y"], strict=True)


def test_results_are_those_of_a_serial_run(cluster, tmp_path):
    """Bit for bit: products whose digits would change with threads, and a simulation."""
    spec = ModelSpec(depth=4, context=128, width=256, heads=4, beta=1.5, sigma_v2=1, sigma_w2=2,
                       rho0=0.1)  # fmt: skip
    serial = SERIAL.format(spec=json.dumps(spec.to_dict()), folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", serial], env=environment(), check=True)
    jobs = [Job(product, {"x": x}) for x in range(3)]
    there, kept = Execution(scheduler=cluster.address), Execution(folder=tmp_path)
    same(gather(jobs, there), gather(jobs, kept))
    found = simulate(spec, 4, execution=there)
    expected = simulate(spec, 4, execution=kept)  # reads what the serial run kept
    for name, values in expected.samples.items():
        np.testing.assert_array_equal(found.samples[name], values, strict=True)


def test_a_local_cluster(notes, tmp_path):
    jobs = work(notes, 6, 0)
    found = gather(jobs, Execution(2, tmp_path / "cells", "local"))
    assert set(counts(notes).values()) == {1}
    same(found, gather(jobs))
    told = []
    again = gather(jobs, Execution(2, tmp_path / "cells", "local", told.append))
    assert sum(told) == 6
    assert set(counts(notes).values()) == {2}  # the serial run alone
    same(again, found)


def test_a_killed_worker(tmp_path, notes):
    """Its cell goes to the other worker; what it had kept is not computed again."""
    jobs = work(notes, 12, 0.2)
    with Cluster(tmp_path) as own:
        killed = []

        def kill(_):
            if len(list((tmp_path / "cells").glob("*.npz"))) >= 4 and not killed:
                own.workers[0].kill()
                killed.append(True)

        found = gather(jobs, Execution(1, tmp_path / "cells", own.address, kill))
    assert killed
    begun = counts(notes)
    assert len(begun) == 12
    assert sum(begun.values()) <= 13  # at most the one cell that was under way
    same(found, gather(jobs, Execution(folder=tmp_path / "cells")))


def test_a_killed_scheduler(tmp_path, notes):
    jobs = work(notes, 12, 0.2)
    folder = tmp_path / "cells"
    with Cluster(tmp_path) as own:

        def end(_):
            if len(list(folder.glob("*.npz"))) >= 4:
                own.scheduler.kill()

        with pytest.raises(UnfinishedError, match=r"was lost; \d+ of 12 cells are kept in .*cells"):
            gather(jobs, Execution(1, folder, own.address, end))
        for worker in own.workers:  # without a scheduler they end themselves
            worker.wait(120)
    durable = {x for x, job in enumerate(jobs) if (folder / f"{job.key}.npz").exists()}
    assert 4 <= len(durable) < 12
    before = counts(notes)
    with Cluster(tmp_path) as own:
        found = gather(jobs, Execution(1, folder, own.address))
    after = counts(notes)
    assert all(after[x] == before[x] for x in durable)
    same(found, gather(jobs, Execution(folder=folder)))


def test_a_killed_client(tmp_path, notes, cluster):
    number, pause, folder = 12, 0.3, tmp_path / "cells"
    script = CLIENT.format(notes=str(notes), pause=pause, number=number, folder=str(folder),
                           scheduler=cluster.address)  # fmt: skip
    client = subprocess.Popen([sys.executable, "-c", script], env=environment())
    wait_for(lambda: len(list(folder.glob("*.npz"))) >= 4)
    client.kill()
    client.wait()
    jobs = work(notes, number, pause)
    durable = {x for x, job in enumerate(jobs) if (folder / f"{job.key}.npz").exists()}
    assert 4 <= len(durable) < number
    found = gather(jobs, Execution(1, folder, cluster.address))
    begun = counts(notes)
    assert all(begun[x] == 1 for x in durable)
    assert sum(begun.values()) <= number + 2  # at most what was under way
    same(found, gather(jobs, Execution(folder=folder)))


def test_a_killed_client_takes_its_local_cluster_with_it(tmp_path, notes):
    folder = tmp_path / "cells"
    script = CLIENT.format(notes=str(notes), pause=0.2, number=200, folder=str(folder),
                           scheduler="local")  # fmt: skip
    guard = f"if __name__ == '__main__':\n    exec({script!r})"
    (tmp_path / "client.py").write_text(guard)
    client = subprocess.Popen([sys.executable, str(tmp_path / "client.py")], env=environment())
    wait_for(lambda: len(list(folder.glob("*.npz"))) >= 2)
    client.kill()
    client.wait()
    pids = {int(pid) for file in notes.iterdir() for pid in file.read_text().split()}
    wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_does_not_share_the_folder(tmp_path, notes, cluster, monkeypatch):
    """The client writes what workers cannot: here they are told of a folder they do not see."""
    from sigprop.core.jobs import cache as store

    monkeypatch.setattr(store, "spread", lambda call, tasks, *rest: spread(
        call, {n: (job, tmp_path / "elsewhere") for n, (job, _) in tasks.items()}, *rest
    ))  # fmt: skip
    jobs = work(notes, 3, 0)
    found = gather(jobs, Execution(1, tmp_path / "cells", cluster.address))
    assert len(list((tmp_path / "cells").glob("*.npz"))) == 3
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.undo()
    same(found, gather(jobs, Execution(folder=tmp_path / "cells")))
    assert set(counts(notes).values()) == {1}


def test_a_job_that_kills_its_workers_is_named(tmp_path):
    with Cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as own:
        how, words = Execution(1, tmp_path / "cells", own.address), r"ended 2 workers.*0 of 1"
        with pytest.raises(UnfinishedError, match=rf"cell simulation\.deadly-0-.* {words}"):
            gather([Job(deadly, {"x": 0})], how)


def test_an_error_keeps_its_name(cluster):
    with pytest.raises(DomainError, match="x = 7 is not admissible: expected a number"):
        gather([Job(refused, {"x": 7})], Execution(scheduler=cluster.address))


def test_workers_with_several_threads_or_another_version_are_refused(monkeypatch):
    for name in THREADS:
        monkeypatch.setenv(name, "1")
    here = _edition()
    assert _checked(here, pow, 2, 3) == 8
    with pytest.raises(AssumptionError, match=rf"a worker has sigprop {__version__} \(theory"):
        _checked("0.0", pow, 2, 3)
    monkeypatch.setitem(REVISIONS, "theory", REVISIONS["theory"] + 1)  # of the same version
    with pytest.raises(AssumptionError, match=rf"a worker has .*, not {re.escape(here)}"):
        _checked(here, pow, 2, 3)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with pytest.raises(AssumptionError, match="OPENBLAS_NUM_THREADS=1"):
        _checked(_edition(), pow, 2, 3)


def test_a_cluster_without_workers(tmp_path, notes, monkeypatch):
    monkeypatch.setattr("sigprop.core.jobs.cluster.PATIENCE", 1)
    with Cluster(tmp_path, 0) as own:
        with pytest.raises(UnfinishedError, match="no worker for 1 s; nothing is kept"):
            gather(work(notes, 1, 0), Execution(scheduler=own.address))


@pytest.mark.parametrize("address", ["nonsense", "foo://x:1", "127.0.0.1:x", "127.0.0.1:1", ""])
def test_an_address_where_nobody_answers(address, notes, monkeypatch):
    monkeypatch.setattr("sigprop.core.jobs.cluster.ANSWER", 1)
    with pytest.raises(DomainError, match=r"scheduler = .* HOST:PORT"):
        gather(work(notes, 1, 0), Execution(scheduler=address))
    assert counts(notes) == {}


def test_without_the_extra(notes, monkeypatch):
    monkeypatch.setattr("sigprop.core.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--scheduler needs dask.*\.\[distributed\]"):
        gather(work(notes, 1, 0), Execution(scheduler="local"))
    same(gather(work(notes, 1, 0)), gather(work(notes, 1, 0)))


@pytest.mark.parametrize(
    "error", [DomainError("x", [1, 2], "a number"), MissingExtraError("a", "b", "c")]
)
def test_errors_travel_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


SMALL = {"depth": 2, "context": 32, "width": 32, "beta": 1, "sigma_v2": 1, "sigma_w2": 1, "rho0": 0}


@pytest.mark.parametrize("command", [
    ["simulate", "s.json", "--seeds", "3"],
    ["kernel", "s.json", "--draws", "3", "--blocks", "4"],
    ["validate", "s.json", "--seeds", "3"],
])  # fmt: skip
def test_commands(command, cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps(SMALL))
    found = []
    for options in (["--scheduler", cluster.address], ["--workers", "1"]):
        monkeypatch.setattr(sys, "argv", ["sigprop", *command, "--json", *options])
        with pytest.raises(SystemExit) as left:
            app.main()
        assert left.value.code == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] != ""
    monkeypatch.setattr(sys, "argv", ["sigprop", *command, "--scheduler", "nonsense"])
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("sigprop: error: scheduler = 'non")
