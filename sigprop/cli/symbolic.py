"""Command line of the symbolic theory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sigprop.cli.console import AsJson, emit, progress, put, show, wrote
from sigprop.core.errors import DomainError
from sigprop.core.files import Target, check_targets, write


def derive(
    name: Annotated[str | None, typer.Argument(help="A derivation; none lists them all.")] = None,
    latex: Annotated[bool, typer.Option("--latex", help="The result as LaTeX.")] = False,
    text: Annotated[bool, typer.Option("--text", help="The result as plain text.")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="Every step from the maps.")] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Write the whole theory sheet (.md), with LaTeX.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Derive results symbolically: list them, print one, show the steps, write the sheet."""
    if latex and text:
        raise DomainError("text", text, "one of --latex and --text")
    if sheet is not None and name is not None:
        raise DomainError("sheet", str(sheet), "no NAME beside it: the sheet holds all")
    if sheet is not None:
        return _write_sheet(sheet)
    from sigprop import symbolic
    from sigprop.cli import tables

    if name is None:
        known = symbolic.entries().values()
        if as_json:
            fields = ("name", "title", "equations", "source")
            return emit({e.name: {f: getattr(e, f) for f in fields} for e in known})
        return show(lambda: tables.derivations(known))
    found = symbolic.derive(name)
    if as_json:
        return emit(found.to_dict())
    if latex or text:
        shown = found.steps if steps else found.steps[-1:]
        put("".join(f"{s.latex if latex else s.expression}\n" for s in shown))
        return None
    return show(lambda: tables.derivation(found, steps))


def _write_sheet(path: Path) -> None:
    """Write the theory sheet, once every derivation is done."""
    check_targets([Target("sheet", path, (".md",))])
    from sigprop.symbolic import entries
    from sigprop.symbolic.sheet import sheet

    parts = []
    with progress(len(entries()), "derivations") as advance:
        for part in sheet():
            parts.append(part)
            if ": " in part.splitlines()[0]:  # the heading of a derivation
                advance(1)
    write(path, "\n".join(parts), "sheet")
    wrote(path)


COMMANDS = (derive,)
