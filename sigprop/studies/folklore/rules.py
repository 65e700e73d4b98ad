"""The sixteen rules of theory.md section 9, each with its formula and its measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from sigprop.analysis.schemes.outcome import described, recipe
from sigprop.layers.activations import activation
from sigprop.layers.attention.statistics import Finite, moments
from sigprop.layers.mlp import Mlp
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.model.weights import Recipe, spec_of
from sigprop.propagation.gradients.closed_form import gradients
from sigprop.propagation.solve import propagate
from sigprop.simulation import rule_measurements as draw
from sigprop.simulation.typed_weights import Typed, overlap
from sigprop.studies.folklore.verdicts import ROOM, Bench, Claim, Point, laboratory

__all__ = ["CLAIMS"]


def _typed(found: Recipe, spec: ModelSpec) -> Typed:
    return Typed(spec, found.std, found.multipliers, found.bias, found.uniform, found.sub_norm)


def _mlp(name: str, first: float, second: float) -> float:
    """Variance after a two-layer MLP of unit input (E15)."""
    return float(Mlp(activation(name), first, second).at(State(1.0, 1.0)).q)


def _glorot(b: Bench) -> list[Point]:
    d, wide = b.lab.width or 1, 4 * (b.lab.width or 1)
    cases = {"n_in = n_out": (d, d), "n_out = 4 n_in": (d, wide), "n_in = 4 n_out": (wide, d)}
    return [
        b.point(
            where,
            1.0,
            2 * n / (n + m),
            partial(draw.layer_gain, ins=n, outs=m, std=math.sqrt(2 / (n + m))),
            within=n == m,
        )
        for where, (n, m) in cases.items()
    ]


def _uniform(b: Bench) -> list[Point]:
    d = b.lab.width or 1
    cases = {"n_in = n_out": (d, d), "n_out = 4 n_in": (d, 4 * d), "n_in = 4 n_out": (4 * d, d)}
    points = []
    for where, (n, m) in cases.items():
        edge, glorot = math.sqrt(6 / (n + m)), 2 / (n + m)
        spread = partial(_uniform_spread, edge=edge, shape=(n, m), unit=glorot)
        points.append(b.point(where, 1.0, edge**2 / 3 / glorot, spread))
    return points


def _uniform_spread(
    rng: np.random.Generator, edge: float, shape: tuple[int, int], unit: float
) -> float:
    return float(rng.uniform(-edge, edge, shape).var() / unit)


def _he(b: Bench) -> list[Point]:
    d = 4 * (b.lab.width or 1)
    points = []
    for name in ("relu", "gelu", "silu", "tanh"):
        theory = _mlp(name, 2.0, 1.0)
        std = math.sqrt(2 / d)
        measure = partial(draw.layer_gain, ins=d, outs=d, std=std, activation=name)
        points.append(
            b.point(f"the activation is {name}", 1.0, theory, measure, abs(theory - 1) <= ROOM)
        )
    return points


def _products(b: Bench) -> list[Point]:
    d = b.lab.width or 1
    return [
        b.point(
            f"tokens overlap by {rho:g}",
            1.0,
            1 - rho,
            partial(draw.score_variance, d=d, rho=rho),
            within=rho <= ROOM,
        )
        for rho in (0.0, 0.02, 0.1, 0.5, 0.9)
    ]


def _uniformity(b: Bench) -> list[Point]:
    context = _crowd(b)
    rho, edge = float(b.config.rho0), _uniform_edge(context)
    own = float(b.config.beta) * math.sqrt(math.log(context) * (1 - rho))
    cases = {f"s = {own:.2g}, this config": own, "s = 0.1": 0.1,
             f"s = {0.9 * edge:.2g}": 0.9 * edge, f"s = {1.1 * edge:.2g}": 1.1 * edge,
             "s = 1, unit queries and keys": 1.0}  # fmt: skip
    return [
        b.point(
            where,
            1.0,
            context * float(moments(s, context).y2),
            partial(_crowding, context=context, s=s),
            within=s <= edge,
        )
        for where, s in cases.items()
    ]


def _crowd(b: Bench) -> int:
    return int(min(b.config.context, 1024))


def _uniform_edge(context: int) -> float:
    """Largest score deviation at which T Y_2 is one within the room."""
    from scipy.optimize import brentq

    return float(brentq(lambda s: context * float(moments(s, context).y2) - 1 - ROOM, 1e-3, 3.0))


def _spread(b: Bench) -> list[Point]:
    t = 512
    return [
        b.point(
            f"s = {s:g}",
            1.0,
            t * (t * float(moments(s, t).y2) - 1) / t**2,
            partial(_softmax_spread, context=t, s=s),
        )
        for s in (0.3, 1.0, 2.0, 8.0)
    ]


def _multihead(b: Bench) -> list[Point]:
    spec = b.lab.replace(depth=1, norm="none", sigma_w2=0.0)
    d = spec.width or 1
    std = dict.fromkeys(("value", "output"), d**-0.5) | {"mlp_in": 0.0, "mlp_out": 0.0}
    points = []
    for rho, beta in ((0.0, 0.5), (0.5, 0.5), (0.9, 0.5), (0.97, 0.5), (0.99, 0.5), (0.0, 3.0)):
        heat = math.sqrt(beta * math.sqrt(math.log(spec.context)) / d)
        own = spec.replace(rho0=rho, beta=beta, alpha_attn=0.0, alpha_mlp=1.0)
        network = Typed(own, std | {"query": heat, "key": heat}, {"skip": 1.0})
        y2 = float(Finite(64, d / 2).weights(beta * (1 - rho) ** 0.5, 1 - rho).y2)
        points.append(
            b.point(
                f"rho = {rho:g}, Y_2 = {y2:.2g}",
                1.0,
                rho + (1 - rho) * y2,
                partial(_branch, network),
                within=(1 - rho) * (1 - y2) <= ROOM,
            )
        )
    return points


def _sinusoids(b: Bench) -> list[Point]:
    t, d = int(b.lab.context), b.lab.width or 1
    rate = 1e4 ** (-np.arange(d // 2) * 2 / d)
    lag = np.arange(1, t)
    mean = float(np.sum((t - lag) * np.cos(lag[:, None] * rate).mean(axis=1)) / np.sum(t - lag))
    kernel = draw.sinusoid_kernel(t, d)
    off = (kernel.sum() - np.trace(kernel)) / (t * (t - 1)) / kernel[0, 0]
    norm = math.sqrt(kernel[0, 0])
    return [
        Point("norm over sqrt d", 1.0, math.sqrt(0.5), norm, 0.0),
        Point("mean cosine of two positions", 0.0, mean, float(off), 0.0),
        _collapse_with_positions(b, mean),
    ]


def _collapse_with_positions(b: Bench, cosine: float) -> Point:
    """Overlap after the blocks with positions, where the rule says it is that without.

    The theory takes the mean of the kernel over pairs of positions: about 0.07 high at 3 blocks.
    """
    found, spec, _ = described("glorot-normal", b.lab.replace(norm="post", depth=3))
    network, rho = _typed(found, spec), float(spec.rho0)
    t, d = int(spec.context), spec.width or 1
    mixed = (rho + cosine / 2) / 1.5  # unit tokens, positions of mean square 1/2
    rate = 1e4 ** (-np.arange(d // 2) * 2 / d)
    angle = np.arange(t)[:, None] * rate
    code = np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(t, d)

    def measure(rng: np.random.Generator) -> float:
        x = network.normed(network.tokens(rng) + code)
        return overlap(network.run(x, network.draw(rng)).streams[-1])

    theory = float(propagate(spec.replace(rho0=mixed)).rho[-1])
    without = float(propagate(spec).rho[-1])
    return b.point("overlap after 3 blocks", without, theory, measure)


def _norm_gain(b: Bench) -> list[Point]:
    lab = b.lab.replace(norm="post", depth=3)
    small, plain = recipe("ln-gain", lab), recipe("glorot-normal", lab)
    d = lab.width or 1

    def heat(rng: np.random.Generator) -> float:
        networks = _typed(small, lab), _typed(plain, lab)
        state = rng.bit_generator.state
        out = []
        for network in networks:
            rng.bit_generator.state = state
            out.append(network.scores(network.tokens(rng), network.draw(rng)[0]).std())
        return float(out[0] / out[1])

    gained, usual = spec_of(small, lab), spec_of(plain, lab)
    seen = float(gained.beta) * float(gained.norm_gain) ** 2 / float(usual.beta)
    network = _typed(small, lab)
    return [
        b.point("only the collapse of a post-norm stack is meant",
                float(propagate(usual).rho[-1]), float(propagate(gained).rho[-1]),
                lambda rng: overlap(network.walk(rng).streams[-1])),
        b.point(f"scores are meant (d = {d})", 1.0, seen, heat),
    ]  # fmt: skip


def _frobenius(b: Bench) -> list[Point]:
    points = []
    for d in ((b.lab.width or 1) // 4, b.lab.width or 1):
        hidden = 4 * d
        each = 1 / math.sqrt(d * hidden)  # variance times fan-in of both matrices
        measure = partial(draw.mlp_branch, d=d, hidden=hidden, frobenius=1.0)
        theory = _mlp("relu", each, each)
        points.append(b.point(f"d = {d}, d_ff = {hidden}", 1.0, theory, measure))
    return points


def _halving(b: Bench) -> list[Point]:
    d = 4 * (b.lab.width or 1)
    points = []
    for name, variance in (("relu", 1.0), ("relu", 4.0), ("gelu", 1.0), ("gelu", 16.0)):
        theory = _mlp(name, variance, 1.0 / variance)
        gain = partial(draw.layer_gain, ins=d, outs=d, std=math.sqrt(variance / d), activation=name)
        points.append(
            b.point(
                f"{name} at variance {variance:g}",
                0.5,
                theory,
                partial(_over, gain, variance),
                abs(theory - 0.5) <= ROOM,
            )
        )
    return points


def _over(measure: Callable[[np.random.Generator], float], unit: float, rng: Any) -> float:
    return measure(rng) / unit


def _branches(b: Bench) -> list[Point]:
    """Overlap at 24 blocks, where the rule says that it is that at 6."""
    points = []
    for name in ("branch-1/sqrt-n", "branch-0.1"):
        short, deep = (b.lab.replace(norm="none", depth=n) for n in (6, 24))
        found, spec, _ = described(name, deep)
        network = _typed(found, spec)
        growth = _grown(described(name, short)[1])
        words = "scaled by 1/sqrt(N)" if found.attn_branch > 0.11 else "scaled by 0.1"
        steady = found.attn_branch > 0.11
        points.append(b.point(words, growth, _grown(spec), partial(_growth, network), steady))
    return points


def _gain(network: Typed, rng: np.random.Generator) -> float:
    return math.sqrt(network.gains(rng)[0])


def _grown(spec: ModelSpec) -> float:
    q = propagate(spec).q
    return float(q[-1] / q[0])


def _branch(network: Typed, rng: np.random.Generator) -> float:
    branch, _ = network.attention(network.tokens(rng), network.draw(rng)[0])
    return float(np.mean(branch**2))


def _crowding(rng: np.random.Generator, context: int, s: float) -> float:
    return float(context * np.mean(np.sum(draw.softmax(rng, context, s) ** 2, axis=1)))


def _softmax_spread(rng: np.random.Generator, context: int, s: float) -> float:
    return float(context * draw.softmax(rng, context, s).var())


def _per_block(network: Typed, rng: np.random.Generator) -> float:
    norms = 0.5 * np.log(network.weight_gains(rng, "mlp_in"))
    return math.exp(-np.polyfit(np.arange(len(norms)), norms, 1)[0])


def _growth(network: Typed, rng: np.random.Generator, power: float = 1.0) -> float:
    streams = network.walk(rng).streams
    return float((np.mean(streams[-1] ** 2) / np.mean(streams[0] ** 2)) ** power)


def _identity(b: Bench) -> list[Point]:
    return [
        b.point(
            f"T = {t}, heads {d} wide",
            1.0,
            1 / (1 + (t - 1) * math.exp(0.5 - math.sqrt(d))),
            partial(draw.own_weight, d=d, context=t),
            within=math.sqrt(d) >= 0.5 + math.log((1 / ROOM - 1) * (t - 1)),
        )
        for t, d in ((64, 16), (64, 49), (64, 64), (64, 128), (256, 64), (256, 100))
    ]


DECAY = 1 / 0.9  # growth of gradient norms toward the input that the rule supposes
SHALLOW, DEEP = 6, 30  # blocks


def _decay(b: Bench) -> list[Point]:
    """Slope of the logarithm of the MLP's gradient norm along depth: 0.9 a block is claimed."""
    low, high = _decay_depths(b.lab.activation)
    points = []
    for norm, depth in (("post", SHALLOW), ("pre", SHALLOW), ("pre", DEEP)):
        found, spec, _ = described("glorot-normal", b.lab.replace(norm=norm, depth=depth))
        points.append(
            b.point(
                f"{norm}-norm Glorot stack of {depth} blocks",
                DECAY,
                _slope(spec),
                partial(_per_block, _typed(found, spec)),
                within=norm == "pre" and low <= depth <= high,
            )
        )
    return points


