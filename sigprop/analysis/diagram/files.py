"""Files of a Zarr store of a diagram: every chunk whole, and sealed with what it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sigprop.analysis.diagram.grid import BOUNDARIES, GRADIENT_BOUNDARIES
from sigprop.core.errors import DomainError
from sigprop.core.files import clear, hold, read, seal, temporary, unseal, write

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MARK", "UNKNOWN", "Box", "Files", "encoded", "verify"]

Box = tuple[slice, ...]
UNKNOWN = -2  # regime of a point that is still to be computed; nothing else is written there
MARK = "regime"  # its folder also holds the seals: Zarr does not look beside the chunks of an array
SEALS = "seal"
STORE, CLOSED = "store", "closed"  # seals of what is known at the beginning, and at the end
ROOT = "zarr.json"
CURVES = [f"{name}_{part}" for name in (*BOUNDARIES, *GRADIENT_BOUNDARIES)
          for part in ("x", "y", "curve")]  # fmt: skip


@dataclass(frozen=True)
class Files:
    """Files of a store, by name; `known` are all but the chunks that are still to be computed.

    Attributes
    ----------
    path : Path
        The store.
    name : str
        Digest of what the diagram asks.
    revision : int
        Of the theory that answers.
    known : dict of str to bytes
        Descriptions of the arrays, and the axes.
    variables : tuple of str
        What is computed at each point.
    """

    path: Path
    name: str
    revision: int
    known: Mapping[str, bytes]
    variables: tuple[str, ...]

    @cached_property
    def about(self) -> str:
        """What is sealed as a whole: name, revision, and digests of what is known."""
        digests = {key: _sha(content).hex() for key, content in sorted(self.known.items())}
        about = {"name": self.name, "revision": self.revision, "files": digests}
        return json.dumps(about, sort_keys=True)

    @cached_property
    def identity(self) -> str:
        """Digest of all that a chunk must agree with."""
        return str(_sha(self.about.encode()).hex())

    def make(self) -> None:
        """Make the store without chunks, whole or not at all, in place of one that is there."""
        clear(self.path.parent)
        new, old = temporary(self.path), temporary(self.path)
        try:
            new.mkdir()
            number = os.open(new, os.O_RDONLY)
            try:
                hold(number)
                replace(self, path=new).repair()
                if self.path.exists():
                    self.path.rename(old)
                new.rename(self.path)
            finally:
                os.close(number)
        except OSError as error:
            words = f"a store in an existing, writable folder ({error.strerror})"
            raise DomainError("out", str(self.path), words) from None
        finally:
            for left in (new, old):
                rmtree(left, ignore_errors=True)

    def repair(self) -> bool:
        """Write what is known where the disk has something else; tell whether it had."""
        closed = _closed(self.path, self.identity)
        told = {key: content for key, content in self.known.items() if key != ROOT or not closed}
        told[f"{MARK}/{SEALS}/{STORE}"] = seal(STORE, self.about.encode())
        wrong = [key for key, content in told.items() if _there(self.path / key) != content]
        for key in wrong:
            _put(self.path / key, told[key])
        return bool(wrong)

    def owner(self) -> tuple[str, int] | None:
        """Name and revision of the diagram whose store is there; None if its seal says neither."""
        about = _about(self.path)
        if about is None or "revision" not in about:  # gone, damaged, or of version 0.2
            return None
        return str(about["name"]), int(about["revision"])

    def state(self, box: Box) -> bool | None:
        """Whether a chunk is whole; None if it is not there."""
        place = self._place(box)
        kept = _there(_seal(self.path, place))
        return None if kept is None else _whole(self.path, self.identity, place, kept)

    def forget(self, box: Box) -> None:
        """Remove the seal of a chunk, which is then still to be computed."""
        with suppress(OSError):
            _seal(self.path, self._place(box)).unlink(missing_ok=True)

    def keep(self, box: Box, data: Mapping[str, NDArray[Any]]) -> None:
        """Write a chunk, its seal after all else is on the disk."""
        place = self._place(box)
        self.forget(box)
        digests = []
        for name in self.variables:
            content = _chunk(self.known[f"{name}/{ROOT}"], place, box, data[name])
            _put(self.path / name / "c" / Path(*place), content)
            digests.append([f"{name}/c/{'/'.join(place)}", _sha(content).hex()])
        sealed = seal(f"{self.identity} {'.'.join(place)}", json.dumps(digests).encode())
        _put(_seal(self.path, place), sealed)

    def is_closed(self) -> bool:
        """Whether what is known at the end is there."""
        return _closed(self.path, self.identity)

    def open_again(self) -> None:
        """Remove what was known at an earlier end, which may be damaged."""
        _seal(self.path, [CLOSED]).unlink(missing_ok=True)
        for name in CURVES:
            rmtree(self.path / name, ignore_errors=True)

    def close(self, added: Mapping[str, bytes], attributes: Mapping[str, Any]) -> None:
        """Write what is known at the end: further arrays, and attributes of the whole."""
        root = json.loads(self.known[ROOT])
        root["attributes"] |= attributes
        files = {key: content for key, content in added.items() if "/" in key}
        files[ROOT] = json.dumps(root, indent=2).encode()
        for key, content in files.items():
            _put(self.path / key, content)
        for place, kept in _sealed(self.path):  # so that the seal of a chunk cannot go unnoticed
            files[f"{MARK}/{SEALS}/{'.'.join(place)}"] = kept
        digests = [[key, _sha(content).hex()] for key, content in sorted(files.items())]
        sealed = seal(f"{self.identity} {CLOSED}", json.dumps(digests).encode())
        _put(_seal(self.path, [CLOSED]), sealed)

    def _place(self, box: Box) -> list[str]:
        """Numbers of a chunk along the axes."""
        sides = json.loads(self.known[f"{MARK}/{ROOT}"])["chunk_grid"]["configuration"]
        lengths = sides["chunk_shape"]
        return [str(side.start // length) for side, length in zip(box, lengths, strict=True)]


def encoded(data: xr.Dataset, values: bool = True) -> dict[str, bytes]:
    """Files of a dataset as Zarr, with checksums in every chunk, by name.

    Parameters
    ----------
    data : xarray.Dataset
        The dataset.
    values : bool
        Whether chunks of dask arrays are among them.

    Returns
    -------
    dict of str to bytes
        Content of each file.
    """
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    kinds: dict[Any, dict[str, Any]] = {
        name: {"compressors": (ZstdCodec(level=0), Crc32cCodec())} for name in data.variables
    }
    for name in () if values else data.data_vars:
        kinds[name]["fill_value"] = UNKNOWN if name == MARK else np.nan
    files: dict[str, Any] = {}
    store: Any = MemoryStore(files)
    if values:
        data.to_zarr(store, consolidated=False, encoding=kinds)
    else:
        data.to_zarr(store, compute=False, consolidated=False, encoding=kinds)
    return {key: buffer.to_bytes() for key, buffer in files.items()}


def verify(path: Path) -> list[str]:
    """Names of what in a store is not as it was written; what is still to be computed is not.

    Parameters
    ----------
    path : Path
        A store; without a seal of the whole nothing can be said.

    Returns
    -------
    list of str
        Files or chunks, none if all are whole.
    """
    kept = _there(_seal(path, [STORE]))
    if kept is None:
        return []
    about = _about(path)
    if about is None:
        return [f"{MARK}/{SEALS}/{STORE}"]
    identity = _sha(json.dumps(about, sort_keys=True).encode()).hex()
    closed = _closed(path, identity)
    known = [key for key in about["files"] if key != ROOT or not closed]
    wrong = [key for key in known if _sha_of(path / key) != about["files"][key]]
    if _there(_seal(path, [CLOSED])) is not None and not closed:
        wrong.append(CLOSED)
    for place, sealed in _sealed(path):
        if not _whole(path, identity, place, sealed):
            wrong.append("chunk " + ".".join(place))
    return wrong


def _chunk(about: bytes, place: list[str], box: Box, values: NDArray[Any]) -> bytes:
    """Encode a chunk as the description of its array says, also one of empty values."""
    import zarr
    from zarr.core.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {ROOT: Buffer.from_bytes(about)}
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(MemoryStore(files), mode="r+")[box] = values
    return bytes(files["c/" + "/".join(place)].to_bytes())


def _seal(path: Path, place: list[str]) -> Path:
    return path / MARK / SEALS / ".".join(place)


def _sealed(path: Path) -> Iterator[tuple[list[str], bytes]]:
    for entry in sorted((path / MARK / SEALS).iterdir()):
        place = entry.name.split(".")
        if all(part.isdigit() for part in place) and (kept := _there(entry)) is not None:
            yield place, kept


def _whole(path: Path, identity: str, place: list[str], kept: bytes) -> bool:
    """Whether a seal and all files that it names are as they were written."""
    content = unseal(f"{identity} {'.'.join(place)}", kept)
    return content is not None and all(
        _sha_of(path / key) == digest for key, digest in json.loads(content)
    )


def _closed(path: Path, identity: str) -> bool:
    kept = _there(_seal(path, [CLOSED]))
    return kept is not None and _whole(path, identity, [CLOSED], kept)


def _about(path: Path) -> dict[str, Any] | None:
    kept = _there(_seal(path, [STORE]))
    content = None if kept is None else unseal(STORE, kept)
    return None if content is None else dict(json.loads(content))


def _there(path: Path) -> bytes | None:
    try:
        return read(path)
    except OSError:
        return None


def _put(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DomainError("out", str(path), f"a writable file ({error.strerror})") from None
    write(path, content)


def _sha(content: bytes) -> Any:
    return hashlib.sha256(content).digest()


def _sha_of(path: Path) -> str | None:
    content = _there(path)
    return None if content is None else str(_sha(content).hex())
