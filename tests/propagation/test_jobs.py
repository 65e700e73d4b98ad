"""Stored work: named by what it is and by its revision; one value says how it is done."""

import ast
import hashlib
import json
import pickle
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import sigprop
from sigprop import DomainError, Execution, ModelSpec, diagram
from sigprop.analysis.diagram.fields import Plan
from sigprop.core.jobs import cache
from sigprop.core.jobs.cache import Job, gather, job
from sigprop.core.jobs.execution import KEYWORDS, takes_execution
from sigprop.core.version import REVISIONS
from sigprop.propagation import every_pair
from sigprop.simulation import run as simulation
from sigprop.simulation import simulate
from sigprop.simulation.gradients import query_gradient_cell
from sigprop.studies.comparison import compare

ROOT = Path(sigprop.__file__).parent
NAMES = {  # a changed name voids what users have computed
    "simulation.network",
    "simulation.query_gradient",
    "simulation.torch_network",
    "theory.critical",
    "theory.kernel",
    "training.run",
}
SPEC = ModelSpec(depth=1, context=8, width=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.1)
LOG: list[int] = []


def keep(folder, **parts):
    return Execution(folder=folder, **parts)


def raised(monkeypatch, kind="theory"):
    monkeypatch.setitem(REVISIONS, kind, REVISIONS[kind] + 1)


@job("theory.answer")
def answer(x):
    """Job of a theory whose numbers change with its revision."""
    LOG.append(x)
    return {"y": np.array(x * REVISIONS["theory"])}


ANSWERS = [Job(answer, {"x": x}) for x in (3, 5, 7)]


def values(found):
    return [float(one["y"]) for one in found]


@pytest.fixture(autouse=True)
def log():
    LOG.clear()
    return LOG


# names


def declared():
    """Names in `@job(...)`, over the package."""
    calls = [
        decorator
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
    ]
    named = [one for one in calls if getattr(one.func, "id", "") in ("job", "named_job")]
    return sorted(one.args[0].value for one in named)


def test_names_are_stable_and_of_one_function_each():
    assert declared() == sorted(NAMES)


@pytest.mark.parametrize("name", ["square", "sums.square", "theory.", ""])
def test_a_name_without_a_revision_is_refused(name):
    with pytest.raises(DomainError, match=r"^name = "):
        job(name)


