"""The keys of a Hugging Face config, read with what follows from each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sigprop.core.checks import count, flag, scalar
from sigprop.core.errors import DomainError, require
from sigprop.model.huggingface_families import Family

__all__ = ["Config", "architecture", "rotary", "sides"]

MAX_COUNT = 10**6


class Config:
    """Values of a config under its family; remembers the facts, notes and defaults used.

    Parameters
    ----------
    values : mapping
        The content of a config.json.
    family : Family
        Row of the table that says which keys mean what.

    Attributes
    ----------
    facts : dict of str to str
        Key and value, and what follows, in the order read.
    notes : list of str
        Sentences on what is left open.
    defaulted : dict
        Keys that took the default of the family, with that default.

    Examples
    --------
    >>> from sigprop.model.huggingface_keys import Config
    >>> from sigprop.model.huggingface_families import FAMILIES
    >>> config = Config({"hidden_size": 1024}, FAMILIES["gpt2"])
    >>> config.count("n_embd"), config.count("n_layer"), config.defaulted
    (1024, 12, {'n_layer': 12})
    """

    def __init__(self, values: Mapping[str, Any], family: Family) -> None:
        self.values, self.family = values, family
        self.facts: dict[str, str] = {}
        self.notes: list[str] = list(family.notes)
        self.defaulted: dict[str, Any] = {}

    def given(self, key: str) -> object:
        """Value of a key under either of its names, or None."""
        value, alias = self.values.get(key), self.family.aliases.get(key)
        other = None if alias is None else self.values.get(alias)
        if value is not None and other is not None and value != other:
            raise DomainError(key, value, f"the value of {alias}, {other!r}")
        return other if value is None else value

    def get(self, key: str) -> object:
        """Value of a key, or the default of the family; a null is a missing value."""
        value = self.given(key)
        if value is None:
            value = self.defaulted[key] = self.family.defaults[key]
        return value

    def count(self, key: str, high: int = MAX_COUNT, low: int = 1) -> int:
        """Read an integer in [low, high] under a key."""
        return count(key, self.get(key), low, high)

    def number(self, key: str, low: float, high: float) -> float:
        """Read a float in [low, high] under a key."""
        return scalar(key, self.get(key), low, high)

    def flag(self, key: str) -> bool:
        """Read a JSON boolean under a key."""
        value = self.get(key)
        flag(key, value)
        return bool(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Read an object under a key; empty if missing or null."""
        value = self.values.get(key)
        if not isinstance(value, Mapping | None):
            raise DomainError(key, value, "an object with named values")
        return {} if value is None else value

    def fact(self, key: str, value: object, meaning: str) -> None:
        """Record what follows from the value of a key."""
        word = f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str)
        word = word.strip('"')
        self.facts[f"{key} {word}" + " (default)" * (key in self.defaulted)] = meaning


def architecture(config: Config) -> tuple[dict[str, Any], int, int]:
    """Everything but scales, activation and positions.

    Parameters
    ----------
    config : Config
        The config; facts and notes are added to it.

    Returns
    -------
    parts : dict
        Parameters of `ModelSpec`: norm, causal, parallel, gated, depth, width, heads, context
        and mlp_ratio.
    joint, hidden : int
        Fan-in of the output projections: joint width of the heads, hidden width of the MLP.

    Raises
    ------
    DomainError
        If a value is inadmissible; the parameter is the config's key.

    Examples
    --------
    >>> from sigprop.model.huggingface_keys import Config, architecture
    >>> from sigprop.model.huggingface_families import FAMILIES
    >>> parts, joint, hidden = architecture(Config({}, FAMILIES["bert"]))
    >>> parts["depth"], parts["norm"], joint, hidden
    (12, 'post', 768, 3072)
    """
    _check_fixed(config)
    parts = _layout(config)
    key = config.family.depth
    depth = config.count(key, 100_000)
    config.fact(key, depth, f"depth L = {depth}")
    d, heads, joint, hidden = _widths(config)
    parts |= {"depth": depth, "width": d, "heads": heads, "context": _context(config)}
    groups = _grouped(config, heads)
    parts |= {} if groups == heads else {"kv_heads": groups}
    return parts | {"mlp_ratio": hidden / d}, joint, hidden


