"""Every Python block of the README and the docs runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[int, str]]:
    """The line number and text of each block."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, each.start()) + 2, each.group(1)) for each in found]


CASES = [
    pytest.param(page, line, code, id=f"{page.name}:{line}")
    for page in PAGES
    for line, code in blocks(page)
]


@pytest.mark.parametrize(("page", "line", "code"), CASES)
def test_block_runs(page, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = compile("\n" * (line - 1) + code, str(page), "exec")
    exec(source, {"__name__": "__main__"})


def test_the_pages_have_blocks():
    assert len(CASES) >= 10


def test_error_in_the_readme_reads_as_it_is_printed(capsys, tmp_path, monkeypatch):
    """The commented message of the README is the one that the code above it prints."""
    code = next(code for _, code in blocks(ROOT / "README.md") if "error" in code)
    shown = [line[2:] for line in code.splitlines() if line.startswith("# ")]
    exec(compile(code, "example.py", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed == shown


def test_readme_names_all_recipes():
    from schuss.recipes import all_recipes

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in all_recipes() if f"| `{name}` |" not in readme] == []
