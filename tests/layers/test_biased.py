"""One favoured level against Monte Carlo, exact cases and both limits."""

import numpy as np
import pytest

from sigprop.core.errors import DomainError
from sigprop.layers.attention.statistics import Finite, freezing, moments, overlap
from sigprop.layers.attention.statistics.biased import (
    biased,
    biased_overlap,
    critical_gamma,
    own_bias,
)
from sigprop.layers.attention.statistics.self_biased import SelfBiased

NAMES = ("own", "y2", "entropy", "log_z")
SIGMAS, BIASES = [0.0, 0.3, 1.0, 3.0, 8.0, 30.0], [-5.0, -0.7, 0.0, 1.3, 6.0, 40.0]


def drawn(sigma, bias, context, draws, rng):
    """Mean and standard error of every statistic over random scores."""
    scores = sigma * rng.standard_normal((draws, context))
    scores[:, 0] += bias
    top = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(axis=1, keepdims=True)
    weights /= total
    log_w = scores - top - np.log(total)
    columns = np.stack([
        weights[:, 0], (weights**2).sum(axis=1), -(weights * log_w).sum(axis=1),
        (top + np.log(total))[:, 0],
    ])  # fmt: skip
    return columns.mean(axis=1), columns.std(axis=1, ddof=1) / np.sqrt(draws)


def predicted(sigma, bias, context):
    found = biased(sigma, bias, context)
    return np.array([getattr(found, name) for name in NAMES])


@pytest.mark.parametrize("context", [2, 17, 512])
@pytest.mark.parametrize(("sigma", "bias"), [(0.4, 2.0), (2.0, 3.0), (3.5, 6.0), (1.0, -2.0)])
def test_monte_carlo(sigma, bias, context):
    mean, se = drawn(sigma, bias, context, 20_000, np.random.default_rng(context))
    assert np.all(np.abs(predicted(sigma, bias, context) - mean) <= 4 * se)
    shifted = np.abs(predicted(sigma, bias + 0.3, context) - mean) > 4 * se
    assert shifted[0]  # negative control: the weight on the favoured level notices a wrong bias


def paired(sigma, bias, context, r, draws, rng):
    """Mean overlap of two queries that favour keys of their own, and its standard error."""
    first, other = sigma * rng.standard_normal((2, draws, context))
    second = r * first + np.sqrt(1 - r**2) * other
    first[:, 0] += bias
    second[:, 1] += bias
    weights = [np.exp(a - a.max(axis=1, keepdims=True)) for a in (first, second)]
    shares = [w / w.sum(axis=1, keepdims=True) for w in weights]
    found = np.einsum("ns,ns->n", *shares)
    return found.mean(), found.std(ddof=1) / np.sqrt(draws)


@pytest.mark.parametrize(
    ("sigma", "bias", "r"),
    [(1.0, 2.0, 0.5), (2.5, 5.0, 0.8), (2.0, 4.0, -0.3), (1.0, -2.0, 0.6), (0.2, 3.0, 0.9)],
)
@pytest.mark.parametrize("context", [2, 3, 64])
def test_two_queries_against_monte_carlo(sigma, bias, r, context):
    mean, se = paired(sigma, bias, context, r, 20_000, np.random.default_rng(context))
    assert abs(biased_overlap(sigma, bias, context, r) - mean) <= 4 * se
    if context == 64 and bias > 0:  # negative control: both favour the same key
        same = np.sum(biased(sigma, bias, context).own ** 2)
        assert abs(same - mean) > 4 * se


@pytest.mark.parametrize("context", [2, 3, 64, 4096, 10**8])
def test_two_queries_in_exact_cases(context):
    for sigma, r in ((0.3, 0.5), (2.0, -0.3), (4.0, 0.9), (2.0, 1.0)):
        found = biased_overlap(sigma, 0.0, context, r)
        np.testing.assert_allclose(found, overlap(sigma, context, r), rtol=1e-9)
    mu = np.array(BIASES)
    own = 1 / (1 + (context - 1) * np.exp(-mu))
    other = np.exp(-mu) * own
    wanted = 2 * own * other + (context - 2) * other**2
    np.testing.assert_allclose(biased_overlap(0.0, mu, context, 0.5), wanted, rtol=1e-9)


def test_a_source_of_statistics_joins_the_random_energy_model():
    x = np.array([1.0, 0.3, 1e-3])
    free, exact = (
        SelfBiased(64, 0.0).weights(1.5 * np.sqrt(x), x),
        Finite(64).weights(1.5 * np.sqrt(x), x),
    )
    for name in ("y2", "excess", "spread"):
        np.testing.assert_allclose(getattr(free, name), getattr(exact, name), rtol=1e-5)
    np.testing.assert_allclose(SelfBiased(64, 0.0).own(1.5, x), 0.0, atol=1e-12)


