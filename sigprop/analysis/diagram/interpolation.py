"""Grids solved at Chebyshev nodes, and interpolated between them where a test allows it.

Over a panel of the grid, what a stack does in each layer is a polynomial in the parameters; kinks
come from the largest and the smallest value over the layers, which are taken afterwards. The nodes
are the grid points next to Chebyshev points. A panel whose polynomial misses grid points that are
held out is halved across the axis that needs it most, until every point is a node: no grid takes
more stacks than it has points. L. N. Trefethen, Approximation Theory and Approximation Practice
(2013), chapters 2 to 4. Measured: notebooks/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.numerics.chebyshev import basis
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.grids import FinalStates, over_layers, rows_by_layer
from sigprop.propagation.points import chunks, part_of, picked

__all__ = ["TOLERANCES", "Tested", "bound_words", "interpolated_sweep"]

NODES = 7  # along each axis of a panel
HELD_OUT = 6  # points of a panel at which its polynomial is tested, beside those solved before
SAFETY = 2.0  # errors there are to be so many times smaller than the tolerances
# absolute, relative, relative, absolute
TOLERANCES = {"rho": 3e-4, "gap_ratio": 1e-3, "reduced_beta": 1e-3, "entropy_ratio": 1e-3}
ROOM = 2**24  # numbers by layer and point that are interpolated at a time: 128 MiB
INTEGERS = ("context",)  # axes along which nothing is interpolated
STEPS = np.sqrt([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47])  # Richtmyer's sequence

Points = tuple[Ints, ...]  # some places along each axis


class Tested(NamedTuple):
    """How a grid was interpolated.

    Attributes
    ----------
    solved : int
        Number of points that were solved.
    held_out : int
        Number of those at which the polynomials that were used were tested.
    errors : array, shape (4,)
        Largest errors there, of what `TOLERANCES` names.
    """

    solved: int
    held_out: int
    errors: Floats

    def words(self, points: int) -> str:
        """State what was done.

        Parameters
        ----------
        points : int
            Number of grid points.

        Returns
        -------
        str
            Numbers of points and errors.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.analysis.diagram.interpolation import Tested
        >>> Tested(90, 5, np.full(4, 1e-4)).words(400)[:49]
        '90 of 400 points were solved; largest errors at 5'
        """
        return (f"{self.solved} of {points} points were solved; largest errors at "
                f"{self.held_out} held out: {_words(self.errors)}")  # fmt: skip


def bound_words() -> str:
    """State what holds of every grid, before any is interpolated.

    Returns
    -------
    str
        Largest errors that are let through.

    Examples
    --------
    >>> from sigprop.analysis.diagram.interpolation import bound_words
    >>> bound_words()[:66]
    'where points were not solved, errors at points held out are below '
    """
    bounds = np.array(list(TOLERANCES.values())) / SAFETY
    return f"where points were not solved, errors at points held out are below {_words(bounds)}"


def _words(errors: Floats) -> str:
    """Errors with the names of what `TOLERANCES` bounds."""
    return ", ".join(f"{e:.1e} of {n}" for n, e in zip(TOLERANCES, errors, strict=True))


def interpolated_sweep(
    spec: ModelSpec,
    axes: Mapping[str, Floats],
    kind: str,
    progress: Callable[[int], None] | None = None,
) -> tuple[FinalStates, Tested]:
    """Compute the final states of a grid of stacks whose tokens are told apart.

    Parameters
    ----------
    spec : ModelSpec
        The description over the whole grid.
    axes : mapping of str to array
        Parameters and their values along each dimension, increasing.
    kind : {"position", "distance"}
        Which pairs of tokens are told apart.
    progress : callable, optional
        Called with the number of finished points.

    Returns
    -------
    final : FinalStates
        As from `sigprop.sweep`.
    tested : Tested
        How many points were solved, and the errors at those held out.

    Notes
    -----
    Boxes that fit into memory are interpolated one by one, and so is each value of an integer
    parameter. Panels with undefined nodes or points held out are
    halved until every point is solved; an undefined region that none of them meets goes unseen.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.diagram.interpolation import interpolated_sweep
    >>> beta = np.linspace(0, 1, 500)
    >>> spec = ModelSpec(depth=2, context=8, causal=True, norm="pre", beta=beta, sigma_v2=1,
    ...                    sigma_w2=1, rho0=0)
    >>> final, tested = interpolated_sweep(spec, {"beta": beta}, "position")
    >>> tested.solved < 100
    True
    """
    tell = progress or (lambda count: None)
    out, parts = np.empty((4, *spec.shape)), []
    for box in _boxes(spec.shape, tuple(axes), max(ROOM // (2 + 2 * spec.depth), 1)):
        values = [_even(v[side]) for v, side in zip(axes.values(), box, strict=True)]
        out[(slice(None), *box)], tested = _interpolated(part_of(spec, box), values, kind, tell)
        parts.append(tested)
    solved, held_out, errors = zip(*parts, strict=True)
    q, deficit, heat, entropy = out
    final = FinalStates(State(q, q * deficit), heat, np.isfinite(q), entropy)
    return final, Tested(sum(solved), sum(held_out), np.max(errors, axis=0))


def _boxes(
    shape: tuple[int, ...], names: tuple[str, ...], size: int
) -> Iterator[tuple[slice, ...]]:
    """Boxes of at most so many points, with one value of every integer."""
    for box in chunks(shape, size):
        yield from product(*(
            [slice(i, i + 1) for i in range(side.start, side.stop)] if name in INTEGERS else [side]
            for name, side in zip(names, box, strict=True)
        ))  # fmt: skip


def _even(values: Floats) -> Floats:
    """Take an axis or its logarithm, whichever has the more even steps."""
    if values[0] <= 0:
        return values
    return min(values, np.log(values), key=_unevenness)


def _unevenness(values: Floats) -> float:
    """Range of the steps of an axis over their mean."""
    steps = np.diff(values)
    return float(np.ptp(steps) / steps.mean()) if steps.size else 0.0


class _Solved:
    """Rows by layer of those points of a grid that are solved."""

    def __init__(self, grid: ModelSpec, kind: str) -> None:
        self.grid, self.kind = grid, kind
        self.place = np.full(grid.shape, -1)
        self.rows = np.empty((2 + 2 * grid.depth, 0))

    def add(self, points: Ints) -> None:
        """Solve those of the points, places in the flattened grid, that are not."""
        new = np.unique(points[self.place.flat[points] < 0])
        if not new.size:
            return
        rows = np.empty((len(self.rows), new.size))
        for index, found in rows_by_layer(picked(self.grid, new), self.kind, self.grid):
            rows[:, index] = found
        self.place.flat[new] = self.rows.shape[1] + np.arange(new.size)
        self.rows = np.concatenate([self.rows, rows], axis=1)


def _interpolated(
    grid: ModelSpec, axes: Sequence[Floats], kind: str, tell: Callable[[int], None]
) -> tuple[Floats, Tested]:
    """Rows of `over_layers` over a grid that fits into memory; finished points are told."""
    solved = _Solved(grid, kind)
    out, done = np.empty((4, *grid.shape)), np.zeros(grid.shape, dtype=bool)
    panels: list[Points] = [tuple(map(np.arange, grid.shape))]
    held_out, largest = 0, np.zeros(len(TOLERANCES))
    while panels:
        known, halves = int(done.sum()), []
        nodes = [tuple(map(_nodes, axes, panel)) for panel in panels]
        asked = [index for own in nodes for index in (np.ix_(*own), _between_nodes(own))]
        solved.add(np.concatenate([_flat(index, grid.shape) for index in asked]))
        for panel, own in zip(panels, nodes, strict=True):
            box = tuple(slice(points[0], points[-1] + 1) for points in panel)
            places = solved.place[box]
            if prod(map(len, own)) < places.size:
                rows = solved.rows[:, solved.place[np.ix_(*own)]]
                found, tests = _interpolant(rows, axes, own, panel), places >= 0
                errors = _errors(found[:, tests], over_layers(solved.rows[:, places[tests]]))
                if not np.all(SAFETY * errors <= list(TOLERANCES.values())):  # NaN is not
                    halves += _halved(axes, panel, _sharpest(rows, axes, own, panel))
                    continue
                out[(slice(None), *box)] = found
                held_out += int(tests.sum()) - prod(map(len, own))
                largest = np.maximum(largest, errors)
            done[box] = True
        tell(int(done.sum()) - known)
        panels = halves
    exact = solved.place >= 0
    out[:, exact] = over_layers(solved.rows[:, solved.place[exact]])
    return out, Tested(int(exact.sum()), held_out, largest)


def _flat(index: Points, shape: tuple[int, ...]) -> Ints:
    """Places in the flattened grid."""
    return np.ravel_multi_index(np.broadcast_arrays(*index), shape).ravel()


def _nodes(x: Floats, panel: Ints) -> Ints:
    """Points of an axis next to the Chebyshev points of the second kind, ends included."""
    if panel.size <= NODES:
        return panel
    low, high = x[panel[[0, -1]]]
    points = (low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, NODES))
    return np.unique(panel[np.abs(x[panel] - points[:, None]).argmin(axis=1)])


def _between_nodes(nodes: Points) -> Points:
    """Points of a panel that are held out, spread evenly over it, amid the nodes of each axis."""
    middles = [(own[:-1] + own[1:]) // 2 if own.size > 1 else own for own in nodes]
    parts = np.modf(np.outer(STEPS[: len(nodes)], np.arange(1, HELD_OUT + 1)))[0]
    return tuple(m[(p * m.size).astype(int)] for m, p in zip(middles, parts, strict=True))


def _interpolant(rows: Floats, axes: Sequence[Floats], nodes: Points, at: Points) -> Floats:
    """Rows of `over_layers` on the grid of `at`, from rows by layer on that of the nodes.

    Variances and deficits are positive, and their logarithms are interpolated.
    """
    with np.errstate(all="ignore"):  # tokens that have merged, and states that are undefined
        rows = np.concatenate([np.log(rows[:2]), rows[2:]])
        for axis, (x, own, to) in enumerate(zip(axes, nodes, at, strict=True), start=1):
            rows = np.moveaxis(np.tensordot(_weights(x, own, to), rows, (1, axis)), 0, axis)
        return over_layers(np.concatenate([np.exp(rows[:2]), rows[2:]]))


def _weights(x: Floats, nodes: Ints, at: Ints) -> Floats:
    """Matrix that takes the values of a polynomial at nodes to those at other points."""
    low, high = x[nodes[[0, -1]]]
    own, to = ((2 * x[i] - low - high) / ((high - low) or 1.0) for i in (nodes, at))
    return np.asarray(np.linalg.solve(basis(own, nodes.size).T, basis(to, nodes.size).T).T)


def _errors(found: Floats, exact: Floats) -> Floats:
    """Largest errors of what `TOLERANCES` names, of rows of `over_layers`; NaN where undefined."""
    (_, gap, heat, entropy), (_, gap0, heat0, entropy0) = found, exact
    with np.errstate(all="ignore"):
        heats = np.where(heat == heat0, 0.0, heat / heat0 - 1)  # without scores it is zero
        errors = np.stack([gap - gap0, gap / gap0 - 1, heats, entropy - entropy0])
    return np.asarray(np.abs(errors).reshape(len(errors), -1).max(axis=1))


def _sharpest(rows: Floats, axes: Sequence[Floats], nodes: Points, panel: Points) -> int:
    """Axis along which every other node predicts the rest worst, of those not solved throughout."""
    exact, scores = over_layers(rows), []
    sparse = np.array([own.size / points.size for own, points in zip(nodes, panel, strict=True)])
    for axis, own in enumerate(nodes):
        half = np.unique([*range(0, own.size, 2), own.size - 1])
        fewer = (*nodes[:axis], own[half], *nodes[axis + 1 :])
        errors = _errors(_interpolant(rows.take(half, axis + 1), axes, fewer, nodes), exact)
        scores.append(np.max(errors / list(TOLERANCES.values())))
    if np.isnan(scores).any():
        return int(sparse.argmin())
    return int(np.where(sparse < 1, scores, -1.0).argmax())


def _halved(axes: Sequence[Floats], panel: Points, axis: int) -> list[Points]:
    """Both halves of a panel, which share the points amid an axis."""
    own = panel[axis]
    middle = axes[axis][own[[0, -1]]].mean()
    cut = int(np.clip(np.searchsorted(axes[axis][own], middle), 1, own.size - 2))
    return [(*panel[:axis], part, *panel[axis + 1 :]) for part in (own[: cut + 1], own[cut:])]
