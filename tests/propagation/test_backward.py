"""Gradients against finite differences, autograd's reference, own networks and sampled kernels."""

import json

import autograd
import numpy as np
import pytest
from architectures import spec_of as described
from test_causal import DECODERS
from test_fluctuations import spec_of

import sigprop
from sigprop import AssumptionError, DomainError, ModelSpec, State, propagate
from sigprop.layers.activations import activation
from sigprop.layers.attention.statistics import Finite, Sphere, moments
from sigprop.layers.attention.statistics.pairs import response_at_gap
from sigprop.layers.interface import Spread
from sigprop.layers.mlp import Mlp
from sigprop.layers.state import Gradient
from sigprop.propagation.finite_width.bands import bands
from sigprop.propagation.gradients.closed_form import gradients
from sigprop.propagation.gradients.exponent import gradient_exponent
from sigprop.propagation.gradients.sampled import sampled_gradients
from sigprop.propagation.stack import build_block

WEIGHTS = ("wq", "wk", "wv")
CASES = ("gradient_low_beta", "gradient_high_beta")


def simple(**changes):
    values = {"depth": 1, "context": 64, "beta": 1.0, "sigma_v2": 1.0, "sigma_w2": 1.0, "rho0": 0.1}
    return ModelSpec(**(values | changes))


# the network of the tests


@pytest.mark.parametrize("norm", ["post", "pre", "none"])
@pytest.mark.parametrize("act", ["relu", "gelu", "tanh"])
def test_backpropagation_is_the_derivative(norm, act):
    case = {"T": 6, "d": 8, "H": 2, "L": 2, "vw": 1.0, "vv": 1.0, "vb": 0.1, "aS": 1.0, "aM": 0.7}
    case |= {"rho0": 0.2, "act": act, "norm": norm, "beta": 1.0, "width": 2}
    case |= {"centred": act == "tanh"}
    rng = np.random.default_rng(0)
    x, layers = autograd.tokens(case, rng), list(autograd.draw_layers(case, rng))
    g, direction = rng.standard_normal(x.shape), rng.standard_normal(x.shape)
    step, pulled = 1e-6, g

    def loss(x):
        return (autograd.forward(case, x, layers)[0][-1] * g).sum()

    for back in reversed(autograd.forward(case, x, layers)[1]):
        pulled = back(pulled)
    exact = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert np.isclose((pulled * direction).sum(), exact, rtol=1e-6)
    weights, stored = layers[0][0].wq, layers[0][0].gradients[0].copy()
    turn = rng.standard_normal(weights.shape)
    weights += step * turn
    up = loss(x)
    weights -= 2 * step * turn
    assert np.isclose((stored * turn).sum(), (up - loss(x)) / (2 * step), rtol=1e-6)


# pieces


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "erf", "silu", "linear"])
@pytest.mark.parametrize("q", [0.3, 4.0])
def test_slopes_are_the_derivative_of_the_dual(name, q):
    dual = activation(name)(np.array(q))
    x = np.array([0.01, 0.1, 0.7, 1.0, 1.3])
    finite = (dual.drop(x * 1.0001) - dual.drop(x * 0.9999)) / (2e-4 * x)
    assert np.allclose(dual.slopes(x), finite, rtol=1e-5)
    assert np.isclose(dual.slopes(0.0), dual.slope)


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "erf", "silu", "linear"])
def test_pointwise_activation_has_the_dual_s_variance(name):
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    second = activation(name).function(1.3 * z) ** 2 @ weight / weight.sum()
    assert np.isclose(second, activation(name)(np.array(1.69)).variance, rtol=1e-5)


def test_gated_moments_are_products():
    plain, gated = (Mlp(activation("silu"), 1.5, 1.0, 0.1, gated) for gated in (False, True))
    state = State(1.0, 0.3)
    hidden, slopes = plain.second_moments(state)
    own, both = gated.second_moments(state)
    assert np.isclose(own.cross, hidden.cross * (1.5 * 0.7 + 0.1))
    assert np.isclose(both.cross, slopes.cross * (1.5 * 0.7 + 0.1) + hidden.cross)


@pytest.mark.parametrize("context", [2, 64, 8192])
@pytest.mark.parametrize("b", [0.01, 0.5, 2.0, 5.9])
def test_response_of_the_table(context, b):
    x = np.array([1e-6, 0.05, 0.7])
    s = b * np.sqrt(np.log(context))
    found, exact = Finite(context).response(b, x), response_at_gap(s, context, x)
    assert np.allclose(found.cross, exact, rtol=2e-5)
    one = moments(s, context)
    assert np.allclose(found.own, one.y2 - 2 * one.y3 + one.y22, rtol=1e-5)


