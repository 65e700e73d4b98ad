"""Bands from iid tokens, near collapse and at extreme scales, by exact laws."""

import numpy as np
import pytest
from outcomes import outcome

from sigprop import ModelSpec, bands
from sigprop.layers.attention.statistics import entropy_variance

FLAT = ModelSpec(  # uniform attention alone
    depth=3, context=16, width=10**6, heads=10**5, norm="post", beta=0, sigma_v2=0.7, sigma_w2=0,
    rho0=0, alpha_attn=1.3,
)  # fmt: skip
SMALL = ModelSpec(
    depth=2, context=12, width=64, heads=2, norm="post", beta=1.2, sigma_v2=0.8, sigma_w2=1, rho0=0
)
STRUCTURES = {
    "plain": {},
    "causal": {"causal": True},
    "rotary": {"rotary_base": 100.0},
    "window": {"causal": True, "window": 4, "norm": "pre"},
}


def found(spec):
    """Bands, which must be numbers."""
    result = outcome(bands, spec)
    assert not isinstance(result, Exception), result
    for name in ("rho", "rho_std", "y2", "y2_std", "entropy", "entropy_std", "q", "gap"):
        assert np.isfinite(getattr(result, name)).all(), name
    return result


def uniform_law(spec):
    r"""Deviation of rho behind each block of uniform attention alone, exact at large width.

    P, the squared norm of the mean of T tokens over q, is mapped to
    (alpha^2 + sigma^2) P/(alpha^2 + sigma^2 P); the matrices of values and outputs move the
    numerator and the denominator alike, with variance (4 sigma^4 + 4 alpha^2 sigma^2) P^2/d.
    """
    square, value = spec.alpha_attn**2, spec.sigma_v2
    p = 1 - (1 - spec.rho0) * (1 - 1 / spec.context)
    variance, out = 2 * (p * (1 - p)) ** 2 / spec.width, []
    for _ in range(spec.depth + 1):
        out.append(np.sqrt(variance) / (1 - 1 / spec.context))
        q = square + value * p
        after = (square + value) * p / q
        noise = (4 * value**2 + 4 * square * value) * p**2 / spec.width
        variance = (square * (square + value) / q**2) ** 2 * variance
        variance += noise * (square * (1 - p) / q**2) ** 2
        p = after
    return np.array(out)


@pytest.mark.parametrize("rho0", [0.0, 1e-12])
def test_uniform_rotary_attention_follows_the_exact_law(rho0):
    """Rotation does nothing at beta = 0."""
    spec = FLAT.replace(rotary_base=100.0, rho0=rho0)
    np.testing.assert_allclose(found(spec).rho_std, uniform_law(spec), rtol=0.005)


def causal_block(spec):
    """Mean deficit behind one causal block of uniform attention and its derivative, by hand."""
    t = int(spec.context)
    a = np.tril(np.ones((t, t))) / np.arange(1, t + 1)[:, None]

    def mean(x):
        kernel = 1 - x * (1 - np.eye(t))
        kernel = spec.alpha_attn**2 * kernel + spec.sigma_v2 * a @ kernel @ a.T
        root = np.sqrt(np.diag(kernel))
        return (1 - kernel / np.outer(root, root)).sum() / (t * (t - 1))

    x, h = 1 - spec.rho0, 1e-5
    return mean(x), (mean(x + h) - mean(x - h)) / (2 * h)


@pytest.mark.parametrize("rho0", [0.0, 1e-15])
def test_a_causal_block_passes_the_spread_of_iid_tokens(rho0):
    """A block adds to log P what it adds among exchangeable tokens; what it passes is its own."""
    spec = FLAT.replace(depth=1, causal=True, rho0=rho0)
    entered, behind = uniform_law(spec)
    square, value, p = spec.alpha_attn**2, spec.sigma_v2, 1 - (1 - rho0) * (1 - 1 / spec.context)
    passed = square * (square + value) / (square + value * p) ** 2
    added = behind**2 - (passed * entered) ** 2
    even = square * (1 - rho0) / (square + value * p)  # deficit behind, of exchangeable tokens
    masked, slope = causal_block(spec)
    moved = [x * (1 - x * (1 - 1 / spec.context)) for x in (masked, even)]  # dx / dlog P
    law = np.sqrt((slope * entered) ** 2 + added * (moved[0] / moved[1]) ** 2)
    np.testing.assert_allclose(found(spec).rho_std, [entered, law], rtol=0.005)
    plain = np.sqrt((slope * entered) ** 2 + added)
    assert abs(law / plain - 1) > 0.02  # noise to rho that no mask knows is another


