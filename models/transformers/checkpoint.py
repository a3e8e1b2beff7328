"""The files of a checkpoint: found in a folder or on the Hugging Face hub, named by a revision. Only safetensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from ..moondream.checkpoints.files import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, parse_index, read_blocks
from ..moondream.checkpoints.hub import fetch_files
from ..moondream.names import REPOSITORY_NAME
from ..moondream.network.config import read_json

# Configurations, tokenizers and chat templates. Code and pickled weights are not downloaded.
SMALL_PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model")
REVISION_DIGITS = 16


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint. ``commit``: of the repository ``name``; "" if ``name`` is a folder.

    ``revision`` is the commit, or a digest of the files in the folder.
    """

    name: str
    commit: str
    revision: str

    @classmethod
    def find(cls, name: str, revision: str | None) -> Files:
        """Return the files of a folder or a repository. Of a repository, only small files are downloaded.

        Raises:
            ValueError: if there is no such folder or repository, it has no safetensors, or ``revision`` is given for a
                folder.
            RuntimeError: if the hub cannot be reached and its cache does not hold the files.
        """
        folder = Path(name)
        if folder.exists():
            if revision is not None:
                raise ValueError(f"--revision {revision}: the model {name} is a folder, which has one: leave it out")
            return cls(str(folder.absolute()), "", _digest(folder, name))
        if not REPOSITORY_NAME.fullmatch(name):
            raise ValueError(f"model {name}: no such folder; give a folder, or OWNER/NAME on the Hugging Face hub")
        commit = fetch_files(name, revision or constants.DEFAULT_REVISION, SMALL_PATTERNS).name
        return cls(name, commit, commit)

    def fetch_small(self) -> Path:
        """Return the folder with all files except the weights. Download them first unless they are here.

        Raises:
            RuntimeError: if the folder is not on this machine, or the files cannot be downloaded.
        """
        if self.commit:
            return fetch_files(self.name, self.commit, SMALL_PATTERNS)
        if not Path(self.name).is_dir():
            raise RuntimeError(f"model {self.name}: the folder is not on this worker; copy it there, or use the hub")
        return Path(self.name)

    def model_type(self) -> str:
        """Return the family that the configuration names; "" if it names none.

        Raises:
            ValueError, RuntimeError: as ``fetch_small``, or if the configuration is not JSON.
        """
        config = self.fetch_small() / CONFIG_FILE
        return str(read_json(config).get("model_type", "")) if config.is_file() else ""

    def fetch(self) -> Path:
        """Return the folder with all files. Download them first unless they are here.

        Raises:
            ValueError: if the repository has no safetensors.
            RuntimeError: if the files cannot be downloaded, or changed after planning.
        """
        folder = self.fetch_small()
        if self.commit:
            fetch_files(self.name, self.commit, _weight_names(folder))
            _check_weights(folder, self.name)
        elif _digest(folder, self.name) != self.revision:
            raise RuntimeError(f"model {self.name}: the files changed after planning; run the same command again")
        return folder


def _weight_names(folder: Path) -> list[str]:
    """Return the names of the files with weights. Other safetensors may lie beside them, in another layout."""
    index = folder / INDEX_FILE
    return sorted(set(parse_index(read_json(index)).values())) if index.is_file() else [WEIGHTS_FILE]


def _check_weights(folder: Path, name: str) -> None:
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"model {name}: there is no {CONFIG_FILE}; choose another --model")
    for weights in _weight_names(folder):
        if not (folder / weights).is_file():
            raise ValueError(f"model {name}: there is no {weights} (pickles are not read); choose another --model")


def _digest(folder: Path, name: str) -> str:
    """Return the digest of all files of a folder that change the answers."""
    _check_weights(folder, name)
    paths = {path for pattern in SMALL_PATTERNS for path in folder.glob(pattern)}
    paths |= {folder / weights for weights in _weight_names(folder)}
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        for block in read_blocks(path):
            digest.update(block)
    return digest.hexdigest()[:REVISION_DIGITS]
