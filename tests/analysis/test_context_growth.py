"""Growth of the context and trade-offs of designs where positions are told apart."""

import numpy as np
import pytest

from sigprop import DomainError, ModelSpec, Targets, critical, grow, propagate, recommend, sweep
from sigprop.analysis.context_growth import RULES
from sigprop.propagation.capabilities import TheoryError

PLAIN = ModelSpec(
    depth=3, context=64, width=64, heads=2, causal=True, norm="pre", beta=0.8, sigma_v2=1,
    sigma_w2=1, rho0=0.1,
)  # fmt: skip
MASKED = {
    "causal": {},
    "window": {"window": 8},
    "one key": {"window": 1},
    "prefix": {"prefix": 16},
    "rotary": {"rotary_base": 1e4},
    "pattern": {"pattern": [{"window": 8}, {}]},
    "distance": {"causal": False, "rotary_base": 1e4},
}
COLUMNS = ("beta", "score_std", "entropy_ratio", "rho", "alpha_critical")
TABLES = 1e-3  # of an overlap: `sweep` reads tables on coarse blocks, `propagate` integrates
RHO_MAX = 0.7


@pytest.mark.parametrize("change", MASKED.values(), ids=MASKED)
def test_every_number_is_that_of_the_other_commands(change):
    """At T0, where all rules agree, and at another context; late tokens have other numbers."""
    spec = PLAIN.replace(**change)
    found = grow(spec, [64, 256], rho_max=RHO_MAX)
    for name in COLUMNS:
        np.testing.assert_array_equal(np.ptp(getattr(found, name)[:, 0]), 0)
    log = list(RULES).index("log")
    for i, context in enumerate((64, 256)):
        one = spec.replace(context=context, beta=found.beta[log, i])
        own, late = propagate(one), propagate(one, geometry="exchangeable")
        assert found.entropy_ratio[log, i] == pytest.approx(own.entropy_ratio[0], rel=1e-9)
        assert found.score_std[log, i] == pytest.approx(own.score_std[0], rel=1e-9)
        assert found.rho[log, i] == pytest.approx(own.rho[-1], abs=TABLES)
        alpha = float(critical(one, RHO_MAX).alpha_attn)
        assert found.alpha_critical[log, i] == pytest.approx(alpha, rel=1e-4)
        assert abs(late.rho[-1] - own.rho[-1]) > 2 * TABLES  # negative control
        exchangeable = float(critical(one, RHO_MAX, geometry="exchangeable").alpha_attn)
        assert exchangeable != pytest.approx(alpha, rel=1e-2)


@pytest.mark.parametrize("window", [1, 8])
def test_a_window_keeps_its_length(window):
    """Scores of fixed weights keep entropy and overlap; without one attention turns uniform."""
    spec = PLAIN.replace(window=window)
    found, plain = (grow(s, [2048, 2**17], RHO_MAX) for s in (spec, PLAIN))
    weights = list(RULES).index("weights")
    assert np.ptp(found.entropy_ratio[weights]) < 5e-4
    assert np.ptp(plain.entropy_ratio[weights]) > 0.02
    assert np.all((found.entropy_ratio == 0) == (window == 1))


def test_one_key_leaves_scores_without_effect():
    found = grow(PLAIN.replace(window=1), [64, 1024], RHO_MAX)
    np.testing.assert_array_equal(found.entropy_ratio, 0)
    np.testing.assert_allclose(found.rho, found.rho[0, 0], rtol=1e-12)
    np.testing.assert_array_equal(found.beta[list(RULES).index("entropy")], PLAIN.beta)


def test_a_window_of_all_keys_is_none():
    found, plain = (grow(s, [32, 128], RHO_MAX) for s in (PLAIN.replace(window=128), PLAIN))
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-9)


@pytest.mark.parametrize("change", [{}, {"window": 8}, {"prefix": 16}, {"rotary_base": 1e4}])
def test_the_entropy_that_is_held_is_that_of_the_mask(change):
    """Its beta, found by `propagate`; at that of exchangeable tokens the entropy moves."""
    spec = PLAIN.replace(**change)
    held = list(RULES).index("entropy")

    def moved(growth):
        one = spec.replace(context=4096, beta=growth.beta[held, 0])
        return abs(propagate(one).entropy_ratio[0] - propagate(spec).entropy_ratio[0])

    assert moved(grow(spec, [4096], RHO_MAX)) < 1e-6
    assert moved(grow(PLAIN.replace(causal=False), [4096], RHO_MAX)) > 1e-3


