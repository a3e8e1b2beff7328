"""Checkpoints in a bucket, or wherever fsspec reads: copied to a machine once, by whichever process asks first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from ...atomic_files import atomic_path
from ...tasks import Task
from ..network.config import VisionConfig, read_json
from ..network.prompts import tasks_of
from .disk_space import is_full, refuse_full_disk
from .files import (
    CONFIG_FILE,
    INDEX_FILE,
    REVISION_DIGITS,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    tokenizer_digest,
    tokenizer_file,
)
from .releases import CODE_FILE
from .tensor_names import Shape
from .weights import Checkpoint, recognize

WEIGHTS_SUFFIX = ".safetensors"
# What tells one content of an object from another, in the words of the several stores, the surest first.
MARKS = ("md5Hash", "content_md5", "generation", "ETag", "etag", "LastModified", "last_modified", "mtime", "created")
# What to install for which scheme.
EXTRAS = {
    "gs": "moondream-beam[gcp]",
    "gcs": "moondream-beam[gcp]",
    "s3": "moondream-beam[aws]",
    "az": "moondream-beam[azure]",
    "abfs": "moondream-beam[azure]",
}
# As the library for safetensors has it.
MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class BucketModel:
    """A folder of objects, or one object of weights; ``mark`` says which content they had when the job was planned."""

    url: str
    release: str
    tokenizer: Path | None
    mark: str
    revision: str
    tasks: frozenset[type[Task]]
    vision: VisionConfig

    @classmethod
    def plan(cls, url: str, release: str | None, tokenizer: Path | None) -> BucketModel:
        """List the objects, and read the small ones and the headers of the large ones.

        Raises:
            ValueError: there are none, they are no Moondream 2, or the store needs a package that is not there.
            RuntimeError: the store can't be reached.
        """
        if "?" in url or "@" in url:
            raise ValueError("a model's URL with a query or a user in it may hold secrets, and would be on every row")
        with _told(url):
            store = _Store.of(url)
            mark, shapes = store.mark(), store.shapes()
            small = store.copy_small(_made(cache()) / f"{mark}.plan")
            has_config = (small / CONFIG_FILE).is_file()
            if not has_config and store.single is None:
                raise ValueError(f"there is no {CONFIG_FILE} in this folder")
            words = tokenizer_file(tokenizer or small)
            content = read_json(small / CONFIG_FILE) if has_config else {}
            generation, config, _ = recognize(shapes, content, small, release, words)
        revision = f"{mark}+{tokenizer_digest(words)}" if tokenizer else mark
        tasks = tasks_of(config.tokenizer.templates)
        return cls(url, generation.name, tokenizer, mark, revision, tasks, config.vision)

    def fetch(self) -> Path:
        """The folder or file on this machine, copied if no process has yet; others wait for the one that does.

        Raises:
            ValueError: the store needs a package that is not there.
            RuntimeError: the store can't be reached, its content has changed, or the disk is full.
        """
        folder = cache() / self.mark
        with _told(self.url), FileLock(_made(cache()) / f"{self.mark}.lock"):
            if not folder.is_dir():
                _copy_whole(self.url, self.mark, folder)
        name = self.url.rsplit("/", 1)[-1]
        return folder / name if name.endswith(WEIGHTS_SUFFIX) else folder

    def checkpoint(self) -> Checkpoint:
        """The checkpoint on this machine, copied if need be.

        Raises:
            ValueError: the files don't fit each other.
            RuntimeError: they can't be copied, or are not those that the job was planned with.
        """
        path = self.fetch()
        if self.tokenizer and not self.revision.endswith(tokenizer_digest(tokenizer_file(self.tokenizer))):
            raise RuntimeError(f"tokenizer {self.tokenizer}: it is not that which the job was planned with")
        return Checkpoint.at(path, release=self.release, tokenizer=self.tokenizer, revision=self.revision)


def cache() -> Path:
    """The folder of all copies, where the user has such."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moondream-beam"


