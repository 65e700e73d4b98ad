"""Conversion of Hugging Face configs: hand-computed variances, defaults, overrides, refusals."""

import json
import math
import random

import numpy as np
import pytest

from sigprop.core.errors import DomainError, SigpropError
from sigprop.model.huggingface import Reading, example, examples, from_config, is_config
from sigprop.model.huggingface_families import ACTIVATIONS, FAMILIES
from sigprop.model.spec import ModelSpec


def read(family, **values) -> Reading:
    return from_config({"model_type": family} | values)


def noted(reading, words):
    return any(words in note for note in reading.notes)


# Numbers computed by hand from s = 0.02: s^2 * 768 = 0.3072, s^2 * 3072 = 1.2288,
# s^2 * 4096 = 1.6384, s^2 * 11008 = 4.4032, 1/(2 * 12) = 1/24, patches 3 * 16^2 = 768.
EXPECTED = {
    "bert-base": {
        "depth": 12,
        "width": 768,
        "heads": 12,
        "context": 512,
        "mlp_ratio": 4,
        "norm": "post",
        "causal": False,
        "gated": False,
        "activation": "gelu",
        "beta": 0.3072 / math.sqrt(math.log(512)),
        "sigma_v2": 0.3072,
        "sigma_o2": 0.3072,
        "sigma_w1_2": 0.3072,
        "sigma_w2_2": 1.2288,
        "rho0": 1 / 3,
        "q0": 1,
        "rotary_base": None,
    },
    "gpt2": {
        "depth": 12,
        "width": 768,
        "heads": 12,
        "context": 1024,
        "mlp_ratio": 4,
        "norm": "pre",
        "causal": True,
        "gated": False,
        "activation": "gelu",
        "beta": 0.3072 / math.sqrt(math.log(1024)),
        "sigma_v2": 0.3072,
        "sigma_o2": 0.0128,
        "sigma_w1_2": 0.3072,
        "sigma_w2_2": 0.0512,
        "rho0": 0,
        "q0": 0.0008,
        "rotary_base": None,
    },
    "opt-125m": {
        "depth": 12,
        "width": 768,
        "heads": 12,
        "context": 2048,
        "mlp_ratio": 4,
        "norm": "pre",
        "causal": True,
        "gated": False,
        "activation": "relu",
        "beta": 0.3072 / math.sqrt(math.log(2048)),
        "sigma_v2": 0.3072,
        "sigma_o2": 0.3072,
        "sigma_w1_2": 0.3072,
        "sigma_w2_2": 1.2288,
        "rho0": 0,
        "q0": 0.0008,
        "rotary_base": None,
    },
    "llama-2-7b": {
        "depth": 32,
        "width": 4096,
        "heads": 32,
        "context": 4096,
        "mlp_ratio": 2.6875,
        "norm": "pre",
        "causal": True,
        "gated": True,
        "activation": "silu",
        "beta": 1.6384 / math.sqrt(math.log(4096)),
        "sigma_v2": 1.6384,
        "sigma_o2": 1.6384,
        "sigma_w1_2": 1.6384,
        "sigma_w2_2": 4.4032,
        "rho0": 0,
        "q0": 0.0004,
        "rotary_base": 10000,
    },
    "vit-base": {
        "depth": 12,
        "width": 768,
        "heads": 12,
        "context": 197,
        "mlp_ratio": 4,
        "norm": "pre",
        "causal": False,
        "gated": False,
        "activation": "gelu",
        "beta": 0.3072 / math.sqrt(math.log(197)),
        "sigma_v2": 0.3072,
        "sigma_o2": 0.3072,
        "sigma_w1_2": 0.3072,
        "sigma_w2_2": 1.2288,
        "rho0": 0,
        "q0": 0.3076,
        "rotary_base": None,
    },
}


