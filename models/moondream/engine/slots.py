"""Slots: the answers being written, side by side, and those that wait, prefilled, for one to end.

Letters of the shapes: B rows, T tokens, S positions, C channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checkpoints.weights import MoondreamModel
from ..network.text import Cache
from .generate import advance
from .jobs import Job


class Slots:
    """The rows of one cache, ``width`` positions each. The first are ``active`` and step together; behind ``count`` of
    them lie ``spare`` rows, where prompts are prefilled, so that a slot that ends is filled again by a copy.
    """

    def __init__(self, model: MoondreamModel, count: int, spare: int, width: int) -> None:
        self.model, self.count, self.spare, self.width = model, count, spare, width
        self.cache = Cache.empty(model.config.text, count + spare, width, like=model.text.wte)
        # What each row is fed next.
        self.embeds_BC = model.text.wte.new_zeros(count + spare, model.config.text.dim)
        self.active: list[Job] = []
        self.waiting: deque[tuple[int, Job]] = deque()

    @property
    def jobs(self) -> list[Job]:
        """All that are in here, the oldest first."""
        return [*self.active, *(job for _, job in self.waiting)]

    def prefill(self, jobs: Sequence[Job], prefixes: Sequence[Cache]) -> list[Job]:
        """Run the prompts of at most ``spare`` jobs behind their image prefixes, a cache of one row for each, and take
        the first of each answer. Jobs that are over with it are returned; the others wait. None may wait before.
        """
        spare = self.cache.rows(self.count, self.count + len(jobs))
        for index, prefix in enumerate(prefixes):
            spare.copy([index], prefix, prefix.keys.shape[3])
        starts = [prefix.keys.shape[3] for prefix in prefixes]
        hidden_BC = run_prompts(self.model, [job.row.prompt for job in jobs], starts, spare)
        for job, start in zip(jobs, starts, strict=True):
            job.row.position = start + len(job.row.prompt)
        self.embeds_BC[self.count : self.count + len(jobs)] = advance(self.model, hidden_BC, [job.row for job in jobs])
        self.waiting.extend((self.count + index, job) for index, job in enumerate(jobs) if not job.row.finish_reason)
        return [job for job in jobs if job.row.finish_reason]

    def fill(self) -> None:
        """Give free slots to whom waits."""
        while self.waiting and len(self.active) < self.count:
            self.active.append(self._move_in(len(self.active)))

    def step(self) -> list[Job]:
        """Feed every active row and take the next of its answer. Those that end are returned, their slots filled."""
        rows = [job.row for job in self.active]
        positions_BT = torch.tensor([[row.position] for row in rows], device=self.embeds_BC.device)
        cache, embeds_BTC = self.cache.rows(0, len(rows)), self.embeds_BC[: len(rows), None]
        hidden_BTC = _run(self.model, embeds_BTC, positions_BT, max(row.position for row in rows) + 1, cache)
        for row in rows:
            row.position += 1
        self.embeds_BC[: len(rows)] = advance(self.model, hidden_BTC[:, 0], rows)
        return self._turn_out()

    def _turn_out(self) -> list[Job]:
        """The active jobs that have ended. The others stay side by side: one that waits fills a hole, or the last."""
        ended = []
        for slot in reversed(range(len(self.active))):
            if self.active[slot].row.finish_reason is None:
                continue
            ended.append(self.active[slot])
            if self.waiting:
                self.active[slot] = self._move_in(slot)
                continue
            last = self.active.pop()
            if slot < len(self.active):
                self._move(len(self.active), slot, last)
                self.active[slot] = last
        return ended

    def _move_in(self, slot: int) -> Job:
        row, job = self.waiting.popleft()
        self._move(row, slot, job)
        return job

    def _move(self, row: int, slot: int, job: Job) -> None:
        self.cache.move(row, slot, job.row.position)
        self.embeds_BC[slot] = self.embeds_BC[row]


def run_prompts(model: MoondreamModel, prompts: Sequence[Sequence[int]], starts: Sequence[int], cache: Cache) -> Tensor:
    """Run a prompt in each row of a cache, from position ``starts`` on; the hidden states behind them, ``[B, C]``.

    They are padded on the right: what a pad leaves in the cache lies behind its row's position, where nothing looks
    until it is overwritten.
    """
    lengths = [len(prompt) for prompt in prompts]
    widest, device = max(lengths), cache.keys.device
    padded = [[*prompt, *[0] * (widest - len(prompt))] for prompt in prompts]
    positions_BT = torch.tensor(starts, device=device)[:, None] + torch.arange(widest, device=device)
    embeds_BTC = model.text.embed(torch.tensor(padded, device=device))
    hidden_BTC = _run(model, embeds_BTC, positions_BT, max(starts) + widest, cache)
    return hidden_BTC[range(len(lengths)), [length - 1 for length in lengths]]


def _run(model: MoondreamModel, embeds_BTC: Tensor, positions_BT: Tensor, seen: int, cache: Cache) -> Tensor:
    mask_B1TS = torch.arange(seen, device=embeds_BTC.device) <= positions_BT[:, None, :, None]
    return model.text(embeds_BTC, positions_BT, mask_B1TS, cache)
