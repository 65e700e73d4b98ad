"""What the commands share: output, progress, what was written, how they end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, NoReturn

import typer

from sigprop.core import interrupts
from sigprop.core.errors import DomainError, PictureError, SigpropError
from sigprop.core.printable import printable

__all__ = ["DATA", "FIGURES", "AsJson", "Png", "Scheduler", "aside", "emit", "picture", "progress",
           "put", "run", "say", "show", "told", "wrote"]  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Png = Annotated[Path | None, typer.Option(help="Draw a figure (.png, .pdf or .svg).")]
Scheduler = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of a dask scheduler that does the work, or 'local'."),
]
FIGURES = (".png", ".pdf", ".svg")
DATA = (".nc",)
WIDTH = 100  # columns of a table that is not shown on a terminal


def emit(values: dict[str, Any]) -> None:
    """Print JSON on standard output, and nothing else.

    Parameters
    ----------
    values : dict
        JSON values.

    Examples
    --------
    >>> from sigprop.cli.console import emit
    >>> emit({"rho": [0.5, None]})
    {"rho": [0.5, null]}
    """
    put(json.dumps(values, allow_nan=False) + "\n")


def put(text: str) -> None:
    """Print text on standard output.

    Parameters
    ----------
    text : str
        Whole lines.

    Raises
    ------
    DomainError
        If it cannot be written, as on a full disk.
    """
    with _printing():
        sys.stdout.write(text)


@contextmanager
def _printing() -> Iterator[None]:
    """Give an error of standard output its name."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        words = f"a file that can be written ({error.strerror})"
        raise DomainError("standard output", "full or gone", words) from None


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
    built = build()
    with _printing():
        console.print(built)


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


@contextmanager
def picture(path: Path | None, draw: Callable[[], Any]) -> Iterator[None]:
    """Draw a picture, if one is wanted; a failure is raised once the answer is printed.

    Parameters
    ----------
    path : Path, optional
        Its file.
    draw : callable
        Without arguments; returns a matplotlib figure.

    Raises
    ------
    DomainError, PictureError
        At the end, if it could not be drawn or written.
    """
    failed: SigpropError | None = None
    if path is not None:
        try:
            from sigprop.plotting.base import save_figure

            save_figure(_drawn(path, draw), path)
            wrote(path)
        except SigpropError as error:
            failed = error
    yield
    if failed is not None:
        raise failed


def _drawn(path: Path, draw: Callable[[], Any]) -> Any:
    try:
        return draw()
    except SigpropError:
        raise
    except Exception as error:  # whatever the drawing library raises
        raise PictureError(f"png = {str(path)!r} could not be drawn: {error}") from error


def wrote(*paths: str | Path) -> None:
    """Say on standard error what was written.

    Parameters
    ----------
    *paths : str or Path
        Files or folders.
    """
    for path in paths:
        say(f"wrote {path}")


def say(words: str) -> None:
    """Print one line on standard error, if that is open.

    Parameters
    ----------
    words : str
        The line.
    """
    with suppress(OSError, ValueError):
        sys.stderr.write(printable(f"sigprop: {words}\n"))


def run(app: Callable[[], Any]) -> NoReturn:
    """Run the command line; however it ends, one line says why and the exit code is documented.

    0: done. 1: the reader of standard output went away. 2: refused, or something could not be
    written; nothing is half written then. 130: interrupted.

    Parameters
    ----------
    app : callable
        The commands. What they cannot do they raise.

    Raises
    ------
    SystemExit
        With the code.
    """
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files, whatever the environment prefers
    interrupts.allow()
    try:
        _streams()
        app()
        code: Any = 0
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = told(error)
        if code is None:
            raise
    code = code or _flushed()
    interrupts.ignore()
    sys.exit(code)


def told(error: BaseException) -> int | None:
    """Say what ended a command.

    Parameters
    ----------
    error : BaseException
        What it raised.

    Returns
    -------
    int or None
        The exit code; None for what is a fault of the program.
    """
    if isinstance(error, BrokenPipeError):
        _drop_output()
        return 1
    if isinstance(error, KeyboardInterrupt):
        words, code = "interrupted", 130
    elif isinstance(error, SigpropError):
        words, code = f"error: {error}", 2
    elif isinstance(error, MemoryError):
        words, code = f"error: too little memory: {error}", 2
    elif isinstance(error, OSError):
        words, code = f"error: {error}", 2
    else:
        return None
    say("; ".join([words, *getattr(error, "__notes__", ())]))
    return code


def _streams() -> None:
    """See to it that no file of ours becomes a standard stream that was closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if sys.stdout is None:
        raise DomainError("standard output", "closed", "an open file, pipe or terminal")
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold any bytes


def _flushed() -> int:
    """Empty standard output; the exit code if that fails."""
    try:
        if sys.stdout is not None:
            with _printing():
                pass
    except (BrokenPipeError, DomainError) as error:
        return told(error) or 0
    return 0


def _drop_output() -> None:
    """Let what cannot be printed go nowhere, so that the interpreter does not try again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
