"""What a training run is given, and what it gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from sigprop.core.arrays import Floats, finite_or_none
from sigprop.core.checks import count, scalar

__all__ = ["Held", "Plan", "Run"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is trained: AdamW, linear warm-up, linear decay to zero.

    Parameters
    ----------
    steps : int
        Updates, in [1, 1e7].
    batch : int
        Windows in a batch, in [1, 1e5].
    rate : float
        Largest learning rate, in [0, 1].
    warmup : float
        Share of the steps over which the rate rises, in [0, 1].
    decay : float
        Weight decay, in [0, 1].
    clip : float
        Largest norm of the gradient, in [1e-6, 1e6].
    seed : int
        Of weights, batches and masks, in [0, 2^31).
    every : int
        Steps between two rows of the log, and two checkpoints.
    held : int
        Held-out windows on which the final loss is measured.

    Raises
    ------
    DomainError
        If a value is outside its range.

    Examples
    --------
    >>> from sigprop.torch.training.config import Plan
    >>> round(Plan(steps=100, rate=1.0, warmup=0.1).rate_at(4), 3)
    0.5
    """

    steps: int = 600
    batch: int = 32
    rate: float = 3e-3
    warmup: float = 0.1
    decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    every: int = 20
    held: int = 512

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 10**7),
            ("batch", 1, 10**5),
            ("seed", 0, 2**31 - 1),
            ("every", 1, 10**7),
            ("held", 1, 10**7),
        ):
            object.__setattr__(self, name, count(name, getattr(self, name), low, high))
        for name, least, most in (
            ("rate", 0.0, 1.0),
            ("warmup", 0.0, 1.0),
            ("decay", 0.0, 1.0),
            ("clip", 1e-6, 1e6),
        ):
            object.__setattr__(self, name, scalar(name, getattr(self, name), least, most))

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, the first being 0."""
        rise = max(1.0, self.warmup * self.steps)
        fall = max(1.0, self.steps - rise)
        return self.rate * min((step + 1) / rise, (self.steps - step) / fall, 1.0)


class Held(NamedTuple):
    """Loss on held-out positions of one kind; NaN where there are none, or the run diverged.

    Attributes
    ----------
    number : int
        Of positions.
    loss, loss_se : float
        Mean loss (nats) and its standard error.
    baseline : float
        Loss on the same positions of guessing without the model.
    gain, gain_se : float
        baseline - loss, and its standard error, position by position.
    """

    number: int
    loss: float
    loss_se: float
    baseline: float
    gain: float
    gain_se: float


class Run(NamedTuple):
    """A training run.

    Attributes
    ----------
    log : dict of str to array, shape (N,) or (N, L) or (N, L+1)
        step; training loss (nats), learning rate and norm of the gradient before clipping; rho
        (overlap, input first) and entropy (H over the log of the keys seen) by layer; gradient and
        query (norms of the gradient of a block and of its query matrix) by layer. Row n is taken
        before update `step`.
    held : dict of str to Held
        By kind of position. Of an encoder: "hidden" behind [MASK], "kept" (the model is shown the
        token it has to guess), "replaced" (it is shown another); the baseline guesses by token
        frequency. Of a decoder: "next"; the baseline is a smoothed bigram table of the text.
    diverged : int
        Step at which the loss was not finite, or -1.
    wall : float
        Seconds, resumed parts included.
    versions : dict of str to str
        Of sigprop, torch and Python, with device and threads.
    """

    log: dict[str, Floats]
    held: dict[str, Held]
    diverged: int
    wall: float
    versions: dict[str, str]

    @property
    def judged(self) -> Held:
        """Positions that decide whether a run trains: hidden ones, or the next tokens."""
        return next(iter(self.held.values()))

    @property
    def gain(self) -> float:
        """Nats below the baseline where the token to be guessed is not shown; -inf if it diverged.

        On kept positions a model gains by copying its input, which needs no attention.
        """
        return -math.inf if self.diverged >= 0 else self.judged.gain

    @property
    def loss(self) -> float:
        """Loss where the token to be guessed is not shown (nats); infinite if it diverged."""
        return math.inf if self.diverged >= 0 else self.judged.loss

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null."""
        judged = self.judged._asdict() | {"loss": self.loss, "gain": self.gain}
        del judged["number"]
        return {
            **_finite(judged),
            "held": {kind: _finite(one._asdict()) for kind, one in self.held.items()},
            "diverged": self.diverged,
            "wall": self.wall,
            "versions": self.versions,
            "log": {name: finite_or_none(values) for name, values in self.log.items()},
        }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