def _check_fixed(config: Config) -> None:
    for key, wanted in config.family.fixed.items():
        value = config.values.get(key)
        if value is not None and value != wanted:
            raise DomainError(key, value, f"{json.dumps(wanted)}; the theory has no other")


def _layout(config: Config) -> dict[str, Any]:
    family = config.family
    norm, causal, parallel = family.norm, family.causal, False
    if family.pre_flag is not None:
        before = config.flag(family.pre_flag)
        norm = "pre" if before else "post"
        config.fact(family.pre_flag, before, f"{norm}-norm")
    if isinstance(causal, str):
        key, causal = causal, config.flag(causal)
        config.fact(key, causal, "causal attention" if causal else "every token sees all tokens")
    if family.parallel is not None:
        parallel = config.flag(family.parallel)
        word = "in parallel" if parallel else "one after the other"
        config.fact(family.parallel, parallel, f"attention and MLP {word}")
    words = [f"{norm}-norm", "causal" if causal else "bidirectional"]
    words += ["gated MLP"] * family.gated
    config.facts = {f"model_type {family.name}": ", ".join(words)} | config.facts
    return {"norm": norm, "causal": causal, "parallel": parallel, "gated": family.gated}


def _widths(config: Config) -> tuple[int, int, int, int]:
    """Width, heads, joint width of the heads and hidden width of the MLP."""
    family = config.family
    d, heads = config.count(family.width), config.count(family.heads, 100_000)
    require(heads <= d, family.heads, heads, f"at most {family.width}, {d}")
    joint = _joint_width(config, d, heads)
    if family.hidden in family.defaults or config.given(family.hidden) is not None:
        hidden = config.count(family.hidden)
    else:
        hidden = config.defaulted[family.hidden] = 4 * d
    config.fact(family.width, d, f"width d = {d}")
    config.fact(family.heads, heads, f"{heads} heads of width {joint // heads}")
    meaning = f"MLP hidden width d_ff = {hidden}, mlp_ratio = {hidden / d:g}"
    config.fact(family.hidden, hidden, meaning)
    return d, heads, joint, hidden


def _joint_width(config: Config, d: int, heads: int) -> int:
    key = config.family.head_dim
    if key is None or config.given(key) is None:
        require(d % heads == 0, config.family.heads, heads, f"a divisor of the width {d}")
        return d
    width = count(key, config.given(key), 1, MAX_COUNT)
    config.fact(key, width, f"output projection with fan-in {heads * width}")
    if width * heads != d:
        config.notes.append(
            f"{key} {width} is not width / heads = {d / heads:g}: sigma_o2 and beta are right, but "
            "corrections for the finite width of a head and rotary positions use width / heads."
        )
    return width * heads


def _grouped(config: Config, heads: int) -> int:
    """Key and value heads."""
    key, defaults = "num_key_value_heads", config.family.defaults
    if config.family.head_dim is None or (config.given(key) is None and key not in defaults):
        return heads
    groups = config.count(key, 100_000)
    if key in config.defaulted:
        groups = min(groups, heads)
    require(heads % groups == 0, key, groups, f"a divisor of the {heads} heads")
    if groups != heads:
        config.notes.append(
            f"{heads} query heads share {groups} key and value heads: expectations are unchanged, "
            "the spread over networks is not."
        )
    return groups


