"""100 000 random valid specs: nothing is NaN unannounced, every law of the state holds."""

import warnings

import numpy as np
import pytest
from random_specs import STRUCTURES, random_specs

from sigprop import propagate

TOTAL = 100_000
ULPS = 8 * np.finfo(float).eps  # a few roundings in a chain of products


@pytest.mark.parametrize("part", range(8))
def test_laws(part):
    count = TOTAL // len(STRUCTURES) // 2 + 1
    checked = 0
    for number, structure in enumerate(STRUCTURES):
        if number % 8 != part:
            continue
        for limit in (False, True):
            rng = np.random.default_rng([number, limit])
            spec = random_specs(rng, count, structure, limit)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                t = propagate(spec)
            _check(spec, t)
            checked += count
    assert checked >= TOTAL // 8


def _check(spec, t):
    done = np.arange(spec.depth + 1)[:, None] <= t.ended
    for value in (t.q, t.gap, t.rho):
        assert (np.isfinite(value) == done).all()
    inside = done[1:]
    for value in (t.y2, t.overlap, t.entropy_ratio, t.reduced_beta):
        assert (np.isfinite(value) == inside).all()
    context = np.asarray(spec.context)
    with np.errstate(invalid="ignore"):
        reach = t.q * (1 + 1 / (context - 1))
    assert ((t.gap >= 0) & (t.gap <= reach * (1 + ULPS)))[done].all()
    low = np.broadcast_to(1 / context, t.y2.shape)
    assert ((t.y2 >= low * (1 - ULPS)) & (t.y2 <= 1))[inside].all()
    assert ((t.entropy_ratio >= 0) & (t.entropy_ratio <= 1))[inside].all()
    assert (t.ended == spec.depth).mean() > 0.5 or spec.norm == "none"
    if np.isfinite(context).all():
        assert (t.entropy <= np.log(context) * (1 + ULPS))[inside].all()


@pytest.mark.parametrize("structure", STRUCTURES[::12])
def test_tokens_of_zero_mean_stay_within_the_largest_gap(structure):
    """The mean of all tokens has a variance >= 0: gap <= q T/(T-1), at the input with equality."""
    rng = np.random.default_rng(7)
    context = np.floor(rng.choice([2, 3, 4, 5, 8, 33, 512, 5000], 10)).astype(float)
    spec = random_specs(rng, 10, structure, context=context, rho0=-1 / (context - 1))
    t = propagate(spec)
    assert np.nanmax(t.gap / t.q * (1 - 1 / context)) <= 1 + ULPS


def test_so_they_do_along_one_profile():
    structure, rng = ("post", "softmax", "relu", False), np.random.default_rng(8)
    fixed = {"context": 33.0, "rho0": -1 / 32, "beta": 0.05, "norm_gain": 1.0}
    t = propagate(random_specs(rng, 600, structure, **fixed))
    assert np.nanmax(t.gap / t.q * (1 - 1 / 33)) <= 1 + ULPS
