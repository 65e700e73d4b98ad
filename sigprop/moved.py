"""Where the modules of 0.2 are now: the old paths work for one release, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "install", "new_path"]

MOVED = {  # old path: new path, both below sigprop
    "arguments": "core.arguments",
    "arrays": "core.arrays",
    "backward": "propagation.gradients.closed_form",
    "block": "propagation.stack",
    "capabilities": "propagation.capabilities",
    "causal": "propagation.causal",
    "cells": "core.numerics.piecewise",
    "chebyshev": "core.numerics.chebyshev",
    "claims": "studies.folklore.rules",
    "cli_design": "cli.design",
    "cli_symbolic": "cli.symbolic",
    "cli_torch": "cli.audit",
    "cli_train": "cli.train",
    "compare": "studies.comparison",
    "comparison_plots": "studies.comparison_plot",
    "config": "model.huggingface_keys",
    "console": "cli.console",
    "critical": "analysis.critical",
    "described": "propagation.trajectories",
    "design": "analysis.design.recommend",
    "design_plots": "plotting.design",
    "design_tables": "cli.tables_design",
    "diagram": "analysis.diagram.grid",
    "distribute": "core.jobs.cluster",
    "effects": "analysis.rotary_effect",
    "entropy": "analysis.entropy",
    "errors": "core.errors",
    "families": "model.huggingface_families",
    "figures": "studies.figures",
    "figures.depth": "studies.figures.depth",
    "figures.gradient": "studies.figures.gradient",
    "figures.lab": "studies.figures.common",
    "figures.phase": "studies.figures.phase",
    "figures.position": "studies.figures.position",
    "figures.residual": "studies.figures.residual",
    "files": "core.files",
    "first": "core.interrupts",
    "fixed_points": "analysis.fixed_points",
    "fluctuations": "propagation.finite_width.bands",
    "folklore": "studies.folklore.verdicts",
    "grid_files": "analysis.diagram.files",
    "grid_store": "analysis.diagram.zarr_store",
    "growth": "analysis.context_growth",
    "huggingface": "model.huggingface",
    "kernel": "propagation.every_pair",
    "kernel_draw": "propagation.drawn_layer",
    "kernel_input": "model.inputs",
    "kernel_rounding": "core.numerics.kernel_rounding",
    "laboratory": "cli.measure",
    "layout": "layers.attention.position_grid",
    "maps.activations": "layers.activations",
    "maps.attention": "layers.attention.layer",
    "maps.causal": "layers.attention.by_position",
    "maps.distances": "layers.attention.distance_grid",
    "maps.mlp": "layers.mlp",
    "maps.norm": "layers.norm",
    "maps.picked": "layers.attention.pair_probabilities",
    "maps.preferred": "layers.attention.key_weights",
    "maps.residual": "layers.residual",
    "maps.rotary": "layers.attention.by_distance",
    "maps.smooth": "layers.activations_smooth",
    "maps.tabulated": "layers.attention.query_tables",
    "maps.together": "layers.attention.key_correlations",
    "maps.weights": "layers.attention.query_statistics",
    "memory": "core.memory",
    "notation": "core.notation",
    "plan": "analysis.diagram.fields",
    "plot_base": "plotting.base",
    "plots": "plotting",
    "position_plots": "plotting.positions",
    "positional": "propagation.positional",
    "practice": "cli.schemes",
    "prescription": "model.export",
    "printable": "core.printable",
    "propagate": "propagation.solve",
    "recipe": "model.weights",
    "recipes": "analysis.schemes.registry",
    "rem": "layers.attention.statistics",
    "rem.biased": "layers.attention.statistics.biased",
    "rem.coordinates": "layers.attention.statistics.coordinates",
    "rem.favoured": "layers.attention.statistics.self_biased",
    "rem.fields": "layers.attention.statistics.correlated_scores",
    "rem.finite": "layers.attention.statistics.moments",
    "rem.limit": "layers.attention.statistics.limit",
    "rem.overlap": "layers.attention.statistics.pairs",
    "rem.profile": "layers.attention.statistics.profile",
    "rem.quadrature": "layers.attention.statistics.quadrature",
    "rem.sphere": "layers.attention.statistics.finite_width_keys",
    "rem.statistics": "layers.attention.statistics.interface",
    "rem.table": "layers.attention.statistics.table",
    "rem.tabulate": "layers.attention.statistics.build_table",
    "rem.unequal": "layers.attention.statistics.unequal_lengths",
    "rem.variances": "layers.attention.statistics.variances",
    "reproduce": "studies.reproduce",
    "rotary": "propagation.rotary",
    "sampled": "propagation.gradients.sampled",
    "sampled_heads": "layers.attention.drawn_heads",
    "scheme_diagram": "analysis.schemes.on_diagram",
    "scheme_plots": "plotting.schemes",
    "schemes": "analysis.schemes.outcome",
    "search": "analysis.design.search",
    "separation": "studies.training_judge",
    "simulate": "simulation",
    "simulate.architecture": "simulation.architecture",
    "simulate.claims": "simulation.rule_measurements",
    "simulate.gradients": "simulation.gradients",
    "simulate.inputs": "simulation.inputs",
    "simulate.measure": "simulation.statistics",
    "simulate.measured": "simulation.result",
    "simulate.network": "simulation.network_numpy",
    "simulate.run": "simulation.run",
    "simulate.torch_network": "simulation.network_torch",
    "simulate.typed": "simulation.typed_weights",
    "spec": "model.spec",
    "state": "layers.state",
    "store": "core.jobs.cache",
    "sweep": "propagation.grids",
    "tables": "cli.tables",
    "targets": "analysis.design.targets",
    "text": "model.text",
    "torch.anatomy": "torch.module_audit.structure",
    "torch.audit": "torch.module_audit.report",
    "torch.inputs": "torch.module_audit.load",
    "torch.measure": "torch.module_audit.measure",
    "torch.model": "torch.training.model",
    "torch.pictures": "torch.module_audit.plot",
    "torch.plan": "torch.training.config",
    "torch.predict": "torch.module_audit.prediction",
    "torch.reader": "torch.module_audit.block_reader",
    "torch.reading": "torch.module_audit.description",
    "torch.record": "torch.module_audit.forward_pass",
    "torch.tables": "cli.tables_audit",
    "torch.tokens": "torch.training.corpus",
    "torch.train": "torch.training.train",
    "torch.trainability": "torch.training.experiment",
    "training_plots": "studies.training_plot",
    "training_prediction": "studies.training_prediction",
    "training_tables": "cli.tables_training",
    "trajectory": "propagation.result",
    "validate": "core.checks",
    "verdict": "analysis.verdict",
    "version": "core.version",
}


class _Package(ModuleType):
    """A package in which a module does not take the place of a function of its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and callable(self.__dict__.get(name))):
            super().__setattr__(name, value)


class _Moved(MetaPathFinder, Loader):
    """Finds modules under their old paths: the same objects as under the new ones."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        old = fullname.removeprefix("sigprop.")
        return ModuleSpec(fullname, self) if old != fullname and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = new_path(old)
        warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)
        sys.modules[old.rpartition(".")[0]].__class__ = _Package


def new_path(old: str) -> str:
    """Where a module is now.

    Parameters
    ----------
    old : str
        Its path in 0.2, as "sigprop.kernel".

    Returns
    -------
    str
        Its path.

    Examples
    --------
    >>> from sigprop.moved import new_path
    >>> new_path("sigprop.kernel")
    'sigprop.propagation.every_pair'
    """
    return f"sigprop.{MOVED[old.removeprefix('sigprop.')]}"


_FINDER = _Moved()


def install() -> None:
    """Let imports find the old paths."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
