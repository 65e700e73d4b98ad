r"""Finite numbers of hidden units: what the units of one MLP differ by (section 7).

Given its common preactivation c, a unit gives a token h, with mean m(c) and moments over tokens. A
sum over d_ff units then fluctuates over networks, as a mean kernel (p, gap) and token by token.
"""

from __future__ import annotations

import numpy as np

from sigprop.arrays import Floats
from sigprop.maps.activations import pointwise
from sigprop.maps.mlp import Mlp
from sigprop.state import State

__all__ = ["bend", "hidden_noise"]

COMMON = np.linspace(-7.0, 7.0, 141)  # common preactivation, in standard deviations
TOKEN = np.polynomial.hermite_e.hermegauss(31)


def hidden_noise(mlp: Mlp, name: str, state: State) -> tuple[Floats, Floats]:
    r"""Noise of one hidden unit, over networks and over tokens.

    Parameters
    ----------
    mlp : Mlp
        The MLP.
    name : str
        Its activation.
    state : State
        What it reads.

    Returns
    -------
    covariance : array, shape (2, 2)
        Of a unit's contributions to (p, gap): :math:`m^2` and :math:`E[h^2|c] - m^2`.
    tokens : array, shape (2,)
        :math:`E\,\mathrm{var}(h^2|c)` and :math:`E\,m\,\mathrm{cov}(h^2, h|c)`: variance of a
        token's squared norm, and its covariance with the overlap with other tokens. A gated unit
        has a linear factor besides.

    Notes
    -----
    theory.md section 7 (new there).

    Examples
    --------
    >>> from sigprop.hidden import hidden_noise
    >>> from sigprop.maps.activations import activation
    >>> from sigprop.maps.mlp import Mlp
    >>> from sigprop.state import State
    >>> mlp = Mlp(activation("linear"), 1.0, 1.0)
    >>> covariance, tokens = hidden_noise(mlp, "linear", State(1.0, 0.5))
    >>> covariance[0, 0].round(6).tolist(), tokens.round(6).tolist()  # 2 p^2 at p = gap = 1/2
    (0.5, [1.5, 0.5])
    """
    function = pointwise(name)
    gap = float(mlp.sigma_w1_2 * state.gap)
    p = max(float(mlp.sigma_w1_2 * state.q + mlp.sigma_b2) - gap, 0.0)
    weight = np.exp(-(COMMON**2) / 2)
    z, z_weight = TOKEN
    value = function(np.sqrt(p) * COMMON[:, None] + np.sqrt(gap) * z)
    power = np.stack([value**k @ z_weight for k in range(1, 5)]) / z_weight.sum()
    linear, share = _linear(p, gap) if mlp.gated else (np.ones((4, 1)), np.ones(1))
    joint = np.outer(weight / weight.sum(), share)
    one, two, three, four = power[:, :, None] * linear[:, None]
    common, own = (one**2).ravel(), (two - one**2).ravel()
    covariance = np.cov([common, own], aweights=joint.ravel(), ddof=0)
    tokens = np.array([np.sum(joint * (four - two**2)), np.sum(joint * one * (three - two * one))])
    scale = float(mlp.sigma_w2_2) ** 2
    return scale * np.asarray(covariance), scale * tokens


def _linear(p: float, gap: float) -> tuple[Floats, Floats]:
    """First four moments over tokens of a linear unit, at each common part; and its weight."""
    node, share = np.polynomial.hermite_e.hermegauss(3)
    c = np.sqrt(p) * node
    moments = [c, c**2 + gap, c**3 + 3 * gap * c, c**4 + 6 * gap * c**2 + 3 * gap**2]
    return np.array(moments), share / share.sum()


def bend(mlp: Mlp, state: State, crowding: float) -> Floats:
    r"""Change of an MLP's mean gap by the variance of overlaps over pairs of tokens.

    Parameters
    ----------
    mlp : Mlp
        The MLP.
    state : State
        What it reads.
    crowding : float
        kappa/d: overlaps vary by :math:`gap^2 \kappa (1 + \rho(2 - \rho))/d`.

    Returns
    -------
    array
        The change, to second order.

    Examples
    --------
    >>> from sigprop.hidden import bend
    >>> from sigprop.maps.activations import activation
    >>> from sigprop.maps.mlp import Mlp
    >>> from sigprop.state import State
    >>> bool(bend(Mlp(activation("relu"), 1.0, 1.0), State(1.0, 0.5), 0.01) < 0)
    True
    """
    rho = max(float(1 - state.gap / state.q), 0.0)
    step = np.sqrt(min(crowding * (1 + rho * (2 - rho)), 1.0))
    gap = np.asarray(mlp(State(state.q, state.gap * (1 + step * np.array([-1, 0, 1])))).gap)
    return np.asarray((gap[0] + gap[2]) / 2 - gap[1])
