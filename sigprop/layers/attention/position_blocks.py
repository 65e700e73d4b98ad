"""Blocks of the positions of a context: short at its start, behind a window and toward an end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from sigprop.core.arrays import Floats, Ints, distinct
from sigprop.core.errors import require
from sigprop.layers.attention.position_grid import WINDOWS, Layout, moved
from sigprop.layers.attention.sliding_window import PER_WINDOW, short_distances

__all__ = [
    "FAR",
    "MAX_SIZE",
    "RESOLUTION",
    "SINGLES",
    "is_far",
    "make_layout",
    "more_blocks",
    "resolution_of",
    "shrinking_blocks",
    "with_short_distances",
]

MASKED, ROTATED = 52, 44  # blocks of positions that carry a kernel, and under rotations
LONG, LONGER = 2.0**13, 4  # context beyond which more are needed, and how many a doubling
RESOLUTION = 64  # blocks of the longest contexts; shorter ones have every position by itself
SINGLES = 8
MAX_SIZE = 500  # blocks of a context behind a window
SHRINK = 1.4  # of blocks toward the last windows
FAR = 8  # windows in a context above which the rest has longer blocks


def is_far(window: float, context: int) -> bool:
    """Whether a window is far shorter than a context."""
    return FAR * window < context


def shrinking_blocks(window: int, context: int, windows: int = 2, parts: int = 4) -> Ints:
    """Where blocks end toward the end of a context, beyond which no query has a window.

    Parameters
    ----------
    window : int
        Number of latest keys that a token sees.
    context : int
        Context length T.
    windows, parts : int
        Number of last windows that are in parts, and of parts.

    Returns
    -------
    array of int
        Distances from the end: of the parts, then in a geometric sequence to T/2.

    Examples
    --------
    >>> from sigprop.layers.attention.position_blocks import shrinking_blocks
    >>> shrinking_blocks(4, 64).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 22, 31]
    """
    first = windows * window
    near = np.linspace(0, first, windows * min(parts, window) + 1)
    number = int(np.ceil(np.log(max(context / (2 * first), 1.0)) / np.log(SHRINK)))
    grown = first * SHRINK ** np.arange(number)
    return distinct(np.concatenate([near, grown]).round().astype(np.int64))


def resolution_of(context: float, rotated: bool) -> int:
    """Find how many blocks of positions carry a kernel.

    Parameters
    ----------
    context : float
        Context length T.
    rotated : bool
        Whether every layer has rotary positions.

    Returns
    -------
    int
        Enough for gaps of merging tokens to a hundredth; of a short context every position.

    Examples
    --------
    >>> from sigprop.layers.attention.position_blocks import resolution_of
    >>> [[resolution_of(context, one) for context in (4096, 2**20)] for one in (False, True)]
    [[52, 64], [44, 64]]
    """
    if context <= RESOLUTION:
        return RESOLUTION
    return min((ROTATED if rotated else MASKED) + more_blocks(context), RESOLUTION)


def more_blocks(context: float) -> int:
    """Find how many more blocks a long context needs.

    Parameters
    ----------
    context : float
        Context length T.

    Returns
    -------
    int
        The number; none of a short context, and of a long one up to what makes `RESOLUTION`.

    Examples
    --------
    >>> from sigprop.layers.attention.position_blocks import more_blocks
    >>> [more_blocks(context) for context in (4096, 2**15)]
    [0, 8]
    """
    more = round(LONGER * max(float(np.log2(context / LONG)), 0.0))
    return min(more, RESOLUTION - ROTATED)


def make_layout(
    context: int,
    resolution: int = RESOLUTION,
    window: float = np.inf,
    prefix: int = 0,
    cuts: Ints | tuple[int, ...] = (),
    singles: int = SINGLES,
    far: bool = False,
) -> Layout:
    """Blocks of a context.

    Parameters
    ----------
    context : int
        Context length T, >= 2.
    resolution : int
        About how many blocks; from T on every position is a block.
    window : float
        Number of latest keys that a token sees, >= 1.
    prefix : int
        Number of leading tokens that see each other, in [0, T].
    cuts : sequence of int
        Positions at which a block must end.
    singles : int
        Number of first positions that are blocks of one, >= 2.
    far : bool
        Whether blocks far behind a window may be longer than it (`with_short_distances`).

    Returns
    -------
    Layout
        Blocks and mask.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> make_layout(8).edges.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    require(context >= 2, "context", context, "an integer >= 2")
    require(singles >= 2, "singles", singles, "an integer >= 2")
    require(resolution >= singles, "resolution", resolution, f"an integer >= {singles}")
    require(window >= 1, "window", window, "a number >= 1")
    require(0 <= prefix <= context, "prefix", prefix, "an integer in [0, context]")
    far &= is_far(window, context)
    if far:  # a block is at most as long as what comes before it
        resolution = max(resolution, singles + int(np.ceil(np.log2(context / singles))))
    single = np.arange(min(singles, context) + 1)
    grown = _grown(int(single[-1]), context, max(resolution - singles, 1))
    if resolution >= context:
        grown = np.arange(context + 1.0)
    if window < context:
        grown = _behind_window(grown, int(window), int(WINDOWS * window) if far else context)
    inside = [c for c in (*cuts, prefix) if 0 < c < context]
    edges = distinct(np.concatenate([single, np.round(grown), inside]).astype(np.int64))
    return Layout(edges, window, prefix)


