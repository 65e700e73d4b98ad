r"""Critical residual strength (E20, E21)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop.analysis.fixed_points import TINY, FirstTokens, by_first_tokens, linear_response
from sigprop.core.arguments import validated
from sigprop.core.arrays import Bools, Floats, Ints, finite_or_none
from sigprop.core.errors import require
from sigprop.core.export import Exported
from sigprop.core.memory import allow
from sigprop.core.numerics.roots import Function, first_crossing, refined, refined_from
from sigprop.layers.state import State
from sigprop.model.spec import ModelSpec
from sigprop.propagation.capabilities import covers, geometry_of, is_rotary, require_theory
from sigprop.propagation.grids import sweep
from sigprop.propagation.stack import Block, any_norm, build_block, first_norm

__all__ = [
    "REASONS",
    "Critical",
    "asymptotic_alpha",
    "critical",
    "first_root",
    "odds_law_alpha",
]

Sentences = str | NDArray[np.str_]
Scan = Callable[[Function, int], Floats]
LOWEST, HIGHEST = -6.0, 6.0  # log10 of the residual strengths that are searched
ROUNDING = 4 * np.finfo(float).eps  # of chi_mlp, which is one for ReLU without bias
SCAN = 25  # strengths at which the overlap is computed before refining
GRID = np.linspace(LOWEST, HIGHEST, SCAN) * np.log(10)
FAINT, LEVEL = 9, 0.1  # a strength up to which heights that differ by a tenth do not cross zero
USUAL, PARTS = 13, 3  # where a scan that ends at the first root looks first, and parts of the rest
ASKED = np.append(0, np.arange(FAINT, SCAN))  # strengths that every scan up to a root asks
BESIDE = np.arange(-1, 3)  # ends of a bracket and their neighbours on the grid
INSIDE = np.delete(np.linspace(GRID[10], GRID[12], 9), [0, 4, 8])[:, None]  # two usual brackets
APART = {False: 4e-3, True: 2e-2}  # about, of roots on few and on all blocks; if any layer turns
FEW = 16  # blocks of positions on which roots are bracketed
MARGIN = 0.02  # of heights on few blocks, whose signs may differ from those on all
CLOSE = 1e-9  # largest residual of a root that has converged
FLAT = CLOSE / 10  # residual that is asked for, as it is estimated
NOISE = 1e-6  # of heights of tokens that are told apart, which come from tables
REASONS = (
    "converged",
    "no skip branch is needed: the overlap stays below rho_max at alpha_attn = 0",
    "no alpha_attn up to 1e6 keeps the overlap below rho_max",
    "the state vanishes or overflows at every alpha_attn",
    "the root finder stopped above its tolerance",
    "any alpha_attn > 0 keeps the overlap below rho_max; at alpha_attn = 0 nothing passes",
    "no alpha_attn of the scan at which the state stays finite keeps the overlap below rho_max",
)


@dataclass(frozen=True)
class Critical(Exported):
    """Critical residual strength, and how its search ended.

    Attributes
    ----------
    alpha_attn : array
        Smallest alpha_attn with rho_L <= rho_max; 0 where none is needed, infinite where none
        suffices, NaN where nothing propagates.
    rho : array
        Overlap at that strength, at 1e-6 where any above zero will do; NaN where there is none.
    asymptotic : array
        Strength above which the collapsed state is unstable at infinite depth (E20); NaN where
        E20 does not apply: without norms, under a mask or rotary positions.
    converged : array of bool
        Whether a root was found and refined.
    reason : str or array of str
        How the search ended, a sentence of `REASONS`.
    residual : array
        |rho - rho_max| at most: at the nearest strength that was solved, or by how much two orders
        of interpolation differ.
    iterations : array of int
        Function evaluations of the root finder.
    bracket : tuple of arrays
        Strengths that enclose the root.
    monotone : array of bool
        Whether the overlap decreases with alpha_attn all over the scan. Where it does not, the
        smallest root is returned.

    Examples
    --------
    >>> from sigprop import ModelSpec, critical
    >>> spec = ModelSpec(depth=24, context=512, beta=1, sigma_v2=1, sigma_w2=0, rho0=0.5)
    >>> found = critical(spec, 0.9)
    >>> print(found.reason)
    converged
    >>> bool(found.residual < 1e-9)
    True
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        ("alpha_attn", "rho", "asymptotic", "converged", "residual", "iterations", "monotone"), ()
    )

    alpha_attn: Floats
    rho: Floats
    asymptotic: Floats
    converged: Bools
    reason: Sentences
    residual: Floats
    iterations: Ints
    bracket: tuple[Floats, Floats]
    monotone: Bools

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null, reasons are sentences.

        Returns
        -------
        dict
            One entry for each attribute.

        Examples
        --------
        >>> from sigprop import ModelSpec, critical
        >>> spec = ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
        >>> critical(spec, 0.99).to_dict()["reason"]
        'no skip branch is needed: the overlap stays below rho_max at alpha_attn = 0'
        """
        out: dict[str, Any] = {}
        for name, value in vars(self).items():
            parts = value if isinstance(value, tuple) else (value,)
            values = [np.asarray(part) for part in parts]
            plain = [v.tolist() if name == "reason" else finite_or_none(v) for v in values]
            out[name] = plain if isinstance(value, tuple) else plain[0]
        return out

    def at(self, index: int) -> Critical:
        """Find the strength of one of a row of specs.

        Parameters
        ----------
        index : int
            Which one.

        Returns
        -------
        Critical
            As of that spec alone.

        Examples
        --------
        >>> from sigprop import ModelSpec, critical
        >>> spec = ModelSpec(depth=2, context=64, beta=[1, 2], sigma_v2=1, sigma_w2=1, rho0=0)
        >>> round(float(critical(spec, 0.2).at(1).alpha_attn), 6)
        3.857...
        """
        parts: dict[str, Any] = {
            name: tuple(part[index] for part in value)
            if isinstance(value, tuple)
            else np.asarray(value)[index]
            for name, value in vars(self).items()
        }
        return replace(self, **parts)


@validated
def critical(
    spec: ModelSpec, rho_max: ArrayLike, theory: str = "finite", geometry: str = "auto"
) -> Critical:
    r"""Smallest alpha_attn at which the overlap after all blocks is at most rho_max.

    Parameters
    ----------
    spec : ModelSpec
        The description; its alpha_attn is ignored. Arrays broadcast.
    rho_max : array_like
        Largest overlap that is accepted, in (0, 1).
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    geometry : {"auto", "exchangeable"}
        As in `sigprop.propagate`.

    Returns
    -------
    Critical
        Strengths, the asymptotic strength and how the search ended.

    Raises
    ------
    DomainError
        If rho_max is outside (0, 1).
    TheoryError
        If no theory covers the spec (`sigprop.propagation.capabilities`).

    Notes
    -----
    theory.md section 4, "Critical residual strength" (a)-(c). The root of
    log[(1 - rho_L)/(1 - rho_max)] in log alpha_attn is bracketed on 25 strengths from 1e-6 to 1e6
    and refined by inverse interpolation. Under a mask brackets are found on fewer blocks of
    positions than roots, and found again where these decide otherwise. Without MLP
    (sigma_w2 = 0), at beta = 0 in the limit, it is
    :math:`\alpha_c^2 = \sigma_v^2/(e^{\Delta/L} - 1)`, Delta the growth of logit rho (E21).

    Examples
    --------
    >>> from sigprop import ModelSpec, critical
    >>> spec = ModelSpec(depth=24, context="inf", beta=0, sigma_v2=1, sigma_w2=0, rho0=0.5)
    >>> round(float(critical(spec, 0.9).alpha_attn), 6)
    3.229...
    """
    return _solved(spec, rho_max, theory, geometry, _everywhere)


@validated
def first_root(spec: ModelSpec, rho_max: ArrayLike, theory: str = "finite") -> Critical:
    """Smallest alpha_attn as of `critical`, by a scan that ends once it has crossed rho_max.

    Parameters
    ----------
    spec, rho_max, theory
        As of `critical`.

    Returns
    -------
    Critical
        The same, but that `monotone` speaks of the strengths that were scanned, and `iterations`
        counts all.

    Examples
    --------
    >>> from sigprop import ModelSpec, critical
    >>> from sigprop.analysis.critical import first_root
    >>> spec = ModelSpec(depth=24, context=512, beta=1, sigma_v2=1, sigma_w2=0, rho0=0.5)
    >>> round(float(first_root(spec, 0.9).alpha_attn / critical(spec, 0.9).alpha_attn), 12)
    1.0
    """
    return _solved(spec, rho_max, theory, "auto", _to_first_root)


def _solved(
    spec: ModelSpec, rho_max: ArrayLike, theory: str, geometry: str, scan: Scan
) -> Critical:
    """Critical strengths, from heights that a scan finds at some of the strengths of a grid."""
    target = np.asarray(rho_max, dtype=np.float64)
    require((target > 0) & (target < 1), "rho_max", rho_max, "a number in (0, 1)")
    require_theory(spec, "critical", theory, geometry)
    shape = np.broadcast_shapes(spec.replace(alpha_attn=1.0).shape, target.shape)
    allow(200 * SCAN * prod(shape), "shape", shape, "fewer points")
    search = _Search(spec, (theory, geometry), shape, np.broadcast_to(target, shape).ravel())
    every = np.arange(search.target.size)
    if search.kind != "position":
        return search.finish(_first_roots(search, every, scan))
    found = _first_roots(search, every, scan, FEW)
    again = every[_is_unsure(search, found)]
    for value, exact in zip(found, _first_roots(search, again, scan), strict=True):
        value[..., again] = exact
    return search.finish(found)


def _first_roots(search: _Search, index: Ints, scan: Scan, few: int | None = None) -> _Found:
    """First roots of the specs of `index`, whose brackets may be those on few blocks."""

    def heights(of: Ints, resolution: int | None = None) -> Function:
        return lambda log_alpha, which: search(log_alpha, of[which], resolution)

    nearly = heights(index, few)
    ahead = _Ahead(nearly) if few is not None and index.size == 1 else None
    height = scan(ahead or nearly, index.size)
    before, crosses = first_crossing(height)
    crosses &= ~(height[0] >= 0)
    some, first = np.flatnonzero(crosses), before[crosses]
    exact = heights(index[some])
    if few is None:
        ends = (GRID[first], GRID[first + 1]), (height[first, some], height[first + 1, some])
        roots = refined(exact, *ends)
    else:
        rows = first + BESIDE[:, None]
        held = np.clip(rows, 0, SCAN - 1)
        known = GRID[held], np.where(rows == held, height[held, some], np.nan)
        if ahead is not None and some.size:
            known = ahead.with_inside(*known)
        apart = APART[is_rotary(search.spec)]
        flat = FLAT / (1 - search.target[index[some]])  # of heights
        roots = refined_from(heights(index[some], few), exact, *known, apart, flat)
    out = np.full((3, index.size), np.nan)
    out[:, some] = roots
    return _Found(height, *out)


class _Ahead:
    """Heights of one spec, whose first call asks inside usual brackets, too: that costs little."""

    def __init__(self, function: Function) -> None:
        self._function, self._values = function, np.empty(0)

    def __call__(self, log_alpha: Floats, index: Ints) -> Floats:
        if self._values.size:
            return self._function(log_alpha, index)
        found = self._function(np.concatenate([log_alpha, INSIDE]), index)
        self._values = found[len(log_alpha) :]
        return found[: len(log_alpha)]

    def with_inside(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Points and heights about a bracket, with those inside it."""
        inside = ((INSIDE > x[1]) & (INSIDE < x[2]))[:, 0]
        points = np.concatenate([x[:2], INSIDE[inside], x[2:]])
        return points, np.concatenate([y[:2], self._values[inside], y[2:]])


