"""Options for the job: runner, worker processes, shards, retries, and the limit on failures."""

from __future__ import annotations

import argparse

from ...transforms.output.layout import CHECKPOINT_S, SHARD_SIZE

LOCAL_RUNNER = "local"
BEAM, SPARK = "beam", "spark"
MAX_CHECKPOINT_S = 86_400.0


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
        "--limit",
        type=int,
        metavar="N",
        help="annotate only N pictures, chosen by a hash of their names: the same ones in every run (default: all)",
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
    """Check ``--engine``, ``--workers``, ``--limit``, ``--shard-size``, ``--checkpoint-every``, ``--max-failure-rate``.

    Raises:
        ValueError: if a number is out of range, or an option does not fit the engine or the runner.
    """
    _check_engine(args)
    for option in ("workers", "limit", "shard_size"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise ValueError(f"--{option.replace('_', '-')} {getattr(args, option)}: give 1 or more")
    if (args.workers or 1) > 1 and args.runner != LOCAL_RUNNER:
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
