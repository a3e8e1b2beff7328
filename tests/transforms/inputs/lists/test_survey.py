"""Before a run, kept columns get types that hold the values of all manifests, or the run is refused."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption, Query
from moondream_beam.transforms.inputs.manifest import read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns

COLUMNS = Columns("url", tasks=(Caption(),))
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901)


def write(folder: Path, *files: Any) -> list[str]:
    """Write a manifest for each of ``files``, with one column ``x``, and return their paths.

    A list of Python values gives JSON Lines, a text CSV, and an Arrow array Parquet. None gives Parquet without ``x``.
    """
    paths = []
    for number, values in enumerate(files):
        stem = f"{folder}/{number}"
        if isinstance(values, str):
            Path(f"{stem}.csv").write_text(f"url,x\na.jpg,{values}\n")
        elif isinstance(values, list):
            lines = [json.dumps({"url": "a.jpg", "x": value}) for value in values]
            Path(f"{stem}.jsonl").write_text("\n".join(lines))
        else:
            x = {} if values is None else {"x": values}
            pq.write_table(
                pa.table({"url": ["a.jpg"] * (1 if values is None else len(values)), **x}), f"{stem}.parquet"
            )
        paths.append(next(str(path) for path in folder.glob(f"{number}.*")))
    return paths


def kept(paths: list[str]) -> tuple[pa.DataType, list[Any], tuple[str, ...]]:
    """Return the type in which column ``x`` is kept, its values in all rows, and the lines for the user."""
    columns = check_columns(paths, COLUMNS, ["x"])
    refs = [ref for path in paths for ref in read_manifest(path, columns)]
    assert all(not ref.problem for ref in refs), refs
    return columns.kept[0].type, [ref.columns[0][0] for ref in refs], columns.notes


DAY = MOMENT.date()
MIDNIGHT = dt.datetime(2026, 1, 2)
AWARE = MOMENT.replace(tzinfo=dt.timezone.utc)


@pytest.mark.parametrize(
    ("files", "kind", "values"),
    [
        ((pa.array([1]), pa.array([0.97])), pa.float64(), [1, 0.97]),
        (([1], [0.97]), pa.float64(), [1, 0.97]),
        (([1], ["0.97"]), pa.string(), ["1", "0.97"]),
        (("1", pa.array([2])), pa.string(), ["1", "2"]),
        (([None], [3]), pa.int64(), [None, 3]),
        ((pa.nulls(1), pa.array(["a text"])), pa.string(), [None, "a text"]),
        ((pa.nulls(1), pa.nulls(1)), pa.string(), [None, None]),
        ((pa.array([[]]), pa.array([[1]])), pa.list_(pa.int64()), [[], [1]]),
        ((pa.array([[1]]), pa.array([[0.97]])), pa.list_(pa.float64()), [[1], [0.97]]),
        (
            (pa.array([{"a": 1}]), pa.array([{"a": 0.97, "b": "new"}])),
            pa.struct({"a": pa.float64(), "b": pa.string()}),
            [{"a": 1, "b": None}, {"a": 0.97, "b": "new"}],
        ),
        ((pa.array([DAY]), pa.array([MOMENT])), pa.timestamp("us"), [MIDNIGHT, MOMENT]),
        (
            (pa.array([[DAY]]), pa.array([[MOMENT]], pa.list_(pa.timestamp("ns")))),
            pa.list_(pa.timestamp("us")),
            [[MIDNIGHT], [MOMENT]],
        ),
        (
            (pa.array([MIDNIGHT], pa.timestamp("ms")), pa.array([MOMENT], pa.timestamp("us"))),
            pa.timestamp("us"),
            [MIDNIGHT, MOMENT],
        ),
        (
            (pa.array([AWARE], pa.timestamp("us", "Asia/Tokyo")), pa.array([AWARE], pa.timestamp("us", "UTC"))),
            pa.timestamp("us", "UTC"),
            [AWARE, AWARE],
        ),
        (
            (pa.array([MOMENT]), pa.array([AWARE], pa.timestamp("us", "UTC"))),
            pa.string(),
            ["2026-01-02 03:04:05.678901", "2026-01-02 03:04:05.678901Z"],
        ),
        (
            (pa.array([Decimal("1.5")]), pa.array([Decimal("0.125")])),
            pa.decimal128(4, 3),
            [Decimal("1.5"), Decimal("0.125")],
        ),
        ((pa.array([2**63], pa.uint64()), pa.array([-1])), pa.decimal128(20, 0), [2**63, -1]),
        ((pa.array([True]), pa.array([7])), pa.string(), ["true", "7"]),
        ((pa.array([[1, 2]]), ["none"]), pa.string(), ["[1, 2]", "none"]),
        ((pa.array(["a"], pa.large_string()), pa.array(["b"]).dictionary_encode()), pa.string(), ["a", "b"]),
    ],
)
def test_types_are_widened_over_all_files(
    tmp_path: Path, files: tuple[Any, ...], kind: pa.DataType, values: list[Any]
) -> None:
    assert kept(write(tmp_path, *files))[:2] == (kind, values)


def test_types_are_widened_over_all_lines_of_json(tmp_path: Path) -> None:
    numbers: list[Any] = [*range(3000), 0.97]
    assert kept(write(tmp_path, numbers))[:2] == (pa.float64(), numbers)


def test_the_user_reads_what_is_widened_and_where(tmp_path: Path) -> None:
    first, second = write(tmp_path, pa.array([1]), pa.array([0.97]))
    notes = kept([first, second])[2]
    assert notes == (f"column x: int64 in {first}, double in {second}; stored as double",)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (([1, "b"],), "column x: integer, text in {0}; stored as string"),
        ((pa.array([dt.time(1)]),), "column x: time64[us] in {0}; stored as string"),
        ((pa.array([1], pa.timestamp("ns")),), "timestamp[ns] in {0}; stored as timestamp[us]"),
        ((pa.array([1]), None, None), "column x is missing in 2 of 3 manifests, the first of them {1}"),
    ],
)
def test_the_user_reads_what_is_not_stored_as_it_is(tmp_path: Path, files: tuple[Any, ...], words: str) -> None:
    paths = write(tmp_path, *files)
    (note,) = check_columns(paths, COLUMNS, ["x"]).notes
    assert words.format(*paths) in note


@pytest.mark.parametrize(
    "array",
    [
        pa.array([7]),
        pa.array(["a"], pa.large_string()),
        pa.array(["a"], pa.string_view()),
        pa.array(["a"]).dictionary_encode(),
        pa.array([["a"]], pa.large_list(pa.string())),
        pa.nulls(1),
    ],
    ids=lambda array: str(array.type),
)
def test_nothing_is_said_about_columns_that_stay_as_they_are(tmp_path: Path, array: pa.Array) -> None:
    assert kept(write(tmp_path, array, None))[2][:-1] == ()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (([1, 2**53 - 1], [0.5], [2**53 + 1]), "9007199254740993"),
        ((pa.array([2**53 + 1]), pa.array([0.5])), "9007199254740993"),
        ((pa.array([1, 1001], pa.timestamp("ns")),), "1970-01-01 00:00:00.000000001"),
        ((pa.array([[1000], [1001]], pa.list_(pa.timestamp("ns"))),), "column x"),
    ],
)
def test_a_value_that_no_common_type_holds_fails_its_row_with_the_value(
    tmp_path: Path, files: tuple[Any, ...], why: str
) -> None:
    paths = write(tmp_path, *files)
    columns = check_columns(paths, COLUMNS, ["x"])
    problems = [ref.problem for path in paths for ref in read_manifest(path, columns) if ref.problem]
    assert len(problems) >= 1 and "column x" in problems[0] and why in problems[0]


@pytest.mark.parametrize("value", ["INTERVAL 1 DAY", "{'a': 1}::VARIANT", "'POINT(1 2)'::GEOMETRY"])
def test_types_that_become_bare_bytes_are_refused_with_a_cast_that_works(tmp_path: Path, value: str) -> None:
    path = f"{tmp_path}/list.parquet"
    duckdb.sql(f"COPY (SELECT 'a.jpg' AS url, {value} AS x) TO '{path}'")
    with pytest.raises(ValueError, match=f"manifest {path}: column x holds .* write .* in the manifest") as refused:
        check_columns([path], COLUMNS, ["x"])
    cast = str(refused.value).partition(": write ")[2].removesuffix(" in the manifest")
    duckdb.sql(f"COPY (SELECT 'a.jpg' AS url, {cast} AS x FROM (SELECT {value} AS x)) TO '{tmp_path}/cast.parquet'")
    assert check_columns([f"{tmp_path}/cast.parquet"], COLUMNS, ["x"]).kept[0].type == pa.string()


def test_types_that_become_bare_bytes_are_refused_inside_structs_too(tmp_path: Path) -> None:
    path = f"{tmp_path}/list.parquet"
    duckdb.sql(f"COPY (SELECT 'a.jpg' AS url, {{'since': INTERVAL 1 DAY}} AS x) TO '{path}'")
    with pytest.raises(ValueError, match="column x holds INTERVAL"):
        check_columns([path], COLUMNS, ["x"])
    assert check_columns([path], COLUMNS, []).kept == ()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ((pa.array([b"a"]), pa.array(["a"])), "binary in .*0.parquet, but string in .*1.parquet"),
        ((pa.array([{"a": 1, "A": 2}]),), "fields a and A, which differ by case only"),
        ((pa.array([[{"a": 1}]]), pa.array([[{"A": 1}]])), "fields a and A, which differ by case only"),
    ],
)
def test_columns_that_no_type_holds_are_refused(tmp_path: Path, files: tuple[Any, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_columns(write(tmp_path, *files), COLUMNS, ["x"])


@pytest.mark.parametrize("later", ["b.csv", "b.parquet"])
def test_a_later_file_without_the_column_of_pictures_is_refused(tmp_path: Path, later: str) -> None:
    first, path = write(tmp_path, pa.array([1]))[0], tmp_path / later
    if later == "b.csv":
        path.write_text("image_url\na.jpg\n")
    else:
        pq.write_table(pa.table({"image_url": ["a.jpg"]}), path)
    with pytest.raises(ValueError, match=f"manifest {path} has no column 'url'; it has 'image_url'"):
        check_columns([first, str(path)], COLUMNS, [])


@pytest.mark.parametrize(("name", "content"), [("b.parquet", b"PAR1 none PAR1"), ("b.csv", b"url,url\n")])
@pytest.mark.parametrize("keep", [["x"], []])
def test_a_broken_file_is_refused_wherever_it_stands(
    tmp_path: Path, name: str, content: bytes, keep: list[str]
) -> None:
    first, path = write(tmp_path, pa.array([1]))[0], tmp_path / name
    path.write_bytes(content)
    for order in ([first, str(path)], [str(path), first]):
        with pytest.raises(ValueError, match=str(path)) as told:
            check_columns(order, COLUMNS, keep)
        assert "more manifests" not in str(told.value)


def test_of_several_broken_files_one_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    first, paths = write(tmp_path, pa.array([1]))[0], [tmp_path / f"{name}.csv" for name in "bcd"]
    for path in paths:
        path.write_text("url,url\n")
    with pytest.raises(ValueError, match=rf"{paths[0]}.*\(2 more manifests"):
        check_columns([first, *map(str, paths)], COLUMNS, [])


def test_a_manifest_that_breaks_after_the_check_is_a_row_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    path.write_bytes(b"PAR1 none PAR1")
    (ref,) = read_manifest(str(path), COLUMNS)
    assert ref.uri == str(path) and "b.parquet" in ref.problem


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_manifests_in_buckets_are_surveyed(kind: str, bucket_of: Callable[[str], Bucket], tmp_path: Path) -> None:
    bucket = bucket_of(kind)
    for path in write(tmp_path, pa.array([1]), [0.97], "2"):
        bucket.put(f"lists/{Path(path).name}", Path(path).read_bytes())
    columns = check_columns([f"{bucket.root}/lists/[01].*"], COLUMNS, ["x"])
    assert columns.kept[0].type == pa.float64() and f"double in {bucket.root}/lists/1.jsonl" in columns.notes[0]
    assert check_columns([f"{bucket.root}/lists/*"], COLUMNS, ["x"]).kept[0].type == pa.string()


def test_timestamps_of_spark_keep_years_that_nanoseconds_can_not_hold(tmp_path: Path) -> None:
    far = dt.datetime(9999, 12, 31, 23, 59, 59)
    table = pa.table({"url": ["a.jpg"], "x": pa.array([far], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "0.parquet", use_deprecated_int96_timestamps=True)
    _, values, (note,) = kept([f"{tmp_path}/0.parquet"])
    assert values == [far] and "column x is INT96" in note and "digits below are dropped" in note


@pytest.mark.parametrize(
    ("there", "kind"),
    [
        (pa.float64(), pa.float64()),
        (pa.int8(), pa.int64()),
        (pa.large_string(), pa.string()),
        (pa.timestamp("ns"), pa.int64()),
    ],
    ids=str,
)
def test_a_second_run_uses_the_wider_types_of_the_output(tmp_path: Path, there: pa.DataType, kind: pa.DataType) -> None:
    paths = write(tmp_path, pa.array([1]))
    assert check_columns(paths, COLUMNS, ["x"], published={"x": there}).kept[0].type == kind


def test_a_prompt_has_the_value_of_the_manifest_also_if_it_is_stored_in_a_wider_type(tmp_path: Path) -> None:
    for files in (([3], [0.97]), (pa.array([3]), pa.array([0.97]))):
        paths = write(tmp_path, *files)
        columns = check_columns(paths, Columns("url", tasks=(Query("Is it {x}?"),)), ["x"])
        (ref,) = read_manifest(paths[0], columns)
        assert ref.tasks == (Query("Is it 3?"),) and isinstance(ref.columns[0][0], float)
        for path in paths:
            Path(path).unlink()
