"""The page of the theory: it has every equation that the code cites, and no other."""

import re
from pathlib import Path

import sigprop
from sigprop.core.notation import NOTATION

ROOT = Path(sigprop.__file__).parent
PAGE = Path(__file__).parents[1] / "notebooks" / "theory.md"
NUMBER = r"E([1-9]\d?)([a-z]?)"


def cited(text):
    """Numbers of equations that a text cites, those within a range included."""
    text = re.sub(r"#\s*noqa.*", "", text)
    found = {"E" + "".join(m) for m in re.findall(rf"\b{NUMBER}\b", text)}
    for first, low, last, high in re.findall(rf"\b{NUMBER}-{NUMBER}\b", text):
        if first == last:  # E26b-E26f: by letter
            found |= {f"E{first}{chr(code)}" for code in range(ord(low), ord(high) + 1)}
        found |= {f"E{n}" for n in range(int(first) + 1, int(last) + 1)}
    return found


def tagged(page):
    """Numbers of the equations of a page, in order."""
    return re.findall(r"\\tag\{(E\w+)\}", page)


def sources():
    return {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


def test_citations_are_read():
    assert cited("(E22-E24b)") == {"E22", "E23", "E24", "E24b"}
    assert cited("E26b-E26d") == {"E26b", "E26c", "E26d"}
    assert cited("E4, E5; theory.md E12b") == {"E4", "E5", "E12b"}
    assert cited("x = 1  # noqa: E402") == cited("2E10, 1e-12, E876") == set()


def test_every_citation_is_on_the_page():
    known = set(tagged(PAGE.read_text(encoding="utf-8")))
    wrong = {str(path): cited(text) - known for path, text in sources().items()}
    assert not {path: numbers for path, numbers in wrong.items() if numbers}


def test_every_equation_of_the_page_is_cited():
    numbers = tagged(PAGE.read_text(encoding="utf-8"))
    assert len(numbers) == len(set(numbers))
    used = set().union(*(cited(text) for text in sources().values()))
    assert set(numbers) == used


def test_every_section_cited_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    heads = set(re.findall(r"^##+ (\w+)\. ", page, re.M))
    words = "\n".join(entry.equation for entry in NOTATION.values())
    words += "\n".join(sources().values())
    named = re.findall(r"theory\.md (?:section )?(\d[a-d]?)\b|[(\"]section (\d[a-d]?)\b", words)
    assert {first or second for first, second in named} <= heads


def test_the_page_cites_only_its_own_equations():
    page = PAGE.read_text(encoding="utf-8")
    assert cited(page.replace("$E_{", "").replace(r"\tag{", "")) <= set(tagged(page))