def _is_unsure(search: _Search, found: _Found) -> Bools:
    """Where a search that began on few blocks has failed, or heights on all decide otherwise."""
    height, rootless, left = found.height, np.isnan(found.x), 1 - search.target
    (first, one), (last, other) = (first_crossing(height + off) for off in (MARGIN, -MARGIN))
    unsure = (one != other) | (one & (last - first > 1)) | ~(np.abs(found.value) * left <= CLOSE)
    row = np.where(height[0] >= 0, 0, np.where(np.isnan(height), -np.inf, height).argmax(axis=0))
    row, index = row[rootless], np.flatnonzero(rootless)
    unsure[rootless] = ~(height[row, index] * search(GRID[row], index) > 0)
    end = np.where(height[0] >= 0, 0, np.where(rootless, SCAN, first))
    return np.asarray(unsure | np.any(np.isnan(height[ASKED]) & (ASKED[:, None] <= end), axis=0))


def _everywhere(function: Function, number: int) -> Floats:
    """Heights at all strengths, shape (SCAN, N)."""
    return np.broadcast_to(function(GRID[:, None], np.arange(number)), (SCAN, number)).copy()


def _to_first_root(function: Function, number: int) -> Floats:
    """Heights at as many strengths as the first root needs; NaN at the others."""
    height, every = np.full((SCAN, number), np.nan), np.arange(number)
    first = ASKED[ASKED < USUAL]
    height[first] = function(GRID[first, None], every)
    loud = every[~(_is_level(height[0], height[FAINT]) | (height[0] >= 0))]
    height[1:FAINT, loud] = function(GRID[1:FAINT, None], loud)
    for rows in np.array_split(np.arange(USUAL, SCAN), PARTS):
        left = every[~(first_crossing(height)[1] | (height[0] >= 0))]
        height[np.ix_(rows, left)] = function(GRID[rows, None], left)
    return height


