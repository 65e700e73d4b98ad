"""Where schemes lie on the trainability diagram of an architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sigprop.analysis.diagram.grid import diagram
from sigprop.analysis.schemes.outcome import Outcome, recipe
from sigprop.model.spec import ModelSpec
from sigprop.model.weights import spec_of
from sigprop.propagation.stack import any_norm

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["scheme_diagram"]

HOTTEST = 4.0  # beta at the edge of the diagram


def _heat(spec: ModelSpec) -> float:
    """Beta of the scores that the first block sees: with the gain of its norm, or without one."""
    norm = any_norm(spec)
    return float(spec.beta) * (float(spec.q0) if norm is None else float(norm.gain) ** 2)


def scheme_diagram(
    architecture: ModelSpec, found: Sequence[Outcome], points: int = 100, rho_max: float = 0.98
) -> xr.Dataset:
    r"""Trainability diagram of an architecture, and where its schemes lie.

    The axes are beta (times the variance that attention reads) and the strength of the skip,
    :math:`\alpha/(\sigma_v\sigma_o)`: the diagram has sigma_v2 = sigma_o2 = 1, and the MLP
    variances of Glorot's scheme under the same skip. A scheme with other norms or another MLP has
    its own boundaries; its own verdict is in its `Outcome`.

    Parameters
    ----------
    architecture : ModelSpec
        Everything but the scales; with a width.
    found : sequence of Outcome
        Results of `survey`, at least one.
    points : int
        Grid points along each axis.
    rho_max : float
        As in `outcome`.

    Returns
    -------
    xarray.Dataset
        As from `sigprop.diagram`, the axis alpha_attn renamed strength; and scheme_beta and
        scheme_strength over scheme. Branches that are zero have infinite strength.

    Examples
    --------
    >>> from sigprop import load
    >>> from sigprop.analysis.schemes.on_diagram import scheme_diagram
    >>> from sigprop.analysis.schemes.outcome import survey
    >>> spec = load("bert-base").spec.replace(depth=2)
    >>> data = scheme_diagram(spec, survey(spec, ["lecun"]), points=3)
    >>> data.scheme_strength.values.tolist()
    [1.0]
    """
    base = spec_of(recipe("glorot-normal", architecture), architecture)
    beta = np.array([_heat(one.spec) for one in found])
    with np.errstate(divide="ignore"):
        branch = [np.asarray(one.spec.sigma_v2) * one.spec.sigma_o2 for one in found]
        strength = np.array([float(one.spec.alpha_attn) for one in found]) / np.sqrt(branch)
    known = strength[np.isfinite(strength)]
    low, high = (0.5 * known.min(initial=0.5), 2 * known.max(initial=8.0))
    heat = np.geomspace(np.clip(0.5 * beta.min(), 0.02, 1.0), HOTTEST, points)
    skip = np.geomspace(low, high, points)
    data = diagram(base, rho_max=rho_max, geometry="exchangeable", beta=heat, alpha_attn=skip)
    places = {"scheme_beta": ("scheme", beta), "scheme_strength": ("scheme", strength)}
    return data.rename(alpha_attn="strength").assign(places)
