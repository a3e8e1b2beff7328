"""Any image-text-to-text model of transformers, on this machine, as an annotator for captions and queries."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..hosted.http.images import oversamples_area
from ..hosted.openai.annotator import MAX_PIXELS, all_caption_prompts, changed_settings, short_digest
from ..moondream.devices import choose_device, choose_dtype
from ..moondream.names import check_device
from ..tasks import Caption, Detect, Outcome, Query, Request, Size, Task
from .checkpoint import Files
from .florence import MODEL_TYPE
from .prompts import check_template

if TYPE_CHECKING:
    from .model import LoadedModel, Prompts

BATCH_SIZE = 8
# Requests are pulled for so many batches at once, and sorted by length.
SORTED_BATCHES = 4
MODULES = ("transformers", "torchvision")


class TransformersModel:
    """An ``AutoModelForImageTextToText`` of transformers as an Annotator: captions, queries, and boxes of Florence-2.

    Such models are Qwen2.5-VL, SmolVLM, LLaVA, Gemma 3, PaliGemma, InternVL and Florence-2. The weights must be
    safetensors. Code of the repository is not run. The constructor identifies the checkpoint; the first ``answer``
    loads the weights. A pickle holds no weights.

    Args:
        model: a repository on the Hugging Face hub, or a folder.
        revision: a branch, tag or commit on the hub; by default the default branch.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16. auto is float32 on a CPU, else the checkpoint's own.
        batch_size: how many requests are decoded at once at most. It is halved when the memory is too small.
        max_pixels: larger pictures are scaled down to about this number of pixels.
        caption_prompts: the text for captions of some lengths, such as ``{"short": "Describe the person."}``.
        prompt_template: a text with ``{prompt}`` and the marks of the picture; by default the checkpoint's chat
            template.
        threads: CPU threads of PyTorch; None leaves their number alone.

    Raises:
        ValueError: if an argument has a bad value, there is no such model, or it has no safetensors.
        RuntimeError: if the hub cannot be reached.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = BATCH_SIZE,
        max_pixels: int = MAX_PIXELS,
        caption_prompts: Mapping[str, str] | None = None,
        prompt_template: str | None = None,
        threads: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: give 1 or more")
        if max_pixels < 1:
            raise ValueError(f"max pixels {max_pixels}: give 1 or more")
        check_device(device)
        choose_dtype(dtype, torch.device("cpu"))
        check_template(prompt_template)
        self.caption_prompts = all_caption_prompts(caption_prompts)
        self.name = os.path.expanduser(model)
        self._files = Files.find(self.name, revision)
        self._is_florence = self._files.model_type() == MODEL_TYPE
        self.tasks: frozenset[type[Task]] = frozenset({Caption, Query, *([Detect] if self._is_florence else [])})
        if self._is_florence and prompt_template is not None:
            raise ValueError(f"prompt template {prompt_template!r}: Florence-2 has task tokens instead: leave it out")
        self.device, self.max_pixels, self.prompt_template = device, max_pixels, prompt_template
        self._dtype, self._batch_size, self._threads = dtype, batch_size, threads
        self._loaded: LoadedModel | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def revision(self) -> str:
        """The commit or digest of the files, and what else changes the answers, such as the image processor."""
        # Torchvision and Pillow give different pixels. The processor of this name is loaded, or the load fails.
        parts = [self._files.revision, "images by torchvision"]
        parts += changed_settings(self.max_pixels, self.caption_prompts)
        if self.prompt_template is not None:
            parts.append(f"prompt_template {short_digest(self.prompt_template)}")
        return "; ".join(parts)

    def check(self) -> None:
        """Check that the extra is installed, and that processor and template make a prompt for a small picture.

        Raises:
            ValueError: if a module is missing, transformers has no such model, or the processor rejects the prompt.
            RuntimeError: if the device does not exist here, or the hub cannot be reached.
        """
        require_extra()
        from .loading import load_processor

        choose_device(self.device)
        processor = load_processor(self._files.fetch_small(), self.name, self.max_pixels)
        text = self._prompts().text_of(processor, Request("", Image.new("RGB", (64, 64)), Caption()))
        try:
            processor(text=[text], images=[[Image.new("RGB", (64, 64))]], return_tensors="pt")
        except (ValueError, IndexError, StopIteration) as error:
            raise ValueError(
                f"model {self.name}: its processor rejects the prompt {text!r} with one picture ({error}); put its "
                "mark of the picture into --prompt-template"
            ) from error

    def fetch(self) -> None:
        """Download the weights to a cache of this machine unless they are there. ``load`` does the same first.

        Raises:
            ValueError: if the repository has no safetensors.
            RuntimeError: if the weights cannot be reached or changed after planning, or the disk is full.
        """
        self._files.fetch()

    def load(self) -> LoadedModel:
        """Return the model of this process. The first call loads the weights to the device.

        Raises:
            ValueError: if a module is missing, or transformers cannot read the files.
            RuntimeError: if the device does not exist here, or the files are missing or changed after planning.
        """
        with self._lock:
            if self._loaded is None:
                require_extra()
                from .loading import load_model, load_processor
                from .model import LoadedModel

                folder, device = self._files.fetch(), choose_device(self.device)
                processor = load_processor(folder, self.name, self.max_pixels)
                model = load_model(folder, self.name, self._dtype, device, processor)
                self._loaded = LoadedModel(model, processor, self._prompts(), device, self._batch_size)
            return self._loaded

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return whether ``reduced`` has at least twice the pixels a side of what the model gets."""
        return oversamples_area(reduced, self.max_pixels)

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Yield one outcome for each request. Several threads may call at once, and take turns.

        Raises:
            ValueError, RuntimeError: as ``load``.
        """
        arriving = ((request, time.monotonic()) for request in requests)
        while pulled := list(islice(arriving, SORTED_BATCHES * self._batch_size)):
            loaded = self.load()
            with self._lock:
                # PyTorch keeps this number for each thread.
                if self._threads is not None and torch.get_num_threads() != self._threads:
                    torch.set_num_threads(self._threads)
                outcomes = list(loaded.answer(pulled))
            yield from outcomes

    def _prompts(self) -> Prompts:
        from .model import Prompts

        return Prompts(self.caption_prompts, self.prompt_template, self.max_pixels, self._is_florence)


def require_extra() -> None:
    """Raise ValueError if a module of the extra is not installed."""
    for module in MODULES:
        if find_spec(module) is None:
            raise ValueError(
                f"--backend transformers needs the module {module}, which is not installed: "
                "pip install 'moondream-beam[transformers]'"
            )
