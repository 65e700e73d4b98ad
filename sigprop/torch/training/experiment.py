"""Real training runs over a trainability diagram, to judge its prediction.

Fixed before any run of the grid was made: a run *trains* if its held-out loss, where the token to
be guessed is not shown, ends at least `MARGIN` nats below the baseline: guessing by token frequency
for an encoder, which a model that cannot tell tokens apart does not beat, and a smoothed bigram
table for a decoder, which a model without attention does not beat. The predictor is the distance to
the boundaries of the diagram (`sigprop.studies.training_prediction`), nothing adjusted. Runs and
predictions are stored apart: a run stays what it was when the theory improves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sigprop.analysis.design.recommend import recommend
from sigprop.analysis.design.targets import Targets
from sigprop.analysis.schemes.outcome import described
from sigprop.core.arrays import Floats, Ints
from sigprop.core.jobs.cache import Arrays, Job, gather
from sigprop.core.jobs.cache import job as named_job
from sigprop.core.jobs.execution import Execution, takes_execution
from sigprop.core.version import __version__
from sigprop.model.spec import ModelSpec
from sigprop.torch.training.config import Plan
from sigprop.torch.training.corpus import KINDS, Corpus
from sigprop.torch.training.train import train

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "BASE",
    "MARGIN",
    "PLANS",
    "SCHEMES",
    "Trial",
    "cell",
    "experiment",
    "job",
    "marked",
    "trials",
]

MARGIN = 0.02  # nats below the baseline
BASE = ModelSpec(
    depth=6, context=32, width=64, heads=4, beta=1.0, sigma_v2=1.0, sigma_w2=1.0, alpha_attn=2.0,
    alpha_mlp=2.0, rho0=0.02,
)  # fmt: skip
HELD = 2**14  # windows: all that a small text holds out
PLANS = {
    "encoder": Plan(steps=1000, rate=2e-3, every=250, held=HELD),
    "decoder": Plan(steps=1500, rate=2e-3, every=375, held=HELD),
}
DEPTHS = (6, 12)
AXES = {"beta": (0.1, 4.0), "alpha_attn": (0.4, 6.0)}
SCHEMES = ("pytorch", "glorot-normal", "gpt2", "deepnorm")
DESIGNS = {"recommended-0.9": 0.9, "recommended-0.5": 0.5}  # by largest overlap
FREE = {"beta": (0.1, 1.0), "alpha_attn": (0.5, 8.0), "alpha_mlp": (0.5, 8.0)}
GRID, SECTION = "grid", "section"  # parts of the experiment; the others are named by their scheme
SCALARS = ("loss", "loss_se", "baseline", "gain", "gain_se")


class Trial(NamedTuple):
    """One run of the experiment.

    Attributes
    ----------
    model : str
        "encoder" or "decoder".
    part : str
        "grid", "section" (further seeds at the middle beta), or the name of an initialisation.
    spec : ModelSpec
        The description.
    plan : Plan
        How it is trained.
    """

    model: str
    part: str
    spec: ModelSpec
    plan: Plan


@named_job("training.run")
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
        Of `ModelSpec`.
    plan : dict
        Of `Plan`.
    train_windows, held_windows, vocabulary
        As in `Corpus`.

    Returns
    -------
    dict of str to array
        loss, loss_se, baseline, gain, gain_se where the token is not shown; number, gain, gain_se
        of every kind of position, as hidden_gain; diverged, wall, versions (JSON), and the log:
        log_step, log_loss, log_rho, log_entropy, ...

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.torch.training.experiment import BASE, cell
    >>> ones = np.full((4, 8), 5)
    >>> spec = BASE.replace(depth=1, context=8, width=8, heads=1).to_dict()
    >>> found = cell(spec, {"steps": 2, "every": 1}, ones, ones, 16)
    >>> found["log_rho"].shape
    (2, 2)
    """
    import torch

    torch.set_num_threads(1)
    text = Corpus(train_windows, held_windows, vocabulary, "", "", "")
    run = train(ModelSpec.from_dict(spec), text, Plan(**plan), device="cpu")
    values = run.judged._asdict() | {"loss": run.loss, "gain": run.gain}
    scalars = {name: values[name] for name in SCALARS}
    for kind, one in run.held.items():
        scalars |= {f"{kind}_{n}": getattr(one, n) for n in ("number", "gain", "gain_se")}
    scalars |= {"diverged": run.diverged, "wall": run.wall, "versions": json.dumps(run.versions)}
    log = {f"log_{name}": values for name, values in run.log.items()}
    return {name: np.array(value) for name, value in scalars.items()} | log


