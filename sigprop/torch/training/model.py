r"""A language model whose blocks are those of a description, drawn with its variances.

Bidirectional descriptions are encoders, for masked-language modelling; causal ones are decoders.

Embeddings are chosen such that two different tokens have the overlap rho0: token, position and
segment vectors are unit Gaussians, and :math:`x = \sqrt{\rho_0}\,segment + \sqrt{(1-\rho_0)/2}\,
(token + position)`. Equal tokens overlap by :math:`(1+\rho_0)/2` then. In real text they are rare
enough (and [MASK], the commonest, takes one position in eight) that the mean over pairs of
positions stays within 0.02 of rho0; the exact mean is what `Seen` measures at layer 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigprop.core.checks import count
from sigprop.core.errors import AssumptionError, DomainError, require
from sigprop.model.spec import ModelSpec
from sigprop.simulation.network_torch import ACTIVATIONS

__all__ = ["LanguageModel", "Seen", "check"]

Branch = Callable[[Tensor], Tensor]
EPSILON = 1e-12  # of the norms, as in BERT
TABLE = 0.4  # norm of a row of the embedding tables


class Seen(NamedTuple):
    """What a batch looked like on its way up.

    Attributes
    ----------
    rho : list of float
        Mean cosine of two tokens of a window, at the input and after each block.
    entropy : list of float
        Mean over queries of each block of H over the logarithm of the number of keys seen.
    """

    rho: list[float]
    entropy: list[float]


def check(spec: ModelSpec) -> None:
    """Refuse a description that the model cannot be built from.

    Parameters
    ----------
    spec : ModelSpec
        The description.

    Raises
    ------
    DomainError
        If the width is not given or not a multiple of the heads, or rho0 is negative.
    AssumptionError
        If it has arrays, an infinite context, a window, a prefix, documents or a chunk, rotary
        positions, grouped keys or an identity part.

    Examples
    --------
    >>> from sigprop import ModelSpec
    >>> from sigprop.torch.training.model import check
    >>> check(ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0))
    Traceback (most recent call last):
        ...
    sigprop.core.errors.DomainError: width = None is not admissible: expected an integer to train
    """
    if spec.width is None:
        raise DomainError("width", None, "an integer to train")
    require(spec.width % spec.heads == 0, "heads", spec.heads, f"a divisor of {spec.width}")
    if not spec.is_uniform:
        raise AssumptionError("training needs layers that are alike: no pattern, no by_layer")
    if spec.shape or math.isinf(float(spec.context)):
        raise AssumptionError("training needs a single spec of finite context")
    if spec.has_identity or spec.heads_per_key > 1:
        raise AssumptionError(
            "training draws queries, keys and values of every head on their own: set identity = 0, "
            "value_identity = 0, kv_heads = null"
        )
    if spec.rotary_base is not None:
        raise AssumptionError("training is with learned positions: set rotary_base = null")
    if spec.window is not None or spec.prefix or spec.is_segmented:
        raise AssumptionError(
            "training is with whole causal masks or none: set window = null, prefix = 0, "
            "documents = null, chunk = null"
        )
    require(float(spec.rho0) >= 0, "rho0", spec.rho0, "a number in [0, 1] to train")


class LanguageModel(nn.Module):
    """Embeddings, the blocks of a description, and a read-out that shares the token table.

    Parameters
    ----------
    spec : ModelSpec
        The description: single, with a width.
    vocabulary : int
        Number of tokens.
    seed : int
        Seed of the weights.

    Raises
    ------
    DomainError, AssumptionError
        As `check`.

    Notes
    -----
    theory.md section 1: Var(W_V) d = sigma_v2, Var(W_Q) d = Var(W_K) d = beta sqrt(log T), and so
    on. The residual strengths are constants, not trained. The read-out shares the table of the
    tokens, as in BERT; its entries are 0.4/sqrt(d) (BERT: 0.02 at d = 768), scaled to one where
    they enter the stream, so that logits start with a standard deviation of 0.4.

    Examples
    --------
    >>> import torch
    >>> from sigprop import ModelSpec
    >>> from sigprop.torch.training.model import LanguageModel
    >>> spec = ModelSpec(depth=2, context=8, width=16, beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    >>> model = LanguageModel(spec, vocabulary=50, seed=0)
    >>> model(torch.zeros(3, 8, dtype=torch.long)).shape
    torch.Size([3, 8, 16])
    """

    def __init__(self, spec: ModelSpec, vocabulary: int, seed: int) -> None:
        check(spec)
        super().__init__()
        assert spec.width is not None
        self.spec, d = spec, spec.width
        self.token = nn.Embedding(count("vocabulary", vocabulary, 2, 10**7), d)
        self.position = nn.Parameter(torch.empty(int(spec.context), d))
        self.segment = nn.Parameter(torch.empty(d))
        self.norm = _norm(spec) if "norm" in spec.order else nn.Identity()
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self._draw(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _draw(self, rng: torch.Generator) -> None:
        for part in (self.token.weight, self.position, self.segment):
            part.normal_(std=TABLE / math.sqrt(part.shape[-1]), generator=rng)
        for block in self.blocks:
            cast(Block, block).draw(rng)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to the stream that enters the first block, (B, T, d)."""
        rho = float(self.spec.rho0)
        own = self.token(tokens) + self.position[: tokens.shape[1]]
        x = math.sqrt(rho) * self.segment + math.sqrt((1 - rho) / 2) * own
        x *= math.sqrt(x.shape[-1]) / TABLE
        return self._normed(x) if self.spec.ends_in_norm else math.sqrt(float(self.spec.q0)) * x

    def _normed(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x))

    def forward(self, tokens: Tensor, entropies: list[Tensor] | None = None) -> Tensor:
        """Token ids (B, T) to features (B, T, d), which `logits` reads."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, entropies)
        return x if self.spec.ends_in_norm else self._normed(x)

    def logits(self, features: Tensor) -> Tensor:
        """Features (..., d) to one logit for each token of the vocabulary, (..., V)."""
        return F.linear(features, self.token.weight, self.bias)

    @torch.no_grad()
    def look(self, tokens: Tensor) -> Seen:
        """Overlap and attention entropy of a batch, layer by layer.

        Parameters
        ----------
        tokens : tensor of int, shape (B, T)
            Token ids.

        Returns
        -------
        Seen
            Means over the batch.
        """
        entropies: list[Tensor] = []
        x = self.embed(tokens)
        rho = [_overlap(x)]
        for block in self.blocks:
            x = block(x, entropies)
            rho.append(_overlap(x))
        return Seen(torch.stack(rho).tolist(), torch.stack(entropies).tolist())


class Block(nn.Module):
    """One block: attention and MLP, each with its residual strength and norm.

    Parameters
    ----------
    spec : ModelSpec
        The description.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.width is not None
        self.spec, d = spec, spec.width
        hidden = max(1, round(d * spec.mlp_ratio))
        self.joint = nn.Linear(d, 3 * d)  # queries, keys and values side by side
        self.output = nn.Linear(d, d, bias=False)
        self.w1, self.w2 = nn.Linear(d, hidden), nn.Linear(hidden, d)
        self.gate = nn.Linear(d, hidden) if spec.gated else None
        self.norms = nn.ModuleList(_norm(spec) for _ in range(2 * spec.order.count("norm")))

    def draw(self, rng: torch.Generator) -> None:
        """Draw every matrix: variance over fan-in (theory.md section 1)."""
        spec = self.spec
        heat = float(spec.beta) * math.sqrt(math.log(float(spec.context)))
        query, key, value = self.joint.weight.chunk(3)
        for matrix, variance in (
            (query, heat),
            (key, heat),
            (value, spec.sigma_v2),
            (self.output.weight, spec.sigma_o2),
            (self.w1.weight, spec.sigma_w1_2),
            (self.w2.weight, spec.sigma_w2_2),
            *([(self.gate.weight, spec.sigma_w1_2)] if self.gate is not None else ()),
        ):
            matrix.normal_(std=math.sqrt(float(variance) / matrix.shape[1]), generator=rng)
        nn.init.zeros_(self.joint.bias)  # queries and keys have none in the theory
        noise = math.sqrt(float(spec.sigma_b2))
        value_bias = self.joint.bias.chunk(3)[2]
        for bias in (value_bias, self.w1.bias, self.w2.bias):
            bias.normal_(std=noise, generator=rng)

    def forward(self, x: Tensor, entropies: list[Tensor] | None = None) -> Tensor:
        """Stream in, stream out, (B, T, d); the mean entropy ratio is appended to a list."""
        spec = self.spec
        strengths = float(spec.alpha_attn), float(spec.alpha_mlp)
        if spec.parallel:
            read = self.norms[0](x)
            return strengths[0] * x + self.attention(read, entropies) + self.mlp(read)
        attend: Branch = partial(self.attention, entropies=entropies)
        norms = iter(self.norms)
        for alpha, branch in zip(strengths, (attend, self.mlp), strict=True):
            x = self._sublayer(x, alpha, branch, norms)
        return x

    def _sublayer(
        self, x: Tensor, alpha: float, branch: Branch, norms: Iterator[nn.Module]
    ) -> Tensor:
        steps: dict[str, Branch] = {
            "norm": lambda y: next(norms)(y),
            "branch": branch,
            "skip": lambda y: torch.add(y, x, alpha=alpha),
        }
        return reduce(lambda y, step: steps[step](y), self.spec.order, x)

    def attention(self, x: Tensor, entropies: list[Tensor] | None = None) -> Tensor:
        """Multi-head attention of (B, T, d)."""
        query, key, value = self.joint(x).unflatten(-1, (3, self.spec.heads, -1)).unbind(-3)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        causal, size = self.spec.causal, x.shape[1]
        if entropies is None:
            out = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        else:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            if causal:
                later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
                scores = scores.masked_fill(later, -math.inf)
            weights = scores.softmax(-1)
            entropies.append(_entropy_ratio(weights, causal))
            out = weights @ value
        if self.spec.attention == "centred":
            out = out - _means(value, causal)
        return cast(Tensor, self.output(out.transpose(1, 2).reshape(x.shape)))

    def mlp(self, x: Tensor) -> Tensor:
        """Two layers, gated if the description is."""
        hidden = ACTIVATIONS[self.spec.activation](self.w1(x))
        return cast(Tensor, self.w2(hidden if self.gate is None else hidden * self.gate(x)))


