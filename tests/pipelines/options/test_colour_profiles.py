"""``--colour-profiles`` of the command: colours as stored, or converted to sRGB."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.profiles import SRGB_COLUMNS, rgb_profile

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw

ASKED = ("--model", "tiny", "--caption", "short", "--temperature", "0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A scene whose profile swaps red and blue, the scene with red and blue swapped, and one with a broken profile."""
    root = tmp_path / "photos"
    root.mkdir()
    red, green, blue = SRGB_COLUMNS
    image = draw(TEST_SEEDS[0]).image
    image.save(root / "profile.png", icc_profile=rgb_profile((blue, green, red)))
    Image.merge("RGB", image.split()[::-1]).save(root / "swapped.png")
    image.save(root / "broken.png", icc_profile=b"no profile")
    return root


def captions(output: Path) -> dict[tuple[str, str], str]:
    """Return the caption of each picture by its name and the colour profiles of its run."""
    records = [json.loads(path.read_text()) for path in output.glob("runs/*.json")]
    choices = {record["run"]: record["colour_profiles"] for record in records}
    assert choices == {record["run"]: record["options"]["colour_profiles"] for record in records}
    rows = [row for path in output.glob("data/*.parquet") for row in pq.read_table(path).to_pylist()]
    return {(row["filename"], choices[row["run"]]): row["caption"] for row in rows}


def test_each_choice_is_a_request_of_its_own_and_srgb_converts(photos, tmp_path, command):
    words = ("annotate", photos, *ASKED, "--output", tmp_path / "out", "--max-failure-rate", "1")
    assert "ledger   3 requests = 3 in data/ + 0 in errors/" in command(*words)[1]
    status, stdout, _ = command(*words, "--colour-profiles", "srgb")
    assert status == 0 and "ledger   3 requests = 2 in data/ + 1 in errors/" in stdout
    for choice in ("srgb", "ignore"):
        assert "ledger   0 requests = 0 in data/ + 0 in errors/" in command(*words, "--colour-profiles", choice)[1]
    found = captions(tmp_path / "out")
    assert found["profile.png", "srgb"] == found["swapped.png", "srgb"] == found["swapped.png", "ignore"]
    assert found["profile.png", "ignore"] == found["broken.png", "ignore"] != found["profile.png", "srgb"]
    (failure,) = (row for path in tmp_path.glob("out/errors/*.parquet") for row in pq.read_table(path).to_pylist())
    assert (failure["filename"], failure["stage"]) == ("broken.png", "decode")
    assert "annotate it with --colour-profiles ignore" in failure["message"]
    assert "<dt>colour profiles</dt><dd>ignore</dd>" in (tmp_path / "out/report.html").read_text()


def test_estimate_decodes_as_annotate_does(photos, command):
    words = ("estimate", photos, *ASKED, "--sample", "3")
    assert " 0 % errors" in command(*words)[1]
    assert " 33.3 % errors" in command(*words, "--colour-profiles", "srgb")[1]


@pytest.mark.parametrize("name", ["annotate", "estimate"])
def test_another_choice_is_refused(photos, tmp_path, command, name):
    output = ("--output", tmp_path / "out") if name == "annotate" else ()
    status, stdout, stderr = command(name, photos, *ASKED, *output, "--colour-profiles", "p3")
    assert status == 2 and not stdout
    assert "--colour-profiles: invalid choice: 'p3' (choose from 'ignore', 'srgb')" in stderr
