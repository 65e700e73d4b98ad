"""Folklore: every verdict from a formula and a measurement that agree, and can fail to."""

import json
import sys

import pytest

from sigprop import AssumptionError, DomainError, Transformer, load
from sigprop.claims import CLAIMS
from sigprop.cli import main
from sigprop.folklore import UNDECIDED, Point, bench, decide, judge_claims

SPEC = load("bert-base").spec


@pytest.fixture(scope="module")
def findings():
    return {f.claim.number: f for f in judge_claims(CLAIMS, bench(SPEC, seed=100, draws=6))}


def test_there_are_sixteen():
    assert list(CLAIMS) == list(range(1, 17))


@pytest.mark.parametrize("number", CLAIMS)
def test_theory_and_measurement_agree(findings, number):
    for point in findings[number].points:
        assert point.agrees, point


@pytest.mark.parametrize("number", CLAIMS)
def test_a_wrong_theory_is_refused(findings, number):
    """Negative control: the same draws refuse theories off by a factor or by one."""
    for point in findings[number].points:
        wrong = point.theory * 2 if abs(point.theory) > 1e-3 else point.theory + 1
        assert not point._replace(theory=wrong).agrees, point
        assert decide([point._replace(theory=wrong)]) == UNDECIDED


@pytest.mark.parametrize("number", CLAIMS)
def test_the_verdict_follows_from_the_numbers(findings, number):
    found = findings[number]
    assert found.verdict == decide(found.points)
    true = [p._replace(claimed=p.theory, measured=p.theory) for p in found.points]
    assert decide(true) == "holds"
    assert decide([p._replace(claimed=p.theory + 10 + 10 * abs(p.theory)) for p in true]) == "false"
    numbers = [f"{p.theory:.3g}" for p in found.points]
    assert all(text in found.correction for text in numbers)


def test_verdicts(findings):
    verdict = {number: one.verdict for number, one in findings.items()}
    assert verdict[1] == "holds if n_in = n_out"
    assert verdict[2] == "holds"
    assert verdict[3] == "holds if the activation is relu"
    assert verdict[4] == "holds if tokens overlap by 0"
    assert verdict[6] == verdict[8] == "false"
    assert verdict[7] == "holds if rho = 0.99 at beta = 0.5"
    assert verdict[10] == "holds if the product is sqrt(2 d d_ff)"
    assert verdict[12] == "holds if scaled by 1/sqrt(N)"
    assert verdict[15] == "holds if in the width, stated 1/2"
    assert "rezero, backward" in verdict[16]
    assert "glorot" not in verdict[16]


def test_decide():
    good, bad = Point("a", 1, 1, 1.0, 0.01), Point("b", 1, 0.5, 0.5, 0.01)
    assert decide([good]) == "holds"
    assert decide([bad]) == "false"
    assert decide([good, bad]) == "holds if a"
    assert decide([good, Point("c", 1, 1, 0.5, 0.01)]) == UNDECIDED


@pytest.mark.slow
@pytest.mark.parametrize("config", ["bert-base", "gpt2", "llama-2-7b"])
def test_more_draws_agree_too(config):
    for found in judge_claims(CLAIMS, bench(load(config).spec, seed=1000, draws=24)):
        for point in found.points:
            assert point.agrees, (found.claim.number, point)


def test_bad_input():
    plain = Transformer(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
    with pytest.raises(DomainError, match="width = None"):
        bench(plain)
    with pytest.raises(AssumptionError, match="arrays"):
        bench(plain.replace(beta=[1.0, 2.0], width=32))
    with pytest.raises(AssumptionError, match="finite context"):
        bench(plain.replace(context="inf", width=32))
    with pytest.raises(DomainError, match="draws = 1 "):
        bench(SPEC, draws=1)
    with pytest.raises(DomainError, match="only = 0 "):
        judge_claims(CLAIMS, bench(SPEC), [0])


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["sigprop", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        return capsys.readouterr()

    return call


def test_command(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    found = json.loads(run("folklore", "--only", "1", "--json").out)["folklore"][0]
    keys = {"number", "claim", "theory", "measured", "se", "verdict", "correction"}
    assert keys <= set(found)
    text = run("folklore", "--only", "1").out
    assert max(map(len, text.splitlines())) <= 100
    assert found["verdict"] in text
    for point in found["points"]:
        assert f"{point['theory']:.4g}" in text


def test_command_refuses(run):
    seen = run("folklore", "--only", "17", code=2)
    assert "integer in [1, 16]" in seen.err