def _norm(spec: ModelSpec) -> nn.LayerNorm:
    assert spec.width is not None
    norm = nn.LayerNorm(spec.width, eps=EPSILON)
    nn.init.constant_(norm.weight, float(spec.norm_gain))
    return norm


def _seen(size: int, causal: bool, like: Tensor) -> Tensor:
    """Count the keys that each query sees, (T,)."""
    counts = torch.arange(1, size + 1, device=like.device, dtype=like.dtype)
    return counts if causal else torch.full_like(counts, size)


def _means(value: Tensor, causal: bool) -> Tensor:
    """Mean of the values that each query sees, (B, H, T, d_h)."""
    seen = _seen(value.shape[-2], causal, value)[:, None]
    return (value.cumsum(-2) if causal else value.sum(-2, keepdim=True)) / seen


def _entropy_ratio(weights: Tensor, causal: bool) -> Tensor:
    """Mean of H / log n over queries that see n >= 2 keys."""
    entropy = -torch.special.xlogy(weights, weights).sum(-1)
    seen = _seen(weights.shape[-1], causal, weights)
    several = seen > 1
    ratio: Tensor = entropy[..., several] / seen[several].log()
    return ratio.mean()


def _overlap(x: Tensor) -> Tensor:
    """Mean cosine of two different tokens of a window."""
    unit = F.normalize(x.float(), dim=-1)
    tokens = x.shape[1]
    return ((unit.sum(1).square().sum(-1) - tokens) / (tokens * (tokens - 1))).mean()
