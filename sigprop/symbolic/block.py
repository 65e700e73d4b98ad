"""A block as a list of components, folded in the order of the numerical block."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import sympy as sp

from sigprop.core.arguments import validated
from sigprop.core.errors import DomainError
from sigprop.symbolic.maps import Attention, Map, Mlp, Norm, Residual, State
from sigprop.symbolic.symbols import symbol

__all__ = ["LAYOUTS", "block", "fold"]

Branch = tuple[str, ...]
Layout = tuple[tuple[str, tuple[Branch, ...]] | str, ...]

# a string is a component, a pair a skip branch of that strength around its branches
LAYOUTS: dict[str, Layout] = {
    "post": (
        ("alpha_attn", (("attention",),)),
        "norm",
        ("alpha_mlp", (("mlp",),)),
        "norm",
    ),
    "pre": (("alpha_attn", (("norm", "attention"),)), ("alpha_mlp", (("norm", "mlp"),))),
    "none": (("alpha_attn", (("attention",),)), ("alpha_mlp", (("mlp",),))),
    "parallel": (("alpha_attn", (("norm", "attention"), ("norm", "mlp"))),),
}
HOUSE: dict[str, Map] = {"attention": Attention(), "norm": Norm(), "mlp": Mlp()}


@validated
def fold(maps: tuple[Map, ...], state: State) -> State:
    """Apply maps, first to last.

    Parameters
    ----------
    maps : tuple of callables State -> State
        Maps in the order in which they act.
    state : State
        What enters.

    Returns
    -------
    State
        What leaves.

    Examples
    --------
    >>> from sigprop.symbolic import Norm, State, fold
    >>> fold((Norm(), Norm()), State.free())
    State(q=1, gap=gap/q)
    """
    return reduce(lambda s, m: m(s), maps, state)


@validated
def block(
    layout: str = "post",
    parts: Mapping[str, Map] = HOUSE,
    strengths: Mapping[str, sp.Expr] | None = None,
) -> tuple[Map, ...]:
    """Assemble the maps of one block.

    Parameters
    ----------
    layout : {"post", "pre", "none", "parallel"}
        Where the norms are; parallel is pre-norm with both branches on one skip.
    parts : mapping
        Maps by name: "attention", "norm", "mlp".
    strengths : mapping, optional
        Residual strengths by name, instead of the symbols alpha_attn and alpha_mlp.

    Returns
    -------
    tuple of callables State -> State
        To be folded.

    Raises
    ------
    DomainError
        If the layout is unknown, or a part is missing.

    Examples
    --------
    >>> from sigprop.symbolic import State, block, fold
    >>> fold(block("post"), State.free()).q
    1
    """
    if layout not in LAYOUTS:
        raise DomainError("layout", layout, "one of " + ", ".join(LAYOUTS))
    for name in ("attention", "mlp") if layout == "none" else HOUSE:
        if name not in parts:
            raise DomainError("parts", list(parts), f"a map named {name} among them")
    strengths = strengths or {}

    def branch(names: Branch) -> Map:
        return lambda state: fold(tuple(parts[n] for n in names), state)

    def component(entry: tuple[str, tuple[Branch, ...]] | str) -> Map:
        if isinstance(entry, str):
            return parts[entry]
        name, branches = entry
        return Residual(strengths.get(name, symbol(name)), tuple(branch(b) for b in branches))

    return tuple(component(entry) for entry in LAYOUTS[layout])