def test_response_against_sampling():
    rng, s, r = np.random.default_rng(1), 2.0, 0.6
    common, a, b = rng.standard_normal((3, 20000, 32))
    one, two = (np.exp(s * (np.sqrt(r) * common + np.sqrt(1 - r) * own)) for own in (a, b))
    one, two = one / one.sum(1, keepdims=True), two / two.sum(1, keepdims=True)
    both = (one * two).sum(1)
    trace = both - (one**2 * two).sum(1) - (one * two**2).sum(1) + both**2
    error = trace.std() / np.sqrt(20000)
    assert abs(response_at_gap(s, 32, 1 - r) - trace.mean()) < 4 * error


def test_sphere_tends_to_the_response():
    traces = Sphere(1e7, 1e7).traces(2.0, 256, 0.0)
    m = moments(2.0, 256)
    for value in (traces.query, traces.key, traces.weight):
        assert np.isclose(value, m.y2 - 2 * m.y3 + m.y22, rtol=2e-4)
    assert np.isclose(traces.kept, m.y2, rtol=1e-4)
    assert traces.drift < 1e-6


def test_uniform_attention_on_the_sphere():
    """J = (I - 11^T/T)/T without scores: tr J K J K follows from the variance 1/D of K alone."""
    t, d = 64, 33
    off = t * (t - 1) / (d - 1) * ((1 - 1 / t) ** 2 + 1 / t**2)
    found = Sphere(d, 1e9).traces(0.0, t, 0.0)
    assert np.isclose(found.query * t**2, t - 1 + off, rtol=1e-3)
    assert np.isclose(found.kept + found.drift + found.common, 1 / t, rtol=1e-3)


# symmetries


def test_value_path_keeps_the_total():
    attention_only = simple(beta=0.0, alpha_attn=0.0, sigma_w2=0.0, norm="none", sigma_v2=0.7)
    block = build_block(attention_only)
    place, gradient = block.place, Gradient(1.0, 5.0)
    out = block.attention.backward(State(1.0, 0.4), gradient, place, Spread()).gradient
    assert np.isclose(out.q + out.others, 0.7 * 6.0)
    assert np.isclose(out.q, 0.7 * 6.0 / 64)


def test_arrays_broadcast():
    many = gradients(simple(depth=3, beta=[0.5, 1.0], width=None))
    one = gradients(simple(depth=3, beta=1.0))
    assert np.allclose(many.q[:, 1], one.q, rtol=1e-12)
    assert np.allclose(many.wq[:, 1], one.wq, rtol=1e-12)


def test_exponent_of_a_deep_stack():
    """In a collapsed post-norm ReLU stack the finite-depth exponent tends to its limit."""
    spec = simple(depth=200, beta=0.3, sigma_w2=1.0, alpha_attn=1.5)
    final = propagate(spec)
    found = gradients(spec, final)
    local = np.log(found.q[100] / found.q[101])
    limit = gradient_exponent(spec, State(final.q[150], final.gap[150]))
    assert abs(local - limit) < 1e-3


def test_fates():
    cold = gradients(simple(depth=3, beta=0.01, rho0=0.9)).fates()
    assert set(cold["wq"]) == {"vanishing"}
    hot = gradients(simple(depth=10, context=256, beta=2.0)).fates(exploding=2)
    assert hot["wv"][0] == "exploding"
    assert hot["wv"][-1] == "healthy"


@pytest.mark.parametrize("changes", [{"context": "inf"}])
def test_gradients_refuse(changes):
    with pytest.raises(AssumptionError, match="finite context"):
        gradients(simple(**changes))


# acceptance


def misses(found, reference, p_too=True):
    q, q_se, p, p_se = (np.array(reference[k]) for k in ("qg", "qg_se", "pg", "pg_se"))
    bad = np.sum(np.abs(np.log(found.q / q)) > 0.1 + 3 * q_se / q)
    clear = np.abs(p) > 3 * p_se
    far = np.abs(found.p / p - 1) > 0.2 + 3 * p_se / np.abs(p)
    return bad + p_too * np.sum(clear & far)


@pytest.mark.parametrize("name", CASES)
def test_closed_form_against_autograd(causal_gradients, name):
    spec = spec_of(causal_gradients[name]["case"])
    assert misses(gradients(spec), causal_gradients[name]) == 0


