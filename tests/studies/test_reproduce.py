"""Figures: files, resumption after a kill, refusals; every figure in the slow run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sigprop.cli.app import main
from sigprop.studies.figures import FIGURES
from sigprop.studies.reproduce import CELLS

COMMAND = [sys.executable, "-m", "sigprop", "reproduce", "--quick", "--workers", "2"]


def cells(folder):
    return len(list((folder / CELLS).glob("*.npz")))


def test_a_killed_run_resumes_with_identical_data(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*COMMAND, "gradient", "--out", str(whole)], check=True, capture_output=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen([*COMMAND, "gradient", "--out", str(broken)], **quiet)
    while cells(broken) < 3 and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = cells(broken)
    assert 0 < done < cells(whole)
    assert not (broken / "gradient.nc").exists()
    subprocess.run([*COMMAND, "gradient", "--out", str(broken)], check=True, capture_output=True)
    for ending in ("nc", "json"):
        name = f"gradient.{ending}"
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert {p.name for p in (whole / CELLS).glob("*")} == {
        p.name for p in (broken / CELLS).glob("*.npz")
    }


def check(folder, name):
    data = xr.open_dataset(folder / f"{name}.nc", engine="scipy").load()
    about = json.loads((folder / f"{name}.json").read_text())
    assert about["findings"] == FIGURES[name].findings(data)
    drawn, said = (about["parameters"].get(key) for key in ("seeds", "random_numbers"))
    assert bool(drawn) != bool(said)  # seeds of networks, or how a theory comes by its numbers
    for ending in ("png", "pdf"):
        assert (folder / f"{name}.{ending}").stat().st_size > 10_000
    return data


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["sigprop", "reproduce", "--quick", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        out = capsys.readouterr()
        return out.err if code else out.out

    return call


def test_a_figure_is_a_function_of_its_saved_data(run, tmp_path):
    printed = json.loads(run("entropy", "--json"))["figures"][0]
    data = check(tmp_path / "reproduced", "entropy")
    assert printed["findings"] == FIGURES["entropy"].findings(data)
    assert len(FIGURES["entropy"].draw(data).axes) == 1
    error = np.abs(data["entropy_ratio"] - data["entropy_ratio_finite"])
    assert float(error.max()) < 0.05
    assert float(np.abs(data["entropy_ratio"] - data["entropy_ratio_limit"]).max()) > 0.3  # control


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no words"), (b"\xff\xfe\x00", "binary"), (b"short", "at least 256 tokens"), (None, "")],
)
def test_bad_text_writes_nothing(run, content, words):
    if content is not None:
        Path("a.txt").write_bytes(content)
    before = sorted(Path().iterdir())
    error = run("--text", "a.txt", "--out", "new", code=2)
    assert error.startswith("sigprop: error: text = 'a.txt' is not admissible")
    assert words in error
    assert sorted(Path().iterdir()) == before


def test_other_refusals(run):
    assert "figure = 'nothing'" in run("nothing", code=2)
    Path("file").write_text("")
    assert "out = 'file" in run("entropy", "--out", "file/in", code=2)
    assert "workers" in run("entropy", "--workers", "0", code=2)


@pytest.mark.slow
def test_all_figures(tmp_path):
    text, share = tmp_path / "zipf.txt", 1 / np.arange(1, 2001)
    drawn = np.random.default_rng(0).choice(2000, 20_000, p=share / share.sum())
    text.write_text(" ".join(f"w{word}" for word in drawn.tolist()))
    words = [*COMMAND, "--text", str(text), "--out", str(tmp_path / "out")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    for name, figure in FIGURES.items():
        check(tmp_path / "out", name)
        assert figure.title in " ".join(done.stdout.split())
