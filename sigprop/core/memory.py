"""Memory that a request needs, against what any request may take."""

from __future__ import annotations

import numpy as np

from sigprop.core.errors import DomainError

__all__ = ["LIMIT", "allow", "keep_heap"]

LIMIT = 2 * 2**30  # bytes
HEAP = 2**24  # bytes
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def allow(needed: float, parameter: str, value: object, remedy: str) -> None:
    """Refuse what needs more memory than `LIMIT`, before any of it is taken.

    Parameters
    ----------
    needed : float
        Bytes that the largest arrays take together.
    parameter, value : str, object
        What makes them large.
    remedy : str
        What would make them smaller.

    Raises
    ------
    DomainError
        If they do not fit; it states both sizes.

    Examples
    --------
    >>> from sigprop.core.memory import allow
    >>> allow(4 * 65536**2, "context", 65536, "a shorter context")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: context = 65536 is not admissible: expected a shorter ...
    """
    if needed > LIMIT:
        words = f"this needs {_size(needed)} of memory, and at most {_size(LIMIT)} are allowed"
        raise DomainError(parameter, value, f"{remedy}: {words}")


def keep_heap() -> None:
    """Have the allocator keep memory that temporaries free.

    The GNU C library gives the top of its heap back to the system, which faults it in again, at
    every large temporary; releasing one large block raises the size from which on it does so
    (mallopt(3), dynamic threshold). Elsewhere nothing changes.

    Examples
    --------
    >>> from sigprop.core.memory import keep_heap
    >>> keep_heap()
    """
    np.empty(HEAP, dtype=np.int8)


def _size(bytes_: float) -> str:
    power = next((i for i in range(len(UNITS)) if bytes_ < 1024 ** (i + 1)), len(UNITS) - 1)
    return f"{bytes_ / 1024**power:.3g} {UNITS[power]}"
