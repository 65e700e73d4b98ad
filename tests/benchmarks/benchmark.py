"""Speed and memory of `sigprop.sweep` against the alternatives, on one thread.

Run `python tests/benchmarks/benchmark.py [--quick] [--json FILE]`. Every variant is run once a
round and ratios are of medians over rounds, so that drift of the machine cancels. This is a report,
not a test: the exit status is 0 whatever the numbers.
"""

import os

if __name__ == "__main__":  # before numpy; not when pytest imports this file to look for doctests
    os.environ.update({f"{k}_NUM_THREADS": "1" for k in ("OPENBLAS", "OMP", "MKL", "NUMBA")})

import argparse
import json
import platform
import tracemalloc
from math import asin, cos, exp, pi, sin, sqrt, tanh
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.integrate import dblquad

from sigprop import ModelSpec, propagate
from sigprop.layers.activations import activation
from sigprop.propagation.grids import sweep

DEPTH, CONTEXT = 50, 512
VALUE, WEIGHT, BIAS, RHO0 = 0.2, 0.2, 4e-4, 0.025
SAMPLES = 1600  # points of the pure-Python loop
AGREEMENT = 1e-10  # relative, of the scalar loop and sweep
QUADRATURE_ERROR = 1e-7  # scipy asks for 1.5e-8
RHO_QUADRATURE = 0.5  # overlap at which double quadrature is timed
STACKS = 100  # propagated in one array
MEMORY_SIZES, MEMORY_DEPTH = (200, 800), 10
TWO_PI = 2 * pi

# ratio: (slower, faster, requirement, words)
RATIOS = {
    "pure-Python loop / sigprop": ("python", "relu", ">=", 40),
    "fused numba loop / sigprop": ("numba", "relu", ">=", 2),
    f"context {CONTEXT} / limit": ("finite", "relu", "<=", 5),
    "tanh / relu": ("tanh", "relu", "<=", 3),
    "double quadrature / sigprop, tanh": ("dblquad", "tanh", ">=", 1e5),
    f"array of {STACKS} / one stack": ("stacks", "stack", "<=", 5),
}
LABELS = {
    "relu": "sigprop, limit, relu",
    "tanh": "sigprop, limit, tanh",
    "finite": f"sigprop, context {CONTEXT}, relu",
    "python": "pure-Python loop",
    "numba": "fused numba loop",
    "dblquad": "adaptive double quadrature (MLP alone)",
    "stack": "propagate, one stack",
    "stacks": f"propagate, array of {STACKS} stacks",
}


def scalar(beta, alpha, depth, value, weight, bias, rho0):
    """Gap and largest q gap after post-norm ReLU blocks in the limit, equation by equation."""
    square, root2, q, gap, heat = alpha * alpha, sqrt(2.0), 1.0, 1 - rho0, 0.0
    for _ in range(depth):
        if q * gap > heat:
            heat = q * gap
        b = beta * sqrt(q * gap)
        y2 = 1 - root2 / b if b > root2 else 0.0  # E4, E5
        out = value * (q - gap + gap * y2) + bias + square * q  # E10, E13
        gap = (value * gap * y2 + square * gap) / out  # E14
        q = 1.0
        q1, gap1 = weight * q + bias, weight * gap  # E15
        theta = 2 * asin(sqrt(gap1 / (2 * q1)))
        if theta < 0.02:
            t2 = theta * theta
            arc = theta * t2 * (1 / 3 - t2 * (1 / 30 - t2 * (1 / 840 - t2 / 45360)))
        else:
            arc = sin(theta) - theta * cos(theta)  # E16
        out = weight * q1 / 2 + bias + q
        gap = (weight * (gap1 / 2 - q1 / TWO_PI * arc) + gap) / out
        q = 1.0
    return gap, heat


