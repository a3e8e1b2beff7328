"""Checkpoints on the Hugging Face hub, pinned to a commit and downloaded into the cache of its client."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
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

from ..names import FLOAT8, OFFICIAL
from ..network.config import read_json
from .disk_space import check_disk_space, is_disk_full
from .files import (
    CONFIG_FILE,
    INDEX_FILE,
    TOKENIZER_FILE,
    find_tokenizer,
    parse_index,
    read_shapes,
    tokenizer_digest,
    weight_files,
)
from .releases import CODE_FILE, RELEASES, Generation, is_starmie, log_licence
from .tensor_names import Shape
from .weights import Checkpoint, Traits, recognize

# Commit and release by repository. Branches and tags, such as the tag 2025-06-21, could be moved.
PINNED = {
    OFFICIAL: ("9a7d4024050840e001defacec2b00727e89149e6", "2025-06-21"),
    "moondream/moondream3-preview": ("5112966d1a723413b1c9a1e8bea272b72e647b35", "3-preview-2026-02-10"),
}
# The tokenizer since release 2025-06-21. The repository of that release holds the tokenizer of earlier generations.
STARMIE, STARMIE_COMMIT = "moondream/starmie-v1", "35192e10a54e36eabe0a7cc57a2c1aab371cafc5"

# Where a program has a handler of its own, that of this library prints each record a second time, over a progress bar.
if logging.getLogger().handlers:
    logging.getLogger("huggingface_hub").handlers.clear()

SMALL_FILES = (CONFIG_FILE, TOKENIZER_FILE, CODE_FILE, INDEX_FILE)
WEIGHTS_PATTERN = "model*.safetensors"


@dataclass(frozen=True)
class HubModel:
    """A repository at a commit, which every worker downloads. ``release``: the name of its generation."""

    repository: str
    commit: str
    release: str
    tokenizer: Path | None
    revision: str
    traits: Traits

    @classmethod
    def plan(cls, repository: str, revision: str | None, tokenizer: Path | None) -> HubModel:
        """Return the model at the commit of a revision; None is the default branch. Only headers of weights are read.

        The commits of ``PINNED`` need no network.

        Raises:
            ValueError: if the repository or revision does not exist or is not accessible, or is not a Moondream.
            RuntimeError: if the hub cannot be reached and its cache does not hold the files.
        """
        digest = f"+{tokenizer_digest(find_tokenizer(tokenizer))}" if tokenizer else ""
        commit, release = PINNED.get(repository, ("", ""))
        if release and revision in (None, commit):
            traits = Traits.of(RELEASES[release].config)
            return cls(repository, commit, release, tokenizer, commit + digest, traits)
        folder = fetch_files(repository, revision or constants.DEFAULT_REVISION, SMALL_FILES)
        # Tags of the official repository are the names of releases; elsewhere a tag may mean anything.
        commit, tag = folder.name, revision if repository == OFFICIAL and revision in RELEASES else None
        with _translate_errors(repository, commit):
            shapes = _read_shapes(repository, commit, folder)
        try:
            if not (folder / CONFIG_FILE).is_file():
                raise ValueError(f"there is no {CONFIG_FILE} in {repository}; choose another repository with --model")
            path = tokenizer or folder / TOKENIZER_FILE
            found = find_tokenizer(path) if path.exists() else None
            generation, config, _ = recognize(shapes, read_json(folder / CONFIG_FILE), folder, tag, found)
            if tokenizer is None and not generation.uses_starmie and found is None:
                raise ValueError(f"there is no {TOKENIZER_FILE} in {repository}; name one with --tokenizer PATH")
        except ValueError as error:
            raise ValueError(f"model {repository} at {commit[:12]}: {error}") from error
        return cls(repository, commit, generation.name, tokenizer, commit + digest, Traits.of(config))

    def fetch(self) -> tuple[Path, Path | None]:
        """Download the files that the cache of the hub lacks.

        Returns:
            The folder of the files, and the path of the tokenizer: None for the tokenizer.json in that folder.

        Raises:
            ValueError: if the repository or the commit was deleted or is not accessible.
            RuntimeError: if the hub cannot be reached, or the disk is full.
        """
        folder, release = fetch_files(self.repository, self.commit, SMALL_FILES), RELEASES[self.release]
        index = folder / INDEX_FILE
        # Shards of an older generation may lie beside those of the index.
        weights = sorted(set(parse_index(read_json(index)).values())) if index.is_file() else [WEIGHTS_PATTERN]
        fetch_files(self.repository, self.commit, weights, release)
        if self.tokenizer is not None:
            return folder, self.tokenizer
        if release.uses_starmie and not is_starmie(folder / TOKENIZER_FILE):
            return folder, fetch_files(STARMIE, STARMIE_COMMIT, (TOKENIZER_FILE,)) / TOKENIZER_FILE
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


def similar_model(name: str, others: Sequence[str] = ()) -> str:
    """Return text to append to a message about an unknown model: "; did you mean NAME?", or "" if none is alike.

    Compared are the repositories of official releases, with and without their owners, and ``others``.
    """
    known = {part.lower(): each for each in (*others, *PINNED, FLOAT8) for part in (each.rpartition("/")[2], each)}
    given = name.lower()
    longer = [each for each in known if each.startswith(given)]
    found = longer or difflib.get_close_matches(given, known, 1, 0.7)
    return f"; did you mean {known[found[0]]}?" if found and known[found[0]] != name else ""


def fetch_files(repository: str, revision: str, patterns: Sequence[str], release: Generation | None = None) -> Path:
    """Download the files that match ``patterns`` and that the cache of the hub lacks; return their folder in the cache.

    If files are downloaded, the licence of ``release`` is logged first.

    Raises:
        ValueError: if the repository or revision does not exist or is not accessible.
        RuntimeError: if the hub cannot be reached and the cache lacks a file, or the disk is full.
    """

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
        if missing and release:
            log_licence(release, repository)
        return Path(snapshot())


def _cached(repository: str, error: DryRunError, snapshot: Callable[..., Any]) -> Path:
    """Return the folder of a snapshot from the cache of the hub.

    Raises:
        RepositoryNotFoundError: if files are missing and this is the cause of ``error``.
        RuntimeError: if files are missing for another cause.
    """
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
        "the files; connect to the network, or name a folder with --model"
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
        RepositoryNotFoundError: f"no such folder here, and no {where}; check the name, or set HF_TOKEN if private"
        f"{similar_model(repository)}",
        RevisionNotFoundError: f"there is no revision {revision} on {where}; choose another --revision",
        NotASafetensorsRepoError: f"there is no model.safetensors on {where} (pickles are not read); choose another",
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
