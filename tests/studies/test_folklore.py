"""Folklore: every verdict from a formula and a measurement that agree, and can fail to."""

import json
import sys

import pytest

from sigprop import AssumptionError, DomainError, ModelSpec, load
from sigprop.cli.app import main
from sigprop.studies.folklore.rules import CLAIMS
from sigprop.studies.folklore.verdicts import BROKEN, UNDECIDED, Point, bench, decide, judge_claims

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
    condition = found.claim.condition
    words = None if condition is None else condition(bench(SPEC))
    assert found.verdict == decide(found.points, words)
    if found.verdict.startswith("holds if"):  # the condition separates the cases
        assert [p.holds for p in found.points] == [p.within for p in found.points]
        assert {p.within for p in found.points} == {True, False}
        wrong = [p._replace(within=not p.within) for p in found.points]
        assert decide(wrong, words) == BROKEN
    true = [p._replace(claimed=p.theory, measured=p.theory) for p in found.points]
    assert decide(true) == "holds"
    assert decide([p._replace(claimed=p.theory + 10 + 10 * abs(p.theory)) for p in true]) == "false"
    numbers = [f"{p.theory:.3g}" for p in found.points]
    assert all(text in found.correction for text in numbers)


def test_verdicts(findings):
    verdict = {number: one.verdict for number, one in findings.items()}
    assert verdict[1] == "holds if n_in = n_out"
    assert verdict[2] == "holds"
    assert verdict[7].startswith("holds if (1 - rho)(1 - Y_2) <= 0.05")
    assert verdict[13] == "holds if sqrt(d_h) >= log(19 (T - 1)) + 1/2"
    assert [number for number, said in verdict.items() if said == "false"] == [6, 8, 9, 10, 15]
    assert all(
        said.startswith("holds") for n, said in verdict.items() if n not in {6, 8, 9, 10, 15}
    )


def test_decide():
    good, bad = Point("a", 1, 1, 1.0, 0.01), Point("b", 1, 0.5, 0.5, 0.01, within=False)
    assert decide([good]) == "holds"
    assert decide([bad]) == "false"
    assert decide([good, bad]) == "false"  # no example is sold as a condition
    assert decide([good, bad], "x > 1") == "holds if x > 1"
    assert decide([bad, bad], "x > 1") == "false"
    assert decide([good, bad._replace(within=True)], "x > 1") == BROKEN
    assert decide([good, Point("c", 1, 1, 0.5, 0.01)], "x > 1") == UNDECIDED


@pytest.mark.slow
@pytest.mark.parametrize("config", ["bert-base", "gpt2", "llama-2-7b"])
def test_more_draws_agree_too(config):
    for found in judge_claims(CLAIMS, bench(load(config).spec, seed=1000, draws=24)):
        assert "undecided" not in found.verdict
        for point in found.points:
            assert point.agrees, (found.claim.number, point)


def test_bad_input():
    plain = ModelSpec(depth=2, context=64, beta=1, sigma_v2=1, sigma_w2=1, rho0=0)
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
