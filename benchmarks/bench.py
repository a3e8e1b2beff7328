"""Run all benchmarks small, and write their tables and ratios to one JSON file: ``python benchmarks/bench.py``.

The whole takes less than ten minutes on two cores that nothing else uses. ``make bench`` calls this. Compare the ratios
of two files, not their seconds: the machine may do other work. ``--only planning start`` runs some of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300
# Name -> the program and its arguments, below this folder.
SMALL: dict[str, tuple[str, ...]] = {
    "start": ("start.py", "--rounds", "1"),
    "pipeline": ("pipeline.py", "--pictures", "100"),
    "planning": ("planning.py", "--rows", "200000", "--done", "200000", "--files", "50000"),
    "looking": ("outputs/looking.py", "100000"),
    "exporting": ("outputs/exporting.py", "20000"),
    "counting": ("outputs/counting.py", "200"),
    "answer_journal": ("outputs/answer_journal.py",),
    "estimating": ("estimating.py", "200", "50"),
    "decoding": ("decoding.py",),
    "engine": ("engine/engine.py", "--preset", "small", "--pictures", "16", "--rounds", "1", "--naive-pictures", "2"),
    "experts": ("engine/experts.py",),
    "serving": ("servers/serving.py", "200"),
}
Table = list[dict[str, str]]


def main() -> None:
    """Run the benchmarks, print a line for each, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    parser.add_argument("--only", nargs="*", choices=SMALL, default=list(SMALL))
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name in args.only:
        found[name] = run(SMALL[name])
        print(f"{name}: {found[name]['status']}, {found[name]['seconds']:.0f} s", flush=True)
    result = {
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg(),
        "ratios": {name: ratios(each["tables"]) for name, each in found.items() if each["tables"]},
        "benchmarks": found,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {args.out}")
    if any(each["status"] != "ok" for each in found.values()):
        sys.exit(1)


def run(program: tuple[str, ...]) -> dict[str, Any]:
    """Run a benchmark in a process of its own. Return its status, its seconds, its output and its tables."""
    command = [sys.executable, str(ROOT / "benchmarks" / program[0]), *program[1:]]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        output, errors = done.stdout, done.stderr
        status = "ok" if done.returncode == 0 else f"failed: {errors.strip().splitlines()[-1:]}"
    except subprocess.TimeoutExpired as error:
        output, status = (error.stdout or b"").decode(), f"stopped after {LIMIT_S} s"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "command": " ".join(["python", f"benchmarks/{program[0]}", *program[1:]]),
        "status": status,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "tables": tables(output),
        "output": output.splitlines(),
    }


def tables(output: str) -> list[Table]:
    """Return the Markdown tables of a text. A row maps the names of columns to cells; a repeated name gets a number."""
    found: list[Table] = []
    header: list[str] = []
    for line in output.splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = [name if cells.index(name) == place else f"{name} {place}" for place, name in enumerate(cells)]
            found.append([])
        elif not re.fullmatch(r"[|\s:-]+", line):
            found[-1].append(dict(zip(header, cells, strict=False)))
    return found


def ratios(found: list[Table]) -> dict[str, float]:
    """Return the numbers in the columns of ratios, such as "1.5 x", and of each such column the name of the row."""
    result = {}
    for row in (row for table in found for row in table):
        name, *columns = row
        for column in columns:
            number = re.fullmatch(r"([+-]?[\d.,]+) ?(x|%)?", row[column])
            if number and (number[2] or "ratio" in column or "relative" in column):
                result[f"{row[name]}: {column}"] = float(number[1].replace(",", ""))
    return result


def commit() -> str:
    """Return the commit of the working tree, with a plus sign if files differ from it."""
    head, changed = (
        subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return head + "+" * bool(changed)


if __name__ == "__main__":
    main()
