"""Residual sublayers (E13), and the sequence of layers that a block is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.layers.fluctuation import (
    BranchNoise,
    Fluctuation,
    admissible,
    common_part,
    matrix_noise,
    moments,
)
from sigprop.layers.interface import BackwardStep, BranchLayer, Layer, Place, Spread, Step
from sigprop.layers.norm import normed
from sigprop.layers.state import Gradient, State, added, scaled

__all__ = ["Residual", "Sequence", "Sublayer"]


@dataclass(frozen=True)
class Sequence:
    """Layers that act one after the other: a block.

    Parameters
    ----------
    layers : tuple of Layer
        The layers, first to last.

    Examples
    --------
    >>> from sigprop.layers.attention.exchangeable import Exchangeable
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.norm import Norm
    >>> from sigprop.layers.residual import Sequence
    >>> from sigprop.layers.state import State
    >>> place = Place(Exchangeable(), None)
    >>> float(Sequence((Norm(), Norm())).forward(State(4.0, 1.0), place).kernel.gap)
    0.25
    """

    layers: tuple[Layer, ...]

    def forward(self, kernel: State, place: Place) -> Step:
        """Apply the layers in order."""
        attention, entered = None, []
        for layer in self.layers:
            entered.append(kernel)
            kernel, found, *_ = layer.forward(kernel, place)
            attention = attention if found is None else found
        return Step(kernel, attention, entered=tuple(entered))

    def entered(self, kernel: State, place: Place) -> tuple[State, ...]:
        """Kernels that enter the layers, as of `forward`, without applying the last one."""
        step = Sequence(self.layers[:-1]).forward(kernel, place)
        return *step.entered, step.kernel

    def backward(
        self, entered: tuple[State, ...], gradient: Gradient, place: Place, spread: Spread
    ) -> BackwardStep:
        """Pull back through the layers, last to first, given the kernels that entered them."""
        weights: dict[str, Number] = {}
        for layer, read in zip(reversed(self.layers), reversed(entered), strict=True):
            gradient, found = layer.backward(read, gradient, place, spread)
            weights |= found
        return BackwardStep(gradient, weights)

    def noise(self, networks: Fluctuation, place: Place) -> Fluctuation:
        """Carry the spread through the layers."""
        for layer in self.layers:
            networks = layer.noise(networks, place)
        return networks


@dataclass(frozen=True)
class Sublayer:
    """Branch of a residual sublayer: attention or MLP, behind a norm in a pre-norm block.

    Parameters
    ----------
    norm : Layer or None
        The norm before it.
    layer : BranchLayer
        Attention or MLP.

    Examples
    --------
    >>> from sigprop.layers.activations import activation
    >>> from sigprop.layers.attention.exchangeable import Exchangeable
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.mlp import Mlp
    >>> from sigprop.layers.norm import Norm
    >>> from sigprop.layers.residual import Sublayer
    >>> from sigprop.layers.state import State
    >>> half = Sublayer(Norm(), Mlp(activation("linear"), 1.0, 0.5))
    >>> float(half.forward(State(4.0, 1.0), Place(Exchangeable(), None)).kernel.gap)
    0.125
    """

    norm: Layer | None
    layer: BranchLayer

    def read(self, kernel: State, place: Place) -> State:
        """Kernel that attention or MLP reads when `kernel` enters."""
        return kernel if self.norm is None else self.norm.forward(kernel, place).kernel

    def forward(self, kernel: State, place: Place) -> Step:
        """Apply norm and layer; the covariance is that with what enters the norm."""
        read = self.read(kernel, place)
        step = self.layer.forward(read, place)
        if step.covariance is None:
            return step
        scale = np.sqrt(kernel.q / read.q)
        q, gap = step.covariance
        return step._replace(covariance=State(q * scale, gap * scale))

    def backward(
        self, kernel: State, gradient: Gradient, place: Place, spread: Spread
    ) -> BackwardStep:
        """Pull back through layer and norm."""
        back = self.layer.backward(self.read(kernel, place), gradient, place, spread)
        if self.norm is None:
            return back
        through = self.norm.backward(kernel, back.gradient, place, spread)
        return BackwardStep(through.gradient, back.weights)

    def branch(self, networks: Fluctuation, unit: State, place: Place) -> BranchNoise:
        """Noise of the branch, in units of what the stream becomes."""
        read, points = (
            normed(self.norm, networks, v, place) for v in (networks.centre, networks.points)
        )
        return self.layer.branch(read, points, networks, unit, place)


@dataclass(frozen=True)
class Residual:
    r"""Skip branch of strength alpha around branches that are independent at initialisation.

    :math:`q' = \alpha^2 q + \sum_b f_b(q)`, and the same for the gap (E13); a branch that
    contains a part of the stream adds :math:`2\alpha` times its covariance with it.

    Parameters
    ----------
    alpha : float or array
        Residual strength, >= 0.
    branches : tuple of Sublayer
        Branches; more than one is a parallel block.
    width : float
        Width d of the stream, for the spread over networks; infinite by default.

    Notes
    -----
    theory.md E13, E10b (covariance); spread over networks E26b, tokens E26a, pair overlaps E26f.

    Examples
    --------
    >>> from sigprop.layers.activations import activation
    >>> from sigprop.layers.attention.exchangeable import Exchangeable
    >>> from sigprop.layers.interface import Place
    >>> from sigprop.layers.mlp import Mlp
    >>> from sigprop.layers.residual import Residual, Sublayer
    >>> from sigprop.layers.state import State
    >>> branch = Sublayer(None, Mlp(activation("linear"), 1.0, 1.0))
    >>> out = Residual(2.0, (branch,)).forward(State(1.0, 0.5), Place(Exchangeable(), None)).kernel
    >>> float(out.q), float(out.gap)
    (5.0, 2.5)
    """

    alpha: Number
    branches: tuple[Sublayer, ...]
    width: float = np.inf

    @cached_property
    def square(self) -> Number:
        """Gain of the skip branch, alpha squared."""
        return self.alpha * self.alpha

    def forward(self, kernel: State, place: Place) -> Step:
        """Apply the map."""
        q, gap = scaled(kernel.q, self.square), scaled(kernel.gap, self.square)
        attention = None
        for branch in self.branches:
            step = branch.forward(kernel, place)
            q, gap = added(step.kernel.q, q), added(step.kernel.gap, gap)
            if step.covariance is not None:
                twice = 2 * self.alpha
                q, gap = q + twice * step.covariance.q, gap + twice * step.covariance.gap
            attention = attention if step.attention is None else step.attention
        return Step(State(q, gap), attention)

    def backward(
        self, kernel: State, gradient: Gradient, place: Place, spread: Spread
    ) -> BackwardStep:
        """Sum of skip branch and branches (E23)."""
        q, others = self.square * gradient.q, self.square * gradient.others
        weights: dict[str, Number] = {}
        for branch in self.branches:
            found = branch.backward(kernel, gradient, place, spread)
            q, others = q + found.gradient.q, others + found.gradient.others
            weights |= found.weights
        return BackwardStep(Gradient(q, others), weights)

    def noise(self, networks: Fluctuation, place: Place) -> Fluctuation:
        """Move the points, then add noise."""
        centre = admissible(networks.centre, place.geometry.tokens)
        unit = State(*map(float, self.forward(centre, place).kernel))
        known = all(np.all(np.isfinite(value)) for value in networks.points)
        lost = Fluctuation(np.full(2, np.nan), np.full((2, 2), np.nan))
        if not (known and min(unit) > 0):  # the state vanishes, or its law is none
            return lost
        parts = [branch.branch(networks, unit, place) for branch in self.branches]
        square = float(self.alpha) ** 2
        if not square * networks.centre.gap + sum(b.gap for b in parts) > 0:  # all tokens merge
            return lost
        out = State(square * networks.points.q, square * networks.points.gap)
        for b in parts:
            out = State(out.q + b.points.q, out.gap + b.points.gap)
        stay = State(square * networks.centre.q, square * networks.centre.gap)
        noise, tokens, crowding = self._noise(parts, stay, unit, networks, place)
        moved = moments(out, crowding)
        q, gap = moved.centre
        change = np.array([[unit.q / q, unit.gap / q], [0, unit.gap / gap]])  # to (log q, log gap)
        own = change @ noise @ change.T
        mean = moved.mean - np.diag(own) / 2
        tokens = tokens * (unit.q / np.exp(mean[0])) ** 2
        return Fluctuation(mean, moved.cov + own, crowding, tokens)

    def _noise(
        self,
        parts: list[BranchNoise],
        stay: State,
        unit: State,
        networks: Fluctuation,
        place: Place,
    ) -> tuple[Floats, Floats, float]:
        """Covariance of (p, gap), variation over tokens, and variance of pair overlaps."""
        d, t = self.width, float(place.geometry.tokens)
        level, apart = float(unit.q), float(unit.gap)
        p, own = common_part(stay, t) / level, float(stay.gap) / apart
        names = ("p", "gap", "kept", "moved")
        p_f, gap_f, kept, moved = (sum(getattr(b, name) for b in parts) for name in names)
        kappa = networks.crowding
        last = matrix_noise((p_f, gap_f), (p, own), t, d, apart / level, kappa, kept)
        noise = last.noise + np.sum([b.noise for b in parts], axis=0)
        tokens = (stay.q / level) ** 2 * networks.tokens + last.tokens
        tokens += sum(b.tokens for b in parts)
        crowd = last.crowding + sum(b.crowding for b in parts)
        crowd += kappa * ((own + moved) ** 2 + (gap_f - kept) ** 2)  # others are mixed
        return noise, tokens, crowd / (own + gap_f) ** 2
