"""Throughput of a naive loop, static batches and the engine, in one run on the same random weights.

``python benchmarks/engine/engine.py --preset small`` takes minutes on a CPU; ``--preset moondream2`` needs a GPU.
Captions have ``--shortest`` to ``--longest`` new tokens, uniformly distributed, and never end earlier.
"Share of the bound" is the minimum time of bound.py divided by the time. On a CPU, times are CPU seconds.
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
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Request, Sampling


def main() -> None:
    """Run the benchmarks and print Markdown tables."""
    args = parse()
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.at(write_checkpoint(args.preset, Path(folder), dtype))
        engines = {slots: Engine(checkpoint, device, dtype, slots, args.threads) for slots in args.slots}
    rates = measure(device, dtype)
    pictures = noise_pictures(args.pictures, args.size)
    print(f"preset {args.preset}, {dtype} on {name_of(device)}, {torch.get_num_threads()} threads")
    print(f"{args.pictures} pictures of {args.size}")
    compare(engines, caption_requests(pictures, args.shortest, args.longest), args, rates)
    if not args.only_captions:
        print()
        compare_tasks(engines[max(engines)], pictures, args.rounds)


def compare(engines: dict[int, Engine], requests: Sequence[Request], args: argparse.Namespace, rates: Device) -> None:
    """Time captions by the naive loop, static batches and the engine, for each number of slots; print a table."""
    first = engines[max(engines)]
    methods: dict[str, Callable[[], object]] = {}
    if not args.without_naive:
        few = requests[: args.naive_pictures]
        methods["naive loop"] = lambda: baselines.answer_naively(first, few)
    for slots, engine in engines.items():
        methods[f"static, batches of {slots}"] = lambda e=engine, n=slots: baselines.answer_in_static_batches(
            e, requests, n
        )
        methods[f"engine, {slots} slots"] = lambda e=engine: list(e.answer(requests))
    clock = clock_for(first.device)
    with measured_slot_use() as slot_use:
        seconds = best_times(methods, args.rounds, clock)
    rates = rates.best(measure(first.device, first.dtype))
    if "naive loop" in seconds:
        seconds["naive loop"] *= len(requests) / len(few)
    tokens = sum(request.sampling.max_tokens or 0 for request in requests)
    crops = len(prepare_crops(requests[0].picture, first.config.vision).pixels_NHWC)
    print(f"{rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s\n")
    columns = ("method", "images/s", "tokens/s", "speedup over the first", "share of the bound", "slots in use")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for method, elapsed in seconds.items():
        slots = int(method.split()[-1 if "static" in method else 1]) if "naive" not in method else 1
        phases = least_seconds(first.config, rates, crops, len(requests), 5, tokens, slots, first.dtype.itemsize)
        shares = {"naive": 1.0, "static": static_slot_use(requests, slots), "engine": slot_use.get(slots, 0.0)}
        in_use = next(share for name, share in shares.items() if method.startswith(name))
        ratio = next(iter(seconds.values())) / elapsed
        print(
            f"| {method} | {len(requests) / elapsed:.2f} | {tokens / elapsed:.0f} | {ratio:.2f} x "
            f"| {sum(phases.values()) / elapsed:.0%} | {in_use:.0%} |"
        )
    print("\nthe bound, in seconds: " + ", ".join(f"{phase} {least:.2f}" for phase, least in phases.items()))
    print(f"the largest possible speedup over static batches: {max_speedup(first, requests):.2f} x")


def static_slot_use(requests: Sequence[Request], size: int) -> float:
    """Return the share of row steps in static batches that give a token: a batch lasts until its longest answer."""
    lengths = [request.sampling.max_tokens or 0 for request in requests]
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(lengths) / sum(max(batch) * len(batch) for batch in batches)


def max_speedup(engine: Engine, requests: Sequence[Request]) -> float:
    """Return the largest possible speedup over static batches: if only the idle row steps were saved."""
    timings = [outcome.timings for outcome in engine.answer(requests)]
    encoding, generating = (sum(getattr(timing, name) for timing in timings) for name in ("encode_ms", "generate_ms"))
    return (encoding + generating / static_slot_use(requests, engine.max_slots)) / (encoding + generating)


def compare_tasks(engine: Engine, pictures: Sequence[Image.Image], rounds: int) -> None:
    """Time one task a picture and four tasks a picture; print a table."""
    tasks = (Caption("short"), Query("What is there?"), Detect("dog", 5), Point("dog", 8))
    brief = Sampling(max_tokens=64)
    one = [Request(f"{n}", picture, tasks[0], brief) for n, picture in enumerate(pictures)]
    four = [
        Request(f"{n}-{task.name}", picture, task, brief if task is tasks[0] else Sampling(max_tokens=16))
        for n, picture in enumerate(pictures)
        for task in tasks
    ]
    seconds = best_times(
        {
            "a caption of 64 tokens": lambda: list(engine.answer(one)),
            "and an answer of 16, 5 boxes, 8 points": lambda: list(engine.answer(four)),
        },
        rounds,
        clock_for(engine.device),
    )
    print("| tasks a picture | pictures/s | time relative to the first |\n|---|---|---|")
    for method, elapsed in seconds.items():
        print(f"| {method} | {len(pictures) / elapsed:.2f} | {elapsed / next(iter(seconds.values())):.2f} x |")


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return the clock for a device: CPU time on a CPU, so that other load matters little, else elapsed time."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def best_times(methods: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the best seconds of each method. Each round runs all methods, so that other load affects all alike."""
    seconds = dict.fromkeys(methods, float("inf"))
    for _ in range(rounds):
        for method, work in methods.items():
            started = clock()
            work()
            seconds[method] = min(seconds[method], clock() - started)
    return seconds


@contextlib.contextmanager
def measured_slot_use() -> Iterator[dict[int, float]]:
    """Measure the mean share of active slots, by number of slots, over the steps until the last prefill of a run."""
    used: dict[int, float] = {}
    steps: list[float] = []
    step, prefill = Slots.step, Slots.prefill

    def measured_step(slots: Slots) -> list[Job]:
        steps.append(len(slots.active) / slots.num_slots)
        return step(slots)

    def measured_prefill(slots: Slots, jobs: Sequence[Job], prefixes: Sequence[KVCache]) -> list[Job]:
        if steps:
            used[slots.num_slots] = float(np.mean(steps))
        if not slots.active:
            steps.clear()
        return prefill(slots, jobs, prefixes)

    Slots.step, Slots.prefill = measured_step, measured_prefill
    try:
        yield used
    finally:
        Slots.step, Slots.prefill = step, prefill


def caption_requests(pictures: Sequence[Image.Image], shortest: int, longest: int) -> list[Request]:
    """Return a caption request for each picture, with random numbers of tokens."""
    random_lengths = random.Random(0)
    return [
        Request(str(n), picture, Caption(), Sampling(max_tokens=random_lengths.randint(shortest, longest)))
        for n, picture in enumerate(pictures)
    ]


def noise_pictures(count: int, size: str) -> list[Image.Image]:
    """Return pictures of noise. ``size``: WIDTHxHEIGHT."""
    width, height = map(int, size.split("x"))
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def name_of(device: torch.device) -> str:
    """Return the name of a GPU, or the number of CPU cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"


def parse() -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--naive-pictures", type=int, default=12, help="the number of them for the naive loop")
    parser.add_argument("--size", default="378x378")
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--slots", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; CPU time is the sum over all threads")
    parser.add_argument("--without-naive", action="store_true")
    parser.add_argument("--only-captions", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
