"""Named initialisation schemes: what each says to type, and what becomes of the signal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from sigprop.arrays import finite_or_none
from sigprop.backward import gradients
from sigprop.block import Fold, build_block
from sigprop.errors import DomainError
from sigprop.maps.norm import Norm
from sigprop.maps.residual import Residual
from sigprop.propagate import exchangeable, sweep
from sigprop.recipe import MATRICES, Recipe, check, fan_in, fan_out, spec_of
from sigprop.spec import Transformer
from sigprop.state import State
from sigprop.verdict import judge

__all__ = ["SCHEMES", "Outcome", "Scheme", "admin_skips", "find", "outcome", "recipe", "survey"]

FREE = math.sqrt(0.5)  # half of beta_c: three quarters of the entropy log T in the limit (E4, E5)
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
    >>> from sigprop.schemes import SCHEMES
    >>> SCHEMES["deepnorm"].source[:11]
    'Wang et al.'
    """

    source: str
    build: Callable[[Transformer], Recipe]
    remark: str = ""


@dataclass(frozen=True)
class Outcome:
    """What becomes of the signal under a scheme.

    Attributes
    ----------
    name, source : str
        Which scheme.
    recipe : Recipe
        What to type.
    spec : Transformer
        The description it amounts to.
    rho_final : float or None
        Overlap after the last block; None where the trajectory ends before.
    entropy_first, entropy_final : float or None
        H / log T in the first and the last block.
    alpha_critical : float or None
        Smallest alpha_attn that keeps rho_L below rho_max; None where there is none.
    lambda_g : float or None
        Gradient gain: growth of log |g|^2 per block, toward the input.
    verdict, reason : str
        As in `sigprop.verdict`.
    approximation : str
        What the description leaves out, and how large that is.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.schemes import outcome
    >>> outcome("rezero", load("bert-base").spec).lambda_g
    0.0
    """

    name: str
    source: str
    recipe: Recipe
    spec: Transformer
    rho_final: float | None
    entropy_first: float | None
    entropy_final: float | None
    alpha_critical: float | None
    lambda_g: float | None
    verdict: str
    reason: str
    approximation: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Returns
        -------
        dict
            The attributes; of the recipe `std` and `multipliers`.
        """
        out = {k: v for k, v in vars(self).items() if k not in ("recipe", "spec")}
        parts = {"std": self.recipe.std, "multipliers": self.recipe.multipliers}
        shape = {"distribution": "uniform" if self.recipe.uniform else "normal"}
        return out | parts | shape | {"spec": self.spec.to_dict()}


def _same(spec: Transformer, std: float) -> dict[str, float]:
    return dict.fromkeys(MATRICES, std)


def _fan(spec: Transformer, gain2: float) -> dict[str, float]:
    return {name: math.sqrt(gain2 / n) for name, n in fan_in(spec).items()}


def _glorot(spec: Transformer, gain: float = 1.0) -> dict[str, float]:
    """Glorot & Bengio's compromise of fan-in and fan-out; the gain leaves queries and keys alone."""
    ins, outs = fan_in(spec), fan_out(spec)
    std = {name: math.sqrt(2 / (ins[name] + outs[name])) for name in MATRICES}
    return std | {name: gain * std[name] for name in SUBLAYERS}


def _outputs(std: dict[str, float], factor: float) -> dict[str, float]:
    return std | {name: factor * std[name] for name in ("output", "mlp_out")}


def _branches(factor: float, std: dict[str, float], **more: Any) -> Recipe:
    return Recipe(std, attn_branch=factor, mlp_branch=factor, **more)


def _pytorch(spec: Transformer) -> Recipe:
    """Packed input projection by Glorot over (d, 3d); all else uniform within 1/sqrt(fan-in)."""
    n = fan_in(spec)
    packed = math.sqrt(2 / (4 * n["query"]))
    std = _fan(spec, 1 / 3) | dict.fromkeys(("query", "key", "value"), packed)
    return Recipe(std, uniform=True, bias=math.sqrt(1 / 3 / n["mlp_in"]))


def _neox(spec: Transformer) -> Recipe:
    d = fan_in(spec)["query"]
    wang = 2 / (spec.depth * math.sqrt(d))
    return Recipe(_same(spec, math.sqrt(2 / (5 * d))) | {"output": wang, "mlp_out": wang})


