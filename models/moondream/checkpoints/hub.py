"""Checkpoints on the Hugging Face hub, pinned to a commit and downloaded into the cache of its client."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from tqdm import tqdm

from ...tasks import Task
from ..network.config import VisionConfig, read_json
from ..network.prompts import supported_tasks
from .disk_space import check_disk_space, is_disk_full
from .files import CONFIG_FILE, INDEX_FILE, TOKENIZER_FILE, find_tokenizer, read_shapes, tokenizer_digest, weight_files
from .releases import CODE_FILE, RELEASES, is_starmie
from .tensor_names import Shape
from .weights import Checkpoint, recognize

OFFICIAL = "vikhyatk/moondream2"
# Commit and release by repository. The commit is that of the tag 2025-06-21, which could be moved.
PINNED = {OFFICIAL: ("9a7d4024050840e001defacec2b00727e89149e6", "2025-06-21")}
# The tokenizer of release 2025-06-21. The repository of its weights holds the tokenizer of earlier generations.
STARMIE, STARMIE_COMMIT = "moondream/starmie-v1", "35192e10a54e36eabe0a7cc57a2c1aab371cafc5"
STARMIE_RELEASE = "2025-06-21"

SMALL_FILES = (CONFIG_FILE, TOKENIZER_FILE, CODE_FILE, INDEX_FILE)
WEIGHTS_PATTERN = "model*.safetensors"
# OWNER/NAME.
REPOSITORY_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class HubModel:
    """A repository at a commit, which every worker downloads. ``release``: the name of its generation."""

    repository: str
    commit: str
    release: str
    tokenizer: Path | None
    revision: str
    tasks: frozenset[type[Task]]
    vision: VisionConfig

    @classmethod
    def plan(cls, repository: str, revision: str | None, tokenizer: Path | None) -> HubModel:
        """Return the model at the commit of a revision. Of the weights only the headers are read.

        The pinned commit of ``OFFICIAL`` needs no network.

        Raises:
            ValueError: if the repository or revision does not exist or is not accessible, or is not a Moondream 2.
            RuntimeError: if the hub cannot be reached and its cache does not hold the files.
        """
        digest = f"+{tokenizer_digest(find_tokenizer(tokenizer))}" if tokenizer else ""
        commit, release = PINNED.get(repository, ("", ""))
        if release and revision in (None, commit):
            config = RELEASES[release].config
            tasks = supported_tasks(config.tokenizer.templates)
            return cls(repository, commit, release, tokenizer, commit + digest, tasks, config.vision)
        folder = _fetch(repository, revision or constants.DEFAULT_REVISION, SMALL_FILES)
        # Tags of the official repository are the names of releases; elsewhere a tag may mean anything.
        commit, tag = folder.name, revision if repository == OFFICIAL and revision in RELEASES else None
        with _translate_errors(repository, commit):
            shapes = _read_shapes(repository, commit, folder)
        try:
            if not (folder / CONFIG_FILE).is_file():
                raise ValueError(f"there is no {CONFIG_FILE} in this repository; choose another repository")
            path = tokenizer or folder / TOKENIZER_FILE
            found = find_tokenizer(path) if path.exists() else None
            generation, config, _ = recognize(shapes, read_json(folder / CONFIG_FILE), folder, tag, found)
            if tokenizer is None and generation.name != STARMIE_RELEASE and found is None:
                raise ValueError(f"there is no {TOKENIZER_FILE} in this repository; name one with --tokenizer PATH")
        except ValueError as error:
            raise ValueError(f"model {repository} at {commit[:12]}: {error}") from error
        tasks = supported_tasks(config.tokenizer.templates)
        return cls(repository, commit, generation.name, tokenizer, commit + digest, tasks, config.vision)

    def fetch(self) -> tuple[Path, Path | None]:
        """Download the missing files, and return the folder and the tokenizer.json.

        The tokenizer is None if the folder's own is to be used.

        Raises:
            ValueError: if the repository or the commit was deleted or is not accessible.
            RuntimeError: if the hub cannot be reached, or the disk is full.
        """
        folder = _fetch(self.repository, self.commit, (*SMALL_FILES, WEIGHTS_PATTERN))
        if self.tokenizer is not None:
            return folder, self.tokenizer
        if self.release == STARMIE_RELEASE and not is_starmie(folder / TOKENIZER_FILE):
            return folder, _fetch(STARMIE, STARMIE_COMMIT, (TOKENIZER_FILE,)) / TOKENIZER_FILE
        return folder, None

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint on this machine. Download the files first unless they are here.

        Raises:
            ValueError: if the files do not fit each other.
            RuntimeError: if the files cannot be downloaded, or the tokenizer changed after the job was planned.
        """
        folder, tokenizer = self.fetch()
        if self.tokenizer and not self.revision.endswith(tokenizer_digest(find_tokenizer(self.tokenizer))):
            raise RuntimeError(f"tokenizer {self.tokenizer}: it changed after planning; run the same command again")
        return Checkpoint.at(folder, release=self.release, tokenizer=tokenizer, revision=self.revision)


