"""What the commands share: output, progress, checks of targets."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer

from sigprop.errors import DomainError

__all__ = ["FIGURES", "AsJson", "Png", "Scheduler", "check_target", "emit", "progress", "show"]

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Png = Annotated[Path | None, typer.Option(help="Draw a figure (.png, .pdf or .svg).")]
Scheduler = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of a dask scheduler that does the work, or 'local'."),
]
FIGURES = (".png", ".pdf", ".svg")
WIDTH = 100  # columns of a table that is not shown on a terminal


def emit(values: dict[str, Any]) -> None:
    """Print JSON on standard output, and nothing else.

    Parameters
    ----------
    values : dict
        JSON values.

    Examples
    --------
    >>> from sigprop.console import emit
    >>> emit({"rho": [0.5, None]})
    {"rho": [0.5, null]}
    """
    sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")


def show(build: Callable[[], Any]) -> None:
    """Print what a function builds, with rich.

    Parameters
    ----------
    build : callable
        Without arguments; returns anything that rich prints.
    """
    from rich.console import Console

    console = Console(soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    console.print(build())


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """Progress bar on standard error, for terminals only.

    Parameters
    ----------
    total : int, optional
        Steps until it is full; without it the bar pulses.
    what : str
        What the steps are.

    Yields
    ------
    callable
        To be called with the number of further steps done.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def check_target(
    name: str, path: Path | None, endings: tuple[str, ...] = (), folder: bool = False
) -> None:
    """Refuse a file that cannot be written before anything is computed.

    Parameters
    ----------
    name : str
        Name of the option.
    path : Path, optional
        The file; nothing is refused without one.
    endings : tuple of str
        Admissible endings; any if empty.
    folder : bool
        The target is a folder, of a name of its own.

    Raises
    ------
    DomainError
        If it cannot be written.
    """
    if path is None:
        return
    try:
        fits = (path.is_dir() if folder else path.is_file()) or not path.exists()
        with TemporaryFile(dir=path.parent):
            pass
    except OSError:  # also a name that is too long
        fits = False
    if not fits:
        raise DomainError(name, str(path), "a file in an existing, writable folder")
    if endings and path.suffix.lower() not in endings:
        raise DomainError(name, str(path), "a name ending in " + " or ".join(endings))
