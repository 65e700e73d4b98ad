"""Real torch models: what is read of them, measured, predicted, refused and written."""

import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch_models import TEXT, Joint, Net, Separate, characters, denoise, windows

from sigprop.cli.app import main
from sigprop.core.errors import AssumptionError, DomainError
from sigprop.model.export import prescribe
from sigprop.torch import UnhealthyError, assert_healthy, audit, initialise_
from sigprop.torch.module_audit.description import layer_specs, whole_spec
from sigprop.torch.module_audit.forward_pass import record
from sigprop.torch.module_audit.structure import dissect

logging.getLogger("transformers").setLevel(logging.ERROR)
IDS = characters(TEXT)
SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4,
         "intermediate_size": 128, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2,
         "pad_token_id": 0}  # fmt: skip


def batch(rows=2, context=16, seed=0):
    return windows(IDS, rows, context, np.random.default_rng(seed))


def encoder(norm_first, batch_first=True, redrawn=True):
    layer = nn.TransformerEncoderLayer(
        64, 4, 128, batch_first=batch_first, norm_first=norm_first, activation="gelu"
    )
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    for block in model.layers if redrawn else ():  # they start as copies
        block.self_attn._reset_parameters()
        for part in (block.linear1, block.linear2, block.self_attn.out_proj):
            part.reset_parameters()
    return model


def build(name):
    """A small model and its batch."""
    torch.manual_seed(3)
    ids = {"input_ids": batch() + 3}  # not those of padding
    if name == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)), ids
    if name == "gpt2":
        config = transformers.GPT2Config(
            n_layer=3, n_embd=64, n_head=4, vocab_size=50, bos_token_id=1, eos_token_id=1
        )
        return transformers.GPT2LMHeadModel(config), ids
    if name == "llama":
        return transformers.LlamaModel(
            transformers.LlamaConfig(**SMALL, num_key_value_heads=2)
        ), ids
    if name == "vit":
        known = {k: v for k, v in SMALL.items() if not k.endswith("id") and k != "vocab_size"}
        config = transformers.ViTConfig(**known, image_size=32, patch_size=8)
        return transformers.ViTModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}
    if name == "joint":
        return Net(Joint, 3), batch()
    if name == "separate":
        return Net(Separate, 3, skip=0.9, branch=0.5), batch()
    return encoder(name == "pre"), torch.randn(2, 16, 64)


# norm, causal, activation, gated, rotary base
READ = {
    "bert": ("post", False, "gelu", False, None),
    "gpt2": ("pre", True, "gelu", False, None),
    "llama": ("pre", True, "silu", True, 10000.0),
    "vit": ("pre", False, "gelu", False, None),
    "post": ("post", False, "gelu", False, None),
    "pre": ("pre", False, "gelu", False, None),
    "joint": ("post", False, "gelu", False, None),
    "separate": ("pre", True, "relu", False, None),
}


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in READ}


@pytest.fixture(scope="module")
def audits(models):
    return {name: audit(*pair) for name, pair in models.items()}


@pytest.mark.parametrize("name", READ)
def test_the_architecture_is_read_from_what_the_model_does(audits, name):
    spec = audits[name].spec
    assert (spec.norm, spec.causal, spec.activation, spec.gated, spec.rotary_base) == READ[name]
    assert (spec.depth, spec.heads, spec.width) == (3, 4, 64)


@pytest.mark.parametrize("name", READ)
def test_the_measured_trajectory_lies_in_the_band(audits, name):
    found = audits[name]
    assert found.agrees or found.failing, found.reasons
    assert found.inside["rho"] >= 0.85
    assert found.healthy


@pytest.mark.parametrize("name", ["bert", "post", "separate"])
def test_a_wrong_prediction_is_outside(audits, name):
    """Negative control: at the overlap of a model whose branches are three times as strong."""
    found = audits[name]
    wrong = np.minimum(found.measured["rho"] + 6 * found.predicted.std["rho"], 1.0)
    assert np.all(found.predicted.outside("rho", wrong)[1:] > 1)


