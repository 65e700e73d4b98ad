"""What 0.2 got wrong around its own tests, commands and dependencies."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from sigprop import ModelSpec
from sigprop.core.errors import MissingExtraError
from sigprop.layers.attention.statistics.correlated_scores import Field
from sigprop.propagation.causal import causal
from sigprop.propagation.drawn_layer import follow
from sigprop.propagation.gradients.sampled import sampled_gradients
from sigprop.simulation import Given

ROOT = Path(__file__).resolve().parents[2]
MARKDOWN = """
## Another section

```sh
echo no >> "$LOG"
```

## Two commands

```sh
pwd >> "$LOG" && git log --format=%s >> "$LOG" && touch left-over
```

```sh
pwd >> "$LOG" && test ! -e left-over && {last}
```
"""


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def pasted(folder, last):
    """Exit code of CI's run of the commands of a README, and what they logged."""
    checkout, log = folder / "checkout", folder / "log"
    checkout.mkdir()
    (checkout / "README.md").write_text(MARKDOWN.format(last=last))
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "only")
    command = [sys.executable, str(ROOT / ".ci" / "readme.py"), str(checkout)]
    env = os.environ | {"LOG": str(log)}
    done = subprocess.run(command, env=env, check=False, capture_output=True, timeout=60)
    return done.returncode, log.read_text().splitlines() if log.exists() else []


def test_both_commands_of_the_readme_run_as_pasted_each_in_a_fresh_clone(tmp_path):
    code, lines = pasted(tmp_path, "true")
    assert code == 0
    first, message, second = lines
    assert message == "only"
    assert len({first, second, str(tmp_path / "checkout")}) == 3
    assert "python3 .ci/readme.py" in (ROOT / ".ci" / "run").read_text()


def test_a_command_of_the_readme_that_fails_fails_with_its_code(tmp_path):
    assert pasted(tmp_path, "exit 7")[0] == 7


def run_without(packages, folder, *words):
    """Run pytest where packages cannot be imported."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in packages)
    (folder / "hide.py").write_text(f"import sys\n{hidden}")
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests" / "support")])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-rs",
        "-p",
        "hide",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [*command, "-W", "ignore", *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_doctest_of_an_optional_part_is_skipped_by_the_name_of_its_extra(tmp_path):
    done = run_without(
        ["dask"], tmp_path, "--doctest-modules", "sigprop/analysis/diagram/zarr_store.py"
    )
    assert done.returncode == 0, done.stdout
    assert "needs the extra distributed: without dask" in done.stdout
    assert "1 skipped" in done.stdout


@pytest.mark.parametrize("where", ["sigprop/torch", "tests/with_torch/test_torch_simulate.py"])
def test_a_module_of_an_optional_part_is_skipped_by_the_name_of_its_extra(tmp_path, where):
    done = run_without(["torch", "transformers", "tokenizers"], tmp_path, where)
    assert "needs the extra torch: without torch, transformers, tokenizers" in done.stdout
    assert "error" not in done.stdout.lower()
    assert " passed" not in done.stdout


def test_where_nothing_may_be_skipped_a_skip_fails(tmp_path):
    done = run_without(["dask"], tmp_path, "--no-skips", "sigprop/analysis/diagram/zarr_store.py")
    assert "1 error" in done.stdout, done.stderr
    assert "--no-skips forbids: Skipped: needs the extra distributed" in done.stdout


def test_signs_of_eigenvectors_are_no_other_draws(monkeypatch):
    """A solver may return either sign, and which one hangs on the processor."""
    spec = ModelSpec(
        depth=3, context=40, heads=32, causal=True, beta=2, sigma_v2=2, sigma_w2=0.3, rho0=0.02
    )
    field = Field(24, np.zeros(1), most=128)
    kernel = 1 - 0.9 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))

    def found():
        one = field.blocked(4.0, kernel + 0.1, np.array([6, 6, 6, 6]))
        return np.concatenate([[one.y2, one.deficit], one.weights, causal(spec).y2.ravel()])

    before, solver = found(), np.linalg.eigh

    def other(matrix):
        values, vectors = solver(matrix)
        return values, vectors * np.where(np.arange(values.shape[-1]) % 2, 1.0, -1.0)

    monkeypatch.setattr(np.linalg, "eigh", other)
    np.testing.assert_allclose(found(), before, rtol=1e-9)


@pytest.mark.parametrize("width", [None, 32])
def test_another_basis_of_equal_eigenvalues_is_no_other_draw(monkeypatch, width):
    """All tokens but one direction are alike: any basis of the rest solves the problem."""
    spec = ModelSpec(
        depth=2, context=12, width=width, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0.3
    )
    kernel = 0.3 + 0.7 * np.eye(12)

    def found():
        gradients = sampled_gradients(spec, np.random.default_rng(1), draws=2)
        one = spec.replace(width=32, beta=[1.0])
        tokens = Given(kernel).draw(one, np.random.default_rng(2))
        return gradients.q, gradients.weights["wq"], tokens

    before, solver = found(), np.linalg.eigh

    def other(matrix):
        values, vectors = solver(matrix[::-1, ::-1])
        return values, vectors[::-1]

    monkeypatch.setattr(np.linalg, "eigh", other)
    for now, then in zip(found(), before, strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-5, atol=1e-5 * np.abs(then).max())


def kernels(tokens=48):
    """Ties of every kind: all alike, repeated, on a circle; and a rank without an end."""
    apart = np.subtract.outer(np.arange(tokens), np.arange(tokens))
    return {
        "alike": 0.3 + 0.7 * np.eye(tokens),
        "repeated": 0.2 + 0.8 * (apart % 5 == 0),
        "circle": np.cos(2 * np.pi * apart / tokens) / 2 + np.eye(tokens) / 2,
        "smooth": np.exp(-((apart / 20) ** 2)),
    }


@pytest.mark.parametrize("width", [None, 16])
@pytest.mark.parametrize("name", kernels())
def test_the_last_bit_of_a_kernel_is_no_other_draw(name, width):
    """Processors round differently, and neither order nor rank of a factor may follow that."""
    spec = ModelSpec(
        depth=2, context=48, width=width, causal=True, beta=1, sigma_v2=1, sigma_w2=1, rho0=0
    )
    kernel, noise = kernels()[name], np.random.default_rng(3).uniform(-1, 1, (48, 48))
    other = kernel + np.finfo(float).eps * (noise + noise.T) / 2
    one, two = (follow([spec] * 2, k, 4, np.random.default_rng(0)) for k in (kernel, other))
    np.testing.assert_allclose(one["samples"], two["samples"], atol=1e-10)


def test_an_error_says_what_can_be_typed():
    """Nothing is published under the package's name."""
    message = str(MissingExtraError("sigprop audit", "torch", "torch"))
    assert "pip install '.[torch]' in the checkout" in message
    assert "sigprop[" not in message


def test_the_readme_says_what_can_be_typed():
    text = (ROOT / "README.md").read_text()
    assert "sigprop[" not in text
    assert "pip install '.[torch]'" in text


@pytest.mark.parametrize("version", ["0.12.0", "0.12.3", "0.12.5", "0.15.1"])
def test_no_broken_version_of_typer_is_admitted(version):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    typer = next(Requirement(r) for r in project["dependencies"] if r.startswith("typer"))
    assert not typer.specifier.contains(version)
