"""Attempts at one thing that touch the file system one step at a time, in whatever order a test wants, and may die."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from apache_beam.io.filesystems import FileSystems

# What makes or takes names, and what looks for them. Between two of these nobody can see a difference.
STEPS = {FileSystems: ("exists", "match", "rename", "delete"), os: ("rename", "rmdir", "unlink")}
PATIENCE = 20.0


class Dead(BaseException):
    """Raised in an attempt that dies. As after SIGKILL, nothing that it does from then on has an effect."""


class Attempt:
    """A piece of work in a thread, which waits before each step until it is let."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work, self.over, self.dead = work, False, False
        self.error: BaseException | None = None
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self._waits.acquire(timeout=PATIENCE)

    def step(self) -> None:
        """Let it take one step, and go on to the next."""
        self._go.release()
        assert self._waits.acquire(timeout=PATIENCE)

    def die(self) -> None:
        """End it where it is."""
        self.dead = True
        while not self.over:
            self.step()
        self.thread.join(PATIENCE)

    def wait(self) -> None:
        """Called by the thread before each step."""
        if not self.dead:
            self._waits.release()
            assert self._go.acquire(timeout=PATIENCE)
        if self.dead:
            raise Dead

    def _run(self) -> None:
        try:
            self.wait()
            self.work()
        except Dead:
            pass
        except BaseException as error:
            self.error = error
        self.over = True
        self._waits.release()


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Attempt]:
    """Starts attempts."""
    attempts: dict[threading.Thread, Attempt] = {}

    def gated(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            attempt = attempts.get(threading.current_thread())
            # One of Beam's is one step, whatever it does in turn; that folders are there is seen by all.
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
    # No test loses power.
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
    """All orders of so many steps of two attempts, numbers 0 and 1; of those with no more ``switches`` between them."""

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
