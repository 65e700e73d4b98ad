"""Training of a description on text: real runs, logged, resumable bit for bit.

A bidirectional description learns masked-language modelling, a causal one the next token.

Everything that a step draws follows from the seed and the number of the step, so a run that was
killed continues from its last checkpoint as if nothing had happened: same weights, same log, to the
last bit, on the same processor with the same number of threads. GPUs add in any order; there the
continuation is the same run up to rounding.
"""

from __future__ import annotations

import io
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.core.arrays import Floats, Ints
from sigprop.core.checks import choice
from sigprop.core.errors import DomainError
from sigprop.core.files import clear, kept, note, seal, write
from sigprop.core.version import REVISIONS, __version__
from sigprop.model.spec import ModelSpec
from sigprop.torch.training.config import Held, Plan, Run
from sigprop.torch.training.corpus import KINDS, Corpus, Guesses, baseline, guesses
from sigprop.torch.training.model import Block, LanguageModel

__all__ = ["CHECKPOINT", "train", "versions"]

COLUMNS = ("step", "loss", "rate", "norm")
PROFILES = ("rho", "entropy", "gradient", "query")
BETAS = (0.9, 0.98)
LOOKED = 16  # held-out windows on which overlap and entropy are measured
CHECKPOINT = "checkpoint.pt"
PROGRESS = ("step", "wall", "diverged", "rows")
EVALUATION = 15  # seed of the masks on held-out text


def versions(device: str) -> dict[str, str]:
    """Versions and hardware that a run depends on.

    Parameters
    ----------
    device : str
        Name of the torch device.

    Returns
    -------
    dict of str to str
        sigprop, torch, python, machine, device, threads.

    Examples
    --------
    >>> from sigprop.torch.training.train import versions
    >>> sorted(versions("cpu"))
    ['device', 'machine', 'python', 'sigprop', 'threads', 'torch']
    """
    return {
        "sigprop": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": str(torch.get_num_threads()),
    }


def train(
    spec: ModelSpec,
    text: Corpus,
    plan: Plan | None = None,
    folder: Path | None = None,
    told: Callable[[dict[str, Any]], None] | None = None,
    device: str | None = None,
) -> Run:
    """Train a model of a description: as a masked language model, or as a decoder if causal.

    Parameters
    ----------
    spec : ModelSpec
        The description: single, with a width; its context is that of the windows.
    text : Corpus
        The text.
    plan : Plan, optional
        How.
    folder : Path, optional
        Where checkpoints are kept; a second run with the same arguments continues from them.
    told : callable, optional
        Called with each row of the log.
    device : str, optional
        "cpu" or "cuda"; the latter where there is one. On a GPU matrix products are in bfloat16.

    Returns
    -------
    Run
        The log, and the final loss by kind of position.

    Raises
    ------
    DomainError, AssumptionError
        If the model cannot be built, the windows have another length, or the folder holds another
        run.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop import ModelSpec
    >>> from sigprop.torch.training.corpus import Corpus
    >>> from sigprop.torch.training.config import Plan
    >>> from sigprop.torch.training.train import train
    >>> spec = ModelSpec(depth=1, context=8, width=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    >>> text = Corpus(np.full((9, 8), 5), np.full((1, 8), 5), 16, "", "fives", "")
    >>> run = train(spec, text, Plan(steps=3, every=1), device="cpu")
    >>> run.log["rho"].shape, run.diverged
    ((3, 2), -1)
    """
    plan = plan or Plan()
    if text.train.shape[1] != spec.context:
        raise DomainError("context", text.train.shape[1], f"windows of {spec.context:g} tokens")
    trainer = _Trainer(spec, text, plan, _device(device))
    path = None if folder is None else _prepared(folder)
    if path is not None and path.exists():
        trainer.restore(path)
    try:
        return trainer.run(path, told or (lambda _: None))
    except BaseException as error:
        if path is not None and path.exists():
            note(error, f"a checkpoint is kept in {path}: the same call goes on from there")
        raise


def _device(name: str | None) -> str:
    there = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    choice("device", name or there[-1], there)
    return name or there[-1]