def test_scales_are_those_of_the_weights(models, audits):
    model, _ = models["bert"]
    layer = model.bert.encoder.layer[0]
    value = layer.attention.self.value.weight
    assert audits["bert"].layers[0].sigma_v2 == pytest.approx(
        64 * float(value.detach().double().square().mean()), rel=1e-6
    )
    separate = audits["separate"].spec
    assert (separate.alpha_attn, separate.alpha_mlp) == pytest.approx((0.9, 0.9), abs=1e-5)
    assert separate.sigma_o2 == pytest.approx(0.25, rel=0.1)  # Xavier, times branch^2
    beta = separate.beta * np.sqrt(np.log(16))
    assert beta == pytest.approx(1.0, rel=0.1)  # sqrt(sigma_q2 sigma_k2)


def test_gpt2_starts_at_the_variance_of_its_embeddings(audits):
    assert audits["gpt2"].spec.q0 == pytest.approx(2 * 0.02**2, rel=0.1)
    assert audits["gpt2"].spec.norm_gain < 0.9999  # the epsilon of its norms


def test_attention_statistics_match_the_weights_that_the_model_returns(models, audits):
    model, inputs = models["bert"]
    model.set_attn_implementation("eager")
    model.eval()
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[1].double()
    model.set_attn_implementation("sdpa")
    measured = audits["bert"].measured
    assert measured["y2"][1] == pytest.approx(float(weights.square().sum(-1).mean()), rel=1e-6)
    entropy = -(weights * weights.log()).sum(-1).mean()
    assert measured["entropy"][1] == pytest.approx(float(entropy), rel=1e-6)
    cross = (weights @ weights.mT).sum((-2, -1)) - weights.square().sum((-2, -1))
    assert measured["overlap"][1] == pytest.approx(float(cross.mean()) / (16 * 15), rel=1e-6)


def test_overlaps_are_cosines_of_the_hidden_states(models, audits):
    model, inputs = models["bert"]
    model.eval()
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    for state, rho in zip(states, audits["bert"].measured["rho"], strict=True):
        unit = nn.functional.normalize(state.double(), dim=-1)
        cosines = (unit @ unit.mT)[:, ~torch.eye(16, dtype=torch.bool)]
        assert rho == pytest.approx(float(cosines.mean()), abs=1e-6)


def test_gradients_match_autograd_by_hand():
    torch.manual_seed(0)
    model, ids = Net(Joint, 2), batch()
    found = audit(model, ids, seed=5)
    x = (model.norm(model.words(ids) + model.positions[:16])).detach().requires_grad_()
    last = model.blocks[1](model.blocks[0](x))
    g = torch.randn(last.shape, generator=torch.Generator().manual_seed(5))
    down = model.blocks[1].mlp[2].weight
    own, weight = torch.autograd.grad(last, [x, down], g)
    assert found.gradients["q"][0] == pytest.approx(float(own.square().mean()), rel=1e-4)
    ratio = float(weight.square().sum() / g.square().sum())
    assert found.gradients["w2"][1] == pytest.approx(ratio, rel=1e-4)


