"""The one check of every token kernel that enters, as an array or from a file.

A kernel is a symmetric positive semidefinite matrix of finite numbers with a positive diagonal. One
that is so up to the rounding of its digits is moved to the nearest that is (`sigprop.
kernel_rounding`), its variances kept; anything else is refused by name.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sigprop.core.arrays import Bools, Floats
from sigprop.core.errors import DomainError
from sigprop.core.memory import LIMIT, allow
from sigprop.core.numerics.kernel_rounding import DOUBLE, Rounding, explained, nearest

__all__ = ["MAX_TOKENS", "TokenKernel", "admit", "allow_tokens", "read_kernel"]

COPIES = 24  # matrices of the kernel's size that its check and a draw hold at once, at most
MAX_TOKENS = math.isqrt(LIMIT // (8 * COPIES))
SMALLEST, LARGEST = 1e-30, 1e30  # variance of a token; random networks are in single precision
FAR = 1e100  # a cosine beyond is as wrong as this one
KINDS = "iuf"  # integers and floats, as numpy calls them


@dataclass(frozen=True, eq=False)
class TokenKernel:
    """A kernel that has passed the check.

    Attributes
    ----------
    values : array, shape (T, T)
        Symmetric, of the variances given; positive semidefinite up to 1e-8 of them.
    moved : float
        Largest change of the cosine of two tokens from what was given.
    rounding : str
        Which digits explain it.

    Examples
    --------
    >>> from sigprop.model.inputs import admit
    >>> admit([[2, 1], [1, 2]]).moved
    0.0
    """

    values: Floats
    moved: float
    rounding: str

    @property
    def note(self) -> str:
        """What was done to the kernel, as a sentence; empty if nothing that counts."""
        if self.moved <= DOUBLE:
            return ""
        return (
            "the kernel is not symmetric positive semidefinite as it stands; the nearest one that "
            f"is has cosines up to {self.moved:.2g} away, as rounding to {self.rounding} explains"
        )


def admit(kernel: object, context: int | None = None) -> TokenKernel:
    """Check a token kernel; one that rounding made inadmissible is moved to the nearest one.

    Parameters
    ----------
    kernel : array_like, shape (T, T)
        Integers or floats of any precision, in an array or in lists; what has passed stays.
    context : int, optional
        The number of tokens T, where it is known.

    Returns
    -------
    TokenKernel
        The kernel in double precision, and how far it was moved.

    Raises
    ------
    DomainError
        If it is not a square array of finite real numbers of that size, a token has no variance, it
        is not symmetric or not positive semidefinite by more than its digits explain, or its work
        needs more memory than `sigprop.core.memory.LIMIT`.

    Notes
    -----
    N. J. Higham, IMA J. Numer. Anal. 22, 2002, 329 (nearest correlation matrix).

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.model.inputs import admit
    >>> angle = np.linspace(0, 1, 8)
    >>> rounded = np.cos(np.subtract.outer(angle, angle)).round(3)
    >>> found = admit(rounded)
    >>> found.rounding, 1e-4 < found.moved < 1e-3
    ('3 decimals', True)
    >>> admit(np.eye(8) - 0.5)
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: kernel = -5.99... is not admissible: expected ...
    """
    if isinstance(kernel, TokenKernel):
        _square(kernel.values.shape, kernel.values.shape, context)
        return kernel
    given = _numbers(kernel)
    _square(given.shape, given.shape, context)
    matrix = given.astype(np.float64)
    _finite(matrix)
    _variances(np.diagonal(matrix))
    root = np.sqrt(np.diagonal(matrix))
    with np.errstate(over="ignore", under="ignore"):
        cosines = np.clip(matrix / np.outer(root, root), -FAR, FAR)
    np.fill_diagonal(cosines, 1.0)
    exact = given.dtype.kind != "f"
    rounding = None
    away = np.abs(cosines - cosines.T)
    if away.any():
        rounding = explained(matrix, exact)
        _explained(away <= 2 * rounding.bound, cosines, rounding, "a symmetric matrix: the cosine")
    even = cosines / 2 + cosines.T / 2
    moved = float(away.max(initial=0.0)) / 2
    if _positive(even):
        words = "" if rounding is None else rounding.words
        return TokenKernel(matrix if moved == 0 else _scaled(even, matrix), moved, words)
    return _moved(matrix, cosines, even, rounding or explained(matrix, exact))


def allow_tokens(parameter: str, value: object, tokens: float) -> None:
    """Refuse more tokens than a kernel can be checked and followed for in the memory allowed.

    Parameters
    ----------
    parameter, value : str, object
        What has so many, as it was given.
    tokens : float
        How many.

    Raises
    ------
    DomainError
        If there are more than `MAX_TOKENS`; it states the memory.

    Examples
    --------
    >>> from sigprop.model.inputs import MAX_TOKENS, allow_tokens
    >>> allow_tokens("context", MAX_TOKENS, MAX_TOKENS)
    """
    remedy = f"at most {MAX_TOKENS} tokens for a kernel"
    allow(8.0 * COPIES * float(tokens) ** 2, parameter, value, remedy)


def _moved(matrix: Floats, cosines: Floats, even: Floats, rounding: Rounding) -> TokenKernel:
    """Nearest kernel, or a refusal."""
    _explained(np.abs(even) <= 1 + rounding.bound, even, rounding, "a cosine in [-1, 1]")
    found = nearest(even, rounding)
    move = float(np.abs(found.cosines - cosines).max())
    if not found.excess <= 1:
        lowest = float(np.linalg.eigvalsh(even)[0])
        words = (
            f"no negative eigenvalue of its cosines beyond {_rounding(rounding)}; the nearest "
            f"kernel is up to {move:.2g} away"
        )
        single = "; if it was computed in single precision, pass float32" if move < 1e-5 else ""
        raise DomainError("kernel", lowest, words + single)
    return TokenKernel(_scaled(found.cosines, matrix), move, rounding.words)


def _rounding(rounding: Rounding) -> str:
    size = float(rounding.bound.max(initial=0.0))
    return f"rounding to {rounding.words} (at most {size:.2g} in a cosine)"


def _explained(holds: Bools, cosines: Floats, rounding: Rounding, words: str) -> None:
    """Refuse the first pair of tokens whose cosine is off by more than rounding."""
    if holds.all():
        return
    row, column = (int(i) for i in np.argwhere(~holds)[0])
    where = f"of tokens {row} and {column} (counted from 0)"
    words = f"{words} {where}, but for {_rounding(rounding)}"
    raise DomainError("kernel", float(cosines[row, column]), words)


def _scaled(cosines: Floats, kernel: Floats) -> Floats:
    """Kernel of these cosines, with the variances of another."""
    variance = np.diagonal(kernel)
    out = np.asarray(cosines * np.outer(np.sqrt(variance), np.sqrt(variance)))
    np.fill_diagonal(out, variance)
    return out


def _positive(cosines: Floats) -> bool:
    """Whether no eigenvalue is below -`DOUBLE`."""
    try:
        np.linalg.cholesky(cosines + DOUBLE * np.eye(len(cosines)))
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(cosines).all())


def _numbers(kernel: object) -> NDArray[Any]:
    """Make an array of integers or floats, of the precision given."""
    words = "a square array of real numbers"
    if isinstance(kernel, str | bytes | Path):
        raise DomainError("kernel", str(kernel), f"{words}; read a file with read_kernel")
    if np.ma.is_masked(kernel):
        raise DomainError("kernel", "a masked array", f"{words}, none of them masked")
    try:
        if isinstance(kernel, list | tuple):
            flat = np.array(kernel, dtype=object).ravel()
            if any(isinstance(v, bool | np.bool_) for v in flat):
                raise DomainError("kernel", "a list with booleans", words)
        values = np.asarray(kernel)
    except DomainError:
        raise
    except Exception as error:  # whatever the conversion of a foreign object raises
        raise DomainError("kernel", type(kernel).__name__, f"{words} ({error})") from None
    if values.dtype.kind not in KINDS:
        what = f"{type(kernel).__name__} of {values.dtype}"
        raise DomainError("kernel", what, words)
    return values


def _square(shape: tuple[int, ...], shown: object, context: int | None) -> None:
    """Refuse a shape that no kernel, or not that of this context, has, or of too much work."""
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise DomainError("kernel", shown, f"a square array, not one of shape {shape}")
    if context is not None and shape != (context, context):
        raise DomainError("kernel", shown, f"shape {(context, context)}, the context squared")
    allow_tokens("kernel", shown, shape[0])


def _finite(matrix: Floats) -> None:
    if not np.isfinite(matrix).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(matrix))[0])
        words = f"finite numbers; look at row {row}, column {column} (counted from 0)"
        raise DomainError("kernel", float(matrix[row, column]), words)


def _variances(variance: Floats) -> None:
    """Refuse the first token whose variance is not positive, as of a row of zeros."""
    wrong = np.flatnonzero(~((variance >= SMALLEST) & (variance <= LARGEST)))
    if wrong.size:
        tokens = f"token {wrong[0]} (counted from 0)"
        tokens += f" and {wrong.size - 1} more" if wrong.size > 1 else ""
        words = f"a positive diagonal, in [{SMALLEST:g}, {LARGEST:g}]: the variance of {tokens}"
        raise DomainError("kernel", float(variance[wrong[0]]), words)


def read_kernel(path: str | Path) -> NDArray[Any]:
    """Read a kernel from a .npy file, or from a .npz file that holds one array.

    Nothing is ever unpickled, and nothing read before its size is known.

    Parameters
    ----------
    path : str or Path
        File with a square array of integers or floats.

    Returns
    -------
    array, shape (T, T)
        The kernel as stored, to be checked by `admit`.

    Raises
    ------
    DomainError
        If the file is not that.

    Examples
    --------
    >>> from sigprop.model.inputs import read_kernel
    >>> read_kernel("/nowhere/k.npy")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: kernel = '/nowhere/k.npy' is not admissible: ...
    """
    name = str(path)
    try:
        file = Path(path)
        if not file.is_file():  # a pipe would wait for ever
            raise DomainError("kernel", name, "an existing .npy file, no folder or pipe")
        with file.open("rb") as stream:
            return _stored(stream, file.stat().st_size, name)
    except DomainError:
        raise
    except Exception as error:  # whatever the parsers of zip and numpy say to foreign bytes
        words = f"a .npy file of numbers ({error or type(error).__name__})"
        raise DomainError("kernel", name, words) from None


def _stored(stream: BinaryIO, size: int, name: str) -> NDArray[Any]:
    """Read the array of a .npy stream, or of the one member of a .npz archive."""
    start = stream.read(4)
    stream.seek(0)
    if start != b"PK\x03\x04":
        return _array(stream, size, name)
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = ", ".join(m.filename for m in members)
            raise DomainError("kernel", name, f"an archive of one array, not of {names}")
        allow(members[0].file_size, "kernel", name, "a smaller array")
        content = archive.read(members[0])
    return _array(io.BytesIO(content), len(content), name)


def _array(stream: BinaryIO, size: int, name: str) -> NDArray[Any]:
    """Array of a stream in numpy's format, its header checked against the size first."""
    version = np.lib.format.read_magic(stream)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise DomainError("kernel", name, f"numpy's format 1.0 or 2.0, not {version}")
    shape, _, dtype = headers[version](stream)
    if dtype.kind not in KINDS:
        raise DomainError("kernel", name, f"real numbers, not {dtype}")
    _square(shape, name, None)
    wanted, present = shape[0] * shape[1] * dtype.itemsize, size - stream.tell()
    if wanted != present:
        words = f"{wanted} bytes of numbers, as its header says; it has {present}"
        raise DomainError("kernel", name, words)
    stream.seek(0)
    return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
