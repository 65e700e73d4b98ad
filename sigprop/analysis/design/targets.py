"""Targets of a design, and what a description does about them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.checks import scalar
from sigprop.core.errors import require
from sigprop.model.spec import ModelSpec
from sigprop.propagation import positional
from sigprop.propagation.capabilities import geometry_of, has_positions
from sigprop.propagation.gradients.closed_form import WEIGHTS, Gradients, gradients
from sigprop.propagation.grids import sweep
from sigprop.propagation.solve import propagate

__all__ = ["CONSTRAINTS", "RANGES", "Correction", "Measures", "Targets", "measure"]

CONSTRAINTS = ("overlap", "entropy", "query_gradient", "gradient")
RANGES = {
    "rho_max": (1e-6, 1 - 1e-9),
    "entropy_min": (0.0, 1 - 1e-6),
    "query_min": (1e-12, 1.0),
    "gradient_max": (1.0, 1e12),
    "rho_margin": (1e-6, 0.5),
    "entropy_margin": (1e-6, 0.5),
    "decade_margin": (1e-6, 3.0),
}


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a design must achieve, and by which margin.

    Parameters
    ----------
    rho_max : float
        Largest overlap after the last block, in (0, 1).
    entropy_min : float
        Smallest H / log T in any block, in [0, 1).
    query_min : float
        Smallest squared norm of a query or key gradient in any block, over the largest of any
        weight in the last block, in [1e-12, 1].
    gradient_max : float
        Largest squared norm of any weight's gradient over the same, in [1, 1e12].
    rho_margin, entropy_margin : float
        Margins kept from both bounds, in [1e-6, 0.5]; the theory is accurate to 0.015 and 0.01.
    decade_margin : float
        Margin kept from the gradient bounds, in decades, in [1e-6, 3].

    Raises
    ------
    DomainError
        If a value is outside its range, or a margin leaves nothing.

    Examples
    --------
    >>> from sigprop.analysis.design.targets import Targets
    >>> Targets(rho_max=0.8).entropy_min
    0.5
    """

    rho_max: float = 0.5
    entropy_min: float = 0.5
    query_min: float = 1e-3
    gradient_max: float = 1e3
    rho_margin: float = 0.02
    entropy_margin: float = 0.02
    decade_margin: float = 0.2

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            object.__setattr__(self, name, scalar(name, getattr(self, name), low, high))
        room = 1 - self.entropy_min
        words = f"less than 1 - entropy_min = {room:g}"
        require(self.entropy_margin < room, "entropy_margin", self.entropy_margin, words)

    def slack(self, found: Measures) -> Floats:
        """Distance from each bound, in margins: one or more is what a design must have.

        Parameters
        ----------
        found : Measures
            What a design does.

        Returns
        -------
        array, shape (4, ...)
            In the order of `CONSTRAINTS`; minus infinity where nothing is known.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.stack([
                (self.rho_max - found.rho) / self.rho_margin,
                (found.entropy - self.entropy_min) / self.entropy_margin,
                np.log10(found.query / self.query_min) / self.decade_margin,
                np.log10(self.gradient_max / found.gradient) / self.decade_margin,
            ])  # fmt: skip
        return np.where(np.isnan(room), -np.inf, room)

    def moved(self, index: int, margins: float) -> float:
        """Bound of one target moved by a number of its margins.

        Parameters
        ----------
        index : int
            Which, in the order of `CONSTRAINTS`.
        margins : float
            How many; below zero it becomes easier to meet.

        Returns
        -------
        float
            The bound.

        Examples
        --------
        >>> from sigprop.analysis.design.targets import Targets
        >>> round(Targets().moved(1, -3.5), 2)
        0.43
        """
        decades = float(np.clip(margins * self.decade_margin, -300, 300))  # -inf of none at all
        tens = 10.0**decades
        return (
            self.rho_max - margins * self.rho_margin,
            self.entropy_min + margins * self.entropy_margin,
            self.query_min * tens,
            self.gradient_max / tens,
        )[index]


class Measures(NamedTuple):
    """What a design does.

    Attributes
    ----------
    rho : array
        Overlap after the last block.
    entropy : array
        Lowest H / log T.
    query : array
        Smallest squared query or key gradient over the largest of any weight in the last block.
    gradient : array
        Largest squared gradient of any weight over the same.

    Examples
    --------
    >>> from sigprop import example
    >>> from sigprop.analysis.design.targets import measure
    >>> round(float(measure(example("vit-base").spec).rho), 2)
    0.24
    """

    rho: Floats
    entropy: Floats
    query: Floats
    gradient: Floats


class Correction(NamedTuple):
    r"""From the exchangeable theory to that by position: factors on what is far from its bound.

    Of :math:`1 - \rho`, of :math:`1 - H/\log T` and of both gradients, so that a corrected overlap
    or entropy never exceeds one.

    Attributes
    ----------
    gap, disorder, query, gradient : float
        The factors.

    Examples
    --------
    >>> from sigprop.analysis.design.targets import Correction, Measures
    >>> flat, found = Measures(0.5, 0.8, 0.01, 2.0), Measures(0.25, 0.9, 0.02, 2.0)
    >>> round(float(Correction.between(flat, found)(Measures(0.9, 0.9, 0.05, 3.0)).rho), 6)
    0.85
    """

    gap: float = 1.0
    disorder: float = 1.0
    query: float = 1.0
    gradient: float = 1.0

    @classmethod
    def between(cls, flat: Measures, found: Measures) -> Correction:
        """Correction that turns one into the other; nothing where a ratio is not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.divide(_apart(found), _apart(flat))
        return cls(*np.where(np.isfinite(ratios), ratios, 1.0).tolist())

    def __call__(self, flat: Measures) -> Measures:
        """Corrected measures."""
        gap, disorder, query, gradient = _apart(flat)
        return Measures(
            1 - self.gap * gap,
            1 - self.disorder * disorder,
            self.query * query,
            self.gradient * gradient,
        )


