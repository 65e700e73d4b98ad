"""Fit what correlated scores do to the queries of masked stacks: 75 minutes on one core.

Run as ``python -m sigprop.studies.build_correlations [--out FILE]``. Random stacks are solved with
`sigprop.layers.attention.key_correlations.BlockedKeys`; what it finds for the queries of all their
layers is fitted by the network of `sigprop.layers.attention.correlation_table.Correlations`, with
torch. A part of the stacks is left out of the fit; on their queries the error that the file holds
is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.layers.attention import correlation_table as ct
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.key_correlations import RATIOS, KeyCorrelation
from sigprop.layers.attention.key_gaps import GapShape, KeyGaps
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.statistics.universal import OneQuery
from sigprop.layers.interface import Place
from sigprop.model.spec import ModelSpec
from sigprop.propagation.stack import Stack, build_block

STACKS, SEED = 5000, 31
LEFT_OUT = 10  # every so many-th stack is
LONGEST, BLOCKS = 2.0**20, 48
HIDDEN, BATCH, STEPS, FASTEST = 4 * (176,), 1024, 100_000, 6e-3
RARELY = 0.1  # least chance of a row to be drawn, over the mean
LINEAR = 2e-4  # errors, as they are felt, beyond which the loss is linear in them
RANDOM = np.random.Generator
Rows = dict[str, Floats]
Looked = TypeVar("Looked", bound=Universal)


@dataclass(frozen=True)
class Recorded(Universal):
    """Statistics that keep what correlations of scores do to each query.

    Parameters
    ----------
    layout, head_width, rotation, smooth
        As in `sigprop.layers.attention.query_universal.Universal`.
    rows : list
        What was found.

    Examples
    --------
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.studies.build_correlations import Recorded
    >>> Recorded(make_layout(4)).rows
    []
    """

    rows: list[Rows] = field(default_factory=list)

    def correlations(
        self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        """Find what correlations do, as `Exact`, and keep it.

        Parameters
        ----------
        scale, deficit, sigma, weight
            As in `Exact`.

        Returns
        -------
        KeyCorrelation
            Likewise.
        """
        found = super().correlations(scale, deficit, sigma, weight)
        index, gaps = self.resolved, self._gaps
        if np.ndim(found.near):
            one = {
                "count": gaps.count,
                "share": gaps.count / self.layout.tokens,
                "sigma": sigma[index],
                "found": np.stack(found, axis=-1)[index],
            }
            self.rows.append(one | gaps(deficit)._asdict())
        return found

    @cached_property
    def _gaps(self) -> KeyGaps:
        return KeyGaps(self.layout.parts[self.resolved])


def log_uniform(rng: RANDOM, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def drawn(rng: RANDOM) -> ModelSpec:
    """Draw a masked stack."""
    heads, size = int(rng.choice([1, 4, 8, 16])), rng.choice([16, 32, 64, 128, 0])
    context = round(log_uniform(rng, 8, 2.0**14 if rng.random() < 0.7 else LONGEST))
    norm = str(rng.choice(["pre", "post"], p=[0.35, 0.65]))
    values: dict[str, Any] = {
        "depth": int(rng.integers(2, 33) if rng.random() < 0.85 else rng.integers(33, 65)),
        "context": context,
        "norm": norm,
        "width": int(heads * size) or None,
        "heads": heads,
        "causal": True,
        "beta": float(rng.uniform(0, 3.5)),
        "sigma_b2": float(rng.choice([0.0, 0.0, 0.03])),
        "rho0": float(rng.choice([0.0, rng.random() ** 3, rng.random()])),
        "activation": str(rng.choice(["relu", "gelu", "silu", "tanh"])),
        "gated": bool(rng.random() < 0.3),
        "attention": str(rng.choice(["softmax", "centred"], p=[0.93, 0.07])),
        "parallel": norm == "pre" and bool(rng.random() < 0.2),
    }
    wide = {"sigma_v2": 3, "sigma_o2": 2, "sigma_w1_2": 3, "sigma_w2_2": 3, "alpha_attn": 2.5}
    values |= {name: log_uniform(rng, 0.3 / most, most) for name, most in wide.items()}
    values["alpha_mlp"] = 1.0 if values["parallel"] else log_uniform(rng, 0.3, 2.5)
    if rng.random() < 0.4:  # about where tokens neither merge nor stay apart
        alpha = rng.uniform(0.6, 1.7)
        values |= {"sigma_o2": 1.0, "alpha_attn": alpha}
        values["alpha_mlp"] = 1.0 if values["parallel"] else alpha
    kind = rng.random()
    if kind < 0.2:
        values["window"] = round(log_uniform(rng, max(3, context / 5), context))
    elif kind < 0.25:
        values["prefix"] = round(rng.uniform(2, context))
    return ModelSpec(**values)


def steps_of(
    spec: ModelSpec, statistics: Callable[[Layout, float | None], Looked]
) -> Iterator[Looked]:
    """Solve a stack with some statistics, and give these after each block."""
    window = np.inf if spec.window is None else spec.window
    layout = make_layout(int(np.asarray(spec.context)), BLOCKS, window, spec.prefix)
    found = statistics(layout, spec.head_width)
    place = Place(PositionGeometry(layout), found)
    stack = Stack([build_block(spec, "finite", place)] * spec.depth, place)
    with np.errstate(all="ignore"):  # of kernels that vanish or overflow
        for step in stack.steps(stack.initial(spec)):
            if not place.geometry.is_valid(step.kernel):
                return
            yield found


def solved(spec: ModelSpec) -> Iterator[Rows]:
    """Find what correlations do to the queries of all layers of a stack."""
    for record in steps_of(spec, Recorded):
        yield from record.rows
        record.rows.clear()


def samples(stacks: range) -> Rows:
    """Find what correlations do to queries of random stacks, and the number of each one's."""
    found: list[Rows] = []
    for number in stacks:
        for rows in solved(drawn(np.random.default_rng([SEED, number]))):
            found.append(rows | {"stack": np.full(rows["count"].size, number)})
    merged = {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}
    known = np.isfinite(merged["found"]).all(axis=1) & (merged["sigma"] > 0)
    return {name: value[known] for name, value in merged.items()}


