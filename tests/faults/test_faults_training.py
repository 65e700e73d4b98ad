"""Training is judged where the token to be guessed is not shown, and decoders are trained too."""

import json
import math

import numpy as np
import pytest
from outcomes import outcome, run_cli

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("tokenizers", reason="needs the extra torch")

from sigprop import ModelSpec
from sigprop.torch.training import experiment as trainability
from sigprop.torch.training.config import Plan
from sigprop.torch.training.corpus import SPECIAL, Corpus
from sigprop.torch.training.train import train

SPEC = ModelSpec(
    depth=2, context=8, width=32, heads=2, beta=1.0, sigma_v2=1, sigma_w2=1, alpha_attn=3.0,
    alpha_mlp=3.0, rho0=0.02,
)  # fmt: skip
VOCABULARY = 24


def text(rule, count=2000):
    """Windows of eight tokens that a rule makes of a generator."""
    rng = np.random.default_rng(0)
    windows = np.array([rule(rng) for _ in range(count)])
    return Corpus(windows[:-400], windows[-400:], VOCABULARY, "", "drawn", "")


def independent(rng):
    return rng.integers(len(SPECIAL), VOCABULARY, 8)


def second_neighbour(rng):
    """Every token is that of two positions before, or one time in ten another."""
    out = independent(rng)
    for i in range(2, 8):
        out[i] = out[i - 2] if rng.random() < 0.9 else out[i]
    return out


def test_copying_what_is_shown_is_no_gain():
    """Independent tokens hold nothing to learn: what a model gains on kept ones is copying."""
    run = train(SPEC, text(independent), Plan(steps=250, rate=5e-3, every=250), device="cpu")
    assert run.gain < 0.01  # 0.2 says +0.2: kept positions show their own token
    assert run.held["kept"].gain > 0.5 > 0.0 > run.held["replaced"].gain
    assert run.held["hidden"].gain == run.gain
    shares = np.array([one.number for one in run.held.values()])
    expected = np.array([0.8, 0.1 + 0.1 / 20, 0.1 * 19 / 20]) * shares.sum()
    assert np.all(np.abs(shares - expected) < 5 * np.sqrt(expected))


def test_a_decoder_gains_what_bigrams_cannot():
    """A copy of the token before the last is invisible to a bigram table, not to attention."""
    found = outcome(
        train,
        SPEC.replace(causal=True, alpha_attn=1.0, alpha_mlp=1.0),
        text(second_neighbour),
        Plan(steps=500, rate=5e-3, every=500),
        device="cpu",
    )
    assert not isinstance(found, Exception), found
    (held,) = found.held.values()
    chance, right = math.log(20), 0.9 + 0.1 / 20
    best = -right * math.log(right) - (1 - right) * math.log(0.1 / 20)
    ceiling = (chance - best) * 6 / 7  # the first guess of seven cannot know
    assert abs(held.baseline - chance) < 0.05
    assert 0.5 * ceiling < found.gain < ceiling + 0.05


def test_the_command_reports_kinds_of_positions_apart(tmp_path):
    words = "the cat sat on a mat and the dog ran to the big red hat".split()
    rng = np.random.default_rng(0)
    stories = [" ".join(rng.choice(words, 40)) for _ in range(60)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(stories) + "\n<|endoftext|>\n")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    ran = run_cli("train", tmp_path / "spec.json", "--text", tmp_path / "a.txt", "--steps", 2,
                  "--vocabulary", 60, "--json")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert set(found.get("held", {})) == {"hidden", "kept", "replaced"}
    assert found["gain"] == found["held"]["hidden"]["gain"]


def test_the_experiment_trains_for_as_long_as_its_claims_need():
    plans = getattr(trainability, "PLANS", {"encoder": getattr(trainability, "PLAN", None)})
    assert {name: (plan.steps, plan.rate) for name, plan in plans.items()} == {
        "encoder": (1000, 2e-3), "decoder": (1500, 2e-3),
    }  # fmt: skip
    assert trainability.DEPTHS == (6, 12)
