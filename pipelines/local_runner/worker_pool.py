"""Worker processes of this machine as Beam's runner sees them, watched: one that dies or hangs does not hang the run.

A process that beats can run Python. One that beats and has a shard, but no new row for long, hangs in a call that never
ends. The limits are generous: the first row waits for the model's weights, others for a queue or a slow device.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.runners.portability.local_job_service import BeamFnLoggingServicer
from apache_beam.transforms.environments import SubprocessSDKEnvironment
from apache_beam.utils import thread_pool_executor
from google.protobuf import json_format, text_format

from ...transforms.monitoring.heartbeat import OUT_OF_MEMORY, PIPE
from .control_connection import RefusableConnection
from .signals import INTERRUPTS

URN = "moondream_beam:env:process:v1"
LOOK_SECONDS = 1.0
# Until it beats at all it imports what it needs, from a cold and slow disk perhaps.
STARTING_SECONDS, SILENT_SECONDS = 1800.0, 300.0
FIRST_ROW_SECONDS, ROW_SECONDS = 6 * 3600.0, 2 * 3600.0
# What a process may take to end when the run has: what it is at then nobody waits for.
ENDING_SECONDS = 30.0

logger = logging.getLogger(__name__)


@dataclass
class Crew:
    """The workers of one run: how each is started, and what became of those that were ``lost``, in words.

    ``patience``: seconds that a row may take beyond the limits here.
    """

    command: list[str]
    patience: float = 0.0
    lost: list[str] = field(default_factory=list)

    def environment(self) -> SubprocessSDKEnvironment:
        """What Beam is to run the work in. It asks its own register of environments for the handlers."""
        WorkerHandler.register_environment(f"{URN}/{id(self)}", bytes)(partial(Worker, self))
        return _CrewEnvironment.from_command_string(f"{URN}/{id(self)}")


class _CrewEnvironment(SubprocessSDKEnvironment):
    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return self.command_string, b""


class Signs:
    """What can be told from the pulse of a process: for how long there was none, for how long no new row.

    Time is counted in looks, not read from a clock: whoever was asleep himself has not seen others be silent.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self.patience = patience
        self.silent = self.without_row = 0.0
        self.shard: int | None = None
        self.rows = 0
        self.has_beaten = self.has_answered = False
        self._rest = b""

    def look(self, heard: bytes) -> None:
        """Take what was heard since the last look."""
        self.silent = 0.0 if heard else self.silent + LOOK_SECONDS
        self.has_beaten |= bool(heard)
        self.without_row += LOOK_SECONDS
        *lines, self._rest = (self._rest + heard).split(b"\n")
        for line in filter(None, lines):
            self.shard, self.rows = json.loads(line)
            self.has_answered |= self.rows > 0
            self.without_row = 0.0

    def verdict(self) -> str | None:
        """Why this process is taken to hang, if it is."""
        if self.silent >= (SILENT_SECONDS if self.has_beaten else STARTING_SECONDS):
            return f"gave no sign of life for {self.silent:.0f} s{self.place}"
        limit = ROW_SECONDS if self.has_answered else FIRST_ROW_SECONDS
        if self.shard is not None and self.without_row >= limit + self.patience:
            return f"had no new row for {self.without_row:.0f} s{self.place}"
        return None

    @property
    def place(self) -> str:
        """Where it is, as far as is known."""
        return "" if self.shard is None else f", at shard {self.shard} after {self.rows} rows"


class Worker(GrpcWorkerHandler):
    """One process, from its start to its end."""

    def __init__(self, crew: Crew, _: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self.crew, self.signs = crew, Signs(crew.patience)
        # Beam's runner sends its requests to the object of this name. Beam's EmbeddedWorkerHandler replaces it as well.
        self.control_conn: Any = RefusableConnection(self.control_conn)
        self._closing = threading.Event()

    def start_worker(self) -> None:
        """Start the process, and watch it in a thread."""
        log_server, log_port = _log_server()
        hears, beats = os.pipe()
        self._hears = hears
        options = self.provision_info.provision_info.pipeline_options
        environment = {
            **os.environ,
            PIPE: str(beats),
            "WORKER_ID": self.worker_id,
            "PIPELINE_OPTIONS": json_format.MessageToJson(options),
            "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(self.control_address),
            "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(f"localhost:{log_port}"),
        }
        # Ctrl-C reaches every process of a terminal: it waits at the door of this one, which will pass it over.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        try:
            self.process = subprocess.Popen(self.crew.command, env=environment, pass_fds=[beats])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(beats)
        self._watcher = threading.Thread(target=self._watch, args=(log_server,), name="watch", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End it: it is told, and killed if it takes too long."""
        self._closing.set()
        if not self.control_conn.has_response():
            # A process that has not connected yet would try to for a minute. One at its first request has published
            # nothing. The run is over for both.
            self.process.kill()
        try:
            super().close()
        except grpc.RpcError:
            # It was gone already, as has been told.
            self.stop_worker()

    def stop_worker(self) -> None:
        """Wait for its end."""
        self._watcher.join()

    def _watch(self, log_server: Any) -> None:
        why, ending = None, 0.0
        while self.process.poll() is None:
            self._listen()
            ending += LOOK_SECONDS if self._closing.is_set() else 0.0
            why = why or self.signs.verdict()
            if why or ending >= ENDING_SECONDS:
                if why:
                    self._give_up(f"{why}, and was killed")
                self.process.kill()
        if not why and not self._closing.is_set():
            self._give_up(f"{_end(self.process.returncode)}{self.signs.place}")
        os.close(self._hears)
        log_server.stop(0)

    def _listen(self) -> None:
        """Take one look, which takes some time."""
        readable, _, _ = select.select([self._hears], [], [], LOOK_SECONDS)
        heard = os.read(self._hears, 1 << 16) if readable else b""
        self.signs.look(heard)
        if readable and not heard:
            # It has closed its end, or is about to be gone.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LOOK_SECONDS)

    def _give_up(self, what: str) -> None:
        """Let whoever waits for it know, now and later, that nothing will come."""
        told = f"{self.worker_id} {what}"
        if told in self.crew.lost:
            return
        self.crew.lost.append(told)
        logger.warning("%s; the others go on with what is theirs", told)
        self.control_conn.refuse(told)


def _end(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status}, for want of memory perhaps"
    return "had no memory left" if status == OUT_OF_MEMORY else f"ended with status {status}"


def _descriptor(address: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=address))


def _log_server() -> tuple[Any, int]:
    """Where a process sends its log records, to become ours."""
    server = grpc.server(thread_pool_executor.shared_unbounded_instance())
    port = server.add_insecure_port("localhost:0")
    beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(BeamFnLoggingServicer(), server)
    server.start()
    return server, port
