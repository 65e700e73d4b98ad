"""Work that version 0.2 lost, or took from a damaged file without a word."""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from outcomes import COMMAND, outcome

import sigprop.plotting
from sigprop import ModelSpec
from sigprop.analysis.design import recommend as design
from sigprop.cli import main
from sigprop.core.errors import DomainError
from sigprop.core.jobs import cache as store
from sigprop.core.jobs.cache import Job, gather, job
from sigprop.core.jobs.execution import Execution

VALUES = {
    "depth": 2,
    "context": 32,
    "width": 16,
    "beta": 1,
    "sigma_v2": 1,
    "sigma_w2": 1,
    "rho0": 0,
}
GRID = ["--x", "beta=0:1:2", "--y", "q0=1:2:2"]
CURVES = ["curves", "--contexts", "8", "--beta", "0:1:2"]


@job("simulation.number")
def number(seed):
    """Job: numbers of a seed."""
    return {"y": np.random.default_rng(seed).standard_normal(3)}


JOBS = [Job(number, {"seed": seed}) for seed in range(3)]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command here; an exit code, or the exception that came out of it, and its streams."""
    monkeypatch.chdir(tmp_path)
    Path("s.json").write_text(json.dumps(VALUES))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sigprop", *map(str, words)])
        code = None
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException as error:  # the fault that a test asserts on
            code = error
        streams = capsys.readouterr()
        return SimpleNamespace(code=code, out=streams.out, err=streams.err)

    return run


@contextmanager
def small_files(size):
    """Let no file of this process grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def alarm(seconds):
    """Fail what waits for ever."""

    class Waited(BaseException):
        pass

    def end(*_):
        raise Waited

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    except Waited:
        raise AssertionError("waited for a pipe") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def names():
    return {path.name for path in Path().iterdir()}


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_no_input_is_overwritten(command, link):
    Path("s.json").rename("s.nc")
    before, out = Path("s.nc").read_bytes(), "s.nc"
    if link is not None:
        out = "link.nc"
        link("s.nc", out)
    ended = command("diagram", "s.nc", *GRID, "--limit", "--out", out)
    assert ended.code == 2
    assert ended.err.startswith("sigprop: error: out = ")
    assert Path("s.nc").read_bytes() == before


def test_no_text_is_overwritten_by_a_picture_of_a_figure(command, monkeypatch):
    from sigprop.studies.figures import FIGURES

    monkeypatch.setitem(FIGURES, "small", small_figure())
    Path("made").mkdir()
    Path("made/small.json").write_text("some words of a text " * 9)
    before = Path("made/small.json").read_bytes()
    ended = command("reproduce", "small", "--out", "made", "--text", "made/small.json")
    assert ended.code == 2
    assert Path("made/small.json").read_bytes() == before


def test_two_targets_are_two_files(command):
    Path("c.nc").touch()
    os.symlink("c.nc", "c.svg")
    ended = command(*CURVES, "--out", "c.nc", "--png", "c.svg")
    assert ended.code == 2
    assert Path("c.nc").read_bytes() == b""


def test_data_have_the_ending_of_data(command):
    ended = command(*CURVES, "--png", "c.png", "--out", "c.dat")
    assert ended.code == 2
    assert "a name ending in .nc" in ended.err
    assert names() == {"s.json"}


def test_commands_say_what_they_wrote(command):
    ended = command(*CURVES, "--png", "c.svg", "--out", "c.nc")
    assert ended.code == 0
    assert ended.err.splitlines() == ["sigprop: wrote c.nc", "sigprop: wrote c.svg"]


def small_figure():
    import xarray as xr

    from sigprop.studies.figures import Figure

    def data(lab):
        return xr.Dataset({"y": ("x", [0.0, 1.0])})

    def draw(data):
        figure, ((axes,),) = sigprop.plotting.panels(1)
        axes.plot(data["y"])
        return figure

    return Figure("small", "Small", "", data, draw, lambda data: ["none"])


def test_figures_of_a_clone_are_left_alone(command, monkeypatch):
    from sigprop.studies.figures import FIGURES

    monkeypatch.setitem(FIGURES, "small", small_figure())
    Path("figures").mkdir()
    Path("figures/small.json").write_text("tracked")
    ended = [command("reproduce", "small", "--json") for _ in range(2)]
    made = [json.loads(one.out)["figures"][0]["files"] for one in ended]
    assert Path("figures/small.json").read_text() == "tracked"
    assert not set(made[0]) & set(made[1])


def test_data_are_saved_before_a_picture_fails(command, monkeypatch):
    def fails(*_):
        raise RuntimeError("no such font")

    monkeypatch.setattr("sigprop.plotting.plot_diagram", fails)
    ended = command(
        "diagram", "s.json", *GRID, "--limit", "--out", "d.nc", "--png", "d.png", "--json"
    )
    assert ended.code == 2
    assert ended.err.splitlines()[-1].endswith("png = 'd.png' could not be drawn: no such font")
    assert names() == {"s.json", "d.nc"}
    assert json.loads(ended.out)["shape"] == [2, 2]


