"""Layers that differ: overrides of a description, cycled over the depth or one number a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sigprop.core.checks import array
from sigprop.core.errors import DomainError, require

__all__ = ["PER_LAYER", "overridden", "overrides", "read_by_layer", "read_pattern"]

PER_LAYER = (
    "heads", "kv_heads", "attention", "causal", "window", "prefix", "chunk", "activation",
    "gated", "mlp_ratio", "rotary_base", "beta", "sigma_v2", "sigma_o2", "sigma_w2", "sigma_w1_2",
    "sigma_w2_2", "sigma_b2", "alpha_attn", "alpha_mlp",
)  # fmt: skip
PARTS = ("first", "cycle", "last")
Override = dict[str, Any]


def read_pattern(pattern: Any) -> dict[str, tuple[Override, ...]] | None:
    """Pattern as a mapping of its parts, each a tuple of overrides.

    Parameters
    ----------
    pattern : list of mapping, mapping of lists, or None
        Overrides that are cycled over the depth, or those of the first layers, of the cycle and of
        the last layers.

    Returns
    -------
    dict or None
        Tuples by "first", "cycle" and "last".

    Raises
    ------
    DomainError
        If it is none of these, or overrides what does not differ by layer.

    Examples
    --------
    >>> from sigprop.model.pattern import read_pattern
    >>> read_pattern([{"window": 4}, {"window": None}])["cycle"]
    ({'window': 4}, {'window': None})
    """
    if pattern is None:
        return None
    given = pattern if isinstance(pattern, Mapping) else {"cycle": pattern}
    words = 'a list of objects, or {"first": [...], "cycle": [...], "last": [...]}'
    require(set(given) <= set(PARTS), "pattern", pattern, words)
    parts = {name: given.get(name, ()) for name in PARTS}
    require(all(isinstance(v, list | tuple) for v in parts.values()), "pattern", pattern, words)
    return {name: tuple(_override(one) for one in value) for name, value in parts.items()}


def _override(one: Any) -> Override:
    """One object of a pattern, its names checked and its numbers single."""
    require(isinstance(one, Mapping), "pattern", one, "an object of parameters by name")
    for name, value in one.items():
        known = name in PER_LAYER and np.ndim(value) == 0
        require(known, f"pattern.{name}", value, "one value of one of " + ", ".join(PER_LAYER))
    return dict(one)


def read_by_layer(by_layer: Any, depth: int) -> dict[str, tuple[float, ...]] | None:
    """Numbers by name, one for each layer.

    Parameters
    ----------
    by_layer : mapping or None
        Lists of numbers by the name of a parameter.
    depth : int
        Number of layers L.

    Returns
    -------
    dict or None
        Tuples of L numbers.

    Raises
    ------
    DomainError
        If a name is not that of a number that may differ by layer, or a list has another length.

    Examples
    --------
    >>> from sigprop.model.pattern import read_by_layer
    >>> read_by_layer({"beta": [1, 2]}, 2)
    {'beta': (1.0, 2.0)}
    """
    if by_layer is None:
        return None
    require(isinstance(by_layer, Mapping), "by_layer", by_layer, "an object of lists by name")
    out = {}
    for name, values in by_layer.items():
        if name not in PER_LAYER:
            raise DomainError(f"by_layer.{name}", values, "one of " + ", ".join(PER_LAYER))
        numbers = array(f"by_layer.{name}", values)
        require(numbers.shape == (depth,), f"by_layer.{name}", values, f"{depth} numbers")
        out[name] = tuple(numbers.tolist())
    return out


def overrides(
    depth: int,
    pattern: dict[str, tuple[Override, ...]] | None,
    by_layer: dict[str, tuple[float, ...]] | None,
) -> tuple[Override, ...]:
    """List the overrides of each layer.

    Parameters
    ----------
    depth : int
        Number of layers L.
    pattern, by_layer
        As of `read_pattern` and `read_by_layer`.

    Returns
    -------
    tuple of dict
        L overrides.

    Raises
    ------
    DomainError
        If first and last layers are more than there are, or a cycle is missing, or both name a
        parameter.

    Examples
    --------
    >>> from sigprop.model.pattern import overrides, read_pattern
    >>> pattern = read_pattern({"first": [{"gated": True}], "cycle": [{}, {"window": 4}]})
    >>> overrides(4, pattern, None)
    ({'gated': True}, {}, {'window': 4}, {})
    """
    parts = pattern or dict.fromkeys(PARTS, ())
    first, cycle, last = (parts[name] for name in PARTS)
    inside = depth - len(first) - len(last)
    require(inside >= 0, "pattern", pattern, f"at most depth = {depth} first and last layers")
    cycle = cycle or ({},)
    rows = [*first, *(cycle[i % len(cycle)] for i in range(inside)), *last]
    for name, values in (by_layer or {}).items():
        require(all(name not in row for row in rows), f"by_layer.{name}", values,
                "a parameter that the pattern does not override")  # fmt: skip
        rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
    return tuple(dict(row) for row in rows)


def overridden(
    pattern: dict[str, tuple[Override, ...]] | None, by_layer: dict[str, tuple[float, ...]] | None
) -> frozenset[str]:
    """Names of the parameters that some layer overrides.

    Parameters
    ----------
    pattern, by_layer
        As of `read_pattern` and `read_by_layer`.

    Returns
    -------
    frozenset of str
        The names.

    Examples
    --------
    >>> from sigprop.model.pattern import overridden, read_pattern
    >>> sorted(overridden(read_pattern([{"window": 4}, {}]), {"beta": (1.0, 2.0)}))
    ['beta', 'window']
    """
    rows = (row for part in (pattern or {}).values() for row in part)
    return frozenset(by_layer or ()).union(*rows)
