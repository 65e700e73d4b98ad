r"""Attention over keys of finite width: Jacobian traces exact in T/d (E24d).

At infinite width keys other than by their score are orthogonal. At width d the keys' directions
n_s lie on a sphere of D = d - 1 dimensions (a norm removes the mean), :math:`n_s^2 = D`. Given the
direction that a query reads, :math:`n_s = z_s \hat w + n_s^\perp`: the score is s z_s with the
density :math:`(1 - z^2/D)^{(D-3)/2}` of a coordinate on the sphere, and the kernel of the keys is

.. math:: n_s\cdot n_u / D = z_s z_u / D + \sqrt{\eta_s \eta_u}\,\epsilon_{su}, \qquad
          \eta_s = g_s - z_s^2/D, \quad \epsilon_{ss} = 1, \quad E\,\epsilon_{su}^2 = 1/(D-1).

Tokens of overlap rho > 0 share part of their norm with the common direction: their squared distance
from it, g_s, varies by :math:`2\rho(2-\rho)/d` from token to token, and is compensated along the
common direction. With J the Jacobian of the softmax, Z = sum A z and H = diag(eta),

.. math::
   E\,\mathrm{tr} J K J K = \frac{(z^T J z)^2}{D^2} + \frac{2}{D} z^T J H J z
   + \mathrm{tr} J H J H + \frac{1}{D-1} \sum_{b \ne c} \eta_b \eta_c (J_{bb} J_{cc} + J_{bc}^2),

whose last term is of relative order T/d. Every average is a polynomial in sums
:math:`\sum_s A_s^k f(z_s)`; merging factors over set partitions (E6d),

.. math:: E \prod_i \sum_s A_s^{k_i} f_i = \frac{1}{\Gamma(K)} \sum_{\text{partitions}} (T)_n
          \int \prod_{\text{blocks}} F_{k,f}\, G^{T-n} du, \qquad
          F_{k,f}(u) = E f(z) e^{k x - e^x}, \quad x = u + s z.

Score variance also varies from head to head by :math:`\chi^2_{d_h}\chi^2_d/(d_h d)`, and the gap
from network to network, for random tokens by :math:`2\rho^2/d` of its square, around a typical
value. Both are averaged over three nodes of one log-normal variable. What is neglected is of second
order in 1/d.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from math import factorial
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints

__all__ = ["Sphere", "Traces"]

STEP = 0.45  # of u and of s z: trapezoid error e^(-pi^2/0.45) = 3e-10
MARGIN = 18.0  # of u beyond the window of log Z: e^-18 of the weight is dropped
TOP = 8.5  # largest |z|
CAP = 6.0  # of x: e^(k x - e^x) vanishes above
MOST = 4  # factors of one moment
RADII = 3  # nodes of the squared distance g

Factor = tuple[int, int, int]  # powers of A, z and eta


class Traces(NamedTuple):
    r"""Averages at finite width; beside each its value at infinite width.

    Attributes
    ----------
    query : float
        :math:`E\,\mathrm{tr} J K J M / gap^2`, M the kernel of a head's keys: P.
    key : float
        :math:`E\,c\,\mathrm{tr} J K J / gap`, c the squared norm of a query over its mean: P.
    weight : float
        :math:`E\,c\,\mathrm{tr} J K J K / gap^2`: P.
    kept : float
        :math:`E \sum A^2 \eta`: Y_2.
    drift : float
        :math:`E (\sum A z)^2 / D`, the pull of the attended token along the query: 0.
    common : float
        :math:`1 - E \sum A g`, what the common direction gains, over gap: 0.
    y2, entropy : float
        Participation ratio, and entropy in nats: Y_2 and H.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.finite_width_keys import Traces
    >>> round(Traces(0.1, 0.1, 0.1, 0.5, 0.01, 0.0, 0.5, 3.0).mean, 2)
    0.51
    """

    query: float
    key: float
    weight: float
    kept: float
    drift: float
    common: float
    y2: float
    entropy: float

    @property
    def mean(self) -> float:
        """Squared norm of the attended token over d, less p, over gap: Y_2 at infinite width."""
        return self.kept + self.drift + self.common


@dataclass(frozen=True)
class Sphere:
    """Keys of finite width.

    Parameters
    ----------
    width : float
        Model width d, > 4.
    head_width : float
        Width of a head, >= 1.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.finite_width_keys import Sphere
    >>> Sphere(64, 64).traces(1.0, 256, 0.0).query > Sphere(4096, 4096).traces(1.0, 256, 0.0).query
    True
    """

    width: float
    head_width: float

    def traces(
        self, sigma: float, context: float, rho: float, seeds: float | None = None
    ) -> Traces:
        """Averages over keys, heads and networks.

        Parameters
        ----------
        sigma : float
            Standard deviation of the scores (E3).
        context : float
            Context length T.
        rho : float
            Overlap of the tokens.
        seeds : float, optional
            Variance of log gap over networks; that of random tokens by default.

        Returns
        -------
        Traces
            Relative accuracy 1e-6 of the integrals.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics.finite_width_keys import Sphere
        >>> round(Sphere(128, 128).traces(0.0, 128, 0.0).query * 128, 2)
        1.98
        """
        rho = max(rho, 0.0)
        heads = 2 / self.head_width + 2 / self.width
        seeds = 2 * rho**2 / self.width if seeds is None else seeds
        both = heads + seeds
        nodes, probability = _normal(3)
        y = np.sqrt(both) * nodes  # log(c gap) but for its mean, of which heads and seeds have
        rest = heads * seeds / both / 2  # their shares, with this variance left, halved
        own = 2 / self.head_width  # the share of heads that is the norm of the query
        hot = np.exp(own / both * y - own / 2 + own * (both - own) / both / 2)
        joint = [np.exp(-k * own * seeds / both) for k in (1, 2)]  # at fixed y they compete
        wide = [np.exp(k * seeds / both * y + k**2 * rest) for k in (1, 2)]
        rows = [self._at(sigma * np.exp((x - heads / 2) / 2), context, rho) for x in y]
        query, key, weight, *mean, y2, entropy = np.array(rows).T
        total = [wide[1] * query, joint[0] * hot * wide[0] * key, joint[1] * hot * wide[1] * weight]
        total += [*(wide[0] * value for value in mean), y2, entropy]
        return Traces(*(float(probability @ v / probability.sum()) for v in total))

    def _at(self, sigma: float, context: float, rho: float) -> tuple[float, ...]:
        d, n = self.width - 1, self.head_width
        m = _Moments(float(sigma), context, d, 2 * rho * (2 - rho) / self.width)
        square, cross, own, flat, key, *mean = _polynomials(m)
        last = own + flat / (d - 1)
        along = d / n + (n - 1) / n  # weight of z z^T / d in a head's kernel
        query = along * square / d**2 + (along + (n - 1) / n) * cross / d + (n - 1) / n * last
        return query, key, square / d**2 + 2 * cross / d + last, *mean


@cache
def _normal(count: int) -> tuple[Floats, Floats]:
    """Nodes and weights of a standard normal variable, by Gauss-Hermite quadrature."""
    return np.polynomial.hermite_e.hermegauss(count)


def _polynomials(m: _Moments | _Names) -> tuple[float, ...]:
    z, zz, h, hz = (1, 1, 0), (1, 2, 0), (2, 0, 1), (2, 1, 1)
    square = m(zz, zz) - 2 * m(zz, z, z) + m(z, z, z, z)
    cross = m((2, 2, 1)) - 2 * m(hz, z) + m(h, z, z)
    own = m((2, 0, 2)) - 2 * m((3, 0, 2)) + m(h, h)
    diagonal = m((2, 0, 2)) - 2 * m((3, 0, 2)) + m((4, 0, 2))
    traces = m((1, 0, 1), (1, 0, 1)) - 2 * m((1, 0, 1), h) + m(h, h)
    key = m((2, 2, 0)) - 2 * m((2, 1, 0), z) + m((2, 0, 0), z, z)
    key = key / m.d + m(h) - 2 * m((3, 0, 1)) + m((2, 0, 0), h)
    common = 1 - m(zz) / m.d - m((1, 0, 1))
    last = traces - 2 * diagonal + own
    return square, cross, own, last, key, m(h), m(z, z) / m.d, common, m((2, 0, 0)), m.entropy


class _Moments:
    """E of a product of sums of A^k z^j eta^i, by quadrature; `spread` is the variance of g."""

    def __init__(self, s: float, t: float, d: float, spread: float) -> None:
        self.s, self.t, self.d, self.spread = s, t, d, spread
        step = min(0.25, STEP / max(self.s, 1e-9))
        end = min(TOP, np.sqrt(self.d))
        z = np.linspace(-end, end, int(np.ceil(2 * end / step)) + 1)[1:-1]
        log_weight = (self.d - 3) / 2 * np.log1p(-(z**2) / self.d)
        weight = np.exp(log_weight - log_weight.max())
        nodes, radial = _normal(RADII if self.spread > 0 else 1)
        g = np.exp(np.sqrt(self.spread) * nodes - self.spread / 2)[:, None]
        self.z, self.eta = (np.sqrt(g) * z).ravel(), (g * (1 - z**2 / self.d)).ravel()
        self.p = np.outer(radial / radial.sum(), weight / weight.sum()).ravel()
        low, high = _window(self.s, self.t)
        self.step: float = STEP * max(1.0, self.s / np.sqrt(2 * np.log(self.t) + 20))
        self.u = np.arange(-high - MARGIN, 3.0 - low + self.step, self.step)
        self.w = np.exp(np.minimum(self.u[:, None] + self.s * self.z, CAP))
        self.rest = np.log1p(-np.minimum(-np.expm1(-self.w) @ self.p, 1 - 2.0**-53))

    def __call__(self, *factors: Factor) -> float:
        return self._moments[factors]

    @cached_property
    def _moments(self) -> dict[tuple[Factor, ...], float]:
        """Every moment of `_expanded`."""
        plan = _expanded()
        averages = np.stack([*self._averages(plan.factors), np.ones_like(self.u)])
        values = self._left[plan.blocks]
        for column in plan.rows:
            values = values * averages[column]
        totals = np.bincount(plan.moments, values.sum(axis=1)) * self.step / plan.gammas
        return dict(zip(plan.names, totals.tolist(), strict=True))

    @property
    def _left(self) -> Floats:
        """T (T-1) ... times what all but n keys leave, for n = 0 ... 4, shape (5, u)."""
        count = np.arange(MOST + 1)[:, None]
        falling = np.cumprod(np.append(1.0, self.t - np.arange(MOST)))[:, None]
        return np.asarray(falling * np.exp((self.t - count) * self.rest))

    @property
    def entropy(self) -> float:
        r"""Entropy log Z - s sum A z; :math:`\log Z = -\gamma + \int (1_{u<0} - G^T)\,du` (E8)."""
        below = self.u[0] - self.step / 2  # G^T is one up to here
        free = -np.euler_gamma - below - self.step * np.sum(np.exp(self.t * self.rest))
        return float(free) - self.s * self((1, 1, 0))

    def _averages(self, factors: tuple[Factor, ...]) -> Floats:
        """Averages F of factors that are sorted by their power of A, shape (factors, u)."""
        z, eta = (np.cumprod([np.ones_like(v), *[v] * MOST], axis=0) for v in (self.z, self.eta))
        kernel, rows = np.exp(-self.w), []
        for _, alike in groupby(factors, key=itemgetter(0)):
            kernel *= self.w
            rows.append(np.array([self.p * z[j] * eta[i] for _, j, i in alike]) @ kernel.T)
        return np.concatenate(rows)


class _Plan(NamedTuple):
    """Partitions of all moments: of which moment, how many blocks, and the factor of each."""

    names: tuple[tuple[Factor, ...], ...]
    gammas: Floats
    factors: tuple[Factor, ...]
    moments: Ints
    blocks: Ints
    rows: Ints


class _Names:
    """Stands for `_Moments` where `_polynomials` says which ones it needs."""

    d = s = entropy = 1.0

    def __init__(self) -> None:
        self.names: dict[tuple[Factor, ...], None] = {((1, 1, 0),): None}

    def __call__(self, *factors: Factor) -> float:
        self.names[factors] = None
        return 1.0


@cache
def _expanded() -> _Plan:
    """Partitions of the moments that `_polynomials` and the entropy need."""
    asked = _Names()
    _polynomials(asked)
    names = tuple(asked.names)
    cells = [(n, blocks) for n, name in enumerate(names) for blocks in _partitions(name)]
    factors = tuple(sorted({block for _, blocks in cells for block in blocks}))
    rows = np.full((MOST, len(cells)), len(factors))  # beyond the blocks stands a one
    for column, (_, blocks) in enumerate(cells):
        rows[: len(blocks), column] = [factors.index(block) for block in blocks]
    gammas = np.array([factorial(sum(k for k, _, _ in name) - 1) for name in names], dtype=float)
    moments, number = np.array([(n, len(blocks)) for n, blocks in cells]).T
    return _Plan(names, gammas, factors, moments, number, rows)


def _window(s: float, t: float) -> tuple[float, float]:
    """Bounds of log Z up to e^-18."""
    from scipy.special import ndtri

    log_t = np.log(t)
    top = s * np.sqrt(2 * (log_t + MARGIN))
    high = max(log_t + min(s**2 / 2, s * np.sqrt(2 * log_t)), top)
    return float(s * ndtri(np.exp(-MARGIN / t))), float(high)


def _partitions(items: tuple[Factor, ...]) -> list[list[Factor]]:
    """Merge factors over every set partition: powers add."""
    if not items:
        return [[]]
    first, out = items[0], []
    for blocks in _partitions(items[1:]):
        out.append([first, *blocks])
        for n, block in enumerate(blocks):
            k, j, i = (a + b for a, b in zip(first, block, strict=True))
            out.append([*blocks[:n], (k, j, i), *blocks[n + 1 :]])
    return out
