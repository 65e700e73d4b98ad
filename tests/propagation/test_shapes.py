"""The shape of the input does not change the theory: alone, in an array, in a sweep."""

import numpy as np
import pytest

from sigprop import ModelSpec, propagate, sweep

FEW, ALL = 8, 300  # specs of each geometry
IN_SWEEPS = 0.005  # of rho: coarse blocks of positions and interpolated statistics
COLUMNS = ("q", "gap", "y2", "overlap", "entropy", "score_std")
STRUCTURES = {  # of each geometry: context, and mask or rotation
    "exchangeable": [{"context": 16}, {"context": 64, "norm": "none"},
                     {"context": 33, "norm": "pre"},
                     {"context": 48, "norm": "pre", "parallel": True}],
    "position": [{"context": 10, "causal": True}, {"context": 24, "causal": True, "norm": "pre"},
                 {"context": 12, "causal": True, "window": 5, "prefix": 3}],
    "distance": [{"context": 16, "rotary_base": 1e2}, {"context": 64, "rotary_base": 1e4},
                 {"context": 24, "rotary_base": 1e3, "norm": "pre"}],
}  # fmt: skip


def numbers(rng, size, norm):
    """Scales of `size` stacks."""
    out = {"beta": rng.uniform(0, 2.5, size), "rho0": rng.uniform(0, 0.9, size)}
    out |= {n: np.exp(rng.uniform(-1.5, 1, size)) for n in ("sigma_v2", "sigma_w1_2", "sigma_w2_2")}
    out["alpha_attn"] = np.exp(rng.uniform(-0.5, 0.7, size))
    out["beta"] /= 4 if norm == "none" else 1  # the stream grows
    return out


def structures(geometry, total):
    """Description of `total` stacks, a part of each structure."""
    cases, rng = STRUCTURES[geometry], np.random.default_rng(len(geometry))
    for case, size in zip(
        cases, np.diff(np.linspace(0, total, len(cases) + 1).astype(int)), strict=True
    ):
        scales = numbers(rng, size, case.get("norm"))
        if case.get("parallel"):
            scales["alpha_mlp"] = np.ones(size)
        yield ModelSpec(depth=4, activation="gelu", sigma_b2=0.05, **case, **scales), scales


@pytest.mark.parametrize("total", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("geometry", STRUCTURES)
def test_alone_in_an_array_and_in_a_sweep(geometry, total):
    for many, scales in structures(geometry, total):
        found, final = propagate(many), sweep(many)
        for k in range(len(scales["beta"])):
            one = propagate(many.replace(**{name: float(v[k]) for name, v in scales.items()}))
            for name in COLUMNS:
                mine, other = getattr(found, name)[:, k], getattr(one, name)
                np.testing.assert_allclose(mine[: len(other)], other, rtol=1e-10, err_msg=name)
            if len(one.q) == 5:
                assert abs(final.state.rho[k] - one.rho[-1]) < IN_SWEEPS
            else:
                assert not final.defined[k]
                assert found.ended[k] == len(one.q) - 1


def test_the_order_of_an_array_is_that_of_its_specs():
    """Negative control of the comparison: neighbours differ by far more than its bounds."""
    for geometry in STRUCTURES:
        for many, _ in structures(geometry, 9):
            assert np.abs(np.diff(propagate(many).rho[-1])).max() > 10 * IN_SWEEPS
