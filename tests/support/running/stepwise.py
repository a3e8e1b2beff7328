"""Run attempts that call the file system one step at a time, in an order that a test chooses, and crash them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from moondream_beam.transforms.io.object_stores.file_systems import FileSystems

# Calls that create, delete or look up names. Between two such calls other processes see no difference.
STEPS = {FileSystems: ("exists", "glob", "rename", "delete"), os: ("rename", "rmdir", "unlink")}
PATIENCE = 20.0


class Crash(BaseException):
    """Raised at each step of an attempt that has crashed. As after SIGKILL, the step has no effect."""


class Attempt:
    """Work in a thread that waits before each step until ``step`` is called. ``over``: the work has ended."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work, self.over, self.dead = work, False, False
        self.error: BaseException | None = None
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self._waits.acquire(timeout=PATIENCE)

    def step(self) -> None:
        """Take one step, and wait until the attempt is about to take the next one or has ended."""
        self._go.release()
        assert self._waits.acquire(timeout=PATIENCE)

    def die(self) -> None:
        """Crash the attempt before its next step."""
        self.dead = True
        while not self.over:
            self.step()
        self.thread.join(PATIENCE)

    def wait(self) -> None:
        """Wait for ``step``. The thread calls this before each step.

        Raises:
            Crash: if the attempt has crashed.
        """
        if not self.dead:
            self._waits.release()
            assert self._go.acquire(timeout=PATIENCE)
        if self.dead:
            raise Crash

    def _run(self) -> None:
        try:
            self.wait()
            self.work()
        except Crash:
            pass
        except BaseException as error:
            self.error = error
        self.over = True
        self._waits.release()


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Attempt]:
    """Return a function that starts an attempt. Its steps are the calls in ``STEPS`` whose arguments have "part-"."""
    attempts: dict[threading.Thread, Attempt] = {}

    def gated(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            attempt = attempts.get(threading.current_thread())
            # A call of FileSystems is one step with all calls inside it. Calls about folders are not steps.
            if attempt is None or getattr(inside, "depth", 0) or "part-" not in str(args):
                return real(*args, **options)
            attempt.wait()
            inside.depth = 1
            try:
                return real(*args, **options)
            finally:
                inside.depth = 0

        return call

    inside = threading.local()
    # No test loses power, and syncing takes time.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for owner, names in STEPS.items():
        for name in names:
            monkeypatch.setattr(owner, name, gated(getattr(owner, name)))

    def start(work: Callable[[], object]) -> Attempt:
        def named() -> object:
            attempts[threading.current_thread()] = attempt
            return work()

        attempt = Attempt(named)
        return attempt

    return start


def orders(first: int, second: int, switches: int | None = None) -> Iterator[Sequence[int]]:
    """Yield all orders of ``first`` steps of attempt 0 and ``second`` steps of attempt 1.

    With ``switches``, only orders that change from one attempt to the other at most so often.
    """

    def go_on(left: tuple[int, int], last: int | None, switches: int | None) -> Iterator[tuple[int, ...]]:
        if not any(left):
            yield ()
        for who in (0, 1):
            changed = last is not None and who != last
            if left[who] and not (changed and switches == 0):
                rest = (left[0] - (who == 0), left[1] - (who == 1))
                fewer = switches - changed if switches is not None else None
                yield from ((who, *others) for others in go_on(rest, who, fewer))

    yield from go_on((first, second), None, switches)
