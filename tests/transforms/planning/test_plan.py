"""A plan has the requests without a row in the output, grouped by image into shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
import pytest
from support.data.echo import Echo
from support.data.rows import annotation, failure
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Detect, Query
from moondream_beam.transforms.core.records import ImageRef, Job
from moondream_beam.transforms.core.summary import Count, sum_counts
from moondream_beam.transforms.output.writer import ShardWriter
from moondream_beam.transforms.planning.completed import other_runs_parts
from moondream_beam.transforms.planning.plan import PlanShards, shard_of

TASKS = (Caption(), Query("Why?"))
JOB = Job(TASKS, Echo(), run="now")
REFS = [ImageRef(f"/photos/{index}.jpg", f"{index}.jpg") for index in range(200)]


def publish(out: Path, run: str, *done: tuple[ImageRef, object], job: Job = JOB) -> None:
    """Publish a row for each of these requests: captions in ``data/``, queries in ``errors/``."""
    writer = ShardWriter(str(out), run, 0)
    for ref, task in done:
        make = annotation if isinstance(task, Caption) else failure
        writer.add(make(id=job.id_of(ref, task), key=ref.key))
    writer.publish()


def planned(
    out: Path, refs: Iterable[ImageRef], size: int = 1000, least: int = 1, job: Job = JOB
) -> tuple[Count, dict[int, list[ImageRef]]]:
    def build(pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        plan = pipeline | beam.Create(list(refs)) | PlanShards(job, str(out), size, least)
        return plan.counts, plan.shards | beam.MapTuple(lambda number, refs: (number, sorted(refs)))

    (count,), shards = collect(build)
    assert len(dict(shards)) == len(shards)
    return count, dict(shards)


def test_for_an_empty_output_each_image_is_planned_once_with_the_tasks_of_all_its_rows(tmp_path: Path) -> None:
    other = REFS[0]._replace(filename="other/0.jpg", tasks=(Detect("dog"), Caption()))
    count, shards = planned(tmp_path / "out", [other, REFS[0], REFS[1], REFS[0]])
    assert count == Count(pictures=2, pending=8, done=0, inputs=4, shared=3)
    merged = REFS[0]._replace(
        tasks=(*TASKS, *TASKS, Detect("dog"), Caption()),
        origins=(*((number, "0.jpg") for number in (0, 0, 1, 1)), (0, "other/0.jpg"), (2, "other/0.jpg")),
    )
    assert shards == {0: [merged, REFS[1]._replace(tasks=TASKS)]}


def test_requests_with_a_row_in_data_or_errors_are_left_out(tmp_path: Path) -> None:
    first, second, third, *others = REFS
    publish(tmp_path, "one", (first, TASKS[0]), (second, TASKS[1]), *((ref, task) for ref in others for task in TASKS))
    publish(tmp_path, "two", (first, TASKS[1]), (ImageRef("/elsewhere.jpg", ""), TASKS[0]))
    # A row of another revision of the model belongs to another request.
    publish(tmp_path, "old", (third, TASKS[0]), job=JOB._replace(annotator=Echo(revision="0")))
    count, shards = planned(tmp_path, REFS, size=2)
    assert count == Count(pictures=2, pending=3, done=397, inputs=200, failed_before=199)
    assert shards == {0: [second._replace(tasks=TASKS[:1]), third._replace(tasks=TASKS)]}


def test_without_pending_requests_there_is_no_shard(tmp_path: Path) -> None:
    publish(tmp_path, "one", (REFS[0], TASKS[0]), (REFS[0], TASKS[1]))
    assert planned(tmp_path, REFS[:1]) == (Count(0, 0, 2, inputs=1, failed_before=1), {})


def test_rows_of_a_picture_are_left_out_one_by_one(tmp_path: Path) -> None:
    listed = [REFS[0]._replace(tasks=TASKS[:1], columns=((value,),)) for value in ("a", "b", "b")]
    writer = ShardWriter(str(tmp_path), "one", 0)
    writer.add(annotation(id=JOB.id_of(REFS[0], TASKS[0], ("b",)), key=REFS[0].key))
    writer.publish()
    count, shards = planned(tmp_path, listed)
    assert count == Count(pictures=1, pending=2, done=1, inputs=3, shared=1)
    (ref,) = shards[0]
    assert [(row.columns, row.number) for row in ref.rows(JOB.tasks)] == [(("a",), 0), (("b",), 1)]


@pytest.mark.parametrize(
    ("pictures", "size", "least", "shards"),
    [(1, 1000, 1, 1), (1000, 1000, 1, 1), (1001, 1000, 1, 2), (200, 1000, 4, 4), (3, 1000, 8, 3), (5000, 1000, 2, 5)],
)
def test_there_are_at_least_min_shards_and_at_most_one_per_image(
    pictures: int, size: int, least: int, shards: int
) -> None:
    drawn = {shard_of(ref.key, Count(pictures), size, least) for ref in REFS}
    assert drawn == set(range(shards))


def test_shards_have_about_the_given_size_and_each_image_is_in_one(tmp_path: Path) -> None:
    count, shards = planned(tmp_path, REFS, size=25)
    assert len(shards) == 8
    assert sorted(ref.uri for refs in shards.values() for ref in refs) == sorted(ref.uri for ref in REFS)
    assert all(10 <= len(refs) <= 45 for refs in shards.values())
    # A second plan of the run, after some shards were published and in another order, has the same shards.
    publish(tmp_path, "now", (REFS[0], TASKS[0]), (REFS[0], TASKS[1]), (REFS[1], TASKS[1]))
    assert planned(tmp_path, reversed(REFS), size=25) == (count, shards)


def test_files_of_runs_with_similar_names_are_not_left_out(tmp_path: Path) -> None:
    for run in ("now", "now-2", "know", "now.x"):
        publish(tmp_path, run, (REFS[0], TASKS[0]), (REFS[0], TASKS[1]))
    names = {Path(path).relative_to(tmp_path).as_posix() for path in other_runs_parts(str(tmp_path), run="now")}
    others = ("now-2", "know", "now.x")
    assert names == {f"{kind}/part-{run}-00000.parquet" for run in others for kind in ("data", "errors")}


def test_counts_add_up() -> None:
    assert sum_counts([Count(True, 2, 3), Count(False, 0, 5)]) == Count(1, 2, 8)
    assert sum_counts([]) == Count()
