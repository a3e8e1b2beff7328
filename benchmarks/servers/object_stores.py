"""Processor time of reading small objects from S3 through our own store, and through obstore.

``python benchmarks/servers/object_stores.py 5000 20``: so many objects of so many kB, read from a server of this
machine. The server is a process of its own, speaks plain HTTP, and answers as S3 answers a GET; its processor time is
not counted. The time of the client is that of all its threads, those that obstore starts included. Obstore
is called bare, without our limits and faults: a store built on obstore costs more. Needs ``pip install obstore``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import NamedTuple

from moondream_beam.transforms.images.prefetch import LOAD_THREADS
from moondream_beam.transforms.io.object_stores.s3 import S3

try:
    from obstore.store import S3Store
except ImportError:
    sys.exit("benchmarks/servers/object_stores.py compares with obstore, which is not installed: pip install obstore")

ROUNDS = 3
LIMIT = 1 << 30
HEADERS = (
    "HTTP/1.1 200 OK\r\nx-amz-id-2: {id}\r\nx-amz-request-id: {id}\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    'Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nETag: "{id}"\r\nx-amz-server-side-encryption: AES256\r\n'
    "Accept-Ranges: bytes\r\nContent-Type: image/jpeg\r\nServer: AmazonS3\r\nContent-Length: {size}\r\n\r\n"
)


class Cost(NamedTuple):
    """What a round took, in seconds: of all cores, and on the clock."""

    cores: float
    wall: float


class Answers(asyncio.Protocol):
    """One connection: each GET is answered with the object that its path names."""

    def __init__(self, size: int) -> None:
        self.size, self.asked = size, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self.asked += data
        while b"\r\n\r\n" in self.asked:
            request, _, self.asked = self.asked.partition(b"\r\n\r\n")
            name = request.split(b" ", 2)[1].rpartition(b"/")[2]
            head = HEADERS.format(id="0123456789abcdef" * 2, size=self.size)
            self.transport.write(head.encode() + content_of(name.decode(), self.size))  # type: ignore[attr-defined]


def content_of(name: str, size: int) -> bytes:
    """Return the content of the object of this name."""
    return (name.encode() * (size // len(name) + 1))[:size]


def serve(told: Connection, size: int) -> None:
    """Answer requests until the process is ended; the port goes into the pipe."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Answers(size), "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def measure(read: Callable[[str], bytes], names: list[str], size: int) -> Cost:
    """Read all objects once with the threads that load pictures."""
    with ThreadPoolExecutor(LOAD_THREADS) as pool:
        wall, cores = time.perf_counter(), time.process_time()
        contents = list(pool.map(read, names))
        cost = Cost(time.process_time() - cores, time.perf_counter() - wall)
    assert all(content == content_of(name, size) for name, content in zip(names, contents, strict=True))
    return cost


def run(count: int, size: int, url: str) -> None:
    """Read through both in turn; print the least time of each and the ratio."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": url}
    ours, theirs = S3(), S3Store("bucket", client_options={"allow_http": True}, retry_config={"max_retries": 0})
    ways = {
        "boto3": lambda name: ours.read(f"s3://bucket/photos/{name}", LIMIT, time.monotonic() + 60),
        "obstore": lambda name: bytes(theirs.get(f"photos/{name}").bytes()),
    }
    names, costs = [f"{number:08}.jpg" for number in range(count)], dict[str, list[Cost]]()
    for _ in range(ROUNDS):
        for way, read in ways.items():
            costs.setdefault(way, []).append(measure(read, names, size))
    best = {way: Cost(*map(min, zip(*found, strict=True))) for way, found in costs.items()}
    for way, cost in best.items():
        each = 1000 * cost.cores / count
        print(f"{way:8} {cost.cores:6.2f} s of a core, {cost.wall:6.2f} s; {each:.3f} ms of a core for an object")
    print(f"boto3 / obstore: {best['boto3'].cores / best['obstore'].cores:.2f} of a core's time")


if __name__ == "__main__":
    amount, size_in_kb = map(int, sys.argv[1:3])
    ear, mouth = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(mouth, size_in_kb * 1000), daemon=True)
    server.start()
    try:
        run(amount, size_in_kb * 1000, f"http://127.0.0.1:{ear.recv()}")
    finally:
        server.terminate()
