r"""Any token kernel at infinite width: draw what the weights do, never a weight matrix (E25b).

With :math:`R R^T = K`, a head's queries and keys are :math:`Q = \sigma R Z_q`,
:math:`K_h = \sigma R Z_k`, :math:`\sigma^2 = \beta\sqrt{\log T}`, Z standard normal of the head's
width; rotated, multiplied, masked and through softmax they give A, and

.. math:: K' = \sigma_o^2 \left(\sigma_v^2 \langle A K A^T \rangle_h + \sigma_b^2\right)
          + \alpha^2 K .

MLP and norms act on every entry of K (E14, E15). Heads of infinite width have jointly Gaussian
scores :math:`\sigma^2 R Z R^T`, Z of shape T x T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints, finite_or_none
from sigprop.core.checks import choice, count
from sigprop.core.errors import require
from sigprop.core.jobs.cache import Arrays, Job, gather
from sigprop.core.jobs.execution import Execution, takes_execution
from sigprop.model.inputs import TokenKernel, admit, read_kernel
from sigprop.model.spec import ModelSpec
from sigprop.propagation.drawn_layer import context_of, kernel_cell

__all__ = [
    "POSITIONS",
    "Solved",
    "collect",
    "exchangeable_kernel",
    "jobs",
    "read_kernel",
    "solve",
    "text_kernel",
]

POSITIONS = ("sinusoidal", "learned", "none")


@dataclass(frozen=True)
class Solved:
    """Kernel of every layer, averaged over position blocks, with its standard error.

    Attributes
    ----------
    samples : array, shape (draws, L+1, B, B)
        Block means of the normalised kernel of each draw, the diagonal included.
    rho : array, shape (draws, L+1)
        Mean cosine of two tokens at different positions.
    q : array, shape (draws, L+1)
        Mean variance.
    y2, overlap, entropy : arrays, shape (draws, L)
        Attention in each block: participation ratio, mean over pairs of queries of the overlap,
        entropy in nats.
    kernel_moved : float
        Largest change of a cosine that made the input kernel admissible; zero for almost all.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.every_pair import exchangeable_kernel, solve
    >>> spec = ModelSpec(depth=2, context=16, beta=1, sigma_v2=1, sigma_w2=2, rho0=0.1)
    >>> solve(spec, exchangeable_kernel(spec), draws=2, blocks=4).mean("samples").shape
    (3, 4, 4)
    """

    samples: Floats
    rho: Floats
    q: Floats
    y2: Floats
    overlap: Floats
    entropy: Floats
    kernel_moved: float = 0.0

    def mean(self, name: str) -> Floats:
        """Mean over the draws of an attribute.

        Parameters
        ----------
        name : str
            Attribute.

        Returns
        -------
        array
            Without the first axis.
        """
        return np.asarray(getattr(self, name).mean(axis=0))

    def se(self, name: str) -> Floats:
        """Find the standard error over the draws of an attribute; NaN for one draw.

        Parameters
        ----------
        name : str
            Attribute.

        Returns
        -------
        array
            Without the first axis.
        """
        values = getattr(self, name)
        if len(values) < 2:
            return np.full(values.shape[1:], np.nan)
        return np.asarray(values.std(axis=0, ddof=1) / math.sqrt(len(values)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: layer, block_means, se, kernel_moved, each statistic and its NAME_se.

        Returns
        -------
        dict
            Nested lists; what is not finite is null.
        """
        out: dict[str, Any] = {
            "layer": list(range(self.rho.shape[1])),
            "draws": len(self.rho),
            "block_means": finite_or_none(self.mean("samples")),
            "se": finite_or_none(self.se("samples")),
            "kernel_moved": self.kernel_moved,
        }
        for name in ("rho", "q", "y2", "overlap", "entropy"):
            out[name] = finite_or_none(self.mean(name))
            out[f"{name}_se"] = finite_or_none(self.se(name))
        return out


@validated
def exchangeable_kernel(spec: ModelSpec) -> Floats:
    """Kernel of tokens that all overlap alike, q0 on the diagonal.

    Parameters
    ----------
    spec : ModelSpec
        A single description.

    Returns
    -------
    array, shape (T, T)
        The kernel.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.every_pair import exchangeable_kernel
    >>> spec = ModelSpec(depth=1, context=2, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.25)
    >>> exchangeable_kernel(spec).tolist()
    [[1.0, 0.25], [0.25, 1.0]]
    """
    context = context_of(spec)
    rho0 = float(spec.rho0)
    return float(spec.q0) * (rho0 + (1 - rho0) * np.eye(context))


