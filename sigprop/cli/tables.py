"""Results as tables for people (rich)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sigprop.analysis.critical import REASONS, Critical
from sigprop.analysis.schemes.outcome import Outcome
from sigprop.analysis.verdict import Verdict
from sigprop.core.arrays import Floats, Ints
from sigprop.core.notation import NOTATION
from sigprop.model.huggingface import Reading
from sigprop.propagation.causal import Positions
from sigprop.propagation.every_pair import Solved
from sigprop.propagation.gradients.closed_form import Gradients
from sigprop.propagation.result import Trajectory
from sigprop.simulation import Measured
from sigprop.studies.comparison import Comparison
from sigprop.studies.folklore.verdicts import Finding
from sigprop.studies.reproduce import Made

if TYPE_CHECKING:
    from sigprop.symbolic import Derivation, Entry  # sympy loads where it is used

__all__ = [
    "comparisons",
    "critical",
    "derivation",
    "derivations",
    "findings",
    "gradients",
    "influence",
    "made",
    "measured",
    "positions",
    "profile",
    "regimes",
    "schemes",
    "show",
    "solved",
    "statistics",
    "trajectory",
]

WIDEST = 100  # columns of a formula drawn in two dimensions; wider ones are one line of text
ROWS = 24  # layers shown of a deep trajectory
PLACES = 6  # positions shown of a context
RANGES = 9  # of positions, shown of an influence


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _pairs(rows: dict[str, Any], title: str, *heads: str) -> Table:
    table = Table(*heads, title=title, title_justify="left", show_header=bool(heads))
    for name, value in rows.items():
        table.add_row(name, _cell(value))
    return table


def _named(rows: dict[str, Any], title: str) -> Table:
    table = Table("name", "meaning", "value", title=title, title_justify="left")
    for name, value in rows.items():
        meaning = NOTATION[name].meaning if name in NOTATION else ""
        unit = NOTATION[name].unit if name in NOTATION else "1"
        table.add_row(name, meaning + ("" if unit == "1" else f" ({unit})"), _cell(value))
    return table


def statistics(values: dict[str, float]) -> Table:
    """Attention statistics."""
    return _named(values, "Attention as a random energy model")


def trajectory(t: Trajectory) -> Group:
    """Layers of a trajectory; of many, evenly spaced ones."""
    if t.rho.ndim > 1:
        last = t.rho[-1].ravel()
        known = last[np.isfinite(last)]
        rows = {
            "trajectories": last.size,
            "layers": len(t.layer) - 1,
            "rho after the last layer": f"{known.min():.6g} ... {known.max():.6g}"
            if known.size
            else "none",
        }
        return Group(_pairs(rows, "Trajectories (--json lists every layer)"), *t.notes, t.reason)
    heads = ("l", "rho", "1 - rho", "q", "Y_2", "O", "H/nats", "H/logT", "s")
    table = Table(
        *heads, title="Layer by layer", title_justify="left", box=SIMPLE_HEAD, padding=(0, 0)
    )
    shown = np.unique(np.linspace(0, len(t.layer) - 1, ROWS).round().astype(int))
    per_layer = (t.y2, t.overlap, t.entropy, t.entropy_ratio, t.score_std)
    for i in shown:
        inside = [float(v[i - 1]) if i else None for v in per_layer]
        row = (float(t.rho[i]), float(t.gap[i] / t.q[i]), float(t.q[i]), *inside)
        table.add_row(str(i), *(_cell(v) if v is None else f"{v:.3g}" for v in row))
    extra = [] if t.positions is None else [positions(t.positions)]
    if t.rho_std is not None:
        extra.append(_spread(t, shown))
    return Group(table, *extra, *t.notes, t.reason)


def _spread(t: Trajectory, shown: Ints) -> Table:
    """Tabulate standard deviations over networks."""
    names = ("rho_std", "y2_std", "entropy_std")
    columns = [np.asarray(getattr(t, name)) for name in names]
    table = Table("l", *names, title="Spread over networks", title_justify="left", box=SIMPLE_HEAD)
    for i in shown:
        cells = (column[i - (len(t.layer) - len(column))] for column in columns)
        within = (i or len(column) == len(t.layer) for column in columns)
        row = (f"{v:.2g}" if ok else "-" for v, ok in zip(cells, within, strict=True))
        table.add_row(str(i), *row)
    return table


def positions(p: Positions) -> Table:
    """First, middle and last block at positions that are evenly spaced in their logarithm."""
    heads = ("t", "l", "rho", "Y_2", "O", "H/nats", "H/log t", "s", "A_1")
    table = Table(
        *heads, title="By position", title_justify="left", box=SIMPLE_HEAD, padding=(0, 0)
    )
    last = len(p.y2)
    layers = sorted({1, (last + 1) // 2, last})
    wanted = np.geomspace(p.position[0], p.position[-1], PLACES)
    shown = np.unique(np.abs(np.log(p.position) - np.log(wanted)[:, None]).argmin(axis=1))
    columns = (p.y2, p.overlap, p.entropy, p.entropy_ratio, p.score_std, p.first_weight)
    for i in shown:
        for layer in layers:
            row = (p.rho[layer, i], *(column[layer - 1, i] for column in columns))
            cells = ("-" if np.isnan(v) else f"{v:.3g}" for v in row)
            table.add_row(f"{p.position[i]:g}", str(layer), *cells)
    return table


def gradients(found: Gradients) -> Group:
    """Gradients of one stack, or a summary of many."""
    if found.q.ndim > 1:
        return Group(f"{found.apjn.size} gradient kernels (--json lists every layer)")
    heads = ("l", "q^g", "p^g", *(f"W_{name[1:].upper()}" for name in found.norms))
    title = "Gradients at the input of each block, and squared norms for weights"
    table = Table(*heads, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0))
    columns = (found.q, found.p, *found.norms.values())
    for i in np.unique(np.linspace(0, len(found.q) - 1, ROWS).round().astype(int)):
        table.add_row(str(i), *(f"{float(column[i]):.3g}" for column in columns))
    fates = {name: sorted(set(fate.tolist())) for name, fate in found.fates().items()}
    unwell = [f"{name}: {', '.join(fate)}" for name, fate in fates.items() if fate != ["healthy"]]
    if found.errors is not None:
        share = max(
            float(np.max(e / np.abs(getattr(found, n))))
            for n, e in found.errors.items()
            if n != "p"
        )
        unwell.append(
            f"{found.draws} sampled networks: standard errors up to {share:.0%} (p^g: --json)"
        )
    return Group(table, f"gradient exponent {float(found.exponent):.4g} per block", *unwell)


def influence(shares: Floats) -> Table:
    """Shares of ranges of positions at evenly spaced blocks."""
    depth, bins = shares.shape
    shown = np.unique(np.linspace(0, bins - 1, RANGES).round().astype(int))
    heads = ("l", *(f"{(k + 1) / bins:.2g}" for k in shown))
    title = f"Influence on the last token, by where its {bins} ranges of positions end"
    table = Table(*heads, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0))
    for i in np.unique(np.linspace(0, depth - 1, ROWS).round().astype(int)):
        table.add_row(str(i), *(f"{shares[i, k]:.2g}" for k in shown))
    return table


def critical(found: Critical, rho_max: float) -> Table:
    """Critical residual strength, or a summary of many."""
    if found.alpha_attn.ndim:
        counts = {text: int(np.sum(found.reason == text)) for text in REASONS}
        return _pairs(counts, f"Critical residual strength for rho <= {rho_max:g}", "end", "specs")
    rows = {
        "alpha_attn": float(found.alpha_attn),
        "rho there": float(found.rho),
        "asymptotic alpha_attn (infinite depth)": float(found.asymptotic),
        "how the search ended": str(found.reason),
        "|rho - rho_max|": float(found.residual),
        "overlap decreases with alpha_attn": bool(found.monotone),
    }
    return _pairs(rows, f"Critical residual strength for rho <= {rho_max:g}")


def regimes(summary: dict[str, Any]) -> Table:
    """Summary of a diagram."""
    rows = {name.replace("_", " "): count for name, count in summary["regimes"].items()}
    rows |= {"undefined": summary["undefined"], "data": summary["out"]}
    if summary["png"]:
        rows["figure"] = summary["png"]
    return _pairs(rows, "Trainability diagram", "regime", "grid points")


def profile(values: dict[str, Any]) -> Table:
    """Inverse temperature and overlap per block."""
    table = Table("block", "beta", "rho after", title="Beta profile", title_justify="left")
    for i, (beta, rho) in enumerate(zip(values["beta"], values["rho"][1:], strict=True)):
        table.add_row(str(i + 1), _cell(beta), _cell(rho))
    return table


def derivations(known: Iterable[Entry]) -> Group:
    """List of derivations, none performed."""
    table = Table("name", "derives", "from", title="Derivations", title_justify="left")
    table.columns[0].no_wrap = True
    for entry in known:
        table.add_row(entry.name, entry.title, entry.equations)
    return Group(table, "sigprop derive NAME [--steps] [--latex | --text]; --sheet FILE.md")


def derivation(found: Derivation, steps: bool) -> Group:
    """Show a derived result, with every step on demand."""
    from sympy import pretty

    parts: list[Any] = [Text.assemble((found.name, "bold"), f": {found.title}")]
    parts += [f"from {found.equations}; {found.source}"]
    for i, step in enumerate(found.steps, 1):
        last = i == len(found.steps)
        if steps or last:
            drawn = pretty(step.expression, use_unicode=True, wrap_line=False)
            wide = max(map(len, drawn.splitlines())) > WIDEST
            parts += ["", Text(f"{i}. {step.text}:" if steps else f"{step.text}:")]
            parts += ["", Padding(Text(str(step.expression) if wide else drawn), (0, 4))]
    return Group(*parts)


def show(reading: Reading, found: Verdict) -> Group:
    """All about one spec: what was read, what follows, verdict."""
    spec = {k: v for k, v in reading.spec.to_dict().items() if v is not None}
    parts: list[Any] = []
    if reading.facts:
        parts.append(_pairs(reading.facts, f"Read: {reading.family}", "config", "follows"))
    parts += [_named(spec, "Model at initialisation"), trajectory(found.trajectory)]
    rows: dict[str, Any] = {
        "critical alpha_attn": float(found.critical.alpha_attn),
        "asymptotic alpha_attn": float(found.critical.asymptotic),
        "first block above the accepted overlap": found.collapse_layer,
        "beta at which block 1 freezes": found.beta_freezing,
    }
    if found.exponents is not None:
        rows |= {
            "exponents of": found.exponents_of,
            "chi (factor on 1 - rho a block, at rho = 1)": float(found.exponents.chi),
            "depth scale (blocks)": float(found.exponents.depth_scale),
            "power law of 1 - rho in depth": float(found.exponents.power_law),
        }
    parts.append(_pairs(rows, "What follows"))
    parts += [f"- {note}" for note in reading.notes]
    parts += ["", Text(f"Verdict: {found.verdict}", "bold"), *found.reasons]
    return Group(*parts)


def _layers(title: str, total: int, columns: dict[str, tuple[Floats, Floats]]) -> Table:
    """Layers of a measurement, evenly spaced ones; what starts at the first block is shifted."""
    table = Table("l", *columns, title=title, title_justify="left", box=SIMPLE_HEAD)
    for i in np.unique(np.linspace(0, total - 1, ROWS).round().astype(int)):
        row = []
        for mean, se in columns.values():
            j = i - (total - len(mean))
            error = f"±{se[j]:.1g}" if np.isfinite(se[j]) else ""  # of one network none is known
            row.append("-" if j < 0 else f"{mean[j]:.4g}{error}")
        table.add_row(str(i), *row)
    return table


def measured(found: Measured) -> Table:
    """Measured layers, with standard errors; of many settings, how many there are."""
    if found.samples["rho"].ndim > 2:
        shape = found.samples["rho"].shape[2:]
        rows = {"settings": int(np.prod(shape)), "layers": len(found.layer) - 1}
        return _pairs(rows, "Random networks (--json lists every layer)")
    names = {"rho": "rho", "q": "q", "Y_2": "y2", "O": "overlap", "H/nats": "entropy"}
    columns = {head: (found.mean(name), found.se(name)) for head, name in names.items()}
    return _layers(f"{len(found.seeds)} random networks", len(found.layer), columns)


def solved(found: Solved) -> Table:
    """Kernel of each layer, in short; the block means are in the JSON."""
    names = {"rho": "rho", "q": "q", "Y_2": "y2", "O": "overlap", "H/nats": "entropy"}
    columns = {head: (found.mean(name), found.se(name)) for head, name in names.items()}
    return _layers(
        f"Token kernel at infinite width, {len(found.rho)} draws (--json lists its block means)",
        found.rho.shape[1],
        columns,
    )


def comparisons(found: list[Comparison]) -> Group:
    """Deviations of theory from measurement, and the verdicts."""
    heads = ("spec", "statistic", "theory", "largest", "mean", "z", "agrees")
    table = Table(*heads, title="Theory beside random networks", title_justify="left")
    for c in found:
        for name in c.deviations["finite"]:
            for theory, rows in c.deviations.items():
                d = rows[name]
                numbers = (f"{d.largest:.3g}", f"{d.mean:.3g}", f"{d.z:.1f}")
                table.add_row(c.name, name, theory, *numbers, "yes" if d.agrees else "no")
    notes = dict.fromkeys(f"{c.name}: {note}" for c in found for note in c.finite.notes)
    return Group(table, *notes, *(c.verdict for c in found))


def made(figure: Made) -> Group:
    """Say what a figure shows, and how far theory is from measurement."""
    lines = (f"- {line}" for line in figure.findings)
    return Group(Text(f"{figure.name}: {figure.title}", "bold"), figure.shows, *lines, "")


def schemes(found: list[Outcome]) -> Group:
    """Print schemes, one a row, why their verdicts, and what their descriptions leave out."""
    heads = ("scheme", "beta", "alpha", "rho_L", "H_1", "H_L", "alpha_c", "lambda_g", "collapse")
    table = Table(*heads, title="Schemes (H in units of log T)", title_justify="left",
                  box=SIMPLE_HEAD, padding=0, pad_edge=False)  # fmt: skip
    for column in table.columns:
        column.no_wrap = True
    for one in found:
        numbers = (
            _short(float(one.spec.beta), ".3g"),
            _short(float(one.spec.alpha_attn), ".3g"),
            _short(one.rho_final, ".4f"),
            _short(one.entropy_first, ".2f"),
            _short(one.entropy_final, ".2f"),
            _short(one.alpha_critical, ".3g"),
            _short(one.lambda_g, "+.3f"),
        )
        table.add_row(one.name, *numbers, _collapse(one.verdict))
    reasons = {one.reason: [other.name for other in found if other.reason == one.reason]
               for one in found}  # fmt: skip
    lines = [f"{reason}: {', '.join(names)}" for reason, names in reasons.items()]
    notes = [f"- {one.name}: {one.approximation}" for one in found if one.approximation]
    return Group(table, *lines, *notes)


def _collapse(verdict: str) -> str:
    return (
        "none"
        if verdict == "trainable"
        else verdict.replace(" collapse", "").replace(" and ", ", ")
    )


def findings(found: list[Finding]) -> Group:
    """Print rules, and in every case what they say, what theory gives and what was measured."""
    parts: list[Any] = []
    for one in found:
        c = one.claim
        parts += [Text.assemble((f"{c.number}. {c.claim}", "bold"), f"  ({c.source})")]
        parts += [f"   Theory: {c.formula}"]
        table = Table("case", "claimed", "theory", "measured", "holds", box=SIMPLE_HEAD)
        for p in one.points:
            numbers = f"{p.claimed:.4g}", f"{p.theory:.4g}", f"{p.measured:.4g} ± {p.se:.1g}"
            table.add_row(p.where, *numbers, "yes" if p.holds else "no")
        parts += [table, f"   Verdict: {one.verdict}", f"   {one.correction}", ""]
    return Group(*parts)


def _short(value: float | None, shape: str) -> str:
    return "-" if value is None else format(value, shape)