def test_layers_that_differ_need_no_mask():
    spec = PLAIN.replace(causal=False, rho0=0.5, by_layer={"sigma_v2": [0.5, 1, 2]})
    found, own = grow(spec, [64], RHO_MAX), propagate(spec)
    np.testing.assert_allclose(found.rho, own.rho[-1], rtol=1e-6)
    np.testing.assert_allclose(found.entropy_ratio, own.entropy_ratio[0], rtol=1e-6)
    alpha = critical(spec, RHO_MAX).alpha_attn
    np.testing.assert_allclose(found.alpha_critical, alpha, rtol=1e-6)
    alike = grow(spec.replace(by_layer=None), [64], RHO_MAX)
    assert np.all(np.abs(alike.alpha_critical - alpha) > 0.01)
    narrow = {"first": [{"heads": 8}]}  # block 1 is that of its own heads
    first, whole = (grow(s, [64], RHO_MAX).entropy_ratio
                    for s in (spec.replace(pattern=narrow), spec.replace(heads=8)))  # fmt: skip
    np.testing.assert_allclose(first, whole)
    assert np.all(np.abs(first - own.entropy_ratio[0]) > 1e-4)


def test_without_temperature_there_is_nothing_to_scale():
    for spec in (PLAIN.replace(beta=0), PLAIN.replace(beta=0, causal=False)):
        found = grow(spec, [64, 256], RHO_MAX)
        np.testing.assert_array_equal(found.beta, 0)
        np.testing.assert_allclose(found.entropy_ratio, 1)
        assert np.ptp(found.rho[:, 1]) == 0


def test_beyond_the_contexts_of_positions_beta_is_alone():
    found = grow(PLAIN, [2**20, 2**21], RHO_MAX)
    for name in COLUMNS[1:]:
        values = getattr(found, name)
        assert np.isfinite(values[:, 0]).all()
        assert np.isnan(values[:, 1]).all()
    assert np.isnan(found.beta[:, 1]).tolist() == [rule == "entropy" for rule in RULES]
    assert any("Beyond T = 1048576 " in note for note in found.notes)
    assert not any("Beyond" in note for note in grow(PLAIN, [64], RHO_MAX).notes)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"context": 2**21}, TheoryError, "context above 1048576 with causal = true in grow"),
        ({"norm": "none"}, TheoryError, "norm = 'none' with causal = True in grow"),
        ({"value_identity": 0.5}, TheoryError, "identity or value_identity with causal"),
        ({"pattern": [{"beta": 0.8}, {}]}, TheoryError, "beta in pattern or by_layer in grow"),
        ({"prefix": 48}, DomainError, "prefix = 48 is not admissible"),
    ],
)
def test_what_no_theory_covers_is_named(change, error, words):
    with pytest.raises(error, match=words):
        grow(PLAIN.replace(**change), [32])


def test_progress_counts_contexts_and_rules():
    for spec in (PLAIN, PLAIN.replace(causal=False)):
        done = []
        grow(spec, [32, 64, 128], RHO_MAX, done.append)
        assert sum(done) == 3 * len(RULES)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("change", [{"window": 8}, {"prefix": 16}, {}])
def test_a_trade_off_is_by_position(change, per_layer):
    """Overlap and entropy at every beta; those of late tokens differ."""
    spec = PLAIN.replace(**change)
    found = recommend(spec, Targets(rho_max=0.9, query_min=1e-5), {"beta": (0.1, 2)}, per_layer)
    here = np.asarray(found.curve["recommended"])
    assert found.curve["rho"][here] == pytest.approx([float(found.predicted.rho)])
    if per_layer:
        return
    wide = found.spec.replace(beta=found.curve["beta"])
    own, late = propagate(wide), propagate(wide, geometry="exchangeable")
    np.testing.assert_allclose(found.curve["rho"], own.rho[-1], rtol=1e-9)
    np.testing.assert_allclose(found.curve["entropy"], own.entropy_ratio.min(axis=0), rtol=1e-9)
    np.testing.assert_allclose(sweep(wide).state.rho, own.rho[-1], atol=TABLES)
    assert np.max(np.abs(late.rho[-1] - own.rho[-1])) > 2 * TABLES


def test_what_a_window_of_one_key_cannot_do_is_not_promised():
    """Its entropy is zero at every beta: no smaller target is admissible."""
    found = recommend(PLAIN.replace(window=1), Targets(rho_max=0.9), {"beta": (0.1, 2)})
    assert not found.feasible
    np.testing.assert_array_equal(found.curve["entropy"], 0)
    assert "entropy_min" not in found.relaxed
    assert not np.any(found.curve["query"])  # nor has its score a gradient
    assert found.notes == ()
