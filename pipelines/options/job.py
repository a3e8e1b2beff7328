"""The job on the command line: how the work is cut and run, what is done again, and when it is given up."""

from __future__ import annotations

import argparse
from typing import Any

from ...models.tasks import Annotator
from ...transforms.annotation.job import SHARD_SIZE, AnnotateToParquet
from ...transforms.io.uris import display_uri, escape_non_utf8
from .inputs import Inputs
from .tasks import sampling_of

LOCAL_RUNNER = "local"
# So that a worker that was dealt hard shards does not keep the others waiting at the end.
SHARDS_PER_WORKER = 4
# The tasks have a place of their own in the record, a webhook's address may hold a secret, a report changes no row.
UNRECORDED = ("command", "run", "tasks", "webhook", "report")


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """``--runner``, ``--workers``, ``--shard-size``, ``--limit``, ``--retry-errors``, ``--dedup`` and
    ``--max-failure-rate``."""
    job = parser.add_argument_group("job", "every Beam option may follow as well, as --name=value")
    job.add_argument("--runner", default=LOCAL_RUNNER, help="this machine, or one of Beam's runners (%(default)s)")
    job.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (%(default)s)")
    job.add_argument("--shard-size", type=int, default=SHARD_SIZE, metavar="N", help="pictures a file (%(default)s)")
    job.add_argument("--limit", type=int, metavar="N", help="annotate N pictures only, always the same ones")
    job.add_argument("--retry-errors", action="store_true", help="ask again what is in errors/")
    job.add_argument(
        "--dedup",
        action="store_true",
        help="ask pictures of the same bytes once a run, not once a shard; each is read twice to that end",
    )
    job.add_argument(
        "--max-failure-rate",
        type=float,
        default=0.0,
        metavar="R",
        help="share of rows in errors/ above which the exit status is 1 (%(default)s); above 0 it also stops early",
    )


def check_job(args: argparse.Namespace) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: a number is out of range, or an option is for another runner.
    """
    for option in ("workers", "limit"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise ValueError(f"--{option} {getattr(args, option)}: give 1 or more")
    if args.workers > 1 and args.runner != LOCAL_RUNNER:
        raise ValueError("--workers is for this machine; other runners have options of their own")
    if not 0 <= args.max_failure_rate <= 1:
        raise ValueError(f"--max-failure-rate {args.max_failure_rate}: give a share from 0 to 1")


def job_of(args: argparse.Namespace, inputs: Inputs, annotator: Annotator, run: str) -> AnnotateToParquet:
    """The job that the options ask for.

    Raises:
        ValueError: an option makes no sense.
    """
    return AnnotateToParquet(
        inputs.tasks,
        annotator,
        args.output,
        sampling=sampling_of(args),
        shard_size=args.shard_size,
        min_shards=1 if args.workers == 1 else SHARDS_PER_WORKER * args.workers,
        retry_errors=args.retry_errors,
        dedup=args.dedup,
        max_failure_rate=args.max_failure_rate,
        run=run,
        about={"command": "annotate", "options": _options(args)},
        columns=inputs.columns.kept,
        fetch=inputs.fetch,
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    # Ours only: Beam's may hold credentials.
    options = {name: value for name, value in vars(args).items() if name not in UNRECORDED}
    return {name: _written(value) for name, value in (options | {"inputs": [*map(display_uri, args.inputs)]}).items()}


def _written(value: Any) -> Any:
    if isinstance(value, list):
        return [_written(one) for one in value]
    return escape_non_utf8(value) if isinstance(value, str) else value
