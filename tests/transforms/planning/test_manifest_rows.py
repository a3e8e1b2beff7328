"""Every row of a manifest is a row of the result, however many rows name one picture."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from support.data.echo import Echo
from support.data.rows import annotation
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Query, Sampling, Task
from moondream_beam.transforms.annotation.job import AnnotateToParquet, take_up
from moondream_beam.transforms.core.records import ImageRef, Job
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.manifest import ReadManifests
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns
from moondream_beam.transforms.output.answer_journal import AnswerJournal
from moondream_beam.transforms.output.writer import ShardWriter
from moondream_beam.transforms.planning.input_rows import merge


class Asked(Echo):
    """Counts requests in a file, because Beam copies the annotator."""

    def answer(self, requests: Any) -> Any:
        def noting() -> Any:
            for request in requests:
                with open(self.name, "a") as file:
                    file.write(f"{request.task.prompt}\n")
                yield request

        return super().answer(noting())


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Two pictures and a broken one, with an annotator that notes what it is asked."""
    for number in range(2):
        Image.new("RGB", (10 + number, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    return Asked(name=str(tmp_path / "asked.txt"))


def requests(asked: Asked) -> list[str]:
    path = Path(asked.name)
    return sorted(path.read_text().split("\n")[:-1]) if path.exists() else []


def rows(out: Path, kind: str = "data") -> list[dict[str, Any]]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def annotate(
    asked: Asked, *listed: dict[str, Any], keep: list[str], tasks: tuple[Task, ...] = (Caption(),), **options: Any
) -> dict[str, Any]:
    folder = Path(asked.name).parent
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    columns = check_columns([str(path)], Columns("url", options.pop("filename", None), tasks=tasks), keep)
    job = AnnotateToParquet(columns.tasks, asked, str(folder / "out"), columns=columns.kept, **options)
    (record,) = collect(lambda pipeline: pipeline | ReadManifests([str(path)], columns) | job)
    assert record["balanced"]
    ids = [row["id"] for kind in ("data", "errors") for row in rows(folder / "out", kind)]
    assert len(ids) == len(set(ids))
    return record


FIVE = [{"url": f"{picture}.png", "text": f"{number} of {picture}"} for picture in range(2) for number in range(5)]


@pytest.mark.parametrize("dedup", [False, True])
def test_five_captions_of_a_picture_are_five_rows_and_one_request(asked: Asked, tmp_path: Path, dedup: bool) -> None:
    record = annotate(asked, *FIVE, keep=["text"], shard_size=1, dedup=dedup)
    kept = rows(tmp_path / "out")
    assert Counter((row["filename"], row["text"]) for row in kept) == Counter((r["url"], r["text"]) for r in FIVE)
    assert len({(row["filename"], row["caption"]) for row in kept}) == 2 and requests(asked) == ["normal"] * 2
    assert (record["counts"]["inputs"], record["requests"], record["counts"]["pending"]) == (10, 2, 10)
    assert record["counts"]["pictures"] == 2
    # Each request is paid once, and the load times of a picture are shared.
    assert sum(row["output_tokens"] for row in kept) == 2 * 3
    assert all(row["timings"]["fetch_ms"] > 0 for row in kept)
    # All rows of a picture are in one shard.
    shards = [set(pq.read_table(path)["filename"].to_pylist()) for path in (tmp_path / "out" / "data").iterdir()]
    assert sum(map(len, shards)) == 2
    again = annotate(asked, *FIVE, keep=["text"])
    assert (again["counts"]["pending"], again["counts"]["done"], again["requests"]) == (0, 10, 0)
    assert len(requests(asked)) == 2


def test_rows_that_are_equal_in_everything_are_each_a_row(asked: Asked, tmp_path: Path) -> None:
    twice = [{"url": "0.png", "text": "same"}] * 2
    assert annotate(asked, *twice, keep=[])["counts"]["inputs"] == 2
    assert [row["filename"] for row in rows(tmp_path / "out")] == ["0.png"] * 2 and requests(asked) == ["normal"]
    more = annotate(asked, *twice, *twice[:1], keep=[])
    assert (more["counts"]["done"], more["counts"]["pending"], more["requests"]) == (2, 1, 1)
    # A row that is gone from the manifest leaves the others as they are.
    assert annotate(asked, *twice[:1], keep=[])["counts"]["done"] == 1


def test_a_changed_value_is_a_new_row_and_the_others_are_done(asked: Asked, tmp_path: Path) -> None:
    annotate(asked, *FIVE, keep=["text"])
    changed = [{**FIVE[0], "text": "better"}, *FIVE[1:]]
    record = annotate(asked, *reversed(changed), keep=["text"])
    assert (record["counts"]["done"], record["counts"]["pending"], record["requests"]) == (9, 1, 1)
    assert sorted(row["text"] for row in rows(tmp_path / "out")) == sorted(["better", *(r["text"] for r in FIVE)])


def test_a_broken_picture_that_five_rows_name_is_five_failures(asked: Asked, tmp_path: Path) -> None:
    broken = [{"url": "broken.png", "text": f"{number}"} for number in range(5)]
    record = annotate(asked, *broken, FIVE[0], keep=["text"])
    assert (record["counts"]["failures"], record["counts"]["annotations"]) == (5, 1)
    assert [row["stage"] for row in rows(tmp_path / "out", "errors")] == ["decode"] * 5
    Image.new("RGB", (5, 5)).save(tmp_path / "broken.png")
    assert annotate(asked, *broken, FIVE[0], keep=["text"])["counts"]["pending"] == 0
    retried = annotate(asked, *broken, FIVE[0], keep=["text"], retry_errors=True)
    assert (retried["counts"]["retried"], retried["counts"]["annotations"], retried["requests"]) == (5, 5, 1)
    assert rows(tmp_path / "out", "errors") == [] and len(rows(tmp_path / "out")) == 6


def test_a_refused_and_an_unanswered_request_are_a_failure_in_each_of_its_rows(asked: Asked, tmp_path: Path) -> None:
    tired = Asked(name=asked.name, faults_on=((10, 8),), silent_on=((11, 8),))
    record = annotate(tired, *FIVE, keep=["text"])
    assert record["counts"]["failures"] == 10 and record["requests"] == 2
    assert Counter(row["error"] for row in rows(tmp_path / "out", "errors")) == {"Tired": 5, "NoAnswer": 5}


def test_rows_with_questions_of_their_own_share_only_what_is_the_same(asked: Asked, tmp_path: Path) -> None:
    listed = [{"url": "0.png", "text": text} for text in ("Why?", "Who?", "Why?")]
    record = annotate(asked, *listed, keep=[], tasks=(Caption(), Query("{text}")))
    assert requests(asked) == ["Who?", "Why?", "normal"]
    assert (record["counts"]["pending"], record["requests"]) == (6, 3)
    assert Counter(row["prompt"] for row in rows(tmp_path / "out")) == {"normal": 3, "Why?": 2, "Who?": 1}


def test_each_row_has_its_own_name_from_the_manifest(asked: Asked, tmp_path: Path) -> None:
    listed = [{"url": "0.png", "sku": sku} for sku in ("shoe-41", "shoe-42")]
    annotate(asked, *listed, {"url": "broken.png", "sku": "hat"}, keep=["sku"], filename="sku")
    assert {(row["filename"], row["sku"]) for row in rows(tmp_path / "out")} == {(r["sku"], r["sku"]) for r in listed}
    assert [row["filename"] for row in rows(tmp_path / "out", "errors")] == ["hat"]


def test_rows_of_one_request_share_an_answer_that_is_drawn(asked: Asked, tmp_path: Path) -> None:
    annotate(asked, *FIVE, keep=["text"], sampling=Sampling(temperature=1.0))
    assert len(requests(asked)) == 2
    assert len({(row["filename"], row["caption"]) for row in rows(tmp_path / "out")}) == 2


def test_a_picture_found_twice_by_patterns_is_one_and_each_row_of_a_manifest_one_more(
    asked: Asked, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("url,text\n0.png,a\n0.png,b\n")
    text = pa.field("text", pa.string())
    columns = Columns("url", tasks=(Caption(),), kept=(text,))
    with beam.Pipeline(FnApiRunner()) as pipeline:
        listed = pipeline | ReadImages(f"{tmp_path}/*.png", f"{tmp_path}/0.png")
        named = pipeline | ReadManifests([f"{tmp_path}/list.csv"], columns)
        job = AnnotateToParquet([Caption()], asked, str(tmp_path / "out"), columns=[text], run="one")
        _ = (listed, named) | beam.Flatten() | job
    assert {(row["filename"], row["text"]) for row in rows(tmp_path / "out")} == {
        ("0.png", None),
        ("0.png", "a"),
        ("0.png", "b"),
        ("1.png", None),
    }
    assert json.loads((tmp_path / "out" / "runs" / "one.json").read_text())["counts"]["inputs"] == 5


def test_a_pipeline_of_ones_own_gets_a_row_for_each_reference(asked: Asked, tmp_path: Path) -> None:
    ref = ImageRef(f"{tmp_path}/0.png", "0.png", (Caption(),))
    refs = [ref._replace(columns=((value,),)) for value in (1, 2, 2)]
    job = AnnotateToParquet([Caption()], asked, str(tmp_path / "out"), columns=[pa.field("n", pa.int64())])
    (record,) = collect(lambda pipeline: pipeline | beam.Create(refs) | job)
    assert record["balanced"] and sorted(row["n"] for row in rows(tmp_path / "out")) == [1, 2, 2]


def test_a_later_attempt_takes_up_the_kept_rows_of_a_picture_one_by_one(asked: Asked, tmp_path: Path) -> None:
    out, text = str(tmp_path / "out"), pa.field("text", pa.string())
    ref = merge([ImageRef("/a.png", "a.png", (Caption(),), ((value,),)) for value in ("x", "x", "y")], ())
    job = Job((Caption(),), asked, run="one", columns=(text,))
    first, *others = ref.rows(job.tasks)
    dead, next_one = (AnswerJournal(ShardWriter(out, "one", 0, [text]), out, "one", 0, 3600.0) for _ in range(2))
    dead.writer.add(annotation(id=job.row_id(ref, first), columns=first.columns))
    dead.flush()
    (left,), sums = take_up([ref], job, next_one)
    assert left.rows(job.tasks) == others and sums.annotations == 1
