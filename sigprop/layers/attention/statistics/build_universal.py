"""Make the universal tables: about two minutes on one core.

Run as ``python -m sigprop.layers.attention.statistics.build_universal [--out FILE]``. Every node is
a quadrature (`sigprop.layers.attention.statistics.moments`,
`sigprop.layers.attention.statistics.all_lengths`); the same ones measure the errors that the file
holds, at random points of three domains.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np

from sigprop.core.arrays import Floats
from sigprop.core.numerics.chebyshev import basis, nodes, transform
from sigprop.layers.attention.statistics import coordinates as co
from sigprop.layers.attention.statistics import universal as un
from sigprop.layers.attention.statistics.all_lengths import excess_overlaps, mean_key_weights
from sigprop.layers.attention.statistics.moments import entropy_deficit
from sigprop.layers.attention.statistics.pairs import excess

COUNTS = {  # Chebyshev nodes of each axis
    "single": (16, 48),  # n, s
    "weight": (18, 24, 24),  # n, s, deviation of the key
    "base": (14, 36, 26),  # n, s, r
    "pair": (10, 7, 15, 7, 8),  # n, n'/n, mean s, s'/s, r
    "part": (10, 4, 4, 10, 8),  # n, n'/n, c/n, mean s, r
}
BOUNDS = np.array(
    [[3.0, 4096.0], [8.0, 131072.0], [15.0, 1e6]]
)  # s and n where errors are measured
POINTS = 150  # pairs of score deviations at which they are, of ten pairs of lengths each
SEED = 17
Track = Callable[[Iterable[tuple[int, ...]], str], Iterable[tuple[int, ...]]]


def single() -> Floats:
    """Logarithms of excess and deficit over their behaviour at small s."""
    n = un.keys_at(nodes(COUNTS["single"][0]))[:, None]
    s = co.to_deviation(nodes(COUNTS["single"][1]), 0.0, un.HOTTEST)
    first = s**2 * (1 - 1 / n)
    both = np.stack([excess(s, n) * n, 2 * entropy_deficit(s, n)], axis=-1)
    return np.log(both / first[..., None]) / co.bend(s)[:, None]


def weight() -> Floats:
    """Log weight of a key over its behaviour at small s."""
    n, s, own = COUNTS["weight"]
    keys = un.keys_at(nodes(n))
    deviations = co.to_deviation(nodes(s), 0.0, un.HOT)
    others = co.to_deviation(nodes(own), 0.0, un.HOTTEST)
    rows = [np.log(mean_key_weights(one, keys, others)) for one in deviations.tolist()]
    return np.stack(rows, axis=1) / un.turn(others, deviations[:, None])


def base(track: Track) -> Floats:
    """Log overlap of equal queries over r times their excess."""
    n, s, r = COUNTS["base"]
    keys, deviations = un.keys_at(nodes(n)), co.to_deviation(nodes(s), 0.0, un.HOTTEST)
    most = [excess_overlaps(one, one, 1.0, keys, keys[:, None])[:, 0] for one in deviations]
    out = np.empty((n, s, r))
    for a, b in track(product(range(s), range(r)), "equal queries"):
        one = float(deviations[a])
        gap = float(co.to_gap(nodes(r)[b], one))
        found = excess_overlaps(one, one, 1 - gap, keys, keys[:, None])[:, 0]
        out[:, a, b] = np.log(found / (1 - gap) / most[a]) / co.bend(np.asarray(one))
    return out * 2 / (1 + nodes(r))


def pair(single_table: Floats, base_table: Floats, track: Track) -> Floats:
    """Log overlap of unlike queries over that of equal ones."""
    n, later, mean, ratio, r = COUNTS["pair"]
    keys, keys_later = _lengths(n, later)
    out = np.empty(COUNTS["pair"])
    for a, b, c in track(product(range(mean), range(ratio), range(r)), "unlike queries"):
        s = float(co.to_deviation(nodes(mean)[a], 0.0, un.HOT))
        first, second = (s * float(un.WIDEST ** (k * nodes(ratio)[b] / 2)) for k in (-1, 1))
        gap = float(co.to_gap(nodes(r)[c], s))
        found = excess_overlaps(first, second, 1 - gap, keys, keys_later)
        log = np.log(found / (1 - gap)) - un.small(keys[:, None], keys_later, keys[:, None])
        for one, lengths in ((first, keys[:, None]), (second, keys_later)):
            log -= _alike(single_table, base_table, one, gap, lengths) / 2
        out[:, :, a, b, c] = log / co.bend(np.asarray(s))
    return out


def part(track: Track) -> Floats:
    """Log overlap of queries that share a part of the keys, over that of all, at equal s."""
    n, later, share, mean, r = COUNTS["part"]
    keys, keys_later = _lengths(n, later)
    shares = (1 + nodes(share)) / 2
    out = np.empty(COUNTS["part"])
    for a, b in track(product(range(mean), range(r)), "windows"):
        s = float(co.to_deviation(nodes(mean)[a], 0.0, un.HOT))
        gap = float(co.to_gap(nodes(r)[b], s))
        whole = _over_small(s, gap, keys, keys_later, keys)
        for c, f in enumerate(shares.tolist()):
            rest = _over_small(s, gap, keys, keys_later, f * keys) - whole
            out[:, :, c, a, b] = rest / co.bend(np.asarray(s)) / (1 - f)
    return out


def _over_small(s: float, gap: float, keys: Floats, keys_later: Floats, common: Floats) -> Floats:
    """Log overlap less its behaviour at small s, up to what does not depend on `common`."""
    found = excess_overlaps(s, s, 1 - gap, keys, keys_later, common)
    return np.log(found / (1 - gap)) - un.small(keys[:, None], keys_later, common[:, None])


def _lengths(n: int, later: int) -> tuple[Floats, Floats]:
    keys = un.keys_at(nodes(n))
    return keys, un.later_at(keys[:, None], nodes(later))


def _alike(single_table: Floats, base_table: Floats, s: float, gap: float, keys: Floats) -> Floats:
    """Log E/r of two equal queries from the tables."""
    place = co.from_gap(np.asarray(gap), s)
    hot = co.from_deviation(np.asarray(s), 0.0, un.HOTTEST)
    one = single_table[..., 0] @ basis(hot, single_table.shape[1])
    two = base_table @ basis(place, base_table.shape[2]) @ basis(hot, base_table.shape[1])
    n = un.place_of_keys(keys)
    log = basis(n, len(one)) @ one + basis(n, len(two)) @ two * (1 + place) / 2
    return log * co.bend(np.asarray(s)) + np.log(s**2 * (1 - 1 / keys) / keys)


def coefficients(values: Floats, axes: int) -> Floats:
    """Chebyshev coefficients along the first axes."""
    for axis in range(axes):
        values = transform(values, axis)
    return values


def measured(source: un.Tables, track: Track) -> dict[str, Floats]:
    """Errors of tables at random points of every domain."""
    found = [_measure(source, np.random.default_rng([SEED, k]), bound, track)
             for k, bound in enumerate(BOUNDS.tolist())]  # fmt: skip
    out = {
        f"error_{name}": np.array(
            [[np.quantile(one[name], 0.95), one[name].max()] for one in found]
        )
        for name in found[0]
    }
    return {"error_bounds": BOUNDS, **out}


def _measure(
    source: un.Tables, rng: np.random.Generator, bound: list[float], track: Track
) -> dict[str, Floats]:
    """Errors at random points up to a score deviation and a number of keys."""
    hot, most = bound
    rows: dict[str, list[Floats]] = {name: [] for name in ("single", "weight", "pair", "part")}
    for _ in track(((k,) for k in range(POINTS)), f"errors up to s = {hot:g}"):
        s, later, r, share = rng.uniform([0, 0, -0.3, 0], [hot, hot, 1.05, 1])
        later = min(max(later, s / un.WIDEST), s * un.WIDEST)
        lengths = un.LEAST * (most / un.LEAST) ** rng.uniform(size=(2, 10))
        keys, more = lengths.min(axis=0), lengths.max(axis=0)
        rows["single"].append(_off_single(source, s, keys))
        rows["weight"].append(_off_weight(source, s, later, keys))
        for name, common in (("pair", keys), ("part", share * keys)):
            rows[name].append(_off_pair(source, (s, later), min(r, 1.0), keys, more, common))
    return {name: np.abs(np.concatenate(row)) for name, row in rows.items()}


def _off_single(source: un.Tables, s: float, keys: Floats) -> Floats:
    found = un.OneQuery(keys, source)(np.full(keys.size, s))
    return np.concatenate([found[0] - excess(s, keys), found[1] - entropy_deficit(s, keys)])


def _off_weight(source: un.Tables, s: float, own: float, keys: Floats) -> Floats:
    found = un.KeyWeights(keys, source)(
        np.full(keys.size, s), np.full((keys.size, 1), (own / s) ** 2)
    )
    exact = mean_key_weights(s, keys, np.array([own]))
    return np.expm1(found - np.log(exact))[:, 0]


def _off_pair(
    source: un.Tables, s: tuple[float, float], r: float, keys: Floats, more: Floats, common: Floats
) -> Floats:
    exact = excess_overlaps(*s, r, keys, more[:, None], common)[:, 0]
    index = np.arange(keys.size)
    couples = un.Couples(np.concatenate([keys, more]), index, index + keys.size, common, source)
    return couples(np.repeat(s, keys.size), np.full(keys.size, r)) - exact


def build(path: Path, track: Track) -> None:
    """Compute every node, measure the errors and write both to `path`."""
    data: dict[str, Floats] = {"version": np.array(un.VERSION), "domain": un.DOMAIN}
    data["single"] = coefficients(single(), 2)
    data["weight"] = coefficients(weight(), 3)
    data["base"] = coefficients(base(track), 3)
    data["pair"] = coefficients(pair(data["single"], data["base"], track), 5)
    data["part"] = coefficients(part(track), 5)
    for name in un.Tables._fields:
        data[name] = data[name].astype(np.float32)
    data |= measured(un.of_data(data), track)
    np.savez_compressed(path, allow_pickle=False, **data)


def main() -> None:
    """Build with a progress bar for each table."""
    from rich.progress import Progress

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("universal.npz"))
    options = parser.parse_args()
    with Progress() as progress:
        build(options.out, lambda rows, what: progress.track(list(rows), description=what))


if __name__ == "__main__":
    main()