def job(spec: ModelSpec, plan: Plan, text: Corpus) -> Job:
    """Run of a description as a cell of `sigprop.core.jobs.cache.gather`.

    Parameters
    ----------
    spec : ModelSpec
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


def marked(base: ModelSpec = BASE) -> dict[str, ModelSpec]:
    """Describe the initialisations that people use, and the recommended ones.

    Parameters
    ----------
    base : ModelSpec
        The architecture.

    Returns
    -------
    dict of str to ModelSpec
        The schemes `SCHEMES` (their multipliers of branches in the variances), and two designs of
        `sigprop.analysis.design.recommend.recommend`, nearest to Xavier's by beta and residual
        strengths, with overlaps of at most 0.9 and 0.5.

    Examples
    --------
    >>> from sigprop.torch.training.experiment import BASE, marked
    >>> found = marked(BASE.replace(depth=2))
    >>> round(found["glorot-normal"].beta, 3)
    0.537
    """
    specs = {name: described(name, base)[1] for name in SCHEMES}
    home = specs["glorot-normal"]
    designs = {name: recommend(home, Targets(rho_max=r), FREE) for name, r in DESIGNS.items()}
    return specs | {name: design.spec for name, design in designs.items()}


def trials(
    base: ModelSpec = BASE,
    plans: Mapping[str, Plan] = PLANS,
    depths: Sequence[int] = DEPTHS,
    points: int = 7,
    seeds: int = 1,
) -> list[Trial]:
    """List the runs of the experiment.

    Parameters
    ----------
    base : ModelSpec
        The architecture of the encoders; decoders have a causal mask. The grid replaces its depth,
        beta and alpha_attn.
    plans : mapping of str to Plan
        How encoders and decoders are trained; a model that is not named is left out.
    depths : sequence of int
        Depths of the encoders; decoders have the first.
    points : int
        Points of the encoders' grid along each axis, evenly spaced in the logarithm over `AXES`;
        that of the decoders takes every other one.
    seeds : int
        Seeds of the section at the middle beta, and of the marked initialisations (encoders); the
        rest has one.

    Returns
    -------
    list of Trial
        In the order in which they are run.

    Examples
    --------
    >>> from sigprop.torch.training.experiment import PLANS, trials
    >>> len(trials(plans={"encoder": PLANS["encoder"]}, depths=(1,), points=3, seeds=1))
    15
    """
    axes = {name: np.geomspace(*ends, points) for name, ends in AXES.items()}
    found = []
    for model, plan in plans.items():
        causal = model == "decoder"
        step, own = (2, depths[:1]) if causal else (1, depths)
        betas, alphas = (values[::step].tolist() for values in axes.values())
        stacks = [base.replace(depth=depth, causal=causal) for depth in own]
        found += [
            Trial(model, GRID, stack.replace(beta=b, alpha_attn=a), plan)
            for stack in stacks
            for b in betas
            for a in alphas
        ]
        if causal:
            continue
        others = [replace(plan, seed=plan.seed + i) for i in range(seeds)]
        middle = betas[len(betas) // 2]
        for stack in stacks:
            section = [stack.replace(beta=middle, alpha_attn=a) for a in alphas]
            found += [Trial(model, SECTION, one, p) for one in section for p in others[1:]]
            found += [Trial(model, n, one, p) for n, one in marked(stack).items() for p in others]
    return found


@takes_execution
def experiment(
    text: Corpus,
    asked: Sequence[Trial],
    *,
    execution: Execution | None = None,
) -> xr.Dataset:
    """Train every trial, and tabulate what was measured.

    Parameters
    ----------
    text : Corpus
        What is trained on, in windows of the context of the trials.
    asked : sequence of Trial
        From `trials`.
    execution : Execution, optional
        Processes, folder of finished runs, cluster, progress.

    Returns
    -------
    xarray.Dataset
        One row a run. What it was: model, part, depth, beta, alpha_attn, seed, spec (JSON).
        What was measured: loss, baseline, gain where the token to be guessed is not shown, with
        standard errors (nats); gains of every kind of position; rho, entropy and query (the
        smallest gradient of a query matrix) before and after training; diverged (step or -1).
        Where a run diverged, its measurements are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.torch.training.config import Plan
    >>> from sigprop.torch.training.corpus import Corpus
    >>> from sigprop.torch.training.experiment import BASE, Trial, experiment
    >>> text = Corpus(np.full((4, 8), 5), np.full((2, 8), 5), 16, "", "fives", "")
    >>> spec = BASE.replace(depth=1, context=8, width=8, heads=1)
    >>> runs = experiment(text, [Trial("encoder", "grid", spec, Plan(steps=1))])
    >>> runs.sizes["run"], runs["part"].values.tolist()
    (1, ['grid'])
    """
    import xarray as xr

    jobs = [job(one.spec, one.plan, text) for one in asked]
    unique = {one.key: one for one in jobs}
    done = gather([*unique.values()], execution)
    runs = dict(zip(unique, done, strict=True))
    found = [runs[one.key] for one in jobs]
    rows = {
        "model": [one.model for one in asked],
        "part": [one.part for one in asked],
        "seed": [one.plan.seed for one in asked],
        "spec": [json.dumps(one.spec.to_dict()) for one in asked],
        "depth": [one.spec.depth for one in asked],
        "beta": [float(one.spec.beta) for one in asked],
        "alpha_attn": [float(one.spec.alpha_attn) for one in asked],
        **_measured(found),
    }
    table = {name: ("run", np.asarray(values)) for name, values in rows.items()}
    return xr.Dataset(table, attrs=_provenance(asked, text, [*runs.values()]))


def _measured(found: list[Arrays]) -> dict[str, Floats]:
    """Columns over runs; what is not finite, or was not measured in a run, is NaN."""
    kinds = [f"{kind}_{n}" for kind in sum(KINDS.values(), ()) for n in ("gain", "gain_se")]
    names = [*SCALARS, *kinds, "diverged", "wall"]
    columns = {name: [float(one.get(name, np.nan)) for one in found] for name in names}
    for when, row in (("start", 0), ("end", -1)):
        ends = [_ends(one, row) for one in found]
        columns |= {f"{name}_{when}": [one[name] for one in ends] for name in ends[0]}
    return {n: np.where(np.isfinite(v), v, np.nan) for n, v in columns.items()}


def _ends(one: Arrays, row: int) -> dict[str, float]:
    """Overlap, entropy and query gradient in a row of a log; NaN of a run that has none."""
    if not len(one["log_step"]):
        return dict.fromkeys(("rho", "entropy", "query"), np.nan)
    return {
        "rho": float(one["log_rho"][row, -1]),
        "entropy": float(one["log_entropy"][row].min()),
        "query": float(one["log_query"][row].min()),
    }


def _provenance(asked: Sequence[Trial], text: Corpus, found: list[Arrays]) -> dict[str, Any]:
    walls = np.array([float(one["wall"]) for one in found])
    versions = sorted({str(one["versions"]) for one in found})
    return {
        "sigprop_version": __version__,
        "plans": json.dumps({one.model: asdict(replace(one.plan, seed=0)) for one in asked}),
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
