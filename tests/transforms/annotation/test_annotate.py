"""The plain generator: exactly one row for each task on each picture, whoever answers, and however."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.data.echo import BOX, SPOT, Deaf, Echo, Stray

from moondream_beam.models.tasks import Caption, Detect, Point, Query
from moondream_beam.transforms.annotation import pending
from moondream_beam.transforms.annotation.annotate import annotate, check_tasks
from moondream_beam.transforms.core.records import Annotation, Failure, ImageRef, Job, Row, RowTimings
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.images.prefetch import PICTURES_AHEAD

fetch = Fetcher()

TASKS = (Caption(), Query("Why?"), Detect("dog"), Point("dog"))
COUNT = 21
MANNERS = {
    "one by one": Echo(batch_size=1),
    "backwards": Echo(batch_size=10**6),
    "batch by batch": Echo(batch_size=5),
    "ahead in a thread": Echo(batch_size=3, in_a_thread=True),
}


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Pictures whose width is their number."""
    for width in range(1, COUNT + 1):
        Image.new("RGB", (width, 2), (width, 0, 0)).save(tmp_path / f"{width:02}.png")
    return [ImageRef(str(path), path.name) for path in sorted(tmp_path.iterdir())]


def what(row: Row) -> tuple[object, ...]:
    """A row without its times."""
    blank = row._replace(timings=RowTimings()) if isinstance(row, Annotation) else row
    return tuple(blank._replace(created_at=None))


@pytest.mark.parametrize("annotator", MANNERS.values(), ids=MANNERS)
def test_each_task_on_each_picture_is_one_row(refs: list[ImageRef], annotator: Echo) -> None:
    rows = list(annotate(refs, TASKS, annotator, run="one"))
    job = Job(TASKS, annotator)
    assert Counter(row.id for row in rows) == Counter(job.id_of(ref, task) for ref in refs for task in TASKS)
    for row in rows:
        assert isinstance(row, Annotation)
        assert row.width == int(row.filename[:2])
        assert (row.model, row.revision, row.backend, row.run) == ("echo", "1", "plain rules", "one")
        assert (row.input_tokens, row.output_tokens) == (7, 3)


def test_each_kind_of_answer_stands_in_its_column(refs: list[ImageRef]) -> None:
    rows = {row.task: row for row in annotate(refs[6:7], TASKS, Echo())}
    said = {task: (row.prompt, row.caption, row.objects, row.points, row.finish_reason) for task, row in rows.items()}
    assert said == {
        "caption": ("normal", "7 x 2, (7, 0, 0)", None, None, "stop"),
        "query": ("Why?", "Why?", None, None, "length"),
        "detect": ("dog", None, (BOX,), None, "stop"),
        "point": ("dog", None, None, (SPOT,), "stop"),
    }


@pytest.mark.parametrize("annotator", MANNERS.values(), ids=MANNERS)
def test_the_neighbours_of_bad_pictures_do_not_notice(refs: list[ImageRef], annotator: Echo) -> None:
    bad = {refs[0]: "fetch", refs[4]: "decode", refs[5]: "fetch", refs[-1]: "decode"}
    good = [ref for ref in refs if ref not in bad]
    Path(refs[0].uri).unlink()
    Path(refs[4].uri).write_bytes(Path(refs[4].uri).read_bytes()[:50])
    Path(refs[5].uri).write_bytes(b"")
    Path(refs[-1].uri).write_text("<html>Not found</html>")
    rows = list(annotate(refs, TASKS, annotator))
    failures = [row for row in rows if isinstance(row, Failure)]
    assert Counter((row.uri, row.stage) for row in failures) == {(ref.uri, stage): 4 for ref, stage in bad.items()}
    assert all(row.message and row.error and not row.backend for row in failures)
    without_them = sorted(map(what, annotate(good, TASKS, annotator)))
    assert sorted(what(row) for row in rows if isinstance(row, Annotation)) == without_them


def test_a_folder_of_bad_pictures_is_a_failure_for_each_task() -> None:
    refs = [ImageRef(f"/nowhere/{index}.jpg", "") for index in range(40)]
    rows = list(annotate(refs, TASKS, Echo()))
    assert len(rows) == len({row.id for row in rows}) == 160
    assert {type(row) for row in rows} == {Failure}


@pytest.mark.parametrize("annotator", MANNERS.values(), ids=MANNERS)
def test_failures_that_have_waited_long_go_out_though_no_answer_comes(
    refs: list[ImageRef], annotator: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "LONGEST_WAIT_SECONDS", 0.0)
    asked: list[str] = []

    def noting(uri: str) -> bytes:
        asked.append(uri)
        return fetch(uri)

    missing = [ImageRef(f"/nowhere/{index}.jpg", "") for index in range(10 * PICTURES_AHEAD)]
    rows = annotate([*missing, *refs, *missing[:3]], TASKS, annotator, fetch=noting)
    first = next(rows)
    assert isinstance(first, Failure) and len(asked) <= 2 * PICTURES_AHEAD
    found = Counter(row.id for row in (first, *rows))
    job = Job(TASKS, annotator)
    assert found == Counter(job.id_of(ref, task) for ref in [*missing, *refs, *missing[:3]] for task in TASKS)


