"""The table of refusals: each row refuses in each of its commands, and nothing else does."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest

import sigprop
from sigprop import (
    DomainError,
    ModelSpec,
    asymptotic_alpha,
    bands,
    beta_profile,
    critical,
    diagram,
    entropy_boundary,
    exponents,
    fixed_points,
    gradient_exponent,
    gradients,
    grow,
    influence,
    judge,
    propagate,
    recommend,
    sweep,
)
from sigprop.analysis.schemes.outcome import survey
from sigprop.model.export import prescribe
from sigprop.propagation.capabilities import TABLE, TheoryError, covers, refusal, require_theory
from sigprop.propagation.causal import causal
from sigprop.propagation.gradients import closed_form
from sigprop.propagation.gradients.sampled import sampled_gradients
from sigprop.propagation.rotary import by_distance
from sigprop.propagation.stack import rem_of
from sigprop.studies.folklore.verdicts import bench

SPEC = ModelSpec(depth=2, context=8, width=16, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
CALLS = {
    "propagate": propagate,
    "sweep": sweep,
    "critical": lambda spec: critical(spec, 0.9),
    "diagram": lambda spec: diagram(spec, alpha_attn=[1.0, 2.0]),
    "exponents": exponents,
    "fixed_points": fixed_points,
    "asymptotic_alpha": asymptotic_alpha,
    "gradient_exponent": gradient_exponent,
    "beta_profile": lambda spec: beta_profile(spec, 0.7),
    "entropy_boundary": lambda spec: entropy_boundary(spec, 0.7),
    "attention": rem_of,
    "bands": bands,
    "gradients": gradients,
    "influence": influence,
    "late_gradients": closed_form.gradients,
    "sampled_gradients": lambda spec: sampled_gradients(spec, np.random.default_rng(0)),
    "blocks": lambda spec: propagate(spec, blocks=2),
    "judge": judge,
    "recommend": recommend,
    "prescribe": prescribe,
    "grow": lambda spec: grow(spec, [8, 16]),
    "schemes": survey,
    "folklore": bench,
    "causal": causal,
    "by_distance": by_distance,
}
EXAMPLES = {
    "context mixes finite and infinite values": {"context": [8, "inf"]},
    "norm_gain below 1e-150": {"norm_gain": 1e-200},
    "causal = true or rotary_base in the limit of infinite context": {
        "rotary_base": 1e4, "context": "inf",
    },
    "rotary_base without causal = true": {"rotary_base": 1e4},
    "documents or chunk in the limit of infinite context": {
        "causal": True, "chunk": 4, "context": "inf",
    },
    "documents or chunk": {"causal": True, "documents": [3, 5]},
    "documents or chunk with identity or value_identity": {
        "causal": True, "documents": [3, 5], "identity": 1.0,
    },
    "prefix above one": {"causal": True, "prefix": 3},
    "causal = true in the limit of infinite context": {"causal": True, "context": "inf"},
    "norm = 'none' with causal = True": {"norm": "none", "causal": True},
    "context above 1048576 with causal = true": {"context": 2**21, "causal": True},
    "context above 131072 with rotary_base": {"context": 2**18, "rotary_base": 1e4},
    "identity or value_identity with causal = true or rotary_base": {
        "value_identity": 0.5, "causal": True,
    },
    "pattern or by_layer": {"pattern": [{"beta": 2.0}, {}]},
    "beta in pattern or by_layer": {"by_layer": {"beta": [1.0, 2.0]}},
    "by_layer, or a pattern without causal = true or rotary_base": {
        "pattern": [{"beta": 2.0}, {}],
    },
    "identity with an infinite context": {"identity": 1.0, "context": "inf"},
    "identity": {"identity": 1.0},
    "identity or value_identity": {"value_identity": 0.5},
    "value_identity with norm = 'pre'": {"value_identity": 0.5, "norm": "pre"},
    "norm = 'none'": {"norm": "none"},
    "norm other than 'post'": {"norm": "pre"},
    "arrays": {"beta": [0.5, 1.0]},
    "infinite context": {"context": "inf"},
    "context above 2048": {"context": 4096},
    "norm = 'none' with causal = true or rotary_base": {"norm": "none", "rotary_base": 1e4},
    "norm = 'none' with causal = true or rotary_base, beyond uniform attention": {
        "norm": "none", "causal": True,
    },
    "rotary_base with width = null": {"rotary_base": 1e4, "width": None},
    "width that heads do not divide": {"width": 17, "heads": 2},
    "width = null": {"width": None},
    "no causal mask that is resolved": {},
    "no rotary positions that are resolved": {},
    "a state that vanishes or overflows": {
        "sigma_v2": 0, "sigma_w2": 0, "alpha_attn": 0, "alpha_mlp": 0,
    },
    "no state in which tokens settle": {
        "causal": True, "sigma_v2": 0, "sigma_w2": 0, "alpha_attn": 0, "alpha_mlp": 0,
    },
    "networks that differ too much": {"norm": "none", "width": 1, "depth": 30},
    "tokens that merge": {"rho0": 1.0},
    "beta above 1000": {"rho0": 1 - 1e-12},
}  # fmt: skip
CELLS = [(row.structure, command) for row in TABLE for command in row.commands]


def test_every_row_has_one_name_and_an_example():
    names = [row.structure for row in TABLE]
    assert len(set(names)) == len(names)
    assert set(names) == set(EXAMPLES)


@pytest.mark.parametrize(("structure", "command"), CELLS)
def test_each_cell_refuses_by_its_name(structure, command):
    spec = SPEC.replace(**EXAMPLES[structure])
    if command == "gradients" and structure.startswith("a state"):
        spec = spec.replace(causal=True)
    with pytest.raises(TheoryError) as caught:
        CALLS[command](spec)
    asked = caught.value.command  # bands follow the trajectory of propagate
    assert caught.value.structure == structure
    assert asked == command or (command, asked) == ("bands", "propagate")
    assert str(caught.value).startswith(f"{structure} in {asked}: ")


@pytest.mark.parametrize("command", CALLS)
def test_a_plain_spec_is_covered(command):
    assert covers(SPEC, command)
    require_theory(SPEC, command)


@pytest.mark.parametrize("command", ["propagate", "critical", "sweep"])
def test_the_limit_has_no_positions(command):
    spec = SPEC.replace(context=2**21, causal=True)
    assert not covers(spec, command)
    assert covers(spec, command, "limit")


@pytest.mark.parametrize("pattern", [None, [{"causal": True, "window": 4}, {"causal": True}]])
def test_late_tokens_have_no_positions(pattern):
    """Whether all layers have a mask, or each its own, late tokens are those of no mask."""
    spec = SPEC.replace(norm="none", causal=True, pattern=pattern)
    for command in ("propagate", "sweep", "critical"):
        assert not covers(spec, command)
        assert covers(spec, command, geometry="exchangeable")
    late = propagate(spec, geometry="exchangeable")
    plain = propagate(spec.replace(causal=False, pattern=None))
    np.testing.assert_array_equal(late.rho, plain.rho)
    with pytest.raises(DomainError, match=r"^geometry = 'position'"):
        propagate(SPEC, geometry="position")


def test_a_refusal_survives_a_process():
    error = pickle.loads(pickle.dumps(refusal("tokens that merge", "bands", where="block 2")))
    assert (error.structure, error.command) == ("tokens that merge", "bands")
    assert "block 2" in str(error)


def test_refusals_of_specs_are_made_nowhere_else():
    """Modules of the theory raise no assumption of their own."""
    modules = (
        "propagation/solve", "propagation/causal", "propagation/rotary", "propagation/stack",
        "propagation/run", "propagation/points", "propagation/grids",
        "propagation/gradients/sampled",
        "analysis/critical", "analysis/fixed_points", "analysis/entropy", "analysis/verdict",
        "analysis/context_growth", "analysis/diagram/fields", "analysis/design/recommend",
        "model/weights", "studies/folklore/verdicts",
    )  # fmt: skip
    for module in modules:
        text = (Path(sigprop.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
        raised = [n.exc.func.id for n in ast.walk(ast.parse(text))
                  if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)
                  and isinstance(n.exc.func, ast.Name)]  # fmt: skip
        assert "AssumptionError" not in raised, module
