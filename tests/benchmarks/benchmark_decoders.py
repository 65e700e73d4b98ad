"""CPU time of whole commands on decoders, over that on bert-base.

Run `python tests/benchmarks/benchmark_decoders.py [--rounds N]`. Every command runs in a fresh
process on one thread, beside that on bert-base in each round; times and ratios are medians over
rounds, so that drift of the machine cancels. This is a report, not a test: the exit status is 0
whatever the numbers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track
from rich.table import Table

# command with the model left open, model, largest ratio wanted
CASES = (
    ("propagate {}", "gpt2", 1.5),
    ("propagate {}", "llama-2-7b", 1.5),
    ("show {}", "gpt2", 2.0),
    ("show {}", "llama-2-7b", 2.0),
    ("critical {} --rho-max 0.9", "gpt2", 3.0),
    ("propagate {} --gradients", "gpt2", 3.0),
    ("propagate {} --bands", "gpt2", 3.0),
    ("schemes {}", "gpt2", 3.0),
    ("scale {} --context 1k:16k:3", "gpt2", 3.0),
    ("recommend {}", "gpt2", 3.0),
    ("diagram {} --x beta=0:3:200 --y alpha_attn=0.1:3:200 --out {folder}/d.nc", "gpt2", 10.0),
)
LONG = (131_072, 1_048_576)
SPEC = {
    "depth": 32, "width": 768, "heads": 12, "causal": True, "norm": "pre", "beta": 0.5,
    "sigma_v2": 0.5, "sigma_w2": 1.0, "rho0": 0.02,
}  # fmt: skip


def cpu(command):
    """CPU seconds of one command in a process of its own."""
    threads = {f"{k}_NUM_THREADS": "1" for k in ("OPENBLAS", "OMP", "MKL", "NUMBA")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = [sys.executable, "-m", "sigprop", *command.split(), "--json"]
    subprocess.run(whole, check=True, capture_output=True, env=os.environ | threads)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as folder:
        pairs = [
            (c.format(model, folder=folder), c.format("bert-base", folder=folder), most)
            for c, model, most in CASES
        ]
        files = {}
        for context in (1024, *LONG):
            files[context] = Path(folder) / f"decoder-{context}.json"
            files[context].write_text(json.dumps(SPEC | {"context": context}))
        long = "propagate {} --gradients"
        pairs += [(long.format(files[t]), long.format(files[1024]), 1.5) for t in LONG]
        times = {command: [] for pair in pairs for command in pair[:2]}
        for command in track([*times] * rounds, "commands", console=Console(stderr=True)):
            times[command].append(cpu(command))
    table = Table("command", "CPU s", "over", "ratio", "wanted")
    for own, other, most in pairs:
        names = [text.replace(f"{folder}/", "") for text in (own, other)]
        ratio = median(a / b for a, b in zip(times[own], times[other], strict=True))
        seconds = (f"{median(times[command]):.2f}" for command in (own, other))
        table.add_row(names[0], *seconds, f"{ratio:.2f}", f"<= {most:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