def test_the_spread_keeps_its_digits_near_collapse():
    """At small scores it is s^2 x/T (1 - 1/T) + mu^2/T^2, on both sides of the series."""
    x, t = np.geomspace(1e-7, 1e-4, 13), 64.0
    b = 0.5 * np.sqrt(x)
    s, mu = b * np.sqrt(np.log(t)), own_bias(2.0, x, t)
    wanted = s**2 * x * (1 - 1 / t) / t + (mu / t) ** 2
    np.testing.assert_allclose(SelfBiased(t, 2.0).weights(b, x).spread, wanted, rtol=2e-3)


@pytest.mark.parametrize("context", [2, 64, 4096, 10**8])
def test_without_bias_it_is_the_random_energy_model(context):
    plain = moments(SIGMAS, context)
    found = biased(SIGMAS, 0.0, context)
    np.testing.assert_allclose(found.own, 1 / context, rtol=1e-11)
    for name in ("y2", "entropy", "log_z"):
        wanted = getattr(plain, name)
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("context", [2, 64, 4096, 10**8])
def test_without_noise_it_is_a_softmax_of_two_values(context):
    mu = np.array(BIASES)
    own = 1 / (1 + (context - 1) * np.exp(-mu))
    found = biased(0.0, mu, context)
    np.testing.assert_allclose(found.own, own, rtol=1e-11)
    np.testing.assert_allclose(found.y2, own**2 + (1 - own) ** 2 / (context - 1), rtol=1e-11)
    log_z = np.logaddexp(mu, np.log(context - 1))
    np.testing.assert_allclose(found.log_z, log_z, rtol=1e-11, atol=1e-12)


def test_two_levels_are_logistic():
    z = np.arange(-12, 12, 0.01)
    weight = np.exp(-(z**2) / 2) * 0.01 / np.sqrt(2 * np.pi)
    for sigma in SIGMAS[1:4]:
        for mu in BIASES[:5]:
            a = 1 / (1 + np.exp(-(mu + sigma * np.sqrt(2) * z)))
            found = biased(sigma, mu, 2)
            assert found.own == pytest.approx(weight @ a, rel=1e-10)
            assert found.y2 == pytest.approx(weight @ (a**2 + (1 - a) ** 2), rel=1e-10)


def test_all_levels_share_one_unit_and_bias_raises_its_own():
    own = biased(2.0, np.linspace(-8, 20, 40), 300).own
    assert np.all(np.diff(own) > 0)
    assert own[-1] < 1
    # log Z is convex in the bias with slope E A_1
    mu, h = np.linspace(-5, 9, 15), 1e-3
    slope = (biased(2.0, mu + h, 300).log_z - biased(2.0, mu - h, 300).log_z) / (2 * h)
    np.testing.assert_allclose(slope, biased(2.0, mu, 300).own, rtol=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_geometric_transition_without_noise(rho):
    critical = critical_gamma(0.0, 1 - rho)
    assert critical == pytest.approx(1 / (1 - rho))
    t = np.array([1e3, 1e6, 1e12])
    below, above = (biased(0.0, own_bias(f * critical, 1 - rho, t), t).own for f in (0.8, 1.2))
    assert np.all(np.diff(below) < 0)
    assert np.all(np.diff(above) > 0)
    assert below[-1] < 0.01
    assert above[-1] > 0.99


@pytest.mark.parametrize("b", [0.7, 1.2, 2.5])
def test_transition_with_noise(b):
    """At the predicted strength the crossing of E A_1 = 1/2 approaches as T grows."""
    t = np.array([1e3, 1e6, 1e12])
    gammas = np.linspace(0.5, 6, 56)
    s = b * np.sqrt(np.log(t))[:, None]
    own = biased(s, own_bias(gammas, 1.0, t[:, None]), t[:, None]).own
    crossing = np.array([np.interp(0.5, row, gammas) for row in own])
    error = np.abs(crossing / critical_gamma(b, 1.0) - 1)
    assert error[-1] < error[0]
    assert error[-1] < 0.04
    assert np.abs(crossing[-1] - 1) > 0.2  # negative control: noise moves the geometric one


def test_random_energy_transition_at_zero_bias():
    b, t = np.array([1.0, 3.0]), 1e12
    found = biased(b * np.sqrt(np.log(t)), 0.0, t)
    np.testing.assert_allclose(found.y2, 1 - freezing(b), atol=0.05)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: biased(-1.0, 0.0, 8), "sigma"),
        (lambda: biased(1.0, np.nan, 8), "bias"),
        (lambda: biased(1.0, 1e7, 8), "bias"),
        (lambda: biased(1.0, 0.0, 1), "context"),
        (lambda: own_bias(np.inf, 1.0, 8), "gamma"),
        (lambda: own_bias(1.0, -1.0, 8), "gap"),
        (lambda: own_bias(1.0, 1.0, np.inf), "context"),
        (lambda: critical_gamma(-1.0, 1.0), "b"),
        (lambda: critical_gamma(1.0, 0.0), "gap"),
    ],
)
def test_refusals(call, name):
    with pytest.raises(DomainError, match=f"^{name} = "):
        call()
