"""Imports run one way: a module imports only from those above it, also inside functions."""

import ast
import re
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

import sigprop

ROOT = Path(sigprop.__file__).parent
ORDER = (
    "first",
    "version",
    "errors",
    "memory",
    "printable",
    "files",
    "arrays",
    "validate",
    "arguments",
    "notation",
    "kernel_rounding",
    "kernel_input",
    "chebyshev",
    "cells",
    "state",
    "spec",
    "capabilities",
    "text",
    "distribute",
    "store",
    "simulate.inputs",
    "simulate.measure",
    "simulate.architecture",
    "simulate.network",
    "simulate.torch_network",
    "simulate.typed",
    "simulate.claims",
    "simulate.gradients",
    "simulate.measured",
    "simulate.run",
    "simulate",
    "families",
    "config",
    "huggingface",
    "rem.statistics",
    "rem.quadrature",
    "rem.finite",
    "rem.overlap",
    "rem.variances",
    "rem.coordinates",
    "rem.sphere",
    "rem.limit",
    "rem.table",
    "rem.profile",
    "rem.unequal",
    "rem.fields",
    "rem.biased",
    "rem.favoured",
    "rem.tabulate",
    "rem",
    "layout",
    "maps.smooth",
    "maps.activations",
    "maps.norm",
    "maps.residual",
    "maps.attention",
    "maps.mlp",
    "maps.distances",
    "maps.picked",
    "maps.rotary",
    "maps.together",
    "maps.weights",
    "maps.tabulated",
    "maps.preferred",
    "maps.causal",
    "maps",
    "block",
    "causal",
    "rotary",
    "trajectory",
    "described",
    "propagate",
    "resolved",
    "sweep",
    "kernel_draw",
    "kernel",
    "hidden",
    "crowding",
    "attention_noise",
    "cloud",
    "fluctuations",
    "pullback",
    "backward",
    "sampled_heads",
    "sampled",
    "positional",
    "fixed_points",
    "entropy",
    "critical",
    "effects",
    "plan",
    "diagram",
    "training_prediction",
    "grid_files",
    "grid_store",
    "verdict",
    "recipe",
    "recipes",
    "schemes",
    "scheme_diagram",
    "folklore",
    "claims",
    "prescription",
    "targets",
    "search",
    "design",
    "growth",
    "compare",
    "separation",
    "symbolic.symbols",
    "symbolic.equation",
    "symbolic.kernels",
    "symbolic.rem",
    "symbolic.maps",
    "symbolic.block",
    "symbolic.backward",
    "symbolic.theory",
    "symbolic.derivation",
    "symbolic.collapse",
    "symbolic.strength",
    "symbolic.freezing",
    "symbolic.choices",
    "symbolic.wick",
    "symbolic.expansions",
    "symbolic.bridge",
    "symbolic.accuracy",
    "symbolic.sheet",
    "symbolic",
    "",
    "plot_base",
    "position_plots",
    "plots",
    "comparison_plots",
    "scheme_plots",
    "design_plots",
    "training_plots",
    "figures.lab",
    "figures.depth",
    "figures.phase",
    "figures.residual",
    "figures.gradient",
    "figures.position",
    "figures",
    "reproduce",
    "tables",
    "design_tables",
    "torch.model",
    "torch.tokens",
    "torch.plan",
    "training_tables",
    "torch.train",
    "torch.trainability",
    "torch.placement",
    "torch.anatomy",
    "torch.measure",
    "torch.reader",
    "torch.record",
    "torch.reading",
    "torch.predict",
    "torch.audit",
    "torch.initialise",
    "torch",
    "torch.pictures",
    "torch.tables",
    "torch.inputs",
    "console",
    "laboratory",
    "practice",
    "cli_design",
    "cli_symbolic",
    "cli_torch",
    "cli_train",
    "cli",
    "__main__",
)
HEAVY = ("scipy", "sympy", "xarray", "matplotlib", "contourpy", "rich", "typer", "torch")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(text, package="sigprop"):
    """Modules of sigprop that a source text imports, at any depth; "" is the package itself."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            children = {f"{source}.{alias.name}" for alias in node.names}
            modules = {child for child in children if child.removeprefix("sigprop.") in MODULES}
            names |= modules | ({source} if modules != children else set())
    ours = {name for name in names if name.split(".")[0] == "sigprop"}
    return {name.removeprefix("sigprop").removeprefix(".") for name in ours}


def violations(module, text):
    """Imports of a module that are not above it."""
    package = "sigprop" if "." not in module else "sigprop." + module.split(".")[0]
    allowed = ORDER[: ORDER.index(module)]
    return {name for name in imported(text, package) if name not in allowed}


def test_every_module_has_its_place():
    assert len(set(ORDER)) == len(ORDER)
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_from_above_only(module):
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == set()


def test_the_symbolic_witness_imports_no_numerics():
    for module in (m for m in ORDER if m.split(".")[0] == "symbolic"):
        outside = {n for n in imported(MODULES[module].read_text(encoding="utf-8"))
                   if n.split(".")[0] != "symbolic"}  # fmt: skip
        assert outside <= {"notation", "errors", "arguments", "validate"}, module


SIMULATOR = "simulate"
MEASURE = {"claims", "compare", "figures", "laboratory", "tables"}  # beside a measurement


def simulates(text, package="sigprop"):
    """Whether a source text names the simulator: in an import at any depth, or as a module path."""
    tree = ast.walk(ast.parse(text))
    words = {n.value for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    named = any(re.fullmatch(rf"sigprop\.{SIMULATOR}(\.\w+)*(:\w+)?", word) for word in words)
    return named or any(name.split(".")[0] == SIMULATOR for name in imported(text, package))


def reached(start):
    """Modules that a module imports, and those that these import, also inside functions."""
    known, open_ = set(), {start}
    while open_:
        module = open_.pop()
        known.add(module)
        package = "sigprop." + module.split(".")[0] if "." in module else "sigprop"
        open_ |= imported(MODULES[module].read_text(encoding="utf-8"), package) - known
    return known


def test_the_theory_does_not_name_the_simulator():
    for module, path in MODULES.items():
        beside = module.split(".")[0] in {SIMULATOR, *MEASURE}
        assert beside or not simulates(path.read_text(encoding="utf-8")), module


def test_no_public_name_of_the_theory_reaches_the_simulator():
    theory = reached("")
    assert {"propagate", "critical", "design", "rem.finite", "maps.mlp"} <= theory
    assert not {name for name in theory if name.split(".")[0] == SIMULATOR}
    assert SIMULATOR in reached("compare")  # negative control


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("from sigprop.simulate import simulate", True),
        ("from sigprop import simulate", True),
        ("def f():\n    import sigprop.simulate.network as n", True),
        ("if TYPE_CHECKING:\n    from .simulate import Measured", True),
        ("import_module('sigprop.simulate.run')", True),
        ("from sigprop.propagate import propagate\n'sigprop simulates nothing here'", False),
    ],
)
def test_a_name_of_the_simulator_is_caught(text, caught):
    assert simulates(text) == caught


THEORY = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("sigprop.simulate", "sigprop.simulation")):
            raise ImportError("the simulator is not there")

sys.meta_path.insert(0, Refused())
import sigprop as s
spec = s.Transformer(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
wide, late = spec.replace(width=16), spec.replace(width=16, causal=True)
for one in (spec, wide, late, wide.replace(rotary_base=1e3), late.replace(rotary_base=1e3)):
    s.propagate(one), s.gradients(one, draws=2)
s.sweep(spec), s.critical(spec, 0.9), s.judge(spec), s.exponents(spec), s.fixed_points(spec)
s.gradient_exponent(spec, s.State(1.0, 0.5)), s.entropy_boundary(spec, 0.7)
s.beta_profile(spec, 0.7), s.diagram(spec, beta=[0.5, 1], alpha_attn=[0.5, 1], gradients=True)
s.grow(spec, [8, 16]), s.recommend(wide, bounds={"beta": (0.5, 2)}), s.example("bert-base")
from sigprop.plots import plot_trajectory
plot_trajectory(s.bands(wide))
try:
    import sigprop.simulate
except ImportError as error:
    print(error)
"""