def inputs_of(rows: Rows) -> tuple[Floats, Floats]:
    """Find inputs of the network for samples, and the factors of its outputs."""
    shape = GapShape(rows["uneven"], rows["apart"], rows["ranges"])
    return ct.inputs(rows["count"], rows["sigma"], shape), ct.factors(rows["sigma"], shape)


def felt(rows: Rows) -> Floats:
    """Weights of errors of shrink, near, part and loss, by what they change; less of few tokens."""
    s, one = rows["sigma"], OneQuery(rows["count"])
    steep = np.abs(one(1.02 * s)[0] - one(0.98 * s)[0]) / 0.04  # change of Y_2
    own = np.minimum(rows["uneven"], 1.0) * s**2 / (1 + s**2)  # of a weight
    lost = 0.03 * one(s)[1]  # of nats
    columns = np.stack([steep + 0.06, np.ones_like(s), own + 0.015, lost + 0.005], axis=-1)
    return np.asarray(columns * rows["share"][:, None] ** 0.25)


def trained(x: Floats, target: Floats, weight: Floats) -> list[Floats]:
    """Weights and biases of all layers, by Adam with a rising, then falling step.

    Rows are drawn by their weights, and large errors count linearly: those of few stacks that are
    like no others would outweigh all the rest.
    """
    import torch
    from torch.nn import Linear, Sequential, SiLU

    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        layers = [Linear(*size) for size in pairwise((x.shape[1], *HIDDEN, target.shape[1]))]
    net = Sequential(*(part for layer in layers for part in (layer, SiLU())))[:-1]
    often = np.linalg.norm(weight, axis=1)
    often = often / often.mean() + RARELY
    data = torch.utils.data.TensorDataset(
        *(torch.tensor(v, dtype=torch.float32) for v in (x, target, weight, often))
    )
    adam = torch.optim.Adam(net.parameters(), FASTEST)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, FASTEST, STEPS, pct_start=0.1)
    ends, rng = np.cumsum(often), np.random.default_rng(SEED)
    for _ in range(STEPS):
        rows = np.searchsorted(ends, rng.uniform(0, ends[-1], BATCH))
        some, wanted, weights, chance = data[torch.from_numpy(rows)]
        off = weights * (net(some) - wanted)
        loss = torch.sqrt(1 + (off / LINEAR).square()) - 1  # pseudo-Huber
        adam.zero_grad()
        (loss.sum(dim=1) / chance).mean().backward()
        adam.step()
        rate.step()
    return [v.detach().numpy().T.copy() for layer in layers for v in (layer.weight, layer.bias)]


def fitted(rows: Rows) -> dict[str, Floats]:
    """Arrays of the file, but the error."""
    x, factor = inputs_of(rows)
    weight, (shrink, near, part, loss) = felt(rows) * factor, rows["found"].T
    target = np.stack([np.log(shrink), near, part - 1, np.log(loss)], axis=-1)
    target = np.divide(target, factor, out=np.zeros_like(target), where=factor > 1e-12)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    level = np.sqrt(np.mean((weight * target) ** 2, axis=0) / np.mean(weight**2, axis=0))
    net = trained((x - centre) / scale, target / level, weight * level)
    net[-2:] = (v * level for v in net[-2:])
    names = (f"{kind}{k}" for k in range(len(net) // 2) for kind in ("weight", "bias"))
    ends = np.stack([x.min(axis=0), x.max(axis=0), centre, scale])
    return {"inputs": ends, **dict(zip(names, net, strict=True))}


def errors(table: dict[str, Floats] | None, rows: Rows) -> Floats:
    """Find root mean square and largest error of shrink, near, part and loss, shape (2, 4)."""
    x, factor = inputs_of(rows)
    found = ct.looked_up(x, factor, table)
    found[0] = np.clip(found[0], RATIOS[0], RATIOS[-1])
    off = found.T - rows["found"]
    return np.stack([np.sqrt(np.mean(off**2, axis=0)), np.abs(off).max(axis=0)])


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(ct.__file__).with_name("correlations.npz")
    parser.add_argument("--out", type=Path, default=default)
    out, rows = parser.parse_args().out, samples(range(STACKS))
    kept = rows["stack"] % LEFT_OUT > 0
    fit, rest = ({name: v[held] for name, v in rows.items()} for held in (kept, ~kept))
    table = fitted(fit)
    arrays: dict[str, Any] = table | {"error": errors(table, rest)}
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main()
