"""CSV, JSON Lines and Parquet give the same rows, and broken rows and files a problem."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moondream_beam.transforms.inputs.lists import tables as module
from moondream_beam.transforms.inputs.lists.table_files import kind_of
from moondream_beam.transforms.inputs.lists.tables import TableRow, convert, read_rows, schema_of

ROWS = [{"url": "a.jpg", "n": 1}, {"url": "b, c.jpg", "n": None}, {"url": 'd "e"\n.jpg', "n": 3}]


def write(folder: Path, kind: str) -> str:
    path = folder / f"rows{kind}"
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        text = "".join(json.dumps(row) + "\n" for row in ROWS)
        if kind.startswith((".csv", ".tsv")):
            comma, second = ("\t", "b, c.jpg") if kind == ".tsv" else (",", '"b, c.jpg"')
            text = f"\ufeffurl{comma}n\r\na.jpg{comma}1\r\n" + f'{second}{comma}\r\n"d ""e""\n.jpg"{comma}3\r\n'
        content = text.encode()
        path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson", ".jsonl.gz", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = list(read_rows(write(tmp_path, kind), ["url", "n"]))
    assert [row.values["url"] for row in rows] == [row["url"] for row in ROWS]
    assert [str(row.values["n"] or "") for row in rows] == ["1", "", "3"]
    assert not any(row.problem for row in rows)


@pytest.mark.parametrize(("kind", "numbers"), [(".csv", [2, 3, 4]), (".jsonl", [1, 2, 3]), (".parquet", [1, 2, 3])])
def test_rows_have_the_line_or_row_number_counted_from_one(tmp_path: Path, kind: str, numbers: list[int]) -> None:
    assert [row.number for row in read_rows(write(tmp_path, kind), ["url"])] == numbers


def test_only_the_columns_asked_for_are_read_from_parquet(tmp_path: Path) -> None:
    assert next(read_rows(write(tmp_path, ".parquet"), ["url", "absent"])).values == {"url": "a.jpg"}


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        (".csv", [pa.string(), pa.string()]),
        (".jsonl", [pa.string(), pa.int64()]),
        (".parquet", [pa.string(), pa.int64()]),
    ],
)
def test_types_come_from_parquet_or_the_first_lines_of_json_and_are_text_in_csv(
    tmp_path: Path, kind: str, types: list[pa.DataType]
) -> None:
    schema = schema_of(write(tmp_path, kind))
    assert (schema.names, schema.types) == (["url", "n"], types)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, None], pa.bool_()),
        ([1, 2.5], pa.float64()),
        ([1, True], pa.string()),
        ([1, "1"], pa.string()),
        ([2**70], pa.string()),
        ([[1]], pa.string()),
        ([None], pa.null()),
    ],
)
def test_a_json_column_has_the_narrowest_type_that_fits_its_values(
    tmp_path: Path, values: list[Any], kind: pa.DataType
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"x": value}) + "\n" for value in values))
    assert schema_of(str(path)).field("x").type == kind


def test_broken_lines_of_json_are_rows_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"url": "a"}\n{"url": \n\n[1]\n\xff\n{"url": "b"}')
    rows = list(read_rows(str(path), ["url"]))
    assert [(row.number, row.values) for row in rows] == [
        (1, {"url": "a"}),
        (2, {}),
        (4, {}),
        (5, {}),
        (6, {"url": "b"}),
    ]
    assert ["no JSON" in row.problem for row in rows] == [False, True, True, True, False]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    for name, text in (("rows.jsonl", '{"url": "a"}'), ("rows.csv", "url\na"), ("rows.tsv", '"url"\na')):
        path = tmp_path / name
        path.write_text(f"\ufeff{text}\n")
        assert schema_of(str(path)).names == ["url"]
        assert next(read_rows(str(path), ["url"])).values == {"url": "a"}


def test_broken_lines_of_csv_are_rows_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('url,n\na,1\nb\nc,3,4\n\n"d"e,5\nf,6\n')
    rows = list(read_rows(str(path), ["url"]))
    assert [(row.number, row.values.get("url")) for row in rows] == [
        (2, "a"),
        (3, None),
        (4, None),
        (6, None),
        (7, "f"),
    ]
    problems = [row.problem for row in rows]
    assert problems[0] == problems[4] == ""
    assert problems[1].startswith("the row has 1 fields") and problems[2].startswith("the row has 3 fields")
    assert problems[3].startswith("this is ")


def test_an_unclosed_quote_is_one_row_with_a_problem_and_the_rows_after_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('url,n\na,1\n"b,2\nc,3\n')
    rows = list(read_rows(str(path), ["url"]))
    assert [(row.number, bool(row.problem)) for row in rows] == [(2, False), (3, True), (4, False)]


def test_file_names_that_are_not_utf8_are_kept_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"url\ncaf\xe9.jpg\n")
    assert next(read_rows(str(path), ["url"])).values == {"url": "caf\udce9.jpg"}


def test_a_line_above_the_limit_is_skipped_with_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * (3 << 20) + b'"}\n{"a": 1}\n')
    rows = list(read_rows(str(path), ["a"]))
    assert rows[0].problem.startswith("the line has more than 1 MiB: ")
    assert rows[0] == TableRow(1, {}, rows[0].problem) and rows[1].values == {"a": 1}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"", "none of .csv"),
        ("a.parquet.gz", b"", "none of .csv"),
        ("a.parquet", b"PAR0", "not a Parquet file"),
        ("a.csv", b"", "must name its columns"),
        ("a.csv", b"a,a\n", "each once"),
        ("a.csv", b"a,caf\xe9\n", "save the file as UTF-8"),
        ("a.csv", "a,b\n".encode("utf-16"), "save the file as UTF-8"),
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        schema_of(str(tmp_path / name))


def test_many_rows_are_read_in_little_memory(tmp_path: Path, memory_peak: Any) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("url\n" + "".join(f"https://example.org/{index}.jpg\n" for index in range(100_000)))
    before = memory_peak()
    assert sum(1 for _ in read_rows(str(path), ["url"])) == 100_000
    assert memory_peak() - before < 2 << 20


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [(3, pa.string(), "3"), ([1, "é"], pa.string(), '[1, "é"]'), (3, pa.float64(), 3), (None, pa.int64(), None)],
)
def test_a_value_is_converted_to_the_type_of_its_column(value: Any, kind: pa.DataType, kept: Any) -> None:
    assert convert(value, pa.field("x", kind)) == kept


@pytest.mark.parametrize(("value", "kind"), [("a", pa.int64()), (2**40, pa.int32()), ([1], pa.float64())])
def test_a_value_that_does_not_fit_its_column_is_refused(value: Any, kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match="column x"):
        convert(value, pa.field("x", kind))


@pytest.mark.parametrize("value", ["caf\udce9", ["\ud800"]])
def test_text_that_is_not_utf8_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="column x is not UTF-8: save the manifest as UTF-8"):
        convert(value, pa.field("x", pa.string()))


def test_the_format_follows_from_the_extension() -> None:
    assert [kind_of(name) for name in ("A.CSV", "a.jsonl.gz", "s3://b/x.parquet")] == [".csv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.parquet"])
def test_a_damaged_file_ends_with_a_row_that_has_a_problem(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    urls = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(20_000)]
    if name == "a.parquet":
        pq.write_table(pa.table({"url": urls}), path, row_group_size=5000, use_dictionary=False, compression="zstd")
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 8] = bytes(8)
    else:
        lines = ["url", *urls] if name == "a.csv.gz" else [json.dumps({"url": url}) for url in urls]
        content = bytearray(gzip.compress("\n".join(lines).encode())[:-50_000])
    path.write_bytes(content)
    *rows, last = read_rows(str(path), ["url"])
    assert 1000 < len(rows) < len(urls) and [row.values["url"] for row in rows] == urls[: len(rows)]
    assert last.problem.startswith("the file is broken from here on: ") and last.number == rows[-1].number + 1


def test_a_value_that_python_can_not_hold_fails_its_row_only(tmp_path: Path) -> None:
    moments = pa.array([1, 2**62, 3], pa.timestamp("us"))
    texts = pa.array([b"a", b"b", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"when": moments, "url": texts}), tmp_path / "a.parquet")
    rows = list(read_rows(str(tmp_path / "a.parquet"), ["when", "url"]))
    assert [(row.number, row.values.get("url"), row.problem[:23]) for row in rows] == [
        (1, "a", ""),
        (2, None, "a value can't be read: "),
        (3, None, "a value can't be read: "),
    ]
