"""The command prints warnings, and what the engine reports about memory; records of workers look like its own."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker.log_handler import FnApiLogRecordHandler

from moondream_beam.models.moondream.engine import memory
from moondream_beam.pipelines.display.log_records import LineFormatter, ShownRecords
from moondream_beam.pipelines.local_runner import worker_log
from moondream_beam.pipelines.local_runner.worker_log import log_entry
from moondream_beam.transforms.planning import plan

REPORT = "batch size %d: weights %s"


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """Yield what the handler of the command has printed."""
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    handler.addFilter(ShownRecords())
    handler.setFormatter(LineFormatter())
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


def as_of_a_worker(record: logging.LogRecord) -> beam_fn_api_pb2.LogEntry:
    """Return the record as Beam's harness sends it."""
    handler = FnApiLogRecordHandler.__new__(FnApiLogRecordHandler)
    logging.Handler.__init__(handler)
    entry = beam_fn_api_pb2.LogEntry(
        severity=FnApiLogRecordHandler.map_log_level(handler, record.levelno),
        message=record.getMessage(),
        log_location=f"{record.pathname}:{record.lineno}",
    )
    return entry


@pytest.mark.parametrize("logger", [memory.logger, plan.logger], ids=["memory", "plan"])
def test_a_report_is_printed_once_and_as_it_is(printed, logger):
    for _ in range(2):
        logger.info(REPORT, 4, "3.9 GB")
    logging.getLogger("httpx").info("GET")
    logging.getLogger("other").warning("low")
    assert printed.getvalue().splitlines() == ["batch size 4: weights 3.9 GB", "WARNING other: low"]


def test_a_record_of_a_worker_is_printed_under_its_own_module(printed):
    report = logging.LogRecord("x", logging.INFO, memory.__file__, 7, "batch size 4", (), None)
    warning = logging.LogRecord("x", logging.WARNING, memory.__file__, 8, "out of memory", (), None)
    foreign = logging.LogRecord("x", logging.INFO, "/lib/other.py", 9, "started", (), None)
    for record in (report, report, warning, foreign):
        log_entry(as_of_a_worker(record))
    assert printed.getvalue().splitlines() == ["batch size 4", f"WARNING {memory.__name__}: out of memory"]


@pytest.mark.parametrize("environment", [".venv", "venv"])
def test_a_library_in_an_environment_inside_the_checkout_is_no_module_of_the_package(caplog, environment):
    path = worker_log.PACKAGE / environment / "lib/python3.11/site-packages/apache_beam/options/pipeline_options.py"
    worker_log.log_entry(as_of_a_worker(logging.LogRecord("x", logging.ERROR, str(path), 7, "discarded", (), None)))
    assert [record.name for record in caplog.records] == ["apache_beam.worker"]


@pytest.mark.slow
def test_a_worker_process_reports_its_memory_and_batch_size(pictures, tmp_path, command):
    words = ("annotate", pictures, "--model", "tiny", "--caption", "--max-failure-rate", "1", "--batch-size", "5")
    status, _, stderr = command(*words, "--output", tmp_path / "out", "--workers", "2")
    assert status == 0 and "\nbatch size 5: weights 9 MB" in stderr and "severity" not in stderr
