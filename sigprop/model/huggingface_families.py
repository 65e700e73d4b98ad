"""The families of Hugging Face models: one row of keys, defaults and structure for each.

Defaults of missing keys and the initial distributions are those of the `transformers` classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from sigprop.core.errors import DomainError

__all__ = ["ACTIVATIONS", "FAMILIES", "Family", "family_of"]

# config name: (activation of the theory, it is the tanh approximation of GELU)
ACTIVATIONS = {
    "gelu": ("gelu", False),
    "gelu_python": ("gelu", False),
    "gelu_new": ("gelu", True),
    "gelu_fast": ("gelu", True),
    "gelu_accurate": ("gelu", True),
    "gelu_pytorch_tanh": ("gelu", True),
    "gelu_python_tanh": ("gelu", True),
    "relu": ("relu", False),
    "silu": ("silu", False),
    "swish": ("silu", False),
    "tanh": ("tanh", False),
    "linear": ("linear", False),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one model family names and initialises what the theory needs.

    Parameters
    ----------
    name : str
        Value of "model_type".
    prefix : str
        Beginning of the class names in "architectures".
    defaults : mapping
        Defaults of the `transformers` configuration class for the keys that are read.
    aliases : mapping
        Other name of a key, by key.
    depth, width, heads, hidden, activation, std : str
        Keys of the depth, width, heads, hidden width and activation of the MLP, initial std.
    head_dim : str, optional
        Key of a head width that need not be width / heads.
    context : str
        Key of the number of positions, or of the image size.
    offset : str, optional
        Key of the padding index, where positions start behind it.
    extra_tokens : int
        Class and distillation tokens beside the patches of an image.
    epsilon : str or float
        Key of the epsilon of the norms, or its fixed value.
    norm : {"post", "pre"}
        Placement of the norms.
    pre_flag : str, optional
        Key of a flag that is true for pre-norm, false for post-norm.
    causal : bool or str
        Whether attention is causal, or the key of the flag that says so.
    gated : bool
        Gated MLP.
    scaled : bool
        Output projections of attention and MLP start with std / sqrt(2 L).
    parallel : str, optional
        Key of the flag for attention and MLP in parallel.
    rotary, rotary_part : str, optional
        Keys of the rotary base and of the rotated part of a head.
    window, window_flag : str, optional
        Keys of the sliding window and of the flag that switches it on.
    embeddings : tuple of str
        The summed embeddings, of "word", "position", "type" and "patch"; each starts with the
        initial std, and "type" is shared by all tokens.
    projected : str, optional
        Key of the width of the word embeddings, projected to the model width if it differs.
    embedding_norm : bool
        Whether a norm follows the sum of the embeddings.
    fixed : mapping
        Keys that must have this value, if given, for the theory to apply.
    notes : tuple of str
        What is always to be said.

    Examples
    --------
    >>> from sigprop.model.huggingface_families import FAMILIES
    >>> FAMILIES["gpt2"].width, FAMILIES["gpt2"].scaled
    ('n_embd', True)
    """

    name: str
    prefix: str
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    depth: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    hidden: str = "intermediate_size"
    activation: str = "hidden_act"
    std: str = "initializer_range"
    head_dim: str | None = None
    context: str = "max_position_embeddings"
    offset: str | None = None
    extra_tokens: int = 0
    epsilon: str | float = "layer_norm_eps"
    norm: str = "pre"
    pre_flag: str | None = None
    causal: bool | str = True
    gated: bool = False
    scaled: bool = False
    parallel: str | None = None
    rotary: str | None = None
    rotary_part: str | None = None
    window: str | None = None
    window_flag: str | None = None
    embeddings: tuple[str, ...] = ("word",)
    projected: str | None = None
    embedding_norm: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_HF_INIT = (
    "The weights are those that the transformers class draws; the code that trained the released "
    "checkpoints may have drawn others."
)
_TENSORFLOW = (
    "The PyTorch class draws plain normals; TensorFlow's truncation at two standard deviations "
    "would lower every variance to 0.774 of what is given here."
)
_PATCHES = (
    "q0 and rho0 describe an image of independent pixels of mean zero and variance one; patches "
    "of a real image are correlated, so rho0 is left open: override it."
)