def test_without_the_score_path_the_reference_is_missed(causal_gradients, monkeypatch):
    from sigprop.layers.attention import backward as attention_backward

    nothing = attention_backward._Scores(Gradient(0.0, 0.0), 0.0, 0.0, 0.0)
    monkeypatch.setattr(attention_backward, "_scores", lambda *_: nothing)
    missed = [
        misses(gradients(spec_of(causal_gradients[n]["case"])), causal_gradients[n]) for n in CASES
    ]
    assert max(missed) >= 4


@pytest.mark.parametrize("name", DECODERS)
def test_gradients_of_decoders(decoders, name):
    """Variance of the gradient and norms for weights in every block, sampled."""
    measured, spec = decoders[name], described(decoders[name]["case"])
    found = sigprop.gradients(spec, draws=8, seed=1)

    def far(value, key):
        mean, se = np.array(measured[key]), np.array(measured[f"{key}_se"])
        return np.abs(value / mean - 1) - 3 * se / mean

    assert far(found.q, "gq").max() < 0.05
    loose = {"wq": 0.1, "wk": 0.1}
    for name, values in found.norms.items():
        assert far(values, f"g_{name}").max() < loose.get(name, 0.05), name
    assert far(found.w2 / spec.mlp_ratio, "g_w2").min() > 0.2  # negative control: d units


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sampled_kernel_against_autograd(causal_gradients, name):
    spec = spec_of(causal_gradients[name]["case"])
    found = sampled_gradients(spec, np.random.default_rng(0), draws=24)
    assert misses(found, causal_gradients[name]) == 0


def single(context, width, beta, rho):
    case = {"T": context, "d": width, "H": 1, "L": 1, "vw": 0.0, "vv": 1.0, "aS": 1.0, "aM": 1.0}
    return case | {"rho0": rho, "act": "linear", "norm": "none", "beta": beta}


@pytest.mark.parametrize(
    ("context", "width", "beta", "rho"),
    [(256, 64, 0.5, 0.0), (128, 64, 2.0, 0.0), (256, 64, 3.0, 0.3), (64, 128, 5.0, 0.0)],
)
def test_weight_gradients_of_one_layer(context, width, beta, rho):
    case = single(context, width, beta, rho)
    found = gradients(spec_of(case))
    measured = autograd.average(case, range(60))
    for name in WEIGHTS:
        mean, error = measured[name][0][0], measured[name][1][0]
        assert abs(mean / getattr(found, name)[0] - 1) < 0.03 + 3 * error / mean, name


def test_first_order_in_the_width_fails():
    """Negative control: at T/d = 4 the array's first order misses by more."""
    case = single(256, 64, 1.0, 0.0)
    exact, rough = gradients(spec_of(case)), gradients(spec_of(case).replace(beta=[1.0, 1.0]))
    mean, error = (v[0] for v in autograd.average(case, range(60))["wq"])
    assert abs(mean / exact.wq[0] - 1) < 0.03 + 3 * error / mean
    assert abs(mean / rough.wq[0, 0] - 1) > 0.03 + 3 * error / mean


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.25, 1, 8])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_weight_gradients_over_the_range(ratio, rho, beta):
    case = single(int(128 * np.sqrt(ratio)), int(128 / np.sqrt(ratio)), beta, rho)
    networks = range(600 if rho > 0.5 else 100)  # heavy tails
    found, measured = gradients(spec_of(case)), autograd.average(case, networks)
    for name in WEIGHTS:
        mean, error = measured[name][0][0], measured[name][1][0]
        assert abs(mean / getattr(found, name)[0] - 1) < 0.03 + 3 * error / mean, name


UNITS = {"relu": 0.5, "linear": 1.0}  # E phi(z)^2, and E phi'(z)^2, of a Gaussian z


@pytest.mark.parametrize("act", UNITS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 4.0])
def test_mlp_gradients_of_the_last_block_are_known(ratio, gated, act):
    """dW_2 is a sum of h_t g_t: for independent g_t its squared norm is the mean one of h_t.

    That is d_ff E phi^2, times the variance of the linear branch of a gated unit. That of dW_1,
    d sigma_w2^2 E phi'^2, does not know the number of units.
    """
    spec = simple(depth=2, norm="pre", width=48, heads=2, activation=act, gated=gated)
    spec = spec.replace(mlp_ratio=ratio, sigma_w1_2=1.3, sigma_w2_2=0.7)
    found, half = sigprop.gradients(spec), UNITS[act]
    linear = 1.3 if gated else 1.0
    assert found.w2[-1] == pytest.approx(48 * ratio * 1.3 * half * linear, rel=1e-6)
    for each in (found.w1, found.wg) if gated else (found.w1,):
        assert each[-1] == pytest.approx(48 * 0.7 * half * linear, rel=1e-6)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("positions", [{"causal": True}, {"rotary_base": 1e3}])
