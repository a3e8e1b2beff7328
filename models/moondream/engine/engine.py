"""The engine: a loaded checkpoint that keeps its slots full, whoever asks.

Requests of all callers share the slots: a slot whose answer ends is filled at once by the next one that is prefilled,
while the others go on. There is no thread of its own: the callers that wait for outcomes take turns to drive it.
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
from ..devices import is_out_of_memory
from ..network.config import MoondreamConfig
from ..network.crops import Crops, normalize, prepare_crops
from ..network.resize import resize, resize_on
from ..network.text import Cache
from .jobs import Cut, Job, new_row, outcome_of
from .memory import MOST_SLOTS, free_memory, slots_that_fit, spare_rows
from .request_stream import RequestStream
from .slots import Slots

# An accelerator wants many at once; a CPU is as quick with few, and they take less memory.
CROPS_PER_PASS, CROPS_PER_CPU_PASS = 64, 8
CROP_THREADS = 4
# A cache is made this much wider at a time, in positions.
WIDTH_STEP = 256

logger = logging.getLogger(__name__)


class Engine:
    """A loaded checkpoint. ``batch_size``: slots, None for as many as fit the free memory of the device."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.model: MoondreamModel = checkpoint.load(device, dtype)
        self.tokenizer = checkpoint.tokenizer()
        self.device, self.dtype, self.batch_size, self.threads = device, dtype, batch_size, threads
        self.backend = f"local/{device.type}/{str(dtype).removeprefix('torch.')}"
        self.crops_per_pass = CROPS_PER_CPU_PASS if device.type == "cpu" else CROPS_PER_PASS
        self.most_slots = batch_size or MOST_SLOTS
        # What one request that fits nowhere took from the others is given back to them.
        self._at_first = (self.most_slots, self.crops_per_pass)
        # On a GPU it takes a fraction of the time, and the CPU has pictures to decode.
        self._resize = resize_on(device) if device.type == "cuda" else resize
        self._cutters = ThreadPoolExecutor(CROP_THREADS, thread_name_prefix="crops")
        self._turn = threading.Condition()
        self._driving = False
        self._streams: list[RequestStream] = []
        self._slots: Slots | None = None
        self._owners: dict[Job, RequestStream] = {}
        # The prefix of the picture that was encoded last: more of its requests may come.
        self._held: tuple[Cut, Cache] | None = None

    @property
    def config(self) -> MoondreamConfig:
        """The numbers of the network."""
        return self.model.config

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Answer a stream: one outcome for every request, as they are ready."""
        stream = RequestStream(
            requests,
            new_row=lambda request: new_row(request, self.config, self.tokenizer),
            cut=lambda request: prepare_crops(request.picture, self.config.vision, self._resize, request.size),
            cutters=self._cutters,
            turn=self._turn,
            backend=self.backend,
            jobs_ahead=self.most_slots,
        )
        with self._turn:
            self._streams.append(stream)
        try:
            while outcomes := self._next(stream):
                yield from outcomes
        finally:
            stream.close()

    def _next(self, stream: RequestStream) -> list[Outcome]:
        """The next outcomes of a stream, none where it is over. Who waits drives the engine, unless somebody does."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: stream.outbox or stream.is_over or (not self._driving and self._has_work()))
                if stream.outbox:
                    outcomes = list(stream.outbox)
                    stream.outbox.clear()
                    return outcomes
                if stream.error:
                    raise stream.error
                if stream.is_over:
                    return []
                self._driving = True
            try:
                self._advance()
            finally:
                with self._turn:
                    self._driving = False
                    self._turn.notify_all()

    def _has_work(self) -> bool:
        return bool(self._owners) or any(stream.is_ready for stream in self._streams)

    @torch.inference_mode()
    def _advance(self) -> None:
        """Fill the slots and take one step."""
        # The number of threads is one of the thread that runs the network, which may be another each time.
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        try:
            self._leave_closed_streams()
            self._fill_slots()
            if self._slots is not None and self._slots.active:
                self._step(self._slots)
        except BaseException as error:
            if not is_out_of_memory(error):
                self._break_off(error)
                raise
            # Nothing may keep what the failed pass had allocated: not even the traceback.
            error.__traceback__ = None
            self._make_do_with_less(Fault.of(error, retryable=True))

    def _fill_slots(self) -> None:
        while self._slots is None or (not self._slots.waiting and len(self._slots.active) < self._slots.count):
            jobs = self._take_ready(self._slots.spare if self._slots else spare_rows(self.most_slots))
            if not jobs:
                return
            slots = self._slots_for(jobs)
            # They may have been taken for more spare rows than there are now.
            self._put_back(jobs[slots.spare :])
            ended = self._prefill(slots, jobs[: slots.spare])
            slots.fill()
            # Somebody may wait for these: what is to come after them can wait for a step.
            if ended:
                return

    def _take_ready(self, most: int) -> list[Job]:
        """Jobs of all callers in turn, whose pictures could be cut."""
        jobs: list[Job] = []
        with self._turn:
            # Who was first is last the next time.
            self._streams = [*self._streams[1:], *self._streams[:1]]
        for stream in self._streams:
            taken = stream.take(most - len(jobs))
            self._owners.update(dict.fromkeys(taken, stream))
            for job in taken:
                if error := job.cut.exception():
                    self._fail(job, Fault.of(error, retryable=is_out_of_memory(error)))
                else:
                    jobs.append(job)
        return jobs

    def _slots_for(self, jobs: Sequence[Job]) -> Slots:
        """The slots, made anew where they are too narrow for one of these jobs."""
        needed = self.config.prefix_length + max(job.row.room for job in jobs)
        if self._slots is None or self._slots.width < needed:
            if self._slots is not None:
                # It happens a few times in the life of a process, and all begin anew.
                self._put_back(self._slots.jobs)
            width = min(self.config.text.max_context, -(-needed // WIDTH_STEP) * WIDTH_STEP)
            self._slots = None
            if self.batch_size is None:
                memory = free_memory(self.device, self.config, self.crops_per_pass, self.dtype)
                self.most_slots = min(self.most_slots, slots_that_fit(memory, self.config, width, self.dtype))
            self._slots = Slots(self.model, self.most_slots, spare_rows(self.most_slots), width)
        return self._slots

    def _prefill(self, slots: Slots, jobs: list[Job]) -> list[Job]:
        """Encode pictures, run prompts; the jobs that are over with their first token."""
        started = time.perf_counter()
        prefixes, crops = self._prefixes(jobs)
        self._synchronize()
        encoded = time.perf_counter()
        ended = slots.prefill(jobs, prefixes)
        answered = time.perf_counter()
        cuts = [job.cut for job in jobs]
        for job in jobs:
            job.wait_ms += 1000 * (started - job.arrived)
            # By crops: large pictures are most of the work.
            job.encode_ms += 1000 * (encoded - started) * crops[job.cut] / sum(crops.values()) / cuts.count(job.cut)
            job.generate_ms += 1000 * (answered - encoded) / len(jobs)
        for job in ended:
            self._settle(job)
        return ended

    def _prefixes(self, jobs: Sequence[Job]) -> tuple[list[Cache], dict[Cut, float]]:
        """The image prefix of each job, a cache of one row, and how much of the work each picture was."""
        known = dict([self._held] if self._held else [])
        fresh = [cut for cut in dict.fromkeys(job.cut for job in jobs) if cut not in known]
        if fresh:
            prefixes = self.encode([cut.result() for cut in fresh])
            known.update({cut: prefixes.rows(index, index + 1) for index, cut in enumerate(fresh)})
        last = jobs[-1].cut
        # A copy, that the others of its batch be freed.
        self._held = (last, Cache(*(tensor.clone() for tensor in known[last])))
        crops = {cut: float(len(cut.result().pixels_NHWC)) for cut in fresh} or dict.fromkeys(known, 1.0)
        return [known[job.cut] for job in jobs], {cut: crops.get(cut, 0.0) for cut in known}

    def _step(self, slots: Slots) -> None:
        started, jobs = time.perf_counter(), list(slots.active)
        ended = slots.step()
        took_ms = 1000 * (time.perf_counter() - started)
        for job in jobs:
            job.generate_ms += took_ms / len(jobs)
        for job in ended:
            self._settle(job)

    def encode(self, pictures: Sequence[Crops]) -> Cache:
        """Crops of B pictures to the keys and values of their image prefixes, ``[layers, B, H, P, D]``."""
        vision, text = self.model.vision, self.model.text
        features = []
        pixels_NHWC = torch.cat([torch.from_numpy(crops.pixels_NHWC) for crops in pictures])
        for part in pixels_NHWC.split(self.crops_per_pass):
            features.append(vision.encode(normalize(part.to(self.device), self.dtype)))
        image_BTC = vision.project(torch.cat(features), [crops.tiling for crops in pictures])
        opening = [self.config.tokenizer.bos_id, *self.config.tokenizer.before_image]
        opening_BT = torch.tensor(opening, device=self.device).expand(len(pictures), -1)
        embeds_BTC = torch.cat([text.embed(opening_BT), image_BTC], dim=1)
        length = self.config.prefix_length
        prefixes = Cache.empty(self.config.text, len(pictures), length, like=embeds_BTC)
        positions_BT = torch.arange(length, device=self.device).expand(len(pictures), -1)
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()[None, None]
        text.memorize(embeds_BTC, positions_BT, None if self.config.text.prefix_attn else causal, prefixes)
        return prefixes

    def _settle(self, job: Job) -> None:
        stream = self._owners.pop(job)
        # What nobody listens to may end in the middle of a place.
        if not stream.closed:
            stream.settle(outcome_of(job, self.config, self.tokenizer, self.backend))

    def _fail(self, job: Job, fault: Fault) -> None:
        self._owners.pop(job).settle(Outcome(job.id, fault, self.backend))

    def _put_back(self, jobs: Sequence[Job]) -> None:
        for job in reversed(jobs):
            self._owners.pop(job).put_back(job)

    def _leave_closed_streams(self) -> None:
        """Forget callers that are gone. Their answers end where they are, to leave their slots at the next step."""
        with self._turn:
            self._streams = [stream for stream in self._streams if not (stream.closed or stream.is_over)]
        for job, stream in self._owners.items():
            if stream.closed:
                job.row.finish_reason = "length"

    def _make_do_with_less(self, fault: Fault) -> None:
        """Begin anew, with half of the slots and crops at once; what does not fit alone either has failed."""
        jobs, self._slots, self._held = list(self._owners), None, None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(jobs) == self.most_slots == self.crops_per_pass == 1:
            self._fail(jobs[0], fault)
            self.most_slots, self.crops_per_pass = self._at_first
            logger.warning("out of memory: a request fits nowhere, others go on as before")
            return
        self._put_back(jobs)
        self.most_slots, self.crops_per_pass = max(1, self.most_slots // 2), max(1, self.crops_per_pass // 2)
        logger.warning("out of memory: %d answers at once from now on", self.most_slots)

    def _break_off(self, error: BaseException) -> None:
        """Nobody gets an answer any more that was being written."""
        self._slots, self._held = None, None
        self._owners.clear()
        with self._turn:
            for stream in self._streams:
                stream.error = error
            self._streams = []

    def _synchronize(self) -> None:
        """Wait for what was started, where a device works on its own: only then the clock tells what it took."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
