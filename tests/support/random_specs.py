"""Random valid specs: every combination of structure, arrays of numbers within each."""

from itertools import product

import numpy as np

from sigprop import ModelSpec
from sigprop.model.spec import ACTIVATIONS, ATTENTIONS, NORMS

STRUCTURES = list(product(NORMS, ATTENTIONS, ACTIVATIONS, (False, True)))


def random_specs(rng, count, structure, limit=False, **fixed):
    """One spec with arrays of `count` random, admissible numbers."""
    norm, attention, activation, gated = structure
    context = np.floor(np.exp(rng.uniform(np.log(2), np.log(2**17), count)))
    context = np.maximum(context, rng.choice([2, 16, 512], count))
    lowest = np.zeros(count) if limit else np.maximum(-1 / (context - 1), -0.3)

    def wide(low, high):
        return np.exp(rng.uniform(np.log(low), np.log(high), count))

    numbers = {
        "beta": rng.uniform(0, 5.5, count) * rng.choice([1, 1, 0.1, 0], count),
        "sigma_v2": wide(1e-3, 10) * rng.choice([1, 1, 1, 0], count),
        "sigma_o2": wide(0.1, 3),
        "sigma_w1_2": wide(1e-3, 8),
        "sigma_w2_2": wide(1e-3, 8) * rng.choice([1, 1, 1, 0], count),
        "sigma_b2": wide(1e-4, 1) * rng.choice([1, 0], count),
        "alpha_attn": wide(0.03, 30),
        "alpha_mlp": wide(0.03, 30),
        "rho0": lowest + (1 - lowest) * rng.uniform(0, 1, count) ** rng.choice([0.1, 1, 3], count),
        "context": np.full(count, np.inf) if limit else context,
        "q0": wide(0.01, 100),
    }
    if norm == "none":  # q is free: keep most scores within the table, some beyond
        numbers |= {"alpha_attn": wide(0.03, 2), "alpha_mlp": wide(0.03, 1), "q0": wide(0.01, 2)}
        numbers |= {"beta": 0.15 * numbers["beta"], "sigma_w1_2": wide(1e-3, 1)}
    return ModelSpec(
        depth=int(rng.integers(1, 13)),
        norm=norm,
        attention=attention,
        activation=activation,
        gated=gated,
        **(numbers | fixed),
    )
