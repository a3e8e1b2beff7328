"""Checkpoints: the check of all tensors in .safetensors, and the network loaded from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from ...tasks import Task
from ..network.config import MoondreamConfig, VisionConfig, read_json
from ..network.decoder.experts import ExpertWeights
from ..network.decoder.text import Text
from ..network.prompts import supported_tasks
from ..network.region import Region
from ..network.tokenizer import Tokenizer
from ..network.vision import Vision
from .files import CONFIG_FILE, REVISION_DIGITS, check_tokenizer, find_tokenizer, read_blocks, read_shapes, weight_files
from .releases import RELEASES, Generation, identify
from .tensor_names import Naming, Shape

# Tensors named in an error message.
MAX_NAMES_SHOWN = 5
UNNAMED_IN_DIGESTS = "2025-06-21"
FLOAT8_RULE = "experts with scales must be float8, and all other tensors 16 or 32 bits; choose another checkpoint"


class MoondreamModel(nn.Module):
    """The network. Its tensors have the names of the official checkpoint, without the prefix "model.".

    The attribute ``region`` exists only if the configuration has a region section.
    """

    region: Region

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = Vision(config.vision)
        self.text = Text(config.text)
        if config.region is not None:
            self.region = Region(config.region)


class Traits(NamedTuple):
    """What is known of a checkpoint before its weights are loaded.

    ``num_parameters`` includes ``num_in_experts``. ``is_float8``: whether the experts are float8. ``prefix_numbers``:
    the numbers that the KV cache holds of one picture.
    """

    tasks: frozenset[type[Task]]
    supports_reasoning: bool
    vision: VisionConfig
    num_parameters: int
    num_in_experts: int
    is_float8: bool
    prefix_numbers: int

    @classmethod
    def of(cls, config: MoondreamConfig) -> Traits:
        """Return the traits of a checkpoint with this configuration."""
        model, text, templates = _empty_model(config), config.text, config.tokenizer.templates
        experts = [part.weight.numel() for part in model.modules() if isinstance(part, ExpertWeights)]
        return cls(
            tasks=supported_tasks(templates),
            supports_reasoning=templates.query is not None and templates.thinking_id is not None,
            vision=config.vision,
            num_parameters=sum(tensor.numel() for tensor in model.state_dict().values()),
            num_in_experts=sum(experts),
            is_float8=text.moe is not None and text.moe.float8,
            prefix_numbers=2 * text.n_layers * text.n_kv_heads * text.head_dim * config.prefix_length,
        )

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of all weights, with those in ``dtype`` that are not float8."""
        in_float8 = self.num_in_experts if self.is_float8 else 0
        return (self.num_parameters - in_float8) * dtype.itemsize + in_float8


