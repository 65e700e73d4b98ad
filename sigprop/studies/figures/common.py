"""What the figures share: how much is computed, where it is kept, theory beside measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.jobs.cache import Arrays, Job, gather
from sigprop.core.jobs.execution import Execution
from sigprop.core.notation import NOTATION
from sigprop.model.spec import ModelSpec
from sigprop.model.text import windows
from sigprop.simulation import Measured, Source
from sigprop.simulation.result import measured
from sigprop.simulation.run import jobs
from sigprop.studies.comparison import deviation

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure as Picture

__all__ = ["Figure", "Lab", "attributes", "beside", "findings"]

T = TypeVar("T")
Bar = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]
THEORIES = {"finite": "theory at finite T", "limit": "published limit"}


@dataclass(frozen=True)
class Lab:
    """How the data of a figure are made.

    Parameters
    ----------
    quick : bool
        Small networks and few seeds, for a check in minutes.
    text : Path, optional
        Text file whose tokens are the input where a figure uses text.
    execution : Execution
        Processes, folder of finished cells, cluster, progress.
    bar : callable, optional
        From a total and a label to a context that yields a progress callback, for each part of the
        work in place of the one of `execution`.

    Examples
    --------
    >>> from sigprop.studies.figures.common import Lab
    >>> Lab(quick=True).pick(100, 10)
    10
    """

    quick: bool = False
    text: Path | None = None
    execution: Execution = field(default_factory=Execution)
    bar: Bar | None = None

    def pick(self, full: T, quick: T) -> T:
        """Choose by how much is to be computed.

        Parameters
        ----------
        full, quick : object
            The two choices.

        Returns
        -------
        object
            One of them.
        """
        return quick if self.quick else full

    def windows(self, context: int) -> Ints | None:
        """Token windows of the text, or None without one.

        Parameters
        ----------
        context : int
            Tokens in a window.

        Returns
        -------
        array of int, shape (windows, context), or None
            Token ids.

        Raises
        ------
        DomainError
            If the text is not admissible or too short.
        """
        return None if self.text is None else windows(self.text, context)

    def gather(self, todo: list[Job], what: str) -> list[Arrays]:
        """Results of jobs, with a progress bar where there is one.

        Parameters
        ----------
        todo : list of Job
            The jobs.
        what : str
            Label of the bar.

        Returns
        -------
        list of dict of str to array
            In the order of the jobs.
        """
        if self.bar is None:
            return gather(todo, self.execution)
        with self.bar(len(todo), what) as advance:
            return gather(todo, replace(self.execution, progress=advance))

    def measure(
        self,
        specs: Iterable[ModelSpec],
        seeds: int,
        what: str,
        source: Source | None = None,
        blocks: int | None = None,
    ) -> list[Measured]:
        """Random networks of several descriptions.

        Parameters
        ----------
        specs : iterable of ModelSpec
            The descriptions.
        seeds : int
            Networks of each.
        what : str
            Label of the bar.
        source, blocks
            As in `sigprop.simulation.simulate`.

        Returns
        -------
        list of Measured
            One for each description.
        """
        todo = [jobs(spec, seeds, source, blocks=blocks) for spec in specs]
        found = iter(self.gather([job for part in todo for job in part], what))
        return [measured(part, [next(found) for _ in part]) for part in todo]


@dataclass(frozen=True)
class Figure:
    """A figure: a picture of data, data of parameters.

    Attributes
    ----------
    name, title, shows : str
        Name of its files, title, and what to look for.
    data : callable
        From a `Lab` to an xarray.Dataset, whose attributes are the parameters.
    draw : callable
        From the dataset to a matplotlib figure.
    findings : callable
        From the dataset to sentences: how far theory is from measurement.
    text_context : callable
        From a `Lab` to the context length for which it reads a text, or None.

    Examples
    --------
    >>> from sigprop.studies.figures import FIGURES
    >>> FIGURES["critical"].title
    'Critical residual strength against depth'
    """

    name: str
    title: str
    shows: str
    data: Callable[[Lab], xr.Dataset]
    draw: Callable[[xr.Dataset], Picture]
    findings: Callable[[xr.Dataset], list[str]]
    text_context: Callable[[Lab], int | None] = lambda _: None


def attributes(name: str) -> dict[str, Any]:
    """Metadata of a variable: meaning, symbol, unit.

    Parameters
    ----------
    name : str
        Name as in `sigprop.core.notation`.

    Returns
    -------
    dict
        For xarray.

    Examples
    --------
    >>> from sigprop.studies.figures.common import attributes
    >>> attributes("rho")["long_name"]
    'token overlap'
    """
    entry = NOTATION[name]
    return {"long_name": entry.meaning, "symbol": entry.symbol, "units": entry.unit}


def beside(
    name: str,
    dims: tuple[str, ...],
    found: Measured,
    theories: dict[str, Floats],
    layers: slice | int = slice(None),
) -> dict[str, Any]:
    """Variables of a dataset: measured mean, standard error, spread, and each theory.

    Parameters
    ----------
    name : str
        Statistic.
    dims : tuple of str
        Its dimensions.
    found : Measured
        The measurement.
    theories : dict of str to array
        Predictions by name; stored under NAME_THEORY.
    layers : slice or int
        Which layers of the measurement.

    Returns
    -------
    dict
        NAME, NAME_se, NAME_sd, NAME_THEORY.
    """
    columns = {
        name: found.mean(name)[layers],
        f"{name}_se": found.se(name)[layers],
        f"{name}_sd": found.samples[name].std(axis=0, ddof=1)[layers],
    }
    columns |= {f"{name}_{theory}": values for theory, values in theories.items()}
    return {key: (dims, values, attributes(name)) for key, values in columns.items()}


def findings(data: xr.Dataset, name: str, where: str = "") -> list[str]:
    """Sentences: how far each theory in a dataset is from its measurement.

    Parameters
    ----------
    data : xarray.Dataset
        With the variables of `beside`, or a selection of them.
    name : str
        Statistic.
    where : str
        What the selection is, to begin the sentence with.

    Returns
    -------
    list of str
        One sentence for each theory.
    """
    mean, se = (np.asarray(data[key]) for key in (name, f"{name}_se"))
    out = []
    for theory, words in THEORIES.items():
        if f"{name}_{theory}" in data:
            d = deviation(np.asarray(data[f"{name}_{theory}"]), mean, se)
            out.append(
                f"{where}{NOTATION[name].meaning}: {words} off by at most {d.largest:.3g}, on "
                f"average {d.mean:.3g} (largest standard error {float(np.nanmax(se)):.2g})."
            )
    return out
