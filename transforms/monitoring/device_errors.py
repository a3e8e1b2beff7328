"""Errors that mean that a worker has no memory left, or that its GPU has failed, as one line for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch

from ...models.moondream.devices import DeviceMissing, DeviceTooSmall, is_device_lost, is_out_of_memory
from ..core.errors import RunStopped

DEVICE_CURE = (
    "Look for XID in the log of the kernel (dmesg), leave a broken GPU out with CUDA_VISIBLE_DEVICES, and run the same"
    " command again to resume."
)
# Python's message if there is no memory for the stack of a new thread.
THREAD_START_FAILED = "can't start new thread"


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Raise errors of this block as RunStopped if the memory is exhausted or too small, or a GPU has failed.

    A single picture that is too large for the memory raises nothing here: it has become a failure row before.

    Raises:
        RunStopped: instead of such an error. Other errors pass through.
    """
    try:
        yield
    except DeviceTooSmall as error:
        raise RunStopped(f"stopped: {error}") from error
    except DeviceMissing as error:
        raise RunStopped(f"stopped: {error}. {DEVICE_CURE}") from error
    except (MemoryError, RuntimeError) as error:
        if is_device_lost(error):
            raise RunStopped(
                f"stopped: the GPU of this worker failed: {str(error).splitlines()[0]}. Its answers up to the last"
                f" checkpoint are kept. {DEVICE_CURE}"
            ) from error
        if isinstance(error, RunStopped) or not (is_out_of_memory(error) or THREAD_START_FAILED in str(error)):
            raise
        raise RunStopped(
            "stopped: this process has no memory left. Use fewer --workers or a smaller --batch-size, then run the same"
            " command again to resume."
        ) from error


def device_failure(stopped: BaseException) -> str | None:
    """Return why the device of this process is of no use to it, in one line, from an error that ended a shard.

    Args:
        stopped: an error that left ``device_errors``.

    Returns:
        None if the error has another cause. Main memory is such a cause, because all workers of a machine share it.
    """
    cause = stopped.__cause__ if isinstance(stopped, RunStopped) else None
    is_failure = isinstance(cause, DeviceMissing | DeviceTooSmall | torch.OutOfMemoryError)
    if cause is None or not (is_failure or is_device_lost(cause)):
        return None
    return str(cause).splitlines()[0]


def no_device_left(failures: Mapping[str, str]) -> str:
    """Return the line for a run that stops because the devices of all its workers failed.

    Args:
        failures: the reason of each worker.
    """
    reasons = "; ".join(f"{worker}: {reason}" for worker, reason in failures.items())
    return f"stopped: no worker has a device left: {reasons}. Answers up to the last checkpoint are kept. {DEVICE_CURE}"
