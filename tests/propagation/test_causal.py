"""Causal attention by position: measured networks, exact limits, masks and any input kernel."""

import json
import sys

import numpy as np
import pytest
from architectures import spec_of as described

from sigprop import ModelSpec, critical, propagate, sweep
from sigprop.cli.app import main
from sigprop.core.errors import AssumptionError, DomainError
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.key_correlations import ALONE
from sigprop.layers.attention.layer import Attention, Mask
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.query_statistics import Exact
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics import overlap
from sigprop.layers.attention.statistics.table import Finite
from sigprop.layers.attention.statistics.unequal_lengths import mean_weights, queries, shared_excess
from sigprop.layers.interface import Place
from sigprop.layers.state import State
from sigprop.propagation.causal import causal
from sigprop.propagation.every_pair import exchangeable_kernel, solve, text_kernel

CASES = ["causal_low_beta", "causal_high_beta"]
SPEC = ModelSpec(
    depth=3, context=32, causal=True, beta=1.5, sigma_v2=1, sigma_w2=0.5, rho0=0.2, sigma_b2=0.01
)


def spec_of(case, **changes):
    return ModelSpec(
        depth=case["L"],
        context=case["T"],
        width=case["d"],
        heads=case["H"],
        causal=True,
        beta=case["beta"],
        sigma_v2=case["vv"],
        sigma_w2=case["vw"],
        sigma_b2=case["vb"],
        rho0=case["rho0"],
    ).replace(**changes)


def excess_error(measured, kernel_blocks):
    """Largest deviation of a block mean beyond three standard errors, over the listed layers."""
    error = np.abs(kernel_blocks[measured["layers"]] - np.array(measured["block_means"]))
    return float((error - 3 * np.array(measured["se"])).max())


@pytest.mark.parametrize("name", CASES)
def test_block_means_against_measurement(causal_kernels, name):
    measured = causal_kernels[name]
    found = causal(spec_of(measured["case"]), blocks=16, resolution=40)
    assert excess_error(measured, found.kernel_blocks) <= 0.004


DECODERS = ("decoder_plain", "decoder_rotary_gqa", "decoder_window_post", "decoder_heads16")


def outside(error, se, slack):
    """Share of values beyond three standard errors and the slack; the farthest, in five."""
    return np.mean(np.abs(error) > 3 * se + slack), np.max(np.abs(error) / (5 * se + slack))


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_kernels_of_decoders(decoders, name):
    """Means of cosines over blocks of positions, without the diagonal."""
    measured = decoders[name]
    spec = described(measured["case"])
    mean, se = (np.array(measured[key]) for key in ("blocks", "blocks_se"))

    def error(spec):
        kernel = np.array(propagate(spec, blocks=8).kernel_blocks)
        own, size = np.eye(8, dtype=bool), spec.context / 8
        kernel[:, own] = (kernel[:, own] * size - 1) / (size - 1)
        return outside(kernel - mean, se, 0.008)

    share, farthest = error(spec)
    assert share <= 0.005
    assert farthest <= 1
    for changes in ({"sigma_w2_2": 0.5}, {"beta": 1.5 * spec.beta}):  # negative controls
        assert error(spec.replace(**changes))[0] > 0.1


@pytest.mark.parametrize(("name", "other"), [(CASES[0], 1.5), (CASES[1], 1.0)])
def test_another_temperature_fails(causal_kernels, name, other):
    """Negative control: the same data reject a wrong beta."""
    measured = causal_kernels[name]
    found = causal(spec_of(measured["case"], beta=other), blocks=16, resolution=40)
    assert excess_error(measured, found.kernel_blocks) > 0.02


@pytest.mark.parametrize("name", CASES)
def test_exchangeable_theory_fails(causal_kernels, name):
    """Negative control: the kernel of late tokens everywhere."""
    measured = causal_kernels[name]
    flat = propagate(spec_of(measured["case"], causal=False), blocks=16)
    assert excess_error(measured, flat.kernel_blocks) > 0.1


