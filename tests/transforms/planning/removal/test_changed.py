"""Pictures that were replaced in place are asked about again if asked to, by their bytes, and no others."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption, Detect
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.manifest import ReadManifests
from moondream_beam.transforms.inputs.manifest_columns import Columns
from moondream_beam.transforms.monitoring.status import OutputStatus

TASKS = (Caption(), Detect("dog"))


def draw(width: int, colour: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 2), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of five pictures, named by their widths, and a file that is no picture."""
    root = tmp_path / "photos"
    root.mkdir()
    for width in range(1, 6):
        (root / f"{width}.png").write_bytes(draw(width))
    (root / "page.jpg").write_text("<html>")
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(inputs: Any, out: Path | str, tasks: tuple = TASKS, by: Echo | None = None, **options: Any) -> dict[str, int]:
    """Run the job, check that the record is balanced, and return its counts."""
    job = AnnotateToParquet(tasks, by or Echo(), str(out), **options)
    source = inputs if callable(inputs) else lambda: ReadImages(str(inputs))
    (record,) = collect(lambda pipeline: pipeline | source() | job)
    assert record["balanced"]
    return {"changed": 0, "unread": 0, **record["counts"]}


def rows(out: Path, kind: str = "data") -> list[dict]:
    found = [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert len({row["id"] for row in found}) == len(found)
    return found


def widths(out: Path) -> dict[tuple[str, str], int]:
    """Return the width in each row, by file name and task."""
    return {(row["filename"], row["task"]): row["width"] for row in rows(out)}


def test_a_picture_with_other_bytes_is_asked_again_and_each_request_keeps_one_row(photos: Path, out: Path) -> None:
    run(photos, out, shard_size=2)
    before = rows(out)
    (photos / "3.png").write_bytes(draw(30))
    (photos / "new.png").write_bytes(draw(9))
    counts = run(photos, out, retry_changed=True)
    assert (counts["pictures"], counts["pending"], counts["done"]) == (2, 4, 10)
    assert (counts["changed"], counts["retried"], counts["unread"]) == (2, 0, 0)
    assert {row["id"] for row in before} < {row["id"] for row in rows(out)}
    kept = [row for row in before if row["filename"] != "3.png"]
    assert [row for row in rows(out) if row in kept] == kept
    assert widths(out)["3.png", "caption"] == widths(out)["3.png", "detect"] == 30
    again = run(photos, out, retry_changed=True)
    assert (again["pending"], again["changed"], again["done"]) == (0, 0, 14)


def test_without_the_option_the_answer_about_the_earlier_picture_stays(photos: Path, out: Path) -> None:
    run(photos, out)
    (photos / "3.png").write_bytes(draw(30))
    assert run(photos, out, retry_errors=True)["changed"] == 0
    assert widths(out)["3.png", "caption"] == 3


@pytest.mark.parametrize("times", [(0, 0), (2_000_000_000, 2_000_000_000)])
def test_the_bytes_decide_and_not_the_time_of_the_file(photos: Path, out: Path, times: tuple[int, int]) -> None:
    """`cp -p` and `rsync -a` keep the old time of a new picture, and `touch` gives a new time to an old one."""
    run(photos, out)
    (photos / "2.png").write_bytes(draw(20))
    for name in ("1.png", "2.png"):
        os.utime(photos / name, times)
    assert run(photos, out, retry_changed=True)["changed"] == 2
    assert widths(out)["1.png", "caption"] == 1 and widths(out)["2.png", "caption"] == 20


def test_a_replaced_picture_that_is_broken_becomes_a_failure(photos: Path, out: Path) -> None:
    run(photos, out)
    (photos / "4.png").write_text("<html>")
    counts = run(photos, out, retry_changed=True)
    assert (counts["pending"], counts["changed"], counts["failures"]) == (2, 2, 2)
    assert "4.png" not in {row["filename"] for row in rows(out)}
    assert {row["filename"] for row in rows(out, "errors")} == {"page.jpg", "4.png"}


def test_only_rows_of_the_same_requests_are_removed(photos: Path, out: Path) -> None:
    run(photos, out, tasks=(Caption("short"),))
    run(photos, out, tasks=(Caption(),))
    (photos / "5.png").write_bytes(draw(50))
    assert run(photos, out, tasks=(Caption(),), retry_changed=True)["changed"] == 1
    assert {row["prompt"]: row["width"] for row in rows(out) if row["filename"] == "5.png"} == {
        "short": 5,
        "normal": 50,
    }


def test_a_run_that_crashes_after_the_removal_is_resumed_by_the_next(photos: Path, out: Path) -> None:
    run(photos, out)
    (photos / "3.png").write_bytes(draw(30))
    with pytest.raises(Exception, match="echo died"):
        run(photos, out, by=Echo(dies_on=((30, 2),)), retry_changed=True)
    assert len(rows(out)) == 8
    counts = run(photos, out)
    assert (counts["pending"], counts["changed"]) == (2, 0)
    assert widths(out)["3.png", "caption"] == 30


def test_a_picture_that_cannot_be_read_keeps_its_rows_and_is_counted(photos: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "list.csv").write_text("".join(["url\n", *(f"{photos}/{width}.png\n" for width in range(1, 6))]))

    def manifest() -> ReadManifests:
        return ReadManifests([str(tmp_path / "list.csv")], Columns("url", tasks=TASKS))

    run(manifest, out)
    before = rows(out)
    (photos / "1.png").unlink()
    (photos / "2.png").write_bytes(b"")
    counts = run(manifest, out, retry_changed=True)
    assert (counts["pending"], counts["done"], counts["changed"], counts["unread"]) == (0, 10, 0, 2)
    assert rows(out) == before


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_changed_member_of_an_archive_is_asked_again(tmp_path: Path, out: Path, ending: str) -> None:
    def write(*colours: str) -> None:
        with tarfile.open(tmp_path / f"set.{ending}", "w:gz" if ending == "tar.gz" else "w") as tar:
            for width, colour in enumerate(colours, 1):
                member = tarfile.TarInfo(f"{width}.png")
                member.size = len(content := draw(width, colour))
                tar.addfile(member, io.BytesIO(content))

    write("teal", "teal", "teal")
    run(tmp_path / f"set.{ending}", out)
    before = {row["id"]: row["sha256"] for row in rows(out)}
    write("teal", "navy", "teal")
    assert run(tmp_path / f"set.{ending}", out, retry_changed=True)["changed"] == 2
    after = {row["id"]: row["sha256"] for row in rows(out)}
    assert before.keys() == after.keys() and sum(before[id] != after[id] for id in before) == 2


def test_a_changed_cell_of_a_parquet_file_is_asked_again(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "set.parquet"

    def manifest() -> ReadManifests:
        return ReadManifests([str(path)], Columns(None, image="image", tasks=TASKS))

    pq.write_table(pa.table({"image": [draw(width) for width in (1, 2, 3)]}), path)
    run(manifest, out)
    pq.write_table(pa.table({"image": [draw(width) for width in (1, 20, 3)]}), path)
    assert run(manifest, out, retry_changed=True)["changed"] == 2
    assert sorted(row["width"] for row in rows(out)) == [1, 1, 3, 3, 20, 20]


def test_the_status_of_the_earlier_run_says_how_many_answers_were_asked_again(photos: Path, out: Path) -> None:
    run(photos, out, run="one")
    (photos / "3.png").write_bytes(draw(30))
    run(photos, out, run="two", retry_changed=True)
    one, two = OutputStatus(str(out)).poll()
    assert (one.annotations, one.num_changed, one.num_retried) == (8, 2, 0)
    assert (two.annotations, two.num_changed) == (2, 0)


def test_equal_pictures_are_still_asked_once(photos: Path, out: Path) -> None:
    run(photos, out)
    for name in ("1.png", "2.png"):
        (photos / name).write_bytes(draw(70))
    assert run(photos, out, retry_changed=True, dedup=True)["changed"] == 4
    assert widths(out)["1.png", "caption"] == widths(out)["2.png", "caption"] == 70


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_replaced_object_in_a_bucket_is_asked_again(kind: str, out: Path, bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of(kind)
    for width in (1, 2, 3):
        bucket.put(f"photos/{width}.png", draw(width))
    run(f"{bucket.root}/photos", out)
    bucket.put("photos/2.png", draw(20))
    # Put again with the same bytes: the time of the object is new.
    bucket.put("photos/3.png", draw(3))
    assert run(f"{bucket.root}/photos", out, retry_changed=True)["changed"] == 2
    assert widths(out)["2.png", "caption"] == 20
