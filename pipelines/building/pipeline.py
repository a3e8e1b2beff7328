"""The part of a pipeline that options set: its inputs, its slice, and whether it is started at all."""

from __future__ import annotations

import argparse
from functools import partial

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, TestOptions
from apache_beam.pvalue import PCollection

from ...transforms.core.records import ImageRef
from ...transforms.inputs.images import ReadImages
from ...transforms.inputs.manifest import ReadManifests
from ...transforms.planning.locality import in_slice
from ..options.cluster import slice_from
from .inputs import Inputs


def read_inputs(pipeline: beam.Pipeline, inputs: Inputs) -> PCollection[ImageRef]:
    """Return references to all pictures, of patterns and of manifests."""
    refs = []
    if inputs.patterns:
        columns = inputs.columns if inputs.columns.own_tasks() and not inputs.manifests else None
        refs.append(pipeline | "Read images" >> ReadImages(*inputs.patterns, columns=columns))
    if inputs.manifests:
        refs.append(pipeline | "Read manifests" >> ReadManifests(inputs.manifests, inputs.columns))
    return refs[0] if len(refs) == 1 else tuple(refs) | "All inputs" >> beam.Flatten()


def keep_slice(refs: PCollection[ImageRef], args: argparse.Namespace) -> PCollection[ImageRef]:
    """Return the references that belong to the slice of ``--slice``. Without the option, return all of them."""
    part = slice_from(args)
    return refs | "Slice" >> beam.Filter(partial(in_slice, part)) if part else refs


def is_dry_run(args: argparse.Namespace, options: PipelineOptions) -> bool:
    """Return whether Beam's option ``--dry_run`` is given: the job is then built for Dataflow and not started.

    Raises:
        ValueError: if the runner is not Dataflow's. Other runners ignore the option and would start the job.
    """
    if not options.view_as(TestOptions).dry_run:
        return False
    if "dataflow" not in args.runner.lower():
        raise ValueError(
            f"--dry_run needs --runner DataflowRunner: --runner {args.runner} ignores it and would run the job"
        )
    return True