def test_equal_lengths_are_the_exact_overlap():
    sigma, count = np.array([0.3, 1.0, 2.0, 4.0]), np.array([2.0, 16.0, 256.0, 4096.0])
    i = np.arange(4)
    for r in (-0.2, 0.3, 0.9):
        found = shared_excess(queries(sigma, count), i, i, count, np.full(4, r))
        np.testing.assert_allclose(found + 1 / count, overlap(sigma, count, r), atol=3e-6)


def test_two_and_three_keys_against_quadrature():
    """Two queries over two and three keys, the integrals over scores done directly."""
    z, weight = np.polynomial.hermite_e.hermegauss(24)
    weight = weight / weight.sum()
    s, far, r = 1.2, 1.7, 0.6
    a, b, c = np.meshgrid(z, z, z, indexing="ij")
    mass = weight[:, None, None] * weight[:, None] * weight
    # the first query's preference between its two keys, given the other query's two scores
    common = np.exp(np.stack([far * a, far * b, far * c]))
    second = common[:2] / common.sum(axis=0)
    centre, noise = s * r * (a - b), s * np.sqrt(2 * (1 - r**2))
    first = np.tensordot(weight, 1 / (1 + np.exp(-centre - noise * z[:, None, None, None])), 1)
    exact = np.sum(mass * (first * second[0] + (1 - first) * second[1]))
    own = queries(np.array([s, far]), np.array([2.0, 3.0]))
    zero, one = np.array([0]), np.array([1])
    found = shared_excess(own, zero, one, np.array([2.0]), np.array([r]))
    assert found[0] + 1 / 3 == pytest.approx(exact, abs=2e-6)


def test_mean_weights():
    count, s = np.array([1.0, 2.0, 8.0, 1000.0]), np.array([1.0, 0.5, 1.0, 3.0])
    cold, even, hot = mean_weights(s, count, np.array([[0.25, 1.0, 4.0]] * 4)).T
    np.testing.assert_allclose(even, 1 / count, rtol=1e-5)
    np.testing.assert_allclose(cold[:2], [1, 0.5], rtol=1e-8)  # alone, and by symmetry
    assert (cold[2:] < 1 / count[2:]).all()
    assert (hot[2:] > 1 / count[2:]).all()


def test_mean_weights_of_drawn_scores():
    rng, ratio = np.random.default_rng(3), np.array([[0.25, 4.0, 30.0]])
    others = np.exp(1.5 * rng.standard_normal((40_000, 40))).sum(axis=1)
    own = np.exp(1.5 * np.sqrt(ratio) * rng.standard_normal((40_000, 1)))
    weight = own / (own + others[:, None])
    se = weight.std(axis=0) / 200
    found = mean_weights(np.array([1.5]), np.array([41.0]), ratio)[0]
    assert (np.abs(found - weight.mean(axis=0)) < 4 * se).all()
    assert (np.abs(1 / 41 - weight.mean(axis=0)) > 20 * se).all()


def dense(spec):
    """E25 at beta = 0, token by token: attention is a running mean."""
    context = int(spec.context)
    kernel = np.full((context, context), spec.rho0) + (1 - spec.rho0) * np.eye(context)
    weights = np.tril(np.ones((context, context)))
    if spec.window:
        weights = np.triu(weights, 1 - spec.window)
    weights[: spec.prefix, : spec.prefix] = 1
    weights /= weights.sum(axis=1, keepdims=True)
    for _ in range(spec.depth):
        kernel = spec.sigma_v2 * weights @ kernel @ weights.T + spec.sigma_b2 + kernel
        norm = np.sqrt(np.diag(kernel))
        kernel = kernel / np.outer(norm, norm)
    return kernel


@pytest.mark.parametrize("changes", [{}, {"window": 5}, {"prefix": 7}, {"window": 9, "prefix": 4}])
def test_uniform_attention_is_a_matrix_product(changes):
    """At beta = 0 the theory is exact, for every mask."""
    spec = SPEC.replace(beta=0, sigma_w2=0, sigma_b2=0, **changes)
    found = causal(spec)
    np.testing.assert_allclose(found.gap_ratio[-1], 1 - dense(spec), atol=2e-6)


