"""The command with Dataflow's runner: the job that its client sends, and how the command ends. No job is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import translations
from google.cloud import storage
from support.servers.dataflow import JOB_ID, Dataflow, dataflow_server
from support.servers.object_stores import Bucket, gcs_server, make_bucket

pytestmark = pytest.mark.slow
IMAGE, PATIENCE = "registry/moondream-beam:1", 240.0
urns = common_urns.primitives
# As in docs/clusters/dataflow.md.
WORKERS = (
    "--experiments=no_use_multiple_sdk_containers",
    "--gpu",
    "nvidia-l4",
    "--worker-memory",
    "16GB",
    "--machine_type=g2-standard-8",
    "--disk_size_gb=100",
    "--num_workers=3",
    "--max_num_workers=4",
)


class Cloud(NamedTuple):
    """A bucket, a server in place of Dataflow's, the command that sends a job there, and the key of its account."""

    bucket: Bucket
    dataflow: Dataflow
    command: list[str]
    key: Path

    def start(self) -> subprocess.Popen[str]:
        env = {**os.environ, **self.bucket.env, "GOOGLE_APPLICATION_CREDENTIALS": str(self.key)}
        return subprocess.Popen(self.command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Any, Dataflow]]:
    with gcs_server() as proxy, dataflow_server() as dataflow:
        yield proxy, dataflow


@pytest.fixture
def cloud(servers: tuple[Any, Dataflow], tmp_path: Path) -> Cloud:
    proxy, dataflow = servers
    dataflow.created.clear()
    dataflow.asked_for_job.clear()
    bucket = make_bucket("gs", proxy)
    manifest = bucket.put("list.csv", b"url\ngs://bucket/a.png\n")
    words = ["annotate", "--manifest", manifest, "--output", f"{bucket.root}/out", "--model", "tiny", *WORKERS]
    words += ["--runner", "DataflowRunner", "--project=some-project", "--region=europe-west4"]
    words += [f"--dataflow_endpoint={dataflow.url}", f"--temp_location={bucket.root}/temporary"]
    words += [f"--sdk_container_image={IMAGE}"]
    dataflow.write_key(tmp_path / "key.json")
    command = [sys.executable, "-m", "moondream_beam.pipelines.cli", *words]
    return Cloud(bucket, dataflow, command, tmp_path / "key.json")


def staged_pipeline(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the pipeline that the client has written to the bucket."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.bucket.env["STORAGE_EMULATOR_HOST"])
    client = storage.Client.create_anonymous_client()
    (blob,) = (blob for blob in client.list_blobs(cloud.bucket.root[5:]) if blob.name.endswith("pipeline.pb"))
    return beam_runner_api_pb2.Pipeline.FromString(blob.download_as_bytes())


def test_a_job_asks_for_the_machines_of_the_options_and_a_failed_one_ends_in_one_line(cloud, monkeypatch):
    cloud.dataflow.state, cloud.dataflow.error = "JOB_STATE_FAILED", "Workflow failed. Causes: no quota of GPUs."
    _, said = (run := cloud.start()).communicate(timeout=PATIENCE)
    assert run.returncode == 1, said
    assert said.splitlines()[-1] == (
        f"moondream-beam annotate: stopped: job {JOB_ID} ended on Dataflow in state FAILED: Workflow failed. Causes: no"
        " quota of GPUs. Committed rows are kept. Run the same command again to resume."
    )
    assert "Traceback" not in said
    ((environment,), (pool,)) = zip(
        *((job["environment"], *job["environment"]["workerPools"]) for job in cloud.dataflow.created), strict=True
    )
    assert {"no_use_multiple_sdk_containers", "use_runner_v2"} <= set(environment["experiments"])
    assert (pool["machineType"], pool["diskSizeGb"], pool["numWorkers"]) == ("g2-standard-8", 100, 3)
    assert pool["autoscalingSettings"] == {"maxNumWorkers": 4}
    assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {IMAGE}
    proto = staged_pipeline(cloud, monkeypatch)
    environments = proto.components.environments
    hinted = {name for name, one in environments.items() if one.resource_hints}
    (model,) = hinted
    assert dict(environments[model].resource_hints) == {
        common_urns.resource_hints.ACCELERATOR.urn: b"type:nvidia-l4;count:1;install-nvidia-driver",
        common_urns.resource_hints.MIN_RAM_BYTES.urn: b"16000000000",
        common_urns.resource_hints.MAX_ACTIVE_BUNDLES_PER_WORKER.urn: b"1",
    }
    assert hinted < {image["environmentId"] for image in pool["sdkHarnessContainerImages"]}
    _, stages = translations.create_and_optimize_stages(
        proto,
        phases=[translations.annotate_downstream_side_inputs, translations.lift_combiners, translations.greedily_fuse],
        known_runner_urns=frozenset([urns.IMPULSE.urn, urns.GROUP_BY_KEY.urn]),
    )
    (stage,) = [stage for stage in stages if stage.environment == model]
    steps = [step.unique_name for step in stage.transforms if step.spec.urn == urns.PAR_DO.urn]
    assert steps and all(step.startswith("Annotate/Annotate shards") for step in steps)


def test_a_signal_ends_the_command_and_names_the_job_that_goes_on(cloud):
    cloud.dataflow.state, cloud.dataflow.error = "JOB_STATE_RUNNING", ""
    run, end = cloud.start(), time.monotonic() + PATIENCE
    while not cloud.dataflow.asked_for_job.wait(0.1):
        assert run.poll() is None and time.monotonic() < end, run.communicate()
    os.kill(run.pid, signal.SIGTERM)
    _, said = run.communicate(timeout=PATIENCE)
    assert run.returncode == 143, said
    assert said.splitlines()[-1] == (
        f"interrupted: job {JOB_ID} goes on at Dataflow, and costs money; to end it: gcloud dataflow jobs"
        f" cancel {JOB_ID} --region=europe-west4 --project=some-project"
    )
    assert "Traceback" not in said
