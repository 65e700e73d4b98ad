"""Checks of single values and of files; every refusal is a `DomainError`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigprop.errors import DomainError, require

__all__ = ["array", "choice", "count", "flag", "is_number", "plain", "read_json", "scalar"]

Floats = NDArray[np.float64]
MAX_FILE = 2**24  # bytes; a description larger than this is something else
MAX_AXES = 16  # of an array; numpy ends at 64, and the theory adds some


def read_json(path: str | Path) -> dict[str, Any]:
    """JSON object in a file, or a `DomainError` that says what is wrong with the file.

    Parameters
    ----------
    path : str or Path
        File to read, at most 16 MiB.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    DomainError
        If the file is missing, a directory, unreadable, empty, too large, not JSON or not an
        object.

    Examples
    --------
    >>> from sigprop.validate import read_json
    >>> read_json("/nowhere/spec.json")
    Traceback (most recent call last):
        ...
    sigprop.errors.DomainError: file = '/nowhere/spec.json' is not admissible: expected an existing file
    """
    text = _text(Path(path))
    if not text.strip():
        raise DomainError("file", str(path), "a JSON object; the file is empty")
    try:
        values = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=str,
                            object_pairs_hook=_unique)  # fmt: skip
    except DomainError:
        raise
    except (ValueError, RecursionError) as error:
        raise DomainError("file", str(path), f"a JSON object ({error})") from None
    if not isinstance(values, dict):
        raise DomainError("file", str(path), f"a JSON object, not a {type(values).__name__}")
    return values


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise DomainError("file", str(path), "a file, not a directory")
        if not path.is_file():
            raise DomainError("file", str(path), "an existing file")
        if path.stat().st_size > MAX_FILE:
            raise DomainError("file", str(path), "a description of at most 16 MiB")
        return path.read_text(encoding="utf-8")
    except DomainError:
        raise
    except OSError as error:
        raise DomainError("file", str(path), f"a readable file ({error.strerror})") from None
    except ValueError as error:
        raise DomainError("file", str(path), f"a UTF-8 text ({error})") from None


def _number(text: str) -> int | float | str:
    """Read a JSON number; beyond the range of floats it stays text, which every check refuses.

    So do NaN and Infinity, which are not JSON: the refusal then names the parameter.
    """
    if not math.isfinite(float(text)):
        return text
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in pairs:
        if name in out:
            raise DomainError(name, value, "given once; it appears twice")
        out[name] = value
    return out


def is_number(value: object) -> bool:
    """Whether a value is an int or float, not a bool."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def count(name: str, value: object, low: int, high: int) -> int:
    """An integer in [low, high]."""
    words = f"an integer in [{low}, {high}]"
    if not is_number(value) or not low <= value <= high or value != int(value):  # type: ignore[operator,call-overload]  # a number by the first test
        raise DomainError(name, value, words)
    return int(value)  # type: ignore[call-overload,no-any-return]  # a number by the test above


def scalar(name: str, value: object, low: float, high: float) -> float:
    """A float in [low, high]."""
    if not is_number(value) or not low <= value <= high:  # type: ignore[operator]  # a number by the first test
        raise DomainError(name, value, f"a number in [{low:g}, {high:g}]")
    return float(value)  # type: ignore[arg-type]  # a number by the test above


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of a set of words."""
    if not isinstance(value, str) or value not in choices:
        raise DomainError(name, value, "one of " + ", ".join(choices))


def flag(name: str, value: object) -> None:
    """A JSON boolean."""
    if not isinstance(value, bool):
        raise DomainError(name, value, "true or false")


def array(name: str, value: object) -> Floats:
    """A float array of a number or (nested) list of numbers, without NaN."""
    if isinstance(value, list | tuple):
        flat = np.array(value, dtype=object).ravel()
        if flat.size == 0 or not all(is_number(v) or v == "inf" for v in flat):
            raise DomainError(name, value, "a number or a list of numbers")
        value = [np.inf if v == "inf" else v for v in value] if name == "context" else value
    elif not is_number(value) and not (
        isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.size
    ):
        raise DomainError(name, value, "a number or a list of numbers")
    try:
        out = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise DomainError(name, value, "a number or a list of numbers of one shape") from None
    require(~np.isnan(out), name, value, "a number, not NaN")
    require(out.ndim <= MAX_AXES, name, value, f"an array of at most {MAX_AXES} dimensions")
    return out


def plain(value: Floats) -> float | Floats:
    """A float where there is no shape, else a read-only array."""
    if value.ndim == 0:
        return float(value)
    value.setflags(write=False)
    return value
