"""Generated code and `initialise_` draw every matrix where it is, at its scale, or raise."""

import re
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs the extra torch")

from placed_models import GATED, NAMES, CausalSelfAttention, NanoGPT, build, inside, matrices  # noqa: E402
from placed_plan import errors, plan, run_code  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from sigprop.core.errors import AssumptionError  # noqa: E402
from sigprop.torch import audit, initialise_  # noqa: E402
from sigprop.torch.placement import find_blocks  # noqa: E402

LIMIT = 5.0  # standard errors; 132 deviations are looked at


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_code_draws_every_matrix_and_nothing_else(models, name):
    model, _ = models[name]
    wanted = plan(name in GATED)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    changes = run_code(wanted, model)
    found = errors(name, model, wanted)
    assert max(map(abs, found.values())) < LIMIT, found
    roles = 7 if name in GATED else 6
    assert len(changes) == 2 * roles == sum(key[2] == "weight" for key in found)
    outside = set(before) - set(inside(name, model))
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters() if n in outside)
    norms = [n for n in inside(name, model) if re.search(r"norm|ln_", n)]
    assert all(torch.equal(before[n], dict(model.named_parameters())[n]) for n in norms)


@pytest.mark.parametrize("name", NAMES)
def test_initialise_draws_the_same_numbers(models, name):
    model, batch = models[name]
    wanted = plan(name in GATED)
    run_code(wanted, model)
    by_code = {n: p.detach().clone() for n, p in model.named_parameters()}
    initialise_(model, wanted, seed=1)
    assert not all(torch.equal(by_code[n], p) for n, p in model.named_parameters())
    changes = initialise_(model, wanted, batch=batch)
    assert all(torch.equal(by_code[n], p) for n, p in model.named_parameters())
    assert {c.role for c in changes} == set(wanted.variance)


@pytest.mark.parametrize("name", ["nanogpt", "neox"])
def test_wrong_places_are_seen(models, name):
    """Negative control: the other layout of the same parameter, and blocks the wrong way round."""
    model, _ = models[name]
    wanted = plan(False)
    run_code(wanted, model)
    other = dict(((block, role), weight) for block, role, weight, *_ in matrices(name, model))
    std = {key: float(weight.detach().square().mean()) ** 0.5 for key, weight in other.items()}
    assert std[0, "value"] / std[0, "query"] == pytest.approx(np.sqrt(1.4 / 0.5), rel=0.05)
    assert std[1, "w1"] / std[0, "w1"] == pytest.approx(1.5, rel=0.05)
    swapped = {"nanogpt": "neox", "neox": "nanogpt"}[name]
    import placed_models

    renamed = {**placed_models.FUSED, swapped: placed_models.FUSED[name]}
    places = {**placed_models.PLACES, swapped: placed_models.PLACES[name]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placed_models, "FUSED", renamed)
        patch.setattr(placed_models, "PLACES", places)
        found = errors(swapped, model, wanted)
    assert abs(found[0, "value", "weight"]) > 2 * LIMIT


def test_the_code_needs_torch_alone(monkeypatch):
    source = plan(False).pytorch()
    assert "import sigprop" not in source
    assert "from sigprop" not in source
    assert max(map(len, source.splitlines())) <= 102
    monkeypatch.setitem(sys.modules, "sigprop", None)
    space = {}
    exec(compile(source, "init.py", "exec"), space)
    model, _ = build("pre")
    assert len(space["init_weights"](model)) == 12


class Interleaved(CausalSelfAttention):
    """One Linear under the name of side-by-side projections, read head by head."""

    def forward(self, x):
        rows, context, width = x.shape
        joint = self.c_attn(x).view(rows, context, self.heads, -1).transpose(1, 2)
        q, k, v = joint.chunk(3, dim=-1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(rows, context, width))