def _is_level(first: Floats, second: Floats) -> Bools:
    """Whether negative heights at two small strengths differ by so little that none lies above."""
    with np.errstate(invalid="ignore"):  # of heights of minus infinity
        return np.maximum(first, second) < -np.abs(second - first) / LEVEL


class _Found(NamedTuple):
    """Heights of a scan, shape (SCAN, N), first roots, heights there and numbers of evaluations."""

    height: Floats
    x: Floats
    value: Floats
    calls: Floats


class _Search:
    """log[(1 - rho_L)/(1 - rho_max)] as a function of log alpha_attn, for a subset of specs."""

    def __init__(
        self, spec: ModelSpec, asked: tuple[str, str], shape: tuple[int, ...], target: Floats
    ) -> None:
        self.spec, self.asked, self.shape, self.target = spec, asked, shape, target
        self.kind = geometry_of(spec, *asked)
        self._noise = CLOSE if self.kind == "exchangeable" else NOISE
        self._wide = {
            name: np.broadcast_to(np.asarray(getattr(spec, name)), shape).ravel()
            for name in spec.numbers()
            if name not in ("alpha_attn", "sigma_w2") and np.ndim(getattr(spec, name))
        }

    def at(self, alpha: Floats, index: Ints, resolution: int | None = None) -> Floats:
        """1 - rho_L of the specs of `index` at strengths alpha; NaN where undefined."""
        if not index.size:
            return np.empty(np.shape(alpha))
        parts: dict[str, Any] = {name: value[index] for name, value in self._wide.items()}
        alpha = np.minimum(alpha, 10.0**HIGHEST)  # exp(log(1e6)) rounds above it
        spec = replace(self.spec, alpha_attn=alpha, sigma_w2=None, **parts)
        theory, geometry = self.asked
        found = sweep(spec, theory, geometry=geometry, entropy=False, resolution=resolution)
        return np.asarray(found.state.gap / found.state.q)

    def __call__(self, log_alpha: Floats, index: Ints, resolution: int | None = None) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):  # gap = 0 is rho = 1: minus infinity
            gap = self.at(np.exp(log_alpha), index, resolution)
            return np.log(gap / (1 - self.target[index]))

    def finish(self, roots: _Found) -> Critical:
        """Gather what was found, in the shape of the specs."""
        size, height, found = self.target.size, roots.height, ~np.isnan(roots.x)
        alpha = np.where(height[0] >= 0, 0.0, np.where(np.isnan(height).all(0), np.nan, np.inf))
        reason = np.where(height[0] >= 0, 1, np.where(np.isnan(height).all(0), 3, 2))
        alpha[found] = np.exp(roots.x[found])
        iterations = SCAN + np.where(found, roots.calls, 0).astype(int)
        rho, none = np.full(size, np.nan), alpha == 0
        rho[found] = 1 - np.exp(roots.value[found]) * (1 - self.target[found])
        rho[none] = 1 - self.at(alpha[none], np.flatnonzero(none))
        stuck = none & np.isnan(rho)  # at alpha_attn = 0, though not at the lowest of the scan
        rho[stuck], reason[stuck] = 1 - np.exp(height[0, stuck]) * (1 - self.target[stuck]), 5
        reason[(reason == 2) & ~found & np.isnan(height[ASKED]).any(axis=0)] = 6
        residual = np.where(found, np.abs(rho - self.target), np.nan)
        reason[found] = np.where(residual[found] < CLOSE, 0, 4)
        with np.errstate(invalid="ignore"):  # both merged: -inf minus -inf
            steps = np.diff(height, axis=0)
        monotone = np.all((steps >= -self._noise) | ~np.isfinite(steps), axis=0)
        known = covers(self.spec, "asymptotic_alpha", *self.asked)
        asymptotic = asymptotic_alpha(self.spec, *self.asked) if known else np.nan
        limit_alpha = np.broadcast_to(asymptotic, self.shape)
        said = np.asarray(REASONS)[reason]
        columns = (alpha, rho, limit_alpha, reason == 0, said, residual, iterations)
        a, r, asym, conv, why, res, its = (np.reshape(c, self.shape) for c in columns)
        before = np.clip(np.searchsorted(GRID, np.nan_to_num(roots.x)), 1, SCAN - 1)
        sides = (np.exp(GRID[before + k]) for k in (-1, 0))
        ends = [np.where(found, side, np.nan).reshape(self.shape) for side in sides]
        bracket, falling = (ends[0], ends[1]), monotone.reshape(self.shape)
        return Critical(a, r, asym, conv, why[()], res, its, bracket, falling)


