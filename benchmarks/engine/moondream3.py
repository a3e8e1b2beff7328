"""Moondream 3 with random weights: the prefill by both ways to run its experts, and answers for ``gpu.py``.

``python benchmarks/engine/moondream3.py`` measures the prefill with the small network, which has the real numbers of
experts (64, 8 for each token) and their real proportions. It runs on a CPU with ``--threads`` threads. Times are CPU
times of the process, the medians of the rounds. A round runs each way once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from engine import clock_for
from experts import loop
from torch import Tensor

from moondream_beam.models.moondream.checkpoints.releases import RELEASES
from moondream_beam.models.moondream.checkpoints.sources import EMBEDDED
from moondream_beam.models.moondream.checkpoints.weights import MoondreamModel
from moondream_beam.models.moondream.devices import synchronize
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.network.config import MoondreamConfig
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.moondream.network.decoder.experts import Experts
from moondream_beam.models.moondream.network.decoder.text import Text
from moondream_beam.models.moondream.network.tokenizer import Tokenizer
from moondream_beam.models.tasks import Request

FULL = RELEASES["3-preview-2026-02-10"].config
assert FULL.text.moe and FULL.region
# The experts' inner channels are half of ``dim``, as in the full size.
SMALL = replace(
    FULL,
    text=replace(
        FULL.text,
        **{"dim": 32, "ff_dim": 128, "n_layers": 8, "n_heads": 2, "n_kv_heads": 2},
        moe=replace(FULL.text.moe, expert_inner_dim=16),
    ),
    vision=replace(
        FULL.vision,
        **{"enc_dim": 72, "enc_n_layers": 2, "enc_n_heads": 1, "enc_ff_dim": 64, "proj_inner_dim": 64},
        proj_out_dim=32,
    ),
    region=replace(FULL.region, dim=32),
)


class RandomCheckpoint:
    """Random weights that are made on the device. The end token is never given."""

    def __init__(self, config: MoondreamConfig) -> None:
        self.config = config

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the tiny checkpoint."""
        return Tokenizer(Path(EMBEDDED["tiny"], "tokenizer.json"))

    def load(self, device: torch.device, dtype: torch.dtype) -> MoondreamModel:
        """Return the network with its weights, as ``Checkpoint.load`` does."""
        with torch.device("meta"):
            model = MoondreamModel(self.config).to(dtype)
        model = model.to_empty(device=device).requires_grad_(False).eval()
        torch.manual_seed(0)
        for name, tensor in model.state_dict().items():
            if "ln" in name and name.endswith("weight"):
                tensor.fill_(1.0)
            else:
                tensor.normal_(std=0.02 if name.endswith("bias") else tensor.shape[-1] ** -0.5)
        model.text.lm_head.bias[self.config.tokenizer.eos_id] = -1e4
        model.text.fuse()
        return model


def prefill_of(text: Text) -> Callable[[], None]:
    """Return the prefill of a random image prefix."""
    length, like = text.config.prefix_attn, text.wte
    embeds_BTC = torch.randn(1, length, text.config.dim, generator=torch.Generator().manual_seed(1)).to(like)
    positions_BT = torch.arange(length, device=like.device)[None]
    cache = KVCache.empty(text.config, 1, length, like)
    return lambda: text.prefill(embeds_BTC, positions_BT, None, cache)


def use_loop(text: Text, chosen: bool) -> None:
    """Run the experts of all blocks by a plain loop over the experts, or by the package's way again."""
    for block in text.blocks:
        if isinstance(block.mlp, Experts):
            block.mlp.forward = _by_loop(block.mlp) if chosen else type(block.mlp).forward.__get__(block.mlp)


def _by_loop(experts: Experts) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        x_NC = x.flatten(0, -2)
        return loop(experts, x_NC, *experts.route(x_NC)).view_as(x)

    return forward


def time_prefill(text: Text, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each round by way. The first round is not counted."""
    clock, prefill, device = clock_for(text.wte.device), prefill_of(text), text.wte.device
    found: dict[str, list[float]] = {"chosen": [], "loop": []}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for way, times in found.items():
                use_loop(text, way == "loop")
                synchronize(device)
                started = clock()
                prefill()
                synchronize(device)
                times.append(1000 * (clock() - started))
    use_loop(text, False)
    return {way: times[1:] for way, times in found.items()}


def figures(
    config: MoondreamConfig, device: torch.device, dtype: torch.dtype, requests: list[Request]
) -> Iterator[tuple[str, object]]:
    """Yield the figures of ``gpu.py moondream3``, by name."""
    started = time.perf_counter()
    engine = Engine(RandomCheckpoint(config), device, dtype)
    yield "seconds to make the weights", time.perf_counter() - started
    yield "GB of weights", sum(tensor.nbytes for tensor in engine.model.state_dict().values()) / 1e9
    list(engine.answer(requests[:1]))
    started = clock_for(device)()
    assert len(list(engine.answer(requests))) == len(requests)
    yield "pictures/s", len(requests) / (clock_for(device)() - started)
    for way, times in time_prefill(engine.model.text, 1).items():
        yield f"prefill of a picture, experts by {way}, ms", median(times)
    if device.type == "cuda":
        yield "peak GB", torch.cuda.max_memory_allocated(device) / 1e9


def main() -> None:
    """Time the prefill of the small network, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds = time_prefill(RandomCheckpoint(SMALL).load(torch.device("cpu"), torch.float32).text, args.rounds)
    ratio = median(slow / fast for slow, fast in zip(rounds["loop"], rounds["chosen"], strict=True))
    print("| dim | layers with experts | loop, ms | chosen, ms | loop / chosen |\n|---|---|---|---|---|")
    layers = SMALL.text.n_layers - SMALL.text.moe.start_layer
    times = " | ".join(f"{median(rounds[way]):.1f}" for way in ("loop", "chosen"))
    print(f"| {SMALL.text.dim} | {layers} of {SMALL.text.n_layers} | {times} | {ratio:.1f} x |")


if __name__ == "__main__":
    main()
