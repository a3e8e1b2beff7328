"""Serve images over HTTP: the first requests are answered, and all others wait until the gate is opened."""

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
    """Serves drawn images. A worker that waits for one is in the middle of a shard.

    ``handed_out`` images are served before the gate closes. ``open`` is the event that opens the gate again.
    """

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
        """Write a manifest of the images, and return its path."""
        path = self.folder / "list.csv"
        lines = [f"{server.url}/{index}.png" for index in range(self.pictures)]
        path.write_text("\n".join(["url", *lines]) + "\n")
        return path

    def waiter(self, process: int) -> psutil.Process:
        """Wait until a child of the command waits at the gate, and return the child."""
        end = time.monotonic() + PATIENCE
        while True:
            assert psutil.Process(process).status() != psutil.STATUS_ZOMBIE, "the command has ended"
            for child in psutil.Process(process).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if {one.laddr.port for one in child.net_connections("tcp4")} & set(self.waiting):
                        return child
            assert time.monotonic() < end, "no child waits at the gate"
            time.sleep(0.01)


@contextlib.contextmanager
def gate(folder: Path, pictures: int, handed_out: int) -> Iterator[tuple[Gate, Path]]:
    """Serve images while the block runs. Yield the gate and the path of the manifest."""
    made = Gate(folder, pictures, handed_out)
    with serving(made.answer) as server:
        try:
            yield made, made.manifest(server)
        finally:
            made.open.set()
