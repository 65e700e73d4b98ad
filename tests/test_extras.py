"""Optional parts are listed once, and the lowest versions are those of pyproject.toml."""

import re
from pathlib import Path

from extras import NEEDS, absent, lacking
from lowest_versions import declared, lowest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = {
    "name": "own",
    "dependencies": ["numpy>=1.26", "xarray>=2024.7"],
    "optional-dependencies": {
        "far": ["dask[array]>=2024.7", "xarray>=2025.10"],
        "all": ["own[far]", "pytest>=8.2,<10"],
    },
}


def test_the_largest_lower_bound_is_the_lowest_version():
    found = lowest(declared(PROJECT, ["all"]))
    pins = ["numpy==1.26", "xarray==2025.10", "dask[array]==2024.7", "pytest==8.2"]
    assert sorted(found.values()) == sorted(pins)


def test_every_listed_id_is_one():
    files = [str(path.relative_to(ROOT)) for path in ROOT.glob("*/**/*.py")]
    for start in NEEDS:
        assert any(file.startswith(start.split("::")[0]) for file in files), start


def test_packages_of_an_extra_are_looked_for(monkeypatch):
    monkeypatch.setattr("extras.find_spec", lambda name: None)
    absent.cache_clear()
    try:
        assert absent("torch") == ("torch", "transformers", "tokenizers")
        assert "distributed" in lacking("tests/analysis/test_grid_store.py::test_x")
        assert lacking("tests/cli/test_cli.py::test_x") is None
    finally:
        absent.cache_clear()


def test_no_test_skips_itself_without_the_name_of_an_extra():
    calls = re.compile(r"importorskip\(.+")
    lines = [line for p in ROOT.glob("tests/**/*.py") for line in calls.findall(p.read_text())]
    named = [line for line in lines if re.search(r"the extra (torch|distributed)\b", line)]
    assert [line for line in lines if line not in named] == []
