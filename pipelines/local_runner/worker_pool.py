"""Start the worker processes of one local run, and end the run if one of them dies or hangs.

Each process sends a heartbeat every second over a pipe, and a report after each row. A process hangs if it sends no
heartbeat for minutes. It also hangs if it sends heartbeats, but no new row for hours. A process that hangs is killed.
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
from apache_beam.portability.api import endpoints_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.transforms.environments import SubprocessSDKEnvironment
from google.protobuf import json_format, text_format

from ...transforms.monitoring.heartbeat import OUT_OF_MEMORY, PIPE
from .control_connection import RefusableConnection
from .gpus import cores_of, gpu_of
from .signals import INTERRUPT_SIGNALS, ON_INTERRUPT, interrupts_held
from .worker_log import start_log_server

URN = "moondream_beam:env:process:v1"
POLL_INTERVAL_S = 1.0
# Before its first heartbeat, a process imports PyTorch and Beam, possibly from a slow disk.
STARTUP_TIMEOUT_S, HEARTBEAT_TIMEOUT_S = 1800.0, 300.0
# The first row waits for the download and the load of the model. Later rows may wait for a queue or a slow device.
FIRST_ROW_TIMEOUT_S, ROW_TIMEOUT_S = 6 * 3600.0, 2 * 3600.0
# How long a process may take to exit once the run is over.
SHUTDOWN_TIMEOUT_S = 30.0
# The ends of a process that got SIGTERM: before and after it handles the signal.
_SIGTERM_STATUS = (-signal.SIGTERM, 128 + signal.SIGTERM)

logger = logging.getLogger(__name__)


@dataclass
class WorkerPool:
    """The worker processes of one run.

    Attributes:
        command: the program and arguments that start one process. The names of ``gpus`` are appended.
        extra_row_s: seconds that a row may take in addition to FIRST_ROW_TIMEOUT_S and ROW_TIMEOUT_S.
        workers: the number of processes.
        gpus: one GPU for each process; empty: all of them see all GPUs.
        dead_workers: a phrase for each process that died or hung, such as "worker_1 ended with status 3".
        device_failures: why a device failed, by process, such as "worker_1 (GPU 3)".
        failed_gpus: the GPUs among them.
    """

    command: list[str]
    extra_row_s: float = 0.0
    workers: int = 1
    gpus: tuple[str, ...] = ()
    dead_workers: list[str] = field(default_factory=list)
    device_failures: dict[str, str] = field(default_factory=dict)
    failed_gpus: set[str] = field(default_factory=set)

    def environment(self) -> SubprocessSDKEnvironment:
        """Return the Beam environment whose workers are processes of this pool, and register it with Beam."""
        WorkerHandler.register_environment(f"{URN}/{id(self)}", bytes)(partial(Worker, self))
        return _PoolEnvironment.from_command_string(f"{URN}/{id(self)}")

    def without_failed_devices(self) -> WorkerPool | None:
        """Return a pool of the processes and GPUs whose device has not failed; None if no process is left."""
        left = self.workers - len(self.device_failures)
        gpus = tuple(gpu for gpu in self.gpus if gpu not in self.failed_gpus)
        return WorkerPool(self.command, self.extra_row_s, left, gpus) if left else None


class _PoolEnvironment(SubprocessSDKEnvironment):
    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return self.command_string, b""


class LivenessMonitor:
    """Decides whether one worker process hangs, from the bytes that the process sends through its pipe.

    Time is counted in polls of POLL_INTERVAL_S seconds, not read from a clock. If the whole machine was suspended, a
    clock would show a gap, and every worker would count as hung.

    Args:
        extra_row_s: seconds that a row may take in addition to FIRST_ROW_TIMEOUT_S and ROW_TIMEOUT_S.

    Attributes:
        has_started: whether the process has sent anything.
        device_failure: why the device of the process failed; None if the process has reported no failure.
    """

    def __init__(self, extra_row_s: float = 0.0) -> None:
        self.extra_row_s = extra_row_s
        self._without_heartbeat_s = self._without_row_s = 0.0
        self._shard: int | None = None
        self._rows = 0
        self.has_started = self._has_rows = False
        self.device_failure: str | None = None
        self._rest = b""

    def poll(self, received: bytes) -> None:
        """Add one poll interval to the times since the last heartbeat and since the last row.

        Anything received sets the first time to 0. A report sets the second one to 0, and gives shard and rows for the
        message of ``failure_reason``.

        Args:
            received: empty, or lines. An empty line is a heartbeat. ``[shard, rows]`` in JSON is a report: the number
                of the shard (null: none) and its rows so far. A JSON string is a failure of the device. The last line
                may be incomplete.
        """
        self._without_heartbeat_s = 0.0 if received else self._without_heartbeat_s + POLL_INTERVAL_S
        self.has_started |= bool(received)
        self._without_row_s += POLL_INTERVAL_S
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in filter(None, lines):
            report = json.loads(line)
            if isinstance(report, str):
                self.device_failure = report
                continue
            self._shard, self._rows = report
            self._has_rows |= self._rows > 0
            self._without_row_s = 0.0

    def failure_reason(self) -> str | None:
        """Return why the process counts as hung, such as "sent no heartbeat for 300 s in shard 3 after 17 rows".

        Returns:
            None if the process does not count as hung.
        """
        if self._without_heartbeat_s >= (HEARTBEAT_TIMEOUT_S if self.has_started else STARTUP_TIMEOUT_S):
            return f"sent no heartbeat for {self._without_heartbeat_s:.0f} s{self.position}"
        limit = ROW_TIMEOUT_S if self._has_rows else FIRST_ROW_TIMEOUT_S
        if self._shard is not None and self._without_row_s >= limit + self.extra_row_s:
            return f"produced no row for {self._without_row_s:.0f} s{self.position}"
        return None

    @property
    def position(self) -> str:
        """The shard and its rows so far, such as " in shard 3 after 17 rows"; empty if the process has no shard."""
        return "" if self._shard is None else f" in shard {self._shard} after {self._rows} rows"


class Worker(GrpcWorkerHandler):
    """One worker process, from its start to its end. Beam makes the instances and calls the public methods."""

    def __init__(self, pool: WorkerPool, _: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self.pool, self.monitor = pool, LivenessMonitor(pool.extra_row_s)
        # Beam's runner sends its requests to the object of this name. Beam's EmbeddedWorkerHandler replaces it as well.
        self.control_conn: Any = RefusableConnection(self.control_conn)
        self._closing = threading.Event()

    def start_worker(self) -> None:
        """Start the process, and a thread that watches it."""
        with interrupts_held():
            self._start()

    def _start(self) -> None:
        log_server, log_port = start_log_server()
        self._pipe, write_end = os.pipe()
        options = self.provision_info.provision_info.pipeline_options
        environment = {
            **os.environ,
            PIPE: str(write_end),
            "WORKER_ID": self.worker_id,
            "PIPELINE_OPTIONS": json_format.MessageToJson(options),
            "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(self.control_address),
            "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(f"localhost:{log_port}"),
        }
        # Ctrl-C reaches every process of a terminal. The new process inherits the block, and ignores the signals later.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT_SIGNALS)
        try:
            self.process = self._popen(environment, write_end)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(write_end)
        ON_INTERRUPT.append(self._interrupt)
        self._watcher = threading.Thread(target=self._watch, args=(log_server,), name="watch", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Ask the process to exit, and wait for its end. After SHUTDOWN_TIMEOUT_S seconds, kill the process.

        A process without a response to any request gets SIGTERM, or SIGKILL if it has not sent a heartbeat.
        """
        self._closing.set()
        if not self.control_conn.has_response():
            # The request to exit would not reach a process that has not connected, or that is at its first shard.
            self._send_end()
        try:
            super().close()
        except grpc.RpcError:
            # The process was gone already, and ``_mark_dead`` has reported its end.
            self.stop_worker()

    def stop_worker(self) -> None:
        """Wait until the process has ended, without a time limit and without ending the process: ``close`` ends it."""
        self._watcher.join()

    def _popen(self, environment: dict[str, str], write_end: int) -> subprocess.Popen[bytes]:
        """Start the process. If each process has its own GPU, this one gets its share of the processors, too.

        The number of its threads depends on its processors. Without GPUs, a process may use those of one that waits.
        """
        command, cores = [*self.pool.command, *self.pool.gpus], None
        if self.pool.gpus and hasattr(os, "sched_setaffinity"):
            # Of this thread only, and the new process inherits it.
            cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, cores_of(self.worker_id, self.pool.workers, cores))
        try:
            return subprocess.Popen(command, env=environment, pass_fds=[write_end])
        finally:
            if cores is not None:
                os.sched_setaffinity(0, cores)

    def _interrupt(self) -> None:
        """Have the process keep what it has answered, and end."""
        self._closing.set()
        self._send_end()

    def _send_end(self) -> None:
        # Before its first heartbeat the process imports its modules, and would handle SIGTERM only after that.
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM if self.monitor.has_started else signal.SIGKILL)

    def _watch(self, log_server: Any) -> None:
        """Poll the pipe until the process ends. Kill it if it hangs, or SHUTDOWN_TIMEOUT_S after ``close``.

        Call ``_mark_dead`` if it hung, or ended before ``close``.
        """
        reason, closing_s = None, 0.0
        while self.process.poll() is None:
            self._poll_pipe()
            closing_s += POLL_INTERVAL_S if self._closing.is_set() else 0.0
            reason = reason or self.monitor.failure_reason()
            if reason or closing_s >= SHUTDOWN_TIMEOUT_S:
                if reason:
                    self._mark_dead(f"{reason}, and was killed")
                self.process.kill()
        self._poll_pipe()  # What the process wrote just before its end, such as its position.
        # SIGTERM to a process group reaches this process too, whose main thread may handle it a moment later.
        asked = self._closing.wait(POLL_INTERVAL_S if self.process.returncode in _SIGTERM_STATUS else 0.0)
        if not reason and not asked:
            self._mark_dead(f"{_exit_reason(self.process.returncode)}{self.monitor.position}")
        ON_INTERRUPT.remove(self._interrupt)
        os.close(self._pipe)
        log_server.stop(0)

    def _poll_pipe(self) -> None:
        """Wait for up to POLL_INTERVAL_S seconds for bytes in the pipe, and pass them to ``monitor.poll``."""
        readable, _, _ = select.select([self._pipe], [], [], POLL_INTERVAL_S)
        received = os.read(self._pipe, 1 << 16) if readable else b""
        self.monitor.poll(received)
        self._mark_device_failure()
        if readable and not received:
            # The process has closed its end of the pipe and is about to exit. Without the wait this is a busy loop.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL_INTERVAL_S)

    def _mark_device_failure(self) -> None:
        """Add a failure that the process has reported to the pool, and log it, once."""
        reason, gpu = self.monitor.device_failure, gpu_of(self.worker_id, self.pool.gpus) if self.pool.gpus else ""
        name = f"{self.worker_id} (GPU {gpu})" if gpu else self.worker_id
        if reason is None or name in self.pool.device_failures:
            return
        self.pool.failed_gpus.add(gpu)
        self.pool.device_failures[name] = reason
        logger.warning("%s: its device failed: %s; its shards are left to other workers; nothing to do", name, reason)

    def _mark_dead(self, what: str) -> None:
        """Add "worker_1 ``what``" to ``pool.dead_workers``, log it, and refuse Beam's requests to the process."""
        message = f"{self.worker_id} {what}"
        if message in self.pool.dead_workers:
            return
        self.pool.dead_workers.append(message)
        logger.warning(
            "%s; the run stops, and other workers may finish their shards first; "
            "then run the same command again to resume",
            message,
        )
        self.control_conn.refuse(message)


def _exit_reason(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status} (possibly out of memory)"
    return "had no memory left" if status == OUT_OF_MEMORY else f"ended with status {status}"


def _descriptor(address: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=address))
