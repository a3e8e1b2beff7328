"""Progress of a run: a bar on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import io
import logging

import pytest

from moondream_beam.pipelines.display import progress
from moondream_beam.pipelines.display.log_handler import AboveBarHandler
from moondream_beam.pipelines.display.progress import TimeLeft, format_rates, show_progress
from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.monitoring.progress import ProgressFiles


def test_rates_include_the_cost_in_dollars_or_in_units_or_no_cost():
    done = Summary(annotations=20, billed_units=5.5)
    assert (
        format_rates(Count(10, 20), done, 2.0)
        == "10.0 requests/s, 5.0 pictures/s, 0 tokens/s, 0 errors, 5.5 units billed"
    )
    assert format_rates(Count(10, 20), done._replace(usd=0.0012), 2.0).endswith("0 errors, $0.0012")
    assert format_rates(Count(10, 20), done._replace(usd=12.5), 2.0).endswith("0 errors, $12.50")
    assert format_rates(Count(10, 20), Summary(annotations=20), 2.0).endswith("0 errors")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def notes(tmp_path) -> ProgressFiles:
    notes = ProgressFiles(str(tmp_path), "run")
    notes.record_plan(Count(pictures=50, pending=200))
    notes.report(0, Summary(annotations=60, failures=3, output_tokens=900), last=True)
    notes.report(1, Summary(annotations=37), last=True)
    return notes


def test_the_first_estimate_comes_after_ten_answers_and_leaves_out_the_load_of_the_model():
    left = TimeLeft(started=1000.0)
    assert left.describe(0, 100, 1040.0) == left.describe(1, 100, 1040.0) == "time left is known after 10 answers"
    assert left.describe(9, 100, 1048.0) == "time left is known after 10 answers"
    assert left.describe(11, 100, 1050.0) == "1 min 29 s left", "ten answers in ten seconds"
    assert left.describe(100, 100, 1139.0) == "0 s left"


def test_an_estimate_of_answers_that_came_all_at_once_is_from_the_start():
    assert TimeLeft(started=1000.0).describe(20, 100, 1010.0) == "40 s left"


def test_a_terminal_gets_a_bar_that_ends_where_the_run_ended(notes):
    terminal = Terminal()
    with show_progress(notes, terminal):
        pass
    last = terminal.getvalue().split("\r")[-1]
    assert "100/200 requests" in last and "pictures/s" in last and "3 errors" in last


def test_without_a_terminal_there_are_plain_lines(notes, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.01)
    stream = io.StringIO()
    with show_progress(notes, stream):
        while not stream.getvalue():
            pass
    first = stream.getvalue().splitlines()[0]
    assert first.startswith("100 of 200 requests, ") and first.endswith(" left")
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_run_that_goes_on_begins_with_what_is_done(notes, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.01)
    notes.remove()
    notes.record_plan(Count(pictures=50, pending=200, done=40))
    line = "40 of 240 requests, from earlier runs, are done already; 200 are left"
    terminal = Terminal()
    with show_progress(notes, terminal):
        pass
    assert terminal.getvalue().splitlines()[0] == line
    notes.record_plan(Count(pictures=50, pending=200, done=40))
    stream = io.StringIO()
    with show_progress(notes, stream):
        while not stream.getvalue():
            pass
    assert stream.getvalue().splitlines() == [line]


def test_without_a_terminal_a_short_run_prints_nothing(notes):
    stream = io.StringIO()
    with show_progress(notes, stream):
        pass
    assert stream.getvalue() == ""


def test_before_the_plan_nothing_is_printed(tmp_path):
    terminal = Terminal()
    with show_progress(ProgressFiles(str(tmp_path), "run"), terminal):
        pass
    assert terminal.getvalue() == ""


def test_the_progress_files_are_deleted_even_if_the_run_fails(notes, tmp_path):
    with pytest.raises(ZeroDivisionError), show_progress(notes, io.StringIO()):
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*.sums")) == []


def test_rates_count_pictures_not_rows():
    half_done = Summary(annotations=90, failures=10, output_tokens=500)
    assert format_rates(Count(pictures=50, pending=200), half_done, 5.0) == (
        "20.0 requests/s, 5.0 pictures/s, 100 tokens/s, 10 errors"
    )
    assert format_rates(Count(200, 200), half_done, 5.0) == "20.0 requests/s, 100 tokens/s, 10 errors"


def test_a_warning_is_a_line_of_its_own_above_the_bar():
    terminal = Terminal()
    handler = AboveBarHandler(terminal)
    with progress.tqdm(total=10, file=terminal, bar_format="{n_fmt} of {total_fmt}") as bar:
        bar.update(3)
        handler.handle(logging.makeLogRecord({"msg": "slow down", "levelname": "WARNING"}))
        bar.refresh()
    written = terminal.getvalue().split("slow down")
    assert written[0].endswith("\r"), "the bar makes way"
    assert written[1].startswith("\n\r") and "3 of 10" in written[1], "and comes back below"
