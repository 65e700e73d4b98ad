"""What 0.2 wrote into models, ran from their folders and obeyed from their configs."""

import io
import json
import sys

import pytest
from outcomes import outcome

from sigprop.cli import main
from sigprop.cli.console import show


@pytest.fixture
def command(monkeypatch, capfd):
    """Run a command in this process, answered "y"; its code or what it raised, and its output."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sigprop", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except Exception as error:
            code = error
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("name", ["nanogpt", "neox", "post", "pre"])
def test_the_code_draws_every_matrix(name):
    pytest.importorskip("torch", reason="needs the extra torch")
    pytest.importorskip("transformers", reason="needs the extra torch")
    from placed_models import build
    from placed_plan import errors, plan, run_code

    model, _ = build(name)
    wanted = plan(gated=False)
    run_code(wanted, model)
    found = errors(name, model, wanted)
    assert max(map(abs, found.values())) < 5, found


@pytest.mark.parametrize("kind", ["attention", "gamma", "matrix"])
def test_the_code_raises_on_what_it_cannot_place(kind):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    from placed_models import NanoGPT
    from placed_plan import plan, run_code

    model = NanoGPT()
    if kind == "attention":
        model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50))
    elif kind == "gamma":
        model.transformer["h"][1].gamma = torch.nn.Parameter(torch.ones(64))
    else:
        model.transformer["h"][1].mlp.extra = torch.nn.Linear(64, 64)
    found = outcome(run_code, plan(gated=False), model)
    assert type(found).__name__ == "AssumptionError"


def test_initialise_places_projections_that_are_interleaved_by_head():
    pytest.importorskip("transformers", reason="needs the extra torch")
    from placed_models import build
    from placed_plan import errors, plan

    from sigprop.torch import initialise_

    model, _ = build("neox")
    wanted = plan(gated=False)
    changes = outcome(initialise_, model, wanted)
    assert isinstance(changes, tuple), changes
    assert max(map(abs, errors("neox", model, wanted).values())) < 5


def test_initialise_raises_on_what_it_cannot_place():
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    from placed_models import NanoGPT
    from placed_plan import plan

    from sigprop.core.errors import AssumptionError
    from sigprop.torch import initialise_

    model = NanoGPT()
    model.transformer["h"][0].gamma = torch.nn.Parameter(torch.ones(64))
    assert isinstance(outcome(initialise_, model, plan(gated=False)), AssumptionError)


def test_no_code_of_a_model_folder_runs_when_the_answer_is_yes(tmp_path, command):
    pytest.importorskip("torch", reason="needs the extra torch")
    pytest.importorskip("transformers", reason="needs the extra torch")
    from hostile import build

    folder, canary, _ = build(tmp_path, "prompt")
    code, out, _ = command("audit", "--hf", folder, "--text", tmp_path / "text.txt", "--json")
    assert not canary.exists()
    assert (code, out) == (2, "")


def test_json_alone_is_on_standard_output(tmp_path, command, monkeypatch):
    pytest.importorskip("torch", reason="needs the extra torch")
    transformers = pytest.importorskip("transformers", reason="needs the extra torch")
    from hostile import BERT, build

    folder, *_ = build(tmp_path, "template")
    (folder / "config.json").write_text(json.dumps(BERT))
    own = transformers.BertModel.forward

    def chatter(self, *args, **kwargs):
        print("a line of a library")
        return own(self, *args, **kwargs)

    monkeypatch.setattr(transformers.BertModel, "forward", chatter)
    code, out, err = command("audit", "--hf", folder, "--text", tmp_path / "text.txt", "--json")
    assert code == 0
    assert out.startswith("{")
    assert "a line of a library" in err


@pytest.mark.parametrize("text", ["rescaled ([/b])", "[red]name[/red]", "a :smile: b"])
def test_text_is_no_markup(text, capsys):
    assert outcome(show, lambda: text) is None
    assert text in capsys.readouterr().out


def test_text_is_not_obeyed_by_the_terminal(capsys):
    show(lambda: "rescaled (\x1b]0;owned\x07\x1b[2J)")
    assert capsys.readouterr().out.rstrip().isprintable()


def test_errors_are_not_obeyed_by_the_terminal(tmp_path, command):
    spec = tmp_path / "spec.json"
    spec.write_text('{"\\u001b[2J": 1, "\\u001b[2J": 2}')
    code, _, err = command("show", spec)
    assert code == 2
    assert err.rstrip().isprintable()


def test_names_keep_their_brackets(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--x", "beta=0.1:1:2", "--y", "alpha_attn=1:2:2", "--out", "a[red].nc")
    code, out, _ = command("diagram", "bert-base", *words)
    assert code == 0
    assert "a[red].nc" in out


def test_help_keeps_its_brackets(command):
    code, out, _ = command("diagram", "--help")
    assert code == 0
    assert "[default: freezing point]" in " ".join(out.replace("│", " ").split())
    _, out, _ = command("recommend", "--help")
    assert "[default: beta, alpha_attn, alpha_mlp]" in " ".join(out.replace("│", " ").split())


def test_titles_are_no_mathematics(tmp_path):
    from sigprop import ModelSpec, propagate
    from sigprop.plotting import plot_trajectory, save_figure

    spec = ModelSpec(depth=2, context="inf", beta=1, sigma_v2=1, sigma_w2=2, rho0=0)
    figure = plot_trajectory(propagate(spec), r"a $x_$ \frac b")
    assert outcome(save_figure, figure, tmp_path / "a.png") is None
