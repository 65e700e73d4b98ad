"""What each named scheme says to type, with its source and exact constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigprop.core.arrays import Floats
from sigprop.layers.interface import Place, Step
from sigprop.layers.norm import Norm
from sigprop.layers.residual import Sequence
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.model.weights import MATRICES, Recipe, fan_in, fan_out, spec_of
from sigprop.propagation.grids import sweep
from sigprop.propagation.stack import any_norm, assembled, build_block, first_norm, iterate

__all__ = ["SCHEMES", "Normed", "Scheme", "normed"]

FREE = math.sqrt(0.5)  # half of beta_c: three quarters of the entropy log T in the limit (E4, E5)
CUTS = 2000  # singular values in the cut to the rank of a head: 1e-3 of the trace
STRENGTHS = 401  # branch multipliers tried by the REM prescription
SUBLAYERS = ("value", "output", "mlp_in", "mlp_out")


@dataclass(frozen=True)
class Scheme:
    """A named scheme.

    Parameters
    ----------
    source : str
        Where its constants are published.
    build : callable
        From an architecture to a `Recipe`.
    remark : str
        What a description cannot hold, in words; its size is in `Outcome.approximation`.

    Examples
    --------
    >>> from sigprop.analysis.schemes.registry import SCHEMES
    >>> SCHEMES["deepnorm"].source[:11]
    'Wang et al.'
    """

    source: str
    build: Callable[[ModelSpec], Recipe]
    remark: str = ""


class Normed(NamedTuple):
    """A stack whose branches are normed.

    Attributes
    ----------
    attention, mlp : float
        Geometric mean over the blocks of the inverse variance of the branch before its norm.
    rho : array, shape (L+1,)
        Overlap after every block.
    """

    attention: float
    mlp: float
    rho: Floats


def normed(spec: ModelSpec, mlp: bool = True) -> Normed:
    """Follow a stack whose branches are normed to the variances sigma_o2 and sigma_w2_2.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    mlp : bool
        Whether the MLP is normed too.

    Returns
    -------
    Normed
        What the norms meet, and the overlap.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.registry import normed
    >>> normed(load("bert-base").spec, mlp=False).mlp
    1.0
    """
    outer, inner = _Meter(float(spec.sigma_o2)), _Meter(float(spec.sigma_w2_2))
    block = build_block(spec.replace(sigma_o2=1.0, sigma_w2_2=1.0 if mlp else spec.sigma_w2_2))
    attention, think = block.attention, block.mlp
    layers: list[Any] = [(attention, outer), (think, inner) if mlp else (think,)]
    first, second = (Sequence(both) for both in layers)
    whole = assembled(spec, any_norm(spec), first, second, block.place)
    q0 = float(spec.q0) if first_norm(spec) is None else 1.0
    start = State(q0, q0 * (1 - float(spec.rho0)))
    states = [start, *iterate(start, [whole] * spec.depth, lambda state, block: block(state))]
    rho = np.array([float(state.rho) for state in states])
    return Normed(outer.inverse, inner.inverse if mlp else 1.0, rho)


@dataclass
class _Meter:
    """A norm to a given variance that remembers what it met."""

    variance: float
    seen: list[float] = field(default_factory=list)

    def forward(self, kernel: State, place: Place) -> Step:
        self.seen.append(float(kernel.q))
        return Norm(math.sqrt(self.variance)).forward(kernel, place)

    @property
    def inverse(self) -> float:
        return float(np.exp(-np.mean(np.log(self.seen))))


def _same(spec: ModelSpec, std: float) -> dict[str, float]:
    return dict.fromkeys(MATRICES, std)


def _fan(spec: ModelSpec, gain2: float) -> dict[str, float]:
    return {name: math.sqrt(gain2 / n) for name, n in fan_in(spec).items()}


def _glorot(spec: ModelSpec, gain: float = 1.0) -> dict[str, float]:
    """Glorot & Bengio's variance; the gain leaves queries and keys alone."""
    ins, outs = fan_in(spec), fan_out(spec)
    std = {name: math.sqrt(2 / (ins[name] + outs[name])) for name in MATRICES}
    return std | {name: gain * std[name] for name in SUBLAYERS}


def _outputs(std: dict[str, float], factor: float) -> dict[str, float]:
    return std | {name: factor * std[name] for name in ("output", "mlp_out")}


def _branches(factor: float, std: dict[str, float], **more: Any) -> Recipe:
    return Recipe(std, attn_branch=factor, mlp_branch=factor, **more)


