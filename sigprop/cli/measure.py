"""Commands that measure: random networks, kernels, validation, the paper's figures."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sigprop.cli.console import (
    FIGURES,
    AsJson,
    Png,
    Scheduler,
    emit,
    picture,
    progress,
    show,
    wrote,
)
from sigprop.core.errors import DomainError
from sigprop.core.files import Target, check_targets
from sigprop.core.jobs.execution import Execution

__all__ = ["COMMANDS"]

Spec = Annotated[
    str,
    typer.Argument(
        help="SPEC.json, a config.json, an example, or a reference such as encoder_low_beta."
    ),
]
Seeds = Annotated[int, typer.Option(help="Random networks.")]
First = Annotated[int, typer.Option(help="First seed; the others follow it.")]
Workers = Annotated[int, typer.Option(help="Processes.", show_default="one a core")]
Keep = Annotated[Path | None, typer.Option(help="Folder of finished seeds; a second run resumes.")]
Text = Annotated[Path | None, typer.Option(help="Text file whose tokens are the input.")]
KernelFile = Annotated[
    Path | None,
    typer.Option("--kernel", help="Input kernel, a square array in a .npy or .npz file."),
]
Positions = Annotated[str, typer.Option(help="Of a text: sinusoidal, learned or none.")]
CORES = os.cpu_count() or 1


def simulate(
    spec: Spec,
    seeds: Seeds = 8,
    first_seed: First = 0,
    text: Text = None,
    kernel: KernelFile = None,
    positions: Positions = "learned",
    blocks: Annotated[
        int | None, typer.Option(help="Also the token kernel, over so many position blocks.")
    ] = None,
    projection: Annotated[
        bool, typer.Option(help="Draw attention's output matrix, or take its gain alone.")
    ] = True,
    engine: Annotated[str, typer.Option(help="numpy, or torch (an extra).")] = "numpy",
    device: Annotated[str | None, typer.Option(help="Of torch: cpu or cuda.")] = None,
    workers: Workers = CORES,
    keep: Keep = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Measure random networks, layer by layer, with standard errors over seeds."""
    from sigprop.cli import tables
    from sigprop.simulation import simulate as run
    from sigprop.studies.comparison import reference

    read = reference(spec).spec
    source = _source(read.context, text, kernel, positions)
    check_targets([Target("keep", keep, folder=True)], [spec, text, kernel])
    with progress(seeds, "seeds") as advance:
        found = run(
            read,
            seeds,
            source=source,
            first_seed=first_seed,
            blocks=blocks,
            projection=projection,
            engine=engine,
            device=device,
            execution=Execution(workers, keep, scheduler, advance),
        )
    if as_json:
        return emit(found.to_dict())
    return show(lambda: tables.measured(found))


def _source(context: Any, text: Path | None, kernel: Path | None, positions: str) -> Any:
    from sigprop.core.checks import choice
    from sigprop.model.inputs import read_kernel
    from sigprop.model.text import windows
    from sigprop.propagation.every_pair import POSITIONS
    from sigprop.simulation import Given, Tokens

    _one_input(text, kernel)
    choice("positions", positions, POSITIONS)
    if text is not None:
        return Tokens(windows(text, context), positions)
    if kernel is None:
        return None
    source = Given(read_kernel(kernel))
    _tell(source.admitted.note)
    return source


def _one_input(text: Path | None, kernel: Path | None) -> None:
    if text is not None and kernel is not None:
        raise DomainError("kernel", str(kernel), "given without a text")


def kernel(
    spec: Spec,
    kernel: KernelFile = None,
    text: Text = None,
    positions: Positions = "sinusoidal",
    draws: Annotated[int, typer.Option(help="Independent draws.")] = 8,
    blocks: Annotated[int, typer.Option(help="Position blocks.")] = 16,
    first_seed: First = 0,
    workers: Workers = CORES,
    keep: Keep = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Any token kernel through the layers at infinite width: masks, positions, repeated tokens."""
    from sigprop.cli import tables
    from sigprop.propagation.every_pair import solve
    from sigprop.studies.comparison import reference

    read = reference(spec).spec
    start = _start(read, text, kernel, positions)
    check_targets([Target("keep", keep, folder=True)], [spec, text, kernel])
    with progress(draws, "draws") as advance:
        found = solve(
            read,
            start,
            draws=draws,
            blocks=blocks,
            first_seed=first_seed,
            execution=Execution(workers, keep, scheduler, advance),
        )
    if as_json:
        return emit(found.to_dict())
    return show(lambda: tables.solved(found))


def _start(spec: Any, text: Path | None, kernel: Path | None, positions: str) -> Any:
    """Kernel that enters the first block."""
    from sigprop.core.checks import choice
    from sigprop.model.inputs import admit, read_kernel
    from sigprop.model.text import windows
    from sigprop.propagation.drawn_layer import context_of
    from sigprop.propagation.every_pair import POSITIONS, exchangeable_kernel, text_kernel

    _one_input(text, kernel)
    choice("positions", positions, POSITIONS)
    if text is not None:
        return text_kernel(windows(text, spec.context)[0], positions)
    if kernel is None:
        return exchangeable_kernel(spec)
    found = admit(read_kernel(kernel), context_of(spec))
    _tell(found.note)
    return found


def _tell(note: str) -> None:
    if note:
        sys.stderr.write(f"sigprop: {note}\n")


def validate(
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPEC]...", help="Specs [default: the six references]."),
    ] = None,
    seeds: Seeds = 8,
    workers: Workers = CORES,
    keep: Keep = None,
    scheduler: Scheduler = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Theory (finite context and limit) beside random networks: deviations and a verdict."""
    from sigprop.cli import tables
    from sigprop.studies.comparison import compare, reference, references
    from sigprop.studies.comparison_plot import plot_comparisons

    wanted = [Target("png", png, FIGURES), Target("keep", keep, folder=True)]
    check_targets(wanted, specs or ())
    read = {name: reference(name).spec for name in specs or references()}
    with progress(seeds * len(read), "seeds") as advance:
        how = Execution(workers, keep, scheduler, advance)
        found = [compare(Path(name).stem, s, seeds, execution=how) for name, s in read.items()]
    with picture(png, lambda: plot_comparisons(found)):
        if as_json:
            return emit({"comparisons": [c.to_dict() for c in found]})
        return show(lambda: tables.comparisons(found))


def reproduce(
    figures: Annotated[
        list[str] | None, typer.Argument(metavar="[FIGURE]...", help="Names [default: all].")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small and fast, for a check.")] = False,
    text: Text = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to, or to go on in [default: a new one].")
    ] = None,
    workers: Workers = CORES,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Make the paper's figures again: theory over measurement. An interrupted run resumes."""
    from sigprop.cli import tables
    from sigprop.studies.figures import Lab
    from sigprop.studies.reproduce import reproduce as run

    lab = Lab(quick, text, Execution(workers, scheduler=scheduler), progress)

    def tell(made: Any) -> None:
        wrote(*made.files)
        if not as_json:
            show(lambda: tables.made(made))

    found = run(figures or (), lab, out, tell)
    if as_json:
        emit({"figures": [vars(made) for made in found]})


COMMANDS = (simulate, kernel, validate, reproduce)