def test_code_is_written_whole_or_not_at_all(command, monkeypatch):
    found = SimpleNamespace(prescription=SimpleNamespace(pytorch=lambda: 5000 * "x = 1\n"))
    monkeypatch.setattr(design, "recommend", lambda *_, **__: found)
    Path("c.py").write_text("kept")
    with small_files(4096):
        ended = command("recommend", "s.json", "--code", "c.py")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("sigprop: error: code = 'c.py'")
    assert Path("c.py").read_text() == "kept"
    assert names() == {"s.json", "c.py"}


def test_the_sheet_is_written_whole_or_not_at_all(command, monkeypatch):
    importlib.import_module("sigprop.symbolic.sheet")  # the package has a function of that name
    module = sys.modules["sigprop.symbolic.sheet"]
    monkeypatch.setattr(module, "sheet", lambda: iter([10_000 * "x"]))
    Path("t.md").write_text("kept")
    with small_files(4096):
        ended = command("derive", "--sheet", "t.md")
    assert ended.code == 2
    assert Path("t.md").read_text() == "kept"


def test_a_full_disk_is_named_and_leaves_no_half_cell(tmp_path):
    todo = [Job(long, {"seed": 0})]
    with small_files(4096):
        ended = outcome(gather, todo, Execution(folder=tmp_path / "cells"))
    assert isinstance(ended, DomainError)
    assert "File too large" in str(ended)
    assert list((tmp_path / "cells").iterdir()) == []


@job("simulation.long")
def long(seed):
    """Job: more numbers than fit."""
    return {"y": np.zeros(10_000)}


def test_a_folder_that_takes_no_files_is_refused_before_the_work(command, monkeypatch):
    begun = []
    monkeypatch.setattr("sigprop.simulation.run.Network", lambda *_, **__: begun.append(1))
    ended = command("simulate", "s.json", "--seeds", "1", "--workers", "1", "--keep", "/proc")
    assert (ended.code, begun) == (2, [])


PLANTED = {
    "another seed": lambda path: path.write_bytes(
        (path.parent / f"{JOBS[1].key}.npz").read_bytes()
    ),
    "empty": lambda path: np.savez(path),
    "foreign": lambda path: np.savez(path, x=np.zeros(3)),
    "nan": lambda path: np.savez(path, y=np.full(3, np.nan)),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_not_the_cell_is_computed_again(tmp_path, caplog, kind):
    whole = gather(JOBS, Execution(folder=tmp_path))
    PLANTED[kind](tmp_path / f"{JOBS[0].key}.npz")
    found = gather(JOBS, Execution(folder=tmp_path))
    assert {n: v.tolist() for n, v in found[0].items()} == {"y": whole[0]["y"].tolist()}
    assert "1 of 3 cells" in caplog.text


def test_no_flipped_byte_of_a_cell_is_used(tmp_path):
    """Every byte in three ways: none is read as a result, none is an exception."""
    (whole,) = gather(JOBS[:1], Execution(folder=tmp_path))
    path = tmp_path / f"{JOBS[0].key}.npz"
    content, wrong = path.read_bytes(), []
    for i, mask in product(range(len(content)), (0x01, 0x11, 0x80)):
        changed = bytearray(content)
        changed[i] ^= mask
        path.write_bytes(changed)
        found = outcome(store._kept, JOBS[0], tmp_path)
        if found is not None and not (
            isinstance(found, dict) and np.array_equal(found.get("y"), whole["y"])
        ):
            wrong.append((i, mask, found))
    assert wrong == []


def test_a_pipe_in_place_of_a_cell_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / f"{JOBS[0].key}.npz")
    with alarm(20):
        found = outcome(gather, JOBS, Execution(folder=tmp_path))
    assert isinstance(found, list)
    assert found[0]["y"].tolist() == number(0)["y"].tolist()