def test_the_theory_runs_where_there_is_no_simulator():
    run = subprocess.run([sys.executable, "-c", THEORY], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "the simulator is not there\n"), run.stderr


@pytest.mark.parametrize(
    ("module", "text", "caught"),
    [
        ("state", "from sigprop.diagram import diagram", {"diagram"}),
        ("state", "def f():\n    from sigprop.diagram import diagram", {"diagram"}),
        ("state", "if TYPE_CHECKING:\n    import sigprop.cli as c", {"cli"}),
        ("state", "from sigprop.state import State", {"state"}),
        ("state", "from .block import fold", {"block"}),
        ("critical", "import sigprop", {""}),
        ("critical", "from sigprop import judge", {""}),
        ("critical", "from sigprop import tables, __version__", {"", "tables"}),
        ("", "from sigprop.plots import save_figure", {"plots"}),
        ("rem.finite", "from sigprop.rem import table as t", {"rem.table"}),
        ("rem.finite", "from . import table", {"rem.table"}),
        ("rem.finite", "from .overlap import spread", {"rem.overlap"}),
        ("rem.finite", "from sigprop.rem import Limit", {"rem"}),
        ("maps.norm", "from sigprop.maps.mlp import Mlp", {"maps.mlp"}),
        ("maps.mlp", "from sigprop.new import x", {"new"}),
        ("maps.mlp", "from sigprop.maps.norm import Norm\nimport numpy", set()),
    ],
)
def test_a_violation_is_caught(module, text, caught):
    assert violations(module, text) == caught


def loaded(statement):
    code = f"import sys; {statement}; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_sigprop_loads_nothing_heavy():
    assert loaded("import sigprop") == []
    assert set(loaded("import sigprop, typer, xarray")) >= {"typer", "xarray"}  # negative control