def relu_mlp(kernel):
    """Kernel of a ReLU MLP of unit variances: the arc-cosine kernel of Cho & Saul (2009)."""
    size = np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    angle = np.arccos(np.clip(kernel / size, -1, 1))
    return size * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)


def dense_block(spec, kernel):
    """One pre-norm block at beta = 0 over a token kernel, its branches written out."""
    count = np.arange(1, len(kernel) + 1)
    weights = np.tril(np.ones_like(kernel)) / count[:, None]

    def unit(k):
        return k / np.sqrt(np.outer(np.diag(k), np.diag(k)))

    def attention(k):
        return spec.sigma_v2 * weights @ k @ weights.T

    def mlp(k):
        return spec.sigma_w2_2 * relu_mlp(spec.sigma_w1_2 * k)

    if spec.parallel:
        return spec.alpha_attn**2 * kernel + attention(unit(kernel)) + mlp(unit(kernel))
    kernel = spec.alpha_attn**2 * kernel + attention(unit(kernel))
    return spec.alpha_mlp**2 * kernel + mlp(unit(kernel))


PARALLEL = ModelSpec(
    depth=3, context=24, norm="pre", causal=True, parallel=True, beta=0, sigma_v2=0.7,
    sigma_w1_2=1.3, sigma_w2_2=1.6, rho0=0.2, alpha_attn=0.8,
)  # fmt: skip


@pytest.mark.parametrize("parallel", [True, False])
def test_both_branches_of_a_causal_block_at_uniform_attention(parallel):
    """Exact token by token; without its MLP the same block is far off."""
    spec = PARALLEL.replace(parallel=parallel)
    kernel = 0.2 + 0.8 * np.eye(24)
    for _ in range(spec.depth):
        kernel = dense_block(spec, kernel)
    size = np.sqrt(np.diag(kernel))
    exact = 1 - kernel / np.outer(size, size)
    found = propagate(spec).positions
    np.testing.assert_allclose(found.gap_ratio[-1], exact, atol=1e-5)
    np.testing.assert_allclose(found.q[-1], np.diag(kernel), rtol=1e-6)
    drawn = solve(spec, exchangeable_kernel(spec), draws=1, blocks=24)
    np.testing.assert_allclose(drawn.mean("samples")[-1], 1 - exact, atol=1e-5)
    attention_alone = propagate(spec.replace(sigma_w2_2=1e-9)).positions
    assert np.abs(attention_alone.gap_ratio[-1] - exact).max() > 0.02
    assert found.q[-1, 0] > 1.5 * attention_alone.q[-1, 0]


@pytest.mark.parametrize("parallel", [True, False])
def test_late_tokens_of_a_long_causal_stack_are_exchangeable(parallel):
    """Every query of a full prefix sees every key: the theory without positions."""
    spec = PARALLEL.replace(parallel=parallel, beta=1.2, prefix=24)
    late = propagate(spec.replace(causal=False, prefix=0))
    found = propagate(spec)
    np.testing.assert_allclose(found.rho, late.rho, atol=1e-5)
    np.testing.assert_allclose(found.q, late.q, rtol=1e-5)


def test_the_late_overlap_is_that_of_pairs_in_the_second_half():
    """Exact at beta = 0: a mean of the matrix product over pairs of different late tokens."""
    spec = SPEC.replace(beta=0, sigma_w2=0, sigma_b2=0)
    found, off = propagate(spec).positions, ~np.eye(16, dtype=bool)
    for depth in range(spec.depth + 1):
        kernel = dense(spec.replace(depth=depth)) if depth else 0.2 + 0.8 * np.eye(32)
        early, late = kernel[:16, :16][off].mean(), kernel[16:, 16:][off].mean()
        assert found.rho_late[depth] == pytest.approx(late, abs=2e-6)
        assert depth != 1 or early > late + 0.005  # early tokens average few keys: they merge first