def _deepnorm(spec: Transformer) -> Recipe:
    gain = (8 * spec.depth) ** -0.25
    return Recipe(_glorot(spec, gain), skip=(2 * spec.depth) ** 0.25, norm="post")


def _deepnorm_encoder(spec: Transformer) -> Recipe:
    size = spec.depth ** (5 / 16)  # (N^4 M)^(1/16) for as many decoder as encoder blocks
    return Recipe(_glorot(spec, 0.87 / size), skip=0.81 * size, norm="post")


def _sub_ln(spec: Transformer) -> Recipe:
    gain = math.sqrt(math.log(2 * max(spec.depth, 1)))
    return Recipe(_glorot(spec, gain), norm="pre", sub_norm=True)


def _t_fixup(spec: Transformer) -> Recipe:
    gain = 0.67 * spec.depth**-0.25
    return Recipe(_glorot(spec, gain), norm="none", q0=(9 * spec.depth) ** -0.5)


def _layer_scale(spec: Transformer) -> Recipe:
    size = 0.1 if spec.depth <= 18 else 1e-5 if spec.depth <= 24 else 1e-6
    return _branches(size, _same(spec, 0.02), norm="pre")


def _mimetic(spec: Transformer) -> Recipe:
    """Random parts 0.7 Z of W_Q^T W_K and 0.4 Z of W_V W_O, entries of Z of variance 1/d."""
    assert spec.width is not None
    std = _fan(spec, 0.4) | {n: 0.02 for n in ("mlp_in", "mlp_out")}
    part = math.sqrt(0.7 / spec.width) * (spec.heads) ** 0.25
    return Recipe(std | {"query": part, "key": part})


def _mup(spec: Transformer) -> Recipe:
    return Recipe(_fan(spec, 1.0), score=(spec.head_width or 1.0) ** -0.5)


def _u_mup(spec: Transformer) -> Recipe:
    """Unit-variance branches, each kind adding as much in all as the embedding."""
    plain = Recipe(_fan(spec, 1.0), score=(spec.head_width or 1.0) ** -0.5, norm="pre", q0=1.0)
    attn, mlp = _branch_variance(spec_of(plain, spec))
    share = spec.depth**-0.5
    return replace(plain, attn_branch=share / math.sqrt(attn), mlp_branch=share / math.sqrt(mlp))


def _deepscale(spec: Transformer) -> Recipe:
    """Skip^2 = 1 - 2/N, branch^2 = 2/N over unit-variance branches."""
    n, blocks = fan_in(spec), max(spec.depth, 3)
    std = _fan(spec, 1.0) | dict.fromkeys(
        ("mlp_in", "mlp_out"), (2 / (n["mlp_in"] * n["mlp_out"])) ** 0.25
    )
    plain = Recipe(std, q0=1.0)
    attn, _ = _branch_variance(spec_of(plain, spec))
    std |= {name: std[name] * attn**-0.25 for name in ("value", "output")}
    share = 2 / blocks
    return _branches(math.sqrt(share), std, skip=math.sqrt(1 - share), q0=1.0)


def _branch_variance(spec: Transformer) -> tuple[float, float]:
    """Variance that each branch gives for a normed first state."""
    block = build_block(spec)
    state = State(1.0, 1 - float(spec.rho0))
    attn, mlp = Fold(block.attention_maps)(state), Fold(block.mlp_maps)(state)
    return float(attn.q), float(mlp.q)


