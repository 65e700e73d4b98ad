"""Heads 16 and 32 wide against random networks (E12b), by block; the correlation rho fails."""

import numpy as np
import pytest
from architectures import spec_of

from sigprop import ModelSpec, bands, propagate
from sigprop.propagation.causal import causal
from sigprop.propagation.every_pair import text_kernel

CASES = ("heads16_encoder", "heads16_causal", "heads16_rotary_gqa", "heads32_encoder_cold")


def beyond(rho, measured, slack):
    """Blocks whose overlap is out of three standard errors and a relative slack."""
    mean, se = np.array(measured["rho"])[1:], np.array(measured["rho_se"])[1:]
    return np.abs(rho[1:] - mean) > 3 * se + slack * mean


@pytest.mark.parametrize("name", CASES)
def test_overlap_by_block(finite_heads, name):
    measured = finite_heads[name]
    spec = spec_of(measured["case"])
    assert not beyond(propagate(spec).rho, measured, 0.04).any()
    assert not beyond(bands(spec).rho, measured, 0.015).any()


def test_overlap_of_a_text(finite_heads):
    measured = finite_heads["heads16_text"]
    kernel = text_kernel(np.array(measured["case"]["ids"]), "none")
    found = causal(spec_of(measured["case"]), kernel=kernel)
    pairs = np.outer(found.size, found.size) - np.diag(found.size)
    rho = 1 - np.sum(found.gap_ratio * pairs, axis=(1, 2)) / pairs.sum()
    assert not beyond(rho, measured, 0.04).any()


@pytest.mark.parametrize("name", CASES[:3])
def test_the_correlation_rho_fails(finite_heads, name, monkeypatch):
    """Negative control: the same solver with r = rho in every head."""
    for module in ("table", "heads"):
        path = f"sigprop.layers.attention.statistics.{module}.lost"
        monkeypatch.setattr(path, lambda rows, s, gap, head_width: np.zeros(np.shape(s)))
    monkeypatch.setattr("sigprop.layers.attention.query_statistics.lost", lambda *_: 0.0)
    measured = finite_heads[name]
    assert beyond(propagate(spec_of(measured["case"])).rho, measured, 0.04)[:2].all()


@pytest.mark.parametrize(
    ("beta", "rho", "se"), [(2.0, 0.1149, 0.0030), (3.5, 0.0813, 0.0029)]
)  # fmt: skip
def test_five_attention_blocks(beta, rho, se):
    """Attention-only post-norm blocks from iid tokens, measured on networks (theory.md 2c)."""
    spec = ModelSpec(
        depth=5, context=128, width=512, heads=32, beta=beta, sigma_v2=1, sigma_w2=0, rho0=0
    )
    assert abs(propagate(spec).rho[-1] - rho) <= 3 * se
    assert abs(propagate(spec.replace(width=None, heads=1)).rho[-1] - rho) > 6 * se  # r = rho