def test_every_example_has_its_numbers_here():
    assert examples() == tuple(sorted(EXPECTED))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_examples_convert_to_hand_computed_numbers(name):
    spec = example(name).spec
    for key, value in EXPECTED[name].items():
        got = getattr(spec, key)
        # a few roundings of s^2 n: 1e-14 relative
        assert got == (pytest.approx(value, rel=1e-14) if isinstance(value, float) else value), key
    assert (spec.sigma_b2, spec.alpha_attn, spec.alpha_mlp, spec.norm_gain) == (0, 1, 1, 1)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_examples_need_no_default(name):
    notes = [note for note in example(name).notes if note.startswith("Missing keys")]
    assert notes == (
        ["Missing keys took the defaults of the transformers class: n_inner 3072."]
        if name == "gpt2"
        else []
    )


def test_scores_of_a_drawn_bert_layer_have_the_variance_beta_states():
    spec, rng = example("bert-base").spec, np.random.default_rng(0)
    d, width, tokens = 768, 64, 40
    x = rng.standard_normal((tokens, d))  # q = 1, rho = 0
    scores = []
    for _ in range(12):
        q, k = (x @ (0.02 * rng.standard_normal((d, width))) for _ in range(2))
        scores.append((q @ k.T / math.sqrt(width))[~np.eye(tokens, dtype=bool)])
    measured = np.var(scores)
    predicted = spec.beta**2 * math.log(spec.context)
    # 12 heads x 1560 dependent scores: the spread between heads gives the standard error
    error = np.std([np.var(s) for s in scores]) / math.sqrt(12)
    assert abs(measured - predicted) < 4 * error
    assert abs(measured - predicted / 2) > 4 * error  # negative control


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_reads_from_its_defaults_and_says_so(family):
    reading = read(family)
    assert reading.family == family
    assert noted(reading, "Missing keys took the defaults")
    for key in FAMILIES[family].defaults:
        if key not in ("sliding_window", "pad_token_id"):  # read only where it matters
            assert key in reading.notes[-1], key
    json.dumps(reading.spec.to_dict(), allow_nan=False)
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in reading.facts.items())
    assert all(note.endswith(".") for note in reading.notes)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_roberta_positions_start_behind_the_padding_index(family):
    spec = read(family, max_position_embeddings=514, pad_token_id=1, type_vocab_size=1).spec
    assert (spec.context, spec.norm) == (512, "post")
    assert spec.rho0 == pytest.approx(1 / 3, rel=1e-14)


def test_electra_states_its_projection():
    base = read("electra", embedding_size=768, hidden_size=768, num_attention_heads=12)
    small = read("electra")
    assert not noted(base, "projected")
    assert noted(small, "sees q = 0.0512")  # 0.02^2 * 128
    assert small.spec.width == 256
    assert small.spec.q0 == 1


def test_gpt_neox_is_parallel_and_partly_rotary_unless_told_otherwise():
    reading = read("gpt_neox")
    assert reading.spec.parallel
    assert reading.spec.rotary_base == 10000
    assert noted(reading, "turn only 0.25")
    other = read("gpt_neox", use_parallel_residual=False, rotary_pct=1.0, rotary_emb_base=500)
    assert not other.spec.parallel
    assert other.spec.rotary_base == 500
    assert not noted(other, "turn only")
    assert read("gpt_neox", rotary_pct=0).spec.rotary_base is None


def test_rope_parameters_of_newer_configs_are_read():
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    reading = read("llama", rope_parameters=rope)
    assert reading.spec.rotary_base == 5e5
    assert noted(reading, "rescaled (llama3)")
    assert not noted(reading, "rope_theta")
    neox = read("gpt_neox", rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5})
    assert noted(neox, "turn only 0.5")
    assert noted(read("llama", rope_scaling={"type": "linear", "factor": 2.0}), "(linear)")


def test_mistral_window_and_grouped_heads_are_noted():
    reading = read("mistral")
    assert reading.spec.context == 131072
    assert noted(reading, "sliding window of 4096")
    assert noted(reading, "32 query heads share 8")
    assert not noted(read("mistral", sliding_window=None), "sliding window")
    assert not noted(read("mistral", num_key_value_heads=32), "share")
    inside = read("mistral", sigprop={"context": 4096})
    assert not noted(inside, "sliding window of")


