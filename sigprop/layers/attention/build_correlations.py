"""Make the table of correlated scores of masked stacks: ten minutes on one core.

Run as ``python -m sigprop.layers.attention.build_correlations [--out FILE]``. Every node is what
`sigprop.layers.attention.key_correlations.BlockedKeys` finds for one query of n keys whose gap has
the two forms of `sigprop.layers.attention.correlation_table.forms`; the same at random points
measures the error that the file holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.numerics.chebyshev import basis, nodes, transform
from sigprop.layers.attention import correlation_table as ct
from sigprop.layers.attention.key_correlations import BlockedKeys
from sigprop.layers.attention.position_blocks import make_layout
from sigprop.layers.attention.position_grid import pairs_between
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics.universal import KeyWeights

COUNTS = (12, 9, 9, 4, 4)  # Chebyshev nodes in log n, s, gap, its rise and its slope
LEAST = 0.02  # of the mean gap: no pair is nearer
FIELDS = 256  # points of strong fields
POINTS, SEED = 60, 31
AXES = ct.to_deviation, ct.to_gap, ct.to_tilt, ct.to_slope


def gaps(sizes: Ints, own: Floats, tilt: Floats, slope: Floats) -> Floats:
    """Gaps of pairs of blocks, of mean `own` where none is cut, shape (N, B, B)."""
    share, early, far = ct.forms(sizes)
    form = 1 + slope[:, None, None] * early + tilt[:, None, None] * far
    form = np.maximum(form, LEAST)
    form *= (own / np.sum(share * form, axis=(1, 2)))[:, None, None]
    return np.minimum(form, co.MAX_GAP)


def exact(count: int, s: Floats, own: Floats, tilt: Floats, slope: Floats) -> Floats:
    """Find shrink, near and part of one query, shape (3, N)."""
    sizes = make_layout(count, ct.RESOLUTION, singles=ct.SINGLES).size
    deficit, pairs = gaps(sizes, own, tilt, slope), pairs_between(sizes)
    mean = np.sum(pairs * deficit, axis=(1, 2)) / pairs.sum()
    beside = np.sum(pairs * deficit, axis=-1) / np.sum(pairs, axis=-1)
    ratio = np.maximum(2 * beside / mean[:, None] - 1, 0.0)
    weight = np.exp(KeyWeights(np.array([float(count)]))(s[:, None], ratio[:, None]))
    weight /= (weight @ sizes / count)[..., None]
    found = BlockedKeys(sizes[None], FIELDS)(s**2 / mean, deficit, s[:, None], weight)
    return np.stack(found)[..., 0]


def build() -> Floats:
    """Chebyshev coefficients over log n, s, gap, rise and slope, shape (N, S, G, R, E, 3)."""
    count = ct.to_keys(nodes(COUNTS[0]))
    place = [nodes(number) for number in COUNTS[1:]]
    axes = [to(x) for to, x in zip(AXES, place, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    cells = [np.ravel(g) for g in grid]
    rows = np.stack([exact(int(n), *cells).T.reshape(*COUNTS[1:], 3) for n in count])
    places = ct.from_keys(count)  # integers, so not quite the nodes
    rows = np.tensordot(np.linalg.inv(np.asarray(basis(places, COUNTS[0]))), rows, 1)
    for axis in range(1, len(COUNTS)):
        rows = transform(rows, axis)
    return rows


def errors(table: Floats) -> Floats:
    """Find root mean square and largest error of shrink, near and part, shape (2, 3)."""
    rng, found = np.random.default_rng(SEED), []
    for _ in range(POINTS):
        n = int(ct.to_keys(rng.uniform(-1, 1)))
        place = rng.uniform(-1, 1, (len(AXES), 8))
        cell = [to(x) for to, x in zip(AXES, place, strict=True)]
        looked = ct.Correlations(np.array([float(n)]), table)
        known = looked(*(c[:, None] for c in cell))[..., 0]
        found.append(known - exact(n, *cell))
    rows = np.concatenate(found, axis=1)
    return np.stack([np.sqrt(np.mean(rows**2, axis=1)), np.abs(rows).max(axis=1)])


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("correlations.npz"))
    out = parser.parse_args().out
    table = build().astype(np.float32)
    np.savez_compressed(out, table=table, error=errors(table.astype(np.float64)))


if __name__ == "__main__":
    main()
