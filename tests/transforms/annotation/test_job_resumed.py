"""The job resumes an output that has rows already, retries failures, and annotates equal images once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.echo import Echo
from support.data.profiles import DISPLAY_P3
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Detect, Outcome, Query, Request, Sampling
from moondream_beam.transforms.annotation import job as module
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.annotation.run_end import end_interrupted
from moondream_beam.transforms.core import errors
from moondream_beam.transforms.core.errors import stop_reason
from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.monitoring import failure_limit, progress
from moondream_beam.transforms.monitoring.progress import ProgressFiles
from moondream_beam.transforms.output.locks.lock import acquire
from moondream_beam.transforms.output.run_record import read_records

TASKS = (Caption(), Detect("dog"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of ten images and two files that are not images."""
    root = tmp_path / "photos"
    root.mkdir()
    for width in range(1, 11):
        Image.new("RGB", (width, 2), (width, 0, 0)).save(root / f"{width}.png")
    (root / "page.jpg").write_text("<html>")
    (root / "empty.jpg").touch()
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(photos: Path, out: Path, by: Echo | None = None, tasks: tuple = TASKS, **options: Any) -> dict[str, int]:
    """Run the job over a folder, check that the record is balanced, and return its counts."""
    job = AnnotateToParquet(tasks, by or Echo(), str(out), **options)
    (record,) = collect(lambda pipeline: pipeline | ReadImages(str(photos)) | job)
    assert record["balanced"]
    return record["counts"]


