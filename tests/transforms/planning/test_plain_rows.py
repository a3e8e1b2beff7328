"""What is planned in columns or in fewer steps is the same as what is planned row by row."""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput
from support.data.echo import Echo

from moondream_beam import Caption, Detect, ImageRef, Query
from moondream_beam.models.tasks import Task
from moondream_beam.transforms.core.records import Job, Skipped
from moondream_beam.transforms.core.ref_columns import split_plain
from moondream_beam.transforms.core.shuffle import hash_bucket, pack, pack_columns, ref_bucket, unpack
from moondream_beam.transforms.core.summary import sum_counts
from moondream_beam.transforms.inputs import manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns
from moondream_beam.transforms.io.containers.location import Member
from moondream_beam.transforms.planning.completed import PackedIds, bucketed_ids, by_bucket, short_id
from moondream_beam.transforms.planning.locality import shard_key
from moondream_beam.transforms.planning.plain_rows import PlainRows
from moondream_beam.transforms.planning.plan import _DropCompleted

TASKS: tuple[Task, ...] = (Caption(), Detect("dog"))
NASTY = (
    "/a b.jpg", "/\udcff.jpg", "https://a.example/x.jpg?token=1", "https://a.example/x.jpg?token=2", "data:,abc",
    "https://a.example/x.jpg?X-Amz-Signature=1", "https://a.example/x.jpg", "s3://bucket//x", "/\u00e9.png",
)  # fmt: skip


def refs_of(number: random.Random) -> list[ImageRef]:
    """Return plain and other references; some of them name the same picture."""
    uris = [*NASTY, *(f"https://images.example.org/{index}.jpg" for index in range(20))]
    # The file name is the end of nearly each URI.
    refs = [ImageRef(uri, f"{place}.jpg" if place % 5 == 4 else uri[-5:]) for place, uri in enumerate(uris)]
    for uri in number.choices(uris, k=6):
        refs.append(ImageRef(uri, number.choice("ab"), number.choice([(), (Query("a?"),), TASKS, TASKS[:1] * 2])))
    refs += [
        ImageRef(uris[-1], "kept", (Caption(),), ((1, "x"),)),
        ImageRef("/broken", "broken", problem="no such file"),
        ImageRef("/a.tar/b.jpg", "b.jpg", inside=Member("/a.tar", 512, 10, "b.jpg")),
        ImageRef("/notes", "notes.txt", skipped=Skipped("files ending in .txt", 3)),
    ]
    number.shuffle(refs)
    return refs


def drop(job: Job, retry: bool, packs: list[bytes], done: list[bytes], *, row_by_row: bool) -> tuple[Any, ...]:
    step = _DropCompleted(job, retry)
    step.setup()
    assert step._plain
    if row_by_row:
        step._plain = None
    found = list(step.process((7, (packs, done))))
    retried = [each.value for each in found if isinstance(each, TaggedOutput)]
    kept = [each for each in found if not isinstance(each, TaggedOutput)]
    assert {number for (number, _), _ in kept} == {7}
    items = [item for (_, packed), _ in kept for item in unpack(packed)]
    # References as columns have no key beside them.
    keyed = sorted(item if not isinstance(item, ImageRef) else (shard_key(item), item) for item in items)
    return keyed, sum_counts(count for _, count in kept), sorted(retried)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("retry", [False, True])
def test_plain_pictures_are_planned_like_all_others(seed: int, retry: bool) -> None:
    number = random.Random(seed)
    job, refs = Job(TASKS, Echo(), run="now"), refs_of(number)
    ids = [short_id(job.id_of(ref, task)) for ref in refs for task in (*TASKS, Query("a?"))]
    # Some pictures have rows of all tasks, some of one, and some rows are in data/ and in errors/.
    whole = number.sample(refs, 8)
    answered = [*number.sample(ids, 9), *(short_id(job.id_of(ref, task)) for ref in whole for task in TASKS)]
    failed = number.sample(ids, number.choice([0, 9]))
    columns, others = split_plain(refs)
    assert columns and columns.num_rows > 15
    packs = [pack(others[:5]), pack_columns(columns), pack(others[5:])]
    done = [pack([PackedIds("", b"".join(answered)), PackedIds("errors/part-a", b"".join(failed))])]
    ours = drop(job, retry, packs, done, row_by_row=False)
    assert ours == drop(job, retry, packs, done, row_by_row=True)


