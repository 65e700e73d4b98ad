"""An audit of a folder of a stranger: none of its code runs, none of its text is obeyed."""

import json

import pytest

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs the extra torch")

from hostile import NAMES, build, run


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_code_of_a_model_folder_runs(tmp_path, name):
    folder, canary, code = build(tmp_path, name)
    ended = run(tmp_path, folder, "--json")
    assert not canary.exists()
    assert ended.returncode == code, ended.stderr
    if code == 0:
        assert json.loads(ended.stdout)["spec"]["depth"] == 2
    else:
        assert ended.stdout == ""
        assert ended.stderr.startswith("sigprop: error: ")
        assert "Traceback" not in ended.stderr
    assert ended.stderr.replace("\n", "").isprintable()


def test_a_model_is_refused_as_soon_as_it_is_too_large(monkeypatch):
    from torch import nn

    from sigprop.core.errors import DomainError
    from sigprop.torch.module_audit import load as inputs

    built = []

    class Part(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.one = nn.Linear(width, width, device="meta")
            built.append(self)

    with inputs.bounded():
        nn.ModuleList([Part(8) for _ in range(3)])
    with inputs.bounded(), pytest.raises(DomainError, match=r"config = '.*GiB' .* a third of"):
        nn.ModuleList([Part(2**17) for _ in range(10**6)])
    assert len(built) < 2000
    monkeypatch.setattr(inputs, "PARTS", 9)
    with inputs.bounded(), pytest.raises(DomainError, match="at most 9 modules"):
        nn.ModuleList([Part(8) for _ in range(10**6)])
    Part(8)
    assert len(built) < 2020  # and afterwards nothing is bounded


def test_what_is_dropped_is_dropped_at_every_depth():
    from sigprop.core.errors import DomainError
    from sigprop.torch.module_audit.load import DROPPED, inert

    evil = dict.fromkeys([*DROPPED, "_name_or_path", "_attn_implementation_internal", "__class__"])
    assert inert({"a": [{"b": {"c": 1} | evil}], "rope_theta": 10**9} | evil) == {
        "a": [{"b": {"c": 1}}],
        "rope_theta": 10**9,
    }
    with pytest.raises(DomainError, match="num_experts"):
        inert({"text_config": {"num_experts": 10**8}})