def test_qwen2_window_needs_its_flag():
    assert not noted(read("qwen2"), "sliding window")
    assert noted(read("qwen2", use_sliding_window=True), "sliding window of 4096")


def test_a_head_width_of_its_own_changes_the_output_fan_in_only():
    reading = read("mistral", hidden_size=5120, head_dim=128)  # as Mistral-Nemo: 32 x 128 = 4096
    spec = reading.spec
    assert spec.sigma_o2 == pytest.approx(0.0004 * 4096, rel=1e-14)
    assert spec.sigma_v2 == pytest.approx(0.0004 * 5120, rel=1e-14)
    assert spec.beta == pytest.approx(0.0004 * 5120 / math.sqrt(math.log(131072)), rel=1e-14)
    assert noted(reading, "head_dim 128 is not width / heads")


def test_opt_350m_is_post_norm_with_projected_words():
    reading = read(
        "opt",
        do_layer_norm_before=False,
        hidden_size=1024,
        num_attention_heads=16,
        ffn_dim=4096,
        num_hidden_layers=24,
        word_embed_proj_dim=512,
    )
    assert reading.spec.norm == "post"
    # position s^2 plus word s^2 * s^2 * 512
    assert reading.spec.q0 == pytest.approx(4e-4 + 4e-4 * 4e-4 * 512, rel=1e-14)
    assert noted(reading, "projected to 1024")
    assert noted(reading, "embeddings without a norm")


def test_deit_has_two_class_tokens_and_no_positions_yet():
    spec = read("deit").spec
    assert spec.context == 198
    assert spec.q0 == pytest.approx(0.3072, rel=1e-14)


def test_the_absolute_truncation_of_vit_is_noted_where_it_bites():
    assert noted(read("vit", initializer_range=0.8), "2.5 standard deviations")
    assert not noted(read("vit"), "cut at")


def test_patches_may_be_rectangular():
    spec = read("vit", image_size=[224, 112], patch_size=[16, 8]).spec
    assert spec.context == 14 * 14 + 1
    assert spec.q0 == pytest.approx(4e-4 * (3 * 128 + 1), rel=1e-14)


def test_bert_as_decoder_is_causal():
    reading = read("bert", is_decoder=True)
    assert reading.spec.causal
    assert noted(reading, "means over positions")


def test_aliases_are_read_and_may_not_disagree():
    assert read("gpt2", hidden_size=1024, num_attention_heads=16).spec.width == 1024
    assert read("opt", d_model=1536).spec.width == 1536
    assert read("gpt2", n_embd=1024, hidden_size=1024, n_head=16).spec.width == 1024
    with pytest.raises(DomainError) as caught:
        read("gpt2", n_embd=768, hidden_size=1024)
    assert caught.value.parameter == "n_embd"


def test_null_is_a_missing_value():
    assert read("bert", hidden_size=None).notes == read("bert").notes


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("GPT2LMHeadModel", "gpt2"),
        ("XLMRobertaForMaskedLM", "xlm-roberta"),
        ("RobertaModel", "roberta"),
        ("Qwen2ForCausalLM", "qwen2"),
    ],
)
def test_architectures_stand_in_for_a_missing_model_type(name, family):
    assert from_config({"architectures": [name]}).family == family


@pytest.mark.parametrize("names", [["Qwen2MoeForCausalLM"], [], None, "BertModel", [1], [None], {}])
def test_unknown_architectures_are_refused(names):
    with pytest.raises(DomainError) as caught:
        from_config({"architectures": names})
    assert caught.value.parameter == "architectures"


def test_is_config():
    assert is_config({"model_type": "x"})
    assert is_config({"architectures": []})
    assert not is_config(
        ModelSpec(depth=1, context=8, beta=1, sigma_v2=1, sigma_w2=1, rho0=0).to_dict()
    )


