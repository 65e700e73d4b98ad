"""The theory sheet as Markdown with LaTeX, as GitHub, VS Code and Jupyter render it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import sympy as sp

from sigprop.core.notation import NOTATION
from sigprop.symbolic.derivation import derive, entries
from sigprop.symbolic.equation import Derivation, Equation
from sigprop.symbolic.symbols import latex
from sigprop.symbolic.theory import EQUATIONS

__all__ = ["markdown", "sheet"]

INTRODUCTION = """\
# Theory sheet

Written by `sigprop derive --sheet`; do not edit. Numbers are those that docstrings cite.
Letters are explained at the end. A prime marks what leaves a component.
"""


def markdown(found: Derivation, every_step: bool = True) -> str:
    r"""One derivation as Markdown.

    Parameters
    ----------
    found : Derivation
        What was derived.
    every_step : bool
        Whether to list the steps, or the result alone.

    Returns
    -------
    str
        Heading, source, numbered steps, formulas in dollar signs.

    Examples
    --------
    >>> from sigprop.symbolic import derive
    >>> from sigprop.symbolic.sheet import markdown
    >>> print(markdown(derive("chi-norm"), every_step=False))
    ### chi-norm: slope of a norm
    <BLANKLINE>
    From E14, E18. Source: new in theory.md.
    <BLANKLINE>
    $$
    \chi = 1
    $$
    <BLANKLINE>
    """
    lines = [f"### {found.name}: {found.title}", ""]
    lines += [f"From {found.equations}. Source: {found.source}.", ""]
    for i, step in enumerate(found.steps, 1):
        if every_step:
            lines += [f"{i}. {step.text}:", ""]
        if every_step or i == len(found.steps):
            lines += ["$$", latex(step.expression), "$$", ""]
    return "\n".join(lines)


def sheet() -> Iterator[str]:
    """Whole theory sheet: every equation, every derivation with its steps, the letters.

    Yields
    ------
    str
        Parts of the document, one equation number or derivation at a time.

    Examples
    --------
    >>> from sigprop.symbolic.sheet import sheet
    >>> next(sheet()).splitlines()[0]
    '# Theory sheet'
    """
    yield INTRODUCTION + "\n## Equations\n"
    for number, rows in groupby(EQUATIONS.values(), key=lambda row: row.number):
        yield f"### {number}\n\n" + "\n".join(map(_equation, rows))
    yield "## Derived results\n"
    used = _names(side for row in EQUATIONS.values() for side in (row.left, row.right))
    for name in entries():
        found = derive(name)
        used |= _names(step.expression for step in found.steps)
        yield markdown(found)
    yield _letters(used)


def _names(expressions: Iterable[sp.Basic]) -> set[str]:
    return {s.name for e in expressions for s in e.free_symbols if isinstance(s, sp.Symbol)}


def _equation(row: Equation) -> str:
    return f"{row.meaning} (`{row.name}`; {row.source}):\n\n$$\n{row.latex}\n$$\n"


def _letters(used: set[str]) -> str:
    head = "## Letters\n\n| letter | name | meaning | unit | defined in |\n|---|---|---|---|---|\n"
    rows = (
        f"| ${e.symbol.replace('|', chr(92) + '|')}$ | `{n}` | {e.meaning} | {e.unit} "
        f"| {e.equation} |"
        for n, e in NOTATION.items()
        if n in used
    )
    return head + "\n".join(rows) + "\n"
