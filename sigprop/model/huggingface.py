r"""A Hugging Face `config.json` read as a description of the model at initialisation.

A weight of standard deviation s at fan-in n is sigma2 = s^2 n (theory.md section 1), so with the
width d, the concatenated heads H d_h and the hidden width d_ff of the MLP

    sigma_v2 = sigma_w1_2 = s^2 d,   sigma_o2 = s^2 H d_h,   sigma_w2_2 = s^2 d_ff,
    beta = s^2 d / sqrt(log T),

whatever d_h is, because scores are divided by sqrt(d_h). What differs between families is one row
of the table `sigprop.model.huggingface_families.FAMILIES`; `from_config` is the only conversion.
Every default used is stated in the notes of the `Reading`. Biases start at zero and norms at gain
one in every family.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.checks import choice, read_json
from sigprop.core.errors import DomainError
from sigprop.model.huggingface_families import ACTIVATIONS, family_of
from sigprop.model.huggingface_keys import Config, architecture, rotary, sides
from sigprop.model.spec import ModelSpec

__all__ = ["Reading", "example", "examples", "from_config", "is_config", "load"]

TOLERATED_EPSILON = 1e-2  # epsilon of the first norm over the variance it meets


@dataclass(frozen=True)
class Reading:
    """What a config says, and what it leaves open.

    Parameters
    ----------
    spec : ModelSpec
        The model at initialisation, with the overrides of the key "sigprop" applied.
    family : str
        Name of the model family, as in the key "model_type".
    facts : dict of str to str
        Each key and value that was read, and what follows from it, in order.
    notes : tuple of str
        What the config leaves open or the theory approximates, one sentence each.

    Examples
    --------
    >>> from sigprop.model.huggingface import example
    >>> example("bert-base").facts["hidden_size 768"]
    'width d = 768'
    """

    spec: ModelSpec
    family: str
    facts: dict[str, str]
    notes: tuple[str, ...]


@validated
def is_config(values: Mapping[str, Any]) -> bool:
    """Whether a JSON object looks like a Hugging Face config rather than a description.

    Parameters
    ----------
    values : mapping
        The JSON object.

    Returns
    -------
    bool
        True if it has "model_type" or "architectures".

    Examples
    --------
    >>> from sigprop.model.huggingface import is_config
    >>> is_config({"model_type": "bert"}), is_config({"depth": 12})
    (True, False)
    """
    return "model_type" in values or "architectures" in values


@validated
def from_config(config: Mapping[str, Any]) -> Reading:
    """Model at initialisation that a Hugging Face config describes.

    Parameters
    ----------
    config : mapping
        The content of a config.json. A key "sigprop" may hold parameters of `ModelSpec` that
        replace what was read; a new context keeps the weights, so beta follows unless given.

    Returns
    -------
    Reading
        The description, what was read and what is left open.

    Raises
    ------
    DomainError
        If the family is unknown or a value inadmissible; the parameter is the config's key.
    AssumptionError
        If the overrides lead outside the theory.

    Notes
    -----
    theory.md section 1: sigma2 = s^2 n and beta = sqrt(sigma_q2 sigma_k2 / log T).

    Examples
    --------
    >>> from sigprop.model.huggingface import from_config
    >>> reading = from_config({"model_type": "gpt2", "sigprop": {"alpha_attn": 2.0}})
    >>> reading.spec.depth, round(reading.spec.sigma_v2, 4), reading.spec.alpha_attn
    (12, 0.3072, 2.0)
    >>> from_config({"model_type": "gpt2", "n_layer": 0})
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: n_layer = 0 is not admissible: expected an integer in [1, ...
    """
    read = Config(config, family_of(config))
    spec = _override(_spec(read), read)
    _closing_notes(spec, read)
    return Reading(spec, read.family.name, read.facts, tuple(read.notes))


def examples() -> tuple[str, ...]:
    """Names of the configs that come with the package.

    Returns
    -------
    tuple of str
        The names, sorted.

    Examples
    --------
    >>> from sigprop.model.huggingface import examples
    >>> examples()
    ('bert-base', 'gpt2', 'llama-2-7b', 'opt-125m', 'vit-base')
    """
    names = (path.name for path in files("sigprop.model").joinpath("examples").iterdir())
    return tuple(sorted(name[:-5] for name in names if name.endswith(".json")))


@validated
def example(name: str) -> Reading:
    """Read one of the configs that come with the package.

    Parameters
    ----------
    name : str
        One of `examples()`.

    Returns
    -------
    Reading
        As from `from_config`.

    Raises
    ------
    DomainError
        If there is no such config.

    Examples
    --------
    >>> from sigprop.model.huggingface import example
    >>> spec = example("llama-2-7b").spec
    >>> spec.depth, spec.width, spec.gated, spec.rotary_base
    (32, 4096, True, 10000.0)
    """
    choice("example", name, examples())
    text = files("sigprop.model").joinpath("examples", f"{name}.json").read_text(encoding="utf-8")
    return from_config(json.loads(text))


def _spec(config: Config) -> ModelSpec:
    """Convert a config of any family; the only place where weights become variances."""
    family = config.family
    parts, joint, hidden = architecture(config)
    d = parts["width"]
    s = config.number(family.std, 1e-8, 1.0)
    branch = 1 / (2 * parts["depth"]) if family.scaled else 1.0
    scales: dict[str, Any] = {
        "beta": s**2 * d / math.sqrt(math.log(parts["context"])),
        "sigma_v2": s**2 * d,
        "sigma_o2": s**2 * joint * branch,
        "sigma_w1_2": s**2 * d,
        "sigma_w2_2": s**2 * hidden * branch,
    }
    _std_fact(config, s, scales)
    parts |= _activation(config) | rotary(config) | _input(config, s, d)
    try:
        return ModelSpec(**scales, **parts)
    except DomainError as error:
        words = f"a value that leaves {error.parameter} {error.admissible}"
        raise DomainError(family.std, s, words) from None


def _std_fact(config: Config, s: float, scales: Mapping[str, float]) -> None:
    meaning = ", ".join(f"{name} = {value:.6g}" for name, value in scales.items())
    if config.family.scaled:
        meaning += "; sigma_o2 and sigma_w2_2 are divided by 2 L"
    config.fact(config.family.std, s, meaning)
    if "patch" in config.family.embeddings and s > 0.5:
        config.notes.append(
            f"Weights are cut at +-2, {2 / s:.2g} standard deviations; the theory does not cut."
        )


def _activation(config: Config) -> dict[str, str]:
    key = config.family.activation
    name = config.get(key)
    choice(key, name, tuple(ACTIVATIONS))
    activation, approximate = ACTIVATIONS[str(name)]
    config.fact(key, name, f"activation {activation}")
    if approximate:
        config.notes.append(
            f"{key} {name} is the tanh approximation of GELU; the theory takes the exact GELU, "
            "which differs by at most 5e-4."
        )
    return {"activation": activation}


def _input(config: Config, s: float, d: int) -> dict[str, float]:
    """Mean square entry and overlap of two different tokens before the first block."""
    family = config.family
    parts = dict.fromkeys(family.embeddings, s**2)
    if "patch" in parts:
        height, width = sides(config, "patch_size")
        channels = config.count("num_channels")
        parts["patch"] *= channels * height * width
        size = f"{channels} x {height} x {width}"
        config.fact("patch_size", config.get("patch_size"), f"patches of fan-in {size}")
    if "type" in parts:
        config.count("type_vocab_size")
    total, shared = sum(parts.values()), parts.get("type", 0.0)
    _epsilon(config, total)
    if family.projected is not None:
        total = _projected(config, parts, s, d)
    q0 = 1.0 if family.embedding_norm else total
    summed = " + ".join(parts) + (", then a norm" if family.embedding_norm else "")
    config.facts[f"embeddings {summed}"] = f"q0 = {q0:.6g}, rho0 = {shared / total:.6g}"
    return {"q0": q0, "rho0": shared / total}


def _projected(config: Config, parts: dict[str, float], s: float, d: int) -> float:
    """Sum of the embeddings where words are embedded in another width and projected."""
    key = str(config.family.projected)
    absent = config.given(key) is None and key not in config.family.defaults
    width = d if absent else config.count(key)
    if width == d:
        return sum(parts.values())
    if config.family.embedding_norm:  # ELECTRA: sum, norm, then projection
        config.notes.append(
            f"Embeddings of width {width} are normed, then projected to {d} without a norm: the "
            f"first attention sees q = {s**2 * width:.4g}, which the theory takes as 1."
        )
        return sum(parts.values())
    parts["word"] *= s**2 * width
    config.notes.append(
        f"Words are embedded in width {width} and projected to {d}, which multiplies their share "
        f"of q0 by {s**2 * width:.4g}."
    )
    return sum(parts.values())


def _epsilon(config: Config, variance: float) -> None:
    epsilon = config.family.epsilon
    if isinstance(epsilon, str):
        epsilon = config.number(epsilon, 0.0, 1.0)
    ratio = epsilon / variance
    if ratio > TOLERATED_EPSILON:
        config.notes.append(
            f"The epsilon {epsilon:g} of the first norm is {ratio:.2g} of the variance "
            f"{variance:.3g} that it meets; the theory neglects it."
        )


def _override(spec: ModelSpec, config: Config) -> ModelSpec:
    """Apply the parameters under the key "sigprop"; a new context keeps the weights."""
    changes = config.mapping("sigprop")
    for name, value in changes.items():
        if not isinstance(name, str) or name == "self":
            raise DomainError("sigprop", name, "known parameter names")
        if value is None and name not in ("width", "rotary_base"):
            raise DomainError(name, value, "a value: an override cannot be null")
    new = spec.replace(**changes)
    for name, value in changes.items():
        config.facts[f"sigprop.{name}"] = f"{name} = {str(value)[:40]}, replacing what was read"
    if "context" not in changes or "beta" in changes:
        return new
    config.notes.append("beta was recomputed for the given context, at the same weights.")
    ratio = np.log(np.asarray(spec.context)) / np.log(np.asarray(new.context))
    return spec.replace(**changes, beta=np.asarray(spec.beta) * np.sqrt(ratio))


def _closing_notes(spec: ModelSpec, config: Config) -> None:
    family, notes = config.family, config.notes
    if spec.norm == "post" and not family.embedding_norm:
        notes.append(
            "The first attention sees the embeddings without a norm; the theory puts one there."
        )
    if spec.causal:
        notes.append(
            "Attention is causal: overlap, entropy and critical strength are means over positions; "
            "exponents and gradient boundaries are those of the last tokens."
        )
    _window_note(spec, config)
    if config.defaulted:
        used = ", ".join(f"{key} {json.dumps(v)}" for key, v in config.defaulted.items())
        notes.append(f"Missing keys took the defaults of the transformers class: {used}.")


def _window_note(spec: ModelSpec, config: Config) -> None:
    key, flag = config.family.window, config.family.window_flag
    if key is None or (flag is not None and not config.flag(flag)):
        return
    if key in config.values and config.values[key] is None:
        return
    window = config.count(key, 10**12)
    if np.any(np.asarray(spec.context) > window):
        config.notes.append(
            f"A sliding window of {window} tokens limits attention; the theory takes the whole "
            f"context: override context by {window} for the layers that use it."
        )


@validated
def load(path: str | Path) -> Reading:
    """Read a description of a model: a SPEC.json or a Hugging Face config.json.

    Parameters
    ----------
    path : str or Path
        The file, or the name of a shipped example such as "bert-base".

    Returns
    -------
    Reading
        The spec, and for a config what was read and what it leaves open.

    Raises
    ------
    DomainError
        If the file or a value in it is not admissible.

    Examples
    --------
    >>> from sigprop import load
    >>> load("gpt2").spec.depth
    12
    """
    if str(path) in examples() and not Path(path).exists():
        return example(str(path))
    values = read_json(path)
    if is_config(values):
        return from_config(values)
    return Reading(spec=ModelSpec.from_dict(values), family="sigprop", facts={}, notes=())