def test_the_model_is_left_as_it_was(models):
    model, inputs = models["gpt2"]
    model.train()
    model.transformer.h[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = audit(model, inputs, seed=1).to_dict()
    assert model.training
    assert not model.transformer.h[1].training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert audit(model, inputs, seed=1).to_dict() == first  # dropout is off, the seed decides


def test_copied_blocks_are_named_as_the_assumption_that_fails():
    torch.manual_seed(0)
    model = encoder(False, redrawn=False)
    found = audit(model, torch.randn(2, 16, 64))
    failing = {a.name: a.size for a in found.failing}
    assert failing["blocks drawn independently"] == pytest.approx(1.0)
    assert any("blocks drawn independently" in reason for reason in found.reasons)


def test_structure_in_the_weights_is_named():
    torch.manual_seed(0)
    model = Net(Joint, 2)
    with torch.no_grad():
        model.blocks[1].mlp[0].weight += 0.2
        model.blocks[0].attention.in_proj_bias[:64] = 1.0
    names = {a.name for a in audit(model, batch()).failing}
    assert {"independent Gaussian weights", "queries without bias"} <= names


def test_time_may_come_first_in_an_encoder():
    torch.manual_seed(0)
    first, second = encoder(False), encoder(False, batch_first=False)
    second.load_state_dict(first.state_dict())
    x = torch.randn(3, 8, 64)
    one, two = audit(first, x), audit(second, x.transpose(0, 1))
    np.testing.assert_allclose(one.measured["rho"], two.measured["rho"], atol=1e-6)
    np.testing.assert_allclose(one.measured["y2"], two.measured["y2"], atol=1e-6)


class Sandwich(Joint):
    def forward(self, x):
        return self.second(self.first(x) + self.mlp(x)) + self.attention(x, x, x)[0]


class Scaled(Joint):
    """LayerScale: a gain for each feature of the branch."""

    def forward(self, x):
        gain = torch.linspace(0, 1, x.shape[-1])
        x = self.first(x + gain * self.attention(x, x, x)[0])
        return self.second(x + self.mlp(x))


class Quick(Joint):
    def forward(self, x):
        x = self.first(x + self.attention(x, x, x)[0])
        inner = self.mlp[0](x)
        return self.second(x + self.mlp[2](inner * torch.sigmoid(1.702 * inner)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Net(Sandwich, 1), "neither the stream nor a norm|neither pre-norm nor post-norm"),
        (lambda: Net(Scaled, 1), "not a sum of skip and attention"),
        (lambda: Net(Quick, 1), "activation of blocks.0 is none"),
        (lambda: Net(Separate, 1, bias=0.5), "not products of its queries and keys"),
        (lambda: Net(Joint, 1).half(), "float16"),
        (lambda: nn.Sequential(nn.Embedding(40, 4), nn.Linear(4, 4)), "has no attention"),
        (lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), "several stacks"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(make, reason):
    torch.manual_seed(0)
    with pytest.raises(AssumptionError, match=reason):
        audit(make(), batch())


def test_a_name_is_no_model():
    with pytest.raises(DomainError, match="expected a Module"):
        audit("bert-base", batch())


def test_padding_is_refused(models):
    model, inputs = models["bert"]
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, 10:] = 0
    with pytest.raises(AssumptionError, match="padding"):
        audit(model, inputs | {"attention_mask": mask})


def test_shared_blocks_are_refused():
    model = Net(Joint, 1)
    shared = nn.Sequential(model.words, model.blocks[0], model.blocks[0])
    with pytest.raises(AssumptionError, match="out of order or more than once"):
        audit(shared, batch())


@pytest.mark.parametrize("option", [{"rho_max": 1.5}, {"seed": -1}, {"rho_max": float("nan")}])
def test_options_are_checked(models, option):
    with pytest.raises(DomainError, match=next(iter(option))):
        audit(*models["bert"], **option)


def read(model, inputs):
    anatomy = dissect(model)
    return whole_spec(anatomy, layer_specs(anatomy, record(model, inputs, anatomy)))


@pytest.mark.parametrize("name", READ)
def test_what_is_written_is_read_back(name):
    model, inputs = build(name)
    own = read(model, inputs)
    forward = {"separate": (0.9, 0.9)}.get(name)
    wanted = own.replace(beta=0.7, sigma_v2=1.5, sigma_o2=0.5, sigma_w2=1.2, alpha_attn=1.0,
                         alpha_mlp=1.0, sigma_b2=0.0)  # fmt: skip
    if forward:
        with pytest.raises(AssumptionError, match="pre-norm forward pass"):
            initialise_(model, prescribe(wanted), forward=(1.8, 1.8))
    changes = initialise_(model, prescribe(wanted), seed=2)
    found, square = read(model, inputs), 0.25 if forward else 1.0
    assert found.beta == pytest.approx(0.7, rel=0.1)
    assert found.sigma_v2 == pytest.approx(1.5, rel=0.1)
    assert found.sigma_o2 == pytest.approx(0.5 * square, rel=0.1)
    assert found.sigma_w1_2 == pytest.approx(1.2, rel=0.1)
    assert found.sigma_w2_2 == pytest.approx(1.2 * square, rel=0.1)
    assert found.sigma_b2 == 0
    assert len(changes) == 3 * (7 if own.gated else 6)
    assert all(c.after > 0 and c.before > 0 for c in changes)


def test_residual_strengths_are_folded_and_own_multipliers_divided_out():
    torch.manual_seed(0)
    model = Net(Joint, 2, width=256, heads=2)
    spec = read(model, batch()).replace(alpha_attn=2.0, alpha_mlp=4.0, sigma_o2=1.0, sigma_w2=1.0)
    initialise_(model, prescribe(spec), forward=(1.0, 2.0))
    found = read(model, batch())
    assert found.sigma_o2 == pytest.approx(1 / 4, rel=0.05)
    assert found.sigma_w2_2 == pytest.approx(4 / 16, rel=0.05)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"depth": 5}, DomainError), ({"gated": True}, AssumptionError),
     ({"norm": "none"}, AssumptionError)],
)  # fmt: skip
def test_a_recommendation_for_another_model_writes_nothing(models, change, error):
    model, inputs = models["bert"]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    spec = read(model, inputs).replace(**change)
    with pytest.raises(error):
        initialise_(model, prescribe(spec))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_collapsed_model_fails_and_its_recommendation_heals_it():
    torch.manual_seed(0)
    model, ids = Net(Joint, 16), batch(2, 8)
    with pytest.raises(AssertionError, match="rank collapse in blocks"):
        assert_healthy(model, ids, rho_max=0.8)
    sick = audit(model, ids, rho_max=0.8)
    assert not sick.healthy
    spec = sick.spec.replace(alpha_attn=3.0, alpha_mlp=3.0)
    initialise_(model, prescribe(spec))
    assert_healthy(model, ids, rho_max=0.8)
    assert issubclass(UnhealthyError, AssertionError)


