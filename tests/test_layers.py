"""Imports run one way: a table of packages, and no circle of modules."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import sigprop

ROOT = Path(sigprop.__file__).parent
THEORY = ("core", "layers", "model", "propagation", "analysis")
MAY = {  # package: packages it may import, also inside functions and for types alone
    "core": (),
    "layers": ("core",),
    "model": ("core",),
    "propagation": ("core", "layers", "model"),
    "analysis": ("core", "layers", "model", "propagation"),
    "plotting": THEORY,
    "simulation": ("core", "model"),
    "symbolic": ("core",),
    "torch": (*THEORY, "plotting", "simulation"),
    "studies": (*THEORY, "plotting", "simulation", "torch"),
    "cli": (*THEORY, "plotting", "simulation", "symbolic", "torch", "studies", ""),
    "moved": (),
    "": (*THEORY, "moved"),
    "__main__": ("cli",),
}
EXCEPTIONS = {  # (module, module): why it points right
    ("model.weights", "propagation.capabilities"): "it refuses what no standard deviation is for",
    ("model.export", "propagation.capabilities"): "as model.weights",
}
SIMULATOR = "simulation"
MEASURE = {"torch", "studies", "cli"}  # beside a measurement
HEAVY = ("scipy", "sympy", "xarray", "matplotlib", "contourpy", "rich", "typer", "torch")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def package(module):
    return module.split(".")[0]


def imported(text, home="sigprop"):
    """Modules of sigprop that a source text imports, at any depth; "" is the package itself."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), home)
            children = {f"{source}.{alias.name}" for alias in node.names}
            modules = {child for child in children if child.removeprefix("sigprop.") in MODULES}
            names |= modules | ({source} if modules != children else set())
    ours = {name for name in names if name.split(".")[0] == "sigprop"}
    return {name.removeprefix("sigprop").removeprefix(".") for name in ours}


def imports_of(module):
    path = MODULES[module]
    home = path.parent.relative_to(ROOT.parent).as_posix().replace("/", ".")
    return imported(path.read_text(encoding="utf-8"), home)


def violations(module, names):
    """Imports of a module that the table does not allow."""
    allowed = {package(module), *MAY[package(module)]}
    wrong = {name for name in names if package(name) not in allowed}
    return wrong - {target for source, target in EXCEPTIONS if source == module}


def circle(graph):
    """A circle of modules, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_the_table_is_short_and_whole():
    assert set(MAY) == {package(module) for module in MODULES}
    assert len(MAY) <= 16
    assert circle(MAY) is None
    assert len([path for path in ROOT.glob("*.py")]) <= 4


@pytest.mark.parametrize("name", MAY)
def test_a_package_imports_what_the_table_says(name):
    found = {m: violations(m, imports_of(m)) for m in MODULES if package(m) == name}
    assert {module: wrong for module, wrong in found.items() if wrong} == {}


def test_every_exception_is_needed():
    for source, target in EXCEPTIONS:
        assert target in imports_of(source)
        assert package(target) not in MAY[package(source)]


def test_modules_import_each_other_in_no_circle():
    graph = {m: {n for n in imports_of(m) if n in MODULES and n != m} for m in MODULES}
    assert circle(graph) is None


@pytest.mark.parametrize(
    ("module", "text", "caught"),
    [
        ("layers.norm", "from sigprop.model.spec import NORMS", {"model.spec"}),
        ("model.spec", "from sigprop.layers.state import State", {"layers.state"}),
        ("layers.norm", "def f():\n    from sigprop.cli.app import main", {"cli.app"}),
        ("layers.norm", "if TYPE_CHECKING:\n    import sigprop.cli.app as c", {"cli.app"}),
        ("layers.norm", "from ..propagation import stack", {"propagation.stack"}),
        ("layers.norm", "from .residual import Residual", set()),
        ("layers.norm", "from sigprop.layers.mlp import Mlp\nimport numpy", set()),
        ("analysis.critical", "import sigprop", {""}),
        ("analysis.critical", "from sigprop import judge", {""}),
        ("analysis.critical", "from sigprop.simulation import simulate", {"simulation"}),
        ("plotting.base", "from sigprop.cli import tables", {"cli.tables"}),
        (
            "simulation.run",
            "from sigprop.propagation.solve import propagate",
            {"propagation.solve"},
        ),
        ("symbolic.maps", "from sigprop.layers import norm", {"layers.norm"}),
        ("", "from sigprop.plotting import save_figure", {"plotting"}),
        ("core.errors", "from sigprop.moved import MOVED", {"moved"}),
    ],
)
def test_a_violation_is_caught(module, text, caught):
    home = MODULES[module].parent.relative_to(ROOT.parent).as_posix().replace("/", ".")
    assert violations(module, imported(text, home)) == caught


def test_a_circle_is_caught():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


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
        open_ |= {n for n in imports_of(module) if n in MODULES} - known
    return known


def test_the_theory_does_not_name_the_simulator():
    for module, path in MODULES.items():
        beside = module.split(".")[0] in {SIMULATOR, *MEASURE}
        assert beside or not simulates(path.read_text(encoding="utf-8")), module


def test_no_public_name_of_the_theory_reaches_the_simulator():
    theory = reached("")
    assert {
        "propagation.solve",
        "analysis.critical",
        "layers.mlp",
        "layers.attention.statistics.moments",
    } <= theory
    assert not {name for name in theory if name.split(".")[0] == SIMULATOR}
    assert SIMULATOR in reached("studies.comparison")  # negative control


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("from sigprop.simulation import simulate", True),
        ("from sigprop import simulation", True),
        ("def f():\n    import sigprop.simulation.network as n", True),
        ("if TYPE_CHECKING:\n    from .simulation import Measured", True),
        ("import_module('sigprop.simulation.run')", True),
        (
            "from sigprop.propagation.solve import propagate\n'sigprop simulates nothing here'",
            False,
        ),
    ],
)
def test_a_name_of_the_simulator_is_caught(text, caught):
    assert simulates(text) == caught


WITHOUT = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("sigprop.simulation"):
            raise ImportError("the simulator is not there")

sys.meta_path.insert(0, Refused())
import sigprop as s
spec = s.ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
wide, late = spec.replace(width=16), spec.replace(width=16, causal=True)
for one in (spec, wide, late, wide.replace(rotary_base=1e3), late.replace(rotary_base=1e3)):
    s.propagate(one), s.gradients(one, draws=2)
s.sweep(spec), s.critical(spec, 0.9), s.judge(spec), s.exponents(spec), s.fixed_points(spec)
s.gradient_exponent(spec, s.State(1.0, 0.5)), s.entropy_boundary(spec, 0.7)
s.beta_profile(spec, 0.7), s.diagram(spec, beta=[0.5, 1], alpha_attn=[0.5, 1], gradients=True)
s.grow(spec, [8, 16]), s.recommend(wide, bounds={"beta": (0.5, 2)}), s.example("bert-base")
from sigprop.plotting import plot_trajectory
plot_trajectory(s.bands(wide))
try:
    import sigprop.simulation
except ImportError as error:
    print(error)
"""


def test_the_theory_runs_where_there_is_no_simulator():
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "the simulator is not there\n"), run.stderr


def loaded(statement):
    code = f"import sys; {statement}; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_sigprop_loads_nothing_heavy():
    assert loaded("import sigprop") == []
    assert set(loaded("import sigprop, typer, xarray")) >= {"typer", "xarray"}  # negative control
