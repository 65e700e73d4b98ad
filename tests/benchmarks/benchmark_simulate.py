"""Throughput of the simulator: its time against that of its matrix products alone.

Times of the processor, so that other work on the machine disturbs little. Run with one thread:
OPENBLAS_NUM_THREADS=1 python tests/benchmarks/benchmark_simulate.py [REFERENCE]...
"""

import sys
import time

import numpy as np

from sigprop import ModelSpec
from sigprop.simulation import simulate
from sigprop.studies.comparison import reference, references

REPEATS, BLOCKS = 9, 4


def products(spec):
    """Shapes of the products of one block: (rows, inner, columns), how often."""
    t, d, size = int(spec.context), spec.width, spec.width // spec.heads
    hidden = round(spec.mlp_ratio * d)
    square = [((t, d, d), 3), ((t, size, t), spec.heads), ((t, t, size), spec.heads)]
    return [*square, ((t, d, hidden), 1 + spec.gated), ((t, hidden, d), 1)]


def operands(spec):
    """One block's products, as pairs of matrices."""
    return [
        (np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32))
        for (rows, inner, columns), times in products(spec)
        for _ in range(times)
    ]


def measure(spec, settings=1):
    """Seconds of a block's products alone and of a simulated block, in turns; one row a turn."""
    pairs = operands(spec)
    many = spec.replace(beta=spec.beta * np.linspace(0.9, 1.1, settings))
    short, long = (many.replace(depth=n) for n in (1, 1 + BLOCKS))
    rows = []
    for _ in range(REPEATS):
        alone = _timed(lambda: [[a @ b for a, b in pairs] for _ in range(BLOCKS * settings)])
        both = [_timed(lambda spec=spec: simulate(spec, 1)) for spec in (short, long)]
        rows.append((alone / BLOCKS / settings, (both[1] - both[0]) / BLOCKS / settings))
    return np.array(rows)


def _timed(action):
    start = time.process_time()
    action()
    return time.process_time() - start


def main(names):
    wide = ModelSpec(
        depth=1, context=1024, width=1024, heads=1, beta=1.0, sigma_v2=1, sigma_w2=1, rho0=0.1
    )
    specs = {name: reference(name).spec for name in references()} | {"T = d = 1024": wide}
    for name, spec in specs.items():
        if names and name not in names:
            continue
        for settings in (1, 4):
            rows = measure(spec, settings)
            (alone, block), least = np.median(rows, axis=0) * 1e3, rows.min(axis=0)
            print(
                f"{name:24s} {settings} settings: block {block:6.1f} ms, its products alone "
                f"{alone:6.1f} ms, ratio of turns {np.median(rows[:, 0] / rows[:, 1]):.2f} "
                f"(median), of least times {least[0] / least[1]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
