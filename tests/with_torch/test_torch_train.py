"""Training: the model is the spec's, a killed run resumes bit for bit, the judge is fair."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from sigprop import AssumptionError, DomainError, Execution, ModelSpec, propagate
from sigprop.cli.app import main
from sigprop.core.version import REVISIONS
from sigprop.studies.training_judge import (
    PREDICTORS,
    area,
    correlation,
    estimate,
    findings,
    judged,
    outcomes,
    part,
    provenance,
    regimes,
    separation,
)
from sigprop.studies.training_plot import plot_training
from sigprop.studies.training_prediction import predict
from sigprop.torch.training import experiment as trainability
from sigprop.torch.training.config import Plan
from sigprop.torch.training.corpus import MASK, SPECIAL, Corpus, baseline, corpus, guesses, masked
from sigprop.torch.training.model import LanguageModel, check
from sigprop.torch.training.train import CHECKPOINT, train

SPEC = ModelSpec(
    depth=4, context=32, width=64, heads=4, beta=1.0, sigma_v2=1, sigma_w2=1, alpha_attn=1.5,
    rho0=0.1,
)  # fmt: skip
TINY = SPEC.replace(depth=2, context=8, width=16, heads=2)
WORDS = "the cat sat on a mat and the dog ran to the big red hat".split()


def story(seed, words=40):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(story(i) for i in range(60)) + "\n<|endoftext|>\n")
    return path


@pytest.fixture(scope="module")
def words(text):
    return corpus(text, 8, 60)


def looks(spec, seeds=10):
    """Overlap and entropy of fresh models on tokens that never repeat, by seed and layer."""
    seen = []
    for seed in range(seeds):
        model = LanguageModel(spec, int(spec.context), seed)
        tokens = torch.stack([torch.randperm(int(spec.context)) for _ in range(2)])
        seen.append(model.look(tokens))
    return tuple(np.array([getattr(one, name) for one in seen]) for name in ("rho", "entropy"))


def agrees(measured, predicted, allowance):
    """Whether the mean over seeds is within four standard errors and an allowance everywhere."""
    error = measured.std(axis=0, ddof=1) / np.sqrt(len(measured))
    return bool(np.all(np.abs(measured.mean(axis=0) - predicted) < 4 * error + allowance))


# the measured overlap is a mean of cosines, at width 64 off by O(1/sqrt d) of a typical network
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta": 3.0},
        {"norm": "pre", "q0": 2.0},
        {"norm": "none", "sigma_b2": 0.1, "beta": 0.3, "sigma_v2": 0.3, "alpha_attn": 1.0},
        {"attention": "centred"},
        {"activation": "gelu", "gated": True, "mlp_ratio": 2.0},
        {"norm": "pre", "parallel": True, "activation": "silu"},
        {"activation": "tanh", "sigma_o2": 0.5},
        {"causal": True},
        {"causal": True, "attention": "centred"},
    ],
)
def test_a_fresh_model_does_what_the_spec_says(changes):
    torch.manual_seed(0)
    spec = SPEC.replace(width=128, **changes)
    rho, entropy = looks(spec)
    theory = propagate(spec)
    assert agrees(rho, theory.rho, 0.02)
    assert agrees(entropy, theory.entropy_ratio, 0.02)
    centred = spec.attention == "centred"  # there values and outputs cancel
    louder = {"sigma_w2": 8.0} if centred else {"sigma_v2": 4.0}
    wrong = propagate(spec.replace(beta=spec.beta / 2, **louder))
    assert not agrees(entropy, wrong.entropy_ratio, 0.02)
    assert not agrees(rho, wrong.rho, 0.02)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"width": None}, DomainError, "width"),
        ({"heads": 5}, DomainError, "heads"),
        ({"rho0": -0.01}, DomainError, "rho0"),
        ({"beta": [1.0, 2.0]}, AssumptionError, "single"),
        ({"context": "inf"}, AssumptionError, "finite"),
        ({"causal": True, "window": 4}, AssumptionError, "window"),
        ({"causal": True, "prefix": 4}, AssumptionError, "prefix"),
        ({"rotary_base": 1e4}, AssumptionError, "rotary"),
        ({"kv_heads": 2}, AssumptionError, "kv_heads"),
        ({"identity": 0.5}, AssumptionError, "identity"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, error, named):
    with pytest.raises(error, match=named):
        check(SPEC.replace(**changes))


@pytest.mark.parametrize("causal", [False, True])
def test_both_ways_to_attend_agree(causal):
    model = LanguageModel(SPEC.replace(attention="centred", causal=causal), 50, 0)
    tokens = torch.randint(0, 50, (3, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(tokens), model(tokens, []), rtol=1e-4, atol=1e-5)


def test_a_decoder_does_not_see_what_comes():
    tokens = torch.randint(0, 50, (2, 32), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 20:] = 7
    for causal in (True, False):
        model = LanguageModel(SPEC.replace(causal=causal), 50, 0)
        same = torch.equal(model(tokens)[:, :20], model(other)[:, :20])
        assert same is causal  # negative control: an encoder does


def test_positions_are_sorted_by_what_is_shown():
    windows = np.random.default_rng(0).integers(len(SPECIAL), 9, (50, 40))
    found = guesses(windows, 9, np.random.default_rng(1), causal=False)
    shown = found.inputs[found.chosen]
    np.testing.assert_array_equal(found.wanted, windows[found.chosen])
    assert np.all(shown[found.kind == 0] == MASK)
    assert np.all(shown[found.kind == 1] == found.wanted[found.kind == 1])
    assert np.all(shown[found.kind == 2] != found.wanted[found.kind == 2])
    assert set(found.kind.tolist()) == {0, 1, 2}


def test_a_bigram_table_guesses_as_well_as_its_source():
    """The table of a Markov chain reaches its entropy rate; frequencies do not."""
    rng, size = np.random.default_rng(0), 12
    chain = rng.dirichlet(np.full(size, 0.3), size)
    walk = [0]
    for _ in range(40_000):
        walk.append(int(rng.choice(size, p=chain[walk[-1]])))
    windows = np.array(walk[:40_000]).reshape(-1, 40)
    text = Corpus(windows[:900], windows[900:], size, "", "", "")
    table, pairs = baseline(text, causal=True), (text.held[:, :-1], text.held[:, 1:])
    np.testing.assert_allclose(np.exp(-table).sum(axis=1), 1, rtol=1e-12)
    own = -np.log(chain)[pairs].mean()
    assert own - 0.01 < table[pairs].mean() < own + 0.02
    assert baseline(text)[text.held[:, 1:]].mean() > own + 0.3  # negative control


def test_masks_are_those_of_bert():
    windows = np.full((400, 500), 7)
    inputs, chosen = masked(windows, 50, np.random.default_rng(1))
    n = chosen.sum()
    error = np.sqrt(0.15 * 0.85 / windows.size)
    assert abs(chosen.mean() - 0.15) < 5 * error
    assert abs(chosen.mean() - 0.12) > 5 * error  # negative control
    other = (inputs != 7) & (inputs != MASK)
    for share, where in ((0.8, inputs == MASK), (0.1 * 45 / 46, other)):
        assert abs(where.sum() / n - share) < 5 * np.sqrt(share * (1 - share) / n)
    assert np.all(inputs[~chosen] == 7)
    assert inputs[other].min() >= len(SPECIAL)
    assert masked(windows[:1, :2], 50, np.random.default_rng(0))[1].sum() >= 1


def test_a_corpus_is_the_same_every_time(text, words):
    again = corpus(text, 8, 60)
    np.testing.assert_array_equal(words.train, again.train)
    assert words.tokenizer == again.tokenizer
    assert len(words.held) == (len(words.train) + len(words.held)) // 10


def test_a_story_that_is_cut_off_is_dropped(text, words, tmp_path):
    path = tmp_path / "cut.txt"
    path.write_text(text.read_text() + "once upon a zebra")
    assert corpus(path, 8, 60).digest == words.digest
    path.write_text(story(0, 400))
    assert corpus(path, 8, 60).train.size > 300


@pytest.mark.parametrize(
    ("content", "vocabulary", "named"),
    [
        ("the cat", 60, "at least 80 tokens"),
        (" \n", 60, "no words"),
        (story(0, 400), 16, "vocabulary"),
        (None, 60, "existing text file"),
    ],
)
def test_texts_that_are_refused(content, vocabulary, named, tmp_path):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DomainError, match=named):
        corpus(path, 8, vocabulary)


def test_without_a_text_the_hub_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DomainError, match=r"--text FILE, or the package `datasets`"):
        corpus(None, 8)


def echoes(count=1500, size=20):
    """Windows in which nine tokens of ten are those of two positions before."""
    rng = np.random.default_rng(0)
    windows = rng.integers(len(SPECIAL), size, (count, 8))
    for i in range(2, 8):
        windows[:, i] = np.where(rng.random(count) < 0.9, windows[:, i - 2], windows[:, i])
    return Corpus(windows[:-300], windows[-300:], size, "", "echoes", "")


def test_healthy_stacks_learn_and_collapsed_ones_do_not():
    plan, words = Plan(steps=250, every=125, rate=5e-3), echoes()
    spec = TINY.replace(depth=2, alpha_attn=1.5, alpha_mlp=1.5, width=32)
    good = train(spec, words, plan, device="cpu")
    bad = train(spec.replace(depth=8, alpha_attn=0.1, alpha_mlp=0.1), words, plan, device="cpu")
    assert good.gain > 0.5 > 0.05 > bad.gain
    assert bad.log["rho"][0, -1] > 0.99 > good.log["rho"][0, -1]
    assert good.loss == pytest.approx(good.judged.baseline - good.gain)
    assert baseline(words).shape == (words.vocabulary,)


def same(one, other):
    for name, values in one.log.items():
        np.testing.assert_array_equal(values, other.log[name])
    assert (one.loss, one.gain) == (other.loss, other.gain)


def weights(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)["model"]


def test_an_interrupted_run_continues_bit_for_bit(words, tmp_path):
    plan = Plan(steps=30, every=4)

    def interrupt(row):
        if row["step"] >= 16:
            raise KeyboardInterrupt

    whole = train(TINY, words, plan, tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(TINY, words, plan, tmp_path / "cut", interrupt, device="cpu")
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["step"] == 16
    same(whole, train(TINY, words, plan, tmp_path / "cut", device="cpu"))
    ends = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    other = train(TINY, words, Plan(steps=30, every=4, seed=1), device="cpu")
    assert other.loss != whole.loss  # negative control


KILLED = """
import sys
from sigprop import ModelSpec
from sigprop.torch.training.corpus import corpus
from sigprop.torch.training.config import Plan
from sigprop.torch.training.train import train
import json, torch
torch.set_num_threads(1)
spec = ModelSpec.from_dict(json.loads(sys.argv[2]))
run = train(spec, corpus(sys.argv[1], 8, 60), Plan(steps=400, every=5), __import__("pathlib").Path(sys.argv[3]), device="cpu")
print(repr(run.loss))
"""  # noqa: E501


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(text, tmp_path):
    def start(folder):
        words = [sys.executable, "-c", KILLED, str(text), json.dumps(TINY.to_dict()), str(folder)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    first = start(tmp_path / "killed")
    while not (tmp_path / "killed" / CHECKPOINT).exists():
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    step = torch.load(tmp_path / "killed" / CHECKPOINT, weights_only=True)["step"]
    assert 0 < step < 400
    ends = [start(tmp_path / name).communicate()[0] for name in ("killed", "whole")]
    assert ends[0] == ends[1] != ""


def test_a_folder_of_another_run_is_refused(words, tmp_path):
    train(TINY, words, Plan(steps=2), tmp_path, device="cpu")
    with pytest.raises(DomainError, match="same run"):
        train(TINY, words, Plan(steps=3), tmp_path, device="cpu")
    (tmp_path / CHECKPOINT).unlink()
    (tmp_path / CHECKPOINT).mkdir()
    with pytest.raises(DomainError, match="a readable file"):
        train(TINY, words, Plan(steps=2), tmp_path, device="cpu")


def test_a_checkpoint_outlives_a_release_and_a_theory_but_not_its_revision(
    words, tmp_path, monkeypatch
):
    whole = train(TINY, words, Plan(steps=4, every=2), tmp_path, device="cpu")
    step = "sigprop.torch.training.train._Trainer._update"
    monkeypatch.setattr("sigprop.torch.training.train.__version__", "99.0")
    monkeypatch.setitem(REVISIONS, "theory", REVISIONS["theory"] + 1)
    monkeypatch.setattr(step, lambda self: pytest.fail("trained again"))
    same(whole, train(TINY, words, Plan(steps=4, every=2), tmp_path, device="cpu"))
    monkeypatch.setitem(REVISIONS, "training", REVISIONS["training"] + 1)
    with pytest.raises(DomainError, match="same run"):
        train(TINY, words, Plan(steps=4, every=2), tmp_path, device="cpu")


def test_a_run_that_diverges_says_so(words):
    spec = TINY.replace(norm="none", alpha_attn=1e6, depth=40)
    found = train(spec, words, Plan(steps=4), device="cpu")
    assert (found.diverged, found.gain) == (0, -np.inf)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"steps": 0}, "steps"), ({"rate": float("nan")}, "rate"), ({"seed": -1}, "seed")],
)
def test_plans_that_are_refused(changes, named):
    with pytest.raises(DomainError, match=named):
        Plan(**changes)


def test_other_windows_and_devices_are_refused(words):
    with pytest.raises(DomainError, match="windows of 32 tokens"):
        train(SPEC, words)
    with pytest.raises(DomainError, match="device"):
        train(TINY, words, device="abacus")


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["sigprop", *(str(one) for one in arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr()


def test_the_command_trains_and_resumes(monkeypatch, capsys, text, tmp_path):
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(TINY.to_dict()))
    words = ("train", spec, "--text", text, "--steps", 8, "--every", 2, "--vocabulary", 60,
             "--out", tmp_path / "run")  # fmt: skip
    code, streams = call(monkeypatch, capsys, *words, "--json")
    found = json.loads(streams.out)
    assert code == 0
    assert found["log"]["step"] == [0, 2, 4, 6, 7]
    assert found["versions"]["torch"] == torch.__version__
    assert {"checkpoint.pt", "run.json", "tokenizer.json"} == set(os.listdir(tmp_path / "run"))
    code, streams = call(monkeypatch, capsys, *words)
    assert "What to look for" in streams.out
    assert f"{found['gain']:.4f}" in streams.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train", "llama-2-7b"), "rotary"),
        (("train", "--text", "/nowhere.txt"), "text"),
        (("train", "--steps", "0"), "steps"),
        (("trainability", "--depths", "6,x"), "depths"),
        (("trainability", "--models", "encoder,oracle"), "models"),
        (("trainability", "--runs", "/nowhere.nc"), "file"),
        (("trainability", "--out", "/nowhere/a.nc"), "out"),
    ],
)
def test_bad_input_exits_with_2(monkeypatch, capsys, words, named):
    code, streams = call(monkeypatch, capsys, *words)
    assert code == 2
    assert streams.err.startswith("sigprop: error:")
    assert named in streams.err
    assert streams.out == ""


@pytest.mark.parametrize("command", ["train", "trainability"])
def test_without_the_extra_the_command_names_it(monkeypatch, capsys, command):
    monkeypatch.setattr("sigprop.core.errors.find_spec", lambda name: None)
    code, streams = call(monkeypatch, capsys, command)
    assert code == 2
    assert "pip install '.[torch]'" in streams.err


def test_the_area_counts_pairs():
    rng = np.random.default_rng(0)
    score, gain = rng.integers(0, 5, 30).astype(float), rng.normal(size=30)
    good, bad = score[gain > 0][:, None], score[gain <= 0]
    pairs = np.mean((good > bad) + 0.5 * (good == bad))
    assert float(area(score, gain)) == pytest.approx(pairs, abs=1e-12)
    assert float(area(-score, gain)) == pytest.approx(1 - pairs, abs=1e-12)


def test_intervals_cover_and_tell_apart():
    rng = np.random.default_rng(1)
    gain = rng.normal(size=100)
    idle = estimate(area, rng.normal(size=100), gain)
    assert idle.low < 0.5 < idle.high
    real = estimate(area, gain + 0.3 * rng.normal(size=100), gain)
    assert 0.9 < real.low <= real.value <= real.high <= 1
    assert estimate(correlation, gain, -gain).value == pytest.approx(-1)
    with pytest.raises(AssumptionError, match="runs that train and runs that do not"):
        estimate(area, gain, np.abs(gain))


@pytest.fixture
def small(monkeypatch):
    """An experiment of a few short runs."""
    marks = {"gpt2": TINY, "recommended-0.5": TINY.replace(beta=0.3)}
    monkeypatch.setattr(trainability, "marked", lambda base: marks)
    monkeypatch.setattr(trainability, "AXES", {"beta": (0.1, 1.0), "alpha_attn": (0.4, 6.0)})
    monkeypatch.setattr("sigprop.studies.training_prediction.FINE", 5)  # narrow heads are slow
    plans = {"encoder": Plan(steps=2, every=1), "decoder": Plan(steps=3, every=1)}
    return trainability.trials(TINY, plans, depths=(1, 2), points=3, seeds=2)


def test_the_experiment_is_durable_and_judged(words, tmp_path, small):
    counts = []
    assert len(small) == 2 * (9 + 3 + 2 * 2) + 4
    options = {"execution": Execution(folder=tmp_path, progress=counts.append)}
    first = trainability.experiment(words, small, **options)
    unique = len({(one.spec.to_dict().__repr__(), one.plan) for one in small})
    assert (counts[0], sum(counts)) == (0, unique)
    counts.clear()
    second = trainability.experiment(words, small, **options)
    assert counts == [unique]
    assert first.drop_attrs().identical(second.drop_attrs())
    assert first.attrs["wall_seconds"] > 0
    np.testing.assert_array_equal(first["gain"], first["hidden_gain"].fillna(first["next_gain"]))
    data = judged(first, predict(first))
    rows = part(data, model="encoder", part="grid")
    assert rows.sizes["run"] == 18
    alone = propagate(TINY.replace(depth=2, beta=0.1, alpha_attn=6.0))
    there = part(rows, depth=2, beta=0.1).isel(run=-1)
    assert float(there["rho"]) == pytest.approx(alone.rho[-1], rel=1e-9)
    assert float(there["entropy_ratio"]) == pytest.approx(alone.entropy_ratio.min(), rel=1e-6)
    median = float(rows["gain"].median())
    halved = rows.assign_attrs(margin=median)
    np.testing.assert_array_equal(outcomes(halved), rows["gain"] - median)
    assert set(separation(halved)) == set(PREDICTORS)
    assert sum(total for _, total in regimes(halved).values()) == 18
    said = findings(data.assign_attrs(margin=median))
    assert sum("AUC" in one for one in said) >= len(PREDICTORS)
    assert any("gpt2, gain in nats by seed" in one for one in said)
    decoders = part(data, model="decoder", part="grid")
    assert decoders.sizes["run"] == 4
    known = decoders.assign_attrs(margin=float(decoders["gain"].median()))
    assert set(separation(known)) == set(PREDICTORS) - {"gradient", "query"}
    json.dumps(provenance(data), allow_nan=False)
    assert len(plot_training(data).axes) == 8  # maps, colour bars, scatters
    with pytest.raises(AssumptionError, match="predict it again"):
        judged(first, predict(first.isel(run=slice(3))))


def test_a_run_that_diverges_is_masked_and_counted(words):
    spec = TINY.replace(norm="none", alpha_mlp=1e6, depth=30)
    asked = [trainability.Trial("encoder", "grid", spec, Plan(steps=1))]
    found = trainability.experiment(words, asked).assign_attrs(margin=0.02)
    assert np.all(found["diverged"] == 0)
    assert np.all(np.isnan(found["gain"]))
    assert np.all(outcomes(found) == -np.inf)


@pytest.mark.slow
def test_the_experiment_as_a_command(monkeypatch, capsys, text, tmp_path):
    words = ("trainability", "--text", text, "--depths", 1, "--points", 2, "--seeds", 1, "--steps",
             2, "--models", "encoder", "--vocabulary", 60, "--keep", tmp_path / "cells",
             "--out", tmp_path / "a.nc")  # fmt: skip
    code, streams = call(monkeypatch, capsys, *words, "--json")
    assert code == 0
    # in one block both designs are Xavier's, which is trained once
    assert json.loads(streams.out)["parameters"]["runs"] == 4 + 4
    names = {"a.nc", "a_prediction.nc", "a.json", "a.png", "a.pdf", "cells"}
    assert names <= set(os.listdir(tmp_path))
    before = (tmp_path / "a.nc").read_bytes()
    again = ("trainability", "--runs", tmp_path / "a.nc", "--out", tmp_path / "c.nc", "--json")
    code, judged_again = call(monkeypatch, capsys, *again)
    assert code == 0
    assert json.loads(judged_again.out) == json.loads(streams.out)
    assert (tmp_path / "a.nc").read_bytes() == before
    assert not (tmp_path / "c.nc").exists()
    code, streams = call(monkeypatch, capsys, *words)
    assert "Written" in streams.out
    words = [*words[:-4], "--keep", tmp_path / "again", "--out", tmp_path / "b.nc"]
    code, streams = call(monkeypatch, capsys, *words, "--scheduler", "local", "--json")
    assert code == 0
    a, b = (xr.load_dataset(tmp_path / name).drop_vars("wall") for name in ("a.nc", "b.nc"))
    xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())


def test_the_committed_data_say_what_their_findings_say():
    from sigprop.analysis.diagram.grid import load

    folder = Path(__file__).parents[2] / "figures"
    runs, prediction = (load(folder / f"training{end}.nc") for end in ("", "_prediction"))
    kept = json.loads((folder / "training.json").read_text())
    assert kept["findings"] == findings(judged(runs, prediction))
    assert "distance" not in runs  # runs hold no theory
    assert kept["parameters"]["wall_seconds"] > 0
    assert {"torch", "sigprop", "threads"} <= set(kept["parameters"]["versions"][0])