def test_a_job_with_one_task_twice_has_no_plain_pictures() -> None:
    assert PlainRows.of(Job((Caption(), Caption()), Echo()), False) is None
    assert PlainRows.of(Job((), Echo()), False) is None


def test_packs_keep_every_field_of_references_and_the_types_of_tasks() -> None:
    plain = [ImageRef(uri, str(place)) for place, uri in enumerate(NASTY)]
    equal = [ImageRef("/a", "a", (Detect("dog", 1),)), ImageRef("/b", "b", (Detect("dog", True),))]
    mixed = [*plain, ImageRef("/c", "c", problem="none"), ImageRef("/d", "d", columns=((1,),), tasks=(Caption(),))]
    for items in (plain, equal, mixed, [("ab", ref) for ref in plain], [("ab", ref) for ref in mixed], [], [1, "b"]):
        found = unpack(pack(items))
        assert found == items and list(map(type, found)) == list(map(type, items))
    assert [type(ref.tasks[0].max_objects) for ref in unpack(pack(equal))] == [int, bool]
    assert len(pack([ImageRef(f"/{index}", "a") for index in range(999)])) < 9000


@pytest.mark.parametrize("uri", NASTY)
def test_the_bucket_of_a_reference_is_that_of_its_key(uri: str) -> None:
    assert ref_bucket(ImageRef(uri, "")) == hash_bucket(ImageRef(uri, "").key)


def row_by_row(rows: list[tuple[Any, Any]]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for key, id in rows:
        try:
            found[hash_bucket(key)] = found.get(hash_bucket(key), b"") + short_id(id)
        except (ValueError, TypeError):
            continue
    return found


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_ids_of_a_batch_are_those_of_its_rows(kind: pa.DataType) -> None:
    names = [sha256(str(index).encode()).hexdigest() for index in range(5000)]
    others = [
        ("mine", names[1]),
        (names[1][:20], "42"),
        (names[2][:20], "z" * 64),
        (None, names[3]),
        (names[4][:20], None),
    ]
    others += [("\u00e9" * 10, names[1]), (names[5][:20], "\u00e9" * 32), ("", "")]
    rows = [*((name[:20], name[::-1]) for name in names), *others, (names[6][:20].upper(), names[6].upper())]
    random.Random(1).shuffle(rows)
    keys, ids = (pa.array(column, pa.string()).cast(kind) for column in zip(*rows, strict=True))
    assert dict(by_bucket([bucketed_ids(keys, ids)])) == row_by_row(rows)
    assert dict(by_bucket([bucketed_ids(keys[17:], ids[17:])])) == row_by_row(rows[17:])
    parts = [bucketed_ids(keys[start : start + 700], ids[start : start + 700]) for start in range(0, len(rows), 700)]
    assert dict(by_bucket(parts)) == row_by_row(rows)
    assert list(by_bucket([bucketed_ids(keys[:0], ids[:0])])) == list(by_bucket([])) == []


def test_plain_urls_of_a_manifest_give_the_references_of_all_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [
        "https://a.example/x.jpg", "http://a.b.example/c/d-e_f.~g/h.png", "https://a.example/", "https://a.example",
        "https://a.example/a%20b.jpg", "https://a.example:80/x.jpg", "https://u:p@a.example/x.jpg", "HTTPS://A.example/x",
        "https://a.example/x.jpg?b=1", "https://localhost/x.jpg", "https://a.example//x.jpg", "https://a.example/../x",
        " https://a.example/x.jpg", "https://a..example/x", "https://a.example/x.tar", "a.example/x.jpg", "x.jpg",
        "https://a.example/eyJhbGci.eyJzdWIi.abc", "https://a.example/.", "",
    ]  # fmt: skip
    path = tmp_path / "urls.csv"
    path.write_text("url,other\n" + "".join(f"{url},1\n" for url in urls))
    plain = list(manifest.read_manifest(str(path), Columns("url")))
    assert plain[1] == ImageRef(urls[1], "h.png") and len(plain) == len(urls)
    monkeypatch.setattr(manifest, "_PLAIN_URL", manifest.re.compile("(?!)"))
    assert plain == list(manifest.read_manifest(str(path), Columns("url")))