def test_full_prefix_is_the_exchangeable_theory():
    spec = SPEC.replace(prefix=32)
    found, late = causal(spec), propagate(spec, geometry="exchangeable")
    np.testing.assert_allclose(found.y2, np.tile(late.y2[:, None], 32), atol=1e-5)
    off = ~np.eye(32, dtype=bool)
    expected = np.tile((late.gap / late.q)[:, None], off.sum())
    np.testing.assert_allclose(found.gap_ratio[:, off], expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_an_exchangeable_input_kernel_is_rho0(norm):
    spec = SPEC.replace(norm=norm)
    kernel = 0.2 + 0.8 * np.eye(32)
    given, default = causal(spec, kernel), causal(spec)
    np.testing.assert_allclose(given.gap_ratio, default.gap_ratio, atol=1e-12)
    np.testing.assert_allclose(given.q, default.q, rtol=1e-12)


def test_repeated_tokens_stay_alike():
    word = np.arange(32) % 4
    kernel = np.where(word[:, None] == word, 1.0, 0.2)
    gaps = causal(SPEC.replace(depth=1), kernel).gap_ratio[-1]
    assert gaps[4, 8] < gaps[4, 9]


def test_blocks_change_little():
    spec = SPEC.replace(context=1024, depth=4)
    coarse, fine = (causal(spec, blocks=8, resolution=n).kernel_blocks for n in (48, 128))
    assert np.abs(coarse - fine).max() < 1e-3


def test_small_gaps_keep_their_digits():
    """Near collapse the kernel is linear in the gap, down to 1e-13."""
    spec = SPEC.replace(activation="erf")
    runs = [causal(spec.replace(rho0=1 - gap)).gap_ratio[-1] / gap for gap in (2.0**-30, 2.0**-43)]
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-7)


def test_first_tokens():
    found = causal(SPEC)
    np.testing.assert_allclose(found.y2[:, 0], 1)
    np.testing.assert_allclose(found.entropy[:, 0], 0)
    np.testing.assert_allclose(found.first_weight[:, 0], 1, atol=1e-5)
    np.testing.assert_allclose(found.first_weight[0] * found.position, 1, atol=1e-5)
    assert np.isnan(found.entropy_ratio[:, 0]).all()
    assert (np.diff(found.entropy[0]) > 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "pre"},
        {"norm": "pre", "parallel": True},
        {"attention": "centred"},
        {"activation": "gelu", "gated": True, "width": 64, "heads": 4},
    ],
)
def test_every_architecture_runs_and_stays_a_kernel(changes):
    found = propagate(SPEC.replace(**changes))
    assert found.ended == 3
    deficit = found.positions.gap_ratio
    assert ((deficit >= 0) & (deficit < 1.1)).all()


def test_means_over_positions():
    found = propagate(SPEC, blocks=1)
    whole = (1 + 31 * found.rho) / 32
    np.testing.assert_allclose(found.kernel_blocks[:, 0, 0], whole, rtol=1e-12)
    assert found.y2[0] == pytest.approx(found.positions.y2[0].mean())


MEANS = ("q", "gap", "rho", "y2", "overlap", "entropy", "entropy_ratio", "score_std")


@pytest.mark.parametrize("changes", [{}, {"rotary_base": 1e4}, {"norm": "pre", "window": 9}])
def test_an_array_is_its_single_stacks(changes):
    """The shape of the input does not change the theory."""
    spec = SPEC.replace(depth=3, **changes)
    wide = {"beta": [0.5, 1.0, 2.0], "sigma_v2": [[1.0], [0.3]], "context": [12, 32, 12]}
    many = propagate(spec.replace(**wide))
    late = propagate(spec.replace(**wide), geometry="exchangeable")
    for i, j in np.ndindex(2, 3):
        own = {"beta": wide["beta"][j], "context": wide["context"][j], "prefix": 0}
        one = propagate(spec.replace(sigma_v2=wide["sigma_v2"][i][0], **own))
        for name in MEANS:
            np.testing.assert_allclose(getattr(many, name)[:, i, j], getattr(one, name), rtol=1e-12)
        assert abs(late.rho[-1, i, j] - one.rho[-1]) > 1e-3  # control: another theory


