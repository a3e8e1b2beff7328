"""The engine: a loaded checkpoint that answers a batch of pictures and prompts at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ..tasks import Answer, Box, Detect, Fault, Outcome, Point, Request, Spot, Timings, Tokens
from .config import MoondreamConfig
from .crops import Crops, normalize, prepare_crops
from .generate import Row, generate
from .prompts import prompt_ids
from .sampling import generator
from .text import Cache
from .weights import Checkpoint, MoondreamModel

MOST_ROWS = 32
# What the cache of one batch may take, where the batch size is ours to choose.
CACHE_BYTES = 2 << 30
CROPS_PER_PASS = 64
CROP_THREADS = 4


@dataclass
class _Job:
    """A request and its row, while it is being answered."""

    request: Request
    row: Row


class Engine:
    """A loaded checkpoint."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.model: MoondreamModel = checkpoint.load(device, dtype)
        self.tokenizer = checkpoint.tokenizer()
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
        opening = [self.config.tokenizer.bos_id, *self.config.tokenizer.before_image]
        opening_BT = torch.tensor(opening, device=self.device).expand(len(pictures), -1)
        embeds_BTC = torch.cat([text.embed(opening_BT), image_BTC], dim=1)
        length = embeds_BTC.shape[1]
        prefixes = Cache.empty(self.config.text, len(pictures), length, like=embeds_BTC)
        positions_BT = torch.arange(length, device=self.device).expand(len(pictures), -1)
        causal = None if self.config.text.prefix_attn else positions_BT[:, None, None] <= positions_BT[:, None, :, None]
        text(embeds_BTC, positions_BT, causal, prefixes)
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
        room = text.max_context - self.config.prefix_length - len(prompt) - 1
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
        tokens = Tokens(self.config.prefix_length + len(row.prompt), written)
        return Outcome(job.request.id, answer, self.backend, timings, tokens)


def _box(x: float, y: float, width: float, height: float) -> Box:
    """Centre and size to corners, clamped to the picture (the reference lets boxes hang over its edge)."""
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Box(*(min(1.0, max(0.0, corner)) for corner in corners))
