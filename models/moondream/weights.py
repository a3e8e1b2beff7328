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
        """The checkpoint in a local folder; its revision is the start of the sha256 of the weights.

        Raises:
            ValueError: the folder lacks a file.
        """
        for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
            if not (folder / name).is_file():
                raise ValueError(f"model {folder}: there is no {name} in this folder")
        digest = hashlib.sha256()
        with (folder / WEIGHTS_FILE).open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
        return cls(folder, digest.hexdigest()[:REVISION_DIGITS])

    def load(self, device: torch.device, dtype: torch.dtype) -> MoondreamModel:
        """The network with its weights, ready to infer.

        Raises:
            ValueError: a tensor is missing, left over or of another shape than the configuration says, or the file is
                not whole.
        """
        config = MoondreamConfig.read(self.folder / CONFIG_FILE)
        with torch.device("meta"):
            model = MoondreamModel(config)
        expected = {PREFIX + name: tensor.shape for name, tensor in model.state_dict().items()}
        try:
            weights = safe_open(self.folder / WEIGHTS_FILE, framework="pt", device=str(device))
        except SafetensorError as error:
            # A download cut short, or the pointer that git leaves in a file's place without LFS.
            raise ValueError(f"model {self.folder}: {WEIGHTS_FILE} is not whole ({error}); fetch it again") from error
        with weights as file:
            found = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check(self.folder, expected, found)
            state = {name.removeprefix(PREFIX): file.get_tensor(name).to(dtype) for name in expected}
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(False).eval()


def _check(folder: Path, expected: dict[str, torch.Size], found: dict[str, torch.Size]) -> None:
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
