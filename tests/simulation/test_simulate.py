"""Random networks: measured references, exact limits, and independence of the theory."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sigprop
from sigprop import DomainError, ModelSpec, propagate
from sigprop.core.jobs.cache import Job, gather, job
from sigprop.core.jobs.execution import Execution
from sigprop.simulation import Exchangeable, Given, Tokens, query_gradient, simulate
from sigprop.simulation.architecture import unseen
from sigprop.simulation.inputs import _pairs, gaussian
from sigprop.simulation.network_numpy import ACTIVATIONS, Network, _erf
from sigprop.studies.comparison import compare, deviation, reference, references

ROOT = Path(sigprop.__file__).parent
NAMES = {"rho": "rho", "q": "q", "y2": "y2", "entropy": "h", "overlap": "o"}
SEEDS = 24  # the standard error of few seeds is itself too uncertain for a bound of four
ROUNDING = 2e-6  # the references have six digits
SMALL = {"depth": 2, "context": 32, "width": 48, "beta": 1.0, "sigma_v2": 1.0, "sigma_w2": 1.0}
SMALL |= {"rho0": 0.1}


def small(**changes):
    return ModelSpec(**(SMALL | changes))


# independence


def imported(text):
    """Packages of sigprop from which a source text imports, at any depth; model by module."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    parts = [name.split(".")[1:] for name in found if name.startswith("sigprop.")]
    return {".".join(part[: 2 if part[0] == "model" else 1]) for part in parts}


MAY = {"core", "model.inputs", "model.pattern", "model.spec", "simulation"}


def test_the_simulator_shares_no_formula_with_the_theory():
    for path in (ROOT / "simulation").glob("*.py"):
        assert imported(path.read_text()) <= MAY, path.name
    for path in (*(ROOT / "core").rglob("*.py"), ROOT / "model/inputs.py", ROOT / "model/spec.py"):
        assert imported(path.read_text()) <= MAY - {"simulation"}, path.name  # nor through these
    assert "layers" in imported("def f():\n    from sigprop.layers.mlp import Mlp")  # control


# references


def worst(measured, found, layers):
    """Largest deviation of any statistic in combined standard errors."""
    out = {}
    for ours, theirs in NAMES.items():
        first = 0 if ours in ("rho", "q") else 1
        columns = (measured[theirs], measured[f"{theirs}_se"])
        mean, se = (np.array(column[first : layers + 1], float) for column in columns)
        own, own_se = found.mean(ours), found.se(ours)
        excess = np.maximum(np.abs(own - mean) - ROUNDING, 0)
        both = np.hypot(se, own_se)
        out[ours] = float(np.max(excess / np.where(both > 0, both, 1e-12), initial=0))
    return out


@pytest.mark.parametrize("name", references())
def test_first_layers_of_the_references(simulations, name):
    found = simulate(reference(name).spec.replace(depth=3), seeds=SEEDS)
    assert max(worst(simulations[name], found, 3).values()) <= 4


def test_a_wrong_network_is_rejected(simulations):
    """Negative control: values a fifth too large, or scores a fifth too hot."""
    measured, spec = simulations["centred_postnorm"], reference("centred_postnorm").spec
    hot = spec.replace(depth=3, beta=2.4)
    strong = reference("prenorm_mid_beta").spec.replace(depth=3, sigma_v2=1.2)
    assert max(worst(measured, simulate(hot, seeds=SEEDS), 3).values()) > 4
    found = simulate(strong, seeds=SEEDS)
    assert max(worst(simulations["prenorm_mid_beta"], found, 3).values()) > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", references())
def test_all_layers_of_the_references(simulations, name):
    spec = reference(name).spec
    found = simulate(spec, seeds=SEEDS, execution=Execution(os.cpu_count()))
    assert max(worst(simulations[name], found, spec.depth).values()) <= 4


def test_the_shipped_specs_are_those_of_the_references(simulations):
    assert set(references()) == set(simulations)
    for name in references():
        case, spec = simulations[name]["case"], reference(name).spec
        assert (spec.depth, spec.context, spec.width, spec.heads) == tuple(
            case[key] for key in ("L", "T", "d", "H")
        )
        assert (spec.beta, spec.sigma_v2, spec.rho0) == (case["beta"], case["vv"], case["rho0"])


