"""The journal of paid jobs: after a crash at any moment, no accepted job is sent again."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from support.hosted.faults import Fault, answer, reset
from support.hosted.queries import expected, requests, results_of

from moondream_beam.models.hosted.cloud.annotator import MoondreamCloud
from moondream_beam.models.hosted.fal.annotator import Fal
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.hosted.payment.journal import Journal, LocalStore


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "out" / "_paid"


@pytest.fixture
def new(folder, clock):
    """Return a function that makes an annotator like a new process would, with its journal in the folder."""
    return lambda **options: Fal(**{"batch_size": 4, "clock": clock, **options}).with_store(LocalStore(str(folder)))


def entries(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def crash(stream, folder: Path, outcomes: int) -> None:
    """Leave the journal as it is after ``outcomes`` outcomes, like a kill -9 at that moment."""
    for _ in range(outcomes):
        next(stream)
    shutil.copytree(folder, folder.parent / "as it was")
    stream.close()
    shutil.rmtree(folder, ignore_errors=True)
    (folder.parent / "as it was").rename(folder)


@pytest.mark.parametrize("outcomes", [1, 4, 5, 9])
def test_a_crash_pays_for_no_job_twice_and_loses_no_answer(api, new, folder, outcomes):
    crash(new().answer(requests(24)), folder, outcomes)
    for job in api.fal.jobs.values():
        job.cancelled = False
    assert results_of(new().answer(requests(24))) == expected(24)
    assert max(api.fal.asked.values()) == 1 and len(api.fal.jobs) == 6


def test_a_finished_job_is_read_from_the_journal_without_any_call(api, new):
    list(new().answer(requests(8)))
    calls = len(api.calls)
    outcomes = list(new(price=1.0).answer(requests(8)))
    assert results_of(outcomes) == expected(8) and len(api.calls) == calls
    assert sum(outcome.hosted.units for outcome in outcomes) == 2.0, "the rows have the cost of the job"


def test_a_resumed_job_is_found_by_requests_in_another_order_and_grouping(api, new, folder):
    crash(new().answer(requests(8)), folder, 1)
    for job in api.fal.jobs.values():
        job.cancelled = False
    one, two = new(), new()
    assert results_of(one.answer(requests([7, 9, 1, 0]))) == expected([7, 9, 1, 0])
    assert results_of(two.answer(requests([6, 5, 10, 4, 3, 2]))) == expected([6, 5, 10, 4, 3, 2])
    assert max(api.fal.asked.values()) == 1


def test_an_unconfirmed_submission_is_a_lost_answer_until_its_rows_are_removed(api, new, folder):
    api.faults.append(Fault("submit", reset, before=False, times=1))
    crash(new().answer(requests(4)), folder, 1)
    assert [entry["state"] for entry in entries(folder)] == ["submitting"]
    fal = new()
    assert set(results_of(fal.answer(requests(4))).values()) == {"LostAnswer"}
    assert len(api.fal.jobs) == 1, "the job may have been accepted, so it is not sent again"
    fal.remove_from_journal([f"r{number}" for number in range(4)])
    assert results_of(new().answer(requests(4))) == expected(4)


def test_written_rows_are_removed_from_the_journal_and_the_empty_folder_too(api, new, folder):
    fal = new()
    list(fal.answer(requests(8)))
    assert len(entries(folder)) == 2
    fal.remove_from_journal(["r0", "r1", "r2", "r3", "r4", "unknown"])
    (left,) = entries(folder)
    assert left["request_ids"] == [None, "r5", "r6", "r7"]
    fal.remove_from_journal(["r5", "r6", "r7"])
    assert not folder.exists() and not fal._state.journal._entries


def test_two_processes_remove_their_shares_of_one_job(api, new, folder):
    list(new().answer(requests(4)))
    one, other = (Journal(entries(folder)[0]["endpoint"], LocalStore(str(folder))) for _ in range(2))
    one.refresh()
    other.refresh()
    one.remove(["r0", "r1"])
    other.remove(["r2"])
    assert entries(folder)[0]["request_ids"] == [None, None, None, "r3"]
    one.remove(["r3"])
    other.remove(["r3"])
    assert not folder.exists()


def test_a_job_that_the_account_was_refused_for_leaves_no_entry(api, new, folder):
    api.faults.append(Fault("submit", answer(401, "{}"), times=1))
    with pytest.raises(AccountError):
        list(new().answer(requests(4)))
    assert not folder.exists()


def test_a_run_after_an_exhausted_account_pays_only_for_the_rest(api, new):
    api.fal.locked_after = 2
    with pytest.raises(AccountError):
        list(new().answer(requests(16)))
    api.fal.locked_after = None
    assert results_of(new().answer(requests(16))) == expected(16)
    assert max(api.fal.asked.values()) == 1


def test_a_cancelled_job_is_sent_again(api, new):
    stream = new().answer(requests(8))
    next(stream)
    stream.close()
    cancelled = sum(job.cancelled for job in api.fal.jobs.values())
    assert results_of(new().answer(requests(8))) == expected(8)
    assert len(api.fal.jobs) == 2 + cancelled


def test_a_second_attempt_in_the_same_process_resumes_its_jobs(api, new):
    fal = new()
    stream = fal.answer(requests(8))
    next(stream)
    for job in api.fal.jobs.values():
        job.polls = 99
    stream.close()
    assert results_of(fal.answer(requests(8))) == expected(8)
    assert max(api.fal.asked.values()) == 1


def test_an_api_ignores_the_jobs_of_another_api(api, new, folder, clock):
    list(new().answer(requests(4)))
    other = Fal("fal-ai/moondream2-docci", clock=clock).with_store(LocalStore(str(folder)))
    assert results_of(other.answer(requests(4))) == expected(4)
    assert len(api.fal.jobs) == 2


def test_an_invalid_journal_file_is_an_error_that_names_the_file(api, new, folder):
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("{")
    with pytest.raises(RuntimeError, match="x.json is not a valid entry of the journal of paid jobs: remove the file"):
        list(new().answer(requests(1)))


@pytest.mark.parametrize("job", ["../../other/app/requests/x", "", "a?b"])
def test_an_invalid_job_id_in_the_journal_makes_no_call(api, new, folder, job):
    crash(new().answer(requests(4)), folder, 1)
    (entry,) = entries(folder)
    (folder / entry["name"]).write_text(json.dumps({**entry, "state": "accepted", "job": job}))
    calls = len(api.calls)
    assert set(results_of(new().answer(requests(4))).values()) == {"LostAnswer"} and len(api.calls) == calls


@pytest.mark.parametrize(
    ("scope", "concurrent", "later_scopes"),
    [
        pytest.param("one/7", "one/8", ("one/7", "two/8"), id="shards: the same shard again, and another run"),
        pytest.param(
            "one-0of2/7/0/2",
            "two-1of2/7/1/2",
            ("three-0of2/8/0/2", "four/8"),
            id="slices: the same slice again, and a run without slices",
        ),
    ],
)
def test_an_unfinished_job_of_a_worker_that_may_be_running_is_left_alone(
    api, new, folder, scope, concurrent, later_scopes
):
    crash(new().answer(requests(4), scope), folder, 1)
    (entry,) = entries(folder)
    (folder / entry["name"]).write_text(json.dumps({**entry, "state": "submitting"}))
    other = new()
    assert results_of(other.answer(requests(4), concurrent)) == expected(4), "pictures of the same bytes"
    other.remove_from_journal([f"r{number}" for number in range(4)], concurrent)
    assert [entry["scope"] for entry in entries(folder)] == [scope]
    for later in later_scopes:
        assert set(results_of(new().answer(requests(4), later)).values()) == {"LostAnswer"}, (
            "the worker that sent the job is gone"
        )
    assert len(api.fal.jobs) == 2


def test_a_finished_job_of_another_shard_is_used(api, new):
    fal = new()
    list(fal.answer(requests(4), "one/7"))
    assert results_of(fal.answer(requests(4), "one/8")) == expected(4)
    assert len(api.fal.jobs) == 1


def test_nothing_is_sent_if_the_journal_can_not_be_written(api, tmp_path, clock):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    fal = Fal(clock=clock).with_store(LocalStore(str(tmp_path / "gone" / "_paid")))
    with pytest.raises(AccountError, match="can't write the journal of paid jobs"):
        list(fal.answer(requests(4)))
    assert not api.calls


def test_no_journal_file_contains_the_key(api, new, folder):
    list(new().answer(requests(8)))
    text = "".join(path.read_text() for path in folder.iterdir())
    assert text and "fal-test-secret" not in text


def test_a_crash_loses_only_the_realtime_calls_in_flight(api, folder, clock):
    cloud = MoondreamCloud(clock=clock).with_store(LocalStore(str(folder)))
    crash(cloud.answer(requests(20)), folder, 5)
    states = [entry["state"] for entry in entries(folder)]
    results = results_of(MoondreamCloud(clock=clock).with_store(LocalStore(str(folder))).answer(requests(20)))
    assert list(results.values()).count("LostAnswer") == len(states) - states.count("done")
    assert max(api.cloud.asked.values()) == 1


def test_a_closed_stream_keeps_the_answers_of_its_realtime_calls(api, folder, clock):
    cloud = MoondreamCloud(clock=clock).with_store(LocalStore(str(folder)))
    stream = cloud.answer(requests(20))
    next(stream)
    stream.close()
    assert {entry["state"] for entry in entries(folder)} <= {"done", "cancelled"}
    assert results_of(cloud.answer(requests(20))) == expected(20)
    assert max(api.cloud.asked.values()) == 1


def test_a_local_store_replaces_files_and_can_be_pickled(tmp_path):
    store = pickle.loads(pickle.dumps(LocalStore(str(tmp_path / "a" / "b"))))
    assert list(store.names()) == [] and store.read("x.json") is None
    store.write("x.json", b"1")
    store.write("x.json", b"2")
    assert (list(store.names()), store.read("x.json")) == (["x.json"], b"2")
    store.remove("x.json")
    store.remove("x.json")
    assert not (tmp_path / "a" / "b").exists()


def test_a_journal_without_a_store_records_nothing():
    journal = Journal("fal", None)
    entry = journal.record_submission(["a"])
    journal.update(entry, "done")
    assert journal.find("a") is None
    journal.remove(["a"])
    journal.refresh()