@validated
def asymptotic_alpha(spec: ModelSpec, theory: str = "finite", geometry: str = "auto") -> Floats:
    r"""Residual strength above which the collapsed state is unstable at infinite depth (E20, E20b).

    Post-norm: :math:`\chi_{attn}\chi_{mlp} = 1`, so
    :math:`\alpha_c^2 = (\sigma_v^2 + \sigma_b^2)/(\chi_{mlp} - 1)` at unit gain, infinite when
    chi_mlp <= 1; with an identity part c of the values, which adds :math:`2 \alpha c` to q,
    :math:`\alpha_c^2 (\chi_{mlp} - 1) = \sigma_v^2 + \sigma_b^2 + c^2 + 2 \alpha_c c`.
    Under a causal mask attention passes a part g of the gap of the first two tokens, a quarter of
    :math:`\sigma_v^2` without rotation: :math:`\alpha_c^2 (\chi_{mlp} - 1) = \sigma_v^2 +
    \sigma_b^2 - \chi_{mlp}\,g`, and zero where this is negative.
    Pre-norm: the stream must grow, alpha_attn alpha_mlp = 1.

    Parameters
    ----------
    spec : ModelSpec
        The description; its alpha_attn is ignored.
    theory : {"finite", "limit"}
        Exact at the context length, or the published limit of infinite context.
    geometry : {"auto", "exchangeable"}
        As in `sigprop.propagate`.

    Returns
    -------
    array
        Strength, infinite where none exists; NaN without norms, where E20 does not apply.

    Raises
    ------
    TheoryError
        Under rotary positions without a mask and behind a prefix, where E20 does not apply
        (`sigprop.propagation.capabilities`).

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.analysis.critical import asymptotic_alpha
    >>> spec = ModelSpec(depth=1, context=512, beta=0, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> float(asymptotic_alpha(spec))
    inf
    """
    require_theory(spec, "asymptotic_alpha", theory, geometry)
    spec = spec.replace(alpha_attn=1.0)
    with np.errstate(all="ignore"):  # alpha_mlp = 0, chi_mlp = 1, and states that vanish
        if any_norm(spec) is None:
            return np.full(spec.shape, np.nan)
        if first_norm(spec) is None:
            return np.broadcast_to(1 / np.asarray(spec.alpha_mlp), spec.shape)
        if geometry_of(spec, theory, geometry) == "position":
            return by_first_tokens(spec, _masked)[0]
        block = build_block(spec, theory)
        q = np.broadcast_to(np.square(spec.norm_gain), spec.shape).astype(np.float64)
        value, _ = linear_response(block.part(block.attention_branch), q)
        covariance = block.attention.forward(State(q, q * TINY), block.place).covariance
        along = 0.0 if covariance is None else covariance.q / q
        chi_mlp = _chaos(block, block.layers[2:], q)
        root = np.sqrt(along**2 + (chi_mlp - 1) * value / q)
        return np.where(chi_mlp > 1 + ROUNDING, (along + root) / (chi_mlp - 1), np.inf)


