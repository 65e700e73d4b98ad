"""The page of measured accuracies: `python -m sigprop.studies.accuracy_page > accuracy.md`.

`accuracy.json` beside this file has one entry for each measurement: the equations and what is
approximated in them, the quantity, what it was held against, conditions, error, standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Measurement", "measurements", "page"]

FILE = Path(__file__).with_name("accuracy.json")
HEAD = """\
# Accuracy

Written by `python -m sigprop.studies.accuracy_page` from `sigprop/studies/accuracy.json`; do not
edit. Each line is what was measured of one approximation of the [theory](theory.md), whose equation
numbers it names. Errors are the largest deviations unless they say otherwise; "a for b" is a
predicted a where b was measured. "the same" is what the line above says; blank: not stated.
"""
COLUMNS = ("Equations", "Approximation", "Quantity", "Against", "Conditions", "Error", "s.e.")


class Measurement(NamedTuple):
    """One measured error.

    Attributes
    ----------
    equations : str
        Their numbers in the theory.
    approximation, quantity, against, conditions : str
        What is approximated, in which quantity it was looked at, against what, and where.
    error : str
        The deviation, with its unit.
    standard_error : str or None
        Of what it was held against.

    Examples
    --------
    >>> from sigprop.studies.accuracy_page import Measurement
    >>> row = Measurement("E5", "limit", "Y_2", "E6", "T = 512", "0.293 for 0.425", None)
    >>> row.equations
    'E5'
    """

    equations: str
    approximation: str
    quantity: str
    against: str
    conditions: str
    error: str
    standard_error: str | None


def measurements() -> dict[tuple[str, str], list[Measurement]]:
    """Read the stored measurements.

    Returns
    -------
    dict
        By title and module.

    Examples
    --------
    >>> from sigprop.studies.accuracy_page import measurements
    >>> list(measurements())[0]
    ('Infinite context', 'layers.attention.statistics.limit')
    """
    groups = json.loads(FILE.read_text(encoding="utf-8"))
    return {(g["title"], g["code"]): [Measurement(**row) for row in g["rows"]] for g in groups}


def page() -> str:
    """All measurements as Markdown tables.

    Returns
    -------
    str
        The page.

    Examples
    --------
    >>> from sigprop.studies.accuracy_page import page
    >>> page().splitlines()[0]
    '# Accuracy'
    """
    return HEAD + "".join(f"\n{line}" for line in _lines())


def _lines() -> Iterator[str]:
    for (title, code), rows in measurements().items():
        yield from (f"## {title}", "", f"`sigprop.{code}`", "")
        yield from (_row(COLUMNS), _row("---" for _ in COLUMNS))
        yield from (_row(cell or "" for cell in row) for row in rows)
        yield ""


def _row(cells: Iterator[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