def _pytorch(spec: ModelSpec) -> Recipe:
    """Packed input projection by Glorot over (d, 3d); all else uniform within 1/sqrt(fan-in)."""
    n = fan_in(spec)
    packed = math.sqrt(2 / (4 * n["query"]))
    std = _fan(spec, 1 / 3) | dict.fromkeys(("query", "key", "value"), packed)
    return Recipe(std, uniform=True, bias=math.sqrt(1 / 3 / n["mlp_in"]))


def _neox(spec: ModelSpec) -> Recipe:
    d = fan_in(spec)["query"]
    wang = 2 / (spec.depth * math.sqrt(d))
    return Recipe(_same(spec, math.sqrt(2 / (5 * d))) | {"output": wang, "mlp_out": wang})


def _deepnorm(spec: ModelSpec) -> Recipe:
    gain = (8 * spec.depth) ** -0.25
    return Recipe(_glorot(spec, gain), skip=(2 * spec.depth) ** 0.25, norm="post")


def _deepnorm_encoder(spec: ModelSpec) -> Recipe:
    size = spec.depth ** (5 / 16)  # (N^4 M)^(1/16) for as many decoder as encoder blocks
    return Recipe(_glorot(spec, 0.87 / size), skip=0.81 * size, norm="post")


def _sub_ln(spec: ModelSpec) -> Recipe:
    gain = math.sqrt(math.log(2 * max(spec.depth, 1)))
    return Recipe(_glorot(spec, gain), norm="pre", sub_norm=True)


def _t_fixup(spec: ModelSpec) -> Recipe:
    gain = 0.67 * spec.depth**-0.25
    return Recipe(_glorot(spec, gain), norm="none", q0=(9 * spec.depth) ** -0.5)


def _layer_scale(spec: ModelSpec) -> Recipe:
    size = 0.1 if spec.depth <= 18 else 1e-5 if spec.depth <= 24 else 1e-6
    return _branches(size, _same(spec, 0.02), norm="pre")


def _mup(spec: ModelSpec) -> Recipe:
    return Recipe(_fan(spec, 1.0), score=(spec.head_width or 1.0) ** -0.5)


def _u_mup(spec: ModelSpec) -> Recipe:
    """Branches of the variance 1/L; attention's constant interpolates in the logarithm."""
    context, d_h = float(spec.context), spec.head_width or 1.0
    weight = 1 / (1 + 4 * d_h)
    attention = (math.log(context) / context) ** ((1 - weight) / 2)
    plain = Recipe(_fan(spec, 1.0), score=d_h**-0.5, norm="pre", q0=1.0)
    block = build_block(spec_of(plain, spec))
    mlp = block.part(block.mlp_branch)(State(1.0, 1.0)).q
    share = spec.depth**-0.5
    return replace(plain, attn_branch=share / attention, mlp_branch=share / math.sqrt(float(mlp)))


def _deepscale(spec: ModelSpec) -> Recipe:
    """Skip^2 = 1 - 2/N, branch^2 = 2/N over unit-variance branches."""
    n, share = fan_in(spec), 2 / max(spec.depth, 3)
    mlp = (2 / (n["mlp_in"] * n["mlp_out"])) ** 0.25
    std = _fan(spec, 1.0) | {"mlp_in": mlp, "mlp_out": mlp}
    plain = _branches(math.sqrt(share), std, skip=math.sqrt(1 - share), q0=1.0)
    outer = normed(spec_of(plain, spec), mlp=False).attention
    return replace(plain, std=std | {n: std[n] * outer**0.25 for n in ("value", "output")})


def _mimetic(spec: ModelSpec) -> Recipe:
    """W_Q^T W_K = 0.7 Z + 0.7 I cut to the rank of a head, and W_V W_O = 0.4 Z - 0.4 I."""
    d, heads = fan_in(spec)["query"], spec.heads
    mean, energy = _cut(0.7, 0.7, 1 / heads)
    part = math.sqrt(1 / d) * (heads * (energy - mean**2)) ** 0.25
    std = (
        _fan(spec, 0.4) | {"query": part, "key": part} | dict.fromkeys(("mlp_in", "mlp_out"), 0.02)
    )
    return Recipe(std, identity=mean, value_identity=-0.4)


