"""Continuous batching: one loaded checkpoint decodes the requests of all callers in shared slots.

When an answer ends, the next prefilled request takes its slot at once while the others go on. The engine has no thread
of its own: of the callers that wait for outcomes, one at a time runs the network for all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from ...tasks import Fault, Outcome, Request
from ..checkpoints.weights import Checkpoint, MoondreamModel
from ..devices import is_device_lost, is_out_of_memory
from ..network.config import MoondreamConfig
from ..network.crops import Crops, prepare_crops
from ..network.decoder.attention_choice import choose_attention
from ..network.decoder.cache import KVCache
from ..network.resize import resize, resize_on
from .decoder_steps import cuda_graphs
from .encoding import Batch, Batches
from .jobs import Job, new_row, outcome_of
from .memory import MAX_SLOTS, free_memory, num_prefill_rows, slots_that_fit
from .prefixes import Prefixes, encode_prefixes
from .request_stream import RequestStream
from .slots import Slots

# Crops of one pass of the vision encoder. A CPU is as fast with few crops, and they take less memory.
MAX_CROPS_PER_PASS, MAX_CROPS_PER_CPU_PASS = 64, 8
NUM_CROP_THREADS = 4
# The positions of a KV cache are a multiple of this number, so that it seldom has to be allocated again.
POSITIONS_STEP = 256
# Slots with more than this many times the positions that the jobs need are replaced by more and shorter ones.
MAX_SPARE = 4

logger = logging.getLogger(__name__)


class Engine:
    """A loaded checkpoint that answers requests of many callers.

    ``batch_size``: the number of slots; None for as many as fit into the free memory of the device. ``threads``: CPU
    threads of PyTorch; None leaves their number alone. ``graphs``: whether a CUDA device replays steps as CUDA graphs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int | None = None,
        threads: int | None = None,
        graphs: bool = True,
    ) -> None:
        self.model: MoondreamModel = checkpoint.load(device, dtype)
        self.tokenizer = checkpoint.tokenizer()
        self.device, self.dtype, self.batch_size, self.threads = device, dtype, batch_size, threads
        self.backend = f"local/{device.type}/{str(dtype).removeprefix('torch.')}"
        self._record = cuda_graphs(device) if graphs and device.type == "cuda" else None
        if device.type == "cuda" and not graphs:
            self.backend += "/no-graphs"
        self.backend += choose_attention(self.model.text, batch_size or MAX_SLOTS, self._record)
        self.max_crops_per_pass = MAX_CROPS_PER_CPU_PASS if device.type == "cpu" else MAX_CROPS_PER_PASS
        self.max_slots = batch_size or MAX_SLOTS
        # Restored after a request that does not fit even alone: the requests after it may fit.
        self._initial_limits = (self.max_slots, self.max_crops_per_pass)
        # A GPU resizes in a fraction of the time, and leaves the CPU to the decoding of pictures.
        self._resize = resize_on(device) if device.type == "cuda" else resize
        self._crop_pool = ThreadPoolExecutor(NUM_CROP_THREADS, thread_name_prefix="crops")
        self._condition = threading.Condition()
        self._is_driven = False
        self._streams: list[RequestStream] = []
        self._slots: Slots | None = None
        self._owners: dict[Job, RequestStream] = {}
        self._prefixes = Prefixes()
        self._batches = Batches(self._take_ready, lambda pictures: self._prefixes.of(pictures, self.encode), device)

    @property
    def config(self) -> MoondreamConfig:
        """The configuration of the network."""
        return self.model.config

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Yield one outcome for each request, in the order in which answers end.

        An error of the network is raised to all callers, an error of the iterable to this caller alone.
        """
        stream = RequestStream(
            requests,
            new_row=lambda request: new_row(request, self.config, self.tokenizer),
            make_crops=lambda request: prepare_crops(request.picture, self.config.vision, self._resize, request.size),
            crop_pool=self._crop_pool,
            condition=self._condition,
            backend=self.backend,
            jobs_ahead=self.max_slots,
        )
        with self._condition:
            self._streams.append(stream)
        try:
            while outcomes := self._next_outcomes(stream):
                yield from outcomes
        finally:
            stream.close()

    def _next_outcomes(self, stream: RequestStream) -> list[Outcome]:
        """Block until a stream has outcomes, and take them from its outbox; return [] when the stream is over.

        While no other caller runs the network, this one does. An error of the stream is raised.
        """
        while True:
            with self._condition:
                self._condition.wait_for(
                    lambda: stream.outbox or stream.is_over or (not self._is_driven and self._has_work())
                )
                if stream.outbox:
                    outcomes = list(stream.outbox)
                    stream.outbox.clear()
                    return outcomes
                if stream.error:
                    raise stream.error
                if stream.is_over:
                    return []
                self._is_driven = True
            try:
                self._advance()
            finally:
                with self._condition:
                    self._is_driven = False
                    self._condition.notify_all()

    def _has_work(self) -> bool:
        return bool(self._owners) or any(stream.is_ready for stream in self._streams)

    @torch.inference_mode()
    def _advance(self) -> None:
        """Fill the slots and run one decoding step. Outcomes go to the outboxes of their streams."""
        # PyTorch keeps this number for each thread, and each call may come from another thread.
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        try:
            self._drop_closed_streams()
            self._fill_slots()
            if self._slots is not None and self._slots.active:
                self._step(self._slots)
        except BaseException as error:
            if not is_out_of_memory(error):
                self._abort(error)
                raise
            # The frames of the traceback hold the tensors of the failed pass.
            error.__traceback__ = None
            self._reduce_batch_on_oom(Fault.of(error, retryable=True))

    def _fill_slots(self) -> None:
        """Prefill and admit jobs until the slots are full, no job is ready, or a job ended with its first output."""
        while self._slots is None or (not self._slots.waiting and len(self._slots.active) < self._slots.num_slots):
            may_wait = self._slots is None or not self._slots.active
            if not (batch := self._batches.take(self._num_prefill_rows, wait=may_wait)):
                return
            if self._slots and self._slots.active and self._is_oversized(self._slots, batch.jobs):
                # A long prompt made the slots long and few. They are replaced once the answers in them have ended.
                self._put_back(batch.jobs)
                return
            slots = self._ensure_slots(batch.jobs)
            # The new slots may have fewer prefill rows than the ones for which the jobs were taken.
            self._put_back(batch.cut(slots.num_prefill_rows))
            ended = self._prefill(slots, batch)
            slots.admit_waiting()
            if ended:
                # A caller may wait for these outcomes: they go out before the next pictures are encoded.
                return
        self._batches.encode_ahead(self._num_prefill_rows)

    @property
    def _num_prefill_rows(self) -> int:
        return self._slots.num_prefill_rows if self._slots else num_prefill_rows(self.max_slots)

    def _take_ready(self, max_jobs: int) -> list[Job]:
        """Return at most ``max_jobs`` jobs with crops, from streams in turn. Failed crops put a Fault in an outbox."""
        jobs: list[Job] = []
        with self._condition:
            # The first stream becomes the last, so that no caller starves the others.
            self._streams = [*self._streams[1:], *self._streams[:1]]
        for stream in self._streams:
            taken = stream.take(max_jobs - len(jobs))
            self._owners.update(dict.fromkeys(taken, stream))
            for job in taken:
                if error := job.crops.exception():
                    if is_device_lost(error):
                        # A GPU resizes pictures. After such an error it answers nothing, whatever the picture.
                        raise error
                    self._fail(job, Fault.of(error, retryable=is_out_of_memory(error)))
                else:
                    jobs.append(job)
        return jobs

    def _ensure_slots(self, jobs: Sequence[Job]) -> Slots:
        """Return slots with enough positions for each job; others if need be, old jobs then go to inboxes."""
        needed = self.config.prefix_length + max(job.row.num_positions for job in jobs)
        if self._slots is None or self._slots.num_positions < needed or self._is_oversized(self._slots, jobs):
            if self._slots is not None:
                # A few times in the life of a process; the answers begun are decoded again from the start.
                self._put_back(self._slots.jobs)
            num_positions = min(self.config.text.max_context, -(-needed // POSITIONS_STEP) * POSITIONS_STEP)
            self._slots, num_slots = None, self.max_slots
            if self.batch_size is None:
                memory = free_memory(self.device, self.config, self.max_crops_per_pass, self.dtype)
                num_slots = min(num_slots, slots_that_fit(memory, self.config, num_positions, self.dtype))
            num_prefill = num_prefill_rows(num_slots)
            lags = self.device.type == "cuda"
            self._slots = Slots(self.model, num_slots, num_prefill, num_positions, self._record, lags)
        return self._slots

    def _is_oversized(self, slots: Slots, jobs: Sequence[Job]) -> bool:
        """Return whether slots have more than ``MAX_SPARE`` times the positions that their jobs and ``jobs`` need."""
        needed = self.config.prefix_length + max(job.row.num_positions for job in [*slots.jobs, *jobs])
        return slots.num_positions > MAX_SPARE * needed

    def _prefill(self, slots: Slots, batch: Batch) -> list[Job]:
        """Run prompts after their pictures. Return the jobs that ended; their outcomes are in the outboxes."""
        jobs, prefixes = batch.jobs, batch.take_prefixes()
        encoded = time.perf_counter()
        ended = slots.prefill(jobs, prefixes)
        answered = time.perf_counter()
        for job in jobs:
            job.generate_ms += 1000 * (answered - encoded) / len(jobs)
        for job in ended:
            self._finish(job)
        return ended

    def _step(self, slots: Slots) -> None:
        started, jobs = time.perf_counter(), list(slots.active)
        ended = slots.step()
        took_ms = 1000 * (time.perf_counter() - started)
        for job in jobs:
            job.generate_ms += took_ms / len(jobs)
        for job in ended:
            self._finish(job)

    def encode(self, pictures: Sequence[Crops]) -> KVCache:
        """Return keys and values of the image prefixes of B pictures, ``[layers, B, H, prefix_length, D]``."""
        return encode_prefixes(self.model, pictures, self.max_crops_per_pass)

    def _finish(self, job: Job) -> None:
        stream = self._owners.pop(job)
        # The job of a closed stream may have ended in the middle of an object, of which no box can be made.
        if not stream.closed:
            stream.finish(outcome_of(job, self.config, self.tokenizer, self.backend))

    def _fail(self, job: Job, fault: Fault) -> None:
        self._owners.pop(job).finish(Outcome(job.id, fault, self.backend))

    def _put_back(self, jobs: Sequence[Job]) -> None:
        for job in reversed(jobs):
            self._owners.pop(job).put_back(job)

    def _drop_closed_streams(self) -> None:
        """Remove the streams that are closed or over. The next step evicts the jobs of closed streams."""
        with self._condition:
            self._streams = [stream for stream in self._streams if not (stream.closed or stream.is_over)]
        for job, stream in self._owners.items():
            if stream.closed:
                job.row.finish_reason = "length"

    def _reduce_batch_on_oom(self, fault: Fault) -> None:
        """Restart all jobs with half the slots and half the crops of a pass.

        If both numbers are 1 and one job was in the engine, that job gets ``fault``, and the numbers are restored.
        """
        # The memory may have held fewer slots than the limit.
        num_slots = min(self.max_slots, self._slots.num_slots) if self._slots else self.max_slots
        jobs, self._slots = list(self._owners), None
        self._batches.clear()
        self._prefixes.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(jobs) == num_slots == self.max_crops_per_pass == 1:
            self._fail(jobs[0], fault)
            self.max_slots, self.max_crops_per_pass = self._initial_limits
            logger.warning("out of memory: request %s fails, others go on; retry it on a larger device", jobs[0].id)
            return
        self._put_back(jobs)
        self.max_slots, self.max_crops_per_pass = max(1, num_slots // 2), max(1, self.max_crops_per_pass // 2)
        logger.warning("out of memory: all requests restart, %d at once; nothing to do", self.max_slots)

    def _abort(self, error: BaseException) -> None:
        """Drop all jobs and slots, and set ``error`` of every open stream: each ``answer`` in progress raises it."""
        self._slots = None
        self._batches.clear()
        self._prefixes.clear()
        self._owners.clear()
        with self._condition:
            for stream in self._streams:
                stream.error = error
            self._streams = []