def _apart(found: Measures) -> tuple[Floats, Floats, Floats, Floats]:
    """Return what a correction multiplies: 1 - rho, 1 - H / log T and both gradients."""
    return 1 - found.rho, 1 - found.entropy, found.query, found.gradient


@validated
def measure(
    spec: ModelSpec, beta_by_layer: Floats | None = None, resolved: bool = False
) -> Measures:
    """Overlap, entropy and gradients of a description.

    Parameters
    ----------
    spec : ModelSpec
        The description, of finite context; arrays broadcast.
    beta_by_layer : array, shape (L, ...), optional
        Inverse temperature of each block.
    resolved : bool
        Overlap and entropy by position where theory can: means over pairs and positions, those of
        `propagate`; of rotary positions without a mask those of `sigprop.propagation.grids.sweep`,
        unless beta differs by block. Gradients by position too, but of arrays whose beta differs by
        block; without positions they have the spread over networks, unless beta differs by block.

    Returns
    -------
    Measures
        NaN where the trajectory ends before the last block.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.design.targets import measure
    >>> spec = ModelSpec(depth=4, context=64, beta=[0.1, 2], sigma_v2=1, sigma_w2=2, rho0=0)
    >>> uniform, selective = measure(spec).query
    >>> bool(uniform < selective)
    True
    """
    single, kind = resolved and beta_by_layer is None, geometry_of(spec)
    if single and kind == "position":
        return _by_position(spec)
    flat = propagate(spec, beta_by_layer=beta_by_layer, geometry="exchangeable")
    if resolved and has_positions(spec) and (single or not spec.shape):
        back = positional.gradients(spec, beta_by_layer=beta_by_layer)
    else:
        back = gradients(spec, None if single else flat, beta_by_layer)
    if len(flat.q) <= spec.depth:
        return Measures(*np.full((4, *spec.shape), np.nan))
    if single and kind != "exchangeable":
        found = sweep(spec)
        return _measures(np.asarray(found.state.rho), np.asarray(found.entropy_ratio), back)
    seen = propagate(spec, beta_by_layer=beta_by_layer) if resolved else flat
    return _measures(seen.rho[-1], seen.entropy_ratio.min(axis=0), back)


def _by_position(spec: ModelSpec) -> Measures:
    """Measures of stacks under a mask, from one way forward."""
    out = np.full((4, prod(spec.shape)), np.nan)
    for index, seen, back in positional.both_ways(spec):
        out[:, index] = _measures(seen.rho[-1], seen.entropy_ratio.min(axis=0), back)
    return Measures(*out.reshape(4, *spec.shape))


def _measures(rho: Floats, entropy: Floats, back: Gradients) -> Measures:
    """Measures of a last overlap, a lowest entropy and the gradients of all blocks."""
    inner = {"w1": back.w1 if back.wg is None else back.w1 + back.wg}  # one matrix of both
    norms = np.stack([(back.norms | inner)[name] for name in WEIGHTS])
    with np.errstate(all="ignore"):  # nothing may be known of a point
        scale = norms[:, -1].max(axis=0)
        return Measures(
            rho,
            entropy,
            norms[:2].min(axis=(0, 1)) / scale,
            norms.max(axis=(0, 1)) / scale,
        )
