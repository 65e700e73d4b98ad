"""The sixteen rules of theory.md section 9, each with its formula and its measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from sigprop.backward import gradients
from sigprop.folklore import Bench, Claim, Point
from sigprop.maps.activations import activation
from sigprop.maps.mlp import Mlp
from sigprop.propagate import exchangeable
from sigprop.recipe import Recipe, spec_of
from sigprop.rem import Finite, moments
from sigprop.schemes import described, recipe
from sigprop.simulate import claims as draw
from sigprop.simulate.typed import Typed, overlap
from sigprop.spec import Transformer
from sigprop.state import State

__all__ = ["CLAIMS"]


def _typed(found: Recipe, spec: Transformer) -> Typed:
    return Typed(spec, found.std, found.multipliers, found.bias, found.uniform, found.sub_norm)


def _mlp(name: str, first: float, second: float) -> float:
    """Variance after a two-layer MLP of unit input (E15)."""
    return float(Mlp(activation(name), first, second)(State(1.0, 1.0)).q)


def _glorot(b: Bench) -> list[Point]:
    d, wide = b.lab.width or 1, 4 * (b.lab.width or 1)
    cases = {"n_in = n_out": (d, d), "n_out = 4 n_in": (d, wide), "n_in = 4 n_out": (wide, d)}
    return [
        b.point(
            where,
            1.0,
            2 * n / (n + m),
            partial(draw.layer_gain, ins=n, outs=m, std=math.sqrt(2 / (n + m))),
        )
        for where, (n, m) in cases.items()
    ]


def _uniform(b: Bench) -> list[Point]:
    n = 2 * (b.lab.width or 1)
    edge = math.sqrt(6 / n)
    return [
        b.point(
            "any shape",
            1.0,
            edge**2 / 3 / (2 / n),
            lambda rng: rng.uniform(-edge, edge, (n // 2, n // 2)).var() / (2 / n),
        )
    ]


def _he(b: Bench) -> list[Point]:
    d = 4 * (b.lab.width or 1)
    return [
        b.point(
            f"the activation is {name}",
            1.0,
            _mlp(name, 2.0, 1.0),
            partial(draw.layer_gain, ins=d, outs=d, std=math.sqrt(2 / d), activation=name),
        )
        for name in ("relu", "gelu", "tanh")
    ]


def _products(b: Bench) -> list[Point]:
    d = b.lab.width or 1
    return [
        b.point(
            f"tokens overlap by {rho:g}",
            1.0,
            1 - rho,
            partial(draw.score_variance, d=d, rho=rho),
        )
        for rho in (0.0, 0.5, 0.9)
    ]


def _uniformity(b: Bench) -> list[Point]:
    context = int(min(b.config.context, 1024))
    log_t, rho = math.log(context), float(b.config.rho0)
    own = float(b.config.beta) * math.sqrt(log_t * (1 - rho))
    return [
        b.point(
            f"s = {s:.2g}{words}",
            1.0,
            context * float(moments(s, context).y2),
            partial(_crowding, context=context, s=s),
        )
        for s, words in ((own, ", this config"), (0.1, ""), (1.0, ", unit queries and keys"))
    ]


def _spread(b: Bench) -> list[Point]:
    t = 512
    return [
        b.point(
            f"s = {s:g}",
            1.0,
            t * (t * float(moments(s, t).y2) - 1) / t**2,
            partial(_softmax_spread, context=t, s=s),
        )
        for s in (0.3, 1.0, 2.0)
    ]


def _multihead(b: Bench) -> list[Point]:
    spec = b.lab.replace(depth=1, norm="none", sigma_w2=0.0)
    d = spec.width or 1
    std = dict.fromkeys(("value", "output"), d**-0.5) | {"mlp_in": 0.0, "mlp_out": 0.0}
    points = []
    for rho, beta in ((0.0, 0.5), (0.5, 0.5), (0.99, 0.5), (0.0, 3.0)):
        heat = math.sqrt(beta * math.sqrt(math.log(spec.context)) / d)
        own = spec.replace(rho0=rho, beta=beta, alpha_attn=0.0, alpha_mlp=1.0)
        network = Typed(own, std | {"query": heat, "key": heat}, {"skip": 1.0})
        theory = rho + (1 - rho) * float(
            Finite(64, d / 2).weights(beta * (1 - rho) ** 0.5, 1 - rho).y2
        )
        points.append(
            b.point(
                f"rho = {rho:g} at beta = {beta:g}",
                1.0,
                theory,
                partial(_branch, network),
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
        x = network._after(network.tokens(rng) + code)
        return overlap(network.run(x, network.draw(rng)).streams[-1])

    theory = float(exchangeable(spec.replace(rho0=mixed)).rho[-1])
    without = float(exchangeable(spec).rho[-1])
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
                float(exchangeable(usual).rho[-1]), float(exchangeable(gained).rho[-1]),
                lambda rng: overlap(network.walk(rng).streams[-1])),
        b.point(f"scores are meant (d = {d})", 1.0, seen, heat),
    ]  # fmt: skip


def _frobenius(b: Bench) -> list[Point]:
    d = b.lab.width or 1
    hidden = 4 * d
    each = 1 / math.sqrt(d * hidden)  # variance times fan-in of both matrices

    def point(where: str, product: float) -> Point:
        theory = _mlp("relu", each * product, each * product)
        measure = partial(draw.mlp_branch, d=d, hidden=hidden, frobenius=product)
        return b.point(where, 1.0, theory, measure)

    both = math.sqrt(2 * d * hidden)
    return [point("the product is 1", 1.0), point("the product is sqrt(2 d d_ff)", both)]


def _halving(b: Bench) -> list[Point]:
    d = 4 * (b.lab.width or 1)
    return [
        b.point(
            f"the activation is {name}",
            0.5,
            _mlp(name, 1.0, 1.0),
            partial(draw.layer_gain, ins=d, outs=d, std=d**-0.5, activation=name),
        )
        for name in ("relu", "gelu")
    ]


def _branches(b: Bench) -> list[Point]:
    """Overlap at 24 blocks, where the rule says that it is that at 6."""
    points = []
    for name in ("branch-1/sqrt-n", "branch-0.1"):
        short, deep = (b.lab.replace(norm="none", depth=n) for n in (6, 24))
        found, spec, _ = described(name, deep)
        network = _typed(found, spec)
        growth = _grown(described(name, short)[1])
        words = "scaled by 1/sqrt(N)" if found.attn_branch > 0.11 else "scaled by 0.1"
        points.append(b.point(words, growth, _grown(spec), partial(_growth, network)))
    return points


def _gain(network: Typed, rng: np.random.Generator) -> float:
    return math.sqrt(network.gains(rng)[0])


def _grown(spec: Transformer) -> float:
    q = exchangeable(spec).q
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
    t = int(b.lab.context)
    return [
        b.point(
            f"heads are {d} wide",
            1.0,
            1 / (1 + (t - 1) * math.exp(0.5 - math.sqrt(d))),
            partial(draw.own_weight, d=d, context=t),
        )
        for d in (16, 64, 128)
    ]


def _decay(b: Bench) -> list[Point]:
    """Slope of the logarithm of the MLP's gradient norm along depth: 0.9 a block is claimed."""
    points = []
    for norm in ("post", "pre"):
        found, spec, _ = described("glorot-normal", b.lab.replace(norm=norm))
        network, layer = _typed(found, spec), np.arange(spec.depth)
        slope = np.polyfit(layer, 0.5 * np.log(gradients(spec).w1), 1)[0]
        points.append(
            b.point(
                f"{norm}-norm Glorot stacks",
                1 / 0.9,
                math.exp(-slope),
                partial(_per_block, network),
            )
        )
    return points


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
    b: Bench, where: str, claimed: float, sizes: Sequence[int], specs: Sequence[Transformer]
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
    for name in ("rezero", "deepnorm", "noci", "glorot-normal"):
        found, spec, _ = described(name, b.lab.replace(norm="none", q0=1.0))
        network = _typed(found, spec)
        points += [
            b.point(f"{name}, forward", 1.0, math.sqrt(_grown(spec)),
                    partial(_growth, network, power=0.5)),
            b.point(f"{name}, backward", 1.0, math.sqrt(float(gradients(spec).apjn)),
                    partial(_gain, network)),
        ]  # fmt: skip
    return points


