"""Text of others, from a config or a file name, as what a terminal and a figure may show."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Replace what is no visible character by its escape sequence; line breaks stay.

    Parameters
    ----------
    text : str
        Any text: control characters, directional marks and lone surrogates included.

    Returns
    -------
    str
        The same, for a terminal that does not obey it.

    Examples
    --------
    >>> from sigprop.core.printable import printable
    >>> printable("bert\x1b[2J") == "bert" + chr(92) + "x1b[2J"
    True
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
