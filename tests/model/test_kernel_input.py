"""The check of token kernels: what rounding explains, the nearest kernel, files."""

import io
import os
import pickle

import numpy as np
import pytest
from kernels import archive, cosines, header
from outcomes import outcome

from sigprop import DomainError, ModelSpec
from sigprop.core.numerics.kernel_rounding import DOUBLE, explained, nearest
from sigprop.model.inputs import MAX_TOKENS, TokenKernel, admit
from sigprop.propagation.causal import causal
from sigprop.propagation.every_pair import Solved, read_kernel, solve, text_kernel
from sigprop.simulation import Given

NOISE = 5e-16  # of eigenvalues, times T


def lowest(kernel):
    return np.linalg.eigvalsh(kernel)[0]


def distance(kernel):
    return float(np.sqrt(np.mean(np.square(kernel))))


# rounding


@pytest.mark.parametrize("rank", [2, 6, 40])
@pytest.mark.parametrize("digits", [2, 3, 4])
def test_the_nearest_kernel_of_rounded_cosines(rank, digits):
    """It is a kernel, no further than its digits explain, and nearer to the truth than they are."""
    exact = cosines(rank, 48, digits)
    rounded = exact.round(digits)
    found = admit(rounded, 48)
    assert lowest(found.values) >= -NOISE * 48
    np.testing.assert_array_equal(np.diagonal(found.values), 1.0)
    np.testing.assert_array_equal(found.values, found.values.T)
    half = 0.5 * 10.0**-digits
    assert distance(found.values - rounded) <= half
    assert found.moved == pytest.approx(np.abs(found.values - rounded).max(), abs=1e-15)
    assert found.moved < 2 * half
    assert distance(found.values - exact) < 1.02 * distance(rounded - exact)
    assert found.rounding == f"{digits} decimals"


