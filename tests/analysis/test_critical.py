"""Critical residual strength and entropy boundary: closed forms, self-consistency, laws."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_specs import STRUCTURES, random_specs

from sigprop import (
    DomainError,
    ModelSpec,
    asymptotic_alpha,
    beta_profile,
    critical,
    entropy_boundary,
    exponents,
    fixed_points,
    judge,
    propagate,
    sweep,
)
from sigprop.analysis.critical import REASONS, first_root
from sigprop.core.numerics.roots import INNER, refined, refined_from


def logit(p):
    return np.log(p / (1 - p))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.floats(0.01, 0.8), st.floats(0.81, 0.9999), st.floats(0.01, 5))
def test_exact_law(depth, rho0, rho_max, sigma_v2):
    """E21: attention only, low beta, no bias."""
    spec = ModelSpec(depth=depth, context="inf", beta=0, sigma_v2=sigma_v2, sigma_w2=0, rho0=rho0)
    exact = np.sqrt(sigma_v2 / np.expm1((logit(rho_max) - logit(rho0)) / depth))
    assert float(critical(spec, rho_max).alpha_attn) == pytest.approx(exact, rel=1e-10)


def test_depth_asymptote():
    """alpha_c grows as sqrt(L): the usual 1/sqrt(L) branch scaling, with its constant."""
    spec = ModelSpec(depth=4000, context="inf", beta=0, sigma_v2=2, sigma_w2=0, rho0=0.2)
    found = float(critical(spec, 0.9).alpha_attn)
    assert found**2 == pytest.approx(2 * 4000 / (logit(0.9) - logit(0.2)), rel=1e-3)


@pytest.mark.parametrize("context", [512, "inf"])
@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_asymptotic_tanh(context, gain):
    """E20 for a chaotic tanh network, against a direct quadrature of the slopes."""
    v, w, b, am = 0.8, 6.0, 0.05, 0.9
    spec = ModelSpec(
        depth=1,
        context=context,
        beta=0.4,
        sigma_v2=v,
        sigma_w2=w,
        sigma_b2=b,
        alpha_mlp=am,
        activation="tanh",
        norm_gain=gain,
        rho0=0.1,
    )
    z = np.linspace(-12, 12, 4001)
    weight = np.exp(-(z**2) / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    q, u = gain**2, np.sqrt(w * gain**2 + b) * z
    out = w * weight @ np.tanh(u) ** 2 + b + am**2 * q
    chi_mlp = (w**2 * weight @ np.cosh(u) ** -4.0 + am**2) * q / out
    alpha = float(asymptotic_alpha(spec))
    assert alpha == pytest.approx(np.sqrt((v + b / q) / (chi_mlp - 1)), rel=1e-7)
    assert float(exponents(spec.replace(alpha_attn=alpha)).chi) == pytest.approx(1, abs=1e-12)


def test_relu_always_collapses():
    spec = ModelSpec(
        depth=1,
        context=512,
        beta=1,
        sigma_v2=1,
        sigma_w2=np.geomspace(0.1, 50, 9),
        alpha_attn=5,
        rho0=0.1,
    )
    assert (exponents(spec).chi < 1).all()
    assert np.isinf(asymptotic_alpha(spec)).all()


@pytest.mark.parametrize("total_specs", [700, pytest.param(10_000, marks=pytest.mark.slow)])
def test_self_consistent_on_random_specs(total_specs):
    """Random specs: propagating at the returned strength gives rho_max to 1e-9.

    The scan over twelve decades of strength drives scores without norms, and correlations at
    T < 5, beyond the table, to the slow quadrature: the former are searched in the limit, the
    latter are left out.
    """
    total = found = 0
    for number, structure in enumerate(STRUCTURES):
        rng = np.random.default_rng([7, number])
        count = total_specs // len(STRUCTURES) + 1
        limit = number % 3 == 0 or structure[0] == "none"
        covered = {} if limit else _covered(rng, count)
        spec = random_specs(rng, count, structure, limit, **covered)
        rho_max = rng.uniform(0.3, 0.999, count)
        c = critical(spec, rho_max)
        state = sweep(replace(spec, alpha_attn=np.where(c.converged, c.alpha_attn, 1.0))).state
        good = c.converged
        assert np.abs(state.rho - rho_max)[good].max(initial=0) <= 1e-9
        assert set(np.unique(c.reason)) <= set(REASONS)
        assert (c.reason != "the root finder stopped above its tolerance").all()
        assert (np.isfinite(c.alpha_attn) & (c.alpha_attn > 0) == good).all()
        _check_ends(spec, c, rho_max)
        total, found = total + count, found + int(good.sum())
    assert total >= total_specs
    assert found > total // 4


def _covered(rng, count):
    """Contexts and overlaps whose statistics the table covers at any strength."""
    context = np.floor(np.exp(rng.uniform(np.log(5), np.log(2**17), count)))
    return {"context": context, "rho0": rng.uniform(0, 1, count)}


def _check_ends(spec, c, rho_max):
    """No skip needed: the overlap is small without it. None suffices: large at any."""
    none, never = c.reason == REASONS[1], c.reason == REASONS[2]
    low = sweep(replace(spec, alpha_attn=1e-6)).state.rho
    high = sweep(replace(spec, alpha_attn=1e6)).state.rho
    assert (low <= rho_max + 1e-12)[none].all()
    assert not (high < rho_max - 1e-12)[never].any()


def test_monotone():
    """More depth needs more skip; a laxer target needs less; overlap falls with the skip."""
    spec = ModelSpec(depth=12, context=512, beta=1.0, sigma_v2=0.5, sigma_w2=0.2, rho0=0.1)
    targets = np.linspace(0.7, 0.999, 20)
    c = critical(spec, targets)
    assert (np.diff(c.alpha_attn) < 0).all()
    assert c.monotone.all()
    deeper = [float(critical(spec.replace(depth=n), 0.99).alpha_attn) for n in (4, 8, 16, 32)]
    assert (np.diff(deeper) > 0).all()
    spec = spec.replace(alpha_attn=np.geomspace(0.01, 100, 60))
    assert (np.diff(sweep(spec).state.rho) <= 0).all()  # equal where all is merged to rounding


SCAN = np.geomspace(1e-6, 1e6, 25)  # strengths that the documentation promises
BACK = ModelSpec(  # the overlap falls with the skip branch, then rises back to that of the input
    depth=6, context=512, norm="pre", beta=0.5, sigma_v2=0.2, sigma_w2=9, sigma_b2=0.1, rho0=0.9,
    activation="tanh",
)  # fmt: skip
TARGETS = np.array([0.5, 0.8, 0.85, 0.95])


def test_a_search_says_whether_the_overlap_falls_all_along():
    """Against the overlap itself, strength by strength; where it rises again, the lower root."""
    rising = np.diff(sweep(BACK.replace(alpha_attn=SCAN)).state.rho).max()
    falling = np.diff(sweep(BACK.replace(norm="post", alpha_attn=SCAN)).state.rho).max()
    assert rising > 0.01 > 1e-9 > falling
    back, fall = critical(BACK, TARGETS), critical(BACK.replace(norm="post"), TARGETS)
    assert (back.monotone.tolist(), fall.monotone.tolist()) == ([False] * 4, [True] * 4)
    assert back.converged.tolist() == [False, True, True, True]
    assert (back.alpha_attn[1:] < 0.5).all()
    rises = sweep(BACK.replace(alpha_attn=np.geomspace(0.5, 20, 40))).state.rho
    assert rises.min() < 0.8 < 0.85 < rises.max()  # a second root, which is not the answer


def test_a_search_ends_in_a_bracket_of_the_root():
    """Neighbours of the scan: the overlap is above rho_max at the lower end, below at the upper."""
    found = critical(BACK, TARGETS)
    low, high = (end[found.converged] for end in found.bracket)
    root, target = found.alpha_attn[found.converged], TARGETS[found.converged]
    assert ((low < root) & (root < high)).all()
    np.testing.assert_allclose(high / low, np.sqrt(10), rtol=1e-9)
    ends = [sweep(BACK.replace(alpha_attn=end)).state.rho for end in (low, high)]
    assert ((ends[0] > target) & (target > ends[1])).all()
    assert np.isnan(found.bracket)[:, ~found.converged].all()
    np.testing.assert_allclose(found.residual[found.converged], 0, atol=1e-9)


def test_a_scan_that_ends_at_the_first_root_finds_the_same():
    """Roots low and high, none needed, none there; control: monotone is not seen to the end."""
    short = ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    target, seen = np.array([[0.5], [0.8], [0.9999]]), set()
    for spec in (BACK, short):
        many = spec.replace(sigma_v2=[1e-3, 0.3, 1.0, 1e3])
        every, first = critical(many, target), first_root(many, target)
        np.testing.assert_array_equal(first.reason, every.reason)
        for name in ("alpha_attn", "rho", "bracket"):
            np.testing.assert_allclose(getattr(first, name), getattr(every, name), rtol=1e-12)
        seen |= set(every.reason.ravel().tolist())
        assert (first.monotone & ~every.monotone).any() == (spec is BACK)
    assert seen >= set(REASONS[:3])


def test_a_search_counts_its_evaluations():
    """The scan alone where nothing is refined; inverse interpolation is far below bisection."""
    found = critical(BACK, TARGETS)
    assert found.iterations[0] == len(SCAN)
    refined = found.iterations[1:] - len(SCAN)
    assert (refined > INNER).all()  # at least one point behind the second scan
    assert (refined < np.log2(np.log(np.sqrt(10)) / 1e-13)).all()
    alone = [int(critical(BACK, target).iterations) for target in TARGETS[:2]]
    assert alone == found.iterations[:2].tolist()


DECODER = ModelSpec(  # under a mask, at contexts that are not position by position
    depth=6, context=512, causal=True, norm="pre", beta=[0.3, 0.8, 1.5], sigma_v2=[2.0, 0.6, 1.0],
    sigma_w2=[0.4, 1.0, 2.0], rho0=[0.1, 0.3, 0.0],
)  # fmt: skip


NUMBERS = ("beta", "sigma_v2", "sigma_w2", "rho0")  # of which DECODER has three


@pytest.mark.parametrize("rotary", [{}, {"rotary_base": 1e4, "width": 512, "heads": 8}])
@pytest.mark.parametrize("search", [critical, first_root])
def test_brackets_on_few_blocks_lead_to_the_roots_on_all(monkeypatch, search, rotary):
    """Against the search on all blocks alone; control: roots on few blocks are others."""
    module = sys.modules["sigprop.analysis.critical"]
    spec, target = replace(DECODER, **rotary), np.array([[0.5], [0.9], [0.99]])
    found = search(spec, target)
    monkeypatch.setattr(module, "FEW", None)
    whole = search(spec, target)
    np.testing.assert_array_equal(found.reason, whole.reason)
    np.testing.assert_array_equal(found.monotone, whole.monotone)
    np.testing.assert_allclose(found.alpha_attn, whole.alpha_attn, rtol=1e-7)
    assert (found.residual[found.converged] < 1e-9).all()
    assert whole.converged.sum() >= 6
    few = partial(sweep, resolution=16)
    monkeypatch.setattr(module, "sweep", lambda *args, **_: few(*args))
    coarse, good = search(spec, target).alpha_attn, whole.converged
    assert np.abs(coarse[good] / whole.alpha_attn[good] - 1).max() > 1e-5


def test_a_decoder_alone_has_the_root_it_has_among_others(monkeypatch):
    """Though its usual brackets are looked into at once; control: among others they are not."""
    module, asked = sys.modules["sigprop.analysis.critical"], []

    def counted(spec, *args, resolution=None, **more):
        asked.append(resolution)
        return sweep(spec, *args, resolution=resolution, **more)

    monkeypatch.setattr(module, "sweep", counted)
    specs = [DECODER.replace(**{n: getattr(DECODER, n)[k] for n in NUMBERS}) for k in range(3)]
    together = first_root(DECODER, 0.9)
    assert asked.count(16) > 1
    usual = (together.alpha_attn > 0.1) & (together.alpha_attn < 1)
    assert usual.any()
    for k, spec in enumerate(specs):
        asked.clear()
        alone = first_root(spec, 0.9)
        np.testing.assert_allclose(alone.alpha_attn, together.alpha_attn[k], rtol=1e-9)
        assert (asked.count(16) == 1) == usual[k]


@pytest.mark.parametrize("side", [0.5, -0.5])
def test_where_few_blocks_decide_otherwise_all_are_asked(monkeypatch, side):
    """An overlap accepted between those without skip branch on few and on all blocks.

    Control: without the check the search calls a strength needed that is not, or the reverse.
    """
    module = sys.modules["sigprop.analysis.critical"]
    spec = DECODER.replace(beta=1.5, sigma_v2=1.0, sigma_w2=2.0, rho0=0.0, alpha_attn=1e-6)
    all_, few = (float(sweep(spec, resolution=n).state.rho) for n in (None, 16))
    assert abs(all_ - few) > 1e-6
    target = (all_ + few) / 2 + side * abs(all_ - few) / 2
    needed = float(critical(spec, target).alpha_attn) > 0
    assert needed == (all_ > target)
    monkeypatch.setattr(module, "_is_unsure", lambda search, found: found.x > np.inf)
    misled = float(critical(spec, target).alpha_attn) > 0
    assert misled == (few > target) != needed


@pytest.mark.parametrize("search", [critical, first_root])
def test_where_few_blocks_know_nothing_all_are_asked(monkeypatch, search):
    """Heights undefined below the root on few blocks; control: unasked, no strength is found."""
    module = sys.modules["sigprop.analysis.critical"]
    spec = DECODER.replace(beta=0.5, sigma_v2=1.0, sigma_w2=1.0, rho0=0.1)
    expected = float(search(spec, 0.9).alpha_attn)
    assert 0 < expected < 1

    def undefined(part, *args, resolution=None, **more):
        found = sweep(part, *args, resolution=resolution, **more)
        lost = np.broadcast_to(part.alpha_attn, part.shape) < 1
        gap = np.where(lost & (resolution is not None), np.nan, found.state.gap)
        return replace(found, state=found.state._replace(gap=gap))

    monkeypatch.setattr(module, "sweep", undefined)
    np.testing.assert_allclose(float(search(spec, 0.9).alpha_attn), expected, rtol=1e-9)
    monkeypatch.setattr(module, "_is_unsure", lambda search, found: found.x > np.inf)
    assert np.isinf(float(search(spec, 0.9).alpha_attn))


@pytest.mark.parametrize("off", [0.0, 0.01, -0.05])
def test_roots_are_refined_from_those_of_like_functions(off):
    """In a few calls, also outside the bracket; control: functions whose roots are far."""

    def function(x, which):
        return np.tanh(3 * (x - 0.498))

    def nearly(x, which):
        return np.tanh(3.1 * (x - 0.498 - off))

    bracket = np.array([0.2, 0.5]), np.array([0.5, 0.9])
    values = tuple(nearly(end, None) for end in bracket)
    found = refined_from(nearly, function, bracket, values, 0.02)
    near = values[0] * values[1] < 0  # which of both brackets holds the root of `nearly`
    # functions are below 1e-10 where the last interpolation puts the root, far closer than that
    np.testing.assert_allclose(found.x[near], 0.498, atol=1e-11)
    assert (found.calls[near] <= 2 * INNER + 3).all()
    assert (np.abs(found.value[near]) < 1e-10).all()
    lost = refined_from(nearly, lambda x, which: function(x - 2, which), bracket, values, 0.02)
    assert (np.abs(lost.value) > 0.1).all()


@pytest.mark.parametrize(
    ("lowest", "known", "exact"), [(-1.0, 4, True), (-1.0, 2, True), (-np.inf, 4, False)]
)
def test_roots_start_from_cubics_through_neighbours(lowest, known, exact):
    """Cubics are met at once, from four points or three more; control: where an end is infinite."""

    def function(x, which):
        return (x - 0.3) * (2 + (x - 0.9) ** 2)

    points, asked = np.array([[-1.0], [0.0], [1.0], [2.0]]), []
    values = function(points, None)
    if lowest == -np.inf:
        values[:2] = lowest
    rows = slice(2 - known // 2, 2 + known // 2)

    def counted(x, which):
        asked.append(np.mean(x))
        return function(x, which)

    found = refined_from(function, counted, points[rows], values[rows], 0.01)
    assert found.x[0] == pytest.approx(0.3, abs=1e-12)
    assert (abs(asked[0] - 0.3) < 1e-10) == exact
    assert abs(asked[0] - 0.3) < 0.1


@pytest.mark.parametrize(
    ("function", "root", "most"),
    [
        (lambda x: np.tanh(5 * (x - 0.3)), 0.3, 12),
        (lambda x: x**9 - 1e-3, 1e-3 ** (1 / 9), 25),
        (lambda x: np.where(x < 0.7, -1.0, x - 0.6), 0.7, 65),  # a step has no root
        (lambda x: np.where(x < 0.5, -np.inf, np.log(np.maximum(x, 0.5) / 0.6)), 0.6, 25),
        (lambda x: (x - 0.2) * (x - 0.55) * (x - 0.9), 0.2, 20),  # the first of three
    ],
)
def test_roots_are_refined_in_few_calls(function, root, most):
    """Against known roots, among many functions and alone; control: a root that is moved."""
    low, high = np.zeros(3), np.array([1.0, 1.0, 2.0])
    shift = np.array([0.0, 0.01, 0.0])
    found = refined(
        lambda x, which: function(x - shift[which]), (low, high), (function(low), function(high))
    )
    # functions end below 1e-13, over slopes there and the rounding of x - shift
    np.testing.assert_allclose(found.x - shift, root, atol=1e-12)
    assert abs(found.x[1] - root) > 0.009
    assert (found.calls > INNER).all()
    assert (found.calls <= most).all()
    if most < 65:  # what is left of a function is no more than is said of it
        assert (np.abs(function(found.x - shift)) <= np.abs(found.value) + 1e-13).all()
        assert (np.abs(found.value) < 1e-10).all()
    alone = refined(
        lambda x, which: function(x), (low[:1], high[:1]), (function(low[:1]), function(high[:1]))
    )
    assert alone.x[0] == found.x[0]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_first_block_freezes_at_the_beta_that_is_named(norm):
    """beta_c = sqrt(2/gap) at unit variance (E3, E8), on both sides of it."""
    spec = ModelSpec(
        depth=1, context=512, norm=norm, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.28, norm_gain=1
    )
    edge = judge(spec).beta_freezing
    assert edge == pytest.approx(np.sqrt(2 / 0.72), rel=1e-9)
    assert judge(spec.replace(beta=2.5)).beta_freezing == pytest.approx(edge, rel=1e-9)
    frozen = [judge(spec.replace(beta=b)).verdict for b in (0.999 * edge, 1.001 * edge)]
    assert frozen == ["trainable", "entropy collapse"]
    gain = judge(spec.replace(norm="pre", norm_gain=1.5)).beta_freezing  # q = 2.25 is read
    assert gain == pytest.approx(np.sqrt(2 / 0.72) / 1.5**2, rel=1e-9)


@pytest.mark.parametrize("rho_max", [0.9, 0.95, 0.99])
def test_the_block_of_collapse_follows_from_the_odds_law(rho_max):
    """E21: the odds of the overlap grow by 1 + sigma_v2/alpha^2 in each block."""
    spec = ModelSpec(
        depth=40, context="inf", beta=0, sigma_v2=0.8, sigma_w2=0, rho0=0.2, alpha_attn=2
    )
    growth = np.log1p(0.8 / 4)
    exact = int(np.ceil((logit(rho_max) - logit(0.2)) / growth))
    found = judge(spec, rho_max)
    assert found.collapse_layer == exact
    assert found.verdict == "rank collapse"
    rho = found.trajectory.rho
    assert rho[exact - 1] <= rho_max < rho[exact]
    assert judge(spec.replace(depth=exact - 1), rho_max).collapse_layer is None
    assert judge(spec.replace(depth=exact), rho_max).collapse_layer == exact


def test_reasons():
    base = ModelSpec(depth=30, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.3)
    assert critical(base, 0.5).reason.startswith("no alpha_attn up to")
    apart = base.replace(activation="tanh", sigma_w2=20, rho0=0.0, sigma_v2=1e-12)
    assert float(critical(apart, 0.9).alpha_attn) >= 0
    assert float(critical(base.replace(sigma_v2=0, sigma_w2=0), 0.5).alpha_attn) == 0
    with pytest.raises(DomainError, match=r"^rho_max"):
        critical(base, 1.0)


def test_a_scan_says_where_states_overflow():
    """Without norms variances do, at strong attention; control: with norms a root is found."""
    spec = ModelSpec(
        depth=8, context=512, norm="none", beta=0.1, sigma_v2=1, sigma_w1_2=1, sigma_w2_2=4,
        rho0=0.5, gated=True, alpha_mlp=0,
    )  # fmt: skip
    assert not np.isfinite(sweep(replace(spec, alpha_attn=[0.1, 1e6])).state.q[1])
    found = critical(spec, 0.02)
    assert (found.reason, float(found.alpha_attn)) == (REASONS[6], np.inf)
    assert np.isnan(found.rho)
    assert critical(replace(spec, norm="post"), 0.02).converged


def test_entropy_boundary():
    """At the boundary's beta, a block that sees the same tokens has that entropy."""
    spec = ModelSpec(depth=6, context=512, beta=0.8, sigma_v2=1, sigma_w2=2, rho0=0.2)
    t, edge = propagate(spec), entropy_boundary(spec, 0.5)
    for layer in range(6):
        one = spec.replace(depth=1, beta=float(edge[layer]), rho0=float(t.rho[layer]))
        assert float(propagate(one).entropy_ratio[0]) == pytest.approx(0.5, abs=1e-9)
    frozen = entropy_boundary(spec, 0.0, theory="limit")
    states = propagate(spec, theory="limit")
    np.testing.assert_allclose(frozen, np.sqrt(2 / states.gap[:-1]), rtol=1e-12)


