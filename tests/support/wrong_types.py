"""The public surface with arguments that are right, and values that are wrong for each kind."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from sigprop import DomainError, ModelSpec, SigpropError, State, Targets, diagram, propagate
from sigprop.analysis.diagram.grid import rem_curves
from sigprop.layers.attention.statistics import Finite
from sigprop.model.export import prescribe

SCALES = {"beta": 1.0, "sigma_v2": 1.0, "sigma_w2": 1.0, "rho0": 0.1}
SPEC = ModelSpec(depth=2, context=16, width=16, **SCALES)
CAUSAL = SPEC.replace(causal=True)
LIMIT = SPEC.replace(context="inf", width=None)
PAIR = {"quantity": "y2", "regime": "small"}
SCORES = {"sigma": 1.0, "context": 16}


class Later:
    """An argument that is made when it is needed."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def _symbol() -> Any:
    from sigprop.symbolic import symbol

    return symbol("rho")


def _free() -> Any:
    from sigprop.symbolic import State

    return State.free()


def _plan() -> Any:
    return prescribe(SPEC.replace(depth=1, context=4, width=8))


def _layer() -> Any:
    from torch import nn

    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)


def _batch() -> Any:
    import torch

    return torch.randn(2, 4, 8)


SYMBOL = Later(_symbol)
DIAGRAM = Later(lambda: diagram(LIMIT, beta=[0.5, 1.0], alpha_attn=[0.5, 1.0]))
MODULES: dict[str, dict[str, dict[str, Any]]] = {  # module: name: arguments that are right
    "sigprop": {
        "Execution": {},
        "Targets": {},
        "ModelSpec": {"depth": 2, "context": 16, **SCALES},
        "asymptotic_alpha": {"spec": SPEC},
        "bands": {"spec": SPEC},
        "beta_profile": {"spec": SPEC, "entropy_ratio": 0.7},
        "biased": SCORES | {"bias": 0.5},
        "boundaries": {"data": DIAGRAM},
        "critical": {"spec": LIMIT, "rho_max": 0.9},
        "diagram": {"spec": LIMIT, "beta": [0.5, 1.0]},
        "entropy_boundary": {"spec": SPEC, "entropy_ratio": 0.5},
        "example": {"name": "gpt2"},
        "exponents": {"spec": SPEC},
        "fixed_points": {"spec": SPEC},
        "from_config": {"config": {"model_type": "gpt2"}},
        "gradient_exponent": {"spec": SPEC, "state": State(1.0, 0.5)},
        "gradients": {"spec": SPEC},
        "grow": {"spec": SPEC, "context": [32, 64]},
        "influence": {"spec": SPEC, "bins": 4},
        "judge": {"spec": SPEC},
        "load": {"path": "gpt2"},
        "propagate": {"spec": SPEC},
        "recommend": {"spec": SPEC, "targets": Targets()},
        "sweep": {"spec": SPEC},
    },
    "sigprop.propagation.causal": {"causal": {"spec": CAUSAL}},
    "sigprop.analysis.critical": {
        "odds_law_alpha": {"sigma_v2": 1.0, "rho0": 0.5, "rho_max": 0.9, "depth": 24},
    },
    "sigprop.analysis.diagram.grid": {
        "load": {"path": "none.nc"},
        "rem_curves": {"contexts": [16], "beta": [0.5]},
        "save": {"data": DIAGRAM, "path": "nowhere/none.nc"},
        "undefined": {"data": DIAGRAM},
    },
    "sigprop.analysis.entropy": {"entropy_beta": {"rem": Finite(16), "entropy_ratio": 0.5}},
    "sigprop.propagation.every_pair": {"exchangeable_kernel": {"spec": SPEC}},
    "sigprop.core.notation": {"label": {"name": "rho"}},
    "sigprop.plotting": {
        "plot_diagram": {"data": DIAGRAM},
        "plot_rem": {"data": Later(lambda: rem_curves([16], [0.5, 1.0]))},
        "plot_trajectory": {"trajectory": Later(lambda: propagate(SPEC))},
    },
    "sigprop.model.export": {"prescribe": {"spec": SPEC}},
    "sigprop.layers.attention.statistics": {
        "Finite": {"context": 16},
        "Limit": {},
        "critical_beta": {"q": 1.0, "gap": 0.5},
        "entropy_deficit": SCORES,
        "entropy_variance": SCORES,
        "excess": SCORES,
        "freezing": {"b": 1.0},
        "head_nodes": {"head_width": 16},
        "moments": SCORES,
        "overlap": SCORES | {"r": 0.5},
        "spread": SCORES | {"r": 0.5},
    },
    "sigprop.layers.attention.statistics.biased": {
        "biased_overlap": SCORES | {"bias": 0.5, "r": 0.5},
        "critical_gamma": {"b": 1.0, "gap": 0.5},
        "own_bias": {"gamma": 0.5, "gap": 0.5, "context": 16},
    },
    "sigprop.analysis.schemes.outcome": {
        "outcome": {"name": "glorot", "architecture": SPEC},
        "survey": {"architecture": SPEC, "names": ["glorot"]},
    },
    "sigprop.simulation": {
        "Given": {"kernel": np.eye(16)},
        "Tokens": {"ids": [[1, 2]]},
        "query_gradient": {"spec": SPEC, "seed": 0},
        "simulate": {"spec": SPEC, "seeds": 1},
    },
    "sigprop.symbolic": {
        "accurate_to": PAIR | {"context": 512},
        "block": {},
        "compiled": {"expression": 1},
        "critical_beta": {"q": SYMBOL, "gap": SYMBOL},
        "derive": {"name": "alpha-depth-bias"},
        "estimated_error": PAIR | {"sigma": 0.5, "context": 512},
        "evaluate": PAIR | {"sigma": 0.5, "context": 512},
        "expansion": PAIR,
        "fold": {"maps": (), "state": Later(_free)},
        "stable": {"expression": SYMBOL},
        "symbol": {"name": "rho"},
    },
    "sigprop.analysis.design.targets": {"measure": {"spec": SPEC}},
    "sigprop.torch": {
        "assert_healthy": {"model": Later(_layer), "batch": Later(_batch)},
        "audit": {"model": Later(_layer), "batch": Later(_batch)},
        "initialise_": {"model": Later(_layer), "recommendation": Later(_plan)},
    },
}
SURFACE = [(module, name) for module, named in MODULES.items() for name in named]

