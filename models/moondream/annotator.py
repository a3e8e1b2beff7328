"""Moondream on this machine as an Annotator: found by name, loaded once in a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..tasks import Outcome, Request, Size
from .checkpoints.sources import find_source
from .devices import choose_device, choose_dtype
from .engine.engine import Engine
from .engine.memory import available_memory, check_memory
from .names import OFFICIAL, check_device
from .network.crops import accepts_reduced


class Moondream:
    """A Moondream checkpoint as an Annotator.

    The constructor identifies the checkpoint; the weights are loaded at the first call of ``load`` or ``answer``. A
    pickle holds no weights.

    ``model``: a repository on the Hugging Face hub; a folder, here or in a bucket, with config.json, model.safetensors
    and tokenizer.json; one .safetensors; or "tiny". ``revision``: a branch, tag or commit on the hub; elsewhere the
    release of the weights, if nothing in the files identifies it. ``tokenizer``: a tokenizer.json, or a folder with
    one, instead of the checkpoint's own. ``device``: auto, cpu, cuda, cuda:N or mps. ``dtype``: auto, float32, bfloat16
    or float16. ``batch_size``: requests decoded at once; None for as many as fit into memory. ``threads``: CPU threads
    of PyTorch; None leaves their number alone. ``graphs``: whether a CUDA device replays steps as CUDA graphs; without
    them the ``backend`` of the rows ends in "/no-graphs".

    Attributes:
        device: the device as it was given.

    Raises:
        ValueError: if there is no such model, device or dtype, or ``batch_size`` is below 1.
        RuntimeError: if the model's bucket or the hub cannot be reached.
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
        graphs: bool = True,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch size {batch_size}: give 1 or more")
        check_device(device)
        choose_dtype(dtype, torch.device("cpu"))
        # A shell leaves ~ as it is in quotes and behind an equals sign.
        self.name = os.path.expanduser(model)
        self._source = find_source(self.name, revision, tokenizer and os.path.expanduser(tokenizer))
        traits = self._source.traits
        self.revision, self.tasks = self._source.revision, traits.tasks
        self.supports_reasoning = traits.supports_reasoning
        self.device, self._dtype, self._batch_size, self._threads = device, dtype, batch_size, threads
        self._graphs = graphs
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def fetch(self) -> None:
        """Download the weights to a cache of this machine unless they are there. ``load`` does the same first.

        Raises:
            ValueError: if the weights were deleted or are not accessible.
            RuntimeError: if the weights cannot be reached, or the disk is full.
        """
        self._source.fetch()

    def check_memory(self) -> None:
        """Check that the free memory of the device holds the weights and the cache of one request.

        Raises:
            DeviceTooSmall: if the memory is too small.
            RuntimeError: if the device does not exist here.
        """
        device = choose_device(self.device)
        dtype = choose_dtype(self._dtype, device)
        check_memory(self.name, self._source.traits, dtype, device, available_memory(device))

    def load(self) -> Engine:
        """Return the engine of this process. The first call loads the weights to the device.

        Raises:
            ValueError: if the weights do not fit their configuration.
            DeviceTooSmall: if the free memory of the device is too small.
            RuntimeError: if the device does not exist here, or the weights cannot be downloaded or changed after this
                object was made.
        """
        with self._lock:
            if self._engine is None:
                self.check_memory()
                checkpoint = self._source.checkpoint()
                device = choose_device(self.device)
                dtype = choose_dtype(self._dtype, device)
                self._engine = Engine(checkpoint, device, dtype, self._batch_size, self._threads, self._graphs)
            return self._engine

    def uses_cpu_fallback(self) -> bool:
        """Return whether ``device`` is "auto" and this machine has neither cuda nor mps."""
        return self.device == "auto" and choose_device("auto").type == "cpu"

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return whether each side of ``reduced`` has twice the pixels that the crops of a picture of ``size`` need."""
        return accepts_reduced(size, reduced, self._source.traits.vision)

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Yield one outcome for each request, in the order in which answers end. Several threads may call at once."""
        yield from self.load().answer(requests)
