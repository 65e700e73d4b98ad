"""What is stored survives damage and kills: never used damaged, never in the way."""

import logging

import numpy as np
import pytest
from damage import damage, number

from sigprop import ModelSpec
from sigprop.core.errors import DomainError
from sigprop.core.jobs.cache import Job, gather
from sigprop.core.jobs.execution import Execution

SPEC = ModelSpec(depth=2, context="inf", beta=1, sigma_v2=0.5, sigma_w2=0.5, rho0=0.1)
AXES = {"beta": np.linspace(0, 2, 4), "alpha_attn": np.linspace(0.5, 2, 5)}
JOBS = [Job(number, {"seed": seed}) for seed in range(3)]


def spoil_cells(folder, times, seed):
    """Damage cells, one at a time; each time the second run must give what the first gave."""
    rng, how = np.random.default_rng(seed), Execution(folder=folder)
    whole = gather(JOBS, how)
    for _ in range(times):
        job = JOBS[rng.integers(len(JOBS))]
        damage(folder / f"{job.key}.npz", rng)
        for one, other in zip(gather(JOBS, how), whole, strict=True):
            assert {n: v.tobytes() for n, v in one.items()} == {
                n: v.tobytes() for n, v in other.items()
            }
    return times


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def spoil_chunks(folder, times, seed):
    """Damage or delete any file of a store; the second call must give all files as they were."""
    from sigprop.analysis.diagram.zarr_store import diagram_store, open_store

    path, rng = folder / "d.zarr", np.random.default_rng(seed)
    diagram_store(SPEC, path, theory="limit", **AXES)
    whole = tree(path)
    for _ in range(times):
        name = sorted(whole)[rng.integers(len(whole))]
        if rng.random() < 0.1:
            (path / name).unlink()
        else:
            damage(path / name, rng)
        if name != "regime/seal/closed" and (path / "regime/seal/store").exists():
            with pytest.raises(DomainError):
                open_store(path)
        diagram_store(SPEC, path, theory="limit", **AXES)
        assert tree(path) == whole, name
    return times


@pytest.fixture
def small_chunks(monkeypatch):
    import sys

    import sigprop.propagation.grids  # noqa: F401

    pytest.importorskip("zarr", reason="the extra distributed")
    pytest.importorskip("dask", reason="the extra distributed")
    monkeypatch.setattr(sys.modules["sigprop.propagation.points"], "CHUNK", 10)


@pytest.fixture(autouse=True)
def quiet():
    logger = logging.getLogger("sigprop")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def test_damaged_cells_are_computed_again(tmp_path):
    assert spoil_cells(tmp_path, 150, 1) == 150


def test_damaged_chunks_are_computed_again(tmp_path, small_chunks):
    assert spoil_chunks(tmp_path, 20, 2) == 20


@pytest.mark.slow
def test_5000_damages(tmp_path, small_chunks):
    assert spoil_cells(tmp_path, 4000, 3) + spoil_chunks(tmp_path, 1000, 4) == 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simulate", "diagram", "train", "reproduce"])
def test_killed_at_random_moments(tmp_path, name):
    """25 kills each: the answer of the run that goes on is that of a whole run, bit for bit."""
    pytest.importorskip("torch", reason="the extra torch")
    pytest.importorskip("zarr", reason="the extra distributed")
    from kills import killed

    assert killed(name, 25, 5, tmp_path) == 25
