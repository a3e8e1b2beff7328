"""What a pattern stands for: the images of a file, a folder, a glob, an archive or a URL, as references."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from ...core.records import ImageRef, as_picture
from ...images.formats import EXTENSIONS
from ...io.containers.location import SEPARATOR, Member, is_archive
from ...io.containers.tar import list_members
from ...io.object_stores.base import Stores, pin_commit
from ...io.retry import RetryPolicy
from ...io.uris import (
    HUB,
    LOCAL,
    OBJECT_STORE_SCHEMES,
    absolute_path,
    basename,
    check_uri,
    display_uri,
    plain_path,
    scheme_of,
    split_bucket,
)
from .. import disk_listing
from ..bucket_listing import GlobLister, OtherFiles, PendingFolder
from .braces import expand_braces

NO_PICTURE = "archives without a picture"
# Archives that are not read, by their endings, and what each kind is called.
UNREAD_ARCHIVES = {
    ".zip": "a zip archive",
    ".7z": "a 7z archive",
    ".rar": "a RAR archive",
    ".tar.lz4": "a tar archive compressed with lz4",
    ".tar.lz": "a tar archive compressed with lzip",
    ".tar.lzma": "a tar archive compressed with lzma",
    ".tar.z": "a tar archive compressed with compress",
    ".tar.br": "a tar archive compressed with brotli",
}


def list_archive(
    ref: ImageRef, stores: Stores | None = None, beside: tuple[str, Callable[[Member], None]] | None = None
) -> Iterator[ImageRef]:
    """Yield the images in a tar archive, and what is skipped there.

    A member that can't be read becomes a reference with a ``problem``. If the archive is broken or can't be read, the
    last reference is ``ref`` with a ``problem``.

    Args:
        beside: an extension, and a function that is called with each member that has it. These are not skipped.
    """
    others, has_pictures = OtherFiles(), False
    try:
        for found in list_members(ref.uri, EXTENSIONS | {beside[0]} if beside else EXTENSIONS, stores):
            if beside and isinstance(found, Member) and _has_extension(found.name, beside[0]):
                beside[1](found)
                continue
            if isinstance(found, Member):
                yield ImageRef(found.uri, found.name, inside=found)
            elif found.problem:
                uri = f"{ref.uri}{SEPARATOR}{found.name}"
                yield ImageRef(uri, found.name, problem=f"{found.name}: {found.problem}")
            else:
                others.add(ref.uri, found.name, found.kind or ("archives inside of archives" * is_archive(found.name)))
                continue
            has_pictures = True
    except ValueError as error:
        yield ref._replace(problem=f"{ref.filename}: {error}")
        has_pictures = True
    if not has_pictures:
        others.add(ref.uri, ref.filename, NO_PICTURE)
    yield from others.refs()


def _has_extension(member: str, extension: str) -> bool:
    """Return whether a member of an archive has an extension. "#2" follows the name of the second of a name."""
    return re.search(rf"{re.escape(extension)}(?:#\d+)?$", member, re.IGNORECASE) is not None


def absolute_pattern(pattern: str) -> str:
    """Return a pattern with an absolute path, since workers may run in another folder. Other URIs stay as they are.

    A URI of the Hugging Face hub gets the commit that its revision is now.

    Raises:
        ValueError: if the URI is invalid, names no bucket, dataset or revision, or is an archive behind http(s).
        RuntimeError: if the hub can't be reached.
    """
    scheme = scheme_of(pattern)
    if scheme == LOCAL:
        return absolute_path(pattern)
    if scheme not in OBJECT_STORE_SCHEMES:
        if is_archive(pattern):
            raise ValueError(f"{display_uri(pattern)}: archives are read from a disk or a bucket: copy it there")
        return check_uri(pattern)
    if not split_bucket(pattern)[0]:
        raise ValueError(f"{pattern} names no bucket: give SCHEME://BUCKET/NAME")
    return pin_commit(pattern) if scheme == HUB else pattern


def expand_pattern(pattern: str, stores: Stores) -> list[str]:
    """Return the patterns that the braces of an absolute pattern stand for. URLs and names that exist stay as they are.

    Raises:
        OSError: if a bucket can't be listed.
        ValueError: if there are too many.
    """
    scheme = scheme_of(pattern)
    if "{" not in pattern or (scheme != LOCAL and scheme not in OBJECT_STORE_SCHEMES):
        return [pattern]
    if scheme == LOCAL:
        names = [pattern] if os.path.lexists(pattern) else expand_braces(pattern)
        return list(map(plain_path, names))
    is_name = "{" not in split_bucket(pattern)[0] and _lister(stores).exists(pattern)
    return [pattern] if is_name else expand_braces(pattern)


def why_unread(uri: str) -> str:
    """Return why a file on a disk or in a bucket is not read, by its name; "" if it is read."""
    kind = next((kind for ending, kind in UNREAD_ARCHIVES.items() if uri.lower().endswith(ending)), "")
    if not kind or scheme_of(uri) not in (LOCAL, *OBJECT_STORE_SCHEMES):
        return ""
    return f"{basename(uri)} is {kind}, which is not read: unpack it, and give the folder"


def list_images(pattern: str, stores: Stores | None = None) -> Iterator[ImageRef]:
    """Yield the images that one absolute pattern matches, in no order.

    A pattern that is the name of an existing file or folder means that, even if it has wildcards. In a folder, hidden
    files and files without the extension of an image are left out. Archives are yielded as one reference. A folder on a
    disk that can't be listed is a reference with a ``problem``.

    Raises:
        OSError: if the first level of a pattern, or a bucket, can't be listed.
    """
    stores = stores or Stores()
    for found in list_first_level(pattern, stores):
        below = list_folder(found, stores) if isinstance(found, PendingFolder) else [found]
        yield from filter(None, map(as_picture, below))


def list_first_level(pattern: str, stores: Stores) -> Iterator[ImageRef | PendingFolder]:
    """Yield the images on the first level of an absolute pattern, what is skipped there, and the folders there.

    Raises:
        OSError: if the first level can't be listed. Without it the pattern would have no image. Of a folder below it
            on a disk there is a reference with ``skipped`` instead, and the run is not complete.
    """
    scheme = scheme_of(pattern)
    if scheme in OBJECT_STORE_SCHEMES:
        yield from _lister(stores).list_first_level(pattern)
    elif scheme != LOCAL:
        yield ImageRef(pattern, basename(pattern))
    else:
        yield from disk_listing.list_first_level(pattern, EXTENSIONS)


def list_folder(folder: PendingFolder, stores: Stores) -> Iterator[ImageRef]:
    """Yield the images in a folder and all its subfolders, and what is skipped there."""
    if scheme_of(folder.uri) in OBJECT_STORE_SCHEMES:
        yield from _lister(stores).list_folder(folder)
    else:
        yield from disk_listing.list_folder(folder, EXTENSIONS)


def _lister(stores: Stores) -> GlobLister:
    return GlobLister(stores, RetryPolicy(), EXTENSIONS)