def test_mlp_gradients_of_the_last_block_are_known_by_position(positions, parallel):
    """The same by position; sampled, to four standard errors."""
    spec = simple(depth=2, context=24, norm="pre", width=96, heads=2, mlp_ratio=3, **positions)
    spec = spec.replace(parallel=parallel, sigma_w1_2=1.3, sigma_w2_2=0.7)
    plain = sigprop.gradients(spec)
    assert plain.w2[-1] == pytest.approx(96 * 3 * 1.3 / 2, rel=1e-6)
    assert plain.w1[-1] == pytest.approx(96 * 0.7 / 2, rel=1e-6)
    found = sigprop.gradients(spec, draws=12, seed=4)
    for name, exact in (("w2", 96 * 3 * 1.3 / 2), ("w1", 96 * 0.7 / 2)):
        value, error = getattr(found, name)[-1], found.errors[name][-1]
        assert abs(value - exact) < 4 * error + 0.01 * exact, name
        assert error < 0.1 * exact  # three times fewer units would be seen


@pytest.mark.parametrize("parallel", [False, True])
def test_without_values_a_mask_changes_no_gradient(parallel):
    """Attention that writes nothing leaves the MLP alone: by position as in closed form."""
    spec = simple(depth=3, context=16, norm="pre", sigma_v2=0, rho0=0, parallel=parallel)
    exact = gradients(spec.replace(alpha_attn=0.8))
    for draws in (None, 2):
        found = sigprop.gradients(spec.replace(alpha_attn=0.8, causal=True), draws=draws)
        for name in ("q", "w1", "w2"):
            np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=1e-6)
    stream = 1.0  # its variance: a block scales it and adds 1/2, backward 1/2 over what is read
    for q, behind in zip(exact.q, [*exact.q[1:], 1.0], strict=True):
        assert q / behind == pytest.approx(0.64 + 0.5 / stream)
        stream = 0.64 * stream + 0.5


def test_second_matrices_grow_with_their_units_in_every_block():
    """At infinite width nothing else in the stack knows how many there are."""
    one, five = (gradients(simple(depth=5, mlp_ratio=ratio)) for ratio in (1.0, 5.0))
    np.testing.assert_allclose(five.w2, 5 * one.w2, rtol=1e-12)
    for name in ("q", "p", "wq", "wk", "wv", "w1"):
        np.testing.assert_allclose(getattr(five, name), getattr(one, name), rtol=1e-12)


def test_mlp_gradients_against_autograd():
    """Three post-norm blocks with four units a feature, every block; one unit a feature fails."""
    case = {"T": 32, "d": 64, "H": 2, "L": 3, "vw": 1.2, "vv": 0.7, "aS": 1.0, "aM": 1.0}
    case |= {"rho0": 0.2, "act": "relu", "norm": "post", "beta": 0.7, "width": 4}
    found, measured = gradients(spec_of(case)), autograd.average(case, range(80))
    for name in ("w1", "w2"):
        mean, error = measured[name]
        assert (np.abs(getattr(found, name) / mean - 1) < 0.05 + 3 * error / mean).all(), name
    mean, error = measured["w2"]
    assert (np.abs(found.w2 / 4 / mean - 1) > 0.5 + 3 * error / mean).all()


def test_gradients_of_another_architecture():
    """Pre-norm tanh heads: kernels within 10 % + 3 s.e., deep query gradients within 40 %."""
    case = {"T": 64, "d": 128, "H": 2, "L": 6, "vw": 1.5, "vv": 1.0, "vb": 0.0, "aS": 1.0}
    case |= {"aM": 0.9, "rho0": 0.2, "act": "tanh", "norm": "pre", "beta": 1.0}
    found, measured = gradients(spec_of(case)), autograd.average(case, range(60))
    for mine, name, allowed in (("q", "qg", 0.1), ("p", "pg", 0.2), ("wq", "wq", 0.4)):
        mean, error = measured[name]
        assert (np.abs(getattr(found, mine) / mean - 1) < allowed + 3 * error / mean).all(), name


# sampling


