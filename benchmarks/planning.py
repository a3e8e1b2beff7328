"""Seconds, by the clock and of a core, and peak memory of planning: manifests or folders to shards, nothing more.

``python benchmarks/planning.py --rows 10000 100000 1000000 --files 100000``. Each size runs in a process of its own,
whose peak is that of all it does, Beam's runner included; a plan of nothing, which it also measures, is what imports
take.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam import Caption, Detect, Moondream, ReadImages
from moondream_beam.pipelines.local_runner.runner import local_runner
from moondream_beam.transforms.core.records import ImageRef, Job
from moondream_beam.transforms.inputs.manifest import Columns, ReadManifests
from moondream_beam.transforms.planning.plan import PlanShards

TASKS = (Caption(), Detect("dog"))
JOB = Job(TASKS, Moondream("tiny"), run="now")
SHARD_SIZE = 1000
FILES_A_FOLDER = 1000


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--done", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--files", type=int, nargs="*", default=[100_000])
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        plan(Path(args.plan))
        return
    print("| input | seconds | of a core | peak memory, MiB | shards | pictures |\n|---|---|---|---|---|---|")
    kinds = (
        ("manifest rows", [0, *args.rows]),
        ("files in a folder", args.files),
        ("manifest rows, all done", args.done),
    )
    for kind, sizes in kinds:
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                measure(f"{size:,} {kind}", make(Path(folder), kind, size))


def make(folder: Path, kind: str, size: int) -> Path:
    """The input: a manifest of URLs, or a folder of empty files, a thousand in each folder below it.

    What is done lies beside it: the ids of all that will be asked, in as many files as a run would make.
    """
    if kind != "files in a folder":
        path = folder / "urls.csv"
        with path.open("w") as file:
            file.write("url\n")
            file.writelines(f"{url(index)}\n" for index in range(size))
        for start in range(0, size if "done" in kind else 0, SHARD_SIZE):
            refs = [ImageRef(url(index), "") for index in range(start, min(size, start + SHARD_SIZE))]
            rows = [{"key": ref.key, "id": JOB.id_of(ref, task)} for ref in refs for task in TASKS]
            part = folder / "out" / "data" / f"part-before-{start // SHARD_SIZE:05}.parquet"
            part.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), part)
        return path
    for index in range(size):
        path = folder / "photos" / f"{index // FILES_A_FOLDER:04}" / f"{index:09}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder / "photos"


def url(index: int) -> str:
    """The URL of a picture that nobody looks for."""
    return f"https://images.example.org/collection/{index:09}.jpg"


def measure(name: str, source: Path) -> None:
    """One line of the table."""
    command = [sys.executable, __file__, "--plan", str(source)]
    seconds, core, peak, shards, pictures = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    print(f"| {name} | {seconds} | {core} | {peak} | {shards} | {pictures} |", flush=True)


def plan(source: Path) -> None:
    """Plan one input, in this process."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder, "seen")
        with beam.Pipeline(local_runner(PipelineOptions([]), 1)) as pipeline:
            if source.is_dir():
                refs = pipeline | ReadImages(str(source))
            else:
                refs = pipeline | ReadManifests([str(source)], Columns("url"))
            shards = (refs | PlanShards(JOB, str(source.parent / "out"), SHARD_SIZE, 1)).shards
            sizes = shards | "Sizes" >> beam.MapTuple(lambda _, refs: sum(1 for _ in refs))
            told = sizes | beam.combiners.ToList()
            _ = told | "Tell" >> beam.Map(tell, str(seen))
        counted = seen.read_text()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{time.perf_counter() - started:.1f} {time.process_time():.1f} {peak} {counted}")


def tell(sizes: list[int], path: str) -> None:
    """How many shards there are, and how many pictures in them."""
    Path(path).write_text(f"{len(sizes)} {sum(sizes)}")


if __name__ == "__main__":
    main()
