r"""Fit the table of correlated scores under rotary positions: about half an hour on one core.

Run as ``python -m sigprop.layers.attention.build_rotary [--out FILE] [--draws FILE]``. Every point
is what `sigprop.layers.attention.key_correlations.CorrelatedKeys` finds by draws for one query
whose gap rises linearly with log distance, at a random number of keys, base, head width, score
deviation, part of its square that comes from the gap, and rise; each field of draws serves
`POINTS` of them. Chebyshev polynomials of bounded total degree are fitted to the points by least
squares, weighted by the noise of their draws and with independent scores as an exact limit. The
error that the file holds is that of a fit to four fifths of the fields at the other fifth, which
holds the noise of the draws there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import basis
from sigprop.layers.attention import correlation_table as ct
from sigprop.layers.attention.distance_grid import make_field
from sigprop.layers.attention.key_correlations import CorrelatedKeys, rotated_width
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.position_grid import Layout, pairs_between
from sigprop.layers.attention.rotation import Rotation, frequencies
from sigprop.layers.attention.statistics import coordinates as co

PASSES = ((77, 2600, ct.MOST_ROTATED), (78, 3000, 5000.0))  # seed, fields, most keys
WIDTHS = (8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, None)  # of heads
POINTS = 6  # of one field of draws
BLOCKS, SINGLES = 24, 8  # of keys, and first keys that are blocks of one
DEGREES = (4, 3, 7, 9, 6, 4)  # in head width, base, log n, s, part from the gap, and rise
COSTS, TOTAL = (1.5, 2.0, 1.0, 1.0, 1.0, 1.5), 9.0  # of one degree of each; of all together
FITTED, DRAWN = 8e-5, 0.13  # variance of the shrink: of the fit, and of one draw
RIDGE = 1e-4
FOLDS = 5
KEPT = 128  # fields between two writes


def points_of(seed: int, field: int, most: float) -> Iterator[tuple[float, ...]]:
    """Place of each point of a field, shrink, near, part, loss, and how many draws they took."""
    rng = np.random.default_rng([seed, field])
    count = int(np.round(ct.LEAST * (most / ct.LEAST) ** rng.uniform()))
    start, stop = (1 / np.log(b) for b in ct.BASES[::-1])
    rotation = Rotation(float(np.exp(1 / rng.uniform(start, stop))))
    width = WIDTHS[rng.integers(len(WIDTHS))]
    sizes = make_layout(count, BLOCKS, singles=SINGLES).size
    omega = frequencies(rotation, rotated_width(width))
    waves = Layout(np.append(0, np.cumsum(sizes))).waves(omega).mean(axis=0)
    pairs, rise = pairs_between(sizes), ct.rise(sizes)
    pairs /= pairs.sum()
    keys = CorrelatedKeys(rotation, width, seed=field)
    for _ in range(POINTS):
        s = float(ct.to_deviation(np.asarray(rng.uniform(-1, 1))))
        share, tilt = rng.uniform() ** 2, rng.uniform()
        climb = 1 + tilt * rise
        gap = share * np.sum(pairs * (1 - waves)) / (1 - share * np.sum(pairs * waves * climb))
        scale = s**2 / np.sum(pairs * (1 - (1 - gap * climb) * waves))
        found = keys.alone(float(scale), gap * climb, sizes)
        draws = make_field(count, rotation, width, keys.draws, keys.seed).draws
        place = ct.from_width(width), ct.from_base(rotation.base), count, s, share, tilt
        yield (*place, *(float(v) for v in found), draws, field)
    make_field.cache_clear()


def drawn(path: Path | None) -> Floats:
    """All points, shape (N, 12); with a path, continued from and kept in a file."""
    rows = {} if path is None or not path.exists() else dict(np.load(path))
    for seed, fields, most in PASSES:
        for field in range(fields):
            name = f"{seed}.{field}"
            if name not in rows:
                rows[name] = np.array([*points_of(seed, field, most)])
            if path is not None and (field + 1) % KEPT == 0:
                np.savez_compressed(path, **rows)
                print(f"seed {seed}: {field + 1} of {fields} fields", flush=True)
    return np.concatenate([*rows.values()])


def places(rows: Floats) -> list[Floats]:
    """Places of points on [-1, 1], in the order of the axes of the table."""
    width, base, count, s, share, tilt = rows[:, :6].T
    hot = co.from_deviation(s, ct.COLDEST, ct.HOTTEST)
    keys = ct.from_keys(count, ct.MOST_ROTATED)
    return [width, base, keys, hot, 2 * share - 1, 2 * tilt - 1]


def fitted(rows: Floats) -> Floats:
    """Coefficients of the deviations from independent scores, dense, of shape (..., 4).

    Every term stands less its value at `share` = 1 without a rise, where scores are independent.
    """
    terms = [
        powers
        for powers in product(*(range(d + 1) for d in DEGREES))
        if np.dot(powers, COSTS) <= TOTAL and any(powers[-2:])
    ]
    values = [basis(x, d + 1) for x, d in zip(places(rows), DEGREES, strict=True)]
    columns = np.ones((len(rows), len(terms)))
    for k, powers in enumerate(terms):
        parts = [v[:, p] for v, p in zip(values, powers, strict=True)]
        columns[:, k] = np.prod(parts[:4], axis=0) * (parts[4] * parts[5] - (-1) ** powers[5])
    found = rows[:, 6:10] - ct.PLAIN
    root = 1 / np.sqrt(FITTED + DRAWN / rows[:, 10])
    root = (root / root.max())[:, None]
    left = (columns * root).T @ (columns * root) + RIDGE * np.eye(len(terms))
    solved = np.linalg.solve(left, (columns * root).T @ (found * root))
    table = np.zeros((*(d + 1 for d in DEGREES), len(ct.PLAIN)))
    for powers, row in zip(terms, solved, strict=True):
        table[powers] += row
        table[(*powers[:4], 0, 0)] -= (-1) ** powers[5] * row
    table[(0,) * len(DEGREES)] += ct.PLAIN
    return table


def at(table: Floats, rows: Floats) -> Floats:
    """Values of a table at points, shape (N, 4)."""
    found = np.broadcast_to(table, (len(rows), *table.shape))
    for x, d in zip(places(rows), DEGREES, strict=True):
        found = np.einsum("na,na...->n...", basis(x, d + 1), found)
    return np.asarray(found)


def errors(rows: Floats) -> Floats:
    """Root mean square and largest error of shrink, near, part and loss, shape (2, 4)."""
    off = []
    for fold in range(FOLDS):
        held = rows[:, 11] % FOLDS == fold
        table = fitted(rows[~held])
        off += [at(table, rows[held][k : k + 256]) - rows[held][k : k + 256, 6:10]
                for k in range(0, int(held.sum()), 256)]  # fmt: skip
    every = np.concatenate(off)
    return np.stack([np.sqrt(np.mean(every**2, axis=0)), np.abs(every).max(axis=0)])


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    out = Path(__file__).with_name("rotary_correlations.npz")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--draws", type=Path, help="where points are kept, to go on from")
    known = parser.parse_args()
    rows = drawn(known.draws)
    rows = rows[np.isfinite(rows[:, 6])]  # frozen, beyond the theory
    np.savez_compressed(known.out, table=fitted(rows).astype(np.float32), error=errors(rows))


if __name__ == "__main__":
    main()
