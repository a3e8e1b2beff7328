"""One GPU for each worker process of this machine, by its environment: no two share one unless that was said."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The GPUs that the options spread the processes over; none where each finds its device as one process does.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    if args.workers == 1 or args.backend != "local" or args.device not in ("auto", "cuda"):
        return ()
    return spread(args.workers, visible_gpus(torch.cuda.device_count(), os.environ))


def visible_gpus(count: int, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What each of the GPUs that this process sees is called for those that it starts."""
    named = [name.strip() for name in environment.get(VISIBLE, "").split(",") if name.strip()]
    return tuple((named or [str(number) for number in range(count)])[:count])


def spread(workers: int, gpus: Sequence[str]) -> tuple[str, ...]:
    """A GPU for each process; none where there is none at all.

    Raises:
        ValueError: some would have to share.
    """
    if gpus and workers > len(gpus):
        raise ValueError(
            f"--workers {workers}: of the GPUs here, {len(gpus)}, each process has one of its own; give --workers"
            f" {len(gpus)}, or name the one that all are to share, as --device cuda:0"
        )
    return tuple(gpus[:workers])


def pin(worker: str, gpus: Sequence[str], environment: dict[str, str] | os._Environ[str]) -> None:
    """Let a worker of this name, such as ``worker_1``, see its GPU only; before CUDA is first asked for anything."""
    if gpus:
        environment[VISIBLE] = gpus[int(worker.rpartition("_")[2]) % len(gpus)]
