"""What a real model does to a real batch, beside what theory predicts for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import erfc
from torch import nn

from sigprop.analysis.design.recommend import Design, recommend
from sigprop.analysis.diagram.fields import FREEZING
from sigprop.core.arguments import validated
from sigprop.core.arrays import Floats, Ints, finite_or_none
from sigprop.core.checks import count, scalar
from sigprop.core.errors import AssumptionError, SigpropError
from sigprop.model.spec import ModelSpec
from sigprop.propagation.gradients.closed_form import EXPLODING, VANISHING
from sigprop.torch.module_audit.description import Assumption, assumptions, layer_specs, whole_spec
from sigprop.torch.module_audit.forward_pass import Recording, record
from sigprop.torch.module_audit.measure import Attended, cosines
from sigprop.torch.module_audit.prediction import COMPARED, HALF, Prediction, predict
from sigprop.torch.module_audit.structure import dissect

__all__ = ["Audit", "UnhealthyError", "assert_healthy", "audit"]

RHO_MAX = 0.98  # as in `sigprop.analysis.verdict.judge`
SHARE = 0.85  # of layers that must lie in the band
FREE = {
    "post": {"beta": (0.05, 2.0), "alpha_attn": (0.5, 30.0), "alpha_mlp": (0.5, 30.0)},
    "pre": {"beta": (0.05, 2.0), "sigma_v2": (0.01, 3.0), "sigma_o2": (1e-3, 3.0),
            "sigma_w2_2": (1e-3, 3.0)},
}  # fmt: skip


class UnhealthyError(SigpropError, AssertionError):
    """A model whose signal collapses, freezes, vanishes or explodes.

    Examples
    --------
    >>> from sigprop.torch import UnhealthyError
    >>> issubclass(UnhealthyError, AssertionError)
    True
    """


@dataclass(frozen=True)
class Audit:
    """Measured and predicted trajectories of a model on a batch, and the verdict.

    Attributes
    ----------
    model : str
        Class of the model.
    spec : ModelSpec
        The stack, with the scales that its weights have, averaged over blocks.
    layers : tuple of ModelSpec
        Each block by its own.
    measured : dict of str to array
        rho and q of shape (L+1,); y2, overlap, entropy, score_std of shape (L,).
    gradients : dict of str to array, shape (L,)
        For independent output gradients: q, wq, wk, wv, w1, w2 as in
        `sigprop.propagation.gradients.closed_form.gradients`; empty where the pass was not
        differentiable.
    predicted : Prediction
        Curves and band.
    assumed : tuple of Assumption
        What the prediction assumes, with the distance measured.
    rho_max : float
        Overlap above which the stack is called collapsed.
    sequences, seed : int
        Sequences used, and seed of the draws and of the output gradients.
    forward : tuple of float
        For attention and MLP, what the forward pass multiplies the skip branch by over what it
        multiplies the branch by.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sigprop.torch import audit
    >>> layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    >>> found = audit(nn.TransformerEncoder(layer, 2), torch.randn(2, 16, 64))
    >>> found.verdict, found.spec.norm
    ('healthy', 'post')
    """

    model: str
    spec: ModelSpec
    layers: tuple[ModelSpec, ...]
    measured: dict[str, Floats]
    gradients: dict[str, Floats]
    predicted: Prediction
    assumed: tuple[Assumption, ...]
    rho_max: float
    sequences: int
    seed: int
    forward: tuple[float, float]

    @cached_property
    def offending(self) -> dict[str, Ints]:
        """Blocks, from 1, by what is wrong there; a collapse starts at the first."""
        found = {
            "rank collapse": self.measured["rho"][1:] > self.rho_max,
            "entropy collapse": self.measured["score_std"] > FREEZING * np.sqrt(self._log_t),
        }
        if self.gradients:
            q = self.gradients["q"]
            found["vanishing gradients"] = q < VANISHING
            found["exploding gradients"] = q > EXPLODING
        return {name: np.flatnonzero(bad) + 1 for name, bad in found.items() if bad.any()}

    @property
    def _log_t(self) -> float:
        return float(np.log(self.spec.context))

    @property
    def verdict(self) -> str:
        """Return "healthy", or what is wrong, joined by "and"."""
        return " and ".join(self.offending) or "healthy"

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.offending

    @cached_property
    def inside(self) -> dict[str, float]:
        """Share of layers where measurement is in the band, by statistic; the input not counted."""
        return {name: float(np.mean(self._distance(name) <= 1)) for name in COMPARED}

    def _distance(self, name: str) -> Floats:
        far = self.predicted.outside(name, self.measured[name])
        return far[1:] if name == "rho" else far

    @property
    def agrees(self) -> bool:
        """Whether at least 85 % of the layers are in the band, in every statistic."""
        return min(self.inside.values()) >= SHARE

    @cached_property
    def failing(self) -> tuple[Assumption, ...]:
        """Assumptions that do not hold for this model and batch."""
        return tuple(a for a in (*self.assumed, self._exchangeability()) if a.fails)

    def _exchangeability(self) -> Assumption:
        gap = np.abs(self.predicted.mean["rho"] - self.predicted.exchangeable["rho"])
        half = 2 * self.predicted.std["rho"][1:].max()
        return Assumption(
            "exchangeable tokens",
            float(gap.max()),
            float(half),
            f"Mask, positions and repeated tokens change rho by up to {gap.max():.2g} (the "
            "prediction has them; the spread of the band has mask and positions).",
        )

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Agreement and what stands against it, one sentence each."""
        shares = ", ".join(f"{name} {value:.0%}" for name, value in self.inside.items())
        out = [f"Measured in the predicted band at these shares of the layers: {shares}."]
        for name, value in self.inside.items():
            if value < SHARE:
                far = self._distance(name)
                out.append(
                    f"{name} is farthest from the centre of its band at block {far.argmax() + 1}: "
                    f"{far.max():.3g} half widths."
                )
        out += [f"Not met: {a.name}. {a.meaning}" for a in self.failing]
        if not self.agrees and not self.failing:
            out.append(self._chance())
        return (*out, *self.predicted.notes)

    def _chance(self) -> str:
        """How often a network strays as far as this one, whose layers stray together."""
        name = min(self.inside, key=self.inside.__getitem__)
        far = HALF * float(np.quantile(self._distance(name), SHARE))
        odds = 1 / erfc(far / np.sqrt(2))
        return (
            "No assumption measured here fails; what is left is chance, or width: to hold "
            f"{SHARE:.0%} of the layers, the band of {name} would have to span {far:.2g} standard "
            f"deviations. Layers stray together, that far in one network of {odds:.2g}."
        )

    @cached_property
    def recommendation(self) -> Design | None:
        """Nearest design that is predicted to be healthy; None where the model is, or has no norm.

        Post-norm its residual strengths and temperature may move; pre-norm its temperature and the
        variance of what writes to the stream. Its overlap is that of every design, well below where
        the verdict turns: of 48 post-norm blocks (two seeds, 200 steps of denoising), those
        at a measured overlap of 0.66 train and those at 0.81 do not.
        """
        bounds = FREE.get(self.spec.norm)
        if self.healthy or bounds is None:
            return None
        return recommend(self.spec, bounds=bounds)

    @cached_property
    def fix(self) -> tuple[str, ...]:
        """What to change, in sentences; none for a healthy model."""
        if self.healthy:
            return ()
        if self.recommendation is None:
            return ("The stack has no norms: put one before or after each branch.",)
        found = self.recommendation
        changes = ", ".join(f"{n} {a:.3g} to {b:.3g}" for n, (a, b) in found.changes.items())
        sentence = f"Change {changes}: {found.reason}." if changes else f"{found.reason}."
        return (sentence, "sigprop.torch.initialise_(model, audit.recommendation) writes it.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null.

        Returns
        -------
        dict
            model, verdict, offending, spec, measured, gradients, predicted, inside, assumptions,
            reasons, fix, ...
        """
        columns = {
            name: {key: finite_or_none(value) for key, value in getattr(self, name).items()}
            for name in ("measured", "gradients")
        }
        checks = (*self.assumed, self._exchangeability())
        return {
            "model": self.model,
            "verdict": self.verdict,
            "offending": {name: blocks.tolist() for name, blocks in self.offending.items()},
            "spec": self.spec.to_dict(),
            **columns,
            "predicted": self.predicted.to_dict(),
            "inside": self.inside,
            "assumptions": {a.name: vars(a) | {"fails": a.fails} for a in checks},
            "reasons": list(self.reasons),
            "fix": list(self.fix),
            "sequences": self.sequences,
            "seed": self.seed,
        }


@validated
def audit(model: nn.Module, batch: Any, *, rho_max: float = RHO_MAX, seed: int = 0) -> Audit:
    """Measure a model on a batch, layer by layer, beside the prediction from its own weights.

    Parameters
    ----------
    model : torch.nn.Module
        A transformer of one stack: Hugging Face BERT, GPT-2, Llama-like or ViT models,
        `nn.TransformerEncoder`, or one of its own whose blocks hold an attention and an MLP.
    batch : mapping, tuple or tensor
        What its forward pass takes; at most eight sequences of one length are used.
    rho_max : float
        Overlap above which the stack is called collapsed, in (0, 1).
    seed : int
        Of the prediction's draws and of the output gradients.

    Returns
    -------
    Audit
        Both, with the verdict.

    Raises
    ------
    AssumptionError
        If the model is none that can be read, with the module and the reason.
    DomainError
        If an argument is outside its range.

    Notes
    -----
    Measured: rho, the mean cosine of two tokens of a sequence (of states as a LayerNorm before the
    branches reads them, without their mean); attention statistics over heads and queries; gradients
    of the stack for output gradients drawn at random. Predicted:
    `sigprop.torch.module_audit.prediction`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sigprop.torch import audit
    >>> layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    >>> found = audit(nn.TransformerEncoder(layer, 3), torch.randn(2, 16, 64))
    >>> [a.name for a in found.failing]  # its blocks are copies of one
    ['blocks drawn independently']
    """
    limit = scalar("rho_max", rho_max, 1e-6, 1 - 1e-6)
    start = count("seed", seed, 0, 2**62)
    anatomy = dissect(model, batch)
    found = record(model, batch, anatomy, start)
    specs = layer_specs(anatomy, found)
    spec = whole_spec(anatomy, specs)
    first = found.layers[0].kernel
    if not np.all(np.diagonal(first, axis1=1, axis2=2) > 0):
        raise AssumptionError("some token enters the first block as zero, as padding does: omit it")
    last = found.layers[-1]
    return Audit(
        type(model).__name__,
        spec,
        tuple(specs),
        _measured(found),
        {name: np.array(values) for name, values in found.gradients.items()},
        predict(spec, specs, first, np.random.Generator(np.random.SFC64(start))),
        assumptions(anatomy, found, specs),
        limit,
        len(first),
        start,
        (last.skip[0] / last.branch[0], last.skip[1] / last.branch[1]),
    )


def _measured(found: Recording) -> dict[str, Floats]:
    kernels = [*(layer.kernel for layer in found.layers), found.kernel]
    rho, q = np.array([cosines(kernel) for kernel in kernels]).T
    rows = np.array([layer.attended for layer in found.layers])
    return {"rho": rho, "q": q} | dict(zip(Attended._fields, rows.T, strict=True))


@validated
def assert_healthy(model: nn.Module, batch: Any, **options: Any) -> None:
    """Fail a test if the signal of a model collapses, freezes, vanishes or explodes.

    Parameters
    ----------
    model, batch, **options
        As in `audit`.

    Raises
    ------
    UnhealthyError
        With the verdict and the blocks where it shows; an AssertionError.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sigprop.torch import assert_healthy
    >>> layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    >>> assert_healthy(nn.TransformerEncoder(layer, 2), torch.randn(2, 16, 64))
    """
    found = audit(model, batch, **options)
    if not found.healthy:
        where = "; ".join(
            f"{name} in blocks {blocks[0]} to {blocks[-1]}"
            for name, blocks in found.offending.items()
        )
        rho = float(found.measured["rho"][-1])
        raise UnhealthyError(f"{found.model}: {where}; overlap after the last block {rho:.6g}")
