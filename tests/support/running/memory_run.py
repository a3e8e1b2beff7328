"""Run the job over files with Echo in a separate process, and measure its memory.

The process runs in tests/: python -m support.running.memory_run OUTPUT PATTERN ...
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]


def annotate_measured(out: Path, *patterns: str) -> tuple[dict[str, Any], int]:
    """Return the record of the run, and the peak memory in bytes without the memory of the imports."""
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
    """Return the peak memory of this process in bytes. On Linux ru_maxrss also counts the parent process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main(*sys.argv[1:])
