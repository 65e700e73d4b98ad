"""Recommended designs and context growth as tables for people (rich)."""

from __future__ import annotations

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sigprop.analysis.context_growth import RULES, Growth
from sigprop.analysis.design.recommend import Design
from sigprop.core.arrays import Floats

__all__ = ["design", "growth"]

ROWS = 9  # inverse temperatures shown of a trade-off curve


def _table(title: str, *heads: str) -> Table:
    return Table(*heads, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))


def _range(values: Floats) -> str:
    low, high = float(values[0]), float(values[-1])
    return f"{low:.4g}" if np.all(values == values[0]) else f"{low:.4g} ... {high:.4g}"


def _cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"


def design(found: Design) -> Group:
    """Numbers to type, constraints, trade-off and why the search ended."""
    numbers = _table("What to change", "parameter", "from", "to")
    for name, (old, new) in found.changes.items():
        numbers.add_row(name, f"{old:.4g}", f"{new:.4g}")
    if found.beta_by_layer is not None:
        numbers.add_row("beta by block", "", _range(found.beta_by_layer))
    checks = _table("Targets", "constraint", "target", "predicted", "margins", "met", "binds")
    for name, row in found.margins.items():
        cells = (f"{row[key]:.4g}" for key in ("target", "predicted", "slack"))
        met, binds = row["met"], name in found.binding
        checks.add_row(name, *cells, "yes" if met else "NO", "yes" if binds else "")
    stds = _table("Standard deviation by block", "matrix", "std")
    for name, values in found.prescription.std().items():
        stds.add_row(name, _range(values))
    parts: list[Table | Text] = [numbers, checks, stds]
    if found.curve:
        parts.append(_curve(found))
    if not found.prescription.folded:
        parts.append(Text("Without norms residual multipliers stay in the forward pass."))
    parts.append(Text(("Feasible: " if found.feasible else "Infeasible: ") + found.reason))
    if found.relaxed:
        each = ", ".join(f"{name} = {value:.3g}" for name, value in found.relaxed.items())
        parts.append(Text(f"One target moved, the others as they are, becomes feasible at: {each}"))
    return Group(*parts, *map(Text, found.notes))


def _curve(found: Design) -> Table:
    heads = ("beta", "overlap", "H/log T", "query gradient", "largest gradient", "feasible")
    table = _table("Trade-off: beta moves, all else as recommended (the row >)", *heads)
    *columns, feasible, recommended = found.curve.values()
    shown = np.linspace(0, len(feasible) - 1, ROWS).round().astype(int)
    for i in np.union1d(shown, np.flatnonzero(recommended)).tolist():
        beta, *cells = (_cell(column[i]) for column in columns)
        mark, style = ("> ", "bold") if recommended[i] else ("  ", None)
        table.add_row(mark + beta, *cells, "yes" if feasible[i] else "no", style=style)
    return table


def growth(found: Growth) -> Group:
    """One table for each rule."""
    parts: list[Table | Text] = []
    names = ("beta", "score_std", "entropy_ratio", "rho", "alpha_critical")
    heads = ("T", "beta", "s", "H/log T, first", "rho, last", "alpha_attn")
    for i, (rule, words) in enumerate(RULES.items()):
        table = _table(f"{rule}: {words} (T0 = {found.reference:g})", *heads)
        columns = [getattr(found, name)[i] for name in names]
        for j, context in enumerate(found.context):
            cells = (_cell(column[j]) for column in columns)
            table.add_row(f"{context:g}" if context < 1e6 else f"{context:.8g}", *cells)
        parts.append(table)
    parts.append(Text(f"Critical alpha_attn keeps the last overlap below {found.rho_max:g}."))
    return Group(*parts, *(Text(note) for note in found.notes))
