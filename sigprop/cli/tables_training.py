"""Training runs as tables for people (rich)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sigprop.propagation.result import Trajectory

if TYPE_CHECKING:
    from sigprop.torch.training.config import Run

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
    return Group(table, Text(theory), _kinds(found), Text(_end(found)), Text(LOOK))


LOOK = (
    "What to look for: the gain on positions where the token to be guessed is not shown. A stack "
    "whose tokens have merged (rho near 1) stays near zero there; on kept positions it may gain by "
    "copying what it is shown. Lower alpha_attn in the spec and run again to see it stop."
)
KINDS = {
    "hidden": "hidden behind [MASK]",
    "kept": "kept (own token shown)",
    "replaced": "replaced (another shown)",
    "next": "next token",
}


def _kinds(found: Run) -> Table:
    """Loss on held-out text by kind of position, in nats."""
    heads = ("held-out positions", "number", "loss", "baseline", "gain")
    table = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1))
    for kind, one in found.held.items():
        gain = f"{one.gain:.4f} +- {one.gain_se:.4f}"
        table.add_row(KINDS[kind], str(one.number), f"{one.loss:.4f}", f"{one.baseline:.4f}", gain)
    return table


def _end(found: Run) -> str:
    if found.diverged >= 0:
        return f"Diverged at step {found.diverged}: the gradient is not finite."
    causal = "next" in found.held
    baseline = "a smoothed bigram table" if causal else "guessing by token frequency"
    return f"Baseline: {baseline}. {found.wall:.0f} s."


def training(findings: list[str], files: list[str]) -> Group:
    """List the findings of the trainability experiment, and what was written."""
    lines: list[Any] = [Text(f"- {one}") for one in findings]
    return Group(*lines, Text("Written: " + ", ".join(files)))
