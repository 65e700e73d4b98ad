"""Who asks a spec about mask, rotation and norm: the description, capabilities, the stack builder.

Simulation, torch and the command line read descriptions too; every other module asks these.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

import sigprop
from sigprop import ModelSpec, State
from sigprop.propagation.every_pair import exchangeable_kernel, solve

ROOT = Path(sigprop.__file__).parent
ASKED = {"causal", "rotary_base", "window", "documents", "chunk", "is_segmented", "norm", "order",
         "ends_in_norm", "reads_norm"}  # fmt: skip
MAY = (
    "model/",
    "propagation/capabilities.py",
    "propagation/stack.py",
    "simulation/",
    "torch/",
    "cli/",
)
NUMBERS = {"depth": 2, "context": 8, "width": 16, "heads": 2, "beta": 1.0, "sigma_v2": 1.0,
           "sigma_w2": 2.0, "rho0": 0.1}  # fmt: skip
STRUCTURES = {
    "plain": {},
    "pre": {"norm": "pre"},
    "causal": {"causal": True, "window": 4},
    "packed": {"causal": True, "documents": [3, 5]},
    "rotary": {"rotary_base": 1e3},
}
VERBS = {
    "propagate": sigprop.propagate,
    "arrays": lambda spec: sigprop.propagate(spec.replace(beta=[0.5, 1.0])),
    "bands": sigprop.bands,
    "gradients": sigprop.gradients,
    "sweep": sigprop.sweep,
    "critical": lambda spec: sigprop.critical(spec, 0.9),
    "diagram": lambda spec: sigprop.diagram(spec, beta=[0.5, 1.0], alpha_attn=[0.5, 1.0]),
    "kernel": lambda spec: solve(spec, exchangeable_kernel(spec), draws=1, blocks=2),
    "influence": lambda spec: sigprop.influence(spec, 4),
    "judge": sigprop.judge,
    "grow": lambda spec: sigprop.grow(spec, [8, 16]),
    "exponents": sigprop.exponents,
    "fixed_points": sigprop.fixed_points,
    "gradient_exponent": lambda spec: sigprop.gradient_exponent(spec, State(1.0, 0.5)),
    "asymptotic_alpha": sigprop.asymptotic_alpha,
    "beta_profile": lambda spec: sigprop.beta_profile(spec, 0.7),
    "entropy_boundary": lambda spec: sigprop.entropy_boundary(spec, 0.7),
    "recommend": lambda spec: sigprop.recommend(spec, bounds={"beta": (0.5, 2.0)}),
}
SLOW = {("causal", name) for name in ("sweep", "critical", "diagram", "recommend", "judge")}
READERS: set[str] = set()


class Recorded(ModelSpec):
    """A spec that records which file reads what."""

    def __getattribute__(self, name):
        if name in ASKED:
            READERS.add(sys._getframe(1).f_code.co_filename)
        return super().__getattribute__(name)


def readers(call, spec):
    """Files of the package that read mask, rotation or norm while a verb runs or refuses."""
    READERS.clear()
    try:
        with np.errstate(all="ignore"):
            call(spec)
    except sigprop.SigpropError:
        pass
    inside = [Path(name) for name in READERS if Path(name).is_relative_to(ROOT)]
    return {path.relative_to(ROOT).as_posix() for path in inside}


CASES = [
    pytest.param(s, v, marks=[pytest.mark.slow] * ((s, v) in SLOW))
    for s in STRUCTURES
    for v in VERBS
]


@pytest.mark.parametrize(("structure", "verb"), CASES)
def test_mask_rotation_and_norm_are_read_in_their_places(structure, verb):
    found = readers(VERBS[verb], Recorded(**NUMBERS, **STRUCTURES[structure]))
    assert "propagation/capabilities.py" in found or "propagation/stack.py" in found
    assert {name for name in found if not name.startswith(MAY)} == set()


def test_a_reader_is_caught():
    spec = Recorded(**NUMBERS)
    READERS.clear()
    assert spec.norm == "post"
    assert {Path(__file__).name} == {Path(name).name for name in READERS}
