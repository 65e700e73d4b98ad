"""Command line: options in, library calls, tables or JSON out. No arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer

import sigprop
from sigprop.cli import audit, design, measure, schemes, symbolic, train
from sigprop.cli.console import (
    DATA,
    FIGURES,
    AsJson,
    Png,
    Scheduler,
    emit,
    picture,
    progress,
    put,
    run,
    show,
    told,
    wrote,
)
from sigprop.core.errors import DomainError, require
from sigprop.core.files import Target, check_targets
from sigprop.core.jobs.execution import Execution
from sigprop.propagation.capabilities import has_positions
from sigprop.propagation.gradients.by_position import STARTS
from sigprop.propagation.positional import DRAWS


class Commands(typer.core.TyperGroup):
    """The commands; an interrupt is told with what was kept, which typer would pass over."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for.

        Parameters
        ----------
        ctx : Context
            Of typer.

        Returns
        -------
        object
            What the command returns.
        """
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            sys.exit(told(error))


app = typer.Typer(
    cls=Commands,
    help="Signal propagation in transformers at initialisation: will it propagate, and why?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help texts are text: "[default: ...]" is no markup
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Spec = Annotated[
    str,
    typer.Argument(
        help="SPEC.json, a Hugging Face config.json, or an example "
        "(bert-base, gpt2, opt-125m, llama-2-7b, vit-base)."
    ),
]
Limit = Annotated[bool, typer.Option("--limit", help="Published limit of infinite context.")]
RhoMax = Annotated[float, typer.Option(help="Largest overlap accepted after the last block.")]


def main() -> None:
    """Run the command line; refusals become one line on standard error and exit code 2."""
    run(app)


def _theory(limit: bool) -> str:
    return "limit" if limit else "finite"


def _version(wanted: bool) -> None:
    if wanted:
        put(f"sigprop {sigprop.__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def rem(
    sigma: Annotated[float, typer.Option(help="Standard deviation of the scores.")],
    context: Annotated[float, typer.Option(help="Context length T.")],
    overlap: Annotated[float | None, typer.Option(help="Correlation of two queries.")] = None,
    as_json: AsJson = False,
) -> None:
    """Attention weights over T random scores: moments, free energy, entropy, overlap."""
    from sigprop.layers.attention.statistics import moments
    from sigprop.layers.attention.statistics import overlap as pair

    if overlap is not None:
        require(-1 <= overlap <= 1, "overlap", overlap, "a number in [-1, 1]")
    found = moments(sigma, context)
    values = {name: float(value) for name, value in vars(found).items()}
    if overlap is not None:
        values["overlap"] = float(pair(sigma, context, overlap))
    if as_json:
        return emit(values)
    from sigprop.cli import tables

    return show(lambda: tables.statistics(values))


@app.command()
def curves(
    png: Annotated[Path, typer.Option(help="Figure to draw (.png, .pdf or .svg).")],
    contexts: Annotated[
        str, typer.Option(help="Context lengths, with commas.")
    ] = "64,512,4096,65536",
    beta: Annotated[str, typer.Option(help="Reduced inverse temperatures, LO:HI:N.")] = "0:4:201",
    out: Annotated[Path | None, typer.Option(help="NetCDF file to write.")] = None,
) -> None:
    """Draw participation ratio, overlap and entropy of attention against temperature."""
    from sigprop.analysis.diagram.grid import rem_curves, save
    from sigprop.plotting import plot_rem

    check_targets([Target("png", png, FIGURES), Target("out", out, DATA)])
    lengths = [_number("contexts", text) for text in contexts.split(",")]
    data = rem_curves(lengths, _axis("beta", beta))
    if out is not None:
        save(data, out)
        wrote(out)
    with picture(png, lambda: plot_rem(data)):
        pass


@app.command()
def propagate(
    spec: Spec,
    limit: Limit = False,
    blocks: Annotated[
        int | None, typer.Option(help="Add means of the kernel over B x B blocks of positions.")
    ] = None,
    gradients: Annotated[bool, typer.Option("--gradients", help="Add gradients.")] = False,
    bands: Annotated[bool, typer.Option("--bands", help="Add the spread over networks.")] = False,
    start: Annotated[
        str,
        typer.Option(
            help="Output gradients: identity (independent), last (that of the last token alone), "
            "a text whose next tokens are the targets, or a .npy kernel of T x T."
        ),
    ] = "identity",
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Gradients of sampled weights, with standard errors.")
    ] = False,
    draws: Annotated[
        int | None, typer.Option(help="Networks sampled; given, it asks for --sampled.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Their seed.")] = 0,
    as_json: AsJson = False,
    png: Png = None,
) -> None:
    """Overlap, variance and attention statistics, layer by layer; by position if causal."""
    from sigprop.model.huggingface import load

    reading = load(spec)
    check_targets([Target("png", png, FIGURES)], [spec])
    require(not (limit and (bands or gradients)), "limit", limit, "off with --bands or --gradients")
    require(not (blocks and bands), "blocks", blocks, "left out with --bands")
    with progress(None, "layers"):
        trajectory = (
            sigprop.bands(reading.spec)
            if bands
            else sigprop.propagate(reading.spec, _theory(limit), blocks=blocks)
        )
    back = None
    if gradients:
        given = {"start": _start(start, reading.spec), "blocks": blocks, "seed": seed}
        law = trajectory if bands else None
        back = _gradients(reading.spec, law, sampled, draws, **given)
    with picture(png, lambda: _picture(trajectory, Path(spec).stem, back)):
        if as_json:
            return emit(trajectory.to_dict() | ({} if back is None else back.to_dict()))
        from sigprop.cli import tables

        show(lambda: tables.trajectory(trajectory))
        if back is not None:
            show(lambda: tables.gradients(back))


def _picture(trajectory: Any, title: str, back: Any) -> Any:
    from sigprop.plotting import plot_trajectory

    return plot_trajectory(trajectory, title, back)


def _gradients(spec: Any, trajectory: Any, sampled: bool, draws: int | None, **given: Any) -> Any:
    """Gradients; by ranges of positions too where positions matter."""
    drawn = sampled or (draws is not None and has_positions(spec))
    if drawn or not has_positions(spec):
        given["blocks"] = None
    total = prod(spec.shape) * ((draws or DRAWS) if drawn else 1)
    given |= {"sampled": sampled, "draws": draws}
    with progress(total, "sampled networks" if drawn else "gradients") as advance:
        return sigprop.gradients(spec, trajectory, progress=advance, **given)


def _start(text: str, spec: Any) -> Any:
    """Start by name, the targets of a text, or a kernel."""
    from sigprop.model.inputs import read_kernel
    from sigprop.model.text import windows

    if text in STARTS:
        return text
    if Path(text).suffix in (".npy", ".npz"):
        return read_kernel(text)
    return windows(text, int(spec.context) + 1)[0, 1:]


@app.command()
def influence(
    spec: Spec,
    bins: Annotated[int, typer.Option(help="Number of equal ranges of positions.")] = 16,
    as_json: AsJson = False,
    png: Png = None,
) -> None:
    """Influence of each range of positions on the last token, at every depth."""
    from sigprop.model.huggingface import load

    reading = load(spec)
    check_targets([Target("png", png, FIGURES)], [spec])
    with progress(None, "layers"):
        found = sigprop.influence(reading.spec, bins)
    with picture(png, lambda: _influence(found, Path(spec).stem)):
        if as_json:
            return emit({"influence": found.tolist()})
        from sigprop.cli import tables

        return show(lambda: tables.influence(found))


def _influence(found: Any, title: str) -> Any:
    from sigprop.plotting.influence import plot_influence

    return plot_influence(found, title)


@app.command()
def critical(spec: Spec, rho_max: RhoMax, limit: Limit = False, as_json: AsJson = False) -> None:
    """Smallest residual strength that keeps the overlap below rho_max at the last block."""
    from sigprop.model.huggingface import load

    with progress(None, "strengths"):
        found = sigprop.critical(load(spec).spec, rho_max, _theory(limit))
    if as_json:
        return emit(found.to_dict())
    from sigprop.cli import tables

    return show(lambda: tables.critical(found, rho_max))


@app.command()
def diagram(
    spec: Spec,
    out: Annotated[
        Path, typer.Option(help="NetCDF file to write; or a store NAME.zarr, which resumes.")
    ],
    x: Annotated[str, typer.Option(help="First axis, NAME=LO:HI:N.")] = "beta=0:4:200",
    y: Annotated[str, typer.Option(help="Second axis, NAME=LO:HI:N.")] = "alpha_attn=0:4:200",
    rho_max: RhoMax = 0.98,
    entropy_min: Annotated[
        float | None,
        typer.Option(help="H / log T that counts as collapsed [default: freezing point]."),
    ] = None,
    limit: Limit = False,
    gradients: Annotated[bool, typer.Option("--gradients", help="Add their boundaries.")] = False,
    png: Png = None,
    scheduler: Scheduler = None,
    workers: measure.Workers = measure.CORES,
    as_json: AsJson = False,
) -> None:
    """Trainability diagram over two parameters: NetCDF data and a figure."""
    from sigprop.analysis.diagram.grid import save
    from sigprop.model.huggingface import load
    from sigprop.plotting import plot_diagram

    reading = load(spec)
    axes = dict(_named_axis(text) for text in (x, y))
    if len(axes) < 2:
        raise DomainError("y", y, "a parameter other than that of x")
    store = out.suffix == ".zarr"
    target = Target("out", out, (*DATA, ".zarr"), folder=store)
    check_targets([target, Target("png", png, FIGURES)], [spec])
    require(store or scheduler is None, "out", str(out), "a name ending in .zarr with --scheduler")
    total = 1
    for values in axes.values():
        total *= len(values)
    with progress(total, "grid points") as advance:
        how = Execution(workers, None, scheduler, advance)
        data = _computing(out if store else None, how)(
            reading.spec,
            rho_max=rho_max,
            entropy_min=entropy_min,
            theory=_theory(limit),
            gradients=gradients,
            **axes,
        )
    if not store:
        save(data, out)
    wrote(out)
    with picture(png, lambda: plot_diagram(data, Path(spec).stem)):
        if as_json:
            return emit(_summary(data, out, png))
        from sigprop.cli import tables

        return show(lambda: tables.regimes(_summary(data, out, png)))


def _computing(store: Path | None, how: Execution) -> Callable[..., Any]:
    """Choose where a diagram is computed: in memory, or into a store."""
    if store is None:
        return partial(sigprop.diagram, progress=how.progress)
    from sigprop.analysis.diagram.zarr_store import diagram_store

    return partial(diagram_store, path=store, execution=how)


def _summary(data: Any, out: Path, png: Path | None) -> dict[str, Any]:
    from sigprop.analysis.diagram.grid import REGIMES

    return {
        "out": str(out),
        "png": None if png is None else str(png),
        "shape": list(data["rho"].shape),
        "undefined": int(data.attrs["undefined"]),
        "regimes": {n: int((data["regime"] == i).sum()) for i, n in enumerate(REGIMES)},
    }


@app.command()
def profile(
    spec: Spec,
    entropy: Annotated[float, typer.Option(help="H / log T to hold in every block.")],
    limit: Limit = False,
    as_json: AsJson = False,
) -> None:
    """Inverse temperature per block that holds attention at one entropy."""
    from sigprop.model.huggingface import load

    with progress(None, "layers"):
        found = sigprop.beta_profile(load(spec).spec, entropy, _theory(limit))
    values = {"beta": found.beta.tolist(), "rho": found.rho.tolist()}
    if as_json:
        return emit(values)
    from sigprop.cli import tables

    return show(lambda: tables.profile(values))


@app.command("show")
def show_(
    spec: Spec, rho_max: RhoMax = 0.98, limit: Limit = False, as_json: AsJson = False
) -> None:
    """Show what was read, what follows, and the verdict."""
    from sigprop.analysis.verdict import judge
    from sigprop.model.huggingface import load

    reading = load(spec)
    with progress(None, "layers and strengths"):
        found = judge(reading.spec, rho_max, _theory(limit))
    if as_json:
        return emit(
            {
                "family": reading.family,
                "spec": reading.spec.to_dict(),
                "facts": reading.facts,
                "notes": list(reading.notes),
                **found.to_dict(),
            }
        )
    from sigprop.cli import tables

    return show(lambda: tables.show(reading, found))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DomainError(name, text, "a number") from None


def _named_axis(text: str) -> tuple[str, Any]:
    name, equals, rest = text.partition("=")
    if not equals:
        raise DomainError("axis", text, "NAME=LO:HI:N, as in beta=0:4:200")
    if name not in sigprop.ModelSpec.numbers():
        raise DomainError("axis", text, "one of " + ", ".join(sigprop.ModelSpec.numbers()))
    return name, _axis(name, rest)


def _axis(name: str, text: str) -> Any:
    """LO:HI:N as evenly spaced values; LO:HI:N:log evenly spaced in the logarithm."""
    import numpy as np

    parts = text.split(":")
    if len(parts) not in (3, 4) or (len(parts) == 4 and parts[3] != "log"):
        raise DomainError(name, text, "LO:HI:N or LO:HI:N:log, as in 0:4:200")
    low, high, count = (_number(name, part) for part in parts[:3])
    if not (count == int(count) if abs(count) < 1e9 else False) or not 2 <= count <= 100_000:
        raise DomainError(name, text, "N an integer in [2, 100000]")
    if not (abs(low) < 1e300 and abs(high) < 1e300 and low < high):
        raise DomainError(name, text, "LO < HI, both finite")
    if len(parts) == 3:
        values = np.linspace(low, high, int(count))
    elif low > 0:
        values = np.geomspace(low, high, int(count))
    else:
        raise DomainError(name, text, "LO > 0 on a logarithmic axis")
    return np.unique(np.round(values)) if name == "context" else values


for command in (
    *symbolic.COMMANDS,
    *measure.COMMANDS,
    *schemes.COMMANDS,
    *design.COMMANDS,
    *audit.COMMANDS,
    *train.COMMANDS,
):
    app.command()(command)


if __name__ == "__main__":
    main()
