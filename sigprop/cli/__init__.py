"""The command line."""

from sigprop.cli.app import main

__all__ = ["main"]
