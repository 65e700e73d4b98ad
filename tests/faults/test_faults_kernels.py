"""Kernels that were refused or believed wrongly, and input that ended in tracebacks."""

import json

import numpy as np
import pytest
from kernels import archive, cosines, header
from outcomes import outcome, run_cli

from sigprop import DomainError, Execution, ModelSpec
from sigprop.propagation.causal import causal
from sigprop.propagation.every_pair import Solved, read_kernel, solve, text_kernel
from sigprop.simulation import Given, simulate

T = 64
SPEC = ModelSpec(
    depth=2, context=T, width=48, beta=1.0, sigma_v2=1.0, sigma_w2=1.0, rho0=0.1, causal=True
)


def solved(kernel, spec=SPEC):
    return outcome(solve, spec, kernel, draws=1, blocks=4)


def given(kernel, spec=SPEC):
    return outcome(lambda: simulate(spec, 1, source=Given(kernel)))


ENTRIES = {"solve": solved, "causal": lambda k: outcome(causal, SPEC, k), "simulate": given}


# rounding


@pytest.mark.parametrize("digits", [3, 4])
def test_a_rounded_kernel_is_moved_and_the_solver_barely_notices(digits):
    """At beta = 0 nothing is drawn: overlaps move by no more than the kernel did."""
    spec, exact = SPEC.replace(beta=0.0), cosines(6)
    rounded = exact.round(digits)
    assert np.linalg.eigvalsh(rounded)[0] < -(10.0**-digits)
    found, true = solved(rounded, spec), solved(exact, spec)
    assert isinstance(found, Solved), found
    half = 0.5 * 10.0**-digits
    assert 0.2 * half < found.kernel_moved < 2 * half
    assert np.abs(found.rho - true.rho).max() < found.kernel_moved
    assert np.abs(found.samples - true.samples).max() < found.kernel_moved


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_single_precision_gram_of_low_rank_is_a_kernel(dtype):
    """Its errors are recognised even where it was stored in double precision."""
    x = np.random.default_rng(1).standard_normal((T, 8)).astype(np.float32)
    gram = (x @ x.T / 8).astype(dtype)
    lowest, *_, highest = np.linalg.eigvalsh(gram.astype(np.float64))
    assert lowest < -1.5e-8 * highest
    found = solved(gram)
    assert isinstance(found, Solved), found
    assert found.kernel_moved < 1e-6


@pytest.mark.parametrize("entry", ENTRIES)
def test_one_check_for_all_entries(entry):
    """The smallest eigenvalue of equal overlaps -0.9 of 16 tokens is 1 - 15 * 0.9 = -12.5."""
    inner = np.full((16, 16), -0.9) + 1.9 * np.eye(16)
    kernel = np.kron(np.eye(4), inner)
    found = ENTRIES[entry](kernel)
    assert isinstance(found, DomainError), found
    assert found.parameter == "kernel"
    assert found.value == pytest.approx(-12.5)
    assert "rounding" in str(found)


def test_ten_times_the_rounding_is_refused():
    """Negative control: noise of ten units, in the same three digits, is not their rounding."""
    noise = np.random.default_rng(2).uniform(-5e-3, 5e-3, (T, T))
    noise = np.triu(noise, 1) + np.triu(noise, 1).T
    found = outcome(causal, SPEC, (cosines(6) + noise).round(3))
    assert isinstance(found, DomainError), found
    assert "3 decimals" in found.admissible


# kinds of input


