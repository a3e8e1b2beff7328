"""Prism, Beam's runner in one program: found and started before the job, watched, and stopped after the job."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, PrismRunnerOptions
from apache_beam.runners.portability.prism_runner import GITHUB_TAG_PREFIX, PrismJobServer
from apache_beam.utils.subprocess_server import pick_port

from ....transforms.output.run_record import installed_version
from ..signals import interrupts_held

GO_PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"
START_TIMEOUT_S, STOP_TIMEOUT_S, POLL_INTERVAL_S = 60.0, 5.0, 0.05
# If this process is killed, Prism has no job any more. It then ends after this time.
IDLE_TIMEOUT = "5m"
DEFAULT_LOG_LEVEL = "info"

logger = logging.getLogger(__name__)


class Prism:
    """A process of Prism.

    Attributes:
        endpoint: the address of its job service, such as "localhost:40123".
    """

    def __init__(self, program: str, log_level: str = DEFAULT_LOG_LEVEL) -> None:
        """Start ``program``, and wait until it accepts jobs.

        Args:
            log_level: a level of Prism's. With a level other than "info", all that Prism prints goes to standard error.

        Raises:
            RuntimeError: if the program cannot be run, or ends or waits without accepting jobs.
        """
        (port,) = pick_port(None)
        self.endpoint, self._last_line = f"localhost:{port}", ""
        self._show_all = log_level != DEFAULT_LOG_LEVEL
        command = [program, f"--job_port={port}", f"--log_level={log_level if self._show_all else 'warn'}"]
        command += ["--log_kind=json", "--serve_http=false", f"--idle_shutdown_timeout={IDLE_TIMEOUT}"]
        with interrupts_held():
            self._start(program, command)
        try:
            self._wait_until_ready(program, port)
        except BaseException:
            self.stop()
            raise

    def _start(self, program: str, command: list[str]) -> None:
        try:
            # A session of its own: Ctrl-C reaches every process of a terminal, and this process stops Prism itself.
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise RuntimeError(f"{program} cannot be run as Prism: {error.strerror}: {_cure()}") from error
        self._reader = threading.Thread(target=self._read, name="prism", daemon=True)
        self._reader.start()

    def failure_reason(self, wait_s: float = 0.0) -> str | None:
        """Return how the process ended, such as "Prism was killed by signal 9", or None while it runs.

        Args:
            wait_s: how long to wait for the end. The connections of a process close before its end.
        """
        try:
            status = self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return None
        if status < 0:
            return f"Prism was killed by signal {-status}"
        self._reader.join()
        return f"Prism ended with status {status}{self._last_line and f' ({self._last_line})'}"

    def stop(self) -> None:
        """End the process, and wait for its end."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _wait_until_ready(self, program: str, port: int) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while not is_listening("localhost", port):
            if reason := self.failure_reason():
                raise RuntimeError(f"{program}: {reason} before it accepted a job: {_cure()}")
            if time.monotonic() >= end:
                raise RuntimeError(f"{program} accepted no job within {START_TIMEOUT_S:.0f} s: {_cure()}")
            time.sleep(POLL_INTERVAL_S)

    def _read(self) -> None:
        """Log the warnings of workers under their level. Lines of Prism itself stay, because the job has its errors."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode(errors="backslashreplace").rstrip()
                self._last_line = text or self._last_line
                if self._show_all:
                    print(text, file=sys.stderr, flush=True)
                elif text.startswith("{"):
                    with contextlib.suppress(json.JSONDecodeError):
                        _log_worker_record(json.loads(text))


def _log_worker_record(record: Any) -> None:
    """Log a record of a worker that Prism has passed on in JSON. Leave out other records."""
    if isinstance(record, dict) and record.get("msg") == "log from SDK worker":
        level = logging.getLevelName(str(record.get("level")).replace("WARN", "WARNING"))
        message = record.get("sdk", {}).get("msg", "")
        logger.log(level if isinstance(level, int) else logging.ERROR, "worker: %s", message)


def is_listening(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Return whether a server accepts connections at an address within ``timeout_s`` seconds."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def running_prism(options: PipelineOptions) -> Iterator[Prism]:
    """Run Prism while the block runs.

    Raises:
        ValueError: if the program is not on this machine, and no URL to download it from is given.
        RuntimeError: if the program cannot be downloaded or started.
    """
    prism = Prism(find_program(options), options.view_as(PrismRunnerOptions).prism_log_level)
    try:
        yield prism
    finally:
        prism.stop()


def find_program(options: PipelineOptions) -> str:
    """Return the path of the program that ``--prism_location`` names, or of the one in Beam's cache.

    If the option is a URL, Beam downloads the program into its cache. Without the option nothing is downloaded: Beam's
    download has no time limit.

    Raises:
        ValueError: if the program is not on this machine.
        RuntimeError: if the download fails.
    """
    location = options.view_as(PrismRunnerOptions).prism_location
    cache = PrismJobServer.BIN_CACHE
    if location and "://" not in location and not os.path.isfile(location):
        raise ValueError(f"--prism_location {location}: there is no such file: {_cure()}")
    source = PrismJobServer(options).path_to_binary()
    if not location and not os.path.isfile(os.path.join(cache, os.path.basename(source))):
        raise ValueError(f"--runner PrismRunner: the program of Prism is not on this machine: {_cure()}")
    # Without a folder in it, the path would be looked up in PATH.
    return os.path.abspath(PrismJobServer.local_bin(source, cache, bool(location)))


def _cure() -> str:
    beam_version = installed_version("apache-beam")
    return (
        f"build it with `GOBIN=$PWD go install {GO_PACKAGE}@v{beam_version}`, then give --prism_location=$PWD/prism; or"
        f" have Beam download it: --prism_location={GITHUB_TAG_PREFIX}v{beam_version}"
    )
