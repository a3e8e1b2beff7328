"""Moondream on this machine: requests in, answers out, a batch of pictures and prompts at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..tasks import Answer, Box, Caption, Detect, Fault, Outcome, Point, Query, Request, Spot, Task, Timings, Tokens
from .config import MoondreamConfig
from .crops import Crops, normalize, prepare_crops
from .devices import check_device, choose_device, choose_dtype
from .generate import Row, generate
from .prompts import prompt_ids
from .sampling import generator
from .text import Cache
from .tokenizer import Tokenizer
from .weights import TOKENIZER_FILE, Checkpoint, MoondreamModel

# The folder beside this one: the embedded checkpoint.
EMBEDDED = {"tiny": Path(__file__).parents[1] / "tiny"}
MOST_ROWS = 32
# What the cache of one batch may take, where the batch size is ours to choose.
CACHE_BYTES = 2 << 30
CROPS_PER_PASS = 64
CROP_THREADS = 4
# Pixels of the pictures held at once, whatever the batch size: they may be anybody's, and a gigabyte each.
PIXELS_AT_ONCE = 256 << 20


class Moondream:
    """A Moondream checkpoint as an Annotator. It loads when first asked, once in a process, and pickles unloaded.

    ``model``: ``"tiny"`` or a folder with config.json, model.safetensors and tokenizer.json. ``device``: auto, cpu,
    cuda, cuda:N or mps. ``dtype``: auto, float32, bfloat16 or float16. ``batch_size``: requests answered at once.
    ``threads``: CPU threads of a process.

    Raises:
        ValueError: there is no such model, device or dtype.
    """

    tasks: frozenset[type[Task]] = frozenset({Caption, Query, Detect, Point})

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch size {batch_size}: give 1 or more")
        self.name = model
        # A worker finds the embedded one in its own package, and a folder from whatever folder it runs in.
        self._source = model if model in EMBEDDED else os.path.abspath(model)
        self.revision = find_checkpoint(self._source).revision
        self._device, self._dtype, self._batch_size, self._threads = device, dtype, batch_size, threads
        check_device(device)
        choose_dtype(dtype, torch.device("cpu"))
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def load(self) -> Engine:
        """The engine of this process, with the weights on its device.

        Raises:
            ValueError: the weights don't fit their configuration.
            RuntimeError: the device is not there, or the weights are not those that the job was planned with.
        """
        with self._lock:
            if self._engine is None:
                checkpoint = find_checkpoint(self._source)
                if checkpoint.revision != self.revision:
                    raise RuntimeError(f"model {self.name}: the weights are not those that the job was planned with")
                if self._threads is not None:
                    torch.set_num_threads(self._threads)
                device = choose_device(self._device)
                self._engine = Engine(checkpoint, device, choose_dtype(self._dtype, device))
            return self._engine

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Answer a stream of requests; they come out batch by batch."""
        engine = self.load()
        batch_size = self._batch_size or engine.default_batch_size()
        for batch in _gather(requests, batch_size):
            # Threads of one process take turns: the model is one.
            with self._lock:
                started = time.perf_counter()
                outcomes = engine.answer_batch([request for request, _ in batch])
            waits_ms = {request.id: 1000 * (started - arrived) for request, arrived in batch}
            for outcome in outcomes:
                yield replace(outcome, timings=replace(outcome.timings, wait_ms=waits_ms[outcome.id]))


def _gather(requests: Iterable[Request], batch_size: int) -> Iterator[list[tuple[Request, float]]]:
    """Batches of requests with the time of their arrival, ``PIXELS_AT_ONCE`` or ``batch_size`` of them at most."""
    batch: list[tuple[Request, float]] = []
    pictures: dict[int, int] = {}
    for request in requests:
        batch.append((request, time.perf_counter()))
        pictures[id(request.picture)] = request.picture.width * request.picture.height
        if len(batch) == batch_size or sum(pictures.values()) >= PIXELS_AT_ONCE:
            yield batch
            batch, pictures = [], {}
    if batch:
        yield batch


def find_checkpoint(model: str) -> Checkpoint:
    """The checkpoint behind a model's name: an embedded one, or a local folder.

    Raises:
        ValueError: there is none.
    """
    folder = EMBEDDED.get(model, Path(model))
    if not folder.is_dir():
        raise ValueError(f"model {model}: no such folder; give one with config.json and model.safetensors, or 'tiny'")
    return Checkpoint.at(folder)


@dataclass
class _Job:
    """A request and its row, while it is being answered."""

    request: Request
    row: Row


