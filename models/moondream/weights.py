"""Checkpoints: safetensors in the official naming to a network, with every tensor accounted for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .config import MoondreamConfig
from .region import Region
from .text import Text
from .vision import Vision

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
# All tensors of the official checkpoints bear it.
PREFIX = "model."
NAMES_SHOWN = 5
REVISION_DIGITS = 12
READ_BYTES = 1 << 22


class MoondreamModel(nn.Module):
    """The network: vision, text and region, named as the tensors of the official checkpoint are."""

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = Vision(config.vision)
        self.text = Text(config.text)
        self.region = Region(config.region)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights, and the revision that its content amounts to."""

    folder: Path
    revision: str

    @classmethod
    def at(cls, folder: Path) -> Checkpoint:
        """The checkpoint in a local folder; its revision is the start of the sha256 over its three files.

        Raises:
            ValueError: the folder lacks a file, or one is not whole; a tensor is missing, left over or of another shape
                than the configuration says.
        """
        names = (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE)
        for name in names:
            if not (folder / name).is_file():
                raise ValueError(f"model {folder}: there is no {name} in this folder")
        _check_tensors(folder)
        digest = hashlib.sha256()
        for name in names:
            with (folder / name).open("rb") as file:
                while block := file.read(READ_BYTES):
                    digest.update(block)
        return cls(folder, digest.hexdigest()[:REVISION_DIGITS])

    def load(self, device: torch.device, dtype: torch.dtype) -> MoondreamModel:
        """The network with its weights, ready to infer."""
        model = _empty_model(self.folder)
        with safe_open(self.folder / WEIGHTS_FILE, framework="pt", device=str(device)) as file:
            state = {name: file.get_tensor(PREFIX + name).to(dtype) for name in model.state_dict()}
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(False).eval()


def _empty_model(folder: Path) -> MoondreamModel:
    with torch.device("meta"):
        return MoondreamModel(MoondreamConfig.read(folder / CONFIG_FILE))


def _check_tensors(folder: Path) -> None:
    """Hold the names and shapes in the file's header against the configuration; no weight is read."""
    expected = {PREFIX + name: tensor.shape for name, tensor in _empty_model(folder).state_dict().items()}
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            found = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        # A download cut short, or the pointer that git leaves in a file's place without LFS.
        raise ValueError(f"model {folder}: {WEIGHTS_FILE} is not whole ({error}); fetch it again") from error
    missing, left_over = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    misshapen = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = []
    for label, names in (("missing", missing), ("left over", left_over), ("of another shape", misshapen)):
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            problems.append(f"{label}: {', '.join(names[:NAMES_SHOWN])}{more}")
    if problems:
        raise ValueError(f"model {folder}: the tensors don't fit the configuration; {'; '.join(problems)}")