def _prepared(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"a folder that can be made ({error.strerror})"
        raise DomainError("out", str(folder), words) from None
    clear(folder)
    return folder / CHECKPOINT


class _Trainer:
    """A run in progress."""

    def __init__(self, spec: ModelSpec, text: Corpus, plan: Plan, device: str) -> None:
        self.text, self.plan, self.device, self.causal = text, plan, device, spec.causal
        self.model = LanguageModel(spec, text.vocabulary, plan.seed).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=BETAS, weight_decay=plan.decay, fused=True
        )
        self.step, self.wall, self.diverged = 0, 0.0, -1
        self.rows: list[dict[str, Any]] = []
        machine = versions(device) | {"sigprop": f"revision {REVISIONS['training']}"}
        about = [spec.to_dict(), asdict(plan), text.digest, text.vocabulary, machine]
        self.identity = repr(about)

    def run(self, path: Path | None, told: Callable[[dict[str, Any]], None]) -> Run:
        while self.step < self.plan.steps and self.diverged < 0:
            start = time.perf_counter()
            row = self._update()
            self.wall += time.perf_counter() - start
            if row is not None:
                self.rows.append(row)
                told(row)
            if path is not None and (self.step % self.plan.every == 0 or self._ended):
                self.save(path)
        return self._finish()

    @property
    def _ended(self) -> bool:
        return self.step == self.plan.steps or self.diverged >= 0

    def _update(self) -> dict[str, Any] | None:
        """One step; its row of the log if it is due."""
        rng = np.random.default_rng([self.plan.seed, self.step])
        windows = self.text.train[rng.integers(0, len(self.text.train), self.plan.batch)]
        rate = self.plan.rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._losses(self._guesses(windows, rng)).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip))
        if not math.isfinite(norm):
            self.diverged = self.step
            return None
        due = self.step % self.plan.every == 0 or self.step == self.plan.steps - 1
        row = self._row(loss.item(), rate, norm) if due else None
        self.optimizer.step()
        self.step += 1
        return row

    def _guesses(self, windows: Ints, rng: np.random.Generator) -> Guesses:
        return guesses(windows, self.text.vocabulary, rng, self.causal)

    def _losses(self, task: Guesses) -> Tensor:
        """Loss of every token that is to be guessed."""
        inputs, chosen, wanted = (torch.from_numpy(part).to(self.device) for part in task[:3])
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            logits = self.model.logits(self.model(inputs)[chosen])
        return F.cross_entropy(logits.float(), wanted, reduction="none")

    def _row(self, loss: float, rate: float, norm: float) -> dict[str, Any]:
        seen = self.model.look(torch.from_numpy(self.text.held[:LOOKED]).to(self.device))
        scale = min(1.0, self.plan.clip / (norm + 1e-6))  # as clip_grad_norm_ applied it
        blocks = [_gradients(block, scale) for block in self.model.blocks]
        whole, query = zip(*blocks, strict=True)
        found = {"step": self.step, "loss": loss, "rate": rate, "norm": norm}
        return found | seen._asdict() | {"gradient": list(whole), "query": list(query)}

    def _finish(self) -> Run:
        log = {name: np.array([row[name] for row in self.rows]) for name in (*COLUMNS, *PROFILES)}
        loss, guess, kind = self._held()
        if self.diverged < 0 and not np.isfinite(loss).all():
            self.diverged = self.step  # the last update did it
        if self.diverged >= 0:
            loss = np.full_like(guess, np.nan)
        held = {
            name: _held_out(loss[kind == i], guess[kind == i])
            for i, name in enumerate(KINDS[self.causal])
        }
        return Run(log, held, self.diverged, self.wall, versions(self.device))

    @torch.no_grad()
    def _held(self) -> tuple[Floats, Floats, Ints]:
        """Losses on held-out windows, the same masks in every run; the baseline's; the kinds."""
        table, parts = baseline(self.text, self.causal), []
        held = self.text.held[: self.plan.held]
        for start in range(0, len(held), self.plan.batch):
            windows = held[start : start + self.plan.batch]
            task = self._guesses(windows, np.random.default_rng([EVALUATION, start]))
            before = (task.inputs[task.chosen],) if self.causal else ()
            losses = self._losses(task).double().cpu().numpy()
            parts.append((losses, table[(*before, task.wanted)], task.kind))
        loss, guess, kind = (np.concatenate(part) for part in zip(*parts, strict=True))
        return loss, guess, kind

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in PROGRESS},
        }
        content = io.BytesIO()
        torch.save(state, content)
        write(path, seal(CHECKPOINT, content.getvalue()))

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of the same run; one that fails its seal is put aside."""
        content = kept(path, CHECKPOINT)
        if content is None:
            return
        state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            same = "the same run (spec, text, plan, revision, machine)"
            words = f"a folder of {same}; this one holds another"
            raise DomainError("out", str(path.parent), words)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in PROGRESS:
            setattr(self, name, state[name])


def _held_out(loss: Floats, guess: Floats) -> Held:
    """Means over positions, with their standard errors."""
    count = len(loss)
    if count == 0:
        return Held(0, *[math.nan] * 5)
    gain, root = guess - loss, math.sqrt(count)
    means = float(loss.mean()), float(loss.std()) / root, float(guess.mean())
    return Held(count, *means, float(gain.mean()), float(gain.std()) / root)


def _gradients(block: nn.Module, scale: float) -> tuple[float, float]:
    """Norms of the gradients of a block and of its query matrix, before clipping."""
    assert isinstance(block, Block)
    whole = torch.stack([part.grad.norm() for part in block.parameters() if part.grad is not None])
    assert block.joint.weight.grad is not None
    query = block.joint.weight.grad.chunk(3)[0].norm()
    return float(whole.norm()) / scale, float(query) / scale
