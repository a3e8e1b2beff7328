"""One step of decoding in other ways: compiled, with int8 weights, in bfloat16; beside the plain one, in one run.

``python benchmarks/step.py``, on a CPU with ``--threads`` threads. Times are those of the thread, the best of
several.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from presets import PRESETS, write_checkpoint
from torch import Tensor, nn

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.network.text import KVCache, Text

ROWS, SEEN, REPEATS = 32, 800, 10


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.at(write_checkpoint(args.preset, Path(folder), torch.float32))
        text = checkpoint.load(torch.device("cpu"), torch.float32).text
    print(f"{args.preset}, {ROWS} rows of {SEEN} positions, {args.threads} threads, torch {torch.__version__}\n")
    print("| way | layers, ms | head, ms | error of the hidden states |\n|---|---|---|---|")
    int8 = torch.ao.quantization.quantize_dynamic(copy.deepcopy(text), {nn.Linear}, dtype=torch.qint8)
    ways = {
        "float32": (text, text.forward, torch.float32),
        "float32, compiled": (text, torch.compile(text.forward), torch.float32),
        "int8 weights and activations": (int8, int8.forward, torch.float32),
        "bfloat16": (half := copy.deepcopy(text).bfloat16(), half.forward, torch.bfloat16),
    }
    wanted = None
    with torch.inference_mode():
        for way, (network, forward, dtype) in ways.items():
            step = step_of(network, forward, dtype)
            hidden_BC = step()[:, 0].clone()
            wanted = hidden_BC if wanted is None else wanted
            error = (hidden_BC.float() - wanted).norm() / wanted.norm()
            head = best_ms(lambda n=network, h=hidden_BC: n.logits(h))
            print(f"| {way} | {best_ms(step):.1f} | {head:.1f} | {error:.1%} |")


def step_of(text: Text, forward: Callable[..., Tensor], dtype: torch.dtype) -> Callable[[], Tensor]:
    """One step of all rows over the same random cache."""
    noise = torch.Generator().manual_seed(0)
    cache = KVCache.empty(text.config, ROWS, SEEN, like=torch.empty(0, dtype=dtype))
    for tensor in cache:
        tensor.copy_(torch.randn(tensor.shape, generator=noise))
    embeds_BTC = torch.randn(ROWS, 1, text.config.dim, generator=noise).to(dtype)
    positions_BT = torch.full((ROWS, 1), SEEN - 1)
    mask_B1TS = torch.arange(SEEN) <= positions_BT[:, None, :, None]
    return lambda: forward(embeds_BTC, positions_BT, mask_B1TS, cache)


def best_ms(work: Callable[[], object]) -> float:
    """The best of several, in milliseconds of the thread's own time."""
    times = []
    for _ in range(REPEATS):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
