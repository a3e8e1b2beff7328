"""The gallery of the report: random pictures, some for each quality flag and some with errors, each with its rows."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ...models.tasks import Size
from ..core.records import ImageRef
from ..images.prefetch import Fetch, Loaded, LoadFailure, prefetch
from ..images.refetch import NotKeptError, relocate
from .error_groups import choose_failed
from .quality import QUALITY_FLAGS
from .reader import Dataset, literal

# Limits that keep the page below 10 MB. NUM_FLAGGED_PICTURES is for each quality flag.
NUM_RANDOM_PICTURES, NUM_FLAGGED_PICTURES, NUM_FAILED_PICTURES = 36, 8, 24
# Why a picture with errors is chosen.
FAILED = "with errors"
ROWS_OF_A_PICTURE = 6
THUMBNAIL_SIDE, THUMBNAIL_BYTES, THUMBNAIL_QUALITIES = 360, 24_000, (80, 60, 40, 20)
# The longer side of a reduced JPEG has at least this many times the pixels of the thumbnail's.
THUMBNAIL_SCALE = 2
# Random pictures are found in their first rows by key. If a picture has more rows than this, fewer pictures are found.
MAX_ROWS_OF_A_PICTURE = 64
# Problems of a thumbnail.
GONE = "the picture can't be had from its place any more"
BROKEN = "what lies at its place is no picture any more"
CHANGED = "the picture has changed since"
UNKEPT = "the row does not keep where the picture lies: it came as a data: URI, or an older version wrote the row"


@dataclass
class GalleryRow:
    """A picture on the page, with up to ``ROWS_OF_A_PICTURE`` rows; ``more_rows`` counts the others.

    ``thumbnail`` is a JPEG file; if it is None, ``problem`` says why. ``width`` and ``height`` are pixels of the
    annotated picture. ``selected_for`` holds ``random``, ``FAILED`` or the names of quality flags. ``failures`` has up
    to ``ROWS_OF_A_PICTURE`` rows of ``errors/``, and ``more_failures`` counts the others. A picture without an answer
    has no ``sha256``, no size and no ``rows``.
    """

    key: str
    filename: str
    uri: str
    sha256: str
    width: int
    height: int
    selected_for: list[str]
    byte_offset: int | None = None
    byte_size: int | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    more_rows: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    more_failures: int = 0
    thumbnail: bytes | None = None
    problem: str = ""


def choose(dataset: Dataset) -> list[GalleryRow]:
    """Return the pictures to show, with their rows and without thumbnails. The same rows give the same pictures.

    Keys and ids are digests, so the smallest keys are a random sample.
    """
    chosen: dict[str, list[str]] = {}
    some = f"SELECT key FROM data ORDER BY key LIMIT {NUM_RANDOM_PICTURES * MAX_ROWS_OF_A_PICTURE}"
    for (key,) in dataset.tuples(f"SELECT DISTINCT key FROM ({some}) ORDER BY key LIMIT {NUM_RANDOM_PICTURES}"):
        chosen[key] = ["random"]
    for flag in QUALITY_FLAGS:
        query = "SELECT id, key FROM flags WHERE list_contains(_flags, ?) ORDER BY id LIMIT ?"
        for _, key in dataset.tuples(query, flag.name, NUM_FLAGGED_PICTURES):
            reasons = chosen.setdefault(key, [])
            if flag.name not in reasons:
                reasons.append(flag.name)
    for key in choose_failed(dataset, NUM_FAILED_PICTURES):
        chosen.setdefault(key, []).append(FAILED)
    return _with_rows(dataset, chosen)


def _with_rows(dataset: Dataset, chosen: dict[str, list[str]]) -> list[GalleryRow]:
    if not chosen:
        return []
    keys = ", ".join(map(literal, chosen))
    shown: dict[str, GalleryRow] = {}
    # Rows of a manifest that share a request have the same answer, which is shown once.
    answer = "key, task, prompt, run, caption, objects, points"
    query = f"""
        SELECT key, filename, uri, byte_offset, byte_size, sha256, width, height, task, prompt, caption, objects,
            points, output_tokens, timings.total_ms AS total_ms, _flags AS flags
        FROM flagged WHERE key IN ({keys})
        QUALIFY row_number() OVER (PARTITION BY {answer} ORDER BY id) = 1
        ORDER BY len(_flags) = 0, task, prompt, id
    """
    for row in dataset.rows(query):
        key = row["key"]
        if key not in shown:
            names = ("filename", "uri", "byte_offset", "byte_size", "sha256", "width", "height")
            place = {name: row[name] for name in names}
            shown[key] = GalleryRow(key=key, **place, selected_for=chosen[key])
        if len(shown[key].rows) < ROWS_OF_A_PICTURE:
            shown[key].rows.append(row)
        else:
            shown[key].more_rows += 1
    _add_failures(dataset, keys, shown, chosen)
    return [shown[key] for key in chosen if key in shown]


def _add_failures(dataset: Dataset, keys: str, shown: dict[str, GalleryRow], chosen: dict[str, list[str]]) -> None:
    """Add the failures of pictures, whose ``keys`` are SQL, to ``shown``."""
    names = "key, filename, uri, byte_offset, byte_size"
    # Rows of a manifest that ask the same fail for the same reason, which is shown once.
    query = f"""
        SELECT {names}, task, prompt, stage, error, message FROM failures WHERE key IN ({keys})
        QUALIFY row_number() OVER (PARTITION BY key, task, prompt, message ORDER BY id) = 1 ORDER BY task, prompt, id
    """
    for row in dataset.rows(query):
        key = row["key"]
        place = {name: row[name] for name in names.split(", ")}
        picture = shown.setdefault(key, GalleryRow(**place, sha256="", width=0, height=0, selected_for=chosen[key]))
        if len(picture.failures) < ROWS_OF_A_PICTURE:
            picture.failures.append(row)
        else:
            picture.more_failures += 1


def add_thumbnails(pictures: Iterable[GalleryRow], fetch: Fetch) -> None:
    """Fetch the pictures and set each ``thumbnail``, or ``problem``. A changed picture has both.

    Pictures that could not be listed, fetched or decoded are not fetched again: their failures say why.
    """
    by_ref: dict[ImageRef, list[GalleryRow]] = {}
    for picture in pictures:
        if not picture.sha256 and not any(row["stage"] == "answer" for row in picture.failures):
            continue
        try:
            ref = relocate(picture.uri, picture.byte_offset, picture.byte_size)
            by_ref.setdefault(ref, []).append(picture)
        except NotKeptError:
            picture.problem = UNKEPT
    for loaded in prefetch(sorted(by_ref, key=lambda ref: (ref.uri, ref.byte_range)), fetch, is_enough):
        small = thumbnail(loaded.picture) if isinstance(loaded, Loaded) else None
        for picture in by_ref[loaded.ref]:
            picture.thumbnail, picture.problem = small, _problem(loaded, picture)
            if isinstance(loaded, Loaded) and not picture.sha256:
                picture.width, picture.height = loaded.size


def is_enough(size: Size, reduced: Size) -> bool:
    """Return whether a JPEG of this reduced size makes the thumbnail of the full one. Decoding it takes a fraction."""
    return max(reduced) >= THUMBNAIL_SCALE * THUMBNAIL_SIDE


def _problem(loaded: Loaded | LoadFailure, picture: GalleryRow) -> str:
    if isinstance(loaded, Loaded):
        return "" if picture.sha256 in ("", loaded.sha256) else CHANGED
    if loaded.stage != "fetch":
        return BROKEN
    # It is there, but not as it was: empty, too large, or another member of a repacked archive.
    return CHANGED if loaded.fault.error == ValueError.__name__ else GONE


def thumbnail(picture: Image.Image) -> bytes:
    """Return a JPEG file of a picture, with sides of at most ``THUMBNAIL_SIDE`` pixels.

    Use the best quality that fits into ``THUMBNAIL_BYTES``; if none fits, the lowest of ``THUMBNAIL_QUALITIES``.
    """
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    for quality in THUMBNAIL_QUALITIES:
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= THUMBNAIL_BYTES:
            break
    return file.getvalue()
