"""Share of random networks inside predicted bands, by depth thirds, from iid tokens."""

import numpy as np

from sigprop import Transformer
from sigprop.simulate import simulate

HALF_WIDTH = 1.6449  # standard deviations that hold the central 90 %
NAMES = ("rho", "y2", "entropy")


def random_spec(rng, kind):
    """Draw a causal (some with windows), rotary, or causal rotary stack, heads >= 64 wide."""
    heads = int(rng.integers(1, 4))
    norm = str(rng.choice(["post", "pre"]))
    parallel = bool(norm == "pre" and rng.random() < 0.3)
    context = int(rng.integers(64, 161))
    causal = kind == "causal" or rng.random() < 0.4
    spec = Transformer(
        depth=int(rng.integers(6, 13)),
        context=context,
        width=64 * heads * (2 if heads == 1 else 1),
        heads=heads,
        norm=norm,
        parallel=parallel,
        causal=causal,
        window=int(rng.integers(16, context)) if causal and rng.random() < 0.35 else None,
        rotary_base=None if kind == "causal" else float(10 ** rng.uniform(2, 5)),
        attention="centred" if rng.random() < 0.2 else "softmax",
        activation=str(rng.choice(["relu", "gelu", "tanh", "silu"])),
        gated=bool(rng.random() < 0.3),
        mlp_ratio=float(rng.choice([1, 2, 4])),
        beta=rng.uniform(0.1, 2.2),
        sigma_v2=rng.uniform(0.1, 1.5),
        sigma_w2=rng.uniform(0.2, 2.0),
        sigma_b2=float(rng.choice([0.0, 0.05])),
        alpha_attn=rng.uniform(0.8, 1.5),
        alpha_mlp=1.0 if parallel else rng.uniform(0.8, 1.5),
        q0=float(rng.uniform(0.1, 1.0)),
        rho0=0.0,
    )
    return spec


def random_specs(seed, number=16):
    rng = np.random.default_rng(seed)
    return [random_spec(rng, ("causal", "rotary")[i % 2]) for i in range(number)]


def thirds(values):
    """Split layers into thirds."""
    return np.array_split(values, 3, axis=1)


def compare(spec, found, seeds=32, folder=None):
    """Shares inside the central 90 % and ratios of predicted to measured deviation, by thirds."""
    samples = simulate(spec, seeds, folder=folder).samples
    out = {}
    for name in NAMES:
        at = slice(1, None) if name == "rho" else slice(None)
        measured, mean = samples[name][:, at], getattr(found, name)[at]
        std = getattr(found, f"{name}_std")[at]
        inside = np.abs(measured - mean) <= HALF_WIDTH * std
        ratio = np.log(std / measured.std(axis=0, ddof=1))[None]
        shift = (measured.mean(axis=0) - mean)[None] / std
        out[name] = np.array([[p.mean() for p in thirds(v)] for v in (inside, ratio, shift)])
    return out