def _cut(noise: float, identity: float, share: float) -> tuple[float, float]:
    r"""Trace and squared norm, over d, of the best approximation of low rank to a Z + b I.

    Z has independent entries of variance 1/d. With :math:`w = -z - a^2 g` the Hermitian matrix with
    blocks a Z + b I has the mean resolvent :math:`g = w/(w^2 - b^2)` on the diagonal and
    :math:`-b/(w^2 - b^2)` beside it, :math:`d \to \infty` (Dozier & Silverstein 2007; the second is
    the overlap of left and right singular vectors). Their imaginary parts at z = s, over pi/2, are
    the densities of singular values s and of :math:`u \cdot v` at s.
    """
    top = 2 * noise + identity
    s = (np.arange(CUTS) + 0.5) * top / CUTS
    g = _resolvent(s, noise, identity)
    w = -s - noise**2 * g
    beside = -identity / (w**2 - identity**2)
    density, along = (2 / math.pi * np.imag(v) * top / CUTS for v in (g, beside))
    kept = np.clip((share - np.cumsum(density[::-1])[::-1] + density) / density.clip(1e-300), 0, 1)
    return float(np.sum(kept * s * along)), float(np.sum(kept * s**2 * density))


def _resolvent(z: Floats, noise: float, identity: float) -> NDArray[np.complex128]:
    """Root in the upper half plane of :math:`g (w^2 - b^2) = w`; real where there is no density."""
    a2, b2 = noise**2, identity**2
    companion = np.zeros((*z.shape, 3, 3))
    companion[:, 1, 0] = companion[:, 2, 1] = 1
    companion[:, 0] = -np.stack([2 * z / a2, ((z**2 - b2) / a2 + 1) / a2, z / a2**2], axis=-1)
    roots = np.linalg.eigvals(companion)
    return np.asarray(roots[np.arange(z.size), np.argmax(roots.imag, axis=-1)])


def _rem(spec: ModelSpec) -> Recipe:
    """Half of beta_c, and the strongest branches that keep half of the input's overlap deficit."""
    std = _fan(spec, 1.0)
    heat = math.sqrt(FREE * math.sqrt(math.log(float(spec.context))))
    plain = Recipe(std | {name: heat * std[name] for name in ("query", "key")}, q0=1.0)
    size = np.geomspace(1e-3, 1.0, STRENGTHS)
    base = spec_of(plain, spec)
    many = base.replace(
        sigma_o2=base.sigma_o2 * size**2, sigma_w2_2=np.asarray(base.sigma_w2_2) * size**2
    )
    final = sweep(many, geometry="exchangeable").state
    kept = np.flatnonzero(final.gap / final.q >= (1 - float(spec.rho0)) / 2)
    strongest = float(size[kept[-1]]) if kept.size else float(size[0])
    return replace(plain, attn_branch=strongest, mlp_branch=strongest)