class Engine:
    """A loaded checkpoint."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.model: MoondreamModel = checkpoint.load(device, dtype)
        self.tokenizer = Tokenizer(checkpoint.folder / TOKENIZER_FILE)
        self.device, self.dtype = device, dtype
        self.backend = f"local/{device.type}/{str(dtype).removeprefix('torch.')}"
        self._threads = ThreadPoolExecutor(CROP_THREADS, thread_name_prefix="crops")

    @property
    def config(self) -> MoondreamConfig:
        """The numbers of the network."""
        return self.model.config

    def default_batch_size(self) -> int:
        """As many rows as the memory set aside for their cache holds at full length."""
        text = self.config.text
        row_bytes = 2 * text.n_layers * text.n_kv_heads * text.head_dim * text.max_context * self.dtype.itemsize
        return max(1, min(MOST_ROWS, CACHE_BYTES // row_bytes))

    @torch.inference_mode()
    def answer_batch(self, requests: Sequence[Request]) -> list[Outcome]:
        """Answer these requests together: one outcome for each, in no particular order."""
        started = time.perf_counter()
        jobs, crops, faults = self._prepare(requests)
        if not jobs:
            return faults
        prefixes = self.encode(crops)
        encoded = time.perf_counter()
        generate(self.model, prefixes, [job.row for job in jobs])
        done = time.perf_counter()
        timings = Timings(
            encode_ms=1000 * (encoded - started) / len(jobs), generate_ms=1000 * (done - encoded) / len(jobs)
        )
        return [*faults, *(self._outcome(job, timings) for job in jobs)]

    def encode(self, pictures: Sequence[Crops]) -> Cache:
        """Crops of B pictures to the keys and values of their image prefixes, ``[layers, B, H, P, D]``."""
        vision, text = self.model.vision, self.model.text
        features = []
        pixels_NHWC = torch.cat([torch.from_numpy(crops.pixels_NHWC) for crops in pictures])
        for part in pixels_NHWC.split(CROPS_PER_PASS):
            features.append(vision.encode(normalize(part.to(self.device), self.dtype)))
        image_BTC = vision.project(torch.cat(features), [crops.tiling for crops in pictures])
        bos = torch.full((len(pictures), 1), self.config.tokenizer.bos_id, device=self.device)
        embeds_BTC = torch.cat([text.embed(bos), image_BTC], dim=1)
        length = embeds_BTC.shape[1]
        prefixes = Cache.empty(self.config.text, len(pictures), length, like=embeds_BTC)
        positions_BT = torch.arange(length, device=self.device).expand(len(pictures), -1)
        text(embeds_BTC, positions_BT, cache=prefixes)
        return prefixes

    def _prepare(self, requests: Sequence[Request]) -> tuple[list[_Job], list[Crops], list[Outcome]]:
        """Rows and crops of what can be answered, faults of what can't; one picture object is cut once."""
        pictures = {id(request.picture): request.picture for request in requests}
        cuts = {
            key: self._threads.submit(prepare_crops, picture, self.config.vision) for key, picture in pictures.items()
        }
        jobs, faults = [], []
        crops: dict[int, Crops] = {}
        for request in requests:
            key = id(request.picture)
            try:
                row = self._row(request)
                crops[key] = cuts[key].result()
            except Exception as error:  # Pillow raises many kinds over a picture that it can't read to the end.
                faults.append(Outcome(request.id, Fault.of(error), self.backend))
            else:
                row.prefix = list(crops).index(key)
                jobs.append(_Job(request, row))
        return jobs, list(crops.values()), faults

    def _row(self, request: Request) -> Row:
        task, text = request.task, self.config.text
        if request.picture.mode != "RGB":
            raise ValueError(f"the picture is {request.picture.mode}; decode it to RGB first")
        if 0 in request.picture.size:
            raise ValueError("the picture has no pixels")
        prompt = prompt_ids(task, self.config.tokenizer.templates, self.tokenizer)
        places = isinstance(task, Detect | Point)
        row = Row(
            prompt=prompt,
            limit=task.max_objects if isinstance(task, Detect | Point) else request.sampling.budget(task),
            sampling=request.sampling,
            random=generator(request.id),
            wish="object" if places else "word",
            sized=isinstance(task, Detect),
        )
        # An answer that would not fit the context ends where the context ends, and says "length".
        room = text.max_context - text.prefix_attn - len(prompt) - 1
        row.limit = min(row.limit, room // row.stride)
        if row.limit < 1:
            raise ValueError(f"the prompt of {len(prompt)} tokens leaves no room for an answer; ask a shorter one")
        return row

    def _outcome(self, job: _Job, timings: Timings) -> Outcome:
        row, task = job.row, job.request.task
        assert row.finish_reason is not None
        if isinstance(task, Detect):
            answer = Answer(row.finish_reason, objects=tuple(_box(*place) for place in row.places))
        elif isinstance(task, Point):
            answer = Answer(row.finish_reason, points=tuple(Spot(*place) for place in row.places))
        else:
            answer = Answer(row.finish_reason, text=self.tokenizer.decode(row.ids))
        written = len(row.ids) + row.stride * len(row.places)
        tokens = Tokens(self.config.text.prefix_attn + len(row.prompt), written)
        return Outcome(job.request.id, answer, self.backend, timings, tokens)


def _box(x: float, y: float, width: float, height: float) -> Box:
    """Centre and size to corners, clamped to the picture (the reference lets boxes hang over its edge)."""
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Box(*(min(1.0, max(0.0, corner)) for corner in corners))
