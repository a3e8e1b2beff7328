"""A worker process of the local runner: Beam's SDK harness, which logs only to the process that started it.

The runner starts it as ``python -m moondream_beam.pipelines.local_runner.worker [GPU ...]``. The harness reads the
addresses of the runner from the environment.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import sys
import threading

from apache_beam.runners.worker import sdk_worker, sdk_worker_main

from ...transforms.annotation.run_end import GRACE_S
from ...transforms.core.errors import INTERRUPTED
from ...transforms.monitoring.heartbeat import Heartbeat
from ...transforms.output.answer_journal import OPEN_JOURNALS
from .gpus import pin_gpu


def main() -> None:
    """Process bundles on the GPU that ``pin_gpu`` sets, until the runner disconnects. Then exit with status 0."""
    faulthandler.enable()
    Heartbeat().start()
    pin_gpu(os.environ["WORKER_ID"], sys.argv[1:], os.environ)
    # Importing Beam installs a log handler. With it, each record would appear a second time, on the progress bar.
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    # Beam's harness prints the traceback of each failed bundle, and sends it to the process that started this one, too.
    # That process reports the error in one line. Beam has no option against the print. ``sys.stderr`` must stay: the
    # bar of a download and crash dumps go there. If a later Beam prints otherwise, a traceback appears, and
    # tests/pipelines/local_runner/test_full_disk_and_locks.py fails.
    setattr(sdk_worker, "print", _print_nothing)  # noqa: B010
    # Ctrl-C reaches every process of a terminal. The process that started this one handles it, and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_on_sigterm, name="sigterm", daemon=True).start()
    sdk_worker_main.main(sys.argv)
    # An interrupted run leaves threads in PyTorch. A normal exit of Python would abort beneath them, with a core dump.
    atexit.register(os._exit, 0)


def _end_on_sigterm() -> None:
    """Wait for SIGTERM, which is blocked in all threads. Then keep what is answered, and end the process."""
    number = signal.sigwait([signal.SIGTERM])
    INTERRUPTED.set()
    try:
        OPEN_JOURNALS.flush(GRACE_S)
    finally:
        os._exit(128 + number)


def _print_nothing(*args: object, **options: object) -> None:
    """Replace ``print`` and print nothing."""


if __name__ == "__main__":
    main()
