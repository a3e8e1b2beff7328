"""A roofline bound: the minimum time of a workload on a device.

Each phase takes at least its operations divided by the device's operations per second, and at least its bytes divided
by the bytes per second. Both rates are measured by one large matrix product and one large sum. A multiplication and an
addition count as two operations. Norms, activations and rotations count as none.

``python benchmarks/engine/bound.py`` prints the bound of Moondream 2 on a GPU by its data sheet, and what the copies of
image prefixes take beside it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from PIL import Image

from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.network.config import MoondreamConfig
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.moondream.network.decoder.attention_choice import microseconds
from moondream_beam.models.moondream.network.decoder.cache import KVCache


@dataclass(frozen=True)
class Device:
    """The measured rates of a device: operations and bytes per second."""

    flops: float
    bytes: float

    def best(self, other: Device) -> Device:
        """Return the higher rates of two measurements, because other load can only lower them."""
        return Device(max(self.flops, other.flops), max(self.bytes, other.bytes))


def measure(device: torch.device, dtype: torch.dtype) -> Device:
    """Return the rates of a device: the best of six products of square matrices and of six sums over memory."""
    side = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    block = torch.randn(1 << 27, device=device)
    product = _best(lambda: matrix @ matrix, device)
    read = _best(lambda: block.sum(), device)
    return Device(2 * side**3 / product, block.nbytes / read)


def _best(work, device: torch.device) -> float:
    clock, times = time.process_time if device.type == "cpu" else time.perf_counter, []
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - started)
    return min(times)


def least_seconds(
    config: MoondreamConfig,
    device: Device,
    crops: int,
    images: int,
    prompt: int,
    tokens: int,
    slots: int,
    itemsize: int,
) -> dict[str, float]:
    """Return the minimum seconds of each phase.

    The workload: ``images`` pictures of ``crops`` crops, each with one prompt of ``prompt`` ids, and ``tokens`` new
    tokens in all, decoded ``slots`` at a time. ``itemsize``: bytes of a weight.
    """
    vision, text = config.vision, config.text
    grid, prefix = vision.grid**2, config.prefix_length
    encoder = vision.enc_n_layers * (4 * vision.enc_dim**2 + 2 * vision.enc_dim * vision.enc_ff_dim)
    encoder += vision.in_channels * vision.enc_patch_size**2 * vision.enc_dim
    projection = 2 * vision.enc_dim * vision.proj_inner_dim + vision.proj_inner_dim * vision.proj_out_dim
    heads = (2 * text.n_heads + 2 * text.n_kv_heads) * text.head_dim
    blocks = text.n_layers * (text.dim * heads + 2 * text.dim * text.ff_dim)
    head = text.dim * text.vocab_size
    encoder_attention = 4 * vision.enc_n_layers * grid**2 * vision.enc_dim
    attention = 4 * text.n_layers * text.n_heads * text.head_dim
    context = prefix + prompt + tokens / max(1, images) / 2
    cache_bytes = 2 * text.n_layers * text.n_kv_heads * text.head_dim * context * itemsize
    return {
        "encode": images * (crops * (2 * grid * encoder + encoder_attention) + 2 * grid * projection) / device.flops,
        "prefill": images
        * (2 * (prefix + prompt) * blocks + attention * (prefix * prefix + prompt * context) + 2 * head)
        / device.flops,
        "decode": max(
            tokens * (2 * (blocks + head) + attention * context) / device.flops,
            tokens * ((blocks + head) * itemsize / slots + cache_bytes) / device.bytes,
        ),
    }


def copy_bytes(config: MoondreamConfig, itemsize: int) -> int:
    """Return the bytes that one copy of an image prefix reads and writes."""
    text = config.text
    return 2 * 2 * text.n_layers * text.n_kv_heads * text.head_dim * config.prefix_length * itemsize


def copy_microseconds(engine: Engine) -> float:
    """Return the measured time of one copy of an image prefix."""
    like, length = engine.model.text.wte, engine.config.prefix_length
    with torch.inference_mode():
        cache, prefix = (KVCache.empty(engine.config.text, rows, length, like) for rows in (2, 1))
        return microseconds(lambda: cache.copy_from(prefix, [1], length), engine.device)


def main() -> None:
    """Print the bound of answers about a picture of 640 x 480 pixels, and the share of copies, as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=989.0, help="dense 16-bit TFLOP/s; by default of an H200")
    parser.add_argument("--tbytes", type=float, default=4.8, help="TB/s of memory; by default of an H200")
    parser.add_argument("--slots", type=int, default=64)
    args = parser.parse_args()
    config, device = MoondreamConfig(), Device(args.tflops * 1e12, args.tbytes * 1e12)
    crops = len(prepare_crops(Image.new("RGB", (640, 480)), config.vision).pixels_NHWC)
    copy = 1e3 * copy_bytes(config, 2) / device.bytes
    print(f"one copy of a prefix: {copy_bytes(config, 2) / 1e6:.0f} MB, {copy:.3f} ms; {crops} crops\n")
    print("| tasks | tokens | encode, ms | prefill, ms | decode, ms | one copy a task | two copies |")
    print("|---|---|---|---|---|---|---|")
    for tasks in (1, 4):
        for tokens in (3, 30, 96):
            bound = least_seconds(config, device, crops, 1, 5 * tasks, tasks * tokens, args.slots, 2)
            encode, prefill, decode = (1e3 * seconds for seconds in bound.values())
            shares = [n * tasks * copy / (encode + prefill + decode + n * tasks * copy) for n in (1, 2)]
            times = f"{encode:.2f} | {prefill:.2f} | {decode:.2f}"
            print(f"| {tasks} | {tokens} | {times} | {shares[0]:.1%} | {shares[1]:.1%} |")


if __name__ == "__main__":
    main()
