"""A prescription in which every matrix of every block is told from every other by its scale."""

from dataclasses import replace

import numpy as np

from sigprop import ModelSpec
from sigprop.model.export import prescribe

SCALES = {"query": 0.5, "key": 0.5, "value": 1.4, "output": 0.3, "gate": 2.2, "w1": 2.2, "w2": 0.8}
BIASES = {"value": 0.02, "w1": 0.05, "w2": 0.1}


def plan(gated, **changes):
    """Scales that differ by role by a quarter at least, and by block by half."""
    spec = ModelSpec(depth=2, context=8, width=64, heads=4, beta=1, sigma_v2=1, sigma_w2=1,
                       rho0=0, norm="pre", gated=gated, **changes)  # fmt: skip
    steps = np.array([1.0, 2.25])
    own = prescribe(spec)
    variance = {role: SCALES[role] * steps for role in own.variance}
    return replace(own, variance=variance, bias={r: v * steps for r, v in BIASES.items()})


def errors(name, model, wanted):
    """Standard deviation over what is wanted, less one, in standard errors, by place."""
    from placed_models import matrices

    out = {}
    for block, role, weight, bias, fan_in in matrices(name, model):
        std = np.sqrt(wanted.variance[role][block] / fan_in)
        out[block, role, "weight"] = _error(weight, std)
        if bias is not None:
            variance = wanted.bias[role][block] if role in wanted.bias else 0.0
            out[block, role, "bias"] = _error(bias, np.sqrt(variance))
    return out


def _error(tensor, std):
    values = tensor.detach().double().numpy()
    found = np.sqrt(np.mean(np.square(values)))
    return float(found > 0) * 1e9 if std == 0 else (found / std - 1) * np.sqrt(2 * values.size)


def run_code(wanted, model, batch=None):
    """Run the generated file on a model as a user does; what it returns."""
    space = {}
    exec(compile(wanted.pytorch(), "init.py", "exec"), space)
    return space["init_weights"](model, *(() if batch is None else (batch,)))
