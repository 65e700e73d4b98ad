"""Keys of one query whose scores are correlated (E25e)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sigprop.core.arrays import Floats, Ints, Number, distinct
from sigprop.layers.attention.distance_grid import make_field
from sigprop.layers.attention.position_grid import Layout, moved, pairs_between
from sigprop.layers.attention.rotation import Rotation, frequencies
from sigprop.layers.attention.statistics.block_fields import (
    Attended,
    Fields,
    attended,
    factored,
)
from sigprop.layers.attention.statistics.boltzmann import HOTTEST
from sigprop.layers.attention.statistics.correlated_scores import LINEAR, MOST, SEED
from sigprop.layers.attention.statistics.table import MAX_SIGMA, Finite
from sigprop.layers.attention.statistics.unequal_lengths import mean_weights
from sigprop.layers.attention.statistics.universal import OneQuery

__all__ = [
    "ALONE",
    "RATIOS",
    "BlockedKeys",
    "CorrelatedKeys",
    "KeyCorrelation",
    "rotated_width",
]

WAVES = 32  # frequencies of rotary positions that are resolved
RATIOS = np.append(np.linspace(0.2, 1.45, 26), np.geomspace(1.5, 6.0, 18))
MERGED = 24  # blocks of keys whose scores share a field
FINE = 512  # positions between which their ends are interpolated
FAINT = 0.35  # score deviation below which what correlations do is linear in the score variance
SMALLEST = 1e-12  # nats
EVEN = 1e-12  # sum of squared deviations of weights that draws do not resolve


class KeyCorrelation(NamedTuple):
    r"""What correlated scores do to the attention of one query (E25e).

    Attributes
    ----------
    shrink : array, shape (..., P)
        Factor on the score deviation, at which independent scores have the Y_2 of correlated ones.
    near : array, shape (..., P)
        :math:`\nu - 1`: mean gap of two different keys drawn from one row of weights, over that of
        two drawn independently from the mean weights, less one.
    part : array, shape (..., P)
        What correlated keys keep of the deviations of mean weights from equal ones.
    loss : array, shape (..., P)
        Factor on :math:`\log n - H`, what attention lacks of the entropy of equal weights.

    Examples
    --------
    >>> from sigprop.layers.attention.key_correlations import KeyCorrelation
    >>> KeyCorrelation(1.0, 0.0, 1.0, 1.0).shrink
    1.0
    """

    shrink: Number
    near: Number
    part: Number
    loss: Number


ALONE = KeyCorrelation(1.0, 0.0, 1.0, 1.0)  # of independent scores, and of fewer than three keys


def rotated_width(head_width: float | None) -> float:
    """Head width whose rotary frequencies are used: more than `WAVES` change little.

    Parameters
    ----------
    head_width : float, optional
        Width of a head.

    Returns
    -------
    float
        At most twice `WAVES`.

    Examples
    --------
    >>> from sigprop.layers.attention.key_correlations import rotated_width
    >>> rotated_width(None), rotated_width(16)
    (64.0, 16)
    """
    return min(head_width or np.inf, 2.0 * WAVES)


@dataclass(frozen=True)
class BlockedKeys:
    """What correlations of the scores of its keys do to queries without rotary positions (E25e).

    Averages are those of `sigprop.layers.attention.statistics.block_fields` over `MERGED` blocks
    of keys, half of them evenly spaced in the logarithm of the position and half in its square
    root, which end where segments do.

    Parameters
    ----------
    parts : array of int, shape (K, B)
        Numbers of keys of each block that each query sees, at least two together.
    average : callable
        Averages over fields, as `sigprop.layers.attention.statistics.block_fields.attended`.
    joints : array of int, shape (J,)
        Blocks after the first with which segments of other layers begin, documents or chunks, at
        which the kernel is not smooth.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.key_correlations import BlockedKeys
    >>> one = np.ones((1, 1))
    >>> flat = 0.3 * np.ones((1, 1, 1, 1))  # a flat kernel has no nearer keys
    >>> found = BlockedKeys(np.array([[64]]))(4 * one[0], flat, np.sqrt(1.2) * one, one[None])
    >>> np.allclose(np.ravel(found), (1, 0, 1, 1), atol=1e-6)
    True
    """

    parts: Ints
    average: Callable[[Fields, Floats], Attended] = attended
    joints: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __call__(
        self, scale: Floats, deficit: Floats, sigma: Floats, weight: Floats
    ) -> KeyCorrelation:
        """Find `KeyCorrelation` of every query of every stack.

        Parameters
        ----------
        scale : array, shape (N,)
            Score variance of two keys of gap q.
        deficit : array, shape (N, K, B, B), or (N, 1, B, B)
            Gap over q of two keys, by block.
        sigma : array, shape (N, K)
            Standard deviations of the scores.
        weight : array, shape (N, K, B)
            Mean weight of a key of each block.

        Returns
        -------
        KeyCorrelation
            Of shape (N, K); the shrink is NaN where the theory does not cover the scores.
        """
        shape = sigma.shape
        count = np.broadcast_to(self._sizes.sum(axis=-1), shape).ravel()
        sizes = np.broadcast_to(self._sizes, (*shape, MERGED)).reshape(-1, MERGED)
        pairs = np.broadcast_to(self._pairs, (*shape, MERGED, MERGED)).reshape(-1, MERGED, MERGED)
        gaps = self._merged(deficit).reshape(pairs.shape)
        own = (self._groups @ (self.parts * weight)[..., None]).reshape(sizes.shape)
        own = np.divide(own, sizes, out=np.ones(sizes.shape), where=sizes > 0)
        most, s = gaps.max(axis=(1, 2)), sigma.ravel()
        still = (s > 0) & (most > 0) & (s <= MAX_SIGMA)
        safe = np.where(still, most, 1.0)
        gaps = np.where(still[:, None, None], gaps / safe[:, None, None], 1.0)
        s = np.where(still, s, 1.0)
        variance = np.repeat(scale, shape[-1]) * safe
        furthest = np.maximum(s, np.sqrt(variance))  # deviation of the keys furthest from others
        warmth = np.minimum(furthest / FAINT, 1.0) ** 2  # below it all is linear in the scale
        cold = np.minimum(HOTTEST / s, 1.0) ** 2  # beyond it attention is frozen
        variance *= cold / warmth
        fields = factored(np.where(still, variance, 0.0), gaps, sizes, own)
        found = self.average(fields, sizes)
        level = s * np.sqrt(cold / warmth)
        flat = attended(Fields(np.zeros((*s.shape, 1, 1)), level[:, None]), count[:, None])
        shrink = _shrink(found.y2, flat.y2, count, level)
        drawn = np.divide(
            found.weights * count[:, None], sizes, out=np.ones(sizes.shape), where=sizes > 0
        )
        part = _part(drawn - 1, own - 1, sizes)
        kept = 1 + part[:, None] * (own - 1)
        together = pairs * kept[:, :, None] * kept[:, None, :]
        mean = np.sum(together * gaps, axis=(1, 2)) / np.sum(together, axis=(1, 2))
        drawn_gap = np.sum(found.pairs * gaps, axis=(1, 2))
        near = drawn_gap / (1 - found.y2) / mean - 1
        loss = _lost(found.log_z, count, variance * drawn_gap)
        loss /= _lost(flat.log_z, count, level**2 * (1 - flat.y2))
        rows = 1 + warmth * (np.stack([shrink, 1 + near, part, loss]) - 1)
        plain = np.ones(rows.shape)
        plain[0, sigma.ravel() > MAX_SIGMA] = np.nan
        shrink, apart, part, loss = np.where(still, rows, plain).reshape(-1, *shape)
        return KeyCorrelation(shrink, apart - 1, part, loss)

    def roughness(self, deficit: Floats) -> float:
        """Find how far merged blocks are from a kernel, over it, as root mean squares over pairs.

        Parameters
        ----------
        deficit : array, shape (B, B)
            Gap over q of two keys, by block.

        Returns
        -------
        float
            The largest over the queries; zero of a kernel that no block resolves.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.key_correlations import BlockedKeys
        >>> parts = np.ones((1, 64), dtype=int)
        >>> even = np.subtract.outer(range(64), range(64)) % 2
        >>> BlockedKeys(parts).roughness(even) > 0.3
        True
        """
        spread_out = (
            np.swapaxes(self._groups, 1, 2) @ self._merged(deficit[None, None])[0] @ self._groups
        )
        off, whole = (
            np.sum(self._apart * square, axis=(1, 2))
            for square in (
                (deficit - spread_out) ** 2,
                np.broadcast_to(deficit**2, self._apart.shape),
            )
        )
        return float(np.sqrt(np.max(off / np.where(whole > 0, whole, 1.0))))

    def _merged(self, deficit: Floats) -> Floats:
        """Mean gaps of pairs of different keys of merged blocks, shape (N, K, M, M)."""
        turned = np.swapaxes(self._groups, 1, 2)
        gaps = self._groups @ (self._apart * deficit) @ turned
        return np.divide(gaps, self._pairs, out=np.zeros(gaps.shape), where=self._pairs > 0)

    @cached_property
    def _groups(self) -> Floats:
        """Which merged block each block belongs to, shape (K, M, B)."""
        end = np.cumsum(self.parts, axis=1)
        rows = np.zeros((len(end), MERGED, end.shape[1]))
        for row, ends in zip(rows, end, strict=True):
            cuts = distinct(_cuts(ends[-1]).round())
            joints = distinct(ends[self.joints - 1])
            cuts[:-1] = moved(cuts, joints[(joints > 0) & (joints < ends[-1])])[:-1]
            _, group = np.unique(np.searchsorted(cuts, ends), return_inverse=True)
            row[group, np.arange(ends.size)] = 1.0
        return rows

    @cached_property
    def _sizes(self) -> Floats:
        """Numbers of keys of the merged blocks, shape (K, M)."""
        return np.asarray(np.einsum("kmb,kb->km", self._groups, self.parts))

    @cached_property
    def _apart(self) -> Floats:
        """Numbers of pairs of different keys of two blocks, shape (K, B, B)."""
        return np.stack([pairs_between(sizes) for sizes in self.parts])

    @cached_property
    def _pairs(self) -> Floats:
        """Likewise of two merged blocks, shape (K, M, M)."""
        return np.asarray(self._groups @ self._apart @ np.swapaxes(self._groups, 1, 2))


@dataclass(frozen=True)
class CorrelatedKeys:
    """What correlations of the scores of its keys do to one query (E25e).

    Fields are drawn as in `sigprop.layers.attention.statistics.correlated_scores` (E6r).

    Parameters
    ----------
    rotation : Rotation, optional
        Rotary positions.
    head_width : float, optional
        Width of a head.
    draws : int
        Largest number of draws.
    seed : int
        Their seed.

    Examples
    --------
    >>> from sigprop.layers.attention.key_correlations import CorrelatedKeys
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> CorrelatedKeys(Rotation(1e4)).draws
    2048
    """

    rotation: Rotation | None = None
    head_width: float | None = None
    draws: int = MOST
    seed: int = SEED

    def __call__(
        self, scale: float, deficit: Floats, sizes: Ints, sigma: float, weight: Floats
    ) -> KeyCorrelation:
        """Find `KeyCorrelation` of one query.

        Parameters
        ----------
        scale : float
            Score variance of two keys of gap q.
        deficit : array, shape (B, B)
            Gap over q of two keys, by block.
        sizes : array of int, shape (B,)
            Numbers of keys seen of each block, at least two together.
        sigma : float
            Standard deviation of the scores.
        weight : array, shape (B,)
            Mean weight of a key of each block.

        Returns
        -------
        KeyCorrelation
            What the same draws give for independent scores is taken out of the shrink and the
            part; the first is NaN where the theory does not cover the scores.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.key_correlations import CorrelatedKeys
        >>> one = np.ones(1)
        >>> found = CorrelatedKeys()(4.0, 0.3 * np.ones((1, 1)), np.array([64]), np.sqrt(1.2), one)
        >>> np.allclose(found, (1, 0, 1, 1), atol=1e-6)  # a flat kernel has no nearer keys
        True
        """
        held = np.flatnonzero(sizes)
        sizes, deficit, weight = sizes[held], deficit[np.ix_(held, held)], weight[held]
        count, most = int(sizes.sum()), float(deficit.max())
        if not sigma or not most:
            return ALONE
        if not sigma <= MAX_SIGMA:
            return KeyCorrelation(float("nan"), 0.0, 1.0, 1.0)
        if self.rotation is None:  # what all keys have in common cancels
            scale, deficit = scale * most, deficit / most
        warmth = min(scale / LINEAR, 1.0)  # below it all is linear in the scale
        field = make_field(count, self.rotation, self.head_width, self.draws, self.seed)
        found = field.blocked(scale / warmth, deficit, sizes)
        flat = field.independent(sigma**2 / warmth, sizes)
        loss = (np.log(count) - found.entropy) / (np.log(count) - flat.entropy)
        shrink = self._shrink(
            (found.y2 - 1 / count) / (flat.y2 - 1 / count), count, sigma / np.sqrt(warmth)
        )
        drawn = found.weights / flat.weights - 1
        part = float(_part(drawn, weight - 1, sizes)) if warmth == 1 else 1.0
        kept = 1 + part * (weight - 1)
        together = pairs_between(sizes) * np.outer(kept, kept)
        near = found.deficit / (1 - found.y2) * np.sum(together) / np.sum(together * deficit)
        return KeyCorrelation(
            shrink, float(warmth * (near - 1)), part, float(1 + warmth * (loss - 1))
        )

    def alone(self, scale: float, deficit: Floats, sizes: Ints) -> KeyCorrelation:
        """Find `KeyCorrelation` of one query, with the scores and weights that its keys imply.

        Parameters
        ----------
        scale, deficit, sizes
            As where it is called.

        Returns
        -------
        KeyCorrelation
            Likewise.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.key_correlations import CorrelatedKeys
        >>> found = CorrelatedKeys().alone(4.0, 0.3 * np.ones((1, 1)), np.array([64]))
        >>> np.allclose(found, (1, 0, 1, 1), atol=1e-6)
        True
        """
        omega = frequencies(self.rotation, rotated_width(self.head_width))
        waves = Layout(np.append(0, np.cumsum(sizes))).waves(omega).mean(axis=0)
        pairs, values = pairs_between(sizes), deficit * waves + 1 - waves
        own = float(np.sum(pairs * values) / np.sum(pairs))
        number = np.sum(pairs, axis=1)
        beside = np.divide(np.sum(pairs * values, axis=1), number, where=number > 0, out=0 * number)
        sigma, ratio = float(np.sqrt(scale * own)), np.maximum(2 * beside / own - 1, 0.0)
        count = np.array([float(sizes.sum())])
        weight = mean_weights(np.array([sigma]), count, ratio[None])[0]
        return self(scale, deficit, sizes, sigma, weight / (weight @ sizes) * count)

    def _shrink(self, excess: float, count: float, sigma: float) -> float:
        """Part of a score deviation at which independent scores have a part of their excess."""
        from scipy.interpolate import PchipInterpolator

        b = np.append(RATIOS, 1.0) * sigma / np.sqrt(np.log(count))
        *known, whole = np.asarray(Finite(count, self.head_width).weights(b, 1.0).excess)
        held = np.asarray(known)[np.isfinite(known)] / whole  # the theory covers no larger scores
        if not np.isfinite(whole) or len(held) < 2:
            return float("nan")
        x, first = np.unique(held, return_index=True)
        return float(PchipInterpolator(x, RATIOS[first])(np.clip(excess, x[0], x[-1])))


def _cuts(count: int) -> Floats:
    """Positions at which log s / log n + (sqrt s - 1) / (sqrt n - 1) is evenly spaced."""
    s = np.geomspace(1, count, FINE)
    place = np.log(s) / np.log(count) + (np.sqrt(s) - 1) / (np.sqrt(count) - 1)
    return np.interp(np.linspace(0, 2, MERGED), place, s)


def _lost(log_z: Floats, count: Floats, energy: Floats) -> Floats:
    r"""Find :math:`\log n - H`, where :math:`H = E \log Z - E\,E_p[s]` by Stein's lemma."""
    return np.maximum(np.log(count) - log_z + energy, SMALLEST)