# exact limits and laws


def test_uniform_attention_at_zero_temperature():
    found = simulate(small(beta=0.0, depth=1), seeds=2)
    np.testing.assert_allclose(found.mean("y2"), 1 / 32, rtol=1e-6)
    np.testing.assert_allclose(found.mean("overlap"), 1 / 32, rtol=1e-6)
    np.testing.assert_allclose(found.mean("entropy"), np.log(32), rtol=1e-6)


def test_centred_attention_at_zero_temperature_is_nothing():
    found = simulate(small(beta=0.0, attention="centred", sigma_w2=0.0), seeds=1)
    np.testing.assert_allclose(found.samples["rho"][0], found.samples["rho"][0, 0], atol=1e-6)


@pytest.mark.parametrize("norm", ["post", "pre", "none"])
def test_a_strong_skip_branch_keeps_the_tokens(norm):
    found = simulate(small(norm=norm, alpha_attn=1e3, alpha_mlp=1e3), seeds=1)
    np.testing.assert_allclose(found.mean("rho"), found.mean("rho")[0], atol=1e-3)


def test_merged_tokens_stay_merged():
    found = simulate(small(rho0=1.0), seeds=1)
    assert np.abs(found.samples["gap_ratio"]).max() < 1e-11


@pytest.mark.parametrize("causal", [True, False])
def test_the_causal_mask_keeps_the_future_out(causal):
    spec = small(causal=causal, beta=[1.0], heads=2)
    first = Exchangeable().draw(spec, np.random.Generator(np.random.SFC64(0)))
    second = first.copy()
    second[:, 20:] *= -1
    ends = [
        list(Network(spec, np.random.Generator(np.random.SFC64(1))).run(x))[-1].x[0, :20]
        for x in (first, second)
    ]
    assert (np.abs(ends[0] - ends[1]).max() < 1e-5) == causal


def test_rotary_scores_depend_on_the_distance_alone():
    """All tokens alike: without positions attention is uniform, with rotary ones it is not."""
    plain, turned = (
        simulate(small(rho0=1.0, rotary_base=base, beta=2.0), seeds=2).mean("y2")[0]
        for base in (None, 1e4)
    )
    assert plain == pytest.approx(1 / 32)
    assert turned > 1.2 / 32


def test_settings_of_a_grid_equal_single_runs():
    beta, alpha = np.array([0.5, 2.0])[:, None], np.array([0.5, 1.0, 2.0])
    grid = simulate(small(beta=beta, alpha_attn=alpha, sigma_b2=0.1), seeds=2)
    assert grid.mean("rho").shape == (3, 2, 3)
    one = simulate(small(beta=2.0, alpha_attn=0.5, sigma_b2=0.1), seeds=2)
    for name in ("rho", "y2", "entropy"):
        np.testing.assert_allclose(grid.samples[name][:, :, 1, 0], one.samples[name], rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu", "gated": True, "norm": "pre"},
        {"activation": "silu", "parallel": True, "norm": "pre"},
        {"activation": "tanh", "sigma_b2": 0.1, "norm_gain": 0.5},
        {"activation": "erf", "norm": "none"},
        {"activation": "linear", "sigma_o2": 0.5, "mlp_ratio": 2.0},
    ],
)
def test_theory_agrees_for_every_architecture(changes):
    """Wide networks against the theory, within its stated accuracy and four standard errors."""
    spec = small(context=128, width=384, heads=2, depth=3, **changes)
    found = compare("architecture", spec, seeds=6)
    measured = found.measured
    near = deviation(found.finite.q, measured.mean("q"), measured.se("q"))
    assert found.deviations["finite"]["rho"].largest < 0.02
    assert near.largest <= 5 * measured.se("q").max() + 0.02 * found.finite.q.max()
    wrong = propagate(spec.replace(sigma_v2=2.0, sigma_w2=0.3))
    assert np.abs(wrong.rho - measured.mean("rho")).max() > 0.05  # control


def test_the_projection_matters_little_on_average():
    spec = small(context=64, width=256, heads=4, sigma_o2=0.7)
    with_, without = (simulate(spec, seeds=12, projection=p) for p in (True, False))
    error = np.hypot(with_.se("rho"), without.se("rho"))
    assert np.all(np.abs(with_.mean("rho") - without.mean("rho"))[1:] < 4 * error[1:])


