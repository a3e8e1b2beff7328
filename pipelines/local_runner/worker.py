"""A worker process of the local runner: Beam's SDK harness, which logs only to the process that started it.

The runner starts it as ``python -m moondream_beam.pipelines.local_runner.worker [GPU ...]``. The harness reads the
addresses of the runner from the environment.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading

import grpc
from apache_beam.runners.worker import log_handler, sdk_worker, sdk_worker_main

from ...transforms.annotation.run_end import GRACE_S
from ...transforms.core.errors import INTERRUPTED
from ...transforms.monitoring.heartbeat import Heartbeat
from ...transforms.output.answer_journal import OPEN_JOURNALS
from .gpus import pin_gpu
from .signals import no_grpc_tracebacks

# The exit status of a worker whose runner is gone.
DISCONNECTED = 1


class _End:
    """The end of this process, which several threads may ask for. The first one decides how, and others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, status: int, message: str = "") -> None:
        """Keep what is answered, and end the process with this status. Print the message to standard error first."""
        with self._lock:
            if message:
                print(message, file=sys.stderr, flush=True)
            INTERRUPTED.set()
            try:
                OPEN_JOURNALS.flush(GRACE_S)
            finally:
                os._exit(status)

    def on_sigterm(self) -> None:
        """Wait for SIGTERM, which is blocked in all threads, and end the process."""
        self(128 + signal.sigwait([signal.SIGTERM]))

    def on_disconnect(self) -> None:
        """End the process, because the command that started it was killed."""
        message = "stops, because the command that started it is gone. Its answers are kept. Run the same command again"
        self(DISCONNECTED, f"{os.environ['WORKER_ID']} {message} to resume.")


def main() -> None:
    """Process bundles on the GPU that ``pin_gpu`` sets, until the runner disconnects. Then exit with status 0."""
    faulthandler.enable()
    end = _End()
    Heartbeat().start(end.on_disconnect)
    pin_gpu(os.environ["WORKER_ID"], sys.argv[1:], os.environ)
    # Importing Beam installs a log handler. With it, each record would appear a second time, on the progress bar.
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    # Beam's harness prints the traceback of each failed bundle, and sends it to the process that started this one, too.
    # That process reports the error in one line. Beam has no option against the print. ``sys.stderr`` must stay: the
    # bar of a download and crash dumps go there. If a later Beam prints otherwise, a traceback appears, and
    # tests/pipelines/local_runner/test_full_disk_and_locks.py fails.
    setattr(sdk_worker, "print", _print_nothing)  # noqa: B010
    # Beam's log handler prints an error of gRPC when the process that started this one is gone.
    setattr(log_handler, "print", _print_nothing)  # noqa: B010
    # Ctrl-C reaches every process of a terminal. The process that started this one handles it, and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=end.on_sigterm, name="sigterm", daemon=True).start()
    with no_grpc_tracebacks():
        try:
            sdk_worker_main.main(sys.argv)
        except (grpc.RpcError, grpc.FutureTimeoutError):
            end.on_disconnect()
        # After SIGTERM, the runner disconnects before the answers are kept. Besides, an interrupted run leaves threads
        # in PyTorch. A normal exit of Python would abort beneath them, with a core dump.
        end(0)


def _print_nothing(*args: object, **options: object) -> None:
    """Replace ``print`` and print nothing."""


if __name__ == "__main__":
    main()
