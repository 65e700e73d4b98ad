"""Bands over networks against measured spreads; mean deviations with finite-width terms."""

import autograd
import numpy as np
import pytest

import sigprop
from sigprop import AssumptionError, ModelSpec, propagate
from sigprop.layers.activations import activation
from sigprop.layers.attention.head_noise import HeadNoise
from sigprop.layers.attention.key_directions import keys, pull
from sigprop.layers.attention.layer import Attention
from sigprop.layers.attention.statistics import Finite, entropy_variance, moments
from sigprop.layers.fluctuation import admissible
from sigprop.layers.mlp import Mlp
from sigprop.layers.mlp_units import _product
from sigprop.layers.state import State
from sigprop.propagation.finite_width.bands import bands
from sigprop.simulation import simulate

HALF_WIDTH = 1.645  # standard deviations that hold the central 90 %


def spec_of(case, rho0=None):
    return ModelSpec(
        depth=case["L"],
        context=case["T"],
        width=case["d"],
        heads=case["H"],
        norm=case["norm"],
        attention="centred" if case.get("centred") else "softmax",
        activation=case["act"],
        mlp_ratio=case.get("width", 1),
        beta=case["beta"],
        sigma_v2=case["vv"],
        sigma_w2=case["vw"],
        sigma_b2=case.get("vb", 0.0),
        alpha_attn=case["aS"],
        alpha_mlp=case["aM"],
        rho0=case["rho0"] if rho0 is None else rho0,
    )


def random_case(rng):
    return {
        "T": int(rng.choice([64, 96, 128])),
        "d": int(rng.choice([128, 192, 256])),
        "H": int(rng.choice([1, 2, 4])),
        "L": int(rng.integers(6, 13)),
        "vw": rng.uniform(0.2, 2),
        "vv": rng.uniform(0.1, 1.5),
        "vb": rng.choice([0.0, 0.05]),
        "aS": rng.uniform(0.8, 1.5),
        "aM": rng.uniform(0.8, 1.5),
        "rho0": rng.uniform(0.02, 0.7),
        "act": str(rng.choice(["relu", "tanh", "gelu", "linear"])),
        "norm": str(rng.choice(["post", "post", "pre"])),
        "centred": bool(rng.random() < 0.2),
        "width": int(rng.choice([1, 2])),
        "beta": rng.uniform(0.1, 2.5),
    }


