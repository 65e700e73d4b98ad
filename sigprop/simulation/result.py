"""What many random networks show: every seed's numbers, means and standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.core.arrays import Floats, Ints, finite_or_none
from sigprop.core.jobs.cache import Arrays, Job

__all__ = ["Measured", "measured"]


@dataclass(frozen=True)
class Measured:
    """What a number of random networks of one description show.

    Attributes
    ----------
    samples : dict of str to array, shape (N, L+1, ...) or (N, L, ...)
        Each seed's rho, gap_ratio, q after every block (input first), y2, overlap, entropy (nats)
        in every block, and `block_means` if asked for.
    seeds : tuple of int
        The seeds, in order.
    engine : str
        What drew from them: the same seed is another network in another engine.
    kernel_moved : float, optional
        Largest change of a cosine that made a given kernel admissible, where one was given.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation import simulate
    >>> spec = ModelSpec(depth=2, context=16, width=32, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> found = simulate(spec, seeds=2)
    >>> found.mean("rho").shape, found.mean("y2").shape
    ((3,), (2,))
    """

    samples: dict[str, Floats]
    seeds: tuple[int, ...]
    engine: str = "numpy"
    kernel_moved: float | None = None

    @property
    def layer(self) -> Ints:
        """Block index; 0 is the input."""
        return np.arange(self.samples["rho"].shape[1])

    def mean(self, name: str) -> Floats:
        """Mean over the seeds.

        Parameters
        ----------
        name : str
            Statistic.

        Returns
        -------
        array, shape (L+1, ...) or (L, ...)
            The mean.
        """
        return np.asarray(self.samples[name].mean(axis=0))

    def se(self, name: str) -> Floats:
        """Find the standard error of the mean over the seeds; NaN for one seed.

        Parameters
        ----------
        name : str
            Statistic.

        Returns
        -------
        array, shape (L+1, ...) or (L, ...)
            The standard error.
        """
        number = len(self.seeds)
        if number < 2:
            return np.full(self.samples[name].shape[1:], np.nan)
        return np.asarray(self.samples[name].std(axis=0, ddof=1) / np.sqrt(number))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: mean under each name, standard error under name_se.

        Returns
        -------
        dict
            Nested lists; what is not finite is null.
        """
        out: dict[str, Any] = {"layer": self.layer.tolist(), "seeds": list(self.seeds)}
        out["engine"] = self.engine
        if self.kernel_moved is not None:
            out["kernel_moved"] = self.kernel_moved
        for name in self.samples:
            out[name] = finite_or_none(self.mean(name))
            out[f"{name}_se"] = finite_or_none(self.se(name))
        return out


def measured(todo: list[Job], found: list[Arrays], kernel_moved: float | None = None) -> Measured:
    """Put the seeds of one `jobs` together.

    Parameters
    ----------
    todo : list of Job
        The jobs.
    found : list of dict of str to array
        Their results.
    kernel_moved : float, optional
        As in `Measured`.

    Returns
    -------
    Measured
        Every seed's numbers.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation.result import measured
    >>> from sigprop.simulation.run import jobs
    >>> from sigprop.core.jobs.cache import gather
    >>> spec = ModelSpec(depth=1, context=8, width=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> measured(todo := jobs(spec, 2), gather(todo)).seeds
    (0, 1)
    """
    known = [job.arguments for job in todo]
    seeds = tuple(int(s) for k in known for s in k.get("seeds", [k.get("seed")]))
    engine = "torch" if "device" in known[0] else "numpy"
    join = np.concatenate if engine == "torch" else np.stack
    samples = {name: join([f[name] for f in found]) for name in found[0]}
    return Measured(samples, seeds, engine, kernel_moved)
