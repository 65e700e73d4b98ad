r"""Random energies correlated along a line: attention over stationary Gaussian fields (E6r).

No closed form of E6 is known for them, so fields are drawn, with normals that are fixed by `SEED`:
results are smooth in every parameter. With the covariance

.. math:: Cov(a_s, a_{s'}) = \frac{v}{F} \sum_i g_i K(s - s') \cos\omega_i(s - s'),

:math:`g_i \sim \chi^2_2/2` for a head of finite width, or one, what all tokens have in common,
:math:`K_\infty`, is a sum of waves with random amplitudes; the rest,
:math:`(K - K_\infty) \cos\omega_i\Delta`, vanishes at distance T and is drawn by circulant
embedding (Dietrich & Newsam 1997, SIAM J. Sci. Comput. 18, 1088), which is exact when K falls and
is convex; otherwise negative parts of its spectrum are set to zero. Amplitudes of waves are
whitened over the draws (scaled, where there are fewer draws than waves), and every draw is taken
with both signs, so that the first order is within 1 %; below `LINEAR` it is exact.

Under a mask the kernel is one number for each pair of blocks, with or without rotation, and is
drawn from its `RANK` largest factors; what they leave is each key's own.

Error: that of the mean over draws, given as `PairAverages.error` (not under a mask, where it is the
same); small scores err less than it says, since first orders cancel. The same draws serve all
layers of a stack, so their errors add up. Sizes: notebooks/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sigprop.core.arrays import Floats, Ints

__all__ = ["LINEAR", "MOST", "SEED", "Blocked", "Field", "PairAverages"]

SEED = 20252405
MOST, LEAST = 2048, 128  # draws, each with either sign
ELEMENTS = 2**22  # of a chunk of draws
Single = NDArray[np.float32]
Drawn = TypeVar("Drawn")
RANK = 16  # factors of a blockwise kernel; what they leave is each key's own
LINEAR = 1e-3  # energy variance below which the response is linear, to the same accuracy


class PairAverages(NamedTuple):
    """Where a query's attention lies.

    Attributes
    ----------
    pairs : array, shape (T,)
        Probability that two keys of one query are at each distance, 0 to T - 1; first Y_2.
    entropy : float
        In nats.
    error : float
        Standard error of Y_2 over the draws.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.correlated_scores import PairAverages
    >>> PairAverages([1.0, 0.0], 0.0, 0.0).entropy
    0.0
    """

    pairs: Floats
    entropy: float
    error: float


class Blocked(NamedTuple):
    """Attention where the kernel is blockwise.

    Attributes
    ----------
    y2 : float
        Participation ratio.
    deficit : float
        Mean of one minus the kernel over two keys of one query, zero where they are the same.
    weights : array, shape (B,)
        Mean weight of all keys of each block.
    entropy : float
        In nats.

    Examples
    --------
    >>> from sigprop.layers.attention.statistics.correlated_scores import Blocked
    >>> Blocked(0.5, 0.1, [1.0], 0.7).deficit
    0.1
    """

    y2: float
    deficit: float
    weights: Floats
    entropy: float


class Field:
    """Fixed draws of the scores of one query over a context.

    Parameters
    ----------
    context : int
        Number of keys T, >= 2.
    omega : array, shape (F,)
        Frequencies in radians a token.
    random_heads : bool
        Whether the weights of frequencies are random, as in a head of width 2F.
    seed : int
        Seed of all draws.
    most : int
        Largest number of draws, >= 128.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.layers.attention.statistics import moments
    >>> from sigprop.layers.attention.statistics.correlated_scores import Field
    >>> found = Field(64, np.zeros(1)).pair_averages(4.0, np.eye(64)[0])  # independent energies
    >>> bool(abs(found.pairs[0] - moments(2.0, 64).y2) < 4 * found.error)
    True
    """

    def __init__(
        self,
        context: int,
        omega: Floats,
        random_heads: bool = False,
        seed: int = SEED,
        most: int = MOST,
    ) -> None:
        from scipy.fft import next_fast_len

        self._kept: dict[str, Any] = {}
        self.context, self.omega, self.seed = context, np.asarray(omega, float), seed
        self._half = int(next_fast_len(context, real=True))
        self._chunk = max(1, ELEMENTS // (2 * self._half))
        self.draws = int(np.clip(self._chunk, LEAST, most))
        rng, count = np.random.default_rng(seed), self.omega.size
        shape = (self.draws, count)
        weights = rng.exponential(size=shape) if random_heads else np.ones(shape)
        normals = rng.standard_normal((self.draws, 2 * count))
        self._weights = weights.astype(np.float32)
        self._amplitudes = whitened(normals * np.tile(np.sqrt(weights), 2)).astype(np.float32)

    def pair_averages(self, variance: float, kernel: Floats) -> PairAverages:
        """Average attention over the draws.

        Parameters
        ----------
        variance : float
            Variance v of the scores where the kernel is one, >= 0.
        kernel : array, shape (T,)
            Kernel K of two keys by distance, 0 to T - 1; best falling and convex.

        Returns
        -------
        PairAverages
            Pair probabilities, entropy and standard error.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.statistics.correlated_scores import Field
        >>> Field(4, np.zeros(1)).pair_averages(0.0, np.ones(4)).pairs.tolist()
        [0.25, 0.375, 0.25, 0.125]
        """
        covariance = variance * kernel * self._rotation
        if covariance[0] < LINEAR:
            return self._linear(covariance)
        return self._average(variance, kernel)

    def _linear(self, covariance: Floats) -> PairAverages:
        r"""First order, :math:`1 + c_{ss'} + 3\overline c - 2\overline c_s - 2\overline c_{s'}`."""
        sums, count = np.cumsum(covariance), np.arange(1, self.context + 1)
        own = (sums + sums[::-1] - covariance[0]) / self.context  # mean over the keys, by position
        pair = (np.cumsum(own) / count)[::-1]  # mean over the pairs at each distance
        mean = float(np.mean(own))
        entropy = np.log(self.context) - (covariance[0] - mean) / 2
        return PairAverages(
            self._uniform * (1 + covariance + 3 * mean - 4 * pair), float(entropy), 0.0
        )

    def blocked(self, variance: float, deficit: Floats, sizes: Ints) -> Blocked:
        """Average attention where the kernel is one number for each pair of blocks of keys.

        Parameters
        ----------
        variance : float
            Variance of the scores, >= 0.
        deficit : array, shape (B, B)
            One minus the kernel of two different keys, symmetric; its diagonal is not used where a
            block has one key.
        sizes : array of int, shape (B,)
            Numbers of keys of the blocks, in order; their sum is T.

        Returns
        -------
        Blocked
            Participation ratio and mean deficit, by as many draws as `picks` takes.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.statistics.correlated_scores import Field
        >>> found = Field(64, np.zeros(1)).blocked(0.0, np.array([[0.5]]), np.array([64]))
        >>> found.y2 * 64, found.deficit * 128
        (1.0, 63.0)
        """
        return self._picked(self._correlated(variance, deficit, sizes), deficit, sizes)

    def independent(self, variance: float, sizes: Ints) -> Blocked:
        """Like `blocked`, of independent scores, by the same draws of what keys have alone.

        Parameters
        ----------
        variance : float
            Variance of the scores, >= 0.
        sizes : array of int, shape (B,)
            Numbers of keys of the blocks.

        Returns
        -------
        Blocked
            What theory knows without draws, so that the difference is their error; no deficit.

        Examples
        --------
        >>> import numpy as np
        >>> from sigprop.layers.attention.statistics.correlated_scores import Field
        >>> Field(64, np.zeros(1)).independent(0.0, np.array([64])).y2 * 64
        1.0
        """
        noise = (self._drawn(part)[1] * np.float32(np.sqrt(variance)) for part in self._parts())
        return self._picked(noise, np.zeros((len(sizes), len(sizes))), sizes)

    def _correlated(self, variance: float, deficit: Floats, sizes: Ints) -> Iterator[Single]:
        """Draws of the scores of keys whose kernel is blockwise."""
        roots, own = _factors(deficit, sizes)
        ends = np.cumsum(sizes)
        for part in self._parts():
            modes, noise = self._drawn(part)
            amplitudes = np.tensordot(np.float32(np.sqrt(variance)) * roots, modes, 1)
            scores = noise * np.sqrt(variance * np.repeat(own, sizes)).astype(np.float32)
            for amplitude, size, end in zip(amplitudes, sizes, ends, strict=True):
                block = slice(end - size, end)
                scores[:, block] += amplitude @ self._waves[:, block]
            yield scores

    def _picked(self, draws: Iterator[Single], deficit: Floats, sizes: Ints) -> Blocked:
        """Means over draws of scores, each taken with both signs."""
        start, size = np.cumsum(sizes) - sizes, len(sizes)
        same, weights, pairs = np.zeros(size), np.zeros(size), np.zeros((size, size))
        entropy = 0.0
        for scores in draws:
            for field in (scores, -scores):
                p, h = _softmax(field)
                entropy += float(np.sum(h, dtype=float))
                inside = np.add.reduceat(p, start, axis=1).astype(float)
                same += np.add.reduceat(np.square(p), start, axis=1).sum(axis=0, dtype=float)
                weights += inside.sum(axis=0)
                pairs += inside.T @ inside
        pairs -= np.diag(same)
        count = 2 * self.draws
        apart = float(np.sum(pairs * deficit)) / count
        return Blocked(float(np.sum(same)) / count, apart, weights / count, entropy / count)

    def _drawn(self, part: slice) -> tuple[Single, Single]:
        """Amplitudes of the waves of each factor, shape (R, n, 2F), and what keys have alone."""
        return self._once("blocked", part, self._draw)

    def _draw(self, rng: np.random.Generator, part: slice) -> tuple[Single, Single]:
        weights, count = self._weights[part], part.stop - part.start
        rest = rng.standard_normal((RANK - 1, count, 2 * self.omega.size), np.float32)
        rest *= np.tile(np.sqrt(weights), 2)
        modes = np.concatenate([self._amplitudes[None, part], rest])
        noise = rng.standard_normal((count, self.context), np.float32)
        noise *= np.sqrt(weights.mean(axis=1, keepdims=True))
        modes /= np.float32(np.sqrt(self.omega.size))
        return modes, noise

    def _parts(self) -> Iterator[slice]:
        for first in range(0, self.draws, self._chunk):
            yield slice(first, min(first + self._chunk, self.draws))

    def _common(self, variance: float) -> Single:
        """Waves that all tokens share, of the given variance, shape (2F, T)."""
        return np.asarray(np.float32(np.sqrt(variance / self.omega.size)) * self._waves)

    def _average(self, variance: float, kernel: Floats) -> PairAverages:
        from scipy.fft import dct, rfft

        common = float(np.maximum(kernel.min(), 0.0))
        waves = self._common(variance * common)
        spectrum = self._spectrum(variance / self.omega.size * (kernel - common))
        power = np.zeros(self._half + 1)
        entropy, y2 = np.zeros((2, self.draws))
        for part in self._parts():
            scores = self._amplitudes[part] @ waves
            scores += self._rest(self._weights[part] @ spectrum, part)
            for field in (scores, -scores):  # odd orders cancel
                p, h = _softmax(field)
                entropy[part] += h / 2
                y2[part] += np.einsum("ij,ij->i", p, p) / 2
                waved = rfft(p, 2 * self._half, axis=1)
                power += np.sum(np.square(waved.real) + np.square(waved.imag), axis=0, dtype=float)
        pairs = dct(power, 1)[: self.context]
        pairs[0] /= 2
        pairs /= np.sum(pairs)  # rounding of the weights exceeds the response of cold attention
        error = float(np.std(y2) / np.sqrt(self.draws))
        return PairAverages(np.asarray(pairs), float(np.mean(entropy)), error)

    def _spectrum(self, kernel: Floats) -> Single:
        """Spectra of the kernel rotated by each frequency, shape (F, N/2+1), period N."""
        from scipy.fft import dct

        rows = np.zeros((self.omega.size, self._half + 1), np.float32)
        rows[:, : self.context] = self._waves[: self.omega.size] * kernel.astype(np.float32)
        rows = np.maximum(dct(rows, 1, overwrite_x=True), 0.0)
        total = rows[:, 0] + rows[:, -1] + 2 * np.sum(rows[:, 1:-1], axis=1)
        whole = np.float32(2 * self._half * kernel[0])
        scale = np.divide(whole, total, out=np.zeros_like(total), where=total > 0)
        return np.asarray(rows * scale[:, None])

    def _rest(self, spectrum: Single, part: slice) -> Single:
        """Field with the given spectrum for each of a chunk of draws, shape (n, T)."""
        from scipy.fft import irfft

        white = self._once("white", part, self._white)
        return np.asarray(irfft(np.sqrt(spectrum) * white, 2 * self._half)[:, : self.context])

    def _white(self, rng: np.random.Generator, part: slice) -> NDArray[np.complex64]:
        """Transform of white noise."""
        from scipy.fft import rfft

        shape = part.stop - part.start, 2 * self._half
        return np.asarray(rfft(rng.standard_normal(shape, np.float32)))

    def _once(
        self, name: str, part: slice, draw: Callable[[np.random.Generator, slice], Drawn]
    ) -> Drawn:
        """Draw a chunk, or find it where one chunk holds all draws."""
        if name not in self._kept:
            drawn = draw(np.random.default_rng([self.seed, part.start]), part)
            if part.stop - part.start < self.draws:
                return drawn
            self._kept[name] = drawn
        found: Drawn = self._kept[name]
        return found

    @cached_property
    def _waves(self) -> Single:
        """Cosines and sines of each frequency by position, shape (2F, T)."""
        angle = np.outer(self.omega, np.arange(self.context))
        return np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32)

    @cached_property
    def _rotation(self) -> Floats:
        """Mean cosine over frequencies by distance, shape (T,)."""
        return np.asarray(np.mean(self._waves[: self.omega.size], axis=0, dtype=float))

    @cached_property
    def _uniform(self) -> Floats:
        """Distribution of the distance of two random keys, shape (T,)."""
        pairs = 2 * (1 - np.arange(self.context) / self.context) / self.context
        pairs[0] /= 2
        return np.asarray(pairs)


def _factors(deficit: Floats, sizes: Ints) -> tuple[Single, Floats]:
    """Largest factors of a kernel, shape (B, R), and what they leave of each key.

    A block of one key has no two different keys: its diagonal is that of its nearest other. An
    eigenvector's sign is chosen by the last bits of the solver, and another sign is another draw:
    here its product with 1, ..., B is positive.
    """
    others = np.where(np.eye(len(sizes), dtype=bool), np.inf, deficit).min(axis=0)
    diagonal = np.where(sizes > 1, np.diagonal(deficit), others)
    values, vectors = np.linalg.eigh(1 - deficit + np.diag(np.diagonal(deficit) - diagonal))
    vectors = vectors * np.where(np.arange(1, len(deficit) + 1) @ vectors < 0, -1.0, 1.0)
    roots = np.zeros((len(deficit), RANK))
    found = vectors[:, ::-1][:, :RANK] * np.sqrt(np.maximum(values[::-1][:RANK], 0.0))
    roots[:, : found.shape[1]] = found
    return roots.astype(np.float32), np.maximum(1 - np.sum(np.square(roots), axis=1), 0.0)


def whitened(rows: Floats) -> Floats:
    """Rows with identity second moments, or with unit ones where there are too few of them."""
    if rows.shape[0] <= rows.shape[1]:
        return np.asarray(rows / np.sqrt(np.mean(np.square(rows), axis=0)))
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    return np.asarray(rows @ (vectors / np.sqrt(values)) @ vectors.T)


def _softmax(scores: Single) -> tuple[Single, Floats]:
    """Weights of every row, in place, and their entropy."""
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(scores)
    total = np.sum(p, axis=1, keepdims=True)
    p /= total
    return p, np.log(total[:, 0], dtype=float) - np.einsum("ij,ij->i", p, scores)
