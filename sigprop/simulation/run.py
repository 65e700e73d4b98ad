"""Many random networks: seeds in parallel, each kept on disk as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.checks import choice, count
from sigprop.core.errors import AssumptionError, need, require
from sigprop.core.jobs.cache import Arrays, Job, gather, job
from sigprop.core.jobs.execution import Execution, takes_execution
from sigprop.core.memory import allow
from sigprop.model.spec import ModelSpec
from sigprop.simulation.architecture import Architecture, check
from sigprop.simulation.inputs import Exchangeable, Given, Singles, Source
from sigprop.simulation.network_numpy import Network
from sigprop.simulation.result import Measured, measured
from sigprop.simulation.statistics import ATTENTION, STREAM, block_means, stream

__all__ = ["jobs", "network_cell", "simulate", "torch_cell"]

ROOM = 2**22  # entries of one stream; more settings run one part after the other
BATCH = {"cpu": 2**22, "cuda": 2**28}  # entries of the scores or streams of one batch of seeds
ENGINES = ("numpy", "torch")


@takes_execution
@validated
def simulate(
    spec: ModelSpec,
    seeds: int = 8,
    *,
    source: Source | None = None,
    first_seed: int = 0,
    blocks: int | None = None,
    projection: bool = True,
    engine: str = "numpy",
    device: str | None = None,
    execution: Execution | None = None,
) -> Measured:
    """Measure random networks of a description, layer by layer.

    Products are taken in single precision, statistics in double.

    Parameters
    ----------
    spec : ModelSpec
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
        Draw the output matrix of attention, in place of its gain times the identity, which has
        the same mean kernel and another spread over networks.
    engine : {"numpy", "torch"}
        torch (extra `torch`) runs many seeds at once; the input of a seed is the same, its weights
        are not.
    device : {"cpu", "cuda"}, optional
        Where torch runs; by default the processor.
    execution : Execution, optional
        Processes, folder of finished seeds, cluster, progress.

    Returns
    -------
    Measured
        Every seed's numbers.

    Raises
    ------
    DomainError
        If the description has no width, its heads do not divide it, the context is not one finite
        number, or torch does not find the device.
    MissingExtraError
        If torch is asked for and not installed.
    AssumptionError
        If the state of some token vanishes or overflows.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation import simulate
    >>> spec = ModelSpec(depth=3, context=32, width=64, beta=0, sigma_v2=1, sigma_w2=0, rho0=0)
    >>> bool(simulate(spec, seeds=2).mean("rho")[-1] > 0.1)
    True
    """
    todo = jobs(spec, seeds, source, first_seed, blocks, projection, engine, device)
    moved = source.admitted.moved if isinstance(source, Given) else None
    return measured(todo, gather(todo, execution), moved)


def jobs(
    spec: ModelSpec,
    seeds: int,
    source: Source | None = None,
    first_seed: int = 0,
    blocks: int | None = None,
    projection: bool = True,
    engine: str = "numpy",
    device: str | None = None,
) -> list[Job]:
    """One job for each seed of `simulate`, or batch of seeds in torch, to be gathered with others.

    Parameters
    ----------
    spec, seeds, source, first_seed, blocks, projection, engine, device
        As in `simulate`.

    Returns
    -------
    list of Job
        In the order of the seeds.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.simulation.run import jobs
    >>> spec = ModelSpec(depth=1, context=8, width=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> len(jobs(spec, 3))
    3
    """
    check(spec)
    scores, model = _bytes(spec, engine)
    allow(scores, "context", int(spec.context), "a shorter context")
    allow(scores + model, "width", spec.width, "a narrower model, or a shorter context")
    number = count("seeds", seeds, 1, 100_000)
    first = count("first_seed", first_seed, 0, 2**62)
    if blocks is not None:
        blocks = count("blocks", blocks, 1, int(spec.context))
    kept = 8 * number * (spec.depth + 1) * prod(spec.shape) * (7 + (blocks or 0) ** 2)
    allow(kept, "seeds", number, "fewer seeds, blocks or settings")
    kind = source or Exchangeable()
    kind.check(spec)
    known: dict[str, Any] = {"spec": spec.to_dict(), "blocks": blocks, "projection": projection}
    given = {name: value for name, value in vars(kind).items() if name != "admitted"}
    known |= {"source": type(kind).__name__, "given": given}
    where, each = _device(engine, device), range(first, first + number)
    if where is None:
        return [Job(network_cell, known | {"seed": seed}) for seed in each]
    size = _batch(spec, where)
    parts = [list(each[start : start + size]) for start in range(0, number, size)]
    return [Job(torch_cell, known | {"seeds": part, "device": where}) for part in parts]


def _bytes(spec: ModelSpec, engine: str) -> tuple[float, float]:
    """Memory of one network: scores and masks; streams, hidden layer and the largest matrix."""
    t, d = float(spec.context), float(spec.width or 1)
    hidden = max(1.0, spec.mlp_ratio * d) * (2 if spec.gated else 1)
    at_once = min(prod(spec.shape), max(1.0, ROOM // (t * d)))
    scores = 8 * t**2 if engine == "numpy" else 16 * at_once * spec.heads * t**2
    mask = (23 if spec.attention == "centred" else 3) * t**2 if spec.causal else 0.0
    return scores + mask, 4 * at_once * t * (8 * d + hidden) + 8 * d * max(d, hidden)


def _device(engine: str, device: str | None) -> str | None:
    """Device of torch; None for numpy."""
    choice("engine", engine, ENGINES)
    if engine == "numpy":
        require(device is None, "device", device, 'none unless engine = "torch"')
        return None
    need("the torch engine", "torch", "torch")
    choice("device", device or "cpu", tuple(BATCH))
    if device == "cuda":
        import torch

        require(torch.cuda.is_available(), "device", device, "cpu: torch finds no other here")
    return device or "cpu"


def _batch(spec: ModelSpec, device: str) -> int:
    """Count the seeds that run at once."""
    context, width = int(spec.context), spec.width or 1
    widest = max(width, round(width * spec.mlp_ratio), spec.heads * context)
    return max(1, BATCH[device] // (int(np.prod(spec.shape)) * context * widest))


@job("simulation.network")
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
        As from `ModelSpec.to_dict`.
    blocks, projection, seed
        As in `simulate`.
    source, given : str, dict
        Kind of input and its parameters.

    Returns
    -------
    dict of str to array
        The statistics, layers first.
    """
    np.empty(2**22)  # its release makes glibc keep freed memory (see sigprop.propagate)
    kind = _source(source, given)

    def one(part: ModelSpec) -> Arrays:
        rng = np.random.Generator(np.random.SFC64(seed))
        x = kind.draw(part, rng)
        found = _measure(Network(part, rng, projection=projection), x, blocks)
        return {name: values[None] for name, values in found.items()}

    whole = _over_settings(ModelSpec.from_dict(spec), one)
    return {name: values[0] for name, values in whole.items()}


@job("simulation.torch_network")
def torch_cell(
    spec: dict[str, Any],
    blocks: int | None,
    projection: bool,
    source: str,
    given: dict[str, Any],
    seeds: list[int],
    device: str,
) -> Arrays:
    """Measure the networks of several seeds in torch: the job of one batch.

    Parameters
    ----------
    spec, blocks, projection, source, given
        As in `network_cell`.
    seeds : list of int
        The seeds.
    device : str
        Where they run.

    Returns
    -------
    dict of str to array
        The statistics, seeds first, then layers.
    """
    from sigprop.simulation.network_torch import TorchNetwork

    kind = _source(source, given)

    def all_seeds(part: ModelSpec) -> Arrays:
        rngs = [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]
        x = np.stack([kind.draw(part, rng) for rng in rngs])
        network = TorchNetwork(part, tuple(seeds), device, projection=projection)
        found = _measure(network, x, blocks)
        return {name: np.moveaxis(values, 1, 0) for name, values in found.items()}

    return _over_settings(ModelSpec.from_dict(spec), all_seeds)


def _source(name: str, given: dict[str, Any]) -> Source:
    from sigprop.simulation import inputs

    kind: Source = getattr(inputs, name)(**given)
    return kind


def _over_settings(spec: ModelSpec, measure: Callable[[ModelSpec], Arrays]) -> Arrays:
    """Statistics of all settings, (seeds, layers, settings...), as many at a time as there is room.

    Every part is measured with the same draws.
    """
    points = int(np.prod(spec.shape))
    size = max(1, ROOM // int(spec.context * (spec.width or 1)))
    parts = [measure(_settings(spec, slice(i, i + size))) for i in range(0, points, size)]
    whole = {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}
    return {
        name: values.reshape(*values.shape[:2], *spec.shape, *values.shape[3:])
        for name, values in whole.items()
    }


def _settings(spec: ModelSpec, part: slice) -> ModelSpec:
    """Take some of the settings of a spec, as arrays of one axis."""
    changes = {
        name: np.broadcast_to(getattr(spec, name), spec.shape).reshape(-1)[part]
        for name in spec.numbers()
        if name not in ("context", "sigma_w2")
    }
    return spec.replace(sigma_w2=None, **changes)


def _measure(network: Architecture, x: Singles, blocks: int | None) -> Arrays:
    """Statistics of a network, layers first."""
    found, heads, kernels = [stream(x)], [], []
    if blocks is not None:
        kernels.append(block_means(x, blocks))
    with np.errstate(all="ignore"):  # what is not finite is refused below
        for layer in network.run(x):
            found.append(stream(layer.x))
            heads.append(layer.attention)
            if blocks is not None:
                kernels.append(block_means(layer.x, blocks))
    out = dict(zip(STREAM, np.stack(found, axis=1), strict=True))
    out |= dict(zip(ATTENTION, np.stack(heads, axis=1), strict=True))
    if not np.isfinite(np.stack(found)).all():
        raise AssumptionError("the state of some token vanishes or overflows on the way")
    return out | ({"block_means": np.stack(kernels)} if kernels else {})
