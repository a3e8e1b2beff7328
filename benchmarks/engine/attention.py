"""The attention of a decoding step by different ways, for ``gpu.py attention``.

The rows of a step see different numbers of positions. Letters of the shapes: B rows, H heads, S positions, D channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from support.data.golden import Golden
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from moondream_beam.models.moondream.devices import Recorder
from moondream_beam.models.moondream.network.decoder import attention_choice
from moondream_beam.models.moondream.network.decoder.attention import WAYS, sdpa
from moondream_beam.models.moondream.network.decoder.text import Text

NUM_REPEATS = 20
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}


def times(
    num_rows: int, num_positions: int, num_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, float | str]]:
    """Yield the microseconds of one layer's attention by ways that the engine does not offer, or the error of a way.

    "flash without mask" reads every row to its end, so it is the least time of a kernel without masks.
    """
    noise = torch.Generator().manual_seed(0)
    shape = (num_rows, num_heads, num_positions, head_dim)
    k_BHSD, v_BHSD = (torch.randn(shape, generator=noise).to(device, dtype) for _ in range(2))
    q_BH1D = torch.randn(num_rows, num_heads, 1, head_dim, generator=noise).to(device, dtype)
    lengths_B = torch.randint(num_positions * 3 // 4, num_positions, (num_rows,), generator=noise).to(device)
    mask_B11S = (torch.arange(num_positions, device=device) < lengths_B[:, None])[:, None, None]
    ways: dict[str, Callable[[], Tensor]] = {
        "flash without mask": _with("flash", lambda: F.scaled_dot_product_attention(q_BH1D, k_BHSD, v_BHSD)),
        "efficient": _with("efficient", lambda: F.scaled_dot_product_attention(q_BH1D, k_BHSD, v_BHSD, mask_B11S)),
        "math": _with("math", lambda: F.scaled_dot_product_attention(q_BH1D, k_BHSD, v_BHSD, mask_B11S)),
    }
    if device.type == "cuda":
        # Its kernel is compiled, so that a CPU would need a compiler of C++.
        ways["flex, compiled"] = _flex(q_BH1D, k_BHSD, v_BHSD, lengths_B)
    for way, attend in ways.items():
        try:
            yield way, 1e6 * _seconds(attend, device)
        except Exception as error:
            yield way, f"{type(error).__name__}: {str(error).splitlines()[0]}"


def figures(text: Text, golden: Golden, slots: Sequence[int], record: Recorder) -> Iterator[tuple[str, object]]:
    """Yield the figures of ``gpu.py attention``, by name."""
    device, config = golden.device, text.config
    measured = attention_choice.measure_ways(text, slots[0], record)
    yield "as the engine measures, microseconds", measured
    yield "chosen", attention_choice.fastest(measured)
    yield "same ids as sdpa", dict(same_ids(golden, record))
    for rows in (slots[0], slots[-1]):
        others = dict(times(rows, 896, config.n_heads, config.head_dim, device, golden.dtype))
        yield f"{rows} rows of 896 positions, microseconds", others


def same_ids(golden: Golden, record: Recorder) -> Iterator[tuple[str, str]]:
    """Yield how many of 16 rows of a golden have the ids of ``sdpa``, by each way that the engine may choose."""
    text, wanted = golden.engine.model.text, []
    for way, attend in {"sdpa": sdpa, **WAYS}.items():
        text.step_attention = attend
        try:
            found = [row.token_ids for row in golden.decode(golden.runs[:16], num_slots=16, record=record)]
            wanted = wanted or found
            yield way, f"{sum(map(list.__eq__, found, wanted))} of {len(found)} rows"
        except Exception as error:
            yield way, f"{type(error).__name__}: {str(error)[:120]}"


def _with(backend: str, attend: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def limited() -> Tensor:
        with sdpa_kernel(BACKENDS[backend]):
            return attend()

    return limited


def _flex(q_BH1D: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, lengths_B: Tensor) -> Callable[[], Tensor]:
    """Return FlexAttention with a mask of blocks, so that it reads no block behind the end of a row."""

    def attend() -> Tensor:
        # Compiled at the first call, whose error then is this way's own.
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        nonlocal compiled, mask
        if compiled is None:

            def is_visible(row: Tensor, head: Tensor, query: Tensor, position: Tensor) -> Tensor:
                return position < lengths_B[row]

            mask = create_block_mask(is_visible, len(q_BH1D), None, 1, k_BHSD.shape[2], device=q_BH1D.device)
            compiled = torch.compile(flex_attention)
        return compiled(q_BH1D, k_BHSD, v_BHSD, block_mask=mask)

    compiled, mask = None, None
    return attend


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    """Return the least elapsed seconds of one call."""
    found = []
    with torch.inference_mode():
        work()
        for _ in range(NUM_REPEATS):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - started)
    return min(found)
