"""The version, from which the package metadata is made."""

__version__ = "0.3.0"
