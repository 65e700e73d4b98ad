"""2000 random legal specs: every command answers or refuses by a row of the table, never else.

All of them in one command, in parts that can be repeated alone:
`python -m pytest -n 0 -m slow tests/propagation/test_legal_specs.py`, parts with -k "part3-".
"""

import warnings

import numpy as np
import pytest
from legal_specs import TOTAL, legal_spec

from sigprop import bands, beta_profile, critical, exponents, propagate
from sigprop.analysis.critical import REASONS
from sigprop.propagation.capabilities import TABLE, TheoryError

ROUNDING = 1e-13
FAST, PARTS = 60, 200


def layers(found, spec):
    """Columns of a trajectory that are NaN or beyond their laws."""
    done = (np.arange(len(found.q)).reshape(-1, *np.ones(found.ended.ndim, int)) <= found.ended).T
    done = np.broadcast_to(done.T, found.q.shape)
    for name, value in vars(found).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and name != "kernel_blocks":
            known = done[len(done) - len(value) :]
            endless = name in ("entropy", "score_std") and np.isinf(spec.context)
            if np.any(np.isnan(value[known])) or not (endless or np.all(np.isfinite(value[known]))):
                yield f"{name} is not finite"
            if name != "ended" and np.any(np.isfinite(value[~known])):
                yield f"{name} goes on behind the end"
    if np.any(found.ended < spec.depth) != ("ended before" in found.reason):
        yield "the end has no reason"
    yield from laws(found, spec, done)


def laws(found, spec, done):
    context = np.asarray(spec.context)
    reach = np.where(np.isinf(context), 1.0, 1 + 1 / (np.minimum(context, 1e300) - 1))
    if np.any((found.gap > found.q * reach * (1 + ROUNDING))[done]) or np.any(found.gap[done] < 0):
        yield f"gap is outside [0, q T/(T-1)] by {np.nanmax(found.gap / found.q / reach) - 1:.1g}"
    inside = done[1:]
    for name in ("y2", "entropy_ratio"):
        value = getattr(found, name)[inside]
        if np.any((value < -ROUNDING) | (value > 1 + ROUNDING)):
            yield f"{name} is outside [0, 1]"
    if found.positions is not None:
        yield from by_position(found.positions, spec)


def by_position(found, spec):
    """Positions are NaN where a query sees one key, or half of the context is one token."""
    alone = np.isnan(found.entropy_ratio[0])
    if np.any(alone & (found.position >= 2) & (spec.window != 1)) or np.any(
        found.entropy[:, alone]
    ):
        yield "positions.entropy_ratio is NaN where a query sees others"
    for name in ("q", "gap_ratio", "y2", "entropy", "score_std", "first_weight", "overlap_mean"):
        if not np.all(np.isfinite(getattr(found, name))):
            yield f"positions.{name} is not finite"
    for name in ("rho", "entropy_ratio", "overlap"):
        if np.any(np.isnan(getattr(found, name)) & ~alone):
            yield f"positions.{name} is NaN where a query sees others"
    if spec.context >= 4 and not np.all(np.isfinite(found.rho_late)):
        yield "positions.rho_late is NaN"


def strengths(found, spec):
    """Parts of a critical strength that are NaN without the reason that says so."""
    why = np.vectorize(REASONS.index)(found.reason)
    expected = {"alpha_attn": why == 3, "rho": np.isin(why, (2, 3, 6))}
    for name, missing in expected.items():
        if np.any(np.isnan(getattr(found, name)) != missing):
            yield f"{name} is NaN, but {np.ravel(found.reason)[0]}"
    uncovered = spec.norm == "none" or spec.causal or spec.rotary_base is not None
    if np.any(np.isnan(found.asymptotic)) and not uncovered:
        yield "asymptotic is NaN"


def rates(found, spec):
    grows = spec.norm == "pre" and np.all(np.square(spec.alpha_attn * spec.alpha_mlp) == 1)
    chi, power = np.isnan(found.chi), np.isnan(found.power_law)
    if (np.any(chi & power) and spec.shape == ()) or (np.any(~power) and not grows):
        yield "chi or power_law is NaN"


def profile(found, spec):
    if not (np.all(np.isfinite(found.beta)) and np.all(np.isfinite(found.rho))):
        yield "profile is not finite"
    held = propagate(spec, beta_by_layer=found.beta).entropy_ratio
    if np.any(np.abs(held - 0.7) > 1e-6):
        yield f"profile misses its entropy by {np.abs(held - 0.7).max():.1g}"


COMMANDS = {
    "propagate": (propagate, layers),
    "bands": (bands, layers),
    "critical": (lambda spec: critical(spec, 0.9), strengths),
    "beta_profile": (lambda spec: beta_profile(spec, 0.7), profile),
    "exponents": (exponents, rates),
}


def outcome(name, spec):
    """What a command does wrong with a spec: a list of words, empty if nothing."""
    call, check = COMMANDS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return list(check(call(spec), spec))
        except TheoryError as error:
            rows = [r for r in TABLE if r.structure == error.structure and name in r.commands]
            return [] if rows else [f"no row for {error}"]
        except Exception as error:
            return [f"{type(error).__name__}: {error}"]


def faults(numbers, names=tuple(COMMANDS)):
    """Every fault of the specs of these numbers."""
    return [
        f"{number} {name}: {words}"
        for number in numbers
        for name in names
        for words in outcome(name, legal_spec(number))
    ]


@pytest.mark.parametrize("start", range(0, FAST, 10))
def test_some_legal_specs(start):
    assert faults(range(start, start + 10), ("propagate", "beta_profile", "exponents")) == []


def test_a_state_that_vanishes_in_a_profile():
    """Number 1395 divided by the size of a token that had vanished."""
    assert faults([1395], ("beta_profile",)) == []


def test_some_critical_strengths_and_bands():
    """Without positions, whose tables take seconds."""
    assert faults([n for n in range(24) if n % 3], ("critical", "bands")) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", [f"part{i}-" for i in range(PARTS)])
def test_all_legal_specs(part):
    size = TOTAL // PARTS
    start = int(part.strip("part-")) * size
    assert faults(range(start, start + size)) == []
