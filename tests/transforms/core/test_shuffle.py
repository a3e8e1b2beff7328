"""Many small things as one element, and each picture once."""

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


def test_what_is_packed_comes_out_as_it_was() -> None:
    assert unpack(pack(REFS)) == REFS
    assert list(unpack_all([pack(REFS[:3]), pack([]), pack(REFS[3:5])])) == REFS[:5]


def test_a_packed_reference_takes_some_bytes() -> None:
    assert len(pack(REFS)) < 20 * len(REFS)


def test_a_packed_member_of_an_archive_takes_some_bytes() -> None:
    members = [Member("/sets/a.tar", 1000 * index, 900 + index % 7, f"{index:05}.jpg") for index in range(1000)]
    refs = [ImageRef(member.uri, member.name, inside=member) for member in members]
    assert unpack(pack(refs)) == refs and len(pack(refs)) < 25 * len(refs)


def test_keys_spread_over_all_buckets() -> None:
    buckets = {hash_bucket(ImageRef(f"/{index}", "").key) for index in range(50_000)}
    assert len(buckets) > 0.99 * NUM_HASH_BUCKETS and max(buckets) < NUM_HASH_BUCKETS


def test_a_packer_holds_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 10)
    packer = Packer()
    packs = [packed for index in range(25) for packed in packer.add(index % 2, index)]
    assert [(number, len(unpack(packed))) for number, packed in packs] == [(0, 5), (1, 5)] * 2
    assert sorted(unpack_all(packed for _, packed in [*packs, *packer.rest()])) == list(range(25))
    assert list(packer.rest()) == []


def test_a_pipeline_packs_all_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 7)
    packs = collect(lambda pipeline: pipeline | beam.Create(range(100)) | beam.ParDo(PackBy(lambda number: number % 3)))
    assert all(number % 3 == bucket for bucket, packed in packs for number in unpack(packed))
    assert sorted(unpack_all(packed for _, packed in packs)) == list(range(100))


def test_of_references_to_one_picture_the_first_by_name_comes_out() -> None:
    twice = [*REFS, *(ref._replace(filename=f"b{ref.filename}") for ref in REFS[:10]), ImageRef("/photos/11.jpg", "z")]
    refs = collect(lambda pipeline: pipeline | beam.Create(twice) | DistinctRefs())
    assert sorted(ref.uri for ref in refs) == sorted(ref.uri for ref in REFS)
    assert {ref.filename for ref in refs if ref.uri in {"/photos/3.jpg", "/photos/11.jpg"}} == {
        "b" + REFS[3].filename,
        REFS[11].filename,
    }


def test_a_manifest_of_many_rows_is_planned_in_little_memory() -> None:
    """What the local runner holds of a plan, as it holds all that goes through a shuffle."""
    refs = [
        ImageRef(f"https://images.example.org/collection/{index:09}.jpg", f"{index:09}.jpg") for index in range(9999)
    ]
    packs = collect(lambda pipeline: pipeline | beam.Create(refs) | beam.ParDo(PackBy(module.number_of_ref)))
    assert sum(len(packed) for _, packed in packs) < 200 * len(refs)