SCHEMES: dict[str, Scheme] = {
    "glorot-normal": Scheme(
        "Glorot & Bengio 2010: variance 2/(n_in + n_out)", lambda s: Recipe(_glorot(s))
    ),
    "glorot-uniform": Scheme(
        "Glorot & Bengio 2010, eq. 16: within sqrt(6/(n_in + n_out))",
        lambda s: Recipe(_glorot(s), uniform=True),
        "Entries are uniform; at infinite width only their variance counts.",
    ),
    "he": Scheme("He et al. 2015, eq. 10: variance 2/n_in", lambda s: Recipe(_fan(s, 2.0))),
    "lecun": Scheme("LeCun et al. 1998: variance 1/n_in", lambda s: Recipe(_fan(s, 1.0))),
    "pytorch": Scheme(
        "torch.nn.TransformerEncoderLayer: packed Glorot for q, k, v; nn.Linear elsewhere",
        _pytorch,
        "One bias variance stands for three.",
    ),
    "pytorch-linear": Scheme(
        "torch.nn.Linear: uniform within 1/sqrt(n_in), here for every matrix",
        lambda s: Recipe(_fan(s, 1 / 3), uniform=True, bias=math.sqrt(1 / 3 / (s.width or 1))),
        "One bias variance stands for three.",
    ),
    "bert": Scheme("Devlin et al. 2019: 0.02", lambda s: Recipe(_same(s, 0.02))),
    "gpt2": Scheme(
        "Radford et al. 2019, section 2.3: 0.02, outputs divided by sqrt(2 L)",
        lambda s: Recipe(_outputs(_same(s, 0.02), (2 * s.depth) ** -0.5)),
    ),
    "megatron": Scheme(
        "Smith et al. 2022 (MT-NLG): sqrt(1/(3 d)); Megatron-LM divides outputs by sqrt(2 L)",
        lambda s: Recipe(
            _outputs(_same(s, (3 * fan_in(s)["query"]) ** -0.5), (2 * s.depth) ** -0.5)
        ),
    ),
    "small-init": Scheme(
        "Nguyen & Salazar 2019: sqrt(2/(5 d))",
        lambda s: Recipe(_same(s, math.sqrt(2 / (5 * fan_in(s)["query"])))),
    ),
    "gpt-neox": Scheme(
        "Black et al. 2022; Wang & Komatsuzaki 2021: sqrt(2/(5 d)), outputs 2/(L sqrt d)", _neox
    ),
    "deepnorm": Scheme(
        "Wang et al. 2022, arXiv 2203.00555: alpha = (2N)^(1/4), beta = (8N)^(-1/4)", _deepnorm
    ),
    "deepnorm-encoder": Scheme(
        "Wang et al. 2022, arXiv 2203.00555, encoder of an encoder-decoder with N = M: "
        "alpha = 0.81 (N^4 M)^(1/16), beta = 0.87 (N^4 M)^(-1/16)",
        _deepnorm_encoder,
    ),
    "sub-ln": Scheme(
        "Wang et al. 2022 (Magneto), arXiv 2210.06423: norms before outputs, gain sqrt(log 2N)",
        _sub_ln,
        "In verdict and diagram the norms before the output projections are branch multipliers, "
        "one for all blocks.",
    ),
    "t-fixup": Scheme(
        "Huang et al. 2020 (T-Fixup), encoder layers: no norms, v, o and MLP 0.67 N^(-1/4), "
        "embeddings (9N)^(-1/4)",
        _t_fixup,
    ),
    "admin": Scheme(
        "Liu et al. 2020, arXiv 2004.08249: omega_i^2 = predicted variance of sublayers before i",
        lambda s: Recipe(_glorot(s), norm="pre", q0=1.0),
        "A post-norm stack whose skips are the predicted norm of its stream is, at initialisation, "
        "the pre-norm stack described here.",
    ),
    "rezero": Scheme(
        "Bachlechner et al. 2020, arXiv 2003.04887: x + a f(x), a = 0, no norms",
        lambda s: _branches(0.0, _glorot(s), norm="none"),
    ),
    "skipinit": Scheme(
        "De & Smith 2020, arXiv 2002.10444: a learned scalar a = 0 ends each branch",
        lambda s: _branches(0.0, _fan(s, 2.0), norm="none"),
    ),
    "layerscale": Scheme(
        "Touvron et al. 2021, arXiv 2103.17239: diag 0.1 to depth 18, 1e-5 to 24, 1e-6 beyond",
        _layer_scale,
    ),
    "branch-1/sqrt-n": Scheme(
        "folklore: branches by 1/sqrt(N), N = 2 L of them",
        lambda s: _branches((2 * s.depth) ** -0.5, _glorot(s)),
    ),
    "branch-0.1": Scheme("folklore: branches by 0.1", lambda s: _branches(0.1, _glorot(s))),
    "noci": Scheme(
        "Noci et al. 2022, arXiv 2206.03126: branches by 1/sqrt(L)",
        lambda s: _branches(s.depth**-0.5, _fan(s, 1.0)),
    ),
    "ln-gain": Scheme(
        "folklore: norms with gain 1/sqrt(d)",
        lambda s: Recipe(_glorot(s), norm_gain=(s.width or 1) ** -0.5),
    ),
    "identity-like": Scheme(
        "Trockman & Kolter 2023, arXiv 2305.09828: W_Q^T W_K = 0.7 Z + 0.7 I, "
        "W_V W_O = 0.4 Z - 0.4 I",
        _mimetic,
        "Heads are taken to be infinitely wide. The critical alpha and the gradient gain are those "
        "of the random parts alone.",
    ),
    "mup": Scheme("Yang et al. 2022, arXiv 2203.03466: variance 1/n_in, scores over d_h", _mup),
    "u-mup": Scheme(
        "Blake et al. 2024, arXiv 2407.17465: unit scaling, multipliers 1, scores over d_h",
        _u_mup,
    ),
    "deepscalelm": Scheme(
        "Kedia et al. 2024, arXiv 2403.09635: skip^2 = 1 - 2/N, branch^2 = 2/N, unit branches",
        _deepscale,
        "Value and output have one std for all blocks; the paper's follow the token correlation.",
    ),
    "log-n": Scheme(
        "Chiang & Cholak 2022, arXiv 2202.12172: scores by log n, Glorot weights",
        lambda s: Recipe(_glorot(s), score=math.log(float(s.context))),
    ),
    "rem": Scheme(
        "Giorlandino & Goldt 2025, arXiv 2505.24333: Var W_Q d = Var W_K d = beta sqrt(log T), "
        "beta = beta_c/2; branches keep half of 1 - rho0",
        _rem,
    ),
}
