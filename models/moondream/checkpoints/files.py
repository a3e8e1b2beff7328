"""The files of a checkpoint on this machine, and the headers of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..network.config import MoondreamConfig, read_json
from ..network.tokenizer import END_OF_TEXT, Tokenizer
from .tensor_names import Shape

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
# The index of weights in several shards: the file of each tensor.
INDEX_FILE = "model.safetensors.index.json"
# The float8 weights in moondream/moondream3-preview.
PICKLED_FLOAT8 = "model_fp8.pt"
PICKLED_FLOAT8_CURE = (
    "is a pickle, which may run code and is never read; choose moondream/moondream3-preview, or "
    "moondream/moondream3.1-9B-A2B with float8 in a .safetensors"
)
# Hexadecimal digits of a sha256 that a revision keeps.
REVISION_DIGITS = 12
READ_CHUNK_BYTES = 1 << 22


def weight_files(path: Path) -> tuple[Path, ...]:
    """Return the .safetensors of a checkpoint: ``path`` itself, or model.safetensors or all shards in a folder.

    Raises:
        ValueError: if there are none, a shard is missing, or the weights have another format.
    """
    if not path.is_dir():
        if path.suffix != ".safetensors":
            if path.name == PICKLED_FLOAT8:
                raise ValueError(f"{path.name} {PICKLED_FLOAT8_CURE}")
            raise ValueError(f"{path.name} has a format that is not read; convert that file to .safetensors")
        return (path,)
    if (path / WEIGHTS_FILE).is_file():
        return (path / WEIGHTS_FILE,)
    if (path / INDEX_FILE).is_file():
        names = sorted(set(parse_index(read_json(path / INDEX_FILE)).values()))
        if missing := [name for name in names if not (path / name).is_file()]:
            raise ValueError(f"{INDEX_FILE} names {missing[0]}, which is not in {path}; fetch that file")
        return tuple(path / name for name in names)
    if (path / PICKLED_FLOAT8).is_file():
        raise ValueError(f"there is no {WEIGHTS_FILE} in {path}, and {PICKLED_FLOAT8} {PICKLED_FLOAT8_CURE}")
    if others := sorted(each.name for each in path.iterdir() if each.suffix in (".bin", ".pt", ".pth", ".ckpt")):
        raise ValueError(f"there is no {WEIGHTS_FILE} in {path}; convert {others[0]} to it: pickles may run code")
    raise ValueError(f"there is no {WEIGHTS_FILE} in {path}; fetch that file or name another folder")


def parse_index(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the file name of each tensor, from the content of an index of shards.

    Raises:
        ValueError: if the index has no tensors, or names a file outside its folder or not a .safetensors.
    """
    entries = content.get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{INDEX_FILE} has no weight_map; fetch the file again")
    for name in entries.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{INDEX_FILE} names {name!r}, which is not a .safetensors in its folder; fetch it again")
    return entries


def find_tokenizer(path: Path) -> Path:
    """Return the tokenizer.json in a folder, or ``path`` itself if it is a file.

    Raises:
        ValueError: if there is no such file.
    """
    if path.is_dir():
        path /= TOKENIZER_FILE
        if not path.is_file():
            raise ValueError(f"there is no {TOKENIZER_FILE} in {path.parent}; name one with --tokenizer PATH")
    if not path.is_file():
        raise ValueError(f"tokenizer {path}: no such file; name another with --tokenizer PATH")
    return path


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in blocks, because weights may not fit into memory twice."""
    with path.open("rb") as file:
        while block := file.read(READ_CHUNK_BYTES):
            yield block


def tokenizer_digest(path: Path) -> str:
    """Return the first ``REVISION_DIGITS`` hexadecimal digits of the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:REVISION_DIGITS]


def read_shapes(weights: tuple[Path, ...]) -> dict[str, Shape]:
    """Return the shape of each tensor by name, from the headers of the files. The weights are not read.

    Raises:
        ValueError: if a file is truncated or not a .safetensors.
    """
    shapes: dict[str, Shape] = {}
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            # Causes: a download that was cut off, or a pointer of Git LFS in the place of the file.
            raise ValueError(f"{path.name} is truncated or no .safetensors ({error}); fetch the file again") from error
    return shapes


def check_tokenizer(path: Path, config: MoondreamConfig) -> None:
    """Check that in a tokenizer.json the id ``config.tokenizer.bos_id`` has the token ``END_OF_TEXT``.

    Raises:
        ValueError: if that id has another token or none, or the file has more tokens than ``config.text.vocab_size``.
    """
    tokenizer, bos_id = Tokenizer(path), config.tokenizer.bos_id
    if tokenizer.size > config.text.vocab_size:
        counts = f"has {tokenizer.size} tokens and the weights have {config.text.vocab_size}"
        raise ValueError(f"{path.name} {counts}; name the right tokenizer with --tokenizer PATH")
    if (token := tokenizer.token(bos_id)) != END_OF_TEXT:
        raise ValueError(
            f"{path.name} belongs to other weights than these: its id {bos_id} is {token!r}, not {END_OF_TEXT!r} (the "
            "repository of 2025-06-21 has the tokenizer of 2024; the right one is in moondream/starmie-v1); name the "
            "right tokenizer with --tokenizer PATH"
        )
