"""Options for a job on many machines: slices for N independent commands, and hardware for the workers of a runner."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ...transforms.output import layout
from ...transforms.output.layout import Slice
from .job import LOCAL_RUNNER


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--slice``, ``--gpu`` and ``--worker-memory``."""
    group = parser.add_argument_group("clusters", "one job on many machines")
    group.add_argument(
        "--slice",
        metavar="I/N",
        help="annotate slice I of N slices of the input, with I from 0 to N-1; all slices may write to one output at "
        "the same time",
    )
    group.add_argument(
        "--gpu",
        metavar="TYPE",
        help="type of GPU for each worker that runs the model, such as nvidia-l4; not for the local runner",
    )
    group.add_argument(
        "--worker-memory",
        metavar="SIZE",
        help="memory of each worker that runs the model, such as 16GB; not for the local runner",
    )


def check_cluster(args: argparse.Namespace) -> None:
    """Check ``--slice``, ``--gpu``, ``--worker-memory`` and ``--runner``.

    Raises:
        ValueError: if a value is malformed, or an option does not fit the runner or another option.
    """
    for option in ("gpu", "worker_memory"):
        if getattr(args, option) and args.runner == LOCAL_RUNNER:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} does not work with --runner {LOCAL_RUNNER}: name another runner with --runner")
    resource_hints(args)
    if "dask" in args.runner.lower():
        raise ValueError(
            f"--runner {args.runner}: Beam's runner for Dask drops rows without an error; on each worker, start a"
            " command with --slice I/N instead"
        )
    for option, folder in (("retry_errors", "errors"), ("retry_changed", "data")):
        if slice_from(args) and getattr(args, option):
            # If an earlier run had other slices or none, one file holds rows of several of today's slices.
            name = f"--{option.replace('_', '-')}"
            raise ValueError(
                f"{name} cannot be used with --slice, because slices share the files in {folder}/: wait for all"
                f" slices, then give {name} without --slice"
            )


def runner_warning(name: str) -> str | None:
    """Return the warning to print before a runner starts: one for Beam's DirectRunner, and None for any other."""
    if name.lower() not in ("direct", "directrunner"):
        return None
    return (
        f"--runner {name}: this runner first tries to download a program, without a time limit; "
        f"use --runner {LOCAL_RUNNER} to avoid that"
    )


def resource_hints(args: argparse.Namespace) -> dict[str, Any]:
    """Return Beam's resource hints for the step that runs the model, from ``--gpu`` and ``--worker-memory``.

    With a GPU, a worker gets one bundle at a time. One bundle keeps a GPU busy, because the engine batches within it.

    Returns:
        ``accelerator`` and ``max_active_bundles_per_worker`` if ``--gpu`` is given, and ``min_ram`` if
        ``--worker-memory`` is given.

    Raises:
        ValueError: if the type of GPU or the size is malformed.
    """
    hints: dict[str, Any] = {}
    if args.gpu:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", args.gpu):
            raise ValueError(f"--gpu {args.gpu}: give a type such as nvidia-l4 or nvidia-tesla-t4")
        accelerator = f"type:{args.gpu};count:1;install-nvidia-driver"
        hints.update(accelerator=accelerator, max_active_bundles_per_worker="1")
    if args.worker_memory:
        if not re.fullmatch(r"[1-9]\d*[KMGT]i?B", args.worker_memory, re.ASCII):
            raise ValueError(f"--worker-memory {args.worker_memory}: give a size such as 16GB or 15GiB")
        hints["min_ram"] = args.worker_memory
    return hints


def slice_from(args: argparse.Namespace) -> Slice | None:
    """Return the slice of ``--slice``, or None if the option is not given.

    Raises:
        ValueError: if the value is not I/N with I below N.
    """
    return None if args.slice is None else Slice.parse(args.slice)


def new_run_name(args: argparse.Namespace) -> str:
    """Return a new, unique name for a run. With ``--slice``, the name contains the slice.

    Raises:
        ValueError: if the slice is malformed.
    """
    part = slice_from(args)
    return part.run_name(layout.new_run_name()) if part else layout.new_run_name()
