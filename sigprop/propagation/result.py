"""What happens to the token kernel, layer by layer: the result of a propagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sigprop.core.arrays import Floats, Ints, finite_or_none
from sigprop.core.export import Exported
from sigprop.propagation.causal import Positions
from sigprop.propagation.rotary import ByDistance

__all__ = ["Trajectory"]


@dataclass(frozen=True)
class Trajectory(Exported):
    r"""Token kernel and attention statistics, layer by layer.

    Entries after the end of a trajectory (see `ended`) are NaN in arrays of specs and absent in a
    single trajectory.

    Attributes
    ----------
    layer : array, shape (L+1,)
        Block index; 0 is the input.
    q, gap, rho : arrays, shape (L+1, ...)
        Variance, gap and overlap of the stream after each block.
    y2, overlap, entropy, entropy_ratio, score_std, reduced_beta : arrays, shape (L, ...)
        Participation ratio, attention overlap, entropy in nats and over log T, standard deviation
        of the scores and the same over sqrt(log T), in each block. At infinite context `entropy`
        is infinite until attention freezes, and `score_std` unless beta = 0; use the ratios.
    ended : array of int, shape (...)
        Last layer reached; depth when complete.
    reason : str
        How the iteration ended, as a sentence.
    notes : tuple of str
        Approximations made for this spec.
    positions : Positions or None
        The same by position, for a causal spec that is solved so; q, y2, entropy, entropy_ratio,
        score_std and reduced_beta are then means over positions, rho and overlap over pairs of
        positions, and gap is q (1 - rho).
    distances : ByDistance or None
        The kernel by distance, for a bidirectional spec with rotary positions; rho and overlap are
        then means over pairs.
    kernel_blocks : array, shape (L+1, B, B), or None
        Means of the normalised kernel, diagonal included, over B equal ranges of positions.
    rho_std, y2_std, entropy_std : arrays or None
        Standard deviations over networks of rho, y2 and entropy, from
        `sigprop.propagation.finite_width.bands.bands`.
    crowding : array or None
        Width over the number of directions that tokens share, from the same.

    Examples
    --------
    >>> from sigprop import ModelSpec, propagate
    >>> spec = ModelSpec(depth=24, context=512, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> round(float(propagate(spec).rho[-1]), 4) > 0.99
    True
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {
        **dict.fromkeys(("q", "gap", "rho", "rho_std", "crowding"), ("layer",)),
        **dict.fromkeys(("y2", "overlap", "entropy", "entropy_ratio"), ("block",)),
        **dict.fromkeys(("score_std", "reduced_beta", "y2_std", "entropy_std"), ("block",)),
        "kernel_blocks": ("layer", "range", "other_range"),
    }

    layer: Ints
    q: Floats
    gap: Floats
    rho: Floats
    y2: Floats
    overlap: Floats
    entropy: Floats
    entropy_ratio: Floats
    score_std: Floats
    reduced_beta: Floats
    ended: Ints
    reason: str
    notes: tuple[str, ...]
    positions: Positions | None = None
    distances: ByDistance | None = None
    kernel_blocks: Floats | None = None
    rho_std: Floats | None = None
    y2_std: Floats | None = None
    entropy_std: Floats | None = None
    crowding: Floats | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null.

        Returns
        -------
        dict
            One list for each attribute that is not None.

        Examples
        --------
        >>> from sigprop import ModelSpec, propagate
        >>> spec = ModelSpec(depth=2, context=8, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
        >>> propagate(spec).to_dict()["layer"]
        [0, 1, 2]
        """
        out: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                value = finite_or_none(value)
            elif isinstance(value, Positions | ByDistance):
                value = value.to_dict()
            if value is not None:
                out[name] = list(value) if isinstance(value, tuple) else value
        return out
