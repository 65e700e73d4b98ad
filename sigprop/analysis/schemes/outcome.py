"""Named initialisation schemes: what each says to type, and what becomes of the signal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from sigprop.analysis.schemes.registry import SCHEMES, Scheme, normed
from sigprop.analysis.schemes.together import Solved, solved
from sigprop.analysis.verdict import UNIFORM, Verdict, judged
from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, finite_or_none
from sigprop.core.errors import DomainError
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.model.weights import Recipe, check, spec_of
from sigprop.propagation.capabilities import TheoryError
from sigprop.propagation.positional import gradients
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate
from sigprop.propagation.stack import build_block, iterate

__all__ = [
    "Outcome",
    "admin_skips",
    "described",
    "find",
    "outcome",
    "overlaps",
    "recipe",
    "survey",
]


@dataclass(frozen=True)
class Outcome:
    """What becomes of the signal under a scheme.

    Attributes
    ----------
    name, source : str
        Which scheme.
    recipe : Recipe
        What to type.
    spec : ModelSpec
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
        The verdict of `sigprop.analysis.verdict`, and why; "not covered" where no theory covers the
        description.
    approximation : str
        What the description leaves out, and how large that is.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.outcome import outcome
    >>> outcome("rezero", load("bert-base").spec).lambda_g
    0.0
    """

    name: str
    source: str
    recipe: Recipe
    spec: ModelSpec
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


@validated
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
    >>> from sigprop.analysis.schemes.outcome import find
    >>> find("xavier-norm")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: scheme = 'xavier-norm' is not admissible: expected one of ...
    """
    if name not in SCHEMES:
        near = get_close_matches(str(name), SCHEMES, 1)
        hint = f"{near[0]} (the nearest name); " if near else ""
        raise DomainError("scheme", name, f"{hint}one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


@validated
def recipe(name: str, architecture: ModelSpec) -> Recipe:
    """Recipe of a scheme for an architecture.

    Parameters
    ----------
    name : str
        One of `SCHEMES`.
    architecture : ModelSpec
        Everything but the scales; with a width.

    Returns
    -------
    Recipe
        What to type.

    Raises
    ------
    DomainError, AssumptionError
        As `find` and `sigprop.model.weights.check`.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.outcome import recipe
    >>> round(recipe("deepnorm", load("bert-base").spec).skip, 4)
    2.2134
    """
    scheme = find(name)
    check(architecture)
    return scheme.build(architecture)


@validated
def described(name: str, architecture: ModelSpec) -> tuple[Recipe, ModelSpec, str]:
    """Recipe, description and approximation of a scheme.

    Parameters
    ----------
    name, architecture
        As in `recipe`.

    Returns
    -------
    recipe : Recipe
        What to type.
    spec : ModelSpec
        The description.
    approximation : str
        What it leaves out and how large that is; empty if nothing.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.outcome import described
    >>> described("lecun", load("bert-base").spec)[2]
    ''
    """
    found = recipe(name, architecture)
    spec, remark = spec_of(found, architecture), find(name).remark
    if found.sub_norm:
        inner = normed(spec)
        spec = spec.replace(
            sigma_o2=spec.sigma_o2 * inner.attention, sigma_w2_2=spec.sigma_w2_2 * inner.mlp
        )
        remark += _distance(spec, inner.rho[-1])
    elif name == "deepscalelm":
        unit = replace(found, std=found.std | {n: found.std["query"] for n in ("value", "output")})
        remark += _distance(spec, normed(spec_of(unit, architecture), mlp=False).rho[-1])
    elif found.bias:
        remark += f" They are {found.bias**2:.2g} or less."
    return found, spec, remark


@validated
def overlaps(name: str, architecture: ModelSpec) -> Floats:
    """Overlap after every block; norms inside branches are followed block by block.

    Parameters
    ----------
    name, architecture
        As in `recipe`.

    Returns
    -------
    array, shape (L+1,)
        Of the description otherwise.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.outcome import overlaps
    >>> overlaps("sub-ln", load("bert-base").spec).shape
    (13,)
    """
    found, spec, _ = described(name, architecture)
    late = normed(spec_of(found, architecture)) if found.sub_norm else _late(spec)
    return late.rho


def _late(spec: ModelSpec) -> Trajectory:
    return propagate(spec, geometry="exchangeable")


def _distance(spec: ModelSpec, rho: float) -> str:
    off = abs(float(_late(spec).rho[-1]) - rho)
    return f" This moves rho_L by {off:.2g}."


@validated
def admin_skips(spec: ModelSpec) -> list[float]:
    r"""Skip multipliers :math:`\omega_i` of Admin's post-norm stack, from predicted variances.

    Parameters
    ----------
    spec : ModelSpec
        The pre-norm description of the scheme "admin".

    Returns
    -------
    list of float
        One for each of the 2 L sublayers; the first is one. Of late tokens, without mask and
        rotation.

    Notes
    -----
    Liu et al. 2020, arXiv 2004.08249: :math:`\omega_i^2` is the summed variance of the sublayers
    before i, the input counted as one. That is the q of the pre-norm stream.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.outcome import admin_skips, described
    >>> skips = admin_skips(described("admin", load("bert-base").spec)[1])
    >>> len(skips), skips[0]
    (24, 1.0)
    """
    block = build_block(spec)
    start = State(spec.q0, spec.q0 * (1 - spec.rho0))
    sublayers = [block.part(layer) for layer in block.layers] * spec.depth
    states = [start, *iterate(start, sublayers, lambda state, layer: layer(state))]
    return [math.sqrt(float(state.q)) for state in states[:-1]]


@validated
def outcome(name: str, architecture: ModelSpec, rho_max: float = 0.98) -> Outcome:
    """Find what becomes of the signal in an architecture under a scheme.

    Parameters
    ----------
    name, architecture
        As in `recipe`.
    rho_max : float
        Overlap above which the stack is called rank collapsed, in (0, 1).

    Returns
    -------
    Outcome
        Numbers, verdict and reason.

    Raises
    ------
    DomainError, AssumptionError
        As `recipe`.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.outcome import outcome
    >>> outcome("he", load("bert-base").spec).verdict
    'rank collapse'
    """
    return _outcome(name, architecture, described(name, architecture), rho_max, Solved())


Described = tuple[Recipe, ModelSpec, str]


def _outcome(
    name: str,
    architecture: ModelSpec,
    description: Described,
    rho_max: float,
    known: Solved,
) -> Outcome:
    """Find an outcome, with what may be known."""
    found, spec, remark = description
    plain = spec.without_identity()
    verdict = judged(
        spec,
        rho_max,
        strength=known.strength(plain),
        trajectory=known.trajectory(spec),
    )
    t, exponent = verdict.trajectory, known.exponent(plain)
    if exponent is None:
        exponent = _float(gradients(plain, None if spec.has_identity else t).exponent)
    whole = int(t.ended) == spec.depth
    rho = overlaps(name, architecture) if found.sub_norm else t.rho
    return Outcome(
        name,
        find(name).source,
        found,
        spec,
        _float(rho[-1]) if whole else None,
        _float(t.entropy_ratio[0]),
        _float(t.entropy_ratio[-1]) if whole else None,
        _float(verdict.critical.alpha_attn),
        exponent,
        verdict.verdict if whole else "undefined",
        _reason(verdict) if whole else t.reason,
        remark,
    )


def _refused(name: str, description: Described, error: TheoryError) -> Outcome:
    """Outcome of a scheme whose description no theory covers: what to type, without numbers."""
    found, spec, remark = description
    none = (None,) * 5
    words = "not covered", f"no theory of {error.structure}"
    return Outcome(name, find(name).source, found, spec, *none, *words, remark)


def _reason(found: Verdict) -> str:
    """Why, in a few words."""
    ratio, words = found.trajectory.entropy_ratio, []
    if "rank" in found.verdict:
        words.append(f"merged in block {found.collapse_layer}")
    if "entropy" in found.verdict:
        words.append(f"frozen in block {int(ratio.argmin()) + 1}")
    if float(ratio.min()) > UNIFORM:
        words.append("queries and keys idle")
    return ", ".join(words) or "tokens stay apart"


def _float(value: Any) -> float | None:
    out = finite_or_none(np.asarray(value))
    return None if out is None else float(out)


@validated
def survey(
    architecture: ModelSpec,
    names: Sequence[str] = (),
    rho_max: float = 0.98,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Every scheme in one architecture.

    Parameters
    ----------
    architecture : ModelSpec
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
        In the order asked for; of a scheme whose description no theory covers the verdict is
        "not covered", and the reason says why.

    Raises
    ------
    DomainError, AssumptionError
        As `recipe`, before anything is computed.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.outcome import survey
    >>> [one.name for one in survey(load("bert-base").spec, ["he", "rem"])]
    ['he', 'rem']
    """
    check(architecture)
    for name in names:
        find(name)
    wanted = tuple(names) or tuple(SCHEMES)
    known = {name: described(name, architecture) for name in wanted}
    together = solved((spec for _, spec, _ in known.values()), rho_max)
    out = []
    for name in wanted:
        one = known[name]
        try:
            out.append(_outcome(name, architecture, one, rho_max, together))
        except TheoryError as error:
            out.append(_refused(name, one, error))
        if progress is not None:
            progress(1)
    return out
