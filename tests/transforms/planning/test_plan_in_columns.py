"""A plan made as columns is the plan that a loop over references makes: ids, shards and counts are equal."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.echo import Echo
from support.data.rows import annotation, failure
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Detect, Query
from moondream_beam.transforms.core.records import ImageRef, Job
from moondream_beam.transforms.core.summary import Count, sum_counts
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.manifest import ReadManifests, read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns
from moondream_beam.transforms.inputs.patterns.patterns import list_images
from moondream_beam.transforms.io.uris import display_uri
from moondream_beam.transforms.output.writer import ShardWriter
from moondream_beam.transforms.planning.input_rows import rows_of
from moondream_beam.transforms.planning.locality import shard_key
from moondream_beam.transforms.planning.plan import PlanShards, num_shards

SIZE = 7
Shards = dict[int, list[ImageRef]]


def one_by_one(
    refs: Iterable[ImageRef], job: Job, data: set[str], errors: set[str], retry: bool
) -> tuple[Count, Shards]:
    """Return the plan of a run over an output with rows of these ids: the loop that says what a plan is."""
    completed = data if retry else data | errors
    same: dict[str, list[ImageRef]] = {}
    counts, pending = [], []
    for ref in refs:
        same.setdefault(display_uri(ref.uri), []).append(ref)
    for group in same.values():
        ref, wanted = rows_of(group, job)
        left = {id: row for id, row in wanted.items() if id not in completed}
        shared = len(left) - len({row.task for row in left.values()}) if len(group) > 1 else 0
        before = 0 if retry else len(wanted.keys() & errors - data)
        retried = len(left.keys() & errors)
        done = len(wanted) - len(left)
        counts.append(Count(bool(left), len(left), done, retried, len(group), shared, failed_before=before))
        if left:
            pending.append(ref if len(left) == len(wanted) else ref.with_rows(list(left.values())))
    count = sum_counts(counts)
    shards: Shards = {}
    for ref in pending:
        shards.setdefault(int(shard_key(ref), 16) % num_shards(count, SIZE, 1), []).append(ref)
    return count, {number: sorted(refs, key=lambda ref: ref.uri) for number, refs in shards.items()}


def published(out: Path, refs: list[ImageRef], job: Job, number: random.Random) -> tuple[set[str], set[str]]:
    """Write rows of some requests, of most pictures all or none, and return their ids in data/ and in errors/."""
    data, errors = set(), set()
    writer = ShardWriter(str(out), "before", 0)
    for ref in {display_uri(ref.uri): ref for ref in refs}.values():
        kind = number.choice(["none", "none", "data", "data", "errors", "mixed"])
        for task in job.tasks:
            where = number.choice(["none", "data", "errors"]) if kind == "mixed" else kind
            id = job.id_of(ref, task)
            if where == "data":
                data.add(id)
                writer.add(annotation(id=id, key=ref.key))
            elif where == "errors":
                errors.add(id)
                writer.add(failure(id=id, key=ref.key))
    writer.publish()
    return data, errors


def addresses_of(number: random.Random) -> list[str]:
    urls = [f"https://images.example.org/{index}.jpg" for index in range(80)]
    odd = [
        "https://a.example/x.jpg?token=1",
        "https://a.example/x.jpg?token=2",
        "\u00e9.jpg",
        "a b.jpg",
        "a/../b.jpg",
        "",
        "ftp://x",
    ]
    found = [
        *urls,
        *(f"s3://bucket/{index}.jpg" for index in range(20)),
        *(f"sub/{index}.jpg" for index in range(20)),
        *odd,
    ]
    found += number.choices(found, k=number.choice([0, 15]))
    number.shuffle(found)
    return found


def write_manifests(folder: Path, number: random.Random) -> Iterator[Path]:
    parts = [addresses_of(number) for _ in range(3)]
    csv, jsonl, parquet = folder / "a.csv", folder / "b.jsonl", folder / "c.parquet"
    csv.write_text("url,other\n" + "".join(f"{address},1\n" for address in parts[0]))
    jsonl.write_text("".join(json.dumps({"url": address}) + "\n" for address in parts[1]))
    pq.write_table(pa.table({"url": parts[2]}), parquet)
    yield from number.sample([csv, jsonl, parquet], k=number.choice([1, 3]))


@pytest.mark.parametrize("seed", range(4))
def test_random_manifests_are_planned_as_by_a_loop(seed: int, tmp_path: Path) -> None:
    number = random.Random(seed)
    paths = [str(path) for path in write_manifests(tmp_path, number)]
    columns = Columns("url", tasks=(Query("Is this {url}?"),) if seed == 3 else ())
    job = Job(columns.tasks or (Caption(), Detect("dog")), Echo(), run="now")
    refs = [ref for path in paths for ref in read_manifest(path, columns)]
    retry, out = seed % 2 == 1, tmp_path / "out"
    data, errors = published(out, refs, job, number) if seed else (set(), set())

    def build(pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        listed = pipeline | ReadManifests(paths, columns, as_columns=True)
        plan = listed | PlanShards(job, str(out), SIZE, 1, retry_errors=retry)
        return plan.counts, plan.shards

    (count,), shards = collect(build)
    expected = one_by_one(refs, job, data, errors, retry)
    found = {number: sorted(refs, key=lambda ref: ref.uri) for number, refs in shards}
    assert (count, found) == expected
    assert count.inputs == len(refs) and len(found) > 3


def test_a_folder_is_planned_as_by_a_loop(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        "b.PNG",
        "sub/c.jpg",
        "sub/deep/d.webp",
        "sub/\udcff.jpg",
        "sub/\u00e9.jpg",
        "note.txt",
        "x.tar",
        "=.jpg",
    ]
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "link.jpg").symlink_to(tmp_path / "photos" / "a.jpg")
    job = Job((Caption(), Detect("dog")), Echo(), run="now")
    patterns = [str(tmp_path / "photos"), str(tmp_path / "photos" / "sub" / "*.jpg")]
    # A picture that two patterns match is listed once, by the first of its names.
    listed = sorted((ref for pattern in patterns for ref in list_images(pattern)), key=lambda ref: ref.filename)
    refs = list({ref.uri: ref for ref in reversed(listed)}.values())

    def build(pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        plan = pipeline | ReadImages(*patterns, as_columns=True) | PlanShards(job, str(tmp_path / "out"), SIZE, 1)
        return plan.counts, plan.shards

    (count,), shards = collect(build)
    expected_count, expected = one_by_one(refs, job, set(), set(), retry=False)
    assert {number: sorted(refs, key=lambda ref: ref.uri) for number, refs in shards} == expected
    assert count._replace(skipped=()) == expected_count and count.pictures == 8
    assert [(each.kind, each.count) for each in count.skipped] == [
        ("files ending in .txt", 1),
        ("tar archives in folders, which are read where a pattern names them", 1),
    ]


PLANNING = Path(__file__).parents[3] / "benchmarks" / "planning.py"
ROWS = 100_000
# Measured: 60. With one element per reference at every step it would be 200 more.
MEBIBYTES = 150


def plan_apart(source: Path) -> tuple[int, int]:
    """Return the peak memory in MiB, and the number of images, of a plan in a separate process."""
    done = subprocess.run([sys.executable, PLANNING, "--plan", source], capture_output=True, text=True, check=True)
    _, _, peak, _, pictures = done.stdout.split()
    return int(peak), int(pictures)


@pytest.mark.slow
def test_the_memory_of_a_plan_hardly_grows_with_the_manifest(tmp_path: Path) -> None:
    for name, rows in (("few", 10), ("many", ROWS)):
        (tmp_path / name).mkdir()
        urls = (f"https://images.example.org/{index:09}.jpg\n" for index in range(rows))
        (tmp_path / name / "urls.csv").write_text("url\n" + "".join(urls))
    (few, _), (many, pictures) = (plan_apart(tmp_path / name / "urls.csv") for name in ("few", "many"))
    assert pictures == ROWS and many - few < MEBIBYTES