def _fetch(repository: str, revision: str, patterns: Sequence[str]) -> Path:
    """Download the files of a revision that the cache lacks, and return the folder of the snapshot."""

    def snapshot(**options: Any) -> Any:
        options |= {
            "revision": revision,
            "allow_patterns": list(patterns),
            "token": _token(),
            "tqdm_class": _ProgressBar,
        }
        return snapshot_download(repository, **options)

    with _translate_errors(repository, revision):
        try:
            files = snapshot(dry_run=True)
        except DryRunError as error:
            return _cached(repository, error, snapshot)
        missing = sum(file.file_size or 0 for file in files if file.will_download)
        check_disk_space(Path(constants.HF_HUB_CACHE), missing)
        return Path(snapshot())


def _cached(repository: str, error: DryRunError, snapshot: Callable[..., Any]) -> Path:
    """Return the folder of a snapshot from the cache. If files are missing, raise the reason, which ``error`` has."""
    try:
        return Path(snapshot(local_files_only=True))
    except LocalEntryNotFoundError:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise error.__cause__ from None
        raise _unreachable(repository, error) from error


def _unreachable(repository: str, error: BaseException) -> RuntimeError:
    reason = _first_line(error.__cause__ or error)
    return RuntimeError(
        f"model {repository}: {constants.ENDPOINT} can't be reached ({reason}), and the cache of the hub does not hold "
        "the files; connect to the network, or name a folder"
    )


def _read_shapes(repository: str, commit: str, folder: Path) -> dict[str, Shape]:
    """Return the shape of each tensor by name, from the headers of weights in the cache or else on the hub."""
    try:
        return read_shapes(weight_files(folder))
    except ValueError:
        found = HfApi(token=_token()).get_safetensors_metadata(repository, revision=commit)
    return {
        name: tuple(tensor.shape) for file in found.files_metadata.values() for name, tensor in file.tensors.items()
    }


class _ProgressBar(tqdm):  # type: ignore[misc]
    """A progress bar that is shown on a terminal only, and not during a dry run."""

    def __init__(self, *args: Any, **options: Any) -> None:
        is_dry_run = "dry-run" in str(options.get("desc"))
        super().__init__(*args, **{**options, "disable": is_dry_run or not sys.stderr.isatty()})


def _token() -> str | bool:
    # Only from the environment: a token saved by `hf auth login` on this machine is missing on the workers.
    return os.environ.get("HF_TOKEN") or False


@contextlib.contextmanager
def _translate_errors(repository: str, revision: str) -> Iterator[None]:
    """Raise errors of the client as one line with a cure: ValueError for a bad name or access, else RuntimeError."""
    model, where = f"model {repository}", f"{constants.ENDPOINT}/{repository}"
    # The first type that fits: GatedRepoError is a RepositoryNotFoundError.
    refusals: dict[type[Exception], str] = {
        HFValidationError: "not a name of a repository; give OWNER/NAME",
        GatedRepoError: f"access is restricted; ask for access on {where}, then set HF_TOKEN",
        RepositoryNotFoundError: f"no such folder here, and no {where}; check the name, or set HF_TOKEN if private",
        RevisionNotFoundError: f"there is no revision {revision} on {where}; choose another --revision",
        NotASafetensorsRepoError: f"there is no model.safetensors on {where}; choose another (pickles are not read)",
        SafetensorsParsingError: f"model.safetensors is truncated on {where}; choose another --revision",
    }
    try:
        yield
    except tuple(refusals) as error:
        raise ValueError(
            f"{model}: {next(text for kind, text in refusals.items() if isinstance(error, kind))}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(repository, error) from error
    except RuntimeError:
        raise
    except Exception as error:  # The client passes on any error of its HTTP libraries.
        if is_disk_full(error):
            folder = constants.HF_HUB_CACHE
            raise RuntimeError(f"{model}: the disk of {folder} is full; free disk space, or set HF_HOME") from error
        raise RuntimeError(
            f"{model}: download from {where} failed ({_first_line(error)}); run the same command again"
        ) from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its type if the text is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
