"""Checkpoints on the Hugging Face hub: a name and a commit, fetched into the cache that all its tools share."""

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
from ..network.prompts import tasks_of
from .disk_space import is_full, refuse_full_disk
from .files import CONFIG_FILE, INDEX_FILE, TOKENIZER_FILE, read_shapes, tokenizer_digest, tokenizer_file, weight_files
from .releases import CODE_FILE, RELEASES, is_starmie
from .tensor_names import Shape
from .weights import Checkpoint, recognize

OFFICIAL = "vikhyatk/moondream2"
# The commit of the tag 2025-06-21: a tag may be moved.
PINNED = {OFFICIAL: ("9a7d4024050840e001defacec2b00727e89149e6", "2025-06-21")}
# The tokenizer of 2025-06-21: the one beside its weights is that of the generations before.
STARMIE, STARMIE_COMMIT = "moondream/starmie-v1", "35192e10a54e36eabe0a7cc57a2c1aab371cafc5"
STARMIE_RELEASE = "2025-06-21"

SMALL_FILES = (CONFIG_FILE, TOKENIZER_FILE, CODE_FILE, INDEX_FILE)
WEIGHTS_PATTERN = "model*.safetensors"
# A name on the hub: of its owner and of the repository.
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class HubModel:
    """A repository at a commit; every worker fetches the very same. ``release``: its generation, once it is known."""

    repository: str
    commit: str
    release: str
    tokenizer: Path | None
    revision: str
    tasks: frozenset[type[Task]]
    vision: VisionConfig

    @classmethod
    def plan(cls, repository: str, revision: str | None, tokenizer: Path | None) -> HubModel:
        """Find out commit and generation; of the weights only the headers are read. A pinned one needs no network.

        Raises:
            ValueError: there is no such repository or revision, it is closed to us, or it is no Moondream 2.
            RuntimeError: the hub can't be reached and its cache lacks it.
        """
        digest = f"+{tokenizer_digest(tokenizer_file(tokenizer))}" if tokenizer else ""
        commit, release = PINNED.get(repository, ("", ""))
        if release and revision in (None, commit):
            config = RELEASES[release].config
            tasks = tasks_of(config.tokenizer.templates)
            return cls(repository, commit, release, tokenizer, commit + digest, tasks, config.vision)
        folder = _fetch(repository, revision or constants.DEFAULT_REVISION, SMALL_FILES)
        commit, said = folder.name, revision if repository == OFFICIAL and revision in RELEASES else None
        with _told(repository, commit):
            shapes = _shapes(repository, commit, folder)
        try:
            if not (folder / CONFIG_FILE).is_file():
                raise ValueError(f"there is no {CONFIG_FILE} in this repository")
            words = tokenizer or folder / TOKENIZER_FILE
            beside = tokenizer_file(words) if words.exists() else None
            generation, config, _ = recognize(shapes, read_json(folder / CONFIG_FILE), folder, said, beside)
            if tokenizer is None and generation.name != STARMIE_RELEASE and beside is None:
                raise ValueError(f"there is no {TOKENIZER_FILE} in this repository; name one with --tokenizer PATH")
        except ValueError as error:
            raise ValueError(f"model {repository} at {commit[:12]}: {error}") from error
        tasks = tasks_of(config.tokenizer.templates)
        return cls(repository, commit, generation.name, tokenizer, commit + digest, tasks, config.vision)

    def fetch(self) -> tuple[Path, Path | None]:
        """The folder of the checkpoint, and the tokenizer in the place of its own, from the cache or the hub.

        Raises:
            ValueError: the repository or the commit is gone or closed to us.
            RuntimeError: the hub can't be reached, or the disk is full.
        """
        folder = _fetch(self.repository, self.commit, (*SMALL_FILES, WEIGHTS_PATTERN))
        if self.tokenizer is not None:
            return folder, self.tokenizer
        if self.release == STARMIE_RELEASE and not is_starmie(folder / TOKENIZER_FILE):
            return folder, _fetch(STARMIE, STARMIE_COMMIT, (TOKENIZER_FILE,)) / TOKENIZER_FILE
        return folder, None

    def checkpoint(self) -> Checkpoint:
        """The checkpoint on this machine, fetched if need be.

        Raises:
            ValueError: the files don't fit each other.
            RuntimeError: they can't be fetched, or the tokenizer is not that which the job was planned with.
        """
        folder, tokenizer = self.fetch()
        if self.tokenizer and not self.revision.endswith(tokenizer_digest(tokenizer_file(self.tokenizer))):
            raise RuntimeError(f"tokenizer {self.tokenizer}: it is not that which the job was planned with")
        return Checkpoint.at(folder, release=self.release, tokenizer=tokenizer, revision=self.revision)


