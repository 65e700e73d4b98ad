"""Make the table of heads of finite width: an hour on one core.

Run as ``python -m sigprop.layers.attention.statistics.build_heads [--out FILE]``. Every node is the
average of E12b over two queries of one head, each overlap by quadrature for all numbers of keys at
once (`sigprop.layers.attention.statistics.all_lengths`); the same at random points measures the
error that the file holds. Finished head widths are kept beside the output, so that an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import Series, nodes, transform
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics import heads as he
from sigprop.layers.attention.statistics.all_lengths import excess_overlaps
from sigprop.layers.attention.statistics.pairs import excess
from sigprop.layers.attention.statistics.two_queries import head_pairs

COUNTS = (5, 10, he.LATER, 20, 7)  # Chebyshev nodes in head width, n, n'/n, s and 1 - r
NARROW, FEW = 4.0, (14, 5)  # head width below which there are fewer of them in s and 1 - r
HOTTEST, TERMS = 3 * he.HOTTEST, 64  # of one query of a head, and of the series of its excess
POINTS, SEED = 40, 23
Excess = Callable[[float], Floats]


def excess_of(keys: Floats) -> Excess:
    """Excess of one query of n keys at any score deviation, a series for each n."""
    nodes_of_s = co.to_deviation(nodes(TERMS), 0.0, HOTTEST)
    s = nodes_of_s.reshape(-1, *[1] * keys.ndim)
    series = Series(transform(np.log(excess(s, keys) * keys / s**2)))

    def at(s: float) -> Floats:
        place = co.from_deviation(np.asarray(s), 0.0, HOTTEST)
        return np.asarray(s**2 / keys * np.exp(series(place)))

    return at


def shares(
    s: float, gap: float, head_width: float, keys: Floats, later: Floats, one: Excess, two: Excess
) -> tuple[Floats, Floats]:
    """1 - f of two queries, in a head of finite and of infinite width, shape (N, M)."""
    norms, cosines = (5, 3) if NARROW < head_width < 24 else (4, 2)
    joint, alone, beside = 0.0, 0.0, 0.0
    for x, y, r, weight in zip(*head_pairs(head_width, 1 - gap, norms, cosines), strict=True):
        first, second = s * np.sqrt(max(x, 1e-9)), s * np.sqrt(max(y, 1e-9))
        joint = joint + weight * excess_overlaps(first, second, r, keys, later)
        alone = alone + weight * (one(first) + one(second)) / 2
        beside = beside + weight * (two(first) + two(second)) / 2
    wide = excess_overlaps(s, s, 1 - gap, keys, later)
    return 1 - joint / np.sqrt(alone * beside), 1 - wide / np.sqrt(one(s) * two(s))


def row(place: float) -> Floats:
    """Find the coefficients of what the table holds at one head width, shape (N, M, S, R)."""
    width = float(he.to_width(np.asarray(place)))
    keys, later = he.lengths(nodes(COUNTS[1]), nodes(COUNTS[2]))
    one, two = excess_of(keys[:, None]), excess_of(later)
    count = COUNTS[3:] if width > NARROW else FEW
    values = np.empty((*later.shape, *count))
    for i, s in enumerate(co.to_deviation(nodes(count[0]), 0.0, he.HOTTEST).tolist()):
        for j, gap in enumerate(co.to_gap(nodes(count[1]), np.asarray(s)).tolist()):
            finite, infinite = shares(s, gap, width, keys, later, one, two)
            values[..., i, j] = np.log(infinite / finite) / he.bend(np.asarray(s), width)
    for axis in range(4):
        values = transform(values, axis)
    out = np.zeros(COUNTS[1:])
    out[..., : count[0], : count[1]] = values
    return out


def build(out: Path) -> Floats:
    """Chebyshev coefficients over head width, n, n'/n, s and 1 - r."""
    rows = []
    for index, place in enumerate(nodes(COUNTS[0]).tolist()):
        part = out.with_name(f"{out.stem}.part{index}.npy")
        if not part.exists():
            temporary = part.with_suffix(f".{os.getpid()}.tmp.npy")
            np.save(temporary, row(place))
            temporary.replace(part)
            print(f"{index + 1} of {COUNTS[0]} head widths", file=sys.stderr, flush=True)
        rows.append(np.load(part))
    return transform(np.stack(rows))


def errors(table: Floats) -> Floats:
    """Relative error of 1 - f: 95 % of random points stay below it; and the largest."""
    rng, found = np.random.default_rng(SEED), []
    for _ in range(POINTS):
        width, s, gap = 2 ** rng.uniform(3, 7), rng.uniform(0.2, 8.0), rng.uniform(0.01, 1.0)
        keys = np.exp(rng.uniform(np.log(8), np.log(4096), 3))
        later = keys[:, None] * np.array([1.0, rng.uniform(1, 2), rng.uniform(2, 16)])
        one, two = excess_of(keys[:, None]), excess_of(later)
        finite, infinite = shares(s, gap, width, keys, later, one, two)
        first = np.repeat(keys, 3)
        rows = he.rows_of(width, first, later.ravel(), table)
        lost = he.lost(rows, np.full(9, s), np.full(9, gap), width)
        found.append(np.abs(lost - np.log(infinite / finite).ravel()))
    return np.array([np.quantile(found, 0.95), np.max(found)])


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("heads.npz"))
    out = parser.parse_args().out
    table = build(out)
    np.savez_compressed(out, table=table.astype(np.float32), error=errors(table))


if __name__ == "__main__":
    main()
