"""Registry of derivations: functions from maps to steps, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import sympy as sp

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError
from sigprop.symbolic.equation import Derivation, Step

__all__ = ["Entry", "derivation", "derive", "entries"]

Function = Callable[..., Iterable[tuple[str, sp.Basic]]]


class Entry(NamedTuple):
    """A registered derivation, not performed yet.

    Attributes
    ----------
    name, title, equations, source : str
        As in `Derivation`.
    function : callable
        From the maps it starts from (keyword arguments, the house's by default) to steps.

    Examples
    --------
    >>> from sigprop.symbolic import entries
    >>> entries()["critical-beta"].equations
    'E3, E4'
    """

    name: str
    title: str
    equations: str
    source: str
    function: Function


_ENTRIES: dict[str, Entry] = {}


def derivation(
    name: str, title: str, equations: str, source: str = "new in theory.md"
) -> Callable[[Function], Function]:
    """Register a generator of steps as a derivation.

    Parameters
    ----------
    name, title, equations, source : str
        As in `Derivation`.

    Returns
    -------
    callable
        Decorator that returns the function unchanged.

    Examples
    --------
    >>> from sigprop.symbolic.derivation import derivation
    >>> callable(derivation("name", "what", "E1"))
    True
    """

    def register(function: Function) -> Function:
        _ENTRIES[name] = Entry(name, title, equations, source, function)
        return function

    return register


def entries() -> dict[str, Entry]:
    """All derivations by name, none performed.

    Returns
    -------
    dict
        In the order of registration.

    Examples
    --------
    >>> from sigprop.symbolic import entries
    >>> "critical-beta" in entries()
    True
    """
    return dict(_ENTRIES)


@validated
def derive(name: str, **maps: Any) -> Derivation:
    """Perform a derivation.

    Parameters
    ----------
    name : str
        Key of `entries`.
    **maps
        Maps to start from instead of the house's; see the function of the entry.

    Returns
    -------
    Derivation
        Steps and result.

    Raises
    ------
    DomainError
        If the name is unknown.

    Examples
    --------
    >>> from sigprop.symbolic import derive
    >>> derive("chi-attention").result
    Eq(chi_attn, alpha_attn**2/(alpha_attn**2 + sigma_b2 + sigma_v2))
    """
    if name not in _ENTRIES:
        raise DomainError("NAME", name, "one of " + ", ".join(_ENTRIES))
    entry = _ENTRIES[name]
    steps = tuple(Step(text, expression) for text, expression in entry.function(**maps))
    return Derivation(entry.name, entry.title, entry.equations, entry.source, steps)
