"""Resource hints apply to the step with the model and to no other step. Only paths go in, and only rows come out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import translations
from apache_beam.transforms.environments import DockerEnvironment
from support.data.echo import Echo

from moondream_beam import Annotate, AnnotateToParquet, ReadImages
from moondream_beam.models.tasks import Query
from moondream_beam.pipelines.cli import build_parser
from moondream_beam.pipelines.commands.annotate import build

urns = common_urns.primitives
GPU = {
    "accelerator": "type:nvidia-l4;count:1;install-nvidia-driver",
    "min_ram": "16GB",
    "max_active_bundles_per_worker": "1",
}
URNS = {
    common_urns.resource_hints.ACCELERATOR.urn: b"type:nvidia-l4;count:1;install-nvidia-driver",
    common_urns.resource_hints.MIN_RAM_BYTES.urn: b"16000000000",
    common_urns.resource_hints.MAX_ACTIVE_BUNDLES_PER_WORKER.urn: b"1",
}
TASKS = [Query("Is it red?")]


def proto_of(pipeline: beam.Pipeline) -> Any:
    """Return the pipeline as the runner of a cluster gets it."""
    return pipeline.to_runner_api(default_environment=DockerEnvironment.from_container_image("workers"))


def whole_job(out: str) -> beam.Pipeline:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    job = AnnotateToParquet(TASKS, Echo(), out, dedup=True).with_resource_hints(**GPU)
    pipeline | ReadImages("pictures") | "Job" >> job
    return pipeline


def own_pipeline() -> beam.Pipeline:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    rows = pipeline | ReadImages("pictures") | "Job" >> Annotate(TASKS, Echo()).with_resource_hints(**GPU)
    rows.annotations | "Rows" >> beam.Map(print)
    rows.failures | "Complaints" >> beam.Map(print)
    return pipeline


def by_manifest(out: str) -> beam.Pipeline:
    """Return the pipeline that the command builds for a manifest with --limit and --slice."""
    words = [
        "annotate",
        "--manifest",
        f"{out}.csv",
        "--output",
        out,
        "--model",
        "tiny",
        "--limit",
        "2",
        "--slice",
        "0/2",
    ]
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build(pipeline, build_parser().parse_args(words), "run")
    return pipeline


def hinted(proto: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the name and the hints of each step that has hints and no steps inside it."""
    for step in proto.components.transforms.values():
        hints = proto.components.environments[step.environment_id].resource_hints if step.environment_id else {}
        if hints and not step.subtransforms:
            yield step.unique_name, dict(hints)


def stages(proto: Any) -> list[translations.Stage]:
    """Return the stages of Beam's optimizer: steps that are fused into one, with no shuffle in between."""
    _, made = translations.create_and_optimize_stages(
        proto,
        phases=[translations.annotate_downstream_side_inputs, translations.lift_combiners, translations.greedily_fuse],
        known_runner_urns=frozenset([urns.IMPULSE.urn, urns.GROUP_BY_KEY.urn]),
    )
    return list(made)


@pytest.mark.parametrize("kind, step", [("job", "Job/Annotate shards"), ("own", "Job/Annotate pictures")])
def test_only_the_step_with_the_model_has_hints_and_is_a_stage_of_its_own(tmp_path, kind, step):
    proto = proto_of(whole_job(str(tmp_path / "out")) if kind == "job" else own_pipeline())
    for name, hints in hinted(proto):
        assert name.startswith(step) and hints == URNS
    names = [name for name, _ in hinted(proto)]
    assert names
    # The stage with the model has no other step, so pixels neither enter nor leave the stage.
    (stage,) = [stage for stage in stages(proto) if any(one.unique_name in names for one in stage.transforms)]
    own = [one.unique_name for one in stage.transforms if one.spec.urn == urns.PAR_DO.urn]
    assert own and set(own) <= set(names)


def test_a_runner_without_resource_hints_runs_the_job(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        job = AnnotateToParquet(TASKS, Echo(), str(tmp_path / "out")).with_resource_hints(**GPU)
        pipeline | ReadImages(str(tmp_path)) | job
    assert len(list(tmp_path.glob("out/errors/*.parquet"))) == 1


@pytest.mark.parametrize("hints", [{"colour": "red"}, {"min_ram": "much"}])
def test_an_unknown_hint_is_refused_when_the_pipeline_is_built(tmp_path, hints):
    with pytest.raises(ValueError, match="hint"):
        AnnotateToParquet(TASKS, Echo(), str(tmp_path)).with_resource_hints(**hints)


@pytest.mark.parametrize("kind", ["job", "own", "manifest"])
def test_no_step_needs_a_feature_that_flink_and_spark_lack(tmp_path, kind):
    (tmp_path / "out.csv").write_text("url\na.png\n")
    out = str(tmp_path / "out")
    proto = proto_of({"job": whole_job, "own": lambda _: own_pipeline(), "manifest": by_manifest}[kind](out))
    lacking = {
        common_urns.requirements.REQUIRES_STATEFUL_PROCESSING.urn,
        common_urns.requirements.REQUIRES_BUNDLE_FINALIZATION.urn,
        common_urns.requirements.REQUIRES_STABLE_INPUT.urn,
        common_urns.requirements.REQUIRES_TIME_SORTED_INPUT.urn,
        common_urns.requirements.REQUIRES_SPLITTABLE_DOFN.urn,
    }
    assert not lacking & set(proto.requirements)
    known = {urns.PAR_DO.urn, urns.FLATTEN.urn, urns.IMPULSE.urn, urns.GROUP_BY_KEY.urn}
    for step in proto.components.transforms.values():
        # A step without inner steps whose outputs are its inputs is not run.
        if not step.subtransforms and set(step.outputs.values()) - set(step.inputs.values()):
            assert step.spec.urn in known, step.unique_name
        if step.spec.urn == urns.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            assert not payload.state_specs and not payload.timer_family_specs, step.unique_name
            assert not payload.restriction_coder_id, step.unique_name
    windows = proto.components.windowing_strategies.values()
    assert {one.window_fn.urn for one in windows} == {common_urns.global_windows.urn}


@pytest.mark.slow
def test_dataflow_gets_the_hints_too(tmp_path):
    options = PipelineOptions(
        runner="DataflowRunner",
        dry_run=True,
        project="some-project",
        region="europe-west4",
        temp_location="gs://some-bucket/temporary",
        staging_location="gs://some-bucket/staging",
        sdk_container_image="workers",
    )
    pipeline = beam.Pipeline(options=options)
    job = AnnotateToParquet(TASKS, Echo(), str(tmp_path / "out")).with_resource_hints(**GPU)
    pipeline | ReadImages("pictures") | "Job" >> job
    pipeline.run()
    steps = dict(hinted(pipeline.runner.proto_pipeline))
    assert steps and all(name.startswith("Job/Annotate shards") for name in steps)
    assert all(hints == URNS for hints in steps.values())
