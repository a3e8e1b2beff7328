"""Checkpoints in a bucket, or at any URL of fsspec. The first process of a machine that needs one copies it."""

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
from ..network.config import read_json
from .disk_space import check_disk_space, is_disk_full
from .files import (
    CONFIG_FILE,
    INDEX_FILE,
    REVISION_DIGITS,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    find_tokenizer,
    parse_index,
    tokenizer_digest,
)
from .releases import CODE_FILE, RELEASES, log_licence
from .tensor_names import Shape
from .weights import Checkpoint, Traits, recognize

WEIGHTS_SUFFIX = ".safetensors"
# Keys in listings of the stores that change with the content of an object, the most reliable first.
VERSIONS = ("md5Hash", "content_md5", "generation", "ETag", "etag", "LastModified", "last_modified", "mtime", "created")
# The extra to install for each scheme.
EXTRAS = {
    "gs": "moondream-beam[gcp]",
    "gcs": "moondream-beam[gcp]",
    "s3": "moondream-beam[aws]",
    "az": "moondream-beam[azure]",
    "abfs": "moondream-beam[azure]",
}
# The limit of the safetensors library.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class BucketModel:
    """A folder of objects, or one .safetensors object.

    ``fingerprint``: see ``_Listing.fingerprint``, at the time when the job was planned. ``revision``: the fingerprint,
    with "+" and the digest of the tokenizer if ``tokenizer`` is given.
    """

    url: str
    release: str
    tokenizer: Path | None
    fingerprint: str
    revision: str
    traits: Traits

    @classmethod
    def plan(cls, url: str, release: str | None, tokenizer: Path | None) -> BucketModel:
        """Return the model at a URL. Of the weights only the headers are read; other objects go to ``cache_folder()``.

        ``release`` and ``tokenizer``: see ``Checkpoint.at``.

        Raises:
            ValueError: if there are no such objects, they are not a Moondream, access is denied, the URL has a query
                or a user, or the store needs a package that is not installed.
            RuntimeError: if the store cannot be reached.
        """
        if "?" in url or "@" in url:
            raise ValueError("the model's URL has a query or a user, which may hold secrets: give a URL without them")
        with _translate_errors(url):
            store = _Listing.of(url)
            fingerprint, shapes = store.fingerprint(), store.read_shapes()
            small = store.copy_small(_make_folder(cache_folder()) / f"{fingerprint}.plan")
            has_config = (small / CONFIG_FILE).is_file()
            if not has_config and store.single is None:
                raise ValueError(f"there is no {CONFIG_FILE} in {url}; copy that file there")
            tokenizer_path = find_tokenizer(tokenizer or small)
            content = read_json(small / CONFIG_FILE) if has_config else {}
            generation, config, _ = recognize(shapes, content, small, release, tokenizer_path)
        revision = f"{fingerprint}+{tokenizer_digest(tokenizer_path)}" if tokenizer else fingerprint
        return cls(url, generation.name, tokenizer, fingerprint, revision, Traits.of(config))

    def fetch(self) -> Path:
        """Return the folder or the .safetensors on this machine. Copy the objects first unless they are here.

        The folder is ``fingerprint`` in ``cache_folder()``. Other processes of the machine wait for the copy, without
        a time limit, instead of making their own.

        Raises:
            ValueError: if objects are missing, access is denied, or the store needs a package that is not installed.
            RuntimeError: if the store cannot be reached, its content changed, or the disk is full.
        """
        folder = cache_folder() / self.fingerprint
        with _translate_errors(self.url), FileLock(_make_folder(cache_folder()) / f"{self.fingerprint}.lock"):
            if not folder.is_dir():
                log_licence(RELEASES[self.release], self.url)
                _copy_all(self.url, self.fingerprint, folder)
        name = self.url.rsplit("/", 1)[-1]
        return folder / name if name.endswith(WEIGHTS_SUFFIX) else folder

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint on this machine. Copy the objects first unless they are here.

        Raises:
            ValueError: if the files do not fit each other.
            RuntimeError: if the objects cannot be copied, or objects or tokenizer changed after the job was planned.
        """
        path = self.fetch()
        if self.tokenizer and not self.revision.endswith(tokenizer_digest(find_tokenizer(self.tokenizer))):
            raise RuntimeError(f"tokenizer {self.tokenizer}: it changed after planning; run the same command again")
        return Checkpoint.at(path, release=self.release, tokenizer=self.tokenizer, revision=self.revision)


def cache_folder() -> Path:
    """Return the folder of all copies: moondream-beam in ``XDG_CACHE_HOME``, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moondream-beam"


