r"""Fit the points that averages over fields of blocks of keys run over: seven minutes on one core.

Run as ``python -m sigprop.studies.build_field_points [--out FILE]``, with torch. The fields are
those of random masked stacks. Given its field a block has about the weight

.. math:: p_b \propto n_b\, e^{m_b h_b + m_b s_b^2/2}, \qquad
          m_b = \min(1, \sqrt{2 \log n}/s_b),

frozen where :math:`m_b < 1`; the points are those at which means of :math:`p_b`, of
:math:`p_b p_c` and of the participation ratio are nearest to those over Sobol points. The errors
that the file holds are of averages without that simplification, on fields that were left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.core.arrays import Bools, Floats
from sigprop.layers.attention.key_correlations import BlockedKeys
from sigprop.layers.attention.query_universal import Universal
from sigprop.layers.attention.statistics import block_fields as bf
from sigprop.layers.attention.statistics.block_fields import Attended, Fields, attended
from sigprop.layers.attention.statistics.correlated_scores import whitened
from sigprop.studies.build_correlations import drawn, steps_of

if TYPE_CHECKING:
    from torch import Tensor

STACKS, SEED = 200, 43  # random stacks; these are not those of `build_correlations`
STRONG, WEAK, FAINT = 64, 8, 3e-3  # points, and the least variance of a field that counts
QUERIES, LEFT_OUT, CHECKED = 4000, 500, 150
BATCH, STEPS, FASTEST = 96, 15_000, 0.03
SOBOL = 2048  # points of reference
ALIKE = 0.1  # weight of the relative error of the participation ratio
GONE = -1e30  # logarithm of the weight of no keys


@dataclass(frozen=True)
class Watched(Universal):
    """Statistics that average over fields at Sobol points and keep the fields."""

    found: list[tuple[Floats, ...]] = field(default_factory=list)

    @cached_property
    def _blocked(self) -> BlockedKeys:
        return BlockedKeys(super()._blocked.parts, self._average)

    def _average(self, fields: Fields, sizes: Floats) -> Attended:
        self.found.append((fields.roots, fields.own, sizes))
        return attended(fields, sizes, sobol(STRONG))


def collected(stacks: range) -> tuple[Fields, Floats]:
    """Find fields of queries of random stacks, and the sizes of their blocks."""
    found: list[tuple[Floats, ...]] = []
    for number in stacks:
        spec = drawn(np.random.default_rng([SEED, number]))
        for _ in steps_of(spec, partial(Watched, found=found)):
            pass  # each block adds to what is found
    roots, own, sizes = (np.concatenate(rows) for rows in zip(*found, strict=True))
    return Fields(roots, own), sizes


def some(fields: Fields, sizes: Floats, rows: Bools) -> tuple[Fields, Floats]:
    """Up to `QUERIES` of them, in random order."""
    index = np.random.default_rng(SEED).permutation(np.flatnonzero(rows))[:QUERIES]
    return Fields(fields.roots[index], fields.own[index]), sizes[index]


@cache
def sobol(number: int, seed: int = SEED) -> Floats:
    """Points of independent normals with identity second moments, half of them, shape (S, R)."""
    from scipy.stats import norm, qmc

    z = norm.ppf(qmc.Sobol(bf.FACTORS, rng=np.random.default_rng(seed)).random(number))
    return whitened(z - z.mean(axis=0))


@dataclass(frozen=True)
class Softmax:
    """Weights of blocks given their fields: logarithms without a field, slopes, own Y_2."""

    level: Tensor
    slope: Tensor
    alike: Tensor

    def means(self, points: Tensor, rows: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Means over points, with both signs, of weights, of their products, and of Y_2."""
        import torch

        field_of = torch.einsum("qbr,pr->qbp", self.slope[rows], torch.cat([points, -points]))
        p = torch.softmax(field_of + self.level[rows][:, :, None], dim=1)
        pairs = torch.einsum("qbp,qcp->qbc", p, p) / (2 * len(points))
        own = torch.diagonal(pairs, dim1=1, dim2=2)
        return p.mean(dim=2), pairs, torch.sum(own * self.alike[rows], dim=1)


def softmax_of(fields: Fields, sizes: Floats) -> Softmax:
    """Simplified weights of the blocks of queries."""
    import torch

    own, held = np.maximum(fields.own, 1e-3), sizes > 0
    cold = np.minimum(np.sqrt(2 * np.log(sizes.sum(axis=1, keepdims=True))) / own, 1.0)
    number = np.log(np.where(held, sizes, 1.0))
    level = np.where(held, number + cold * own**2 / 2, GONE)
    alike = np.exp(np.minimum(own**2 - number, 0.0))
    return Softmax(*map(torch.tensor, (level, fields.roots * cold[..., None], alike)))


def fitted(start: Floats, fields: Fields, sizes: Floats) -> Floats:
    """Points nearest to the reference, by Adam with a rising, then falling step."""
    import torch

    weights = softmax_of(fields, sizes)
    chunks = torch.arange(len(sizes)).split(16)
    many = torch.tensor(sobol(SOBOL))
    with torch.no_grad():
        rows = zip(*(weights.means(many, part) for part in chunks), strict=True)
        whole, pairs, alike = map(torch.cat, rows)
    points = torch.tensor(start, requires_grad=True)
    adam = torch.optim.Adam([points], FASTEST)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, FASTEST, STEPS)
    rng = torch.Generator().manual_seed(SEED)
    for _ in range(STEPS):
        part = torch.randint(LEFT_OUT, len(sizes), (BATCH,), generator=rng)
        one, two, three = weights.means(points, part)
        off = (one - whole[part]).square().sum(dim=1) + (two - pairs[part]).square().sum(dim=(1, 2))
        loss = (off + (ALIKE * (three / alike[part] - 1)).square()).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
    return np.asarray(points.detach().numpy())


def errors(points: Floats, fields: Fields, sizes: Floats) -> Floats:
    """Root mean square errors of Y_2, and of the sums of those of pairs and weights, shape (3,)."""
    few = slice(CHECKED)
    part, number = Fields(fields.roots[few], fields.own[few]), sizes[few]
    found = attended(part, number, points)
    parts = [attended(part, number, sobol(SOBOL, SEED + k)) for k in range(1, 5)]
    known = Attended(*(np.mean(rows, axis=0) for rows in zip(*parts, strict=True)))
    off = (
        found.y2 - known.y2,
        np.abs(found.pairs - known.pairs).sum(axis=(1, 2)),
        np.abs(found.weights - known.weights).sum(axis=1),
    )
    return np.sqrt([np.mean(rows**2) for rows in off])


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(bf.__file__).with_name("field_points.npz")
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    fields, sizes = collected(range(STACKS))
    variance = bf.variances(fields)
    found: dict[str, Any] = {}
    kinds = {
        "strong": (STRONG, variance > bf.COLD),
        "weak": (WEAK, (variance > FAINT) & (variance <= bf.COLD)),
    }
    error = []
    for name, (number, rows) in kinds.items():
        part = some(fields, sizes, rows)
        found[name] = fitted(sobol(number), *part)
        error.append(errors(found[name], *part))
    np.savez_compressed(out, **found, error=np.stack(error))


if __name__ == "__main__":
    main()
