"""How well a prediction separates what trains from what does not; needs no torch.

The predictor, distance to the nearer boundary, the margin of the data, and the controls were fixed
before the runs were made; the product (1 - rho_L) H_min/log T was suggested by earlier runs of
encoders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sigprop.analysis.diagram.grid import REGIMES
from sigprop.core.arrays import Floats
from sigprop.core.errors import AssumptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "PREDICTORS",
    "Estimate",
    "area",
    "correlation",
    "estimate",
    "findings",
    "judged",
    "outcomes",
    "part",
    "provenance",
    "regimes",
    "separation",
]

DRAWS, SEED = 2000, 0
MARGINS = (0.01, 0.05, 0.1)  # nats, beside that of the data
COVERED = (2.5, 97.5)  # percentiles of the bootstrap
MODELS = ("encoder", "decoder")
PARTS = ("grid", "section")  # the other parts are marked initialisations
BASELINES = {
    "encoder": "guessing by frequency, on hidden positions",
    "decoder": "a smoothed bigram table of the text, on every next token",
}
Statistic = Callable[[Floats, Floats], Floats]


class Estimate(NamedTuple):
    """A statistic of a set of runs.

    Attributes
    ----------
    value : float
        The statistic.
    low, high : float
        Its 95 % interval, by drawing the runs anew.

    Examples
    --------
    >>> from sigprop.studies.training_judge import Estimate
    >>> str(Estimate(0.9, 0.85, 0.951))
    '0.900 [0.850, 0.951]'
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def area(score: Floats, gain: Floats) -> Floats:
    """Area under the curve of true against false positives: P(score of a positive is higher).

    Parameters
    ----------
    score : array, shape (..., n)
        Predictor, higher where training is predicted.
    gain : array, shape (..., n)
        Positive for a run that trains.

    Returns
    -------
    array, shape (...)
        In [0, 1]; ties count one half. NaN where all runs are of one kind.

    Notes
    -----
    Mann & Whitney 1947: the sum of the ranks of the positives.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.studies.training_judge import area
    >>> float(area(np.array([1.0, 2.0, 3.0, 4.0]), np.array([-1.0, 1.0, -1.0, 1.0])))
    0.75
    """
    from scipy.stats import rankdata

    positive = gain > 0
    count = positive.sum(axis=-1)
    other = positive.shape[-1] - count
    ranks = np.where(positive, rankdata(score, axis=-1), 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray((ranks - count * (count + 1) / 2) / (count * other))


def correlation(score: Floats, gain: Floats) -> Floats:
    """Rank correlation of a predictor and a measurement (Spearman 1904).

    Parameters
    ----------
    score, gain : arrays, shape (..., n)
        The two.

    Returns
    -------
    array, shape (...)
        In [-1, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.studies.training_judge import correlation
    >>> float(correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])).round(12))
    1.0
    """
    from scipy.stats import rankdata

    x, y = (rankdata(values, axis=-1) for values in (score, gain))
    x, y = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (x, y))
    with np.errstate(invalid="ignore"):
        norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
        return np.asarray((x * y).sum(axis=-1) / norm)


