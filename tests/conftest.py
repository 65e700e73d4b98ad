"""Shared reference data."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the processes that tests start

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

REFERENCE = Path(__file__).parent / "reference"  # made independently of sigprop


def _load(name):
    return json.loads((REFERENCE / name).read_text())


@pytest.fixture(scope="session")
def rem_rows():
    return _load("rem.json")


@pytest.fixture(scope="session")
def simulations():
    return _load("simulations.json")


@pytest.fixture(scope="session")
def causal_gradients():
    return _load("causal_gradients.json")


@pytest.fixture(scope="session")
def causal_kernels(causal_gradients):
    return {k: v for k, v in causal_gradients.items() if k.startswith("causal")}


@pytest.fixture(scope="session")
def rotary():
    return _load("rotary.json")


@pytest.fixture(scope="session")
def decoders():
    return _load("decoders.json")


@pytest.fixture(scope="session")
def finite_heads():
    return _load("finite_heads.json")
