"""Real training runs over a trainability diagram, to judge its prediction.

Fixed before any run of the grid was made: a run *trains* if its held-out loss ends at least
`MARGIN` nats below that of guessing by token frequency, which a model that cannot tell tokens apart
does not beat. The *predictor* is the one that draws the diagram (`sigprop.diagram`, nothing
adjusted): the distance to its boundaries, the smaller of log(gap_L/(1 - rho_max)) and
-log(beta_hot/beta_c), at its defaults; positive in the regime that it calls trainable. Its parts
are judged too, alone. The learning rate was chosen on one healthy cell (L = 18, alpha 3.8 to 4):
3e-3 beat 1.5e-3, and 1e-2 did not train. Added once the first grid had been seen: the grid at 1e-3,
and the design with rho_L below 0.5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.arrays import Floats, Ints
from sigprop.design import recommend
from sigprop.diagram import diagram
from sigprop.plan import boundary_fields
from sigprop.schemes import described
from sigprop.spec import Transformer
from sigprop.store import Arrays, Job, gather
from sigprop.sweep import sweep
from sigprop.targets import Targets
from sigprop.torch.plan import Plan
from sigprop.torch.tokens import Corpus
from sigprop.torch.train import train
from sigprop.version import __version__

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BASE", "MARGIN", "PLAN", "SCHEMES", "cell", "count_runs", "experiment", "job", "marked"]

RHO_MAX = 0.98  # the default of `sigprop.diagram.diagram`
MARGIN = 0.05  # nats below guessing by frequency
BASE = Transformer(
    depth=6, context=32, width=64, heads=4, beta=1.0, sigma_v2=1.0, sigma_w2=1.0, alpha_attn=2.0,
    alpha_mlp=2.0, rho0=0.02,
)  # fmt: skip
PLAN = Plan(steps=160, every=40)
DEPTHS = (6, 18)
RATES = (1e-3,)  # beside that of the plan
AXES = {"beta": (0.1, 4.0), "alpha_attn": (0.4, 6.0)}
SCHEMES = ("pytorch", "glorot-normal", "gpt2", "deepnorm")
DESIGNS = {"recommended": 0.9, "recommended-0.5": 0.5}  # by largest overlap
FREE = {"beta": (0.1, 1.0), "alpha_attn": (0.5, 8.0), "alpha_mlp": (0.5, 8.0)}
SCALARS = ("loss", "loss_se", "unigram", "gain", "gain_se", "diverged", "wall")
CELL = ("depth", "beta", "alpha_attn")
GRID = ("rate", *CELL)
FINE = 40  # points of the predicted boundaries along each axis


def cell(
    spec: dict[str, Any],
    plan: dict[str, Any],
    train_windows: Ints,
    held_windows: Ints,
    vocabulary: int,
) -> Arrays:
    """One training run, from what a `Job` can hold, on one thread.

    Parameters
    ----------
    spec : dict
        Of `Transformer`.
    plan : dict
        Of `Plan`.
    train_windows, held_windows, vocabulary
        As in `Corpus`.

    Returns
    -------
    dict of str to array
        loss, loss_se, unigram, gain, gain_se, diverged, wall, versions (JSON), and the log:
        log_step, log_loss, log_rho, log_entropy, ...

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.torch.trainability import BASE, cell
    >>> ones = np.full((4, 8), 5)
    >>> spec = BASE.replace(depth=1, context=8, width=8, heads=1).to_dict()
    >>> found = cell(spec, {"steps": 2, "every": 1}, ones, ones, 16)
    >>> found["log_rho"].shape
    (2, 2)
    """
    import torch

    torch.set_num_threads(1)
    text = Corpus(train_windows, held_windows, vocabulary, "", "", "")
    run = train(Transformer.from_dict(spec), text, Plan(**plan), device="cpu")
    scalars = {name: np.array(getattr(run, name)) for name in SCALARS}
    log = {f"log_{name}": values for name, values in run.log.items()}
    return scalars | log | {"versions": np.array(json.dumps(run.versions))}


def job(spec: Transformer, plan: Plan, text: Corpus) -> Job:
    """Run of a description as a cell of `sigprop.store.gather`.

    Parameters
    ----------
    spec : Transformer
        The description.
    plan : Plan
        How it is trained; the seed is part of it.
    text : Corpus
        On what.

    Returns
    -------
    Job
        The work, named by everything that its result depends on.
    """
    return Job(
        cell,
        {
            "spec": spec.to_dict(),
            "plan": asdict(plan),
            "train_windows": text.train,
            "held_windows": text.held,
            "vocabulary": text.vocabulary,
        },
    )


def marked(base: Transformer = BASE) -> dict[str, Transformer]:
    """Describe the initialisations that people use, and the recommended one.

    Parameters
    ----------
    base : Transformer
        The architecture.

    Returns
    -------
    dict of str to Transformer
        The schemes `SCHEMES` (their multipliers of branches in the variances), and two designs of
        `sigprop.design.recommend`, nearest to Xavier's by beta and residual strengths: with the
        default targets, and with half the overlap.

    Examples
    --------
    >>> from sigprop.torch.trainability import BASE, marked
    >>> found = marked(BASE.replace(depth=2))
    >>> round(found["glorot-normal"].beta, 3)
    0.537
    """
    specs = {name: described(name, base)[1] for name in SCHEMES}
    home = specs["glorot-normal"]
    designs = {name: recommend(home, Targets(rho_max=r), FREE) for name, r in DESIGNS.items()}
    return specs | {name: design.spec for name, design in designs.items()}


def count_runs(depths: int, points: int = 7, rates: int = 1, seeds: int = 3) -> int:
    """Count the runs of `experiment`.

    Parameters
    ----------
    depths, points, rates, seeds : int
        Numbers of depths, of points along each axis, of further learning rates, of seeds.

    Returns
    -------
    int
        Runs of the grid, and further seeds of its section and of the marked initialisations.

    Examples
    --------
    >>> from sigprop.torch.trainability import count_runs
    >>> count_runs(2)
    296
    """
    marks = (len(SCHEMES) + len(DESIGNS)) * seeds
    return depths * ((1 + rates) * (points**2 + marks) + points * (seeds - 1))


def experiment(
    text: Corpus,
    *,
    base: Transformer = BASE,
    plan: Plan = PLAN,
    depths: Sequence[int] = DEPTHS,
    points: int = 7,
    rates: Sequence[float] = RATES,
    seeds: int = 3,
    folder: Path | None = None,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    scheduler: str | None = None,
) -> xr.Dataset:
    """Train over a grid of (beta, alpha_attn) at several depths, beside what theory predicts.

    Parameters
    ----------
    text : Corpus
        What is trained on, in windows of the context of `base`.
    base : Transformer
        The architecture; the grid replaces its depth, beta and alpha_attn.
    plan : Plan
        How each run is trained.
    depths : sequence of int
        Depths.
    points : int
        Points along each axis, evenly spaced in the logarithm over `AXES`.
    rates : sequence of float
        Further learning rates of the grid and of the marked initialisations.
    seeds : int
        Seeds of the section at the middle beta and of the marked initialisations; the rest of the
        grid has one.
    folder : Path, optional
        Where finished runs are kept; a second call continues.
    workers : int
        Processes, one thread each.
    progress : callable, optional
        Called with the number of finished runs.
    scheduler : str, optional
        Address of a dask scheduler whose workers do the runs, as in `sigprop.store.gather`.

    Returns
    -------
    xarray.Dataset
        Over (rate, depth, beta, alpha_attn): loss, gain below guessing by frequency with its
        standard error, overlap and entropy measured before and after training. Over (depth, beta,
        alpha_attn): distance, rho, entropy_ratio, regime, apjn, score_gradient as predicted. Over
        (depth, alpha_attn, seed) section_gain, over (rate, depth, scheme, seed) mark_gain, and
        where the marks lie. Where a run diverged the values are NaN, and `diverged` says when.
    """
    axes = {name: np.geomspace(*ends, points) for name, ends in AXES.items()}
    stacks = [base.replace(depth=depth) for depth in depths]
    marks = [marked(stack) for stack in stacks]
    grid = np.array([
        [[stack.replace(beta=float(b), alpha_attn=float(a)) for a in axes["alpha_attn"]]
         for b in axes["beta"]]
        for stack in stacks
    ])  # fmt: skip
    plans = [replace(plan, seed=plan.seed + i) for i in range(seeds)]
    paces = [plan, *(replace(plan, rate=rate) for rate in rates)]
    wanted = {
        "grid": [job(spec, p, text) for p in paces for spec in grid.flat],
        "section": [job(spec, p, text) for spec in grid[:, points // 2].flat for p in plans],
        "mark": [
            job(spec, replace(p, seed=other.seed), text)
            for p in paces
            for one in marks
            for spec in one.values()
            for other in plans
        ],
    }
    unique = {one.key: one for part in wanted.values() for one in part}
    done = gather([*unique.values()], folder, workers, progress, scheduler)
    runs = dict(zip(unique, done, strict=True))
    found = {name: [runs[one.key] for one in part] for name, part in wanted.items()}
    coordinates = {"depth": list(depths), **axes, "scheme": list(marks[0]),
                   "seed": [one.seed for one in plans],
                   "rate": [one.rate for one in paces]}  # fmt: skip
    about = _provenance(base, plan, text, [*runs.values()])
    about["marks"] = json.dumps([{n: s.to_dict() for n, s in one.items()} for one in marks])
    return _assembled(found, stacks, marks, coordinates).assign_attrs(about)


def _assembled(
    found: dict[str, list[Arrays]],
    stacks: list[Transformer],
    marks: list[dict[str, Transformer]],
    coordinates: dict[str, Any],
) -> xr.Dataset:
    """Everything measured beside everything predicted."""
    import xarray as xr

    axes = {name: coordinates[name] for name in AXES}
    sizes = {name: len(values) for name, values in coordinates.items()}

    def gain(name: str, *dims: str) -> Any:
        return dims, _column(found[name], "gain", tuple(sizes[one] for one in dims))

    data = _measured(found["grid"], tuple(sizes[name] for name in GRID))
    data |= _predicted(stacks, axes) | _curves(stacks) | _places(marks)
    data["section_gain"] = gain("section", "depth", "alpha_attn", "seed")
    data["mark_gain"] = gain("mark", "rate", "depth", "scheme", "seed")
    return xr.Dataset(data, coordinates)


def _column(found: list[Arrays], name: str, shape: tuple[int, ...]) -> Floats:
    """Values of all runs; what is not finite (a run that diverged) is NaN."""
    values = np.array([float(one[name]) for one in found]).reshape(shape)
    return np.where(np.isfinite(values), values, np.nan)


def _measured(found: list[Arrays], shape: tuple[int, ...]) -> dict[str, Any]:
    out: dict[str, Any] = {name: (GRID, _column(found, name, shape)) for name in SCALARS}
    for when, row in (("start", 0), ("end", -1)):
        ends = [_ends(one, row) for one in found]
        out |= {f"{name}_{when}": (GRID, _column(ends, name, shape)) for name in ends[0]}
    return out


def _ends(one: Arrays, row: int) -> Arrays:
    """Overlap, entropy and query gradient in a row of a log; NaN of a run that has none."""
    if not len(one["log_step"]):
        return dict.fromkeys(("rho", "entropy", "query"), np.array(np.nan))
    return {
        "rho": one["log_rho"][row, -1],
        "entropy": one["log_entropy"][row].min(),
        "query": one["log_query"][row].min(),
    }


def _predicted(stacks: list[Transformer], axes: dict[str, Any]) -> dict[str, Any]:
    parts = [diagram(stack, gradients=True, **axes) for stack in stacks]
    names = ("rho", "gap_ratio", "reduced_beta", "entropy_ratio", "regime", "apjn",
             "score_gradient")  # fmt: skip
    out: dict[str, Any] = {
        name: (CELL, np.stack([np.asarray(part[name]) for part in parts])) for name in names
    }
    mesh = dict(zip(axes, np.meshgrid(*axes.values(), indexing="ij"), strict=True))
    far = [_distance(stack.replace(**mesh)) for stack in stacks]
    return out | {"distance": (CELL, np.stack(far))}


def _distance(spec: Transformer) -> Floats:
    """Distance to the nearer boundary: positive in the regime that is called trainable."""
    final = sweep(spec)
    fields = boundary_fields(final, np.zeros_like(final.reduced_beta), RHO_MAX, None)
    return np.asarray(np.minimum(*fields.values()))


def _curves(stacks: list[Transformer]) -> dict[str, Any]:
    """Boundaries on a finer grid, one set a depth."""
    fine: dict[str, Any] = {name: np.geomspace(*ends, FINE) for name, ends in AXES.items()}
    out: dict[str, Any] = {}
    for stack in stacks:
        for name, curve in diagram(stack, **fine).items():
            if str(name).endswith(("_x", "_y", "_curve")):
                out[f"{name}_{stack.depth}"] = (f"{curve.dims[0]}_{stack.depth}", curve.values)
    return out


def _places(marks: list[dict[str, Transformer]]) -> dict[str, Any]:
    """Where the marked initialisations lie; strength is alpha_attn/(sigma_v sigma_o)."""

    def each(value: Callable[[Transformer], Any]) -> tuple[tuple[str, str], Floats]:
        rows = [[float(value(spec)) for spec in one.values()] for one in marks]
        return ("depth", "scheme"), np.array(rows)

    return {
        "mark_beta": each(lambda spec: spec.beta),
        "mark_strength": each(
            lambda spec: spec.alpha_attn / np.sqrt(np.asarray(spec.sigma_v2) * spec.sigma_o2)
        ),
        "mark_distance": each(_distance),
        "mark_rho": each(lambda spec: sweep(spec).state.rho),
    }


def _provenance(base: Transformer, plan: Plan, text: Corpus, found: list[Arrays]) -> dict[str, Any]:
    walls = np.array([float(one["wall"]) for one in found])
    versions = sorted({str(one["versions"]) for one in found})
    return {
        "sigprop_version": __version__,
        "spec": json.dumps(base.to_dict()),
        "plan": json.dumps(asdict(plan)),
        "margin": MARGIN,
        "runs": len(found),
        "wall_seconds": float(walls.sum()),
        "versions": json.dumps([json.loads(v) for v in versions]),
        "text": json.dumps({
            "name": text.source,
            "stories_sha256": text.digest,
            "tokens_sha256": hashlib.sha256(text.train.tobytes()).hexdigest(),
            "vocabulary": text.vocabulary,
        }),
    }  # fmt: skip