def _shrink(y2: Floats, flat: Floats, count: Floats, sigma: Floats) -> Floats:
    """Part of a score deviation at which independent scores have a participation ratio.

    The same sum over u of independent scores, which have no field, cancels its error.
    """
    one = OneQuery(count)
    with np.errstate(divide="ignore"):
        logs = np.log(one(RATIOS[:, None] * sigma)[0] / one(sigma)[0])
        place = np.log(np.maximum((y2 - 1 / count) / (flat - 1 / count), 0.0))
    place = np.clip(place, logs[0], logs[-1])
    last = np.clip(np.sum(logs <= place, axis=0), 1, len(RATIOS) - 1)
    low, high = (np.take_along_axis(logs, i[None], 0)[0] for i in (last - 1, last))
    part = (place - low) / (high - low)
    return np.asarray(np.exp((1 - part) * np.log(RATIOS[last - 1]) + part * np.log(RATIOS[last])))


def _part(drawn: Floats, more: Floats, sizes: Floats | Ints) -> Floats:
    """Slope of deviations of weights in those of independent keys, over the last axis."""
    square, rise = (np.sum(sizes * one * more, axis=-1) for one in (more, drawn))
    part = np.divide(rise, square, out=np.ones_like(square), where=square > EVEN)
    return np.asarray(np.clip(part, 0.0, 1.0))
