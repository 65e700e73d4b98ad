"""The page of measured accuracies is what its generator prints, and names what exists."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_theory_page import PAGE as THEORY
from test_theory_page import cited, tagged

from sigprop.studies.accuracy_page import COLUMNS, measurements

PAGE = Path(__file__).parents[2] / "notebooks" / "accuracy.md"


def test_the_committed_page_is_what_the_command_prints():
    command = [sys.executable, "-m", "sigprop.studies.accuracy_page"]
    printed = subprocess.run(command, check=True, capture_output=True).stdout.decode("utf-8")
    assert printed == PAGE.read_text(encoding="utf-8")


def test_every_measurement_is_a_line_of_the_page():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    rows = [row for group in measurements().values() for row in group]
    assert len(lines) == len(rows) + 2 * len(measurements())
    assert {line.count(" | ") for line in lines} == {len(COLUMNS) - 1}


def test_links_of_the_theory_end_at_a_table():
    links = re.findall(r"\]\(accuracy\.md#([\w-]+)\)", THEORY.read_text(encoding="utf-8"))
    titles = [title.lower().replace(" ", "-").replace(",", "") for title, _ in measurements()]
    assert sorted(links) == sorted(titles)


@pytest.mark.parametrize("where", list(measurements()))
def test_what_a_measurement_names_exists_and_names_the_page(where):
    known = set(tagged(THEORY.read_text(encoding="utf-8")))
    source = Path(find_spec(f"sigprop.{where[1]}").origin).read_text(encoding="utf-8")
    assert "notebooks/accuracy.md" in source
    for row in measurements()[where]:
        assert all(row[1:6]), row
        assert cited(" ".join(row[:5])) <= known, row
