"""An output opened for reading."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from outputs import publish, some_of_each
from rows import annotation, failure

from moondream_beam.transforms.card import write_record
from moondream_beam.transforms.dataset import BeamFiles, Dataset
from moondream_beam.transforms.records import ANNOTATION_SCHEMA


def test_rows_of_all_files_are_there(tmp_path):
    publish(tmp_path, annotation(id="a"), failure())
    publish(tmp_path, annotation(id="b"), run="two")
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.tuples("SELECT id, run FROM data ORDER BY id") == [("a", "one"), ("b", "one")]
        assert dataset.tuples("SELECT count(*) FROM errors") == [(1,)]


def test_a_file_from_before_a_column_lacks_nothing(tmp_path):
    publish(tmp_path, annotation(id="new"))
    old = pq.read_table(next(tmp_path.glob("data/*.parquet"))).drop_columns(["hosted"])
    pq.write_table(old, tmp_path / "data" / "part-old.parquet")
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.tuples("SELECT hosted FROM data") == [(None,), (None,)]
        assert dataset.columns("data") == ANNOTATION_SCHEMA.names


def test_an_output_of_failures_only_can_be_opened(tmp_path):
    with Dataset(str(publish(tmp_path, failure()))) as dataset:
        assert dataset.tuples("FROM judged") == []


def test_what_is_no_output_is_told(tmp_path):
    with pytest.raises(ValueError, match="give the folder that annotate wrote"):
        Dataset(str(tmp_path))


def test_rows_come_in_batches_beside_other_queries(tmp_path):
    publish(tmp_path, *(annotation(id=f"{index:05}") for index in range(3000)))
    with Dataset(str(tmp_path)) as dataset:
        rows = dataset.rows("SELECT id FROM data WHERE id >= ? ORDER BY id", "00001")
        assert next(rows) == {"id": "00001"}
        assert dataset.tuples("SELECT count(*) FROM data") == [(3000,)]
        assert sum(1 for _ in rows) == 2998


def test_files_that_only_beam_can_open_are_read_through_it(tmp_path):
    publish(tmp_path / "it's out", *some_of_each(tmp_path / "pictures"))
    path = next(tmp_path.glob("it's out/data/*.parquet"))
    with Dataset(str(tmp_path / "it's out")) as dataset:
        dataset.database.register_filesystem(BeamFiles())
        found = dataset.tuples("SELECT filename, objects FROM read_parquet(?) ORDER BY id", f"beam://{path}")
        assert found == dataset.tuples("SELECT filename, objects FROM data ORDER BY id") and len(found) == 13


def test_records_are_in_order_and_a_broken_one_is_passed_over(tmp_path):
    publish(tmp_path, annotation())
    for run, started in (("b", "2030-01-01"), ("a", "2030-01-02")):
        write_record(str(tmp_path), run, {"run": run, "counts": {}, "started_at": started})
    (tmp_path / "runs" / "c.json").write_text("{")
    (tmp_path / "runs" / "d.json").write_text("[]")
    with Dataset(str(tmp_path)) as dataset:
        assert [record["run"] for record in dataset.records()] == ["b", "a"]
