"""Named errors: each states the parameter, the value and the admissible range."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

__all__ = [
    "AssumptionError",
    "DomainError",
    "MissingExtraError",
    "NoBracketError",
    "NotConvergedError",
    "PictureError",
    "SigpropError",
    "UnfinishedError",
    "need",
    "require",
]


class SigpropError(Exception):
    """Base class of every error that sigprop raises on purpose.

    Examples
    --------
    >>> from sigprop.core.errors import DomainError, SigpropError
    >>> issubclass(DomainError, SigpropError)
    True
    """


class DomainError(SigpropError, ValueError):
    """A parameter has a value outside its admissible range.

    Parameters
    ----------
    parameter : str
        Name of the parameter, spelled as in the specification.
    value : object
        The offending value.
    admissible : str
        The admissible range, in words or as an interval.

    Examples
    --------
    >>> from sigprop.core.errors import DomainError
    >>> raise DomainError("beta", -1.0, "a number >= 0")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: beta = -1.0 is not admissible: expected a number >= 0
    """

    def __init__(self, parameter: str, value: object, admissible: str) -> None:
        self.parameter, self.value, self.admissible = parameter, value, admissible
        super().__init__(f"{parameter} = {_shown(value)} is not admissible: expected {admissible}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.parameter, self.value, self.admissible)


class MissingExtraError(SigpropError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    what : str
        What needs it.
    package : str
        The module that cannot be imported.
    extra : str
        Name of the extra that brings it.

    Examples
    --------
    >>> from sigprop.core.errors import MissingExtraError
    >>> raise MissingExtraError("audit", "torch", "torch")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.MissingExtraError: audit needs torch: pip install '.[torch]' in the checkout
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.what, self.package, self.extra = what, package, extra
        super().__init__(f"{what} needs {package}: pip install '.[{extra}]' in the checkout")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.what, self.package, self.extra)


def _shown(value: object) -> str:
    try:
        text = repr(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:30]}...{text[-47:]}"  # a path ends in its name


class AssumptionError(SigpropError):
    """The request lies outside the assumptions of the theory.

    Examples
    --------
    >>> from sigprop.core.errors import AssumptionError
    >>> raise AssumptionError("context = inf has no entropy in nats; use entropy_ratio")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.AssumptionError: context = inf has no entropy in nats; use entropy_ratio
    """


class NoBracketError(SigpropError):
    """A root is not enclosed by the admissible range of its variable.

    Examples
    --------
    >>> from sigprop.core.errors import NoBracketError
    >>> issubclass(NoBracketError, Exception)
    True
    """


class NotConvergedError(SigpropError):
    """An iteration stopped before it met its tolerance.

    Examples
    --------
    >>> from sigprop.core.errors import NotConvergedError
    >>> issubclass(NotConvergedError, Exception)
    True
    """


class PictureError(SigpropError):
    """A picture cannot be drawn; the data that it shows are written before it.

    Examples
    --------
    >>> from sigprop.core.errors import PictureError
    >>> issubclass(PictureError, Exception)
    True
    """


class UnfinishedError(SigpropError):
    """Work on a cluster ended before all of it was done.

    Examples
    --------
    >>> from sigprop.core.errors import UnfinishedError
    >>> issubclass(UnfinishedError, Exception)
    True
    """


def require(condition: object, parameter: str, value: object, admissible: str) -> None:
    """Raise `DomainError` unless `condition` holds everywhere.

    Parameters
    ----------
    condition : bool or array of bool
        What must hold; a NaN comparison is false, so NaN is refused too.
    parameter, value, admissible : str, object, str
        As in `DomainError`; of an array, the first offending element is reported.

    Raises
    ------
    DomainError
        If any element of `condition` is false.

    Examples
    --------
    >>> from sigprop.core.errors import require
    >>> require(2.0 >= 0, "beta", 2.0, "a number >= 0")
    """
    holds = np.asarray(condition, dtype=bool)
    if holds.all():
        return
    values = np.asarray(value, dtype=object)
    if holds.ndim and values.shape == holds.shape:
        value = values[~holds].flat[0]
    raise DomainError(parameter, value, admissible)


def need(what: str, extra: str, *packages: str) -> None:
    """Refuse if an optional dependency is not installed.

    Parameters
    ----------
    what : str
        What needs it.
    extra : str
        Name of the extra that brings the packages.
    *packages : str
        Modules that must be importable.

    Raises
    ------
    MissingExtraError
        If one is not.

    Examples
    --------
    >>> from sigprop.core.errors import need
    >>> need("linear algebra", "none", "numpy")
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(what, package, extra)
