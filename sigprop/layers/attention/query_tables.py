r"""Attention weights of the queries of a layout for many stacks at once.

Beside the look-ups of `sigprop.layers.attention.query_universal`, what correlations of scores do
(E25e) is looked up without rotation too, where all layers have one mask
(`sigprop.layers.attention.correlation_table`); with several masks kernels are unlike those that the
network was fitted to, and it is integrated. Where the table of rotary positions ends, it is
interpolated in one of the layout, for gaps that rise linearly with log distance. Measured errors:
notebooks/accuracy.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.core.numerics.chebyshev import basis, fitted, nodes
from sigprop.layers.attention.by_position import PositionGeometry
from sigprop.layers.attention.correlation_table import Correlations, from_part, rise
from sigprop.layers.attention.key_correlations import ALONE, CorrelatedKeys, KeyCorrelation
from sigprop.layers.attention.packed_documents import PackedDocuments
from sigprop.layers.attention.position_blocks import make_layout, more_blocks
from sigprop.layers.attention.position_grid import Layout
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.rotation import Rotation
from sigprop.layers.attention.statistics import coordinates as co

__all__ = ["Tabulated", "coarse_layout", "tabulated"]

COARSE = {False: (32, 4), True: (37, 5)}  # blocks, and first ones of one position; if rotated
CORRELATIONS = (5, 9, 4)  # of correlated scores, in their scale, gap and its rise with log distance
DRAWS = 512  # of them
LOWEST = 0.2  # score deviation below which they are those at it


@dataclass(frozen=True)
class Tabulated(Universal):
    """Statistics of the queries of a layout by look-up; any leading axes.

    Parameters
    ----------
    layout, head_width, rotation, smooth
        As in `sigprop.layers.attention.query_universal.Universal`.
    top : float
        Largest deviation of correlated scores; beyond it they do what they do there.
    alike : bool
        Whether all layers of the stack have this mask.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.position_blocks import make_layout
    >>> from sigprop.layers.attention.query_tables import Tabulated
    >>> table, sigma = Tabulated(make_layout(3), top=2.0), np.array([0.0, 0.5, 1.0])
    >>> table.single(sigma).entropy.shape
    (3,)
    """

    top: float = 16.0
    alike: bool = True

    def correlations(
        self, scale: Number, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        """Find what correlations of scores do to each query, by look-up.

        Parameters
        ----------
        scale : array, shape (..., 1)
            Score variance of two keys of gap q.
        deficit : array, shape (..., B, B)
            Gap over q of two keys, by block.
        sigma : array, shape (..., P)
            Standard deviations of the scores.
        weight : array, shape (..., P, B)
            As where it is called.

        Returns
        -------
        KeyCorrelation
            Of shape (..., P); scalar ones where no query sees three keys.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.query_tables import tabulated
        >>> one = np.ones((2, 2))
        >>> tabulated(2, 1.0).correlations(1.0, one, np.ones(2), one).shrink
        1.0
        """
        if self.fitted:
            return self._clipped(self._masked(sigma[..., self.resolved], deficit))
        if self.rotation is None or self._rotated is not None or not self.resolved.size:
            return super().correlations(scale, deficit, sigma, weight)
        own, tilt = self._climb(deficit)
        return self._clipped(self._drawn(np.sqrt(scale) * np.ones_like(own), own, tilt))

    @cached_property
    def geometry(self) -> PositionGeometry:
        """Kernels on the blocks of the layout; kept, as what it finds about these is."""
        return PositionGeometry(self.layout)

    @property
    def fitted(self) -> bool:
        """Whether what correlations of scores do comes from the network."""
        return self.rotation is None and self.alike and self.resolved.size > 0

    @cached_property
    def _masked(self) -> Correlations:
        return Correlations(self.layout.parts[self.resolved])

    def _drawn(self, root: Floats, own: Floats, tilt: Floats) -> Floats:
        """Find what correlations do, shape (4, ..., K), from the root of the score variance."""
        hot = basis(co.from_deviation(root, LOWEST, self.top), CORRELATIONS[0])
        far = basis(co.from_gap(np.clip(own, 0.0, co.MAX_GAP), 0.0), CORRELATIONS[1])
        near = basis(from_part(tilt), CORRELATIONS[2])
        rows = self._correlations
        return np.asarray(np.einsum("zkabc,...ka,...kb,...kc->z...k", rows, hot, far, near))

    @cached_property
    def _correlations(self) -> Floats:
        """Coefficients of `KeyCorrelation` under rotation, shape (4, K, ., ., .)."""
        scale = co.to_deviation(nodes(CORRELATIONS[0]), LOWEST, self.top) ** 2
        own = co.to_gap(nodes(CORRELATIONS[1]), 0.0)
        tilt = (nodes(CORRELATIONS[2]) + 1) / 2
        index = self.resolved
        rows = np.empty((*CORRELATIONS, len(ALONE), index.size))
        together = CorrelatedKeys(self.rotation, self.head_width, DRAWS)
        for a, b, c, k in np.ndindex(*CORRELATIONS, index.size):
            sizes = self.layout.parts[index[k]]
            deficit = own[b] * (1 + tilt[c] * rise(sizes))
            rows[a, b, c, :, k] = together.alone(float(scale[a]), deficit, sizes)
        rows[..., 0, :][~np.isfinite(rows[..., 0, :])] = 1.0  # frozen, beyond the theory
        return np.stack([fitted(one, 3) for one in np.moveaxis(rows, -2, 0)])


def coarse_layout(
    context: int, rotated: bool = False, resolution: int | None = None, **mask: Any
) -> Layout:
    """Blocks of the stacks of an array.

    Parameters
    ----------
    context : int
        Context length T, >= 2.
    rotated : bool
        Whether every layer has rotary positions, whose weights vary with distance: more blocks,
        and still more of long contexts.
    resolution : int, optional
        About how many blocks there are otherwise.
    **mask
        As of `sigprop.layers.attention.position_blocks.make_layout`.

    Returns
    -------
    Layout
        Fewer blocks than those of one stack.

    Examples
    --------
    >>> from sigprop.layers.attention.query_tables import coarse_layout
    >>> [len(coarse_layout(4096, rotated).size) for rotated in (False, True)]
    [32, 37]
    """
    usual, singles = COARSE[rotated]
    longer = more_blocks(context) if rotated else 0
    return make_layout(context, resolution=(resolution or usual) + longer, singles=singles, **mask)


@lru_cache(maxsize=16)
def tabulated(
    context: int,
    top: float,
    window: float = np.inf,
    prefix: int = 0,
    head_width: float | None = None,
    rotation: Rotation | None = None,
    edges: tuple[int, ...] | None = None,
    starts: tuple[int, ...] = (0,),
    documents: PackedDocuments | None = None,
    joints: tuple[int, ...] = (),
    alike: bool = True,
) -> Tabulated:
    """Table of a context on coarse blocks, built once.

    Parameters
    ----------
    context : int
        Context length T, >= 2.
    top : float
        Largest score deviation, > 0.2.
    window, prefix
        As in `sigprop.layers.attention.position_blocks.make_layout`.
    head_width : float, optional
        Width of a head.
    rotation : Rotation, optional
        Rotary positions.
    edges : tuple of int, optional
        Ends of the blocks; by default those of `coarse_layout`.
    starts, documents, joints
        As of `sigprop.layers.attention.position_grid.Layout`.
    alike : bool
        Whether all layers of the stack have this mask.

    Returns
    -------
    Tabulated
        The table; correlations that are drawn for it take seconds.

    Examples
    --------
    >>> from sigprop.layers.attention.query_tables import tabulated
    >>> tabulated(2, 1.0) is tabulated(2, 1.0)
    True
    """
    if edges is None:
        layout = coarse_layout(context, rotation is not None, window=window, prefix=prefix)
    else:
        layout = Layout(np.array(edges), window, prefix)
    joined = np.array(joints, dtype=np.int64)
    layout = replace(layout, starts=np.array(starts), documents=documents, joints=joined)
    return Tabulated(layout, head_width, rotation, top=top, alike=alike)
