"""Limit mode against a scalar transcription of theory.md, E4-E5 and E10-E16."""

import math
from itertools import product

import numpy as np
import pytest
from random_specs import STRUCTURES

from sigprop import ModelSpec, propagate
from sigprop.layers.state import State
from sigprop.propagation.stack import build_block

SEED = 20240607


def relu_dual(q, gap):
    """E16; the difference for the gap, by the series of sin t - t cos t for small angles."""
    theta = 2 * math.asin(math.sqrt(gap / (2 * q)))
    if theta < 0.3:
        arc = sum(
            (-1) ** (n + 1) * theta ** (2 * n + 1) * 2 * n / math.factorial(2 * n + 1)
            for n in range(1, 9)
        )
    else:
        arc = math.sin(theta) - theta * math.cos(theta)
    return q / 2, gap / 2 - q / (2 * math.pi) * arc


def attention(q, gap, p):
    """E4, E5, E10, E11 with O = 0 and 1/T = 0."""
    beta_c = math.sqrt(2 / (q * gap))
    y2 = 1 - min(1.0, beta_c / p["beta"]) if p["beta"] > 0 else 0.0
    if p["centred"]:
        return p["sigma_v2"] * gap * y2, p["sigma_v2"] * gap * y2
    return p["sigma_v2"] * (q - gap + gap * y2) + p["sigma_b2"], p["sigma_v2"] * gap * y2


def mlp(q, gap, p):
    q1, gap1 = p["sigma_w2"] * q + p["sigma_b2"], p["sigma_w2"] * gap
    variance, drop = relu_dual(q1, gap1)
    return p["sigma_w2"] * variance + p["sigma_b2"], p["sigma_w2"] * drop


def block(q, gap, p):
    for branch, alpha in ((attention, p["alpha_attn"]), (mlp, p["alpha_mlp"])):
        pre = p["norm"] == "pre"
        new_q, new_gap = branch(1.0, gap / q, p) if pre else branch(q, gap, p)
        q, gap = new_q + alpha**2 * q, new_gap + alpha**2 * gap
        if not pre:
            q, gap = 1.0, gap / q
    return q, gap


def random_case(rng, norm, centred):
    draw = rng.uniform
    return {
        "norm": norm,
        "centred": centred,
        "beta": draw(0, 5) * rng.choice([1, 1, 0]),
        "sigma_v2": draw(0, 3),
        "sigma_w2": draw(0, 3),
        "sigma_b2": draw(0, 0.5),
        "alpha_attn": draw(0.1, 3),
        "alpha_mlp": draw(0.1, 3),
        "rho0": draw(0, 1),
    }


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("centred", [False, True])
def test_transcription(norm, centred):
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        p = random_case(rng, norm, centred)
        numbers = {k: v for k, v in p.items() if k not in ("norm", "centred")}
        spec = ModelSpec(
            depth=20,
            context="inf",
            norm=norm,
            attention="centred" if centred else "softmax",
            **numbers,
        )
        found = propagate(spec)
        q, gap = 1.0, 1 - p["rho0"]
        for layer in range(1, 21):
            q, gap = block(q, gap, p)
            assert found.q[layer] == pytest.approx(q, rel=1e-12)
            assert found.gap[layer] == pytest.approx(gap, rel=1e-12)


def test_transcription_has_power():
    """Negative control: dropping the root in beta_c is seen at once."""
    p = random_case(np.random.default_rng(1), "post", False) | {"beta": 3.0}
    numbers = {k: v for k, v in p.items() if k not in ("norm", "centred")}
    found = propagate(ModelSpec(depth=1, context="inf", **numbers))
    _, gap = block(1.0, 1 - p["rho0"], p | {"beta": p["beta"] ** 2 / 2})
    assert abs(found.gap[1] / gap - 1) > 1e-3


def test_pre_norm_attention_sees_the_normalised_state():
    """The stream's q grows, yet the score standard deviation is that of q = 1."""
    spec = ModelSpec(depth=8, context=512, norm="pre", beta=1.0, sigma_v2=2, sigma_w2=2, rho0=0.1)
    t = propagate(spec)
    assert t.q[-1] > 10
    expected = np.sqrt(np.log(512) * (t.gap / t.q)[:-1])
    np.testing.assert_allclose(t.score_std, expected, rtol=1e-14)


def test_freezing_point_is_continuous():
    """E4 below, at and above beta_c = sqrt(2/gap)."""
    beta = np.sqrt(2 / 0.9) * np.array([1 - 1e-9, 1.0, 1 + 1e-9])
    spec = ModelSpec(depth=1, context="inf", beta=beta, sigma_v2=1, sigma_w2=1, rho0=0.1)
    gap = propagate(spec).gap[1]
    assert np.ptp(gap) < 1e-8
    assert gap[0] == gap[1]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_block_leaves_its_input_alone(structure):
    """Work arrays are reused inside the maps, never those of the state that enters."""
    norm, attention, activation, gated = structure
    spec = ModelSpec(
        depth=1,
        context=64,
        beta=np.linspace(0, 2, 5),
        sigma_v2=1,
        sigma_w2=0.5,
        rho0=0.1,
        norm=norm,
        attention=attention,
        activation=activation,
        gated=gated,
    )
    for theory, alpha in product(("limit", "finite"), (1.0, 2.0)):
        block = build_block(spec.replace(alpha_attn=alpha, alpha_mlp=alpha), theory)
        for q in (np.float64(1.0), np.ones(5)):
            state = State(q, np.linspace(0.1, 0.9, 5))
            block(state)
            assert (np.asarray(state.q) == 1).all()
            assert (state.gap == np.linspace(0.1, 0.9, 5)).all()


AUTHORS = [
    # what the authors' public notebooks compute (aGiorlandino/ICLR-Signal-Propagation-Transformers,
    # d3d7ffc: theory_update_relu.py and Gain-controlled-propagation.ipynb), after blocks
    ({"beta": 0.5}, (10, 25, 50), (0.24181921657368688, 0.8498033335550167, 0.9982294842820395)),
    ({"beta": 3.0}, (10, 25, 50), (0.13674132487087368, 0.49242335984367364, 0.9858743653482293)),
    ({"norm": "post"}, (5, 20, 100), (0.8921962013463037, 0.9999963309058286, 0.9999999999999998)),
    ({"norm": "pre"}, (5, 20, 100), (0.7557184252792162, 0.9496302379200033, 0.9908510408576449)),
    (
        {"norm": "post", "attention": "centred", "sigma_b2": 4e-4},
        (5, 20, 100),
        (0.22330076050025036, 0.28737035990659854, 0.5249910778507985),
    ),
    (
        {"norm": "pre", "attention": "centred", "sigma_b2": 4e-4},
        (5, 20, 100),
        (0.2224350346352139, 0.2750170090249091, 0.40963826661821195),
    ),
]


@pytest.mark.parametrize(("changes", "blocks", "rho"), AUTHORS)
def test_published_curves(changes, blocks, rho):
    """Overlap against depth: encoder, and variants (softmax ones without the bias of values)."""
    common = {"context": "inf", "sigma_w2": 0.2}
    if "norm" in changes:
        common |= {"depth": 100, "beta": 0.1, "sigma_v2": 1.0, "rho0": 0.2}
    else:
        common |= {"depth": 50, "sigma_v2": 0.2, "sigma_b2": 4e-4, "rho0": 0.02}
    found = propagate(ModelSpec(**(common | changes)), theory="limit")
    np.testing.assert_allclose(found.rho[list(blocks)], rho, rtol=1e-12)
