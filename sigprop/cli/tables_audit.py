"""An audit as tables for people (rich)."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sigprop.torch.module_audit.report import Audit

__all__ = ["audited"]

HEADS = ("block", "rho", "predicted", "q", "Y_2", "predicted", "H", "predicted", "s", "grad")


def audited(found: Audit) -> Group:
    """Trajectory, measured and predicted, verdict, reasons and fix.

    Parameters
    ----------
    found : Audit
        What to show.

    Returns
    -------
    rich.console.Group
        At most 100 columns.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sigprop.torch import audit
    >>> from sigprop.cli.tables_audit import audited
    >>> layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    >>> len(audited(audit(nn.TransformerEncoder(layer, 2), torch.randn(2, 8, 64))).renderables) > 2
    True
    """
    spec = found.spec
    title = f"{found.model}: {spec.depth} blocks, {found.sequences} x {spec.context:g} tokens"
    heads = (*HEADS, *([""] if found.offending else []))
    table = Table(*heads, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 0)
    for column in table.columns:
        column.no_wrap = True
    for block in range(spec.depth + 1):
        table.add_row(str(block), *_cells(found, block)[: len(heads) - 1])
    scales = ", ".join(
        f"{name} {float(getattr(spec, name)):.4g}"
        for name in ("beta", "sigma_v2", "sigma_o2", "sigma_w1_2", "sigma_w2_2", "q0")
    )
    lines = (f"Read from the weights: {spec.norm}-norm, {spec.activation}, {scales}.",
             *found.reasons, *found.fix)  # fmt: skip
    return Group(table, *(Text(line) for line in lines), Text(f"Verdict: {found.verdict}"))


def _cells(found: Audit, block: int) -> list[str]:
    measured, mean, std = found.measured, found.predicted.mean, found.predicted.std
    cells = [f"{measured['rho'][block]:.3g}", _band(mean["rho"][block], std["rho"][block])]
    cells.append(f"{measured['q'][block]:.2g}")
    if block == 0:
        return [*cells, *[""] * 7]
    i = block - 1
    for name in ("y2", "entropy"):
        cells += [f"{measured[name][i]:.3g}", _band(mean[name][i], std[name][i])]
    cells.append(f"{measured['score_std'][i]:.3g}")
    cells.append(f"{found.gradients['q'][i]:.2g}" if found.gradients else "-")
    kinds = [name.split()[0] for name, blocks in found.offending.items() if block in blocks]
    return [*cells, ", ".join(kinds)]


def _band(mean: float, std: float) -> str:
    return f"{mean:.3g} ±{2 * std:.1g}"
