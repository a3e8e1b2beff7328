"""The files of a checkpoint: which there are, and what their headers say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..network.config import MoondreamConfig, read_json
from ..network.tokenizer import END, Tokenizer
from .tensor_names import Shape

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
# In the place of the weights where they are cut into several files: which tensor is in which.
INDEX_FILE = "model.safetensors.index.json"
# Of a sha256 in hexadecimal.
REVISION_DIGITS = 12


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files of weights in a folder, or the one that ``path`` is.

    Raises:
        ValueError: there are none in the format of safetensors.
    """
    if not path.is_dir():
        if path.suffix != ".safetensors":
            raise ValueError(f"weights are read from .safetensors only, not from {path.suffix or 'such a file'}")
        return (path,)
    if (path / WEIGHTS_FILE).is_file():
        return (path / WEIGHTS_FILE,)
    if (path / INDEX_FILE).is_file():
        names = sorted(set(index_entries(read_json(path / INDEX_FILE)).values()))
        if missing := [name for name in names if not (path / name).is_file()]:
            raise ValueError(f"{INDEX_FILE} names {missing[0]}, which is not in this folder; fetch it again")
        return tuple(path / name for name in names)
    if others := sorted(each.name for each in path.iterdir() if each.suffix in (".bin", ".pt", ".pth", ".ckpt")):
        raise ValueError(
            f"there is no {WEIGHTS_FILE} in this folder; {others[0]} is not read, as pickles may run code: convert it"
        )
    raise ValueError(f"there is no {WEIGHTS_FILE} in this folder")


def index_entries(content: Mapping[str, Any]) -> dict[str, str]:
    """The file of each tensor, from the content of an index.

    Raises:
        ValueError: the index names none, or files outside of its folder.
    """
    entries = content.get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{INDEX_FILE} has no weight_map; fetch it again")
    for name in entries.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{INDEX_FILE} names {name!r}, which is no .safetensors beside it")
    return entries


def tokenizer_file(path: Path) -> Path:
    """The tokenizer.json that ``path`` is, or that lies in it.

    Raises:
        ValueError: there is none.
    """
    if path.is_dir():
        path /= TOKENIZER_FILE
        if not path.is_file():
            raise ValueError(f"there is no {TOKENIZER_FILE} in this folder; name one with --tokenizer PATH")
    if not path.is_file():
        raise ValueError(f"tokenizer {path}: no such file")
    return path


def tokenizer_digest(path: Path) -> str:
    """The start of the sha256 over a tokenizer.json."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:REVISION_DIGITS]


def read_shapes(weights: tuple[Path, ...]) -> dict[str, Shape]:
    """Names and shapes of all tensors, from the files' headers; no weight is read.

    Raises:
        ValueError: a file is not whole.
    """
    shapes: dict[str, Shape] = {}
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            # A download cut short, or the pointer that git leaves in a file's place without LFS.
            raise ValueError(f"{path.name} is not whole ({error}); fetch it again") from error
    return shapes


def check_tokenizer(path: Path, config: MoondreamConfig) -> None:
    """Refuse the tokenizer of another generation: its words have other ids.

    Raises:
        ValueError: it is one.
    """
    tokenizer, begin = Tokenizer(path), config.tokenizer.bos_id
    if tokenizer.size > config.text.vocab_size:
        raise ValueError(f"{path.name} has {tokenizer.size} tokens, and the weights have {config.text.vocab_size}")
    if tokenizer.token(begin) != END:
        raise ValueError(
            f"{path.name} is that of another generation: its id {begin} is {tokenizer.token(begin)!r}, not {END!r} "
            "(the repository of 2025-06-21 still carries that of 2024; its own is in moondream/starmie-v1); name the "
            "right one with --tokenizer PATH"
        )
