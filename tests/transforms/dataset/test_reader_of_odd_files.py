"""Files of other programs are refused in one line, and columns of a manifest may have any name."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.outputs import publish
from support.data.rows import annotation, failure

from moondream_beam.pipelines.display.report_page.render import render
from moondream_beam.transforms.dataset import statistics
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset, unused_name
from moondream_beam.transforms.images.fetch import Fetcher

# Names that queries of this package give to values of their own.
TAKEN = ("_flags", "_ENDING", "_suspicions", "pictures", "span", "opening", "bin", "kind", "answers", "value", "flags")


def write_foreign(folder, name="train-00000-of-00001.parquet"):
    """Write a Parquet file as image datasets have it, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = pa.table({"image": [{"bytes": b"x", "path": "a.jpg"}], "label": [1]})
    pq.write_table(pictures, folder / name)
    return folder / name


@pytest.mark.parametrize("kind", ["data", "errors"])
@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "part-one-00000.parquet"])
def test_a_file_of_another_program_is_an_error_that_names_it(tmp_path, kind, name):
    path = write_foreign(tmp_path / kind, name)
    with pytest.raises(ValueError, match="has no column id") as error:
        Dataset(str(tmp_path))
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_file_of_another_program_among_rows_is_an_error(tmp_path):
    publish(tmp_path, [annotation()])
    write_foreign(tmp_path / "data")
    with pytest.raises(ValueError, match="train-00000-of-00001.parquet has no column id"):
        Dataset(str(tmp_path))


def test_rows_that_were_packed_into_another_file_are_read(tmp_path):
    publish(tmp_path, [annotation()])
    (part,) = (tmp_path / "data").iterdir()
    part.rename(part.with_name("all.parquet"))
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.tuples("SELECT caption FROM data") == [("A dog.",)]


def test_an_output_whose_path_looks_like_a_partition_keeps_its_values(tmp_path):
    output = tmp_path / "run=5" / "task=x"
    publish(output, [annotation(run="one")])
    with Dataset(str(output)) as dataset:
        assert dataset.tuples("SELECT run, task FROM data") == [("one", "caption")]


@pytest.fixture
def dataset(tmp_path):
    """An output whose rows keep columns with the names of ``TAKEN``."""
    kept = [pa.field(name, pa.string()) for name in TAKEN]
    text = "In the picture there is a dog that looks at a cat."
    rows = [
        annotation(id=str(n), key=str(n), caption=text, columns=tuple(f"{name} {n}" for name in TAKEN))
        for n in range(5)
    ]
    publish(tmp_path, rows, kept)
    publish(tmp_path, [failure(run="two")])
    with Dataset(str(tmp_path)) as opened:
        yield opened


def test_columns_with_the_names_of_flags_get_a_number(dataset):
    assert dataset.columns("flagged")[-1] == "_flags"
    assert {"_flags_2", "_ENDING_2", "_suspicions"} <= set(dataset.columns("flagged"))
    selection = Selection(dataset, "list_contains(_flags, 'shared') AND _flags_2 = '_flags 3'")
    (row,) = selection.wide(selection.task_columns())
    assert {name: row[name] for name in ("_flags_2", "_ENDING_2", "_suspicions", "pictures")} == {
        "_flags_2": "_flags 3",
        "_ENDING_2": "_ENDING 3",
        "_suspicions": "_suspicions 3",
        "pictures": "pictures 3",
    }


def test_a_report_is_written_whatever_names_the_columns_have(dataset):
    assert statistics.flag_counts(dataset)["shared"] == 5
    assert statistics.common_openings(dataset) == [("in the picture", 5)]
    (timeline,) = (statistics.timeline(dataset, run) for run in statistics.run_rows(dataset) if run.run == "one")
    assert timeline.annotations == (5,)
    assert "looks at a cat" in render(dataset, Fetcher())


def test_an_unused_name_differs_from_all_others_by_more_than_case():
    taken = {"price", "price_2"}
    assert [unused_name("Price", taken), unused_name("price", taken)] == ["Price_3", "price_4"]
