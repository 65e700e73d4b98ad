"""One solution: the kernels of a stack of blocks and the statistics of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sigprop.core.arrays import Bools, Floats, Ints
from sigprop.core.memory import keep_heap
from sigprop.layers.interface import Step
from sigprop.layers.state import State
from sigprop.propagation.capabilities import refusal
from sigprop.propagation.stack import Block, Stack, iterate

__all__ = ["Run", "solve"]


class Run(NamedTuple):
    """Kernels and attention, layer by layer.

    Attributes
    ----------
    kernels : list of State
        What enters each block, and what leaves the last one reached.
    rows : list
        Columns of the statistics of each block's attention, or the statistics themselves.
    good : array of bool, shape (L+1, ...)
        Which stacks are finite and have not vanished there.
    entered : list of tuple of State
        Kernels that entered the layers of each block, of a run whose rows are the statistics.
    """

    kernels: list[State]
    rows: list[Any]
    good: Bools
    entered: Sequence[tuple[State, ...]] = ()

    @property
    def read(self) -> Run:
        """Of a run whose rows are the statistics themselves, the one whose rows are columns."""
        return self._replace(rows=[attention.columns() for attention in self.rows])

    @property
    def columns(self) -> dict[str, Floats]:
        """Statistics of attention, stacked over the layers."""
        return {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}

    @property
    def ended(self) -> Ints:
        """Last layer up to which each stack is valid."""
        return np.asarray(np.cumprod(self.good, axis=0).sum(axis=0) - 1)


def solve(
    stack: Stack,
    start: State,
    shape: tuple[int, ...] = (),
    columns: bool = True,
) -> Run:
    """Apply the blocks of a stack, up to the last layer at which any kernel is valid.

    Parameters
    ----------
    stack : Stack
        The blocks, in order of depth.
    start : State
        What enters the first; leading axes are many stacks.
    shape : tuple of int
        Shape of these axes.
    columns : bool
        Whether to keep the columns of the statistics of each block's attention alone.

    Returns
    -------
    Run
        Kernels and attention; behind the end of one of many stacks it goes on from its start, and
        is to be masked.

    Raises
    ------
    TheoryError
        If the kernel of a single stack vanishes or overflows in the first block.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.stack import build_stack
    >>> from sigprop.propagation.run import solve
    >>> spec = ModelSpec(depth=3, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> stack = build_stack(spec)
    >>> int(solve(stack, stack.initial(spec)).ended)
    3
    """
    keep_heap()
    geometry = stack.place.geometry
    kernels, good = [start], [np.asarray(geometry.is_valid(start))]
    rows: list[Any] = []
    entered: list[tuple[State, ...]] = []

    def step(last: Step, block: Block) -> Step:
        found = block.forward(last.kernel)
        known = np.asarray(geometry.is_valid(found.kernel))
        good.append(known)
        if known.ndim and not known.all():
            return found._replace(kernel=geometry.select(known, found.kernel, start))
        return found

    with np.errstate(all="ignore"):  # what overflows or vanishes ends the loop
        for found in iterate(Step(start), stack.blocks, step):
            if not (shape or good[-1]):
                good.pop()
                break
            kernels.append(found.kernel)
            rows.append(found.attention.columns() if columns else found.attention)
            if not columns:
                entered.append(found.entered)
    if len(kernels) == 1:
        raise refusal("a state that vanishes or overflows", "propagate", where="block 1")
    every = np.stack([np.broadcast_to(known, shape) for known in good])
    return Run(kernels, rows, every, entered)