def test_gaussian_numbers():
    z = gaussian(np.random.Generator(np.random.SFC64(0)), 2**20).astype(np.float64)
    assert abs(z.mean()) < 4e-3
    assert abs(z.var() - 1) < 6e-3
    assert abs((z**4).mean() - 3) < 0.04
    pairs = z.reshape(-1, 2)
    assert abs(pairs.prod(axis=1).mean()) < 6e-3
    assert abs(np.square(pairs).prod(axis=1).mean() - 1) < 0.02


def test_the_pairs_that_weights_are_drawn_from():
    """Moments over all pairs, with the stated departures from the normal distribution."""
    x, y = (part.astype(np.float64) for part in (_pairs().real, _pairs().imag))
    assert x.size == 2**16
    for a, b, exact in ((1, 0, 0), (2, 0, 1), (1, 1, 0), (0, 2, 1), (3, 1, 0), (0, 3, 0)):
        assert np.mean(x**a * y**b) == pytest.approx(exact, abs=1e-7)
    assert np.mean(x**4) == pytest.approx(3 - 8e-4, abs=2e-5)
    assert np.mean(x**2 * y**2) == pytest.approx(1 - 2.6e-4, abs=1e-5)
    assert np.mean(x**6) == pytest.approx(15 - 0.036, abs=1e-3)
    assert np.abs(x).max() == pytest.approx(4.13, abs=0.02)


def test_every_mask():
    """Tokens see what the spec says: themselves and before, a window of it, a prefix both ways."""
    rows = unseen(small(context=6, causal=True, window=3, prefix=2))
    assert ["".join(".x"[int(hidden)] for hidden in row) for row in rows] == [
        "..xxxx",
        "..xxxx",
        "...xxx",
        "x...xx",
        "xx...x",
        "xxx...",
    ]
    spec = small(beta=0.0, causal=True, window=4, prefix=3, depth=1)
    seen = (~unseen(spec)).sum(axis=1)
    found = simulate(spec, 1)
    assert found.mean("y2")[0] == pytest.approx(np.mean(1 / seen), rel=1e-6)
    assert found.mean("entropy")[0] == pytest.approx(np.mean(np.log(seen)), rel=1e-6)
    assert simulate(small(beta=0.0, causal=True), 1).mean("y2")[0] < 0.7 / 4  # control


def test_activations():
    y = np.linspace(-5, 5, 101, dtype=np.float32)
    from scipy.special import erf, expit

    np.testing.assert_allclose(_erf(y.copy()), erf(y), atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["silu"](y.copy()), y * expit(y), atol=1e-6)
    gelu = y * (1 + erf(y / np.sqrt(2))) / 2
    np.testing.assert_allclose(ACTIVATIONS["gelu"](y.copy()), gelu, atol=3e-6)


def test_query_gradient_against_differences():
    """Finite differences of L = sum g_t . out_t along the gradient of a tiny layer."""
    spec = ModelSpec(depth=1, context=6, width=4, beta=1.0, sigma_v2=1.0, sigma_w2=1.0, rho0=0.0)
    rng = np.random.Generator(np.random.SFC64(3))
    x = Exchangeable().draw(spec, rng)[0].astype(float)
    wq, wk, wv = (gaussian(rng, 4, 4).astype(float) for _ in range(3))
    g = gaussian(rng, 6, 4).astype(float)
    scale = np.sqrt(np.sqrt(np.log(6)) / 4)

    def loss(w):
        scores = (x @ w) @ (x @ wk * scale).T / 2
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.sum(g * (weights @ (x @ wv / 2)))

    steps = np.eye(16).reshape(16, 4, 4) * 1e-6
    slope = [(loss(wq * scale + s) - loss(wq * scale - s)) / 2e-6 for s in steps]
    found = query_gradient(spec, 3) * np.sum(g**2)
    assert found == pytest.approx(np.sum(np.square(slope)), rel=1e-4)


# inputs


