"""``moondream-beam demo``."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_the_demo_prints_rows_a_balanced_ledger_and_the_output(tmp_path, command):
    folder = tmp_path / "demo"
    status, stdout, _ = command("demo", "--output", folder)
    assert status == 0
    assert "192 requests = 188 in data/ + 4 in errors/: balances" in stdout
    assert f"output   {folder}/out" in stdout
    assert len(list((folder / "pictures").iterdir())) == 48
    first = next(line for line in stdout.splitlines() if line.startswith("scene-00.jpg"))
    assert first.split()[:3] == ["scene-00.jpg", "caption", "normal"] and "background" in first
