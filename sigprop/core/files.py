"""Files: written whole or not at all, sealed, and checked before the work that fills them."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from tempfile import TemporaryFile
from typing import NamedTuple

from sigprop.core.errors import DomainError

__all__ = ["Target", "check_targets", "clear", "hold", "kept", "note", "read", "seal", "tell",
           "temporary", "unseal", "write"]  # fmt: skip

PREFIX, SUFFIX = ".sigprop.", ".tmp"
SEAL = hashlib.sha256().digest_size
TRIES = 5  # of a writer whose file a reader of leftovers took before it was held


class Target(NamedTuple):
    """What a command is about to write.

    Attributes
    ----------
    parameter : str
        Name of the option, for refusals.
    path : Path or None
        Where; nothing is checked without one.
    endings : tuple of str
        Admissible endings; any if empty.
    folder : bool
        A folder. One without endings is made with the folders above it.

    Examples
    --------
    >>> from sigprop.core.files import Target
    >>> Target("png", None).endings
    ()
    """

    parameter: str
    path: Path | None
    endings: tuple[str, ...] = ()
    folder: bool = False


def check_targets(wanted: Iterable[Target], inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse what cannot be written, and what would overwrite an input or another target.

    Leftovers of writers that were killed are removed from the folders of the targets.

    Parameters
    ----------
    wanted : iterable of Target
        All targets of a command.
    inputs : iterable of str, Path or None
        What it reads; of a folder, the files in it. What does not exist is passed over.

    Raises
    ------
    DomainError
        Naming the option of the first target that cannot be written.

    Notes
    -----
    Files are the same if their resolved paths or their inodes are, so through links of both kinds.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sigprop.core.files import Target, check_targets
    >>> check_targets([Target("out", Path("/nowhere/a.nc"), (".nc",))])
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: out = '/nowhere/a.nc' is not admissible: expected a file in ...
    """
    taken = {mark: "a file other than the input" for path in inputs for mark in _all_marks(path)}
    for target in wanted:
        if target.path is None:
            continue
        _check_place(target)
        for mark in _marks(target.path):
            if mark in taken:
                raise DomainError(target.parameter, str(target.path), taken[mark])
        words = f"a file other than {target.parameter}"
        taken |= dict.fromkeys(_marks(target.path), words)
        clear(Path(os.path.realpath(target.path)).parent)


def _check_place(target: Target) -> None:
    assert target.path is not None
    path, fits = target.path, False
    with suppress(OSError, ValueError):  # also a name that is too long, or holds a null byte
        path = Path(os.path.realpath(path))
        parent = path.parent
        while target.folder and not target.endings and not parent.exists():
            parent = parent.parent
        there = path.exists()
        with TemporaryFile(dir=path if there and target.folder else parent):
            fits = not there or (path.is_dir() if target.folder else _is_free(path))
    if not fits:
        kind = "folder" if target.folder else "file"
        words = f"a {kind} in an existing, writable folder"
        raise DomainError(target.parameter, str(target.path), words)
    if target.endings and target.path.suffix.lower() not in target.endings:
        words = "a name ending in " + " or ".join(target.endings)
        raise DomainError(target.parameter, str(target.path), words)


def _is_free(path: Path) -> bool:
    return path.is_file() and os.access(path, os.W_OK)


def _marks(path: str | Path) -> set[object]:
    """Name a file by its resolved path, and by its inode if it exists."""
    found: set[object] = {os.path.realpath(path)}
    with suppress(OSError, ValueError):
        about = os.stat(path)
        found.add((about.st_dev, about.st_ino))
    return found


def _all_marks(path: str | Path | None) -> set[object]:
    if path is None or not os.path.exists(path):
        return set()
    if not os.path.isdir(path):
        return _marks(path)
    with suppress(OSError):
        return {mark for part in os.scandir(path) for mark in _marks(part.path)}
    return set()


def write(path: str | Path, content: bytes | str, parameter: str = "out") -> None:
    """Write a file whole or not at all.

    The content goes to a temporary file in the same folder, to the disk, and then takes the name.
    A link is followed: the file that it points to is replaced.

    Parameters
    ----------
    path : str or Path
        The file; an existing one is replaced.
    content : bytes or str
        What to write; text as UTF-8.
    parameter : str
        Name for a refusal.

    Raises
    ------
    DomainError
        If the file cannot be written; nothing is left then.

    Examples
    --------
    >>> import tempfile
    >>> from sigprop.core.files import read, write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a", b"content")
    ...     read(f"{folder}/a")
    b'content'
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir() or not target.parent.is_dir():
            raise DomainError(parameter, str(path), "a file in an existing folder")
        for _ in range(TRIES):
            if _written(target, data):
                break
    except OSError as error:
        words = f"a writable file ({error.strerror or error})"
        raise DomainError(parameter, str(path), words) from None


def _written(target: Path, data: bytes) -> bool:
    """Write by way of a temporary file; false if `clear` took that before it was held."""
    path = temporary(target)
    try:
        with path.open("xb") as file:
            hold(file.fileno())
            if not path.exists():
                return False
            with suppress(OSError):  # a file that is replaced keeps its permissions
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            path.replace(target)
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    _settle(target.parent)
    return True


def _settle(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def temporary(target: Path) -> Path:
    """Name beside a target under which it is made.

    Parameters
    ----------
    target : Path
        The file or folder.

    Returns
    -------
    Path
        A new name, which `clear` knows.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sigprop.core.files import temporary
    >>> temporary(Path("/a/b.nc")).suffix
    '.tmp'
    """
    return target.parent / f"{PREFIX}{token_hex(8)}{SUFFIX}"


def hold(number: int, wait: bool = True) -> None:
    """Mark an open file as in use, until it is closed or its process ends, however it ends.

    Parameters
    ----------
    number : int
        File descriptor.
    wait : bool
        Whether to go on, on systems that cannot mark files; without it, `OSError` is raised there
        and where the file is in use.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock

        flock(number, LOCK_EX | LOCK_NB)
    except (ImportError, OSError) as error:
        if not wait:
            raise OSError(str(error)) from None


