"""Pictures are named by what is in them, so that the same come together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from pipes import collect

import apache_beam as beam
import pytest
from PIL import Image

from moondream_beam.transforms import dedup
from moondream_beam.transforms.dedup import NameByBytes
from moondream_beam.transforms.homes import home_of
from moondream_beam.transforms.records import ImageRef


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Thirty files of three pictures."""
    for index in range(30):
        Image.new("RGB", (1 + index % 3, 2), "red").save(tmp_path / f"{index:02}.png")
    return [ImageRef(str(path), path.name) for path in sorted(tmp_path.iterdir())]


def test_pictures_are_named_by_their_bytes_and_what_cant_be_read_by_its_place(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "REFS_AT_ONCE", 7)
    gone = ImageRef("/nowhere.jpg", "")
    named = collect(lambda pipeline: pipeline | beam.Create([*refs, gone]) | beam.ParDo(NameByBytes()))
    assert sorted(ref for _, ref in named) == sorted([*refs, gone])
    assert Counter(Counter(name for name, _ in named).values()) == {10: 3, 1: 1}
    assert {ref: name for name, ref in named}[gone] == gone.key


def test_what_lies_in_a_stream_stays_with_its_neighbours_and_is_not_read() -> None:
    together = [ImageRef(f"tar:{place}:9:/nowhere.tar.gz#{place}.jpg", "") for place in (512, 2048)]
    together += [ImageRef(f"parquet:0:{row}:/nowhere.parquet#image/{row + 1}", "") for row in range(2)]
    named = collect(lambda pipeline: pipeline | beam.Create(together) | beam.ParDo(NameByBytes()))
    assert {ref: name for name, ref in named} == {ref: home_of(ref) for ref in together}
