"""Time and peak memory of planning alone: from manifests or folders to shards.

``python benchmarks/planning.py --rows 10000 100000 1000000 --files 100000``. Each size runs in a process of its own.
Its peak memory includes imports and Beam's runner; the row for 0 pictures shows their part.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam import Caption, Detect, Moondream, ReadImages
from moondream_beam.pipelines.local_runner.runner import local_runner
from moondream_beam.transforms.core.records import KEY_DIGITS, Job
from moondream_beam.transforms.inputs.manifest import ReadManifests
from moondream_beam.transforms.inputs.manifest_columns import Columns
from moondream_beam.transforms.planning.plan import PlanShards

TASKS = (Caption(), Detect("dog"))
JOB = Job(TASKS, Moondream("tiny"), run="now")
SHARD_SIZE = 1000
FILES_PER_FOLDER = 1000


def main() -> None:
    """Plan each size and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--done", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--files", type=int, nargs="*", default=[100_000])
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        plan(Path(args.plan))
        return
    print("| input | seconds | CPU seconds | peak memory, MiB | shards | pictures |\n|---|---|---|---|---|---|")
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
    """Write and return the input: a manifest of URLs, or a folder of empty files in subfolders of a thousand.

    For a ``kind`` with "done", an output beside the manifest holds the ids of all requests, in files like a run's.
    """
    if kind != "files in a folder":
        path = folder / "urls.csv"
        with path.open("w") as file:
            file.write("url\n")
            file.writelines(f"{url(index)}\n" for index in range(size))
        for start in range(0, size if "done" in kind else 0, SHARD_SIZE):
            uris = [url(index).encode() for index in range(start, min(size, start + SHARD_SIZE))]
            suffixes = [JOB.id_suffix(task) for task in TASKS]
            keys = [sha256(uri).hexdigest()[:KEY_DIGITS] for uri in uris for _ in TASKS]
            ids = [sha256(uri + suffix).hexdigest() for uri in uris for suffix in suffixes]
            part = folder / "out" / "data" / f"part-before-{start // SHARD_SIZE:05}.parquet"
            part.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"key": keys, "id": ids}), part)
        return path
    for index in range(size):
        path = folder / "photos" / f"{index // FILES_PER_FOLDER:04}" / f"{index:09}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder / "photos"


def url(index: int) -> str:
    """Return the URL of a picture, which is never fetched."""
    return f"https://images.example.org/collection/{index:09}.jpg"


def measure(name: str, source: Path) -> None:
    """Plan an input in a new process, and print a table row."""
    command = [sys.executable, __file__, "--plan", str(source)]
    seconds, core, peak, shards, pictures = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    print(f"| {name} | {seconds} | {core} | {peak} | {shards} | {pictures} |", flush=True)


def plan(source: Path) -> None:
    """Plan one input in this process, and print its numbers."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts_file = Path(folder, "counts_file")
        with beam.Pipeline(local_runner(PipelineOptions([]), 1)) as pipeline:
            if source.is_dir():
                refs = pipeline | ReadImages(str(source), as_columns=True)
            else:
                refs = pipeline | ReadManifests([str(source)], Columns("url"), as_columns=True)
            shards = (refs | PlanShards(JOB, str(source.parent / "out"), SHARD_SIZE, 1)).shards
            sizes = shards | "Sizes" >> beam.MapTuple(lambda _, refs: sum(1 for _ in refs))
            all_sizes = sizes | beam.combiners.ToList()
            _ = all_sizes | "Tell" >> beam.Map(write_counts, str(counts_file))
        counts = counts_file.read_text()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{time.perf_counter() - started:.1f} {time.process_time():.1f} {peak} {counts}")


def write_counts(sizes: list[int], path: str) -> None:
    """Write the number of shards and the number of pictures to a file."""
    Path(path).write_text(f"{len(sizes)} {sum(sizes)}")


if __name__ == "__main__":
    main()
