"""Measure how much of a vision server's capacity is used, and the CPU time of a request, against bare httpx loops.

The server runs in a process of its own, takes 100 ms for a request, and serves 32 at once. A bare loop has a thread for
each request in flight. The first one sends one body, made before the clock starts. The second one encodes each picture
in its threads, as the annotator does in threads of its own. The CPU time to encode a picture is measured apart.

Run ``python benchmarks/servers/serving.py [REQUESTS [IN_FLIGHT]]``.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
from PIL import Image

from moondream_beam import OpenAIServer, Query
from moondream_beam.models.hosted.http.images import JPEG_QUALITY, encode
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

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=256, limit=1 << 20)
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


def bare(url: str, in_flight: int, bodies: Iterable[Callable[[], dict[str, Any]]]) -> None:
    """Send the bodies from ``in_flight`` threads, which make them, and parse the answers."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=in_flight)
    with httpx.Client(limits=limits, timeout=60) as client, ThreadPoolExecutor(in_flight) as pool:

        def ask(make: Callable[[], dict[str, Any]]) -> Any:
            return client.post(f"{url}/v1/chat/completions", json=make()).json()

        for answer in pool.map(ask, bodies):
            assert answer["usage"]["completion_tokens"] == 2


def body_about(picture: Image.Image) -> dict[str, Any]:
    """Return the body that the annotator sends about a picture, made as most scripts would make it."""
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    message = {"role": "user", "content": content}
    return {"model": "m", "messages": [message], "max_tokens": 64, "temperature": 0.2, "seed": 1}


def ours(url: str, in_flight: int, pictures: list[Image.Image]) -> None:
    """Ask through the annotator."""
    requests = (Request(f"r{number}", picture, Query("What?")) for number, picture in enumerate(pictures))
    annotator = OpenAIServer(url, "m", revision="1", concurrency=in_flight)
    assert all(outcome.result.text for outcome in annotator.answer(requests))


def main(count: int, in_flight: int) -> None:
    """Measure each three times, in turns, and print the best of each."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe()
    process = context.Process(target=serve, args=(send,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{receive.recv()}"
    noise = Image.effect_noise(SIZE, 40).convert("RGB")
    pictures = [noise.copy() for _ in range(count)]
    body = body_about(noise)
    _, encoding = timed(lambda: [encode(picture) for picture in pictures] and None, count)
    ways: dict[str, Callable[[], None]] = {
        "bare httpx, one body": lambda: bare(url, in_flight, [lambda: body] * count),
        "bare httpx, encodes": lambda: bare(url, in_flight, [partial(body_about, picture) for picture in pictures]),
        "OpenAIServer": lambda: ours(url, in_flight, pictures),
    }
    turns = [{name: timed(work, count) for name, work in ways.items()} for _ in range(3)]
    process.kill()
    print(f"the server takes {AT_ONCE / SECONDS:.0f} requests a second; {in_flight} are in flight")
    print(f"{encoding:.2f} ms of CPU to encode a picture")
    for name in ways:
        each_second, cpu_ms = max(turn[name] for turn in turns)
        share = each_second / (AT_ONCE / SECONDS)
        print(f"{name:20}  {each_second:.0f} a second, {share:.1%} of the server, {cpu_ms:.2f} ms of CPU a request")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(2000, AT_ONCE)[len(given) :])