def test_a_stack_that_ends_leaves_the_others_alone():
    spec = SPEC.replace(depth=3, norm="pre", alpha_attn=[0.0, 1.0], alpha_mlp=[0.0, 1.0],
                        sigma_v2=[1e-300, 1.0], sigma_w2=[1e-300, 1.0])  # fmt: skip
    found = propagate(spec.replace(sigma_o2=[1e-300, 1.0], sigma_b2=0.0))
    assert found.ended.tolist() == [0, 3]
    assert np.isnan(found.rho[1:, 0]).all()
    assert np.isfinite(found.rho[:, 1]).all()
    assert "1 of 2 trajectories ended" in found.reason


def test_the_limit_describes_late_tokens():
    assert propagate(SPEC, theory="limit").positions is None
    assert "late tokens" in propagate(SPEC, geometry="exchangeable").notes[0]


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (DomainError, lambda: propagate(SPEC, blocks=33), "blocks = 33"),
        (DomainError, lambda: propagate(SPEC, blocks=0), "blocks = 0"),
        (AssumptionError, lambda: propagate(SPEC.replace(beta=[1, 2]), blocks=2), "single"),
        (DomainError, lambda: causal(SPEC, np.eye(3)), "kernel = (3, 3)"),
        (DomainError, lambda: causal(SPEC, np.full((32, 32), np.nan)), "finite"),
        (DomainError, lambda: causal(SPEC, np.tril(np.ones((32, 32)))), "symmetric"),
        (DomainError, lambda: causal(SPEC, 2 - np.eye(32)), "cosine in [-1, 1]"),
        (AssumptionError, lambda: causal(SPEC.replace(causal=False)), "causal"),
        (AssumptionError, lambda: SPEC.replace(causal=False, window=3), "window and prefix"),
        (AssumptionError, lambda: propagate(SPEC.replace(norm="none")), "norm = 'none'"),
        (AssumptionError, lambda: sweep(SPEC.replace(norm="none")), "norm = 'none'"),
        (AssumptionError, lambda: propagate(SPEC.replace(context=2**21)), "context above 1048576"),
        (DomainError, lambda: SPEC.replace(window=0), "window = 0"),
        (DomainError, lambda: SPEC.replace(prefix=33), "prefix = 33"),
        (DomainError, lambda: make_layout(100_000, window=16), "window = 16"),
        (DomainError, lambda: causal(SPEC, resolution=2), "resolution = 2"),
    ],
)
def test_bad_input(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_command_line(monkeypatch, capsys, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SPEC.to_dict()))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sigprop", "propagate", str(path), *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    code, out = run("--blocks", "4", "--json")
    found = json.loads(out.out)
    assert code == 0
    assert np.shape(found["kernel_blocks"]) == (4, 4, 4)
    assert [len(found[n]) for n in ("rho", "y2", "overlap", "entropy")] == [4, 3, 3, 3]
    assert np.shape(found["positions"]["first_weight"]) == (3, 32)
    assert "By position" in run()[1].out
    code, out = run("--blocks", "64")
    assert code == 2
    assert "blocks = 64" in out.err


def turned(x, base):
    """Rotary positions of the rows of x."""
    half = x.shape[1] // 2
    angle = np.outer(np.arange(len(x)), base ** -(np.arange(half) / half))
    z = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], axis=1)


