"""Progress as somebody at a terminal sees it: a bar there, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from tqdm import tqdm

from ...transforms.core.summary import Count, Summary
from ...transforms.monitoring.progress import ProgressFiles

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 10.0
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} answers [{elapsed}<{remaining}{postfix}]"


class AboveTheBar(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes records above a bar that is drawn on the same terminal, not through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; the bar makes way, and comes back below it."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


@contextlib.contextmanager
def show_progress(notes: ProgressFiles, stream: TextIO | None = None) -> Iterator[None]:
    """While the block runs, show how far the run is that leaves these notes; then remove them."""
    stream = stream or sys.stderr
    over = threading.Event()
    show = _show_bar if stream.isatty() else _show_lines
    watcher = threading.Thread(target=show, args=(notes, over, stream), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        notes.remove()


def rates(planned: Count, done: Summary, seconds: float) -> str:
    """Pictures and tokens a second, failures and the bill so far."""
    # All tasks of a picture come together, or nearly so.
    pictures = done.rows * planned.pictures / max(1, planned.pending)
    seconds = max(seconds, 1e-9)
    told = [f"{pictures / seconds:.1f} images/s", f"{done.output_tokens / seconds:.0f} tokens/s"]
    told += [f"{done.failures} errors", bill_in_words(done.billed_units, done.usd)]
    return ", ".join(filter(None, told))


def bill_in_words(units: float, usd: float) -> str:
    """Dollars where a price is known, units where it is not; empty where nothing was billed."""
    if usd:
        return f"${usd:.4f}" if usd < 1 else f"${usd:.2f}"
    return f"{units:g} units billed" if units else ""


def _show_bar(notes: ProgressFiles, over: threading.Event, stream: TextIO) -> None:
    started = 0.0
    bar: tqdm[None] | None = None
    while True:
        last = over.wait(SECONDS_BETWEEN_LOOKS)
        planned, done = notes.read()
        if planned and bar is None:
            started = time.monotonic()
            bar = tqdm(total=planned.pending, file=stream, bar_format=BAR, dynamic_ncols=True)
        if planned and bar is not None:
            bar.n = done.rows
            bar.set_postfix_str(rates(planned, done, time.monotonic() - started))
        if last:
            break
    if bar is not None:
        bar.close()


def _show_lines(notes: ProgressFiles, over: threading.Event, stream: TextIO) -> None:
    started = time.monotonic()
    while not over.wait(SECONDS_BETWEEN_LINES):
        planned, done = notes.read()
        if planned and done.rows:
            seconds = time.monotonic() - started
            left = seconds / done.rows * (planned.pending - done.rows)
            line = f"{done.rows} of {planned.pending} answers, {rates(planned, done, seconds)}, {left:.0f} s left"
            print(line, file=stream, flush=True)