HELD = {  # in 0.2 too, or not there at all
    ("sigprop", name) for name in ("Execution", "ModelSpec", "Targets", "example", "from_config")
}

ODD: dict[str, Any] = {
    "None": None,
    "text": "nonsense",
    "bytes": b"1",
    "dict": {"depth": 2},
    "object": object(),
    "complex": 1 + 1j,
    "bool": True,
    "nan": float("nan"),
    "huge": 10**400,
    "fraction": 1.5,
    "negative": -3,
    "ragged": [[0.5, 1], [2]],
    "objects": np.array([None, "a"]),
}
NUMBERS = {"fraction", "negative"}
ADMITS = {  # what is no other type; its range is the function's own
    "Any": set(ODD),
    "ArrayLike": NUMBERS,
    "Expr": NUMBERS | {"nan", "huge"},
    "Floats": NUMBERS,
    "Ints": NUMBERS,
    "Mapping": {"dict"},
    "Number": NUMBERS,
    "Path": {"text"},
    "Sequence": {"ragged"},
    "bool": {"bool"},
    "float": NUMBERS,
    "int": {"negative"},
    "str": {"text"},
}


def kinds(annotation: str) -> set[str]:
    """Kinds of a parameter, from its annotation as written."""
    depth, text = 0, ""
    for letter in annotation:
        depth += letter == "["
        text += letter if depth == 0 else ""
        depth -= letter == "]"
    return {part.split(".")[-1] for part in text.split(" | ")}


def wrong(module: str, name: str) -> list[str]:
    """List what a function answers wrongly to arguments of another type, or of a type it takes."""
    function, out = getattr(importlib.import_module(module), name), []
    given = {
        key: value.make() if isinstance(value, Later) else value
        for key, value in MODULES[module][name].items()
    }
    for parameter in inspect.signature(function).parameters.values():
        of = kinds(parameter.annotation)
        if "Any" in of or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        admitted = set().union(*(ADMITS.get(kind, set()) for kind in of))
        admitted |= {"None"} if "None" in of or parameter.default is None else set()
        key = "q0" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        for odd, value in ODD.items():
            found = _ends(function, given | {key: value}, key, odd in admitted)
            out += [f"{key} = {odd}: {found}"] if found else []
    return sorted(out)


def _ends(function: Any, arguments: dict[str, Any], key: str, admitted: bool) -> str:
    """How a call fails to name its wrong argument; empty where it does."""
    try:
        function(**arguments)
    except SigpropError as error:
        named = isinstance(error, DomainError) and error.parameter.split(".")[0] == key
        return "" if admitted or named else f"{error}"[:90]
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:90]
    return "" if admitted else "accepted"
