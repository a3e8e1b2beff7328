"""Rows of the input for one picture become one reference, and each row keeps its values, its name and its number."""

from __future__ import annotations

from itertools import permutations

from support.data.echo import Echo

from moondream_beam.models.tasks import Caption, Query
from moondream_beam.transforms.core.records import ImageRef, Job, RowProblem, Skipped
from moondream_beam.transforms.core.shuffle import pack
from moondream_beam.transforms.planning.input_rows import merge, merge_all

TASKS = (Caption(), Query("Why?"))
JOB = Job(TASKS, Echo())
REF = ImageRef("/photos/a.jpg", "a.jpg")


def ids(ref: ImageRef) -> list[str]:
    return [JOB.row_id(ref, row) for row in ref.rows(JOB.tasks)]


def test_a_picture_with_one_row_is_as_it_was_with_the_tasks_of_the_job() -> None:
    assert merge([REF], TASKS) == REF._replace(tasks=TASKS)
    own = REF._replace(tasks=(Query("Who?"),), columns=(("me",),))
    assert merge([own], TASKS) == own


def test_the_order_of_the_rows_in_the_input_decides_nothing() -> None:
    listed = [
        REF._replace(tasks=(Caption(),), columns=(("b",),)),
        REF._replace(tasks=(Caption(),), columns=(("a",),), filename="z.jpg"),
        REF._replace(tasks=(Query("Why?"), Caption()), columns=(("a",), ("a",))),
        REF,
    ]
    merged = {merge(order, TASKS) for order in permutations(listed)}
    assert len(merged) == 1 and len(set(ids(merged.pop()))) == 6


def test_only_equal_rows_are_numbered_and_the_first_has_the_id_it_has_alone() -> None:
    merged = merge([REF, REF, REF._replace(tasks=TASKS, columns=(("a",), ("a",)))], TASKS)
    found = [(row.task, row.columns, row.number) for row in merged.rows(TASKS)]
    why = Query("Why?")
    plain = [(Caption(), (), 0), (why, (), 0), (Caption(), (), 1), (why, (), 1)]
    assert found == [*plain, (Caption(), ("a",), 0), (why, ("a",), 0)]
    assert ids(merged)[:2] == [JOB.id_of(REF, task) for task in TASKS]
    assert len(set(ids(merged))) == 6


def test_a_row_whose_kept_values_are_all_null_equals_a_row_that_keeps_none() -> None:
    merged = merge([REF._replace(tasks=TASKS[:1], columns=((None,),)), REF._replace(tasks=TASKS[:1])], TASKS)
    assert [row.number for row in merged.rows(TASKS)] == [0, 1] and len(set(ids(merged))) == 2


def test_a_row_with_a_problem_leaves_the_other_rows_of_its_picture_alone() -> None:
    problem = RowProblem("list.csv#2: broken", "Who?")
    broken = REF._replace(filename="0.jpg", problem="list.csv#2: broken", tasks=(Query("Who?"),), problems=(problem,))
    good = REF._replace(tasks=(Caption(),))
    for order in permutations([broken, good]):
        merged = merge(order, TASKS)
        assert {(row.task, row.problem) for row in merged.rows(TASKS)} == {(Caption(), None), (Query("Who?"), problem)}
        assert not merged.has_nothing_to_ask


def test_a_task_that_a_reference_has_twice_is_two_rows() -> None:
    merged = merge([REF._replace(tasks=(Caption(), Caption()))], TASKS)
    assert [row.number for row in merged.rows(TASKS)] == [0, 1]


def test_each_picture_in_packs_is_one_reference_and_what_is_skipped_is_none() -> None:
    other, skipped = ImageRef("/photos/b.jpg", "b.jpg"), ImageRef("/photos/*.txt", "c.txt", skipped=Skipped("texts"))
    found = list(merge_all([pack([REF, other, skipped]), pack([REF])], TASKS))
    assert [(ref.uri, len(ref.tasks)) for ref in found] == [(REF.uri, 4), (other.uri, 2)]
