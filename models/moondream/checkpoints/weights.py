"""Checkpoints: safetensors in any naming to a network, with every tensor accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..network.config import MoondreamConfig, read_json
from ..network.region import Region
from ..network.text import Text
from ..network.tokenizer import Tokenizer
from ..network.vision import Vision
from .files import CONFIG_FILE, REVISION_DIGITS, check_tokenizer, read_shapes, tokenizer_file, weight_files
from .releases import GENERATIONS, Generation, decide
from .tensor_names import Naming, Shape

NAMES_SHOWN = 5
READ_BYTES = 1 << 22


class MoondreamModel(nn.Module):
    """The network: vision, text and region, named as the tensors of the official checkpoint are.

    ``region`` is there only where the configuration has one.
    """

    region: Region

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = Vision(config.vision)
        self.text = Text(config.text)
        if config.region is not None:
            self.region = Region(config.region)


@dataclass(frozen=True)
class Checkpoint:
    """Files of weights with the configuration and the naming that they fit, and the revision that they amount to."""

    weights: tuple[Path, ...]
    tokenizer_file: Path
    config: MoondreamConfig
    naming: Naming
    revision: str

    @classmethod
    def at(
        cls, path: Path, *, release: str | None = None, tokenizer: Path | None = None, revision: str | None = None
    ) -> Checkpoint:
        """The checkpoint in a local folder, or in one file of weights with or without config.json beside it.

        ``release``: its generation by name, where nothing at hand tells. ``tokenizer``: a tokenizer.json, or a folder
        that holds one, in the place of the checkpoint's own. ``revision``: if not given, the start of the sha256 over
        configuration, tokenizer and weights.

        Raises:
            ValueError: a file is missing or not whole; a tensor is missing, left over or of another shape than the
                configuration says; the tokenizer is that of another generation; the generation can't be told.
        """
        try:
            folder = path if path.is_dir() else path.parent
            settings = folder / CONFIG_FILE
            if path.is_dir() and not settings.is_file():
                raise ValueError(f"there is no {CONFIG_FILE} in this folder")
            weights = weight_files(path)
            words = tokenizer_file(tokenizer or folder)
            content = read_json(settings) if settings.is_file() else {}
            generation, config, naming = recognize(read_shapes(weights), content, folder, release, words)
            check_tokenizer(words, config)
        except ValueError as error:
            raise ValueError(f"model {path}: {error}") from error
        if revision is None:
            digested = [*([settings] if settings.is_file() else []), words, *weights]
            revision = _digest(digested, generation)
        return cls(weights, words, config, naming, revision)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that belongs to the weights."""
        return Tokenizer(self.tokenizer_file, strips=self.config.tokenizer.strips)

    def load(self, device: torch.device, dtype: torch.dtype) -> MoondreamModel:
        """The network with its weights, ready to infer."""
        model = _empty_model(self.config)
        state = {}
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(path, framework="pt", device=str(device))) for path in self.weights]
            holders = {name: file for file in files for name in file.keys()}  # noqa: SIM118
            for name in model.state_dict():
                theirs = self.naming.in_file(name)
                tensor = holders[theirs].get_tensor(theirs).to(dtype)
                state[name] = tensor.T.contiguous() if self.naming.is_transposed(name) else tensor
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(False).eval()


def recognize(
    shapes: Mapping[str, Shape], content: dict[str, Any], folder: Path, release: str | None, tokenizer: Path | None
) -> tuple[Generation, MoondreamConfig, Naming]:
    """What a checkpoint of these tensors and this config.json is. ``folder``: where its code may lie.

    Raises:
        ValueError: it is another model, its tensors don't fit the configuration, or its generation can't be told.
    """
    if content.get("model_type") == "moondream3":
        raise ValueError("config.json is that of Moondream 3, which is not supported yet; choose a Moondream 2")
    naming = Naming.of(shapes)
    generation = decide(naming.family, content, folder, release, tokenizer)
    config = generation.config.overlaid(content)
    _check_tensors(shapes, naming, config)
    return generation, config, naming


def _empty_model(config: MoondreamConfig) -> MoondreamModel:
    with torch.device("meta"):
        return MoondreamModel(config)


def _digest(paths: list[Path], generation: Generation) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
    # The same files under another generation answer otherwise.
    if generation is not GENERATIONS[-1]:
        digest.update(generation.name.encode())
    return digest.hexdigest()[:REVISION_DIGITS]


def _check_tensors(shapes: Mapping[str, Shape], naming: Naming, config: MoondreamConfig) -> None:
    """Hold names and shapes against the configuration."""
    expected = {}
    for name, tensor in _empty_model(config).state_dict().items():
        shape = tuple(tensor.shape)
        expected[naming.in_file(name)] = shape[::-1] if naming.is_transposed(name) else shape
    known = expected.keys() | naming.idle
    missing, left_over = sorted(known - shapes.keys()), sorted(shapes.keys() - known)
    misshapen = [
        f"{name} is {list(shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = []
    for label, names in (("missing", missing), ("left over", left_over), ("of another shape", misshapen)):
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            problems.append(f"{label}: {', '.join(names[:NAMES_SHOWN])}{more}")
    if problems:
        raise ValueError(f"the tensors don't fit the configuration; {'; '.join(problems)}")