def sampled_kernel(rng, kernel, mask, spec, heads=8, runs=6):
    """Kernel after each block at infinite width: heads are drawn, nothing is averaged by theory."""
    context, width = len(kernel), 64
    out = np.empty((runs, spec.depth, context, context))
    for run in range(runs):
        k = kernel
        for layer in range(spec.depth):
            values, vectors = np.linalg.eigh(k)
            root = vectors * np.sqrt(np.maximum(values, 0))
            sigma = np.sqrt(spec.beta * np.sqrt(np.log(context)))
            total = np.zeros_like(k)
            for _ in range(heads):
                query, key = (
                    sigma * root @ rng.standard_normal((context, width)) for _ in range(2)
                )
                if spec.rotary_base is not None:
                    query, key = turned(query, spec.rotary_base), turned(key, spec.rotary_base)
                scores = np.where(mask, query @ key.T / np.sqrt(width), -np.inf)
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                weights /= weights.sum(axis=1, keepdims=True)
                total += weights @ k @ weights.T / heads
            k = spec.sigma_v2 * total + k
            norm = np.sqrt(np.diag(k))
            k = k / np.outer(norm, norm)
            out[run, layer] = k
    blocks = out.reshape(runs, spec.depth, 8, context // 8, 8, context // 8).mean(axis=(3, 5))
    return blocks.mean(axis=0), blocks.std(axis=0) / np.sqrt(runs)


BASE = ModelSpec(
    depth=6,
    context=64,
    width=512,
    heads=8,
    causal=True,
    beta=1.5,
    sigma_v2=0.7,
    sigma_w2=0,
    rho0=0.2,
)
ALLOWED = 0.008  # of the mean field of E25, beside four standard errors


@pytest.mark.parametrize("changes", [{}, {"window": 16}, {"prefix": 24}, {"rotary_base": 1e3}])
def test_masks_and_rotation_against_drawn_heads(changes):
    spec = BASE.replace(**changes)
    t = np.arange(64)
    mask = (t[:, None] >= t) | ((t[:, None] < spec.prefix) & (t < spec.prefix))
    mask &= t[:, None] - t < (spec.window or 64)
    kernel = 0.2 + 0.8 * np.eye(64)
    mean, error = sampled_kernel(np.random.default_rng(11), kernel, mask, spec)
    found = causal(spec, blocks=8).kernel_blocks[1:]
    assert (np.abs(found - mean) <= 4 * error + ALLOWED).all()
    if changes:  # negative control: another mask, or no rotation
        plain = causal(BASE, blocks=8).kernel_blocks[1:]
        assert (np.abs(plain - mean) > 4 * error + ALLOWED).any()


def test_repeated_tokens_against_drawn_heads():
    """Six words: pairs of queries pick near keys together more than f says, by up to 0.010."""
    word = np.random.default_rng(2).integers(0, 6, 64)
    kernel = 0.1 + 0.6 * (word[:, None] == word) + 0.3 * np.eye(64)
    spec = BASE.replace(beta=0.7)
    mask = np.tri(64, dtype=bool)
    mean, error = sampled_kernel(np.random.default_rng(12), kernel, mask, spec)
    found = causal(spec, kernel, blocks=8).kernel_blocks[1:]
    assert (np.abs(found - mean) <= 4 * error + 0.0105).all()
    flat = causal(spec, blocks=8).kernel_blocks[1:]
    assert (np.abs(flat - mean) > 4 * error + 0.0105).any()


FAST = ModelSpec(
    depth=9, context=64, heads=32, causal=True, beta=2, sigma_v2=2, sigma_w2=0.3, rho0=0.02
)
DRAWN = {  # spec, position code of a text, or exchangeable tokens; deviation allowed in rho
    "fast": (FAST, None, 0.01),
    "window": (FAST.replace(window=16), None, 0.006),
    "prefix": (FAST.replace(prefix=24), None, 0.006),
    "turned": (FAST.replace(width=2048, rotary_base=1e3), None, 0.006),
    "centred": (
        FAST.replace(attention="centred", sigma_v2=3, rho0=0.5, alpha_attn=0.7),
        None,
        0.006,
    ),
    "text": (FAST.replace(beta=1.5, sigma_v2=1), "none", 0.01),
    "positions": (FAST.replace(beta=1.5, sigma_v2=1), "learned", 0.006),
}


@pytest.mark.parametrize("name", DRAWN)
def test_own_parameters_against_drawn_kernels(name, monkeypatch):
    """Where rho grows fast and keys differ; equal weights, the negative control, run ahead."""
    spec, positions, allowed = DRAWN[name]
    kernel = exchangeable_kernel(spec)
    if positions is not None:
        share = 1 / np.arange(1, 500)
        ids = np.random.default_rng(4).choice(499, 64, p=share / share.sum())
        kernel = text_kernel(ids, positions)
    measured = solve(spec, kernel, draws=6, blocks=1)
    allowed = allowed + 2 * measured.se("samples")[:, 0, 0]

    def error():
        found = causal(spec, kernel, blocks=1).kernel_blocks
        return np.abs(found - measured.mean("samples"))[:, 0, 0]

    assert (error() <= allowed).all()
    monkeypatch.setattr(Universal, "key_weights", lambda *args: np.ones_like(args[2]))
    monkeypatch.setattr(Exact, "correlations", lambda *args: ALONE)
    if name not in ("prefix", "centred"):  # where keys differ little
        assert (error() > allowed).any()


@pytest.mark.parametrize("changes", [{}, {"window": 24}, {"prefix": 9}, {"window": 5}])
def test_exchangeable_keys_are_the_random_energy_model(changes):
    """Weights, draws and what queries share change nothing in the first block."""
    spec = FAST.replace(depth=1, context=128, heads=1, **changes)
    found = causal(spec)
    count = np.clip(found.position, spec.prefix, spec.window or np.inf)
    many = count >= 2
    b = 2 * np.sqrt(np.log(128) * 0.98 / np.log(count[many]))
    exact = Finite(count[many]).weights(b, 1.0).y2
    np.testing.assert_allclose(found.y2[0, many], exact, rtol=1e-5)
    np.testing.assert_allclose(found.first_weight[0, :5] * count[:5], 1, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"rotary_base": 1e3}])
