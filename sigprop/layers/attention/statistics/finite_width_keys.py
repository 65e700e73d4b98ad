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
from math import factorial
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number

__all__ = ["Sphere", "Traces"]

STEP = 0.45  # of u and of s z: trapezoid error e^(-pi^2/0.45) = 3e-10
LONGEST = 0.8  # step of z: that of a normal density and of x, which s z varies by STEP at most
NODES = 20  # steps of z over the sphere, at least
MARGIN = 16.0  # of u beyond the window of log Z: e^-16 of the weight is dropped
TOP = 8.0  # largest |z|
HEADS = 3  # nodes of score variance and gap
CAP = 6.0  # of x: e^(k x - e^x) vanishes above
MOST = 4  # factors of one moment
GROUP = 8  # scores at once: their arrays stay in cache
RADII = 3  # nodes of the squared distance g

Factor = tuple[int, int, int]  # powers of A, z and eta


class Traces(NamedTuple):
    r"""Averages at finite width; beside each its value at infinite width.

    Attributes
    ----------
    query : array
        :math:`E\,\mathrm{tr} J K J M / gap^2`, M the kernel of a head's keys: P.
    key : array
        :math:`E\,c\,\mathrm{tr} J K J / gap`, c the squared norm of a query over its mean: P.
    weight : array
        :math:`E\,c\,\mathrm{tr} J K J K / gap^2`: P.
    kept : array
        :math:`E \sum A^2 \eta`: Y_2.
    drift : array
        :math:`E (\sum A z)^2 / D`, the pull of the attended token along the query: 0.
    common : array
        :math:`1 - E \sum A g`, what the common direction gains, over gap: 0.
    y2, entropy : array
        Participation ratio, and entropy in nats: Y_2 and H.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.finite_width_keys import Traces
    >>> round(Traces(0.1, 0.1, 0.1, 0.5, 0.01, 0.0, 0.5, 3.0).mean, 2)
    0.51
    """

    query: Number
    key: Number
    weight: Number
    kept: Number
    drift: Number
    common: Number
    y2: Number
    entropy: Number

    @property
    def mean(self) -> Number:
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
    >>> wide, narrow = (Sphere(d, d).traces(1.0, 256, 0.0).query for d in (4096, 64))
    >>> bool(narrow > wide)
    True
    """

    width: float
    head_width: float

    def traces(
        self, sigma: Number, context: Number, rho: Number, seeds: float | None = None
    ) -> Traces:
        """Averages over keys, heads and networks.

        Parameters
        ----------
        sigma : float or array
            Standard deviation of the scores (E3).
        context : float or array
            Context length T.
        rho : float or array
            Overlap of the tokens.
        seeds : float, optional
            Variance of log gap over networks; that of random tokens by default.

        Returns
        -------
        Traces
            Of the shape of the arguments; relative accuracy of the integrals 1e-6, and 2e-5 of the
            first three at score deviations of 2 to 6.

        Examples
        --------
        >>> from sigprop.layers.attention.statistics.finite_width_keys import Sphere
        >>> float(round(Sphere(128, 128).traces(0.0, 128, 0.0).query * 128, 2))
        1.98
        """
        sigma, context, rho = np.broadcast_arrays(
            *(np.asarray(value, dtype=np.float64) for value in (sigma, context, rho))
        )
        rho = np.maximum(rho, 0.0)
        heads = 2 / self.head_width + 2 / self.width
        own = 2 / self.head_width  # the share of heads that is the norm of the query
        networks = np.asarray(2 * rho**2 / self.width if seeds is None else seeds)
        both = heads + networks
        nodes, probability = _normal(HEADS)
        # log(c gap) but for its mean, of which heads and networks have their shares
        y = np.sqrt(both) * nodes.reshape(-1, *[1] * rho.ndim)
        rest = heads * networks / both / 2  # half of the variance that is left
        hot = np.exp(own / both * y - own / 2 + own * (both - own) / both / 2)
        joint = [np.exp(-k * own * networks / both) for k in (1, 2)]  # at fixed y they compete
        wide = [np.exp(k * networks / both * y + k**2 * rest) for k in (1, 2)]
        found = self._at(sigma * np.exp((y - heads / 2) / 2), context, rho)
        query, key, weight, *mean, y2, entropy = found
        total = [wide[1] * query, joint[0] * hot * wide[0] * key, joint[1] * hot * wide[1] * weight]
        total += [*(wide[0] * value for value in mean), y2, entropy]
        weights = probability / probability.sum()
        return Traces(*(np.tensordot(weights, value, 1)[()] for value in total))

    def _at(self, sigma: Number, context: Number, rho: Number) -> tuple[Floats, ...]:
        """Averages at given scores; each is the same in any batch."""
        spread = 2 * np.asarray(rho) * (2 - np.asarray(rho)) / self.width
        cells = np.broadcast_arrays(sigma, context, spread)
        s, t, g = (np.asarray(cell, dtype=np.float64).ravel() for cell in cells)
        longest = min(LONGEST, 2 * np.sqrt(self.width) / NODES)
        finer = np.ceil(2 * np.log2(np.maximum(s * longest / STEP, 1.0))) / 2
        d, n = self.width - 1, self.head_width
        index, found = np.argsort(s), []
        for part in np.split(index, 1 + np.flatnonzero(np.diff(finer[index]))):
            for few in np.array_split(part, -(-len(part) // GROUP)):
                step = longest * 2.0 ** -finer[few[0]]
                found.append(np.stack(_polynomials(_Moments(s[few], t[few], g[few], d, step))))
        out = np.empty((len(found[0]), len(index)))
        out[:, index] = np.concatenate(found, axis=1)
        square, cross, own, flat, key, *mean = out.reshape(-1, *cells[0].shape)
        last = own + flat / (d - 1)
        along = d / n + (n - 1) / n  # weight of z z^T / d in a head's kernel
        query = along * square / d**2 + (along + (n - 1) / n) * cross / d + (n - 1) / n * last
        return query, key, square / d**2 + 2 * cross / d + last, *mean


@cache
def _normal(count: int) -> tuple[Floats, Floats]:
    """Nodes and weights of a standard normal variable, by Gauss-Hermite quadrature."""
    return np.polynomial.hermite_e.hermegauss(count)


def _polynomials(m: _Moments | _Names) -> tuple[Number, ...]:
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
    """E of a product of sums of A^k z^j eta^i, by quadrature; `spread` is the variance of g.

    Scores along the first axis have one grid of z, of a given step, and a grid of u each.
    """

    def __init__(self, s: Floats, t: Floats, spread: Floats, d: float, step: float) -> None:
        self.s, self.t, self.d = s, t, d
        end = min(TOP, np.sqrt(d))
        z = np.linspace(-end, end, int(np.ceil(2 * end / step)) + 1)[1:-1]
        log_weight = (d - 3) / 2 * np.log1p(-(z**2) / d)
        weight = np.exp(log_weight - log_weight.max())
        nodes, radial = _normal(RADII if np.any(spread > 0) else 1)
        g = np.exp(np.sqrt(spread)[:, None] * nodes - spread[:, None] / 2)[..., None]
        self.z, self.eta = (v.reshape(len(s), -1) for v in (np.sqrt(g) * z, g * (1 - z**2 / d)))
        self.p = np.outer(radial / radial.sum(), weight / weight.sum()).ravel()
        low, high = _window(s, t)
        self.step = STEP * np.maximum(1.0, s / np.sqrt(2 * np.log(t) + 20))
        number = np.ceil((high + MARGIN + 3.0 - low) / self.step).max()
        self.u = (-high - MARGIN)[:, None] + self.step[:, None] * np.arange(number + 1)
        self.w = np.exp(self.u)[..., None] * np.exp(s[:, None] * self.z)[:, None]
        np.minimum(self.w, np.exp(CAP), out=self.w)
        self.kernel = np.exp(-self.w)
        self.rest = np.log(np.maximum(self.kernel @ self.p, 2.0**-53))

    def __call__(self, *factors: Factor) -> Floats:
        return self._moments[factors]

    @cached_property
    def _moments(self) -> dict[tuple[Factor, ...], Floats]:
        """Every moment of `_expanded`."""
        plan = _expanded()
        averages = self._averages(plan.factors)
        values = self._left[:, plan.blocks]
        for column in plan.rows:
            values = values * averages[:, column]
        totals = np.sum(values, axis=-1) @ plan.moments * self.step[:, None]
        return dict(zip(plan.names, totals.T, strict=True))

    @property
    def _left(self) -> Floats:
        """T (T-1) ... times what all but n keys leave, for n = 0 ... 4, shape (N, 5, u)."""
        count, t = np.arange(MOST + 1), self.t[:, None]
        falling = np.cumprod(np.append(np.ones_like(t), t - count[:-1], axis=1), axis=1)
        return np.asarray(falling[..., None] * np.exp((t - count)[..., None] * self.rest[:, None]))

    @property
    def entropy(self) -> Floats:
        r"""Entropy log Z - s sum A z; :math:`\log Z = -\gamma + \int (1_{u<0} - G^T)\,du` (E8)."""
        below = self.u[:, 0] - self.step / 2  # G^T is one up to here
        passed = np.sum(np.exp(self.t[:, None] * self.rest), axis=1)
        free = -np.euler_gamma - below - self.step * passed
        return np.asarray(free - self.s * self((1, 1, 0)))

    def _averages(self, factors: tuple[Factor, ...]) -> Floats:
        """Averages F of factors that are sorted by their power of A, and a one, (N, factors, u)."""
        power, of_z, of_eta = np.transpose(factors)
        parts = self.p * _powers(self.z)[:, of_z] * _powers(self.eta)[:, of_eta]
        out, kernel = np.ones((len(self.u), len(power) + 1, self.u.shape[1])), self.kernel.copy()
        ends = np.searchsorted(power, np.arange(1, MOST + 2)).tolist()
        for alike in map(slice, ends[:-1], ends[1:]):
            kernel *= self.w
            np.matmul(parts[:, alike], np.swapaxes(kernel, 1, 2), out=out[:, alike])
        return out


class _Plan(NamedTuple):
    """Partitions of all moments: part of each moment, how many blocks, and the factor of each."""

    names: tuple[tuple[Factor, ...], ...]
    factors: tuple[Factor, ...]
    moments: Floats  # shape (partitions, moments)
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
    return _Plan(names, factors, np.eye(len(names))[moments] / gammas, number, rows)


def _powers(values: Floats) -> Floats:
    """Powers 0 ... 4 of values, along a new second axis."""
    out = np.ones((len(values), MOST + 1, values.shape[1]))
    for k in range(MOST):
        np.multiply(out[:, k], values, out=out[:, k + 1])
    return out


def _window(s: Floats, t: Floats) -> tuple[Floats, Floats]:
    """Bounds of log Z up to e^-MARGIN."""
    from scipy.special import ndtri

    log_t = np.log(t)
    top = s * np.sqrt(2 * (log_t + MARGIN))
    high = np.maximum(log_t + np.minimum(s**2 / 2, s * np.sqrt(2 * log_t)), top)
    return s * ndtri(np.exp(-MARGIN / t)), high


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
