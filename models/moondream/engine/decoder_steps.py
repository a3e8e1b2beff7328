"""Runs of the decoder for one token of many rows: in exact shapes, or in a few shapes that CUDA graphs replay.

A step launches a dozen operations for each layer. A GPU waits for most of these launches; a graph is a single one.
Letters of the shapes: B rows, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..checkpoints.weights import MoondreamModel
from ..devices import Recorder, from_host
from ..network.decoder.cache import KVCache

# Steps of up to this many rows are rounded up to a power of 2, all others to a multiple of it.
ROW_BUCKET = 16
# Visible positions are rounded up to a multiple of this number. Kernels for masks need a multiple of 8.
POSITION_BUCKET = 128


def run_decoder(
    model: MoondreamModel, embeds_BTC: Tensor, positions_BT: Tensor, num_visible: int, cache: KVCache
) -> Tensor:
    """Run the decoder with a causal mask over the first ``num_visible`` positions of the cache, ``[B, T, C]``."""
    mask_B1TS = torch.arange(num_visible, device=embeds_BTC.device) <= positions_BT[:, None, :, None]
    return model.text(embeds_BTC, positions_BT, mask_B1TS, cache)


class EagerSteps:
    """Steps over the first rows of a cache. ``embeds_BC`` holds the next input of each row."""

    def __init__(self, model: MoondreamModel, cache: KVCache, embeds_BC: Tensor) -> None:
        self.model, self.cache, self.embeds_BC = model, cache, embeds_BC

    def run(self, positions: Sequence[int]) -> Tensor:
        """Feed the inputs of the first B rows at these B positions. Return the hidden states, ``[B, C]``.

        The result is valid until the next call.
        """
        positions_BT = from_host([[position] for position in positions], torch.int64, self.embeds_BC.device)
        num_rows = len(positions)
        embeds_BTC, cache = self.embeds_BC[:num_rows, None], self.cache.slice_rows(0, num_rows)
        return run_decoder(self.model, embeds_BTC, positions_BT, max(positions) + 1, cache)[:, 0]


class RecordedSteps:
    """The same steps, with rows and visible positions rounded up to buckets. The work of each bucket is recorded once.

    ``record``: ``cuda_graphs`` for a GPU. With ``repeat_eagerly`` the same buckets run on any device.
    """

    def __init__(
        self, model: MoondreamModel, cache: KVCache, embeds_BC: Tensor, num_slots: int, record: Recorder
    ) -> None:
        self.model, self.cache, self.embeds_BC, self.num_slots = model, cache, embeds_BC, num_slots
        self._record = record
        self._positions_BT = torch.zeros(num_slots, 1, dtype=torch.int64, device=embeds_BC.device)
        self._hidden_BTC = torch.zeros_like(embeds_BC[:num_slots, None])
        self._recorded: dict[tuple[int, int], Callable[[], object]] = {}

    def run(self, positions: Sequence[int]) -> Tensor:
        """See ``EagerSteps.run``."""
        bucket = row_bucket(len(positions), self.num_slots), self._position_bucket(max(positions) + 1)
        # Rows without an answer write to position 0 of a free slot, and the row that is admitted there overwrites it.
        padded = [*positions, *[0] * (bucket[0] - len(positions))]
        self._positions_BT[: bucket[0]] = from_host(padded, torch.int64, self.embeds_BC.device)[:, None]
        if bucket not in self._recorded:
            self._recorded[bucket] = self._record(lambda: self._step(*bucket))
        self._recorded[bucket]()
        return self._hidden_BTC[: len(positions), 0]

    def _step(self, num_rows: int, num_visible: int) -> None:
        embeds_BTC, cache = self.embeds_BC[:num_rows, None], self.cache.slice_rows(0, num_rows)
        hidden_BTC = run_decoder(self.model, embeds_BTC, self._positions_BT[:num_rows], num_visible, cache)
        self._hidden_BTC[:num_rows] = hidden_BTC

    def _position_bucket(self, num_visible: int) -> int:
        return min(-(-num_visible // POSITION_BUCKET) * POSITION_BUCKET, self.cache.num_positions)


def row_bucket(num_rows: int, num_slots: int) -> int:
    """Return the number of rows that a step of ``num_rows`` rows runs, at most ``num_slots``."""
    if num_rows < ROW_BUCKET:
        return min(1 << (num_rows - 1).bit_length(), num_slots)
    return min(-(-num_rows // ROW_BUCKET) * ROW_BUCKET, num_slots)


def repeat_eagerly(work: Callable[[], None]) -> Callable[[], object]:
    """Return the work itself: the oracle of ``cuda_graphs`` on any device."""
    return work


def cuda_graphs(device: torch.device) -> Recorder:
    """Return a recorder that captures work as CUDA graphs, which share one pool of memory. Not run on a GPU yet."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], None]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                # Libraries allocate their workspaces in the first run, which a capture must not do.
                work()
            torch.cuda.current_stream(device).wait_stream(side)
            # Other threads resize pictures on the GPU meanwhile. With the default mode, that would end the capture.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                work()

        def replay() -> None:
            with torch.cuda.device(device):
                graph.replay()

        return replay

    return record