def estimate(statistic: Statistic, score: Floats, gain: Floats) -> Estimate:
    """Estimate a statistic with a 95 % interval from 2000 bootstrap draws of the runs.

    The draws treat runs as independent. Neighbours in a grid are alike, so the interval says how
    much hangs on single runs, not how another grid or task would come out.

    Parameters
    ----------
    statistic : callable
        `area` or `correlation`.
    score, gain : arrays, shape (n,)
        Predictor and measurement of each run.

    Returns
    -------
    Estimate
        Value and interval.

    Raises
    ------
    AssumptionError
        If the statistic is not defined, as when all runs are of one kind.

    Notes
    -----
    Efron 1979, percentile interval. Draws without both kinds of runs are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.studies.training_judge import area, estimate
    >>> estimate(area, np.arange(20.0), np.arange(20.0) - 9.5)
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    value = float(statistic(score, gain))
    if np.isnan(value):
        raise AssumptionError("separation needs runs that train and runs that do not")
    rows = np.random.default_rng(SEED).integers(0, len(score), (DRAWS, len(score)))
    low, high = np.nanpercentile(statistic(score[rows], gain[rows]), COVERED)
    return Estimate(value, float(low), float(high))


def judged(runs: xr.Dataset, prediction: xr.Dataset) -> xr.Dataset:
    """Put runs and their predictions side by side.

    Parameters
    ----------
    runs : xarray.Dataset
        From `sigprop.torch.training.experiment.experiment`.
    prediction : xarray.Dataset
        From `sigprop.studies.training_prediction.predict`, of the same runs.

    Returns
    -------
    xarray.Dataset
        One table over run.

    Raises
    ------
    AssumptionError
        If the prediction is of other runs.
    """
    if runs.sizes["run"] != prediction.sizes["run"]:
        raise AssumptionError(
            f"the prediction is of {prediction.sizes['run']} runs, the table has "
            f"{runs.sizes['run']}: predict it again"
        )
    return runs.assign(prediction.data_vars)


def part(data: xr.Dataset, **wanted: Any) -> xr.Dataset:
    """Select rows of a table of runs.

    Parameters
    ----------
    data : xarray.Dataset
        From `judged`, or runs alone.
    **wanted
        Columns and their values, as model="encoder", part="grid", depth=6.

    Returns
    -------
    xarray.Dataset
        The rows that agree with all of them.

    Examples
    --------
    >>> import xarray
    >>> from sigprop.studies.training_judge import part
    >>> part(xarray.Dataset({"depth": ("run", [6, 12])}), depth=6).sizes["run"]
    1
    """
    keep = np.ones(data.sizes["run"], dtype=bool)
    for name, value in wanted.items():
        keep &= np.asarray(data[name] == value)
    return data.isel(run=np.flatnonzero(keep))


def _log(values: Any) -> Floats:
    return np.asarray(np.log(np.asarray(values)))


PREDICTORS: dict[str, tuple[str, Callable[[xr.Dataset], Floats]]] = {
    "distance": ("distance to the nearer boundary", lambda data: np.asarray(data["distance"])),
    "product": (
        "(1 - rho_L) H_min/log T",
        lambda data: np.asarray(data["gap_ratio"] * data["entropy_ratio"]),
    ),
    "overlap": ("1 - rho_L alone", lambda data: np.asarray(data["gap_ratio"])),
    "entropy": ("smallest entropy alone", lambda data: np.asarray(data["entropy_ratio"])),
    "gradient": ("size of the gradient's gain alone", lambda data: -np.abs(_log(data["apjn"]))),
    "query": ("query over value gradient alone", lambda data: _log(data["score_gradient"])),
    "rule": (
        "no theory: alpha_attn/sqrt(L)",
        lambda data: np.asarray(data["alpha_attn"] / np.sqrt(data["depth"])),
    ),
}


def outcomes(data: xr.Dataset) -> Floats:
    """Gain of every run beyond the margin: positive for one that trains.

    Parameters
    ----------
    data : xarray.Dataset
        Rows of a table of runs.

    Returns
    -------
    array, shape (run,)
        Nats; minus infinity for a run that diverged.
    """
    gain = np.asarray(data["gain"])
    return np.where(np.isnan(gain), -np.inf, gain) - float(data.attrs["margin"])


def separation(data: xr.Dataset) -> dict[str, dict[str, Estimate]]:
    """Area under the curve and rank correlation of every predictor.

    Parameters
    ----------
    data : xarray.Dataset
        Rows of a table from `judged`.

    Returns
    -------
    dict
        By name of the predictor: auc, correlation. A predictor that theory does not give for all
        of the rows, as gradients under a mask, is left out.

    Raises
    ------
    AssumptionError
        If all runs train, or none does.
    """
    gain, out = outcomes(data), {}
    for name, (_, build) in PREDICTORS.items():
        score = build(data)
        if np.isfinite(score).all():
            both = {"auc": area, "correlation": correlation}
            out[name] = {key: estimate(one, score, gain) for key, one in both.items()}
    return out


def regimes(data: xr.Dataset) -> dict[str, tuple[int, int]]:
    """How many runs of each predicted regime train, and how many there are.

    Parameters
    ----------
    data : xarray.Dataset
        Rows of a table from `judged`.

    Returns
    -------
    dict of str to (int, int)
        By regime.
    """
    trains, code = outcomes(data) > 0, np.asarray(data["regime"])
    return {
        name: (int(trains[code == i].sum()), int((code == i).sum()))
        for i, name in enumerate(REGIMES)
    }


def findings(data: xr.Dataset) -> list[str]:
    """Say in sentences how the prediction fared.

    Parameters
    ----------
    data : xarray.Dataset
        Table from `judged`.

    Returns
    -------
    list of str
        For encoders and decoders: the criterion, areas and correlations with intervals, regimes;
        what runs gain on positions that show the token; then the marked initialisations and the
        spread over seeds.
    """
    out = []
    for model in MODELS:
        own = part(data, model=model)
        if own.sizes["run"]:
            out += _model(own, model)
    return out


def _model(data: xr.Dataset, model: str) -> list[str]:
    grid = part(data, part="grid")
    trains, depths = outcomes(grid) > 0, sorted({*grid["depth"].values.tolist()})
    diverged = int((np.asarray(data["diverged"]) >= 0).sum())
    out = [
        f"{model}: a run trains if it ends {data.attrs['margin']:g} nats below "
        f"{BASELINES[model]}. {trains.sum()} of {trains.size} cells train, "
        + ", ".join(f"{_counted(part(grid, depth=d))} at L = {d}" for d in depths)
        + f"; {diverged} runs diverged."
    ]
    if 0 < trains.sum() < trains.size:
        out += _separated(grid, model, depths)
    if model == "encoder":
        out.append(_copying(grid))
    names = [name for name in dict.fromkeys(data["part"].values.tolist()) if name not in PARTS]
    out += [f"{model}, {_scheme(part(data, part=name), name)}" for name in names]
    return [*out, *_spread(data, model)]


def _counted(data: xr.Dataset) -> str:
    return f"{int((outcomes(data) > 0).sum())} of {data.sizes['run']}"


def _separated(grid: xr.Dataset, model: str, depths: list[int]) -> list[str]:
    trains = outcomes(grid) > 0
    found = separation(grid)
    out = [
        f"{model}, {PREDICTORS[name][0]}: AUC {one['auc']}, rank correlation with the gain "
        f"{one['correlation']}."
        for name, one in found.items()
    ]
    if len(found) < len(PREDICTORS):
        out.append(f"{model}: gradients have no theory by position; their predictors are left out.")
    parts = [f"L = {d} {_area(part(grid, depth=d))}" for d in depths]
    out.append(f"{model}, AUC of the distance at one depth: {', '.join(parts)}.")
    others = [f"{m:g} nats {_area(grid.assign_attrs(margin=m))}" for m in MARGINS]
    out.append(f"{model}, AUC of the distance at other margins: {', '.join(others)}.")
    counts = [f"{n.replace('_', ' ')} {a} of {b}" for n, (a, b) in regimes(grid).items() if b]
    healthy = np.asarray(grid["regime"]) == REGIMES.index("trainable")
    return [
        *out,
        f"{model}, cells that train by predicted regime: {', '.join(counts)}.",
        f"{model}, threshold of the diagram: {healthy[trains].mean():.2f} of the cells that train "
        f"are called trainable, {(~healthy)[~trains].mean():.2f} of the others are not.",
    ]


def _area(data: xr.Dataset) -> Estimate | str:
    gain = outcomes(data)
    one_kind = (gain > 0).all() or (gain <= 0).all()
    return "undefined" if one_kind else estimate(area, np.asarray(data["distance"]), gain)


def _copying(grid: xr.Dataset) -> str:
    """Say what is gained where the token to be guessed, or another one, is shown."""
    stuck = outcomes(grid) <= 0
    kept = np.asarray(grid["kept_gain"])
    return (
        f"encoder, positions that show their own token: {int((kept[stuck] > 0.5).sum())} of the "
        f"{stuck.sum()} cells that do not train gain over 0.5 nats there, by copying; median over "
        f"all cells {_median(kept)}, on replaced positions {_median(grid['replaced_gain'])}."
    )


def _median(gains: Any) -> str:
    """Median over the cells that have such positions."""
    known = np.asarray(gains)[np.isfinite(gains)]
    return f"{np.median(known):.2f} nats" if known.size else "unknown"


def _scheme(data: xr.Dataset, name: str) -> str:
    """Gain of a marked initialisation by seed, at every depth."""
    parts = []
    for depth in sorted({*data["depth"].values.tolist()}):
        one = part(data, depth=depth)
        gains = ", ".join(f"{gain:.3f}" for gain in one["gain"].values)
        rho, far = (float(one[column][0]) for column in ("rho", "distance"))
        parts.append(f"L = {depth} (rho_L {rho:.3f}, distance {far:.2f}) {gains}")
    return f"{name}, gain in nats by seed: {'; '.join(parts)}."


def _spread(data: xr.Dataset, model: str) -> list[str]:
    """Largest standard deviation of the gain over seeds, of what has several."""
    again = np.unique(part(data, part="section")["spec"])
    spreads = [np.std(part(data, spec=spec)["gain"].values, ddof=1) for spec in again]
    if not spreads:
        return []
    words = f"{model}: standard deviation of the gain over seeds on the section at the middle beta"
    return [f"{words}: median {np.nanmedian(spreads):.3f}, at most {np.nanmax(spreads):.3f} nats."]


def provenance(data: xr.Dataset) -> dict[str, Any]:
    """Gather findings, parameters, seeds, versions and wall time of an experiment.

    Parameters
    ----------
    data : xarray.Dataset
        From `judged`.

    Returns
    -------
    dict
        JSON values, to lie beside the data.
    """
    parameters = {
        name: json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
        for name, value in ((n, getattr(v, "item", lambda v=v: v)()) for n, v in data.attrs.items())
    }
    return {
        "figure": "training",
        "title": "Training runs over the trainability diagram",
        "findings": findings(data),
        "parameters": parameters,
        "command": "sigprop trainability --text FILE",
    }
