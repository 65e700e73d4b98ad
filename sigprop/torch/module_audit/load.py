"""A model with random weights from a Hugging Face config, and a batch from a text."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as registration

from sigprop.core.checks import count, read_json
from sigprop.core.errors import AssumptionError, DomainError, require

__all__ = ["Loaded", "bounded", "inert", "load_model", "load_text", "offline"]

SEQUENCES = 4
CONTEXT = 128  # at most; more costs T^3
PARTS = 2**17  # modules of a model; the deepest published ones have some 60 000
DROPPED = {
    *("auto_map", "custom_pipelines", "name_or_path", "kernel_config", "quantization_config"),
    *("attn_implementation", "experts_implementation", "dtype", "torch_dtype"),
    *("num_labels", "id2label", "label2id"),
}
LARGEST = 2**24  # of integers other than rotary bases: a config makes lists as long as they say
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


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
        Folder with a config.json. Nothing else is read from it: no code and no weights; and
        nothing is downloaded.
    seed : int
        Of the weights.

    Returns
    -------
    torch.nn.Module
        A class of transformers itself, with plain attention and weights in float32.

    Raises
    ------
    DomainError
        If there is no config of a known model of text, or it is too large for this machine.

    Notes
    -----
    The classes are looked up by "model_type" in the tables of transformers. What a config says
    about code (`auto_map`), places (`_name_or_path`), kernels, quantisation and number formats is
    dropped before transformers sees it, at every depth.

    Examples
    --------
    >>> from sigprop.torch.module_audit.load import load_model
    >>> load_model("/nowhere")
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: file = '/nowhere/config.json' is not admissible: ...
    """
    path = Path(folder) / "config.json"
    try:
        values = inert(read_json(path))
    except RecursionError:
        raise DomainError("file", str(path), "a config of less nesting") from None
    torch.manual_seed(count("seed", seed, 0, 2**62))
    name = values.pop("model_type", None)
    with offline():
        from transformers import CONFIG_MAPPING, MODEL_MAPPING

        if not isinstance(name, str) or name not in CONFIG_MAPPING:
            raise DomainError("model_type", name, "a type of model that transformers has")
        kind = CONFIG_MAPPING[name]
        if kind not in MODEL_MAPPING:
            raise DomainError("model_type", name, "one that AutoModel of transformers knows")
        classes = MODEL_MAPPING[kind]
        model_class: Any = classes[0] if isinstance(classes, list | tuple) else classes
        if getattr(model_class, "main_input_name", "") != "input_ids":
            raise DomainError("model_type", name, "a model of text; audit others from Python")
        if kind.sub_configs:
            parts = ", ".join(kind.sub_configs)
            raise DomainError("model_type", name, f"a model of text alone; this one has {parts}")
        try:
            with bounded():
                config = kind(**values)
                model: nn.Module = model_class._from_config(config, attn_implementation="eager")
        except DomainError:
            raise
        except Exception as error:  # whatever a config makes transformers raise
            first = next(iter(str(error).splitlines()), type(error).__name__)
            words = f"a config of transformers ({first[:80]})"
            raise DomainError("model_type", name, words) from None
    if not hasattr(config, "vocab_size"):
        raise DomainError("model_type", name, "a model of text; audit others from Python")
    return model


def inert(value: Any) -> Any:
    """Content of a config without what names code, places, kernels or number formats.

    Parameters
    ----------
    value : JSON value
        The content.

    Returns
    -------
    JSON value
        A copy, without those keys, without private ones and without labels, at every depth.

    Raises
    ------
    DomainError
        If an integer is larger than any size of a model.

    Examples
    --------
    >>> from sigprop.torch.module_audit.load import inert
    >>> inert({"n_layer": 2, "auto_map": {"AutoModel": "a.B"}, "text": [{"_name_or_path": "."}]})
    {'n_layer': 2, 'text': [{}]}
    """
    if isinstance(value, list):
        return [inert(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {k: v for k, v in value.items() if not k.startswith("_") and k not in DROPPED}
    for name, number in kept.items():
        if isinstance(number, int) and not re.search("theta|base", name):
            require(abs(number) <= LARGEST, name, number, f"an integer of at most {LARGEST}")
    return {name: inert(part) for name, part in kept.items()}


@contextmanager
def offline() -> Iterator[None]:
    """Let no library fetch anything: files, kernels, versions."""
    from huggingface_hub import constants  # reads the environment once, here

    known, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    before = {name: os.environ.get(name) for name in OFFLINE}
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = known
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextmanager
def bounded() -> Iterator[None]:
    """Refuse a model as soon as its tensors outgrow a third of the memory, or its parts a number.

    An audit holds the weights, their gradients, and copies.
    """
    size = parts = 0
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 3

    def weigh(_: nn.Module, name: str, tensor: Any) -> None:
        nonlocal size
        size += 0 if tensor is None else tensor.numel() * tensor.element_size()
        words = f"weights of at most {memory / 2**30:.3g} GiB, a third of the memory"
        require(size <= memory, "config", f"{size / 2**30:.3g} GiB", words)

    def number(_: nn.Module, name: str, part: Any) -> None:
        nonlocal parts
        parts += 1
        require(parts <= PARTS, "config", parts, f"a model of at most {PARTS} modules")

    handles = (
        registration.register_module_parameter_registration_hook(weigh),
        registration.register_module_buffer_registration_hook(weigh),
        registration.register_module_module_registration_hook(number),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    except BaseException as error:  # tokenizers raises bare exceptions, and panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DomainError("tokenizer", str(path), f"a tokenizer ({error})") from None
    if max(ids, default=0) >= size:
        raise AssumptionError(f"{path} has ids beyond the vocabulary of the config, {size}")
    return list(ids), f"{path.name} of the config's folder"