@dataclass(frozen=True)
class _Store:
    """The objects of one checkpoint by name, as a file system lists them; ``single``: the one that was named."""

    files: Any
    objects: dict[str, dict[str, Any]]
    single: str | None

    @classmethod
    def of(cls, url: str) -> _Store:
        files, root = fsspec.url_to_fs(url)
        folder, _, name = root.rpartition("/")
        single = name if name.endswith(WEIGHTS_SUFFIX) else None
        listed = files.ls(folder if single else root, detail=True, refresh=True)
        found = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in listed if entry["type"] == "file"}
        small = {CONFIG_FILE, TOKENIZER_FILE, CODE_FILE} | (set() if single else {INDEX_FILE})
        whole = {single} if single else {WEIGHTS_FILE}
        weights = whole if whole <= found.keys() else {each for each in found if each.endswith(WEIGHTS_SUFFIX)}
        if not weights or (single and single not in found):
            raise ValueError(f"there is no {single or WEIGHTS_FILE} there; pickles are not read")
        return cls(files, {name: found[name] for name in sorted(found) if name in small | weights}, single)

    def mark(self) -> str:
        """The start of a sha256 over names, sizes and what else tells contents apart."""
        told = []
        for name, entry in self.objects.items():
            marks = [f"{key}={entry[key]}" for key in MARKS if entry.get(key)]
            if not marks:
                raise ValueError(f"the store tells neither an etag nor a time of {name}; copy it to a folder")
            told.append(f"{name} {entry['size']} {marks[0]}")
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:REVISION_DIGITS]

    def shapes(self) -> dict[str, Shape]:
        """Names and shapes of all tensors; nothing but headers is read."""
        shapes: dict[str, Shape] = {}
        for name, entry in self.objects.items():
            if name.endswith(WEIGHTS_SUFFIX):
                with self.files.open(entry["name"], "rb", block_size=1 << 20) as file:
                    size = int.from_bytes(file.read(8), "little")
                    header = file.read(size) if size <= MOST_HEADER_BYTES else b""
                try:
                    tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
                    shapes |= {key: tuple(int(side) for side in value["shape"]) for key, value in tensors.items()}
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(f"{name} is no safetensors, or not whole; copy it there again") from error
        return shapes

    def copy_small(self, folder: Path) -> Path:
        """Copy all but the weights; each appears whole. Processes that do so at once write the same."""
        for name, entry in self.objects.items():
            if not name.endswith(WEIGHTS_SUFFIX):
                with atomic_path(_made(folder) / name) as unfinished:
                    self.files.get_file(entry["name"], str(unfinished))
        return folder


def _copy_whole(url: str, mark: str, folder: Path) -> None:
    """Copy every object to a folder that appears when it is whole; the caller holds the lock."""
    store = _Store.of(url)
    if store.mark() != mark:
        raise RuntimeError("the weights are not those that the job was planned with")
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    refuse_full_disk(folder, sum(int(entry["size"]) for entry in store.objects.values()))
    with atomic_path(folder, unfinished):
        for name, entry in store.objects.items():
            path = _made(unfinished) / name
            store.files.get_file(entry["name"], str(path))
            if path.stat().st_size != entry["size"]:
                raise RuntimeError(f"{name} came with {path.stat().st_size} bytes of {entry['size']}; try again")
        if _Store.of(url).mark() != mark:
            raise RuntimeError("the weights changed while they were copied")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """What file systems raise, in one line with the cure: ValueError for a bad name, RuntimeError for bad luck."""
    try:
        yield
    except ImportError as error:
        package = EXTRAS.get(url.split(":", 1)[0], "a package of fsspec's")
        raise ValueError(f"model {url}: reading it needs {package}, which is not installed ({error})") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"model {url}: there is nothing there") from error
    except PermissionError as error:
        raise ValueError(f"model {url}: there is no access to it ({error}); log in to the store") from error
    except ValueError as error:
        raise ValueError(f"model {url}: {error}") from error
    except Exception as error:  # Every store raises kinds of its own.
        if is_full(error):
            raise RuntimeError(
                f"model {url}: the disk of {cache()} is full; free some, or set XDG_CACHE_HOME"
            ) from error
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise RuntimeError(f"model {url}: {said}") from error