def _slope(spec: ModelSpec) -> float:
    """Growth of the norm of the MLP's gradient a block toward the input, fitted."""
    found = gradients(spec, propagate(spec))
    return math.exp(-np.polyfit(np.arange(len(found.w1)), 0.5 * np.log(found.w1), 1)[0])


@cache
def _decay_depths(name: str) -> tuple[int, int]:
    """Depths between which pre-norm Glorot stacks of an activation have gradients that fit."""
    lab, fits = laboratory(norm="pre", activation=name), []
    for depth in range(2, DEEP):
        spec = described("glorot-normal", lab.replace(depth=depth))[1]
        if abs(_slope(spec) - DECAY) <= ROOM * DECAY:
            fits.append(depth)
    return min(fits), max(fits)


WIDTHS, DEPTHS = (32, 64, 128), (2, 4, 8)


def _exponents(b: Bench) -> list[Point]:
    """Exponents of the norm of all MLP gradients, per token, in width and in depth."""
    wide = [b.lab.replace(width=d, depth=4) for d in WIDTHS]
    deep = [b.lab.replace(width=64, depth=n) for n in DEPTHS]
    return [
        _exponent(b, "in the width, stated 1/2", 0.5, WIDTHS, wide),
        _exponent(b, "in the depth, stated -1/2", -0.5, DEPTHS, deep),
    ]


