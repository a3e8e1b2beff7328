"""The runner of one machine: Beam's own Fn API runner, in this process or over several.

``DirectRunner`` is not used: it first tries to fetch another runner's program from the network.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from .worker_pool import Crew


class LocalRunner(FnApiRunner):
    """Beam's runner with the workers that it starts: none where all is done in this process."""

    def __init__(self, options: PipelineOptions, crew: Crew | None) -> None:
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        # Without this the workers would see defaults: other credentials, other endpoints.
        info = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded))
        environment = crew.environment() if crew else EmbeddedPythonEnvironment.default()
        super().__init__(default_environment=environment, provision_info=info)
        self.lost = crew.lost if crew else []


def local_runner(
    options: PipelineOptions, workers: int, gpus: Sequence[str] = (), patience: float = 0.0
) -> LocalRunner:
    """A runner in this process (``workers`` 1), or over that many worker processes, which see the options too, and of
    the ``gpus``, if there are any, one each. ``patience``: seconds more that a row may take before one counts as hung.
    """
    options.view_as(DirectOptions).direct_num_workers = workers
    crew = Crew([sys.executable, "-m", f"{__package__}.worker", *gpus], patience) if workers > 1 else None
    return LocalRunner(options, crew)
