"""Commands that train: one run, and runs over a trainability diagram."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from sigprop.cli.console import DATA, AsJson, Scheduler, emit, picture, progress, show, wrote
from sigprop.core.checks import choice
from sigprop.core.errors import DomainError, need
from sigprop.core.files import Target, check_targets, write
from sigprop.core.jobs.execution import Execution

__all__ = ["COMMANDS"]

Text = Annotated[
    Path | None,
    typer.Option(help="UTF-8 text, stories separated by <|endoftext|> [default: TinyStories from "
                      "the Hub, by the package datasets]."),
]  # fmt: skip
Vocabulary = Annotated[int, typer.Option(help="Tokens of the WordPiece tokenizer.")]
Batch = Annotated[int, typer.Option(help="Windows in a batch.")]
Rate = Annotated[float, typer.Option(help="Largest learning rate.")]
Seed = Annotated[int, typer.Option(help="Of weights, batches and masks.")]
SIDE = ("tokenizer.json", "run.json")  # beside a checkpoint


def train(
    spec: Annotated[
        str | None, typer.Argument(help="SPEC.json with a width [default: six small blocks].")
    ] = None,
    text: Text = None,
    steps: Annotated[int, typer.Option(help="Updates.")] = 600,
    batch: Batch = 32,
    rate: Rate = 3e-3,
    vocabulary: Vocabulary = 250,
    seed: Seed = 0,
    every: Annotated[int, typer.Option(help="Steps between rows of the log.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Folder of checkpoint and log; a second run resumes.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda [default: what there is].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a description on text, as an encoder or a causal decoder; log what the signal does."""
    need("sigprop train", "torch", "torch", "tokenizers")
    from sigprop.model.huggingface import load
    from sigprop.propagation.solve import propagate
    from sigprop.torch.training.config import Plan
    from sigprop.torch.training.corpus import corpus
    from sigprop.torch.training.experiment import BASE
    from sigprop.torch.training.model import check
    from sigprop.torch.training.train import CHECKPOINT
    from sigprop.torch.training.train import train as run

    read = BASE if spec is None else load(spec).spec
    check(read)
    files = [] if out is None else [out / name for name in (CHECKPOINT, *SIDE)]
    wanted = [Target("out", out, folder=True), *(Target("out", file) for file in files)]
    check_targets(wanted if out is None or out.exists() else wanted[:1], [spec, text])
    plan = Plan(steps=steps, batch=batch, rate=rate, seed=seed, every=every)
    words = corpus(text, int(read.context), vocabulary)
    with progress(steps, "steps") as advance:
        done = [0]

        def told(row: dict[str, Any]) -> None:
            advance(row["step"] - done[0])
            done[0] = row["step"]

        found = run(read, words, plan, out, told, device)
    values = {"spec": read.to_dict(), "plan": vars(plan), "text": words.source,
              "text_sha256": words.digest} | found.to_dict()  # fmt: skip
    if out is not None:
        contents = (words.tokenizer, json.dumps(values, allow_nan=False))
        for file, content in zip(files[1:], contents, strict=True):
            write(file, content)
        wrote(*files)
    if as_json:
        return emit(values)
    from sigprop.cli import tables_training

    return show(lambda: tables_training.run(found, propagate(read)))


def trainability(
    text: Text = None,
    depths: Annotated[
        str, typer.Option(help="Numbers of blocks, with commas; decoders have the first.")
    ] = "6,12",
    points: Annotated[
        int, typer.Option(help="Points of the encoders' grid along beta and alpha_attn.")
    ] = 7,
    models: Annotated[str, typer.Option(help="What is trained.")] = "encoder,decoder",
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 2e-3,
    seeds: Annotated[int, typer.Option(help="Seeds of one section and of known schemes.")] = 1,
    steps: Annotated[
        int, typer.Option(help="Updates of an encoder; a decoder makes half as many again.")
    ] = 1000,
    vocabulary: Vocabulary = 250,
    keep: Annotated[
        Path | None, typer.Option(help="Folder of finished runs; a second start resumes.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = os.cpu_count() or 1,
    scheduler: Scheduler = None,
    runs: Annotated[
        Path | None, typer.Option(help="Runs of an earlier call: predict and judge, train nothing.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="NetCDF file of the runs; predictions go to NAME_prediction.nc, findings "
            "to NAME.json, the figure to NAME.png and NAME.pdf."
        ),
    ] = Path("training.nc"),
    as_json: AsJson = False,
) -> None:
    """Train over a grid of (beta, alpha_attn) and judge the predicted boundary: AUC, figure."""
    from sigprop.analysis.diagram.grid import load, save
    from sigprop.cli import tables_training
    from sigprop.studies.training_judge import judged, provenance
    from sigprop.studies.training_plot import plot_training
    from sigprop.studies.training_prediction import predict

    check_targets([Target("out", out, DATA)])  # it names the files beside it
    beside = out.with_name(f"{out.stem}_prediction.nc")
    files = [beside, *(out.with_suffix(ending) for ending in (".json", ".png", ".pdf"))]
    own = [Target("out", out, DATA)] if runs is None else []
    wanted = [*own, *(Target("out", file) for file in files), Target("keep", keep, folder=True)]
    check_targets(wanted, [text, runs])
    if runs is None:
        how = Execution(workers, keep, scheduler)
        data = _trained(text, depths, points, models, rate, seeds, steps, vocabulary, how)
        save(data, out)
        wrote(out)
    else:
        data = load(runs)
    with progress(None, "predictions"):
        prediction = predict(data)
    table = judged(data, prediction)
    save(prediction, beside)
    about = provenance(table)
    write(files[1], json.dumps(about, indent=1, allow_nan=False) + "\n")
    wrote(beside, files[1])
    drawn = cache(lambda: plot_training(table))
    with picture(files[2], drawn), picture(files[3], drawn):
        if as_json:
            return emit(about)
        written = [str(file) for file in (*([out] if runs is None else []), *files)]
        return show(lambda: tables_training.training(about["findings"], written))


def _trained(
    text: Path | None,
    depths: str,
    points: int,
    models: str,
    rate: float,
    seeds: int,
    steps: int,
    vocabulary: int,
    how: Execution,
) -> Any:
    """Train all runs of the experiment, with progress."""
    need("sigprop trainability", "torch", "torch", "tokenizers")
    from dataclasses import replace

    from sigprop.torch.training.corpus import corpus
    from sigprop.torch.training.experiment import BASE, PLANS, experiment, trials

    stacks = [_depth(word) for word in depths.split(",")]
    for model in models.split(","):
        choice("models", model, tuple(PLANS))
    half = steps // 2
    plans = {
        model: replace(PLANS[model], rate=rate, steps=steps + half * (model == "decoder"))
        for model in models.split(",")
    }
    words = corpus(text, int(BASE.context), vocabulary)
    asked = trials(plans=plans, depths=stacks, points=points, seeds=seeds)
    with progress(len(asked), "runs") as advance:
        return experiment(words, asked, execution=replace(how, progress=advance))


def _depth(word: str) -> int:
    if not word.strip().isdigit():
        raise DomainError("depths", word, "integers with commas, as in 6,18")
    return int(word)


COMMANDS = (train, trainability)