def _fetch(repository: str, revision: str, patterns: Sequence[str]) -> Path:
    """The folder of a snapshot with these files; those that the cache lacks are fetched."""

    def snapshot(**options: Any) -> Any:
        return snapshot_download(
            repository, revision=revision, allow_patterns=list(patterns), token=_token(), tqdm_class=_Bar, **options
        )

    with _told(repository, revision):
        try:
            files = snapshot(dry_run=True)
        except DryRunError as error:
            return _cached(repository, error, snapshot)
        missing = sum(file.file_size or 0 for file in files if file.will_download)
        refuse_full_disk(Path(constants.HF_HUB_CACHE), missing)
        return Path(snapshot())


def _cached(repository: str, error: DryRunError, snapshot: Callable[..., Any]) -> Path:
    """What the cache holds has to do where the hub does not answer."""
    try:
        return Path(snapshot(local_files_only=True))
    except LocalEntryNotFoundError:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise error.__cause__ from None
        raise _unreachable(repository, error) from error


def _unreachable(repository: str, error: BaseException) -> RuntimeError:
    said = _first_line(error.__cause__ or error)
    return RuntimeError(
        f"model {repository}: {constants.ENDPOINT} can't be reached ({said}), and the cache of the hub does not hold "
        "the files; try again with a network, or name a folder"
    )


def _shapes(repository: str, commit: str, folder: Path) -> dict[str, Shape]:
    """Names and shapes of all tensors, from files that the cache holds already, or from their headers on the hub."""
    try:
        return read_shapes(weight_files(folder))
    except ValueError:
        found = HfApi(token=_token()).get_safetensors_metadata(repository, revision=commit)
    return {
        name: tuple(tensor.shape) for file in found.files_metadata.values() for name, tensor in file.tensors.items()
    }


class _Bar(tqdm):  # type: ignore[misc]
    """A bar for who watches, and none in a log. The first look at what is missing has none either."""

    def __init__(self, *args: Any, **options: Any) -> None:
        looking = "dry-run" in str(options.get("desc"))
        super().__init__(*args, **{**options, "disable": looking or not sys.stderr.isatty()})


def _token() -> str | bool:
    # From the environment alone: what somebody once saved on one machine is not there on the workers.
    return os.environ.get("HF_TOKEN") or False


@contextlib.contextmanager
def _told(repository: str, revision: str) -> Iterator[None]:
    """What the client raises, in one line with the cure: ValueError for a bad name, RuntimeError for bad luck."""
    model, where = f"model {repository}", constants.ENDPOINT
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{model}: this is no name of a repository, which is OWNER/NAME") from error
    except GatedRepoError as error:
        raise ValueError(f"{model}: ask for access on {where}/{repository}, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{model}: there is no such folder here, and no such repository on {where}, or it is private: "
            "then set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{model}: there is no revision {revision} on {where}/{repository}") from error
    except NotASafetensorsRepoError as error:
        raise ValueError(f"{model}: there is no model.safetensors in this repository; pickles are not read") from error
    except SafetensorsParsingError as error:
        raise ValueError(f"{model}: model.safetensors is not whole on {where}/{repository}") from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(repository, error) from error
    except RuntimeError:
        raise
    except Exception as error:  # Besides, whatever the client's own clients raise.
        if is_full(error):
            folder = constants.HF_HUB_CACHE
            raise RuntimeError(f"{model}: the disk of {folder} is full; free some, or set HF_HOME") from error
        raise RuntimeError(f"{model}: fetching it from {where} failed ({_first_line(error)}); try again") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
