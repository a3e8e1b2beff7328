"""One GPU for each worker process of this machine, set through ``CUDA_VISIBLE_DEVICES``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence

import torch

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


def default_workers(args: argparse.Namespace) -> int:
    """Return the number of worker processes without ``--workers``: one for each GPU that this process sees.

    Returns:
        1 if there is no GPU, for a hosted backend, a named device, and a runner other than ``local``.
    """
    if args.runner != "local" or args.backend not in ("local", "transformers") or args.device not in ("auto", "cuda"):
        return 1
    return max(1, len(visible_gpus(torch.cuda.device_count(), os.environ)))


def choose_gpus(args: argparse.Namespace) -> tuple[str, ...]:
    """Return one GPU for each worker process, named for ``CUDA_VISIBLE_DEVICES``.

    Returns:
        An empty tuple if there is one worker, a hosted backend, a named device, or no GPU: then no GPU is assigned.

    Raises:
        ValueError: if there are GPUs, but fewer than ``args.workers``.
    """
    if args.workers == 1 or args.backend not in ("local", "transformers") or args.device not in ("auto", "cuda"):
        return ()
    return assign_gpus(args.workers, visible_gpus(torch.cuda.device_count(), os.environ))


def visible_gpus(count: int, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the ``count`` GPUs that this process sees, such as "0" or "GPU-1a".

    The names are those in ``CUDA_VISIBLE_DEVICES`` of ``environment``, or the numbers from 0 if it is not set.
    """
    named = [name.strip() for name in environment.get(VISIBLE_DEVICES, "").split(",") if name.strip()]
    return tuple((named or [str(number) for number in range(count)])[:count])


def assign_gpus(workers: int, gpus: Sequence[str]) -> tuple[str, ...]:
    """Return the first ``workers`` of the GPUs, one for each worker process; an empty tuple if there is no GPU.

    Raises:
        ValueError: if there are GPUs, but fewer than ``workers``.
    """
    if gpus and workers > len(gpus):
        raise ValueError(
            f"--workers {workers}: this machine has {len(gpus)} GPUs, and each worker process needs its own. "
            f"Give --workers {len(gpus)}, or --device cuda:0 to share one GPU."
        )
    return tuple(gpus[:workers])


def pin_gpu(worker: str, gpus: Sequence[str], environment: dict[str, str] | os._Environ[str]) -> None:
    """Set ``CUDA_VISIBLE_DEVICES`` in ``environment`` to the GPU of one worker. Without ``gpus``, do nothing.

    Call this before PyTorch initializes CUDA.

    Args:
        worker: the name of the worker, such as ``worker_1``.
    """
    if gpus:
        environment[VISIBLE_DEVICES] = gpu_of(worker, gpus)


def cores_of(worker: str, workers: int, cores: Collection[int]) -> set[int]:
    """Return the share of the processors of one of ``workers`` processes: neighbours, and others for each process.

    Returns:
        All of them if there are fewer than processes.
    """
    size, number = len(cores) // workers, int(worker.rpartition("_")[2]) % workers
    return set(sorted(cores)[number * size : (number + 1) * size]) or set(cores)


def gpu_of(worker: str, gpus: Sequence[str]) -> str:
    """Return the GPU of a worker such as ``worker_1``. Worker N has GPU N, modulo the number of GPUs."""
    return gpus[int(worker.rpartition("_")[2]) % len(gpus)]