def _behind_window(grown: Floats, window: int, end: int) -> Floats:
    """Where blocks end that are parts of a window, of which one ends it, once others are longer.

    Behind a window the kernel varies over the window, not over the position.
    """
    context, step = int(grown[-1]), max(window // PER_WINDOW, 1)
    require(end <= MAX_SIZE * step, "window", window, f"at least {context} / 62")
    grown = moved(grown, np.array([window]))
    wide = grown[:-1][np.diff(grown) > step]
    start = min(float(wide[0]), end) if wide.size else end
    fine = np.arange(window % step, end, step)
    fine = fine[(fine > start + step / 2) & (fine < end - step / 2)]
    late = grown[grown > end + step / 2]
    return np.concatenate([grown[grown <= start], fine, [end], late])


def _grown(first: int, context: int, number: int) -> Floats:
    """Find where blocks end that grow in proportion to the position, one at half of the context."""
    late = max(round(number * np.log(2) / np.log(context / first)), 1) if context > first else 0
    if late >= number:
        return np.geomspace(first, context, number + 1)
    early = np.geomspace(first, context / 2, number - late + 1)
    return np.append(early[:-1], np.geomspace(context / 2, context, late + 1))


def with_short_distances(layout: Layout, windows: Iterable[float]) -> Layout:
    """Layout whose long blocks tell pairs apart by distance.

    Parameters
    ----------
    layout : Layout
        Blocks and mask.
    windows : iterable of float
        Windows of all masks on these blocks.

    Returns
    -------
    Layout
        The same blocks; the same layout where no window is far shorter than the context.

    Examples
    --------
    >>> from sigprop.layers.attention.position_blocks import make_layout, with_short_distances
    >>> layout = make_layout(65536, window=128, far=True)
    >>> len(layout.size) < 120, len(with_short_distances(layout, [128]).distances) > 20
    (True, True)
    """
    context = int(layout.edges[-1])
    far = sorted({int(w) for w in windows if is_far(w, context)})
    if not far:
        return layout
    start, size = layout.edges[:-1], layout.size
    widest = np.array(
        [max((w for w in far if start_ >= WINDOWS * w), default=0) for start_ in start]
    )
    longest = np.maximum(size, np.append(0, size[:-1]))  # blocks beside each other are close
    need = np.where(widest > 0, np.maximum(longest, 2 * widest), 0)
    distances = short_distances(far, int(need.max()))
    reach = np.where(
        need > 0, distances[np.minimum(np.searchsorted(distances, need), len(distances) - 1)], 0
    )
    return replace(layout, distances=distances, reach=reach)
