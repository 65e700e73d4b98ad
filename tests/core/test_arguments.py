"""Checks of arguments: what they accept, and that every public function has them."""

import importlib
import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
from wrong_types import HELD, MODULES, SPEC, SURFACE, wrong

import sigprop
from sigprop import DomainError, example, gradients, propagate, sweep
from sigprop.core.arguments import validated
from sigprop.core.memory import LIMIT, allow

README = ("sigprop", "sigprop.simulation", "sigprop.symbolic", "sigprop.torch")  # `from M import f`


@pytest.mark.parametrize("module", README)
def test_the_surface_is_complete(module):
    """Functions without a parameter, or of any value, have nothing to check."""
    if module == "sigprop.torch":
        pytest.importorskip("torch", reason="needs the extra torch")
    found = importlib.import_module(module)
    functions = {n for n in found.__all__ if inspect.isfunction(getattr(found, n))}
    assert functions - MODULES[module].keys() <= {"entries", "latex", "sheet"}


@pytest.mark.parametrize(("module", "name"), sorted(HELD))
def test_wrong_types_are_refused_by_name(module, name):
    assert wrong(module, name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for module, name in SURFACE if module == "sigprop.torch"])
def test_wrong_types_are_refused_by_name_in_torch(name):
    pytest.importorskip("torch", reason="needs the extra torch")
    assert wrong("sigprop.torch", name) == []


def test_a_reading_is_its_spec():
    reading = example("bert-base")
    assert np.array_equal(propagate(reading).rho, propagate(reading.spec).rho)
    assert np.array_equal(gradients(reading).wq, gradients(reading.spec).wq)
    assert float(sweep(spec=reading).state.gap) == float(sweep(reading.spec).state.gap)


def test_numbers_of_every_kind_are_taken():
    import xarray as xr

    base = float(sigprop.critical(SPEC, 0.9).alpha_attn)
    for value in (np.float32(0.9), np.array(0.9), [0.9], range(1, 2), xr.DataArray(0.9)):
        target = np.asarray(value) * (1.0 if not isinstance(value, range) else 0.9)
        assert np.ravel(sigprop.critical(SPEC, target).alpha_attn) == pytest.approx(base, rel=1e-6)
    assert sigprop.simulation.simulate(SPEC, seeds=1.0).mean("rho").shape == (3,)


def test_a_checked_function_is_itself():
    assert propagate.__name__ == "propagate"
    assert next(iter(inspect.signature(propagate).parameters)) == "spec"
    with pytest.raises(TypeError, match="unexpected keyword"):
        propagate(SPEC, colour=1)


@pytest.mark.parametrize(
    "ask",
    [
        sigprop.propagate,
        sigprop.sweep,
        lambda spec, **flag: sigprop.critical(spec, 0.9, **flag),
        lambda spec, **flag: sigprop.beta_profile(spec, 0.7, **flag),
        lambda spec, **flag: sigprop.entropy_boundary(spec, 0.7, **flag),
        lambda spec, **flag: sigprop.diagram(spec, beta=[0.5, 1], **flag),
    ],
)
def test_the_flag_of_the_limit_is_a_theory(ask):
    """`limit=` of 0.2 gives the numbers of `theory=`, of its own kind, and says so where asked."""
    for flag, theory in ((True, "limit"), (False, "finite")):
        with pytest.warns(DeprecationWarning, match=f"limit={flag} is now theory='{theory}'"):
            old = ask(SPEC, limit=flag)
        assert _bytes(old) == _bytes(ask(SPEC, theory=theory))
    assert _bytes(ask(SPEC, theory="limit")) != _bytes(ask(SPEC, theory="finite"))
    with pytest.raises(DomainError, match=r"^theory = 'exact'.* one of finite, limit"):
        ask(SPEC, theory="exact")


def _bytes(found):
    return pickle.dumps(found.to_dict() if hasattr(found, "to_dict") else found)


def test_a_flag_in_the_place_of_the_theory_warns_at_the_caller():
    with pytest.warns(DeprecationWarning, match="theory='limit'") as said:
        old = propagate(SPEC, True)
    assert said[0].filename == __file__
    np.testing.assert_array_equal(old.rho, propagate(SPEC, "limit").rho)


def test_kinds_by_annotation():
    @validated
    def function(path: "str | Path", many: "int | None" = None, **axes: "ArrayLike"):  # noqa: F821
        return path, many, axes

    assert function("a", 3.0) == ("a", 3, {})
    assert function(Path("a"))[0] == Path("a")
    for wrong_call, name in (
        (lambda: function(1), "path"),
        (lambda: function("a", True), "many"),
        (lambda: function("a", 2.5), "many"),
        (lambda: function("a", beta="x"), "beta"),
    ):
        with pytest.raises(DomainError, match=f"^{name} = "):
            wrong_call()


def test_memory_is_allowed_up_to_the_limit():
    allow(LIMIT, "context", 8, "a shorter context")
    with pytest.raises(DomainError, match=r"needs 3\.5 TiB of memory, and at most 2 GiB"):
        allow(3.5 * 2**40, "context", 8, "a shorter context")
