"""A recipe of initialisation: the numbers one types, and the description they amount to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import require_theory

__all__ = ["MATRICES", "Recipe", "check", "fan_in", "fan_out", "spec_of"]

MATRICES = ("query", "key", "value", "output", "mlp_in", "mlp_out")


@validated
def check(spec: ModelSpec) -> None:
    """Refuse an architecture for which no standard deviation can be written down.

    Parameters
    ----------
    spec : ModelSpec
        The architecture.

    Raises
    ------
    AssumptionError
        If it has arrays or an infinite context.
    DomainError
        If it has no width.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.model.weights import check
    >>> check(ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: width = None is not admissible: expected an integer: a ...
    """
    require_theory(spec, "schemes")
    if spec.width is None:
        words = "an integer: a standard deviation depends on the fan-in"
        raise DomainError("width", None, words)


@validated
def fan_in(spec: ModelSpec) -> dict[str, int]:
    """Count the inputs of each matrix.

    Parameters
    ----------
    spec : ModelSpec
        The architecture, with a width.

    Returns
    -------
    dict of str to int
        By the names in `MATRICES`.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.model.weights import fan_in
    >>> fan_in(load("gpt2").spec)["mlp_out"]
    3072
    """
    assert spec.width is not None
    hidden = max(1, round(spec.width * spec.mlp_ratio))
    return {name: hidden if name == "mlp_out" else spec.width for name in MATRICES}


@validated
def fan_out(spec: ModelSpec) -> dict[str, int]:
    """Count the outputs of each matrix.

    Parameters
    ----------
    spec : ModelSpec
        The architecture, with a width.

    Returns
    -------
    dict of str to int
        By the names in `MATRICES`.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.model.weights import fan_out
    >>> fan_out(load("gpt2").spec)["mlp_in"]
    3072
    """
    assert spec.width is not None
    hidden = max(1, round(spec.width * spec.mlp_ratio))
    return {name: hidden if name == "mlp_in" else spec.width for name in MATRICES}


@dataclass(frozen=True)
class Recipe:
    """What an initialisation scheme says to type.

    Parameters
    ----------
    std : dict of str to float
        Standard deviation of the entries of each of `MATRICES`.
    uniform : bool
        Whether entries are uniform rather than Gaussian.
    bias : float
        Standard deviation of the biases of value and MLP.
    score : float
        Multiplier of the scores beside 1/sqrt(d_h).
    attn_branch, mlp_branch : float
        Multipliers of the branches.
    skip : float
        Multiplier of the skip branch.
    norm_gain : float
        Gain of the norms.
    identity, value_identity : float
        Multiple of the identity in each head's W_Q^T W_K, and in W_V W_O over all heads.
    norm : str, optional
        Placement of norms that the scheme asks for.
    q0 : float, optional
        Variance of the input stream that the scheme asks for.
    sub_norm : bool
        Norms before the output projections too (Sub-LN).

    Examples
    --------
    >>> from sigprop.model.weights import MATRICES, Recipe
    >>> Recipe(dict.fromkeys(MATRICES, 0.02)).skip
    1.0
    """

    std: dict[str, float]
    uniform: bool = False
    bias: float = 0.0
    score: float = 1.0
    attn_branch: float = 1.0
    mlp_branch: float = 1.0
    skip: float = 1.0
    norm_gain: float = 1.0
    identity: float = 0.0
    value_identity: float = 0.0
    norm: str | None = None
    q0: float | None = None
    sub_norm: bool = False

    @property
    def multipliers(self) -> dict[str, float]:
        """Multipliers that are not weights: scores, branches, skip, gain of the norms."""
        names = ("score", "attn_branch", "mlp_branch", "skip", "norm_gain")
        return {name: getattr(self, name) for name in names}


@validated
def spec_of(recipe: Recipe, architecture: ModelSpec) -> ModelSpec:
    r"""Make the description that a recipe amounts to.

    :math:`\sigma^2 = s^2 n` at fan-in n, :math:`\beta = c\, s_q s_k d / \sqrt{\log T}` with the
    multiplier c of the scores, and a branch multiplier c is :math:`\sigma_o^2 c^2`,
    :math:`\sigma_{w2}^2 c^2`.

    Parameters
    ----------
    recipe : Recipe
        The numbers typed. Its `sub_norm` is not part of a description (see
        `sigprop.analysis.schemes.outcome`).
    architecture : ModelSpec
        Everything but the scales; with a width.

    Returns
    -------
    ModelSpec
        The description. A bias is not scaled by the branch multiplier.

    Raises
    ------
    AssumptionError, DomainError
        As `check`.

    Notes
    -----
    theory.md section 1.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.model.weights import MATRICES, Recipe, spec_of
    >>> spec = spec_of(Recipe(dict.fromkeys(MATRICES, 0.02)), load("bert-base").spec)
    >>> round(spec.sigma_v2, 4), round(spec.beta, 4)
    (0.3072, 0.123)
    """
    check(architecture)
    std, n = recipe.std, fan_in(architecture)
    variance = {name: std[name] ** 2 * n[name] for name in MATRICES}
    heat = math.sqrt(variance["query"] * variance["key"] / math.log(float(architecture.context)))
    head, width = architecture.head_width or 1.0, architecture.width or 1
    share = recipe.score * width / math.sqrt(head) / math.log(float(architecture.context))
    norm = recipe.norm or architecture.norm
    parallel = architecture.parallel and norm == "pre"
    changes: dict[str, Any] = {
        "beta": recipe.score * heat,
        "sigma_v2": variance["value"],
        "sigma_o2": variance["output"] * recipe.attn_branch**2,
        "sigma_w2": None,
        "sigma_w1_2": variance["mlp_in"],
        "sigma_w2_2": variance["mlp_out"] * recipe.mlp_branch**2,
        "sigma_b2": recipe.bias**2,
        "alpha_attn": recipe.skip,
        "alpha_mlp": 1.0 if parallel else recipe.skip,
        "norm_gain": recipe.norm_gain,
        "identity": recipe.identity * share,
        "value_identity": recipe.attn_branch * recipe.value_identity,
        "norm": norm,
        "parallel": parallel,
        "q0": architecture.q0 if recipe.q0 is None else recipe.q0,
    }
    return architecture.replace(**changes)
