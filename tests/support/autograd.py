"""Random transformers in numpy, forward and backward by hand: what the theory is held against.

Layers and norms are written out as matrices; nothing here comes from the theory.
"""

from dataclasses import dataclass
from math import pi

import numpy as np
from scipy.special import erf


def _gelu(x):
    return x * 0.5 * (1 + _erf(x / np.sqrt(2)))


def _gelu_slope(x):
    return 0.5 * (1 + _erf(x / np.sqrt(2))) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * pi)


def _erf(x):
    return erf(x.astype(float))


def _silu(x):
    return x / (1 + np.exp(-x))


def _silu_slope(x):
    gate = 1 / (1 + np.exp(-x))
    return gate * (1 + x * (1 - gate))


ACTIVATIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(x.dtype)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "linear": (lambda x: x, np.ones_like),
    "gelu": (_gelu, _gelu_slope),
    "silu": (_silu, _silu_slope),
}


def normalise(x, gain=1.0):
    """LayerNorm without affine parameters, and its pullback."""
    centred = x - x.mean(1, keepdims=True)
    scale = gain / np.sqrt((centred**2).mean(1, keepdims=True))
    y = centred * scale

    def pull(g):
        along = (g * y).mean(1, keepdims=True) / gain**2
        return scale * (g - g.mean(1, keepdims=True) - y * along)

    return y, pull


