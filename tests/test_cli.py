"""The command line as scripts use it: clean JSON, files, speed of start, documented commands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sigprop import load, propagate
from sigprop.cli import main
from sigprop.huggingface import examples

ROOT = Path(__file__).parents[1]
SPEC = {"depth": 6, "context": 512, "beta": 1.0, "sigma_v2": 0.5, "sigma_w2": 0.5, "rho0": 0.1}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("spec.json").write_text(json.dumps(SPEC))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sigprop", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    return call


def test_rem(run):
    found = json.loads(run("rem", "--sigma", "2", "--context", "64", "--overlap", "0", "--json"))
    assert set(found) == {"y2", "y3", "y4", "y22", "log_z", "entropy", "overlap"}
    assert found["overlap"] == pytest.approx(1 / 64)
    assert "participation ratio" in run("rem", "--sigma", "2", "--context", "64")


@pytest.mark.parametrize("limit", [[], ["--limit"]])
def test_propagate(run, limit):
    found = json.loads(run("propagate", "spec.json", *limit, "--json"))
    assert [len(found[n]) for n in ("layer", "rho", "q", "gap")] == [7] * 4
    assert [len(found[n]) for n in ("y2", "overlap", "entropy")] == [6] * 3
    expected = propagate(load("spec.json").spec, bool(limit))
    np.testing.assert_array_equal(found["rho"], expected.rho)


def test_infinite_context_has_null_entropies(run):
    Path("inf.json").write_text(json.dumps(SPEC | {"context": "inf"}))
    found = json.loads(run("propagate", "inf.json", "--json"))
    assert found["entropy"] == [None] * 6
    assert found["entropy_ratio"][0] == pytest.approx(1 - 0.9 / 2)


def test_lists_in_a_spec(run):
    Path("many.json").write_text(json.dumps(SPEC | {"beta": [0.5, 1, 2]}))
    found = json.loads(run("propagate", "many.json", "--json"))
    assert np.shape(found["rho"]) == (7, 3)
    assert "trajectories" in run("propagate", "many.json")
    found = json.loads(run("critical", "many.json", "--rho-max", "0.9", "--json"))
    assert len(found["alpha_attn"]) == 3


def test_critical(run):
    found = json.loads(run("critical", "spec.json", "--rho-max", "0.9", "--json"))
    assert {"alpha_attn", "asymptotic", "converged", "reason", "residual", "bracket"} <= set(found)
    assert found["asymptotic"] is None  # infinite: ReLU always collapses
    assert "converged" in run("critical", "spec.json", "--rho-max", "0.9")


def test_ended_trajectory_says_so(run):
    loose = SPEC | {"norm": "none", "alpha_mlp": 1e6, "alpha_attn": 1e6, "depth": 60, "beta": 0.0}
    Path("loose.json").write_text(json.dumps(loose))
    found = json.loads(run("propagate", "loose.json", "--json"))
    assert found["ended"] < 60
    assert len(found["rho"]) == found["ended"] + 1
    assert "ended before layer 60" in found["reason"]


def test_diagram(run):
    words = (
        "diagram",
        "spec.json",
        "--x",
        "beta=0:3:9",
        "--y",
        "alpha_attn=0.5:3:8",
        "--out",
        "d.nc",
        "--png",
        "d.png",
    )
    found = json.loads(run(*words, "--json"))
    assert found["shape"] == [9, 8]
    assert sum(found["regimes"].values()) + found["undefined"] == 72
    assert sorted(p.name for p in Path().glob("d.*")) == ["d.nc", "d.png"]
    assert "trainable" in run(*words)


SLOW = ("llama-2-7b",)  # half a minute: 32 blocks at T = 4096, position by position, rotated


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in examples()],
)
def test_show_examples(run, name):
    text = run("show", name)
    assert "Verdict:" in text
    assert max(map(len, text.splitlines())) <= 100
    found = json.loads(run("show", name, "--json"))
    assert found["verdict"]
    assert found["spec"]["depth"] > 0


def test_profile_and_curves(run):
    found = json.loads(run("profile", "spec.json", "--entropy", "0.7", "--json"))
    assert len(found["beta"]) == 6
    run("profile", "spec.json", "--entropy", "0.7")
    run("curves", "--contexts", "16,64", "--beta", "0:2:9", "--png", "c.png")
    assert Path("c.png").stat().st_size > 1000


def test_version(run):
    assert re.fullmatch(r"sigprop \d+\.\d+\.\d+\n", run("--version"))


def test_standard_output_is_json_alone(run):
    """Through a real process: the progress bar goes to standard error."""
    words = [
        sys.executable,
        "-m",
        "sigprop.cli",
        "diagram",
        "spec.json",
        "--x",
        "beta=0:3:9",
        "--y",
        "alpha_attn=0.5:3:8",
        "--out",
        "d.nc",
        "--json",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["undefined"] == 0


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_python(capsys):
    for block in readme_blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[0]) > 0.99


def test_readme_commands_parse(run):
    """The first command's sigprop part runs as pasted; both are one line each."""
    first, second = readme_blocks("sh")
    assert (len(first.splitlines()), len(second.splitlines())) == (1, 1)
    assert "pytest" in second
    run(*first.split(".venv/bin/sigprop ")[1].split())
    assert Path("bert-base.png").stat().st_size > 10_000
