"""The runner of one machine: Beam's FnApiRunner, in this process or over several worker processes.

Beam's ``DirectRunner`` is not used, because it first tries to download the program of another runner.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from .worker_pool import WorkerPool


class LocalRunner(FnApiRunner):
    """Beam's FnApiRunner with the worker processes of a pool, or with its work in this process if ``pool`` is None."""

    def __init__(self, options: PipelineOptions, pool: WorkerPool | None) -> None:
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        # Without this the workers would see defaults: other credentials, other endpoints.
        info = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded))
        environment = pool.environment() if pool else EmbeddedPythonEnvironment.default()
        super().__init__(default_environment=environment, provision_info=info)
        self.dead_workers = pool.dead_workers if pool else []
        self.device_failures = pool.device_failures if pool else {}
        self._worker_pool = pool

    def without_failed_devices(self, options: PipelineOptions) -> LocalRunner | None:
        """Return a runner for the same options over the workers of the pool whose device has not failed.

        Returns:
            None if no device has failed, no worker is left, or there is no pool.
        """
        pool = self._worker_pool.without_failed_devices() if self._worker_pool and self.device_failures else None
        if pool is None:
            return None
        options.view_as(DirectOptions).direct_num_workers = pool.workers
        return LocalRunner(options, pool)


def local_runner(
    options: PipelineOptions, workers: int, gpus: Sequence[str] = (), extra_row_s: float = 0.0
) -> LocalRunner:
    """Return a runner that works in this process if ``workers`` is 1, and in that many worker processes otherwise.

    Args:
        options: Beam's options. The worker processes get them too.
        gpus: names for ``CUDA_VISIBLE_DEVICES``, one for each worker process; empty: all of them see all GPUs.
        extra_row_s: seconds that a row may take beyond the usual limits before its worker process counts as hung.
    """
    options.view_as(DirectOptions).direct_num_workers = workers
    command = [sys.executable, "-m", f"{__package__}.worker"]
    return LocalRunner(options, WorkerPool(command, extra_row_s, workers, tuple(gpus)) if workers > 1 else None)
