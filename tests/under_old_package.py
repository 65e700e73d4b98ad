"""Every test of a fault must fail on the package that had the fault, and in its assertion.

python tests/under_old_package.py [REVISION [words for pytest]] [--tests FOLDER]

Puts the present tests (or those in FOLDER) into the tree of REVISION, by default that of 0.2.0, and
runs each `test_faults_*.py`. A test that passes there, is skipped, cannot be imported or ends in
another exception than its own assertion is listed, and the exit code is then 1; so is one whose
assertion is about what a process could not import.
"""

import argparse
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELEASE = "0e8726a"  # the commit of 0.2.0
PLUGIN = '''
import functools, importlib, json, os, sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
import pytest

UNTRUE = ("DID NOT RAISE", "DID NOT WARN")
ABSENT = ("ModuleNotFoundError", "ImportError", "No module named", "'module' object")

with open(os.path.join(os.path.dirname(__file__), "moved.json")) as file:
    OLD = {new: old for old, new in json.load(file).items()}

class Today(MetaPathFinder, Loader):
    """Finds the modules of an old package under the paths of today."""

    def find_spec(self, name, path=None, target=None):
        new = name.removeprefix("sigprop.")
        above = new != name and any(known.startswith(new + ".") for known in OLD)
        if new in OLD or (above and PathFinder.find_spec(name, path) is None):
            return ModuleSpec(name, self, is_package=True)

    def exec_module(self, module):
        old = OLD.get(module.__name__.removeprefix("sigprop."))
        if old is not None:
            found = sys.modules[module.__name__] = importlib.import_module("sigprop." + old)
            found.__path__ = getattr(found, "__path__", [])

sys.meta_path.insert(0, Today())

def note(nodeid, how):
    with open(os.environ["OUTCOMES"], "a") as file:
        file.write(json.dumps([nodeid, how]) + "\\n")

def asserted(error):
    """Whether a test said that something does not hold."""
    if isinstance(error, BaseExceptionGroup):  # of several examples
        return all(map(asserted, error.exceptions))
    if isinstance(error, pytest.fail.Exception):
        return str(error).startswith(UNTRUE)
    return isinstance(error, AssertionError)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped:
        note(item.nodeid, "skipped")
    elif call.excinfo and (call.when != "call" or not asserted(call.excinfo.value)):
        note(item.nodeid, f"{call.when}: {call.excinfo.exconly()[:300]}")
    elif call.excinfo:
        package = os.path.join(os.getcwd(), "sigprop", "")
        inside = str(call.excinfo.traceback[-1].path).startswith(package)
        absent = any(words in str(call.excinfo.value) for words in ABSENT)
        how = "an import in what is asserted" if absent else "asserted"
        note(item.nodeid, "an assert of the package" if inside else how)
    elif call.when == "call":
        note(item.nodeid, "passed")
    return report

def pytest_collectreport(report):
    if not report.passed:
        note(report.nodeid, f"collection: {report.longrepr}"[-300:])

def pytest_sessionstart():
    import sigprop
    assert sigprop.__file__.startswith(os.getcwd()), sigprop.__file__
    import sigprop.cli
    import sigprop.spec
    if not hasattr(sigprop, "ModelSpec"):
        sigprop.ModelSpec = sigprop.spec.ModelSpec = sigprop.Transformer
    sigprop.cli.__path__ = getattr(sigprop.cli, "__path__", [])
    if not hasattr(sigprop, "Execution"):
        executed_by_keywords(sigprop)

def executed_by_keywords(sigprop):
    """An old package takes the parts of an Execution as keywords, and names jobs by their path."""
    import sigprop.simulate, sigprop.store
    named = ModuleType("sigprop.core.jobs.execution")
    named.Execution = sigprop.Execution = type("Execution", (SimpleNamespace,), {})
    sys.modules[named.__name__] = named
    sigprop.store.job = lambda name: lambda function: function
    for module, name in ((sigprop.store, "gather"), (sigprop.simulate, "simulate")):
        setattr(module, name, by_keywords(getattr(module, name), sigprop.Execution))

def by_keywords(function, kind):
    @functools.wraps(function)
    def call(*args, execution=None, **named):
        parts = [one for one in (*args, execution) if isinstance(one, kind)]
        args = [one for one in args if not isinstance(one, kind)]
        return function(*args, **named, **(vars(parts[0]) if parts else {}))
    return call
'''


def old_tree(revision, tests, folder):
    """Write the tree of a revision with other tests in it."""
    words = ["git", "archive", "--format=tar", revision]
    packed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    shutil.rmtree(folder / "tests")
    shutil.copytree(tests, folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    return sorted(str(p.relative_to(folder)) for p in (folder / "tests").rglob("test_faults_*.py"))


def outcomes(folder, files, words):
    """What became of every test, by its id."""
    (folder / "noted.py").write_text(PLUGIN)
    moved = runpy.run_path(str(ROOT / "sigprop" / "moved.py"))["MOVED"]
    flat = (folder / "sigprop" / "errors.py").exists()
    (folder / "moved.json").write_text(json.dumps(moved if flat else {}))
    noted = folder / "noted.jsonl"
    noted.touch()
    env = os.environ | {"PYTHONPATH": str(folder), "OUTCOMES": str(noted)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "noted", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=", "-W", "ignore::pytest.PytestUnknownMarkWarning"]
    command += ["-o", "pythonpath=tests tests/support"]
    command += ["-p", "no:unraisableexception"]  # files that the old package leaves open
    command += ["--tb=no", "--continue-on-collection-errors", *words, *files]
    subprocess.run(command, cwd=folder, env=env, stdout=sys.stderr, check=False)
    return dict(json.loads(line) for line in noted.read_text().splitlines())


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", default=RELEASE)
    parser.add_argument("--tests", type=Path, default=ROOT / "tests")
    options, words = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        files = old_tree(options.revision, options.tests, folder)
        if not files:
            sys.exit(f"no test_faults_*.py in {options.tests}")
        found = outcomes(folder, files, words)
    wrong = {test: how for test, how in found.items() if how != "asserted"}
    for test, how in wrong.items():
        print(f"{test}\n    {how}")
    by_file = Counter(test.split("::")[0] for test, how in found.items() if how == "asserted")
    for file, number in sorted(by_file.items()):
        print(f"{file}: {number} fail in their assertion")
    right = len(found) - len(wrong)
    print(f"{options.revision}: {right} fail in their assertion, {len(wrong)} do not")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
