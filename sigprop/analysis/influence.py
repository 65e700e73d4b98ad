"""Influence of each position on the last token, at every depth (E23b)."""

from __future__ import annotations

import numpy as np

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats
from sigprop.core.checks import count
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import require_theory
from sigprop.propagation.gradients.by_position import MAX_RANGES, pulled

__all__ = ["influence"]


@validated
def influence(spec: ModelSpec, bins: int = 16) -> Floats:
    r"""Share of each range of positions in the squared gradient of the last token's output.

    Of the output of the last token, the expected squared Jacobian :math:`E\,|\partial x^L_T /
    \partial x^l_p|^2` with the position p of the input of every block l, as parts of one.

    Parameters
    ----------
    spec : ModelSpec
        One description, of finite context.
    bins : int
        Number of equal ranges of positions, in [1, min(256, T)].

    Returns
    -------
    array, shape (L, bins)
        Shares; row l is the input of block l + 1, and each row sums to one. NaN where nothing
        reaches a block.

    Raises
    ------
    DomainError
        If `bins` is outside its range.
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`).

    Notes
    -----
    theory.md E23b, E24e, E24f. With attention alone, uniform and without norms, it is proportional
    to :math:`\sum_k \binom Lk \alpha^{2(L-k)} \sigma_v^{2k} ((M^k)_{Tp})^2`, M the matrix of the
    mean weights: branches of different layers are independent, so squares add.

    Examples
    --------
    >>> from sigprop import ModelSpec, influence
    >>> spec = ModelSpec(depth=4, context=32, causal=True, norm="none", beta=0, sigma_v2=1,
    ...                    sigma_w2=0, rho0=0)
    >>> influence(spec, bins=8)[0, [0, -1]].round(3).tolist()
    [0.432, 0.445]
    """
    require_theory(spec, "influence")
    count("bins", bins, 1, min(MAX_RANGES, int(spec.context)))
    squares = pulled(spec, "last", bins).ranges(bins)
    with np.errstate(invalid="ignore"):
        return np.asarray(squares / squares.sum(axis=1, keepdims=True))
