"""Make the shipped table: an hour on two cores.

Run as ``python -m sigprop.layers.attention.statistics.build_table [--out FILE]``.

Every node is an exact quadrature (`sigprop.layers.attention.statistics.moments`,
`sigprop.layers.attention.statistics.overlap`); finished parts are kept beside the output, so that
an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import nodes, transform
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics.moments import entropy_deficit
from sigprop.layers.attention.statistics.pairs import excess, spread


def one_query(s: Floats, context: Floats) -> Floats:
    """Logarithms of (Y_2 - 1/T) and log T - H over their values at small s."""
    base = s**2 * (1 - 1 / context)
    return np.log(
        np.stack(
            [excess(s, context) * context / base, 2 * entropy_deficit(s, context) / base], axis=-1
        )
    )


def two_queries(s: float, context: float, gap: Floats) -> Floats:
    """log[D / ((1 - r)(Y_2 - 1/T))] / r, so that D is exact at r = 0, 1 and has its sign."""
    r = 1 - gap
    ratio = spread(s, context, r) / gap / excess(s, context)
    return np.log(ratio) / r


def _row(part: int, tau: float) -> Floats:
    """All (y, v) nodes of one context."""
    context = float(co.to_context(np.asarray(tau), part))
    y, v = (nodes(n) for n in co.COUNTS[1:])
    sigma = co.to_sigma(y, np.asarray(context))
    return np.stack([two_queries(s, context, co.to_gap(v, np.asarray(s))) for s in sigma.tolist()])


def _kept(path: Path, part: int, index: int) -> Floats:
    kept = path.with_name(f"{path.stem}.part{part}.{index}.npy")
    if not kept.exists():
        row = _row(part, float(nodes(co.COUNTS[0][part])[index]))
        temporary = kept.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, row)
        temporary.replace(kept)
    return np.asarray(np.load(kept))


def build(path: Path, workers: int) -> None:
    """Compute every node of both parts and write the coefficients to `path`."""
    out: dict[str, Any] = {}
    with ProcessPoolExecutor(workers) as pool:
        for part, count in enumerate(co.COUNTS[0]):
            index = range(count)[::-1]
            rows = list(pool.map(_kept, [path] * count, [part] * count, index))
            out[f"pair{part}"], out[f"single{part}"] = (
                _pair(np.stack(rows[::-1]), part),
                _single(part),
            )
    np.savez_compressed(path, **out)


def _pair(values: Floats, part: int) -> Floats:
    context = co.to_context(nodes(co.COUNTS[0][part]), part)[:, None]
    values = values / co.bend(co.to_sigma(nodes(co.COUNTS[1]), context))[..., None]
    for axis in range(3):
        values = transform(values, axis)
    return values


def _single(part: int) -> Floats:
    context = co.to_context(nodes(co.COUNTS_1[0][part]), part)[:, None]
    s = co.to_sigma(nodes(co.COUNTS_1[1]), context)
    return transform(transform(one_query(s, context) / co.bend(s)[..., None], 0), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("table.npz"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    build(options.out, options.workers)