def rows(out: Path, kind: str) -> list[dict]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_another_choice_of_colour_profiles_is_another_request_and_the_same_is_done(tmp_path: Path, out: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, profile in (("plain", None), ("wide", DISPLAY_P3), ("broken", b"no profile")):
        Image.new("RGB", (8, 8), (200, 60, 40)).save(photos / f"{name}.png", icc_profile=profile)
    counts = [
        run(photos, out, tasks=TASKS[:1], colour_profiles=choice) for choice in ("ignore", "srgb", "srgb", "ignore")
    ]
    assert [(one["pending"], one["done"], one["failures"]) for one in counts] == [
        (3, 0, 0),
        (3, 0, 1),
        (0, 3, 0),
        (0, 3, 0),
    ]
    assert Counter((row["filename"], row["caption"]) for row in rows(out, "data")) == {
        ("plain.png", "8 x 8, (200, 60, 40)"): 2,
        ("broken.png", "8 x 8, (200, 60, 40)"): 1,
        ("wide.png", "8 x 8, (200, 60, 40)"): 1,
        ("wide.png", "8 x 8, (217, 42, 23)"): 1,
    }
    (failure,) = rows(out, "errors")
    assert (failure["filename"], failure["stage"], failure["error"]) == ("broken.png", "decode", "UndecodableError")
    assert "the colour profile is broken" in failure["message"] and "--colour-profiles ignore" in failure["message"]
    # The record of a row's run says how its pixels were made.
    choices = {record["run"]: record["colour_profiles"] for record in read_records(str(out))}
    assert Counter(choices.values()) == {"ignore": 2, "srgb": 2}
    converted = next(row for row in rows(out, "data") if row["caption"] == "8 x 8, (217, 42, 23)")
    assert choices[converted["run"]] == choices[failure["run"]] == "srgb"


def ids(out: Path) -> list[str]:
    """Return the sorted ids of all rows, and check that no id is there twice."""
    both = [row["id"] for kind in ("data", "errors") for row in rows(out, kind)]
    assert len(set(both)) == len(both)
    return sorted(both)


def test_failures_are_retried_if_asked_and_each_id_keeps_one_row(photos: Path, out: Path) -> None:
    run(photos, out, by=Echo(faults_on=((3, 2), (7, 2))), shard_size=2)
    before, kept = ids(out), rows(out, "data")
    assert len(rows(out, "errors")) == 8
    nothing = {"pictures": 0, "pending": 0, "retried": 0, "annotations": 0, "failures": 0}
    assert run(photos, out) == {**nothing, "done": 24, "inputs": 12, "failed_before": 8}
    # Now both images are answered, and one of the two files is an image.
    Image.new("RGB", (40, 2)).save(photos / "empty.jpg")
    counts = run(photos, out, retry_errors=True)
    more = {"pictures": 4, "pending": 8, "done": 16, "retried": 8, "annotations": 6, "failures": 2}
    assert counts == {**more, "inputs": 12}
    assert ids(out) == before
    assert [row for row in rows(out, "data") if row in kept] == kept
    assert {row["filename"] for row in rows(out, "errors")} == {"page.jpg"}
    loaded = datasets.load_dataset(str(out), "errors", cache_dir=str(out.parent / "cache"))["train"]
    assert loaded["filename"] == ["page.jpg"] * 2
    (photos / "page.jpg").unlink()
    Image.new("RGB", (50, 2)).save(photos / "page.jpg", "PNG")
    assert run(photos, out, retry_errors=True)["annotations"] == 2
    assert (ids(out), rows(out, "errors")) == (before, [])


def test_only_failures_of_the_same_requests_are_retried(photos: Path, out: Path) -> None:
    run(photos, out, tasks=(Caption("short"),), by=Echo(faults_on=((3, 2),)))
    run(photos, out, tasks=(Caption(),), by=Echo(faults_on=((3, 2),)))
    run(photos, out, tasks=(Caption(),), retry_errors=True)
    assert Counter(row["prompt"] for row in rows(out, "errors")) == {"short": 3, "normal": 2}
    assert len(ids(out)) == 24


def test_a_retry_that_crashes_is_resumed_by_the_next_run(photos: Path, out: Path) -> None:
    run(photos, out, by=Echo(faults_on=((3, 2), (7, 2))))
    before = ids(out)
    with pytest.raises(Exception, match="echo died"):
        run(photos, out, by=Echo(dies_on=((7, 2),)), retry_errors=True, shard_size=1)
    assert set(ids(out)) < set(before)
    # Without retry_errors too, because the requests have no row now.
    run(photos, out)
    assert ids(out) == before


def test_another_prompt_model_or_sampling_makes_new_requests(photos: Path, out: Path) -> None:
    run(photos, out)
    assert run(photos, out, tasks=(Caption(), Detect("cat")))["pending"] == 12
    assert run(photos, out, by=Echo(revision="2"))["pending"] == 24
    assert run(photos, out, sampling=Sampling(temperature=0.3))["pending"] == 24
    assert run(photos, out, tasks=(*TASKS, Detect("cat"), Query("Why?")))["pending"] == 12
    assert len(ids(out)) == 24 + 12 + 24 + 24 + 12


def test_with_dedup_images_of_the_same_bytes_are_annotated_once(tmp_path: Path, out: Path) -> None:
    photos = tmp_path / "copies"
    photos.mkdir()
    for index in range(60):
        Image.new("RGB", (1 + index % 5, 2)).save(photos / f"{index}.png")
    run(photos, out / "without", shard_size=5)
    run(photos, out / "with", shard_size=5, dedup=True)
    for kind, asked in (("without", range(11 * 2, 60 * 2)), ("with", [5 * 2])):
        found = rows(out / kind, "data")
        assert len(ids(out / kind)) == 120
        assert all((row["caption"] or "").startswith(f"{row['width']} x") for row in found if row["task"] == "caption")
        assert sum(row["output_tokens"] > 0 for row in found) in asked
        assert sum(row["output_tokens"] for row in found) == 3 * sum(row["output_tokens"] > 0 for row in found)

    def answers_of(kind: str) -> list[tuple]:
        return sorted((row["id"], row["caption"], str(row["objects"])) for row in rows(out / kind, "data"))

    assert answers_of("with") == answers_of("without")


@dataclass(frozen=True)
class DiesLater(Echo):
    """An annotator that crashes when two shards are published."""

    out: str = ""

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        if len(list(Path(self.out, "data").glob("*.parquet"))) == 2:
            raise RuntimeError("echo died")
        yield from super().answer(requests)


class FailsOnce(Fetcher):
    """Fails to fetch an image if the folder ``lost`` has a file of its name, and deletes that file."""

    def __init__(self, lost: Path) -> None:
        super().__init__()
        self.lost = lost

    def __call__(self, uri: str) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            (self.lost / Path(uri).name).unlink()
            raise ConnectionError("unreachable")
        return super().__call__(uri)


def test_a_run_that_is_planned_again_while_images_are_unreadable_annotates_none_twice(
    tmp_path: Path, out: Path
) -> None:
    photos, lost = tmp_path / "copies", tmp_path / "lost"
    photos.mkdir()
    lost.mkdir()
    for index in range(40):
        Image.new("RGB", (1 + index % 20, 2)).save(photos / f"{index}.png")
    options = {"shard_size": 4, "dedup": True, "run": "one", "fetch": FailsOnce(lost)}
    with pytest.raises(Exception, match="echo died"):
        run(photos, out, by=DiesLater(out=str(out)), **options)
    assert 0 < len(ids(out)) < 80
    # A runner that has lost a worker plans the run again.
    for index in range(0, 40, 2):
        (lost / f"{index}.png").touch()
    counts = run(photos, out, **options)
    assert counts["annotations"] + counts["failures"] == len(ids(out)) == 80


def test_a_run_that_is_planned_again_with_more_images_keeps_its_shards(photos: Path, out: Path) -> None:
    with pytest.raises(Exception, match="echo died"):
        run(photos, out, by=DiesLater(out=str(out)), shard_size=2, run="one")
    before = ids(out)
    assert before
    for width in range(11, 31):
        Image.new("RGB", (width, 2)).save(photos / f"{width}.png")
    job = AnnotateToParquet(TASKS, Echo(), str(out), shard_size=2, run="one")
    collect(lambda pipeline: pipeline | ReadImages(str(photos)) | job)
    assert set(before) < set(ids(out))
    run(photos, out)
    assert len(ids(out)) == 64


@pytest.fixture
def checks_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the failure limit at every row, from the tenth row on."""
    monkeypatch.setattr(progress, "REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr(failure_limit, "MIN_ROWS", 10)


@pytest.mark.usefixtures("checks_every_row")
def test_too_many_failures_stop_the_run_and_leave_published_rows(photos: Path, out: Path) -> None:
    failing = Echo(faults_on=tuple((width, 2) for width in range(1, 11)))
    with pytest.raises(Exception, match="stopped") as caught:
        run(photos, out, by=failing, shard_size=3, max_failure_rate=0.5)
    assert "more than --max-failure-rate 0.5 allows" in str(stop_reason(caught.value))
    kept = ids(out)
    assert len(kept) < 24
    assert not (out / "runs").exists()
    assert not list(out.rglob("_temporary/*.draft"))
    assert run(photos, out, retry_errors=True, max_failure_rate=0.5)["failures"] == 4
    assert len(ids(out)) == 24


@pytest.mark.usefixtures("checks_every_row")
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_fewer_failures_do_not_stop_the_run(photos: Path, out: Path, rate: float) -> None:
    assert run(photos, out, max_failure_rate=rate)["failures"] == 4


@pytest.mark.usefixtures("checks_every_row")
def test_a_shard_stops_because_of_failures_in_other_shards(photos: Path, out: Path) -> None:
    dofn = module.AnnotateShard(module.Job(TASKS, Echo(), run="one"), str(out), max_failure_rate=0.5)
    dofn.setup()
    acquire(str(out), "one")
    ProgressFiles(str(out), "one").report(7, Summary(annotations=1, failures=20), last=True)
    with pytest.raises(errors.RunStopped, match="20 of 21 rows failed"):
        list(dofn.process((0, iter_refs(photos)), Count()))
    assert not list(out.glob("data/*"))


def iter_refs(photos: Path) -> Iterator:
    raise AssertionError("no image may be read")
    yield photos


def test_a_run_stops_if_another_run_breaks_its_lock(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.annotate_for

    def overtaken(*args: Any, **options: Any) -> Iterator:
        yield from real(*args, **options)
        # In a bucket another run does so after the lock has expired.
        for lock in (out / "_temporary").glob("*.lock"):
            lock.unlink()

    monkeypatch.setattr(module, "annotate_for", overtaken)
    with pytest.raises(Exception, match="run .* has no lock in"):
        run(photos, out)
    assert not list(out.glob("*/*.parquet"))


def test_a_signal_after_the_end_of_a_run_leaves_its_record_and_says_that_it_has_ended(photos: Path, out: Path) -> None:
    job = AnnotateToParquet(TASKS, Echo(), str(out), run="one")
    (record,) = collect(lambda pipeline: pipeline | ReadImages(str(photos)) | job)
    message = end_interrupted(job.job, job.output, {}, job.started, "SIGINT")
    assert message == f"interrupted after the run had ended: all its rows are in {out}"
    assert read_records(str(out)) == [record]
