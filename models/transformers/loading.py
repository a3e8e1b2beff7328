"""Loading of processor and model by transformers: only safetensors, only code of the library, all weights present."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.image_processing_backends import TorchvisionBackend
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ..moondream.devices import choose_dtype
from .pixels import limit_pixels

# Torchvision and Pillow scale pictures to different pixels. Video processors of Qwen need torchvision anyway.
IMAGE_BACKEND = "torchvision"


def load_processor(folder: Path, name: str, max_pixels: int) -> Any:
    """Return the processor of a checkpoint: image processor, tokenizer and chat template.

    Raises:
        ValueError: if the model is of another kind, its processor needs code of the repository or lacks a file, or
            transformers has no torchvision processor for it.
    """
    with _translate_errors(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ValueError(
                f"transformers {transformers.__version__} has no image-text-to-text model of type {config.model_type}; "
                "choose another --model"
            )
        processor = AutoProcessor.from_pretrained(
            folder, backend=IMAGE_BACKEND, trust_remote_code=False, local_files_only=True
        )
        # transformers takes another processor, with only a warning, if there is none of torchvision.
        if not isinstance(getattr(processor, "image_processor", None), TorchvisionBackend):
            raise ValueError("transformers has no torchvision processor for its pictures; choose another --model")
    limit_pixels(processor.image_processor, max_pixels)
    # Padding needs a token of its own; what it is makes no difference, because padding is masked.
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def load_model(folder: Path, name: str, dtype_name: str, device: torch.device, processor: Any) -> Any:
    """Return the model on a device, in evaluation mode, with greedy search by default.

    Raises:
        ValueError: if transformers cannot read the weights, or a weight is missing or has another shape.
    """
    with _translate_errors(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        # The progress lines of the command are on the same terminal.
        transformers.logging.disable_progress_bar()
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=model_dtype(dtype_name, device, getattr(config, "dtype", None)),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        model, info = loaded
        # transformers fills them with random numbers, and only warns.
        if wrong := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
            raise ValueError(
                f"{len(wrong)} weights are missing or have another shape, such as {wrong[0]}; choose another --model"
            )
    model.generation_config = generation_config(model, processor.tokenizer)
    return model.to(device).eval()


def model_dtype(name: str, device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    """Return the precision of that name.

    "auto" is float32 on a CPU, and elsewhere that of the checkpoint; float32 in place of a bfloat16 that the device
    lacks: models trained in bfloat16, such as Gemma 3, overflow in float16.

    Raises:
        ValueError: if there is no precision of that name.
    """
    fastest = choose_dtype(name, device)
    if name != "auto" or device.type == "cpu":
        return fastest
    stored = stored or torch.float32
    return torch.float32 if stored == torch.bfloat16 and fastest != torch.bfloat16 else stored


def generation_config(model: Any, tokenizer: Any) -> GenerationConfig:
    """Return the configuration of ``generate`` with the checkpoint's own special tokens, and nothing else of it.

    Checkpoints set temperatures and penalties that would apply on top of the requests' own.
    """
    own = model.generation_config
    return GenerationConfig(
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
        forced_bos_token_id=own.forced_bos_token_id,
        eos_token_id=sorted(end_ids(own.eos_token_id, tokenizer)) or None,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


def end_ids(configured: int | list[int] | None, tokenizer: Any) -> frozenset[int]:
    """Return the ids of all tokens that end an answer: those of the checkpoint's configuration and the tokenizer's."""
    ids = [configured] if isinstance(configured, int) else configured or []
    return frozenset(each for each in (*ids, tokenizer.eos_token_id) if each is not None)


@contextlib.contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Raise what transformers raises for files that do not fit as a ValueError with the model's name, in one line."""
    try:
        yield
    except (ValueError, OSError, KeyError, ImportError, AttributeError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in text:
            text = "it needs code from its repository, which is not run; choose another --model"
        raise ValueError(f"model {name}: {text}") from error
