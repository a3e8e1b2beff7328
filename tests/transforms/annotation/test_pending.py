"""Pictures of the same bytes are asked once, and each has its own row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from support.data.echo import Echo

from moondream_beam.models.tasks import Caption, Detect, Outcome, Query, Request
from moondream_beam.transforms.annotation import pending
from moondream_beam.transforms.annotation.annotate import annotate
from moondream_beam.transforms.annotation.row_queue import MAX_READY_ROWS
from moondream_beam.transforms.core.records import Annotation, Failure, ImageRef, Job, RowProblem
from moondream_beam.transforms.images.fetch import read_file

TASKS = (Caption(), Detect("dog"))


@dataclass(frozen=True)
class Counting(Echo):
    """Echo that keeps the requests."""

    asked: list[Request] = field(default_factory=list)

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        def noting() -> Iterator[Request]:
            for request in requests:
                self.asked.append(request)
                yield request

        return super().answer(noting())


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Thirty files of three pictures."""
    for index in range(30):
        Image.new("RGB", (1 + index % 3, 2), "red").save(tmp_path / f"{index:02}.png")
    return [ImageRef(str(path), path.name) for path in sorted(tmp_path.iterdir())]


@pytest.mark.parametrize("in_a_thread", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_the_same_bytes_are_asked_once_and_each_picture_has_its_rows(
    refs: list[ImageRef], batch_size: int, in_a_thread: bool
) -> None:
    echo = Counting(batch_size=batch_size, in_a_thread=in_a_thread)
    rows = list(annotate(refs, TASKS, echo))
    assert len(echo.asked) == 6
    job = Job(TASKS, echo)
    assert Counter(row.id for row in rows) == Counter(job.id_of(ref, task) for ref in refs for task in TASKS)
    for row in rows:
        assert isinstance(row, Annotation)
        assert row.width == 1 + int(row.filename[:2]) % 3
        assert (row.caption or "").startswith(f"{row.width} x 2") == (row.task == "caption")
    # Shared cost is counted once.
    assert sum(row.output_tokens for row in rows) == 6 * 3
    assert sum(row.timings.generate_ms for row in rows) == 6 * 3.0
    assert all(row.timings.fetch_ms > 0 for row in rows)


def test_draws_are_seeded_by_the_bytes_not_by_the_place(refs: list[ImageRef]) -> None:
    one, two = Counting(), Counting()
    list(annotate(refs[:1], TASKS, one))
    list(annotate(refs[3:4], TASKS, two))
    assert [request.id for request in one.asked] == [request.id for request in two.asked]
    assert len({request.id for request in one.asked}) == 2


def test_other_tasks_other_words_and_other_bytes_are_other_questions(refs: list[ImageRef]) -> None:
    echo = Counting()
    own = refs[3]._replace(tasks=(Query("Why?"), Caption("short")))
    rows = list(annotate([refs[0], own, refs[1]], TASKS, echo))
    assert len(echo.asked) == len(rows) == 6


def test_a_fault_is_shared_by_those_who_waited_and_asked_again_by_others(refs: list[ImageRef]) -> None:
    same = refs[::3]
    echo = Counting(faults_on=("dog",), batch_size=1000)
    rows = list(annotate(same, TASKS, echo))
    assert sum(isinstance(row, Failure) for row in rows) == 10 and len(echo.asked) == 2
    echo = Counting(faults_on=("dog",), batch_size=1)
    rows = list(annotate(same, TASKS, echo))
    assert sum(isinstance(row, Failure) for row in rows) == 10
    assert [request.task for request in echo.asked].count(Detect("dog")) == 10


def test_silence_is_a_failure_of_all_who_waited(refs: list[ImageRef]) -> None:
    rows = list(annotate(refs, TASKS, Counting(silent_on=("dog",))))
    assert Counter((row.task, type(row)) for row in rows) == {("caption", Annotation): 30, ("detect", Failure): 30}


def test_so_many_copies_wait_and_no_more(refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_COPIES", 10)
    taken = 0

    def endless() -> Iterator[ImageRef]:
        nonlocal taken
        while True:
            taken += 1
            yield ImageRef(f"{refs[0].uri}#{taken}", "")

    echo = Counting(batch_size=1)
    rows = annotate(endless(), (Caption(),), echo, fetch=lambda uri: read_file(refs[0].uri))
    for _ in range(200):
        next(rows)
    assert taken <= 200 + MAX_READY_ROWS + 2 * 10 + 16
    assert len(echo.asked) <= 25
    rows.close()


def test_answers_are_forgotten_beyond_so_many(refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_KEPT_ANSWERS", 1)
    echo = Counting(batch_size=1)
    assert len(list(annotate(refs, (Caption(),), echo))) == 30
    assert 3 < len(echo.asked) <= 30


def test_an_api_gets_no_url_of_a_picture_whose_colours_are_converted(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "a.png")
    ref = ImageRef(str(tmp_path / "a.png"), "a.png")
    for choice, uri in (("ignore", ref.uri), ("srgb", None)):
        echo = Counting()
        list(annotate([ref], TASKS, echo, colour_profiles=choice))
        assert [request.uri for request in echo.asked] == [uri, uri]


def test_a_task_with_a_problem_fails_at_the_list_and_the_other_tasks_are_asked(refs: list[ImageRef]) -> None:
    problem = RowProblem("list.csv#2: column object is empty", "")
    ref = refs[0]._replace(tasks=TASKS, columns=(("x",), ("x",)), problems=(None, problem))
    annotator = Counting()
    told = {row.task: row for row in annotate([ref], TASKS, annotator)}
    assert isinstance(told["caption"], Annotation) and [request.task for request in annotator.asked] == [Caption()]
    failed = told["detect"]
    assert isinstance(failed, Failure) and (failed.stage, failed.prompt, failed.columns) == ("list", "", ("x",))
    assert failed.message == problem.message and failed.uri == ref.uri


def test_a_picture_without_a_task_to_ask_is_not_read(refs: list[ImageRef]) -> None:
    def refuse(_: object) -> bytes:
        raise AssertionError("this picture is read")

    problem = RowProblem("list.csv#2: broken", "")
    both = [refs[0]._replace(problem="list.csv#2: broken"), refs[1]._replace(tasks=TASKS[:1], problems=(problem,))]
    assert [row.stage for row in annotate(both, TASKS, Echo(), fetch=refuse) if isinstance(row, Failure)] == [
        "list"
    ] * 3
