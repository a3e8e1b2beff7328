"""Pictures behind a gate: some are handed out, whoever asks for more waits until it is opened."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from support.servers.web_server import Handler, Server, serving

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw

PATIENCE = 120.0


class Gate:
    """Serves drawn pictures. So a worker that waits for one is surely in the middle of a shard."""

    def __init__(self, folder: Path, pictures: int, handed_out: int) -> None:
        self.left, self.open, self.lock = handed_out, threading.Event(), threading.Lock()
        self.waiting: list[int] = []
        self.folder, self.pictures = folder, pictures
        folder.mkdir()
        for index, seed in zip(range(pictures), TEST_SEEDS, strict=False):
            draw(seed).image.resize((48, 36)).save(folder / f"{index}.png")

    def answer(self, visit: Handler) -> None:
        with self.lock:
            self.left -= 1
            waits = self.left < 0 and not self.open.is_set()
            if waits:
                self.waiting.append(visit.client_address[1])
        if waits:
            self.open.wait(PATIENCE)
        visit.reply((self.folder / visit.path.strip("/")).read_bytes())

    def manifest(self, server: Server) -> Path:
        """A list of the pictures."""
        path = self.folder / "list.csv"
        lines = [f"{server.url}/{index}.png" for index in range(self.pictures)]
        path.write_text("\n".join(["url", *lines]) + "\n")
        return path

    def waiter(self, process: int) -> psutil.Process:
        """One of the processes of a command that waits at the gate."""
        end = time.monotonic() + PATIENCE
        while True:
            assert psutil.Process(process).status() != psutil.STATUS_ZOMBIE, "the command has ended"
            for child in psutil.Process(process).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if {one.laddr.port for one in child.net_connections("tcp4")} & set(self.waiting):
                        return child
            assert time.monotonic() < end, "nobody waits"
            time.sleep(0.01)


@contextlib.contextmanager
def gate(folder: Path, pictures: int, handed_out: int) -> Iterator[tuple[Gate, Path]]:
    """A gate while the block runs, with the list of what is behind it."""
    made = Gate(folder, pictures, handed_out)
    with serving(made.answer) as server:
        try:
            yield made, made.manifest(server)
        finally:
            made.open.set()