@validated
def text_kernel(ids: Ints, positions: str = "sinusoidal") -> Floats:
    r"""Kernel of random embeddings of unit variance, with positions added.

    :math:`K_{ts} = 1[\mathrm{id}_t = \mathrm{id}_s] + P_{ts}`; learned positions of unit variance
    have :math:`P_{ts} = \delta_{ts}`, sinusoidal ones of base :math:`10^4` (Vaswani et al. 2017)
    :math:`P_{ts} = \frac12 \int_0^1 \cos(10^{-4u}(t - s))\,du - \mu_t \mu_s` as d grows; LayerNorm
    removes the mean over features, :math:`\mu_t = \frac12 \int_0^1 (\sin + \cos)(10^{-4u} t)\,du`.

    Parameters
    ----------
    ids : array of int, shape (T,)
        Token ids.
    positions : {"sinusoidal", "learned", "none"}
        Position code.

    Returns
    -------
    array, shape (T, T)
        The kernel.

    Raises
    ------
    DomainError
        If `positions` is unknown, or the ids are not a row of integers.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.propagation.every_pair import text_kernel
    >>> text_kernel(np.array([5, 7, 5]), "learned").tolist()
    [[2.0, 0.0, 1.0], [0.0, 2.0, 0.0], [1.0, 0.0, 2.0]]
    """
    choice("positions", positions, POSITIONS)
    row = np.asarray(ids)
    fits = row.ndim == 1 and row.size > 0 and row.dtype.kind in "iu"
    require(fits, "ids", ids, "a row of integers")
    same = np.equal.outer(row, row).astype(np.float64)
    if positions == "learned":
        same += np.eye(len(row))
    if positions == "sinusoidal":
        same += _sinusoidal(len(row))
    return same


def _sinusoidal(context: int) -> Floats:
    """Kernel of sines and cosines of base 10^4, their mean over the features removed."""
    angle = np.arange(context)[:, None] * 1e4 ** -((np.arange(2048) + 0.5) / 2048)
    features = np.hstack([np.sin(angle), np.cos(angle)])
    features -= features.mean(axis=1, keepdims=True)
    return np.asarray(features @ features.T / features.shape[1])


@takes_execution
@validated
def solve(
    spec: ModelSpec,
    kernel: ArrayLike | TokenKernel,
    *,
    draws: int = 8,
    blocks: int = 16,
    first_seed: int = 0,
    execution: Execution | None = None,
) -> Solved:
    """Follow a token kernel through the layers, at infinite width.

    Parameters
    ----------
    spec : ModelSpec
        A single description. Its width only sets the width of its heads, width / heads; None is
        the limit of wide heads. One draw has as many heads as the spec.
    kernel : array, shape (T, T)
        Symmetric, positive semidefinite, of positive diagonal; one that only rounding keeps from it
        is moved to the nearest (`sigprop.model.inputs.admit`). Post-norm uses its cosines alone.
    draws : int
        Independent draws, in [1, 100000].
    blocks : int
        Position blocks, in [1, T].
    first_seed : int
        Seeds are first_seed, first_seed + 1, ...
    execution : Execution, optional
        Processes, folder of finished draws, cluster, progress.

    Returns
    -------
    Solved
        Block means and attention statistics of every draw.

    Raises
    ------
    DomainError
        If the kernel is not admissible or the spec has arrays.
    AssumptionError
        If the spec asks for rotary positions without a head width, or for a smooth activation
        without norms, where tokens have different variances.

    Notes
    -----
    theory.md E25b. Exact at any T and head width for one draw's statistics; what
    is left is the sampling error, which is reported.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.every_pair import exchangeable_kernel, solve
    >>> spec = ModelSpec(depth=1, context=32, beta=0, sigma_v2=1, sigma_w2=0, rho0=0, causal=True)
    >>> solve(spec, exchangeable_kernel(spec), draws=1, blocks=2).rho.round(4).tolist()
    [[0.0, 0.0489]]
    """
    start = admit(kernel, context_of(spec))
    todo = _draws(spec, start.values, draws, blocks, first_seed)
    return collect(gather(todo, execution), start.moved)


@validated
def jobs(
    spec: ModelSpec,
    kernel: ArrayLike | TokenKernel,
    *,
    draws: int,
    blocks: int,
    first_seed: int = 0,
) -> list[Job]:
    """One job for each draw of `solve`, to be gathered with others.

    Parameters
    ----------
    spec, kernel, draws, blocks, first_seed
        As in `solve`.

    Returns
    -------
    list of Job
        In the order of the draws.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.propagation.every_pair import exchangeable_kernel, jobs
    >>> spec = ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> len(jobs(spec, exchangeable_kernel(spec), draws=3, blocks=2))
    3
    """
    return _draws(spec, admit(kernel, context_of(spec)).values, draws, blocks, first_seed)


def _draws(spec: ModelSpec, kernel: Floats, draws: int, blocks: int, first_seed: int) -> list[Job]:
    """Jobs of an admissible kernel."""
    known = {
        "spec": spec.to_dict(),
        "kernel": kernel,
        "blocks": count("blocks", blocks, 1, len(kernel)),
    }
    first = count("first_seed", first_seed, 0, 2**62)
    number = count("draws", draws, 1, 100_000)
    return [Job(kernel_cell, known | {"seed": seed}) for seed in range(first, first + number)]


def collect(found: list[Arrays], kernel_moved: float = 0.0) -> Solved:
    """Put the draws of one `jobs` together.

    Parameters
    ----------
    found : list of dict of str to array
        Their results.
    kernel_moved : float
        As in `Solved`.

    Returns
    -------
    Solved
        All draws.
    """
    columns = {name: np.stack([draw[name] for draw in found]) for name in found[0]}
    return Solved(**columns, kernel_moved=kernel_moved)
