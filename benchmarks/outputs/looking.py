"""Time and memory of status, report and export for a large output: python benchmarks/outputs/looking.py [ROWS].

The output holds copies of the demo's rows, some with long texts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_PER_FILE = 10_000
# Characters of the captions, in turn.
LENGTHS = (40, 300, 1200)
# The pictures of the copies do not exist, so they are not read.
EXPORT = ("export", "--no-picture-check", "--to")
COMMANDS = (("status",), ("report",), (*EXPORT, "jsonl"), (*EXPORT, "coco"))


def command(*arguments: str) -> tuple[float, float, int]:
    """Run a command. Return elapsed seconds, CPU seconds, and peak memory in MiB."""
    program = (sys.executable, "-m", "moondream_beam.pipelines.cli", *arguments)
    started = time.perf_counter()
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(arguments)}: status {status}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10


def long_texts(captions: pa.ChunkedArray) -> pa.Array:
    """Return the captions extended or cut to ``LENGTHS`` in turn; None stays None."""
    texts = [
        None if text is None else (text + " " + " ".join(f"{word}{row % 7}" for word in text.split()) * 40)[:length]
        for row, (text, length) in enumerate(zip(captions.to_pylist(), LENGTHS * len(captions), strict=False))
    ]
    return pa.array(texts, pa.string())


def write_copies(rows: pa.Table, folder: Path, count: int) -> None:
    """Write Parquet files of ``count`` rows in all. The pictures of each copy have names of their own."""
    rows = rows.set_column(
        rows.schema.get_field_index("caption"), rows.schema.field("caption"), long_texts(rows["caption"])
    )
    numbers = np.arange(count) // len(rows)
    for start in range(0, count, ROWS_PER_FILE):
        places = np.arange(start, min(start + ROWS_PER_FILE, count)) % len(rows)
        copies = rows.take(places)
        suffix = pa.array([f"-{number}" for number in numbers[start : start + ROWS_PER_FILE]])
        for name in ("id", "key", "uri", "filename", "sha256"):
            renamed = pc.binary_join_element_wise(copies[name].cast(pa.string()), suffix, "")
            copies = copies.set_column(copies.schema.get_field_index(name), copies.schema.field(name), renamed)
        pq.write_table(copies, folder / f"part-copies-{start:09}.parquet", compression="zstd")


def run(count: int) -> None:
    """Write copies of the demo's rows, and print a table row for each command."""
    with tempfile.TemporaryDirectory() as name:
        command("demo", "--output", name, "--no-report")
        out = Path(name, "out")
        (part,) = (out / "data").glob("*.parquet")
        write_copies(pq.read_table(part), out / "data", count)
        print(f"{count:,} rows, captions of {', '.join(map(str, LENGTHS))} characters\n")
        print("| command | seconds | CPU seconds | peak memory, MiB |\n|---|---|---|---|")
        for first, *rest in COMMANDS:
            target = (f"{name}/exported-{rest[-1]}",) if rest else ()
            seconds, cpu_seconds, memory = command(first, str(out), *rest, *target)
            print(f"| `{' '.join((first, *rest))}` | {seconds:.1f} | {cpu_seconds:.1f} | {memory:,} |", flush=True)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