def test_beta_profile():
    for theory in ("finite", "limit"):
        spec = ModelSpec(depth=8, context=[64, 4096], beta=1, sigma_v2=1, sigma_w2=1, rho0=0.2)
        profile = beta_profile(spec, 0.6, theory)
        t = propagate(spec, theory, beta_by_layer=profile.beta)
        np.testing.assert_allclose(t.entropy_ratio, 0.6, atol=1e-9)
        np.testing.assert_allclose(t.rho, profile.rho, rtol=1e-12)
        assert (np.diff(profile.beta, axis=0) > 0).all()


def test_fixed_points():
    """The chaotic network is drawn to a fixed point below one, at the rate its slope says."""
    spec = ModelSpec(
        depth=400,
        context=512,
        beta=0.5,
        sigma_v2=0.2,
        sigma_w2=9,
        sigma_b2=0.1,
        activation="tanh",
        alpha_attn=2,
        rho0=0.9,
    )
    collapsed, inner = fixed_points(spec)
    assert (collapsed.stable, inner.stable) == (False, True)
    t = propagate(spec)
    assert float(t.gap[-1]) == pytest.approx(inner.gap, rel=1e-10)
    late = np.abs(t.gap - inner.gap)
    layer = int(np.flatnonzero(late < 1e-6)[0])
    assert late[layer + 1] / late[layer] == pytest.approx(inner.slope, rel=1e-3)
    assert float(exponents(spec).chi) == pytest.approx(collapsed.slope)


def test_depth_scale():
    """Near collapse 1 - rho shrinks by chi a block (without ReLU's square-root correction)."""
    spec = ModelSpec(
        depth=300, context=512, beta=0.3, sigma_v2=0.1, sigma_w2=0.5, activation="erf", rho0=0.5
    )
    t = propagate(spec)
    assert float(t.gap[-1] / t.gap[-2]) == pytest.approx(float(exponents(spec).chi), rel=1e-9)


def test_pre_norm_power_law():
    """1 - rho ~ l^(kappa/c - 1): the local exponent of a deep stack approaches the prediction."""
    spec = ModelSpec(
        depth=60_000,
        context="inf",
        norm="pre",
        beta=0.2,
        sigma_v2=0.5,
        sigma_w2=1,
        activation="gelu",
        rho0=0.1,
    )
    state = {n: sweep(spec.replace(depth=n)).state for n in (30_000, 60_000)}
    ratio = [float(s.gap / s.q) for s in state.values()]
    local = np.log(ratio[1] / ratio[0]) / np.log(2)
    assert local == pytest.approx(float(exponents(spec).power_law), abs=2e-3)
    assert np.isnan(exponents(spec).chi)
