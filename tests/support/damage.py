"""Stored files as failing disks leave them: a byte flipped, an end lost, zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sigprop.core.jobs.cache import job


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damage a file in one of the ways, each so that its content changes; return which."""
    content = path.read_bytes()
    kind = str(rng.choice(["flip", "flip", "flip", "cut", "empty", "zeros", "longer"]))
    if kind == "flip" or len(content) < 2:
        changed = bytearray(content)
        changed[rng.integers(len(changed))] ^= int(rng.integers(1, 256))
    elif kind == "cut":
        changed = bytearray(content[: rng.integers(1, len(content))])
    elif kind == "empty":
        changed = bytearray()
    elif kind == "zeros":
        changed = bytearray(len(content))
    else:
        changed = bytearray(content + bytes(rng.integers(0, 256, 7, dtype=np.uint8)))
    path.write_bytes(changed)
    return kind


@job("simulation.number")
def number(seed: int) -> dict[str, np.ndarray]:
    """Job: numbers of a seed."""
    return {"y": np.random.default_rng(seed).standard_normal(5), "seed": np.array(seed)}