def measured_rho(case, seeds):
    """Overlap of each network (rows) after each layer."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        x = autograd.tokens(case, rng, np.float32)
        streams, _ = autograd.forward(case, x, list(autograd.draw_layers(case, rng, np.float32)))
        unit = [s / np.sqrt((s**2).mean(1, keepdims=True)) for s in streams]
        rows.append([autograd.kernel(u)[1] for u in unit])
    return np.array(rows)


def inside(case, seeds, scale=1.0):
    """Share of networks within the central 90 % band, by depth third, and within a scaled one."""
    found, rho = bands(spec_of(case)), measured_rho(case, seeds)
    size = np.abs(rho - found.rho)[:, 1:] / found.rho_std[1:] / HALF_WIDTH
    thirds = np.array_split(size, 3, axis=1)
    return np.array([[(part <= k).mean() for part in thirds] for k in (1.0, scale)])


@pytest.mark.slow
def test_central_band_holds_90_percent():
    """Twenty random architectures; the negative control is a band of 0.7 times the width."""
    rng = np.random.default_rng(11)
    share, narrow = np.mean([inside(random_case(rng), range(32), 0.7) for _ in range(20)], axis=0)
    assert ((share >= 0.85) & (share <= 0.95)).all(), share
    assert (narrow < 0.85).all(), narrow


def test_band_of_one_architecture():
    case = {"T": 48, "d": 96, "H": 2, "L": 6, "vw": 1.0, "vv": 0.5, "vb": 0.0, "aS": 1.0}
    case |= {"aM": 1.0, "rho0": 0.2, "act": "relu", "norm": "post", "beta": 1.0}
    share, narrow = inside(case, range(100), 0.5)
    assert ((share >= 0.82) & (share <= 0.98)).all(), share
    assert (narrow < 0.75).all(), narrow


def mean_deviations(measured):
    spec = spec_of(measured["case"], measured["rho"][0])
    rho = np.array(measured["rho"])
    return [np.abs(t.rho - rho)[1:].mean() for t in (propagate(spec), bands(spec))]


@pytest.mark.parametrize("name", ["gelu_wide_multihead", "centred_postnorm", "prenorm_mid_beta"])
def test_mean_deviation_shrinks_by_30_percent(simulations, name):
    before, after = mean_deviations(simulations[name])
    assert after <= 0.7 * before


def test_mean_deviation_grows_nowhere(simulations):
    """Where 16 seeds tell: at low beta they tell neither theory from the measured means.

    1600 networks of that case do (seeds 1000 to 2599): from their mean `propagate` is 0.0021 away
    (largest z 10.8), with the finite width 0.0002 (1.9). That mean itself is 0.0016 from the 16
    seeds, farther than the 0.0012 of `propagate`: no correct theory is nearer.
    """
    for name, measured in simulations.items():
        before, after = mean_deviations(measured)
        assert after <= before or name == "encoder_low_beta", name
    measured = simulations["encoder_low_beta"]
    spec = spec_of(measured["case"], measured["rho"][0])
    for found in (propagate(spec), bands(spec)):
        size = np.abs(found.rho - measured["rho"]) / measured["rho_se"]
        assert (size <= 1.5).all()


def test_mean_at_low_beta_against_many_networks():
    """The published encoder, narrow enough to tell; `propagate` is the negative control."""
    spec = ModelSpec(
        depth=20, context=64, width=96, beta=0.5, sigma_v2=0.2, sigma_w2=0.2, sigma_b2=4e-4,
        rho0=0.025,
    )  # fmt: skip
    found = simulate(spec, seeds=300, first_seed=500)
    rho, spec = found.mean("rho"), spec.replace(rho0=found.mean("rho")[0])
    far = [np.abs(t.rho - rho)[1:] / found.se("rho")[1:] for t in (propagate(spec), bands(spec))]
    assert far[0][-8:].min() > 4
    assert far[1].max() < 3


def test_spread_of_the_reference(simulations):
    """Standard errors over 16 seeds are a fourth of the spread, within 18 % themselves."""
    measured = simulations["prenorm_mid_beta"]
    found = bands(spec_of(measured["case"], measured["rho"][0]))
    rows = [("rho_std", "rho_se", slice(1, None)), ("y2_std", "y2_se", slice(1, None))]
    for name, error, part in rows:
        ratio = 4 * np.array(measured[error][part], float) / getattr(found, name)[-30:]
        assert 0.7 < np.median(ratio) < 1.4, name


PHI = {
    "relu": lambda u: np.maximum(u, 0),
    "linear": lambda u: u,
    "silu": lambda u: u / (1 + np.exp(-u)),
}


def units_alone(units, **changes):
    """One block whose networks differ by its hidden units: no attention, very wide otherwise."""
    width = 10**6
    spec = ModelSpec(
        depth=1, context=8, width=width, beta=0.5, sigma_v2=0, sigma_w1_2=1.2, sigma_w2_2=2,
        rho0=0.4, mlp_ratio=units / width,
    )  # fmt: skip
    return spec.replace(**changes)


def drawn_overlaps(spec, networks):
    """Overlap behind such a block, its preactivations drawn with the kernel of the tokens."""
    rng, t = np.random.default_rng(1), int(spec.context)
    units = round(spec.mlp_ratio * spec.width)
    kernel = spec.rho0 + (1 - spec.rho0) * np.eye(t)
    root = np.sqrt(spec.sigma_w1_2) * np.linalg.cholesky(kernel)
    out = np.empty(networks)
    for network in range(networks):
        h = PHI[spec.activation](root @ rng.standard_normal((t, units)))
        if spec.gated:
            h = h * (root @ rng.standard_normal((t, units)))
        stream = spec.alpha_mlp**2 * kernel + spec.sigma_w2_2 * h @ h.T / units
        size = np.sqrt(np.diag(stream))
        out[network] = (np.sum(stream / np.outer(size, size)) - t) / (t * (t - 1))
    return out


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", PHI)
def test_the_spread_of_hidden_units_is_that_of_drawn_units(act, gated):
    """2000 networks tell their spread to 1.6 %; 3 % are left to the second order in 1/d_ff."""
    spec = units_alone(512, activation=act, gated=gated)
    found, rho = bands(spec), drawn_overlaps(spec, 2000)
    assert found.rho_std[0] < 0.05 * found.rho_std[1]  # of the input: of the finite width
    assert found.rho_std[1] == pytest.approx(rho.std(ddof=1), rel=4 * 0.016 + 0.03)
    four = bands(units_alone(2048, activation=act, gated=gated))
    assert four.rho_std[1] == pytest.approx(found.rho_std[1] / 2, rel=0.03)


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_the_mean_of_few_gated_units_is_that_of_drawn_units(act):
    """Tokens differ by 1/d_ff, which a norm turns into overlap; unlimited units are the control."""
    spec = units_alone(64, activation=act, gated=True)
    rho = drawn_overlaps(spec, 10_000)
    error = rho.std() / np.sqrt(len(rho))
    assert abs(bands(spec).rho[1] - rho.mean()) < 4 * error
    assert abs(propagate(spec).rho[1] - rho.mean()) > 8 * error


def test_entropy_variance_against_sampling():
    rng = np.random.default_rng(3)
    a = np.exp(3.0 * rng.standard_normal((20000, 64)))
    a /= a.sum(1, keepdims=True)
    entropy = -(a * np.log(np.maximum(a, 1e-300))).sum(1)
    assert abs(entropy_variance(3.0, 64) / entropy.var() - 1) < 0.05
    assert abs(entropy.mean() - moments(3.0, 64).entropy) < 0.02


def test_bands_vanish_at_infinite_width():
    spec = ModelSpec(depth=4, context=512, width=10**6, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.2)
    found = bands(spec)
    assert (found.rho_std < 2e-3).all()
    assert np.abs(found.rho - propagate(spec.replace(width=None)).rho).max() < 2e-2


@pytest.mark.parametrize(
    "changes", [{"rho0": 1.0}, {"alpha_attn": 0.0, "sigma_v2": 0.0, "norm": "none"}]
)
def test_bands_refuse_states_that_vanish(changes):
    spec = ModelSpec(depth=2, context=64, width=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.2)
    with pytest.raises(AssumptionError):
        bands(spec.replace(**changes))


def test_a_block_that_passes_nothing_is_refused_by_name():
    spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=0, rho0=0.9, alpha_mlp=0)
    with pytest.raises(AssumptionError, match="nothing passes"):
        propagate(spec)


@pytest.mark.parametrize("changes", [{"width": None}, {"beta": [1, 2]}, {"context": "inf"}])
def test_bands_refuse(changes):
    spec = ModelSpec(depth=2, context=64, width=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.2)
    with pytest.raises(AssumptionError, match="in bands"):
        bands(spec.replace(**changes))


def test_means_of_masked_attention_stay_within_uniform_attention():
    """Y_2 is at least the mean of 1/t, and H/log t at most one, however narrow the network."""
    spec = ModelSpec(
        depth=4, context=4, width=1, causal=True, activation="erf", beta=0.11, sigma_v2=0.004,
        sigma_o2=2, sigma_w1_2=1.6, sigma_w2_2=2.3, alpha_attn=8.6, norm_gain=0.2, rho0=0.5,
    )  # fmt: skip
    found = sigprop.bands(spec)
    assert (found.y2 >= np.mean(1 / np.arange(1, 5)) - 1e-12).all()
    assert (found.entropy_ratio <= 1).all()
    assert (found.entropy <= np.mean(np.log(np.arange(1, 5))) + 1e-12).all()


@pytest.mark.parametrize("changes", [{}, {"causal": True}, {"rotary_base": 100.0}])
def test_the_entropy_ratio_of_a_band_is_that_of_its_entropy(changes):
    """Both are over the logarithm of the keys seen, in the limit of width and in a band."""
    spec = ModelSpec(
        depth=2, context=6, width=64, beta=2.5, sigma_v2=1, sigma_w2=1, rho0=0.1, **changes
    )
    found, wide = sigprop.bands(spec), propagate(spec)
    assert (found.entropy < 1).all()
    ratio = wide.entropy_ratio / wide.entropy
    np.testing.assert_allclose(found.entropy_ratio, ratio * found.entropy, rtol=1e-12)
    assert np.abs(found.entropy / wide.entropy - 1).max() > 1e-4


def test_noise_of_means_over_heads():
    """Temperature acts by the square of the slope, beside what heads of one temperature have."""
    hot = HeadNoise(0.2, 0.0, -0.4, 0.0, 0.0, 0.0, 0.5)
    assert hot.of_means(1) == pytest.approx((0.5 * 0.2**2, 0.5 * 0.4**2))
    tokens = HeadNoise(0.0, 0.0, 0.0, 0.03, 0.07, 0.25, 0.0)
    assert tokens.of_means(1) == pytest.approx((0.07, 0.25))
    both = HeadNoise(0.2, 0.0, -0.4, 0.03, 0.07, 0.25, 0.5)
    sums = np.add(hot.of_means(1), tokens.of_means(1))
    assert both.of_means(4) == pytest.approx(sums / 4)  # of independent heads


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_overlaps_that_vary_bend_the_mean_gap(rho):
    """E26f: half the second derivative of the gap's map, times the variance over pairs."""
    mlp, state, h = Mlp(activation("relu"), 1.0, 2.0, width=64, ratio=1), State(1.0, 1 - rho), 1e-3

    def gap(factor):
        return float(mlp.at(State(state.q, state.gap * factor)).gap)

    curvature = (gap(1 + h) + gap(1 - h) - 2 * gap(1)) / h**2
    variance = 1e-4 * (1 + rho * (2 - rho))  # of the gap, over its square
    assert mlp._bend(state, 1e-4) == pytest.approx(curvature / 2 * variance, rel=1e-3)
    assert mlp._bend(state, 50.0) == pytest.approx((gap(0) + gap(2)) / 2 - gap(1))  # no gap, twice
    linear = Mlp(activation("linear"), 1.0, 2.0, width=64, ratio=1)
    assert abs(linear._bend(state, 0.1)) < 1e-12


