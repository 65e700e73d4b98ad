"""Random specs that are legal in every part: structures, positions, and numbers at their ends."""

import numpy as np

from sigprop import ModelSpec
from sigprop.model.spec import ACTIVATIONS, NORMS, RANGES

TOTAL = 2000
WIDTHS = (None, None, 1, 2, 3, 8, 16, 64)  # of one head
BASES = (1.0, 100.0, 1e4, 1e12)
TINY = (0.0, -0.0, 5e-324, 1e-200, 1e-12, 1e-3)  # from the low end of a range


def legal_spec(number):
    """Spec of a number: every third has a mask or rotation, every third of these extremes."""
    rng = np.random.default_rng([2026, number])
    values = _structure(rng, positions=number % 3 == 0) | _numbers(rng)
    if number // 3 % 3 == 0:
        values |= _extremes(rng, values)
    if values["norm"] == "none":
        values["identity"] = 0.0
    if values["parallel"]:
        values["alpha_mlp"] = 1.0
    if rng.random() < 0.05:
        values["beta"] = [values["beta"], rng.uniform(0, 2)]
    return ModelSpec(**values)


def _pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def _structure(rng, positions):
    norm = _pick(rng, *NORMS)
    heads, size = _pick(rng, 1, 1, 2, 4, 6), _pick(rng, *WIDTHS)
    context = int(_pick(rng, 2, 3, 4, 8, 16, 32, rng.integers(2, 33)))
    causal = positions and rng.random() < 0.7
    rotary = positions and (not causal or rng.random() < 0.3)
    return {
        "depth": int(rng.integers(1, 5)),
        "context": "inf" if rng.random() < 0.06 else context,
        "width": None if size is None else size * heads + int(rng.random() < 0.1),
        "heads": heads,
        "kv_heads": _pick(rng, None, 1, heads),
        "norm": norm,
        "attention": _pick(rng, "softmax", "softmax", "centred"),
        "activation": _pick(rng, *ACTIVATIONS),
        "gated": bool(rng.random() < 0.3),
        "parallel": norm == "pre" and bool(rng.random() < 0.3),
        "mlp_ratio": _pick(rng, 1.0, 4.0),
        "causal": causal,
        "window": _pick(rng, 1, 2, context, 10**12) if causal and rng.random() < 0.3 else None,
        "prefix": int(_pick(rng, 1, 2, context)) if causal and rng.random() < 0.3 else 0,
        "rotary_base": _pick(rng, *BASES) if rotary else None,
    }


def _numbers(rng):
    def wide(low, high):
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return {
        "beta": rng.uniform(0, 4) * _pick(rng, 1.0, 1.0, 0.1, 0.0),
        "sigma_v2": wide(1e-3, 10) * _pick(rng, 1, 1, 1, 0),
        "sigma_o2": wide(0.1, 3),
        "sigma_w1_2": wide(1e-3, 8),
        "sigma_w2_2": wide(1e-3, 8) * _pick(rng, 1, 1, 1, 0),
        "sigma_b2": wide(1e-4, 1) * _pick(rng, 1, 0),
        "alpha_attn": wide(0.03, 30),
        "alpha_mlp": wide(0.03, 30),
        "norm_gain": _pick(rng, 1.0, wide(0.1, 3)),
        "identity": rng.uniform(-2, 2) * (rng.random() < 0.04),
        "value_identity": rng.uniform(-1, 1) * (rng.random() < 0.08),
        "q0": wide(1e-3, 10),
        "rho0": _pick(rng, 0.0, rng.random(), rng.random() ** 3, 1 - 1e-6 * rng.random()),
    }


def _extremes(rng, values):
    """Some numbers at the ends of what is admissible, or nearly so."""
    out = {}
    for name, (low, high, closed, _) in RANGES.items():
        rare = 0.95 if name == "identity" else 0.7
        if name == "sigma_w2" or rng.random() < rare:
            continue
        ends = [high, high / 3, *(t for t in TINY if t > low or (closed and t == low))]
        out[name] = float(_pick(rng, *([low, *ends] if low < 0 else ends)))
    context = values["context"]
    lowest = 0.0 if context == "inf" else -1 / (context - 1)
    if rng.random() < 0.5:
        near_one = (1.0, 1 - 1e-15, 1 - 1e-9)
        out["rho0"] = float(_pick(rng, lowest, lowest / 2, -0.0, 1e-300, 1e-9, *near_one))
    return out
