"""Pictures are named by what is in them, so that the same come together."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import apache_beam as beam
import pytest
from PIL import Image
from support.running.beam_runs import collect

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.core.shuffle import hash_bucket, pack
from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.containers.location import ImageCell, Member
from moondream_beam.transforms.planning import dedup
from moondream_beam.transforms.planning.dedup import KeyByContentHash, Named, assign_content_keys, delete_content_keys
from moondream_beam.transforms.planning.locality import shard_key


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Thirty files of three pictures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(30):
        Image.new("RGB", (1 + index % 3, 2), "red").save(photos / f"{index:02}.png")
    return [ImageRef(str(path), path.name) for path in sorted(photos.iterdir())]


def named(refs: list[ImageRef], out: Path) -> list[Named]:
    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        packs = pipeline | beam.Create([(hash_bucket(ref.key), pack([("", ref)])) for ref in refs])
        counts = pipeline | "Counts" >> beam.Create([Count(pictures=len(refs))])
        return packs | KeyByContentHash(Fetcher(), str(out), "run", counts)

    return collect(build)


def test_pictures_are_named_by_their_bytes_and_what_cant_be_read_by_its_place(
    refs: list[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "REFS_AT_ONCE", 7)
    gone = ImageRef("/nowhere.jpg", "")
    found = named([*refs, gone], tmp_path / "out")
    assert sorted(ref for _, ref in found) == sorted([*refs, gone])
    assert Counter(Counter(name for name, _ in found).values()) == {10: 3, 1: 1}
    assert {ref: name for name, ref in found}[gone] == gone.key


def test_a_name_once_found_stays_whatever_can_be_read_later(
    refs: list[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "NAMES_A_FILE", 8)
    out, late = tmp_path / "out", tmp_path / "late.png"
    before = named([*refs, ImageRef(str(late), "late.png")], out)
    assert len(list((out / "_temporary").glob("run.names-*"))) == 4
    late.write_bytes(Path(refs[0].uri).read_bytes())
    for ref in refs[::2]:
        Path(ref.uri).unlink()
    assert sorted(named([*refs, ImageRef(str(late), "late.png")], out)) == sorted(before)
    delete_content_keys(str(out), "run")
    assert list((out / "_temporary").iterdir()) == []
    assert sorted(named(refs, out)) != sorted(before)


def test_a_picture_that_comes_later_is_named_by_its_place_in_every_attempt(
    refs: list[ImageRef], tmp_path: Path
) -> None:
    """Names are written once: by its bytes it would be named only as long as they can be read."""
    before = named(refs[1:], tmp_path / "out")
    for _ in range(2):
        assert sorted(named(refs, tmp_path / "out")) == sorted([*before, (refs[0].key, refs[0])])
        Path(refs[0].uri).unlink(missing_ok=True)


def test_of_two_attempts_at_once_both_take_the_names_of_the_first(refs: list[ImageRef], tmp_path: Path) -> None:
    """The second could not read what the first could, and had begun before names were written."""
    out = str(tmp_path / "out")
    group = (0, [pack([("", ref) for ref in refs])])

    def meanwhile(uri: str) -> bytes:
        with one_at_a_time:
            if not first:
                first.extend(assign_content_keys(group, Fetcher(), out, "run"))
        raise OSError("it flickers")

    first: list[Named] = []
    one_at_a_time = threading.Lock()
    second = list(assign_content_keys(group, meanwhile, out, "run"))  # type: ignore[arg-type]
    assert first == second and len({name for name, _ in first}) == 3


def test_what_lies_in_a_stream_stays_with_its_neighbours_and_is_not_read(tmp_path: Path) -> None:
    inside = [Member("/nowhere.tar.gz", place, 9, f"{place}.jpg") for place in (512, 2048)]
    together = [ImageRef(member.uri, "", inside=member) for member in inside]
    together += [
        ImageRef(f"/nowhere.parquet#image/{row}", "", inside=ImageCell("/nowhere.parquet", "image", row, 0))
        for row in (1, 2)
    ]
    assert {ref: name for name, ref in named(together, tmp_path)} == {ref: shard_key(ref) for ref in together}
