"""Answers, refusals and figures of the Python API."""

import copy
import json
import pickle
from importlib import import_module

import numpy as np
import pytest
from outcomes import outcome, run_cli
from wrong_types import CAUSAL, HELD, SPEC, SURFACE, wrong

import sigprop
from sigprop import DomainError, ModelSpec, critical, load, propagate
from sigprop.analysis.entropy import entropy_beta
from sigprop.layers.attention.statistics import Finite, moments
from sigprop.plotting import plot_trajectory
from sigprop.propagation.causal import causal
from sigprop.simulation import simulate

SLOW = ("accurate_to", "causal", "estimated_error")
YOUNG = ("influence",)  # than the fault; tested with what it finds
LATE = [
    (module, name) for module, name in SURFACE if module != "sigprop.torch" and name not in YOUNG
]


@pytest.mark.parametrize("sigma_v2", [0.2, 0.0])
def test_the_end_of_a_critical_search_reads_as_a_sentence(sigma_v2):
    spec = ModelSpec(depth=12, context=512, beta=1, sigma_v2=sigma_v2, sigma_w2=0.2, rho0=0.1)
    found = critical(spec, 0.9)
    assert str(found.reason) == found.to_dict()["reason"]
    assert not str(found.reason).isdigit()


@pytest.mark.parametrize(
    ("ratio", "exact"),  # from H = E h(sigmoid(d)), d ~ N(0, 2 s^2), by quadrature to 15 digits
    [(0.01, 160.807933408483), (0.011, 146.187058356165)],
)
def test_two_keys_are_as_cold_as_their_difference_says(ratio, exact):
    assert float(entropy_beta(Finite(2), ratio)) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("context", [3, 64, 512, 2**16, 10**12])
def test_cold_attention_is_a_draw_of_two_keys(context):
    """H s -> pi^2/6 times the density at zero of the gap between the two largest of T normals.

    The density varies by sqrt(2 log T)/s of itself over the gaps that matter.
    """
    from scipy.integrate import quad
    from scipy.stats import norm

    def density(z):
        return context * (context - 1) * np.exp(2 * norm.logpdf(z) + (context - 2) * norm.logcdf(z))

    peak = norm.isf(1 / context)
    rate = np.pi**2 / 6 * quad(density, peak - 4, peak + 6, points=[peak], limit=200)[0]
    s = float(entropy_beta(Finite(context), 0.01)) * np.sqrt(np.log(context))
    assert s > 40
    entropy = 0.01 * np.log(context)
    assert float(moments(s, context).entropy) == pytest.approx(entropy, rel=1e-9)
    assert entropy * s == pytest.approx(rate, rel=np.sqrt(2 * np.log(context)) / s)


def test_what_load_returns_is_a_spec(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(SPEC.to_dict()))
    found = outcome(propagate, load(path))
    assert not isinstance(found, AttributeError)
    assert np.array_equal(found.rho, propagate(SPEC).rho)
    assert float(critical(load(path), 0.9).alpha_attn) == float(critical(SPEC, 0.9).alpha_attn)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param(*one, marks=[pytest.mark.slow] * (one[1] in SLOW))
        for one in LATE
        if one not in HELD
    ],
)
def test_wrong_types_are_refused_by_name(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some text is a path to write to
    assert wrong(module, name) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_arrays_of_copied_specs_are_read_only(copied):
    spec = SPEC.replace(beta=[0.5, 1.0], context=[16, 32])
    other = copied(spec)
    assert not other.beta.flags.writeable
    assert not other.context.flags.writeable
    assert other.to_dict() == spec.to_dict()


def test_the_figure_shows_positions(tmp_path):
    axes = plot_trajectory(propagate(CAUSAL)).axes
    labels = [a.get_xlabel() for a in axes]
    assert sum("position" in label for label in labels) == 3
    drawn = axes[3].lines[-1].get_xydata()
    last = propagate(CAUSAL).positions
    assert np.array_equal(drawn[:, 1], last.rho[-1], equal_nan=True)


def test_the_figure_shows_distances():
    found = propagate(SPEC.replace(rotary_base=1e4))
    axes = plot_trajectory(found).axes
    assert sum("distance" in a.get_xlabel() for a in axes) == 1
    assert np.array_equal(axes[3].lines[-1].get_ydata(), found.distances.gap_ratio[-1])


def test_the_figure_of_the_command_shows_gradients(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(SPEC.to_dict()))
    plain, both = (
        run_cli("propagate", "s.json", *options, folder=tmp_path)
        for options in (["--png", "plain.svg"], ["--gradients", "--png", "both.svg"])
    )
    assert (plain.returncode, both.returncode) == (0, 0)
    height = [
        (tmp_path / name).read_text().split('height="')[1].split("pt")[0]
        for name in ("plain.svg", "both.svg")
    ]
    assert float(height[1]) > 1.5 * float(height[0])


LARGE = {
    "scores": (simulate, SPEC.replace(context=65536, depth=1), "context"),
    "states": (propagate, SPEC.replace(beta=np.linspace(0, 1, 2_000_000)), "shape"),
    "layers": (causal, CAUSAL.replace(depth=100_000, context=4096), "depth"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_what_needs_more_than_two_gib_is_refused_with_its_size(kind, monkeypatch):
    """In 0.2 it goes on: what it would do is stopped here at its first step."""
    function, spec, parameter = LARGE[kind]
    _stop(monkeypatch)
    found = outcome(function, spec)
    assert isinstance(found, DomainError), found
    assert found.parameter == parameter
    assert "GiB of memory, and at most 2 GiB are allowed" in str(found)


class Started(Exception):
    pass


def _stop(monkeypatch):
    def started(*_, **__):
        raise Started

    steps = {  # names of today, and of 0.2
        "simulation.run": ("gather",),
        "propagation.solve": ("solve", "blocks_of"),
        "propagation.causal": ("solve", "_layers"),
    }
    for module, names in steps.items():
        for name in names:
            where = import_module(f"sigprop.{module}")
            monkeypatch.setattr(where, name, started, raising=False)


def test_sampled_gradients_hold_the_weights_of_one_block(monkeypatch):
    """The same numbers whether a block's weights are kept or drawn again."""
    from sigprop.propagation.gradients import sampled

    assert hasattr(sampled, "LIMIT"), "the weights of all blocks are kept"
    spec = CAUSAL.replace(heads=4, depth=3)
    kept = sigprop.gradients(spec, draws=2)
    again, called = sampled._again, []
    monkeypatch.setattr(sampled, "LIMIT", sampled._block_bytes(spec) * 2)
    monkeypatch.setattr(sampled, "_again", lambda *given: called.append(1) or again(*given))
    drawn = sigprop.gradients(spec, draws=2)
    assert len(called) == 6
    for name in ("q", "p", "wq", "wk", "wv", "w1", "w2"):
        assert np.array_equal(getattr(kept, name), getattr(drawn, name))
