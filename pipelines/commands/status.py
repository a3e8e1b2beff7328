"""``moondream-beam status``: how far the runs of an output are, from any machine that can read it."""

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
from ..display.formatting import duration, moment, number, share
from ..options.parser import reject_unknown_args, startup_errors

RUNS_TOLD = 10
SECONDS_BETWEEN_LOOKS, A_DAY = 5.0, 86_400.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("output", metavar="OUT", help="the folder that annotate writes to, on disk or in a bucket")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=SECONDS_BETWEEN_LOOKS,
        metavar="SECONDS",
        help="look again and again (every %(const)s s), until no run is at work",
    )


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: unknown arguments, or nothing there.
    """
    with startup_errors():
        reject_unknown_args(args, others)
        watch = OutputStatus(args.output)
        runs = watch.poll()
        if not runs:
            raise ValueError(f"{args.output}: no run there; give the folder that annotate writes to")
    if args.watch is None:
        print("\n".join(told(runs)))
        return 0
    try:
        keep_telling(watch, args.watch, sys.stdout)
    except KeyboardInterrupt:
        # Whoever watched has seen enough; the run goes on.
        print(file=sys.stderr)
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        # They may be left out, and then the word that follows is taken for them.
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, and give OUT before --watch") from None
    if not 0 < seconds <= A_DAY:
        raise argparse.ArgumentTypeError(f"{text}: give more than 0 seconds, and no more than a day")
    return seconds


def keep_telling(watch: OutputStatus, seconds: float, stream: TextIO) -> None:
    """Tell how far the runs are until none is at work: in place on a terminal, elsewhere when something changed."""
    before: list[str] = []
    while True:
        runs = watch.poll()
        lines = told(runs)
        if lines != before:
            up = f"\x1b[{height(before, stream)}F\x1b[J" if before and stream.isatty() else ""
            print(up + "\n".join(lines), file=stream, flush=True)
        if all(run.state != "running" for run in runs):
            return
        before = lines
        time.sleep(seconds)


def height(lines: Sequence[str], terminal: TextIO) -> int:
    """How many rows of a terminal these lines take, which wraps those that are longer than it is wide."""
    columns = os.get_terminal_size(terminal.fileno()).columns or sys.maxsize
    return sum(max(1, math.ceil(len(line) / columns)) for line in lines)


def told(runs: Sequence[RunStatus], now: datetime | None = None) -> list[str]:
    """A line for each of the latest runs, and one for all that is there."""
    now = now or datetime.now(timezone.utc)
    lines = [f"{run.run}  {in_words(run, now)}" for run in runs[-RUNS_TOLD:]]
    if len(runs) > RUNS_TOLD:
        lines.insert(0, f"{len(runs) - RUNS_TOLD} earlier runs")
    annotations, failures = (
        sum(counts) for counts in zip(*((run.annotations, run.failures) for run in runs), strict=True)
    )
    return [*lines, f"in all {annotations:,} rows in data/ and {failures:,} in errors/"]


def in_words(run: RunStatus, now: datetime) -> str:
    """How far a run is."""
    words = [f"{run.state}:", f"{run.rows:,}"]
    if run.planned:
        part = f" ({share(run.rows, run.planned.pending)})" if run.planned.pending else ""
        words.append(f"of {run.planned.pending:,} answers{part},")
    else:
        words.append("answers,")
    words.append(f"{run.failures:,} errors")
    if run.num_retried:
        words[-1] += ","
        words.append(f"{run.num_retried:,} more asked again since")
    if run.record and not run.record.get("balanced", True):
        words.append("– does not balance" if run.record["balanced"] is False else "– files not counted")
    if (rate := run.rate(now)) is not None:
        words[-1] += ","
        words.append(f"{number(rate)} a second")
    if run.state == "running" and (left := run.seconds_left(now)) is not None:
        words[-1] += ","
        words.append(f"{duration(left)} left")
    if run.state == "stopped":
        words[-1] += f"{f', last row at {moment(run.last)}' if run.last else ''}; the same command goes on from there"
    return " ".join(words)
