"""docs/hosted.md lists the errors of hosted APIs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_docs_list_each_error_that_the_code_writes_and_no_other():
    code = "".join(path.read_text() for path in (ROOT / "models/hosted").rglob("*.py"))
    written = set(re.findall(r'\bFault\(\s*"(\w+)"', code))
    listed = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/hosted.md").read_text().split("## Errors on rows")[1], re.MULTILINE
    )
    assert sorted(written) == sorted(listed) and len(written) == 9
