"""The transform that does the whole job, with the values of the options."""

from __future__ import annotations

import argparse
from typing import Any

from ...models.tasks import Annotator
from ...transforms.annotation.job import AnnotateToParquet
from ...transforms.inputs.patterns.patterns import absolute_pattern
from ...transforms.io.uris import display_uri, escape_non_utf8
from ..local_runner.gpus import default_workers
from ..options.tasks import build_sampling
from .inputs import Inputs

# With several shards for each worker, one slow shard does not leave the other workers idle at the end.
SHARDS_PER_WORKER = 4
# The record holds the tasks elsewhere, and the words of the command line as options. The URL of a webhook may contain a
# secret. A report changes no row.
UNRECORDED_OPTIONS = ("command", "given", "tasks", "webhook", "report")


def set_default_workers(args: argparse.Namespace) -> None:
    """Without ``--workers``, set ``args.workers`` to its default on this machine."""
    if args.workers is None:
        args.workers = default_workers(args)


def min_shards(workers: int) -> int:
    """Return the minimum number of shards for so many processes at work."""
    return 1 if workers == 1 else SHARDS_PER_WORKER * workers


def build_job(
    args: argparse.Namespace, inputs: Inputs, annotator: Annotator, run: str, workers: int
) -> AnnotateToParquet:
    """Return the transform that does the whole job, from references to files.

    Args:
        run: the name of the run.
        workers: the number of processes that annotate.

    Raises:
        ValueError: if an option has a bad value, or the output cannot be written.
    """
    return AnnotateToParquet(
        inputs.tasks,
        annotator,
        args.output,
        sampling=build_sampling(args),
        shard_size=args.shard_size,
        min_shards=min_shards(workers),
        retry_errors=args.retry_errors,
        manifests=[*map(absolute_pattern, inputs.manifests)],
        retry_changed=args.retry_changed,
        dedup=args.dedup,
        max_failure_rate=args.max_failure_rate,
        checkpoint_s=args.checkpoint_every,
        run=run,
        about={"command": "annotate", "options": _options(args)},
        columns=inputs.columns.kept,
        fetch=inputs.fetch,
        colour_profiles=inputs.colour_profiles,
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return our own options for the record of the run. Beam's options are left out: they may hold credentials."""
    options = {name: value for name, value in vars(args).items() if name not in UNRECORDED_OPTIONS}
    return {name: _written(value) for name, value in (options | {"inputs": [*map(display_uri, args.inputs)]}).items()}


def _written(value: Any) -> Any:
    if isinstance(value, list):
        return [_written(one) for one in value]
    return escape_non_utf8(value) if isinstance(value, str) else value