def _context(config: Config) -> int:
    family = config.family
    if "patch" in family.embeddings:
        return _patches(config)
    positions = config.count(family.context, 10**12)
    used = 0
    if family.offset is not None:
        used = 1 + config.count(family.offset, MAX_COUNT, low=0)
    words = "an integer that leaves a context of at least 2"
    require(positions - used >= 2, family.context, positions, words)
    note = f" (the first {used} positions are not used)" if used else ""
    config.fact(family.context, positions, f"context T = {positions - used}{note}")
    return positions - used


def _patches(config: Config) -> int:
    key = config.family.context
    image, patch = sides(config, key), sides(config, "patch_size")
    rows, columns = image[0] // patch[0], image[1] // patch[1]
    require(rows * columns >= 1, "patch_size", max(patch), f"at most {key}, {min(image)}")
    tokens = rows * columns + config.family.extra_tokens
    require(tokens <= 10**12, key, max(image), "a size that leaves at most 1e12 tokens")
    extra = "1 class token" if config.family.extra_tokens == 1 else "2 class tokens"
    meaning = f"context T = {rows} x {columns} patches + {extra} = {tokens}"
    config.fact(key, config.get(key), meaning)
    return tokens


def sides(config: Config, key: str) -> tuple[int, int]:
    """Height and width under a key that holds an integer or a pair of them.

    Parameters
    ----------
    config : Config
        The config.
    key : str
        Key of an image or patch size.

    Returns
    -------
    tuple of int
        Height and width.

    Raises
    ------
    DomainError
        If the value is neither.

    Examples
    --------
    >>> from sigprop.model.huggingface_keys import Config, sides
    >>> from sigprop.model.huggingface_families import FAMILIES
    >>> sides(Config({"patch_size": [14, 16]}, FAMILIES["vit"]), "patch_size")
    (14, 16)
    """
    value = config.get(key)
    pair = value if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2:
        raise DomainError(key, value, "an integer or a pair of integers")
    return count(key, pair[0], 1, MAX_COUNT), count(key, pair[1], 1, MAX_COUNT)


def rotary(config: Config) -> dict[str, float]:
    """Rotary base, from the family's key or, as newer configs have it, "rope_parameters".

    Parameters
    ----------
    config : Config
        The config; facts and notes are added to it.

    Returns
    -------
    dict
        The parameter rotary_base of `ModelSpec`; empty without rotary positions.

    Raises
    ------
    DomainError
        If a value is inadmissible; the parameter is the config's key.

    Examples
    --------
    >>> from sigprop.model.huggingface_keys import Config, rotary
    >>> from sigprop.model.huggingface_families import FAMILIES
    >>> rotary(Config({"rope_theta": 5e5}, FAMILIES["llama"]))
    {'rotary_base': 500000.0}
    """
    family = config.family
    if family.rotary is None or family.rotary_part is None:
        return {}
    rope = dict(config.mapping("rope_parameters") or config.mapping("rope_scaling"))
    part = _rotated_part(config, rope)
    if rope.get("rope_theta") is not None:
        base, key = scalar("rope_theta", rope["rope_theta"], 1.0, 1e12), "rope_theta"
    else:
        base, key = config.number(family.rotary, 1.0, 1e12), family.rotary
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        config.notes.append(
            f"Rotary positions are rescaled ({str(kind)[:40]}); the theory takes plain ones."
        )
    if part == 0:
        return {}
    config.fact(key, base, f"rotary_base {base:g}")
    return {"rotary_base": base}


def _rotated_part(config: Config, rope: Mapping[str, Any]) -> float:
    key = str(config.family.rotary_part)
    newer = rope.get("partial_rotary_factor")
    if newer is not None:
        part = scalar("partial_rotary_factor", newer, 0.0, 1.0)
    elif key in config.family.defaults or config.given(key) is not None:
        part = config.number(key, 0.0, 1.0)
    else:
        return 1.0
    if 0 < part < 1:
        config.notes.append(
            f"Rotary positions turn only {part:g} of each head; the theory turns all of it, which "
            "overstates their effect."
        )
    return part
