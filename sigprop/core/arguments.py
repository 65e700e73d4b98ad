"""Checks of the arguments of public functions, by kind; every refusal is a `DomainError`."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from sigprop.core.checks import flag, is_number, numbers
from sigprop.core.errors import DomainError

__all__ = ["description", "validated"]

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[str, Any], Any]


def description(name: str, value: object) -> Any:
    """Check a description; what `load` returns stands for its spec.

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : object
        What was given.

    Returns
    -------
    ModelSpec
        The description.

    Raises
    ------
    DomainError
        If the value is anything else.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.core.arguments import description
    >>> description("spec", load("gpt2")).depth
    12
    """
    spec = getattr(value, "spec", None) if _is_named("Reading", value) else value
    if not _is_named("ModelSpec", spec):
        raise DomainError(name, value, "a ModelSpec, or what load, example or from_config return")
    return spec


def _integer(name: str, value: object) -> int:
    if isinstance(value, float | np.floating) and not float(value).is_integer():
        raise DomainError(name, value, "an integer")
    if not is_number(value):
        raise DomainError(name, value, "an integer")
    return int(value)


def _real(name: str, value: object) -> float:
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not is_number(value) or not abs(value) <= math.inf:
        raise DomainError(name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise DomainError(name, value, "a number of at most 1.8e308") from None


def _numeric(name: str, value: object) -> Any:
    """Check of numbers; an array stays as it is: its precision is information."""
    if isinstance(value, np.ndarray) and not value.size and value.dtype.kind in "iuf":
        return value  # of no points, as where none is left to compute
    out = numbers(name, value)
    return value if isinstance(value, np.ndarray) else out


def _flag(name: str, value: object) -> object:
    flag(name, value)
    return value


def _path(name: str, value: object) -> Path:
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise DomainError(name, value, "a path")
    return Path(value)


def _state(name: str, value: object) -> object:
    value = _named("State")(name, value)
    kind: Any = type(value)
    if kind.__module__ == "sigprop.layers.state":  # the symbolic theory has a state of its own
        return kind(
            *(_numeric(f"{name}.{part}", of) for part, of in cast(Any, value)._asdict().items())
        )
    return value


def _theory(name: str, value: object) -> object:
    """Word for a flag, which asked for the limit up to version 0.2."""
    if not isinstance(value, bool):
        return KINDS["str"](name, value)
    word = "limit" if value else "finite"
    warnings.warn(f"limit={value} is now theory={word!r}", DeprecationWarning, stacklevel=3)
    return word


def _where(holds: Callable[[Any], bool], words: str) -> Check:
    """Check that a value has a property."""

    def check(name: str, value: object) -> object:
        if not holds(value):
            raise DomainError(name, value, words)
        return value

    return check


def _symbolic(name: str, value: object) -> object:
    """Check of a sympy expression; a number is one."""
    if is_number(value):
        import sympy

        return sympy.sympify(value)
    return _named("Basic", "a sympy expression")(name, value)


OWN = {"Any", "TokenKernel"}  # whose check is the function's own
KINDS: dict[str, Check] = {
    "ArrayLike": _numeric,
    "Callable": _where(callable, "a function"),
    "Execution": _where(lambda value: _is_named("Execution", value), "an Execution"),
    "Expr": _symbolic,
    "Mapping": _where(lambda value: isinstance(value, Mapping), "a mapping"),
    "Floats": _numeric,
    "Ints": _numeric,
    "Number": _numeric,
    "Path": _path,
    "Rem": _where(lambda value: hasattr(value, "entropy_ratio"), "attention statistics"),
    "Sequence": _where(lambda value: isinstance(value, list | tuple), "a list"),
    "Source": _where(lambda value: hasattr(value, "draw"), "a kind of input"),
    "State": _state,
    "ModelSpec": description,
    "bool": _flag,
    "float": _real,
    "int": _integer,
    "str": _where(lambda value: isinstance(value, str), "a text"),
}


def validated(function: F) -> F:
    """Check the arguments of a public function against its annotations, before it runs.

    Numbers, arrays, flags, texts, paths and descriptions are checked by kind; other classes by
    name, so that what defines them is not imported. Ranges are checked by the function. Where it
    takes a `theory`, the flag `limit` of version 0.2 still stands for one, with a warning.

    Parameters
    ----------
    function : callable
        The function, its annotations not evaluated; or a class, for the arguments that make it.

    Returns
    -------
    callable
        The same, which raises a `DomainError` that names the parameter.

    Examples
    --------
    >>> from sigprop import propagate
    >>> propagate({"depth": 2})
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: spec = {'depth': 2} is not admissible: expected a ...
    """
    if isinstance(function, type):
        function.__init__ = validated(function.__init__)  # type: ignore[misc]
        return function
    signature = inspect.signature(function)
    checks = {name: _check_of(p) for name, p in signature.parameters.items()}
    if "theory" in checks:
        checks["theory"] = _theory

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if "theory" in checks and "theory" in named:  # the flag was never called so
            KINDS["str"]("theory", named["theory"])
        elif "theory" in checks and isinstance(named.get("limit"), bool):
            named = {"theory" if name == "limit" else name: v for name, v in named.items()}
        given = signature.bind(*args, **named)
        for name, value in given.arguments.items():
            given.arguments[name] = checks[name](name, value)
        return function(*given.args, **given.kwargs)

    return cast(F, call)


def _check_of(parameter: inspect.Parameter) -> Check:
    one = _union("Any" if parameter.annotation is parameter.empty else parameter.annotation)
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return lambda name, values: tuple(one(name, value) for value in values)
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return lambda _, values: {name: one(name, value) for name, value in values.items()}
    return one


def _union(annotation: str) -> Check:
    """Check for `A | B | None`, as written."""
    while "[" in annotation:
        annotation = re.sub(r"\[[^\[\]]*\]", "", annotation)
    names = [name.split(".")[-1] for name in annotation.split(" | ")]
    if not OWN.isdisjoint(names):
        return lambda _, value: value
    checks = [KINDS.get(name) or _named(name) for name in names if name != "None"]

    def check(name: str, value: object) -> object:
        if value is None and "None" in names:
            return None
        words = []
        for one in checks:
            try:
                return one(name, value)
            except DomainError as error:
                words.append(error.admissible)
        raise DomainError(name, value, " or ".join(words + ["None"] * ("None" in names)))

    return check


def _named(kind: str, words: str = "") -> Check:
    """Check for a class that is known by its name."""
    return _where(lambda value: _is_named(kind, value), words or f"a {kind}")


def _is_named(kind: str, value: object) -> bool:
    """Whether the class of a value, or one that it inherits from, has a name."""
    return kind in [one.__name__ for one in type(value).__mro__]
