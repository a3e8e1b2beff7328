"""Pass the log records of a worker process on to the process that started it.

Beam's own service logs each record as the text of its message with all fields, under a logger of Beam.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.log_handler import LOGENTRY_TO_LOG_LEVEL_MAP
from apache_beam.utils import thread_pool_executor

PACKAGE = Path(__file__).parents[2]


class WorkerLog(beam_fn_api_pb2_grpc.BeamFnLoggingServicer):
    """Logs the records of a worker here. A record of this package gets the name that its logger has in the worker."""

    def Logging(self, batches: Iterable[Any], context: Any = None) -> Iterator[Any]:
        """Log all records until the worker ends the stream."""
        for batch in batches:
            for entry in batch.log_entries:
                log_entry(entry)
        return iter([])


def log_entry(entry: beam_fn_api_pb2.LogEntry) -> None:
    """Log one record of a worker: its message, with the traceback that the worker has appended."""
    path = Path(entry.log_location.rpartition(":")[0])
    name = "apache_beam.worker"
    below = path.relative_to(PACKAGE).with_suffix("").parts if path.is_relative_to(PACKAGE) else ()
    # The root of a checkout is the package, and it may contain the environment with all other packages.
    if below and "site-packages" not in below:
        name = ".".join((__name__.rsplit(".", 3)[0], *below))
    logging.getLogger(name).log(LOGENTRY_TO_LOG_LEVEL_MAP[entry.severity], "%s", entry.message)


def start_log_server() -> tuple[Any, int]:
    """Start a server that logs the records of a worker here. Return the server and its port."""
    server = grpc.server(thread_pool_executor.shared_unbounded_instance())
    port = server.add_insecure_port("localhost:0")
    beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(WorkerLog(), server)
    server.start()
    return server, port
