"""Errors that mean that a worker has no memory left, or that its GPU has failed, as one line for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...models.moondream.devices import DeviceTooSmall, is_device_lost, is_out_of_memory
from ..core.errors import RunStopped

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
    except (MemoryError, RuntimeError) as error:
        if is_device_lost(error):
            raise RunStopped(
                f"stopped: the GPU of this worker failed: {str(error).splitlines()[0]}. Its answers up to the last"
                " checkpoint are kept. Look for XID in the log of the kernel (dmesg), leave a broken GPU out with"
                " CUDA_VISIBLE_DEVICES, and run the same command again to resume."
            ) from error
        if isinstance(error, RunStopped) or not (is_out_of_memory(error) or THREAD_START_FAILED in str(error)):
            raise
        raise RunStopped(
            "stopped: this process has no memory left. Use fewer --workers or a smaller --batch-size, then run the same"
            " command again to resume."
        ) from error