def test_sampling_agrees_with_the_closed_form_at_infinite_width():
    spec = simple(depth=4, context=128, beta=1.0)
    sampled = sampled_gradients(spec, np.random.default_rng(2), draws=12)
    exact = gradients(spec)
    assert np.allclose(sampled.q, exact.q, rtol=0.05)
    assert np.allclose(sampled.p, exact.p, rtol=0.1)


@pytest.mark.parametrize("changes", [{"causal": True}, {"rotary_base": 100.0}, {"norm": "pre"}])
def test_sampling_follows_masks_and_positions(changes):
    """Causal: the last token's values reach itself only, so its gradient is the smallest."""
    spec = simple(depth=2, context=32, width=64, heads=2, **changes)
    found = sampled_gradients(spec, np.random.default_rng(3), draws=4)
    assert (found.q > 0).all()
    assert np.linalg.eigvalsh(found.kernel).min() > -1e-9
    if "causal" in changes:
        diagonal = np.diagonal(found.kernel)
        assert diagonal[:4].mean() > 2 * diagonal[-4:].mean()


def test_sampling_refuses():
    spec, rng = simple(), np.random.default_rng(0)
    with pytest.raises(DomainError, match="kernel"):
        sampled_gradients(spec, rng, kernel=np.eye(3))
    with pytest.raises(DomainError, match="mask"):
        sampled_gradients(spec, rng, mask=np.zeros((64, 64)))
    with pytest.raises(DomainError, match="draws"):
        sampled_gradients(spec, rng, draws=1)
    for changes in ({"norm": "none"}, {"context": "inf"}, {"rotary_base": 1e4}):
        with pytest.raises(AssumptionError):
            sampled_gradients(simple(**changes), rng)


def test_gradients_use_the_trajectory_given():
    spec = simple(depth=2, width=64)
    assert np.allclose(gradients(spec, bands(spec)).q, gradients(spec).q)


# command line, diagram, figure


@pytest.fixture
def spec_file(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(simple(depth=3, width=64).to_dict()))
    return str(path)


def invoke(*arguments):
    from typer.testing import CliRunner

    from sigprop.cli.app import app

    return CliRunner().invoke(app, list(arguments))


def test_seeds_of_drawn_gradients():
    """Any unsigned number of 63 bits; exchangeable tokens need no draws, whatever the seed."""
    spec = simple(depth=2)
    assert np.array_equal(sigprop.gradients(spec, seed=2**63 - 1).q, sigprop.gradients(spec).q)
    for seed in (-1, 2**63 + 1):
        with pytest.raises(DomainError, match="seed"):
            sigprop.gradients(spec, seed=seed)


def test_command_line_reports_gradients_and_bands(spec_file):
    run = invoke("propagate", spec_file, "--gradients", "--bands", "--json")
    assert run.exit_code == 0
    values = json.loads(run.stdout)
    for name in ("grad_q", "grad_p", "grad_wq", "grad_wk", "grad_wv", "y2_std", "entropy_std"):
        assert len(values[name]) == 3, name
    assert len(values["rho_std"]) == 4
    assert isinstance(values["lambda_g"], float)
    plain = json.loads(invoke("propagate", spec_file, "--json").stdout)
    assert not {"rho_std", "y2_std", "entropy_std", "grad_q", "crowding"} & set(plain)


def test_command_line_shows_gradients(spec_file):
    assert "gradient exponent" in invoke("propagate", spec_file, "--gradients").stdout


@pytest.mark.parametrize("option", ["--gradients", "--bands"])
def test_command_line_refuses_the_limit(spec_file, option):
    assert isinstance(invoke("propagate", spec_file, "--limit", option).exception, DomainError)


def test_diagram_has_gradient_boundaries():
    from sigprop import diagram
    from sigprop.plotting import plot_diagram

    axes = {"beta": np.linspace(0.01, 4, 12), "alpha_attn": np.linspace(0.2, 2, 9)}
    data = diagram(simple(depth=12, context=256), gradients=True, **axes)
    apjn = np.log(data["apjn"].values)
    assert apjn.min() < np.log(1e3) < apjn.max()
    for x, y in zip(
        data.exploding_gradients_x.values, data.exploding_gradients_y.values, strict=True
    ):
        near = data.interp(beta=x, alpha_attn=y)
        assert abs(np.log(near.apjn) - np.log(1e3)) < 2
    assert data.vanishing_score_gradients_x.size > 0
    assert plot_diagram(data).axes


def test_figure_draws_bands():
    from sigprop.plotting import plot_trajectory

    figure = plot_trajectory(bands(simple(depth=3, width=64)))
    assert [len(axes.collections) for axes in figure.axes] == [1, 1, 2]
