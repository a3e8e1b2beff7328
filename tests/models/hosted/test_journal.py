"""The journal of paid jobs: after a crash anywhere, nothing that was accepted is sent again."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from support.hosted.asking import ended, requests, right
from support.hosted.faults import Fault, answer, reset

from moondream_beam.models.hosted.cloud.annotator import MoondreamCloud
from moondream_beam.models.hosted.fal.annotator import Fal
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.hosted.journal import Journal, LocalStore


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "out" / "_paid"


@pytest.fixture
def new(folder, clock):
    """Makes an annotator as another process would have it, with the journal in the folder."""
    return lambda **options: Fal(**{"batch_size": 4, "clock": clock, **options}).with_store(LocalStore(str(folder)))


def entries(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def crash(stream, folder: Path, outcomes: int) -> None:
    """Leave the journal as a kill -9 would after so many outcomes."""
    for _ in range(outcomes):
        next(stream)
    shutil.copytree(folder, folder.parent / "as it was")
    stream.close()
    shutil.rmtree(folder, ignore_errors=True)
    (folder.parent / "as it was").rename(folder)


@pytest.mark.parametrize("outcomes", [1, 4, 5, 9])
def test_after_a_crash_nothing_is_sent_again_and_all_is_answered(api, new, folder, outcomes):
    crash(new().answer(requests(24)), folder, outcomes)
    for job in api.fal.jobs.values():
        job.cancelled = False
    assert ended(new().answer(requests(24))) == right(24)
    assert max(api.fal.asked.values()) == 1 and len(api.fal.jobs) == 6


def test_what_was_answered_is_not_even_asked_after(api, new):
    list(new().answer(requests(8)))
    calls = len(api.calls)
    outcomes = list(new(price=1.0).answer(requests(8)))
    assert ended(outcomes) == right(8) and len(api.calls) == calls
    assert sum(outcome.hosted.units for outcome in outcomes) == 2.0, "the bill is on the rows that there will be"


def test_jobs_are_found_again_in_other_orders_and_other_company(api, new, folder):
    crash(new().answer(requests(8)), folder, 1)
    for job in api.fal.jobs.values():
        job.cancelled = False
    one, two = new(), new()
    assert ended(one.answer(requests([7, 9, 1, 0]))) == right([7, 9, 1, 0])
    assert ended(two.answer(requests([6, 5, 10, 4, 3, 2]))) == right([6, 5, 10, 4, 3, 2])
    assert max(api.fal.asked.values()) == 1


def test_a_job_whose_answer_was_not_had_is_lost_once_and_then_asked_anew_on_demand(api, new, folder):
    api.faults.append(Fault("submit", reset, before=False, times=1))
    crash(new().answer(requests(4)), folder, 1)
    assert [entry["state"] for entry in entries(folder)] == ["submitting"]
    fal = new()
    assert set(ended(fal.answer(requests(4))).values()) == {"LostAnswer"}
    assert len(api.fal.jobs) == 1, "it was accepted, for all we know"
    fal.remove_from_journal([f"r{number}" for number in range(4)])
    assert ended(new().answer(requests(4))) == right(4)


def test_what_has_its_rows_is_forgotten_and_the_folder_goes_with_the_last(api, new, folder):
    fal = new()
    list(fal.answer(requests(8)))
    assert len(entries(folder)) == 2
    fal.remove_from_journal(["r0", "r1", "r2", "r3", "r4", "unknown"])
    (left,) = entries(folder)
    assert left["request_ids"] == [None, "r5", "r6", "r7"]
    fal.remove_from_journal(["r5", "r6", "r7"])
    assert not folder.exists() and not fal._state.journal._entries


def test_a_refused_job_leaves_no_trace(api, new, folder):
    api.faults.append(Fault("submit", answer(401, "{}"), times=1))
    with pytest.raises(AccountError):
        list(new().answer(requests(4)))
    assert not folder.exists()


def test_after_a_stop_for_lack_of_money_the_rest_is_asked_and_no_more(api, new):
    api.fal.locked_after = 2
    with pytest.raises(AccountError):
        list(new().answer(requests(16)))
    api.fal.locked_after = None
    assert ended(new().answer(requests(16))) == right(16)
    assert max(api.fal.asked.values()) == 1


def test_a_job_that_was_cancelled_is_sent_again(api, new):
    stream = new().answer(requests(8))
    next(stream)
    stream.close()
    cancelled = sum(job.cancelled for job in api.fal.jobs.values())
    assert ended(new().answer(requests(8))) == right(8)
    assert len(api.fal.jobs) == 2 + cancelled


def test_a_second_attempt_in_the_same_process_goes_on_as_well(api, new):
    fal = new()
    stream = fal.answer(requests(8))
    next(stream)
    for job in api.fal.jobs.values():
        job.polls = 99
    stream.close()
    assert ended(fal.answer(requests(8))) == right(8)
    assert max(api.fal.asked.values()) == 1


def test_apis_do_not_take_each_others_jobs_for_their_own(api, new, folder, clock):
    list(new().answer(requests(4)))
    other = Fal("fal-ai/moondream2-docci", clock=clock).with_store(LocalStore(str(folder)))
    assert ended(other.answer(requests(4))) == right(4)
    assert len(api.fal.jobs) == 2


def test_a_broken_journal_is_said_and_not_passed_over(api, new, folder):
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("{")
    with pytest.raises(RuntimeError, match="x.json is not a valid entry of the journal of paid jobs: remove the file"):
        list(new().answer(requests(1)))


@pytest.mark.parametrize("job", ["../../other/app/requests/x", "", "a?b"])
def test_a_journal_leads_nowhere_else(api, new, folder, job):
    crash(new().answer(requests(4)), folder, 1)
    (entry,) = entries(folder)
    (folder / entry["name"]).write_text(json.dumps({**entry, "state": "accepted", "job": job}))
    calls = len(api.calls)
    assert set(ended(new().answer(requests(4))).values()) == {"LostAnswer"} and len(api.calls) == calls


@pytest.mark.parametrize(
    ("scope", "beside", "afterwards"),
    [
        pytest.param("one/7", "one/8", ("one/7", "two/8"), id="shards: it again, and another run"),
        pytest.param(
            "one-0of2/7/0/2",
            "two-1of2/7/1/2",
            ("three-0of2/8/0/2", "four/8"),
            id="slices: it again, and all of them",
        ),
    ],
)
def test_what_others_have_under_way_is_their_own_business(api, new, folder, scope, beside, afterwards):
    crash(new().answer(requests(4), scope), folder, 1)
    (entry,) = entries(folder)
    (folder / entry["name"]).write_text(json.dumps({**entry, "state": "submitting"}))
    other = new()
    assert ended(other.answer(requests(4), beside)) == right(4), "pictures of the same bytes"
    other.remove_from_journal([f"r{number}" for number in range(4)], beside)
    assert [entry["scope"] for entry in entries(folder)] == [scope]
    for later in afterwards:
        assert set(ended(new().answer(requests(4), later)).values()) == {"LostAnswer"}, "who had it is gone"
    assert len(api.fal.jobs) == 2


def test_an_answer_that_another_shard_has_costs_nothing(api, new):
    fal = new()
    list(fal.answer(requests(4), "one/7"))
    assert ended(fal.answer(requests(4), "one/8")) == right(4)
    assert len(api.fal.jobs) == 1


def test_nothing_is_sent_that_can_not_be_noted(api, tmp_path, clock):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    fal = Fal(clock=clock).with_store(LocalStore(str(tmp_path / "gone" / "_paid")))
    with pytest.raises(AccountError, match="can't write the journal of paid jobs"):
        list(fal.answer(requests(4)))
    assert not api.calls


def test_the_key_is_in_no_file(api, new, folder):
    list(new().answer(requests(8)))
    text = "".join(path.read_text() for path in folder.iterdir())
    assert text and "fal-test-secret" not in text


def test_the_cloud_keeps_answers_too_and_calls_that_were_under_way_are_lost(api, folder, clock):
    cloud = MoondreamCloud(clock=clock).with_store(LocalStore(str(folder)))
    crash(cloud.answer(requests(20)), folder, 5)
    states = [entry["state"] for entry in entries(folder)]
    told = ended(MoondreamCloud(clock=clock).with_store(LocalStore(str(folder))).answer(requests(20)))
    assert list(told.values()).count("LostAnswer") == len(states) - states.count("done")
    assert max(api.cloud.asked.values()) == 1


def test_calls_under_way_are_kept_when_nobody_listens_any_more(api, folder, clock):
    cloud = MoondreamCloud(clock=clock).with_store(LocalStore(str(folder)))
    stream = cloud.answer(requests(20))
    next(stream)
    stream.close()
    assert {entry["state"] for entry in entries(folder)} <= {"done", "cancelled"}
    assert ended(cloud.answer(requests(20))) == right(20)
    assert max(api.cloud.asked.values()) == 1


def test_a_store_replaces_whole_files_and_travels(tmp_path):
    store = pickle.loads(pickle.dumps(LocalStore(str(tmp_path / "a" / "b"))))
    assert list(store.names()) == [] and store.read("x.json") is None
    store.write("x.json", b"1")
    store.write("x.json", b"2")
    assert (list(store.names()), store.read("x.json")) == (["x.json"], b"2")
    store.remove("x.json")
    store.remove("x.json")
    assert not (tmp_path / "a" / "b").exists()


def test_without_a_store_nothing_is_remembered():
    journal = Journal("fal", None)
    entry = journal.record_submission(["a"])
    journal.update(entry, "done")
    assert journal.find("a") is None
    journal.remove(["a"])
    journal.refresh()
