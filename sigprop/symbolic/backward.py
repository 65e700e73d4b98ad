"""Gradients as expressions: the kernel (q^g, p^g) behind each map (E22-E24)."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from sigprop.symbolic.symbols import symbol

__all__ = ["query_bracket", "relu_backward", "score_path", "value_path"]

P, P_R, HOT, HOT_R = sp.symbols(r"P P_r \hat{P} \hat{P}_r", positive=True)


def query_bracket(moments: Mapping[str, sp.Expr], width: sp.Expr) -> sp.Expr:
    """Bracket of the query/key gradient norm (E22).

    Parameters
    ----------
    moments : mapping
        Y_2, Y_3, Y_22 by code name.
    width : sympy.Expr
        Model width d.

    Returns
    -------
    sympy.Expr
        d (Y_2 - 2 Y_3 + Y_22) + (1 - Y_2)^2.

    Examples
    --------
    >>> from sigprop.symbolic.backward import query_bracket
    >>> query_bracket({"y2": 1, "y3": 1, "y22": 1}, 5)
    0
    """
    y2, y3, y22 = (moments[name] for name in ("y2", "y3", "y22"))
    return width * (y2 - 2 * y3 + y22) + (1 - y2) ** 2


def value_path(q: sp.Expr, p: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Gradient kernel behind the value path of attention (E23).

    Parameters
    ----------
    q, p : sympy.Expr
        Gradient variance and covariance at the output of attention.

    Returns
    -------
    tuple of sympy.Expr
        Both at its input.

    Examples
    --------
    >>> from sigprop.symbolic.backward import value_path
    >>> value_path(0, 0)
    (0, 0)
    """
    y2, o, v, t = (symbol(n) for n in ("y2", "overlap", "sigma_v2", "context"))
    return v * (y2 * q + (t - 1) * o * p), v * ((1 - y2) / (t - 1) * q + (1 - o) * p)


def score_path(q: sp.Expr, p: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    r"""Gradient kernel behind the scores of attention: through queries, and through keys (E24).

    :math:`P = E\,\mathrm{tr} J J = Y_2 - 2Y_3 + Y_{22}` for one query, P_r for two, J the Jacobian
    of softmax; with a hat, in the ensemble tilted by the key that is differentiated.

    Parameters
    ----------
    q, p : sympy.Expr
        Gradient variance and covariance at the output of attention.

    Returns
    -------
    tuple of sympy.Expr
        Both at its input.

    Examples
    --------
    >>> from sigprop.symbolic.backward import score_path
    >>> score_path(0, 0)
    (0, 0)
    """
    t, gap, variance, v = (symbol(n) for n in ("context", "gap", "q", "sigma_v2"))
    scale = v * symbol("beta") ** 2 * sp.log(t) * gap
    keys = variance * HOT * q + (t - 1) * (variance - gap) * HOT_R * p
    return scale * (gap * P * q + keys), scale * (gap * P_R * p - keys / (t - 1))


def relu_backward(q: sp.Expr, p: sp.Expr, theta: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Gradient kernel behind a ReLU MLP (E23; Cho & Saul 2009, eq. 6 with n = 0).

    Parameters
    ----------
    q, p : sympy.Expr
        Gradient variance and covariance at the output of the MLP.
    theta : sympy.Expr
        Angle between the preactivations of two tokens.

    Returns
    -------
    tuple of sympy.Expr
        Both at its input.

    Examples
    --------
    >>> from sigprop.symbolic.backward import relu_backward
    >>> relu_backward(1, 1, 0)
    (sigma_w1_2*sigma_w2_2/2, sigma_w1_2*sigma_w2_2/2)
    """
    gain = symbol("sigma_w1_2") * symbol("sigma_w2_2")
    return gain * q / 2, gain * p * (sp.pi - theta) / (2 * sp.pi)
