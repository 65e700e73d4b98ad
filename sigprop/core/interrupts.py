"""Imported before all else: an interrupt of the command line while it still imports is one line."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["allow", "ignore"]

COMMAND = "sigprop"


def _is_command() -> bool:
    """Whether this process is the command line, not a program that imports the package."""
    words = sys.orig_argv[1:]
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1].split(".")[0] == COMMAND
    return bool(words) and os.path.splitext(os.path.basename(words[0]))[0] == COMMAND


def _end(*_: object) -> None:
    os.write(2, b"sigprop: interrupted\n")
    os._exit(130)


def allow() -> None:
    """From here on an interrupt is an exception again, for work that says what it kept."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """Let no interrupt change how the command ended."""
    if _is_command():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