def test_no_pictures_are_no_rows() -> None:
    assert list(annotate([], TASKS, Echo())) == []


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_a_fault_is_a_failure_of_that_row_alone(refs: list[ImageRef], in_a_thread: bool) -> None:
    rows = list(annotate(refs, TASKS, Echo(faults_on=("Why?",), in_a_thread=in_a_thread)))
    failures = [row for row in rows if isinstance(row, Failure)]
    assert len(rows) == 4 * COUNT
    assert len({row.uri for row in failures}) == len(failures) == COUNT
    one = failures[0]
    assert (one.task, one.stage, one.error, one.message) == ("query", "answer", "Tired", "echo is tired")
    assert (one.retryable, one.attempts, one.backend) == (True, 1, "plain rules")


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_silence_about_a_request_is_a_failure(refs: list[ImageRef], in_a_thread: bool) -> None:
    rows = list(annotate(refs, TASKS, Echo(silent_on=("dog",), in_a_thread=in_a_thread)))
    assert len(rows) == len({row.id for row in rows}) == 4 * COUNT
    failures = [row for row in rows if isinstance(row, Failure)]
    assert Counter(row.task for row in failures) == {"detect": COUNT, "point": COUNT}
    assert {(row.stage, row.error, row.retryable) for row in failures} == {("answer", "NoAnswer", True)}


@pytest.mark.parametrize("answered", [0, 1, 6, 4 * COUNT])
def test_an_annotator_that_ends_early_leaves_failures(refs: list[ImageRef], answered: int) -> None:
    Path(refs[-1].uri).unlink()
    rows = list(annotate([*refs, *refs], TASKS, Echo(ends_after=answered)))
    assert set(Counter(row.id for row in rows).values()) == {2}
    assert len(rows) == 8 * COUNT
    # The second of two pictures of the same bytes bears the answer to the first.
    assert sum(isinstance(row, Annotation) for row in rows) == min(2 * answered, 8 * (COUNT - 1))
    assert {row.stage for row in rows if row.uri == refs[-1].uri} == {"fetch"}


def test_an_answer_that_nobody_asked_for_ends_the_run(refs: list[ImageRef]) -> None:
    with pytest.raises(RuntimeError, match="echo answered not yours, which nobody asked"):
        list(annotate(refs, TASKS, Stray()))


def test_an_annotator_that_dies_ends_the_run_and_the_loading(refs: list[ImageRef]) -> None:
    def run() -> None:
        with pytest.raises(RuntimeError, match="echo died"):
            list(annotate(refs, TASKS, Echo(dies_on=((5, 2),))))

    run()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load")]


@pytest.mark.parametrize("annotator", MANNERS.values(), ids=MANNERS)
def test_a_picture_that_comes_twice_has_two_rows_a_task(refs: list[ImageRef], annotator: Echo) -> None:
    gone = ImageRef("/nowhere.jpg", "")
    rows = list(annotate([*refs, gone, refs[0], *refs, gone], TASKS, annotator))
    counts = Counter((row.uri, row.task) for row in rows)
    assert counts == {(ref.uri, task.name): 3 if ref == refs[0] else 2 for ref in [*refs, gone] for task in TASKS}


def test_a_pictures_own_tasks_beat_those_of_the_job(refs: list[ImageRef]) -> None:
    own = refs[0]._replace(tasks=(Query("Is it red?"), Caption("short")))
    rows = list(annotate([own, refs[1]], [Caption()], Echo()))
    assert sorted((row.filename, row.task, row.prompt) for row in rows) == [
        ("01.png", "caption", "short"),
        ("01.png", "query", "Is it red?"),
        ("02.png", "caption", "normal"),
    ]


def test_references_are_taken_as_they_are_needed(refs: list[ImageRef]) -> None:
    taken = 0

    def endless() -> Iterator[ImageRef]:
        nonlocal taken
        while True:
            taken += 1
            yield ImageRef(f"{refs[0].uri}#{taken}", "")

    # Bytes of their own, as more may follow the end of a PNG.
    rows = annotate(endless(), TASKS, Echo(), fetch=lambda uri: fetch(refs[0].uri) + uri.encode())
    for _ in range(100):
        next(rows)
    assert taken <= 25 + 2 + 16
    rows.close()


def test_rows_come_before_the_last_picture_is_read(refs: list[ImageRef]) -> None:
    fetched: list[str] = []

    def noting(uri: str) -> bytes:
        fetched.append(uri)
        return fetch(uri)

    rows = annotate(refs, TASKS, Echo(), fetch=noting)
    next(rows)
    assert len(fetched) < COUNT
    assert len(list(rows)) == 4 * COUNT - 1
    assert len(fetched) == COUNT


def test_what_tasks_share_is_parted_among_them_and_a_total_is_time_on_the_clock(refs: list[ImageRef]) -> None:
    def slow(uri: str) -> bytes:
        time.sleep(0.2)
        return fetch(uri)

    started = time.perf_counter()
    rows = list(annotate(refs[:1], TASKS, Echo(), fetch=slow))
    passed_ms = 1000 * (time.perf_counter() - started)
    fetch_ms = sum(row.timings.fetch_ms for row in rows)
    assert 200 <= fetch_ms <= passed_ms
    assert len({row.timings.fetch_ms for row in rows}) == len({row.timings.decode_ms for row in rows}) == 1
    for row in rows:
        assert row.timings[2:5] == (1.0, 2.0, 3.0)
        assert row.timings.decode_ms > 0
        assert fetch_ms + 4 * row.timings.decode_ms <= row.timings.total_ms <= passed_ms


@pytest.mark.parametrize(
    ("tasks", "annotator", "message"),
    [
        ([], Echo(), "no task"),
        ([Caption(), Query("a"), Caption("normal")], Echo(), "caption 'normal' is asked twice"),
        ([Caption(), Detect("dog")], Deaf(), "echo can't be asked to detect"),
        ([Query("caf\udce9")], Echo(), "write it in UTF-8"),
        ([Detect("\ud800")], Echo(), "write it in UTF-8"),
    ],
)
def test_tasks_that_could_only_fail_are_refused(tasks: list, annotator: Echo, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tasks(tasks, annotator)