def test_given_kernel():
    kernel = 0.3 + 0.7 * np.eye(32)
    kernel[3, 4] = kernel[4, 3] = 1.0
    found = simulate(small(width=2048, depth=1), seeds=4, source=Given(kernel), blocks=32)
    np.testing.assert_allclose(found.mean("block_means")[0], kernel, atol=0.08)


def test_tokens_of_one_kind_are_one_token():
    ids = np.zeros((1, 32), dtype=int)
    found = simulate(small(), seeds=1, source=Tokens(ids, "none"))
    assert found.mean("rho")[0] == pytest.approx(1.0)
    apart = simulate(small(width=512), seeds=2, source=Tokens(ids, "learned"))
    assert apart.mean("rho")[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "arguments", "parameter"),
    [
        ({"width": None}, {}, "width"),
        ({"heads": 5}, {}, "heads"),
        ({"context": "inf"}, {}, "context"),
        ({"rho0": -0.01}, {}, "rho0"),
        ({"width": 45, "heads": 3, "rotary_base": 1e4}, {}, "width"),
        ({}, {"seeds": 0}, "seeds"),
        ({}, {"blocks": 33}, "blocks"),
        ({}, {"source": Given(np.eye(3))}, "kernel"),
        ({}, {"source": Tokens(np.zeros((1, 9), int))}, "context"),
    ],
)
def test_refusals(changes, arguments, parameter):
    with pytest.raises(DomainError) as error:
        simulate(small(**changes), **({"seeds": 1} | arguments))
    assert error.value.parameter == parameter


# cells


@job("simulation.cell")
def cell(x):
    return {"y": np.array(x) * 2.0}


@job("simulation.counted")
def counted(x, log):
    """A cell that leaves a mark each time it is computed."""
    with open(log, "a") as file:
        file.write("x")
    return {"y": np.array(2.0 * x)}


def test_finished_cells_are_read_not_computed(tmp_path):
    log = tmp_path / "log"
    jobs = [Job(counted, {"x": i, "log": str(log)}) for i in range(3)]
    first = gather(jobs, Execution(folder=tmp_path))
    assert [float(f["y"]) for f in gather(jobs, Execution(folder=tmp_path))] == [0.0, 2.0, 4.0]
    assert log.read_text() == "xxx"
    kept = tmp_path / f"{jobs[1].key}.npz"
    kept.write_bytes(kept.read_bytes()[:40])  # broken: computed again, it alone
    assert gather(jobs, Execution(folder=tmp_path))[1]["y"] == first[1]["y"] == 2.0
    assert log.read_text() == "xxxx"


def test_a_change_of_anything_changes_the_key():
    keys = {
        Job(function, {"x": x}).key
        for function in (cell, counted)
        for x in (1, 1.5, np.zeros(2), np.zeros(3), np.zeros(2, np.float32))
    }
    assert len(keys) == 10


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DomainError):
        gather([Job(cell, {"x": 1})], Execution(folder=tmp_path / "file" / "cells"))


def test_workers_give_the_same_numbers(tmp_path):
    alone, shared = (simulate(small(), 3, execution=Execution(n)) for n in (1, 2))
    for name in alone.samples:
        np.testing.assert_allclose(alone.samples[name], shared.samples[name], rtol=1e-4, atol=1e-6)


def test_workers_end_with_their_parent(tmp_path):
    """Killed so that it cannot clean up, a run leaves no process behind."""
    spec = reference("encoder_low_beta").spec.to_dict()
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    words = [sys.executable, "-m", "sigprop", "simulate", "spec.json", "--workers", "2"]
    run = subprocess.Popen([*words, "--seeds", "99"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    children = _eventually(lambda: _children(run.pid))
    run.kill()
    run.wait()
    assert children
    assert _eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def _children(parent):
    """Processes started by `parent` that run a pool's work."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            line = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == parent and "spawn_main" in line:
            found.append(int(status.parent.name))
    return found if len(found) == 2 else []


def _eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.1)
    return condition()


# comparison


def test_comparison_gives_both_verdicts():
    spec = reference("encoder_critical_beta").spec.replace(depth=12, width=360, context=256)
    found = compare("encoder", spec, seeds=8)
    assert found.agrees("finite"), found.verdict
    assert not found.agrees("limit")
    assert found.to_dict()["agrees"] == {"finite": True, "limit": False}
    assert "does not agree" in found.verdict
