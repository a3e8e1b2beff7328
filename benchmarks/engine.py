"""One picture at a time, static batches and the engine, side by side in one run on the same random weights.

``python benchmarks/engine.py --preset small`` takes minutes on a CPU; ``--preset moondream2`` wants a GPU. Captions
have between ``--shortest`` and ``--longest`` new tokens, drawn evenly, and none ends by itself. The share of the bound
is that of bound.py over what it took.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import baselines
import numpy as np
import torch
from bound import least_seconds, measure
from PIL import Image
from presets import PRESETS, write_checkpoint

from moondream_beam.models.moondream.devices import DTYPES, choose_device, choose_dtype
from moondream_beam.models.moondream.engine import Engine
from moondream_beam.models.moondream.slots import Slots
from moondream_beam.models.moondream.weights import Checkpoint
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Request, Sampling


def main() -> None:
    """Measure, and print tables in Markdown."""
    args = parse()
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.at(write_checkpoint(args.preset, Path(folder), dtype))
        engines = {slots: Engine(checkpoint, device, dtype, slots) for slots in args.slots}
    rates = measure(device, dtype)
    pictures = draw(args.pictures, args.size)
    print(f"preset {args.preset}, {dtype} on {name_of(device)}, {torch.get_num_threads()} threads")
    print(f"{rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s; {args.pictures} pictures of {args.size}\n")
    compare(engines, captions(pictures, args.shortest, args.longest), args, rates)
    if not args.only_captions:
        print()
        several_tasks(engines[max(engines)], pictures, args.rounds)


def compare(engines: dict[int, Engine], requests: Sequence[Request], args: argparse.Namespace, rates) -> None:
    """Captions: the naive loop, then static batches and the engine for each number of slots."""
    first = engines[max(engines)]
    ways: dict[str, Callable[[], object]] = {}
    if not args.without_naive:
        few = requests[: args.naive_pictures]
        ways["naive loop"] = lambda: baselines.naive(first, few)
    for slots, engine in engines.items():
        ways[f"static, batches of {slots}"] = lambda e=engine, n=slots: baselines.static(e, requests, n)
        ways[f"engine, {slots} slots"] = lambda e=engine: list(baselines.continuous(e, requests))
    seconds = time_all(ways, args.rounds)
    if "naive loop" in seconds:
        seconds["naive loop"] *= len(requests) / len(few)
    tokens = sum(request.sampling.max_tokens or 0 for request in requests)
    crops = len(baselines.prepare_crops(requests[0].picture, first.config.vision).pixels_NHWC)
    print(
        "| way | images/s | tokens/s | against the first | share of the bound | occupancy |\n|---|---|---|---|---|---|"
    )
    for way, took in seconds.items():
        slots = int(way.split()[1]) if way.startswith("engine") else 1
        phases = least_seconds(first.config, rates, crops, len(requests), 5, tokens, slots, first.dtype.itemsize)
        shares = (
            (f"{sum(phases.values()) / took:.0%}", f"{occupancy(engines[slots], requests):.0%}")
            if slots > 1
            else ("", "")
        )
        ratio = next(iter(seconds.values())) / took
        print(f"| {way} | {len(requests) / took:.2f} | {tokens / took:.0f} | {ratio:.2f} x | {' | '.join(shares)} |")
    print("\nthe bound, in seconds: " + ", ".join(f"{phase} {least:.2f}" for phase, least in phases.items()))


def several_tasks(engine: Engine, pictures: Sequence[Image.Image], rounds: int) -> None:
    """One task a picture against four."""
    tasks = (Caption("short"), Query("What is there?"), Detect("dog", 5), Point("dog", 8))
    brief = Sampling(max_tokens=64)
    one = [Request(f"{n}", picture, tasks[0], brief) for n, picture in enumerate(pictures)]
    four = [
        Request(f"{n}-{task.name}", picture, task, brief if task is tasks[0] else Sampling(max_tokens=16))
        for n, picture in enumerate(pictures)
        for task in tasks
    ]
    seconds = time_all(
        {
            "a caption of 64 tokens": lambda: list(baselines.continuous(engine, one)),
            "and an answer of 16, 5 boxes, 8 points": lambda: list(baselines.continuous(engine, four)),
        },
        rounds,
    )
    print("| tasks a picture | pictures/s | against the first |\n|---|---|---|")
    for way, took in seconds.items():
        print(f"| {way} | {len(pictures) / took:.2f} | {took / next(iter(seconds.values())):.2f} x the time |")


def time_all(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The best of so many rounds in seconds; each round runs all, so that what else the machine does falls on all."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, work in ways.items():
            started = time.perf_counter()
            work()
            seconds[way] = min(seconds[way], time.perf_counter() - started)
    return seconds


def occupancy(engine: Engine, requests: Sequence[Request]) -> float:
    """The share of slots that were being written, over the steps until the last request was prefilled."""
    steps, step, prefill, last = [], Slots.step, Slots.prefill, [0]
    try:
        Slots.step = lambda self: steps.append(len(self.active) / self.count) or step(self)
        Slots.prefill = lambda self, jobs, prefixes: last.append(len(steps)) or prefill(self, jobs, prefixes)
        list(engine.answer(requests))
    finally:
        Slots.step, Slots.prefill = step, prefill
    return float(np.mean(steps[: last[-1]]))


def captions(pictures: Sequence[Image.Image], shortest: int, longest: int) -> list[Request]:
    """A caption of each picture, of uneven lengths."""
    dice = random.Random(0)
    return [
        Request(str(n), picture, Caption(), Sampling(max_tokens=dice.randint(shortest, longest)))
        for n, picture in enumerate(pictures)
    ]


def draw(count: int, size: str) -> list[Image.Image]:
    """Pictures of noise."""
    width, height = map(int, size.split("x"))
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def name_of(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--naive-pictures", type=int, default=12, help="of them, for the naive loop")
    parser.add_argument("--size", default="378x378")
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--slots", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without-naive", action="store_true")
    parser.add_argument("--only-captions", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
