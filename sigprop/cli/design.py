"""Commands that prescribe: recommended scales, growth of the context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sigprop.cli.console import FIGURES, AsJson, Png, emit, picture, progress, say, show, wrote
from sigprop.core.errors import DomainError, require
from sigprop.core.files import Target, check_targets, write

__all__ = ["COMMANDS"]

Spec = Annotated[str, typer.Argument(help="SPEC.json, a Hugging Face config.json, or an example.")]
INTERRUPTED = 130  # exit code
UNITS = {"k": 2**10, "M": 2**20}


def recommend(
    spec: Spec,
    rho_max: Annotated[float, typer.Option(help="Largest overlap after the last block.")] = 0.5,
    entropy_min: Annotated[float, typer.Option(help="Smallest H / log T in any block.")] = 0.5,
    query_min: Annotated[
        float, typer.Option(help="Smallest squared query gradient over the last block's largest.")
    ] = 1e-3,
    gradient_max: Annotated[
        float, typer.Option(help="Largest squared gradient of any weight over the same.")
    ] = 1e3,
    bound: Annotated[
        list[str] | None,
        typer.Option(help="NAME=LO:HI; repeat [default: beta, alpha_attn, alpha_mlp]."),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Beta by block, one entropy in all.")
    ] = False,
    code: Annotated[
        Path | None, typer.Option(help="Write PyTorch initialisation code (.py).")
    ] = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Which numbers to type: the nearest design that meets targets, and what binds it."""
    from sigprop.analysis.design import recommend as design
    from sigprop.analysis.design.targets import Targets
    from sigprop.cli import tables_design
    from sigprop.model.huggingface import load

    read = load(spec).spec
    check_targets([Target("code", code, (".py",)), Target("png", png, FIGURES)], [spec])
    targets = Targets(
        rho_max=rho_max, entropy_min=entropy_min, query_min=query_min, gradient_max=gradient_max
    )
    bounds = dict(_bound(text) for text in bound) if bound else None
    stopped = False
    with _parts("designs, at most") as (expected, advance):
        try:
            found = design.recommend(read, targets, bounds, per_layer, advance, expected)
        except design.Interrupted as stop:
            found, stopped = stop.found, True
    if stopped:
        unseen = "" if png is None else ", without the trade-off that --png shows"
        say(f"interrupted; what follows is the best design so far{unseen}")
        png = None
    if code is not None:
        write(code, found.prescription.pytorch(), "code")
        wrote(code)
    with picture(png, lambda: _picture("plot_design", found, spec)):
        if as_json:
            emit(found.to_dict())
        else:
            show(lambda: tables_design.design(found))
    if stopped:
        raise typer.Exit(INTERRUPTED)


def _picture(plot: str, found: Any, spec: str) -> Any:
    from sigprop.plotting import design as design_plots

    return getattr(design_plots, plot)(found, Path(spec).stem)


@contextmanager
def _parts(what: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Progress of work in parts: more is expected, and some of it done."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task, total = bar.add_task(what, total=0), 0

        def expect(more: int) -> None:
            nonlocal total
            total += more
            bar.update(task, total=total)

        yield expect, lambda done: bar.advance(task, done)


def _bound(text: str) -> tuple[str, tuple[float, float]]:
    name, equals, rest = text.partition("=")
    parts = rest.split(":")
    if not equals or len(parts) != 2:
        raise DomainError("bound", text, "NAME=LO:HI, as in beta=0.1:4")
    low, high = (_number("bound", part) for part in parts)
    return name, (low, high)


def _number(name: str, text: str) -> float:
    """Read a number, which may end in k or M: powers of two."""
    factor = UNITS.get(text[-1:], 1)
    try:
        return float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        raise DomainError(name, text, "a number, as in 4096, 4k or 1M") from None


def scale(
    spec: Spec,
    context: Annotated[str, typer.Option(help="LO:HI[:N], as in 1k:1M (1024 to 1 048 576).")],
    rho_max: Annotated[float, typer.Option(help="Largest overlap accepted.")] = 0.98,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Context growth: temperature, entropy and critical strength under four rules for scores."""
    from sigprop.analysis.context_growth import RULES, grow
    from sigprop.cli import tables_design
    from sigprop.model.huggingface import load

    read = load(spec).spec
    check_targets([Target("png", png, FIGURES)], [spec])
    lengths = _contexts(context)
    with progress(len(RULES) * len(lengths), "lengths and rules") as advance:
        found = grow(read, lengths, rho_max, advance)
    with picture(png, lambda: _picture("plot_growth", found, spec)):
        if as_json:
            return emit(found.to_dict())
        return show(lambda: tables_design.growth(found))


def _contexts(text: str) -> Any:
    """Doubling contexts from LO to HI, or N of them."""
    import numpy as np

    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise DomainError("context", text, "LO:HI or LO:HI:N, as in 1k:1M")
    low, high = (_number("context", part) for part in parts[:2])
    require(2 <= low < high <= 1e12, "context", text, "2 <= LO < HI <= 1e12")
    number = _number("context", parts[2]) if len(parts) == 3 else np.log2(high / low) + 1
    require(2 <= number <= 1000, "context", text, "N an integer in [2, 1000]")
    return np.unique(np.round(np.geomspace(low, high, int(np.ceil(number)))))


COMMANDS = (recommend, scale)
