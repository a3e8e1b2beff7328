"""Seconds and peak memory of planning: from manifests, or a folder, to the shards of a run; nothing is annotated.

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
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam import Caption, Detect, Moondream, ReadImages
from moondream_beam.pipelines.runner import local_runner
from moondream_beam.transforms.manifest import Columns, ReadManifests
from moondream_beam.transforms.plan import PlanShards
from moondream_beam.transforms.records import Job

TASKS = (Caption(), Detect("dog"))
SHARD_SIZE = 1000
FILES_A_FOLDER = 1000


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--files", type=int, nargs="*", default=[100_000])
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan:
        plan(Path(args.plan))
        return
    print("| input | seconds | peak memory, MiB | shards | pictures |\n|---|---|---|---|---|")
    for kind, sizes in (("manifest rows", [0, *args.rows]), ("files in a folder", args.files)):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                measure(f"{size:,} {kind}", make(Path(folder), kind, size))


def make(folder: Path, kind: str, size: int) -> Path:
    """The input: a manifest of URLs, or a folder of empty files, a thousand in each folder below it."""
    if kind == "manifest rows":
        path = folder / "urls.csv"
        with path.open("w") as file:
            file.write("url\n")
            file.writelines(f"https://images.example.org/collection/{index:09}.jpg\n" for index in range(size))
        return path
    for index in range(size):
        path = folder / "photos" / f"{index // FILES_A_FOLDER:04}" / f"{index:09}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder / "photos"


def measure(name: str, source: Path) -> None:
    """One line of the table."""
    command = [sys.executable, __file__, "--plan", str(source)]
    seconds, peak, shards, pictures = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    print(f"| {name} | {seconds} | {peak} | {shards} | {pictures} |", flush=True)


def plan(source: Path) -> None:
    """Plan one input, in this process."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        seen = Path(output, "seen")
        with beam.Pipeline(local_runner(PipelineOptions([]), 1)) as pipeline:
            if source.is_dir():
                refs = pipeline | ReadImages(str(source))
            else:
                refs = pipeline | ReadManifests([str(source)], Columns("url"))
            job = Job(TASKS, Moondream("tiny"), run="one")
            shards = (refs | PlanShards(job, f"{output}/out", SHARD_SIZE, 1)).shards
            sizes = shards | "Sizes" >> beam.MapTuple(lambda _, refs: sum(1 for _ in refs))
            told = sizes | beam.combiners.ToList()
            _ = told | "Tell" >> beam.Map(tell, str(seen))
        counted = seen.read_text()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{time.perf_counter() - started:.1f} {peak} {counted}")


def tell(sizes: list[int], path: str) -> None:
    """How many shards there are, and how many pictures in them."""
    Path(path).write_text(f"{len(sizes)} {sum(sizes)}")


if __name__ == "__main__":
    main()
