"""The plain generator: exactly one row for each task on each picture, whoever answers, and however."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest
from PIL import Image
from support.data.echo import BOX, SPOT, Deaf, Echo, Stray

from moondream_beam.models.tasks import Caption, Detect, Outcome, Point, Query, Request, needs_reasoning
from moondream_beam.transforms.annotation import annotate as module
from moondream_beam.transforms.annotation.annotate import annotate, check_tasks
from moondream_beam.transforms.annotation.row_queue import MAX_READY_ROWS
from moondream_beam.transforms.core.records import Annotation, Failure, ImageRef, Job, Row, RowTimings
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.images.prefetch import PICTURES_AHEAD

fetch = Fetcher()

TASKS = (Caption(), Query("Why?"), Detect("dog"), Point("dog"))
COUNT = 21
# How long a gate stays shut if the test never opens it: the test then fails instead of hanging.
GATE_TIMEOUT_S = 10.0
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


def forever(ref: ImageRef, taken: list[ImageRef] | None = None) -> Iterator[ImageRef]:
    """References without end, each of them another; ``taken`` gets those that were pulled."""
    for number in count():
        one = ImageRef(f"{ref.uri}#{number}", "")
        if taken is not None:
            taken.append(one)
        yield one


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


class Reasoner(Echo):
    """Reasons before each answer to a query with reasoning."""

    supports_reasoning = True

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        tasks = {}
        for outcome in super().answer(tasks.setdefault(one.id, one.task) and one for one in requests):
            if needs_reasoning(tasks[outcome.id]):
                outcome = replace(outcome, result=replace(outcome.result, reasoning="Because."))
            yield outcome


def test_a_reasoning_stands_in_a_column_of_its_own(refs: list[ImageRef]) -> None:
    tasks = (Caption(), Query("Why?"), Query("Why?", reasoning=True), Detect("dog"))
    rows = list(annotate([*refs[:2], refs[0]], tasks, Reasoner(), fetch=fetch))
    assert Counter((row.task, row.reasoning) for row in rows) == {
        ("caption", None): 3,
        ("query", None): 3,
        ("query", "Because."): 3,
        ("detect", None): 3,
    }
    assert {row.caption for row in rows if row.task == "query"} == {"Why?"}
    assert len({row.id for row in rows}) == 8


def test_an_annotator_that_does_not_reason_is_refused(refs: list[ImageRef]) -> None:
    check_tasks([Query("Why?")], Echo())
    check_tasks([Query("Why?", reasoning=True)], Reasoner())
    with pytest.raises(ValueError, match="echo does not reason: ask without reasoning, or choose another model"):
        check_tasks([Caption(), Query("Why?", reasoning=True)], Echo())


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


class Hanging(Echo):
    """Takes a first request, sets ``asked``, waits for ``release``, and sets ``answered`` before the first outcome."""

    asked, release, answered = threading.Event(), threading.Event(), threading.Event()

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        first = next(iter(requests))
        self.asked.set()
        self.release.wait(GATE_TIMEOUT_S)
        self.answered.set()
        yield from super().answer([first, *requests])


def test_a_failed_image_is_a_row_while_the_annotator_waits(refs: list[ImageRef]) -> None:
    Hanging.release.clear()
    Hanging.answered.clear()
    broken = [ImageRef(f"/nowhere/{index}.jpg", "") for index in range(PICTURES_AHEAD - 2)]
    rows = annotate([refs[0], refs[1], *broken], TASKS, Hanging())
    first = [next(rows) for _ in range(len(TASKS) * len(broken))]
    assert not Hanging.answered.is_set(), "before the annotator has given an outcome"
    assert {row.uri for row in first} == {ref.uri for ref in broken}
    assert {(type(row), row.stage) for row in first if isinstance(row, Failure)} == {(Failure, "fetch")}
    Hanging.release.set()
    assert Counter(row.filename for row in rows) == {"01.png": len(TASKS), "02.png": len(TASKS)}


@pytest.mark.parametrize("annotator", MANNERS.values(), ids=MANNERS)
def test_a_failed_image_is_a_row_while_the_host_of_another_is_silent(refs: list[ImageRef], annotator: Echo) -> None:
    release, fetched = threading.Event(), threading.Event()

    def slow_for_the_first(uri: str) -> bytes:
        if uri == refs[0].uri:
            release.wait(GATE_TIMEOUT_S)
            fetched.set()
        return fetch(uri)

    rows = annotate([refs[0], ImageRef("/nowhere.jpg", "")], TASKS, annotator, fetch=slow_for_the_first)
    assert [next(rows).uri for _ in TASKS] == ["/nowhere.jpg"] * len(TASKS)
    assert not fetched.is_set(), "before the silent host has answered"
    release.set()
    assert [row.filename for row in rows] == ["01.png"] * len(TASKS)


@pytest.mark.parametrize("annotator", MANNERS.values(), ids=MANNERS)
def test_more_failures_than_the_queue_holds_are_all_rows(refs: list[ImageRef], annotator: Echo) -> None:
    missing = [ImageRef(f"/nowhere/{index}.jpg", "") for index in range(4 * MAX_READY_ROWS)]
    found = Counter(row.id for row in annotate([*missing, *refs, *missing[:3]], TASKS, annotator))
    job = Job(TASKS, annotator)
    assert found == Counter(job.id_of(ref, task) for ref in [*missing, *refs, *missing[:3]] for task in TASKS)


@dataclass(frozen=True)
class Ending(Echo):
    """Echo that records the end of its generator."""

    ended: list[bool] = field(default_factory=list)

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        try:
            yield from super().answer(requests)
        finally:
            self.ended.append(True)


def threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("annotate", "load"))]


@pytest.mark.parametrize("in_a_thread", [False, True])
@pytest.mark.parametrize("end", [GeneratorExit, KeyboardInterrupt])
def test_an_early_end_ends_the_annotator_and_leaves_no_thread(
    refs: list[ImageRef], end: type[BaseException], in_a_thread: bool
) -> None:
    annotator = Ending(in_a_thread=in_a_thread)
    rows = annotate(forever(refs[0]), TASKS, annotator, fetch=lambda uri: fetch(refs[0].uri) + uri.encode())
    assert isinstance(rows, Generator)
    next(rows)
    assert threads()
    with pytest.raises(end):
        rows.throw(end)
    assert threads() == [] and list(rows) == []
    assert annotator.ended == [True]


def test_an_early_end_waits_a_limited_time_for_an_annotator_that_hangs(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.1)
    for event in (Hanging.asked, Hanging.release, Hanging.answered):
        event.clear()
    rows = annotate([refs[0], ImageRef("/nowhere.jpg", "")], TASKS, Hanging())
    next(rows)
    assert Hanging.asked.wait(GATE_TIMEOUT_S)
    rows.close()
    assert not Hanging.answered.is_set()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "annotate")
    Hanging.release.set()
    thread.join(GATE_TIMEOUT_S)
    assert threads() == []


@pytest.mark.parametrize("annotator", MANNERS.values(), ids=MANNERS)
def test_an_error_of_the_references_or_of_fetch_reaches_the_caller_with_its_traceback(
    refs: list[ImageRef], annotator: Echo
) -> None:
    def failing_refs() -> Iterator[ImageRef]:
        yield from refs
        raise LookupError("no more")

    def failing_fetch(uri: str) -> bytes:
        raise LookupError("no more")

    for rows, culprit in (
        (annotate(failing_refs(), TASKS, annotator), "failing_refs"),
        (annotate(refs, TASKS, annotator, fetch=failing_fetch), "failing_fetch"),
    ):
        with pytest.raises(LookupError, match="no more") as caught:
            list(rows)
        assert culprit in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert threads() == []


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


@pytest.mark.parametrize("in_a_thread", [False, True])
@pytest.mark.parametrize("answered", [0, 1, 6, 4 * COUNT])
def test_an_annotator_that_ends_early_leaves_failures(refs: list[ImageRef], answered: int, in_a_thread: bool) -> None:
    Path(refs[-1].uri).unlink()
    rows = list(annotate([*refs, *refs], TASKS, Echo(ends_after=answered, in_a_thread=in_a_thread)))
    assert set(Counter(row.id for row in rows).values()) == {2}
    assert len(rows) == 8 * COUNT
    # The second of two pictures of the same bytes bears the answer to the first.
    assert sum(isinstance(row, Annotation) for row in rows) == min(2 * answered, 8 * (COUNT - 1))
    assert {row.stage for row in rows if row.uri == refs[-1].uri} == {"fetch"}


def test_an_answer_that_nobody_asked_for_ends_the_run(refs: list[ImageRef]) -> None:
    with pytest.raises(RuntimeError, match="echo answered not yours, which is not in flight"):
        list(annotate(refs, TASKS, Stray()))


def test_an_annotator_that_dies_ends_the_run_and_the_loading(refs: list[ImageRef]) -> None:
    with pytest.raises(RuntimeError, match="echo died") as caught:
        list(annotate(refs, TASKS, Echo(dies_on=((5, 2),))))
    assert "answer" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert threads() == []


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
    taken: list[ImageRef] = []
    # Each image has its own bytes, because more bytes may follow the end of a PNG.
    rows = annotate(forever(refs[0], taken), TASKS, Echo(), fetch=lambda uri: fetch(refs[0].uri) + uri.encode())
    for _ in range(100):
        next(rows)
    time.sleep(0.5)
    assert len(taken) <= (100 + MAX_READY_ROWS) / len(TASKS) + 2 + PICTURES_AHEAD
    rows.close()


def test_rows_come_before_the_last_picture_is_read(refs: list[ImageRef]) -> None:
    fetched: list[str] = []

    def noting(uri: str) -> bytes:
        fetched.append(uri)
        return fetch(uri)

    copies = 10 * MAX_READY_ROWS // len(TASKS)
    many = [ImageRef(refs[0].uri, str(number)) for number in range(copies)]
    rows = annotate(many, TASKS, Echo(), fetch=noting)
    next(rows)
    assert len(fetched) < copies
    assert len(list(rows)) == len(TASKS) * copies - 1
    assert len(fetched) == copies


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
        ([Caption(), Query("a"), Caption("normal")], Echo(), "caption 'normal' is given twice"),
        ([Caption(), Detect("dog")], Deaf(), "echo can't be asked to detect, only for caption"),
        ([Query("caf\udce9")], Echo(), "write it in UTF-8"),
        ([Detect("\ud800")], Echo(), "write it in UTF-8"),
    ],
)
def test_tasks_that_could_only_fail_are_refused(tasks: list, annotator: Echo, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tasks(tasks, annotator)
