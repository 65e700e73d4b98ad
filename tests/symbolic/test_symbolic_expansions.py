"""Expansions of finite-context attention against quadrature, and where each is accurate."""

from itertools import product

import numpy as np
import pytest
import sympy as sp

from sigprop.core.errors import DomainError
from sigprop.layers.attention.statistics import moments, overlap
from sigprop.symbolic import accurate_to, estimated_error, evaluate, expansion, symbol

FEW = [2, 5, 27, 512, 65536, 1e12]
MANY = [3, 4, 6, 8, 12, 17, 22, 35, 64, 120, 4096, 2**20, 1e9]
T, R = symbol("context"), symbol("score_overlap")
INSIDE = {"small": np.array([0.3, 0.8, 0.95, 1.0]), "large": np.array([1.0, 1.05, 1.3, 3.0])}


def quadrature(quantity, s, context, r):
    return (
        overlap(s, context, r) if quantity == "overlap" else getattr(moments(s, context), quantity)
    )


def relative_error(quantity, regime, s, context, r=0.0):
    exact = quadrature(quantity, s, context, r)
    return np.abs(evaluate(quantity, regime, s, context, r) / exact - 1)


@pytest.mark.parametrize("contexts", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("regime", ["small", "large"])
@pytest.mark.parametrize("quantity", ["y2", "entropy"])
def test_accurate_where_stated(quantity, regime, contexts):
    for context in contexts:
        s = accurate_to(quantity, regime, context) * INSIDE[regime]
        assert relative_error(quantity, regime, s, context).max() < 0.01, context


@pytest.mark.parametrize(
    ("contexts", "correlations"),
    [
        ([2, 512], [0.3, 0.95]),
        pytest.param([5, 27, 65536], [-0.3, 0.3, 0.7, 0.95], marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("regime", ["small", "large"])
def test_overlap_accurate_where_stated(regime, contexts, correlations):
    for context, r in product(contexts, correlations):
        s = accurate_to("overlap", regime, context, r) * INSIDE[regime]
        assert relative_error("overlap", regime, s, context, r).max() < 0.01, (context, r)


@pytest.mark.parametrize(("regime", "beyond"), [("small", 2.0), ("large", 0.4)])
@pytest.mark.parametrize("quantity", ["y2", "entropy", "overlap"])
def test_not_accurate_far_beyond(quantity, regime, beyond):
    """Negative control: at twice (0.4 of) the stated s the error exceeds 1 %."""
    s = accurate_to(quantity, regime, 512, 0.5) * beyond
    assert relative_error(quantity, regime, s, 512, 0.5) > 0.01


@pytest.mark.parametrize("tolerance", [1e-4, 0.05])
def test_other_tolerances(tolerance):
    for quantity in ("y2", "entropy"):
        for regime in ("small", "large"):
            s = accurate_to(quantity, regime, 512, tolerance=tolerance)
            assert relative_error(quantity, regime, s, 512) < tolerance


@pytest.mark.parametrize(("quantity", "order"), [("y2", 8), ("entropy", 8), ("overlap", 6)])
def test_order_at_small_s(quantity, order):
    """The error falls as the power of s of the first term left out."""
    s = np.array([0.2, 0.1])
    error = relative_error(quantity, "small", s, 512, 0.5)
    assert np.log2(error[0] / error[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("quantity", "order"), [("y2", -5), ("entropy", -4), ("overlap", -3)])
def test_order_at_large_s(quantity, order):
    s = np.array([60.0, 120.0])
    exact = quadrature(quantity, s, 512, 0.5)
    error = np.abs(evaluate(quantity, "large", s, 512, 0.5) - exact)
    assert np.log2(error[1] / error[0]) == pytest.approx(order, abs=0.2)


def test_exact_cases():
    """One score: nothing is left to attend to. r = 1: O = Y_2. r = 0: O = 1/T. T = 2 one-hot."""
    for quantity in ("y2", "entropy", "overlap"):
        alone = expansion(quantity, "small").expression.subs(T, 1)
        assert alone == (0 if quantity == "entropy" else 1)
    pair, one = expansion("overlap", "small"), expansion("y2", "small")
    for power, c in pair.kept.items():
        assert sp.simplify(c.subs(R, 1) - one.kept[power]) == 0
    assert sp.simplify(pair.expression.subs(R, 0) - 1 / T) == 0
    chosen = evaluate("overlap", "large", 1e9, 2, 0.7)
    assert chosen == pytest.approx(0.5 + np.arcsin(0.7) / np.pi, rel=1e-12)
    largest = (1 - evaluate("y2", "large", 1e9, 2)) * 1e9
    assert largest == pytest.approx(1 / np.sqrt(np.pi), rel=1e-6)


def test_entropy_and_participation_obey_stein():
    """F' = s (1 - Y_2) and H = F - s F' give H' = s^2 Y_2' - s (1 - Y_2), order by order."""
    h, y2 = expansion("entropy", "small"), expansion("y2", "small")
    for power in (2, 4, 6):
        right = (power - 1) * y2.kept[power - 2] - int(power == 2)
        assert sp.simplify(power * h.kept[power] - right) == 0


def test_limit_of_the_large_series():
    """First terms are those of the frozen phase: H = pi^2 m/6 + ..., 1 - Y_2 = m = mu/s."""
    found = expansion("entropy", "large").kept[-1] / expansion("y2", "large").kept[-1]
    assert sp.simplify(found + sp.pi**2 / 6) == 0


def test_refusals():
    with pytest.raises(DomainError, match="expansion = 'y9 small'"):
        expansion("y9", "small")
    with pytest.raises(DomainError, match="context = 1"):
        accurate_to("y2", "small", 1)
    with pytest.raises(DomainError, match=r"r = 0\.99"):
        evaluate("overlap", "large", 5.0, 64, 0.99)
    with pytest.raises(DomainError, match="tolerance = 2"):
        accurate_to("y2", "small", 64, tolerance=2)
    with pytest.raises(DomainError, match=r"context = 1000000000\.0"):
        evaluate("overlap", "large", 5.0, 1e9, 0.5)


def test_estimate_is_infinite_where_terms_grow():
    assert np.isinf(estimated_error("y2", "small", 10.0, 512))
