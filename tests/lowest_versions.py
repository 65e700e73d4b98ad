"""Prove the lower bounds of pyproject.toml: install the lowest versions declared, use them, test.

python tests/lowest_versions.py [--extra NAME]... [--smoke] [--venv FOLDER] [--try NAME==VERSION]...

`--extra` adds an extra to the runtime and test dependencies, `--smoke` leaves the tests at the
command line, `--venv` keeps the environment, `--try` installs another version than the lowest.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [  # words, exit code, what standard output has
    (["--version"], 0, ""),
    (["--help"], 0, "propagate"),
    (["propagate", "--help"], 0, "--gradients"),
    (["show", "bert-base"], 0, "beta"),
    (["rem", "--sigma", "3.5", "--context", "512", "--json"], 0, '"y2"'),
    (["rem", "--sigma", "3.5", "--context", "-1"], 2, ""),
    (["rem", "--nothing"], 2, ""),
    (["nothing"], 2, ""),
]


def declared(project, extras):
    """Requirements of the package with some extras, one a line of pyproject.toml."""
    found = [Requirement(line) for line in project["dependencies"]]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = Requirement(line)
            more = declared(project, sorted(own.extras)) if own.name == project["name"] else [own]
            found += [r for r in more if r not in found]
    return found


def lowest(requirements):
    """Pin of every package: the largest of the lower bounds that are declared for it."""
    bound, names = {}, {}
    for requirement in requirements:
        (least,) = (s.version for s in requirement.specifier if s.operator == ">=")
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        name = requirement.name
        names[name] = max(names.get(name, name), name + extras, key=len)
        bound[name] = max(bound.get(name, least), least, key=Version)
    return {name: f"{names[name]}=={version}" for name, version in bound.items()}


def smoke(command):
    """Complaints about the command line."""
    for words, code, part in COMMANDS:
        done = subprocess.run(
            [command, *words], capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode != code or part not in done.stdout:
            yield f"sigprop {' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}"
        elif "--json" in words and code == 0:
            json.loads(done.stdout)
        elif words == ["show", "bert-base"] and len(done.stdout.splitlines()) < 5:
            yield f"sigprop show bert-base printed {done.stdout!r}"


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--venv")
    parser.add_argument("--try", action="append", default=[], dest="other")
    parser.add_argument("pytest", nargs="*", help="words for pytest")
    options = parser.parse_args(argv)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = lowest(declared(project, ["test", *options.extra]))
    pins |= {Requirement(pin).name: pin for pin in options.other}
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(options.venv or folder)
        python, command = (str(venv.resolve() / "bin" / name) for name in ("python", "sigprop"))
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--prefer-binary", *pins.values()]
        subprocess.run([*install, str(ROOT)], check=True)
        if wrong := list(smoke(command)):
            sys.exit("\n".join(wrong))
        if not options.smoke:
            subprocess.run([python, "-m", "pytest", "-q", *options.pytest], cwd=ROOT, check=True)
    print("proved:", *sorted(pins.values()), sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
