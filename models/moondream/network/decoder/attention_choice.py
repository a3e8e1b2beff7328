"""Choose the attention of decoding steps by a measurement on the device where the steps run.

Letters of the shapes: B rows, T new tokens, S cached positions, H heads, D channels of a head.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ...devices import Recorder, is_device_lost, synchronize
from .attention import PAGE_MULTIPLE, WAYS, Attention, Visible, sdpa
from .cache import KVCache
from .text import Text

# The measured bucket: rows that see up to MAX_VISIBLE positions, an image prefix with a prompt and a caption.
MAX_ROWS, MAX_VISIBLE, NUM_REPEATS = 16, 896, 20
# Another way must be faster by this share, so that noise does not change the answers from one process to the next.
MIN_GAIN = 0.1
# The largest error of another way, relative to the norm of what ``sdpa`` gives: rounding errors of the dtype, or this.
MIN_TOLERANCE = 1e-5
ROUNDING_ERRORS = 2
SDPA = "sdpa"
# Characters of the error of a way.
MAX_REASON = 120

logger = logging.getLogger(__name__)


def choose_attention(text: Text, num_rows: int, record: Recorder | None) -> str:
    """Give a decoder on CUDA the fastest attention for its steps. Leave a decoder on another device alone.

    Args:
        num_rows: the largest number of rows of a step.
        record: how steps are recorded and repeated; None: they run one operation after the other.

    Returns:
        What the backend of rows gets: "" for ``sdpa``, otherwise "/attention-" and the name of the way.
    """
    device = text.wte.device
    if device.type != "cuda":
        return ""
    figures = measure_ways(text, min(num_rows, MAX_ROWS), record or (lambda work: work))
    torch.cuda.empty_cache()
    chosen = fastest(figures)
    logger.info("attention of a step, microseconds a layer: %s; chosen: %s", figures, chosen)
    if chosen == SDPA:
        return ""
    text.step_attention = WAYS[chosen]
    return f"/attention-{chosen}"


def fastest(figures: Mapping[str, float | str]) -> str:
    """Return the way with the least time. That is ``sdpa`` unless another way gains ``MIN_GAIN``."""
    times = {way: figure for way, figure in figures.items() if isinstance(figure, float)}
    best = min(times, key=times.__getitem__, default=SDPA)
    return best if best != SDPA and times[best] < (1 - MIN_GAIN) * times[SDPA] else SDPA


@torch.inference_mode()
def measure_ways(
    text: Text,
    num_rows: int,
    record: Recorder,
    ways: Mapping[str, Attention] = WAYS,
    measure: Callable[[Callable[[], object], torch.device], float] | None = None,
) -> dict[str, float | str]:
    """Return the microseconds of one layer's attention by way: of ``sdpa`` and of each of ``ways``.

    Each way runs as the steps do. A way that fails, or whose result differs from that of ``sdpa`` by more than the
    rounding errors of the dtype, has the reason in place of a time. Without memory for the bucket nothing is measured.

    Args:
        measure: returns the microseconds of a function; by default ``microseconds``.

    Raises:
        torch.AcceleratorError: if the device has failed.
    """
    figures: dict[str, float | str] = {}
    wanted: Tensor | None = None
    try:
        q_BHTD, visible = random_step(text, num_rows)
    except torch.OutOfMemoryError:
        return figures
    for way, attend in {SDPA: sdpa, **ways}.items():
        try:
            out_BHTD = torch.zeros_like(q_BHTD)
            repeat = record(partial(_attend_into, out_BHTD, attend, q_BHTD, visible))
            repeat()
            wanted = out_BHTD.clone() if wanted is None else wanted
            error = ((out_BHTD - wanted).float().norm() / wanted.float().norm()).item()
            if error <= max(ROUNDING_ERRORS * torch.finfo(q_BHTD.dtype).eps, MIN_TOLERANCE):
                figures[way] = (measure or microseconds)(repeat, q_BHTD.device)
            else:
                figures[way] = f"differs by {error:.2g}"
        except Exception as error:  # Kernels refuse devices, dtypes and shapes by errors of many types.
            if is_device_lost(error) or way == SDPA:
                raise
            figures[way] = f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_REASON]}"
    return figures


def random_step(text: Text, num_rows: int) -> tuple[Tensor, Visible]:
    """Return random queries ``[B, H, 1, D]``, and a random cache of one layer in which each row sees another number.

    The positions behind the end of a row hold large numbers: a way that reads them gives another result.
    """
    config, like = dataclasses.replace(text.config, n_layers=1), text.wte
    num_visible = min(MAX_VISIBLE, config.max_context)
    # The cache of an answer may have any multiple of it, or the whole context.
    is_paged = config.max_context % PAGE_MULTIPLE == 0
    num_positions = -(-num_visible // PAGE_MULTIPLE) * PAGE_MULTIPLE if is_paged else config.max_context
    cache = KVCache.empty(config, num_rows, num_positions, like)
    noise = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise).to(like.device, like.dtype)

    for row in cache.heads[0]:
        row.copy_(random(*row.shape))
    positions_B1 = torch.linspace(0, num_visible - 1, num_rows, device=like.device).long()[:, None]
    sees_BS = torch.arange(num_positions, device=like.device) <= positions_B1
    cache.heads.mul_(torch.where(sees_BS, 1.0, 100.0).to(like.dtype)[:, None, :, None])
    mask_BS = torch.zeros_like(sees_BS, dtype=like.dtype).masked_fill(~sees_BS, -torch.inf)
    visible = Visible(mask_BS[:, None, None, :num_visible], num_visible, positions_B1, cache)
    return random(num_rows, 1, config.n_heads, config.head_dim).transpose(1, 2), visible.with_pages()


def _attend_into(out_BHTD: Tensor, attend: Attention, q_BHTD: Tensor, visible: Visible) -> None:
    assert visible.cache is not None
    k_BHSD, v_BHSD = visible.cache.heads[0][:, :, : visible.num_visible].chunk(2, dim=1)
    out_BHTD.copy_(attend(q_BHTD, k_BHSD, v_BHSD, 0, visible))


def microseconds(repeat: Callable[[], object], device: torch.device) -> float:
    """Return the mean time of a call, of ``NUM_REPEATS``."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(NUM_REPEATS):
        repeat()
    synchronize(device)
    return 1e6 * (time.perf_counter() - started) / NUM_REPEATS