@dataclass
class Attention:
    """Softmax attention with its weights; `pull` stores the squared norms of their gradients."""

    wq: np.ndarray
    wk: np.ndarray
    wv: np.ndarray
    bias: np.ndarray
    heads: int
    centred: bool = False
    causal: bool = False
    rotary: float | None = None

    def _turned(self, y, sign):
        """Pairs of features of every head turn with the position."""
        if self.rotary is None:
            return y
        _, t, width = y.shape
        angle = np.arange(t)[:, None] * self.rotary ** (-np.arange(0, width, 2) / width)
        cos, sin = np.cos(angle).astype(y.dtype), sign * np.sin(angle).astype(y.dtype)
        out, (a, b) = np.empty_like(y), (y[..., ::2], y[..., 1::2])
        out[..., ::2], out[..., 1::2] = a * cos - b * sin, a * sin + b * cos
        return out

    def __call__(self, x):
        self.x, (t, d) = x, x.shape
        split = (t, self.heads, d // self.heads)
        self.q, self.k, self.v = (
            np.moveaxis((x @ w).reshape(split), 1, 0) for w in (self.wq, self.wk, self.wv)
        )
        self.q, self.k = self._turned(self.q, 1), self._turned(self.k, 1)
        score = self.q @ self.k.swapaxes(1, 2) / np.sqrt(d // self.heads)
        if self.causal:
            score = np.where(np.tri(t, dtype=bool), score, -np.inf).astype(score.dtype)
        a = np.exp(score - score.max(2, keepdims=True))
        self.a = a / a.sum(2, keepdims=True)
        mixed = self.a - 1 / t if self.centred else self.a
        out = np.moveaxis(mixed @ self.v, 0, 1).reshape(t, d)
        return out if self.centred else out + self.bias

    def pull(self, g):
        t, d = self.x.shape
        gh = np.moveaxis(g.reshape(t, self.heads, -1), 1, 0)
        mixed = self.a - 1 / t if self.centred else self.a
        b = gh @ self.v.swapaxes(1, 2)
        c = self.a * (b - (self.a * b).sum(2, keepdims=True)) / np.sqrt(d // self.heads)
        queries, keys = c @ self.k, c.swapaxes(1, 2) @ self.q
        parts = self._turned(queries, -1), self._turned(keys, -1), mixed.swapaxes(1, 2) @ gh
        flat = [np.moveaxis(p, 0, 1).reshape(t, d) for p in parts]
        self.gradients = [self.x.T @ f for f in flat]
        return sum(f @ w.T for f, w in zip(flat, (self.wq, self.wk, self.wv), strict=True))


@dataclass
class Mlp:
    """Two layers; `pull` stores the gradients of their weights."""

    w1: np.ndarray
    w2: np.ndarray
    b1: np.ndarray
    b2: np.ndarray
    act: str
    gate: np.ndarray | None = None

    def __call__(self, x):
        self.x, self.u = x, x @ self.w1 + self.b1
        self.h = ACTIVATIONS[self.act][0](self.u)
        if self.gate is not None:
            self.phi, self.linear = self.h, x @ self.gate
            self.h = self.phi * self.linear
        return self.h @ self.w2 + self.b2

    def pull(self, g):
        back = g @ self.w2.T
        inner = back * ACTIVATIONS[self.act][1](self.u)
        if self.gate is None:
            self.gradients = [self.x.T @ inner, self.h.T @ g]
            return inner @ self.w1.T
        inner, other = inner * self.linear, back * self.phi
        self.gradients = [np.hstack([self.x.T @ inner, self.x.T @ other]), self.h.T @ g]
        return inner @ self.w1.T + other @ self.gate.T


def draw_layers(case, rng, dtype=float):
    """Attention and MLP of every layer of a case (the keys of simulations.json)."""
    d, heads, width = case["d"], case.get("H", 1), int(case["d"] * case.get("width", 1))
    share = np.sqrt(case["beta"] * np.sqrt(np.log(case["T"])) / d)

    def normal(std, *shape):
        return (std * rng.standard_normal(shape)).astype(dtype)

    for _ in range(case["L"]):
        value, bias = np.sqrt(case["vv"] / d), np.sqrt(case.get("vb", 0.0))
        yield (
            Attention(
                *(normal(s, d, d) for s in (share, share, value)),
                normal(bias, d),
                heads,
                case.get("centred", False),
                case.get("causal", False),
                case.get("rotary"),
            ),
            Mlp(
                normal(np.sqrt(case["vw"] / d), d, width),
                normal(np.sqrt(case.get("vw2", case["vw"]) / width), width, d),
                normal(bias, width),
                normal(bias, d),
                case.get("act", "relu"),
                normal(np.sqrt(case["vw"] / d), d, width) if case.get("gated") else None,
            ),
        )


def tokens(case, rng, dtype=float):
    """Normalised tokens of overlap rho0."""
    t, d, rho = case["T"], case["d"], case["rho0"]
    x = np.sqrt(rho) * rng.standard_normal(d) + np.sqrt(1 - rho) * rng.standard_normal((t, d))
    return normalise(x.astype(dtype))[0]


def forward(case, x, layers):
    """Streams before each layer and after the last, and the pullbacks in order."""
    streams, pulls = [x], []
    for parts in layers:
        for part, alpha in zip(parts, (case["aS"], case["aM"]), strict=True):
            x, pull = _sublayer(case.get("norm", "post"), x, part, alpha)
            pulls.append(pull)
        streams.append(x)
    return streams, pulls


def _sublayer(norm, x, part, alpha):
    if norm == "post":
        y, outer = normalise(alpha * x + part(x))
        return y, lambda g: _sum(alpha, outer(g), part.pull)
    if norm == "pre":
        y, inner = normalise(x)
        return alpha * x + part(y), lambda g: alpha * g + inner(part.pull(g))
    return alpha * x + part(x), lambda g: alpha * g + part.pull(g)


def _sum(alpha, g, pull):
    return alpha * g + pull(g)


def kernel(x):
    """Mean square entry, and mean product of two rows over the width."""
    t, d = x.shape
    q, total = (x**2).sum() / d, ((x.sum(0)) ** 2).sum() / d
    return q / t, (total - q) / (t * (t - 1))


def measure(case, seed, dtype=np.float32):
    """One network: forward statistics and gradients, for unit-variance output gradients."""
    rng = np.random.default_rng(seed)
    x, layers = tokens(case, rng, dtype), list(draw_layers(case, rng, dtype))
    streams, pulls = forward(case, x, layers)
    attention = [a for a, _ in layers]
    out = {"q": [], "rho": [], "y2": [], "h": [], "qg": [], "pg": []}
    for stream in streams:
        out["q"].append(kernel(stream)[0])
        size = np.sqrt((stream**2).mean(1, keepdims=True))
        out["rho"].append(kernel(stream / size)[1])
    for a in attention:
        out["y2"].append((a.a**2).sum(2).mean())
        out["h"].append(-(a.a * np.log(np.maximum(a.a, 1e-37))).sum(2).mean())
    g = rng.standard_normal(x.shape).astype(dtype)
    total = g.size
    for attend, think in zip(reversed(pulls[::2]), reversed(pulls[1::2]), strict=True):
        g = attend(think(g))
        both = kernel(g)
        out["qg"].insert(0, both[0])
        out["pg"].insert(0, both[1])
    for name, k in (("wq", 0), ("wk", 1), ("wv", 2)):
        out[name] = [float((a.gradients[k] ** 2).sum()) / total for a in attention]
    for name, k in (("w1", 0), ("w2", 1)):
        out[name] = [float((m.gradients[k] ** 2).sum()) / total for _, m in layers]
    return {name: np.array(values, dtype=float) for name, values in out.items()}


def average(case, seeds, dtype=np.float32):
    """Means and standard errors over seeds."""
    runs = [measure(case, seed, dtype) for seed in seeds]
    stacked = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    return {
        name: (values.mean(0), values.std(0, ddof=1) / np.sqrt(len(runs)))
        for name, values in stacked.items()
    }
