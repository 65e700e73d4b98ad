"""Paths of 0.2 are the modules of today, with one warning each."""

import importlib
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import sigprop
from sigprop.moved import MOVED, new_path

ROOT = Path(__file__).parents[1]
README = (  # what README, notebooks and docstrings of 0.2 imported
    "backward", "capabilities", "causal", "compare", "critical", "design", "diagram", "entropy",
    "errors", "kernel", "notation", "plots", "position_plots", "propagate", "rem", "rem.biased",
    "separation", "simulate", "sweep", "targets", "torch.audit",
)  # fmt: skip


def run(code):
    words = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=True)


def there(name):
    parts = Path(sigprop.__file__).parent.joinpath(*name.split("."))
    return parts.with_suffix(".py").exists() or (parts / "__init__.py").exists()


def test_every_new_path_is_there_and_no_old_one():
    assert [new for new in MOVED.values() if not there(new)] == []
    assert [old for old in MOVED if there(old)] == []


@pytest.mark.parametrize("old", README)
def test_an_old_path_is_the_same_module_and_says_where_it_is(old):
    if old.startswith("torch"):
        pytest.importorskip("torch", reason="needs the extra torch")
    name = f"sigprop.{old}"
    parent, _, leaf = name.rpartition(".")
    with warnings.catch_warnings():  # an old parent says so once, whichever test comes first
        warnings.simplefilter("ignore", DeprecationWarning)
        shown = getattr(importlib.import_module(parent), leaf, None)
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"^{name} is now {new_path(name)}$") as told:
        module = importlib.import_module(name)
    assert [w.filename for w in told][-1] == importlib.__file__  # whoever imports, not the finder
    assert module is sys.modules[name] is sys.modules[new_path(name)]
    assert module.__name__ == module.__spec__.name == new_path(name)
    if callable(shown):  # a function of the face keeps its place
        assert getattr(sys.modules[parent], leaf) is shown


def test_an_import_from_an_old_path_warns_once_where_it_stands(tmp_path):
    file = tmp_path / "user.py"
    file.write_text("from sigprop.kernel import solve\nfrom sigprop.kernel import jobs\n"
                    "import sigprop.critical\nprint(callable(sigprop.critical))\n")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "always", str(file)], capture_output=True, text=True
    )
    told = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line]
    assert told == [
        f"{file}:1: DeprecationWarning: sigprop.kernel is now sigprop.propagation.every_pair",
        f"{file}:3: DeprecationWarning: sigprop.critical is now sigprop.analysis.critical",
    ]
    assert done.stdout == "True\n"


def test_the_module_of_an_old_package_is_not_loaded_twice():
    done = run("import sigprop.simulate.run as a, sigprop.simulation.run as b; print(a is b)")
    assert done.stdout == "True\n"


def test_what_0_2_pickled_is_read():
    kept = pickle.dumps(sigprop.State(1.0, 0.5)).replace(
        b"\x8c\x14sigprop.layers.state", b"\x8c\x0dsigprop.state"
    )
    assert b"sigprop.state" in kept
    kept = kept[:2] + b"\x95" + (len(kept) - 11).to_bytes(8, "little") + kept[11:]  # frame
    sys.modules.pop("sigprop.state", None)
    with pytest.warns(DeprecationWarning, match="layers.state"):
        assert pickle.loads(kept) == sigprop.State(1.0, 0.5)


def test_an_unknown_path_is_unknown():
    with pytest.raises(ModuleNotFoundError, match=r"sigprop\.kernels"):
        importlib.import_module("sigprop.kernels")
    with pytest.raises(KeyError):
        new_path("sigprop.kernels")


def test_nothing_of_ours_uses_an_old_path():
    code = ("import sys, pkgutil, importlib, sigprop\n"
            "for m in pkgutil.walk_packages(sigprop.__path__, 'sigprop.'):\n"
            "    if m.name.split('.')[1] in ('torch', 'simulation', '__main__', 'cli'): continue\n"
            "    importlib.import_module(m.name)\n")  # fmt: skip
    assert "DeprecationWarning: sigprop" not in run(code).stderr


@pytest.mark.parametrize("module", ["sigprop", "sigprop.model.spec"])
def test_an_old_name_is_the_new_one_and_says_so(module):
    where = importlib.import_module(module)
    told = f"^{module}.Transformer is now {module}.ModelSpec$"
    with pytest.warns(DeprecationWarning, match=told):
        assert where.Transformer is sigprop.ModelSpec
    with pytest.raises(AttributeError, match="Nothing"):
        _ = where.Nothing