_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
}
_BERT = Family(
    name="bert",
    prefix="Bert",
    defaults={
        **_BASE,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "is_decoder": False,
    },
    norm="post",
    causal="is_decoder",
    embeddings=("word", "position", "type"),
    embedding_norm=True,
    fixed={"position_embedding_type": "absolute", "add_cross_attention": False},
    notes=(_TENSORFLOW,),
)
_ROBERTA = replace(
    _BERT,
    name="roberta",
    prefix="Roberta",
    defaults={**_BERT.defaults, "pad_token_id": 1},
    offset="pad_token_id",
    notes=(),
)
_ELECTRA = replace(
    _BERT,
    name="electra",
    prefix="Electra",
    defaults={
        **_BERT.defaults,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "embedding_size": 128,
    },
    projected="embedding_size",
)
_GPT2 = Family(
    name="gpt2",
    prefix="GPT2",
    defaults={
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "activation_function": "gelu_new",
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
    },
    aliases={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
    },
    depth="n_layer",
    width="n_embd",
    heads="n_head",
    hidden="n_inner",
    activation="activation_function",
    context="n_positions",
    epsilon="layer_norm_epsilon",
    scaled=True,
    embeddings=("word", "position"),
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    notes=(_HF_INIT,),
)
_OPT = Family(
    name="opt",
    prefix="OPT",
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "ffn_dim": 3072,
        "max_position_embeddings": 2048,
        "activation_function": "relu",
        "init_std": 0.02,
        "do_layer_norm_before": True,
    },
    aliases={"hidden_size": "d_model"},
    hidden="ffn_dim",
    activation="activation_function",
    std="init_std",
    epsilon=1e-5,
    pre_flag="do_layer_norm_before",
    embeddings=("word", "position"),
    projected="word_embed_proj_dim",
    notes=(_HF_INIT,),
)
_GPT_NEOX = Family(
    name="gpt_neox",
    prefix="GPTNeoX",
    defaults={
        **_BASE,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "rotary_emb_base": 10000.0,
        "rotary_pct": 0.25,
    },
    parallel="use_parallel_residual",
    rotary="rotary_emb_base",
    rotary_part="rotary_pct",
    notes=(_HF_INIT,),
)
_LLAMA = Family(
    name="llama",
    prefix="Llama",
    defaults={
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
    gated=True,
    epsilon="rms_norm_eps",
    rotary="rope_theta",
    rotary_part="partial_rotary_factor",
    head_dim="head_dim",
    notes=(_HF_INIT,),
)
_MISTRAL = replace(
    _LLAMA,
    name="mistral",
    prefix="Mistral",
    defaults={
        **_LLAMA.defaults,
        "intermediate_size": 14336,
        "max_position_embeddings": 4096 * 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    window="sliding_window",
)
_QWEN2 = replace(
    _LLAMA,
    name="qwen2",
    prefix="Qwen2",
    defaults={
        **_LLAMA.defaults,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "use_sliding_window": False,
        "sliding_window": 4096,
    },
    window="sliding_window",
    window_flag="use_sliding_window",
)
_VIT = Family(
    name="vit",
    prefix="ViT",
    defaults=_BASE
    | {"layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3},
    context="image_size",
    causal=False,
    extra_tokens=1,
    embeddings=("patch", "position"),
    notes=(_PATCHES, "The class token starts with another q0 than the patches; it is neglected."),
)
_DEIT = replace(
    _VIT,
    name="deit",
    prefix="DeiT",
    extra_tokens=2,
    embeddings=("patch",),
    notes=(
        _PATCHES,
        "Position embeddings and both class tokens start at zero; the two tokens are counted in "
        "the context and otherwise neglected.",
    ),
)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _BERT,
        _ROBERTA,
        replace(_ROBERTA, name="xlm-roberta", prefix="XLMRoberta"),
        replace(_ROBERTA, name="camembert", prefix="Camembert"),
        _ELECTRA,
        _GPT2,
        _OPT,
        _GPT_NEOX,
        _LLAMA,
        _MISTRAL,
        _QWEN2,
        _VIT,
        _DEIT,
    )
}


def family_of(values: Mapping[str, Any]) -> Family:
    """Family of a config, by "model_type", else by the class names in "architectures".

    Parameters
    ----------
    values : mapping
        The content of a config.json.

    Returns
    -------
    Family
        One of `FAMILIES`.

    Raises
    ------
    DomainError
        If the family is not in the table.

    Examples
    --------
    >>> from sigprop.model.huggingface_families import family_of
    >>> family_of({"architectures": ["GPT2LMHeadModel"]}).name
    'gpt2'
    """
    name = values.get("model_type")
    if name is None:
        return _family_of_architectures(values.get("architectures"))
    if not isinstance(name, str) or name not in FAMILIES:
        near = get_close_matches(str(name).lower(), FAMILIES, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DomainError("model_type", name, "one of " + ", ".join(FAMILIES) + hint)
    return FAMILIES[name]


def _family_of_architectures(names: object) -> Family:
    for name in names if isinstance(names, list | tuple) else ():
        for family in FAMILIES.values():
            pattern = family.prefix + "(Model|For|LMHead|DoubleHeads|PreTrained)"
            if isinstance(name, str) and re.match(pattern, name):
                return family
    words = "a list with a class of one of the families " + ", ".join(FAMILIES)
    raise DomainError("architectures", names, words + "; or give model_type")