def python_loop(betas, alphas):
    """Scalar map at every point, in plain Python."""
    points = zip(betas.tolist(), alphas.tolist(), strict=True)
    return [scalar(beta, alpha, DEPTH, VALUE, WEIGHT, BIAS, RHO0) for beta, alpha in points]


def numba_loop():
    """Same function compiled together with the loop over points; None without numba."""
    try:
        from numba import njit
    except ImportError:
        return None
    inner = njit(fastmath=False)(scalar)

    @njit(fastmath=False)
    def loop(betas, alphas, gaps, heats, depth, value, weight, bias, rho0):
        for i in range(betas.size):
            gaps[i], heats[i] = inner(betas[i], alphas[i], depth, value, weight, bias, rho0)

    def run(betas, alphas):
        gaps, heats = np.empty_like(betas), np.empty_like(betas)
        loop(betas, alphas, gaps, heats, DEPTH, VALUE, WEIGHT, BIAS, RHO0)
        return np.stack([gaps, heats], axis=1)

    return run


def grid(size, **changes):
    """Spec of a size x size grid over beta and residual strength, at infinite context."""
    values = {
        "depth": DEPTH,
        "context": "inf",
        "beta": np.linspace(0, 4, size)[:, None],
        "alpha_attn": np.linspace(0.05, 4, size),
        "sigma_v2": VALUE,
        "sigma_w2": WEIGHT,
        "sigma_b2": BIAS,
        "rho0": RHO0,
    }
    return ModelSpec(**(values | changes))


def points(spec):
    """Flat inverse temperatures and residual strengths of a grid."""
    pair = np.broadcast_arrays(spec.beta, spec.alpha_attn)
    return tuple(np.ascontiguousarray(a).ravel() for a in pair)


def quadrature():
    """E tanh(u1) tanh(u2) of the MLP behind a norm, by adaptive double quadrature."""
    s, c = sqrt(WEIGHT + BIAS), 1 - WEIGHT * (1 - RHO_QUADRATURE) / (WEIGHT + BIAS)
    rest = sqrt(1 - c * c)

    def integrand(y, x):
        return tanh(s * x) * tanh(s * (c * x + rest * y)) * exp(-(x * x + y * y) / 2)

    return dblquad(integrand, -np.inf, np.inf, -np.inf, np.inf)[0] / TWO_PI


def sampled(spec):
    """Random points of a grid: flat indices, inverse temperatures, residual strengths."""
    betas, alphas = points(spec)
    index = np.random.default_rng(0).choice(betas.size, SAMPLES, replace=False)
    return index, betas[index], alphas[index]


def disagreement(spec, loop, index, betas, alphas):
    """Largest relative difference between a loop and sweep, of gap/q and of beta^2 q gap."""
    final = sweep(spec)
    gap, heat = np.transpose(loop(betas, alphas))
    ours = (final.state.gap / final.state.q).ravel()[index]
    hot = final.reduced_beta.ravel()[index]
    apart = np.abs(betas * np.sqrt(heat) - hot) / np.maximum(hot, 1e-300)
    return float(max(np.max(np.abs(gap / ours - 1)), np.max(apart)))


def complaint(spec, compiled, sample):
    """What is wrong unless loops and quadrature compute what sigprop computes; else empty."""
    for name, loop in (("pure-Python", python_loop), ("numba", compiled)):
        if loop is not None and (worst := disagreement(spec, loop, *sample)) > AGREEMENT:
            return f"the {name} loop is off by {worst:.1e}, more than {AGREEMENT:g}"
    dual = activation("tanh")(WEIGHT + BIAS)
    ours = float(dual.variance - dual.q * dual.drop(WEIGHT * (1 - RHO_QUADRATURE) / dual.q))
    apart = abs(quadrature() - ours)
    return f"double quadrature is off by {apart:.1e}" if apart > QUADRATURE_ERROR else ""


