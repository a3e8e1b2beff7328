"""Moondream on this machine as an Annotator: a name that loads when first asked, once in a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..tasks import Caption, Detect, Outcome, Point, Query, Request, Task
from .devices import check_device, choose_device, choose_dtype
from .engine import Engine
from .weights import Checkpoint

# The folder beside this one: the embedded checkpoint.
EMBEDDED = {"tiny": Path(__file__).parents[1] / "tiny"}


class Moondream:
    """A Moondream checkpoint as an Annotator. It loads when first asked, once in a process, and pickles unloaded.

    ``model``: ``"tiny"`` or a folder with config.json, model.safetensors and tokenizer.json. ``device``: auto, cpu,
    cuda, cuda:N or mps. ``dtype``: auto, float32, bfloat16 or float16. ``batch_size``: requests answered at once,
    None for as many as the device's memory holds. ``threads``: CPU threads of a process.

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
                device = choose_device(self._device)
                self._engine = Engine(
                    checkpoint, device, choose_dtype(self._dtype, device), self._batch_size, self._threads
                )
            return self._engine

    def falls_to_cpu(self) -> bool:
        """Whether this machine has no accelerator, where any would have done."""
        return self._device == "auto" and choose_device("auto").type == "cpu"

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Answer a stream of requests; outcomes come as they are ready. Callers in several threads share the slots."""
        yield from self.load().answer(requests)


def find_checkpoint(model: str) -> Checkpoint:
    """The checkpoint behind a model's name: an embedded one, or a local folder.

    Raises:
        ValueError: there is none.
    """
    folder = EMBEDDED.get(model, Path(model))
    if not folder.is_dir():
        raise ValueError(f"model {model}: no such folder; give one with config.json and model.safetensors, or 'tiny'")
    return Checkpoint.at(folder)