def test_frozen_attention_is_named():
    torch.manual_seed(0)
    model = Net(Joint, 2)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.in_proj_weight[:128] *= 3
    found = audit(model, batch())
    assert found.verdict.startswith("entropy collapse")
    assert found.offending["entropy collapse"][0] == 1


@pytest.mark.slow
def test_a_recommendation_is_found_written_and_trains_where_the_default_does_not():
    """48 post-norm blocks at Xavier: loss of denoising text, both from the same seeds."""
    torch.manual_seed(0)
    model, ids = Net(Joint, 48, context=16), windows(IDS, 4, 16, np.random.default_rng(0))
    default = {k: v.clone() for k, v in model.state_dict().items()}
    found = audit(model, ids)
    assert "rank collapse" in found.offending
    assert found.recommendation.feasible
    initialise_(model, found.recommendation)
    healed = audit(model, ids)
    assert healed.healthy
    assert healed.measured["rho"][-1] < 0.95
    options = {"steps": 200, "seed": 0, "batch": 8, "context": 16}
    good = denoise(model, IDS, **options)[-20:].mean()
    model.load_state_dict(default)
    bad = denoise(model, IDS, **options)[-20:].mean()
    counts = np.bincount(IDS.numpy()) / len(IDS)
    unigram = -np.sum(counts[counts > 0] * np.log(counts[counts > 0]))
    assert bad > 0.9 * unigram  # it names the commonest character, whatever it reads
    assert good < 0.7 * unigram