@dataclass(frozen=True)
class Checkpoint:
    """The checked files of a checkpoint, with configuration and tensor names. ``revision`` identifies their content."""

    weights: tuple[Path, ...]
    tokenizer_path: Path
    config: MoondreamConfig
    naming: Naming
    revision: str

    @classmethod
    def at(
        cls, path: Path, *, release: str | None = None, tokenizer: Path | None = None, revision: str | None = None
    ) -> Checkpoint:
        """Return the checkpoint in a folder, or in one .safetensors with or without a config.json in its folder.

        ``release``: the release of the weights, if nothing in the files identifies it. ``tokenizer``: a tokenizer.json,
        or a folder with one, instead of the checkpoint's own. ``revision``: the revision to record; by default the
        first ``REVISION_DIGITS`` digits of a sha256 over configuration, tokenizer and weights (see ``_digest``).

        Raises:
            ValueError: if a file is missing or truncated; if a tensor is missing, unexpected or of another shape than
                in the configuration; if ``check_tokenizer`` refuses the tokenizer; if the generation is unknown.
        """
        try:
            folder = path if path.is_dir() else path.parent
            config_path = folder / CONFIG_FILE
            if path.is_dir() and not config_path.is_file():
                raise ValueError(f"there is no {CONFIG_FILE} in {path}; fetch that file or name another folder")
            weights = weight_files(path)
            tokenizer_path = find_tokenizer(tokenizer or folder)
            content = read_json(config_path) if config_path.is_file() else {}
            generation, config, naming = recognize(read_shapes(weights), content, folder, release, tokenizer_path)
            check_tokenizer(tokenizer_path, config)
        except ValueError as error:
            raise ValueError(f"model {path}: {error}") from error
        if revision is None:
            digested = [*([config_path] if config_path.is_file() else []), tokenizer_path, *weights]
            revision = _digest(digested, generation)
        return cls(weights, tokenizer_path, config, naming, revision)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of this checkpoint."""
        return Tokenizer(self.tokenizer_path, strips_whitespace=self.config.tokenizer.strips_whitespace)

    def load(self, device: torch.device, dtype: torch.dtype) -> MoondreamModel:
        """Return the network with its weights on ``device`` in ``dtype``, in eval mode and without gradients.

        Experts in float8 stay in float8, with their scales in float32.

        Raises:
            ValueError: if a tensor is float8 without a scale, or has a scale without being float8.
        """
        model = _empty_model(self.config)
        kept, state = _float8_tensors(model), {}
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(path, framework="pt", device=str(device))) for path in self.weights]
            file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118
            for name in model.state_dict():
                file_name = self.naming.name_in_file(name)
                tensor = self.naming.from_file(name, file_of[file_name].get_tensor(file_name))
                target = kept.get(name, dtype)
                if (tensor.itemsize == 1) != (target.itemsize == 1):
                    raise ValueError(f"model {self.weights[0].parent}: {file_name} is {tensor.dtype}: {FLOAT8_RULE}")
                state[name] = tensor.to(target)
        model.load_state_dict(state, assign=True)
        # Freed block by block while the weights are fused.
        state.clear()
        model.text.fuse()
        return model.requires_grad_(False).eval()


def recognize(
    shapes: Mapping[str, Shape], content: dict[str, Any], folder: Path, release: str | None, tokenizer: Path | None
) -> tuple[Generation, MoondreamConfig, Naming]:
    """Return the generation, the configuration and the tensor names of a checkpoint, after a check of all tensors.

    ``content``: of its config.json. ``folder``, ``release`` and ``tokenizer``: see ``identify``.

    Raises:
        ValueError: if it is another model, a tensor does not fit the configuration, or the generation is unknown.
    """
    naming = Naming.of(shapes)
    if content.get("model_type") == "moondream3" and not naming.family.startswith("3"):
        raise ValueError("config.json belongs to Moondream 3, and the tensors to Moondream 2; fetch the files again")
    generation = identify(naming.family, content, folder, release, tokenizer)
    config = generation.config_of(content, naming)
    _check_tensors(shapes, naming, config)
    return generation, config, naming


def _float8_tensors(model: MoondreamModel) -> dict[str, torch.dtype]:
    """Return the dtype of each tensor of the experts that are float8, by name; it is the same in the file."""
    experts = [path for path, part in model.named_modules() if isinstance(part, ExpertWeights) and part.float8]
    dtypes = {"weight": torch.float8_e4m3fn, "scale": torch.float32}
    return {f"{path}.{part}": dtype for path in experts for part, dtype in dtypes.items()}


def _empty_model(config: MoondreamConfig) -> MoondreamModel:
    with torch.device("meta"):
        return MoondreamModel(config)


def _digest(paths: list[Path], generation: Generation) -> str:
    digest = hashlib.sha256()
    for path in paths:
        for block in read_blocks(path):
            digest.update(block)
    # Under another generation the same files give other answers. This one adds nothing: stable digests.
    if generation is not RELEASES[UNNAMED_IN_DIGESTS]:
        digest.update(generation.name.encode())
    return digest.hexdigest()[:REVISION_DIGITS]


def _check_tensors(shapes: Mapping[str, Shape], naming: Naming, config: MoondreamConfig) -> None:
    """Raise a ValueError if tensors are missing, unexpected or misshapen; name ``MAX_NAMES_SHOWN`` of each kind."""
    expected = {}
    for name, tensor in _empty_model(config).state_dict().items():
        expected[naming.name_in_file(name)] = naming.shape_in_file(name, tuple(tensor.shape))
    known = expected.keys() | naming.unused
    missing, unexpected = sorted(known - shapes.keys()), sorted(shapes.keys() - known)
    misshapen = [
        f"{name} is {list(shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = []
    for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen)):
        if names:
            more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
            problems.append(f"{label}: {', '.join(names[:MAX_NAMES_SHOWN])}{more}")
    if problems:
        cure = "fetch the files again, or name the release with --revision"
        raise ValueError(f"the tensors do not fit the configuration: {'; '.join(problems)}; {cure}")
