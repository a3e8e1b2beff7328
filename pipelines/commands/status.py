"""``moondream-beam status``: show the progress of all runs of an output, on any machine that can read it."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TextIO

from ...transforms.monitoring.status import OutputStatus, RunStatus
from ..display.formatting import format_duration, format_number, format_percent, format_time
from ..options.parser import startup_errors

MAX_RUNS_SHOWN = 10


def run(args: argparse.Namespace) -> int:
    """Run the command and return 0.

    Raises:
        StartupError: if there is no run in the output. ``--watch`` waits for the run.
    """
    with startup_errors():
        watch = OutputStatus(args.output)
        runs = watch.poll()
        if not runs and args.watch is None:
            raise ValueError(
                f"{args.output}: there is no run; give the folder that annotate writes to. If it is this one, its run"
                " was stopped before it asked anything: run annotate again"
            )
    if args.watch is None:
        print("\n".join(format_runs(runs)))
        return 0
    if not runs:
        print(f"{args.output}: no run has begun; waiting for one, until Ctrl-C", file=sys.stderr)
    try:
        watch_runs(watch, args.watch, sys.stdout)
    except KeyboardInterrupt:
        # Ctrl-C ends the watching only. The run is in another process.
        print(file=sys.stderr)
    return 0


def watch_runs(watch: OutputStatus, seconds: float, stream: TextIO) -> None:
    """Print the progress of all runs every ``seconds`` seconds, until no run is at work. Wait for the first run.

    On a terminal, new lines replace the old ones. Elsewhere, print the lines only if they have changed.
    """
    before: list[str] = []
    while True:
        if not (runs := watch.poll()):
            time.sleep(seconds)
            continue
        lines = format_runs(runs)
        if lines != before:
            up = f"\x1b[{num_terminal_rows(before, stream)}F\x1b[J" if before and stream.isatty() else ""
            print(up + "\n".join(lines), file=stream, flush=True)
        if all(run.state != "running" for run in runs):
            return
        before = lines
        time.sleep(seconds)


def num_terminal_rows(lines: Sequence[str], terminal: TextIO) -> int:
    """Return the number of rows that lines take on a terminal, which wraps lines that are longer than its width."""
    columns = os.get_terminal_size(terminal.fileno()).columns or sys.maxsize
    return sum(max(1, math.ceil(len(line) / columns)) for line in lines)


def format_runs(runs: Sequence[RunStatus], now: datetime | None = None) -> list[str]:
    """Return one line for each of the last MAX_RUNS_SHOWN of ``runs``, and a last line with the sums over all runs.

    Args:
        runs: the earliest first.
        now: the time from which rates and remaining times are computed; by default the current time.
    """
    now = now or datetime.now(timezone.utc)
    lines = [f"{run.run}  {format_run(run, now)}" for run in runs[-MAX_RUNS_SHOWN:]]
    if len(runs) > MAX_RUNS_SHOWN:
        lines.insert(0, f"{len(runs) - MAX_RUNS_SHOWN} earlier runs")
    annotations, failures = (
        sum(counts) for counts in zip(*((run.annotations, run.failures) for run in runs), strict=True)
    )
    return [*lines, f"total: {annotations:,} rows in data/ and {failures:,} in errors/"]


def format_run(run: RunStatus, now: datetime) -> str:
    """Return the state of a run, such as "running: 50 of 200 requests (25 %), 10 errors, 5 a second, 30 s left"."""
    # A row is a request, or one of several rows that share a request. Only the plan shows which.
    done = f"{run.rows:,} rows"
    if run.planned:
        done = f"{run.rows:,} of {run.planned.pending:,} {run.planned.unit}"
        done += f" ({format_percent(run.rows, run.planned.pending)})" if run.planned.pending else ""
    parts = [f"{run.state}: {done}", f"{run.failures:,} {'error' if run.failures == 1 else 'errors'}"]
    if run.in_flight:
        parts.append(f"{run.in_flight:,} in flight")
    if run.kept:
        parts.append(f"{run.kept:,} rows kept for the next run")
    if run.num_retried:
        parts.append(f"{run.num_retried:,} {'error' if run.num_retried == 1 else 'errors'} retried by later runs")
    if run.num_changed:
        parts.append(f"{run.num_changed:,} answers asked again by later runs")
    if run.record and not run.record.get("balanced", True):
        parts[-1] += " (does not balance)" if run.record["balanced"] is False else " (files not counted)"
    if (rate := run.rate(now)) is not None:
        parts.append(f"{format_number(rate)} a second")
    if run.state == "running" and (left := run.seconds_left(now)) is not None:
        parts.append(f"{format_duration(left)} left")
    if run.state == "stopped" and run.last:
        parts.append(f"last row at {format_time(run.last)}")
    resumable = run.state in ("stopped", "interrupted") and not run.was_resumed
    return ", ".join(parts) + ("; run the same command again to resume" if resumable else "")
