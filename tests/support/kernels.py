"""Kernels of random tokens, and files that hold or only begin to hold one."""

import numpy as np


def cosines(rank, context=64, seed=0):
    """Exact kernel of random tokens of few features."""
    x = np.random.default_rng(seed).standard_normal((context, rank))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    out = x @ x.T
    np.fill_diagonal(out, 1.0)
    return out


def archive(path, **arrays):
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz").read_bytes()


def header(shape, size=0):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(size)
