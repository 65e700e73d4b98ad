r"""Finite numbers of hidden units: what the units of one MLP differ by (E26c).

Given its common preactivation c, a unit gives a token h, with mean m(c) and moments over tokens. A
sum over d_ff units then fluctuates over networks, as a mean kernel (p, gap) and token by token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Number
from sigprop.layers.activations import Activation
from sigprop.layers.state import State

__all__ = ["HiddenUnits", "unit_noise"]

COMMON = np.linspace(-7.0, 7.0, 141)  # common preactivation, in standard deviations
TOKEN = np.polynomial.hermite_e.hermegauss(31)
NEAR = 1e-8  # gap over common part below which a unit is linear over tokens
TINY = 1e-307


class HiddenUnits(NamedTuple):
    """Hidden units of an MLP.

    Attributes
    ----------
    activation : Activation
        Their activation.
    sigma_w1_2, sigma_w2_2, sigma_b2 : float
        Weight and bias variances.
    gated : bool
        Whether each has an independent linear factor.
    """

    activation: Activation
    sigma_w1_2: Number
    sigma_w2_2: Number
    sigma_b2: Number
    gated: bool


def unit_noise(
    mlp: HiddenUnits, state: State, unit: State, context: float
) -> tuple[Floats, Floats]:
    r"""Noise of one hidden unit, over networks and over tokens.

    Parameters
    ----------
    mlp : HiddenUnits
        The units.
    state : State
        What it reads.
    unit : State
        Units of variance and gap: those of the stream that the MLP writes to.
    context : float
        Number of tokens T.

    Returns
    -------
    covariance : array, shape (2, 2)
        Of a unit's contributions to (p, gap), the squared mean of T tokens and their variance, in
        units of q and gap: with M the mean, :math:`M^2` varies as :math:`m^2 + v/T` with c, and by
        :math:`4 m^2 v/T + 2 v^2/T^2` besides, v the variance over tokens.
    tokens : array, shape (2,)
        :math:`E\,\mathrm{var}(h^2|c)` and :math:`E\,m\,\mathrm{cov}(h^2, h|c)`: variance of a
        token's squared norm, and its covariance with the overlap with other tokens, in units of
        :math:`q^2`. A gated unit has a linear factor besides.

    Notes
    -----
    theory.md E26c. Moments are taken about m, so that they keep their digits where
    tokens merge.

    Examples
    --------
    >>> from sigprop.layers.activations import activation
    >>> from sigprop.layers.mlp_units import HiddenUnits, unit_noise
    >>> from sigprop.layers.state import State
    >>> mlp, one = HiddenUnits(activation("linear"), 1.0, 1.0, 0.0, False), State(1.0, 1.0)
    >>> covariance, tokens = unit_noise(mlp, State(1.0, 0.5), one, 10)
    >>> covariance[0, 0].round(6).tolist(), tokens.round(6).tolist()  # 2 p^2, p = 1/2 + 1/20
    (0.605, [1.5, 0.5])
    """
    gap = float(mlp.sigma_w1_2 * state.gap)
    p = max(float(mlp.sigma_w1_2 * state.q + mlp.sigma_b2) - gap, 0.0)
    scale = np.sqrt(float(mlp.sigma_w2_2)) / np.sqrt(float(unit.q))
    size = np.sqrt(p + gap) if mlp.gated else 1.0
    weight = np.exp(-(COMMON**2) / 2)
    first, *central = _central(mlp.activation, p, gap, float(scale * size))
    joint, moments = weight[:, None] / weight.sum(), (first, *central)
    if mlp.gated:
        c, share = np.polynomial.hermite_e.hermegauss(3)
        joint = joint * share / share.sum()
        whole = max(p + gap, TINY)
        moments = _product(moments, np.sqrt(p / whole) * c, gap / whole)
    m, two, three, four = np.broadcast_arrays(*moments)
    varied = four - two**2  # of the squared deviation of one token
    rows = [(m**2 + two / context).ravel(), two.ravel()]
    covariance = np.cov(rows, aweights=np.broadcast_to(joint, m.shape).ravel(), ddof=0)
    apart = 4 * m**2 * two + 2 * two**2 / context, 2 * m * three, varied
    p, cross, gap = (float(np.sum(joint * v)) / context for v in apart)
    covariance = covariance + np.array([[p, cross], [cross, gap]])
    scales = np.array([1.0, float(unit.q / unit.gap)])
    own = np.sum(joint * (4 * m**2 * two + 4 * m * three + varied))
    tokens = np.array([own, np.sum(joint * m * (2 * m * two + three))])
    return scales[:, None] * covariance * scales, tokens


def _central(phi: Activation, p: float, gap: float, scale: float) -> tuple[Floats, ...]:
    """Mean, and moments about it of order 2 to 4, of scale phi over tokens at each common part.

    Below NEAR p of the gap they are those at NEAR p, times the powers of the gap that they follow.
    """
    near = max(gap, NEAR * p)
    z, weight = TOKEN
    value = scale * phi.function(np.sqrt(p) * COMMON[:, None] + np.sqrt(near) * z)
    weight, part = weight / weight.sum(), gap / max(near, TINY)
    mean = value @ weight
    powers = ((value - mean[:, None]) ** k @ weight for k in (2, 3, 4))
    rows = (row * part**k for row, k in zip(powers, (1, 2, 2), strict=True))
    return mean[:, None], *(row[:, None] for row in rows)


def _product(own: tuple[Floats, ...], c: Floats, gap: float) -> tuple[Floats, ...]:
    """Moments of a unit times an independent linear one of mean c and variance gap."""
    m, two, three, four = own
    square = c**2 + gap  # of the linear factor; its fourth moment is in the last line
    return (
        m * c,
        m**2 * gap + two * square,
        6 * m * two * c * gap + three * (c**3 + 3 * c * gap),
        3 * (m * m * gap) ** 2
        + 6 * m**2 * two * gap * (c**2 + 3 * gap)
        + 12 * m * three * gap * square
        + four * (c**4 + 6 * c**2 * gap + 3 * gap**2),
    )
