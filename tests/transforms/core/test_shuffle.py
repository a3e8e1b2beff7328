"""Items survive packing, and each picture passes once."""

from __future__ import annotations

import apache_beam as beam
import pytest
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Query
from moondream_beam.transforms.core import shuffle as module
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.core.shuffle import (
    NUM_HASH_BUCKETS,
    DistinctRefs,
    PackBy,
    Packer,
    hash_bucket,
    pack,
    unpack,
    unpack_all,
)
from moondream_beam.transforms.io.containers.location import Member

REFS = [ImageRef(f"/photos/{index}.jpg", f"caf\udce9 {index}.jpg", (Query("Why?"),)) for index in range(1000)]


def test_unpack_returns_what_was_packed() -> None:
    assert unpack(pack(REFS)) == REFS
    assert list(unpack_all([pack(REFS[:3]), pack([]), pack(REFS[3:5])])) == REFS[:5]


def test_a_packed_reference_takes_less_than_20_bytes() -> None:
    assert len(pack(REFS)) < 20 * len(REFS)


def test_a_packed_member_of_an_archive_takes_some_bytes() -> None:
    members = [Member("/sets/a.tar", 1000 * index, 900 + index % 7, f"{index:05}.jpg") for index in range(1000)]
    refs = [ImageRef(member.uri, member.name, inside=member) for member in members]
    assert unpack(pack(refs)) == refs and len(pack(refs)) < 25 * len(refs)


def test_keys_are_spread_over_all_buckets() -> None:
    buckets = {hash_bucket(ImageRef(f"/{index}", "").key) for index in range(50_000)}
    assert len(buckets) > 0.99 * NUM_HASH_BUCKETS and max(buckets) < NUM_HASH_BUCKETS


def test_a_packer_packs_at_the_limit_and_on_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED", 10)
    packer = Packer()
    packs = [packed for index in range(25) for packed in packer.add(index % 2, index)]
    assert [(number, len(unpack(packed))) for number, packed in packs] == [(0, 5), (1, 5)] * 2
    assert sorted(unpack_all(packed for _, packed in [*packs, *packer.flush()])) == list(range(25))
    assert list(packer.flush()) == []


def test_pack_by_packs_every_item_by_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED", 7)
    packs = collect(lambda pipeline: pipeline | beam.Create(range(100)) | beam.ParDo(PackBy(lambda number: number % 3)))
    assert all(number % 3 == bucket for bucket, packed in packs for number in unpack(packed))
    assert sorted(unpack_all(packed for _, packed in packs)) == list(range(100))


def test_distinct_refs_keeps_the_first_filename_per_key() -> None:
    twice = [*REFS, *(ref._replace(filename=f"b{ref.filename}") for ref in REFS[:10]), ImageRef("/photos/11.jpg", "z")]
    refs = collect(lambda pipeline: pipeline | beam.Create(twice) | DistinctRefs())
    assert sorted(ref.uri for ref in refs) == sorted(ref.uri for ref in REFS)
    assert {ref.filename for ref in refs if ref.uri in {"/photos/3.jpg", "/photos/11.jpg"}} == {
        "b" + REFS[3].filename,
        REFS[11].filename,
    }


def test_a_packed_reference_to_a_url_takes_less_than_200_bytes() -> None:
    """The local runner holds all elements that go through a shuffle in memory."""
    refs = [
        ImageRef(f"https://images.example.org/collection/{index:09}.jpg", f"{index:09}.jpg") for index in range(9999)
    ]
    packs = collect(lambda pipeline: pipeline | beam.Create(refs) | beam.ParDo(PackBy(module.ref_bucket)))
    assert sum(len(packed) for _, packed in packs) < 200 * len(refs)
