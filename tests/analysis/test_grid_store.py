"""Diagrams in a Zarr store: the numbers of the plain diagram; continued, not begun again."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from cluster import Cluster, wait_for

from sigprop import ModelSpec, diagram
from sigprop.analysis.diagram.fields import Plan
from sigprop.analysis.diagram.grid import load
from sigprop.analysis.diagram.zarr_store import UNKNOWN, diagram_store, open_store
from sigprop.cli import app
from sigprop.core.errors import DomainError, UnfinishedError
from sigprop.core.jobs.execution import Execution

SWEEP = sys.modules["sigprop.propagation.points"]
AXES = {"beta": np.linspace(0, 4, 23), "alpha_attn": np.linspace(0.3, 4, 29)}


@pytest.fixture(scope="module")
def spec():
    return ModelSpec(depth=12, context="inf", beta=1, sigma_v2=0.5, sigma_w2=0.5, rho0=0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(SWEEP, "CHUNK", 100)


def computed(monkeypatch):
    """Count the points that are computed here."""
    points, values = [], Plan.values

    def counted(plan, progress=None):
        points.append(int(np.prod(plan.wide.shape)))
        return values(plan, progress)

    monkeypatch.setattr(Plan, "values", counted)
    return points


@pytest.mark.parametrize("options", [{"theory": "limit"}, {"gradients": True, "entropy_min": 0.3}])
def test_a_store_is_the_plain_diagram(spec, tmp_path, options):
    spec = spec.replace(context=64)
    plain = diagram(spec, **options, **AXES)
    data = diagram_store(spec, tmp_path / "d.zarr", **options, **AXES)
    assert data.rho.chunks == ((3,) * 7 + (2,), (29,))
    xr.testing.assert_identical(data.load(), plain)


def test_a_store_made_by_a_cluster_is_the_plain_diagram(spec, tmp_path, cluster, monkeypatch):
    """The chunks come from the client; the workers write them; the client computes none."""
    spec = spec.replace(context=64)
    plain = diagram(spec, **AXES)
    points, told = computed(monkeypatch), []
    how = Execution(scheduler=cluster.address, progress=told.append)
    data = diagram_store(spec, tmp_path / "d.zarr", execution=how, **AXES)
    assert points == []
    assert sum(told) == plain.rho.size
    xr.testing.assert_identical(data.load(), plain)


def test_three_axes_and_one(spec, tmp_path):
    for number in (1, 3):
        names = ("beta", "alpha_attn", "rho0")[:number]
        axes = {n: np.linspace(0.1, 0.9, 4 + i) for i, n in enumerate(names)}
        plain = diagram(spec, **axes)
        xr.testing.assert_identical(diagram_store(spec, tmp_path / f"{number}.zarr", **axes), plain)


def test_an_interrupted_store_continues(spec, tmp_path, monkeypatch):
    path, points = tmp_path / "d.zarr", computed(monkeypatch)

    def interrupt(done):
        if len(points) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diagram_store(spec, path, execution=Execution(progress=interrupt), **AXES)
    half = open_store(path)
    assert int((half.regime != UNKNOWN).sum()) == sum(points) == 4 * 87
    assert int(half.rho.isnull().sum()) == half.rho.size - 4 * 87
    points.clear()
    told = []
    data = diagram_store(spec, path, execution=Execution(progress=told.append), **AXES)
    assert sum(points) == half.rho.size - 4 * 87
    assert sum(told) == half.rho.size
    monkeypatch.undo()
    monkeypatch.setattr(SWEEP, "CHUNK", 100)
    plain = diagram(spec, **AXES)
    xr.testing.assert_identical(data.load(), plain)
    again = computed(monkeypatch)
    xr.testing.assert_identical(diagram_store(spec, path, **AXES).load(), plain)
    assert again == []


def test_a_chunk_without_its_mark_is_computed_again(spec, tmp_path, monkeypatch):
    """As when a writer is killed before the last variable: the chunk counts as not begun."""
    path = tmp_path / "d.zarr"
    plain = diagram_store(spec, path, **AXES).load()
    (path / "regime" / "c" / "2" / "0").unlink()
    points = computed(monkeypatch)
    xr.testing.assert_identical(diagram_store(spec, path, **AXES).load(), plain)
    assert points == [87]


@pytest.mark.slow
def test_a_killed_scheduler(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(SWEEP, "CHUNK", 29)  # 23 chunks
    path = tmp_path / "d.zarr"
    with Cluster(tmp_path) as own:

        def end(done):
            if done:
                own.scheduler.kill()

        how = Execution(scheduler=own.address, progress=end)
        with pytest.raises(UnfinishedError, match=r"lost; \d+ of 23 cells are kept in .*d.zarr"):
            diagram_store(spec, path, execution=how, **AXES)
    assert 29 <= int((open_store(path).regime != UNKNOWN).sum()) < 23 * 29
    data = diagram_store(spec, path, **AXES)  # goes on here, without a cluster
    xr.testing.assert_identical(data.load(), diagram(spec, **AXES))


def test_a_killed_client(tmp_path):
    """Here without a cluster: what is computed in the killed process itself."""
    out, rest = tmp_path / "d.zarr", ["--x", "beta=0:4:2000", "--y", "alpha_attn=0.3:4:2000"]
    command = [sys.executable, "-m", "sigprop", "diagram", "bert-base", "--limit", "--out"]
    client = subprocess.Popen([*command, str(out), *rest])
    wait_for(lambda: len(list(out.glob("regime/seal/[0-9]*"))) >= 2)
    client.kill()
    client.wait()
    data = open_store(out)
    whole = data.regime.values != UNKNOWN
    assert 2 * 30000 <= whole.sum() < whole.size
    assert bool(np.isfinite(data.reduced_beta.values[whole]).all())


def test_a_worker_that_does_not_share_the_store(spec, tmp_path, cluster, monkeypatch):
    """The client writes what workers cannot."""
    from sigprop.analysis.diagram import zarr_store as grid_store

    def elsewhere(call, tasks, *rest):
        moved = {k: (replace(files, path=tmp_path / "no"), *arguments)
                 for k, (files, *arguments) in tasks.items()}  # fmt: skip
        spread(call, moved, *rest)

    spread = grid_store.spread
    monkeypatch.setattr(grid_store, "spread", elsewhere)
    how = Execution(scheduler=cluster.address)
    data = diagram_store(spec, tmp_path / "d.zarr", execution=how, **AXES)
    xr.testing.assert_identical(data.load(), diagram(spec, **AXES))


@pytest.mark.parametrize("change", [{"rho_max": 0.9}, {"entropy_min": 0.5},
                                    {"beta": np.linspace(0, 4.1, 23)}])  # fmt: skip
def test_a_store_of_something_else_is_left_alone(spec, tmp_path, change):
    path = tmp_path / "d.zarr"
    before = diagram_store(spec, path, **AXES).load()
    with pytest.raises(DomainError, match=r"out = .* a new store, or one of this diagram"):
        diagram_store(spec, path, **{**AXES, **change})
    xr.testing.assert_identical(open_store(path).load(), before)
    shutil.rmtree(path)
    path.mkdir()
    with pytest.raises(DomainError, match="a Zarr store"):
        diagram_store(spec, path, **AXES)
    assert list(path.iterdir()) == []
    other = tmp_path / "other.zarr"
    xr.Dataset({"a": ("b", [1.0])}).to_zarr(other, consolidated=False)
    with pytest.raises(DomainError, match="a new store"):
        diagram_store(spec, other, **AXES)


def test_chunks_are_found_in_any_dimension(spec, tmp_path, monkeypatch):
    path, axis = tmp_path / "d.zarr", np.linspace(0, 1, 250)
    plain = diagram_store(spec, path, beta=axis).load()
    points = computed(monkeypatch)
    (path / "regime" / "seal" / "1").unlink()
    xr.testing.assert_identical(diagram_store(spec, path, beta=axis).load(), plain)
    assert points == [100]


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*options):
        axes = ["--x", "beta=0:4:20", "--y", "alpha_attn=0.3:4:30", "--limit", "--json"]
        monkeypatch.setattr(sys, "argv", ["sigprop", "diagram", "bert-base", *axes, *options])
        with pytest.raises(SystemExit) as left:
            app.main()
        return left.value.code, capsys.readouterr()

    code, (plain, _) = run("--out", "d.nc")
    assert code == 0
    for _ in range(2):
        code, (out, _) = run("--out", "d.zarr", "--png", "d.png")
        assert code == 0
        assert json.loads(out) == json.loads(plain) | {"out": "d.zarr", "png": "d.png"}
    xr.testing.assert_identical(open_store("d.zarr").load(), load("d.nc"))
    for options, culprit in (
        (["--out", "e.nc", "--scheduler", "local"], "out"),
        (["--out", "e.zarr", "--scheduler", "nonsense"], "scheduler"),
        (["--out", "d.nc", "--scheduler", "local"], "out"),
        (["--out", "no/d.zarr"], "out"),
        (["--out", "d.zarr", "--rho-max", "0.5"], "out"),
    ):
        code, (out, err) = run(*options)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"sigprop: error: {culprit} = ")
