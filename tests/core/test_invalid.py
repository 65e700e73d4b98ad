"""Invalid input of every kind: exit code 2, one line that names the culprit, nothing written."""

import json
import os
import re
import subprocess
import sys

import pytest

from sigprop import ModelSpec
from sigprop.cli import app

BASE = {
    "depth": "2",
    "context": '"inf"',
    "beta": "1",
    "sigma_v2": "1",
    "sigma_w2": "2",
    "rho0": "0.1",
}
DIGITS = "1" + 5000 * "0"  # more than Python reads as an integer


def spec_text(**literals):
    """SPEC.json with JSON literals put in, or keys left out where the literal is None."""
    merged = {key: text for key, text in (BASE | literals).items() if text is not None}
    return "{" + ", ".join(f'"{key}": {text}' for key, text in merged.items()) + "}"


def contents(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder and check that it refuses, naming the culprit."""
    monkeypatch.chdir(tmp_path)

    def run(argv, culprit):
        before = contents(tmp_path)
        monkeypatch.setattr(sys, "argv", ["sigprop", *argv])
        with pytest.raises(SystemExit) as left:
            app.main()
        out, err = capsys.readouterr()
        check(left.value.code, out, err, culprit)
        assert contents(tmp_path) == before

    return run


def check(code, out, err, culprit):
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    if culprit.startswith("-"):  # a usage error of the parser of options, in a box
        assert culprit in re.sub(r"\x1b\[[0-9;]*m", "", err)
    else:
        assert re.match(rf"sigprop: error: {re.escape(culprit)}(?!\w)", err.splitlines()[-1]), err
        assert len(err) < 1000


# Every number of a SPEC.json: what is no number, and what is too large.
NO_NUMBER = {
    "string": '"1"',
    "empty-string": '""',
    "nan-string": '"nan"',
    "object": "{}",
    "bool": "true",
    "empty-list": "[]",
    "list-of-strings": '["1", "2"]',
    "list-of-null": "[null]",
    "list-with-bool": "[0.5, true]",
    "ragged": "[[1, 2], [3]]",
    "half-nested": "[1, [2]]",
    "nan": "NaN",
    "infinity": "Infinity",
    "minus-infinity": "-Infinity",
    "nan-in-list": "[0.5, NaN]",
    "1e400": "1e400",
    "minus-1e400": "-1e400",
    "5000-digits": DIGITS,
    "400-digits": "1" + 400 * "0",
    "1e300": "1e300",
    "deep-list": 500 * "[" + "1" + 500 * "]",
}
ARRAYS = (
    "context",
    "rho0",
    "beta",
    "sigma_v2",
    "sigma_o2",
    "sigma_w2",
    "sigma_w1_2",
    "sigma_w2_2",
    "sigma_b2",
    "alpha_attn",
    "alpha_mlp",
    "norm_gain",
    "q0",
)
SCALARS = ("depth", "width", "heads", "mlp_ratio", "rotary_base")
NEVER_NULL = set(ARRAYS + SCALARS) - {"width", "rotary_base", "sigma_w1_2", "sigma_w2_2"}


@pytest.mark.parametrize("key", ARRAYS + SCALARS)
@pytest.mark.parametrize("kind", NO_NUMBER)
def test_numbers_of_the_spec(refuse, tmp_path, key, kind):
    (tmp_path / "s.json").write_text(spec_text(**{key: NO_NUMBER[kind]}))
    refuse(["propagate", "s.json"], key)


@pytest.mark.parametrize("key", sorted(NEVER_NULL))
def test_null_is_no_number(refuse, tmp_path, key):
    (tmp_path / "s.json").write_text(spec_text(**{key: "null"}))
    refuse(["propagate", "s.json"], key)


@pytest.mark.parametrize("key", SCALARS)
def test_a_list_is_no_single_number(refuse, tmp_path, key):
    (tmp_path / "s.json").write_text(spec_text(**{key: "[1, 2]"}))
    refuse(["propagate", "s.json"], key)


@pytest.mark.parametrize("key", ["norm", "attention", "activation", "causal", "gated", "parallel"])
@pytest.mark.parametrize(
    "literal", ["null", "1", "0", '"x"', '"true"', '""', "[]", "{}", "NaN", '["post"]', "1e400"]
)
def test_words_and_flags_of_the_spec(refuse, tmp_path, key, literal):
    (tmp_path / "s.json").write_text(spec_text(**{key: literal}))
    refuse(["propagate", "s.json"], key)


RANGES = [
    ("depth", "0"),
    ("depth", "-3"),
    ("depth", "2.5"),
    ("depth", "100001"),
    ("context", "1"),
    ("context", "0"),
    ("context", "-8"),
    ("context", "2.5"),
    ("context", "1e13"),
    ("context", "1e308"),
    ("context", '"infinite"'),
    ("context", '"Inf"'),
    ("context", "[8, 1]"),
    ("context", "[8, 8.5]"),
    ("context", '[8, "in"]'),
    ("context", '["inf", null]'),
    ("width", "0"),
    ("width", "-1"),
    ("width", "8.5"),
    ("width", "1e10"),
    ("heads", "0"),
    ("heads", "-1"),
    ("heads", "1.5"),
    ("heads", "100001"),
    ("mlp_ratio", "0"),
    ("mlp_ratio", "-4"),
    ("mlp_ratio", "1e7"),
    ("rotary_base", "0"),
    ("rotary_base", "0.5"),
    ("rotary_base", "-1"),
    ("rotary_base", "1e13"),
    ("beta", "-1"),
    ("beta", "-1e-300"),
    ("beta", "1001"),
    ("beta", "[1, -1]"),
    ("beta", "[[1], [1001]]"),
    ("beta", '["inf"]'),
    ("sigma_v2", "-1"),
    ("sigma_v2", "1e7"),
    ("sigma_o2", "-1"),
    ("sigma_o2", "1e7"),
    ("sigma_w2", "-1"),
    ("sigma_w2", "1e7"),
    ("sigma_w1_2", "-1"),
    ("sigma_w1_2", "1e7"),
    ("sigma_w2_2", "-1"),
    ("sigma_w2_2", "1e7"),
    ("sigma_b2", "-1"),
    ("sigma_b2", "1e7"),
    ("alpha_attn", "-1"),
    ("alpha_attn", "1e7"),
    ("alpha_mlp", "-1"),
    ("alpha_mlp", "1e7"),
    ("norm_gain", "0"),
    ("norm_gain", "-1"),
    ("norm_gain", "1001"),
    ("q0", "0"),
    ("q0", "-1"),
    ("q0", "1e7"),
    ("rho0", "-0.01"),
    ("rho0", "1.0000001"),
    ("rho0", "-2"),
    ("rho0", "[0.5, 1.5]"),
    ("norm", '"Post"'),
    ("attention", '"linear"'),
    ("activation", '"swiglu"'),
]


@pytest.mark.parametrize(("key", "literal"), RANGES)
def test_values_outside_their_range(refuse, tmp_path, key, literal):
    (tmp_path / "s.json").write_text(spec_text(**{key: literal}))
    refuse(["propagate", "s.json"], key)


TOGETHER = [
    ({"heads": "8", "width": "4"}, "heads"),
    ({"context": "5", "rho0": "-0.2501"}, "rho0"),
    ({"context": "[3, 1000]", "rho0": "-0.01"}, "rho0"),
    ({"context": '["inf", "inf"]', "rho0": "[0.1, -0.1]"}, "rho0"),
    ({"context": '["inf", 64]'}, "context"),
    ({"parallel": "true"}, "parallel"),
    ({"parallel": "true", "norm": '"none"'}, "parallel"),
    ({"parallel": "true", "norm": '"pre"', "alpha_mlp": "2"}, "parallel"),
    ({"beta": "[1, 2]", "alpha_attn": "[1, 2, 3]"}, "shape"),
    ({"rho0": "[0, 0.1]", "context": "[4, 5, 6]"}, "shape"),
    ({"beta": 60 * "[" + "1" + 60 * "]"}, "beta"),
    ({"beta": json.dumps([1] * 10**4), "rho0": json.dumps([[0.5]] * 10**5)}, "shape"),
    ({"sigma_w2": None}, "sigma_w2"),
    ({"sigma_w2": None, "sigma_w1_2": "1"}, "sigma_w2"),
    ({"sigma_w2": "null", "sigma_w2_2": "1"}, "sigma_w2"),
    ({"depth": None}, "depth"),
    ({"context": None}, "context"),
    ({"beta": None}, "beta"),
    ({"sigma_v2": None}, "sigma_v2"),
    ({"rho0": None}, "rho0"),
    ({"colour": "3"}, "colour"),
    ({"": "3"}, "''"),
    ({"a b\\n": "3"}, r"'a b\n'"),
    ({"self": "3"}, "self"),
    ({"shape": "[2]"}, "shape"),
    ({"Beta": "1"}, "Beta"),
]


@pytest.mark.parametrize(("literals", "culprit"), TOGETHER)
def test_combinations(refuse, tmp_path, literals, culprit):
    (tmp_path / "s.json").write_text(spec_text(**literals))
    refuse(["propagate", "s.json"], culprit)


@pytest.mark.parametrize(
    ("key", "near"),
    [("betta", "beta"), ("sigma_v", "sigma_v2"), ("dept", "depth"), ("alpha_atn", "alpha_attn")],
)
def test_an_unknown_key_gets_the_nearest(tmp_path, monkeypatch, capsys, refuse, key, near):
    (tmp_path / "s.json").write_text(spec_text(**{key: "1"}))
    monkeypatch.setattr(sys, "argv", ["sigprop", "show", "s.json"])
    with pytest.raises(SystemExit):
        app.main()
    assert f"did you mean {near}?" in capsys.readouterr().err
    refuse(["show", "s.json"], key)


FILES = {
    "empty": (b"", "file"),
    "whitespace": (b" \n\t ", "file"),
    "broken": (b'{"depth": 2,', "file"),
    "trailing-comma": (b'{"depth": 2,}', "file"),
    "two-objects": (b"{} {}", "file"),
    "single-quotes": (b"{'depth': 2}", "file"),
    "comment": (b"// depth\n{}", "file"),
    "array": (b"[1, 2]", "file"),
    "number": (b"12", "file"),
    "string": (b'"bert-base"', "file"),
    "null": (b"null", "file"),
    "true": (b"true", "file"),
    "nan": (b"NaN", "file"),
    "array-of-specs": (f"[{spec_text()}]".encode(), "file"),
    "empty-object": (b"{}", "depth"),
    "deep": (10**5 * b"[", "file"),
    "deep-object": (10**5 * b'{"beta":', "file"),
    "deep-and-closed": (10**5 * b"[" + 10**5 * b"]", "file"),
    "binary": (bytes(range(256)), "file"),
    "zeros": (1000 * b"\0", "file"),
    "byte-order-mark": (b"\xef\xbb\xbf" + spec_text().encode(), "file"),
    "utf-16": (spec_text().encode("utf-16"), "file"),
    "utf-32": (spec_text().encode("utf-32"), "file"),
    "latin-1": ('{"é": 1}'.encode("latin-1"), "file"),
    "over-16-MiB": (spec_text().encode() + 2**24 * b" ", "file"),
    "duplicate-key": (spec_text().encode()[:-1] + b', "beta": 2}', "beta"),
    "duplicate-nested": (b'{"model_type": "bert", "sigprop": {"q0": 1, "q0": 1}}', "q0"),
    "lone-surrogate": (b'{"\\ud800": 1}', r"'\ud800'"),
    "long-key": (b'{"' + 10**6 * b"k" + b'": 1}', 80 * "k"),
    "csv": (b"depth,context\n2,512\n", "file"),
    "yaml": (b"depth: 2\ncontext: 512\n", "file"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_spec(refuse, tmp_path, kind):
    data, culprit = FILES[kind]
    (tmp_path / "s.json").write_bytes(data)
    refuse(["propagate", "s.json"], culprit)


COMMANDS = {
    "propagate": [],
    "critical": ["--rho-max", "0.9"],
    "diagram": ["--out", "d.nc", "--png", "d.png"],
    "profile": ["--entropy", "0.9"],
    "show": ["--json"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["none.json", ".", "", "bert-bas", "s.json/x", "x/y", 5000 * "n"])
def test_every_command_needs_a_file(refuse, tmp_path, command, name):
    (tmp_path / "s.json").write_text(spec_text())
    refuse([command, name, *COMMANDS[command]], "file")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("literals", "culprit"),
    [({"beta": "-1"}, "beta"), ({"colour": "1"}, "colour"), ({"parallel": "true"}, "parallel")],
)
def test_every_command_checks_the_spec(refuse, tmp_path, command, literals, culprit):
    (tmp_path / "s.json").write_text(spec_text(**literals))
    refuse([command, "s.json", *COMMANDS[command]], culprit)


@pytest.mark.parametrize("command", ["propagate", "critical", "diagram", "profile", "show"])
def test_every_command_refuses_mixed_contexts(refuse, tmp_path, command):
    (tmp_path / "s.json").write_text(spec_text(context='["inf", 64]'))
    culprit = {"diagram": "shape", "show": "arrays"}.get(command, "context")
    refuse([command, "s.json", *COMMANDS[command]], culprit)


REM = [
    (["--sigma=-1"], "sigma"),
    (["--sigma", "nan"], "sigma"),
    (["--sigma", "inf"], "sigma"),
    (["--sigma", "1e7"], "sigma"),
    (["--sigma", "one"], "--sigma"),
    (["--sigma", ""], "--sigma"),
    (["--sigma", "1,2"], "--sigma"),
    (["--context", "1"], "context"),
    (["--context", "0"], "context"),
    (["--context=-5"], "context"),
    (["--context", "nan"], "context"),
    (["--context", "inf"], "context"),
    (["--context", "1e13"], "context"),
    (["--context", "many"], "--context"),
    (["--overlap", "2"], "overlap"),
    (["--overlap=-1.1"], "overlap"),
    (["--overlap", "nan"], "overlap"),
    (["--overlap", "x"], "--overlap"),
    (["--beta", "1"], "--beta"),
]


@pytest.mark.parametrize(("options", "culprit"), REM)
def test_rem(refuse, options, culprit):
    refuse(["rem", "--sigma", "1", "--context", "16", *options], culprit)


@pytest.mark.parametrize(
    ("argv", "culprit"),
    [
        (["rem", "--sigma", "1"], "--context"),
        (["rem", "--context", "16"], "--sigma"),
        (["critical", "bert-base"], "--rho-max"),
        (["profile", "bert-base"], "--entropy"),
        (["diagram", "bert-base"], "--out"),
        (["curves"], "--png"),
        (["--nothing"], "--nothing"),
        (["show", "bert-base", "--nothing"], "--nothing"),
        (["show", "bert-base", "--json=3"], "--json"),
    ],
)
def test_options_missing_or_unknown(refuse, argv, culprit):
    refuse(argv, culprit)


@pytest.mark.parametrize("value", ["0", "1", "-1", "2", "nan", "inf", "-0.0", "1e400"])
@pytest.mark.parametrize("command", ["critical", "show", "diagram"])
def test_rho_max(refuse, tmp_path, command, value):
    (tmp_path / "s.json").write_text(spec_text())
    options = ["--out", "d.nc", "--x", "beta=0:1:2", "--y", "q0=1:2:2"] * (command == "diagram")
    refuse([command, "s.json", f"--rho-max={value}", *options], "rho_max")


@pytest.mark.parametrize("value", ["high", "", "0,9", "0.9.9"])
@pytest.mark.parametrize(
    ("command", "option"), [("critical", "--rho-max"), ("profile", "--entropy")]
)
def test_options_that_are_no_numbers(refuse, command, option, value):
    refuse([command, "bert-base", f"{option}={value}"], option)


@pytest.mark.parametrize("value", ["0", "1", "-1", "2", "nan", "inf", "0.00999", "0.99991"])
def test_entropy_of_a_profile(refuse, tmp_path, value):
    (tmp_path / "s.json").write_text(spec_text(context="64"))
    refuse(["profile", "s.json", f"--entropy={value}"], "entropy_ratio")


AXES = [
    ("betta=0:1:3", "axis"),
    ("depth=1:5:3", "axis"),
    ("norm=0:1:3", "axis"),
    ("width=64:128:3", "axis"),
    ("spec=0:1:3", "axis"),
    ("limit=0:1:2", "axis"),
    ("rho_max=0:1:3", "axis"),
    ("progress=0:1:3", "axis"),
    ("beta=1:1:3", "beta"),
    ("beta=2:1:3", "beta"),
    ("beta=0:1:1", "beta"),
    ("beta=0:1:0", "beta"),
    ("beta=0:1:-3", "beta"),
    ("beta=0:1:2.5", "beta"),
    ("beta=0:1:nan", "beta"),
    ("beta=0:1:inf", "beta"),
    ("beta=0:1:1e6", "beta"),
    ("beta=0:1:1e400", "beta"),
    ("beta=nan:1:3", "beta"),
    ("beta=0:inf:3", "beta"),
    ("beta=-inf:1:3", "beta"),
    ("beta=0:1", "beta"),
    ("beta=0:1:3:4", "beta"),
    ("beta=0:1:3:log:", "beta"),
    ("beta=0:1:3:log", "beta"),
    ("beta=-1:1:3:log", "beta"),
    ("beta=0:1:3:lin", "beta"),
    ("beta=", "beta"),
    ("beta=a:b:c", "beta"),
    ("beta=0:1:c", "beta"),
    ("beta=::", "beta"),
    ("beta=-1:1:3", "beta"),
    ("beta=0:1001:3", "beta"),
    ("rho0=-0.5:0.5:3", "rho0"),
    ("rho0=0:1.5:3", "rho0"),
    ("norm_gain=0:1:3", "norm_gain"),
    ("context=1:9:3", "context"),
    ("context=8:1e13:3", "context"),
    ("context=8:8.2:3", "context"),
    ("q0=1:2:3", "y"),
    ("q0=1:2:2:log", "y"),
    ("beta", "axis"),
    ("", "axis"),
    ("0:1:3", "axis"),
    ("=0:1:3", "axis"),
    ("beta:0:1:3", "axis"),
    ("beta=1:1.0000000000000002:9", "beta"),
]


@pytest.mark.parametrize(("axis", "culprit"), AXES)
def test_axes_of_a_diagram(refuse, tmp_path, axis, culprit):
    (tmp_path / "s.json").write_text(spec_text())
    (tmp_path / "old.nc").write_bytes(b"kept")
    options = ["--out", "old.nc", "--png", "d.png", "--x", axis, "--y", "q0=1:2:3"]
    refuse(["diagram", "s.json", *options], culprit)


TARGETS = [
    (["--out", "none/d.nc"], "out"),
    (["--out", "folder"], "out"),
    (["--out", ""], "out"),
    (["--out", "pipe"], "out"),
    (["--png", "pipe"], "png"),
    (["--out", "old.nc/d.nc"], "out"),
    (["--out", 300 * "n"], "out"),
    (["--out", 5000 * "n"], "out"),
    (["--out", "/proc/d.nc"], "out"),
    (["--out", "same.png", "--png", "same.png"], "out"),
    (["--out", "d.dat"], "out"),
    (["--png", "d.gif"], "png"),
    (["--png", "d"], "png"),
    (["--png", "none/d.png"], "png"),
    (["--png", "folder"], "png"),
    (["--png", ".png"], "png"),
    (["--png", 300 * "n" + ".png"], "png"),
    (["--png", "/proc/d.png"], "png"),
    (["--entropy-min", "0"], "entropy_min"),
    (["--entropy-min", "1"], "entropy_min"),
    (["--entropy-min=-1"], "entropy_min"),
    (["--entropy-min", "2"], "entropy_min"),
    (["--entropy-min", "nan"], "entropy_min"),
    (["--entropy-min", "low"], "--entropy-min"),
    (["--out", "/proc/d.nc", "--png", "d.png"], "out"),
    (["--x", "beta=0:4:100000", "--y", "q0=1:2:100000"], "shape"),
]


@pytest.mark.parametrize(("options", "culprit"), TARGETS)
def test_targets_of_a_diagram(refuse, tmp_path, options, culprit):
    (tmp_path / "s.json").write_text(spec_text())
    (tmp_path / "old.nc").write_bytes(b"kept")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    grid = ["--x", "beta=0:1:2", "--y", "q0=1:2:2", "--out", "old.nc"]
    refuse(["diagram", "s.json", *grid, *options], culprit)


def test_a_diagram_needs_a_spec_without_arrays(refuse, tmp_path):
    (tmp_path / "s.json").write_text(spec_text(rho0="[[[0]], [[0.1]]]"))
    grid = ["--x", "beta=0:1:2", "--y", "q0=1:2:2"]
    refuse(["diagram", "s.json", *grid, "--out", "d.nc", "--png", "d.png"], "spec")


@pytest.mark.parametrize("png", ["d.gif", "d", "none/d.png", ".", "old.json"])
def test_figures_of_a_trajectory(refuse, tmp_path, png):
    (tmp_path / "old.json").write_text(spec_text())
    refuse(["propagate", "old.json", "--json", "--png", png], "png")


CURVES = [
    (["--contexts", ""], "contexts"),
    (["--contexts", "a"], "contexts"),
    (["--contexts", "64,,128"], "contexts"),
    (["--contexts", "64,"], "contexts"),
    (["--contexts", "64;128"], "contexts"),
    (["--contexts", "1"], "contexts"),
    (["--contexts", "0"], "contexts"),
    (["--contexts=-8"], "contexts"),
    (["--contexts", "nan"], "contexts"),
    (["--contexts", "inf"], "contexts"),
    (["--contexts", "64,1e13"], "contexts"),
    (["--beta", "0:4"], "beta"),
    (["--beta", "4:0:3"], "beta"),
    (["--beta", "0:4:1"], "beta"),
    (["--beta", "0:4:2.5"], "beta"),
    (["--beta", "0:x:3"], "beta"),
    (["--beta", ""], "beta"),
    (["--beta=-1:1:3"], "beta"),
    (["--beta", "0:1e200:3"], "beta"),
    (["--beta", "0:1:1e7"], "beta"),
    (["--beta", "0:1:3:log"], "beta"),
    (["--png", "c.gif"], "png"),
    (["--png", "none/c.png"], "png"),
    (["--png", "."], "png"),
]


@pytest.mark.parametrize(("options", "culprit"), CURVES)
def test_curves(refuse, options, culprit):
    refuse(["curves", "--png", "c.png", "--contexts", "8", "--beta", "0:1:2", *options], culprit)


CONFIGS = [
    ({"model_type": "bret"}, "model_type"),
    ({"model_type": 3}, "model_type"),
    ({"model_type": ["bert"]}, "model_type"),
    ({"model_type": None}, "architectures"),
    ({"architectures": []}, "architectures"),
    ({"architectures": ["MambaForCausalLM"]}, "architectures"),
    ({"hidden_size": 0}, "hidden_size"),
    ({"hidden_size": "768"}, "hidden_size"),
    ({"hidden_size": 1e400}, "hidden_size"),
    ({"hidden_size": 770}, "num_attention_heads"),
    ({"num_hidden_layers": 1.5}, "num_hidden_layers"),
    ({"num_hidden_layers": True}, "num_hidden_layers"),
    ({"initializer_range": float("nan")}, "initializer_range"),
    ({"initializer_range": -0.02}, "initializer_range"),
    ({"max_position_embeddings": 1}, "max_position_embeddings"),
    ({"hidden_act": "quick_gelu"}, "hidden_act"),
    ({"hidden_act": {}}, "hidden_act"),
    ({"layer_norm_eps": "tiny"}, "layer_norm_eps"),
    ({"is_decoder": 1}, "is_decoder"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"sigprop": []}, "sigprop"),
    ({"sigprop": {"betta": 1}}, "betta"),
    ({"sigprop": {"beta": None}}, "beta"),
    ({"sigprop": {"rho0": 2}}, "rho0"),
    ({"sigprop": {"context": 1}}, "context"),
    ({"sigprop": {"parallel": True}}, "parallel"),
    ({"model_type": "llama", "num_key_value_heads": 5}, "num_key_value_heads"),
    ({"model_type": "llama", "rope_scaling": 3}, "rope_scaling"),
    ({"model_type": "gpt2", "n_embd": 768, "hidden_size": 512}, "n_embd"),
    ({"model_type": "vit", "patch_size": 500}, "patch_size"),
]


@pytest.mark.parametrize(("values", "culprit"), CONFIGS)
def test_hugging_face_configs(refuse, tmp_path, values, culprit):
    family = {} if "architectures" in values else {"model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(family | values))
    refuse(["show", "config.json", "--limit"], culprit)


@pytest.mark.parametrize(
    ("argv", "culprit"),
    [
        (["propagate", "s.json"], "beta"),
        (["show", "none.json"], "file"),
        (["rem", "--sigma", "x", "--context", "16"], "--sigma"),
        (["diagram", "bert-base", "--x", "beta=1:0:3", "--out", "d.nc", "--png", "d.png"], "beta"),
    ],
)
def test_the_installed_command(tmp_path, argv, culprit):
    (tmp_path / "s.json").write_text(spec_text(beta="-1"))
    before = contents(tmp_path)
    code = "from sigprop.cli.app import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    check(run.returncode, run.stdout, run.stderr, culprit)
    assert contents(tmp_path) == before


def test_the_base_of_these_tests_is_admissible(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(spec_text())
    out, png = 252 * "d" + ".nc", 251 * "d" + ".png"  # the longest names of files
    grid = ["--x", "beta=0:1:2", "--y", "q0=1:2:2", "--out", out, "--png", png]
    for argv in (["propagate", "s.json", "--json"], ["diagram", "s.json", *grid]):
        monkeypatch.setattr(sys, "argv", ["sigprop", *argv])
        with pytest.raises(SystemExit) as left:
            app.main()
        assert left.value.code == 0
    assert capsys.readouterr().out.startswith('{"layer"')
    assert {p.name for p in tmp_path.iterdir()} == {"s.json", out, png}


@pytest.mark.parametrize("context", ["inf", 8, ["inf", 64.0], [["inf"], ["inf"]], [["inf"], [9.0]]])
def test_infinite_contexts_survive_a_round_trip(context):
    values = {key: json.loads(text) for key, text in BASE.items()} | {"context": context}
    once = ModelSpec.from_dict(values).to_dict()
    assert once["context"] == context
    assert ModelSpec.from_dict(json.loads(json.dumps(once, allow_nan=False))).to_dict() == once