@pytest.fixture
def folder(tmp_path):
    config = transformers.BertConfig(**SMALL)
    config.save_pretrained(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sigprop", "audit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_prints_json_and_draws(folder, monkeypatch, capsys):
    png = folder / "audit.png"
    options = ("--hf", folder, "--text", folder / "text.txt", "--png", png)
    assert command(monkeypatch, *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "healthy"
    assert "hashed into a vocabulary of 50" in found["tokenizer"]
    assert png.stat().st_size > 10_000


def test_the_command_prints_a_table_of_at_most_100_columns(folder, monkeypatch, capsys):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate([*sorted(set(TEXT.split()))[:40], "?"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    monkeypatch.delenv("COLUMNS", raising=False)
    assert command(monkeypatch, "--hf", folder, "--text", folder / "text.txt") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "Verdict: healthy" in shown
    assert "tokenizer.json of the config's folder" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("config", "text", "word"),
    [
        (None, TEXT, "config.json"),
        ({"model_type": "nothing"}, TEXT, "model_type"),
        ({"model_type": "vit"}, TEXT, "a model of text"),
        ({"model_type": "t5", "num_layers": 1, "d_model": 16, "vocab_size": 20}, TEXT, "stacks"),
        (SMALL | {"model_type": "bert"}, None, "text"),
        (SMALL | {"model_type": "bert"}, "one", "at least two tokens"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(tmp_path, monkeypatch, capsys, config, text, word):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    if text is not None:
        (tmp_path / "t.txt").write_text(text)
    png = tmp_path / "a.png"
    code = command(monkeypatch, "--hf", tmp_path, "--text", tmp_path / "t.txt", "--png", png)
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    assert shown.err.startswith("sigprop: error: ")
    assert len(shown.err.strip().splitlines()) == 1
    assert word in shown.err
    assert not png.exists()


def test_without_the_extra_the_command_names_it(folder, monkeypatch, capsys):
    from sigprop.core import errors

    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    assert command(monkeypatch, "--hf", folder, "--text", folder / "text.txt") == 2
    expected = "sigprop audit needs torch: pip install '.[torch]' in the checkout"
    assert capsys.readouterr().err == f"sigprop: error: {expected}\n"


FULL = ("bert", "gpt2", "llama", "vit", "post")


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_models_of_full_size_lie_in_the_band(name):
    """BERT-base, GPT-2 small, 12-layer Llama-like, ViT-base, nn.TransformerEncoder, at T = 128."""
    torch.manual_seed(0)
    words = np.exp(np.random.default_rng(0).uniform(0, np.log(1000), 256)).astype(int)  # Zipf's law
    ids = {"input_ids": torch.from_numpy(words).reshape(2, 128)}
    kinds = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig()),
        "gpt2": lambda: transformers.GPT2Model(transformers.GPT2Config()),
        "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4,
            intermediate_size=2048, vocab_size=32000)),
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig()),
        "post": lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(512, 8, batch_first=True), 12, enable_nested_tensor=False),
    }  # fmt: skip
    inputs = {"vit": {"pixel_values": torch.randn(1, 3, 224, 224)},
              "post": torch.randn(2, 128, 512)}.get(name, ids)  # fmt: skip
    runs = [audit(kinds[name](), inputs) for _ in range(6)]
    assert all(f.agrees or f.failing or "one network of" in f.reasons[-1] for f in runs)
    if name == "post":  # its blocks start as copies, and the report says so
        assert all("blocks drawn independently" in {a.name for a in f.failing} for f in runs)
    else:  # layers of one network stray together, in one network of ten for most of them
        assert np.mean([list(found.inside.values()) for found in runs]) >= 0.85


def test_readme(capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```py\n(.*?)```", readme, re.DOTALL)
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})
    before, after = capsys.readouterr().out.strip().splitlines()
    assert before.startswith("rank collapse")
    assert after == "healthy"