@pytest.mark.parametrize(
    "make",
    [
        lambda kernel: kernel.tolist(),
        lambda kernel: tuple(map(tuple, kernel.tolist())),
        lambda kernel: list(kernel),
        lambda kernel: kernel.astype(np.float16),
        lambda kernel: kernel.astype(np.int64),
    ],
)
def test_lists_integers_and_short_floats_are_numbers(make):
    kernel = np.eye(T) + np.equal.outer(np.arange(T) // 8, np.arange(T) // 8)  # exact in all
    found = solved(make(kernel))
    assert isinstance(found, Solved), found
    np.testing.assert_array_equal(found.rho, solved(kernel).rho)


def nan(kernel):
    kernel[3, 7] = kernel[7, 3] = np.nan
    return kernel


REFUSED = {
    "bool": (lambda k: k > 0, "bool"),
    "complex": (lambda k: k * (1 + 0j), "complex128"),
    "object": (lambda k: k.astype(object), "object"),
    "text": (lambda k: k.astype(str), "numbers"),
    "name": (lambda _: "k.npy", "read_kernel"),
    "ragged": (lambda k: [*k.tolist()[1:], [1.0]], "numbers"),
    "booleans": (lambda k: (k > 0).tolist(), "booleans"),
    "masked": (lambda k: np.ma.masked_less(k, 0.5), "masked"),
    "mapping": (lambda _: {"kernel": 1}, "numbers"),
    "nan": (nan, "row 3, column 7"),
    "empty": (lambda _: [], "square"),
    "huge": (lambda _: [[10**400, 0], [0, 1]], "numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_anything_else_is_refused_by_name(entry, case):
    make, words = REFUSED[case]
    found = ENTRIES[entry](make(np.eye(T)))
    assert isinstance(found, DomainError), repr(found)
    assert found.parameter == "kernel"
    assert words in str(found)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_zero_row_names_its_token(entry):
    kernel = np.eye(T)
    kernel[5, 5] = 0.0
    found = ENTRIES[entry](kernel)
    assert isinstance(found, DomainError), found
    assert "token 5 (counted from 0)" in str(found)


def test_a_kernel_that_does_not_fit_leaves_no_folder(tmp_path):
    source = outcome(Given, np.eye(3))
    how = Execution(folder=tmp_path / "cells")
    found = outcome(simulate, SPEC, 1, source=source, execution=how)
    assert isinstance(found, DomainError)
    assert not (tmp_path / "cells").exists()


def test_the_largest_context_is_a_size_in_memory():
    found = outcome(solve, SPEC.replace(context=65536), np.eye(4))
    assert isinstance(found, DomainError)
    assert f"{24 * 8 * 65536**2 / 2**30:.0f} GiB" in str(found)


@pytest.mark.parametrize("ids", [[[1, 2], [2, 1]], [1.5, np.nan], []])
def test_ids_of_a_text_are_a_row_of_integers(ids):
    found = outcome(text_kernel, np.array(ids), "none")
    assert isinstance(found, DomainError), found
    assert found.parameter == "ids"


# files


FILES = {
    "half an archive": lambda path: archive(path, kernel=np.eye(4))[:200],
    "bytes after the numbers": lambda _: header((2, 2), 4 * 8 + 1),
}


@pytest.mark.parametrize("case", FILES)
def test_corrupt_files_are_refused_by_name(tmp_path, case):
    path = tmp_path / "k.npy"
    path.write_bytes(FILES[case](path))
    found = outcome(read_kernel, path)
    assert isinstance(found, DomainError), repr(found)
    assert found.parameter == "kernel"
    assert found.value == str(path)


def test_an_archive_of_one_array_is_read(tmp_path):
    np.savez(tmp_path / "k.npz", kernel=np.eye(4, dtype=np.float32))
    found = outcome(read_kernel, tmp_path / "k.npz")
    assert isinstance(found, np.ndarray), found
    assert found.dtype == np.float32


def test_a_header_that_asks_for_too_much_is_a_size(tmp_path):
    (tmp_path / "k.npy").write_bytes(header((10**6, 10**6)))
    found = outcome(read_kernel, tmp_path / "k.npy")
    assert isinstance(found, DomainError), repr(found)
    assert f"{24 * 8 * 10**12 / 2**40:.3g} TiB" in str(found)


def test_the_command_says_how_far_it_moved_the_kernel(tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    np.save(tmp_path / "k.npy", cosines(6).round(3))
    words = ("spec.json", "--kernel", "k.npy", "--workers", 1, "--json")
    run = run_cli("kernel", *words, "--draws", 1, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert 1e-4 < json.loads(run.stdout)["kernel_moved"] < 1e-3
    assert "rounding to 3 decimals" in run.stderr


def test_the_command_refuses_a_corrupt_archive(tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    (tmp_path / "k.npy").write_bytes(archive(tmp_path / "k.npy", kernel=np.eye(T))[:200])
    run = run_cli("kernel", "spec.json", "--kernel", "k.npy", "--workers", 1, folder=tmp_path)
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("sigprop: error: kernel = 'k.npy' is not admissible")
    assert "Traceback" not in run.stderr
