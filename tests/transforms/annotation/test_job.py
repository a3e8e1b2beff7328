"""The whole job turns a folder of images into a balanced dataset, also if an attempt crashes on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from support.data.echo import Deaf, Echo
from support.data.outputs import kept_by_run
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Detect, Query, Sampling, Task
from moondream_beam.transforms.annotation import job as module
from moondream_beam.transforms.annotation.annotate import Annotate, annotate_for
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.core.errors import RunStopped
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_images
from moondream_beam.transforms.monitoring.progress_reporter import NAMESPACE
from moondream_beam.transforms.output.locks.lock import acquire
from moondream_beam.transforms.output.run_record import read_record
from moondream_beam.transforms.planning.plan import shard_of

TASKS = (Caption(), Detect("dog"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder, with a folder in it, of ten images and two files that are not images."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    for width in range(1, 11):
        Image.new("RGB", (width, 2), (width, 0, 0)).save(root / "deep" / f"{width}.png")
    (root / "page.jpg").write_text("<html>")
    (root / "empty.jpg").touch()
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(photos: Path, out: Path, tasks: tuple[Task, ...] = TASKS, by: Echo | None = None, **options: Any) -> dict:
    """Run the job over a folder, and return the record."""
    job = AnnotateToParquet(tasks, by or Echo(), str(out), **options)
    (record,) = collect(lambda pipeline: pipeline | ReadImages(str(photos)) | job)
    return record


def rows(out: Path, kind: str) -> list[dict]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def ids(out: Path) -> list[str]:
    """Return the sorted ids of all rows, and check that no id is there twice."""
    both = [row["id"] for kind in ("data", "errors") for row in rows(out, kind)]
    assert len(set(both)) == len(both)
    return sorted(both)


def answers_of(found: list[dict]) -> list[tuple]:
    return sorted((row["id"], row["filename"], row["caption"], str(row["objects"])) for row in found)


def test_every_task_on_every_image_has_one_row_in_data_or_in_errors(photos: Path, out: Path) -> None:
    record = run(photos, out, shard_size=4, run="one", about={"command": ["annotate", "photos"]})
    data, errors = rows(out, "data"), rows(out, "errors")
    assert (len(data), len(errors)) == (20, 4)
    assert len(ids(out)) == 24
    assert {row["filename"]: row["stage"] for row in errors} == {"page.jpg": "decode", "empty.jpg": "fetch"}
    assert {row["run"] for row in data + errors} == {"one"}
    shards = {shard_of(ref.key, Count(pictures=12), 4, 1) for ref in list_images(str(photos))}
    assert {path.name for path in (out / "data").iterdir()} == {f"part-one-{shard:05d}.parquet" for shard in shards}
    assert not [path for path in out.rglob("_temporary/*") if path.suffix == ".draft"]

    assert record == json.loads((out / "runs" / "one.json").read_text())
    assert record["counts"] == {
        "pictures": 12,
        "pending": 24,
        "done": 0,
        "retried": 0,
        "annotations": 20,
        "failures": 4,
        "inputs": 12,
    }
    assert record["skipped"] == {} and record["balanced"] is True
    assert record["published"] == {
        "data": 20,
        "errors": 4,
        "files": len(shards) + len(list((out / "errors").iterdir())),
        "count_error": "",
    }
    paid = {"billed_units": 0.0, "usd": 0.0}
    assert record["totals"] == {
        "input_tokens": 140,
        "output_tokens": 60,
        "encode_ms": 40.0,
        "generate_ms": 60.0,
        **paid,
        "cut_off": 0,
    }
    assert (record["model"], record["revision"], record["run"]) == ("echo", "1", "one")
    assert record["tasks"] == [{"task": "caption", "prompt": "normal"}, {"task": "detect", "prompt": "dog"}]
    assert record["sampling"] == vars(Sampling())
    assert record["command"] == ["annotate", "photos"]
    assert set(record["versions"]) >= {"apache-beam", "pillow", "pyarrow", "torch"}
    assert record["wall_seconds"] > 0

    annotations, _ = collect(lambda pipeline: pipeline | ReadImages(str(photos)) | Annotate(TASKS, Echo()))
    same = [{**row._asdict(), "objects": row.objects and [box._asdict() for box in row.objects]} for row in annotations]
    assert answers_of(data) == answers_of(same)


def test_a_run_in_ones_own_pipeline_leaves_its_record_and_no_temporary_files(photos: Path, out: Path) -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        _ = pipeline | ReadImages(str(photos)) | AnnotateToParquet(TASKS, Echo(), str(out), dedup=True, run="one")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "data", "errors", "runs"]
    assert read_record(str(out), "one")["balanced"]


def test_a_second_run_does_only_what_is_new(photos: Path, out: Path) -> None:
    run(photos, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")}
    again = run(photos, out)
    nothing = {"pictures": 0, "pending": 0, "retried": 0, "annotations": 0, "failures": 0}
    assert again["counts"] == {**nothing, "done": 24, "inputs": 12, "failed_before": 4}
    assert again["balanced"] is True
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")} == before

    Image.new("RGB", (50, 50)).save(photos / "new.webp")
    more = run(photos, out, tasks=(*TASKS, Query("Why?")))
    rows_of_more = {"annotations": 13, "failures": 2}
    earlier = {"done": 24, "failed_before": 4}
    assert more["counts"] == {"pictures": 13, "pending": 15, "retried": 0, "inputs": 13, **earlier, **rows_of_more}
    assert len(ids(out)) == 39
    new = [(row["filename"], row["task"]) for row in rows(out, "data") if row["run"] == more["run"]]
    assert sorted(new) == sorted(
        [("new.webp", "caption"), ("new.webp", "detect"), ("new.webp", "query")]
        + [(f"deep/{width}.png", "query") for width in range(1, 11)]
    )
    assert len(list((out / "runs").iterdir())) == 3


def test_a_run_that_crashed_is_resumed_by_the_next(photos: Path, out: Path) -> None:
    with pytest.raises(Exception, match="echo died"):
        run(photos, out, by=Echo(dies_on=((7, 2),)), shard_size=1)
    # The order of the shards decides how many were published before the crash.
    kept = ids(out)
    assert len(kept) < 24
    assert not list(out.rglob("_temporary/*.draft"))
    assert not (out / "runs").exists()
    answered = len(kept) + sum(kept_by_run(str(out)).values())
    record = run(photos, out, shard_size=1)
    assert record["counts"]["done"] == answered
    assert record["balanced"] is True
    assert set(kept) < set(ids(out))
    assert len(ids(out)) == 24


def shard(out: Path, refs: list[ImageRef], by: Echo | None = None, number: int = 0) -> Iterator[Summary]:
    """Start an attempt at a shard of the run "one", as a worker does."""
    dofn = module.AnnotateShard(module.Job(TASKS, by or Echo(), run="one"), str(out))
    dofn.setup()
    acquire(str(out), "one")
    return dofn.process((number, refs), Count())


def test_a_crash_in_the_second_shard_leaves_the_first_published(photos: Path, out: Path) -> None:
    refs = sorted(list_images(str(photos)))
    list(shard(out, refs[:5]))
    kept = ids(out)
    assert len(kept) == 10
    with pytest.raises(Exception, match="echo died"):
        list(shard(out, refs[5:], by=Echo(dies_on=("dog",)), number=1))
    assert ids(out) == kept
    assert not list(out.rglob("_temporary/*.draft"))
    # Rows that the second shard had before the crash are kept.
    answered = 10 + sum(kept_by_run(str(out)).values())
    record = run(photos, out)
    assert (record["counts"]["done"], record["counts"]["pending"]) == (answered, 24 - answered)
    assert len(ids(out)) == 24


def test_a_second_attempt_at_a_published_shard_returns_its_sums(photos: Path, out: Path) -> None:
    refs = list(list_images(str(photos)))
    (first,) = shard(out, refs)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")}
    (second,) = shard(out, refs, by=Echo(dies_on=("normal",)))
    assert second == first == (20, 4, 140, 60, 40.0, 60.0, 0.0, 0.0, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")} == before


def test_of_two_attempts_at_once_the_first_to_publish_counts(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = list(list_images(str(photos)))

    def overtaken(*args: Any, **options: Any) -> Iterator:
        monkeypatch.setattr(module, "annotate_for", annotate_for)
        yield from annotate_for(*args, **options)
        (first,) = shard(out, refs, by=Echo(faults_on=("dog",)))
        assert (first.annotations, first.failures) == (10, 14)

    monkeypatch.setattr(module, "annotate_for", overtaken)
    (second,) = shard(out, refs)
    assert (second.annotations, second.failures) == (10, 14)
    assert len(ids(out)) == 24
    assert not list(out.rglob("_temporary/*.draft"))


def test_a_full_disk_stops_the_run_and_leaves_no_incomplete_file(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(RunStopped, match="stopped: can't write to .*No space left"):
        list(shard(out, list(list_images(str(photos)))))
    assert not list(out.rglob("*.parquet"))


def test_without_images_the_dataset_has_columns_and_no_rows(tmp_path: Path, out: Path) -> None:
    (tmp_path / "nothing").mkdir()
    record = run(tmp_path / "nothing", out)
    assert set(record["counts"].values()) == {0}
    assert record["balanced"] is True
    tables = {kind: pa.concat_tables(map(pq.read_table, (out / kind).glob("*"))) for kind in ("data", "errors")}
    assert [len(table) for table in tables.values()] == [0, 0]
    assert "caption" in tables["data"].column_names


@pytest.mark.parametrize(
    ("output", "tasks", "options", "message"),
    [
        ("out*", TASKS[:1], {}, "choose a name without"),
        ("out[1]", TASKS[:1], {}, "choose a name without"),
        ("out", TASKS[:1], {"run": "exp[1]"}, "run exp.1.: choose a name without"),
        ("out", TASKS[:1], {"run": "../exp"}, "choose a name without"),
        ("hdfs://node/out", TASKS[:1], {}, "HDFS is read only; give a folder, or"),
        ("out", (), {}, "no task"),
        ("out", TASKS, {}, "can't be asked to detect"),
        ("out", TASKS[:1], {"shard_size": 0}, "shard size 0"),
    ],
)
def test_bad_arguments_are_refused_when_the_pipeline_is_built(
    output: str, tasks: tuple, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AnnotateToParquet(tasks, Deaf(), output, **options)


def test_an_output_in_a_folder_whose_name_is_a_pattern_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set[1]").mkdir()
    monkeypatch.chdir(tmp_path / "set[1]")
    for output in ("out", "file:///set%5B1%5D/out"):
        with pytest.raises(ValueError, match=r"set\[1\]/out: choose a name without"):
            AnnotateToParquet(TASKS, Echo(), output)


def test_the_name_of_a_run_that_has_ended_is_refused(out: Path) -> None:
    (out / "runs").mkdir(parents=True)
    (out / "runs" / "one.json").touch()
    with pytest.raises(ValueError, match="run one: .* choose another"):
        AnnotateToParquet(TASKS, Echo(), str(out), run="one")
    AnnotateToParquet(TASKS, Echo(), str(out), run="two")


def test_options_with_a_folder_name_that_is_not_utf8_are_recorded(photos: Path, out: Path) -> None:
    odd = photos.rename(photos.with_name(os.fsdecode(b"caf\xe9")))
    record = run(odd, out, run="one", about={"options": {"inputs": [str(odd)]}})
    assert record["balanced"] and record["options"]["inputs"] == [f"{odd.parent}/caf?"]
    assert read_record(str(out), "one") == record


def test_rows_and_tokens_are_counted_in_beams_metrics(photos: Path, out: Path) -> None:
    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | ReadImages(str(photos)) | AnnotateToParquet(TASKS, Echo(), str(out))
    counters = pipeline.run().metrics().query()["counters"]
    assert {c.key.metric.name: c.committed for c in counters if c.key.metric.namespace == NAMESPACE} == {
        "annotations": 20,
        "failures": 4,
        "output_tokens": 60,
    }
