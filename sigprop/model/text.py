"""Text as token ids: words and punctuation, one id for each distinct one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Ints
from sigprop.core.checks import count
from sigprop.core.errors import DomainError

__all__ = ["MARK", "read", "token_ids", "windows"]

MARK = "<|endoftext|>"  # separates documents; one token
PATTERN = re.compile(rf"{re.escape(MARK)}|\w+|[^\w\s]")
MAX_TEXT = 2**28  # bytes read


@validated
def token_ids(path: str | Path) -> Ints:
    """Token ids of a text file, in the order of first appearance; capitals count.

    Parameters
    ----------
    path : str or Path
        UTF-8 text of at most 256 MiB.

    Returns
    -------
    array of int, shape (N,)
        One id for each word or punctuation mark.

    Raises
    ------
    DomainError
        If the file is missing, unreadable, empty, too large or not text.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sigprop.model.text import token_ids
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.txt")
    ...     _ = path.write_text("the cat, the dog")
    ...     token_ids(path).tolist()
    [0, 1, 2, 0, 3]
    """
    words = PATTERN.findall(read(Path(path)))
    if not words:
        raise DomainError("text", str(path), "a text file; this one has no words")
    known: dict[str, int] = {}
    return np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int64)


@validated
def read(path: Path) -> str:
    """Content of a UTF-8 text file.

    Parameters
    ----------
    path : Path
        As in `token_ids`.

    Returns
    -------
    str
        The text.

    Raises
    ------
    DomainError
        If the file is missing, unreadable, too large or not text.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sigprop.model.text import read
    >>> read(Path("/nowhere/a.txt"))
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: text = '/nowhere/a.txt' is not admissible: expected an ...
    """
    try:
        if not path.is_file():
            raise DomainError("text", str(path), "an existing text file")
        if path.stat().st_size > MAX_TEXT:
            raise DomainError("text", str(path), "a text file of at most 256 MiB")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        words = f"a readable text file ({error.strerror})"
        raise DomainError("text", str(path), words) from None
    except UnicodeDecodeError:
        raise DomainError("text", str(path), "a UTF-8 text file; this one is binary") from None
    if "\0" in text:
        raise DomainError("text", str(path), "a UTF-8 text file; this one is binary")
    return text


@validated
def windows(path: str | Path, context: int) -> Ints:
    """Cut a text file into windows of `context` tokens, one after the other; the rest is dropped.

    Parameters
    ----------
    path : str or Path
        As in `token_ids`.
    context : int
        Tokens in a window, >= 1.

    Returns
    -------
    array of int, shape (windows, context)
        Token ids.

    Raises
    ------
    DomainError
        As `token_ids`, and if the text is shorter than one window.

    Examples
    --------
    >>> from sigprop.model.text import windows
    >>> windows("/nowhere/a.txt", 8)
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: text = '/nowhere/a.txt' is not admissible: expected an ...
    """
    context = count("context", context, 1, 10**12)
    ids = token_ids(path)
    if len(ids) < context:
        words = f"a text of at least {context} tokens; this one has {len(ids)}"
        raise DomainError("text", str(path), words)
    return ids[: len(ids) // context * context].reshape(-1, context)