def test_the_epsilon_of_the_first_norm_is_noted_where_it_matters():
    assert noted(example("llama-2-7b"), "epsilon 1e-05 of the first norm is 0.025")
    assert noted(example("gpt2"), "is 0.013 of the variance 0.0008")
    assert not noted(example("bert-base"), "epsilon")
    assert not noted(read("llama"), "epsilon")  # 1e-6 / 4e-4 = 0.0025


def test_the_tanh_approximation_of_gelu_is_as_near_as_the_note_says():
    x = np.linspace(-8, 8, 20001)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x])
    approximate = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert 4e-4 < np.abs(exact - approximate).max() < 5e-4
    assert noted(example("gpt2"), "at most 5e-4")
    assert not noted(example("bert-base"), "tanh approximation")


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_map_to_those_of_the_theory(name):
    assert read("bert", hidden_act=name).spec.activation == ACTIVATIONS[name][0]


def test_overrides_replace_what_was_read():
    reading = read("bert", sigprop={"rho0": 0.5, "alpha_attn": [1.0, 2.0], "attention": "centred"})
    assert reading.spec.rho0 == 0.5
    assert reading.spec.alpha_attn.tolist() == [1, 2]
    assert reading.spec.attention == "centred"
    assert reading.facts["sigprop.rho0"].startswith("rho0 = 0.5")
    assert read("bert", sigprop={"sigma_w2": 2}).spec.sigma_w1_2 == 2
    assert read("bert", sigprop={"width": None}).spec.width is None
    assert read("bert", sigprop=None).spec.to_dict() == read("bert").spec.to_dict()


def test_a_new_context_keeps_the_weights():
    reading = read("bert", sigprop={"context": [64, 512]})
    expected = [0.3072 / math.sqrt(math.log(T)) for T in (64, 512)]
    np.testing.assert_allclose(reading.spec.beta, expected, rtol=1e-14)
    assert noted(reading, "beta was recomputed")
    assert read("bert", sigprop={"context": 64, "beta": 1.5}).spec.beta == 1.5
    assert read("bert", sigprop={"context": "inf"}).spec.beta == 0


