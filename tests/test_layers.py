"""Imports run one way: a module imports only from those above it, also inside functions."""

import ast
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
