"""Predictions against measured trajectories of random networks; the published limit must fail."""

import numpy as np
import pytest

from sigprop import ModelSpec, bands, propagate

CASES = [
    "encoder_low_beta",
    "encoder_high_beta",
    "encoder_critical_beta",
    "prenorm_mid_beta",
    "centred_postnorm",
    "gelu_wide_multihead",
]


def spec_of(case, rho0):
    return ModelSpec(
        depth=case["L"],
        context=case["T"],
        width=case["d"],
        heads=case["H"],
        norm=case["norm"],
        attention="centred" if case["centred"] else "softmax",
        activation=case["act"],
        mlp_ratio=case["width"],
        beta=case["beta"],
        sigma_v2=case["vv"],
        sigma_w2=case["vw"],
        sigma_b2=case["vb"],
        alpha_attn=case["aS"],
        alpha_mlp=case["aM"],
        rho0=rho0,
    )


def deviations(measured, theory):
    """Mean and largest error of rho, and excess of y2 and entropy over their allowance."""
    spec = spec_of(measured["case"], measured["rho"][0])
    found = bands(spec) if theory == "finite" else propagate(spec, theory)
    rho = np.array(measured["rho"])
    error = np.abs(found.rho - rho)[1:]
    apart = rho[:-1] < 0.95

    def column(name):
        return np.array(measured[name][1:], float)

    y2 = np.abs(found.y2 - column("y2")) - 4 * column("y2_se") - 0.01
    entropy = np.abs(found.entropy - column("h")) - 4 * column("h_se") - 0.05
    return error.mean(), error.max(), y2[apart].max(), entropy[apart].max()


def passes(measured, theory):
    mean, largest, y2, entropy = deviations(measured, theory)
    return mean <= 0.006 and largest <= 0.015 and y2 <= 0 and entropy <= 0


@pytest.mark.parametrize("name", CASES)
def test_finite_context(simulations, name):
    assert passes(simulations[name], "finite"), deviations(simulations[name], "finite")


def test_limit_fails(simulations):
    """Negative control: the same data reject the limit of infinite context."""
    assert sum(not passes(simulations[name], "limit") for name in CASES) >= 4


def test_attention_overlap(simulations):
    """The overlap of attention, which no criterion above uses, with the allowance of y2."""
    for name in CASES:
        measured = simulations[name]
        apart = np.array(measured["rho"][:-1]) < 0.95
        found = propagate(spec_of(measured["case"], measured["rho"][0]))
        error = np.abs(found.overlap - np.array(measured["o"][1:], float))
        allowed = 4 * np.array(measured["o_se"][1:], float) + 0.01
        assert (error <= allowed)[apart].all(), name