@pytest.mark.parametrize(
    ("values", "parameter"),
    [
        ({"hidden_size": "768"}, "hidden_size"),
        ({"hidden_size": 768.5}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": math.nan}, "hidden_size"),
        ({"hidden_size": math.inf}, "hidden_size"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"hidden_size": 770}, "num_attention_heads"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 1536}, "num_attention_heads"),
        ({"num_hidden_layers": -3}, "num_hidden_layers"),
        ({"num_hidden_layers": [12]}, "num_hidden_layers"),
        ({"intermediate_size": 0}, "intermediate_size"),
        ({"max_position_embeddings": 1}, "max_position_embeddings"),
        ({"type_vocab_size": 0}, "type_vocab_size"),
        ({"initializer_range": -0.02}, "initializer_range"),
        ({"initializer_range": 0}, "initializer_range"),
        ({"initializer_range": "0.02"}, "initializer_range"),
        ({"initializer_range": math.nan}, "initializer_range"),
        ({"initializer_range": 1.0, "hidden_size": 12000}, "initializer_range"),  # beta > 1000
        ({"layer_norm_eps": -1e-5}, "layer_norm_eps"),
        ({"hidden_act": "quick_gelu"}, "hidden_act"),
        ({"hidden_act": 3}, "hidden_act"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"is_decoder": "yes"}, "is_decoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"sigprop": 3}, "sigprop"),
        ({"sigprop": {"betta": 1}}, "betta"),
        ({"sigprop": {"beta": -1}}, "beta"),
        ({"sigprop": {"beta": None}}, "beta"),
        ({"sigprop": {"context": "x"}}, "context"),
        ({"sigprop": {"self": 1}}, "sigprop"),
        ({"sigprop": {3: 1}}, "sigprop"),
        ({"model_type": "bort"}, "model_type"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"model_type": 3}, "model_type"),
        ({"model_type": "gpt2", "scale_attn_weights": False}, "scale_attn_weights"),
        ({"model_type": "gpt2", "n_inner": "3072"}, "n_inner"),
        ({"model_type": "gpt2", "n_positions": 0}, "n_positions"),
        (
            {"model_type": "opt", "init_std": None, "do_layer_norm_before": 1},
            "do_layer_norm_before",
        ),
        ({"model_type": "opt", "word_embed_proj_dim": 0}, "word_embed_proj_dim"),
        ({"model_type": "roberta", "max_position_embeddings": 3}, "max_position_embeddings"),
        ({"model_type": "roberta", "pad_token_id": -1}, "pad_token_id"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "num_key_value_heads"),
        ({"model_type": "llama", "num_key_value_heads": 0}, "num_key_value_heads"),
        ({"model_type": "llama", "head_dim": 0}, "head_dim"),
        ({"model_type": "llama", "rope_theta": 0}, "rope_theta"),
        ({"model_type": "llama", "rope_scaling": "linear"}, "rope_scaling"),
        ({"model_type": "llama", "rope_parameters": {"rope_theta": "x"}}, "rope_theta"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "gpt_neox", "rotary_pct": 1.5}, "rotary_pct"),
        ({"model_type": "vit", "patch_size": 0}, "patch_size"),
        ({"model_type": "vit", "patch_size": 225}, "patch_size"),
        ({"model_type": "vit", "image_size": [224]}, "image_size"),
        ({"model_type": "vit", "image_size": []}, "image_size"),
        ({"model_type": "vit", "num_channels": 0}, "num_channels"),
    ],
)
def test_bad_configs_are_refused_by_the_name_of_their_key(values, parameter):
    with pytest.raises(DomainError) as caught:
        from_config({"model_type": "bert"} | values)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("values", [None, 3, "bert", ["model_type"]])
def test_a_config_that_is_no_mapping_is_refused(values):
    with pytest.raises(DomainError, match="config"):
        from_config(values)


def test_an_unknown_family_names_the_families_and_the_nearest():
    with pytest.raises(DomainError, match=r"one of bert, .*did you mean roberta\?"):
        read("robertta")
    with pytest.raises(DomainError, match="one of bert"):
        read("mamba")


def test_an_unknown_example_is_refused():
    with pytest.raises(DomainError, match="bert-base"):
        example("bert-huge")


ODD = (
    None,
    True,
    0,
    1,
    2,
    3,
    -1,
    7,
    1e-9,
    0.5,
    1e300,
    10**30,
    math.nan,
    math.inf,
    "",
    "gelu",
    "nan",
    [],
    [1, 2],
    [None],
    {},
    {"rope_theta": None},
    {"rope_type": 3},
)


def test_no_other_error_escapes_from_odd_values():
    rng, outcomes = random.Random(0), [0, 0]
    for _ in range(4000):
        family = rng.choice(list(FAMILIES.values()))
        keys = [
            *family.defaults,
            *family.fixed,
            *family.aliases.values(),
            "head_dim",
            "sigprop",
            "rope_scaling",
            "rope_parameters",
            "num_key_value_heads",
            "n_inner",
        ]
        values = {key: rng.choice(ODD) for key in rng.sample(keys, rng.randint(1, 2))}
        if rng.random() < 0.3:
            names = [*ModelSpec.numbers(), "depth", "width", "norm", "parallel", "mlp_ratio"]
            values["sigprop"] = {rng.choice(names): rng.choice(ODD)}
        try:
            reading = from_config({"model_type": family.name} | values)
        except SigpropError:
            outcomes[0] += 1
            continue
        outcomes[1] += 1
        json.dumps(reading.spec.to_dict(), allow_nan=False)
    assert min(outcomes) > 400  # both kinds occur
