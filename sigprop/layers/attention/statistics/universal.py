r"""Statistics of one query and of two with different numbers of keys, by look-up (E6-E9, E25).

One file, made by ``python -m sigprop.layers.attention.statistics.build_universal``, serves every
context and mask. It holds Chebyshev coefficients of four functions, each without its behaviour at
small s, which is divided out; B(s) is s^2/(1 + s^2), e the excess Y_2 - 1/n of one query, E the
excess O - c/(n n') of two queries of n <= n' keys of which c are common, and S = sqrt(s s'):

.. math::
   \text{single:} &\quad \log\frac{n\,e}{s^2 (1 - 1/n)}\Big/B(s), \quad
       \log\frac{2(\log n - H)}{s^2 (1 - 1/n)}\Big/B(s); \\
   \text{weight:} &\quad \log(n\,E A_1)\,\frac{1 + s^2 + s_1^2}{s_1^2 - s^2},
       \quad\text{of a key of deviation } s_1; \\
   \text{base:} &\quad b = \log\frac{E}{r\,e}\Big/(w B(s)),
       \quad\text{of equal queries, w from 0 at r = 1 to 1}; \\
   \text{pair:} &\quad p = \Big[\log\frac{E}{r\sqrt{e e'}} - \frac{w B b + w' B' b'}2
       - \ell\Big]\Big/B(S), \quad c = n; \\
   \text{part:} &\quad \text{what c < n adds to p, over } 1 - c/n .

Here :math:`\ell` is the first logarithm at small s. Axes are log n, log(n'/n) over its largest
value, s/(s + 5/2), log(s'/s), c/n and the gap 1 - r of
`sigprop.layers.attention.statistics.coordinates`. A look-up contracts the axes of n once, those of
s for each query and what is left for each couple; leading axes are many layers or heads.

*Domain.* 2 <= n, n' <= 2^20; outside it a look-up gives NaN. One query: s <= 32, beyond which
1 - Y_2 and H fall as 1/s. Two: r >= -0.3, NaN below; S <= 16 and s'/s in [1/4, 4], beyond which
:math:`E/(r\sqrt{e e'})` is that at the edge. The weight of a key: s <= 16 and s_1 <= 32, and that
at the edge beyond. `part` leaves out how it depends on s'/s. The measured errors are in the file
(`errors`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import as_file, files
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints
from sigprop.core.errors import AssumptionError
from sigprop.core.numerics.chebyshev import Series, basis, contracted
from sigprop.layers.attention.statistics import coordinates as co

__all__ = ["Alike", "Couples", "KeyWeights", "OneQuery", "errors"]

Index = Ints | slice

ALL = slice(None)
VERSION = 1
LEAST, MOST = 2.0, 2.0**20  # keys
STEP, SMALL = 0.1, 1e-6  # of r before the table ends; overlap there over that of equal weights
HOTTEST = 32.0  # score deviation of one query, and of a key
HOT = 16.0  # geometric mean of two, and score deviation of a query whose keys differ
WIDEST = 4.0  # ratio of the score deviations of two queries
EDGE = np.cos(np.pi / 14)  # outermost of the nodes in n'/n, which then hold n' = n
DOMAIN = np.array([LEAST, MOST, HOTTEST, HOT, WIDEST, co.MAX_GAP, co.A, co.B])


class Tables(NamedTuple):
    """Coefficients of `universal.npz`; the axes of each are those of `AXES`."""

    single: Floats
    weight: Floats
    base: Floats
    pair: Floats
    part: Floats


@cache
def _data() -> dict[str, Floats]:
    source = files("sigprop.layers.attention.statistics") / "universal.npz"
    with as_file(source) as path, np.load(path) as file:
        return checked(dict(file))


def of_data(data: dict[str, Floats]) -> Tables:
    """Tables among the arrays of a file, in double precision."""
    return Tables(*(np.asarray(data[name], np.float64) for name in Tables._fields))


def checked(data: dict[str, Floats]) -> dict[str, Floats]:
    """Refuse a file of another version or domain.

    Parameters
    ----------
    data : dict
        Arrays of a file.

    Returns
    -------
    dict
        The same.

    Raises
    ------
    AssumptionError
        If the file was made by another version, or for another domain.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.universal import DOMAIN, VERSION, checked
    >>> checked({"version": VERSION, "domain": DOMAIN})["version"]
    1
    """
    if int(data["version"]) != VERSION:
        raise AssumptionError(f"universal.npz is of version {data['version']}, not {VERSION}")
    if not np.array_equal(data["domain"], DOMAIN):
        raise AssumptionError(f"universal.npz covers {data['domain']}, not {DOMAIN}")
    return data


@cache
def tables() -> Tables:
    """Coefficients of the shipped file.

    Returns
    -------
    Tables
        Read once.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.universal import tables
    >>> tables().pair.ndim
    5
    """
    return of_data(_data())


def errors() -> dict[str, Floats]:
    """Errors measured against the quadratures when the file was made.

    Returns
    -------
    dict
        Rows of `bounds`: largest s and n of a domain. Of the rest, one row a domain: the error
        that 95 % of random points stay below, and the largest. Absolute of `single` (excess, and
        deficit in nats), `pair` and `part` (excess overlap); relative of `weight`.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.universal import errors
    >>> sorted(errors())
    ['bounds', 'pair', 'part', 'single', 'weight']
    """
    names = [name for name in _data() if name.startswith("error_")]
    return {name.removeprefix("error_"): _data()[name] for name in names}


def place_of_keys(keys: Floats) -> Floats:
    """Log n on [-1, 1]."""
    return np.asarray(2 * np.log(keys / LEAST) / np.log(MOST / LEAST) - 1)


def keys_at(place: Floats) -> Floats:
    """Inverse of `place_of_keys`."""
    return np.asarray(LEAST * (MOST / LEAST) ** ((place + 1) / 2))


def place_of_later(keys: Floats, later: Floats) -> Floats:
    """Log(n'/n) over its largest value on [-EDGE, EDGE]."""
    room = np.maximum(np.log(MOST / keys), 1e-9)
    return np.asarray(EDGE * (2 * np.log(later / keys) / room - 1))


def later_at(keys: Floats, place: Floats) -> Floats:
    """Inverse of `place_of_later`."""
    return np.asarray(keys * (MOST / keys) ** ((place / EDGE + 1) / 2))


def turn(own: Floats, s: Floats) -> Floats:
    """Divide out of the log weight of a key of deviation `own`: it vanishes among equals."""
    return np.asarray((own**2 - s**2) / (1 + s**2 + own**2))


def small(keys: Floats, later: Floats, common: Floats) -> Floats:
    """Log E/(r sqrt(e e')) at small s: covariance of the deviations of the weights."""
    inside = common * (1 - 1 / keys - 1 / later + common / keys / later)
    return np.asarray(np.log(inside / np.sqrt((keys - 1) * (later - 1))))


class OneQuery:
    """Excess and entropy deficit of one query.

    Parameters
    ----------
    keys : array, shape (P,)
        Numbers of keys.
    source : Tables, optional
        By default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.universal import OneQuery
    >>> excess, deficit = OneQuery(np.array([512.0]))(np.array([3.53223]))
    >>> round(float(excess[0] + 1 / 512), 4)
    0.249
    """

    def __init__(self, keys: Floats, source: Tables | None = None) -> None:
        self._known = (keys >= LEAST) & (keys <= MOST)
        self._keys = np.where(self._known, keys, LEAST)
        self._rows = _at_keys(self._keys, (source or tables()).single)

    def __call__(self, s: Floats) -> tuple[Floats, Floats]:
        """Excess and deficit.

        Parameters
        ----------
        s : array, shape (..., P)
            Standard deviations of the scores.

        Returns
        -------
        excess, deficit : arrays, shape (..., P)
            :math:`Y_2 - 1/n`, and log n less the entropy; NaN for too many keys.
        """
        found = self._series(np.minimum(s, HOTTEST), self._rows, HOTTEST)
        rest = HOTTEST / np.maximum(s, HOTTEST)  # of what vanishes as attention freezes
        most = 1 - 1 / self._keys, np.log(self._keys)
        excess, deficit = (
            w * (1 - rest) + part * rest for w, part in zip(most, found, strict=True)
        )
        return excess, deficit

    def _series(self, s: Floats, rows: Floats, top: float) -> Floats:
        """Excess and deficit by series in score deviations up to some one, or in one for all."""
        hot = basis(co.from_deviation(s, 0.0, top), rows.shape[1])
        every = s.shape[-1] == 1  # of which there is one product of matrices
        sums = (
            np.moveaxis(np.tensordot(hot[..., 0, :], rows, (-1, 1)), -1, 0)
            if every
            else contracted(rows, hot)
        )
        logs = co.bend(s) * sums
        first = np.where(self._known, s**2 * (1 - 1 / self._keys) * np.exp(logs), np.nan)
        return np.stack([first[0] / self._keys, first[1] / 2])

    def _logarithms(self, s: Floats, found: tuple[Floats, Floats]) -> Floats:
        """Inverse of what is done to the sums of the series, shape (2, ..., P)."""
        first = np.stack([found[0] * self._keys, 2 * found[1]])
        return np.asarray(np.log(first / (s**2 * (1 - 1 / self._keys))) / co.bend(s))


class KeyWeights:
    """Mean weight of a key whose score varies more or less than those of the others.

    Parameters
    ----------
    keys : array, shape (P,)
        Numbers of keys.
    source : Tables, optional
        By default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics.universal import KeyWeights
    >>> KeyWeights(np.array([8.0]))(np.ones(1), np.ones((1, 1))).tolist()
    [[0.0]]
    """

    def __init__(self, keys: Floats, source: Tables | None = None) -> None:
        self._known = (keys >= LEAST) & (keys <= MOST)
        inside = np.where(self._known, keys, LEAST)
        self._rows = _at_keys(inside, (source or tables()).weight)

    def __call__(self, s: Floats, ratio: Floats) -> Floats:
        """Logarithm of n times the weight.

        Parameters
        ----------
        s : array, shape (..., P)
            Standard deviations of the scores of the other keys.
        ratio : array, shape (..., P, B)
            Variances of the key's score over that of the others.

        Returns
        -------
        array, shape (..., P, B)
            The logarithms; NaN for too many keys.
        """
        s = np.minimum(s, HOT)
        hot = basis(co.from_deviation(s, 0.0, HOT), self._rows.shape[1])
        rows = contracted(self._rows, hot)
        wide = s[..., None]
        own = np.minimum(wide * np.sqrt(ratio), HOTTEST)
        series = Series(rows[..., None])
        found = turn(own, wide) * series(co.from_deviation(own, 0.0, HOTTEST))
        return np.where(self._known[:, None], found, np.nan)


@dataclass(frozen=True)
class _Own:
    """Queries at their scores: deviation, and logarithms by 1 - r."""

    std: Floats
    base: Series
    one: OneQuery

    @cached_property
    def most(self) -> Floats:
        """Square root of the excess."""
        return np.sqrt(self.one(self.std)[0])

    def of_gap(self, gap: Floats, index: Ints | None = None) -> Floats:
        """Logarithm of the excess overlap with a query alike, over r and the excess."""
        s = np.minimum(self.std, HOTTEST)
        place = co.from_gap(gap, s if index is None else s[..., index])
        return np.asarray((place + 1) / 2 * self.base(np.clip(place, -1.0, 1.0), index))


class Alike:
    """Excess overlap of two queries with the same keys and score deviations.

    Parameters
    ----------
    keys : array, shape (P,)
        Numbers of keys of both.
    source : Tables, optional
        By default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics import overlap
    >>> from sigprop.layers.attention.statistics.universal import Alike
    >>> found = Alike(np.array([64.0]))(np.array([2.0]), np.array([0.5]))
    >>> bool(abs(found[0] + 1 / 64 - overlap(2.0, 64, 0.5)) < 1e-4)
    True
    """

    def __init__(self, keys: Floats, source: Tables | None = None) -> None:
        source = source or tables()
        self._single = keys <= 1
        self._one = OneQuery(keys, source)
        self._base = _at_keys(np.clip(keys, LEAST, MOST), source.base)

    def __call__(self, s: Floats, r: Floats) -> Floats:
        """Excess overlap.

        Parameters
        ----------
        s : array, shape (..., P)
            Standard deviations of the scores.
        r : array, shape (..., P)
            Correlation of the two scores on one key, >= -0.3; more leading axes are many of them.

        Returns
        -------
        array, shape (..., P)
            The excess; zero for one key, NaN for too many.
        """
        own = self.at(s)
        found = r * own.most**2 * np.exp(own.of_gap(np.clip(1 - r, 0.0, co.MAX_GAP)))
        return np.where(self._single, 0.0, found)

    def at(self, s: Floats) -> _Own:
        """Find what depends on the scores alone."""
        cold = np.minimum(s, HOTTEST)
        hot = basis(co.from_deviation(cold, 0.0, HOTTEST), self._base.shape[1])
        return _Own(s, Series(co.bend(cold) * contracted(self._base, hot)), self._one)


class Couples:
    """Excess overlap of two queries.

    Parameters
    ----------
    keys : array, shape (P,)
        Numbers of keys of queries.
    i, j : arrays of int, shape (N,)
        Which couples of them.
    common : array, shape (N,)
        Number of keys that both see.
    source : Tables, optional
        By default those of the shipped file.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics import overlap
    >>> from sigprop.layers.attention.statistics.universal import Couples
    >>> keys, index = np.array([64.0]), np.array([0])
    >>> found = Couples(keys, index, index, keys)(np.array([2.0]), np.array([0.5]))
    >>> bool(abs(found[0] + 1 / 64 - overlap(2.0, 64, 0.5)) < 1e-4)
    True
    """

    def __init__(
        self, keys: Floats, i: Ints, j: Ints, common: Floats, source: Tables | None = None
    ) -> None:
        source = source or tables()
        swap = keys[i] > keys[j]
        self._i, self._j = np.where(swap, j, i), np.where(swap, i, j)
        n, later = keys[self._i], keys[self._j]
        self._empty = (common <= 0) | (n <= 1)
        self._known = ((n >= LEAST) & (later <= MOST)) | self._empty
        self._alike = Alike(keys, source)
        inside = np.clip(keys, LEAST, MOST)
        n, later = inside[self._i], inside[self._j]
        common = np.where(self._empty | ~self._known, n, common)
        self._small = small(n, later, common)
        self._even = common / (n * later)
        self._pair = _pair(source, n, later, common)

    def __call__(self, s: Floats, r: Floats, at: Index = ALL) -> Floats:
        """Excess overlap.

        Parameters
        ----------
        s : array, shape (..., P)
            Standard deviations of the scores.
        r : array, shape (..., N)
            Correlation of the two scores on a common key; more leading axes are many of them.
        at : array of int or slice, optional
            Which couples; all by default.

        Returns
        -------
        array, shape (..., N)
            The excess; zero where nothing is common or one query sees one key, NaN for too many
            keys. Beyond r = -0.3, where the table ends, the logarithm of the overlap goes on as a
            line, within a fifth of the overlap of equal weights.
        """
        own = self._alike.at(s)
        found = self._shares(own, r, at)
        return np.where(self._empty[at], 0.0, found * self._most(own, at))

    def share(self, s: Floats, r: Floats) -> Floats:
        """Excess overlap over the geometric mean of the excesses of both queries.

        Parameters
        ----------
        s, r
            As where it is called.

        Returns
        -------
        array, shape (..., N)
            The share; zero and NaN where the excess is.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.statistics.universal import Couples
        >>> keys, index = np.array([64.0]), np.array([0])
        >>> Couples(keys, index, index, keys).share(np.array([2.0]), np.array([1.0])).round(6)
        array([1.])
        """
        return self._shares(self._alike.at(s), r, ALL)

    def _most(self, own: _Own, at: Index) -> Floats:
        """Geometric mean of the excesses."""
        return np.asarray(own.most[..., self._i[at]] * own.most[..., self._j[at]])

    def _shares(self, own: _Own, r: Floats, at: Index) -> Floats:
        least, shares = 1 - co.MAX_GAP, self._at(own, at)
        beyond = r < least
        index = np.flatnonzero(beyond.any(axis=tuple(range(r.ndim - 1))))
        if not index.size:
            found = shares(r)
        else:
            before = np.full((*r.shape[:-1], index.size), least + STEP)
            rows = np.concatenate([np.maximum(r, least), before], axis=-1)
            number = r.shape[-1]
            rows = shares(rows, np.append(np.arange(number), index))
            found, before = rows[..., :number], rows[..., number:]
            some = np.arange(self._i.size)[at][index]
            even, most = self._even[some], self._most(own, some)
            further = _beyond(r[..., index], even, most, found[..., index], before)
            found[..., index] = np.where(beyond[..., index], further, found[..., index])
        return np.where(self._empty[at], 0.0, np.where(self._known[at], found, np.nan))

    def _at(self, own: _Own, at: Index) -> _Shares:
        """Shares of some couples, by r."""
        i, j = self._i[at], self._j[at]
        first, later = own.std[..., i], own.std[..., j]
        mean = np.minimum(np.sqrt(first * later), HOT)
        return _Shares(own, i, j, mean, self._small[at], self._apart(first, later, mean, at))

    def _apart(self, first: Floats, later: Floats, mean: Floats, at: Index) -> Series:
        """Logarithms that unlike queries add, over the bend, by 1 - r."""
        table = self._pair[at]
        size, *count = table.shape
        ratio = np.divide(later, first, out=np.ones_like(mean), where=first > 0)
        tilt = np.log(np.clip(ratio, 1 / WIDEST, WIDEST)) / np.log(WIDEST)
        hot, tilted = (  # couples come first: the table of each is read once for all stacks
            np.ascontiguousarray(basis(place, number).reshape(-1, size, number).swapaxes(0, 1))
            for place, number in ((co.from_deviation(mean, 0.0, HOT), count[0]), (tilt, count[1]))
        )
        rows = hot @ table.reshape(size, count[0], -1)
        rows = tilted[..., None, :] @ rows.reshape(size, -1, *count[1:])
        return Series(rows[..., 0, :].T.reshape(count[2], *mean.shape))


@dataclass(frozen=True)
class _Shares:
    """Couples at their scores: geometric mean of both deviations, and logarithms by 1 - r."""

    own: _Own
    i: Ints
    j: Ints
    mean: Floats
    small: Floats
    apart: Series

    def __call__(self, r: Floats, index: Ints | None = None) -> Floats:
        """Shares of some couples, where the tables hold r."""
        i, j, mean, log = self.i, self.j, self.mean, self.small
        if index is not None:
            i, j, mean, log = i[index], j[index], mean[..., index], log[index]
        gap = np.clip(1 - r, 0.0, co.MAX_GAP)
        place = np.clip(co.from_gap(gap, mean), -1.0, 1.0)
        log = log + co.bend(mean) * self.apart(place, index)
        both = self.own.of_gap(np.concatenate([gap, gap], axis=-1), np.concatenate([i, j]))
        log += (both[..., : i.size] + both[..., i.size :]) / 2
        return np.asarray(r * np.exp(log))


def _beyond(r: Floats, even: Floats, most: Floats, last: Floats, before: Floats) -> Floats:
    """Shares beyond the last r: the logarithm of the overlap goes on as a line."""
    end, start = (np.maximum(e * most + even, SMALL * even) for e in (last, before))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(start / end) / STEP
        return np.asarray((end * np.exp(slope * (r - 1 + co.MAX_GAP)) - even) / most)


def _at_keys(keys: Floats, table: Floats) -> Floats:
    """Sum over the first axis of a table."""
    return np.tensordot(basis(place_of_keys(keys), len(table)), table, 1)


def _pair(source: Tables, n: Floats, later: Floats, common: Floats) -> Floats:
    """Coefficients of what unlike queries add, shape (N, s, s'/s, r)."""
    part, out = source.part, _contracted(n, later, source.pair)
    inside = np.flatnonzero(common < n)
    share = (common / n)[inside]
    weights = (1 - share)[:, None] * basis(2 * share - 1, part.shape[2])
    rows = np.einsum("nk,nksv->nsv", weights, _contracted(n[inside], later[inside], part))
    out[inside, : rows.shape[1], 0, : rows.shape[2]] += rows
    return out


def _contracted(n: Floats, later: Floats, table: Floats) -> Floats:
    """Sum over both axes of lengths."""
    one = basis(place_of_keys(n), table.shape[0])
    two = basis(place_of_later(n, later), table.shape[1])
    both = (one[:, :, None] * two[:, None, :]).reshape(len(n), one.shape[1] * two.shape[1])
    return np.tensordot(both, _flat(table), 1)


def _flat(table: Floats) -> Floats:
    """Both axes of lengths as one."""
    return table.reshape(-1, *table.shape[2:])
