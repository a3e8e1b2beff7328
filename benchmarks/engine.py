"""One picture at a time, static batches and the engine, side by side in one run on the same random weights.

``python benchmarks/engine.py --preset small`` takes minutes on a CPU; ``--preset moondream2`` wants a GPU. Captions
have between ``--shortest`` and ``--longest`` new tokens, drawn evenly, and none ends by itself. The share of the bound
is that of bound.py over what it took. On a CPU the seconds are those of the process on one processor, not of the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import baselines
import numpy as np
import torch
from bound import Device, least_seconds, measure
from PIL import Image
from presets import PRESETS, write_checkpoint

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.devices import DTYPES, choose_device, choose_dtype
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.engine.jobs import Job
from moondream_beam.models.moondream.engine.slots import Slots
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.moondream.network.text import KVCache
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Request, Sampling


def main() -> None:
    """Measure, and print tables in Markdown."""
    args = parse()
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.at(write_checkpoint(args.preset, Path(folder), dtype))
        engines = {slots: Engine(checkpoint, device, dtype, slots, args.threads) for slots in args.slots}
    rates = measure(device, dtype)
    pictures = draw(args.pictures, args.size)
    print(f"preset {args.preset}, {dtype} on {name_of(device)}, {torch.get_num_threads()} threads")
    print(f"{args.pictures} pictures of {args.size}")
    compare(engines, captions(pictures, args.shortest, args.longest), args, rates)
    if not args.only_captions:
        print()
        several_tasks(engines[max(engines)], pictures, args.rounds)


def compare(engines: dict[int, Engine], requests: Sequence[Request], args: argparse.Namespace, rates: Device) -> None:
    """Captions: the naive loop, then static batches and the engine for each number of slots."""
    first = engines[max(engines)]
    ways: dict[str, Callable[[], object]] = {}
    if not args.without_naive:
        few = requests[: args.naive_pictures]
        ways["naive loop"] = lambda: baselines.naive(first, few)
    for slots, engine in engines.items():
        ways[f"static, batches of {slots}"] = lambda e=engine, n=slots: baselines.static(e, requests, n)
        ways[f"engine, {slots} slots"] = lambda e=engine: list(e.answer(requests))
    clock = clock_of(first.device)
    with watched_slots() as busy:
        seconds = time_all(ways, args.rounds, clock)
    rates = rates.best(measure(first.device, first.dtype))
    if "naive loop" in seconds:
        seconds["naive loop"] *= len(requests) / len(few)
    tokens = sum(request.sampling.max_tokens or 0 for request in requests)
    crops = len(prepare_crops(requests[0].picture, first.config.vision).pixels_NHWC)
    print(f"{rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s\n")
    columns = ("way", "images/s", "tokens/s", "against the first", "share of the bound", "slots in use")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for way, took in seconds.items():
        slots = int(way.split()[-1 if "static" in way else 1]) if "naive" not in way else 1
        phases = least_seconds(first.config, rates, crops, len(requests), 5, tokens, slots, first.dtype.itemsize)
        in_use = {"naive": 1.0, "stati": static_use(requests, slots), "engin": busy.get(slots, 0.0)}[way[:5]]
        ratio = next(iter(seconds.values())) / took
        print(
            f"| {way} | {len(requests) / took:.2f} | {tokens / took:.0f} | {ratio:.2f} x "
            f"| {sum(phases.values()) / took:.0%} | {in_use:.0%} |"
        )
    print("\nthe bound, in seconds: " + ", ".join(f"{phase} {least:.2f}" for phase, least in phases.items()))
    print(f"the most that filling slots again can win over static batches: {most_to_win(first, requests):.2f} x")


def static_use(requests: Sequence[Request], size: int) -> float:
    """The share of a static batch's steps that write something: its longest answer decides how many there are."""
    lengths = [request.sampling.max_tokens or 0 for request in requests]
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(lengths) / sum(max(batch) * len(batch) for batch in batches)


def most_to_win(engine: Engine, requests: Sequence[Request]) -> float:
    """How much longer it would take if writing grew by the idle rows of static batches, and nothing else did."""
    timings = [outcome.timings for outcome in engine.answer(requests)]
    seeing, writing = (sum(getattr(timing, name) for timing in timings) for name in ("encode_ms", "generate_ms"))
    return (seeing + writing / static_use(requests, engine.max_slots)) / (seeing + writing)


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
            "a caption of 64 tokens": lambda: list(engine.answer(one)),
            "and an answer of 16, 5 boxes, 8 points": lambda: list(engine.answer(four)),
        },
        rounds,
        clock_of(engine.device),
    )
    print("| tasks a picture | pictures/s | against the first |\n|---|---|---|")
    for way, took in seconds.items():
        print(f"| {way} | {len(pictures) / took:.2f} | {took / next(iter(seconds.values())):.2f} x the time |")


def clock_of(device: torch.device) -> Callable[[], float]:
    """On a CPU the seconds are those of this process on its processors: what else the machine does counts little."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def time_all(ways: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """The best of so many rounds in seconds; each round runs all, so that what else the machine does falls on all."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, work in ways.items():
            started = clock()
            work()
            seconds[way] = min(seconds[way], clock() - started)
    return seconds


@contextlib.contextmanager
def watched_slots() -> Iterator[dict[int, float]]:
    """By number of slots, the share of them that was being written, over the steps until the last prefill of a run."""
    used: dict[int, float] = {}
    steps: list[float] = []
    step, prefill = Slots.step, Slots.prefill

    def watched_step(slots: Slots) -> list[Job]:
        steps.append(len(slots.active) / slots.count)
        return step(slots)

    def watched_prefill(slots: Slots, jobs: Sequence[Job], prefixes: Sequence[KVCache]) -> list[Job]:
        if steps:
            used[slots.count] = float(np.mean(steps))
        if not slots.active:
            steps.clear()
        return prefill(slots, jobs, prefixes)

    Slots.step, Slots.prefill = watched_step, watched_prefill
    try:
        yield used
    finally:
        Slots.step, Slots.prefill = step, prefill


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
    parser.add_argument("--threads", type=int, default=1, help="of a CPU: one, as the seconds of all are added up")
    parser.add_argument("--without-naive", action="store_true")
    parser.add_argument("--only-captions", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
