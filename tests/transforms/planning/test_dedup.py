"""Images are keyed by their content, and keep their key in all attempts of a run."""

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
from moondream_beam.transforms.planning.dedup import (
    KeyByContentHash,
    KeyedRef,
    assign_content_keys,
    delete_content_keys,
)
from moondream_beam.transforms.planning.locality import shard_key


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Return references to thirty files with three different contents."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(30):
        Image.new("RGB", (1 + index % 3, 2), "red").save(photos / f"{index:02}.png")
    return [ImageRef(str(path), path.name) for path in sorted(photos.iterdir())]


def keyed(refs: list[ImageRef], out: Path) -> list[KeyedRef]:
    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        packs = pipeline | beam.Create([(hash_bucket(ref.key), pack([("", ref)])) for ref in refs])
        counts = pipeline | "Counts" >> beam.Create([Count(pictures=len(refs))])
        return packs | KeyByContentHash(Fetcher(), str(out), "run", counts)

    return collect(build)


def test_images_are_keyed_by_their_bytes_and_unreadable_ones_by_their_path(
    refs: list[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "MAX_BATCH_REFS", 7)
    gone = ImageRef("/nowhere.jpg", "")
    found = keyed([*refs, gone], tmp_path / "out")
    assert sorted(ref for _, ref in found) == sorted([*refs, gone])
    assert Counter(Counter(key for key, _ in found).values()) == {10: 3, 1: 1}
    assert {ref: key for key, ref in found}[gone] == gone.key


def test_a_key_stays_the_same_whatever_can_be_read_later(
    refs: list[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "IMAGES_PER_FILE", 8)
    out, late = tmp_path / "out", tmp_path / "late.png"
    before = keyed([*refs, ImageRef(str(late), "late.png")], out)
    assert len(list((out / "_temporary").glob("run.content-keys-*"))) == 4
    late.write_bytes(Path(refs[0].uri).read_bytes())
    for ref in refs[::2]:
        Path(ref.uri).unlink()
    assert sorted(keyed([*refs, ImageRef(str(late), "late.png")], out)) == sorted(before)
    delete_content_keys(str(out), "run")
    assert list((out / "_temporary").iterdir()) == []
    assert sorted(keyed(refs, out)) != sorted(before)


def test_an_image_that_is_listed_later_is_keyed_by_its_path_in_every_attempt(
    refs: list[ImageRef], tmp_path: Path
) -> None:
    """The file of keys exists already. A hash of its bytes would be its key only while they can be read."""
    before = keyed(refs[1:], tmp_path / "out")
    for _ in range(2):
        assert sorted(keyed(refs, tmp_path / "out")) == sorted([*before, (refs[0].key, refs[0])])
        Path(refs[0].uri).unlink(missing_ok=True)


def test_of_two_attempts_at_once_both_use_the_keys_of_the_first(refs: list[ImageRef], tmp_path: Path) -> None:
    """The second attempt begins before the first has written its keys, and cannot read the images."""
    out = str(tmp_path / "out")
    group = (0, [pack([("", ref) for ref in refs])])

    def fail_after_the_first_attempt(uri: str) -> bytes:
        with one_at_a_time:
            if not first:
                first.extend(assign_content_keys(group, Fetcher(), out, "run"))
        raise OSError("unreachable")

    first: list[KeyedRef] = []
    one_at_a_time = threading.Lock()
    second = list(assign_content_keys(group, fail_after_the_first_attempt, out, "run"))  # type: ignore[arg-type]
    assert first == second and len({key for key, _ in first}) == 3


def test_images_in_compressed_archives_and_parquet_keep_their_shard_key_and_are_not_read(tmp_path: Path) -> None:
    inside = [Member("/nowhere.tar.gz", place, 9, f"{place}.jpg") for place in (512, 2048)]
    together = [ImageRef(member.uri, "", inside=member) for member in inside]
    together += [
        ImageRef(f"/nowhere.parquet#image/{row}", "", inside=ImageCell("/nowhere.parquet", "image", row, 0))
        for row in (1, 2)
    ]
    assert {ref: key for key, ref in keyed(together, tmp_path)} == {ref: shard_key(ref) for ref in together}
