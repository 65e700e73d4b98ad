"""Time, memory and coarse-graining error of causal propagation.

Run it as `python tests/benchmarks/benchmark_causal.py`.

A report, not a test: the exit status is 0 whatever the numbers.
"""

import resource
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from sigprop import ModelSpec
from sigprop.propagation.causal import causal

DEPTH, BLOCKS = 24, 16
CASES = ((4096, 20.0, {}), (131_072, 60.0, {}), (4096, 20.0, {"rotary_base": 1e4}))


def main():
    table = Table(
        "context", "changes", "seconds", "wanted", "peak MB", "change at twice the blocks"
    )
    for context, wanted, changes in CASES:
        spec = ModelSpec(
            depth=DEPTH,
            context=context,
            causal=True,
            beta=1.5,
            sigma_v2=0.3,
            sigma_w2=0.5,
            rho0=0.1,
            **changes,
        )
        start = perf_counter()
        found = causal(spec, blocks=BLOCKS)
        seconds = perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        finer = causal(spec, blocks=BLOCKS, resolution=192)
        change = np.abs(finer.kernel_blocks - found.kernel_blocks).max()
        row = (f"{context}", str(changes), f"{seconds:.1f}", f"< {wanted:g}", f"{peak:.0f}")
        table.add_row(*row, f"{change:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
