"""Arrow files: both formats, all columns and some of them, cells, and damage."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pytest

from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.manifest import read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns
from moondream_beam.transforms.io.containers.arrow import ArrowFile

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FORMATS = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}
ROWS = 40
TABLE = pa.table(
    {
        "number": [1, None, 3, 4] * 10,
        "text": ["x", None, "zz", "\u00e9"] * 10,
        "view": pa.array(["a text of more than twelve bytes", None, "", "b"] * 10, pa.string_view()),
        "image": pa.array([{"bytes": b"abc", "path": "p"}, None, {"bytes": b"", "path": None}, {}] * 10, STRUCT),
        "list": pa.array([[1.5], None, [], [2.5, 3.5]] * 10, pa.large_list(pa.float32())),
        "fixed": pa.array([[1, 2], None, [3, 4], [5, 6]] * 10, pa.list_(pa.int8(), 2)),
        "map": pa.array([[("k", 1)], None, [], [("z", 2)]] * 10, pa.map_(pa.string(), pa.int64())),
        "null": pa.nulls(ROWS),
        "word": pa.array(["u", "v", None, "u"] * 10).dictionary_encode(),
        "flag": [True, None, False, True] * 10,
    }
)


def written(make: Callable[..., Any], table: pa.Table = TABLE, rows: int = 15, **options: Any) -> bytes:
    """Return a table as an Arrow file with batches of ``rows``."""
    file = io.BytesIO()
    with make(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return file.getvalue()


def read(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """Return columns of an Arrow file."""
    return pa.Table.from_batches(ArrowFile("a.arrow", io.BytesIO(content)).iter_batches(7, columns=columns))


class _Counted(io.BytesIO):
    num_bytes = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.num_bytes += len(content)
        return content


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_all_types_are_read_as_they_were_written(make: Callable[..., Any], compression: str | None) -> None:
    content = written(make, compression=compression)
    assert ArrowFile("a", io.BytesIO(content)).group_rows == [15, 15, 10]
    assert read(content).to_pylist() == TABLE.to_pylist()
    for name in TABLE.column_names:
        assert read(content, [name]).column(name).to_pylist() == TABLE.column(name).to_pylist(), name
    leaf = read(content, ["image.path", "flag"])
    paths = [row["image"] and {"path": row["image"]["path"]} for row in TABLE.to_pylist()]
    assert leaf.column("image").to_pylist() == paths
    assert leaf.column("flag").equals(TABLE.column("flag").cast(leaf.schema.field("flag").type))


@pytest.mark.parametrize("legacy", [False, True])
def test_streams_of_old_writers_and_without_an_end_mark_are_read(legacy: bool) -> None:
    content = written(pa.ipc.new_stream, use_legacy_format=legacy)
    assert read(content).num_rows == read(content[: -4 if legacy else -8]).num_rows == ROWS


def test_files_of_polars_are_read() -> None:
    frame = polars.DataFrame({"text": ["a text of more than twelve bytes", None], "number": [1, 2], "word": ["x", "y"]})
    for table in (frame, frame.with_columns(polars.col("word").cast(polars.Categorical))):
        for write in (table.write_ipc, table.write_ipc_stream):
            file = io.BytesIO()
            write(file)
            assert read(file.getvalue()).to_pylist() == frame.to_dicts()
            assert read(file.getvalue(), ["text"]).column("text").to_pylist() == frame["text"].to_list()


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_only_the_buffers_of_the_wanted_columns_are_read(make: Callable[..., Any]) -> None:
    """Otherwise a listing would read all pictures."""
    pictures = pa.array([{"bytes": bytes(100_000), "path": "p"}] * 20, STRUCT)
    file = _Counted(written(make, pa.table({"image": pictures, "label": [1] * 20})))
    table = ArrowFile("a", file)
    assert sum(len(batch) for batch in table.iter_batches(10, columns=["image.path", "label"])) == 20
    assert file.num_bytes < 20_000
    assert sum(len(batch) for batch in table.iter_batches(10, columns=["image"])) == 20
    assert file.num_bytes > 2_000_000


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_damage_is_an_error_that_says_so(make: Callable[..., Any]) -> None:
    """A wrong offset could end the process."""
    content, draw, failed = written(make), random.Random(5), 0
    for number in range(400):
        damaged = bytearray(content)
        if number % 3:
            for _ in range(3):
                damaged[draw.randrange(3000)] = draw.randrange(256)
        else:
            del damaged[draw.randrange(len(damaged)) :]
        try:
            [batch.to_pylist() for batch in ArrowFile("a", io.BytesIO(damaged)).iter_batches(7)]
        except (ValueError, pa.ArrowInvalid):
            failed += 1
    assert failed > 100
    for other in (b"", b"FEA1" + bytes(100), b"PAR1" + bytes(100), b"a,b\n1,2\n" * 20):
        with pytest.raises(ValueError, match=r"set\.arrow is not an Arrow file"):
            ArrowFile("set.arrow", io.BytesIO(other))


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.struct([("bytes", pa.binary_view())])])
def test_pictures_are_listed_and_fetched_with_kept_columns(
    tmp_path: Path, make: Callable[..., Any], kind: pa.DataType
) -> None:
    path, contents = str(tmp_path / "set.arrow"), [bytes([number]) * (number + 1) for number in range(40)]
    values = [
        {"bytes": content, "path": f"{number}.png"} if pa.types.is_struct(kind) else content
        for number, content in enumerate(contents)
    ]
    table = pa.table({"image": pa.array(values, kind), "label": list(range(40))})
    Path(path).write_bytes(written(make, table, rows=12))
    columns = check_columns([path], Columns(image="image"), ["label"])
    refs = list(read_manifest(path, columns))
    names = [f"/{number}.png" if kind == STRUCT else "" for number in range(40)]
    assert [ref.uri for ref in refs] == [f"{path}#image/{number + 1}{name}" for number, name in enumerate(names)]
    fetch = Fetcher()
    assert [fetch(ref.location) for ref in refs] == contents
    assert [ref.columns for ref in read_manifest(path, columns)][7] == ((7,),) * len(refs[7].columns)


def test_paths_in_an_arrow_file_are_pictures(tmp_path: Path) -> None:
    path = tmp_path / "list.feather"
    path.write_bytes(written(pa.ipc.new_file, pa.table({"url": ["a.jpg", "https://example.com/b.jpg"]})))
    uris = [ref.uri for ref in read_manifest(str(path), Columns("url"))]
    assert uris == [str(tmp_path / "a.jpg"), "https://example.com/b.jpg"]
