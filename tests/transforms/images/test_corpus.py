"""Photographs, hostile files and hundreds of test images: each is one row a task, within memory limits."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.data.hostile import make_hostile
from support.data.photographs import SOURCES, opened, take_photographs
from support.running.memory_run import annotate_measured

# Made by `make corpus`: the pictures that Pillow is tested with.
CORPUS = Path(__file__).parents[3] / ".venv" / "corpus"
TASKS = 2
# Among them are two pictures of 67 megapixels, which take 0.8 GB each as their bytes become RGB, and a file of 200 MB.
MOST_BYTES = 2 << 30
# A name depends on the pattern; of two pictures of the same bytes either may have been the first.
CHANGING = ("filename", "timings", "run", "created_at", "input_tokens", "output_tokens")


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    return [row for path in (out / kind).glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def said(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of ``data/`` by id, without the columns that differ from run to run."""
    return {
        row["id"]: {column: value for column, value in row.items() if column not in CHANGING}
        for row in rows(out, "data")
    }


def balanced(record: dict[str, Any], out: Path, pictures: int) -> None:
    ids = [row["id"] for kind in ("data", "errors") for row in rows(out, kind)]
    assert len(ids) == len(set(ids)) == TASKS * pictures == record["counts"]["pending"]
    assert record["balanced"]


@pytest.mark.slow
def test_hostile_files_are_rows_and_stay_within_the_memory_limit(tmp_path: Path) -> None:
    sizes = take_photographs(tmp_path / "photos")
    fates = make_hostile(tmp_path / "hostile", opened(SOURCES["chelsea"]).convert("RGB"))
    record, memory = annotate_measured(tmp_path / "out", f"{tmp_path}/photos/*", f"{tmp_path}/hostile/*")
    balanced(record, tmp_path / "out", len(sizes) + len(fates))
    good = {name for name, is_picture in fates.items() if is_picture} | set(sizes)
    assert {row["filename"] for row in rows(tmp_path / "out", "data")} == good
    assert memory < MOST_BYTES
    annotate_measured(tmp_path / "alone", f"{tmp_path}/photos/*")
    alone = said(tmp_path / "alone")
    assert len(alone) == TASKS * len(sizes)
    assert {name: row for name, row in said(tmp_path / "out").items() if name in alone} == alone


def pictures_in(path: Path) -> int:
    if path.suffix != ".tar":
        return 1
    with tarfile.open(path) as tar:
        return len(tar.getnames())


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.exists(), reason="make corpus brings it")
def test_every_test_image_of_pillow_is_a_row(tmp_path: Path) -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) > 900
    record, memory = annotate_measured(tmp_path / "out", f"{CORPUS}/**")
    # A tar archive counts as the images in it.
    balanced(record, tmp_path / "out", sum(map(pictures_in, files)))
    failures = rows(tmp_path / "out", "errors")
    assert {row["stage"] for row in failures} <= {"fetch", "decode"} and all(row["message"] for row in failures)
    bad = {row["uri"] for row in failures}
    good = [str(path) for path in files if str(path) not in bad]
    assert len(good) > 600 and len(bad) > 100
    assert memory < MOST_BYTES
    # The good images get the same answers without the bad ones beside them.
    annotate_measured(tmp_path / "alone", *good)
    assert said(tmp_path / "out") == said(tmp_path / "alone")
