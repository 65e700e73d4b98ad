"""Make figures again: data, picture and provenance of each, resumable cell by cell."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.arguments import validated
from sigprop.diagram import save
from sigprop.errors import DomainError
from sigprop.figures import FIGURES, Figure, Lab
from sigprop.plots import save_figure
from sigprop.validate import choice
from sigprop.version import __version__

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CELLS", "Made", "reproduce"]

CELLS = ".cells"  # folder of finished cells, inside the target
SOURCE = "Giorlandino & Goldt, arXiv 2505.24333; finite context and kernel solver: sigprop"


@dataclass(frozen=True)
class Made:
    """A figure that was made.

    Attributes
    ----------
    name, title, shows : str
        Which one, and what to look for.
    findings : tuple of str
        How far theory is from measurement.
    files : tuple of str
        What was written.

    Examples
    --------
    >>> from sigprop.reproduce import Made
    >>> Made("depth", "Overlap against depth", "", (), ()).name
    'depth'
    """

    name: str
    title: str
    shows: str
    findings: tuple[str, ...]
    files: tuple[str, ...]


@validated
def reproduce(
    names: Sequence[str] = (),
    lab: Lab | None = None,
    out: str | Path = "figures",
    done: Callable[[Made], None] | None = None,
) -> list[Made]:
    """Compute figures and write NAME.nc, NAME.json, NAME.png and NAME.pdf of each.

    Parameters
    ----------
    names : sequence of str
        Figures, by name; all if empty.
    lab : Lab, optional
        How much is computed, from which text, with how many processes. Finished cells are kept in
        the folder `.cells` of the target unless it names another; a second run continues.
    out : str or Path
        Target folder, made if it does not exist.
    done : callable, optional
        Called with each figure as it is finished.

    Returns
    -------
    list of Made
        What was made, in order.

    Raises
    ------
    DomainError
        If a name is unknown, the folder cannot be written, or the text is not admissible; nothing
        is written then.

    Examples
    --------
    >>> from sigprop.reproduce import reproduce
    >>> reproduce(["nothing"])
    Traceback (most recent call last):
        ...
    sigprop.errors.DomainError: figure = 'nothing' is not admissible: expected one of depth, ...
    """
    lab, folder = lab or Lab(), Path(out)
    for name in names:
        choice("figure", name, tuple(FIGURES))
    wanted = [FIGURES[name] for name in dict.fromkeys(names or FIGURES)]
    for figure in wanted:
        if (context := figure.text_context(lab)) is not None:
            lab.windows(context)
    _make(folder)
    if lab.folder is None:
        lab = replace(lab, folder=folder / CELLS)
    made = []
    for figure in wanted:
        made.append(_one(figure, lab, folder))
        if done is not None:
            done(made[-1])
    return made


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"a folder that can be made ({error.strerror})"
        raise DomainError("out", str(folder), words) from None
    if not os.access(folder, os.W_OK):
        raise DomainError("out", str(folder), "a writable folder")


def _one(figure: Figure, lab: Lab, folder: Path) -> Made:
    data = figure.data(lab)
    data.attrs |= {"sigprop_version": __version__, "quick": int(lab.quick)}
    findings = tuple(figure.findings(data))
    target = {ending: folder / f"{figure.name}.{ending}" for ending in ("nc", "json", "png", "pdf")}
    save(data, target["nc"])
    _write(target["json"], _provenance(figure, lab, data, findings))
    picture = figure.draw(data)
    save_figure(picture, target["png"])
    save_figure(picture, target["pdf"])
    files = tuple(str(path) for path in target.values())
    return Made(figure.name, figure.title, figure.shows, findings, files)


def _provenance(
    figure: Figure, lab: Lab, data: xr.Dataset, findings: tuple[str, ...]
) -> dict[str, Any]:
    parameters = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in data.attrs.items()}
    text = None
    if lab.text is not None and figure.text_context(lab) is not None:
        digest = hashlib.sha256(lab.text.read_bytes()).hexdigest()
        text = {"name": lab.text.name, "sha256": digest}
    return {
        "figure": figure.name,
        "title": figure.title,
        "shows": figure.shows,
        "findings": findings,
        "parameters": {k: _parsed(v) for k, v in parameters.items()},
        "text": text,
        "source": SOURCE,
        "command": f"sigprop reproduce {figure.name}" + (" --quick" if lab.quick else ""),
    }


def _parsed(value: Any) -> Any:
    """JSON inside an attribute as JSON; NetCDF holds only numbers and text."""
    if isinstance(value, str) and value[:1] in "[{":
        return json.loads(value)
    return value


def _write(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(f".sigprop.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
