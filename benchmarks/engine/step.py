"""Time of one decoding step in float32, compiled, with int8 weights and in bfloat16: python benchmarks/engine/step.py.

It runs on a CPU with ``--threads`` threads. Times are CPU time of the main thread, the best of several repeats.
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
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.moondream.network.decoder.text import Text

NUM_ROWS, NUM_POSITIONS, NUM_REPEATS = 32, 800, 10


def main() -> None:
    """Time each variant and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.at(write_checkpoint(args.preset, Path(folder), torch.float32))
        text = checkpoint.load(torch.device("cpu"), torch.float32).text
    shape = f"{NUM_ROWS} rows of {NUM_POSITIONS} positions"
    print(f"{args.preset}, {shape}, {args.threads} threads, torch {torch.__version__}\n")
    print("| variant | layers, ms | head, ms | error of the hidden states |\n|---|---|---|---|")
    int8 = torch.ao.quantization.quantize_dynamic(copy.deepcopy(text), {nn.Linear}, dtype=torch.qint8)
    for block in int8.blocks:
        # The quantized layers take the place of the separate ones.
        block.fused = None
    variants = {
        "float32": (text, text.forward, torch.float32),
        "float32, compiled": (text, torch.compile(text.forward), torch.float32),
        "int8 weights and activations": (int8, int8.forward, torch.float32),
        "bfloat16": (half := copy.deepcopy(text).bfloat16(), half.forward, torch.bfloat16),
    }
    reference_BC = None
    with torch.inference_mode():
        for variant, (network, forward, dtype) in variants.items():
            step = step_of(network, forward, dtype)
            hidden_BC = step()[:, 0].clone()
            reference_BC = hidden_BC if reference_BC is None else reference_BC
            error = (hidden_BC.float() - reference_BC).norm() / reference_BC.norm()
            head = best_ms(lambda n=network, h=hidden_BC: n.logits(h))
            print(f"| {variant} | {best_ms(step):.1f} | {head:.1f} | {error:.1%} |")


def step_of(text: Text, forward: Callable[..., Tensor], dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return a function that runs one decoding step of all rows over a random cache, the same for each variant."""
    noise = torch.Generator().manual_seed(0)
    cache = KVCache.empty(text.config, NUM_ROWS, NUM_POSITIONS, like=torch.empty(0, dtype=dtype))
    for tensor in cache:
        tensor.copy_(torch.randn(tensor.shape, generator=noise))
    embeds_BTC = torch.randn(NUM_ROWS, 1, text.config.dim, generator=noise).to(dtype)
    positions_BT = torch.full((NUM_ROWS, 1), NUM_POSITIONS - 1)
    mask_B1TS = torch.arange(NUM_POSITIONS) <= positions_BT[:, None, :, None]
    return lambda: forward(embeds_BTC, positions_BT, mask_B1TS, cache)


def best_ms(work: Callable[[], object]) -> float:
    """Return the shortest CPU time of this thread in several calls, in milliseconds."""
    times = []
    for _ in range(NUM_REPEATS):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
