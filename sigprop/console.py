"""What the commands share: output, progress, checks of targets."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer

from sigprop.errors import DomainError
from sigprop.printable import printable

__all__ = [
    "FIGURES",
    "AsJson",
    "Png",
    "Scheduler",
    "aside",
    "check_target",
    "emit",
    "progress",
    "show",
]

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
    """Print what a function builds, with rich; text is text, never markup, emoji or control.

    Parameters
    ----------
    build : callable
        Without arguments; returns anything that rich prints.
    """
    from rich.console import Console

    class Plain(Console):
        """Shows every character of what it is given, and obeys none."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Any]:
            for part in super().render(renderable, options):
                yield part if part.control else part._replace(text=printable(part.text))

    console = Plain(soft_wrap=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    console.print(build())


@contextmanager
def aside() -> Iterator[None]:
    """Run code of others: standard input is empty, what it prints goes to standard error.

    That holds for its Python code and for libraries below it; control characters are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as sink:
        try:
            with ExitStack() as stack:
                empty = stack.enter_context(Path(os.devnull).open(encoding="utf-8"))
                for descriptor, target in ((0, empty), (1, sink), (2, sink)):
                    stack.enter_context(_instead(descriptor, target.fileno()))
                stack.enter_context(redirect_stdout(sink))
                stack.enter_context(redirect_stderr(sink))
                stack.callback(setattr, sys, "stdin", sys.stdin)
                sys.stdin = empty
                yield
        finally:
            sink.seek(0)
            sys.stderr.write(printable(sink.read()))


@contextmanager
def _instead(descriptor: int, other: int) -> Iterator[None]:
    """Let a descriptor of the process be a copy of another one; closed ones stay closed after."""
    try:
        kept = os.dup(descriptor)
    except OSError:
        kept = None
    os.dup2(other, descriptor)
    try:
        yield
    finally:
        if kept is None:
            os.close(descriptor)
        else:
            os.dup2(kept, descriptor)
            os.close(kept)


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