def _exponent(
    b: Bench, where: str, claimed: float, sizes: Sequence[int], specs: Sequence[ModelSpec]
) -> Point:
    made = [described("glorot-normal", spec)[:2] for spec in specs]
    networks = [_typed(found, spec) for found, spec in made]

    def fit(norms: list[Any]) -> float:
        return float(np.polyfit(np.log(sizes), 0.5 * np.log(norms), 1)[0])

    theory = fit([gradients(spec).w1.sum() for _, spec in made])
    return b.point(
        where, claimed, theory,
        lambda rng: fit([n.weight_gains(rng, "mlp_in").sum() for n in networks]),
    )  # fmt: skip


def _preserved(b: Bench) -> list[Point]:
    points = []
    cases = ("rezero", "deepnorm", "branch-0.1", "noci", "glorot-normal")
    for name, depth in [*((name, b.lab.depth) for name in cases), ("branch-0.1", 24)]:
        found, spec, _ = described(name, b.lab.replace(norm="none", q0=1.0, depth=depth))
        network = _typed(found, spec)
        forward, backward = math.sqrt(_grown(spec)), math.sqrt(float(gradients(spec).apjn))
        words = f"{name}, {depth} blocks"
        points += [
            b.point(f"{words}, forward", 1.0, forward, partial(_growth, network, power=0.5),
                    within=abs(math.log(forward)) <= EDGE),
            b.point(f"{words}, backward", 1.0, backward, partial(_gain, network),
                    within=abs(math.log(backward)) <= EDGE),
        ]  # fmt: skip
    return points


