"""Images in a column of Parquet."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.access_order import ask
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption, Query, Task
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images import fetch as fetching
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.manifest import ReadManifests, read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns
from moondream_beam.transforms.io.containers import reader
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy
from moondream_beam.transforms.planning.locality import read_order, shard_key

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LAYOUTS: dict[str, pa.DataType] = {
    "struct": STRUCT,
    "large struct": pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())]),
    "struct without a path": pa.struct([("bytes", pa.binary())]),
    "binary": pa.binary(),
    "large binary": pa.large_binary(),
    "binary view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
    "struct of views": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
    "struct of dictionaries": pa.struct(
        [("bytes", pa.dictionary(pa.int8(), pa.large_binary())), ("path", pa.dictionary(pa.int8(), pa.string()))]
    ),
}


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10 + number, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, pictures: list[Any], kind: pa.DataType = STRUCT, rows: int = 4, **columns: list[Any]) -> str:
    """A file with one image a row, in row groups of ``rows``."""
    pq.write_table(pa.table({"image": pa.array(pictures, kind), **columns}), path, row_group_size=rows)
    return str(path)


def cells(count: int) -> list[dict[str, Any]]:
    return [{"bytes": picture(number), "path": f"{number}.png"} for number in range(count)]


def references(path: str, *tasks: Task, **options: Any) -> list[ImageRef]:
    return list(read_manifest(path, Columns(image=options.pop("image", "image"), tasks=tasks, **options)))


def read(fetch: Fetcher, refs: list[ImageRef]) -> list[bytes]:
    return ask(fetch, [ref.location for ref in refs])


def test_each_row_is_an_image_with_its_path_as_name_and_its_number_in_the_uri(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [*cells(5), {"bytes": picture(5), "path": None}, cells(1)[0]])
    refs = references(path)
    assert [ref.filename for ref in refs] == [*(f"{number}.png" for number in range(5)), "a.parquet#6", "0.png"]
    assert [ref.uri for ref in refs[4:]] == [f"{path}#image/5/4.png", f"{path}#image/6", f"{path}#image/7/0.png"]
    assert len({ref.key for ref in refs}) == 7
    assert [Fetcher()(ref.location) for ref in refs] == [picture(number) for number in (*range(6), 0)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_supported_column_type_is_read(layout: str, tmp_path: Path) -> None:
    kind = LAYOUTS[layout]
    told = cells(6) if pa.types.is_struct(kind) else [cell["bytes"] for cell in cells(6)]
    # pyarrow can't write views in structs in several row groups.
    path = write(tmp_path / "a.parquet", told, kind, rows=6 if "views" in layout else 4)
    check_columns([path], Columns(image="image"), [])
    refs, fetch = references(path), Fetcher()
    assert [fetch(ref.location) for ref in refs] == [picture(number) for number in range(6)]
    has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    assert refs[5].filename == ("5.png" if has_path else "a.parquet#6")


def test_columns_of_one_file_are_different_images_whatever_their_names(tmp_path: Path) -> None:
    names = ["image", "a/b:#1.parquet#x/1", "bytes", "struct.bytes", "größe"]
    columns = {name: pa.array([{"bytes": picture(place), "path": "x.png"}], STRUCT) for place, name in enumerate(names)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet#b.parquet")
    refs = [references(str(tmp_path / "a.parquet#b.parquet"), image=name)[0] for name in names]
    assert len({ref.key for ref in refs}) == len(names)
    assert [ref.inside.column for ref in refs] == names
    fetch = Fetcher()
    assert [fetch(ref.location) for ref in refs] == [picture(place) for place in range(len(names))]


def test_a_value_that_python_can_not_hold_fails_its_row_only(tmp_path: Path) -> None:
    moments = pa.array([1, 2**62, 3], pa.timestamp("us"))
    pq.write_table(pa.table({"image": [b"x"] * 3, "when": moments}), tmp_path / "a.parquet")
    columns = Columns(image="image", tasks=(Caption(),), kept=(pa.field("when", pa.timestamp("us")),))
    refs = list(read_manifest(str(tmp_path / "a.parquet"), columns))
    assert [(ref.uri[-2:], ref.problem[:40]) for ref in refs] == [
        ("/1", ""),
        ("/2", "a.parquet#2: a value can't be read: date"),
        ("/3", ""),
    ]


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        ("picture", "no column 'picture'; it has image, text, number, many"),
        ("text", "'text' holds string: pictures are binary"),
        ("number", "'number' holds int64"),
        ("many", "'many' holds list"),
        ("nested", "'nested' holds struct<path: string>"),
    ],
)
def test_a_column_that_can_not_hold_images_is_refused(tmp_path: Path, column: str, complaint: str) -> None:
    columns = {"text": ["x"], "number": [1], "many": [cells(1)], "nested": [{"path": "x"}]}
    path = write(tmp_path / "a.parquet", cells(1), **columns)
    with pytest.raises(ValueError, match=complaint):
        check_columns([path], Columns(image=column), [])
    # In a later file the same fault is a row in errors/.
    (broken,) = references(path, image=column)
    assert complaint.split(";")[0].split(":")[0] in broken.problem and broken.uri == path


def test_an_image_column_in_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image\nx\n")
    with pytest.raises(ValueError, match="is no Parquet or Arrow file"):
        check_columns([f"{tmp_path}/a.csv"], Columns(image="image"), [])


def test_a_manifest_needs_exactly_one_image_column(tmp_path: Path) -> None:
    for given in ({}, {"uri": "url", "image": "image"}):
        with pytest.raises(ValueError, match="one column of pictures"):
            Columns(**given)
    path = write(tmp_path / "a.parquet", cells(1))
    for keep, columns in ((["image"], Columns(image="image")), ([], Columns(image="image", filename="image"))):
        with pytest.raises(ValueError, match="holds the pictures"):
            check_columns([path], columns, keep)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (None, "the row has no picture"),
        ({"bytes": None, "path": "/etc/passwd"}, "embed the image bytes .* or list the paths with --uri-column"),
        ({"bytes": b"", "path": "a.png"}, "empty"),
        ({"bytes": b"x" * 2000, "path": "a.png"}, "larger than"),
    ],
)
def test_a_row_without_an_image_fails_alone(
    tmp_path: Path, cell: dict[str, Any] | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 1000)
    first, bad, last = references(write(tmp_path / "a.parquet", [*cells(1), cell, *cells(1)]))
    fetch = Fetcher()
    assert fetch(first.location) == fetch(last.location) == picture(0)
    with pytest.raises(ValueError, match=why):
        fetch(bad.location)


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_images_in_a_bucket_are_read_once_and_only_when_they_are_fetched(
    kind: str, bucket_of: Callable[[str], Bucket], tmp_path: Path, small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CACHE_BYTES", 1 << 20)
    bucket, draw = bucket_of(kind), random.Random(0)
    told = [{"bytes": draw.randbytes(40_000), "path": f"{number}.png"} for number in range(12)]
    content = Path(write(tmp_path / "a.parquet", told)).read_bytes()
    uri = bucket.put("sets/a.parquet", content)
    bucket.proxy.reset()
    refs = references(uri)
    assert bucket.proxy.sent < len(content) // 4
    bucket.proxy.reset()
    assert read(Fetcher(), refs) == [cell["bytes"] for cell in told]
    assert bucket.proxy.sent < len(content) * 1.25


def test_images_can_be_read_once_the_store_has_recovered(
    bucket_of: Callable[[str], Bucket], tmp_path: Path, small_blocks: int
) -> None:
    bucket, told = bucket_of("s3"), cells(12)
    refs = references(bucket.put("a.parquet", Path(write(tmp_path / "a.parquet", told)).read_bytes()))
    fetch = Fetcher(retry_policy=RetryPolicy(max_attempts=3, initial_delay_s=0.001))
    assert fetch(refs[0].location) == picture(0)
    bucket.proxy.rule = lambda method, path, before: 503
    for ref in refs[4:6]:
        with pytest.raises(FetchError) as error:
            fetch(ref.location)
        assert error.value.fault.retryable and error.value.fault.attempts == 3
    bucket.proxy.reset()
    assert read(fetch, refs) == [cell["bytes"] for cell in told]


def test_a_group_is_read_once_in_little_memory_however_many_threads_ask(tmp_path: Path, small_blocks: int) -> None:
    draw = random.Random(0)
    told = [draw.randbytes(draw.randrange(1000, 5000)) for _ in range(4000)]
    table = pa.table({"image": pa.array(told, pa.binary())})
    options = {"write_batch_size": 8, "data_page_size": 1000, "use_dictionary": False}
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10_000, **options)
    del table
    refs, fetch, held = references(str(tmp_path / "a.parquet")), Fetcher(), pa.total_allocated_bytes()
    most = 0
    for start in range(0, 4000, 200):
        assert read(fetch, refs[start : start + 200]) == told[start : start + 200]
        most = max(most, pa.total_allocated_bytes() - held)
    assert most < 1 << 20
    (stream,) = fetch.clients.containers.streams.open()
    assert stream.num_begins == 1


def test_rows_can_be_read_in_any_order(tmp_path: Path, small_blocks: int) -> None:
    draw = random.Random(0)
    told = [draw.randbytes(3000) for _ in range(100)]
    refs, fetch = references(write(tmp_path / "a.parquet", told, pa.binary(), rows=50)), Fetcher()
    for index in (99, 0, 70, 30, 49, 1, 98):
        assert fetch(refs[index].location) == told[index]


def test_rows_of_a_group_share_a_shard_and_are_read_in_order(tmp_path: Path) -> None:
    refs = references(write(tmp_path / "a.parquet", cells(10)))
    assert [shard_key(ref) == shard_key(refs[0]) for ref in refs] == [True] * 4 + [False] * 6
    assert len({shard_key(ref) for ref in refs}) == 3
    assert sorted(sorted(refs, key=lambda ref: ref.key), key=read_order) == refs


def test_a_file_that_became_shorter_or_lost_its_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    refs = references(write(path, cells(10)))
    write(path, cells(10), rows=7)
    assert [Fetcher()(ref.location) for ref in refs] == [picture(number) for number in range(10)]
    write(path, cells(3))
    with pytest.raises(ValueError, match="shorter"):
        Fetcher()(refs[3].location)
    with pytest.raises(ValueError, match="shorter"):
        Fetcher()(refs[9].location)
    pq.write_table(pa.table({"other": [b"x"] * 10}), path)
    with pytest.raises(ValueError, match="has changed since"):
        Fetcher()(refs[9].location)
    path.write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(ValueError, match="not a Parquet file"):
        Fetcher()(refs[0].location)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        Fetcher()(refs[0].location)


def test_a_broken_row_group_fails_its_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    refs = references(write(path, cells(12)))
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(1).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    fetch = Fetcher()
    for index, ref in enumerate(refs):
        if 4 <= index < 8:
            with pytest.raises(ValueError, match="broken"):
                fetch(ref.location)
        else:
            assert fetch(ref.location) == picture(index)


def test_batches_of_an_unexpected_length_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pq.ParquetFile.iter_batches

    def halves(*given: Any, **options: Any) -> Any:
        for batch in whole(*given, **options):
            yield from (batch.slice(0, 2), batch.slice(2))

    refs = references(write(tmp_path / "a.parquet", cells(4)))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", halves)
    with pytest.raises(ValueError, match="can't be read at once"):
        Fetcher()(refs[3].location)


def test_a_footer_that_claims_more_rows_than_bytes_is_refused(tmp_path: Path) -> None:
    (broken,) = references(write(tmp_path / "a.parquet", [None] * 1_000_000, pa.binary(), rows=1_000_000))
    assert "more rows than bytes" in broken.problem


def rows(out: Path, kind: str = "data") -> list[dict[str, Any]]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def annotate(pattern: str, out: Path, columns: Columns, keep: list[str]) -> dict[str, Any]:
    columns = check_columns([pattern], columns, keep)
    job = AnnotateToParquet(columns.tasks, Echo(), str(out), columns=columns.kept)
    (record,) = collect(lambda pipeline: pipeline | ReadManifests([pattern], columns) | job)
    return record


def test_the_whole_job_fills_prompts_by_row_and_balances(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [*cells(5), None], word=list("abcde") + ["f"], split=["train"] * 6)
    write(tmp_path / "b.parquet", cells(3), word=["x", "", "z"], split=["test"] * 3)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 none PAR1")
    columns = Columns(image="image", tasks=(Query("Is it {word}?"),))
    with pytest.raises(ValueError, match=r"c\.parquet is not a Parquet file"):
        annotate(f"{tmp_path}/*.parquet", tmp_path / "out", columns, ["split"])
    (tmp_path / "c.parquet").unlink()
    record = annotate(f"{tmp_path}/*.parquet", tmp_path / "out", columns, ["split"])
    assert record["balanced"] and record["counts"]["pending"] == 9
    told = sorted((row["filename"], row["caption"], row["split"], row["width"]) for row in rows(tmp_path / "out"))
    assert told == [
        ("0.png", "Is it a?", "train", 10),
        ("0.png", "Is it x?", "test", 10),
        ("1.png", "Is it b?", "train", 11),
        ("2.png", "Is it c?", "train", 12),
        ("2.png", "Is it z?", "test", 12),
        ("3.png", "Is it d?", "train", 13),
        ("4.png", "Is it e?", "train", 14),
    ]
    failed = {(row["filename"], row["stage"], row["uri"]) for row in rows(tmp_path / "out", "errors")}
    assert failed == {
        ("a.parquet#6", "fetch", f"{tmp_path}/a.parquet#image/6"),
        ("1.png", "list", f"{tmp_path}/b.parquet#image/2/1.png"),
    }
    assert annotate(f"{tmp_path}/*.parquet", tmp_path / "out", columns, ["split"])["counts"]["pending"] == 0


def test_a_file_written_by_datasets_is_annotated(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (20 + number, 10), (number, 0, 0)) for number in range(7)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    told = datasets.Dataset.from_dict({"image": images, "label": list("abcdefg")}, features=features)
    told.to_parquet(str(tmp_path / "train.parquet"), batch_size=3)
    columns = Columns(image="image", tasks=(Caption(),))
    record = annotate(f"{tmp_path}/train.parquet", tmp_path / "out", columns, ["label"])
    assert record["balanced"] and record["counts"]["failures"] == 0
    assert sorted((row["width"], row["label"]) for row in rows(tmp_path / "out")) == [
        (20 + number, label) for number, label in enumerate("abcdefg")
    ]
