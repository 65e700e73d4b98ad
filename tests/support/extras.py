"""Optional parts of sigprop: which extra each needs, and whether it is installed."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STORE = "sigprop/analysis/diagram/zarr_store"
NEEDS = {  # start of the pytest id of modules, tests and doctests: the extra that they need
    f"{STORE}.py::{STORE.replace('/', '.')}.diagram_store": "distributed",
    "sigprop/cli/tables_audit.py": "torch",
    "sigprop/simulation/network_torch.py": "torch",
    "sigprop/torch/": "torch",
    "tests/support/cluster.py": "distributed",
    "tests/core/test_distribute.py": "distributed",
    "tests/analysis/test_grid_store.py": "distributed",
    "tests/with_torch/test_torch_": "torch",
    "tests/with_torch/test_torch_train.py::test_the_experiment_as_a_command": "distributed",
    "tests/support/placed_models.py": "torch",
    "tests/support/torch_models.py": "torch",
}


@cache
def absent(extra: str) -> tuple[str, ...]:
    """Packages of an extra that are not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"][extra]
    names = [re.match(r"\w+", line).group() for line in listed]
    return tuple(name for name in names if find_spec(name) is None)


def lacking(nodeid: str) -> str | None:
    """Why what has this id cannot run here."""
    for start, extra in NEEDS.items():
        if nodeid.startswith(start) and (names := absent(extra)):
            return f"needs the extra {extra}: without {', '.join(names)}"
    return None
