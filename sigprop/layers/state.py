"""What travels between components: the token kernel forward, the gradient kernel backward."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Number

__all__ = ["Gradient", "State", "added", "multiplied", "scaled", "subtracted"]


class State(NamedTuple):
    r"""Exchangeable token kernel, as (q, gap).

    Attributes
    ----------
    q : float or array
        Variance :math:`q = x_t \cdot x_t / d`, >= 0.
    gap : float or array
        :math:`q - p`, where :math:`p = x_t \cdot x_s / d` for :math:`t \ne s`; in
        [0, q (1 + 1/(T-1))]. The gap is carried, not p: near rank collapse 1 - rho falls to 1e-14
        and must keep its digits.

    Notes
    -----
    theory.md section 1; Cho & Saul (2009) and Poole et al. (2016) use the same two numbers.

    Examples
    --------
    >>> from sigprop.layers.state import State
    >>> float(State(q=2.0, gap=0.5).rho)
    0.75
    """

    q: Number
    gap: Number

    @property
    def rho(self) -> Number:
        """Token overlap (cosine similarity), for reporting; computing uses `gap`."""
        return 1 - self.gap / self.q


class Gradient(NamedTuple):
    r"""Gradient kernel of the tokens: what travels backward.

    Of exchangeable tokens two numbers. By position q is a column over blocks of positions, shape
    (B, 1), and `others`, shape (B, B), has the sums over pairs of different tokens of two blocks.

    Attributes
    ----------
    q : float or array
        Variance :math:`q^g = g_t \cdot g_t / d` of the loss gradient at a token, >= 0.
    others : float or array
        :math:`(T-1) p^g`, the sum of :math:`g_t \cdot g_s / d` over the other tokens s, of either
        sign. It is often of the size of q, and in it no map depends on T.

    Notes
    -----
    theory.md E23.

    Examples
    --------
    >>> from sigprop.layers.state import Gradient
    >>> Gradient(q=1.0, others=0.0).q
    1.0
    """

    q: Number
    others: Number


def added(own: Number, other: Number) -> Number:
    """Add two arrays, in the memory of `own` where that has the sum's shape.

    The maps are the inner loop of every diagram and bound by memory, so a temporary that a map
    made itself, or got from another map, is reused. `own` must not be used afterwards.

    Parameters
    ----------
    own, other : float or array
        What to add; `own` was made by the caller.

    Returns
    -------
    float or array
        The sum.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.state import added
    >>> added(np.ones(2), np.ones(2)).tolist()
    [2.0, 2.0]
    """
    try:
        own += other
    except ValueError:  # the sum is larger than `own`
        own = own + other
    return own


def subtracted(own: Number, whole: Number) -> Number:
    """Compute `whole - own`, with the memory of `own` as in `added`.

    Parameters
    ----------
    own, whole : float or array
        What to subtract, made by the caller, and from what.

    Returns
    -------
    float or array
        The difference.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.state import subtracted
    >>> subtracted(np.ones(2), 3.0).tolist()
    [2.0, 2.0]
    """
    if isinstance(own, np.ndarray) and np.broadcast_shapes(own.shape, np.shape(whole)) == own.shape:
        return np.asarray(np.subtract(np.asarray(whole), own, out=own))
    return whole - own


def scaled(value: Number, factor: Number) -> Number:
    """Multiply by a factor; the number one costs nothing and gives `value` itself.

    Parameters
    ----------
    value, factor : float or array
        What to multiply.

    Returns
    -------
    float or array
        The product, which may be `value`: not to be overwritten.

    Examples
    --------
    >>> from sigprop.layers.state import scaled
    >>> scaled(2.0, 1.5)
    3.0
    """
    return value if isinstance(factor, float) and factor == 1.0 else value * factor


def multiplied(own: Number, other: Number) -> Number:
    """Multiply two arrays, with the memory of `own` as in `added`.

    Parameters
    ----------
    own, other : float or array
        What to multiply; `own` was made by the caller.

    Returns
    -------
    float or array
        The product.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.state import multiplied
    >>> multiplied(np.full(2, 3.0), np.full(2, 2.0)).tolist()
    [6.0, 6.0]
    """
    try:
        own *= other
    except ValueError:  # the product is larger than `own`
        own = own * other
    return own
