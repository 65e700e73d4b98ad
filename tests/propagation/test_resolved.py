"""Grids, gradients and bands under causal masks and rotary positions."""

import json

import autograd
import numpy as np
import pytest
from test_fluctuations import HALF_WIDTH, spec_of

from sigprop import (
    AssumptionError,
    DomainError,
    ModelSpec,
    bands,
    critical,
    diagram,
    gradients,
    judge,
    propagate,
    sweep,
)
from sigprop.layers.attention.key_correlations import ALONE
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.query_statistics import Exact
from sigprop.layers.attention.query_tables import Tabulated, tabulated
from sigprop.propagation import grids
from sigprop.propagation.finite_width import bands as fluctuations
from sigprop.simulation import simulate

CAUSAL = ModelSpec(
    depth=4, context=40, causal=True, beta=1.5, sigma_v2=1, sigma_w2=0.5, rho0=0.1, alpha_attn=1.5
)
SMALL = CAUSAL.replace(context=16)
ROTARY = ModelSpec(
    depth=4, context=64, rotary_base=1e3, beta=1.5, sigma_v2=1, sigma_w2=0.5, rho0=0.1
)
ALLOWED = 0.002  # of coarse blocks and interpolated statistics


# grids


def test_the_table_agrees_with_quadrature():
    exact = Exact(make_layout(64, 8, singles=2))
    table, count = Tabulated(exact.layout, top=8.0), exact.layout.queries.count
    for s, allowed in ((0.05, 1e-5), (1.0, 1e-4), (5.0, 1e-3)):
        sigma = np.minimum(s * np.sqrt(np.linspace(0.5, 1, count.size)), 4.9)
        one, fast = exact.single(sigma), table.single(sigma)
        assert np.abs(fast.excess - one.excess).max() < 3e-6
        assert np.abs(fast.entropy - one.entropy)[count > 1].max() < 1e-6
        r = np.full(len(exact.layout.common), 0.6)
        (i, j), most = exact.layout.couples, np.sqrt(one.excess)
        apart = np.abs(table.share(sigma, r) - exact.share(sigma, r)) * most[i] * most[j]
        assert apart.max() < allowed
        ratio = np.linspace(0, 6, len(exact.layout.size)) * np.ones((count.size, 1))
        weight, same = exact.key_weights(sigma, ratio), table.key_weights(sigma, ratio)
        centres = np.arange(len(exact.layout.size))  # at which quadrature finds the weights
        seen = ((exact.layout.seen > 0) & (count > 1)[:, None])[centres]
        error = (same / (count[:, None] * weight))[centres] - 1
        assert np.abs(error)[seen].max() < 0.01


def test_attention_beyond_the_table_freezes():
    hot = tabulated(8, 40.0).single(np.full((1, 8), 30.0))
    assert (hot.entropy[0, 1:] < 0.2).all()
    assert (np.diff(hot.entropy[0, 1:]) > -1e-6).all()


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [({}, ALLOWED), ({"norm": "pre", "rotary_base": 1e3}, 2 * ALLOWED)],  # drawn scores
)
def test_causal_grids_are_those_of_propagate(changes, allowed):
    spec = CAUSAL.replace(**changes)
    final = sweep(spec.replace(beta=[0.0, 0.7, 1.5], alpha_attn=[[1.0], [1.5]]))
    for i, j, beta, alpha in ((0, 0, 0.0, 1.0), (1, 2, 1.5, 1.5)):
        found = propagate(spec.replace(beta=beta, alpha_attn=alpha))
        assert abs(final.state.gap[i, j] / final.state.q[i, j] - 1 + found.rho[-1]) < allowed
        assert final.reduced_beta[i, j] == pytest.approx(found.reduced_beta.max(), abs=5 * allowed)
        assert abs(final.entropy_ratio[i, j] - found.entropy_ratio.min()) < allowed
    colder = final.state.gap[1, 1] / final.state.q[1, 1]  # negative control
    assert abs(colder - 1 + found.rho[-1]) > 5 * ALLOWED


