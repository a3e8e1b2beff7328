"""The docs list the errors of hosted APIs, and those of vision servers and JSON schemas."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def written(*folders: str, but: str = "-") -> set[str]:
    """Return the errors that the code below these folders writes, without the folder ``but``."""
    paths = [
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if but not in path.relative_to(ROOT).parts
    ]
    return set(re.findall(r'\bFault\(\s*"(\w+)"', "".join(path.read_text() for path in paths)))


def listed(page: str, heading: str) -> set[str]:
    """Return the errors in the tables below a heading of a page."""
    text = (ROOT / page).read_text().split(heading)[1]
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"\w+", cell)]
    assert len(names) == len(set(names))
    return set(names)


def test_the_docs_list_each_error_that_the_code_writes_and_no_other():
    errors = written("models/hosted", but="openai")
    assert errors == listed("docs/hosted.md", "## Errors on rows") and len(errors) == 9


def test_the_page_of_other_models_lists_the_errors_of_servers_and_schemas():
    errors = written("models/hosted/openai", "models/structured")
    page = listed("docs/other_models.md", "## What happens on errors")
    assert errors <= page and page - errors == {"Unavailable", "LostAnswer", "BudgetSpent"}
