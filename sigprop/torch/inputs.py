"""A model with random weights from a Hugging Face config, and a batch from a text."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from sigprop.errors import AssumptionError, DomainError, require
from sigprop.validate import count, read_json

__all__ = ["Loaded", "load_model", "load_text"]

SEQUENCES = 4
CONTEXT = 128  # at most; more costs T^3


class Loaded(NamedTuple):
    """A batch, and how it was made.

    Attributes
    ----------
    batch : dict
        Keyword arguments of the model.
    tokenizer : str
        What turned words into ids, as a sentence.
    """

    batch: dict[str, torch.Tensor]
    tokenizer: str


def load_model(folder: str | Path, seed: int = 0) -> nn.Module:
    """Build a model from a config, with random weights.

    Parameters
    ----------
    folder : str or Path
        Folder with a config.json; nothing is downloaded.
    seed : int
        Of the weights.

    Returns
    -------
    torch.nn.Module
        `transformers.AutoModel.from_config`.

    Raises
    ------
    DomainError
        If there is no config of a known model, or it takes no text.

    Examples
    --------
    >>> from sigprop.torch.inputs import load_model
    >>> load_model("/nowhere")
    Traceback (most recent call last):
        ...
    sigprop.errors.DomainError: file = '/nowhere/config.json' is not admissible: ...
    """
    from transformers import AutoConfig, AutoModel

    values = read_json(Path(folder) / "config.json")
    torch.manual_seed(count("seed", seed, 0, 2**62))
    name = str(values.get("model_type"))
    try:
        config = AutoConfig.for_model(**values)
        model: nn.Module = AutoModel.from_config(config)
    except Exception as error:  # whatever a config makes transformers raise
        words = f"a config of transformers ({str(error).splitlines()[0][:80]})"
        raise DomainError("model_type", name, words) from None
    text = getattr(model, "main_input_name", "") == "input_ids" and hasattr(config, "vocab_size")
    if not text:
        raise DomainError("model_type", name, "a model of text; audit others from Python")
    return model


def load_text(path: str | Path, model: nn.Module, folder: str | Path) -> Loaded:
    """Tokens of a text file, as a batch for a model.

    Parameters
    ----------
    path : str or Path
        UTF-8 text.
    model : torch.nn.Module
        From `load_model`.
    folder : str or Path
        Its folder: a tokenizer.json there is used, else words are hashed (CRC-32) into the
        vocabulary.

    Returns
    -------
    Loaded
        At most 4 sequences of at most 128 tokens.

    Raises
    ------
    DomainError
        If the file cannot be read or is too short.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DomainError("text", str(path), f"a readable UTF-8 file ({error})") from None
    config: Any = model.config
    size = int(config.vocab_size)
    ids, words = _ids(text, size, Path(folder) / "tokenizer.json")
    limit = getattr(config, "max_position_embeddings", None) or CONTEXT
    context = min(CONTEXT, limit, len(ids))
    require(context >= 2, "text", str(path), "a file of at least two tokens")
    rows = min(SEQUENCES, len(ids) // context)
    batch = torch.tensor(ids[: rows * context]).reshape(rows, context)
    return Loaded({"input_ids": batch}, words)


def _ids(text: str, size: int, path: Path) -> tuple[list[int], str]:
    if not path.is_file():
        ids = [zlib.crc32(word.encode()) % size for word in text.split()]
        return ids, f"words hashed into a vocabulary of {size}; there is no {path.name}"
    from tokenizers import Tokenizer

    try:
        ids = Tokenizer.from_file(str(path)).encode(text[: 2**20]).ids
    except Exception as error:  # tokenizers raises bare exceptions
        raise DomainError("tokenizer", str(path), f"a tokenizer ({error})") from None
    if max(ids, default=0) >= size:
        raise AssumptionError(f"{path} has ids beyond the vocabulary of the config, {size}")
    return list(ids), f"{path.name} of the config's folder"
