"""What rotary positions change: collapse, critical residual strength, entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sigprop.analysis.critical import critical
from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.errors import DomainError
from sigprop.core.notation import NOTATION
from sigprop.core.version import __version__
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import is_rotary
from sigprop.propagation.result import Trajectory
from sigprop.propagation.solve import propagate

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["rotary_effect"]


@validated
def rotary_effect(spec: ModelSpec, beta: ArrayLike, rho_max: float = 0.9) -> xr.Dataset:
    """Compare a spec with rotary positions to the same without, against temperature.

    Parameters
    ----------
    spec : ModelSpec
        A single description with `rotary_base`.
    beta : array_like, shape (N,)
        Inverse temperatures.
    rho_max : float
        Overlap at which the critical residual strength is taken.

    Returns
    -------
    xarray.Dataset
        gap_ratio over (rotary, beta, layer), entropy_ratio over (rotary, beta, block) and
        alpha_attn, the critical residual strength, over (rotary, beta); rotary is 0 or 1.

    Raises
    ------
    DomainError
        If the spec has no rotary base.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.rotary_effect import rotary_effect
    >>> spec = ModelSpec(depth=3, context=64, rotary_base=1e4, beta=1, sigma_v2=1, sigma_w2=0,
    ...                    rho0=0.1)
    >>> data = rotary_effect(spec, [2.0])
    >>> bool(data.gap_ratio[1, 0, -1] > data.gap_ratio[0, 0, -1])
    True
    """
    import xarray as xr

    if not is_rotary(spec):
        raise DomainError("rotary_base", None, "a number: the effect of rotary positions is asked")
    values = np.atleast_1d(np.asarray(beta, dtype=np.float64))
    pair = (spec.replace(rotary_base=None), spec)
    found = [[propagate(s.replace(beta=b)) for b in values.tolist()] for s in pair]
    alpha = [critical(s.replace(beta=values), rho_max).alpha_attn for s in pair]

    def stacked(name: str) -> Floats:
        return np.array([[_column(t, name) for t in row] for row in found])

    columns = {
        "gap_ratio": (("rotary", "beta", "layer"), 1 - stacked("rho")),
        "entropy_ratio": (("rotary", "beta", "block"), stacked("entropy_ratio")),
        "alpha_attn": (("rotary", "beta"), np.array(alpha)),
    }
    return xr.Dataset(
        {n: (d, v, {"long_name": NOTATION[n].meaning}) for n, (d, v) in columns.items()},
        coords={"rotary": [0, 1], "beta": values, "layer": np.arange(spec.depth + 1)},
        attrs={"sigprop_version": __version__, "rho_max": rho_max, "spec": str(spec.to_dict())},
    )


def _column(trajectory: Trajectory, name: str) -> Floats:
    return np.asarray(getattr(trajectory, name))
