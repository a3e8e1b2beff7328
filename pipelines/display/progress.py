"""The progress of a run on standard error: a bar on a terminal, and one line every 10 seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from tqdm import tqdm

from ...transforms.core.summary import Count, Summary, counted
from ...transforms.monitoring.progress import ProgressFiles
from .formatting import format_duration

POLL_INTERVAL_S = 0.5
LINE_INTERVAL_S = 10.0
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"
# The first answers come slowly, because the model is loaded before them.
MIN_ROWS_FOR_ESTIMATE = 10


@contextlib.contextmanager
def show_progress(notes: ProgressFiles, stream: TextIO | None = None) -> Iterator[None]:
    """Within this block, show the progress of the run that writes the files ``notes``. Afterwards, delete the files.

    Args:
        stream: where to print; standard error by default.
    """
    stream = stream or sys.stderr
    ended = threading.Event()
    target = _show_bar if stream.isatty() else _show_lines
    watcher = threading.Thread(target=target, args=(notes, ended, stream), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        notes.remove()


class TimeLeft:
    """Estimates the time left of a run from its pace since its first rows. The load of the model is before them."""

    def __init__(self, started: float) -> None:
        """``started`` is when the run began, on the clock of ``time.monotonic``."""
        self._first: tuple[int, float] | None = None
        self._started = started

    def describe(self, rows: int, pending: int, now: float) -> str:
        """Return the time left, such as "2 min 5 s left", or after how many answers it is known.

        Args:
            rows: the rows so far, of ``pending`` in all.
            now: on the clock of ``time.monotonic``. It is not before that of the call before.
        """
        if rows and self._first is None:
            self._first = rows, now
        if self._first is None or rows < MIN_ROWS_FOR_ESTIMATE:
            return f"time left is known after {MIN_ROWS_FOR_ESTIMATE} answers"
        first_rows, first = self._first if self._first[0] < rows else (0, self._started)
        return f"{format_duration((now - first) / (rows - first_rows) * (pending - rows))} left"


def print_done(planned: Count, stream: TextIO) -> None:
    """Print how much is done from earlier runs, and how much is left; nothing if this is the first run."""
    if planned.done:
        whole = planned.done + planned.pending
        line = (
            f"{planned.done} of {whole} {planned.unit}, from earlier runs, are done already; {planned.pending} are left"
        )
        print(line, file=stream, flush=True)


def format_rates(planned: Count, done: Summary, seconds: float) -> str:
    """Return the rates of a run so far, such as "20.0 requests/s, 5.0 pictures/s, 100 tokens/s, 10 errors, $0.0012".

    The rate of pictures is left out if each picture has one request.

    Args:
        planned: the pictures and requests of the whole run.
        done: the sums over all rows so far.
        seconds: the time since the start.
    """
    seconds = max(seconds, 1e-9)
    parts = [f"{done.rows / seconds:.1f} {planned.unit}/s"]
    if planned.pictures != planned.pending:
        # The tasks of a picture are answered at about the same time, so pictures are in proportion to rows.
        parts.append(f"{done.rows * planned.pictures / max(1, planned.pending) / seconds:.1f} pictures/s")
    parts += [f"{done.output_tokens / seconds:.0f} tokens/s", f"{counted(done.failures, 'errors')}"]
    return ", ".join(filter(None, [*parts, format_bill(done.billed_units, done.usd)]))


def format_bill(units: float, usd: float) -> str:
    """Return the cost, such as "$0.0012"; without a known price "5.5 units billed"; without a cost an empty text."""
    if usd:
        return f"${usd:.4f}" if usd < 1 else f"${usd:.2f}"
    return f"{units:g} units billed" if units else ""


def _show_bar(notes: ProgressFiles, ended: threading.Event, stream: TextIO) -> None:
    started = time.monotonic()
    time_left = TimeLeft(started)
    bar: tqdm[None] | None = None
    while True:
        last = ended.wait(POLL_INTERVAL_S)
        planned, done = notes.read()
        if planned and bar is None:
            started = time.monotonic()
            time_left = TimeLeft(started)
            print_done(planned, stream)
            bar = tqdm(total=planned.pending, file=stream, bar_format=BAR, unit=planned.unit, dynamic_ncols=True)
        if planned and bar is not None:
            bar.n = done.rows
            now = time.monotonic()
            left = time_left.describe(done.rows, planned.pending, now)
            bar.set_postfix_str(f"{left}, {format_rates(planned, done, now - started)}")
        if last:
            break
    if bar is not None:
        bar.close()


def _show_lines(notes: ProgressFiles, ended: threading.Event, stream: TextIO) -> None:
    started = time.monotonic()
    time_left = TimeLeft(started)
    is_planned = False
    while not ended.wait(LINE_INTERVAL_S):
        planned, done = notes.read()
        if planned and not is_planned:
            print_done(planned, stream)
            is_planned = True
        if planned and done.rows:
            now = time.monotonic()
            rates = format_rates(planned, done, now - started)
            left = time_left.describe(done.rows, planned.pending, now)
            line = f"{done.rows} of {planned.pending} {planned.unit}, {rates}, {left}"
            print(line, file=stream, flush=True)
