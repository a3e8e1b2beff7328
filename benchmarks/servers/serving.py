"""Measure how much of a vision server's capacity is used, and the CPU time of a request, against a bare httpx loop.

The server runs in a process of its own, takes 100 ms for a request, and serves 32 at once. The bare loop has a thread
for each request in flight. Its picture is encoded before the clock starts. The annotator encodes each picture; the CPU
time of that is measured apart and subtracted. Run ``python benchmarks/servers/serving.py [REQUESTS]``.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from PIL import Image

from moondream_beam import OpenAIServer, Query
from moondream_beam.models.hosted.http.images import encode
from moondream_beam.models.hosted.openai.protocol import request_body
from moondream_beam.models.hosted.service import Settings
from moondream_beam.models.tasks import Request

AT_ONCE, SECONDS = 32, 0.1
SIZE = (640, 480)
USAGE = {"prompt_tokens": 500, "completion_tokens": 2, "total_tokens": 502}
ANSWER = {"choices": [{"message": {"content": "A house."}, "finish_reason": "stop"}], "usage": USAGE}
MODELS = {"data": [{"id": "m", "object": "model", "owned_by": "vllm", "root": "m"}]}


async def _serve(port: Any) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths:
                await reader.readexactly(int(lengths[0].partition(b":")[2]))
                async with room:
                    await asyncio.sleep(SECONDS)
            body = json.dumps(ANSWER if lengths else MODELS).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=256)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serve(port: Any) -> None:
    """Serve until the process is killed. Send the port number first."""
    asyncio.run(_serve(port))


def timed(work: Callable[[], None], count: int) -> tuple[float, float]:
    """Return the requests a second of ``work``, and its CPU milliseconds a request."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return count / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / count


def bare(url: str, jpeg: bytes, count: int) -> None:
    """Send the requests from ``AT_ONCE`` threads, and parse the answers."""
    body = request_body("m", "What?", jpeg, Settings(64, 0.2, 1.0, 1.0), "max_tokens", 1, None)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE)
    with httpx.Client(limits=limits, timeout=60) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        for answer in pool.map(lambda _: client.post(f"{url}/v1/chat/completions", json=body).json(), range(count)):
            assert answer["usage"]["completion_tokens"] == 2


def ours(url: str, pictures: list[Image.Image]) -> None:
    """Ask through the annotator."""
    requests = (Request(f"r{number}", picture, Query("What?")) for number, picture in enumerate(pictures))
    assert all(outcome.result.text for outcome in OpenAIServer(url, concurrency=AT_ONCE).answer(requests))


def main(count: int) -> None:
    """Measure three times each, in turns, and print the best of each."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe()
    process = context.Process(target=serve, args=(send,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{receive.recv()}"
    noise = Image.effect_noise(SIZE, 40).convert("RGB")
    pictures = [noise.copy() for _ in range(count)]
    jpeg = encode(noise)
    _, encoding = timed(lambda: [encode(picture) for picture in pictures] and None, count)
    turns = []
    for _ in range(3):
        turns.append((timed(lambda: bare(url, jpeg, count), count), timed(lambda: ours(url, pictures), count)))
    process.kill()
    best_bare, best_ours = max(turn[0] for turn in turns), max(turn[1] for turn in turns)
    capacity, rest = AT_ONCE / SECONDS, best_ours[1] - encoding
    print(f"server        {capacity:.0f} requests a second, {len(jpeg) / 1000:.0f} kB a picture")
    print(f"bare httpx    {best_bare[0]:.0f} a second, {best_bare[1]:.2f} ms of CPU a request")
    print(f"OpenAIServer  {best_ours[0]:.0f} a second, {rest:.2f} ms of CPU a request, {encoding:.2f} ms to encode it")
    print(f"              {best_ours[0] / capacity:.1%} of the server, {best_ours[0] / best_bare[0]:.1%} of bare httpx")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
