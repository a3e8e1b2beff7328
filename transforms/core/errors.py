"""What ends a run before all is done: errors with a one-line reason for the user, and the flag that a signal sets."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator

from ..io.uris import OBJECT_STORE_SCHEMES, scheme_of


class RunStopped(RuntimeError):
    """The run must stop. The shards it published stay in the output, and the same command resumes it."""


# Set by the first SIGINT or SIGTERM: no more requests are made, and what is answered is kept.
INTERRUPTED = threading.Event()


@contextlib.contextmanager
def output_errors(output: str) -> Iterator[None]:
    """Raise errors of this block as RunStopped if they come from writing to ``output``.

    If ``output`` is on a disk, every OSError counts as such. If it is in an object store, every exception does, because
    the errors of Beam's clients have no common base class there.

    Raises:
        RunStopped: instead of such an error, with the path and the error in its message. Other errors pass through.
    """
    in_object_store = scheme_of(output) in OBJECT_STORE_SCHEMES
    try:
        yield
    except RunStopped:
        raise
    except Exception as error:
        if not in_object_store and not isinstance(error, OSError):
            raise
        reason = " ".join(str(error).split())
        raise RunStopped(
            f"stopped: can't write to {output}: {reason}. Correct this, then run the same command again to resume."
        ) from error


def stop_reason(error: BaseException | None) -> str | None:
    """Return the message of the first RunStopped in an error's chain of causes, or None if there is none.

    Beam reports an error of a worker process by the text of its traceback, so "RunStopped: MESSAGE" is searched in the
    messages too. Of the message, the first line is returned, without Beam's suffix "[while running ...]".
    """
    while error is not None:
        if found := re.search(rf"\b{RunStopped.__name__}: (.+)", f"{type(error).__name__}: {error}"):
            return re.sub(r"\s*\[while running .*", "", found[1])
        error = error.__cause__ or error.__context__
    return None
