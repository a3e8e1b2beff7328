"""The runner of one machine: Beam's own Fn API runner, in this process or over several.

``DirectRunner`` is not used: it first tries to fetch another runner's program from the network.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms.environments import EmbeddedPythonEnvironment, Environment, SubprocessSDKEnvironment


def local_runner(options: PipelineOptions, workers: int, gpus: Sequence[str] = ()) -> FnApiRunner:
    """A runner in this process (``workers`` 1), or over that many worker processes, which see the options too, and of
    the ``gpus``, if there are any, one each."""
    options.view_as(DirectOptions).direct_num_workers = workers
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    # Without this the workers would see defaults: other credentials, other endpoints.
    info = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded))
    return FnApiRunner(default_environment=_environment(workers, gpus), provision_info=info)


def _environment(workers: int, gpus: Sequence[str]) -> Environment:
    if workers == 1:
        return EmbeddedPythonEnvironment.default()
    # Beam starts it through a shell; with exec there is none left in between for Ctrl-C to end.
    command = f"exec {shlex.join([sys.executable, '-m', f'{__package__}.worker', *gpus])}"
    return SubprocessSDKEnvironment.from_command_string(command)
