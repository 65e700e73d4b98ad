"""Relative accuracy 1e-10 of the gap against 50-digit arithmetic, down to gap/q = 1e-14."""

import mpmath as mp
import numpy as np
import pytest
from places import at

from sigprop.layers.activations import activation
from sigprop.layers.attention.layer import Attention
from sigprop.layers.attention.statistics import Finite, Limit
from sigprop.layers.mlp import Mlp
from sigprop.layers.norm import Norm
from sigprop.layers.residual import Residual
from sigprop.layers.state import State, scaled

GAPS = [1e-14, 3e-11, 1e-8, 1e-5, 1e-3, 0.03, 0.4, 0.9, 1.3]
TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def _digits():
    with mp.workdps(50):
        yield


def relative(found, exact):
    return abs(mp.mpf(float(found)) / exact - 1)


def relu_drop(q, gap):
    theta = 2 * mp.asin(mp.sqrt(gap / (2 * q)))
    return gap / 2 - q / (2 * mp.pi) * (mp.sin(theta) - theta * mp.cos(theta))


def erf_drop(q, gap):
    return 2 / mp.pi * (mp.asin(2 * q / (1 + 2 * q)) - mp.asin(2 * (q - gap) / (1 + 2 * q)))


def gelu_dual(q, p):
    a = 1 / (2 * mp.pi * mp.sqrt((1 + q) ** 2 - p**2))
    b = mp.mpf(1) / 4 + mp.asin(p / (1 + q)) / (2 * mp.pi)
    return p * b + a * (q**2 + p**2 * (1 - q) / (1 + q))


def mehler_drop(function, q, gap, terms=140):
    """Hermite coefficients by 50-digit quadrature; enough terms for small q."""
    c = 1 - gap / q
    z_step = mp.mpf(1) / 12
    nodes = [k * z_step for k in range(-170, 171)]
    density = [mp.exp(-z * z / 2) * z_step / mp.sqrt(2 * mp.pi) for z in nodes]
    values = [function(mp.sqrt(q) * z) * w for z, w in zip(nodes, density, strict=True)]
    before, now, total = [mp.mpf(0)] * len(nodes), [mp.mpf(1)] * len(nodes), mp.mpf(0)
    for k in range(terms):
        b = mp.fdot(values, now)
        total += b * b * (1 - c**k)
        following = [
            (z * n - mp.sqrt(k) * o) / mp.sqrt(k + 1)
            for z, n, o in zip(nodes, now, before, strict=True)
        ]
        before, now = now, following
    return total


