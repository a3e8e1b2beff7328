"""Options for the job: runner, worker processes, shards, retries, and the limit on failures."""

from __future__ import annotations

import argparse
from typing import Any

from ...models.tasks import Annotator
from ...transforms.annotation.job import SHARD_SIZE, AnnotateToParquet
from ...transforms.io.uris import display_uri, escape_non_utf8
from ...transforms.output.answer_journal import CHECKPOINT_S
from ..local_runner.gpus import default_workers
from .inputs import Inputs
from .tasks import build_sampling

LOCAL_RUNNER = "local"
BEAM, SPARK = "beam", "spark"
MAX_CHECKPOINT_S = 86_400.0
# With several shards for each worker, one slow shard does not leave the other workers idle at the end.
SHARDS_PER_WORKER = 4
# The record holds the tasks elsewhere, and the words of the command line as options. The URL of a webhook may contain a
# secret. A report changes no row.
UNRECORDED_OPTIONS = ("command", "run", "given", "tasks", "webhook", "report")


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the job, from ``--runner`` to ``--max-failure-rate``."""
    job = parser.add_argument_group("job", "options of Apache Beam are accepted as well, as --name=value")
    job.add_argument(
        "--runner",
        default=LOCAL_RUNNER,
        help="local (this machine), or the name of a Beam runner (default: %(default)s)",
    )
    _add_engine_options(job)
    job.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of worker processes on this machine (default: as many as there are GPUs; 1 without a GPU)",
    )
    job.add_argument(
        "--shard-size",
        type=int,
        default=SHARD_SIZE,
        metavar="N",
        help="approximate number of pictures in each output file (default: %(default)s)",
    )
    job.add_argument(
        "--limit", type=int, metavar="N", help="annotate only N pictures, the same ones in every run (default: all)"
    )
    job.add_argument(
        "--checkpoint-every",
        type=float,
        default=CHECKPOINT_S,
        metavar="SECONDS",
        help="keep answers on the disk or in the bucket this often; a crash loses at most the answers of this time "
        "(default: %(default)g)",
    )
    _add_repeat_options(job)


def _add_engine_options(job: argparse._ArgumentGroup) -> None:
    """Add the options for PySpark in place of Beam's runners."""
    job.add_argument(
        "--engine",
        choices=(BEAM, SPARK),
        default=BEAM,
        help="what runs the job: Apache Beam, with --runner, or PySpark, with --master (default: %(default)s)",
    )
    job.add_argument(
        "--master",
        metavar="URL",
        help="master of the Spark cluster, such as spark://HOST:7077, yarn or local[4] (default: what spark-submit or "
        "spark-defaults.conf sets); only with --engine spark",
    )


def _add_repeat_options(job: argparse._ArgumentGroup) -> None:
    """Add the options for requests that are made again or once, and for the share of them that may fail."""
    job.add_argument("--retry-errors", action="store_true", help="ask again the requests whose rows are in errors/")
    job.add_argument(
        "--retry-changed",
        action="store_true",
        help="ask again about pictures whose bytes have changed since their rows were written; reads each picture that "
        "has rows once more",
    )
    job.add_argument(
        "--dedup",
        action="store_true",
        help="ask once for pictures with equal bytes in the whole run, not once in each shard; reads pictures twice",
    )
    job.add_argument(
        "--max-failure-rate",
        type=float,
        default=0.0,
        metavar="R",
        help="exit with status 1 if more than this share of the requests (0 to 1) fails; above 0, also stop the run "
        "early (default: %(default)s)",
    )


def check_job(args: argparse.Namespace) -> None:
    """Check ``--engine``, ``--workers``, ``--limit``, ``--checkpoint-every`` and ``--max-failure-rate``.

    Without ``--workers``, set ``args.workers`` to its default on this machine.

    Raises:
        ValueError: if a number is out of range, or an option does not fit the engine or the runner.
    """
    _check_engine(args)
    for option in ("workers", "limit"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise ValueError(f"--{option} {getattr(args, option)}: give 1 or more")
    set_default_workers(args)
    if args.workers > 1 and args.runner != LOCAL_RUNNER:
        raise ValueError(
            f"--workers {args.workers} needs --runner {LOCAL_RUNNER}: with --runner {args.runner}, set the number of "
            "workers with the options of that runner"
        )
    if not 0 < args.checkpoint_every <= MAX_CHECKPOINT_S:
        raise ValueError(
            f"--checkpoint-every {args.checkpoint_every:g}: give seconds, more than 0 and at most {MAX_CHECKPOINT_S:g}"
        )
    if not 0 <= args.max_failure_rate <= 1:
        raise ValueError(f"--max-failure-rate {args.max_failure_rate}: give a share from 0 to 1, such as 0.05")


def _check_engine(args: argparse.Namespace) -> None:
    """Raise ValueError if an option does not fit ``--engine``. With Spark, set ``args.workers`` to 1."""
    if args.engine == BEAM:
        if args.master:
            raise ValueError(f"--master {args.master} needs --engine {SPARK}: give it, or leave --master out")
        return
    if args.runner != LOCAL_RUNNER:
        raise ValueError(f"--runner {args.runner} names a runner of Beam: leave it out with --engine {SPARK}")
    for option, setting in (("gpu", "spark.executor.resource.gpu.amount"), ("worker_memory", "spark.executor.memory")):
        if getattr(args, option):
            raise ValueError(
                f"--{option.replace('_', '-')} does not work with --engine {SPARK}: set {setting} in Spark's own"
                " configuration"
            )
    if args.max_cost is not None:
        raise ValueError(
            f"--max-cost does not work with --engine {SPARK}, because its tasks cannot share a budget: set a limit with"
            " the API, or leave --engine out"
        )
    if args.workers not in (None, 1):
        raise ValueError(
            f"--workers {args.workers} does not work with --engine {SPARK}: set the cores of the executors with Spark's"
            " own configuration, or give --master local[N]"
        )
    args.workers = 1


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