def rounded_at_random(rng):
    """Kernel of few features, repeated or nearly equal tokens, in two to five digits."""
    size, rank = int(rng.integers(3, 30)), int(rng.integers(1, 12))
    x = rng.standard_normal((size, rank))
    x = (x, x[rng.integers(0, max(1, size // 3), size)], 1 + 0.05 * x)[rng.integers(3)]
    root = np.linalg.norm(x, axis=1) / rng.choice([1, 10 ** rng.uniform(0, 2)])
    kernel = x @ x.T / np.outer(root, root)
    digits = int(rng.integers(2, 6))
    match int(rng.integers(4)):
        case 0:
            return kernel.astype(np.float32)
        case 1:
            return kernel.astype(np.float16)
        case 2:
            return kernel.round(digits)
    return np.array([[float(f"{v:.{digits}g}") for v in row] for row in kernel])


def test_no_rounded_kernel_is_refused():
    rng, moved = np.random.default_rng(11), 0
    for _ in range(200):
        moved += admit(rounded_at_random(rng)).moved > DOUBLE
    assert moved > 80


@pytest.mark.parametrize("times", [3, 10])
@pytest.mark.parametrize("digits", [3, 4])
def test_more_than_rounding_is_refused(times, digits):
    half = 0.5 * 10.0**-digits
    noise = np.random.default_rng(digits).uniform(-times * half, times * half, (48, 48))
    kernel = (cosines(6, 48) + np.triu(noise, 1) + np.triu(noise, 1).T).round(digits)
    with pytest.raises(DomainError, match=f"beyond rounding to {digits} decimals"):
        admit(kernel)


def test_the_nearest_kernel_is_the_one_of_alternating_projections():
    """Dykstra's algorithm for the nearest correlation matrix (Higham 2002), a thousand steps."""
    rounded = cosines(4, 12).round(2)
    y, correction = rounded.copy(), np.zeros_like(rounded)
    for _ in range(1000):
        values, vectors = np.linalg.eigh(y - correction)
        x = (vectors * np.maximum(values, 0)) @ vectors.T
        correction = x - (y - correction)
        y = x.copy()
        np.fill_diagonal(y, 1.0)
    found = nearest(rounded, explained(rounded))
    np.testing.assert_allclose(found.cosines, y, atol=2e-4)  # the diagonal is met to 1e-4
    assert 0.1 < found.excess < 1


def test_variances_stay_and_may_differ():
    scale = np.geomspace(0.1, 10, 32)
    kernel = np.outer(scale, scale) * cosines(5, 32)
    text = np.array([[float(f"{v:.4g}") for v in row] for row in kernel])
    found = admit(text)
    assert found.rounding == "4 digits"
    np.testing.assert_array_equal(np.diagonal(found.values), np.diagonal(text))
    root = np.sqrt(np.diagonal(text))
    assert lowest(found.values / np.outer(root, root)) >= -NOISE * 32
    assert 1e-5 < found.moved < 5e-4


@pytest.mark.parametrize(
    ("dtype", "words", "bound"),
    [(np.float16, "half precision", 2.0**-9), (np.float32, "single precision", 1e-6)],
)
def test_short_floats_explain_their_own_rounding(dtype, words, bound):
    x = np.random.default_rng(3).standard_normal((48, 3)).astype(dtype)
    gram = x @ x.T
    found, stored = admit(gram), admit(gram.astype(np.float64))
    assert found.rounding == words
    assert 0 < found.moved < bound
    np.testing.assert_array_equal(found.values, stored.values)
    noisy = gram + 10 * bound * np.random.default_rng(4).standard_normal(gram.shape)
    with pytest.raises(DomainError):
        admit(((noisy + noisy.T) / 2).astype(dtype))


def test_an_admissible_kernel_is_left_alone():
    for kernel in (np.eye(3), np.ones((4, 4)), cosines(6, 24), text_kernel(np.arange(9) % 4)):
        found = admit(kernel)
        np.testing.assert_array_equal(found.values, kernel)
        assert found.moved == 0
        assert found.note == ""
        assert admit(found) is found


def test_an_asymmetric_kernel_is_its_mean_with_the_transpose():
    kernel = cosines(40, 24).astype(np.float32)
    kernel[2, 5] += np.float32(2e-7)
    found = admit(kernel)
    assert found.moved == pytest.approx(1e-7, rel=0.3)
    assert "as rounding to single precision explains" in found.note
    np.testing.assert_allclose(found.values[2, 5], kernel[[2, 5], [5, 2]].astype(float).mean())


def test_numbers_typed_by_hand_are_exact():
    """One digit is no measurement: equal overlaps of -0.2 among eight tokens are refused."""
    with pytest.raises(DomainError, match="double precision"):
        admit(1.2 * np.eye(8) - 0.2)
    with pytest.raises(DomainError, match="double precision"):
        admit(3 * np.eye(4, dtype=int) - 1)  # eigenvalue -1
    assert admit((9 * np.eye(8) - 1) / 8).moved == 0  # -1/8: eigenvalue 1/8


def test_an_impossible_overlap_names_its_tokens():
    kernel = np.eye(9)
    kernel[2, 5] = kernel[5, 2] = 1.02
    with pytest.raises(DomainError, match=r"cosine in \[-1, 1\] of tokens 2 and 5"):
        admit(kernel)
    kernel[2, 5] = 0.5
    with pytest.raises(DomainError, match="symmetric matrix: the cosine of tokens 2 and 5"):
        admit(kernel)


def test_a_kernel_of_doubles_with_errors_of_single_precision_says_what_to_do():
    x = np.random.default_rng(5).standard_normal((64, 4)).astype(np.float32)
    gram = (x @ x.T).astype(float)
    root = np.sqrt(np.diagonal(gram))
    single = gram / np.outer(root, root)
    assert lowest(single) < -10 * DOUBLE
    with pytest.raises(DomainError, match="pass float32"):
        admit(single)
    assert admit(single.astype(np.float32)).moved < 1e-6


def test_the_work_is_bounded_by_a_size():
    view = np.broadcast_to(1.0, (MAX_TOKENS + 1,) * 2)
    for call in (admit, Given):
        with pytest.raises(DomainError, match=r"needs 2 GiB of memory, and at most 2 GiB"):
            call(view)
    spec = ModelSpec(depth=1, context=2**17, beta=1, sigma_v2=1, sigma_w2=1, rho0=0, causal=True)
    with pytest.raises(DomainError, match=r"needs 3.07e\+03 GiB|needs 3 TiB"):
        causal(spec, np.broadcast_to(1.0, (2**17, 2**17)))


def random_input(rng):
    """Kernels and what is none, of any kind and scale."""
    size = 4 if rng.random() < 0.8 else int(rng.integers(1, 9))
    kernel = cosines(int(rng.integers(1, 9)), size, int(rng.integers(1 << 30)))
    scale = 10.0 ** rng.uniform(-1, 1, size) * 10.0 ** rng.choice([0, 0, 0, -20, 20, -160, 160])
    with np.errstate(all="ignore"):
        kernel = kernel * scale[:, None] * scale if rng.random() < 0.5 else kernel
    match int(rng.integers(12)):
        case 0:
            kernel = kernel + 10.0 ** rng.uniform(-17, 1) * rng.standard_normal(kernel.shape)
        case 1:
            kernel = kernel.round(int(rng.integers(0, 6)))
        case 2:
            with np.errstate(all="ignore"):
                kernel = kernel.astype(rng.choice([np.float16, np.float32, np.longdouble]))
        case 3:
            kernel[tuple(rng.integers(size, size=2))] = rng.choice([np.nan, np.inf, -1, 0, 1e308])
        case 4:
            kernel = kernel[: rng.integers(size + 1)]
        case 5:
            kernel = rng.standard_normal(rng.integers(0, 4, int(rng.integers(0, 4))))
        case 6:
            kernel = rng.integers(-3, 4, (size, size))
        case 7:
            kernel = kernel.tolist()
        case 8:
            kernel = -kernel
    return kernel


@pytest.mark.parametrize("seed", range(4))
def test_random_input_is_answered_or_refused(seed):
    rng, kinds = np.random.default_rng(seed), [0, 0]
    spec = ModelSpec(
        depth=1, context=4, width=8, beta=2, sigma_v2=1, sigma_w2=1, rho0=0, norm="pre"
    )
    for _ in range(150):
        kernel = random_input(rng)
        found, answer = outcome(admit, kernel), outcome(solve, spec, kernel, draws=1, blocks=2)
        kinds[isinstance(answer, Solved)] += 1
        for error in (found, answer):
            assert not isinstance(error, Exception) or error.parameter == "kernel", repr(error)
        if isinstance(found, TokenKernel):
            root = np.sqrt(np.diagonal(found.values))
            assert lowest(found.values / root[:, None] / root) >= -2 * DOUBLE
            assert np.isfinite(found.moved)
        if isinstance(answer, Solved):
            assert all(np.isfinite(getattr(answer, n)).all() for n in ("rho", "q", "y2"))
    assert min(kinds) > 30


# files


def edited(old, new):
    """An archive with other bytes in the place of some that it has."""

    def content(path):
        known = archive(path, kernel=np.eye(4))
        assert old in known
        return known.replace(old, new)

    return content


def listed(place, value):
    """An archive with another byte in its directory, whose versions are those of the writer."""

    def content(path):
        known = bytearray(archive(path, kernel=np.eye(4)))
        known[known.index(b"PK\x01\x02") + place] = value
        return bytes(known)

    return content


def raw(values):
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


HOSTILE = np.array([[Hostile()]], dtype=object)
FILES = {
    "nothing": lambda _: b"",
    "zeros": lambda _: bytes(300),
    "magic alone": lambda _: b"\x93NUMPY",
    "wrong magic": lambda _: b"\x93NUMPX" + raw(np.eye(3))[6:],
    "unknown format": lambda _: b"\x93NUMPY\x09\x00" + raw(np.eye(3))[8:],
    "truncated": lambda _: raw(np.eye(9))[:-1],
    "header of no language": lambda _: header("(2, 2").replace(b"{", b"("),
    "negative": lambda _: header((-2, -2)),
    "beyond all memory": lambda _: header((2**62, 2**62)),
    "three axes": lambda _: raw(np.ones((2, 2, 2))),
    "no tokens": lambda _: raw(np.ones((0, 0))),
    "objects": lambda _: raw(HOSTILE),
    "objects in an archive": lambda path: archive(path, kernel=HOSTILE),
    "pickle": lambda _: pickle.dumps(Hostile()),
    "two members": lambda path: archive(path, a=np.eye(2), b=np.eye(2)),
    "no member": lambda path: archive(path),
    "flipped": edited(b"\x00\x00\xf0?", b"\x00\x01\xf0?"),
    "another name in the directory": edited(b"kernel.npyPK", b"cornel.npyPK"),
    "encrypted": listed(8, 1),
    "unknown compression": listed(10, 99),
    "text": lambda _: b"1 0\n0 1\n",
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files_are_refused_and_never_unpickled(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "k.npy"
    path.write_bytes(FILES[case](path))
    with pytest.raises(DomainError) as error:
        read_kernel(path)
    assert error.value.parameter == "kernel"
    assert error.value.value == str(path)
    assert not (tmp_path / "unpickled").exists()


def test_a_flip_of_any_byte_is_an_array_or_a_refusal(tmp_path):
    rng = np.random.default_rng(0)
    for content in (raw(np.eye(3)), archive(tmp_path / "k", kernel=np.eye(3))):
        for place in rng.permutation(len(content))[:60]:
            changed = bytearray(content)
            changed[place] ^= 1 << rng.integers(8)
            (tmp_path / "k.npy").write_bytes(changed)
            found = outcome(read_kernel, tmp_path / "k.npy")
            assert isinstance(found, DomainError | np.ndarray), repr(found)


def test_pipes_folders_and_names_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "a\0b", 5000 * "n", 3, None):
        with pytest.raises(DomainError) as error:
            read_kernel(path)
        assert error.value.parameter == "kernel"


def test_files_of_every_number_type_are_read(tmp_path):
    for dtype in ("<f8", ">f8", "<f4", "<f2", "<i8", ">i2", "|u1"):
        np.save(tmp_path / "k.npy", np.eye(3, dtype=dtype))
        found = read_kernel(tmp_path / "k.npy")
        assert found.dtype == dtype
        assert admit(found).moved == 0
    np.save(tmp_path / "k.npy", np.asfortranarray(np.arange(9.0).reshape(3, 3)))
    np.testing.assert_array_equal(read_kernel(tmp_path / "k.npy"), np.arange(9.0).reshape(3, 3))
