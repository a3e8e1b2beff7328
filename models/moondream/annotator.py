"""Moondream on this machine as an Annotator: a name that loads when first asked, once in a process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..tasks import Outcome, Request, Size
from .checkpoints.hub import OFFICIAL
from .checkpoints.sources import find_source
from .devices import check_device, choose_device, choose_dtype
from .engine.engine import Engine
from .network.crops import keeps_crops


class Moondream:
    """A Moondream checkpoint as an Annotator. It loads when first asked, once in a process, and pickles unloaded.

    ``model``: a repository on the Hugging Face hub; a folder, here or in a bucket, with config.json, model.safetensors
    and tokenizer.json, or one .safetensors; or ``"tiny"``. ``revision``: a branch, tag or commit on the hub; for files
    elsewhere, the release that they are of, where nothing tells. ``tokenizer``: a tokenizer.json, or a folder with one,
    in the place of the checkpoint's own. ``device``: auto, cpu, cuda, cuda:N or mps. ``dtype``: auto, float32, bfloat16
    or float16. ``batch_size``: requests answered at once, None for as many as the device's memory holds. ``threads``:
    CPU threads of a process.

    Raises:
        ValueError: there is no such model, device or dtype.
        RuntimeError: the model is where nothing can be reached.
    """

    def __init__(
        self,
        model: str = OFFICIAL,
        revision: str | None = None,
        tokenizer: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch size {batch_size}: give 1 or more")
        check_device(device)
        choose_dtype(dtype, torch.device("cpu"))
        self.name = model
        self._source = find_source(model, revision, tokenizer)
        self.revision, self.tasks = self._source.revision, self._source.tasks
        self._device, self._dtype, self._batch_size, self._threads = device, dtype, batch_size, threads
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def fetch(self) -> None:
        """Bring the weights to this machine, if they are not; without it, ``load`` does.

        Raises:
            ValueError: they are gone, or closed to us.
            RuntimeError: they can't be reached, or the disk is full.
        """
        self._source.fetch()

    def load(self) -> Engine:
        """The engine of this process, with the weights on its device.

        Raises:
            ValueError: the weights don't fit their configuration.
            RuntimeError: the device is not there, the weights can't be fetched, or they are not those that the job was
                planned with.
        """
        with self._lock:
            if self._engine is None:
                checkpoint = self._source.checkpoint()
                device = choose_device(self._device)
                self._engine = Engine(
                    checkpoint, device, choose_dtype(self._dtype, device), self._batch_size, self._threads
                )
            return self._engine

    def uses_cpu_fallback(self) -> bool:
        """Whether this machine has no accelerator, where any would have done."""
        return self._device == "auto" and choose_device("auto").type == "cpu"

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Whether ``reduced`` are twice as many pixels, a side, as the crops of a picture of ``size`` take, or more."""
        return keeps_crops(size, reduced, self._source.vision)

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Answer a stream of requests; outcomes come as they are ready. Callers in several threads share the slots."""
        yield from self.load().answer(requests)