def test_a_pipe_in_place_of_a_kernel_does_not_wait(command):
    os.mkfifo("k.npy")
    with alarm(20):
        ended = command("kernel", "s.json", "--kernel", "k.npy", "--workers", "1")
    assert ended.code == 2
    assert ended.err.startswith("sigprop: error: kernel = 'k.npy'")


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    process = os.fork()
    if process == 0:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # in the middle of a write
        gather(JOBS, Execution(folder=tmp_path))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    gather(JOBS, Execution(folder=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {f"{job.key}.npz" for job in JOBS}


SPEC = ModelSpec(depth=2, context="inf", beta=1, sigma_v2=0.5, sigma_w2=0.5, rho0=0.1)
AXES = {"beta": np.linspace(0, 2, 4), "alpha_attn": np.linspace(0.5, 2, 5)}


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Two stores of other inputs, in chunks of ten points."""
    pytest.importorskip("zarr", reason="the extra distributed")
    pytest.importorskip("dask", reason="the extra distributed")
    from sigprop.analysis.diagram.zarr_store import chunks, diagram_store

    monkeypatch.setattr(sys.modules[chunks.__module__], "CHUNK", 10)
    made = [tmp_path / "d.zarr", tmp_path / "other.zarr"]
    for path, rho0 in zip(made, (0.1, 0.3), strict=True):
        diagram_store(SPEC.replace(rho0=rho0), path, **AXES)
    return made


SPOILT = {
    "deleted": lambda path, other: path.unlink(),
    "of another store": lambda path, other: path.write_bytes(other.read_bytes()),
    "empty": lambda path, other: path.write_bytes(b""),
    "flipped": lambda path, other: path.write_bytes(
        path.read_bytes()[:-12] + bytes([path.read_bytes()[-12] ^ 1]) + path.read_bytes()[-11:]
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_not_the_chunk_is_computed_again(stores, kind):
    from sigprop import diagram
    from sigprop.analysis.diagram.zarr_store import diagram_store

    chunk = Path("rho", "c", "1", "0")
    SPOILT[kind](stores[0] / chunk, stores[1] / chunk)
    found = outcome(lambda: diagram_store(SPEC, stores[0], **AXES).rho.values)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, diagram(SPEC, **AXES).rho.values)


def test_a_damaged_checkpoint_is_put_aside(tmp_path):
    pytest.importorskip("torch", reason="the extra torch")
    from sigprop.torch.training.config import Plan
    from sigprop.torch.training.corpus import Corpus
    from sigprop.torch.training.train import CHECKPOINT, train

    draws = np.random.default_rng(0).integers(5, 16, (40, 8))
    text = Corpus(draws[:30], draws[30:], 16, "", "draws", "")
    spec, plan = ModelSpec.from_dict(VALUES | {"context": 8}), Plan(steps=3, every=1)
    whole = train(spec, text, plan, tmp_path, device="cpu")
    cut = (tmp_path / CHECKPOINT).read_bytes()[:-200]
    (tmp_path / CHECKPOINT).write_bytes(cut)
    again = outcome(train, spec, text, plan, tmp_path, device="cpu")
    assert getattr(again, "loss", again) == whole.loss
    assert cut in [path.read_bytes() for path in tmp_path.iterdir()]


@pytest.mark.parametrize("keep", [[], ["--keep", "cells"]])
def test_an_interrupt_says_what_is_kept_where_something_is(command, monkeypatch, keep):
    from sigprop.simulation import run

    @job("simulation.network")
    def measured(**arguments):
        if arguments["seed"] == 2:
            raise KeyboardInterrupt
        return number(arguments["seed"])

    monkeypatch.setattr(run, "network_cell", measured)
    ended = command("simulate", "s.json", "--seeds", "8", "--workers", "1", *keep)
    assert ended.code == 130
    words = "; 2 of 8 cells are kept in cells: the same call goes on from there" if keep else ""
    assert ended.err.strip() == f"sigprop: interrupted{words}"


def test_an_interrupted_design_is_in_the_file_that_was_asked_for(command, monkeypatch):
    whole, done = design.recommend, []

    def press(number):
        done.append(number)
        if len(done) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(design, "recommend", lambda *words: whole(*words[:4], press))
    words = ["--rho-max", "0.01", "--per-layer", "--bound", "beta=0.1:1", "--json"]
    ended = command("recommend", "s.json", *words, "--code", "c.py", "--png", "c.png")
    assert ended.code == 130
    assert names() == {"s.json", "c.py"}
    found = json.loads(ended.out)
    assert found["reason"].startswith("interrupted")
    assert Path("c.py").read_text() == found["pytorch"]
    assert "without the trade-off that --png shows" in ended.err


def test_names_that_are_no_text(command):
    name = os.fsdecode(b"\xff.json")
    Path("s.json").rename(name)
    ended = command("propagate", name, "--limit", "--png", "a.svg")
    assert ended.code == 0
    assert Path("a.svg").exists()


def process(words, *, shell='exec "$@"', **environment):
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([environment.pop("first", ""), root]).strip(os.pathsep)
    whole = ["sh", "-c", shell, "sh", *COMMAND, *words]
    return subprocess.run(
        whole, env=os.environ | {"PYTHONPATH": path} | environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=interruptible,
    )  # fmt: skip


def interruptible():
    """Background processes may have inherited that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


REM = ["rem", "--sigma", "1", "--context", "8"]


@pytest.mark.parametrize("shell", ['exec "$@" > /dev/full', 'exec "$@" >&-'])
def test_standard_output_that_takes_nothing(shell):
    ended = process(REM, shell=shell)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("sigprop: error: standard output")
    assert "Traceback" not in ended.stderr


def test_an_interrupt_during_imports(tmp_path):
    stub = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "typer.py").write_text(stub)
    ended = process(REM, first=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (130, "sigprop: interrupted\n")


def test_an_environment_with_a_drawing_library_that_is_not_there(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(VALUES))
    words = ["propagate", str(tmp_path / "s.json"), "--limit", "--png", str(tmp_path / "a.svg")]
    ended = process(words, MPLBACKEND="nonsense")
    assert ended.returncode == 0
    assert (tmp_path / "a.svg").exists()