@pytest.mark.parametrize("name", ["causal", "rotary", "window"])
def test_bands_are_continuous_as_tokens_become_independent(name):
    spec = SMALL.replace(**STRUCTURES[name])
    values = {rho0: found(spec.replace(rho0=rho0)) for rho0 in (0.0, 1e-12, 1e-9)}
    for rho0, other in values.items():
        for field in ("rho_std", "y2_std", "entropy_std"):
            size = np.abs(getattr(other, field) / getattr(values[0.0], field) - 1).max()
            assert size < 1e-3, (field, rho0, size)


@pytest.mark.parametrize("name", ["plain", "causal", "window"])
def test_spreads_shrink_with_the_gap(name):
    """Near collapse every spread is proportional to the gap."""
    spec = SMALL.replace(**STRUCTURES[name])
    near, far = (found(spec.replace(rho0=1 - 2.0**-k)) for k in (20, 36))
    for field in ("rho_std", "y2_std", "entropy_std"):
        ratio = getattr(near, field) / getattr(far, field) / 2.0**16
        assert np.abs(ratio - 1).max() < 0.02, (field, ratio)


def test_rotary_scores_stay_as_tokens_merge():
    """The spread of rho falls with the gap; scores do not become uniform, nor does their spread."""
    spec = SMALL.replace(rotary_base=100.0)
    near, far = (found(spec.replace(rho0=1 - 2.0**-k)) for k in (20, 44))
    assert np.abs(near.rho_std / far.rho_std / 2.0**24 - 1).max() < 0.02
    assert np.abs(near.y2_std / far.y2_std - 1).max() < 0.01


def test_variance_of_nearly_uniform_attention():
    """var H = s^4 (T-1)/(2 T^2) to leading order in s."""
    for s, t in ((1e-3, 2), (1e-4, 64), (1e-6, 10**6)):
        law = s**4 * (t - 1) / (2 * t**2)
        assert abs(entropy_variance(s, t) / law - 1) < 1e-4, (s, t)


@pytest.mark.parametrize("name", list(STRUCTURES))
@pytest.mark.parametrize("step", [52, 53])
def test_a_gap_of_the_last_digits(name, step):
    """rho0 = 1 - 2^-52: the spread over the gap is that of larger gaps."""
    spec = SMALL.replace(**STRUCTURES[name])
    last, known = (found(spec.replace(rho0=1 - 2.0**-k)) for k in (step, 24))
    np.testing.assert_allclose(last.rho_std * 2.0 ** (step - 24), known.rho_std, rtol=0.02)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("q0", [1e-300, 1e-150])
def test_without_norms_and_scores_the_input_scale_drops_out(activation, q0):
    spec = SMALL.replace(norm="none", beta=0, rho0=0.3, activation=activation)
    one, other = found(spec), found(spec.replace(q0=q0))
    np.testing.assert_allclose(other.rho_std, one.rho_std, rtol=1e-9)
    np.testing.assert_allclose(other.gap / q0, one.gap, rtol=1e-9)


def test_networks_whose_tokens_merge_are_refused():
    """Norms of tokens vary so much behind three blocks that a gap underflows."""
    spec = ModelSpec(
        depth=4, context=2, width=96, heads=6, kv_heads=1, norm="pre", activation="tanh",
        gated=True, mlp_ratio=1, beta=2.26, sigma_v2=1.64, sigma_o2=0.347, sigma_w1_2=0.667,
        sigma_w2_2=0.66, sigma_b2=0.002, alpha_attn=0, alpha_mlp=4.8, rho0=0, q0=3,
    )  # fmt: skip
    result = outcome(bands, spec)
    assert getattr(result, "structure", None) == "networks that differ too much"
    assert not isinstance(outcome(bands, spec.replace(alpha_attn=1.0)), Exception)
