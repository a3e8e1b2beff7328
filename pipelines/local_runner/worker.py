"""A worker process of this machine: Beam's harness, whose log goes to the process that started it and nowhere else.

Run by the runner as ``python -m moondream_beam.pipelines.local_runner.worker [GPU ...]``; the harness finds its
addresses in the environment, and this process its number among those that share out the GPUs.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import sys

from apache_beam.runners.worker import sdk_worker, sdk_worker_main

from ...transforms.monitoring.heartbeat import Pulse
from .gpus import pin
from .signals import INTERRUPTS


def main() -> None:
    """Serve until the runner hangs up."""
    faulthandler.enable()
    Pulse().start()
    pin(os.environ["WORKER_ID"], sys.argv[1:], os.environ)
    # Importing Beam leaves a handler behind that would print each record a second time, onto the progress bar.
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    # Beam's harness prints the traceback of each failed bundle, and sends it to the process that started this one, too.
    # That process reports the error in one line. Beam has no option against the print. ``sys.stderr`` must stay: the
    # bar of a download and crash dumps go there. If a later Beam prints otherwise, a traceback appears, and
    # tests/pipelines/test_trouble.py fails.
    setattr(sdk_worker, "print", _say_nothing)  # noqa: B010
    # Interrupts reach every process of a terminal or a job; what follows is for the one that was started to say.
    for interrupt in INTERRUPTS:
        signal.signal(interrupt, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    sdk_worker_main.main(sys.argv)
    # A run that was interrupted leaves threads in the model: Python would abort, with a dump, as it ends beneath them.
    atexit.register(os._exit, 0)


def _say_nothing(*args: object, **options: object) -> None:
    """Not even what it was given."""


if __name__ == "__main__":
    main()
