"""How well a prediction separates what trains from what does not; needs no torch.

The predictor, distance to the nearer boundary, and the margin of the data, 0.05 nats, were fixed
before the shipped runs. The second learning rate, the recommended design of overlap below 0.5, the
rule alpha_attn/sqrt(L) and the other margins were added when the first results were known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sigprop.arrays import Bools, Floats
from sigprop.diagram import REGIMES
from sigprop.errors import AssumptionError, require

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "PREDICTORS",
    "Estimate",
    "area",
    "correlation",
    "estimate",
    "findings",
    "outcomes",
    "regimes",
    "separation",
]

DRAWS, SEED = 2000, 0
MARGINS = (0.02, 0.1)  # nats, beside that of the data
AXES = ("rate", "depth", "beta", "alpha_attn", "seed")
COVERED = (2.5, 97.5)  # percentiles of the bootstrap
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
    >>> from sigprop.separation import Estimate
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
    >>> from sigprop.separation import area
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
    >>> from sigprop.separation import correlation
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
    >>> from sigprop.separation import area, estimate
    >>> estimate(area, np.arange(20.0), np.arange(20.0) - 9.5)
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    value = float(statistic(score, gain))
    if np.isnan(value):
        raise AssumptionError("separation needs runs that train and runs that do not")
    rows = np.random.default_rng(SEED).integers(0, len(score), (DRAWS, len(score)))
    low, high = np.nanpercentile(statistic(score[rows], gain[rows]), COVERED)
    return Estimate(value, float(low), float(high))


def _log(values: Any) -> Floats:
    return np.asarray(np.log(np.asarray(values)))


def _rule(data: xr.Dataset) -> Floats:
    """Order the cells by the usual scaling of branches; it has no threshold of its own."""
    rule = data["alpha_attn"] / np.sqrt(data["depth"])
    return np.asarray(rule.broadcast_like(data["distance"]).transpose(*data["distance"].dims))


PREDICTORS: dict[str, tuple[str, Callable[[xr.Dataset], Floats]]] = {
    "distance": ("distance to the nearer boundary", lambda data: np.asarray(data["distance"])),
    "overlap": ("1 - rho_L alone", lambda data: np.asarray(data["gap_ratio"])),
    "entropy": ("smallest entropy alone", lambda data: np.asarray(data["entropy_ratio"])),
    "gradient": ("size of the gradient's gain alone", lambda data: -np.abs(_log(data["apjn"]))),
    "query": ("query over value gradient alone", lambda data: _log(data["score_gradient"])),
    "rule": ("no theory: alpha_attn/sqrt(L)", lambda data: _rule(data)),
}


def outcomes(data: xr.Dataset, rate: float | None = None) -> Floats:
    """Gain of every run of the grid beyond the margin: positive for one that trains.

    Parameters
    ----------
    data : xarray.Dataset
        From `sigprop.torch.trainability.experiment`.
    rate : float, optional
        One of its learning rates; without it the best of them, run by run.

    Returns
    -------
    array, shape (depth, beta, alpha_attn)
        Nats; minus infinity for a run that diverged.
    """
    gain = data["gain"] if rate is None else data["gain"].sel(rate=[rate])
    known = np.where(np.isnan(gain), -np.inf, gain)
    return np.asarray(known.max(axis=0) - float(data.attrs["margin"]))


def separation(
    data: xr.Dataset, rate: float | None = None, depth: int | None = None
) -> dict[str, dict[str, Estimate]]:
    """Area under the curve and rank correlation of every predictor.

    Parameters
    ----------
    data : xarray.Dataset
        From `sigprop.torch.trainability.experiment`.
    rate : float, optional
        As in `outcomes`.
    depth : int, optional
        One depth alone; all without it.

    Returns
    -------
    dict
        By name of the predictor: auc, correlation.

    Raises
    ------
    AssumptionError
        If all runs train, or none does.
    """
    part = data if depth is None else data.sel(depth=[depth])
    gain = outcomes(part, rate).ravel()
    out = {}
    for name, (_, build) in PREDICTORS.items():
        score = build(part).ravel()
        require(np.isfinite(score), "predictor", name, "a prediction for every run")
        both = {"auc": area, "correlation": correlation}
        out[name] = {key: estimate(one, score, gain) for key, one in both.items()}
    return out


def regimes(data: xr.Dataset, rate: float | None = None) -> dict[str, tuple[int, int]]:
    """How many cells of each predicted regime train, and how many there are.

    Parameters
    ----------
    data, rate
        As in `outcomes`.

    Returns
    -------
    dict of str to (int, int)
        By regime.
    """
    trains: Bools = outcomes(data, rate) > 0
    code = np.asarray(data["regime"])
    return {
        name: (int(trains[code == i].sum()), int((code == i).sum()))
        for i, name in enumerate(REGIMES)
    }


def findings(data: xr.Dataset) -> list[str]:
    """Say in sentences how the prediction fared.

    Parameters
    ----------
    data : xarray.Dataset
        From `sigprop.torch.trainability.experiment`.

    Returns
    -------
    list of str
        For each learning rate, and for the best one in every cell: areas with intervals, regimes;
        then the marked initialisations and the spread over seeds.
    """
    diverged = int((np.asarray(data["diverged"]) >= 0).sum())
    out = [
        f"A run trains if its held-out loss ends {data.attrs['margin']:g} nats below that of "
        f"guessing by frequency; {diverged} runs diverged."
    ]
    for rate in data["rate"].values.tolist():
        out += _judged(data, rate, f"learning rate {rate:g}")
    if data.sizes["rate"] > 1:
        out += _judged(data, None, "best learning rate of each cell")
    out += [_scheme(data, name) for name in data["scheme"].values.tolist()]
    if data.sizes["seed"] == 1:
        return out
    spread = np.asarray(data["section_gain"].std("seed", ddof=1).max())
    return [*out, f"Spread of the gain over seeds on the section: at most {spread:.3f} nats."]


def _judged(data: xr.Dataset, rate: float | None, words: str) -> list[str]:
    trains = outcomes(data, rate) > 0
    out = [f"{words}: {trains.sum()} of {trains.size} cells train."]
    if not 0 < trains.sum() < trains.size:
        return out
    for name, found in separation(data, rate).items():
        what = PREDICTORS[name][0]
        line = f"AUC {found['auc']}, rank correlation with the gain {found['correlation']}"
        out.append(f"{words}, {what}: {line}.")
    counts = regimes(data, rate).items()
    parts = [f"{name.replace('_', ' ')} {a} of {n}" for name, (a, n) in counts if n]
    out.append(f"{words}, cells that train by predicted regime: {', '.join(parts)}.")
    healthy = np.asarray(data["regime"]) == REGIMES.index("trainable")
    out.append(
        f"{words}, threshold of the diagram: {healthy[trains].mean():.2f} of the cells that train "
        f"are called trainable, {(~healthy)[~trains].mean():.2f} of the others are not."
    )
    others = [f"{m:g} nats {_area(data, rate, m)}" for m in MARGINS]
    return [*out, f"{words}, AUC of the distance at other margins: {', '.join(others)}."]


def _area(data: xr.Dataset, rate: float | None, margin: float) -> Estimate | str:
    gain = outcomes(data.assign_attrs(margin=margin), rate).ravel()
    one_kind = (gain > 0).all() or (gain <= 0).all()
    return "undefined" if one_kind else estimate(area, np.ravel(data["distance"]), gain)


def _scheme(data: xr.Dataset, name: str) -> str:
    """Gain of a marked initialisation by seed, at every depth and learning rate."""
    one = data.sel(scheme=name)
    parts = []
    for depth in data["depth"].values.tolist():
        there = one.sel(depth=depth)
        gains = [
            f"rate {rate:g}: "
            + ", ".join(f"{g:.3f}" for g in there["mark_gain"].sel(rate=rate).values)
            for rate in data["rate"].values.tolist()
        ]
        where = (
            f"rho_L {float(there['mark_rho']):.3f}, distance {float(there['mark_distance']):.2f}"
        )
        parts.append(f"L = {depth} ({where}) {', '.join(gains)}")
    return f"{name}, gain in nats by seed: {'; '.join(parts)}."


def provenance(data: xr.Dataset) -> dict[str, Any]:
    """Gather findings, parameters, seeds, versions and wall time of an experiment.

    Parameters
    ----------
    data : xarray.Dataset
        From `sigprop.torch.trainability.experiment`.

    Returns
    -------
    dict
        JSON values, to lie beside the data.
    """
    parameters = {
        name: json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
        for name, value in ((n, getattr(v, "item", lambda v=v: v)()) for n, v in data.attrs.items())
    }
    axes = {name: data[name].values.tolist() for name in AXES}
    return {
        "figure": "training",
        "title": "Training runs over the trainability diagram",
        "findings": findings(data),
        "axes": axes,
        "parameters": parameters,
        "command": "sigprop trainability --text FILE",
    }
