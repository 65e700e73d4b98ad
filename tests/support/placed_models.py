"""Small models of seven kinds, and where each of their matrices is, written down by hand."""

import torch
from torch import nn
from torch.nn import functional

DEPTH, WIDTH, HEADS, HIDDEN = 2, 64, 4, 128
HF = {"num_hidden_layers": DEPTH, "hidden_size": WIDTH, "num_attention_heads": HEADS,
      "intermediate_size": HIDDEN, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2,
      "pad_token_id": 0}  # fmt: skip


class LayerNorm(nn.Module):
    """nanoGPT's: a norm whose bias is optional."""

    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    """nanoGPT's: one nn.Linear for queries, keys and values, side by side."""

    def __init__(self, width, heads, bias):
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)
        self.heads = heads

    def forward(self, x):
        rows, context, width = x.shape
        q, k, v = (
            part.view(rows, context, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(rows, context, width))


class MLP(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(width, bias), LayerNorm(width, bias)
        self.attn, self.mlp = CausalSelfAttention(width, heads, bias), MLP(width, bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """GPT with tied embeddings, as people train it from a few hundred lines."""

    def __init__(self, depth=DEPTH, width=WIDTH, heads=HEADS, vocabulary=50, context=32, bias=True):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocabulary, width),
            "wpe": nn.Embedding(context, width),
            "drop": nn.Dropout(0.1),
            "h": nn.ModuleList([Block(width, heads, bias) for _ in range(depth)]),
            "ln_f": LayerNorm(width, bias),
        })  # fmt: skip
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, idx, targets=None):
        parts = self.transformer
        x = parts["wte"](idx) + parts["wpe"](torch.arange(idx.shape[1]))
        x = parts["drop"](x)
        for block in parts["h"]:
            x = block(x)
        x = parts["ln_f"](x)
        if targets is None:
            return self.lm_head(x[:, [-1]]), None
        logits = self.lm_head(x)
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build(name):
    """One of the seven, and the batch that it takes."""
    torch.manual_seed(0)
    ids = {"input_ids": torch.randint(3, 50, (2, 8))}
    if name == "nanogpt":
        return NanoGPT(), ids["input_ids"]
    if name in ("post", "pre"):
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, batch_first=True, norm_first=name == "pre", activation="gelu"
        )
        stack = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        return stack, torch.randn(2, 8, WIDTH)
    import transformers as hf

    if name == "gpt2":
        keys = {"n_layer": DEPTH, "n_embd": WIDTH, "n_head": HEADS, "vocab_size": 50}
        return hf.GPT2LMHeadModel(hf.GPT2Config(**keys, bos_token_id=1, eos_token_id=1)), ids
    if name == "vit":
        known = {k: HF[k] for k in list(HF)[:4]}
        config = hf.ViTConfig(**known, image_size=16, patch_size=8)
        return hf.ViTModel(config), {"pixel_values": torch.randn(2, 3, 16, 16)}
    kind, more = {
        "neox": ("GPTNeoX", {}),
        "llama": ("Llama", {"num_key_value_heads": 2}),
        "qwen2": ("Qwen2", {"num_key_value_heads": 2}),
    }[name]
    return getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(**HF, **more)), ids


NAMES = ("nanogpt", "gpt2", "neox", "llama", "qwen2", "post", "pre", "vit")
GATED = ("llama", "qwen2")
LLAMA = ("layers.{}.", {"self_attn.q_proj": "query", "self_attn.k_proj": "key",
                        "self_attn.v_proj": "value", "self_attn.o_proj": "output",
                        "mlp.gate_proj": "gate", "mlp.up_proj": "w1",
                        "mlp.down_proj": "w2"})  # fmt: skip
GPT = {"attn.c_proj": "output", "mlp.c_fc": "w1", "mlp.c_proj": "w2"}
TORCH = ("layers.{}.", {"self_attn.out_proj": "output", "linear1": "w1", "linear2": "w2"})
PLACES = {
    "nanogpt": ("transformer.h.{}.", GPT), "gpt2": ("transformer.h.{}.", GPT),
    "neox": ("layers.{}.", {"attention.dense": "output", "mlp.dense_h_to_4h": "w1",
                            "mlp.dense_4h_to_h": "w2"}),
    "llama": LLAMA, "qwen2": LLAMA, "post": TORCH, "pre": TORCH,
    "vit": ("layers.{}.", {"attention.q_proj": "query", "attention.k_proj": "key",
                           "attention.v_proj": "value", "attention.o_proj": "output",
                           "mlp.fc1": "w1", "mlp.fc2": "w2"}),
}  # fmt: skip
FUSED = {"nanogpt": "attn.c_attn.", "gpt2": "attn.c_attn.", "neox": "attention.query_key_value.",
         "post": "self_attn.in_proj_", "pre": "self_attn.in_proj_"}  # fmt: skip


def matrices(name, model):
    """Every matrix: (block, role, weight, bias or None, fan-in)."""
    prefix, roles = PLACES[name]
    known = dict(model.named_parameters())
    for block in range(DEPTH):
        where = prefix.format(block)
        for part, role in roles.items():
            weight, bias = (known.get(f"{where}{part}.{kind}") for kind in ("weight", "bias"))
            yield block, role, weight, bias, weight.shape[0 if name == "gpt2" else 1]
        if name not in FUSED:
            continue
        weight, bias = (known[f"{where}{FUSED[name]}{kind}"] for kind in ("weight", "bias"))
        rows = weight.T if name == "gpt2" else weight
        for i, role in enumerate(("query", "key", "value")):
            if name == "neox":  # head by head: its queries, its keys, its values
                head = WIDTH // HEADS
                pick = [3 * head * h + head * i + j for h in range(HEADS) for j in range(head)]
            else:
                pick = range(i * WIDTH, (i + 1) * WIDTH)
            yield block, role, rows[list(pick)], bias[list(pick)], WIDTH


def inside(name, model):
    """Names of the parameters in blocks."""
    prefix = PLACES[name][0].split("{}")[0]
    return [n for n, _ in model.named_parameters() if n.startswith(prefix)]
