"""How work in cells is done: processes, where results are kept, a cluster, progress."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from sigprop.core.arguments import validated
from sigprop.core.checks import count
from sigprop.core.errors import DomainError

__all__ = ["Execution", "takes_execution"]

F = TypeVar("F", bound=Callable[..., Any])


@validated
@dataclass(frozen=True)
class Execution:
    """How work in cells is done; results do not depend on it.

    Parameters
    ----------
    workers : int
        Processes, in [1, 1024]; each uses one thread of the linear algebra library. With more than
        one, a script must be importable (its work under ``if __name__ == "__main__"``).
    folder : Path, optional
        Where finished cells are kept, one file a cell, written whole or not at all; a second call
        continues.
    scheduler : str, optional
        HOST:PORT of a dask scheduler whose workers do the cells, or "local" for a dask cluster of
        `workers` processes. Results are those of one process with one thread, bit for bit, on
        machines with the same processors and libraries.
    progress : callable, optional
        Called with the number of further cells done (of a diagram: of grid points).

    Raises
    ------
    DomainError
        If a value is not admissible.

    Examples
    --------
    >>> from sigprop import Execution, ModelSpec
    >>> from sigprop.simulation import simulate
    >>> spec = ModelSpec(depth=1, context=8, width=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> done = []
    >>> _ = simulate(spec, seeds=2, execution=Execution(progress=done.append))
    >>> sum(done)
    2
    """

    workers: int = 1
    folder: Path | None = None
    scheduler: str | None = None
    progress: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        count("workers", self.workers, 1, 1024)

    def tell(self, number: int) -> None:
        """Report progress, where it is asked for.

        Parameters
        ----------
        number : int
            How many further cells are done.
        """
        if self.progress is not None:
            self.progress(number)


KEYWORDS = tuple(field.name for field in fields(Execution))  # of 0.2, one release longer


def takes_execution(function: F) -> F:
    """Let a function with a parameter `execution` take its parts as keywords, as in 0.2.

    Parameters
    ----------
    function : callable
        The function.

    Returns
    -------
    callable
        The same, which warns of what goes with the next release.

    Examples
    --------
    >>> import warnings
    >>> from sigprop.core.jobs.execution import takes_execution
    >>> @takes_execution
    ... def f(execution=None): return execution.workers
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     f(workers=3)
    3
    """

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        parts = {name: named.pop(name) for name in KEYWORDS if name in named}
        if parts:
            words = ", ".join(f"{name}=..." for name in parts)
            if named.get("execution") is not None:
                raise DomainError("execution", named["execution"], f"None beside {words}")
            told = f"{function.__name__}({words}) is now execution=Execution({words})"
            warnings.warn(told, DeprecationWarning, stacklevel=2)
            named["execution"] = Execution(**parts)
        return function(*args, **named)

    return cast(F, call)
