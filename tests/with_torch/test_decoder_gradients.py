"""Closed forms by position against torch's automatic differentiation of random decoders."""

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra torch")

from sigprop import ModelSpec, gradients, propagate  # noqa: E402

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}
TEXT = (Path(__file__).parents[2] / "README.md").read_bytes()


class Decoder:
    """Random decoder of a spec; `grad` maps a loss of its output to squared norms by matrix."""

    def __init__(self, spec, seed):
        self.spec, self.rng = spec, torch.Generator().manual_seed(seed)
        d, size = spec.width, spec.width // spec.heads
        heat = spec.beta * math.sqrt(math.log(spec.context))
        hidden, shared = round(d * spec.mlp_ratio), size * (spec.kv_heads or spec.heads)
        shapes = {
            "wq": (d, d, heat), "wk": (shared, d, heat), "wv": (shared, d, spec.sigma_v2),
            "wo": (d, d, spec.sigma_o2), "w1": (hidden, d, spec.sigma_w1_2),
            "w2": (d, hidden, spec.sigma_w2_2),
        }  # fmt: skip
        if spec.gated:
            shapes["wg"] = (hidden, d, spec.sigma_w1_2)
        self.blocks = [{n: self.matrix(*shape) for n, shape in shapes.items()}
                       for _ in range(spec.depth)]  # fmt: skip

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.rng)

    def matrix(self, out, into, variance):
        return (self.normal(out, into) * math.sqrt(float(variance) / into)).requires_grad_()

    def tokens(self):
        """Tokens of overlap rho0."""
        rho, shape = self.spec.rho0, (int(self.spec.context), self.spec.width)
        return math.sqrt(rho) * self.normal(1, shape[1]) + math.sqrt(1 - rho) * self.normal(*shape)

    def norm(self, x):
        return torch.nn.functional.layer_norm(x, x.shape[-1:])

    def attention(self, x, block):
        spec, place = self.spec, torch.arange(len(x))
        size = spec.width // spec.heads
        query, key, value = (
            (x @ block[n].T).view(len(x), -1, size).transpose(0, 1) for n in ("wq", "wk", "wv")
        )
        if spec.rotary_base is not None:
            angle = place[:, None] * spec.rotary_base ** (-torch.arange(size // 2) * 2 / size)
            query, key = (self.turned(z, angle) for z in (query, key))
        query_of = spec.heads // (spec.kv_heads or spec.heads)
        key, value = (z.repeat_interleave(query_of, 0) for z in (key, value))
        seen = place <= place[:, None]
        if spec.window is not None:
            seen &= place > place[:, None] - spec.window
        scores = (query @ key.transpose(1, 2) / math.sqrt(size)).masked_fill(~seen, -math.inf)
        return (scores.softmax(-1) @ value).transpose(0, 1).reshape(x.shape) @ block["wo"].T

    @staticmethod
    def turned(z, angle):
        one, two = z.chunk(2, -1)
        return torch.cat([one * angle.cos() - two * angle.sin(),
                          one * angle.sin() + two * angle.cos()], -1)  # fmt: skip

    def mlp(self, x, block):
        hidden = ACTIVATIONS[self.spec.activation](x @ block["w1"].T)
        return (hidden * (x @ block["wg"].T) if self.spec.gated else hidden) @ block["w2"].T

    def squares(self, x, loss):
        """Squared norms by block, for output gradients of total squared norm one."""
        pre = self.spec.norm == "pre"
        x = x if pre else self.norm(x)
        for block in self.blocks:
            for branch in (self.attention, self.mlp):
                y = branch(self.norm(x) if pre else x, block)
                x = x + y if pre else self.norm(x + y)
        x.retain_grad()
        loss(self.norm(x) if pre else x, x).backward()
        whole = float(x.grad.square().sum())
        return {n: [float(block[n].grad.square().sum()) / whole for block in self.blocks]
                for n in self.blocks[0]}  # fmt: skip


def random_spec(rng):
    spec = ModelSpec(
        depth=int(rng.integers(2, 4)), context=int(rng.choice([64, 128])), width=256,
        heads=int(rng.choice([4, 8])), kv_heads=int(rng.choice([1, 2, 4])), causal=True,
        norm=str(rng.choice(["pre", "post"])), activation=str(rng.choice(["relu", "tanh"])),
        gated=bool(rng.random() < 0.5), rotary_base=[None, 1e4][rng.integers(2)],
        window=[None, 24][rng.integers(2)], beta=rng.uniform(0.3, 1.2),
        sigma_v2=rng.uniform(0.5, 1.5), sigma_w2=1.0, rho0=rng.uniform(0, 0.5),
    )  # fmt: skip
    return spec if propagate(spec).rho[-1] < 0.9 else random_spec(rng)


def ratios(found, measured):
    """Closed form over measured means, and relative standard errors of these, by matrix."""
    out = {}
    for name in measured[0]:
        rows = np.array([one[name] for one in measured])
        mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        out[name] = np.asarray(getattr(found, name)) / mean, error / mean
    return out


@pytest.mark.slow
def test_random_decoders():
    """Controls: the scores of other temperatures, and gradients of the opposite norm placement."""
    rng, every, wrong = np.random.default_rng(3), [], []
    for case in range(8):
        spec = random_spec(rng)

        def independent(_, x):
            return (x * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).sum()

        measured = [
            (one := Decoder(spec, 1000 * case + seed)).squares(one.tokens(), independent)
            for seed in range(40)
        ]
        found = ratios(gradients(spec), measured)
        for ratio, error in found.values():
            assert (np.abs(ratio - 1) < 0.15 + 2 * error * ratio).all()
        every += [ratio for ratio, _ in found.values()]
        wrong.append(ratios(gradients(spec.replace(beta=2 * spec.beta)), measured)["wq"][0])
    assert 0.97 < np.median(np.concatenate(every)) < 1.03
    assert np.abs(np.log(np.concatenate(wrong))).max() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_targets_of_a_text(norm):
    """Cross-entropy of the next bytes: value and last MLP matrices; control: other targets."""
    spec = ModelSpec(
        depth=4, context=128, width=256, heads=4, causal=True, norm=norm, activation="tanh",
        beta=0.6, sigma_v2=1, sigma_w2=1, rho0=0.03,
    )  # fmt: skip
    measured, found, other = [], [], []
    for seed in range(32):
        ids = np.frombuffer(TEXT[200 * seed : 200 * seed + 129], np.uint8).astype(int)
        one = Decoder(spec, seed)
        embedding, place = one.normal(256, 256), one.normal(128, 256)
        head, targets = 0.02 * one.normal(256, 256), torch.tensor(ids[1:])
        x = (embedding[ids[:-1]] + place) / math.sqrt(2)
        measured.append(
            one.squares(x, lambda y, _, head=head, targets=targets:
                        torch.nn.functional.cross_entropy(y @ head.T, targets))
        )  # fmt: skip
        if seed < 8:
            found.append(gradients(spec, start=ids[1:]))
            other.append(gradients(spec))
    for name in ("wv", "w2"):
        mean = np.mean([getattr(one, name) for one in found], axis=0)
        rows = np.array([one[name] for one in measured])
        error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        assert (np.abs(mean - rows.mean(axis=0)) < 3 * error + 0.1 * rows.mean(axis=0)).all()
    rows = np.mean([one["wv"] for one in measured], axis=0)
    assert np.abs(np.mean([one.wv for one in other], axis=0) / rows - 1).max() > 0.4
