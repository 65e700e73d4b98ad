"""Commands for practitioners: named schemes, circulating rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sigprop.cli.console import DATA, FIGURES, AsJson, Png, emit, picture, progress, show, wrote
from sigprop.core.files import Target, check_targets

__all__ = ["COMMANDS"]

Config = Annotated[
    str, typer.Argument(help="SPEC.json with a width, a config.json or an example such as gpt2.")
]


def schemes(
    config: Config,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SCHEME]...", help="Schemes [default: all].")
    ] = None,
    rho_max: Annotated[float, typer.Option(help="Largest overlap accepted at the end.")] = 0.98,
    png: Png = None,
    out: Annotated[Path | None, typer.Option(help="NetCDF file of the diagram.")] = None,
    as_json: AsJson = False,
) -> None:
    """Named initialisation schemes in one architecture: numbers, verdicts, a diagram."""
    from sigprop.analysis.schemes.outcome import find, survey
    from sigprop.analysis.schemes.registry import SCHEMES
    from sigprop.model.huggingface import load

    check_targets([Target("out", out, DATA), Target("png", png, FIGURES)], [config])
    wanted = [name for name in names or () if find(name)]
    spec = load(config).spec
    with progress(len(wanted or SCHEMES), "schemes") as advance:
        found = survey(spec, wanted, rho_max, advance)
    data: Any = None
    if png is not None or out is not None:
        from sigprop.analysis.diagram.grid import save
        from sigprop.analysis.schemes.on_diagram import scheme_diagram

        data = scheme_diagram(spec, found, rho_max=rho_max)
        data.attrs["schemes"] = json.dumps([one.to_dict() for one in found])
    if out is not None:
        save(data, out)
        wrote(out)
    with picture(png, lambda: _picture(data, found, Path(config).stem)):
        if as_json:
            return emit({"schemes": [one.to_dict() for one in found]})
        from sigprop.cli import tables

        return show(lambda: tables.schemes(found))


def _picture(data: Any, found: Any, title: str) -> Any:
    from sigprop.plotting.schemes import plot_schemes

    return plot_schemes(data, found, title)


def folklore(
    only: Annotated[int | None, typer.Option(help="Number of one rule, 1 to 16.")] = None,
    config: Annotated[str, typer.Option(help="Architecture to ask about.")] = "bert-base",
    seed: Annotated[int, typer.Option(help="Seed of all draws.")] = 0,
    draws: Annotated[int, typer.Option(help="Draws of each measurement.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Circulating rules: what theory gives, what a simulation measures, verdict, correction."""
    from sigprop.model.huggingface import load
    from sigprop.studies.folklore.rules import CLAIMS
    from sigprop.studies.folklore.verdicts import bench, judge_claims

    where = bench(load(config).spec, seed, draws)
    numbers = () if only is None else (only,)
    with progress(len(numbers) or len(CLAIMS), "rules") as advance:
        found = judge_claims(CLAIMS, where, numbers, advance)
    if as_json:
        return emit({"folklore": [one.to_dict() for one in found]})
    from sigprop.cli import tables

    return show(lambda: tables.findings(found))


COMMANDS = (schemes, folklore)
