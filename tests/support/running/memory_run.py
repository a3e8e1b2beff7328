"""Run the job over files, with Echo, in a process of its own that tells how much memory it took.

As a program, run in tests/: python -m support.running.memory_run OUTPUT PATTERN ...
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]


def annotate_measured(out: Path, *patterns: str) -> tuple[dict[str, Any], int]:
    """The record of the run, and the bytes of memory that it took beyond what its imports do."""
    command = [sys.executable, "-m", __name__, str(out), *patterns]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(max((out / "runs").glob("*.json")).read_text())
    return record, int(done.stdout.split()[-1])


def main(out: str, *patterns: str) -> None:
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from support.data.echo import Echo

    from moondream_beam import AnnotateToParquet, Caption, Detect, ReadImages

    imported = peak()
    with beam.Pipeline(FnApiRunner()) as pipeline:
        job = AnnotateToParquet((Caption(), Detect("dog")), Echo(batch_size=32), out, shard_size=300)
        _ = pipeline | ReadImages(*patterns) | job
    print(peak() - imported)


def peak() -> int:
    """The most bytes of memory that this process had at once. Linux counts that of whoever started it in ru_maxrss."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main(*sys.argv[1:])