@dataclass(frozen=True)
class _Listing:
    """The objects of one checkpoint: their entries in the store's listing, by name.

    ``filesystem``: of fsspec. ``single``: the name of the .safetensors if the URL names one, else None.
    """

    filesystem: Any
    objects: dict[str, dict[str, Any]]
    single: str | None

    @classmethod
    def of(cls, url: str) -> _Listing:
        """Return the listing of the checkpoint at a URL. Raise a ValueError if there are no weights."""
        filesystem, root = fsspec.url_to_fs(url)
        folder, _, name = root.rpartition("/")
        single = name if name.endswith(WEIGHTS_SUFFIX) else None
        listed = filesystem.ls(folder if single else root, detail=True, refresh=True)
        found = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in listed if entry["type"] == "file"}
        small = {CONFIG_FILE, TOKENIZER_FILE, CODE_FILE} | (set() if single else {INDEX_FILE})
        one_file = {single} if single else {WEIGHTS_FILE}
        weights = one_file if one_file <= found.keys() else {each for each in found if each.endswith(WEIGHTS_SUFFIX)}
        if not single and weights != one_file and INDEX_FILE in found:
            # Shards of an older generation may lie beside those of the index.
            weights &= set(parse_index(json.loads(filesystem.cat_file(found[INDEX_FILE]["name"]))).values())
        if not weights or (single and single not in found):
            raise ValueError(f"there is no {single or WEIGHTS_FILE} at {url}; copy it there (pickles are not read)")
        return cls(filesystem, {name: found[name] for name in sorted(found) if name in small | weights}, single)

    def fingerprint(self) -> str:
        """Return the first ``REVISION_DIGITS`` digits of a sha256 over name, size and version of each object.

        The version is the first of ``VERSIONS`` that the listing has.

        Raises:
            ValueError: if the store gives no digest, etag or time of an object.
        """
        lines = []
        for name, entry in self.objects.items():
            versions = [f"{key}={entry[key]}" for key in VERSIONS if entry.get(key)]
            if not versions:
                raise ValueError(f"the store gives no etag and no time of {name}; copy the files to a local folder")
            lines.append(f"{name} {entry['size']} {versions[0]}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:REVISION_DIGITS]

    def read_shapes(self) -> dict[str, Shape]:
        """Return the shape of each tensor by name, from the headers alone. Raise a ValueError for a bad header."""
        shapes: dict[str, Shape] = {}
        for name, entry in self.objects.items():
            if name.endswith(WEIGHTS_SUFFIX):
                with self.filesystem.open(entry["name"], "rb", block_size=1 << 20) as file:
                    size = int.from_bytes(file.read(8), "little")
                    header = file.read(size) if size <= MAX_HEADER_BYTES else b""
                try:
                    tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
                    shapes |= {key: tuple(int(side) for side in value["shape"]) for key, value in tensors.items()}
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(f"{name} is truncated or no .safetensors; copy the file there again") from error
        return shapes

    def copy_small(self, folder: Path) -> Path:
        """Copy all objects except the weights to a folder, each by a rename. Return the folder."""
        for name, entry in self.objects.items():
            if not name.endswith(WEIGHTS_SUFFIX):
                with atomic_path(_make_folder(folder) / name) as unfinished:
                    self.filesystem.get_file(entry["name"], str(unfinished))
        return folder


def _copy_all(url: str, fingerprint: str, folder: Path) -> None:
    """Copy every object to a folder, which appears by a rename at the end. The caller holds the folder's lock.

    Raises:
        RuntimeError: if the objects no longer have this fingerprint, a copy is truncated, or the disk is too small.
    """
    store = _Listing.of(url)
    if store.fingerprint() != fingerprint:
        raise RuntimeError("the weights changed after planning; run the same command again")
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    check_disk_space(folder, sum(int(entry["size"]) for entry in store.objects.values()))
    with atomic_path(folder, unfinished):
        for name, entry in store.objects.items():
            path = _make_folder(unfinished) / name
            store.filesystem.get_file(entry["name"], str(path))
            if path.stat().st_size != entry["size"]:
                size = f"{path.stat().st_size} of {entry['size']} bytes"
                raise RuntimeError(f"{name} is truncated: {size}; run the same command again")
        if _Listing.of(url).fingerprint() != fingerprint:
            raise RuntimeError("the weights changed during the copy; run the same command again")


def _make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    """Raise errors of fsspec as one line with a cure: ValueError for a bad name or access, else RuntimeError."""
    try:
        yield
    except ImportError as error:
        package = EXTRAS.get(url.split(":", 1)[0], "a package of fsspec's")
        raise ValueError(f"model {url}: this URL needs {package}; install that package ({error})") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"model {url}: there is nothing there; check the URL") from error
    except PermissionError as error:
        raise ValueError(f"model {url}: there is no access to it ({error}); log in to the store") from error
    except ValueError as error:
        raise ValueError(f"model {url}: {error}") from error
    except Exception as error:  # Every store raises kinds of its own.
        if is_disk_full(error):
            full = f"the disk of {cache_folder()} is full; free disk space, or set XDG_CACHE_HOME"
            raise RuntimeError(f"model {url}: {full}") from error
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        # A RuntimeError of this module names its cure.
        cure = "" if isinstance(error, RuntimeError) else "; run the same command again"
        raise RuntimeError(f"model {url}: {reason}{cure}") from error
