"""Time of the mixture of experts of one block: sorted rows, a gather, and a loop over the experts, in one run.

``python benchmarks/engine/experts.py`` has the real numbers of experts (64, 8 for each token) and the real ratio of
their inner channels (half of ``dim``). It runs on a CPU with ``--threads`` threads. Times are CPU times of the process,
the medians of many rounds. A round times each way once, and ratios are medians over the rounds: other work on the
machine slows all ways of a round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from moondream_beam.models.moondream.devices import DTYPES
from moondream_beam.models.moondream.network.config import MoeConfig
from moondream_beam.models.moondream.network.decoder.experts import Experts

# Image prefix and prompt of one picture; and rows of a decoding step.
PREFILL_ROWS, DECODE_ROWS = 735, (1, 4, 8, 32)
NUM_ROUNDS = 100
MAX_GATHERED_ROWS = 64


def main() -> None:
    """Time each way and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--float8", action="store_true", help="weights of the experts in float8")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights = "float8" if args.float8 else args.dtype
    print(f"weights {weights}, activations {args.dtype}, {args.threads} threads, torch {torch.__version__}\n")
    print("| dim | rows | loop, ms | sorted, ms | gather, ms | chosen | loop / chosen |\n|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        for dim in args.dims:
            experts = random_experts(dim, args.float8, DTYPES[args.dtype])
            for rows in (PREFILL_ROWS, *DECODE_ROWS):
                print(table_row(experts, dim, rows, DTYPES[args.dtype]), flush=True)


def random_experts(dim: int, float8: bool, dtype: torch.dtype) -> Experts:
    """Return experts with random weights, whose inner channels are half of ``dim``."""
    experts = Experts(dim, MoeConfig(expert_inner_dim=dim // 2, float8=float8)).requires_grad_(False)
    noise = torch.Generator().manual_seed(0)
    for part in experts.parameters():
        scale = part.shape[-1] ** -0.5
        part.data = (torch.randn(part.shape, generator=noise) * scale).to(part.dtype if float8 else dtype)
    if float8:
        experts.router.to(dtype)
    return experts


def table_row(experts: Experts, dim: int, rows: int, dtype: torch.dtype) -> str:
    """Return the times of one number of rows, as a row of the table."""
    x_NC = torch.randn(rows, dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    shares_NK, chosen_NK = experts.route(x_NC)
    ways: dict[str, Callable[[], Tensor]] = {
        "loop": lambda: loop(experts, x_NC, shares_NK, chosen_NK),
        "sorted": lambda: experts.mix_sorted(x_NC, shares_NK, chosen_NK),
    }
    if rows <= MAX_GATHERED_ROWS:
        ways["gather"] = lambda: experts.mix_gathered(x_NC, shares_NK, chosen_NK)
    rounds = time_rounds(ways)
    chosen = "gather" if experts.gathers(chosen_NK) else "sorted"
    times = [f"{median(rounds[way]):.2f}" if way in rounds else "" for way in ("loop", "sorted", "gather")]
    ratio = median(loop / best for loop, best in zip(rounds["loop"], rounds[chosen], strict=True))
    return f"| {dim} | {rows} | {' | '.join(times)} | {chosen} | {ratio:.1f} x |"


def loop(experts: Experts, x_NC: Tensor, shares_NK: Tensor, chosen_NK: Tensor) -> Tensor:
    """Return the sums of the experts' outputs by a plain loop over the experts."""
    out_NC = torch.zeros_like(x_NC)
    for number in range(experts.config.num_experts):
        rows, places = (chosen_NK == number).nonzero(as_tuple=True)
        if len(rows):
            first, second = (
                part.weight[number].to(x_NC.dtype) * (part.scale[number][:, None].to(x_NC.dtype) if part.float8 else 1)
                for part in (experts.fc1, experts.fc2)
            )
            u, g = F.linear(x_NC[rows], first).chunk(2, dim=-1)
            out_NC.index_add_(0, rows, F.linear(F.gelu(u) * (g + 1), second) * shares_NK[rows, places, None])
    return out_NC


def time_rounds(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return the CPU times of this process for each way in each round, in milliseconds."""
    rounds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(NUM_ROUNDS):
        for way, work in ways.items():
            started = time.process_time()
            work()
            rounds[way].append(1000 * (time.process_time() - started))
    return rounds


if __name__ == "__main__":
    main()