def test_a_function_without_a_name_is_not_stored(tmp_path):
    todo = [Job(values, {"found": []})]
    with pytest.raises(DomainError, match="function = 'values'"):
        gather(todo, keep(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_name_arguments_and_revision():
    arguments = {"b": [1.5, None], "a": {"z": True, "y": "inf"}}
    text = '["theory.answer", {"a": {"y": "inf", "z": true}, "b": [1.5, null]}]'
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    assert Job(answer, arguments).key == f"{digest}-{REVISIONS['theory']}"
    assert Job(answer, {"x": np.int64(3)}).key == ANSWERS[0].key
    assert Job(answer, {"x": np.bool_(True)}).key == Job(answer, {"x": True}).key
    assert Job(answer, {"x": np.ones(2)}).key != Job(answer, {"x": np.ones((2, 1))}).key


def test_a_move_of_the_function_does_not_change_the_key():
    source = "@job('theory.answer')\ndef {name}(x):\n    return {{'y': x}}\n"
    keys = set()
    for module, name in (("sigprop.old", "answer"), ("sigprop.new.place", "other")):
        there = ModuleType(module)
        there.__dict__["job"] = job
        exec(source.format(name=name), there.__dict__)
        function = getattr(there, name)
        assert (function.__module__, function.__name__) == (module, name)
        keys.add(Job(function, {"x": 3}).key)
    assert keys == {ANSWERS[0].key}


def test_a_release_does_not_change_the_key(monkeypatch):
    before = [one.key for one in ANSWERS]
    monkeypatch.setattr("sigprop.core.version.__version__", "99.0")
    monkeypatch.setattr("sigprop.core.jobs.cluster.__version__", "99.0")
    assert [Job(answer, one.arguments).key for one in ANSWERS] == before


def test_a_job_travels_with_its_name():
    again = pickle.loads(pickle.dumps(ANSWERS[1]))
    assert (again.function, again.key) == (answer, ANSWERS[1].key)


# revisions


def test_cells_of_an_earlier_revision_are_computed_again(tmp_path, monkeypatch, caplog):
    """Begun at one revision, resumed at the next: all of it is what a fresh run gives."""
    folder, now = tmp_path / "cells", REVISIONS["theory"]
    gather(ANSWERS[:2], keep(folder))
    assert values(gather(ANSWERS, keep(folder))) == [x * now for x in (3, 5, 7)]
    assert LOG == [3, 5, 7]  # without a raise only what is missing
    assert caplog.text == ""
    raised(monkeypatch)
    LOG.clear()
    found = gather(ANSWERS, keep(folder))
    assert values(found) == values(gather(ANSWERS, keep(tmp_path / "fresh")))
    assert values(found) == [x * (now + 1) for x in (3, 5, 7)]
    assert LOG == [3, 5, 7] * 2
    assert "3 of 3 cells in" in caplog.text
    assert "are of another revision and are computed again" in caplog.text
    caplog.clear()
    LOG.clear()
    assert values(gather(ANSWERS, keep(folder))) == values(found)
    assert (LOG, caplog.text) == ([], "")


def test_a_run_that_was_cut_short_does_not_mix_revisions(tmp_path, monkeypatch):
    def cut(number):
        if len(LOG) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(ANSWERS, keep(tmp_path, progress=cut))
    raised(monkeypatch)
    LOG.clear()
    assert values(gather(ANSWERS, keep(tmp_path))) == [x * REVISIONS["theory"] for x in (3, 5, 7)]
    assert LOG == [3, 5, 7]


def test_a_damaged_cell_is_said_to_be_damaged_not_superseded(tmp_path, caplog):
    gather(ANSWERS, keep(tmp_path))
    (tmp_path / f"{ANSWERS[0].key}.npz").write_bytes(b"")
    gather(ANSWERS, keep(tmp_path))
    assert "1 of 3 cells in" in caplog.text
    assert "revision" not in caplog.text


def keys_of_the_package():
    kernel = every_pair.exchangeable_kernel(SPEC)
    known = {"spec": SPEC.to_dict(), "seed": 0}
    return {
        "theory": [one.key for one in every_pair.jobs(SPEC, kernel, draws=2, blocks=2)],
        "simulation": [one.key for one in simulation.jobs(SPEC, 2)]
        + [Job(query_gradient_cell, known).key],
    }


def test_each_kind_of_cell_has_the_revision_of_its_kind(monkeypatch):
    before = keys_of_the_package()
    raised(monkeypatch)
    theory = keys_of_the_package()
    assert theory["simulation"] == before["simulation"]
    assert set(theory["theory"]).isdisjoint(before["theory"])
    raised(monkeypatch, "simulation")
    both = keys_of_the_package()
    assert both["theory"] == theory["theory"]
    assert set(both["simulation"]).isdisjoint(before["simulation"])


def counted(monkeypatch):
    """Count the cells that are computed here."""
    calls, done = [], cache._done
    monkeypatch.setattr(cache, "_done", lambda job, folder: calls.append(job) or done(job, folder))
    return calls


def test_networks_outlive_a_revision_of_the_theory(tmp_path, monkeypatch):
    before, calls = simulate(SPEC, 3, execution=keep(tmp_path)), counted(monkeypatch)
    raised(monkeypatch)
    after = simulate(SPEC, 3, execution=keep(tmp_path))
    assert calls == []
    assert all(np.array_equal(after.samples[n], before.samples[n]) for n in before.samples)
    raised(monkeypatch, "simulation")
    simulate(SPEC, 3, execution=keep(tmp_path))
    assert len(calls) == 3


def test_drawn_kernels_do_not_outlive_it(tmp_path, monkeypatch):
    kernel = every_pair.exchangeable_kernel(SPEC)
    solved = every_pair.solve(SPEC, kernel, draws=2, blocks=2, execution=keep(tmp_path))
    calls = counted(monkeypatch)
    for number in (0, 2):
        again = every_pair.solve(SPEC, kernel, draws=2, blocks=2, execution=keep(tmp_path))
        assert np.array_equal(again.samples, solved.samples)
        assert len(calls) == number
        raised(monkeypatch)


def test_training_runs_outlive_a_revision_of_the_theory(monkeypatch):
    pytest.importorskip("torch", reason="needs the extra torch")
    from sigprop.torch.training.config import Plan
    from sigprop.torch.training.corpus import Corpus
    from sigprop.torch.training.experiment import job as training_job

    text = Corpus(np.full((4, 8), 5), np.full((2, 8), 5), 16, "", "fives", "")
    keys = [training_job(SPEC, Plan(steps=1), text).key]
    for kind in ("theory", "training"):
        raised(monkeypatch, kind)
        keys.append(training_job(SPEC, Plan(steps=1), text).key)
    assert keys[0] == keys[1] != keys[2]


# diagrams

GRID = ModelSpec(depth=4, context="inf", beta=1, sigma_v2=0.5, sigma_w2=0.5, rho0=0.1)
AXES = {"beta": np.linspace(0, 4, 6), "alpha_attn": np.linspace(0.3, 4, 10)}


@pytest.fixture
def points(monkeypatch):
    """Grids in chunks of two rows; the points that are computed here, and numbers that a raise
    of the revision changes."""
    pytest.importorskip("zarr", reason="needs the extra distributed")
    computed, answer_of, first = [], Plan.answer, REVISIONS["theory"]

    def computes(plan, progress=None):
        computed.append(int(np.prod(plan.wide.shape)))
        data, how = answer_of(plan, progress)
        return data | {"rho": data["rho"] / (1 + REVISIONS["theory"] - first)}, how

    monkeypatch.setattr(Plan, "answer", computes)
    monkeypatch.setattr("sigprop.propagation.points.CHUNK", 20)
    return computed


def stored(path, **options):
    from sigprop.analysis.diagram.zarr_store import diagram_store

    return diagram_store(GRID, path, **AXES, **options)


def cut_after(points, number):
    def cut(_):
        if len(points) == number:
            raise KeyboardInterrupt

    return Execution(progress=cut)


def test_a_grid_begun_before_a_raise_is_computed_again(tmp_path, points, monkeypatch, caplog):
    import xarray as xr

    from sigprop.analysis.diagram.zarr_store import UNKNOWN, open_store

    path, now = tmp_path / "d.zarr", REVISIONS["theory"]
    with pytest.raises(KeyboardInterrupt):
        stored(path, execution=cut_after(points, 2))
    assert points == [20, 20]
    raised(monkeypatch)
    points.clear()
    with pytest.raises(KeyboardInterrupt):
        stored(path, execution=cut_after(points, 1))
    half = open_store(path)
    assert int((half.regime != UNKNOWN).sum()) == 20  # nothing of the earlier revision is left
    assert int(half.rho.notnull().sum()) == 20
    words = f"{path} is of revision {now} of the theory, not {now + 1}, and is computed again"
    assert words in caplog.text
    caplog.clear()
    data = stored(path).load()
    assert points == [20, 20, 20]
    assert caplog.text == ""
    xr.testing.assert_identical(data, diagram(GRID, **AXES))
    xr.testing.assert_identical(data, stored(tmp_path / "fresh.zarr").load())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["d.zarr", "fresh.zarr"]


def test_a_finished_grid_is_computed_again_after_a_raise_and_not_without(
    tmp_path, points, monkeypatch, caplog
):
    path = tmp_path / "d.zarr"
    before = stored(path).load()
    for revision in range(2):
        points.clear()
        data = stored(path).load()
        assert sum(points) == 60 * revision
        known = f"revision {REVISIONS['theory'] - 1} of" in caplog.text
        assert known if revision else caplog.text == ""
        np.testing.assert_array_equal(data.rho, before.rho / (1 + revision))
        raised(monkeypatch)


def test_a_grid_outlives_a_release_and_says_which_finished_it(
    tmp_path, points, monkeypatch, caplog
):
    """No version in the name of a store: chunks of two releases of one revision belong together."""
    path = tmp_path / "d.zarr"
    with pytest.raises(KeyboardInterrupt):
        stored(path, execution=cut_after(points, 2))
    for module in ("fields", "zarr_store"):
        monkeypatch.setattr(f"sigprop.analysis.diagram.{module}.__version__", "99.0")
    data = stored(path)
    assert points == [20, 20, 20]
    assert caplog.text == ""
    assert data.attrs["sigprop_version"] == "99.0"


def test_a_grid_of_version_0_2_is_computed_again(tmp_path, points, caplog):
    """It has no revision: its seal and its attributes are those of that version."""
    from sigprop.core.files import seal, unseal

    path = tmp_path / "d.zarr"
    plain = stored(path).load()
    root, sealed = path / "zarr.json", path / "regime" / "seal" / "store"
    about = json.loads(unseal("store", sealed.read_bytes()))
    del about["revision"]
    sealed.write_bytes(seal("store", json.dumps(about | {"name": "0.2"}, sort_keys=True).encode()))
    known = json.loads(root.read_text())
    del known["attributes"]["theory_revision"]
    root.write_text(json.dumps(known))
    points.clear()
    assert stored(path).load().identical(plain)
    assert sum(points) == 60
    assert "is of revision 0 of the theory" in caplog.text


# execution


@pytest.mark.parametrize(
    ("part", "value"),
    [("workers", 0), ("workers", 1.5), ("workers", 1025), ("folder", 3), ("scheduler", 8786),
     ("progress", "bar")],
)  # fmt: skip
def test_an_execution_that_cannot_be_is_refused(part, value):
    with pytest.raises(DomainError, match=f"^{part} = "):
        Execution(**{part: value})


def test_a_path_may_be_a_text():
    assert Execution(folder="cells").folder == Path("cells")


def test_progress_counts_what_the_folder_holds(tmp_path):
    told = []
    gather(ANSWERS[:1], keep(tmp_path))
    gather(ANSWERS, keep(tmp_path, progress=told.append))
    assert told == [1, 1, 1]


def test_a_diagram_has_one_folder(tmp_path):
    pytest.importorskip("zarr", reason="needs the extra distributed")
    with pytest.raises(DomainError, match=r"^folder = "):
        stored(tmp_path / "d.zarr", execution=keep(tmp_path))


CALLS = {
    "simulate": lambda **parts: simulate(SPEC, 2, **parts).samples["rho"],
    "solve": lambda **parts: every_pair.solve(SPEC, np.eye(8), draws=2, blocks=2, **parts).samples,
    "compare": lambda **parts: compare("s", SPEC, 2, **parts).measured.samples["rho"],
}


@pytest.mark.parametrize("name", CALLS)
def test_keywords_of_0_2_are_an_execution_and_warn_where_they_stand(name, tmp_path):
    told = []
    parts = {"workers": 1, "folder": tmp_path / "old", "scheduler": None, "progress": told.append}
    assert set(parts) == set(KEYWORDS)
    with pytest.warns(DeprecationWarning, match=rf"^{name}\(workers=.*execution=Exec") as warned:
        found = CALLS[name](**parts)
    assert [one.filename for one in warned] == [__file__]
    assert sum(told) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        now = CALLS[name](execution=keep(tmp_path / "new"))
    np.testing.assert_array_equal(found, now)
    cells = [{path.name for path in (tmp_path / end).iterdir()} for end in ("old", "new")]
    assert len(cells[0]) == 2
    assert cells[0] == cells[1]


def test_keywords_of_0_2_beside_an_execution_are_refused():
    with pytest.raises(DomainError, match=r"^execution = .* None beside workers="):
        simulate(SPEC, 2, execution=Execution(), workers=2)


def test_keywords_of_0_2_are_those_of_a_diagram_not_its_axes(tmp_path):
    pytest.importorskip("zarr", reason="needs the extra distributed")
    told = []
    with pytest.warns(DeprecationWarning, match=r"^diagram_store\(progress=...\)"):
        data = stored(tmp_path / "d.zarr", progress=told.append)
    assert data.rho.dims == ("beta", "alpha_attn")
    assert sum(told) == 60


def test_an_unknown_keyword_stays_one():
    @takes_execution
    def function(execution=None):
        return execution

    assert function() is None
    with pytest.raises(TypeError, match="unexpected keyword"):
        function(colour=1)
