"""``moondream-beam demo``."""

from __future__ import annotations

import pytest

from moondream_beam.pipelines.commands.demo import draw_pictures


@pytest.mark.slow
def test_the_demo_prints_rows_a_balanced_ledger_and_the_output(tmp_path, command):
    folder = tmp_path / "demo"
    status, stdout, _ = command("demo", "--output", folder)
    assert status == 0
    assert "192 requests = 188 in data/ + 4 in errors/: balances" in stdout
    assert f"output   {folder}/out" in stdout
    assert len(list((folder / "pictures").iterdir())) == 48
    first = next(line for line in stdout.splitlines() if line.startswith("scene-00.jpg"))
    assert first.split()[:3] == ["scene-00.jpg", "caption", "normal"] and "a small blue triangle" in first


@pytest.mark.parametrize("name", ["scene-00.jpg", "scene-47.bmp"])
def test_the_demo_replaces_no_picture_of_somebody_else(tmp_path, command, name):
    picture = tmp_path / "pictures" / name
    picture.parent.mkdir()
    picture.write_bytes(b"a photo")
    status, _, stderr = command("demo", "--output", tmp_path)
    assert status == 2 and str(picture) in stderr and "--output" in stderr
    assert [path.name for path in picture.parent.iterdir()] == [name] and picture.read_bytes() == b"a photo"


def test_the_pictures_of_the_demo_can_be_drawn_again(tmp_path):
    assert draw_pictures(tmp_path) == draw_pictures(tmp_path) == len(list(tmp_path.iterdir())) == 48