def test_the_gain_of_a_norm_is_a_temperature(changes):
    """Scores grow with the square of the gain; without biases nothing else knows it.

    Both sides differ by the rounding of a variance, which is then a number of the float32 draws:
    over 24 gains from 1.05 to 1.6 the largest deviation is 2.4e-9.
    """
    spec = FAST.replace(depth=4, context=40, **changes)
    found = causal(spec.replace(beta=1.5, norm_gain=1.25))
    same = causal(spec.replace(beta=1.5 * 1.25**2))
    np.testing.assert_allclose(found.gap_ratio, same.gap_ratio, rtol=1e-7)
    np.testing.assert_allclose(found.y2, same.y2, rtol=1e-7)
    grid = sweep(spec.replace(beta=[1.0, 1.5], norm_gain=1.25)).state
    assert (
        abs(grid.gap[1] / grid.q[1] - (1 - propagate(spec.replace(beta=1.5 * 1.25**2)).rho[-1]))
        < 0.01
    )


@pytest.mark.parametrize("rotation", [None, Rotation(1e4)])
def test_cold_centred_attention_keeps_its_digits(rotation):
    """Its output is of second order in beta, and nothing of zeroth order is left in it."""
    layout, x = make_layout(24), np.random.default_rng(0).standard_normal((24, 60))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    state = State(1.0, np.where(layout.pairs > 0, 0.7 * (1 - x @ x.T), 0.0))

    def response(beta):
        attention = Attention(beta, 1.0, centred=True, context=24, mask=Mask(), rotation=rotation)
        place = Place(PositionGeometry(layout), Exact(layout, None, rotation))
        return attention.forward(state, place).kernel.gap / beta**2

    warm, cold = response(1e-2), response(1e-6)
    assert (cold[np.triu_indices(24, 1)] > 0).all()
    np.testing.assert_allclose(warm, cold, rtol=0.05)


def test_weights_by_interpolation():
    exact, ratio = Exact(make_layout(32)), np.ones((32, 32))
    ratio[:, :24] = np.geomspace(0.01, 8, 24)
    found = exact.key_weights(np.full(32, 2.0), ratio)[-1]
    known = mean_weights(np.array([2.0]), np.array([32.0]), ratio[-1:])[0]
    np.testing.assert_allclose(found, known, rtol=1e-3)


def test_a_kernel_whose_digits_are_lost_ends_the_stack():
    """Centred attention leaves the first token nothing: its cosines come from rounding alone."""
    spec = ModelSpec(
        depth=4, context=16, heads=4, norm="pre", attention="centred", causal=True,
        activation="silu", mlp_ratio=4, parallel=True, beta=3.07, sigma_v2=0.016, sigma_o2=1.27,
        sigma_w1_2=0.8, sigma_w2_2=0.0, alpha_attn=1e-8, norm_gain=0.25, q0=0.004, rho0=0.0,
    )  # fmt: skip
    found = propagate(spec)
    assert len(found.q) < 5
    assert "ended before layer 4" in found.reason
    assert (np.abs(found.rho) <= 1.1).all()
    assert critical(spec, 0.9).reason  # without a warning
