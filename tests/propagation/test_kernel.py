"""The kernel solver: references, exact cases, the exchangeable theory, refusals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sigprop import AssumptionError, DomainError, ModelSpec, propagate
from sigprop.cli.app import main
from sigprop.model.text import token_ids, windows
from sigprop.propagation.every_pair import exchangeable_kernel, solve, text_kernel
from sigprop.propagation.finite_width.bands import bands
from sigprop.simulation import Given, Tokens, simulate

CAUSAL = ("causal_low_beta", "causal_high_beta")
ROTARY = ("rotary_encoder_mid_beta", "rotary_encoder_high_beta")
DRAWS = 8
SMALL = {"depth": 2, "context": 32, "width": 48, "beta": 1.0, "sigma_v2": 1.0, "sigma_w2": 1.0}


def small(**changes):
    return ModelSpec(**(SMALL | {"rho0": 0.1} | changes))


def spec_of(case, **changes):
    values = {
        "depth": case["L"],
        "context": case["T"],
        "width": case["d"],
        "heads": case["H"],
        "norm": case["norm"],
        "activation": case["act"],
        "beta": case["beta"],
        "sigma_v2": case["vv"],
        "sigma_w2": case["vw"],
        "sigma_b2": case["vb"],
        "alpha_attn": case["aS"],
        "alpha_mlp": case["aM"],
        "rho0": case["rho0"],
        "causal": case["causal"],
        "rotary_base": case.get("rotary_base"),
    }
    return ModelSpec(**(values | changes))


def solved(case, **changes):
    spec = spec_of(case, **changes)
    return solve(spec, exchangeable_kernel(spec), draws=DRAWS)


def first(measured, layers):
    """Part of a causal reference: its first recorded layers, and the depth they need."""
    at = measured["layers"][:layers]
    part = {name: measured[name][:layers] for name in ("block_means", "se")}
    return measured["case"] | {"L": at[-1]}, part | {"layers": at}


def excess(measured, found):
    """Largest deviation of a block mean beyond four combined standard errors and 0.005."""
    at = measured["layers"]
    error = np.abs(found.mean("samples")[at] - measured["block_means"])
    return float(np.max(error - 4 * np.hypot(found.se("samples")[at], measured["se"]) - 0.005))


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_references(causal_gradients, name):
    measured = causal_gradients[name]
    assert excess(measured, solved(measured["case"])) <= 0


@pytest.mark.parametrize("changes", [{"causal": False}, {"sigma_v2": 0.3}])
def test_a_wrong_decoder_is_rejected(causal_gradients, changes):
    case, measured = first(causal_gradients[CAUSAL[0]], 3)
    assert excess(measured, solved(case)) <= 0
    assert excess(measured, solved(case, **changes)) > 0


def rotary_excess(measured, found):
    out = []
    for ours, theirs in (("rho", "rho"), ("y2", "y2"), ("entropy", "h"), ("overlap", "o")):
        first = len(measured[theirs]) - found.mean(ours).size
        mean, se = (np.array(measured[key][first:], float) for key in (theirs, f"{theirs}_se"))
        error = np.abs(found.mean(ours) - mean) - 4 * np.hypot(found.se(ours), se) - 0.005
        out.append(error.max())
    return max(out)


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_references(rotary, name):
    measured = rotary[name]
    assert rotary_excess(measured, solved(measured["case"])) <= 0


def test_without_positions_the_rotary_references_fail(rotary):
    measured = dict(rotary[ROTARY[0]])
    for name in ("rho", "y2", "h", "o"):
        measured |= {key: measured[key][:5] for key in (name, f"{name}_se")}
    case = measured["case"] | {"L": 4}
    assert rotary_excess(measured, solved(case)) <= 0
    assert rotary_excess(measured, solved(case, rotary_base=None)) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 2.0, "heads": 4},
        {"beta": 1.0, "norm": "pre", "activation": "gelu"},
        {"beta": 1.5, "attention": "centred"},
        {"beta": 1.0, "norm": "none", "sigma_b2": 0.1, "alpha_attn": 0.7, "alpha_mlp": 0.5},
        {"beta": 1.0, "sigma_b2": 0.1, "gated": True},
        {"beta": 1.0, "norm": "pre", "parallel": True, "activation": "silu", "sigma_o2": 0.6},
        {"beta": 2.0, "width": None},
    ],
)
@pytest.mark.parametrize("draws", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_exchangeable_input_follows_the_theory(changes, draws):
    spec = small(**({"context": 192, "width": 192, "depth": 6} | changes))
    found = solve(spec, exchangeable_kernel(spec), draws=draws, blocks=4)
    allowed = 4 * found.se("samples") + 0.005
    assert np.all(np.abs(found.mean("samples") - block_means(spec, theory(spec))) <= allowed)
    q = propagate(spec).q
    assert np.all(np.abs(found.mean("q") - q) <= 4 * found.se("q") + 0.02 * q)
    wrong = block_means(spec, theory(spec.replace(sigma_v2=2.0)))
    assert np.any(np.abs(found.mean("samples") - wrong) > allowed)  # control


def theory(spec):
    """Overlap at infinite width: E12 for the heads, E26 for the spread of the norms over tokens."""
    wide = spec.replace(width=None)
    spread = bands(spec.replace(width=spec.heads * 10**7)).rho - propagate(wide).rho
    return propagate(spec).rho + spread


def block_means(spec, rho, blocks=4):
    """Means of an exchangeable kernel over position blocks, with the ones of the diagonal."""
    own = (1 - rho) * blocks / spec.context
    return rho[:, None, None] + own[:, None, None] * np.eye(blocks)


def test_uniform_causal_attention_is_a_running_mean():
    """Exact at beta = 0: every token becomes the mean of what it has seen."""
    spec = small(beta=0.0, causal=True, sigma_w2=0.0, norm="none", alpha_attn=0.0, depth=1)
    kernel = np.cov(np.random.default_rng(0).standard_normal((32, 64)))
    mean = np.tri(32) / np.arange(1, 33)[:, None]
    exact = mean @ kernel @ mean.T
    root = np.sqrt(np.diagonal(exact))
    found = solve(spec, kernel, draws=1, blocks=32)
    np.testing.assert_allclose(found.samples[0, 1], exact / np.outer(root, root), atol=1e-12)


def test_windows_and_prefixes_as_in_random_networks():
    spec = small(context=64, width=512, heads=2, causal=True, window=12, prefix=24, beta=1.5)
    kernel = exchangeable_kernel(spec)
    measured, found = simulate(spec, 12, blocks=4), solve(spec, kernel, draws=12, blocks=4)
    other = solve(spec.replace(window=None, prefix=0), kernel, draws=12, blocks=4)
    for name in ("rho", "y2", "entropy"):
        both = np.hypot(measured.se(name), found.se(name))
        assert np.all(np.abs(measured.mean(name) - found.mean(name)) <= 4 * both + 0.01), name
    apart = np.abs(measured.mean("y2") - other.mean("y2"))
    assert np.all(apart > 4 * np.hypot(measured.se("y2"), other.se("y2")) + 0.01)  # control


def test_wide_heads_are_the_limit_of_heads_of_growing_width():
    spec = small(context=64, beta=2.0, depth=1)
    y2 = {
        width: solve(spec.replace(width=width), exchangeable_kernel(spec), draws=60, blocks=1)
        for width in (4, 1024, None)
    }
    wide, limit = y2[1024], y2[None]
    allowed = 4 * np.hypot(wide.se("y2"), limit.se("y2"))
    assert np.all(np.abs(wide.mean("y2") - limit.mean("y2")) < allowed)
    assert np.all(np.abs(y2[4].mean("y2") - limit.mean("y2")) > allowed)  # control


def test_repeated_tokens_stay_together():
    ids = np.array([1, 2, 1, 3] * 8)
    found = solve(small(), text_kernel(ids, "none"), draws=2, blocks=32)
    np.testing.assert_allclose(found.samples[:, :, 0, 2], 1.0, atol=1e-9)
    assert found.samples[0, -1, 0, 1] < 0.99


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_positions_and_repeated_tokens_as_in_random_networks(positions):
    ids = np.random.default_rng(0).integers(0, 12, 64)
    spec = small(context=64, width=512, heads=2, depth=4, causal=True)
    measured = simulate(spec, seeds=10, source=Tokens(ids[None], positions), blocks=8)
    found = solve(spec, text_kernel(ids, positions), draws=10, blocks=8)
    both = np.hypot(measured.se("block_means"), found.se("samples"))
    error = np.abs(measured.mean("block_means") - found.mean("samples"))
    assert np.all(error <= 4 * both + 0.02)
    other = solve(spec, text_kernel(ids, "none"), draws=10, blocks=8)
    assert np.any(np.abs(measured.mean("block_means") - other.mean("samples")) > 4 * both + 0.02)


def test_a_kernel_of_unequal_variances():
    """Pre-norm keeps the variances of the stream; the networks agree."""
    scale = np.linspace(0.5, 2.0, 32)
    kernel = np.outer(scale, scale) * (0.2 + 0.8 * np.eye(32))
    spec = small(width=512, norm="pre", depth=3)
    found = solve(spec, kernel, draws=10, blocks=4)
    measured = simulate(spec, seeds=10, source=Given(kernel), blocks=4)
    for name in ("rho", "q"):
        both = np.hypot(found.se(name), measured.se(name))
        assert np.all(np.abs(found.mean(name) - measured.mean(name)) <= 4 * both + 0.02)


@pytest.mark.parametrize(
    ("kernel", "parameter"),
    [
        (np.eye(31), "kernel"),
        (np.eye(32) * np.nan, "kernel"),
        (np.eye(32) - 1.0, "kernel"),
        (2 - np.eye(32), "kernel"),
        (np.eye(32) + np.tri(32), "kernel"),
    ],
)
def test_inadmissible_kernels(kernel, parameter):
    with pytest.raises(DomainError) as error:
        solve(small(), kernel)
    assert error.value.parameter == parameter


def test_narrow_and_wide_heads_are_drawn_alike():
    """Heads as wide as the kernel's rank are drawn through Bartlett's factor; just below, not."""
    spec = small(context=48, beta=2.0, depth=1)
    kernel = exchangeable_kernel(spec)
    found = [solve(spec.replace(width=w), kernel, draws=80, blocks=1) for w in (47, 48)]
    for name in ("y2", "overlap", "entropy"):
        both = np.hypot(*(f.se(name) for f in found))
        assert np.all(np.abs(found[0].mean(name) - found[1].mean(name)) < 4 * both)


def test_a_state_that_vanishes_is_refused():
    spec = small(alpha_attn=0.0, sigma_v2=0.0)
    for run in (lambda: simulate(spec, 1), lambda: solve(spec, np.eye(32))):
        with pytest.raises(AssumptionError, match="vanishes"):
            run()


def test_outside_the_assumptions():
    for changes in ({"norm": "none", "activation": "gelu"}, {"rotary_base": 1e4, "width": None}):
        with pytest.raises(AssumptionError):
            solve(small(**changes), np.eye(32))
    with pytest.raises(AssumptionError):
        solve(small(beta=[1.0, 2.0]), np.eye(32))
    for changes in ({"context": "inf"}, {"heads": 5}):
        with pytest.raises(DomainError):
            solve(small(**changes), np.eye(32))


# the command


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("spec.json").write_text(json.dumps(small().to_dict()))

    def call(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["sigprop", *words, "--workers", "1"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        out = capsys.readouterr()
        return out.err if code else out.out

    return call


def test_kernel_command(run):
    found = json.loads(run("kernel", "spec.json", "--draws", "2", "--blocks", "4", "--json"))
    assert found["layer"] == [0, 1, 2]
    assert np.shape(found["block_means"]) == np.shape(found["se"]) == (3, 4, 4)
    np.save("k.npy", np.eye(32))
    own = json.loads(run("kernel", "spec.json", "--kernel", "k.npy", "--draws", "2", "--json"))
    assert own["rho"][0] == 0
    Path("a.txt").write_text("a rose is a rose " * 9)
    words = ("kernel", "spec.json", "--text", "a.txt", "--positions", "none", "--json")
    assert json.loads(run(*words))["rho"][0] > 0.3
    assert "draws" in run("kernel", "spec.json")


def test_simulate_command(run):
    found = json.loads(run("simulate", "spec.json", "--seeds", "3", "--keep", "cells", "--json"))
    assert [len(found[name]) for name in ("rho", "rho_se", "y2", "entropy")] == [3, 3, 2, 2]
    assert len(list(Path("cells").glob("*.npz"))) == 3
    assert (
        run("simulate", "spec.json", "--seeds", "3", "--keep", "cells", "--json")
        == json.dumps(found) + "\n"
    )
    one = json.loads(run("simulate", "spec.json", "--seeds", "1", "--json"))
    assert one["rho_se"] == [None] * 3
    assert "3 random networks" in run("simulate", "spec.json", "--seeds", "3")


def test_validate_command(run):
    found = json.loads(run("validate", "spec.json", "--seeds", "2", "--png", "v.png", "--json"))
    assert found["comparisons"][0]["name"] == "spec"
    assert set(found["comparisons"][0]["deviations"]) == {"finite", "limit"}
    assert Path("v.png").stat().st_size > 10_000
    assert "random networks" in run("validate", "spec.json", "--seeds", "2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no words"),
        (b"  \n ", "no words"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "binary"),
        (b"a b \0 c", "binary"),
        (b"too short a text", "at least 32 tokens; this one has 4"),
        (None, "an existing text file"),
    ],
)
@pytest.mark.parametrize("command", ["kernel", "simulate"])
def test_bad_text(run, command, content, words):
    if content is not None:
        Path("a.txt").write_bytes(content)
    before = sorted(Path().iterdir())
    error = run(command, "spec.json", "--text", "a.txt", "--keep", "cells", code=2)
    assert error.startswith("sigprop: error: text = 'a.txt' is not admissible")
    assert words in error
    assert "Traceback" not in error
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"no numpy", None])
def test_bad_kernel_file(run, content):
    if content is not None:
        Path("k.npy").write_bytes(content)
    error = run("kernel", "spec.json", "--kernel", "k.npy", code=2)
    assert error.startswith("sigprop: error: kernel = 'k.npy' is not admissible")


def test_bad_kernel_values(run):
    for values in (np.array(["a"]), np.zeros((2, 3)), np.ones(4), np.eye(3) * 1j):
        np.save("k.npy", values)
        assert "kernel" in run("kernel", "spec.json", "--kernel", "k.npy", code=2)
    Path("a.txt").write_text("word " * 99)
    both = ("kernel", "spec.json", "--kernel", "k.npy", "--text", "a.txt")
    assert "without a text" in run(*both, code=2)
    assert "positions" in run("kernel", "spec.json", "--positions", "up", code=2)


def test_a_text_of_known_frequencies(tmp_path):
    """Words by Zipf's law: ids give them back, and tokens repeat as the frequencies say."""
    share = 1 / np.arange(1, 2001)
    share /= share.sum()
    drawn = np.random.default_rng(8).choice(2000, 400_000, p=share)
    path = tmp_path / "zipf.txt"
    path.write_text(" ".join(f"w{word}" for word in drawn.tolist()))
    ids = token_ids(path)
    word_of = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # in order of appearance
    np.testing.assert_array_equal(word_of[ids], drawn)
    np.testing.assert_array_equal(windows(path, 512), ids[: 781 * 512].reshape(781, 512))
    kernels = [text_kernel(row, "none") for row in windows(path, 128)[:500]]
    np.testing.assert_array_equal(kernels[3], ids[384:512, None] == ids[384:512])
    equal = [(kernel.sum() - 128) / (128 * 127) for kernel in kernels]
    error = np.std(equal) / np.sqrt(len(equal))
    assert abs(np.mean(equal) - np.square(share).sum()) < 4 * error < 0.1 * np.mean(equal)