class Reversed(CausalSelfAttention):
    """Values first: an order that is not known here."""

    def forward(self, x):
        rows, context, width = x.shape
        v, k, q = (
            part.view(rows, context, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.c_proj(y.transpose(1, 2).reshape(rows, context, width))


class Grouped(CausalSelfAttention):
    """Side by side, with two key and value heads for four query heads."""

    def __init__(self, width, heads, bias):
        super().__init__(width, heads, bias)
        self.c_attn = nn.Linear(width, 2 * width, bias=bias)

    def forward(self, x):
        rows, context, width = x.shape
        q, k, v = (
            part.view(rows, context, -1, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split([width, width // 2, width // 2], dim=2)
        )
        k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(rows, context, width))


def nano(attention):
    model = NanoGPT()
    for block in model.transformer["h"]:
        block.attn = attention(64, 4, True)
    return model


@pytest.mark.parametrize(
    ("kind", "layout"),
    [(CausalSelfAttention, (1, 64, 128, 192)), (Interleaved, (4, 16, 32, 48)),
     (Grouped, (1, 64, 96, 128))],
)  # fmt: skip
def test_a_pass_shows_the_layout_whatever_the_name(kind, layout):
    torch.manual_seed(0)
    model = nano(kind)
    model.train()
    state = torch.random.get_rng_state()
    for parts in find_blocks(model):
        found = [parts.matrices[role] for role in ("query", "key", "value")]
        assert {m.groups for m in found} == {layout[0]}
        assert [m.stop for m in found] == list(layout[1:])
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Scaled(nn.Module):
    """A gain on a branch, which is neither matrix nor bias nor norm."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.gamma = inner, nn.Parameter(torch.ones(64))

    def forward(self, x):
        return self.gamma * self.inner(x)


def change(make):
    def changed():
        model = NanoGPT()
        make(model, model.transformer["h"])
        return model

    return changed


def tie(model, blocks):
    blocks[1].mlp.c_fc.weight = blocks[0].mlp.c_fc.weight


REFUSED = {
    "a third matrix": (change(lambda m, h: setattr(h[1].mlp, "extra", nn.Linear(64, 64))),
                       "do not form one MLP"),
    "a router": (change(lambda m, h: setattr(h[0], "router", nn.Parameter(torch.zeros(4, 64)))),
                 r"h\.0\.router is no matrix"),
    "an embedding": (change(lambda m, h: setattr(h[0], "bucket", nn.Embedding(4, 4))),
                     r"h\.0\.bucket\.weight is no matrix"),
    "a gain": (change(lambda m, h: setattr(h[1], "mlp", Scaled(h[1].mlp))), r"gamma is no matrix"),
    "tied blocks": (change(tie), "is tied to"),
    "norms on heads": (change(lambda m, h: setattr(h[0].attn, "q_norm", nn.LayerNorm(16))),
                       "3 norms"),
    "a block without attention": (change(lambda m, h: h.insert(1, nn.Linear(64, 64))),
                                  "has no attention"),
    "another depth": (lambda: NanoGPT(depth=3), "3 blocks|depth = 2"),
    "values first": (lambda: nano(Reversed), "not known here"),
    "no attention": (lambda: nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50)),
                     "no attention"),
    "two towers": (lambda: nn.ModuleList([NanoGPT(), NanoGPT()]), "several stacks"),
    "a weight of parts": (change(lambda m, h: nn.utils.parametrizations.weight_norm(h[0].mlp.c_fc)),
                          "no plain parameter"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_placed_raises_and_nothing_is_written(name):
    make, words = REFUSED[name]
    model = make()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(Exception, match=words) as raised:
        run_code(plan(False), model)
    assert type(raised.value).__name__ == "AssumptionError"
    with pytest.raises((AssumptionError, ValueError), match=words):
        initialise_(model, plan(False))
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_a_model_that_takes_no_token_ids_asks_for_a_batch():
    model = nn.Sequential(*NanoGPT().transformer["h"])
    with pytest.raises(Exception, match="give a batch") as raised:
        run_code(plan(False), model)
    assert type(raised.value).__name__ == "AssumptionError"
    assert len(run_code(plan(False), model, torch.randn(1, 4, 64))) == 12


class AroundOne(nn.RMSNorm):
    """A norm that adds one to its weight, as Gemma's."""

    def forward(self, x):
        return functional.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


def test_norms_get_the_gain_of_the_recommendation():
    wanted = plan(False, norm_gain=0.5)
    model, _ = build("pre")
    run_code(wanted, model)
    assert all(torch.all(block.norm1.weight == 0.5) for block in model.layers)
    for block in model.layers:
        block.norm2 = AroundOne(64, eps=1e-6)
        nn.init.zeros_(block.norm2.weight)
    run_code(plan(False), model)
    assert all(torch.all(block.norm2.weight == 0) for block in model.layers)
    run_code(wanted, model)
    assert all(torch.all(block.norm2.weight == -0.5) for block in model.layers)
    model.layers[1].norm1 = nn.LayerNorm(64, elementwise_affine=False)
    with pytest.raises(Exception, match=r"no gain of 0\.5"):
        run_code(wanted, model)


@pytest.mark.parametrize("name", NAMES)
def test_all_seven_are_audited(models, name):
    model, batch = models[name]
    found = audit(model, batch)
    assert found.spec.depth == 2
    assert found.spec.kv_heads == (2 if name in GATED else 4)
    assert found.spec.norm == ("post" if name == "post" else "pre")
    failing = {a.name for a in found.failing}
    assert ("rotary positions turn whole heads" in failing) == (name == "neox")