def _rem(spec: Transformer) -> Recipe:
    """Half of beta_c, and the strongest branches that keep half of the input's overlap deficit."""
    std = _fan(spec, 1.0)
    heat = math.sqrt(FREE * math.sqrt(math.log(float(spec.context))))
    plain = Recipe(std | {name: heat * std[name] for name in ("query", "key")}, q0=1.0)
    size = np.geomspace(1e-3, 1.0, STRENGTHS)
    base = spec_of(plain, spec)
    many = base.replace(
        sigma_o2=base.sigma_o2 * size**2, sigma_w2_2=np.asarray(base.sigma_w2_2) * size**2
    )
    final = sweep(many).state
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
        "The norms before the output projections become branch multipliers, one for all blocks.",
    ),
    "t-fixup": Scheme(
        "Huang et al. 2020: no norms, v, o and MLP 0.67 N^(-1/4), embeddings (9N)^(-1/4)", _t_fixup
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
        "Trockman & Kolter 2023, arXiv 2305.09828: W_Q^T W_K = 0.7 Z + 0.7 I, W_V W_O = 0.4 Z - 0.4 I",
        _mimetic,
        "The description holds the random parts; the identities favour a token's own key.",
    ),
    "mup": Scheme("Yang et al. 2022, arXiv 2203.03466: variance 1/n_in, scores over d_h", _mup),
    "u-mup": Scheme(
        "Blake et al. 2024, arXiv 2407.17465: unit branches, tau = 1, scores over d_h",
        _u_mup,
        "Branches have unit variance in the first block; the paper's empirical constants differ.",
    ),
    "deepscalelm": Scheme(
        "Kedia et al. 2024, arXiv 2403.09635: skip^2 = 1 - 2/N, branch^2 = 2/N, unit branches",
        _deepscale,
        "Value and output take the first block's token correlation; the paper's are per block.",
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


def find(name: str) -> Scheme:
    """Scheme of a name.

    Parameters
    ----------
    name : str
        One of `SCHEMES`.

    Returns
    -------
    Scheme
        The scheme.

    Raises
    ------
    DomainError
        If there is none; it suggests the nearest.

    Examples
    --------
    >>> from sigprop.schemes import find
    >>> find("xavier-norm")
    Traceback (most recent call last):
        ...
    sigprop.errors.DomainError: scheme = 'xavier-norm' is not admissible: expected one of ...
    """
    if name not in SCHEMES:
        near = get_close_matches(str(name), SCHEMES, 1)
        hint = f"{near[0]} (the nearest name); " if near else ""
        raise DomainError("scheme", name, f"{hint}one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def recipe(name: str, architecture: Transformer) -> Recipe:
    """Recipe of a scheme for an architecture.

    Parameters
    ----------
    name : str
        One of `SCHEMES`.
    architecture : Transformer
        Everything but the scales; with a width.

    Returns
    -------
    Recipe
        What to type.

    Raises
    ------
    DomainError, AssumptionError
        As `find` and `sigprop.recipe.check`.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.schemes import recipe
    >>> round(recipe("deepnorm", load("bert-base").spec).skip, 4)
    2.2134
    """
    scheme = find(name)
    check(architecture)
    return scheme.build(architecture)


def described(name: str, architecture: Transformer) -> tuple[Recipe, Transformer, str]:
    """Recipe, description and approximation of a scheme.

    Parameters
    ----------
    name, architecture
        As in `recipe`.

    Returns
    -------
    recipe : Recipe
        What to type.
    spec : Transformer
        The description.
    approximation : str
        What it leaves out and how large that is; empty if nothing.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.schemes import described
    >>> described("lecun", load("bert-base").spec)[2]
    ''
    """
    found = recipe(name, architecture)
    spec = spec_of(found, architecture)
    remark = find(name).remark
    if found.sub_norm:
        spec, size = _sub_normed(spec)
        remark += f" rho_L is {size:.2g} from the stack with these norms."
    elif name == "identity-like":
        remark += f" Their weight on it is {_own_weight(spec):.2g}; the theory has 1/T."
    elif name in ("pytorch", "pytorch-linear"):
        remark += f" They are {found.bias**2:.2g} or less."
    elif name in ("u-mup", "deepscalelm"):
        remark += f" In the last block attention's branch is {_drift(spec):.2g} of its share."
    return found, spec, remark


def _drift(spec: Transformer) -> float:
    """Variance of attention's branch in the last block over that in the first."""
    block, t = build_block(spec), exchangeable(spec)
    first, last = (
        Fold(block.attention_maps)(State(t.q[i], t.gap[i])).q / t.q[i] ** (spec.norm == "none")
        for i in (0, -2)
    )
    return float(last / first)


def _own_weight(spec: Transformer) -> float:
    """Softmax weight of a bias 0.7 sqrt(d_h) on the own key, by annealed averages."""
    log_t = math.log(float(spec.context))
    bias = 0.7 * math.sqrt(spec.head_width or 1.0)
    rest = log_t + float(spec.beta) ** 2 * log_t * (1 - float(spec.rho0)) / 2
    return 1 / (1 + math.exp(rest - bias))


def _sub_normed(spec: Transformer) -> tuple[Transformer, float]:
    """Replace norms inside the branches by multipliers; the error of rho_L that this makes."""
    gains = math.sqrt(float(spec.sigma_o2)), math.sqrt(float(spec.sigma_w2_2))
    block = build_block(spec.replace(sigma_o2=1.0, sigma_w2_2=1.0))
    attend, think = Fold(block.attention_maps), Fold(block.mlp_maps)
    first = Residual(1.0, (Fold((attend, Norm(gains[0]))),))
    second = Residual(1.0, (Fold((think, Norm(gains[1]))),))
    state, size = State(spec.q0, spec.q0 * (1 - spec.rho0)), np.empty((spec.depth, 2))
    for layer in range(spec.depth):
        between = first(state)
        size[layer] = attend(state).q, think(between).q
        state = second(between)
    outer, inner = np.mean(1 / size, axis=0)
    out = spec.replace(sigma_o2=spec.sigma_o2 * outer, sigma_w2_2=spec.sigma_w2_2 * inner)
    return out, abs(float(state.rho) - float(exchangeable(out).rho[-1]))


def admin_skips(spec: Transformer) -> list[float]:
    r"""Skip multipliers :math:`\omega_i` of Admin's post-norm stack, from predicted variances.

    Parameters
    ----------
    spec : Transformer
        The pre-norm description of the scheme "admin".

    Returns
    -------
    list of float
        One for each of the 2 L sublayers; the first is one.

    Notes
    -----
    Liu et al. 2020, arXiv 2004.08249: :math:`\omega_i^2` is the summed variance of the sublayers
    before i, the input counted as one. That is the q of the pre-norm stream.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.schemes import admin_skips, described
    >>> skips = admin_skips(described("admin", load("bert-base").spec)[1])
    >>> len(skips), skips[0]
    (24, 1.0)
    """
    block = build_block(spec)
    state, out = State(spec.q0, spec.q0 * (1 - spec.rho0)), []
    for _ in range(spec.depth):
        for part in block.maps:
            out.append(math.sqrt(float(state.q)))
            state = part(state)
    return out


def outcome(name: str, architecture: Transformer, rho_max: float = 0.98) -> Outcome:
    """What becomes of the signal in an architecture under a scheme.

    Parameters
    ----------
    name, architecture
        As in `recipe`.
    rho_max : float
        Overlap above which the stack is called rank collapsed, in (0, 1).

    Returns
    -------
    Outcome
        Numbers, verdict and reason. Causal stacks are described by their last tokens.

    Raises
    ------
    DomainError, AssumptionError
        As `recipe`.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.schemes import outcome
    >>> outcome("he", load("bert-base").spec).verdict
    'trainable'
    """
    found, spec, remark = described(name, architecture)
    verdict = judge(spec, rho_max)
    t = verdict.trajectory
    whole = int(t.ended) == spec.depth
    return Outcome(
        name,
        find(name).source,
        found,
        spec,
        _float(t.rho[-1]) if whole else None,
        _float(t.entropy_ratio[0]),
        _float(t.entropy_ratio[-1]) if whole else None,
        _float(verdict.critical.alpha_attn),
        _float(gradients(spec, t).exponent),
        verdict.verdict if whole else "undefined",
        " ".join(verdict.reasons) if whole else t.reason,
        remark,
    )


def _float(value: Any) -> float | None:
    out = finite_or_none(np.asarray(value))
    return None if out is None else float(out)


def survey(
    architecture: Transformer,
    names: Sequence[str] = (),
    rho_max: float = 0.98,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Every scheme in one architecture.

    Parameters
    ----------
    architecture : Transformer
        Everything but the scales; with a width.
    names : sequence of str
        Schemes; all if empty.
    rho_max : float
        As in `outcome`.
    progress : callable, optional
        Called with one after each scheme.

    Returns
    -------
    list of Outcome
        In the order asked for.

    Raises
    ------
    DomainError, AssumptionError
        As `recipe`, before anything is computed.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.schemes import survey
    >>> [one.name for one in survey(load("bert-base").spec, ["he", "rem"])]
    ['he', 'rem']
    """
    check(architecture)
    for name in names:
        find(name)
    out = []
    for name in names or SCHEMES:
        out.append(outcome(name, architecture, rho_max))
        if progress is not None:
            progress(1)
    return out