def clear(folder: Path) -> None:
    """Remove what killed writers left in a folder; what a living one is writing stays.

    Parameters
    ----------
    folder : Path
        The folder.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sigprop.core.files import clear, temporary
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     left = temporary(Path(folder, "a"))
    ...     _ = left.write_bytes(b"half")
    ...     clear(Path(folder))
    ...     left.exists()
    False
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX):
                with suppress(OSError):
                    _remove_leftover(Path(entry.path))


def _remove_leftover(path: Path) -> None:
    kind = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_NONBLOCK
    number = os.open(path, kind)
    try:
        hold(number, wait=False)
        rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(number)


def read(path: str | Path) -> bytes:
    """Read a file that is a file; a pipe without a writer does not keep the reader waiting.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    bytes
        Its content.

    Raises
    ------
    OSError
        If it cannot be read, or is something else.

    Examples
    --------
    >>> from sigprop.core.files import read
    >>> read("/dev/null")
    Traceback (most recent call last):
        ...
    OSError: [Errno 22] not a file: '/dev/null'
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(22, "not a file", str(path))
        return file.read()


def seal(identity: str, content: bytes) -> bytes:
    """Content with a digest at its end, of itself and of whose it is.

    Parameters
    ----------
    identity : str
        All that the content depends on, or a digest of it.
    content : bytes
        What is kept. Archives (.npz, .pt) still open with what is behind them.

    Returns
    -------
    bytes
        For a file.

    Examples
    --------
    >>> from sigprop.core.files import seal, unseal
    >>> kept = seal("seed 1", b"0.5")
    >>> unseal("seed 1", kept), unseal("seed 2", kept), unseal("seed 1", kept[:-1])
    (b'0.5', None, None)
    """
    return content + _digest(identity, content)


def unseal(identity: str, stored: bytes) -> bytes | None:
    """Content of a file that `seal` made for this identity, undamaged; or None.

    Parameters
    ----------
    identity : str
        As in `seal`.
    stored : bytes
        The file.

    Returns
    -------
    bytes or None
        What was kept.

    Examples
    --------
    >>> from sigprop.core.files import unseal
    >>> unseal("seed 1", b"something else") is None
    True
    """
    content, end = stored[:-SEAL], stored[-SEAL:]
    return content if end == _digest(identity, content) else None


def kept(path: Path, identity: str) -> bytes | None:
    """Read what `seal` made; a file that fails it is put aside, and standard error says so.

    Parameters
    ----------
    path : Path
        The file.
    identity : str
        As in `seal`.

    Returns
    -------
    bytes or None
        What was kept; None if there is no such file, or none undamaged.

    Raises
    ------
    DomainError
        If there is something that cannot be read or put aside.
    """
    try:
        content = unseal(identity, read(path))
        if content is None:
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            tell(f"{path} fails its checksum: kept as {aside.name}, and the work begins again")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DomainError("out", str(path), f"a readable file ({error.strerror})") from None
    return content


def _digest(identity: str, content: bytes) -> bytes:
    whose = hashlib.sha256(identity.encode()).digest()
    return hashlib.sha256(whose + content).digest()


def tell(words: str) -> None:
    """Say one line on standard error, or to the handlers of the logger "sigprop".

    Parameters
    ----------
    words : str
        The line.
    """
    logging.getLogger("sigprop").warning("sigprop: %s", words)


def note(error: BaseException, words: str) -> None:
    """Add to an error or interrupt what was kept, unless something inside of it has said so.

    Parameters
    ----------
    error : BaseException
        What ends the work.
    words : str
        One line; the command line prints it.

    Examples
    --------
    >>> from sigprop.core.files import note
    >>> note(stop := KeyboardInterrupt(), "3 of 8 cells are kept")
    >>> stop.__notes__
    ['3 of 8 cells are kept']
    """
    if not getattr(error, "__notes__", ()):
        error.add_note(words)