def _say(words: str) -> Callable[[Sequence[Point]], str]:
    return lambda points: f"{words} {'; '.join(f'{p.where}: {p.theory:.3g}' for p in points)}."


_RULES = (
    Claim(1, "Var W = 2/(n_in + n_out) preserves variance", "Glorot & Bengio 2010; textbooks",
          "gain 2 n_in/(n_in + n_out)", _glorot,
          _say("Use 1/n_in forward. Variance gained:")),
    Claim(2, "Uniform Glorot within sqrt(6/(n_in + n_out)) has the same variance",
          "Glorot & Bengio 2010, eq. 16", "(6/(n_in + n_out))/3 = 2/(n_in + n_out)", _uniform,
          _say("None needed. Ratio of variances:")),
    Claim(3, "He's 2/n_in preserves the second moment through the activation", "He et al. 2015",
          "2 E phi(u)^2 (E15)", _he, _say("Use 1/(n_in E phi^2). Second moment gained:")),
    Claim(4, "Var q.k = d_k for unit-variance inputs", "Vaswani et al. 2017, footnote 4",
          "d_k (1 - rho) over the keys of a query (E2)", _products,
          _say("Softmax sees d_k (1 - rho). Over d_k:")),
    Claim(5, "Attention is near uniform at initialisation", "blogs, papers",
          "T Y_2, about e^(s^2) at small s (E6)", _uniformity,
          _say("s^2 = beta^2 log T (1 - rho) must be far below one. T Y_2:")),
    Claim(6, "The variance of softmax outputs is 1/T", "blogs", "(T Y_2 - 1)/T^2 (E6)", _spread,
          _say("1/T is the mean; the variance is (T Y_2 - 1)/T^2. Times T:")),
    Claim(7, "Var(MultiHead) = d_model", "blogs", "d (rho + (1 - rho) Y_2) (E10)", _multihead,
          _say("Averaging over unlike tokens cancels. Over d:")),
    Claim(8, "Sinusoidal positions have norm sqrt d, are orthogonal, leave collapse alone",
          "blogs", "norm sqrt(d/2); mean cosine kappa-bar over pairs (section 2d)", _sinusoids,
          _say("They share a direction, which starts tokens closer. Theory:")),
    Claim(9, "A norm gain of 1/sqrt d is harmless", "blogs", "scores times gain^2 = 1/d (E1, E14)",
          _norm_gain, _say("Multiply beta by d to make up for it. Theory:")),
    Claim(10, "|W1|_F |W2|_F = 1 keeps the MLP of order one", "blogs",
          "branch variance P^2/(2 d d_ff) at a product P (E16)", _frobenius,
          _say("Take the product sqrt(2 d d_ff). Branch variance:")),
    Claim(11, "With zero biases the activation halves the variance", "He et al. 2015; textbooks",
          "E phi(u)^2 at variance 1 (E15)", _halving,
          _say("Second moment of the activation:")),
    Claim(12, "Branches scaled by 1/sqrt N, or by 0.1, serve any depth", "papers, blogs",
          "q_L/q_0 of a stack without norms (E13)", _branches,
          _say("Scale by 1/sqrt N; a constant fits one depth. q_L/q_0 at 24 blocks:")),
    Claim(13, "Queries and keys near the identity make a token attend to itself",
          "Trockman & Kolter 2023", "1/(1 + (T - 1) e^(1/2 - sqrt d_h))", _identity,
          _say("sqrt d_h must exceed log T + 1/2. Own weight:")),
    Claim(14, "Layer-wise decay of 0.9 a block matches the gradients",
          "Howard & Ruder 2018; BERT recipes",
          "slope of log |dL/dW_1| along depth (E23, E24)", _decay,
          _say("Gradient norms per block toward the input grow by the factor below. Theory:")),
    Claim(15, "|grad L| <= C sqrt(d/N)", "blogs", "exponents of sum over blocks of |dL/dW_1| (E23)",
          _exponents, _say("Use the fitted exponents. Theory:")),
    Claim(16, "|h_l| = |h_0| and |delta_l| = |delta_L|", "papers, blogs",
          "sqrt(q_L/q_0) and sqrt(APJN) (E13, E23)", _preserved,
          _say("Without norms only zero branches preserve both exactly. Ratios:")),
)  # fmt: skip
CLAIMS: dict[int, Claim] = {claim.number: claim for claim in _RULES}
