"""Folders of ``datasets.save_to_disk`` as input: of one split or several, with their columns, and exported again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from support.running.beam_runs import collect

from moondream_beam.pipelines.beam_yaml import ReadManifest

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def saved(pictures: Path, tmp_path: Path) -> Path:
    """Return the folder of a saved dataset: two pictures in the split train, and two in test."""
    names = ["a.png", "b.jpg", "c.webp", "more/d.bmp"]
    features = datasets.Features({"image": datasets.Image(), "word": datasets.Value("string")})
    rows = {"image": [str(pictures / name) for name in names], "word": names}
    whole = datasets.Dataset.from_dict(rows, features)
    parts = datasets.DatasetDict({"train": whole.select([0, 1]), "test": whole.select([2, 3])})
    parts.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_dataset_is_an_input_and_its_pictures_are_exported(
    saved: Path, tmp_path: Path, command: Command
) -> None:
    words = ("--keep-columns", "word", "--model", "tiny", "--output", tmp_path / "out", "--caption", "--no-report")
    status, stdout, stderr = command("annotate", saved, *words)
    assert status == 0, stderr
    assert "4 requests = 4 in data/ + 0 in errors/: balances" in stdout
    rows = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert {(row["word"], row["uri"]) for row in rows} == {
        (name, f"{saved}/{split}/data-00000-of-00001.arrow#image/{number}/{Path(name).name}")
        for split, names in (("train", ("a.png", "b.jpg")), ("test", ("c.webp", "more/d.bmp")))
        for number, name in enumerate(names, 1)
    }
    assert command("export", tmp_path / "out", "--to", "imagefolder", tmp_path / "set")[0] == 0
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train")
    assert {row["word"]: row["image"].size for row in loaded} == {
        row["word"]: (row["width"], row["height"]) for row in rows
    }
    status, stdout, _ = command("annotate", "--manifest", saved, "--split", "test", *words)
    assert (status, "0 requests" in stdout) == (0, True)


def test_a_split_that_is_not_there_is_refused(saved: Path, tmp_path: Path, command: Command) -> None:
    status, _, stderr = command("annotate", saved, "--split", "val", "--model", "tiny", "--output", tmp_path / "out")
    assert (status, "choose of train, test" in stderr) == (2, True)


def test_beam_yaml_reads_a_split_and_finds_the_column_of_pictures(saved: Path) -> None:
    rows = collect(lambda pipeline: pipeline | ReadManifest(path=str(saved), split="test", columns=["word"]))
    assert sorted((row.word, row.uri.partition("#")[2]) for row in rows) == [
        ("c.webp", "image/1/c.webp"),
        ("more/d.bmp", "image/2/d.bmp"),
    ]
    with pytest.raises(ValueError, match="choose of train, test"):
        ReadManifest(path=str(saved), split="val")
