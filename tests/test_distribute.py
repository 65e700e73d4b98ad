"""Work on a dask cluster: the digits of a serial run; nothing lost or done twice when killed."""

import json
import subprocess
import sys

import numpy as np
import pytest

from sigprop import Transformer
from sigprop.distribute import spread
from sigprop.errors import AssumptionError, DomainError, UnfinishedError
from sigprop.simulate import simulate
from sigprop.store import Job, gather

pytest.importorskip("distributed")

from cluster import Cluster, counts, deadly, environment, noted, refused, wait_for

SERIAL = """
import json
from pathlib import Path
from sigprop import Transformer
from sigprop.simulate import simulate
simulate(Transformer.from_dict(json.loads({spec!r})), 4, workers=1, folder=Path({folder!r}))
"""
CLIENT = """
from pathlib import Path
from cluster import noted
from sigprop.store import Job, gather
jobs = [Job(noted, {{"x": x, "notes": {notes!r}, "pause": {pause}}}) for x in range({number})]
gather(jobs, Path({folder!r}), 2, None, {scheduler!r})
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


def test_results_of_a_simulation_are_those_of_a_serial_run(cluster, tmp_path):
    """Networks wide enough that several threads give other digits; the serial run has one."""
    spec = Transformer(depth=4, context=128, width=256, heads=4, beta=1.5, sigma_v2=1, sigma_w2=2,
                       rho0=0.1)  # fmt: skip
    serial = SERIAL.format(spec=json.dumps(spec.to_dict()), folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", serial], env=environment(), check=True)
    found = simulate(spec, 4, scheduler=cluster.address)
    expected = simulate(spec, 4, folder=tmp_path)  # reads what the serial run kept
    for name, values in expected.samples.items():
        np.testing.assert_array_equal(found.samples[name], values, strict=True)


def test_a_local_cluster(notes, tmp_path):
    jobs = work(notes, 6, 0)
    found = gather(jobs, tmp_path / "cells", 2, None, "local")
    assert set(counts(notes).values()) == {1}
    same(found, gather(jobs))
    told = []
    again = gather(jobs, tmp_path / "cells", 2, told.append, "local")
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

        found = gather(jobs, tmp_path / "cells", 1, kill, own.address)
    assert killed
    begun = counts(notes)
    assert len(begun) == 12
    assert sum(begun.values()) <= 13  # at most the one cell that was under way
    same(found, gather(jobs, tmp_path / "cells"))


def test_a_killed_scheduler(tmp_path, notes):
    jobs = work(notes, 12, 0.2)
    folder = tmp_path / "cells"
    with Cluster(tmp_path) as own:
        end = lambda _: own.scheduler.kill() if len(list(folder.glob("*.npz"))) >= 4 else None  # noqa: E731
        with pytest.raises(UnfinishedError, match=r"was lost; \d+ of 12 cells are kept in .*cells"):
            gather(jobs, folder, 1, end, own.address)
        for worker in own.workers:  # without a scheduler they end themselves
            worker.wait(30)
    durable = {x for x, job in enumerate(jobs) if (folder / f"{job.key}.npz").exists()}
    assert 4 <= len(durable) < 12
    before = counts(notes)
    with Cluster(tmp_path) as own:
        found = gather(jobs, folder, 1, None, own.address)
    after = counts(notes)
    assert all(after[x] == before[x] for x in durable)
    same(found, gather(jobs, folder))


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
    found = gather(jobs, folder, 1, None, cluster.address)
    begun = counts(notes)
    assert all(begun[x] == 1 for x in durable)
    assert sum(begun.values()) <= number + 2  # at most what was under way
    same(found, gather(jobs, folder))


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
    wait_for(lambda: not any(alive(pid) for pid in pids), 30)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_does_not_share_the_folder(tmp_path, notes, cluster, monkeypatch):
    """The client writes what workers cannot: here they are told of a folder they do not see."""
    from sigprop import store

    monkeypatch.setattr(store, "spread", lambda call, tasks, *rest: spread(
        call, {n: (job, tmp_path / "elsewhere") for n, (job, _) in tasks.items()}, *rest
    ))  # fmt: skip
    jobs = work(notes, 3, 0)
    found = gather(jobs, tmp_path / "cells", 1, None, cluster.address)
    assert len(list((tmp_path / "cells").glob("*.npz"))) == 3
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.undo()
    same(found, gather(jobs, tmp_path / "cells"))
    assert set(counts(notes).values()) == {1}


def test_a_job_that_kills_its_workers_is_named(tmp_path):
    with Cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as own:
        with pytest.raises(UnfinishedError, match=r"cell deadly-0-.* ended 2 workers.*0 of 1"):
            gather([Job(deadly, {"x": 0})], tmp_path / "cells", 1, None, own.address)


def test_an_error_keeps_its_name(cluster):
    with pytest.raises(DomainError, match="x = 7 is not admissible: expected a number"):
        gather([Job(refused, {"x": 7})], None, 1, None, cluster.address)


def test_workers_with_several_threads_are_refused(tmp_path, notes):
    with Cluster(tmp_path, 1, OPENBLAS_NUM_THREADS="2") as own:
        with pytest.raises(AssumptionError, match="OPENBLAS_NUM_THREADS=1"):
            gather(work(notes, 1, 0), None, 1, None, own.address)
    assert counts(notes) == {}


def test_a_cluster_without_workers(tmp_path, notes, monkeypatch):
    monkeypatch.setattr("sigprop.distribute.PATIENCE", 1)
    with Cluster(tmp_path, 0) as own:
        with pytest.raises(UnfinishedError, match="no worker for 1 s; nothing is kept"):
            gather(work(notes, 1, 0), None, 1, None, own.address)


@pytest.mark.parametrize("address", ["nonsense", "foo://x:1", "127.0.0.1:x", "127.0.0.1:1", ""])
def test_an_address_where_nobody_answers(address, notes, monkeypatch):
    monkeypatch.setattr("sigprop.distribute.ANSWER", 1)
    with pytest.raises(DomainError, match="scheduler = .* HOST:PORT"):
        gather(work(notes, 1, 0), None, 1, None, address)
    assert counts(notes) == {}
