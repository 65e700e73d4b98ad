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
