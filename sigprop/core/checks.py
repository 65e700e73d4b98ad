"""Checks of single values and of files; every refusal is a `DomainError`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.errors import DomainError, require

__all__ = [
    "array",
    "choice",
    "count",
    "flag",
    "is_number",
    "numbers",
    "plain",
    "read_json",
    "scalar",
    "variables",
]

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
    >>> from sigprop.core.checks import read_json
    >>> read_json("/nowhere/spec.json")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: file = '/nowhere/spec.json' is not admissible: ...
    """
    text = _text(Path(path))
    if not text.strip():
        raise DomainError("file", str(path), "a JSON object; the file is empty")
    try:
        values = json.loads(
            text,
            parse_int=_number,
            parse_float=_number,
            parse_constant=str,
            object_pairs_hook=_unique,
        )
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


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or float, not a bool.

    Parameters
    ----------
    value : object
        Any value.

    Returns
    -------
    bool
        True for the numbers of Python and numpy.

    Examples
    --------
    >>> from sigprop.core.checks import is_number
    >>> is_number(1.5), is_number(True)
    (True, False)
    """
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def count(name: str, value: object, low: int, high: int) -> int:
    """Check an integer in [low, high].

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : object
        What was given.
    low, high : int
        Admissible range, ends included.

    Returns
    -------
    int
        The integer.

    Raises
    ------
    DomainError
        If the value is anything else.

    Examples
    --------
    >>> from sigprop.core.checks import count
    >>> count("depth", 12.0, 1, 100)
    12
    """
    words = f"an integer in [{low}, {high}]"
    if not is_number(value) or not low <= value <= high or value != int(value):
        raise DomainError(name, value, words)
    return int(value)


def scalar(name: str, value: object, low: float, high: float) -> float:
    """Check a number in [low, high].

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : object
        What was given.
    low, high : float
        Admissible range, ends included.

    Returns
    -------
    float
        The number.

    Raises
    ------
    DomainError
        If the value is anything else.

    Examples
    --------
    >>> from sigprop.core.checks import scalar
    >>> scalar("mlp_ratio", 4, 1e-6, 1e6)
    4.0
    """
    if not is_number(value) or not low <= value <= high:
        raise DomainError(name, value, f"a number in [{low:g}, {high:g}]")
    return float(value) + 0.0


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that a value is one of a set of words.

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : object
        What was given.
    choices : tuple of str
        The words.

    Raises
    ------
    DomainError
        If the value is anything else.

    Examples
    --------
    >>> from sigprop.core.checks import choice
    >>> choice("norm", "post", ("post", "pre"))
    """
    if not isinstance(value, str) or value not in choices:
        raise DomainError(name, value, "one of " + ", ".join(choices))


def flag(name: str, value: object) -> None:
    """Check that a value is a boolean.

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : object
        What was given.

    Raises
    ------
    DomainError
        If the value is anything else.

    Examples
    --------
    >>> from sigprop.core.checks import flag
    >>> flag("causal", True)
    """
    if not isinstance(value, bool):
        raise DomainError(name, value, "true or false")


def array(name: str, value: object) -> Floats:
    """Make a float array of a number or (nested) list of numbers, without NaN.

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : object
        What was given.

    Returns
    -------
    array
        A copy.

    Raises
    ------
    DomainError
        If the value is anything else, ragged, or has more than 16 dimensions.

    Examples
    --------
    >>> from sigprop.core.checks import array
    >>> array("beta", [1, 2]).tolist()
    [1.0, 2.0]
    """
    out = numbers(name, value) + 0.0  # a copy; of two zeros, the positive one
    require(~np.isnan(out), name, value, "a number, not NaN")
    return out


def numbers(name: str, value: object) -> Floats:
    """Make a float array of whatever holds numbers; NaN is one.

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : object
        What was given: a number, a (nested) list, or an array of any library.

    Returns
    -------
    array
        In double precision; the array itself if it is one.

    Raises
    ------
    DomainError
        If the value is anything else, ragged, or has more than 16 dimensions.

    Examples
    --------
    >>> from sigprop.core.checks import numbers
    >>> numbers("sigma", range(2)).tolist()
    [0.0, 1.0]
    """
    words = "a number or a list of numbers"
    try:
        if isinstance(value, range) or hasattr(value, "__array__"):
            value = np.asarray(value)
        if isinstance(value, np.ndarray):
            known = value.dtype.kind in "iuf" and value.size > 0
        elif isinstance(value, list | tuple):
            flat = np.array(value, dtype=object).ravel()
            known = flat.size > 0 and all(is_number(v) or v == "inf" for v in flat)
            value = [np.inf if v == "inf" else v for v in value] if name == "context" else value
        else:
            known = is_number(value)
        require(known, name, value, words)
        out = np.asarray(value, dtype=np.float64)
    except DomainError:
        raise
    except (ValueError, TypeError, OverflowError, RuntimeError):
        raise DomainError(name, value, f"{words} of one shape") from None
    require(out.ndim <= MAX_AXES, name, value, f"an array of at most {MAX_AXES} dimensions")
    return out


def variables(name: str, data: Any, *names: str) -> None:
    """Check that a dataset holds what a function reads.

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    data : xarray.Dataset
        What was given.
    *names : str
        Its variables or coordinates.

    Raises
    ------
    DomainError
        If one is missing.

    Examples
    --------
    >>> from sigprop.core.checks import variables
    >>> variables("data", {"rho": 0.5}, "rho")
    """
    if not all(one in data for one in names):
        raise DomainError(name, list(data), "a dataset with " + ", ".join(names))


def plain(value: Floats) -> Number:
    """Make a float where there is no shape, else a read-only array.

    Parameters
    ----------
    value : array
        Any shape; the array itself becomes read-only.

    Returns
    -------
    float or array
        The same numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.core.checks import plain
    >>> plain(np.array(1.5))
    1.5
    """
    if value.ndim == 0:
        return float(value)
    value.setflags(write=False)
    return value
