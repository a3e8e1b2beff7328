"""Rows of a shard that is not published yet are kept, taken up by a later attempt, and published by a later run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from support.data.outputs import kept_by_run
from support.data.rows import annotation, failure
from support.servers.object_stores import Bucket

from moondream_beam.models.hosted.payment.billing import Billing
from moondream_beam.transforms.core.row_schema import ANNOTATION_SCHEMA, annotation_schema
from moondream_beam.transforms.output import answer_journal
from moondream_beam.transforms.output.answer_journal import OPEN_JOURNALS, AnswerJournal, publish_kept
from moondream_beam.transforms.output.files import glob_files
from moondream_beam.transforms.output.locks.lock import acquire
from moondream_beam.transforms.output.writer import ShardWriter

Rows = Callable[..., list]
NEVER_S = 3600.0


@pytest.fixture(params=["disk", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path, bucket_of: Callable[[str], Bucket]) -> str:
    return f"{bucket_of('s3').root}/out" if request.param == "s3" else str(tmp_path / "out")


def journal(out: str, run: str = "one", shard: int = 0, interval_s: float = NEVER_S, columns=()) -> AnswerJournal:
    return AnswerJournal(ShardWriter(out, run, shard, columns), out, run, shard, interval_s)


def keep(out: str, *rows, run: str = "one", shard: int = 0) -> None:
    """Leave rows as an attempt that is killed leaves them."""
    attempt = journal(out, run, shard)
    for row in rows:
        attempt.writer.add(row)
    attempt.flush()


def ids(out: str) -> list[str]:
    found = []
    for path in glob_files(f"{out}/data/*.parquet", f"{out}/errors/*.parquet"):
        with FileSystems.open(path) as file:
            found += pq.read_table(file)["id"].to_pylist()
    return sorted(found)


def is_dead(run: str) -> bool:
    return True


def test_a_later_attempt_finds_the_kept_answers_and_failures_each_id_once(out: str, rows: Rows) -> None:
    keep(out, *rows(3), *rows(2, failed=True))
    keep(out, *rows(4))
    keep(out, annotation(id="other"), shard=1)
    kept = journal(out).kept()
    assert sorted(kept.ids) == ["a0", "a1", "a2", "a3", "f0", "f1"]
    assert (kept.answers.num_rows, kept.failures.num_rows) == (4, 2)
    assert kept.only(["a1", "f0", "x"]).ids == {"a1", "f0"}


def test_each_file_holds_only_the_rows_since_the_last_one(out: str, rows: Rows) -> None:
    attempt = journal(out)
    for row in rows(3):
        attempt.writer.add(row)
        attempt.flush()
    attempt.flush()
    names = sorted(FileSystems.split(path)[1] for path in glob_files(f"{out}/_temporary/*answers*"))
    assert [name.rsplit("-", 2)[1:] for name in names] == [["0", "1"], ["1", "1"], ["2", "1"]]
    assert kept_by_run(out) == {"one": 3}


def test_rows_are_kept_while_the_block_runs_without_another_row(tmp_path: Path, rows: Rows) -> None:
    out = str(tmp_path / "out")
    with journal(out, interval_s=0.05) as attempt:
        attempt.writer.add(rows(1)[0])
        end = time.monotonic() + 20
        while kept_by_run(out) != {"one": 1} and time.monotonic() < end:
            time.sleep(0.01)
        assert kept_by_run(out) == {"one": 1}


def test_the_last_rows_are_kept_if_the_block_raises_but_not_if_it_ends(out: str, rows: Rows) -> None:
    with journal(out, run="good") as attempt:
        attempt.writer.add(rows(1)[0])
    with pytest.raises(RuntimeError, match="died"), journal(out, run="bad") as attempt:
        attempt.writer.add(rows(1)[0])
        raise RuntimeError("died")
    assert kept_by_run(out) == {"bad": 1}


def test_a_file_that_can_not_be_written_is_an_error_at_the_next_row(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "_temporary").write_text("no folder")
    with journal(str(tmp_path), interval_s=0.01) as attempt:
        attempt.writer.add(rows(1)[0])
        end = time.monotonic() + 20
        with pytest.raises(OSError):
            while time.monotonic() < end:
                attempt.check()
                time.sleep(0.01)


def test_a_later_run_publishes_what_a_dead_run_has_kept(out: str, rows: Rows) -> None:
    keep(out, *rows(3), failure(id="f"))
    keep(out, annotation(id="second"), shard=1)
    keep(out, annotation(id="alive"), run="two")
    assert publish_kept(out, ANNOTATION_SCHEMA, lambda run: run == "one") == 5
    assert ids(out) == ["a0", "a1", "a2", "f", "second"]
    assert kept_by_run(out) == {"two": 1}
    assert publish_kept(out, ANNOTATION_SCHEMA, lambda run: run == "one") == 0
    assert ids(out) == ["a0", "a1", "a2", "f", "second"]


def test_files_that_another_slice_has_published_meanwhile_are_no_news(
    out: str, rows: Rows, caplog, monkeypatch
) -> None:
    keep(out, *rows(3))

    def delete_and_open(path: str) -> object:
        FileSystems.delete([path])
        return FileSystems.open(path)

    gone = type("Gone", (answer_journal.FileSystems,), {"open": staticmethod(delete_and_open)})
    monkeypatch.setattr(answer_journal, "FileSystems", gone)
    assert publish_kept(out, ANNOTATION_SCHEMA, is_dead) == 0
    assert "can't be read" not in caplog.text


def test_rows_of_a_shard_that_is_published_are_not_published_again(out: str, rows: Rows) -> None:
    keep(out, *rows(3))
    attempt = journal(out)
    attempt.writer.add_tables(*attempt.kept())
    attempt.writer.add(annotation(id="new"))
    attempt.writer.publish()
    assert publish_kept(out, ANNOTATION_SCHEMA, is_dead) == 0
    assert ids(out) == ["a0", "a1", "a2", "new"]
    assert kept_by_run(out) == {}


def test_two_runs_that_publish_at_once_publish_each_row_once(tmp_path: Path, rows: Rows) -> None:
    out = str(tmp_path / "out")
    for shard in range(20):
        keep(out, annotation(id=f"{shard}"), shard=shard)
    published: list[int] = []
    start = threading.Barrier(3)

    def publish() -> None:
        start.wait()
        published.append(publish_kept(out, ANNOTATION_SCHEMA, is_dead))

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(out) == sorted(map(str, range(20)))
    # Where one completes the commit that another has begun, neither counts the row.
    assert 0 < sum(published) <= 20


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda _: b"x" * 99])
def test_a_broken_file_is_dropped_and_told(
    tmp_path: Path, rows: Rows, damage, caplog: pytest.LogCaptureFixture
) -> None:
    out = str(tmp_path / "out")
    keep(out, *rows(2))
    (path,) = Path(out).glob("_temporary/*")
    path.write_bytes(damage(path.read_bytes()))
    keep(out, annotation(id="whole"))
    with caplog.at_level(logging.WARNING):
        assert publish_kept(out, ANNOTATION_SCHEMA, is_dead) == 1
    assert ids(out) == ["whole"]
    assert f"{path} can't be read, so its 2 answers are asked again" in caplog.text


def test_rows_with_other_kept_columns_are_dropped_and_told(
    tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    out = str(tmp_path / "out")
    keep(out, *rows(2))
    with caplog.at_level(logging.WARNING):
        assert publish_kept(out, annotation_schema([pa.field("score", pa.float64())]), is_dead) == 0
    assert "its 2 answers are asked again" in caplog.text


def test_kept_columns_and_places_keep_their_values(out: str) -> None:
    columns = (pa.field("tags", pa.list_(pa.string())),)
    attempt = journal(out, columns=columns)
    attempt.writer.add(annotation(id="a", columns=(["x", "y"],)))
    attempt.flush()
    (row,) = journal(out, columns=columns).kept().answers.to_pylist()
    assert (row["id"], row["tags"]) == ("a", ["x", "y"])


def test_rows_that_an_api_was_paid_for_are_left_to_its_own_journal(out: str) -> None:
    paid = annotation(id="paid", hosted=Billing("j", 1.0, 0.1, False, None))
    keep(out, paid, annotation(id="free"))
    assert journal(out).kept().ids == {"free"}


def test_the_files_of_a_shard_are_deleted_alone(out: str, rows: Rows) -> None:
    keep(out, *rows(1))
    keep(out, *rows(1), shard=1)
    keep(out, *rows(1), run="one-2")
    journal(out).delete()
    assert kept_by_run(out) == {"one": 1, "one-2": 1}


def test_a_run_that_begins_deletes_other_files_of_dead_runs_but_not_their_answers(tmp_path: Path, rows: Rows) -> None:
    out = tmp_path / "out"
    keep(str(out), *rows(2))
    (out / "_temporary" / "one.draft-x").write_text("")
    acquire(str(out), "two")
    assert kept_by_run(str(out)) == {"one": 2}
    assert not (out / "_temporary" / "one.draft-x").exists()


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[AnswerJournal]:
    with OPEN_JOURNALS.shard(), journal(str(tmp_path / "out")) as attempt:
        yield attempt


def test_open_journals_are_flushed_after_a_time_of_grace(open_journal: AnswerJournal, rows: Rows) -> None:
    open_journal.writer.add(rows(1)[0])
    started = time.monotonic()
    OPEN_JOURNALS.flush(0.2)
    assert time.monotonic() - started >= 0.2
    assert kept_by_run(open_journal.output) == {"one": 1}


def test_without_open_journals_there_is_no_time_of_grace() -> None:
    started = time.monotonic()
    OPEN_JOURNALS.flush(30.0)
    assert time.monotonic() - started < 30
