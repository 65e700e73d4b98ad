"""Training runs as tables for people (rich)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sigprop.trajectory import Trajectory

if TYPE_CHECKING:
    from sigprop.torch.plan import Run

__all__ = ["run", "training"]

HEADS = ("step", "loss", "gradient", "rho, last block", "H/log T, lowest")
ROWS = 12  # shown of a log


def run(found: Run, predicted: Trajectory) -> Group:
    """Log of a run, what theory said of its first row, and what to look for."""
    table = Table(*HEADS, title="Training", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    log = found.log
    count = len(log["step"])
    for i in sorted({round(k * (count - 1) / (ROWS - 1)) for k in range(ROWS)} if count else ()):
        table.add_row(
            f"{log['step'][i]:.0f}",
            f"{log['loss'][i]:.4f}",
            f"{log['norm'][i]:.3g}",
            f"{log['rho'][i, -1]:.4f}",
            f"{log['entropy'][i].min():.4f}",
        )
    theory = (
        f"Theory at step 0: rho {predicted.rho[-1]:.4f}, lowest H/log T "
        f"{predicted.entropy_ratio.min():.4f}. Tokens that repeat raise the measured rho."
    )
    return Group(table, Text(theory), Text(_end(found)), Text(LOOK))


LOOK = (
    "What to look for: the gain over guessing by frequency. A stack whose tokens have merged "
    "(rho near 1) stays near zero; one that carries them through leaves zero within a few hundred "
    "steps. Lower alpha_attn in the spec and run again to see it stop."
)


def _end(found: Run) -> str:
    if found.diverged >= 0:
        return f"Diverged at step {found.diverged}: the gradient is not finite."
    return (
        f"Held-out loss {found.loss:.4f} +- {found.loss_se:.4f} nats; guessing by frequency "
        f"{found.unigram:.4f}; gain {found.gain:.4f} +- {found.gain_se:.4f}; {found.wall:.0f} s."
    )


def training(findings: list[str], files: list[str]) -> Group:
    """List the findings of the trainability experiment, and what was written."""
    lines: list[Any] = [Text(f"- {one}") for one in findings]
    return Group(*lines, Text("Written: " + ", ".join(files)))
