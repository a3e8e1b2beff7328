"""Slots: the rows of one KV cache, for answers that are decoded together and for prompts that are prefilled.

Letters of the shapes: B rows, T tokens, S positions, C channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checkpoints.weights import MoondreamModel
from ..devices import Recorder, from_host
from ..network.decoder.cache import KVCache
from .decoder_steps import EagerSteps, RecordedSteps, run_decoder
from .decoding.outputs import Decoding, can_lag, decode_outputs
from .jobs import Job
from .memory import log_memory

# Tokens of a prompt that are run at once.
MAX_PROMPT_PART = 1024


class Slots:
    """A KV cache of ``num_slots`` rows to decode in and ``num_prefill_rows`` rows after them, and their jobs.

    Each row has ``num_positions`` positions. The ``active`` jobs lie in the first rows without gaps, and each step
    decodes all of them. Prompts are prefilled in free slots if there are enough. ``waiting`` are jobs that were
    prefilled in other rows, with their row: a free slot is filled by a copy of that row.
    ``record``: how steps are recorded and repeated, see ``RecordedSteps``; None runs each step in its exact shape.
    ``lags``: whether the host reads the outputs of a step while the device runs the next one; see ``step``.
    """

    def __init__(
        self,
        model: MoondreamModel,
        num_slots: int,
        num_prefill_rows: int,
        num_positions: int,
        record: Recorder | None = None,
        lags: bool = False,
    ) -> None:
        self.model, self.num_slots, self.num_prefill_rows = model, num_slots, num_prefill_rows
        self.num_positions, num_rows = num_positions, num_slots + num_prefill_rows
        self.cache = KVCache.empty(model.config.text, num_rows, num_positions, like=model.text.wte)
        # The next input of each row.
        self.embeds_BC = model.text.wte.new_zeros(num_rows, model.config.text.dim)
        self._steps: EagerSteps | RecordedSteps = EagerSteps(model, self.cache, self.embeds_BC)
        if record is not None:
            self._steps = RecordedSteps(model, self.cache, self.embeds_BC, num_slots, record)
        self.lags = lags
        # The outputs of the last step that are not read yet.
        self._last: Decoding | None = None
        self.active: list[Job] = []
        self.waiting: deque[tuple[int, Job]] = deque()
        log_memory(model, num_slots, self.cache)

    @property
    def jobs(self) -> list[Job]:
        """All jobs, the active ones first."""
        return [*self.active, *(job for _, job in self.waiting)]

    def prefill(self, jobs: Sequence[Job], prefixes: Sequence[KVCache]) -> list[Job]:
        """Run the prompts of jobs after their image prefixes, and decode the first output of each job.

        There are at most ``num_prefill_rows`` jobs. Each prefix is a cache of one row. No job may be waiting.

        Returns:
            The jobs that ended with their first output. All others are added to ``active`` or ``waiting``.
        """
        # Of the copies of a prefix, the one from a prefill row to a slot is spared.
        fits = len(self.active) + len(jobs) <= self.num_slots
        first = len(self.active) if fits else self.num_slots
        cache = self.cache.slice_rows(first, first + len(jobs))
        for index, prefix in enumerate(prefixes):
            cache.copy_from(prefix, [index], prefix.num_positions)
        starts = [prefix.num_positions for prefix in prefixes]
        hidden_BC = run_prompts(self.model, [job.row.prompt for job in jobs], starts, cache)
        for job, start in zip(jobs, starts, strict=True):
            job.row.position = start + len(job.row.prompt)
        self.embeds_BC[first : first + len(jobs)] = decode_outputs(self.model, hidden_BC, [job.row for job in jobs])
        if fits:
            self.active.extend(jobs)
            return self._evict_finished()
        self.waiting.extend((first + index, job) for index, job in enumerate(jobs) if not job.row.finish_reason)
        return [job for job in jobs if job.row.finish_reason]

    def admit_waiting(self) -> None:
        """Move waiting jobs into free slots, the oldest first, until none waits or no slot is free."""
        while self.waiting and len(self.active) < self.num_slots:
            self.active.append(self._admit(len(self.active)))

    def step(self) -> list[Job]:
        """Decode the next output of every active job, and return the jobs that ended. Waiting jobs take their slots.

        With ``lags``, the outputs of a step may be added at the next call, while the device runs the step of that call.
        The last step of an answer that ended is then for nothing.
        """
        rows = [job.row for job in self.active]
        last, self._last = self._last, None
        may_lag = self.lags and can_lag(rows, num_unread=1 if last else 0)
        if last and not may_lag:
            last.read()
            if ended := self._evict_finished():
                return ended
            last = None
        hidden_BC = self._steps.run([row.position for row in rows])
        for row in rows:
            row.position += 1
        decoding = Decoding(self.model, hidden_BC, rows)
        if may_lag:
            self._last = decoding
        if reading := last if may_lag else decoding:
            reading.read()
        self.embeds_BC[: len(rows)] = decoding.embeds_BC
        return self._evict_finished()

    def _evict_finished(self) -> list[Job]:
        """Remove and return the active jobs that ended. A waiting job fills the gap, or else the last active job."""
        ended = []
        for slot in reversed(range(len(self.active))):
            if self.active[slot].row.finish_reason is None:
                continue
            ended.append(self.active[slot])
            if self.waiting:
                self.active[slot] = self._admit(slot)
                continue
            last = self.active.pop()
            if slot < len(self.active):
                self._move(len(self.active), slot, last)
                self.active[slot] = last
        return ended

    def _admit(self, slot: int) -> Job:
        """Move the oldest waiting job into this slot, and return the job."""
        row, job = self.waiting.popleft()
        self._move(row, slot, job)
        return job

    def _move(self, row: int, slot: int, job: Job) -> None:
        self.cache.copy_row(row, slot, job.row.position)
        self.embeds_BC[slot] = self.embeds_BC[row]


def run_prompts(
    model: MoondreamModel, prompts: Sequence[Sequence[int]], starts: Sequence[int], cache: KVCache
) -> Tensor:
    """Run one prompt in each row of a cache, from position ``starts`` of that row on.

    Returns:
        The hidden state at the last token of each prompt, before the last norm, ``[B, C]``.
    """
    lengths = [len(prompt) for prompt in prompts]
    longest, device = max(lengths), cache.heads.device
    # Padding is written after the position of its row: the mask hides it until real tokens overwrite it.
    padded = from_host([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], torch.int64, device)
    positions_BT = from_host(starts, torch.int64, device)[:, None] + torch.arange(longest, device=device)
    last_BC = model.text.wte.new_zeros(len(prompts), model.config.text.dim)
    # In parts, because the mask of a long prompt has a number for each pair of positions.
    for start in range(0, longest, MAX_PROMPT_PART):
        part = slice(start, min(start + MAX_PROMPT_PART, longest))
        embeds_BTC = model.text.embed(padded[:, part])
        hidden_BTC = run_decoder(model, embeds_BTC, positions_BT[:, part], max(starts) + part.stop, cache)
        ending = [row for row, length in enumerate(lengths) if start < length <= part.stop]
        if ending:
            last_BC[ending] = hidden_BTC[ending, [lengths[row] - 1 - start for row in ending]]
    return last_BC
