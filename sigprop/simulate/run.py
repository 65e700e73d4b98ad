"""Many random networks: seeds in parallel, each kept on disk as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.arrays import Floats, Ints, finite_or_none
from sigprop.errors import AssumptionError, require
from sigprop.simulate.architecture import check
from sigprop.simulate.inputs import Exchangeable, Source
from sigprop.simulate.measure import ATTENTION, STREAM, block_means, stream
from sigprop.simulate.network import Network
from sigprop.spec import Transformer
from sigprop.store import Arrays, Job, gather
from sigprop.validate import count

__all__ = ["Measured", "jobs", "measured", "network_cell", "simulate"]

ROOM = 2**22  # entries of one stream; more settings run one part after the other


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

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.simulate import simulate
    >>> spec = Transformer(depth=2, context=16, width=32, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> found = simulate(spec, seeds=2)
    >>> found.mean("rho").shape, found.mean("y2").shape
    ((3,), (2,))
    """

    samples: dict[str, Floats]
    seeds: tuple[int, ...]

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
        for name in self.samples:
            out[name] = finite_or_none(self.mean(name))
            out[f"{name}_se"] = finite_or_none(self.se(name))
        return out


def simulate(
    spec: Transformer,
    seeds: int = 8,
    *,
    source: Source | None = None,
    first_seed: int = 0,
    blocks: int | None = None,
    projection: bool = False,
    workers: int = 1,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Measure random networks of a description, layer by layer.

    Products are taken in single precision, statistics in double.

    Parameters
    ----------
    spec : Transformer
        The description, with a width; arrays run with the same draws, so that differences between
        settings are sharper than their standard errors.
    seeds : int
        Number of networks, in [1, 100000].
    source : Source, optional
        Kind of input; by default exchangeable Gaussian tokens of overlap `rho0`.
    first_seed : int
        Seeds are first_seed, first_seed + 1, ...
    blocks : int, optional
        Also measure the token kernel, averaged over so many position blocks squared.
    projection : bool
        Draw the output matrix of attention, in place of a rotation with its gain.
    workers : int
        Processes; with more than one, a script must be importable (its work under
        ``if __name__ == "__main__"``).
    folder : Path, optional
        Where finished seeds are kept; a second call continues.
    progress : callable, optional
        Called with the number of finished seeds.

    Returns
    -------
    Measured
        Every seed's numbers.

    Raises
    ------
    DomainError
        If the description has no width, its heads do not divide it, or the context is not one
        finite number.
    AssumptionError
        If the state of some token vanishes or overflows.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.simulate import simulate
    >>> spec = Transformer(depth=3, context=32, width=64, beta=0, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> bool(simulate(spec, seeds=2).mean("rho")[-1] > 0.1)
    True
    """
    todo = jobs(spec, seeds, source, first_seed, blocks, projection)
    return measured(todo, gather(todo, folder, workers, progress))


def jobs(
    spec: Transformer,
    seeds: int,
    source: Source | None = None,
    first_seed: int = 0,
    blocks: int | None = None,
    projection: bool = False,
) -> list[Job]:
    """One job for each seed of `simulate`, to be gathered with others.

    Parameters
    ----------
    spec, seeds, source, first_seed, blocks, projection
        As in `simulate`.

    Returns
    -------
    list of Job
        In the order of the seeds.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.simulate.run import jobs
    >>> spec = Transformer(depth=1, context=8, width=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> len(jobs(spec, 3))
    3
    """
    check(spec)
    number = count("seeds", seeds, 1, 100_000)
    first = count("first_seed", first_seed, 0, 2**62)
    if blocks is not None:
        blocks = count("blocks", blocks, 1, int(spec.context))
    kind = source or Exchangeable()
    known = {"spec": spec.to_dict(), "blocks": blocks, "projection": projection}
    what = {"source": type(kind).__name__, "given": vars(kind)}
    return [
        Job(network_cell, {**known, **what, "seed": seed}) for seed in range(first, first + number)
    ]


def measured(todo: list[Job], found: list[Arrays]) -> Measured:
    """Put the seeds of one `jobs` together.

    Parameters
    ----------
    todo : list of Job
        The jobs.
    found : list of dict of str to array
        Their results.

    Returns
    -------
    Measured
        Every seed's numbers.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.simulate.run import jobs, measured
    >>> from sigprop.store import gather
    >>> spec = Transformer(depth=1, context=8, width=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> measured(todo := jobs(spec, 2), gather(todo)).seeds
    (0, 1)
    """
    seeds = tuple(int(job.arguments["seed"]) for job in todo)
    return Measured({name: np.stack([f[name] for f in found]) for name in found[0]}, seeds)


def network_cell(
    spec: dict[str, Any],
    blocks: int | None,
    projection: bool,
    source: str,
    given: dict[str, Any],
    seed: int,
) -> Arrays:
    """Measure one network: the job of one seed.

    Parameters
    ----------
    spec : dict
        As from `Transformer.to_dict`.
    blocks, projection, seed
        As in `simulate`.
    source, given : str, dict
        Kind of input and its parameters.

    Returns
    -------
    dict of str to array
        The statistics, layers first.
    """
    from sigprop.simulate import inputs

    np.empty(2**22)  # its release makes glibc keep freed memory (see sigprop.propagate)
    whole = Transformer.from_dict(spec)
    kind = getattr(inputs, source)(**given)
    points = int(np.prod(whole.shape))
    size = max(1, ROOM // int(whole.context * (whole.width or 1)))
    parts = [
        _measure(_settings(whole, slice(i, i + size)), kind, blocks, projection, seed)
        for i in range(0, points, size)
    ]
    return {
        name: np.concatenate([part[name] for part in parts], axis=1).reshape(
            -1, *whole.shape, *parts[0][name].shape[2:]
        )
        for name in parts[0]
    }


def _settings(spec: Transformer, part: slice) -> Transformer:
    """Take some of the settings of a spec, as arrays of one axis."""
    changes = {
        name: np.broadcast_to(getattr(spec, name), spec.shape).reshape(-1)[part]
        for name in spec.numbers()
        if name not in ("context", "sigma_w2")
    }
    return spec.replace(sigma_w2=None, **changes)


def _measure(
    spec: Transformer, source: Source, blocks: int | None, projection: bool, seed: int
) -> Arrays:
    require(len(spec.shape) == 1, "spec", spec.shape, "one axis")
    rng = np.random.Generator(np.random.SFC64(seed))
    x = source.draw(spec, rng)
    found, heads, kernels = [stream(x)], [], []
    if blocks is not None:
        kernels.append(block_means(x, blocks))
    with np.errstate(all="ignore"):  # what is not finite is refused below
        for layer in Network(spec, rng, projection=projection).run(x):
            found.append(stream(layer.x))
            heads.append(layer.attention)
            if blocks is not None:
                kernels.append(block_means(layer.x, blocks))
    out = dict(zip(STREAM, np.stack(found, axis=1), strict=True))
    out |= dict(zip(ATTENTION, np.stack(heads, axis=1), strict=True))
    if not np.isfinite(np.stack(found)).all():
        raise AssumptionError("the state of some token vanishes or overflows on the way")
    return out | ({"block_means": np.stack(kernels)} if kernels else {})
