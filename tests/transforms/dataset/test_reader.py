"""Rows of an output are tables of DuckDB, whatever files and columns the output has."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.outputs import publish, record
from support.data.rows import annotation, failure

from moondream_beam.transforms.dataset import reader
from moondream_beam.transforms.dataset.reader import NUM_FETCHED_ROWS, Dataset, identifier, literal


def test_a_folder_without_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no rows there"):
        Dataset(str(tmp_path))


def test_rows_of_several_batches_are_read_unchanged(tmp_path):
    publish(tmp_path, [annotation(id=f"{index:05}", caption=str(index)) for index in range(NUM_FETCHED_ROWS + 3)])
    with Dataset(str(tmp_path)) as dataset:
        rows = list(dataset.rows("SELECT id, caption, timings FROM data ORDER BY id"))
    assert [row["caption"] for row in rows] == [str(index) for index in range(NUM_FETCHED_ROWS + 3)]
    assert rows[0]["timings"]["total_ms"] == 8.0


def test_manifest_columns_come_last_even_if_only_some_files_have_them(tmp_path):
    publish(tmp_path, [annotation(id="a", columns=("left",))], [pa.field("split", pa.string())])
    publish(tmp_path, [annotation(id="b", run="two")])
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.columns("data")[-1] == "split"
        assert dataset.tuples("SELECT id, split FROM data ORDER BY id") == [("a", "left"), ("b", None)]


def test_a_column_that_old_files_lack_is_null(tmp_path):
    publish(tmp_path, [annotation(), failure()])
    for path in tmp_path.glob("*/part-*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["hosted"]), path)
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.tuples("SELECT hosted FROM data UNION ALL SELECT hosted FROM errors") == [(None,), (None,)]


def test_an_output_of_failures_only_has_both_tables(tmp_path):
    publish(tmp_path, [failure()])
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.tuples("SELECT count(*) FROM data") == [(0,)]
        assert dataset.tuples("SELECT count(*) FROM errors") == [(1,)]


def test_a_path_with_quotes_and_spaces_is_read(tmp_path):
    place = tmp_path / "it's \"mine\", isn't it"
    publish(place, [annotation()])
    with Dataset(str(place)) as dataset:
        assert dataset.tuples("SELECT caption FROM data") == [("A dog.",)]


def test_records_are_ordered_by_run_and_invalid_files_are_skipped(tmp_path):
    publish(tmp_path, [annotation()])
    record(tmp_path, "b")
    record(tmp_path, "a")
    (tmp_path / "runs" / "c.json").write_text("{")
    (tmp_path / "runs" / "d.json").write_text(json.dumps(["run", "counts"]))
    with Dataset(str(tmp_path)) as dataset:
        assert [told["run"] for told in dataset.records()] == ["a", "b"]


@pytest.mark.parametrize("text", ["plain", "it's", "a''b", '"', "'; DROP VIEW data; --"])
def test_a_quoted_text_is_unchanged(text, tmp_path):
    publish(tmp_path, [annotation()])
    with Dataset(str(tmp_path)) as dataset:
        found = next(dataset.rows(f"SELECT {literal(text)} AS {identifier(text)}"))
    assert found == {text: text}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_rows_in_a_bucket_are_read(kind, bucket_of):
    output = f"{bucket_of(kind).root}/out"
    publish(output, [annotation(id="a"), annotation(id="b"), failure()])
    with Dataset(output) as dataset:
        assert dataset.tuples("SELECT id FROM data ORDER BY id") == [("a",), ("b",)]
        assert dataset.tuples("SELECT message FROM errors") == [("gone",)]


def limit_of(dataset):
    ((limit,),) = dataset.tuples("SELECT parse_formatted_bytes(current_setting('memory_limit'))")
    return limit


def test_a_query_above_the_memory_limit_is_written_to_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MEMORY_LIMIT", 64 << 20)
    publish(tmp_path, [annotation()])
    with Dataset(str(tmp_path)) as dataset:
        limit = limit_of(dataset)
        texts = "SELECT repeat('a', 1000) || range AS text FROM range(200000)"
        assert dataset.tuples(f"SELECT count(*) FROM (SELECT text FROM ({texts}) GROUP BY text)") == [(200_000,)]
        assert limit_of(dataset) == limit <= 64 << 20


@pytest.mark.parametrize("how", ["tuples", "stream", "rows"])
def test_a_query_that_cannot_be_written_to_disk_gets_more_memory(how, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MEMORY_LIMIT", 64 << 20)
    publish(tmp_path, [annotation()])
    with Dataset(str(tmp_path)) as dataset:
        query = "SELECT len(list(repeat('a', 1000) || range)) AS number FROM range(100000)"
        (row,) = list(getattr(dataset, how)(query))
        assert dict(row) == {"number": 100_000} if how == "rows" else row == (100_000,)
        assert limit_of(dataset) > 64 << 20
