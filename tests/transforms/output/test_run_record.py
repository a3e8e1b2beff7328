"""`datasets`, DuckDB and polars read an output, and records are read as they were written."""

from __future__ import annotations

from pathlib import Path

import datasets
import duckdb
import polars
import pytest
from support.data.rows import annotation, failure

from moondream_beam.models.tasks import Box
from moondream_beam.transforms.core.row_schema import ANNOTATION_SCHEMA, FAILURE_SCHEMA
from moondream_beam.transforms.output.dataset_card import write_card
from moondream_beam.transforms.output.run_record import read_record, write_record
from moondream_beam.transforms.output.writer import ShardWriter


def load(out: Path, *name: str) -> datasets.Dataset:
    loaded = datasets.load_dataset(str(out), *name, cache_dir=str(out.parent / "cache"))
    assert list(loaded) == ["train"]
    return loaded["train"]


def check(out: Path, count: int, columns: list[str], *name: str) -> None:
    """Check that `datasets` loads this number of rows with these columns."""
    # With its own cache: a shared one may hold the columns of another output of the same name.
    streamed = datasets.load_dataset(str(out), *name, streaming=True, cache_dir=str(out.parent / "cache"))["train"]
    assert (len(list(streamed)), streamed.column_names) == (count, columns)
    if count:
        assert (len(load(out, *name)), load(out, *name).column_names) == (count, columns)
    else:
        # `datasets` refuses all tables without rows.
        with pytest.raises(ValueError, match="corresponds to no data"):
            load(out, *name)


def publish(out: Path, *rows: object) -> Path:
    writer = ShardWriter(str(out), "one", 0)
    for row in rows:
        writer.add(row)
    writer.publish()
    write_card(str(out))
    return out


@pytest.mark.parametrize(("good", "bad"), [(2, 1), (2, 0), (0, 1), (0, 0)])
def test_datasets_loads_rows_and_failures_even_if_there_are_none(tmp_path: Path, good: int, bad: int) -> None:
    out = publish(tmp_path / "out", *[annotation()] * good, *[failure()] * bad)
    check(out, good, ANNOTATION_SCHEMA.names)
    check(out, bad, FAILURE_SCHEMA.names, "errors")


def test_datasets_gives_boxes_and_nulls_as_they_were(tmp_path: Path) -> None:
    boxes = (Box(0.0, 0.25, 0.5, 1.0),)
    caption, detection = load(publish(tmp_path / "out", annotation(), annotation(caption=None, objects=boxes)))
    assert (caption["caption"], caption["objects"], caption["points"]) == ("A dog.", None, None)
    assert (detection["caption"], detection["objects"]) == (None, [boxes[0]._asdict()])


def test_the_card_also_covers_rows_of_later_runs(tmp_path: Path) -> None:
    out = publish(tmp_path / "out", annotation())
    writer = ShardWriter(str(out), "two", 0)
    writer.add(annotation(id="later"))
    writer.add(failure())
    writer.publish()
    write_card(str(out))
    assert load(out)["id"][:] == ["i", "later"]
    assert len(load(out, "errors")) == 1


def test_duckdb_and_polars_read_the_files(tmp_path: Path) -> None:
    out = publish(tmp_path / "out", annotation(), annotation(caption=None, objects=(Box(0.0, 0.25, 0.5, 1.0),)))
    with duckdb.connect() as database:
        found = database.sql(
            f"SELECT filename, objects[1].y_min, timings.total_ms FROM '{out}/data/*.parquet'"
        ).fetchall()
        assert found == [("a.jpg", None, 8.0), ("a.jpg", 0.25, 8.0)]
        assert database.sql(f"SELECT * FROM '{out}/errors/*.parquet'").fetchall() == []
    frame = polars.read_parquet(out / "data" / "*.parquet")
    assert frame.columns == ANNOTATION_SCHEMA.names
    assert frame["objects"].to_list() == [None, [{"x_min": 0.0, "y_min": 0.25, "x_max": 0.5, "y_max": 1.0}]]


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = {"run": "one", "command": ["annotate", "Zürich/*.jpg"], "counts": {"pending": 3}}
    write_record(str(tmp_path / "new" / "out"), "one", record)
    assert read_record(str(tmp_path / "new" / "out"), "one") == record
