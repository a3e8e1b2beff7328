"""One by one or in batches: requests a second of one engine, side by side in one run.

``python benchmarks/batching.py --model tiny``. Each round asks the same four tasks of the same drawn pictures at every
batch size, so that whatever else the machine does falls on all alike; the best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import time

import torch

from moondream_beam import Caption, Detect, Moondream, Point, Query, Request, Sampling
from moondream_beam.models.tiny.scenes import VALIDATION_SEEDS, draw

TASKS = (Caption(), Query("How many shapes are there?"), Detect("circle"), Point("square"))
GREEDY = Sampling(temperature=0)


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 32, 96])
    args = parser.parse_args()
    pictures = [draw(seed, size=(320, 240)).image for seed in VALIDATION_SEEDS[: args.pictures]]
    requests = [
        Request(f"{index}-{task.name}", picture, task, GREEDY)
        for index, picture in enumerate(pictures)
        for task in TASKS
    ]
    annotators = {size: Moondream(args.model, device=args.device, batch_size=size) for size in args.batch_sizes}
    for annotator in annotators.values():
        list(annotator.answer(requests[:8]))
    seconds = dict.fromkeys(args.batch_sizes, float("inf"))
    for _ in range(args.rounds):
        for size, annotator in annotators.items():
            started = time.perf_counter()
            list(annotator.answer(requests))
            seconds[size] = min(seconds[size], time.perf_counter() - started)
    backend = next(iter(annotators.values())).load().backend
    print(f"{args.model} on {backend}, torch {torch.__version__}, {os.cpu_count()} cores, {len(requests)} requests\n")
    print("| requests at once | requests a second | against the first |\n|---|---|---|")
    first = seconds[args.batch_sizes[0]]
    for size, took in seconds.items():
        print(f"| {size} | {len(requests) / took:.1f} | {first / took:.1f} x |")


if __name__ == "__main__":
    main()
