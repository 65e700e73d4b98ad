"""Bands of causal and rotary stacks from iid tokens hold the networks that they promise."""

import numpy as np
import pytest

from sigprop import ModelSpec, bands
from sigprop.simulation import simulate

HALF_WIDTH = 1.6449  # standard deviations that hold the central 90 %


def random_spec(rng, kind):
    """Draw a causal or a rotary stack, a part of them with windows or both, heads >= 64 wide."""
    heads, norm = int(rng.integers(1, 4)), str(rng.choice(["post", "pre"]))
    parallel = bool(norm == "pre" and rng.random() < 0.3)
    context, causal = int(rng.integers(64, 161)), kind == "causal" or rng.random() < 0.4
    return ModelSpec(
        depth=int(rng.integers(6, 13)),
        context=context,
        width=64 * max(heads, 2) if heads < 3 else 192,
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


def shares(spec, seeds, scale):
    """Share of networks inside the central 90 % band of rho, and of one scaled, by depth thirds."""
    found, rho = bands(spec), simulate(spec, seeds).samples["rho"]
    size = np.abs(rho - found.rho)[:, 1:] / found.rho_std[1:] / HALF_WIDTH
    thirds = np.array_split(size, 3, axis=1)
    return [[(part <= k).mean() for part in thirds] for k in (1.0, scale)]


@pytest.mark.slow
def test_bands_from_iid_tokens_hold_90_percent():
    """Sixteen stacks, 32 networks each, heads with keys of their own; the control is too narrow."""
    rng = np.random.default_rng(1)
    specs = [random_spec(rng, ("causal", "rotary")[i % 2]) for i in range(16)]
    share, narrow = np.mean([shares(spec, 32, 0.7) for spec in specs], axis=0)
    assert ((share >= 0.84) & (share <= 0.97)).all(), share
    assert (narrow < 0.84).all(), narrow
