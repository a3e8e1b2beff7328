"""Pictures to look at: some at random and some of each suspicion, as thumbnails with their rows."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..core.records import ImageRef
from ..images.prefetch import Fetch, Loaded, LoadFailure, prefetch
from ..images.refetch import NotKeptError, relocate
from .quality import QUALITY_FLAGS
from .reader import Dataset, literal

# What goes onto a page, so that it stays below ten megabytes whatever the rows hold.
RANDOM_PICTURES, SUSPICIOUS_PICTURES = 36, 8
ROWS_OF_A_PICTURE, PLACES_OF_A_ROW = 6, 30
TEXT_CHARACTERS = 600
THUMBNAIL_SIDE, THUMBNAIL_BYTES, THUMBNAIL_QUALITIES = 360, 24_000, (80, 60, 40, 20)
# More tasks on one picture than this, and fewer pictures are drawn.
TASKS_FORESEEN = 64
# Why there is no thumbnail, or not of the picture that was annotated.
GONE = "the picture can't be had from its place any more"
BROKEN = "what lies at its place is no picture any more"
CHANGED = "the picture has changed since"
UNKEPT = "the row does not keep where the picture lies: it came as a data: URI, or an older version wrote the row"


@dataclass
class GalleryRow:
    """A picture on the page: JPEG bytes of its thumbnail (None: it could not be had, ``trouble`` says why), its
    size in pixels, its rows, and under what it was chosen: ``random`` and names of suspicions."""

    key: str
    filename: str
    uri: str
    sha256: str
    width: int
    height: int
    chosen: list[str]
    byte_offset: int | None = None
    byte_size: int | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    more_rows: int = 0
    thumbnail: bytes | None = None
    trouble: str = ""


def choose(dataset: Dataset) -> list[GalleryRow]:
    """The pictures to show, with their rows, without thumbnails. The same output gives the same ones.

    Keys and ids are digests, so that the first of them are a random sample.
    """
    chosen: dict[str, list[str]] = {}
    some = f"SELECT key FROM data ORDER BY key LIMIT {RANDOM_PICTURES * TASKS_FORESEEN}"
    for (key,) in dataset.tuples(f"SELECT DISTINCT key FROM ({some}) ORDER BY key LIMIT {RANDOM_PICTURES}"):
        chosen[key] = ["random"]
    for suspicion in QUALITY_FLAGS:
        query = "SELECT id, key FROM flags WHERE list_contains(_flags, ?) ORDER BY id LIMIT ?"
        for _, key in dataset.tuples(query, suspicion.name, SUSPICIOUS_PICTURES):
            kinds = chosen.setdefault(key, [])
            if suspicion.name not in kinds:
                kinds.append(suspicion.name)
    return _with_rows(dataset, chosen)


def _with_rows(dataset: Dataset, chosen: dict[str, list[str]]) -> list[GalleryRow]:
    if not chosen:
        return []
    keys = ", ".join(map(literal, chosen))
    shown: dict[str, GalleryRow] = {}
    query = f"""
        SELECT key, filename, uri, byte_offset, byte_size, sha256, width, height, task, prompt, caption, objects,
            points, output_tokens, timings.total_ms AS total_ms, _flags AS suspicions
        FROM flagged WHERE key IN ({keys}) ORDER BY len(_flags) = 0, task, prompt, id
    """
    for row in dataset.rows(query):
        key = row["key"]
        if key not in shown:
            names = ("filename", "uri", "byte_offset", "byte_size", "sha256", "width", "height")
            place = {name: row[name] for name in names}
            shown[key] = GalleryRow(key=key, **place, chosen=chosen[key])
        if len(shown[key].rows) < ROWS_OF_A_PICTURE:
            shown[key].rows.append(row)
        else:
            shown[key].more_rows += 1
    return [shown[key] for key in chosen if key in shown]


def add_thumbnails(pictures: Iterable[GalleryRow], fetch: Fetch) -> None:
    """Fetch and decode the pictures, many at once, and make them small. One that can't be had has its reason."""
    by_ref: dict[ImageRef, list[GalleryRow]] = {}
    for picture in pictures:
        try:
            ref = relocate(picture.uri, picture.byte_offset, picture.byte_size)
            by_ref.setdefault(ref, []).append(picture)
        except NotKeptError:
            picture.trouble = UNKEPT
    for loaded in prefetch(sorted(by_ref, key=lambda ref: (ref.uri, ref.byte_range)), fetch):
        small = thumbnail(loaded.picture) if isinstance(loaded, Loaded) else None
        for picture in by_ref[loaded.ref]:
            picture.thumbnail, picture.trouble = small, _trouble(loaded, picture)


def _trouble(loaded: Loaded | LoadFailure, picture: GalleryRow) -> str:
    if isinstance(loaded, Loaded):
        return "" if loaded.sha256 == picture.sha256 else CHANGED
    if loaded.stage != "fetch":
        return BROKEN
    # It is there, but not as it was: empty, too large, or another member of a repacked archive.
    return CHANGED if loaded.fault.error == ValueError.__name__ else GONE


def thumbnail(picture: Image.Image) -> bytes:
    """A picture as a small JPEG, of at most ``THUMBNAIL_BYTES`` if the worst quality allows."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    for quality in THUMBNAIL_QUALITIES:
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= THUMBNAIL_BYTES:
            break
    return file.getvalue()
