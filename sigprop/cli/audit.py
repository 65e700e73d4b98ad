"""Commands on real models (extra `torch`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sigprop.cli.console import FIGURES, AsJson, Png, aside, emit, picture, show
from sigprop.core.errors import need
from sigprop.core.files import Target, check_targets

__all__ = ["COMMANDS"]


def audit(
    hf: Annotated[Path, typer.Option(help="Folder with a Hugging Face config.json.")],
    text: Annotated[Path, typer.Option(help="Text file (UTF-8) to run through the model.")],
    rho_max: Annotated[float, typer.Option(help="Largest overlap accepted in any block.")] = 0.98,
    seed: Annotated[int, typer.Option(help="Seed of weights and draws.")] = 0,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Measure a real model with random weights on a real text, beside the prediction for it."""
    need("sigprop audit", "torch", "torch", "transformers", "tokenizers")
    check_targets([Target("png", png, FIGURES)], [hf, text])
    with aside():
        from sigprop.torch.module_audit.load import load_model, load_text
        from sigprop.torch.module_audit.report import audit as run

        model = load_model(hf, seed)
        loaded = load_text(text, model, hf)
        found = run(model, loaded.batch, rho_max=rho_max, seed=seed)
    from sigprop.cli.tables_audit import audited
    from sigprop.torch.module_audit.plot import plot_audit

    with picture(png, lambda: plot_audit(found)):
        if as_json:
            return emit(found.to_dict() | {"tokenizer": loaded.tokenizer})
        show(lambda: audited(found))
        return show(lambda: f"Tokens: {loaded.tokenizer}.")


COMMANDS = (audit,)
