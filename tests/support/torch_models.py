"""Small torch transformers of a user's own, and a task that needs the signal to arrive."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

TEXT = (
    "once upon a time a small dog lived by the river. every day the dog ran to the old mill and "
    "looked for its friend, a grey cat with one white ear. the cat liked to sleep on the warm "
    "stones. when it rained they sat under the bridge and told each other stories about the sea. "
)


class Joint(nn.Module):
    """Post-norm block around nn.MultiheadAttention."""

    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(),
                                 nn.Linear(4 * width, width))  # fmt: skip
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        x = self.first(x + self.attention(x, x, x, need_weights=False)[0])
        return self.second(x + self.mlp(x))


class Separate(nn.Module):
    """Pre-norm causal block with separate projections, and multipliers on stream and branches."""

    def __init__(self, width, heads, skip=1.0, branch=1.0, bias=0.0):
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(width, width, bias=False) for _ in "1234")
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)
        self.heads, self.skip, self.branch, self.bias = heads, skip, branch, bias

    def attend(self, x):
        q, k, v = (
            m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for m in (self.wq, self.wk, self.wv)
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5
        distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        scores = (scores - self.bias * distance).masked_fill(distance < 0, -torch.inf)
        return self.wo((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def forward(self, x):
        x = self.skip * x + self.branch * self.attend(self.first(x))
        return self.skip * x + self.branch * self.down(torch.relu(self.up(self.second(x))))


class Net(nn.Module):
    """Embeddings, blocks and a head."""

    def __init__(self, block, depth, width=64, heads=4, vocabulary=40, context=32, **options):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(context, width))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([block(width, heads, **options) for _ in range(depth)])
        self.head = nn.Linear(width, vocabulary)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):  # the usual default of transformers
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, ids):
        x = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def characters(text, vocabulary=40):
    known = {c: i for i, c in enumerate(sorted(set(text.lower()))[: vocabulary - 1])}
    return torch.tensor([known.get(c, vocabulary - 1) for c in text.lower()])


def windows(ids, batch, context, rng):
    starts = rng.integers(0, len(ids) - context, batch)
    return torch.stack([ids[s : s + context] for s in starts])


def denoise(model, ids, steps, seed, rate=5e-4, batch=16, context=32):
    """Loss, step by step, of naming every character when 15 % of those read are replaced."""
    rng, losses = np.random.default_rng(seed), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        clean = windows(ids, batch, context, rng)
        noise = torch.from_numpy(rng.random(clean.shape) < 0.15)
        other = torch.from_numpy(rng.integers(0, 40, clean.shape))
        loss = functional.cross_entropy(
            model(torch.where(noise, other, clean)).flatten(0, 1), clean.flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return np.array(losses)
