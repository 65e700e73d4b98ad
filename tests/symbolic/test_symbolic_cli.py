"""`sigprop derive`: listing, one result in each form, the sheet, refusals."""

import json
import sys
from pathlib import Path

import pytest
from matplotlib.mathtext import MathTextParser

from sigprop.cli.app import main
from sigprop.core.notation import NOTATION
from sigprop.symbolic import EQUATIONS, derivation, derive, entries
from sigprop.symbolic.sheet import markdown, sheet

SHEET = Path(__file__).parents[2] / "figures" / "theory.md"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["sigprop", "derive", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        out = capsys.readouterr()
        return out.err if code else out.out

    return call


def test_list(run):
    text = run()
    assert all(name in text for name in entries())
    assert set(json.loads(run("--json"))) == set(entries())


def test_list_performs_no_derivation(run, monkeypatch):
    def performed(**maps):
        raise AssertionError("performed")

    for name, entry in entries().items():
        monkeypatch.setitem(derivation._ENTRIES, name, entry._replace(function=performed))
    text = run()
    assert all(name in text for name in entries())
    with pytest.raises(AssertionError, match="performed"):
        derive("critical-beta")


def test_forms(run):
    assert run("critical-beta", "--text") == "Eq(beta_c, sqrt(2)/(sqrt(gap)*sqrt(q)))\n"
    assert run("critical-beta", "--latex").startswith(r"\beta_c = \frac{\sqrt{2}}")
    assert len(run("critical-beta", "--text", "--steps").splitlines()) == 4
    assert "4. which is beta, by E3" in run("critical-beta", "--steps")
    found = json.loads(run("critical-beta", "--json"))
    assert found["equations"] == "E3, E4"
    assert len(found["steps"]) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense",), "NAME = 'nonsense' is not admissible: expected one of chi-norm,"),
        (("chi-norm", "--latex", "--text"), "one of --latex and --text"),
        (("chi-norm", "--sheet", "a.md"), "no NAME beside it"),
        (("--sheet", "a.txt"), "a name ending in .md"),
        (("--sheet", "nowhere/a.md"), "an existing, writable folder"),
    ],
)
def test_refusals(run, words, said):
    assert said in run(*words, code=2)
    assert not list(Path().iterdir())


def formulas(text):
    """What stands between double dollars; each pair is on lines of its own, as GitHub needs."""
    parts = text.split("\n$$\n")
    assert len(parts) % 2 == 1
    return parts[1::2]


def test_committed_sheet_is_complete_and_parses():
    text = SHEET.read_text(encoding="utf-8")
    assert text.count("$$\n") % 2 == 0
    for row in EQUATIONS.values():
        assert f"\n$$\n{row.latex}\n$$\n" in text, row.name
    for name in entries():
        assert f"### {name}: " in text
    for name in ("gap", "q0", "score_overlap", "alpha_c", "p_grad"):
        assert f"| ${NOTATION[name].symbol}$ | `{name}` |" in text
    parser = MathTextParser("agg")
    for formula in formulas(text):
        parser.parse(f"${formula}$")
    refused = (r"\operatorname", r"\begin", r"\substack", r"\limits")  # by GitHub or mathtext
    assert not [macro for macro in refused if macro in text]


@pytest.mark.parametrize("name", ["alpha-depth-bias", "frozen-y22", "overlap-small"])
def test_committed_sheet_is_what_sympy_derives(name):
    """The sheet is the cache of derived results: some are derived anew here, all under slow."""
    assert markdown(derive(name)) in SHEET.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_sheet_is_regenerated(run, tmp_path):
    run("--sheet", "theory.md")
    text = (tmp_path / "theory.md").read_text(encoding="utf-8")
    assert text == SHEET.read_text(encoding="utf-8") == "\n".join(sheet())
