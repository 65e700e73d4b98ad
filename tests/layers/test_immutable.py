"""Descriptions of layers, kernels and results do not change once they are made."""

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass

import sigprop.layers
import sigprop.propagation

WORKING = {"_Moments"}  # keeps what it computes


def dataclasses_of(package):
    """Dataclasses that are defined in a package."""
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        module = importlib.import_module(found.name)
        for name, value in inspect.getmembers(module, inspect.isclass):
            if is_dataclass(value) and value.__module__ == found.name and name not in WORKING:
                yield value


def test_dataclasses_are_frozen():
    found = [*dataclasses_of(sigprop.layers), *dataclasses_of(sigprop.propagation)]
    assert len(found) > 20
    assert [one for one in found if not one.__dataclass_params__.frozen] == []
