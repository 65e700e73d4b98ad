"""Make the table of averages of Boltzmann factors: a minute on one core.

Run as ``python -m sigprop.layers.attention.statistics.build_boltzmann [--out FILE]``. Every node is
a sum over a uniform grid of scores, in logarithms; the same at random points measures the errors
that the file holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import nodes, transform
from sigprop.layers.attention.statistics import boltzmann as bo
from sigprop.layers.attention.statistics import coordinates as co

TERMS = 48  # Chebyshev nodes in s
LOWER, UPPER, FINE = -40.0, 14.0, 0.05  # grid of z, which is finer where s > 2
SEED = 29
POINTS = 400  # for the errors
TINY = 1e-300


def _total(logs: Floats) -> Floats:
    """Logarithm of the sum over the last axis."""
    most = logs.max(axis=-1)
    return np.asarray(most + np.log(np.sum(np.exp(logs - most[..., None]), axis=-1)))


def exact(s: float, u: Floats) -> Floats:
    """Find the three logarithms at one score deviation, shape (N, 3)."""
    z = np.linspace(LOWER, UPPER, 1 + int((UPPER - LOWER) / min(FINE, 0.1 / s)))
    normal = -(z**2) / 2
    whole, out = _total(normal), np.empty((u.size, 3))
    for i, start in enumerate(u.tolist()):
        x = start + s * z
        weight = np.exp(np.minimum(x, 50.0))
        log_g = _total(normal - weight) - whole
        if log_g > -0.1:  # from 1 - G, which keeps its digits
            left = np.log(np.maximum(-np.expm1(-weight), TINY))
            out[i, 0] = np.log(-np.log1p(-np.exp(_total(normal + left) - whole)))
        else:
            out[i, 0] = np.log(-log_g)
        out[i, 1:] = [_total(normal + k * x - weight) - whole - log_g for k in (1, 2)]
    return out


def build() -> Floats:
    """Chebyshev coefficients over s, at the points of u, shape (K, N, 3)."""
    s = co.to_deviation(nodes(TERMS), 0.0, bo.HOTTEST)
    return transform(np.stack([exact(float(v), bo.points(np.asarray(v))) for v in s]))


def errors(table: Floats) -> Floats:
    """Largest errors of the three logarithms at random points that matter."""
    rng, worst = np.random.default_rng(SEED), np.zeros(3)
    for s in co.to_deviation(rng.uniform(-1, 1, POINTS // 8), 0.0, bo.HOTTEST).tolist():
        u = rng.uniform(bo.LOW, bo.HIGH, 8) * (1 + s / 3.2)
        known = exact(s, u)
        found = bo.Lines(np.full(1, s), table)(u[None])[:, 0].T
        held = known[:, 0] < np.log(30.0)
        worst = np.maximum(worst, np.abs(found - known)[held].max(axis=0, initial=0.0))
    return worst


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("boltzmann.npz"))
    out = parser.parse_args().out
    table = build()
    np.savez_compressed(out, table=table.astype(np.float32), error=errors(table))


if __name__ == "__main__":
    main()
