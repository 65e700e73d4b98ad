"""Schemes on a trainability diagram: numbered points and a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.analysis.schemes.outcome import Outcome
from sigprop.core.arrays import Floats
from sigprop.plotting.base import BLACK, entitle, panels
from sigprop.plotting.diagram import boundary_lines, field

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_schemes"]

MARKS = {"trainable": "o", "rank collapse": "s", "entropy collapse": "^", "undefined": "x"}
BOTH = "D"
POINT: dict[str, Any] = {"color": "white", "mec": BLACK, "ms": 5.5}
NEAR = 0.012  # of the axes: points that share a label
RING = tuple((r * np.cos(a), r * np.sin(a)) for r in (0.03, 0.05, 0.075, 0.1)
             for a in np.arange(0.25, 6.4, 0.52))  # fmt: skip


def plot_schemes(data: xr.Dataset, found: Sequence[Outcome], title: str = "") -> Figure:
    """Every scheme on the diagram of its architecture, as a numbered point.

    Parameters
    ----------
    data : xarray.Dataset
        From `sigprop.analysis.schemes.on_diagram`: over beta and strength, with each scheme's
        place.
    found : sequence of Outcome
        The schemes, in the order of `data`.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        1 - rho_L with the boundaries; numbers beside the points, their names to the right. The
        marker is the scheme's own verdict, with its own norms and MLP.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.plotting.schemes import plot_schemes
    >>> from sigprop.analysis.schemes.on_diagram import scheme_diagram
    >>> from sigprop.analysis.schemes.outcome import survey
    >>> spec = load("bert-base").spec.replace(depth=2)
    >>> found = survey(spec, ["he", "gpt2"])
    >>> len(plot_schemes(scheme_diagram(spec, found, points=5), found).axes)
    2
    """
    from matplotlib.colors import LogNorm

    figure, ((axes,),) = panels(1, width=8.6, height=5.2)
    gap = np.asarray(data["gap_ratio"])
    floor = max(float(np.nanmin(gap)), 1e-6)
    shown = np.ma.masked_invalid(np.maximum(gap, floor))
    field(axes, data, shown, "gap_ratio", "cividis", LogNorm(floor, 1.0))
    boundary_lines(axes, data)
    axes.set(xscale="log", yscale="log")
    place = np.stack([_place(data, name) for name in ("beta", "strength")], axis=1)
    for spot, one in zip(place, found, strict=True):
        mark, above = MARKS.get(one.verdict, BOTH), one.verdict == "trainable"
        look = POINT | {"ms": 4.2 if above else 7.0, "zorder": 4 if above else 3}
        axes.plot(*spot, mark, transform=axes.transAxes, clip_on=False, **look)
    _numbers(axes, place)
    _key(axes, found)
    if title:
        entitle(figure, title, 10)
    return figure


def _place(data: xr.Dataset, name: str) -> Floats:
    """Where the schemes lie along an axis, from 0 to 1; what is beyond lies on its edge."""
    ends: Floats = np.log(np.asarray(data[name])[[0, -1]])
    with np.errstate(divide="ignore"):
        at = np.log(np.asarray(data[f"scheme_{name}"]))
    return np.asarray(np.clip((at - ends[0]) / (ends[1] - ends[0]), 0, 1))


def _numbers(axes: Axes, place: Floats) -> None:
    """Numbers beside the points; those of coinciding points joined, none over another."""
    boxes: list[tuple[float, float, float, float]] = []
    for group in _groups(place):
        text = ",".join(str(i + 1) for i in group)
        width, spot = 0.008 * len(text) + 0.006, place[group[0]]
        x, y = _free(spot, width, boxes, place)
        boxes.append((x, y, width, 0.04))
        axes.annotate(
            text, spot, (x, y), "axes fraction", "axes fraction", ha="center", va="center",
            fontsize=7, arrowprops={"arrowstyle": "-", "lw": 0.5, "color": BLACK},
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.9},
        )  # fmt: skip


def _groups(place: Floats) -> list[list[int]]:
    """Points that lie on top of one another."""
    groups: list[list[int]] = []
    for i, spot in enumerate(place):
        near = [g for g in groups if np.hypot(*(place[g[0]] - spot)) < NEAR]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    return groups


def _free(
    spot: Floats, width: float, boxes: list[tuple[float, float, float, float]], place: Floats
) -> tuple[float, float]:
    """First place around a point where its number covers no other number and no point."""
    for dx, dy in RING:
        x, y = spot[0] + dx + np.sign(dx) * width / 2, spot[1] + 1.4 * dy
        inside = 0.01 < x - width / 2 and x + width / 2 < 0.99 and 0.02 < y < 0.98
        apart = all(
            abs(x - a) > (width + w) / 2 + 0.006 or abs(y - b) > h + 0.008 for a, b, w, h in boxes
        )
        off = np.all(
            (np.abs(place[:, 0] - x) > width / 2 + 0.01) | (np.abs(place[:, 1] - y) > 0.03)
        )
        if inside and apart and off:
            return float(x), float(y)
    return float(spot[0]), float(spot[1])


def _key(axes: Axes, found: Sequence[Outcome]) -> None:
    rows = [f"{i:2d} {one.name}" for i, one in enumerate(found, 1)]
    axes.text(1.27, 1.0, "\n".join(rows), va="top", fontsize=6.5, family="monospace",
              transform=axes.transAxes)  # fmt: skip
    for verdict in dict.fromkeys(one.verdict for one in found):
        mark = MARKS.get(verdict, BOTH)
        axes.plot([], [], mark, **POINT, label=f"own verdict: {verdict}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.7, -0.13), ncols=3, fontsize=7, frameon=False)
