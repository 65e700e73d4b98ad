"""The command line as scripts use it: clean JSON, files, speed of start, documented commands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sigprop import load, propagate, sweep
from sigprop.cli.app import main
from sigprop.model.huggingface import examples

ROOT = Path(__file__).parents[2]
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
    expected = propagate(load("spec.json").spec, "limit" if limit else "finite")
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


WIDE = SPEC | {"context": 64, "width": 32, "heads": 2, "beta": 2.0, "rho0": 0.0, "depth": 3}
ATTENTION = {"Y_2": "y2", "O": "overlap", "H/nats": "entropy"}
STATISTICS = {"l": "layer", "rho": "rho", "q": "q"} | ATTENTION
LAYERS = {"l": "layer", "rho": "rho", "1 - rho": "gap", "q": "q"} | ATTENTION  # q = 1 here
LAYERS |= {"H/logT": "entropy_ratio", "s": "score_std"}
WEIGHTS = {f"W_{name.upper()}": f"grad_w{name}" for name in "qkvo12"}
TABLES = {  # command: title of a table of it, and what --json calls what stands under each head
    "propagate": ("Layer by layer", LAYERS),
    "propagate --bands": (
        "Spread over networks",
        {"l": "layer"} | {name: name for name in ("rho_std", "y2_std", "entropy_std")},
    ),
    "propagate --gradients": (
        "squared norms for weights",
        {"l": None, "q^g": "grad_q", "p^g": "grad_p"} | WEIGHTS,
    ),
    "simulate --seeds 2 --workers 1": ("2 random networks", STATISTICS),
    "kernel --draws 2 --workers 1": ("Token kernel at infinite width", STATISTICS),
}
DIGITS = 6e-3  # half of the last of three, relative


def table(text, title, heads):
    """Columns of a printed table, by head; None where a dash stands, standard errors left out."""
    lines = text.splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith(title)) :]
    wanted = "".join(heads).replace(" ", "")
    top = next(i for i, line in enumerate(lines) if "".join(line.split()) == wanted)
    rows = [re.sub(r" ?± ?\S+", "", line).split() for line in lines[top + 2 :]]
    rows = rows[: rows.index([])]
    numbers = [[None if cell == "-" else float(cell) for cell in row] for row in rows]
    return dict(zip(heads, zip(*numbers, strict=True), strict=True))


@pytest.mark.parametrize("command", TABLES)
def test_each_column_shows_the_statistic_of_its_head(run, command):
    """A statistic of blocks starts in the second row; spreads are printed with two digits."""
    Path("wide.json").write_text(json.dumps(WIDE))
    name, *options = command.split()
    title, meaning = TABLES[command]
    shown = table(run(name, "wide.json", *options), title, meaning)
    found = json.loads(run(name, "wide.json", *options, "--json"))
    for head, key in ((head, key) for head, key in meaning.items() if key is not None):
        known = [value for value in shown[head] if value is not None]
        assert shown[head].index(known[0]) == len(shown[head]) - len(found[key]), head
        digits = 0.06 if head.endswith("_std") else DIGITS
        assert known == pytest.approx(found[key], rel=digits, abs=1e-9), head


def test_columns_by_position_show_the_statistic_of_their_head(run):
    Path("causal.json").write_text(json.dumps(WIDE | {"context": 24, "causal": True}))
    meaning = {"rho": "rho"} | ATTENTION
    meaning |= {"H/log t": "entropy_ratio", "s": "score_std", "A_1": "first_weight"}
    shown = table(run("propagate", "causal.json"), "By position", ("t", "l", *meaning))
    found = json.loads(run("propagate", "causal.json", "--json"))["positions"]
    assert set(shown["l"]) == {1, 2, 3}
    assert {1, 24} < set(shown["t"])
    for row, (position, layer) in enumerate(zip(shown["t"], shown["l"], strict=True)):
        for head, key in meaning.items():
            value = found[key][int(layer) - (key != "rho")][int(position) - 1]
            near = value if value is None else pytest.approx(value, rel=DIGITS, abs=1e-9)
            assert shown[head][row] == near, head
        if layer == 1 and position > 1:  # tokens are uncorrelated: queries agree by chance (E12b)
            assert 1 - DIGITS < shown["O"][row] * position < 1.3
            assert shown["Y_2"][row] > 1.5 * shown["O"][row]


def test_uncorrelated_queries_overlap_by_chance_and_participation_is_that_of_the_scores(run):
    """At rho = 0: O = 1/T exactly, and Y_2 of one row of independent Gaussian scores (E6)."""
    Path("wide.json").write_text(json.dumps(WIDE | {"width": None, "heads": 1}))
    shown = table(run("propagate", "wide.json"), *TABLES["propagate"])
    found = json.loads(run("propagate", "wide.json", "--json"))
    assert found["score_std"][0] == pytest.approx(2 * np.sqrt(np.log(64)))
    scores = np.random.default_rng(5).standard_normal((20_000, 64)) * found["score_std"][0]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    each = np.square(weights).sum(axis=1)
    assert abs(found["y2"][0] - each.mean()) < 4 * each.std() / np.sqrt(len(each))
    assert found["overlap"][0] == pytest.approx(1 / 64, rel=1e-4)
    assert shown["Y_2"][1] == pytest.approx(each.mean(), rel=0.03)
    assert shown["O"][1] == pytest.approx(1 / 64, rel=DIGITS)


RULES = ("weights", "sqrt_log", "log", "entropy")
GROWTH = {"T": None, "beta": "beta", "s": "score_std", "H/log T, first": "entropy_ratio"}
GROWTH |= {"rho, last": "rho", "alpha_attn": "alpha_critical"}


@pytest.mark.parametrize("rule", RULES)
def test_context_table_names_the_strength_that_keeps_tokens_apart(run, rule):
    """With the alpha_attn of a row, propagating at its T and beta gives rho_max."""
    spec = WIDE | {"rho0": 0.2, "beta": 0.5, "sigma_v2": 1.0, "sigma_w2": 0.1, "depth": 6}
    Path("deep.json").write_text(json.dumps(spec | {"width": None, "heads": 1}))
    words = ("scale", "deep.json", "--context", "64:1k:2", "--rho-max", "0.8")
    found = json.loads(run(*words, "--json"))["rules"][rule]
    shown = table(run(*words), f"{rule}: ", GROWTH)
    assert shown["T"] == (64, 1024)
    for head, key in ((head, key) for head, key in GROWTH.items() if key is not None):
        assert shown[head] == pytest.approx(found[key], rel=1e-3), head
    read = load("deep.json").spec
    rows = zip(shown["T"], found["beta"], found["alpha_critical"], strict=True)
    for context, beta, alpha in rows:
        at = [propagate(read.replace(context=context, beta=beta, alpha_attn=a)).rho[-1]
              for a in (0.99 * alpha, alpha, 1.01 * alpha)]  # fmt: skip
        assert at[1] == pytest.approx(0.8, abs=1e-5)
        assert at[0] > 0.8005 > 0.7995 > at[2]


def named(text, row):
    """Value of a row of a printed table of names and values."""
    line = next(line for line in text.splitlines() if row in line)
    return line.strip("│ ").split("│")[-1].strip()


def test_show_names_the_block_of_collapse_and_the_beta_of_freezing(run):
    """By the odds law (E21) and by beta_c = sqrt(2/gap) (E3), as the JSON of the same command."""
    keys = {"depth": 40, "context": "inf", "beta": 1e-6, "sigma_v2": 0.8, "sigma_w2": 0}
    Path("law.json").write_text(json.dumps(keys | {"rho0": 0.2, "alpha_attn": 2}))
    odds = np.log(0.98 / 0.02) - np.log(0.2 / 0.8)
    block, beta = int(np.ceil(odds / np.log1p(0.8 / 4))), np.sqrt(2 / 0.8)
    found, text = json.loads(run("show", "law.json", "--json")), run("show", "law.json")
    assert (found["collapse_layer"], found["beta_freezing"]) == (block, pytest.approx(beta))
    assert int(named(text, "first block above the accepted overlap")) == block
    assert float(named(text, "beta at which block 1 freezes")) == pytest.approx(beta, rel=1e-5)
    apart = load("law.json").spec.replace(depth=block - 1).to_dict()
    Path("apart.json").write_text(json.dumps(apart))
    assert named(run("show", "apart.json"), "first block above the accepted overlap") == "-"


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_critical_table_says_whether_the_overlap_falls(run, norm):
    """A chaotic pre-norm stack whose overlap rises back to that of the input, and post-norm."""
    keys = {"depth": 6, "context": 512, "norm": norm, "beta": 0.5, "sigma_v2": 0.2, "sigma_w2": 9}
    keys |= {"sigma_b2": 0.1, "activation": "tanh", "rho0": 0.9}
    Path("back.json").write_text(json.dumps(keys))
    text = run("critical", "back.json", "--rho-max", "0.8")
    skips = np.geomspace(0.01, 100, 30)
    rho = sweep(load("back.json").spec.replace(alpha_attn=skips)).state.rho
    assert named(text, "overlap decreases with alpha_attn") == str(np.diff(rho).max() < 1e-9)
    root = float(named(text, "alpha_attn "))
    assert np.interp(root, skips, rho) == pytest.approx(0.8, abs=0.02)


def values_of(run, *words):
    run("diagram", "spec.json", *words, "--out", "d.nc")
    return xr.load_dataset("d.nc", engine="scipy")


def test_axes_are_evenly_spaced_in_the_value_or_in_its_logarithm(run):
    """LO:HI:N has equal differences, LO:HI:N:log equal ratios; both end at LO and HI."""
    data = values_of(run, "--x", "beta=0.1:1.6:5:log", "--y", "alpha_attn=0.5:2.5:5")
    np.testing.assert_allclose(data.beta, [0.1, 0.2, 0.4, 0.8, 1.6], rtol=1e-12)
    np.testing.assert_allclose(data.alpha_attn, [0.5, 1, 1.5, 2, 2.5], rtol=1e-12)
    spec = load("spec.json").spec.replace(beta=0.4, alpha_attn=2.0)
    assert float(data.rho[2, 3]) == pytest.approx(float(propagate(spec).rho[-1]), abs=1e-7)
    data = values_of(run, "--x", "context=16:256:3:log", "--y", "alpha_attn=0.1:10:3:log")
    np.testing.assert_array_equal(data.context, [16, 64, 256])
    np.testing.assert_allclose(data.alpha_attn, [0.1, 1, 10], rtol=1e-12)
    run("curves", "--contexts", "16", "--beta", "0.5:4:4:log", "--png", "c.png", "--out", "c.nc")
    curves = xr.load_dataset("c.nc", engine="scipy")
    np.testing.assert_allclose(curves.beta, [0.5, 1, 2, 4], rtol=1e-12)


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
        "sigprop",
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


def test_influence_is_listed_tabulated_and_drawn(run):
    alone = {"depth": 4, "context": 32, "causal": True, "norm": "none", "beta": 0.0}
    Path("alone.json").write_text(json.dumps(SPEC | alone | {"sigma_v2": 1.0, "sigma_w2": 0.0}))
    values = json.loads(run("influence", "alone.json", "--bins", "8", "--json"))
    found = np.array(values["influence"])
    assert found.shape == (4, 8)
    assert found.sum(axis=1) == pytest.approx(np.ones(4))
    assert found[0, -1] == pytest.approx(0.445, abs=1e-3)  # 0.437(8) simulated
    text = run("influence", "alone.json", "--bins", "8", "--png", "alone.png")
    assert f"{found[0, 0]:.2g}" in text
    assert Path("alone.png").stat().st_size > 10_000