def decoder(number, **changes):
    """Random masked decoder."""
    rng = np.random.default_rng([76, number])

    def wide(low, high):
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    heads, norm = int(rng.choice([1, 4, 16])), str(rng.choice(["pre", "post"]))
    values = {
        "depth": int(rng.integers(2, 25)),
        "context": round(wide(64, 8192)),
        "norm": norm,
        "heads": heads,
        "width": heads * int(rng.choice([32, 64, 128])),
        "beta": rng.uniform(0, 3),
        "sigma_v2": wide(0.3, 2),
        "sigma_w1_2": wide(0.5, 2),
        "sigma_w2_2": wide(0.3, 2),
        "alpha_attn": wide(0.6, 1.7),
        "alpha_mlp": wide(0.6, 1.7),
        "activation": str(rng.choice(["relu", "gelu", "silu", "tanh"])),
        "gated": bool(rng.random() < 0.3),
        "rho0": float(rng.choice([0.0, rng.random() ** 3, rng.random()])),
    }
    return ModelSpec(causal=True, **values, **changes)


def distances(specs):
    """How far the overlaps of grids are from those of single solves."""
    finals = [sweep(spec.replace(beta=[spec.beta])).state for spec in specs]
    single = [propagate(spec).rho[-1] for spec in specs]
    return np.abs([f.rho[0] - rho for f, rho in zip(finals, single, strict=True)])


def of_independent_scores(self, scale, deficit, sigma, weight):
    return ALONE