EXACT = {
    "relu": relu_drop,
    "erf": erf_drop,
    "gelu": lambda q, gap: gelu_dual(q, q) - gelu_dual(q, q - gap),
    "linear": lambda q, gap: gap,
    "tanh": lambda q, gap: mehler_drop(mp.tanh, q, gap),
    "silu": lambda q, gap: mehler_drop(lambda x: x / (1 + mp.exp(-x)), q, gap),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("gated", [False, True])
def test_mlp(name, gated):
    gaps = GAPS if name not in ("tanh", "silu") else [1e-14, 1e-5, 0.4]
    for q, sigma in ((1.0, 0.7), (0.3, 1.0)):
        for ratio in gaps:
            gap = q * ratio
            q1, gap1 = mp.mpf(sigma) * mp.mpf(q), mp.mpf(sigma) * mp.mpf(gap)
            drop = EXACT[name](q1, gap1)
            if gated:
                variance = EXACT[name](q1, q1) if name in ("tanh", "erf", "linear") else None
                variance = _variance(name, q1) if variance is None else variance
                drop = drop * q1 + (variance - drop) * gap1
            mlp = Mlp(activation(name), sigma, 1.5, 0.0, gated)
            found = mlp.at(State(np.array(q), np.array(gap))).gap
            assert relative(found, mp.mpf(1.5) * drop) < TOLERANCE, (q, ratio)


def _variance(name, q):
    """E phi^2: from the duals at zero correlation, Phi(q, q) = (E phi)^2 known in closed form."""
    if name == "relu":
        return q / 2
    if name == "gelu":
        return gelu_dual(q, q)
    return mp.quad(
        lambda z: (mp.sqrt(q) * z / (1 + mp.exp(-mp.sqrt(q) * z))) ** 2 * mp.npdf(z),
        [-20, -5, 0, 5, 20],
    )


@pytest.mark.parametrize("ratio", GAPS[:-1])
def test_simple_maps(ratio):
    q = 1.7
    state = State(np.array(q), np.array(q * ratio))
    gap = mp.mpf(float(state.gap))
    assert relative(at(Norm(1.3), state).gap, gap * mp.mpf(1.3) ** 2 / mp.mpf(q)) < TOLERANCE
    out = at(Residual(0.8, (Norm(1.0),)), state)
    assert relative(out.gap, gap * mp.mpf(0.8) ** 2 + gap / mp.mpf(q)) < TOLERANCE


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("ratio", GAPS[:-1])
def test_attention_limit(ratio, centred):
    q, beta = 1.2, 3.0 / np.sqrt(ratio)
    state = State(np.array(q), np.array(q * ratio))
    out = at(Attention(beta, 0.9, 0.1, 1.1, centred), state, Limit())
    gap = mp.mpf(q * ratio)
    m = min(mp.mpf(1), mp.sqrt(2 / (mp.mpf(q) * gap)) / mp.mpf(beta))
    assert relative(out.gap, mp.mpf(1.1) * mp.mpf(0.9) * gap * (1 - m)) < TOLERANCE


def two_level_spread(sigma, gap):
    """T = 2: D = E (l(d) - l(d'))^2 by Gauss-Hermite in 50 digits, l the logistic function."""
    nodes, weights = _hermite(48)
    half, other = mp.sqrt(1 - gap / 2), mp.sqrt(gap / 2)
    total = mp.mpf(0)
    for a, wa in zip(nodes, weights, strict=True):
        for b, wb in zip(nodes, weights, strict=True):
            x = sigma * mp.sqrt(2) * (half * a + other * b)
            y = sigma * mp.sqrt(2) * (half * a - other * b)
            total += wa * wb * (1 / (1 + mp.exp(-x)) - 1 / (1 + mp.exp(-y))) ** 2
    return total


def _hermite(count):
    """Nodes refined by Newton steps on the orthonormal Hermite functions."""
    nodes, weights = [], []
    for start in np.polynomial.hermite_e.hermegauss(count)[0]:
        x = mp.mpf(float(start))
        for _ in range(4):
            before, now = mp.mpf(0), mp.mpf(1)
            for k in range(count):
                before, now = now, (x * now - mp.sqrt(k) * before) / mp.sqrt(k + 1)
            x -= now / (mp.sqrt(count) * before)
        before, now = mp.mpf(0), mp.mpf(1)
        for k in range(count):
            before, now = now, (x * now - mp.sqrt(k) * before) / mp.sqrt(k + 1)
        nodes.append(x)
        weights.append(1 / (count * before**2))
    return nodes, weights


@pytest.mark.parametrize("ratio", [1e-14, 1e-8, 1e-4, 0.02, 0.4])
def test_attention_finite(ratio):
    """Exact statistics everywhere; the table near collapse, where s^2 is small."""
    beta = 1.1
    sigma = mp.mpf(beta) * mp.sqrt(mp.log(2) * mp.mpf(ratio))
    exact = mp.mpf(ratio) * two_level_spread(sigma, mp.mpf(ratio))
    state = State(np.array(1.0), np.array(ratio))
    assert relative(at(Attention(beta, 1.0), state, Finite(2, exact=True)).gap, exact) < TOLERANCE
    table = relative(at(Attention(beta, 1.0), state, Finite(2)).gap, exact)
    assert table < (TOLERANCE if ratio <= 1e-4 else 1e-6)


@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_interpolated_dual(name):
    """Many variances share a table; it agrees with each one's own series to 1e-12."""
    rng = np.random.default_rng(0)
    q = np.exp(rng.uniform(np.log(1e-8), np.log(60), 12))
    x = rng.uniform(0, 2, 12) * rng.choice([1, 1e-3, 1e-10], 12)
    many = activation(name)(q)
    own = [activation(name)(np.array(value)) for value in q]
    assert type(many) is not type(own[0])
    assert np.allclose(many.variance, [d.variance for d in own], rtol=1e-12, atol=0)
    assert np.allclose(many.slope, [d.slope for d in own], rtol=1e-12, atol=0)
    drops = [float(d.drop(value)) for d, value in zip(own, x, strict=True)]
    assert np.allclose(many.drop(x), drops, rtol=1e-12, atol=0)
    slopes = [float(d.slopes(value)) for d, value in zip(own, x, strict=True)]
    assert np.allclose(many.slopes(x), slopes, rtol=1e-10, atol=1e-13)
    assert np.isnan(activation(name)(np.full(9, 101.0)).variance).all()


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.5])
def test_scaling_by_one_is_free_and_right(factor):
    value = np.array([2.0, 3.0])
    assert scaled(value, factor) == pytest.approx(value * factor)
    assert (scaled(value, factor) is value) == (factor == 1)
