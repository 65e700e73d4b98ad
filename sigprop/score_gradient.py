"""Gradient of the query matrix of one attention layer, tokens without overlap (E22)."""

from __future__ import annotations

import numpy as np

from sigprop.arrays import Floats
from sigprop.errors import AssumptionError
from sigprop.rem import freezing, moments
from sigprop.spec import Transformer

__all__ = ["query_gain"]


def query_gain(spec: Transformer, limit: bool = False) -> Floats:
    r"""Predict :math:`E\|\partial L/\partial W_Q\|^2 / \sum_t |g_t|^2` at q = 1, rho = 0 (E22).

    :math:`\sigma_v^2 \beta \sqrt{\log T}\,[d\,(Y_2 - 2Y_3 + Y_{22}) + (1 - Y_2)^2]`, the output
    gradients g_t independent. In the limit the bracket is :math:`d\,m(1 - m)/3`, zero below the
    freezing point.

    Parameters
    ----------
    spec : Transformer
        The description, with a width and a finite context; its rho0 must be 0.
    limit : bool
        Use the attention statistics of infinite context.

    Returns
    -------
    array, shape of the spec
        The ratio.

    Raises
    ------
    AssumptionError
        If tokens overlap, or width or context are infinite.

    Notes
    -----
    theory.md E22 (finite T new there; a few per cent for beta >= 0.3); Giorlandino & Goldt, arXiv
    2505.24333, in the limit. The width of the head enters the statistics as infinite.

    Examples
    --------
    >>> from sigprop import Transformer
    >>> from sigprop.score_gradient import query_gain
    >>> spec = Transformer(depth=1, context=512, width=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> float(query_gain(spec, limit=True)), round(float(query_gain(spec)), 2)
    (0.0, 10.48)
    """
    if np.any(spec.rho0) or spec.width is None or np.any(np.isinf(spec.context)):
        raise AssumptionError("E22 needs rho0 = 0, a width and a finite context")
    beta, root = np.broadcast_arrays(spec.beta, np.sqrt(np.log(spec.context)))
    if limit:
        m = freezing(beta)
        bracket = spec.width * m * (1 - m) / 3
    else:
        y = moments(beta * root, spec.context)
        bracket = spec.width * (y.y2 - 2 * y.y3 + y.y22) + (1 - y.y2) ** 2
    return np.asarray(np.broadcast_to(spec.sigma_v2 * beta * root * bracket, spec.shape))