def variants(spec, size, compiled, sample):
    """What is timed: name to (function, evaluations it makes, in points times layers)."""
    tanh_spec, finite = grid(size, activation="tanh"), grid(size, context=CONTEXT)
    everything, cost = points(spec), size * size * DEPTH
    stack = ModelSpec(depth=12, context=CONTEXT, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    stacks = stack.replace(beta=np.linspace(0.1, 3, STACKS))
    runs = {
        "relu": (lambda: sweep(spec), cost),
        "tanh": (lambda: sweep(tanh_spec), cost),
        "finite": (lambda: sweep(finite), cost),
        "python": (lambda: python_loop(*sample[1:]), SAMPLES * DEPTH),
        "dblquad": (quadrature, 1),
        "stack": (lambda: propagate(stack), stack.depth),
        "stacks": (lambda: propagate(stacks), stack.depth),  # per layer of the whole array
    }
    if compiled is not None:
        runs["numba"] = (lambda: compiled(*everything), cost)
    return runs


def timed(runs, rounds):
    """Median nanoseconds per evaluation; one warm-up, then every variant once a round."""
    samples = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, (function, evaluations) in runs.items():
            start = perf_counter()
            function()
            if turn:
                samples[name].append((perf_counter() - start) / evaluations * 1e9)
    return {name: median(values) for name, values in samples.items()}


def overhead(size):
    """Peak bytes that sweep allocates beyond the arrays it returns."""
    spec = grid(size, depth=MEMORY_DEPTH)
    tracemalloc.start()
    final = sweep(spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    outputs = (*final.state, final.reduced_beta, final.defined)
    return peak - sum(a.nbytes for a in outputs)


def rows(times, memory):
    """Ratios with their requirements: name, value, sign, bound, met."""
    found = [
        (name, times[slow] / times[fast], sign, bound)
        for name, (slow, fast, sign, bound) in RATIOS.items()
        if slow in times
    ]
    small, large = memory.values()
    found.append(("work memory, {1}^2 / {0}^2 grid".format(*memory), large / small, "<=", 1.5))
    return [(*row, row[1] >= row[3] if row[2] == ">=" else row[1] <= row[3]) for row in found]


def printed(times, memory, ratios, title):
    """Two tables: costs, and ratios beside what is required of them."""
    console = Console()
    costs = Table("variant", "ns per point and layer", title=title)
    for name, label in LABELS.items():
        costs.add_row(label, f"{times[name]:,.1f}" if name in times else "not installed")
    for size, used in memory.items():
        costs.add_row(f"work memory, {size} x {size} grid", f"{used / 1e6:.2f} MB")
    table = Table("ratio", "measured", "required", "met")
    for name, value, sign, bound, met in ratios:
        table.add_row(name, f"{value:,.2f}", f"{sign} {bound:,.10g}", "yes" if met else "NO")
    console.print(costs, table)
    if "numba" not in times:
        console.print('numba is missing: pip install "sigprop\\[bench]" for the fused loop')


def main():
    """Check, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 x 100 grid, two rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE")
    options = parser.parse_args()
    size, rounds = (100, 2) if options.quick else (400, 5)
    spec, compiled = grid(size), numba_loop()
    sample = sampled(spec)
    if wrong := complaint(spec, compiled, sample):
        print(f"Nothing was timed: {wrong}.")
        return
    times = timed(variants(spec, size, compiled, sample), rounds)
    memory = {n: overhead(n) for n in MEMORY_SIZES}
    ratios = rows(times, memory)
    title = f"{size} x {size} grid, {DEPTH} layers, one thread, median of {rounds}"
    printed(times, memory, ratios, title)
    if options.json:
        names = ("ratio", "measured", "sign", "required", "met")
        report = {
            "machine": platform.processor() or platform.machine(),
            "numpy": np.__version__,
            "size": size,
            "rounds": rounds,
            "nanoseconds": times,
            "work_bytes": memory,
            "ratios": [dict(zip(names, row, strict=True)) for row in ratios],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
