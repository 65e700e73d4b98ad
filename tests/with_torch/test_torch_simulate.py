"""The torch engine: the numpy engine's statistics, one network a seed, refusals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sigprop import DomainError, Execution, ModelSpec
from sigprop.cli.app import main
from sigprop.core.errors import MissingExtraError
from sigprop.simulation import Given, simulate

SMALL = {"depth": 3, "context": 48, "width": 96, "beta": 1.5, "sigma_v2": 1.0, "sigma_w2": 1.0}
SMALL |= {"rho0": 0.1}
SPECS = {
    "plain": {},
    "causal": {"causal": True, "window": 16, "prefix": 8, "heads": 4},
    "rotary": {"rotary_base": 1e4, "heads": 3, "beta": 2.5},
    "gated": {"gated": True, "norm": "pre", "activation": "silu", "sigma_b2": 0.1},
    "parallel": {"parallel": True, "norm": "pre", "activation": "gelu", "norm_gain": 1.2},
    "centred": {"attention": "centred", "causal": True, "activation": "tanh", "sigma_o2": 0.6},
    "no norm": {"norm": "none", "activation": "erf", "q0": 2.0, "mlp_ratio": 2.0},
}
NAMES = ("rho", "q", "y2", "overlap", "entropy")


def small(**changes):
    return ModelSpec(**(SMALL | changes))


def apart(one, other):
    """Largest difference of any statistic in combined standard errors."""
    worst = 0.0
    for name in NAMES:
        both = np.hypot(one.se(name), other.se(name))
        error = np.abs(one.mean(name) - other.mean(name))
        worst = max(worst, float(np.max(error[both > 1e-7] / both[both > 1e-7], initial=0)))
        assert np.all(error[both <= 1e-7] < 1e-5), name
    return worst


@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS)
def test_both_engines_measure_alike(changes):
    spec = small(**changes)
    numpy, torch = (simulate(spec, 48, engine=engine) for engine in ("numpy", "torch"))
    assert (torch.engine, torch.seeds) == ("torch", numpy.seeds)
    assert apart(numpy, torch) <= 4
    wrong = simulate(spec.replace(sigma_v2=2.0, beta=2.0), 48, engine="torch")
    assert apart(numpy, wrong) > 4  # control


def test_the_projection_is_drawn():
    found = [simulate(small(), 48, engine=e, projection=True) for e in ("numpy", "torch")]
    assert apart(*found) <= 4


def test_a_seed_is_one_network_however_many_run_with_it():
    spec = small(beta=[0.5, 1.5], heads=2)
    many = simulate(spec, 4, first_seed=3, engine="torch", blocks=4)
    one = simulate(spec, 1, first_seed=5, engine="torch", blocks=4)
    again = simulate(spec, 4, first_seed=3, engine="torch", blocks=4)
    for name in many.samples:
        np.testing.assert_array_equal(many.samples[name], again.samples[name])
        np.testing.assert_allclose(
            many.samples[name][2], one.samples[name][0], rtol=2e-4, atol=1e-5
        )
    assert np.abs(many.samples["rho"][0, -1] - many.samples["rho"][1, -1]).max() > 1e-4


def test_settings_of_a_grid_equal_single_runs():
    beta, alpha = np.array([0.5, 2.0])[:, None], np.array([0.5, 1.0, 2.0])
    grid = simulate(small(beta=beta, alpha_attn=alpha, sigma_b2=0.1), 2, engine="torch")
    one = simulate(small(beta=2.0, alpha_attn=0.5, sigma_b2=0.1), 2, engine="torch")
    assert grid.mean("rho").shape == (4, 2, 3)
    for name in ("rho", "y2", "entropy"):
        np.testing.assert_allclose(grid.samples[name][:, :, 1, 0], one.samples[name], rtol=2e-4)


def test_the_input_is_that_of_the_numpy_engine():
    kernel = 0.3 + 0.7 * np.eye(48)
    found = [simulate(small(), 2, engine=e, source=Given(kernel)) for e in ("numpy", "torch")]
    np.testing.assert_array_equal(*(f.samples["rho"][:, 0] for f in found))


def test_batches_are_kept_and_read(tmp_path):
    spec = small(context=512, heads=8)  # two seeds fill a batch
    first = simulate(spec, 3, engine="torch", execution=Execution(folder=tmp_path))
    assert len(list(tmp_path.glob("*.npz"))) == 2
    second = simulate(spec, 3, engine="torch", execution=Execution(folder=tmp_path))
    np.testing.assert_array_equal(first.samples["rho"], second.samples["rho"])


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ({"engine": "jax"}, "engine"),
        ({"device": "cpu"}, "device"),
        ({"engine": "torch", "device": "tpu"}, "device"),
    ],
)
def test_refusals(arguments, parameter):
    with pytest.raises(DomainError) as error:
        simulate(small(), 1, **arguments)
    assert error.value.parameter == parameter


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DomainError, match="torch finds no other"):
        simulate(small(), 1, engine="torch", device="cuda")


def test_without_torch(monkeypatch):
    monkeypatch.setattr("sigprop.core.errors.find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[torch\]'"):
        simulate(small(), 1, engine="torch")


def test_command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("spec.json").write_text(json.dumps(small().to_dict()))
    words = ["simulate", "spec.json", "--seeds", "3", "--workers", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["sigprop", *words, "--engine", "torch", "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"] == "torch"
    assert found["seeds"] == [0, 1, 2]
    assert len(found["rho"]) == 4