def _masked(spec: ModelSpec, first: FirstTokens) -> tuple[Floats]:
    """Strength under a causal mask, where attention passes a part g of the first gap."""
    q = np.broadcast_to(np.square(spec.norm_gain), spec.shape).astype(np.float64)
    value, passed = linear_response(first.part(first.block.attention_branch), q)
    chi_mlp = _chaos(first, first.block.layers[2:], q)
    square = np.maximum(value / q - chi_mlp * passed, 0.0) / (chi_mlp - 1)
    return (np.where(chi_mlp > 1 + ROUNDING, np.sqrt(square), np.inf),)


def _chaos(block: Block | FirstTokens, layers: tuple[Any, ...], q: Floats) -> Floats:
    """Factor chi_mlp on gap/q of the layers behind attention."""
    out, gain = linear_response(block.part(*layers), q)
    return np.asarray(gain * q / out)


@validated
def odds_law_alpha(sigma_v2: float, rho0: float, rho_max: float, depth: ArrayLike) -> Floats:
    r"""Critical residual strength of attention alone at beta = 0, unlimited context, no bias (E21).

    The odds of the overlap grow geometrically,
    :math:`\mathrm{logit}\,\rho_L = \mathrm{logit}\,\rho_0 + L \log(1 + \sigma_v^2/\alpha^2)`, so
    :math:`\alpha_c^2 = \sigma_v^2 / (e^{\Delta/L} - 1)` with
    :math:`\Delta = \mathrm{logit}\,\rho_{max} - \mathrm{logit}\,\rho_0`: it grows as
    :math:`\sigma_v \sqrt{L/\Delta}`.

    Parameters
    ----------
    sigma_v2 : float
        Value weight variance, > 0.
    rho0, rho_max : float
        Overlap at the input and accepted after the last block, 0 < rho0 < rho_max < 1.
    depth : array_like
        Number of blocks, > 0.

    Returns
    -------
    array
        Strength, of the shape of `depth`.

    Raises
    ------
    DomainError
        If an argument is outside its range.

    Examples
    --------
    >>> from sigprop.analysis.critical import odds_law_alpha
    >>> round(float(odds_law_alpha(1.0, 0.5, 0.9, 24)), 6)
    3.229...
    """
    require(0 < sigma_v2 < np.inf, "sigma_v2", sigma_v2, "a number > 0")
    require(0 < rho_max < 1, "rho_max", rho_max, "a number in (0, 1)")
    require(0 < rho0 < rho_max, "rho0", rho0, "a number in (0, rho_max)")
    blocks = np.asarray(depth, float)
    require(blocks > 0, "depth", blocks, "a number > 0")
    growth = np.log(rho_max / (1 - rho_max)) - np.log(rho0 / (1 - rho0))
    return np.asarray(np.sqrt(sigma_v2 / np.expm1(growth / blocks)))
