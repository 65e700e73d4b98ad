"""Make figures again: data, picture and provenance of each, resumable cell by cell."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.analysis.diagram.grid import save
from sigprop.core.arguments import validated
from sigprop.core.checks import choice
from sigprop.core.errors import DomainError
from sigprop.core.files import Target, check_targets, note, write
from sigprop.core.version import __version__
from sigprop.plotting.base import save_figure
from sigprop.studies.figures import FIGURES, Figure, Lab

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CELLS", "Made", "reproduce"]

CELLS = ".cells"  # folder of finished cells, inside the target
NEW = "reproduced"  # folder that is made where none is named
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
    >>> from sigprop.studies.reproduce import Made
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
    out: str | Path | None = None,
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
    out : str or Path, optional
        Target folder, made if it does not exist; files of these figures in it are replaced. By
        default a new one: `reproduced`, or the first of `reproduced-2`, ... that is free.
    done : callable, optional
        Called with each figure as it is finished.

    Returns
    -------
    list of Made
        What was made, in order.

    Raises
    ------
    DomainError
        If a name is unknown, the folder cannot be written, the text is not admissible, or lies
        where a figure is to be written; nothing is written then.
    PictureError
        If a picture cannot be drawn, once its data are saved.

    Examples
    --------
    >>> from sigprop.studies.reproduce import reproduce
    >>> reproduce(["nothing"])
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: figure = 'nothing' is not admissible: expected one of ...
    """
    lab = lab or Lab()
    for name in names:
        choice("figure", name, tuple(FIGURES))
    wanted = [FIGURES[name] for name in dict.fromkeys(names or FIGURES)]
    for figure in wanted:
        if (context := figure.text_context(lab)) is not None:
            lab.windows(context)
    folder = _new_folder() if out is None else Path(out)
    fresh = not folder.exists()
    _make(folder, wanted, lab)
    if lab.execution.folder is None:
        lab = replace(lab, execution=replace(lab.execution, folder=folder / CELLS))
    made = []
    try:
        for figure in wanted:
            made.append(_one(figure, lab, folder))
            if done is not None:
                done(made[-1])
    except BaseException as error:
        _say_kept(error, folder, fresh)
        raise
    return made


def _say_kept(error: BaseException, folder: Path, fresh: bool) -> None:
    """Add to an error how to go on from what is finished; without any, leave no new folder."""
    for empty in (folder / CELLS, folder) if fresh else ():
        with suppress(OSError):
            empty.rmdir()
    if folder.exists():
        error.__notes__ = []  # what a part of the work said of itself does not name the folder
        note(error, f"what is finished is kept in {folder}: with --out {folder} it goes on")


def _new_folder() -> Path:
    """Name a folder that does not exist yet."""
    free = (Path(f"{NEW}-{i}" if i > 1 else NEW) for i in count(1))
    return next(path for path in free if not os.path.lexists(path))


def _make(folder: Path, wanted: list[Figure], lab: Lab) -> None:
    """Make the folder, unless a file that is to be written in it cannot be."""
    check_targets([Target("out", folder, folder=True)])
    if folder.exists():
        files = [path for figure in wanted for path in _files(figure, folder).values()]
        check_targets([Target("out", path) for path in files], [lab.text])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"a folder that can be made ({error.strerror})"
        raise DomainError("out", str(folder), words) from None


def _files(figure: Figure, folder: Path) -> dict[str, Path]:
    return {ending: folder / f"{figure.name}.{ending}" for ending in ("nc", "json", "png", "pdf")}


def _one(figure: Figure, lab: Lab, folder: Path) -> Made:
    data = figure.data(lab)
    data.attrs |= {"sigprop_version": __version__, "quick": int(lab.quick)}
    findings = tuple(figure.findings(data))
    target = _files(figure, folder)
    save(data, target["nc"])
    about = _provenance(figure, lab, data, findings)
    write(target["json"], json.dumps(about, indent=1, allow_nan=False) + "\n")
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