def test_moments_of_a_product_with_a_normal_factor():
    """Mean and central moments of X Y, of a discrete X and a normal Y."""
    x, p, c, gap = np.array([-0.7, 0.4, 1.9]), np.array([0.2, 0.5, 0.3]), 0.6, 0.35
    mean = p @ x
    own = (mean, *(p @ (x - mean) ** k for k in (2, 3, 4)))
    z, weight = np.polynomial.hermite_e.hermegauss(6)
    both = np.outer(x, c + np.sqrt(gap) * z)
    share = np.outer(p, weight / weight.sum())
    whole = np.sum(share * both)
    exact = (whole, *(np.sum(share * (both - whole) ** k) for k in (2, 3, 4)))
    assert _product(own, c, gap) == pytest.approx(exact, rel=1e-12)


def test_tokens_that_sum_to_zero_have_the_largest_gap():
    centred = np.eye(4) - 1 / 4
    gap = (centred[0, 0] - centred[0, 1]) / centred[0, 0]
    assert admissible(State(1.0, 5.0), 4).gap == pytest.approx(gap)
    assert admissible(State(1.0, 0.9), 4).gap == 0.9


def test_narrow_networks_have_no_directions_of_keys():
    layer = Attention(beta=1.0, sigma_v2=1.0, context=8, width=4)
    assert keys(layer, 1.0) is None
    assert pull(layer, None, State(np.ones(2), np.ones(2)), Finite(8)) == State(0.0, 0.0)


def test_a_law_that_is_lost_inside_a_block_is_refused_by_name():
    spec = ModelSpec(
        depth=4, context=3, width=18, heads=6, norm="pre", attention="centred", activation="tanh",
        mlp_ratio=4, beta=0.0, sigma_v2=0.5440715418347829, sigma_o2=0.8089024312014328,
        sigma_w1_2=0.032511753488418435, sigma_w2_2=0.006331588105961796,
        sigma_b2=0.0055640184638013025, alpha_attn=0.13485101535736424,
        alpha_mlp=6.78820290646956, rho0=0.30033634510529394, q0=0.2582295043504801,
    )  # fmt: skip
    with pytest.raises(AssumptionError, match="bands are undefined from block"):
        sigprop.bands(spec)