EDGE = math.log1p(ROOM)  # of the logarithm of a norm


def _say(words: str) -> Callable[[Sequence[Point]], str]:
    return lambda points: f"{words} {'; '.join(f'{p.where}: {p.theory:.3g}' for p in points)}."


_RULES = (
    Claim(1, "Var W = 2/(n_in + n_out) preserves variance", "Glorot & Bengio 2010; textbooks",
          "gain 2 n_in/(n_in + n_out)", _glorot,
          _say("Use 1/n_in forward. Variance gained:"), lambda b: "n_in = n_out"),
    Claim(2, "Uniform Glorot within sqrt(6/(n_in + n_out)) has the same variance",
          "Glorot & Bengio 2010, eq. 16", "(6/(n_in + n_out))/3 = 2/(n_in + n_out)", _uniform,
          _say("None needed. Ratio of variances:")),
    Claim(3, "He's 2/n_in preserves the second moment through the activation", "He et al. 2015",
          "E phi(sqrt(2) z)^2, z standard normal (E15)", _he,
          _say("Use 1/(n_in E phi^2). Second moment gained:"),
          lambda b: "E phi(sqrt(2) z)^2 = 1 for a standard normal z, as for relu"),
    Claim(4, "Var q.k = d_k for unit-variance inputs", "Vaswani et al. 2017, footnote 4",
          "d_k (1 - rho) over the keys of a query (E2)", _products,
          _say("Softmax sees d_k (1 - rho). Over d_k:"),
          lambda b: f"rho = 0 (within {ROOM:.0%} if rho <= {ROOM:g}), rho the tokens' overlap"),
    Claim(5, "Attention is near uniform at initialisation", "blogs, papers",
          "T Y_2, about e^(s^2) at small s (E6)", _uniformity,
          _say("Near uniform within e^(s^2) - 1. T Y_2:"),
          lambda b: f"s <= {_uniform_edge(_crowd(b)):.3f} at T = {_crowd(b)}, "
                    "s^2 = beta^2 log T (1 - rho)"),
    Claim(6, "The variance of softmax outputs is 1/T", "blogs", "(T Y_2 - 1)/T^2 (E6)", _spread,
          _say("1/T is the mean; the variance is (T Y_2 - 1)/T^2, below (T - 1)/T^2, which one-hot "
               "rows have. Times T:")),
    Claim(7, "Var(MultiHead) = d_model", "blogs", "d (rho + (1 - rho) Y_2) (E10)", _multihead,
          _say("Averaging over unlike tokens cancels. Over d:"),
          lambda b: f"(1 - rho)(1 - Y_2) <= {ROOM:g}: tokens have merged or attention is frozen"),
    Claim(8, "Sinusoidal positions have norm sqrt d, are orthogonal, leave collapse alone",
          "blogs", "norm sqrt(d/2); mean cosine kappa-bar over pairs (section 2d)", _sinusoids,
          _say("They share a direction, which starts tokens closer. Theory:")),
    Claim(9, "A norm gain of 1/sqrt d is harmless", "blogs", "scores times gain^2 = 1/d (E1, E14)",
          _norm_gain, _say("Multiply beta by d to make up for it. Theory:")),
    Claim(10, "|W1|_F |W2|_F = 1 keeps the MLP of order one", "blogs",
          "branch variance P^2/(2 d d_ff) at a product P, relu (E16)", _frobenius,
          _say("Unit variance takes the product sqrt(2 d d_ff). Branch variance at product 1:")),
    Claim(11, "With zero biases the activation halves the variance", "He et al. 2015; textbooks",
          "E phi(u)^2/E u^2 (E15)", _halving,
          _say("Second moment after over before:"),
          lambda b: "E phi(u)^2 = E u^2/2 for the Gaussian u it meets: relu at any variance"),
    Claim(12, "Branches scaled by 1/sqrt N, or by 0.1, serve any depth", "papers, blogs",
          "q_L/q_0 of a stack without norms (E13)", _branches,
          _say("A constant fits one depth. q_L/q_0 at 24 blocks, claimed as at 6:"),
          lambda b: "N c^2 stays as the number N of branches grows, c their factor: 1/sqrt(N)"),
    Claim(13, "Queries and keys near the identity make a token attend to itself",
          "Trockman & Kolter 2023", "1/(1 + (T - 1) e^(1/2 - sqrt d_h))", _identity,
          _say("It competes with T - 1 others. Own weight:"),
          lambda b: f"sqrt(d_h) >= log({1 / ROOM - 1:.0f} (T - 1)) + 1/2"),
    Claim(14, "Layer-wise decay of 0.9 a block matches the gradients",
          "Howard & Ruder 2018; BERT recipes",
          "slope of log |dL/dW_1| along depth (E23, E24)", _decay,
          _say("Decay by the inverse of the factor by which gradient norms grow a block toward the "
               "input. Theory:"),
          lambda b: "the stack is pre-norm Glorot of {} to {} blocks".format(
              *_decay_depths(b.lab.activation))),
    Claim(15, "|grad L| <= C sqrt(d/N)", "blogs", "exponents of sum over blocks of |dL/dW_1| (E23)",
          _exponents, _say("The norm grows with depth, so no C bounds it. Exponents in theory:")),
    Claim(16, "|h_l| = |h_0| and |delta_l| = |delta_L|", "papers, blogs",
          "sqrt(q_L/q_0) and sqrt(APJN) (E13, E23)", _preserved,
          _say("Without norms only zero branches preserve both exactly. Ratios:"),
          lambda b: "branches add little in all: the logarithms of q_L/q_0 and of APJN are within "
                    f"{2 * EDGE:.3f} of 0 (ReZero, DeepNorm)"),
)  # fmt: skip
CLAIMS: dict[int, Claim] = {claim.number: claim for claim in _RULES}