@pytest.mark.parametrize(
    ("number", "most"),
    [(24, 0.001), pytest.param(160, 0.001, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_grids_of_random_decoders_are_single_solves(number, most, monkeypatch):
    """Every fourth has rotary positions; control: without what correlated scores do."""
    specs = [decoder(k, rotary_base=1e4 if k % 4 == 3 else None) for k in range(number)]
    far = distances(specs)
    assert np.mean(far < 0.001) > 0.9
    assert far.max() < most
    monkeypatch.setattr(Tabulated, "correlations", of_independent_scores)
    without = distances(specs[:24])
    assert np.mean(without < 0.001) < 0.85
    assert without.max() > 0.02


HARSH = (  # correlations shrink deviations of scores by a fifth while tokens merge
    ModelSpec(
        depth=16, context=632, width=2048, heads=16, norm="pre", causal=True, window=396,
        activation="tanh", gated=True, mlp_ratio=1.0, beta=2.064, sigma_v2=0.1136, sigma_o2=0.736,
        sigma_w1_2=0.435, sigma_w2_2=2.036, alpha_attn=0.172, alpha_mlp=1.606, rho0=0.0,
    ),
    ModelSpec(
        depth=13, context=872_143, width=256, heads=16, norm="post", causal=True,
        activation="gelu", mlp_ratio=1.0, beta=2.8165, sigma_v2=0.3836, sigma_o2=0.4376,
        sigma_w1_2=0.1243, sigma_w2_2=2.0, alpha_attn=0.1436, alpha_mlp=2.1156, rho0=0.0,
    ),
)  # fmt: skip


@pytest.mark.parametrize("resolution", [7, 129, 16.5, True])
def test_the_number_of_blocks_of_a_sweep_has_a_range(resolution):
    with pytest.raises(DomainError, match=r"^resolution = "):
        sweep(HARSH[0], resolution=resolution)
    assert sweep(HARSH[0].replace(beta=0.1), resolution=8).defined


@pytest.mark.parametrize("spec", HARSH, ids=["window", "long"])
def test_strong_correlations_of_scores_are_not_looked_up(spec, monkeypatch):
    """Stacks in which tables are too coarse: beside mild ones, as by `propagate`; else far off."""
    several = spec.replace(beta=[0.5, float(spec.beta)])
    exact = float(propagate(spec).rho[-1])
    assert abs(sweep(several).state.rho[1] - exact) < 1e-9
    monkeypatch.setattr(grids, "SHRUNK", (0.0, 1e-9))
    assert abs(sweep(several).state.rho[1] - exact) > 0.002


@pytest.mark.parametrize(
    ("deficit", "context", "part"),
    [(0.5, 512, 1), (0.15, 512, 0.5), (0.09, 512, 0), (0.09, 2**17, 1)],
)
def test_stacks_pass_gradually_to_what_is_not_looked_up(deficit, context, part, monkeypatch):
    """Rows of zeros in place of ones, by the least factor and the final overlap deficit."""
    least = np.array([0.9, 0.87, 0.86, 0.85, 0.5])
    spec = ModelSpec(
        depth=2,
        context=context,
        causal=True,
        beta=np.ones((5, 1, 1)),
        sigma_v2=1,
        sigma_w2=1,
        rho0=0,
    )
    rows = np.ones((6, 5))
    rows[1] = deficit
    monkeypatch.setattr(grids, "build_stack", lambda *_: None)
    monkeypatch.setattr(grids, "_rows", lambda spec, *_: (np.zeros((6, spec.shape[0])), None))
    grids._solve_harsh(spec, "position", rows, least, True)
    # to rounding: the exact rows are zeros, and what is left is a product
    np.testing.assert_allclose(1 - rows[0], part * np.array([0, 0, 0.5, 1, 1]), atol=1e-12)
    np.testing.assert_allclose(rows[1] / deficit, rows[0], atol=1e-12)


def test_rotary_grids_are_those_of_propagate():
    final = sweep(ROTARY.replace(beta=[0.5, 1.5]))
    found = propagate(ROTARY)
    assert abs(final.state.rho[1] - found.rho[-1]) < ALLOWED
    assert abs(final.entropy_ratio[1] - found.entropy_ratio.min()) < ALLOWED
    assert abs(final.state.rho[0] - found.rho[-1]) > 5 * ALLOWED  # negative control


def test_a_diagram_of_a_causal_stack():
    axes = {"beta": np.linspace(0, 1.5, 4), "alpha_attn": np.linspace(0.5, 3, 5)}
    data = diagram(SMALL, rho_max=0.5, **axes)
    assert data.attrs["undefined"] == 0
    found = propagate(SMALL.replace(beta=1.0, alpha_attn=axes["alpha_attn"][2]))
    assert abs(float(data.rho[2, 2]) - found.rho[-1]) < ALLOWED
    assert data.sizes["rank_collapse_point"] > 2


def test_hot_and_dead_cells_are_masked():
    final = sweep(SMALL.replace(beta=[1.0, 100.0], depth=1, context=4))
    assert final.defined.tolist() == [True, False]
    assert np.isnan(final.state.gap[1])


@pytest.mark.parametrize("spec", [SMALL, ROTARY])
def test_critical_strength(spec):
    found = critical(spec, 0.5)
    assert bool(found.converged)
    assert abs(propagate(spec.replace(alpha_attn=found.alpha_attn)).rho[-1] - 0.5) < ALLOWED
    other = critical(spec, 0.5, geometry="exchangeable").alpha_attn
    assert abs(propagate(spec.replace(alpha_attn=other)).rho[-1] - 0.5) > ALLOWED


def test_the_verdict_resolves_positions():
    assert judge(SMALL, 0.5).trajectory.positions is not None


def test_a_measured_network_lies_on_the_grid():
    spec = CAUSAL.replace(width=384, heads=2)
    measured = simulate(spec, 24)
    final = sweep(spec.replace(beta=[spec.beta, 0.5]))
    mean, error = measured.mean("rho")[-1], measured.se("rho")[-1]
    rho = 1 - final.state.gap / final.state.q
    assert abs(rho[0] - mean) < 3 * error + 0.01
    assert abs(rho[1] - mean) > 3 * error + 0.01  # negative control: another temperature


# gradients


CASE = {"T": 48, "d": 96, "H": 2, "L": 4, "vw": 1.0, "vv": 1.0, "vb": 0.0, "aS": 1.0, "aM": 1.0}
CASE |= {"rho0": 0.1, "act": "relu", "norm": "post", "beta": 1.5, "causal": True}


def misses(found, measured):
    total, errors = 0, found.errors or {}
    for name, other in (("q", "qg"), *((n, n) for n in ("wq", "wk", "wv", "w1", "w2"))):
        mine, (mean, error) = getattr(found, name), measured[other]
        spread = np.hypot(error / mean, errors.get(name, 0.0) / mine)
        total += np.sum(np.abs(np.log(mine / mean)) > 0.1 + 3 * spread)
    return total


@pytest.mark.parametrize("draws", [None, 30])
def test_causal_gradients_against_autograd(draws):
    """By position, and sampled."""
    spec = spec_of(CASE).replace(causal=True)
    measured = autograd.average(CASE, range(40))
    found = gradients(spec, draws=draws, seed=3)
    assert misses(found, measured) == 0
    cold = gradients(spec.replace(beta=0.7), draws=draws and 10)  # negative control
    assert misses(cold, measured) >= 4
    mean, error = measured["pg"]
    own = found.errors["p"] if draws else 0.0
    assert (np.abs(found.p - mean) < 0.2 * np.abs(mean) + 3 * np.hypot(error, own)).all()


@pytest.mark.parametrize("kind", ["causal", "rotary"])
def test_gradients_of_an_array_are_its_single_gradients(kind):
    """Beside them, a stack that nothing passes; late tokens have other gradients."""
    spec = CAUSAL if kind == "causal" else ROTARY
    spec = spec.replace(depth=2, context=12, width=16)
    many = spec.replace(beta=[[0.5], [2.0]], alpha_attn=[0.0, 0.5, 1.0], sigma_v2=[0.0, 1.0, 1.0],
                        alpha_mlp=[0.0, 1.0, 1.0], sigma_w2=[0.0, 0.5, 0.5])  # fmt: skip
    done = []
    found = gradients(many, draws=3, seed=5, progress=done.append)
    one = gradients(spec.replace(beta=2.0, alpha_attn=0.5), draws=3, seed=5)
    assert (found.draws, found.seed, len(done)) == (3, 5, 12)
    for name in ("q", "p", "wq", "wk", "wv", "wo", "w1", "w2"):
        assert getattr(found, name).shape == found.errors[name].shape == (2, 2, 3)
        np.testing.assert_array_equal(getattr(found, name)[:, 1, 1], getattr(one, name))
        np.testing.assert_array_equal(found.errors[name][:, 1, 1], one.errors[name])
        assert np.isnan(getattr(found, name)[:, :, 0]).all()
    np.testing.assert_array_equal(found.exponent[1, 1], one.exponent)
    plain = gradients(many, progress=done.append)
    assert plain.errors is None
    assert sum(done) == 18
    assert np.isnan(plain.wo[:, :, 0]).all()
    alone = gradients(spec.replace(beta=2.0, alpha_attn=0.5))
    for name in ("q", "p", "exponent", "wq", "wk", "wv", "wo", "w1", "w2"):
        np.testing.assert_allclose(
            getattr(plain, name)[..., 1, 1], getattr(alone, name), rtol=1e-10, err_msg=name
        )
    assert abs(plain.wq[0, 0, 1] / alone.wq[0] - 1) > 0.1  # control: another temperature
    assert (np.isnan(found.apjn) == [True, False, False]).all()
    late = gradients(many, geometry="exchangeable")
    assert late.errors is None
    assert abs(late.wq[0, 1, 1] - one.wq[0]) > 0.1 * one.wq[0]


def test_a_diagram_has_the_gradients_of_late_tokens():
    axes = {"beta": [0.5, 1.5], "alpha_attn": [1.0, 2.0]}
    spec = ROTARY.replace(context=4)
    data = diagram(spec, gradients=True, **axes)
    many = spec.replace(beta=[[0.5], [1.5]], alpha_attn=[1.0, 2.0])
    late = gradients(many, geometry="exchangeable")
    np.testing.assert_allclose(data.apjn, late.apjn, rtol=1e-12)
    assert data.attrs["gradients_of"] == "late tokens without mask or rotation"


def test_rotary_gradients_are_sampled_and_repeat():
    spec = ROTARY.replace(width=64, heads=2, context=24)
    one, two, other = (gradients(spec, draws=4, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.q, two.q)
    assert (one.q != other.q).any()
    assert set(one.to_dict()) > {"grad_q_se", "grad_wq_se", "draws", "seed", "lambda_g"}


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (AssumptionError, lambda: gradients(CAUSAL.replace(context=4096), draws=2), "above 2048"),
        (AssumptionError, lambda: gradients(CAUSAL.replace(context="inf")), "infinite context"),
        (AssumptionError, lambda: gradients(ROTARY, sampled=True), "width"),
        (AssumptionError, lambda: gradients(CAUSAL.replace(norm="none")), "differ in size"),
        (DomainError, lambda: gradients(CAUSAL, start="last", draws=2), "sampled"),
        (DomainError, lambda: gradients(CAUSAL, blocks=41), "blocks"),
        (DomainError, lambda: gradients(CAUSAL, draws=1), "draws = 1"),
        (DomainError, lambda: gradients(CAUSAL, seed=-1), "seed = -1"),
        (AssumptionError, lambda: bands(CAUSAL), "width"),
        (AssumptionError, lambda: bands(CAUSAL.replace(width=64, rho0=1.0)), "differ"),
    ],
)
def test_refusals(error, call, words):
    with pytest.raises(error, match=words):
        call()


def test_command_line(tmp_path):
    from typer.testing import CliRunner

    from sigprop.cli.app import app

    path = tmp_path / "spec.json"
    path.write_text(json.dumps(CAUSAL.replace(context=24, depth=2, width=32).to_dict()))
    words = ["propagate", str(path), "--gradients", "--bands", "--draws", "3"]
    values = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert values["draws"] == 3
    assert [len(values[n]) for n in ("grad_q", "grad_q_se", "rho_std", "y2_std")] == [2, 2, 3, 2]
    assert "3 sampled networks" in CliRunner().invoke(app, words).stdout
    words = ["propagate", str(path), "--gradients", "--json", "--blocks", "4"]
    more = ([], ["--start", "last"])
    values, last = (json.loads(CliRunner().invoke(app, [*words, *m]).stdout) for m in more)
    assert "draws" not in values
    assert [len(row) for row in values["grad_q_blocks"]] == [4, 4]
    assert last["grad_q_blocks"][1][3] > 3 * values["grad_q_blocks"][1][3]


# bands


def shares(spec, seeds, scale=1.0):
    found, measured = bands(spec), simulate(spec, seeds).samples["rho"]
    size = np.abs(measured - found.rho)[:, 1:] / found.rho_std[1:] / HALF_WIDTH
    return (size <= 1).mean(), (size <= scale).mean()


@pytest.mark.parametrize("spec", [CAUSAL, ROTARY])
def test_band_of_one_architecture(spec):
    share, narrow = shares(spec.replace(width=128, heads=2, context=64, depth=4), 40, 0.4)
    assert 0.8 <= share
    assert narrow < 0.8


def test_bands_follow_the_resolved_mean():
    spec = CAUSAL.replace(width=10**5, heads=1000)
    found, plain = bands(spec), propagate(spec)
    assert np.abs(found.rho - plain.rho).max() < 2e-3
    assert np.abs(found.y2 - plain.y2).max() < 2e-3
    assert np.abs(found.y2 - propagate(spec, geometry="exchangeable").y2).max() > 0.02


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.4, "norm": "post", "activation": "tanh"},
        {"beta": 0.6, "norm": "pre", "activation": "gelu", "q0": 0.1},
    ],
)
def test_causal_bands_against_networks(changes):
    """Spread over 40 networks; that of exchangeable tokens fails."""
    spec = ModelSpec(
        depth=6, context=64, width=128, heads=2, causal=True, sigma_v2=0.8, sigma_w2=1, rho0=0.1,
        alpha_attn=1.2, **changes
    )  # fmt: skip
    measured, found = simulate(spec, 40), bands(spec)
    for name in ("rho", "y2", "entropy"):
        samples = measured.samples[name][:, -6:]
        ratio = samples.std(axis=0, ddof=1) / getattr(found, f"{name}_std")[-6:]
        assert 0.7 < np.median(ratio) < 1.35, (name, ratio)
    flat = fluctuations.bands(spec.replace(causal=False))
    spread = measured.samples["y2"].std(axis=0, ddof=1)
    assert np.median(spread / flat.y2_std) > 1.5
