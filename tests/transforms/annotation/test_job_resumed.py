"""The job over an output that has rows already, or pictures that are the same, or an end before the end."""

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
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Detect, Outcome, Query, Request, Sampling
from moondream_beam.transforms.annotation import job as module
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.core import errors
from moondream_beam.transforms.core.errors import stop_reason
from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.monitoring import failure_limit, progress
from moondream_beam.transforms.monitoring.progress import ProgressFiles
from moondream_beam.transforms.output.lock import acquire

TASKS = (Caption(), Detect("dog"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures and two that are none."""
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
    """Run the job over a folder; the counts of its record."""
    job = AnnotateToParquet(tasks, by or Echo(), str(out), **options)
    (record,) = collect(lambda pipeline: pipeline | ReadImages(str(photos)) | job)
    assert record["balanced"]
    return record["counts"]


def rows(out: Path, kind: str) -> list[dict]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def ids(out: Path) -> list[str]:
    """The ids of all rows, each of which must be there once."""
    both = [row["id"] for kind in ("data", "errors") for row in rows(out, kind)]
    assert len(set(both)) == len(both)
    return sorted(both)


def test_failures_are_retried_when_that_is_asked_and_each_id_stays_one_row(photos: Path, out: Path) -> None:
    run(photos, out, by=Echo(faults_on=((3, 2), (7, 2))), shard_size=2)
    before, kept = ids(out), rows(out, "data")
    assert len(rows(out, "errors")) == 8
    assert run(photos, out) == {"pictures": 0, "pending": 0, "done": 24, "retried": 0, "annotations": 0, "failures": 0}
    # Cured: both pictures, and one of the files.
    Image.new("RGB", (40, 2)).save(photos / "empty.jpg")
    counts = run(photos, out, retry_errors=True)
    assert counts == {"pictures": 4, "pending": 8, "done": 16, "retried": 8, "annotations": 6, "failures": 2}
    assert ids(out) == before
    assert [row for row in rows(out, "data") if row in kept] == kept
    assert {row["filename"] for row in rows(out, "errors")} == {"page.jpg"}
    loaded = datasets.load_dataset(str(out), "errors", cache_dir=str(out.parent / "cache"))["train"]
    assert loaded["filename"] == ["page.jpg"] * 2
    (photos / "page.jpg").unlink()
    Image.new("RGB", (50, 2)).save(photos / "page.jpg", "PNG")
    assert run(photos, out, retry_errors=True)["annotations"] == 2
    assert (ids(out), rows(out, "errors")) == (before, [])


def test_only_failures_that_are_asked_again_are_retried(photos: Path, out: Path) -> None:
    run(photos, out, tasks=(Caption("short"),), by=Echo(faults_on=((3, 2),)))
    run(photos, out, tasks=(Caption(),), by=Echo(faults_on=((3, 2),)))
    run(photos, out, tasks=(Caption(),), retry_errors=True)
    assert Counter(row["prompt"] for row in rows(out, "errors")) == {"short": 3, "normal": 2}
    assert len(ids(out)) == 24


def test_a_retry_that_dies_leaves_what_the_next_run_does(photos: Path, out: Path) -> None:
    run(photos, out, by=Echo(faults_on=((3, 2), (7, 2))))
    before = ids(out)
    with pytest.raises(Exception, match="echo died"):
        run(photos, out, by=Echo(dies_on=((7, 2),)), retry_errors=True, shard_size=1)
    assert set(ids(out)) < set(before)
    # With the flag or without: what is missing is missing.
    run(photos, out)
    assert ids(out) == before


def test_another_prompt_model_or_sampling_is_asked_anew_and_nothing_else(photos: Path, out: Path) -> None:
    run(photos, out)
    assert run(photos, out, tasks=(Caption(), Detect("cat")))["pending"] == 12
    assert run(photos, out, by=Echo(revision="2"))["pending"] == 24
    assert run(photos, out, sampling=Sampling(temperature=0.3))["pending"] == 24
    assert run(photos, out, tasks=(*TASKS, Detect("cat"), Query("Why?")))["pending"] == 12
    assert len(ids(out)) == 24 + 12 + 24 + 24 + 12


def test_pictures_of_the_same_bytes_are_asked_once_a_run_where_that_is_wanted(tmp_path: Path, out: Path) -> None:
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

    def told(kind: str) -> list[tuple]:
        return sorted((row["id"], row["caption"], str(row["objects"])) for row in rows(out / kind, "data"))

    assert told("with") == told("without")


@dataclass(frozen=True)
class DiesLater(Echo):
    """Dies in the third shard, whichever that is."""

    out: str = ""

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        if len(list(Path(self.out, "data").glob("*.parquet"))) == 2:
            raise RuntimeError("echo died")
        yield from super().answer(requests)


class Flickering(Fetcher):
    """Finds none of the pictures for a while: each ``lost`` file is there no more after one look at it."""

    def __init__(self, lost: Path) -> None:
        super().__init__()
        self.lost = lost

    def __call__(self, uri: str) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            (self.lost / Path(uri).name).unlink()
            raise ConnectionError("for once")
        return super().__call__(uri)


def test_planned_anew_while_pictures_cant_be_read_a_run_asks_none_of_them_twice(tmp_path: Path, out: Path) -> None:
    photos, lost = tmp_path / "copies", tmp_path / "lost"
    photos.mkdir()
    lost.mkdir()
    for index in range(40):
        Image.new("RGB", (1 + index % 20, 2)).save(photos / f"{index}.png")
    options = {"shard_size": 4, "dedup": True, "run": "one", "fetch": Flickering(lost)}
    with pytest.raises(Exception, match="echo died"):
        run(photos, out, by=DiesLater(out=str(out)), **options)
    assert 0 < len(ids(out)) < 80
    # As when a runner loses what a lost worker had planned, and plans anew.
    for index in range(0, 40, 2):
        (lost / f"{index}.png").touch()
    counts = run(photos, out, **options)
    assert counts["annotations"] + counts["failures"] == len(ids(out)) == 80


def test_planned_anew_with_more_pictures_than_before_a_run_keeps_to_its_shards(photos: Path, out: Path) -> None:
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
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes at every row, and a rate after ten."""
    monkeypatch.setattr(progress, "REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr(failure_limit, "MIN_ROWS", 10)


@pytest.mark.usefixtures("impatient")
def test_too_many_failures_stop_the_run_and_what_was_published_stays(photos: Path, out: Path) -> None:
    tired = Echo(faults_on=tuple((width, 2) for width in range(1, 11)))
    with pytest.raises(Exception, match="stopped") as caught:
        run(photos, out, by=tired, shard_size=3, max_failure_rate=0.5)
    assert "more than --max-failure-rate 0.5 allows" in str(stop_reason(caught.value))
    kept = ids(out)
    assert len(kept) < 24
    assert not (out / "runs").exists()
    assert not list(out.rglob("_temporary/*.parquet"))
    assert run(photos, out, retry_errors=True, max_failure_rate=0.5)["failures"] == 4
    assert len(ids(out)) == 24


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_fewer_failures_stop_nothing(photos: Path, out: Path, rate: float) -> None:
    assert run(photos, out, max_failure_rate=rate)["failures"] == 4


@pytest.mark.usefixtures("impatient")
def test_a_shard_stops_for_what_failed_in_others(photos: Path, out: Path) -> None:
    dofn = module._AnnotateShard(module.Job(TASKS, Echo(), run="one"), str(out), max_failure_rate=0.5)
    dofn.setup()
    acquire(str(out), "one")
    ProgressFiles(str(out), "one").report(7, Summary(annotations=1, failures=20), last=True)
    with pytest.raises(errors.RunStopped, match="20 of 21 rows failed"):
        list(dofn.process((0, iter_refs(photos)), Count()))
    assert not list(out.glob("data/*"))


def iter_refs(photos: Path) -> Iterator:
    raise AssertionError("nothing is looked at any more")
    yield photos


def test_a_run_stops_where_another_took_it_for_dead(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.annotate

    def overtaken(*args: Any, **options: Any) -> Iterator:
        yield from real(*args, **options)
        # As on an object store after a long sleep.
        for token in (out / "_temporary").glob("*.lock"):
            token.unlink()

    monkeypatch.setattr(module, "annotate", overtaken)
    with pytest.raises(Exception, match="run .* has no lock in"):
        run(photos, out)
    assert not list(out.glob("*/*.parquet"))
