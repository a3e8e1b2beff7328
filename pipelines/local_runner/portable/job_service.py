"""The job service that a portable runner hands the job to: reached before the job starts, and watched while it runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from apache_beam.options.pipeline_options import (
    DebugOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES
from apache_beam.runners.portability.job_server import StopOnExitJobServer
from apache_beam.runners.portability.portable_runner import PipelineResult
from apache_beam.runners.portability.spark_runner import LOCAL_MASTER_PATTERN
from apache_beam.runners.worker import sdk_worker

from ....transforms.annotation.run_end import GRACE_S
from ....transforms.core.errors import INTERRUPTED
from ....transforms.output.answer_journal import OPEN_JOURNALS
from ...options.job import LOCAL_RUNNER
from ..signals import MUST_EXIT, handle_sigint_again, is_rpc_error, no_grpc_tracebacks
from .prism import Prism, is_listening, running_prism

EMBEDDED, LOOPBACK, EXTERNAL = "embed", "LOOPBACK", "EXTERNAL"
CONNECT_TIMEOUT_S, END_TIMEOUT_S = 10.0, 5.0


@dataclass
class JobService:
    """The job service of one run.

    Attributes:
        works_here: whether the bundles run in this process, or in worker processes of the local runner.
        in_threads: whether they run in threads of this process that Beam does not end.
        prism: the process of Prism, if this process has started it.
        endpoint: the address of a service that runs elsewhere; empty if there is none.
        is_embedded: whether Beam's own service runs the job in threads of this process.
        job_server: the process of a job server in Java, if Beam has started one for the job.
    """

    works_here: bool
    in_threads: bool = False
    prism: Prism | None = None
    endpoint: str = ""
    is_embedded: bool = False
    job_server: StopOnExitJobServer | None = None

    @property
    def ends_with_command(self) -> bool:
        """Whether the job cannot outlive this process."""
        return self.works_here or self.is_embedded or self.prism is not None

    def failure_reason(self, error: BaseException) -> str | None:
        """Return how the job service of a failed job ended, such as "Prism was killed by signal 9".

        Returns:
            None if the service still runs.
        """
        if self.endpoint and not _is_reachable(self.endpoint):
            return f"the job service at {self.endpoint} is gone"
        return self.prism.failure_reason(END_TIMEOUT_S if is_rpc_error(error) else 0.0) if self.prism else None

    def keep_job_server(self) -> None:
        """After Beam has started a job server in Java, handle SIGINT here, and stop the server only at the end.

        Beam's handler of SIGINT stops the server first. Then nothing could cancel the job on a cluster any more.
        """
        server = getattr(handle_sigint_again(), "__self__", None)
        if isinstance(server, StopOnExitJobServer):
            self.job_server = server

    def cancel(self, result: Any) -> str | None:
        """Have the job service end the job of an interrupted run.

        Args:
            result: what the runner returned for the job, or None if it has returned nothing yet.

        Returns:
            The message for the user, or None if the job ends with this process.
        """
        if self.in_threads or self.is_embedded:
            # Beam's own service cannot cancel a job. Its threads would go on until the job is done.
            MUST_EXIT.set()
        elif isinstance(result, PipelineResult) and self.prism is None:
            # At its usual end, Python would wait for gRPC's streams of the job: seconds, or until the job is done.
            MUST_EXIT.set()
            try:
                result.cancel()
            except Exception as error:
                cause = self.failure_reason(error) or type(error).__name__
                return (
                    f"interrupted: the job could not be cancelled ({cause}), and may go on. End the job at the job"
                    " service, then run the same command again to resume."
                )
            return (
                "interrupted: the job service was asked to cancel the job. When the workers of the job have ended, run"
                " the same command again to resume."
            )
        return None

    def stop_job_server(self) -> None:
        """Stop the job server in Java, if Beam has started one. If the process must exit, Beam would not stop it."""
        self.keep_job_server()
        if self.job_server:
            self.job_server.stop()

    def end_shards(self) -> None:
        """After an error, end the shards that are at work in threads of this process, and keep their answers."""
        if self.in_threads:
            MUST_EXIT.set()
            INTERRUPTED.set()
            OPEN_JOURNALS.flush(GRACE_S)


@contextlib.contextmanager
def job_service(runner: str, options: PipelineOptions) -> Iterator[JobService]:
    """Start Prism if the runner needs it, or reach the service of ``--job_endpoint``, while the block runs.

    Raises:
        ValueError: if the service cannot be reached, or the program of Prism is not on this machine.
        RuntimeError: if Prism cannot be started.
    """
    portable = options.view_as(PortableOptions)
    service = JobService(works_here(runner, options))
    service.in_threads = service.works_here and runner != LOCAL_RUNNER
    with contextlib.ExitStack() as stack:
        if runner != LOCAL_RUNNER:
            # When Prism ends, threads of Beam end with an error of gRPC.
            stack.enter_context(no_grpc_tracebacks())
            stack.callback(service.stop_job_server)
            # As in worker.py: Beam prints the traceback of each failed bundle. The command reports it in one line.
            setattr(sdk_worker, "print", _print_nothing)  # noqa: B010
        service.is_embedded = portable.job_endpoint == EMBEDDED
        if service.is_embedded or is_prism(runner):
            _check_pool(portable)
        if portable.job_endpoint:
            _check_endpoint(portable.job_endpoint)
            service.endpoint = "" if service.is_embedded else portable.job_endpoint
        elif is_prism(runner):
            service.prism = stack.enter_context(running_prism(options))
            portable.job_endpoint = service.prism.endpoint
        elif runner.lower() in ("portable", "portablerunner"):
            raise ValueError(
                f"--runner {runner} needs a job service: give --job_endpoint=HOST:PORT, or --job_endpoint={EMBEDDED}"
            )
        yield service


def works_here(runner: str, options: PipelineOptions) -> bool:
    """Return whether bundles run in this process: on the local runner, and with ``--environment_type=LOOPBACK``.

    Prism has that environment by default, and so have Flink and Spark without a cluster.
    """
    if runner == LOCAL_RUNNER:
        return True
    if options.view_as(DebugOptions).lookup_experiment("use_loopback_process_worker"):
        return False
    portable = options.view_as(PortableOptions)
    is_default = _is_loopback_by_default(runner, options) and not portable.output_executable_path
    return (portable.environment_type or (LOOPBACK if is_default else "")).upper() == LOOPBACK


def _is_loopback_by_default(runner: str, options: PipelineOptions) -> bool:
    """Return whether a runner of Beam's sets LOOPBACK if there is no ``--environment_type``."""
    name = runner.lower().rpartition(".")[2].removesuffix("runner")
    if name == "flink":
        return options.view_as(FlinkRunnerOptions).flink_master in MAGIC_HOST_NAMES
    if name == "spark":
        return re.match(LOCAL_MASTER_PATTERN, options.view_as(SparkRunnerOptions).spark_master_url) is not None
    return is_prism(runner)


def is_prism(runner: str) -> bool:
    """Return whether the name of a runner means Prism."""
    return runner.lower().rpartition(".")[2] in ("prism", "prismrunner")


def _print_nothing(*args: object, **options: object) -> None:
    """Replace ``print`` and print nothing."""


def _check_endpoint(endpoint: str) -> None:
    if endpoint != EMBEDDED and not _is_reachable(endpoint):
        raise ValueError(f"--job_endpoint {endpoint}: no job service answers there: start it, or correct HOST:PORT")


def _check_pool(options: PortableOptions) -> None:
    """Raise ValueError if the pool of workers cannot be reached. Beam's services end without a reason then."""
    address = options.environment_config
    if (options.environment_type or "").upper() == EXTERNAL and not _is_reachable(address or ""):
        raise ValueError(
            f"--environment_config {address}: no pool of workers answers there: start it, or correct HOST:PORT"
        )


def _is_reachable(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    return bool(host) and port.isdecimal() and is_listening(host.strip("[]"), int(port), CONNECT_TIMEOUT_S)
