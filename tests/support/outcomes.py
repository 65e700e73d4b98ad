"""What a call or a command ends with, as a value that a test can assert on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, str(Path(__file__).parent / "bin" / "sigprop"))


def outcome(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Return value of a call, or the exception that it raised."""
    try:
        return call(*args, **named)
    except Exception as error:
        return error


def run_cli(
    *words: object, folder: Path | None = None, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`sigprop` in a process of its own, with standard input closed."""
    root = str(Path(__file__).resolve().parents[2])
    env = os.environ | {"PYTHONPATH": root, "COLUMNS": "80"} | environment
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
